from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import bs4
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sslsim.errors import SslsimError
from sslsim.figures.clips import Card
from sslsim.reports.report import Report, keys_of
from sslsim.resources import replacing


def figure() -> Figure:
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1, 4], label="squares")
    ax.legend()
    return fig


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_table_is_written_twice_returned_and_brings_back_its_floats(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(500)
    frame = pd.DataFrame({"value": values, "single": values.astype("f4"), "name": 'é,"x"'})
    assert Report(tmp_path, "layers").table("grid", frame) is frame
    assert names(tmp_path) == ["tables/layers-grid.csv", "tables/layers-grid.parquet"]
    csv = pd.read_csv(tmp_path / "tables/layers-grid.csv")
    assert (csv["value"] == values).all()
    assert (csv["single"].astype("f4") == frame["single"]).all()
    assert (csv["name"] == frame["name"]).all()
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tables/layers-grid.parquet"), frame)


def test_where_a_notebook_runs_a_table_has_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("sslsim.reports.report._show", lambda data, _: shown.append(data["text/html"]))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    Report("../my <out>", "layers").table("grid", pd.DataFrame({"value": [1.0]}))
    link = bs4.BeautifulSoup(shown[0], "html.parser").a
    assert link
    assert (tmp_path / "notebooks" / unquote(str(link["href"]))).read_text() == "value\n1.0\n"
    assert link.get_text() == "../my <out>/tables/layers-grid.csv"


def test_named_index_levels_become_columns_and_row_numbers_go(tmp_path: Path) -> None:
    report = Report(tmp_path, "layers")
    grouped = pd.DataFrame({"model": ["a", "b"], "layer": [0, 1], "value": [1.0, 2.0]})
    report.table("means", grouped.set_index(["model", "layer"]))
    report.table("rows", grouped.sort_values("value", ascending=False))
    assert (tmp_path / "tables/layers-means.csv").read_text() == "model,layer,value\na,0,1.0\nb,1,2.0\n"
    assert (tmp_path / "tables/layers-rows.csv").read_text() == "model,layer,value\nb,1,2.0\na,0,1.0\n"


def test_a_figure_is_written_twice_and_closed_and_gives_the_same_bytes_again(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        Report(tmp_path / folder, "layers").figure("curve", figure(), alt="Squares rise", caption="See.")
    assert plt.get_fignums() == []
    assert names(tmp_path / "one") == ["figures/layers-curve.png", "figures/layers-curve.svg"]
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    svg = (tmp_path / "one/figures/layers-curve.svg").read_text()
    assert "<dc:date>" not in svg
    assert "<text" not in svg


CLAIMS = pd.DataFrame(
    {
        "claim": ["shared", "shared, loosely"],
        "between": ["<b>seeds</b>", "families"],
        "measure": "svcca",
        "effect": [0.81549, -0.2],
        "ci_low": [0.811, np.nan],
        "ci_high": [0.8181, np.nan],
        "unit": "share",
        "p": [1 / 21, np.nan],
        "p_of": "mismatches",
        "p_floor": 1 / 21,
        "control": "chance",
        "verdict": ["large", "none"],
    }
)


def test_claims_are_written_in_full_and_shown_in_words(tmp_path: Path) -> None:
    words = Report(tmp_path, "layers").claims(CLAIMS, "They are shared.")
    shown = ["claim", "between", "measure", "verdict", "effect", "unit", "p", "p_of", "control"]
    assert words.columns.tolist() == shown
    assert words.effect.tolist() == ["0.815 (0.811 to 0.818)", "-0.200"]
    assert words.p.tolist() == ["<= 1/21 (mismatches)", ""]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tables/layers-claims.parquet"), CLAIMS)
    of_interval = CLAIMS.assign(p=[0.001, 2e-14], p_of="interval", p_floor=np.nan)
    assert Report(tmp_path, "layers").claims(of_interval).p.tolist() == ["0.001 (interval)", "< 0.001 (interval)"]
    more = CLAIMS.assign(p=[2 / 21, 3 / 21])
    assert Report(tmp_path, "layers").claims(more).p.tolist() == ["0.095 (mismatches)", "0.143 (mismatches)"]
    for nothing in (None, pd.NA, np.nan, np.inf):
        unknown = CLAIMS.assign(p_floor=np.nan, p=pd.Series([0.048, nothing], dtype=object))
        assert Report(tmp_path, "layers").claims(unknown).p.tolist() == ["0.048 (mismatches)", ""]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda o: o.figure("x", figure(), alt=" "), "figure 'x' has no alt text: say in alt=... what it shows"),
        (
            lambda o: o.figure("a b", figure(), alt="x"),
            "figure 'a b' cannot name a file: use letters and digits joined",
        ),
        (
            lambda o: o.figure("x", figure(), alt="x", table="pairs"),
            "figure 'x' draws the table 'pairs', which is not there: write it first",
        ),
        (
            lambda o: o.claims(CLAIMS.drop(columns=["p", "verdict"])),
            "the claims have no p, verdict; give the columns claim, between, measure, effect, unit, ci_low, ci_high,",
        ),
        (lambda o: o.table("../x", pd.DataFrame()), "table '../x' cannot name a file"),
        (lambda o: o.table("x", pd.DataFrame({0: [1]})), "table 'x' has the column name 0, which is not a string"),
        (
            lambda o: o.table("x", PAIRS, keys=["measure"]),
            "table 'x' has rows that measure do not tell apart",
        ),
        (lambda o: o.table("x", PAIRS, keys=["depth"]), "table 'x' has no depth; give other keys"),
        (
            lambda o: o.table("x", pd.DataFrame({"a": [1]}, index=["row"])),
            "table 'x' has labels in an index without a name: name it or reset_index()",
        ),
    ],
)
def test_what_would_leave_a_bad_result_is_refused(tmp_path: Path, call, text: str) -> None:
    with pytest.raises(SslsimError, match=re.escape(text)):
        call(Report(tmp_path, "layers"))
    plt.close("all")
    assert names(tmp_path) == []


def test_results_go_by_the_name_of_the_notebooks_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SslsimError, match="notebook 'my notebook' cannot name a file"):
        Report(tmp_path, "my notebook")
    monkeypatch.setenv("JPY_SESSION_NAME", "console-1")
    with pytest.raises(SslsimError, match=r"name is not known here; give it: sslsim.Report\(out, name='...'\)"):
        Report(tmp_path)
    monkeypatch.setenv("JPY_SESSION_NAME", "work/layers-copy.ipynb")
    assert Report(tmp_path).name == "layers-copy"
    assert Report(tmp_path, name="mine").name == "mine"


PAIRS = pd.DataFrame({"measure": "m", "model_x": ["a", "a"], "layer_x": 0, "model_y": "b", "layer_y": [0, 1]})


@pytest.mark.parametrize(
    ("frame", "keys"),
    [
        (PAIRS.assign(n_frames=4000, relation="r"), [*PAIRS]),
        (PAIRS.assign(model_x=["a", "b"]), ["measure", "model_x"]),  # what it found in y is a result
        (PAIRS.assign(layer_y=0, n_frames=[500, 1000]), [*PAIRS, "n_frames"]),
        (PAIRS.assign(layer_y=0), []),
        (pd.DataFrame({"value": [1.0, 2.0]}), []),
    ],
)
def test_rows_are_named_by_the_first_columns_that_tell_them_apart(frame: pd.DataFrame, keys: list[str]) -> None:
    assert keys_of(frame) == keys


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as part:
            part.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.csv"]


def test_a_figure_that_lays_itself_out_is_not_cut(tmp_path: Path) -> None:
    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for ax in axes:
        ax.set(xlabel="x", ylabel="a very long name of an axis", title="a title")
        ax.tick_params(axis="x", rotation=90)
    Report(tmp_path, "some").figure("map", fig, alt="x")
    picture = plt.imread(tmp_path / "figures/some-map.png")[..., :3].min(-1)
    (height, width), ink = picture.shape, np.argwhere(picture < 0.98)
    margins = [*ink.min(0), height - 1 - ink.max(0)[0], width - 1 - ink.max(0)[1]]
    assert min(margins) > 10, margins


def test_cards_of_one_group_and_row_stand_together_and_every_text_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("sslsim.reports.report._show", lambda data, _: shown.append(data["text/html"]))
    first, second, third = (Card("g <1>", row, f"<i>{row}</i>", "x", b"a", key=f"n-{row}") for row in ("a", "a", "b"))
    other = Card("other", "b", "t", 'a "picture"', b"a", b"p", "n-a")
    report = Report(tmp_path, "some")
    report.clips("Some & all", [first, second, third, other])
    soup = bs4.BeautifulSoup(shown[0], "html.parser")
    assert [p.get_text() for p in soup.select("p")] == ["g <1>", "a", "b", "other", "b"]
    assert [(p["id"], p.get_text()) for p in soup.select("p[id]")] == [("n-a", "a"), ("n-b", "b")]  # each id once
    assert [len(div.select("figure")) for div in soup.select("div")] == [2, 1, 1]
    assert [audio["aria-label"] for audio in soup.select("audio")] == ["<i>a</i>", "<i>a</i>", "<i>b</i>", "t"]
    assert soup.section["aria-label"] == "Some & all"
    assert [(img["alt"], img["src"]) for img in soup.select("img")] == [('a "picture"', "data:image/png;base64,cA==")]
    for bad in (replace(other, alt=" "), replace(other, title="")):
        with pytest.raises(SslsimError, match="clips 'x': a card needs a title, and alt text where it has a picture"):
            report.clips("x", [bad])
    report.clips("none", [])
    assert len(shown) == 1
    assert names(tmp_path) == []
