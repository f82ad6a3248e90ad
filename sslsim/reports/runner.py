"""The report runner: notebooks in, pages, tables, figures, an index and run.json out.

It knows nothing of what the notebooks compute. Everything is checked before anything runs; afterwards each notebook
runs in a process of its own, and what one leaves does not depend on the others.
"""

from __future__ import annotations

import sslsim.reports.quick  # noqa: F401  isort: skip  (before anything that imports nbformat)

import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sslsim.errors import SslsimError
from sslsim.reports import folder as record
from sslsim.reports import page as render
from sslsim.reports import provenance
from sslsim.reports.jobs import NOTEBOOKS, ORDER, Job, plan
from sslsim.reports.kernel import execute
from sslsim.resources import write_text


@dataclass
class Report:
    """A reports folder that was asked for and checked, and how far it is.

    `facts` is run.json without its notebooks, `known` their entries from earlier runs in the folder, `done` those of
    this run; `label` starts what is said of them. `clock` is when it began: with the first notebook, unless told;
    `spent` are the seconds before, if it goes on, of notebooks that failed too.
    """

    out: Path
    jobs: list[Job]
    facts: dict[str, Any]
    known: dict[str, dict[str, Any]]
    label: str = ""
    clock: float = math.inf
    spent: float = 0.0
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """All notebooks whose results may be in the folder."""
        return {*ORDER, *self.known, *(job.name for job in self.jobs)}

    @property
    def status(self) -> str:
        """``ok`` or ``failed``, and ``interrupted`` until the last notebook is through."""
        failed = any(entry["status"] == "failed" for entry in self.done.values())
        return "interrupted" if len(self.done) < len(self.jobs) else "failed" if failed else "ok"

    @property
    def content(self) -> dict[str, Any]:
        """What run.json holds."""
        found = {**self.known, **self.done}
        wanted = [*ORDER, *(job.name for job in self.jobs), *sorted(found)]  # the shipped, as asked for, by name
        entries = {name: found[name] for name in dict.fromkeys(wanted) if name in found}
        seconds = round(self.spent + time.monotonic() - self.clock, 2)
        return {**self.facts, "status": self.status, "seconds": seconds, "notebooks": entries}


@dataclass(frozen=True)
class _Task:
    """One notebook of one report; `before` are its tables and figures of an earlier run."""

    report: Report
    job: Job
    staging: Path
    before: record.Snapshot


def run(
    notebooks: Sequence[str] = (),
    *,
    out: str | Path,
    lineup: str | Path,
    corpus: str | Path,
    store: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    workers: int | None = None,
    prepare: Callable[[list[Job]], dict[str, Any]] | None = None,
) -> int:
    """Run notebooks and write their reports.

    Parameters
    ----------
    notebooks, lineup, corpus, store, parameters
        See `sslsim.reports.jobs.plan`; `store` is ``<out>/store`` unless given.
    out : path
        Reports folder. Notebooks that do not run this time keep their place in the index; those that do leave
        nothing of an earlier run behind.
    workers : int, optional
        Notebooks at a time: as many as there are processors, or notebooks, unless given. The processors are
        shared out among them.
    prepare : callable, optional
        Called with the checked jobs before the first notebook; returns what else the reports are to name:
        ``checkpoints``, a list of flat dicts with the same keys, and ``corpus``, a flat dict.

    Returns
    -------
    int
        0, or 1 when a notebook failed; one whose question the checkpoints leave open has not.

    Raises
    ------
    SslsimError
        What was asked for cannot run. Nothing was written.
    """
    most = checked_workers(workers)
    report = ask(notebooks, out=out, lineup=lineup, corpus=corpus, store=store, parameters=parameters)
    report.clock = time.monotonic()
    report.facts |= prepare(report.jobs) if prepare else {}
    run_all([report], report.out, most)
    print(f"{report.out / 'index.html'}", flush=True)
    return 0 if report.status == "ok" else 1


def ask(
    notebooks: Sequence[str],
    *,
    out: str | Path,
    lineup: str | Path,
    corpus: str | Path,
    store: str | Path | None = None,
    parameters: Mapping[str, Any] | None = None,
    label: str = "",
) -> Report:
    """Check what is asked for, as `run` says, and return the report to be; nothing is written."""
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise SslsimError(f"{out} is a file; give a folder for the reports with --out")
    if (out / record.SWEEP).exists():
        raise SslsimError(f"{out} holds a sweep, whose index one run would replace; give another folder with --out")
    paths = {"lineup": lineup, "corpus": corpus, "store": store or out / "store", "out": out}
    jobs = plan(notebooks, paths=paths, parameters=parameters)
    settings = {**{name: str(Path(path).resolve()) for name, path in paths.items()}, **(parameters or {})}
    return Report(out, jobs, _facts(settings, jobs), record.earlier(out), label)


def run_all(reports: Sequence[Report], root: Path, workers: int, then: Callable[[], None] = lambda: None) -> None:
    """Run the notebooks of all reports that are not done and write each report as its notebooks end.

    Parameters
    ----------
    reports : sequence of Report
        Of folders in `root`, or `root` itself.
    root : Path
        Holds what is unfinished, in a folder that is gone afterwards.
    workers : int
        Notebooks at a time, over all reports.
    then : callable, optional
        Called when a notebook has ended and its report is written.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".run-", dir=root) as folder:
        tasks = [task for i, report in enumerate(reports) for task in _tasks(report, Path(folder) / str(i))]
        _in_processes(tasks, min(workers, len(tasks)), then)


def checked_workers(workers: int | None) -> int:
    """Return how many notebooks run at a time: as many as there are processors unless told."""
    if workers is not None and workers < 1:
        raise SslsimError(f"workers is {workers}; at least 1 is needed")
    return workers or processors()


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _facts(settings: dict[str, Any], jobs: list[Job]) -> dict[str, Any]:
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "format": record.FORMAT,
        "status": "interrupted",
        "started": started,
        "seconds": 0.0,
        **provenance.commit(NOTEBOOKS.parent),
        "code": record.code([job.path for job in jobs]),
        "versions": provenance.versions(),
        "settings": settings,
        "checkpoints": [],
        "corpus": {},
    }


def _tasks(report: Report, staging: Path) -> list[_Task]:
    staging.mkdir()
    # the longest first, by an earlier run: the last to start decides how long processors wait for one another
    queue = [job for job in report.jobs if job.name not in report.done]
    queue.sort(key=lambda job: -report.known.get(job.name, {}).get("seconds", 0.0))
    return [_Task(report, job, staging, record.snapshot(report.out, job.name, report.names)) for job in queue]


def _finish(task: _Task, entry: dict[str, Any]) -> None:
    report, job = task.report, task.job
    report.out.mkdir(exist_ok=True)
    after = record.snapshot(report.out, job.name, report.names)
    _move_in(report.out, task.staging, job, entry, record.remove_stale(report.out, task.before, after))
    report.done[job.name] = entry
    report.clock = min(report.clock, time.monotonic() - entry["seconds"])
    record.publish(report.out, report.content)
    print(f"{report.label}{job.name}: {_summary(report.out, job.name, entry)}", flush=True)


def _summary(out: Path, name: str, entry: Mapping[str, Any]) -> str:
    where = out / f"{name}.html" if entry["page"] else "no page"
    error = f" ({entry['error']})" if entry["error"] else ""
    status = "FAILED" if entry["status"] == "failed" else entry["status"]
    return f"{status} in {entry['seconds']:.1f} s, {where}{error}"


def _in_processes(tasks: list[_Task], workers: int, then: Callable[[], None]) -> None:
    """Run the tasks, `workers` at a time, and finish each as it ends; on Ctrl-C end them all."""
    strangers = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_obey_parent)
    threads = max(1, processors() // workers)
    labels = [f"{task.report.label}{task.job.name}" for task in tasks]
    width = max(map(len, labels))
    try:
        futures = {
            pool.submit(_work, task.job, task.staging, task.report.facts, threads, label.ljust(width)): task
            for task, label in zip(tasks, labels, strict=True)
        }
        for future in as_completed(futures):
            task = futures[future]
            _finish(task, _entry_of(future, task.job, task.report.facts))
            then()
    except BaseException:
        for child in set(multiprocessing.active_children()) - strangers:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _obey_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: one decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the kernel is ended too


def _entry_of(future: Future[dict[str, Any]], job: Job, facts: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001  the worker itself broke; the other reports are still wanted
        return _entry(job, facts, "failed", f"{type(error).__name__}: {error}")


def _work(job: Job, staging: Path, facts: dict[str, Any], threads: int, label: str) -> dict[str, Any]:
    """Run one notebook and render it into the staging folder; the parent moves both in place."""
    try:
        outcome = execute(job.path, staging / f"{job.name}.ipynb", job.given, threads=threads, label=label)
    except SystemExit:  # told to end, and the kernel has ended; the pool would take this for a result and go on
        os._exit(143)
    title, summary = render.title_and_summary(outcome.notebook)
    entry = _entry(job, facts, outcome.status, outcome.error, started=outcome.started, seconds=outcome.seconds)
    entry |= {"title": title, "summary": summary, "page": True, "verdict": render.verdict(outcome.notebook)}
    entry["files"] = [file for result in render.results(outcome.notebook) for file in result["files"]]
    html = render.page(outcome.notebook, name=job.name, folder=job.path.parent, entry=entry, run=facts)
    write_text(staging / f"{job.name}.html", html)
    return entry


def _entry(
    job: Job, facts: Mapping[str, Any], status: str, error: str, *, started: str = "", seconds: float = 0.0
) -> dict[str, Any]:
    return {
        "title": "",
        "summary": "",
        "status": status,
        "error": error,
        "started": started or facts["started"],
        "seconds": seconds,
        "run": facts["started"],
        "commit": facts["commit"],
        "dirty": facts["dirty"],
        "parameters": job.table,
        "page": False,
        "verdict": [],
        "files": [],
    }


def _move_in(out: Path, staging: Path, job: Job, entry: dict[str, Any], written: list[str]) -> None:
    """Put page and notebook in place, and complete the entry's list of files."""
    for file in (f"{job.name}.html", f"{job.name}.ipynb"):
        if (staging / file).is_file():
            os.replace(staging / file, out / file)
        else:
            (out / file).unlink(missing_ok=True)
    shown = [file for file in entry["files"] if (out / file).is_file()]
    entry["files"] = list(dict.fromkeys([*shown, *written]))
