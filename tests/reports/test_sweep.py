from __future__ import annotations

import copy
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

from sslsim.errors import SslsimError
from sslsim.reports import jobs, record, runner, sweep
from sslsim.reports.jobs import Request
from sslsim.resources import DATA

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
import os, time
from pathlib import Path
row = {'claim': 'toys are <alike>', 'between': 'toys', 'measure': 'm', 'effect': frames / 10, 'ci_low': 0.0,
       'ci_high': 1.0, 'p': 0.04, 'control': 'none', 'unit': 'share', 'p_of': 'interval',
       'p_floor': None, 'verdict': 'large' if frames > 3 else 'none'}
row |= {'effect_text': f'{frames / 10:.3f} (0.000 to 1.000)', 'p_text': '0.040'}
folder = Path(os.environ['SSLSIM_STAGING'], 'tables')
folder.mkdir(exist_ok=True)
(folder / 'toy-claims.csv').write_text('as a Report would, which takes longer to import')
mark = {'role': 'table', 'name': 'claims', 'files': ['tables/toy-claims.csv'], 'rows': 1, 'keys': [], 'claims': [row]}
mark |= {'answer': 'Toys are alike.', 'bounds': {}}
display({'text/plain': ''}, metadata={'sslsim': mark}, raw=True)
time.sleep(600 if seed == 600 else 0)
assert seed != 9, 'seed <9>'"""
MADE_FROM = {"checkpoints": [{"name": "w2v", "fingerprint": "f00"}], "corpus": {"utterances": 3}}


def notebooks(folder: Path) -> list[str]:
    cells = {"toy": ["# Toy", ("parameters", PARAMETERS), TOY]}
    cells["plain"] = ["# Plain", ("parameters", "seed: int = 1"), "seed"]
    files = {folder / f"notebooks/{name}.ipynb": each for name, each in cells.items()}
    return [str(file if file.exists() else write_notebook(file, each)) for file, each in files.items()]


def start(folder: Path, words: list[str], books: list[str] | None = None, **options: Any) -> int:
    return sweep.run(words, Request(folder / "out", notebooks=tuple(books or notebooks(folder)), jobs=2, **options))


@pytest.fixture(autouse=True, scope="module")
def made_from() -> Iterator[dict[str, Any]]:
    """Return what runs are made from: there are no stores here."""
    with pytest.MonkeyPatch.context() as patch:
        found = copy.deepcopy(MADE_FROM)
        patch.setattr(record, "made_from", lambda _: copy.deepcopy(found))
        yield found


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "sweep.json").read_text(encoding="utf-8"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the runs that would run, and run nothing."""
    found: list[str] = []
    monkeypatch.setattr(runner, "run_all", lambda reports, *_: found.extend(each.out.name for each in reports))
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
        assert run["seconds"] == pytest.approx(sum(entry["seconds"] for entry in own["notebooks"].values()))
        assert 0 < run["seconds"] < found["seconds"]
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


def test_the_index_has_parameters_states_links_and_claims_side_by_side(finished: Path) -> None:
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
    assert row[0] == "toys are <alike> m, toys, share"
    assert [cell.split(" (")[0] for cell in row[1:]] == ["none 0.300", "none 0.300", "large 0.500", "large 0.500"]


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


def test_of_a_failed_run_only_what_failed_is_run_again(finished: Path, kept: Path) -> None:
    file = kept / "frames-3_seed-9/run.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert start(finished, ["frames=3", "seed=9"]) == 1
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after["started"] == before["started"]
    assert after["notebooks"]["plain"] == before["notebooks"]["plain"]
    assert after["notebooks"]["toy"]["started"] > before["notebooks"]["toy"]["started"]
    row = read(kept)["runs"]["frames-3_seed-9"]
    assert (row["kept"], row["status"]) == (False, "failed")
    assert {name: entry["status"] for name, entry in row["notebooks"].items()} == {"toy": "failed", "plain": "ok"}


@pytest.mark.parametrize("change", ["parameter", "study", "checkpoint", "code", "notebook", "table", "status", "run"])
def test_what_was_made_from_something_else_is_run_again(
    finished: Path, kept: Path, asked: list[str], made_from: dict[str, Any], change: str
) -> None:
    folder, options = kept / "frames-3_seed-0", {}
    before = {path: path.read_bytes() for path in (folder / "run.json", folder / "tables/toy-claims.csv")}
    run = json.loads(before[folder / "run.json"])
    toy = run["notebooks"]["toy"]
    if change == "parameter":
        options["parameters"] = {"share": "0.25"}
    if change == "study":
        options["fields"] = {"queries": "4"}
    if change == "checkpoint":
        made_from["checkpoints"][0]["fingerprint"] = "f01"
    run |= {"code": {"code": "another"}, "run": {"started": "later"}}.get(change, {})
    toy |= {"status": {"status": "failed"}, "notebook": {"notebook": {"hash": "another"}}}.get(change, {})
    try:
        (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
        if change == "table":
            (folder / "tables/toy-claims.csv").unlink()
        start(finished, ["frames=3", "seed=0"], **options)
    finally:
        for path, content_ in before.items():
            path.write_bytes(content_)
        made_from.update(copy.deepcopy(MADE_FROM))
    assert asked == ["frames-3_seed-0"]


def test_an_interrupted_sweep_keeps_what_is_done_and_goes_on(tmp_path: Path, asked: list[str]) -> None:
    toy = notebooks(tmp_path)[:1]
    sweeping = ["--sweep", "seed=0,600", "--jobs", "1", "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job that a shell put aside ignores Ctrl-C
    command, pipe = [sys.executable, "-m", "sslsim", "run", *toy, *sweeping], subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "made_from", lambda _: {"checkpoints": [], "corpus": {}})
        start(tmp_path, ["seed=0,600"], toy)
    assert asked == ["seed-600"]


def test_a_sweep_and_the_report_of_one_run_do_not_share_a_folder(finished: Path) -> None:
    with pytest.raises(SslsimError, match="out holds a sweep, whose index one run would replace; give another folder"):
        runner.run(Request(finished / "out", notebooks=tuple(notebooks(finished))))
    where = Request(finished / "out/frames-3_seed-0", notebooks=tuple(notebooks(finished)))
    with pytest.raises(SslsimError, match="holds the report of one run, whose index a sweep would replace; give anoth"):
        sweep.run(["seed=1"], where)


def test_an_error_in_extraction_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def fail(*_: Any) -> None:
        calls.append(0)
        if len(calls) == 2:
            raise SslsimError("unknown checkpoint")

    monkeypatch.setattr(runner.Run, "extract", fail)
    with pytest.raises(SslsimError, match="unknown checkpoint"):
        start(tmp_path, ["seed=0,1"])
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
    found = sweep.requests(written(tmp_path, text), Request(tmp_path, notebooks=(toy,)))
    assert {name: (asked.notebooks, asked.swept) for name, asked in found.items()} == {
        "lists_frames-1_names-a-b": ((toy,), {"frames": 1, "names": ["a", "b"]}),
        "lists_frames-1_names": ((toy,), {"frames": 1, "names": []}),
        "lists_frames-2_names-a-b": ((toy,), {"frames": 2, "names": ["a", "b"]}),
        "lists_frames-2_names": ((toy,), {"frames": 2, "names": []}),
        "share-0-5_names-a": ((toy,), {"share": -0.5, "names": ["a"]}),
        "plain": ((plain,), {}),
    }


def test_what_is_set_for_all_runs_goes_to_those_that_have_it(tmp_path: Path) -> None:
    text = '[[run]]\nframes = [1, 2]\n[[run]]\nname = "plain"\nnotebooks = ["notebooks/plain.ipynb"]'
    words, toy = written(tmp_path, text), notebooks(tmp_path)[:1]
    found = sweep.requests(words, Request(tmp_path, notebooks=tuple(toy), parameters={"share": "0.25"}))
    assert {name: asked.parameters for name, asked in found.items()} == {
        "frames-1": {"share": "0.25", "frames": 1},
        "frames-2": {"share": "0.25", "frames": 2},
        "plain": {},
    }
    with pytest.raises(SslsimError, match="run frames-1: unknown parameter 'shore'; did you mean 'share'"):
        start(tmp_path, words, toy, parameters={"shore": "0.25"})


def test_runs_may_differ_in_any_field_of_the_study(tmp_path: Path, asked: list[str]) -> None:
    known = "study: str = 'embedded'\nseed: int = 0"
    notebook = str(write_notebook(tmp_path / "books/some.ipynb", ["# Some", ("parameters", known), "1"]))
    for name in ("a", "b"):
        (tmp_path / "sweeps/speech" / name).mkdir(parents=True)
    (tmp_path / "sweeps/mine.toml").write_text("")
    text = """
    [[run]]
    corpus = ["speech/a", "speech/b"]

    [[run]]
    name = "both"
    lineup = ["mine.toml", "paper"]
    max_seconds = 60
    seed = 1
    """
    (tmp_path / "sweeps/sweep.toml").write_text(text)
    words = [str(tmp_path / "sweeps/sweep.toml")]
    assert start(tmp_path, words, [notebook]) == 1
    assert asked == ["corpus-speech-a", "corpus-speech-b", "both_lineup-mine-toml", "both_lineup-paper"]
    rows = read(tmp_path / "out")["runs"]
    assert rows["both_lineup-paper"]["values"] == {"lineup": "paper", "max_seconds": 60.0, "seed": 1}
    assert rows["both_lineup-paper"]["status"] == "not run"  # said before the first notebook ends

    found = list(sweep.requests(words, Request(tmp_path, notebooks=(notebook,))).values())
    assert [one.parameters for one in found] == [{}, {}, {"seed": 1}, {"seed": 1}]  # the notebook's own goes first
    studies = [jobs.described(jobs.study_of(one.study, one.fields)) for one in found]
    mine, a, b = (str(tmp_path / "sweeps" / name) for name in ("mine.toml", "speech/a", "speech/b"))
    embedded = [str(DATA / name) for name in ("lineup.toml", "speech/manifest.csv")]
    assert [(str(one["lineup"]), str(one["corpus"]), one["max_seconds"]) for one in studies] == [
        (embedded[0], a, None),
        (embedded[0], b, None),
        (mine, embedded[1], 60.0),
        (str(DATA / "lineups/paper.toml"), embedded[1], 60.0),
    ]
    with pytest.raises(SslsimError, match=r"run corpus-speech-c: corpus not found: .*speech/c; give an existing one"):
        start(tmp_path, ["corpus=speech/c"], [notebook])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["frame=1,2"], "run frame-1: unknown parameter 'frame'; did you mean 'frames'"),
        (["frames=1,x"], r"run frames-x: parameter frames: 'x' is not an int \(default 3\)"),
        (["queries=1,x"], r"run queries-x: parameter queries: 'x' is not an int or none \(default 16\)"),
        (["frames=1,,2"], "--sweep frames=1,,2: expected NAME=VALUE,VALUE and no empty value"),
        (["frames=1", "frames=2"], "--sweep frames=2: frames is swept twice; name all its values at once"),
        (["which=a,A"], "a run would be called 'which-A', as another or the store; give it"),
        (["names=a,b"], r'--sweep: names is a list; write names = \[\["a", "b"\], \["c"\]\] in a file'),
        (["checkpoints=a"], r'--sweep: checkpoints is a list; write checkpoints = \[\["a", "b"\], \["c"\]\] in a file'),
        (["share=0.1"], "--sweep: share is given for all runs too, as '0.5'; give it once"),
        (["out=x"], "--sweep: out is the same for all runs, set it with --out"),
        ([f"which={'x' * 99}"], "--sweep: a name of 105 characters, 100 at most; give name = "),
        (["a.toml", "frames=1"], "--sweep takes NAME=VALUES or one file, not a.toml frames=1; put all into the file"),
        (
            ["none.toml"],
            "sweep 'none.toml': cannot be read: No such file or directory; name a TOML file, or NAME=VALUE,VALUE",
        ),
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
        (f"run = {'[' * 9_999}", r"sweep '.*sweep\.toml': not TOML: "),
        ("frames = 1\n[[run]]\nseed = 1", r"expected \[\[run\]\] tables and nothing else"),
        ("[[run]]\nname = 'store'", "a run would be called 'store', as another or the store; give it another"),
        ("[[run]]\nname = 'a'\nnotebooks = ['toys']", "unknown notebook 'toys'"),
        ("[[run]]\ncorpus = ['a', 'b']", r"run corpus-a: corpus not found: .*/a; give an existing one with --corpus"),
        ("[[run]]\nframes = []", "--sweep: frames has no values; give one or more, or leave it out"),
        ("[[run]]", r"no values to name a run by; give name = \.\.\. in a \[\[run\]\] table"),
    ],
)
def test_a_file_that_cannot_run_is_refused(tmp_path: Path, content_: str, text: str) -> None:
    with pytest.raises(SslsimError, match=text):
        start(tmp_path, written(tmp_path, content_))
    assert not (tmp_path / "out").exists()


def test_a_pipe_that_nobody_writes_to_is_no_sweep(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "sweep.toml")
    told = r"sweep '.*sweep\.toml': cannot be read: a device, a pipe or a socket; name a TOML file, or"
    with pytest.raises(SslsimError, match=told):
        start(tmp_path, [str(tmp_path / "sweep.toml")])
