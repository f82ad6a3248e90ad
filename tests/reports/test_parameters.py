from __future__ import annotations

import re
from pathlib import Path

import pytest
from toys import write_notebook

from sslsim.errors import SslsimError
from sslsim.reports.parameters import Parameter, coerce, read_parameters

CELL = """\
# what to compare
frames: int = 0  # 0 takes all
share: float = 1  # of "# frames"
names: list = [
    "a",
    "b",
]  # which
limit: int | None = None
plain = "text"
sizes: list[int] = []
"""


def notebook(tmp_path: Path, *cells: str | tuple[str, str]) -> Path:
    return write_notebook(tmp_path / "some.ipynb", ["# Title", *cells])


def test_names_types_defaults_and_help_in_the_order_of_the_cell(tmp_path: Path) -> None:
    found = read_parameters(notebook(tmp_path, ("parameters", CELL), "frames = 7"))
    assert list(found) == ["frames", "share", "names", "limit", "plain", "sizes"]
    assert found["frames"] == Parameter("frames", "int", 0, "0 takes all")
    assert found["share"].help == 'of "# frames"'
    assert found["names"] == Parameter("names", "list", ["a", "b"], "which")
    assert found["limit"] == Parameter("limit", "int | None", None)
    assert found["plain"].type == "str"


@pytest.mark.parametrize(
    ("cells", "text"),
    [
        (["x = 1"], "some.ipynb has no cell tagged 'parameters'; tag one cell of"),
        ([("parameters", "x = 1"), ("parameters", "y = 1")], "some.ipynb has 2 cells tagged 'parameters'"),
        (
            [("parameters", "import os")],
            "some.ipynb: parameters cell, line 1: 'import os' is not 'name: type = literal'",
        ),
        ([("parameters", "x: int = 1\ny: int = x + 1")], "line 2: 'y: int = x + 1' is not 'name: type = literal'"),
        ([("parameters", "x: int")], "line 1: 'x: int' is not 'name: type = literal'"),
        ([("parameters", "x: int = 1\nx: int = 2")], "parameter x is given twice in the parameters cell"),
        ([("parameters", "x: int = 'a'")], "some.ipynb: parameter x: 'a' is not an int (default 'a')"),
        ([("parameters", "x: bool = 1")], "parameter x: 1 is not a bool"),
        ([("parameters", "x: dict = {}")], "some.ipynb: parameter x: type 'dict' is not supported; use int, float"),
        ([("parameters", "x: int[str] = 1")], "parameter x: type 'int[str]' is not supported"),
        ([("parameters", "x: int = = 1")], "some.ipynb: parameters cell, line 1: invalid syntax"),
    ],
)
def test_what_is_no_parameters_cell_is_refused(tmp_path: Path, cells: list, text: str) -> None:
    with pytest.raises(SslsimError, match=re.escape(text)):
        read_parameters(notebook(tmp_path, *cells))


def test_what_is_no_notebook_is_refused(tmp_path: Path) -> None:
    for content in ("not json", "[]", "{}", ""):
        (tmp_path / "x.ipynb").write_text(content)
        with pytest.raises(SslsimError, match=r"^x\.ipynb is not a notebook: [^\n]+$"):
            read_parameters(tmp_path / "x.ipynb")


@pytest.mark.parametrize(
    ("kind", "default", "text", "value"),
    [
        ("int", 0, "12", 12),
        ("int", 0, "-3", -3),
        ("float", 0.5, "1e-3", 0.001),
        ("float", 0.5, 2, 2.0),
        ("bool", True, "no", False),
        ("str", "", "no", "no"),
        ("str", "", "012", "012"),
        ("list", ["a"], "b, c", ["b", "c"]),
        ("list", ["a"], '["b", "c,d"]', ["b", "c,d"]),
        ("list", ["a"], "", []),
        ("list", [], "2,x", ["2", "x"]),
        ("list", [], '[1, "x"]', [1, "x"]),
        ("list[float]", [], "2,3", [2.0, 3.0]),
        ("int | None", None, "none", None),
        ("int | None", None, "5", 5),
        ("int | None", 3, None, None),
    ],
)
def test_values_take_the_declared_type(kind: str, default: object, text: object, value: object) -> None:
    found = coerce(Parameter("x", kind, default), text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "default", "value", "text"),
    [
        ("int", 0, "abc", "parameter x: 'abc' is not an int (default 0)"),
        ("int", 0, "1.5", "parameter x: '1.5' is not an int (default 0)"),
        ("int", 0, True, "parameter x: True is not an int (default 0)"),
        ("int", 0, "none", "parameter x: 'none' is not an int (default 0)"),
        ("int | None", None, "x", "parameter x: 'x' is not an int or none (default None)"),
        ("float", 0.5, "nan", "parameter x: 'nan' is not a float (default 0.5)"),
        ("bool", True, "maybe", "parameter x: 'maybe' is not a bool (true or false) (default True)"),
        ("str", "", 3, "parameter x: 3 is not a str (default '')"),
        ("list[int]", [1], "2,b", 'parameter x: \'2,b\' is not a list (a,b,c or ["a", "b"]) of int (default [1])'),
        ("list", [], "[1, 2", "parameter x: '[1, 2' is not a list (a,b,c"),
        ("list[int]", [], '["a"]', "parameter x: '[\"a\"]' is not a list (a,b,c"),
    ],
)
def test_a_wrong_type_is_refused(kind: str, default: object, value: object, text: str) -> None:
    with pytest.raises(SslsimError, match=re.escape(text)):
        coerce(Parameter("x", kind, default), value)
