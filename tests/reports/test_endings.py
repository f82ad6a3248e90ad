"""What is left when a run is killed, or its disk is full: no process, nothing half written, nothing of a newer run."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from check_reports import check_figures, check_pages, check_tables
from toys import GOOD, changed_run, write_notebook, write_run

from sslsim.errors import SslsimError
from sslsim.reports import record
from sslsim.reports.diff import compare_runs
from sslsim.reports.report import Report
from sslsim.resources import DATA

ROOT = Path(__file__).resolve().parents[2]
# a kernel that is in native code and does not let go of the interpreter, so that no thread of its own can end it
BUSY = "import ctypes, os\nopen('kernel', 'w').write(str(os.getpid()))\n_ = slow and ctypes.PyDLL(None).sleep(600)"
PARTS = [GOOD[0].split("\n\nMore")[0], GOOD[1], BUSY, *GOOD[3:]]


def command(out: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "sslsim", "run", *map(str, words), "--out", str(out)]


@contextmanager
def started(*call: object, **options: object) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with subprocess.Popen(command(*call), env=environment, **pipes) as process:
        yield process


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def appears(file: Path, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return file.read_text()


def all_end(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a kernel in native code ends when it comes back from it")
def test_a_kernel_ends_with_its_run_and_the_next_run_sweeps(tmp_path: Path) -> None:
    notebook, out = write_notebook(tmp_path / "good.ipynb", PARTS), tmp_path / "out"
    with started(out, notebook, "-p", "slow=yes") as process:
        kernel = psutil.Process(int(appears(tmp_path / "kernel")))
        process.kill()
        assert all_end([kernel], 5)
    left = {path.split("/")[0] for path in contents(out)} | {path.name for path in out.iterdir()}
    assert len([name for name in left if name.startswith(".run-.")]) == 1
    assert [name for name in left if not name.startswith(".run")] == ["study.toml"]
    with started(out, notebook) as process:
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    assert [*check_pages(out), *check_tables(out), *check_figures(out)] == []


def test_what_a_notebook_leaves_waits_in_a_folder_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"a": [1]})
    monkeypatch.setenv("SSLSIM_STAGING", str(tmp_path / "out/.run-x/good"))
    for out in ("out", "other"):
        Report(tmp_path / out, "good").table("t", table)
    assert sorted(contents(tmp_path)) == [
        *(f"other/tables/good-t.{suffix}" for suffix in ("csv", "parquet")),
        *(f"out/.run-x/good/tables/good-t.{suffix}" for suffix in ("csv", "parquet")),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits there")
def test_a_file_that_finds_no_room_is_named_and_the_old_one_stays(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from sslsim.resources import *; resource.setrlimit(resource.RLIMIT_FSIZE, (9000,) * 2)"
    )
    for written, told in (
        ("write_text(sys.argv[1], 'x' * 20_000)", "20 kB"),
        ("with replacing(sys.argv[1]) as part: open(part, 'wb').write(b'x' * 20_000)", "more"),
    ):
        (tmp_path / "old.txt").write_text("old")
        words = [sys.executable, "-c", f"{code}\n{written}", str(tmp_path / "old.txt")]
        failed = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        line = rf"NoRoom: {tmp_path}/old.txt cannot be written: it needs {told}, where [\d.,]+ \wB are free \(File too"
        assert re.search(line, failed.stderr.splitlines()[-1])
        assert contents(tmp_path) == {"old.txt": b"old"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    (folder := tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_report_that_a_full_disk_cuts_short_leaves_the_last_one_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    """A little more is free each time, so that every file of a report is the one that finds no room."""
    notebook, out = write_notebook(tmp_path / "good.ipynb", PARTS), small_disk / "out"
    with started(out, notebook) as process:
        assert process.wait(120) == 0
    before, refused = contents(out), set()
    for free in range(0, 400, 12):
        room = shutil.disk_usage(small_disk).free - free * 1000
        if room < 0:
            break
        (small_disk / "ballast").write_bytes(bytes(room))
        with started(out, notebook, "-p", "count=9") as process:
            _, errors = process.communicate(timeout=120)
        (small_disk / "ballast").unlink()
        if process.returncode == 0:
            break
        assert process.returncode == 2
        line = r"sslsim: error: \S+/(\S+) cannot be written: it needs .+, where .+ are free \(No space left on device\)"
        assert (said := re.match(line, errors)), errors
        refused.add(re.sub(r"\d{2,}", "", said[1]))
        assert {name: content for name, content in contents(out).items() if name != "study.toml"} == {
            name: content for name, content in before.items() if name != "study.toml"
        }
    assert process.returncode == 0
    assert len(refused) > 2
    assert [*check_pages(out), *check_tables(out), *check_figures(out)] == []


def test_two_runs_into_one_folder_lose_nothing(tmp_path: Path) -> None:
    books = [write_notebook(tmp_path / name / f"{name}.ipynb", PARTS) for name in ("one", "two")]
    out = tmp_path / "out"
    with started(out, books[0]) as first, started(out, books[1]) as second:
        assert [first.wait(120), second.wait(120)] == [0, 0]
    assert sorted(record.read(out / "run.json")["notebooks"]) == ["one", "two"]
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    assert [*check_pages(out), *check_tables(out), *check_figures(out)] == []


def test_what_python_warns_of_is_told_once_on_page_and_terminal(tmp_path: Path) -> None:
    warn = "import warnings\nfor _ in range(3): warnings.warn('<few> frames')\nprint('WARNING: low', file=sys.stderr)"
    cells = ["# A", ("parameters", "x: int = 1"), f"import sys\n{warn}", warn]
    with started(tmp_path / "out", write_notebook(tmp_path / "a.ipynb", cells)) as process:
        printed, _ = process.communicate(timeout=120)
    assert printed.count("a: UserWarning: <few> frames\n") == printed.count("a: WARNING: low\n") == 1
    page = (tmp_path / "out/a.html").read_text(encoding="utf-8")
    assert page.count('<p class="open">UserWarning: &lt;few&gt; frames</p>') == 1
    assert page.count('<p class="open">WARNING: low</p>') == 1


def test_a_record_of_odd_shape_is_none(tmp_path: Path) -> None:
    """Each value of a good record in turn is another kind of thing, or missing."""

    def odd(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ({**value, key: each} for key, old in value.items() for each in odd(old))
            yield from ({k: v for k, v in value.items() if k != key} for key in value)
        if isinstance(value, list):
            yield from ([each, *value[1:]] for old in value[:1] for each in odd(old))
        yield from (each for each in (5, None, "text", [1], {"a": 1}, [[]]) if type(each) is not type(value))

    tables = write_run(tmp_path / "good").parent / "odd"
    write_run(tables)
    read = 0
    for content in [*odd(changed_run()), [], {}, {"format": 2, "notebooks": {"a": {"files": ["../../x"]}}}]:
        (tables / "run.json").write_text(json.dumps(content), encoding="utf-8")
        try:
            compare_runs(tmp_path / "good", tables)
            read += 1
        except SslsimError as error:
            assert re.fullmatch(f"{tables} holds no run.json of this version; name a folder .*", str(error))  # noqa: PT017
    assert read > 10
    (tables / "run.json").write_text("[" * 100_000)
    assert record.read(tables / "run.json") == {}


SMALL = {"frames": 500, "permutations": 2, "rotations": 2, "blocks": 2, "listen": 1}
FOUR = "w2v2-small,w2v2-small-b,w2v2-small-ctc,hubert-small"


@pytest.mark.slow
def test_twenty_kills_leave_no_process_and_nothing_in_the_next_run(tmp_path: Path) -> None:
    """The four real notebooks on a few utterances; a run, or one of its kernels, is killed at a random moment."""
    speech = pd.read_csv(DATA / "speech/manifest.csv").iloc[::9]
    speech.assign(path=[str(DATA / "speech" / path) for path in speech.path]).to_csv(tmp_path / "few.csv")
    shared = ("--checkpoints", FOUR, "--corpus", tmp_path / "few.csv", "--store", tmp_path / "store")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, by children too
    draw, silent = random.Random(0), {"stdout": subprocess.DEVNULL}

    def words(**parameters: int) -> list[object]:
        return [*shared, *(word for name, value in (SMALL | parameters).items() for word in ("-p", f"{name}={value}"))]

    with started(tmp_path / "right", *words(), **silent) as process:
        assert process.wait(900) == 0
    tables = {name: content for name, content in contents(tmp_path / "right").items() if name.endswith(".parquet")}
    assert len({name.split("-")[0] for name in tables}) == 4
    for number in range(20):
        other = {"null_seed": 1 + number} if number % 2 else {"frames": 400 - number}  # other numbers in the same files
        kill = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT][number % 3]
        with started(tmp_path / "out", *words(**other), **silent) as process:
            run = psutil.Process(process.pid)
            while not (kernels := run.children()):
                assert process.poll() is None
                time.sleep(0.1)
            time.sleep(draw.uniform(0, 10))
            everyone = [run, *run.children(recursive=True)]
            (kernels[0] if number % 4 == 3 else run).send_signal(kill)
            if number % 4 == 3:  # the run goes on with the other notebooks, and its page says what happened
                time.sleep(3)
                process.kill()
            assert all_end(everyone, 10), (number, kill, everyone)
    with started(tmp_path / "out", *words(), **silent) as process:
        assert process.wait(900) == 0
    left = contents(tmp_path / "out")
    assert {name: left[name] for name in tables} == tables
    assert [name for name in left if name.startswith(".")] == []
