"""The tutorial: committed clean, in plain calls, and it runs as a newcomer runs it."""

import ast
import json
from collections import Counter

import nbformat
import pytest
from nbclient import NotebookClient

from sslsim.reports.parameters import read_parameters
from sslsim.resources import NOTEBOOKS

PATH = NOTEBOOKS / "tutorial.ipynb"


def cells(kind):
    notebook = json.loads(PATH.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_is_short_and_clean_and_has_no_logic_of_its_own():
    code = cells("code")
    assert len(code) <= 12
    for cell in code:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert len(cell["source"]) <= 8
        kinds = Counter(type(node).__name__ for node in ast.walk(ast.parse("".join(cell["source"]))))
        assert not kinds & Counter(["FunctionDef", "ClassDef", "For", "While", "Lambda"])


def test_has_one_cell_of_parameters():
    assert {name: each.default for name, each in read_parameters(PATH).items()} == {
        "store": "../reports/store",
        "out": "../reports",
    }


def test_explains_more_than_it_calls():
    words = sum(len("".join(cell["source"]).split()) for cell in cells("markdown"))
    assert words > 10 * sum(len(cell["source"]) for cell in cells("code"))


@pytest.mark.slow
def test_leads_from_two_stores_to_a_figure_and_a_claim(tmp_path):
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(PATH, as_version=4)
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    assert {path.name for path in (tmp_path / "reports/tables").glob("*.csv")} == {
        "tutorial-pairs.csv",
        "tutorial-claims.csv",
    }
    assert (tmp_path / "reports/figures/tutorial-pairs.png").exists()
    printed = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stdout"]
    assert any("chance" in text for text in printed)
    assert not [o for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
