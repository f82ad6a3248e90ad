from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import bs4
import numpy as np
import pandas as pd
import pytest
from check_reports import content, links, outside
from toys import PAIRS, changed_run, write_run

from sslsim.errors import SslsimError
from sslsim.reports.diff import claims_that_differ, compare_runs, compare_tables, made_from

KEYS = ["measure", "model_x", "layer_x"]
RUN = changed_run()


def moved(found: dict[str, Any]) -> dict[str, tuple[int, float | None, str]]:
    return {column["name"]: (column["moved"], column["largest"], column["where"]) for column in found["columns"]}


def test_the_same_in_another_order_is_no_difference() -> None:
    assert compare_tables(PAIRS, PAIRS) == {}
    assert compare_tables(PAIRS, PAIRS.sample(frac=1, random_state=1)[PAIRS.columns[::-1]], KEYS) == {}
    assert compare_tables(PAIRS.head(0), PAIRS.head(0), KEYS) == {}
    close = PAIRS.assign(value=PAIRS.value + 1e-10)
    assert compare_tables(PAIRS, close, KEYS, tolerance=1e-9) == {}
    assert moved(compare_tables(PAIRS, close, KEYS))["value"][0] == 3


def test_rows_go_by_the_keys_of_their_table() -> None:
    other = PAIRS.assign(value=[0.1, 0.25, 0.0, math.nan], n_frames=5000, best=["b", "a", "a", None])
    found = compare_tables(PAIRS, other.iloc[::-1], KEYS, tolerance=1e-9)
    assert found["keys"] == KEYS
    assert (found["rows"], found["alone"]) == (4, {"A": [], "B": []})
    at = "measure svcca, model_x {}, layer_x {}"
    assert moved(found) == {
        "value": (2, pytest.approx(0.3), at.format("b", 0)),
        "n_frames": (4, 1000, at.format("a", 0)),
        "best": (1, None, at.format("a", 1)),
    }
    values = [(column["a"], column["b"]) for column in found["columns"]]
    assert values == [(0.3, 0.0), (4000, 5000), ("b", "a")]


@pytest.mark.parametrize("keys", [(), ["measure"], ["nothing"]])
def test_rows_that_no_keys_tell_apart_go_by_their_place(keys: list[str]) -> None:
    found = compare_tables(PAIRS, PAIRS.assign(value=[0.1, 0.25, 0.3, math.nan]), keys)
    assert found["keys"] == ["row"]
    assert moved(found) == {"value": (1, pytest.approx(0.05), "row 1")}
    assert compare_tables(PAIRS, PAIRS[::-1], keys) != {}


def test_rows_and_columns_of_one_table_alone_are_named() -> None:
    found = compare_tables(PAIRS.iloc[:3].drop(columns="best"), PAIRS.iloc[1:].drop(columns="constant"), KEYS)
    assert found["alone"] == {
        "A": ["measure svcca, model_x a, layer_x 0"],
        "B": ["measure svcca, model_x b, layer_x 1"],
    }
    assert found["missing"] == {"A": ["constant"], "B": ["best"]}
    assert (found["rows"], found["columns"]) == (2, [])


def test_a_number_that_one_table_lacks_is_infinitely_far() -> None:
    found = compare_tables(PAIRS, PAIRS.assign(value=[0.1, math.nan, 0.3, 0.4]), KEYS, tolerance=10)
    assert moved(found) == {"value": (2, math.inf, "measure svcca, model_x a, layer_x 1")}
    endless, other = PAIRS.assign(value=math.inf), PAIRS.assign(value=-math.inf)
    assert compare_tables(endless, endless) == {}
    assert moved(compare_tables(endless, other))["value"][:2] == (4, math.inf)


def test_kinds_of_columns_do_not_matter_where_their_values_are_the_same() -> None:
    a = pd.DataFrame({"flag": [True, False], "n": [1, 2], "list": [["x"], ["y"]], "note": [None, "z"]})
    b = pd.DataFrame({"flag": ["True", "False"], "n": [1.0, 2.0], "list": ["['x']", "['y']"], "note": [np.nan, "z"]})
    assert compare_tables(a, b) == {}
    assert compare_tables(a.convert_dtypes(), b) == {}
    assert compare_tables(a, b[::-1], ["note"]) == {}  # what is missing finds its like
    assert moved(compare_tables(a, b.assign(n=["1", "3"])))["n"][:2] == (1, None)


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, []),
        ({"effect": 0.55}, ["effect"]),
        ({"effect": 0.5 + 1e-12}, []),
        ({"verdict": "small"}, ["verdict"]),
        ({"effect": 0.7, "ci_low": 0.45, "ci_high": 0.95}, ["effect outside the interval"]),
        (
            {"effect": 0.7, "ci_low": 0.6, "ci_high": 0.8, "verdict": "small"},
            ["verdict", "effect outside the interval"],
        ),
        ({"effect": None}, ["effect"]),
        ({"claim": "other"}, ["only in A", "only in B"]),
    ],
)
def test_what_changed_in_a_claim(change: dict[str, Any], changes: list[str]) -> None:
    found = claims_that_differ(RUN, changed_run(**change), tolerance=1e-9)
    assert [each for row in found for each in row["changes"]] == changes
    if changes == ["verdict"]:
        assert (found[0]["a"]["verdict"], found[0]["b"]["verdict"]) == ("large", "small")
        assert [found[0][name] for name in ("notebook", "measure", "between")] == ["layers", "svcca", "other seed"]


def test_what_two_runs_were_made_from() -> None:
    other = changed_run(versions={"python": "3", "sslsim": "2"}, commit=None)
    other["study"] = {**RUN["study"], "lineup": "/b.toml", "max_seconds": 60.0}
    other["checkpoints"] = [{**RUN["checkpoints"][0], "fingerprint": "d00", "source": "/elsewhere"}]
    other["corpus"] = {"utterances": 4}
    entry = other["notebooks"]["layers"]
    entry |= {"status": "failed", "error": "E: x", "notebook": {"hash": "new"}}
    entry["parameters"][1]["value"] = 6
    rows = {(row["of"], row["name"]): (row["a"], row["b"], row["counts"]) for row in made_from(RUN, other)}
    assert rows == {
        ("code", "commit"): ("0123456789abcdef", None, False),
        ("code", "notebook layers"): ("e" * 64, "new", False),
        ("version", "sslsim"): ("1", "2", False),
        ("path", "lineup"): ("/x/<lineup>.toml", "/b.toml", False),
        ("study", "max_seconds"): (None, 60.0, True),
        ("speech", "utterances"): (3, 4, True),
        ("checkpoint", "<script>alert(1)</script>: fingerprint"): ("f00", "d00", True),
        ("notebook", "layers"): ("ok", "failed E: x", True),
        ("parameter", "layers: count"): (1, 6, True),
    }


def test_the_same_runs_exit_0_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "re{ports} 1"), write_run(tmp_path / "b", changed_run(code="c" * 64))
    assert compare_runs(a, b) == 0
    page = b / "compare-re-ports-1.html"
    same = ["made from: code code", "claims: the same", "tables: 0 of 1 differ", str(page)]
    assert capsys.readouterr().out.splitlines() == same
    soup = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert [*outside(soup), *content(soup), *links(soup, b)] == []
    assert soup.select(".pill")[0].get_text() == "THE SAME"
    assert [a["href"] for a in soup.select("dl a")] == ["../re%7Bports%7D%201/index.html", "index.html"]


def test_different_runs_exit_1_and_the_page_shows_both_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "a")
    table = PAIRS.assign(value=[0.1, 0.2, 0.35, math.nan], best=["<b>", "b", "a", None])
    other = changed_run(verdict="small", effect=0.7, effect_text="0.700")
    other["notebooks"]["layers"]["keys"] |= {"mine": []}
    b = write_run(tmp_path / "b", other, table[::-1])
    (b / "tables/layers-note.csv").write_text("a table that no notebook of the run has made\n")
    out = tmp_path / "deep/page.html"
    assert compare_runs(a, b, out=out) == 1
    at = "measure svcca, model_x b, layer_x 0"
    assert capsys.readouterr().out.splitlines() == [
        "made from: the same",
        "claims: verdict (1), effect outside the interval (1)",
        f"tables: 2 of 2 differ; furthest layers-pairs, value, by 0.05 at {at}",
        str(out),
    ]
    soup = bs4.BeautifulSoup(out.read_text(encoding="utf-8"), "html.parser")
    assert [*outside(soup), *content(soup), *links(soup, out.parent)] == []
    claims, columns = (
        [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in t("tr")]
        for t in soup("table")
    )
    assert claims[1][:2] == ["toys <agree> layers: svcca, other seed", "verdict, effect outside the interval"]
    assert [cell.split(" p ")[0] for cell in claims[1][2:]] == ["large 0.500 (0.400 to 0.600)", "small 0.700"]
    assert columns[1] == ["value", "1", "0.05", "0.3", "0.35", at]
    assert columns[2] == ["best", "1", "", "b", "<b>", "measure svcca, model_x a, layer_x 0"]
    assert "Only in B." in soup.get_text()
    assert compare_runs(a, a) == 0


def test_any_of_parameters_claims_and_tables_alone_makes_runs_differ(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a")
    assert compare_runs(a, write_run(tmp_path / "b", changed_run(corpus={"utterances": 4}))) == 1
    assert compare_runs(a, write_run(tmp_path / "c", changed_run(verdict="small"))) == 1
    d = write_run(tmp_path / "d", table=PAIRS.assign(value=PAIRS.value + 0.01))
    assert [compare_runs(a, d, tolerance=tolerance) for tolerance in (0.001, 0.1)] == [1, 0]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    with pytest.raises(
        SslsimError, match=r"none holds no run.json of this version; name a folder that sslsim run wrote"
    ):
        compare_runs(a, tmp_path / "none")
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(SslsimError, match=f"tolerance is {tolerance}; give a number from 0"):
            compare_runs(a, b, tolerance=tolerance)
    with pytest.raises(SslsimError, match="b is a folder; give a file for the page with --out"):
        compare_runs(a, b, out=b)
    (a / "tables/layers-pairs.parquet").write_text("broken")
    with pytest.raises(SslsimError, match=r"pairs.parquet cannot be read as a table: "):
        compare_runs(a, b)
    (b / "sweep.json").write_text("{}")
    with pytest.raises(SslsimError, match="b holds a sweep; name one of the runs in it"):
        compare_runs(a, b)
    assert not list(tmp_path.rglob("compare-*"))
