from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bs4
import pandas as pd
import pytest
from check_reports import check_figures, check_pages, check_run, check_tables, links
from toys import BAD, DEAD, GOOD, write_notebook

from sslsim.activations import Study
from sslsim.errors import SslsimError
from sslsim.reports import jobs as planning
from sslsim.reports import kernel, record, runner
from sslsim.reports.jobs import Request, plan

ROOT = Path(__file__).resolve().parents[2]
MADE_FROM = {"checkpoints": [{"name": "w2v <s>", "fingerprint": "f00"}], "corpus": {"utterances": 3}}


@dataclass(frozen=True)
class Finished:
    folder: Path
    code: int
    printed: str

    @property
    def out(self) -> Path:
        return self.folder / "re{ports}"  # papermill fills in what stands in braces

    @property
    def run(self) -> dict[str, Any]:
        return json.loads((self.out / "run.json").read_text(encoding="utf-8"))

    def page(self, name: str) -> bs4.BeautifulSoup:
        return bs4.BeautifulSoup((self.out / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(folder: Path, notebooks: list[str], **options: Any) -> int:
    files = [str(folder / "notebooks" / f"{name}.ipynb") for name in notebooks]
    return runner.run(Request(folder / "re{ports}", notebooks=tuple(files), **options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run of three notebooks, two of which fail, while a kernelspec python3 of the user's leads nowhere."""
    folder = tmp_path_factory.mktemp("run")
    for name, cells in {"good": GOOD, "bad": BAD, "dead": DEAD}.items():
        write_notebook(folder / "notebooks" / f"{name}.ipynb", cells)
    spec = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (folder / "jupyter/kernels/python3").mkdir(parents=True)
    (folder / "jupyter/kernels/python3/kernel.json").write_text(json.dumps(spec))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(record, "made_from", lambda _: MADE_FROM)
        code = run(folder, ["good", "bad", "dead"], parameters={"count": "7"}, jobs=2)
    return Finished(folder, code, printed.getvalue())


def test_a_failed_notebook_does_not_stop_the_others(finished: Finished) -> None:
    assert finished.code == 1
    assert finished.run["status"] == "failed"
    status = {name: (entry["status"], entry["error"]) for name, entry in finished.run["notebooks"].items()}
    assert status == {
        "good": ("ok", ""),
        "bad": ("failed", 'TypeError: can only concatenate str (not "int") to str'),
        "dead": ("failed", "the kernel died: killed, out of memory, or crashed in native code"),
    }
    assert {entry["summary"] for name, entry in finished.run["notebooks"].items() if name != "good"} == {""}


def test_a_run_leaves_pages_notebooks_tables_figures_and_nothing_else(finished: Finished) -> None:
    expected = [f"{name}.{suffix}" for name in ("good", "bad", "dead") for suffix in ("html", "ipynb")]
    expected += ["index.html", "run.json", "study.toml", "tables/good-grid.csv", "tables/good-grid.parquet"]
    expected += ["figures/good-squares.png", "figures/good-squares.svg"]
    assert names(finished.out) == sorted(expected)
    assert [path.name for path in finished.out.iterdir() if path.name.startswith(".")] == []
    files = finished.run["notebooks"]["good"]["files"]
    assert files == [file for file in expected if "/" in file]


def test_the_finished_folder_passes_the_checks_and_its_faults_are_found(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    assert [*check_pages(out), *check_tables(out), *check_figures(out)] == []
    assert "bad: left no table" in list(check_run(out))
    grid = pd.read_parquet(out / "tables/good-grid.parquet")
    grid.loc[0, "value"] = 1.1
    grid.iloc[:3].to_parquet(out / "tables/good-grid.parquet")
    grid.iloc[:3].to_csv(out / "tables/good-grid.csv", index=False)
    assert list(check_tables(out)) == [
        "good-grid.csv: toy: 3 rows, 3 different pairs, but 4 are complete",
        "good-grid.csv: toy: the diagonal is off 1 by 0.1",
    ]
    grid.assign(value=float("nan")).to_parquet(out / "tables/good-grid.parquet")
    (out / "figures/good-squares.svg").unlink()
    problems = [*check_tables(out), *check_figures(out), *check_pages(out)]
    assert "good-grid.csv: 4 values are not finite" in problems
    assert "figures/good-squares.svg is missing or broken" in problems
    assert "good.html: link to figures/good-squares.svg, which is not there" in problems


def test_the_kernel_is_this_interpreter_in_the_notebooks_folder(finished: Finished) -> None:
    assert f"python is {sys.executable}" in finished.page("good").get_text()


def test_a_failed_page_shows_the_traceback_and_what_came_before(finished: Finished) -> None:
    page = finished.page("bad")
    assert [pre.get_text() for pre in page.select("pre.output")][0] == "before"
    assert "Traceback (most recent call last)" in page.select("#failure")[0].get_text()
    assert "papermill" not in page.main.get_text() if page.main else False
    assert "the kernel died" in finished.page("dead").select("#failure")[0].get_text()
    assert [pill.get_text() for pill in finished.page("index").select(".pill")] == ["FAILED", "OK", "FAILED", "FAILED"]


def test_a_question_that_is_left_open_has_not_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    leave = "from sslsim.errors import Unanswered\nraise Unanswered('no <pair> here; choose two')"
    cells = ["# Pairs?", ("parameters", "count: int = 1"), "'before'", leave, "## After", "'after'"]
    write_notebook(tmp_path / "notebooks/pairs.ipynb", cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert run(tmp_path, ["pairs"]) == 0
    assert "pairs: unanswered in " in (printed := capfd.readouterr().out)
    assert "(no <pair> here; choose two)" in printed
    found = json.loads((tmp_path / "re{ports}/run.json").read_text(encoding="utf-8"))
    entry, out = found["notebooks"]["pairs"], tmp_path / "re{ports}"
    assert (found["status"], entry["status"], entry["error"]) == ("ok", "unanswered", "no <pair> here; choose two")
    page, index = (bs4.BeautifulSoup((out / f"{n}.html").read_text(), "html.parser") for n in ("pairs", "index"))
    assert page.select_one(".pill").get_text() == "UNANSWERED"
    assert "leave the question open: no <pair> here; choose two." in page.select_one("header p.open").get_text()
    assert page.select_one("main #open").get_text() == "no <pair> here; choose two"
    assert "before" in page.main.get_text()
    assert not {"After", "Traceback", "failed"} & set(page.get_text().split())
    assert index.select_one("article p.open").get_text() == "no <pair> here; choose two"
    assert list(links(page, out)) == []


def test_the_page_has_title_contents_results_and_provenance(finished: Finished) -> None:
    page = finished.page("good")
    assert page.h1
    assert page.h1.get_text() == "Do toys add up?"
    assert [a.get_text() for a in page.select("nav.toc a")] == [
        "Set-up", "The grid of toys", "What this shows", "Little", "Methods and references", "Provenance",
    ]  # fmt: skip
    assert [a["href"] for a in page.select(".results a")] == [*finished.run["notebooks"]["good"]["files"], "good.ipynb"]
    assert page.select("figure img")[0]["alt"] == 'A "rising" line'
    assert page.select("figcaption math")
    assert "<b>Names</b>" in page.select("figcaption")[0].get_text()
    assert len(page.find_all("img")) == 1
    assert "14" in [pre.get_text() for pre in page.select("pre.output")]
    facts = page.select("#provenance")[0].get_text()
    for text in ("w2v <s>", "f00", "Corpus utterances", "how many squares", "papermill", str(finished.out)):
        assert text in facts


def test_stderr_and_progress_bars_are_not_in_the_page_but_were_live(finished: Finished) -> None:
    text = finished.page("good").main.get_text() if finished.page("good").main else ""
    assert "to stderr\n" not in text
    assert "counting:" not in text
    assert "good   2/6" not in text
    assert "good   4/6  The grid <i>of</i> toys" in finished.printed
    assert "TCP" not in finished.printed


def test_run_json_has_what_makes_the_run_again(finished: Finished) -> None:
    found = finished.run
    rows = {row["name"]: row for row in found["notebooks"]["good"]["parameters"]}
    assert (rows["count"]["value"], rows["count"]["default"]) == (7, 3)
    assert rows["names"]["value"] == ["a", "b"]
    assert rows["out"]["value"] == str(finished.out)
    assert found["settings"]["count"] == "7"
    assert found["checkpoints"] == MADE_FROM["checkpoints"]
    assert set(found["versions"]) == {"python", "sslsim", *record.PACKAGES}
    assert found["notebooks"]["good"]["title"] == "Do toys add up?"
    seconds = [entry["seconds"] for entry in found["notebooks"].values()]
    assert 0 < max(seconds) < found["seconds"]  # of the clock: notebooks run side by side


def test_another_run_replaces_its_own_results_and_nothing_else(finished: Finished, tmp_path: Path) -> None:
    """One notebook has changed; the copy of another writes beside it."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    again = Finished(tmp_path / "copy", 0, "")
    for mine in ("tables/good-mine.csv", "figures/good-mine.png"):
        (again.out / mine).write_text("x")
    shutil.copyfile(again.folder / "notebooks/good.ipynb", again.folder / "notebooks/better.ipynb")
    cells = [*GOOD[:4], "report.table('other', pd.DataFrame({'a': [1]}))"]
    write_notebook(again.folder / "notebooks/good.ipynb", cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        assert run(again.folder, ["good", "better"], jobs=2) == 0
    assert again.run["status"] == "ok"
    assert list(again.run["notebooks"]) == ["good", "better", "bad", "dead"]
    files = {name: entry["files"] for name, entry in again.run["notebooks"].items()}
    assert files["better"] == [file.replace("good", "better") for file in finished.run["notebooks"]["good"]["files"]]
    assert files["good"] == ["tables/good-other.csv", "tables/good-other.parquet"]
    mine = ["figures/good-mine.png", "tables/good-mine.csv"]  # the user's own stay
    assert [file for file in names(again.out) if "/" in file] == sorted([*files["better"], *files["good"], *mine])
    notes = {a["id"]: "from an earlier run" in a.get_text() for a in again.page("index").select("article")}
    assert notes == {"good": False, "better": False, "bad": True, "dead": True}


def test_an_interrupted_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    notebooks = [str(write_notebook(tmp_path / f"{name}.ipynb", GOOD)) for name in ("good", "next")]
    options = ["--out", str(tmp_path / "out"), "-p", "slow=yes", "--jobs", "1"]
    command = [sys.executable, "-m", "sslsim", "run", *notebooks, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    end = time.monotonic() + 30
    while not (pid := (tmp_path / "kernel").read_text() if (tmp_path / "kernel").exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.1)
    busy = Path("/proc") / pid  # for ten minutes
    assert busy.exists()
    clock = time.monotonic()
    process.terminate()  # Ctrl-C is tried on a sweep
    printed, errors = process.communicate(timeout=30)
    assert time.monotonic() - clock < 2
    assert (process.returncode, errors.strip()) == (130, "sslsim: interrupted")
    assert "good: ok" not in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["study.toml"]
    assert not busy.exists()


def test_a_kernel_that_does_not_start_is_started_once_more(finished, tmp_path, monkeypatch, capsys):
    write_notebook(tmp_path / "notebooks/good.ipynb", GOOD)
    sound, begun = kernel._manager, []

    def manager(most):
        begun.append(made := sound())
        if len(begun) <= most:
            made.kernel_spec.argv[:] = ["/bin/false"]
        return made

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(kernel, "_manager", lambda: manager(1))
    assert run(tmp_path, ["good"]) == 0
    assert "good  the kernel did not start, once more: Kernel died before replying" in capsys.readouterr().out
    monkeypatch.setattr(kernel, "_manager", lambda: manager(4))
    assert run(tmp_path, ["good"]) == 1
    assert len(begun) == 4
    assert "FAILED" in capsys.readouterr().out


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(planning, "NOTEBOOKS", tmp_path / "notebooks")
    for name in ("neurons", "layers"):
        source = f"study: str = 'embedded'\n{name}_count: int = 1\nshared: bool = False\ndevice: str = 'auto'"
        write_notebook(tmp_path / f"notebooks/{name}.ipynb", [f"# {name}", ("parameters", source)])
    (tmp_path / "lineup.toml").write_text("")
    return tmp_path


def test_a_plan_gives_each_notebook_its_parameters_and_the_study_of_the_run(shipped: Path) -> None:
    jobs = plan(Request(shipped / "out", parameters={"shared": "yes", "layers_count": "3"}, device="cpu"))
    assert [job.name for job in jobs] == ["neurons", "layers"]
    here = {"study": str(shipped / "out/study.toml"), "device": "cpu"}
    assert jobs[0].given == {**here, "shared": True}
    assert jobs[1].given == {**here, "shared": True, "layers_count": 3}
    assert jobs[0].values == {**here, "neurons_count": 1, "shared": True}
    assert [job.name for job in plan(Request(shipped, notebooks=("layers",)))] == ["layers"]


def test_a_notebook_keeps_a_study_of_its_own_unless_the_command_names_one(shipped: Path) -> None:
    mine = str(write_notebook(shipped / "books/mine.ipynb", ["# Mine", ("parameters", "study: str = '../a.toml'")]))
    asked = Request(shipped / "out", notebooks=(mine,))
    assert plan(asked)[0].given == {"study": str(shipped / "a.toml")}
    for named in (replace(asked, study="b.toml"), replace(asked, fields={"queries": "4"})):
        assert plan(named)[0].given == {"study": str(shipped / "out/study.toml")}


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"notebooks": ("layer",)}, r"unknown notebook 'layer'; did you mean 'layers'\?"),
        ({"notebooks": ("zzz.ipynb",)}, r"notebook not found: /.*zzz\.ipynb"),
        ({"notebooks": ("layers", "layers")}, "notebook 'layers': each page needs a name of its own"),
        ({"parameters": {"share": "1"}}, r"unknown parameter 'share'; did you mean 'shared'\?"),
        ({"notebooks": ("layers",), "parameters": {"neurons_count": "1"}}, "unknown parameter 'neurons_count'"),
        ({"parameters": {"layers_count": "abc"}}, r"parameter layers_count: 'abc' is not an int \(default 1\)"),
        ({"parameters": {"out": "x"}}, "parameter out is set with --out, not with -p"),
        ({"parameters": {"max_seconds": "1"}}, "parameter max_seconds is set with --max-seconds, not with -p"),
        ({"fields": {"queries": "x"}}, r"parameter queries: 'x' is not an int or none \(default 16\)"),
        ({"fields": {"lineup": "no.toml"}}, r"lineup not found: /.*no\.toml; give an existing one with --lineup"),
        ({"fields": {"corpus": "none"}}, "corpus not found: /.*none; give an existing one with --corpus"),
        ({"jobs": 0}, "--jobs 0: at least 1 is needed"),
    ],
)
def test_what_cannot_run_is_refused(shipped: Path, asked: dict[str, Any], text: str) -> None:
    with pytest.raises(SslsimError, match=text):
        runner.run(Request(shipped / "out", **asked))
    assert not (shipped / "out").exists()


def test_names_that_cannot_be_pages_are_refused(shipped: Path) -> None:
    for name, text in {
        "index": "other than 'index'",
        "my notebook": "notebook 'my notebook' cannot name a file",
    }.items():
        path = write_notebook(shipped / f"{name}.ipynb", ["# T", ("parameters", "x: int = 1")])
        with pytest.raises(SslsimError, match=text):
            plan(Request(shipped, notebooks=(str(path),)))
    with pytest.raises(SslsimError, match=r"lineup\.toml is a file; give a folder for the reports with --out"):
        runner.run(Request(shipped / "lineup.toml"))


def test_a_checkout_without_notebooks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "NOTEBOOKS", tmp_path)
    with pytest.raises(SslsimError, match=r"no notebooks in /.*; name one: sslsim run path/to/notebook\.ipynb"):
        plan(Request(tmp_path))


def test_an_error_in_extraction_leaves_nothing(shipped: Path) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SslsimError("unknown checkpoint")

    for name in ("neurons", "layers"):
        source = "study: str = 'embedded'\nstore: str = 'store'\ndevice: str = 'auto'"
        write_notebook(shipped / f"notebooks/{name}.ipynb", [f"# {name}", ("parameters", source)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Study, "extract", fail)
        with pytest.raises(SslsimError, match="unknown checkpoint"):
            runner.run(Request(shipped / "out"))
    assert not (shipped / "out").exists()


def test_a_broken_record_of_an_earlier_run_is_passed_over(tmp_path: Path) -> None:
    for content in ("", "[]", '{"format": 99, "notebooks": {"a": {}}}', '{"format": 2}'):
        (tmp_path / "run.json").write_text(content)
        assert record.read(tmp_path / "run.json").get("notebooks", {}) == {}


def test_the_commit_is_that_of_the_checkout_that_has_the_file(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    nothing = {"commit": None, "dirty": False}
    assert record.commit(tmp_path) == nothing
    git("init", "-q")
    for name in ("file", "other"):
        (tmp_path / "part" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "part" / name).write_text("1")
    git("add", "part/file")
    git("commit", "-qm", "x")
    clean = {"commit": git("rev-parse", "HEAD"), "dirty": False}
    assert [record.commit(tmp_path / path) for path in ("part", "part/file")] == [clean, clean]
    assert record.commit(tmp_path / "part/other") == nothing  # an environment inside a checkout is not of it
    before = record.of_notebook(tmp_path / "part/file")
    (tmp_path / "part/file").write_text("2")
    after = record.of_notebook(tmp_path / "part/file")
    assert (before | clean == before, after["dirty"], after["hash"] == before["hash"]) == (True, True, False)


def test_time_is_told_by_what_was_measured(monkeypatch):
    monkeypatch.setattr(runner, "_processors", lambda: 2)
    for shape, minutes in (((13, 768), 5), ((25, 1024), 13)):  # for an hour of speech, as the README says
        assert runner.minutes_of([shape], 1)[0] == pytest.approx(minutes, rel=0.2)
    embedded = [*9 * [(6, 128)], *5 * [(7, 160)], (1, 80)]
    assert runner.minutes_of(embedded, 0.1)[1] == pytest.approx(3.6, rel=0.2)  # 426 s of two processors
    monkeypatch.setattr(runner, "_processors", lambda: 1)
    assert runner.minutes_of(embedded, 0.1)[1] == pytest.approx(7.1, rel=0.2)
