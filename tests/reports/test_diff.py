from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import bs4
import numpy as np
import pandas as pd
import pytest
from check_reports import content, links, outside

from sslsim.errors import SslsimError
from sslsim.reports.diff import compare_runs, compare_tables, made_from, verdicts

CLAIM = {"claim": "toys <agree>", "between": "other seed", "measure": "svcca", "effect": 0.5, "ci_low": 0.4}
CLAIM |= {"ci_high": 0.6, "p": 0.04, "control": "chance", "holds": "yes", "effect_text": "0.500 (0.400 to 0.600)"}
RUN = {
    "format": 1,
    "status": "ok",
    "started": "2026-01-01T00:00:00Z",
    "commit": "a" * 40,
    "dirty": False,
    "code": "b" * 64,
    "versions": {"python": "3.11", "torch": "2"},
    "settings": {"lineup": "/a/lineup.toml", "corpus": "/a/speech", "store": "/a/store", "out": "/a"},
    "checkpoints": [{"name": "w2v", "fingerprint": "c" * 64, "source": "w2v"}],
    "corpus": {"utterances": 3},
    "notebooks": {
        "layers": {
            "status": "ok",
            "error": "",
            "parameters": [{"name": "frames", "value": 5}, {"name": "out", "value": "/a"}],
            "verdict": [CLAIM, CLAIM | {"measure": "cca", "ci_low": None, "ci_high": None}],
        }
    },
}
PAIRS = pd.DataFrame(
    {
        "measure": ["svcca"] * 4,
        "model_x": ["a", "a", "b", "b"],
        "layer_x": [0, 1, 0, 1],
        "value": [0.1, 0.2, 0.3, math.nan],
        "n_frames": [4000] * 4,
        "best": ["b", "b", "a", None],
        "constant": [1.0, 1.0, 1.0, 1.0],
    }
)


def changed(**changes: Any) -> dict[str, Any]:
    """Return the run with something else: a claim's fields, or what run.json holds."""
    run = copy.deepcopy(RUN)
    claim = run["notebooks"]["layers"]["verdict"][0]
    claim |= {name: value for name, value in changes.items() if name in CLAIM}
    return run | {name: value for name, value in changes.items() if name in RUN}


def write(folder: Path, run: dict[str, Any] | None = None, table: pd.DataFrame = PAIRS, name: str = "pairs") -> Path:
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run or RUN), encoding="utf-8")
    (folder / "index.html").write_text("x")
    table.to_csv(folder / f"tables/{name}.csv", index=False)
    table.to_parquet(folder / f"tables/{name}.parquet", index=False)
    return folder


def moved(found: dict[str, Any]) -> dict[str, tuple[int, float | None, str]]:
    return {column["name"]: (column["moved"], column["largest"], column["where"]) for column in found["columns"]}


def test_the_same_in_another_order_is_no_difference() -> None:
    assert compare_tables(PAIRS, PAIRS) == {}
    assert compare_tables(PAIRS, PAIRS.sample(frac=1, random_state=1)[PAIRS.columns[::-1]]) == {}
    assert compare_tables(PAIRS.head(0), PAIRS.head(0)) == {}
    close = PAIRS.assign(value=PAIRS.value + 1e-10)
    assert compare_tables(PAIRS, close, tolerance=1e-9) == {}
    assert moved(compare_tables(PAIRS, close))["value"][0] == 3


def test_rows_go_by_the_first_columns_that_tell_them_apart() -> None:
    other = PAIRS.assign(value=[0.1, 0.25, 0.0, math.nan], n_frames=5000, best=["b", "a", "a", None])
    found = compare_tables(PAIRS, other.iloc[::-1], tolerance=1e-9)
    assert found["keys"] == ["measure", "model_x", "layer_x"]
    assert (found["rows"], found["only_a"]["count"], found["only_b"]["count"]) == (4, 0, 0)
    at = "measure svcca, model_x {}, layer_x {}"
    assert moved(found) == {
        "value": (2, pytest.approx(0.3), at.format("b", 0)),
        "n_frames": (4, 1000, at.format("a", 0)),
        "best": (1, None, at.format("a", 1)),
    }
    values = [(column["a"], column["b"]) for column in found["columns"]]
    assert values == [(0.3, 0.0), (4000, 5000), ("b", "a")]


def test_whole_numbers_that_changed_are_results_if_other_columns_tell_rows_apart() -> None:
    best = pd.DataFrame({"layer_y": [3, 5], "model_x": ["a", "b"], "value": [0.1, 0.2]})
    found = compare_tables(best, best.assign(layer_y=[4, 5]))
    assert found["keys"] == ["model_x"]
    assert moved(found) == {"layer_y": (1, 1.0, "model_x a")}
    assert compare_tables(best, best[::-1]) == {}
    neurons = pd.DataFrame({"model_x": "a", "neuron_x": [1, 2], "model_y": "b", "neuron_y": [5, 6]})
    found = compare_tables(neurons, neurons.assign(neuron_x=[1, 3], neuron_y=[7, 6]))
    assert (found["keys"], found["only_a"]["count"]) == (["model_x", "neuron_x"], 1)
    assert moved(found) == {"neuron_y": (1, 2.0, "model_x a, neuron_x 1")}
    alone = best.assign(model_x="a")  # here the layer is all that there is to go by
    assert compare_tables(alone, alone.assign(layer_y=[4, 5]))["only_a"]["examples"] == ["layer_y 3"]


def test_rows_and_columns_of_one_table_alone_are_named() -> None:
    found = compare_tables(PAIRS.iloc[:3].drop(columns="best"), PAIRS.iloc[1:].drop(columns="constant"))
    assert found["only_a"] == {"count": 1, "examples": ["measure svcca, model_x a, layer_x 0"]}
    assert found["only_b"] == {"count": 1, "examples": ["measure svcca, model_x b, layer_x 1"]}
    assert found["missing"] == {"a": ["constant"], "b": ["best"]}
    assert (found["rows"], found["columns"]) == (2, [])
    many = pd.DataFrame({"n": range(20)})
    assert len(compare_tables(many, many.head(0))["only_a"]["examples"]) == 5


def test_a_number_that_one_table_lacks_is_infinitely_far() -> None:
    found = compare_tables(PAIRS, PAIRS.assign(value=[0.1, math.nan, 0.3, 0.4]), tolerance=10)
    assert moved(found) == {"value": (2, math.inf, "measure svcca, model_x a, layer_x 1")}
    assert compare_tables(PAIRS.assign(value=math.inf), PAIRS.assign(value=math.inf)) == {}
    assert moved(compare_tables(PAIRS.assign(value=math.inf), PAIRS.assign(value=-math.inf)))["value"][:2] == (
        4,
        math.inf,
    )


def test_rows_that_text_does_not_tell_apart_go_by_equal_floats_then_by_their_order() -> None:
    depth = pd.DataFrame({"relation": ["x", "x", "y"], "depth": [0.0, 0.5, 0.5], "value": [1.0, 2.0, 3.0]})
    found = compare_tables(depth, depth.assign(value=[1.0, 2.5, 3.0])[::-1])
    assert found["keys"] == ["relation", "depth"]
    assert moved(found) == {"value": (1, 0.5, "relation x, depth 0.5")}
    found = compare_tables(depth, depth.assign(depth=[0.0, 0.6, 0.5]))
    assert found["keys"] == ["relation", "value"]
    found = compare_tables(depth, depth.assign(depth=[0.0, 0.6, 0.5], value=[1.0, 2.0, 3.5]))
    assert found["keys"] == ["relation", "repeat"]
    assert moved(found)["value"] == (1, 0.5, "relation y, repeat 0")
    floats = depth[["value"]]
    assert moved(compare_tables(floats, floats.assign(value=[2.0, 2.0, 3.0]))) == {"value": (1, 1.0, "repeat 0")}


def test_kinds_of_columns_do_not_matter_where_their_values_are_the_same() -> None:
    a = pd.DataFrame({"flag": [True, False], "n": [1, 2], "list": [["x"], ["y"]], "note": [None, "z"]})
    b = pd.DataFrame({"flag": ["True", "False"], "n": [1.0, 2.0], "list": ["['x']", "['y']"], "note": [np.nan, "z"]})
    assert compare_tables(a, b) == {}
    assert compare_tables(a.convert_dtypes(), b) == {}
    assert moved(compare_tables(a, b.assign(n=["1", "3"])))["n"][:2] == (1, None)


def test_text_that_is_missing_in_names_of_rows_finds_its_like() -> None:
    table = pd.DataFrame({"model": ["a", None, "b"], "value": [1.0, 2.0, 3.0]})
    assert compare_tables(table, table[::-1]) == {}
    assert moved(compare_tables(table, table.assign(value=[1.0, 2.5, 3.0]))) == {"value": (1, 0.5, "model None")}


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({}, []),
        ({"effect": 0.55}, ["effect"]),
        ({"effect": 0.5 + 1e-12}, []),
        ({"holds": "no"}, ["holds"]),
        ({"effect": 0.7, "ci_low": 0.45, "ci_high": 0.95}, ["effect outside the interval"]),
        ({"effect": 0.55, "ci_low": 0.54, "ci_high": 0.56}, ["effect outside the interval"]),
        ({"effect": 0.7, "ci_low": 0.6, "ci_high": 0.8, "holds": "no"}, ["holds", "effect outside the interval"]),
        ({"effect": None}, ["effect"]),
        ({"claim": "other"}, ["only in A", "only in B"]),
    ],
)
def test_what_changed_in_a_verdict(change: dict[str, Any], changes: list[str]) -> None:
    found = verdicts(RUN, changed(**change), tolerance=1e-9)
    assert [each for row in found for each in row["changes"]] == changes
    if changes == ["holds"]:
        assert (found[0]["a"]["holds"], found[0]["b"]["holds"]) == ("yes", "no")
        assert [found[0][name] for name in ("notebook", "measure", "between")] == ["layers", "svcca", "other seed"]


def test_what_two_runs_were_made_from() -> None:
    other = changed(versions={"python": "3.11", "torch": "3"}, commit=None)
    other["settings"] = {**RUN["settings"], "lineup": "/b.toml", "out": "/b"}
    other["checkpoints"] = [{"name": "w2v", "fingerprint": "d" * 64, "source": "/elsewhere"}]
    other["corpus"] = {"utterances": 4}
    other["notebooks"]["layers"] |= {
        "status": "failed",
        "error": "E: x",
        "parameters": [{"name": "frames", "value": 6}],
    }
    rows = {(row["of"], row["name"]): (row["a"], row["b"], row["counts"]) for row in made_from(RUN, other)}
    assert rows == {
        ("code", "commit"): ("a" * 40, None, False),
        ("version", "torch"): ("2", "3", False),
        ("path", "lineup"): ("/a/lineup.toml", "/b.toml", False),
        ("speech", "utterances"): (3, 4, True),
        ("checkpoint", "w2v: fingerprint"): ("c" * 64, "d" * 64, True),
        ("notebook", "layers"): ("ok", "failed E: x", True),
        ("parameter", "layers: frames"): (5, 6, True),
    }


def test_the_same_runs_exit_0_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "re{ports} 1"), write(tmp_path / "b", changed(versions={"python": "4"}))
    assert compare_runs(a, b) == 0
    page = b / "compare-re-ports-1.html"
    assert capsys.readouterr().out.splitlines() == [
        "made from: version python, version torch",
        "verdicts: the same",
        "tables: 0 of 1 differ",
        str(page),
    ]
    soup = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    assert [*outside(soup), *content(soup), *links(soup, b)] == []
    assert soup.select(".pill")[0].get_text() == "THE SAME"
    assert [a["href"] for a in soup.select("dl a")] == ["../re%7Bports%7D%201/index.html", "index.html"]


def test_different_runs_exit_1_and_the_page_shows_both_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a")
    table = PAIRS.assign(value=[0.1, 0.2, 0.35, math.nan], best=["<b>", "b", "a", None])
    b = write(tmp_path / "b", changed(holds="no", effect=0.7, effect_text="0.700"), table)
    write(b, json.loads((b / "run.json").read_text()), table, name="mine")
    out = tmp_path / "deep/page.html"
    assert compare_runs(a, b, out=out) == 1
    at = "measure svcca, model_x b, layer_x 0"
    assert capsys.readouterr().out.splitlines() == [
        "made from: the same",
        "verdicts: holds (1), effect outside the interval (1)",
        f"tables: 2 of 2 differ; furthest pairs, value, by 0.05 at {at}",
        str(out),
    ]
    soup = bs4.BeautifulSoup(out.read_text(encoding="utf-8"), "html.parser")
    assert [*outside(soup), *content(soup), *links(soup, out.parent)] == []
    claims, columns = (
        [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in t("tr")]
        for t in soup("table")
    )
    assert claims[1][:2] == ["toys <agree> layers: svcca, other seed", "holds, effect outside the interval"]
    assert [cell.split(" p ")[0] for cell in claims[1][2:]] == ["yes 0.500 (0.400 to 0.600)", "no 0.700"]
    assert columns[1] == ["value", "1", "0.05", "0.3", "0.35", at]
    assert columns[2] == ["best", "1", "", "b", "<b>", "measure svcca, model_x a, layer_x 0"]
    assert "Only in B." in soup.get_text()
    assert compare_runs(a, a) == 0


def test_any_of_parameters_verdicts_and_tables_alone_makes_runs_differ(tmp_path: Path) -> None:
    a = write(tmp_path / "a")
    assert compare_runs(a, write(tmp_path / "b", changed(corpus={"utterances": 4}))) == 1
    assert compare_runs(a, write(tmp_path / "c", changed(holds="no"))) == 1
    d = write(tmp_path / "d", table=PAIRS.assign(value=PAIRS.value + 0.01))
    assert [compare_runs(a, d, tolerance=tolerance) for tolerance in (0.001, 0.1)] == [1, 0]


def test_a_table_that_one_run_has_as_csv_alone_is_compared_as_csv(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    (a / "tables/pairs.parquet").unlink()
    (b / "tables/pairs.parquet").write_text("not read")
    assert compare_runs(a, b) == 0
    (a / "tables/pairs.csv").unlink()
    (a / "tables/pairs.txt").write_text("no table")
    assert compare_runs(a, b) == 1


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    with pytest.raises(
        SslsimError, match=r"none holds no run.json of this version; name a folder that sslsim run wrote"
    ):
        compare_runs(a, tmp_path / "none")
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(SslsimError, match=f"tolerance is {tolerance}; give a number from 0"):
            compare_runs(a, b, tolerance=tolerance)
    with pytest.raises(SslsimError, match="b is a folder; give a file for the page with --out"):
        compare_runs(a, b, out=b)
    (a / "tables/pairs.parquet").write_text("broken")
    with pytest.raises(SslsimError, match=r"pairs.parquet cannot be read as a table: "):
        compare_runs(a, b)
    (b / "sweep.json").write_text("{}")
    with pytest.raises(SslsimError, match="b holds a sweep; name one of the runs in it"):
        compare_runs(a, b)
    assert not list(tmp_path.rglob("compare-*"))
