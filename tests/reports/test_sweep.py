from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bs4
import pytest
from check_reports import content, links, outside
from toys import write_notebook

from sslsim.encoders.lineup import find_lineup
from sslsim.errors import SslsimError
from sslsim.reports import folder as record
from sslsim.reports import runner as report
from sslsim.reports import sweep
from sslsim.reports.sweep import Run, runs

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = """\
frames: int = 3  # how many
seed: int = 0
names: list = ["a"]
share: float = 0.5
which: str = "a"
out: str = "../reports"
"""
TOY = """\
import time
from pathlib import Path
import pandas as pd
from sslsim.reports.outputs import Outputs
begun = time.time()
row = {'claim': 'toys are <alike>', 'between': 'toys', 'measure': 'm', 'effect': frames / 10, 'ci_low': 0.0,
       'ci_high': 1.0, 'p': 0.04, 'control': 'none', 'holds': 'yes' if frames > 3 else 'no'}
Outputs(out, 'toy').verdict(pd.DataFrame([row]))
time.sleep(600 if seed == 600 else 0.5)
(Path(out).parent / f'{Path(out).name}.txt').write_text(f'{begun} {time.time()}')
assert seed != 9, 'seed <9>'"""
MADE_FROM = {"checkpoints": [{"name": "w2v", "fingerprint": "f00"}], "corpus": {"utterances": 3}}


def notebooks(folder: Path) -> list[str]:
    cells = {"toy": ["# Toy", ("parameters", PARAMETERS), TOY]}
    cells["plain"] = ["# Plain", ("parameters", "seed: int = 1"), "seed"]
    files = {folder / f"notebooks/{name}.ipynb": each for name, each in cells.items()}
    return [str(file if file.exists() else write_notebook(file, each)) for file, each in files.items()]


def paths(folder: Path) -> dict[str, Any]:
    return {"lineup": folder / "none.toml", "corpus": folder / "none", "out": folder / "out"}


def start(folder: Path, words: list[str], **options: Any) -> int:
    options = {"prepare": lambda _: dict(MADE_FROM), "workers": 2, **options}
    return sweep.run(words, options.pop("notebooks", None) or notebooks(folder), **paths(folder), **options)


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text(encoding="utf-8"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the runs that would run, and run nothing."""
    found: list[str] = []
    monkeypatch.setattr(report, "run_all", lambda reports, *_: found.extend(each.out.name for each in reports))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of two notebooks, two at a time; one notebook of each run with seed 9 fails."""
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert start(folder, ["frames=3,5", "seed=0,9"]) == 1
    return folder


def test_every_combination_is_a_run_and_a_failed_one_does_not_stop_the_rest(finished: Path) -> None:
    found = read(finished / "out")
    assert found["status"] == "failed"
    assert {name: (run["status"], run["values"]) for name, run in found["runs"].items()} == {
        "frames-3_seed-0": ("ok", {"frames": 3, "seed": 0}),
        "frames-3_seed-9": ("failed", {"frames": 3, "seed": 9}),
        "frames-5_seed-0": ("ok", {"frames": 5, "seed": 0}),
        "frames-5_seed-9": ("failed", {"frames": 5, "seed": 9}),
    }
    for name, run in found["runs"].items():
        own = json.loads((finished / "out" / name / "run.json").read_text(encoding="utf-8"))
        assert own["status"] == run["status"]
        assert own["settings"]["store"] == str(finished / "out/store")
        assert 0 < run["seconds"] < 2 * own["seconds"] < 4 * found["seconds"]
        assert [entry["run"] for entry in own["notebooks"].values()] == [own["started"]] * 2
        values = {row["name"]: row["value"] for row in own["notebooks"]["toy"]["parameters"]}
        assert values["frames"] == run["values"]["frames"]
    failed = found["runs"]["frames-3_seed-9"]["notebooks"]
    assert (failed["toy"]["error"], failed["plain"]["status"]) == ("AssertionError: seed <9>", "ok")
    assert [path for path in (finished / "out").iterdir() if path.name.startswith(".")] == []


def test_the_index_of_each_run_leads_up_to_that_of_the_sweep(finished: Path) -> None:
    for name in read(finished / "out")["runs"]:
        folder = finished / "out" / name
        page = bs4.BeautifulSoup((folder / "index.html").read_text(encoding="utf-8"), "html.parser")
        assert page.select_one("header a")["href"] == "../index.html"
        assert list(links(page, folder)) == []


def test_so_many_notebooks_run_at_a_time_over_all_runs(finished: Path) -> None:
    times = [tuple(map(float, file.read_text().split())) for file in (finished / "out").glob("*.txt")]
    at_once = [sum(begun <= moment <= ended for begun, ended in times) for moment, _ in times]
    assert len(times) == 4
    assert max(at_once) <= 2


def test_the_index_has_parameters_states_links_and_verdicts_side_by_side(finished: Path) -> None:
    page = bs4.BeautifulSoup((finished / "out/index.html").read_text(encoding="utf-8"), "html.parser")
    assert [*outside(page), *content(page), *links(page, finished / "out")] == []
    table, claims = page.find_all("table")
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
    assert rows[0] == ["run", "frames", "seed", "status", "toy", "plain", "time of its notebooks"]
    assert rows[1][:4] == ["frames-3_seed-0", "3", "0", "OK"]
    assert rows[2][:4] == ["frames-3_seed-9", "3", "9", "FAILED"]
    assert "AssertionError: seed <9>" in rows[2][4]
    assert [a["href"] for a in table.find_all("a")][0] == "frames-3_seed-0/index.html"
    head, row = ([cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in claims("tr"))
    assert head == ["claim", *read(finished / "out")["runs"]]
    assert row[0] == "toys are <alike> m, toys"
    assert [cell.split(" (")[0] for cell in row[1:]] == ["no 0.300", "no 0.300", "yes 0.500", "yes 0.500"]


@pytest.fixture
def kept(finished: Path) -> Iterator[Path]:
    """Give the folder of the finished sweep; its index is afterwards what it was."""
    out = finished / "out"
    before = {out / name: (out / name).read_bytes() for name in ("sweep.json", "index.html")}
    yield out
    for file, content_ in before.items():
        file.write_bytes(content_)


def test_what_is_done_already_is_not_run_again(
    finished: Path, kept: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start(finished, ["frames=3,5", "seed=0,9"])
    assert asked == ["frames-3_seed-9", "frames-5_seed-9"]
    out = kept / "frames-3_seed-0/index.html"
    assert f"frames-3_seed-0: done already, {out}\n" in capsys.readouterr().out


def test_a_sweep_that_is_done_keeps_the_runs_of_an_earlier_one_in_its_index(
    finished: Path, kept: Path, asked: list[str]
) -> None:
    assert start(finished, ["frames=3", "seed=0"]) == 0
    assert asked == []
    found = read(kept)
    assert found["status"] == "ok"
    assert list(found["runs"])[0] == "frames-3_seed-0"
    assert {name: run["kept"] for name, run in found["runs"].items() if run["sweep"] == found["started"]} == {
        "frames-3_seed-0": True
    }
    text = (kept / "index.html").read_text(encoding="utf-8")
    assert text.count("done already") == 1
    assert text.count("from an earlier sweep") == len(found["runs"]) - 1 == 3


def test_the_code_of_a_run_is_that_of_the_package_and_of_its_notebooks(tmp_path: Path) -> None:
    toy, plain = map(Path, notebooks(tmp_path))
    before = [record.code([]), record.code([toy]), record.code([toy, plain])]
    assert len(set(before)) == 3
    assert before == [record.code([]), record.code([toy]), record.code([toy, plain])]
    toy.write_text(toy.read_text() + " ")
    assert [record.code(each) != old for each, old in zip(([], [toy], [toy, plain]), before, strict=True)] == [
        False, True, True,
    ]  # fmt: skip


def test_of_a_failed_run_only_what_failed_is_run_again(finished: Path, kept: Path) -> None:
    file = kept / "frames-3_seed-9/run.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert start(finished, ["frames=3", "seed=9"]) == 1
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after["started"] == before["started"]
    assert after["seconds"] > before["seconds"]  # of all that was spent on it
    assert after["notebooks"]["plain"] == before["notebooks"]["plain"]
    assert after["notebooks"]["toy"]["started"] > before["notebooks"]["toy"]["started"]
    row = read(kept)["runs"]["frames-3_seed-9"]
    assert (row["kept"], row["status"]) == (False, "failed")
    assert {name: entry["status"] for name, entry in row["notebooks"].items()} == {"toy": "failed", "plain": "ok"}


@pytest.mark.parametrize("change", ["parameter", "checkpoint", "version", "code", "table", "status", "other run"])
def test_what_was_made_from_something_else_is_run_again(
    finished: Path, kept: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    options: dict[str, Any] = {}
    file = finished / "out/frames-3_seed-0/run.json"
    table = finished / "out/frames-3_seed-0/tables/toy-verdict.csv"
    content_, rows = file.read_text(encoding="utf-8"), table.read_text()
    if change == "parameter":
        options["parameters"] = {"share": "0.25"}
    if change == "checkpoint":
        options["prepare"] = lambda _: {**MADE_FROM, "checkpoints": [{"name": "w2v", "fingerprint": "f01"}]}
    if change == "version":
        monkeypatch.setattr(report.provenance, "versions", lambda: {"python": "4"})
    if change == "code":
        monkeypatch.setattr(report.record, "code", lambda _: "another")
    run = json.loads(content_)
    run |= {"started": "later"} if change == "other run" else {}
    run["notebooks"]["toy"] |= {"status": "failed"} if change == "status" else {}
    try:
        file.write_text(json.dumps(run), encoding="utf-8")
        if change == "table":
            table.unlink()
        start(finished, ["frames=3", "seed=0"], **options)
    finally:
        file.write_text(content_, encoding="utf-8")
        table.write_text(rows)
    assert asked == ["frames-3_seed-0"]


def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(tmp_path: Path, asked: list[str]) -> None:
    toy = notebooks(tmp_path)[:1]
    where = [word for name, path in paths(tmp_path).items() for word in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "sslsim", "run", *toy, "--sweep", "seed=0,600", "--workers", "1", *where]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job that a shell put aside ignores Ctrl-C
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    )
    assert process.stdout
    assert any("seed-0/toy: ok" in line for line in process.stdout)
    assert any("seed-600/toy" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, "sslsim: interrupted")
    assert [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []
    found = read(tmp_path / "out")
    assert found["status"] == "interrupted"
    assert {name: run["status"] for name, run in found["runs"].items()} == {"seed-0": "ok", "seed-600": "not run"}
    start(tmp_path, ["seed=0,600"], notebooks=toy, prepare=None)
    assert asked == ["seed-600"]


def test_a_sweep_and_the_report_of_one_run_do_not_share_a_folder(finished: Path) -> None:
    with pytest.raises(SslsimError, match="out holds a sweep, whose index one run would replace; give another folder"):
        report.run(notebooks(finished), **paths(finished))
    where = paths(finished) | {"out": finished / "out/frames-3_seed-0"}
    with pytest.raises(SslsimError, match="holds the report of one run, whose index a sweep would replace; give anoth"):
        sweep.run(["seed=1"], notebooks(finished), **where)


def test_an_error_in_preparation_leaves_nothing(tmp_path: Path) -> None:
    calls: list[Any] = []

    def fail(jobs: Any) -> dict[str, Any]:
        calls.append(jobs)
        if len(calls) == 2:
            raise SslsimError("unknown checkpoint")
        return {}

    with pytest.raises(SslsimError, match="unknown checkpoint"):
        start(tmp_path, ["seed=0,1"], prepare=fail)
    assert not (tmp_path / "out").exists()


def written(folder: Path, text: str) -> list[str]:
    (folder / "sweep.toml").write_text(text, encoding="utf-8")
    return [str(folder / "sweep.toml")]


def test_a_file_names_runs_notebooks_and_lists(tmp_path: Path) -> None:
    toy, plain = notebooks(tmp_path)
    text = """
    [[run]]
    name = "lists"
    frames = [1, 2]
    names = [["a", "b"], []]

    [[run]]
    share = -0.5
    names = ["a"]

    [[run]]
    name = "plain"
    notebooks = ["notebooks/plain.ipynb"]
    """
    found = runs(written(tmp_path, text), [toy], paths=paths(tmp_path))
    assert found == [
        Run("lists_frames-1_names-a-b", [toy], {"frames": 1, "names": ["a", "b"]}),
        Run("lists_frames-1_names-empty", [toy], {"frames": 1, "names": []}),
        Run("lists_frames-2_names-a-b", [toy], {"frames": 2, "names": ["a", "b"]}),
        Run("lists_frames-2_names-empty", [toy], {"frames": 2, "names": []}),
        Run("share-minus-0-5_names-a", [toy], {"share": -0.5, "names": ["a"]}),
        Run("plain", [str(Path(plain))], {}),
    ]


def test_what_is_set_for_all_runs_goes_to_those_that_have_it(tmp_path: Path, asked: list[str]) -> None:
    text = """
    [[run]]
    seed = [1, 2]

    [[run]]
    name = "plain"
    notebooks = ["notebooks/plain.ipynb"]
    """
    sweep_file, toy = written(tmp_path, text), notebooks(tmp_path)[:1]
    seen: list[dict[str, Any]] = []
    options: dict[str, Any] = {"prepare": lambda jobs: seen.append(jobs[0].given) or dict(MADE_FROM), "notebooks": toy}
    start(tmp_path, sweep_file, parameters={"share": "0.25"}, **options)
    assert asked == ["seed-1", "seed-2", "plain"]
    assert [given.get("share") for given in seen] == [0.25, 0.25, None]
    with pytest.raises(SslsimError, match="run seed-1: unknown parameter 'shore'; did you mean 'share'"):
        start(tmp_path, sweep_file, parameters={"shore": "0.25"}, **options)


def test_runs_may_differ_in_checkpoints_and_speech(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = "lineup: str = ''\ncorpus: str = ''\nseed: int = 0"
    notebook = str(write_notebook(tmp_path / "books/some.ipynb", ["# Some", ("parameters", known), "1"]))
    for name in ("a", "b"):
        (tmp_path / "sweeps/speech" / name).mkdir(parents=True)
    (tmp_path / "sweeps/mine.toml").write_text("")
    inputs = {"lineup": tmp_path / "sweeps/mine.toml", "corpus": tmp_path / "sweeps/speech/a"}
    text = """
    [[run]]
    corpus = ["speech/a", "speech/b"]

    [[run]]
    name = "both"
    lineup = ["mine.toml", "paper"]
    seed = 1
    """
    (tmp_path / "sweeps/sweep.toml").write_text(text)
    seen: list[dict[str, Any]] = []

    def prepare(jobs: list[Any]) -> dict[str, Any]:
        seen.append(jobs[0].given)
        return dict(MADE_FROM)

    options: dict[str, Any] = {"out": tmp_path / "out", **inputs, "prepare": prepare}
    sweep.run([str(tmp_path / "sweeps/sweep.toml")], [notebook], **options)
    assert asked == ["corpus-speech-a", "corpus-speech-b", "both_lineup-mine-toml", "both_lineup-paper"]
    mine, a, b = (str(tmp_path / "sweeps" / name) for name in ("mine.toml", "speech/a", "speech/b"))
    paper = str(find_lineup("paper").resolve())
    assert [(one["lineup"], one["corpus"], one.get("seed")) for one in seen] == [
        (mine, a, None),
        (mine, b, None),
        (mine, a, 1),
        (paper, a, 1),
    ]
    rows = read(tmp_path / "out")["runs"]
    assert rows["both_lineup-paper"]["values"] == {"lineup": "paper", "seed": 1}
    assert rows["both_lineup-paper"]["status"] == "not run"  # said before the first notebook ends

    asked.clear()
    (tmp_path / "other.toml").write_text('[[run]]\nlineup = "mine.toml"')
    monkeypatch.chdir(tmp_path / "sweeps")  # where there is one; files count from the file of the sweep
    with pytest.raises(SslsimError, match=f"lineup not found: {tmp_path / 'mine.toml'}; give an existing one"):
        sweep.run([str(tmp_path / "other.toml")], [notebook], **options)
    sweep.run(["corpus=speech/a,speech/b"], [notebook], **options | {"out": tmp_path / "other"})
    assert asked == ["corpus-speech-a", "corpus-speech-b"]
    with pytest.raises(SslsimError, match=r"run corpus-speech-c: corpus not found: .*speech/c; give an existing one"):
        sweep.run(["corpus=speech/c"], [notebook], **options)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["frame=1,2"], "run frame-1: unknown parameter 'frame'; did you mean 'frames'"),
        (["frames=1,x"], r"run frames-x: parameter frames: 'x' is not an int \(default 3\)"),
        (["frames="], "--sweep frames=: expected NAME=VALUE,VALUE and no empty value"),
        (["frames=1,,2"], "--sweep frames=1,,2: expected NAME=VALUE,VALUE and no empty value"),
        (["=1"], "--sweep =1: expected NAME=VALUE,VALUE"),
        (["frames=1", "frames=2"], "--sweep frames=2: frames is swept twice; name all its values at once"),
        (["frames=1,1"], "two runs would be called 'frames-1': give other values, or each"),
        (["which=a,A"], "two runs would be called 'which-a'"),
        (["frames=1,01"], "runs frames-1 and frames-01 are the same notebooks and values; leave one out"),
        (["names=a,b"], r'--sweep: names is a list; write names = \[\["a", "b"\], \["c"\]\] in a file'),
        (["share=0.1"], "--sweep: share is given with -p too, as '0.5'; give it once"),
        (["out=x"], "--sweep: out is the same for all runs, set it with --out"),
        ([f"which={'x' * 99}"], "--sweep: their names have 105 characters, 100 at most; give name = "),
        (["a.toml", "frames=1"], "--sweep takes NAME=VALUES or one file, not a.toml frames=1; put all into the file"),
        (["none.toml"], "sweep 'none.toml': No such file or directory; name a TOML file, or NAME=VALUE,VALUE"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused(tmp_path: Path, words: list[str], text: str) -> None:
    with pytest.raises(SslsimError, match=text):
        start(tmp_path, words, parameters={"share": "0.5"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content_", "text"),
    [
        ("run = 1 2", r"sweep '.*sweep\.toml': not TOML: "),
        ("", r"expected \[\[run\]\] tables, found none"),
        ("[run]\nframes = 1", r"expected \[\[run\]\] tables, found a single \[run\]"),
        ("frames = 1\n[[run]]\nseed = 1", r"expected \[\[run\]\] tables, found 1 of them, and frames"),
        ("[[run]]\nname = 1", "run 1: name is 1, not text"),
        ("[[run]]\nname = 'a b'", "run 1: name 'a b' cannot name a file"),
        ("[[run]]\nname = 'store'", "run 'store': the activations are kept there; give it another name"),
        ("[[run]]\nnotebooks = 'toy'", r"run 1: notebooks is 'toy', not a list such as \[\"neurons\"\]"),
        ("[[run]]\nname = 'a'\nnotebooks = ['toys']", "unknown notebook 'toys'"),
        ("[[run]]\ncorpus = 3", "run 1: corpus is 3, not a path"),
        ("[[run]]\ncorpus = ['a', '']", "run 1: corpus is '', not a path"),
        ("[[run]]\nstore = 'a'", "run 1: store is the same for all runs, set it with --store"),
        ("[[run]]\nframes = []", "run 1: frames has no values; give one or more, or leave it out"),
        ("[[run]]", r"run 1: no values to name it by; give name = \.\.\. in a \[\[run\]\] table"),
        ("[[run]]\nframes = [1.5]", r"run frames-1-5: parameter frames: 1.5 is not an int \(default 3\)"),
        ("[[run]]\nname = 'a'\n[[run]]\nname = 'A'", "two runs would be called 'a'"),
        ("[[run]]\nname = 'a'\n[[run]]\nname = 'b'\nframes = 1\n[[run]]\nname = 'c'", "runs a and c are the same"),
    ],
)
def test_a_file_that_cannot_run_is_refused(tmp_path: Path, content_: str, text: str) -> None:
    with pytest.raises(SslsimError, match=text):
        start(tmp_path, written(tmp_path, content_))
    assert not (tmp_path / "out").exists()
