"""What is left when a run is killed, or its disk is full: no process, nothing half written, nothing of a newer run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from check_reports import check_figures, check_pages, check_tables
from toys import GOOD, write_notebook

from sslsim.reports import record
from sslsim.reports.report import Report
from sslsim.resources import DATA, NoRoom, replacing, write_text

ROOT = Path(__file__).resolve().parents[2]
# a kernel that is in native code and does not let go of the interpreter, so that no thread of its own can end it
BUSY = "import ctypes, os\nopen('kernel', 'w').write(str(os.getpid()))\n_ = slow and ctypes.PyDLL(None).sleep(600)"
PARTS = [GOOD[0].split("\n\nMore")[0], GOOD[1], BUSY, *GOOD[3:]]


def command(out: Path, *words: object) -> list[str]:
    return [sys.executable, "-m", "sslsim", "run", *map(str, words), "--out", str(out)]


@contextmanager
def started(*call: object, **options: object) -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(*call), env=environment, **pipes, **options) as process:
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
