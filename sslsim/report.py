"""The report runner: notebooks in, pages, tables, figures, an index and run.json out.

It knows nothing of what the notebooks compute. Everything is checked before anything runs; afterwards each notebook
runs in a process of its own, and what one leaves does not depend on the others.
"""

from __future__ import annotations

import sslsim.quick  # noqa: F401  isort: skip  (before anything that imports nbformat)

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sslsim import provenance, record, render
from sslsim.errors import SslsimError
from sslsim.execute import execute
from sslsim.files import write_text
from sslsim.plan import NOTEBOOKS, ORDER, Job, plan


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
        See `sslsim.plan.plan`; `store` is ``<out>/store`` unless given.
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
        0, or 1 when a notebook failed.

    Raises
    ------
    SslsimError
        What was asked for cannot run. Nothing was written.
    """
    out = Path(out).resolve()
    if out.exists() and not out.is_dir():
        raise SslsimError(f"{out} is a file; give a folder for the reports with --out")
    if workers is not None and workers < 1:
        raise SslsimError(f"workers is {workers}; at least 1 is needed")
    paths = {"lineup": lineup, "corpus": corpus, "store": store or out / "store", "out": out}
    jobs = plan(notebooks, paths=paths, parameters=parameters)
    settings = {**{name: str(Path(path).resolve()) for name, path in paths.items()}, **(parameters or {})}
    clock = time.monotonic()
    facts = _facts(settings)
    facts |= prepare(jobs) if prepare else {}
    entries = _run_all(jobs, out, facts, min(workers or processors(), len(jobs)), clock)
    return 1 if any(entry["status"] != "ok" for entry in entries) else 0


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _facts(settings: dict[str, Any]) -> dict[str, Any]:
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "format": record.FORMAT,
        "status": "interrupted",  # until the last notebook is through
        "started": started,
        "seconds": 0.0,
        **provenance.commit(NOTEBOOKS.parent),
        "versions": provenance.versions(),
        "settings": settings,
        "checkpoints": [],
        "corpus": {},
    }


def _run_all(jobs: list[Job], out: Path, facts: dict[str, Any], workers: int, clock: float) -> list[dict[str, Any]]:
    out.mkdir(parents=True, exist_ok=True)
    known = record.earlier(out)
    names = {*ORDER, *known, *(job.name for job in jobs)}
    # the longest first, by an earlier run: the last to start decides how long processors wait for one another
    queue = sorted(jobs, key=lambda job: -known.get(job.name, {}).get("seconds", 0.0))
    before = {job.name: record.snapshot(out, job.name, names) for job in jobs}
    done: dict[str, dict[str, Any]] = {}

    def finish(job: Job, entry: dict[str, Any]) -> None:
        after = record.snapshot(out, job.name, names)
        _move_in(out, staging, job, entry, record.remove_stale(out, before[job.name], after))
        done[job.name] = entry
        failed = any(entry["status"] != "ok" for entry in done.values())
        status = "interrupted" if len(done) < len(jobs) else "failed" if failed else "ok"
        entries = {name: {**known, **done}[name] for name in _ordered({*known, *done}, jobs)}
        seconds = round(time.monotonic() - clock, 2)
        record.publish(out, {**facts, "status": status, "seconds": seconds, "notebooks": entries})
        print(f"{job.name}: {_summary(out, job.name, entry)}", flush=True)

    with tempfile.TemporaryDirectory(prefix=".run-", dir=out) as folder:
        staging = Path(folder)
        _in_processes(queue, staging, facts, workers, finish)
    print(f"{out / 'index.html'}", flush=True)
    return list(done.values())


def _ordered(names: set[str], jobs: list[Job]) -> list[str]:
    """Return the shipped notebooks in their order, then the rest as they were asked for, then by name."""
    wanted = [*ORDER, *(job.name for job in jobs), *sorted(names)]
    return [name for name in dict.fromkeys(wanted) if name in names]


def _summary(out: Path, name: str, entry: Mapping[str, Any]) -> str:
    where = out / f"{name}.html" if entry["page"] else "no page"
    error = f" ({entry['error']})" if entry["error"] else ""
    return f"{'ok' if entry['status'] == 'ok' else 'FAILED'} in {entry['seconds']:.1f} s, {where}{error}"


def _in_processes(
    jobs: list[Job],
    staging: Path,
    facts: dict[str, Any],
    workers: int,
    finish: Callable[[Job, dict[str, Any]], None],
) -> None:
    """Run the jobs, `workers` at a time, and call `finish` as each ends; on Ctrl-C end them all."""
    strangers = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_obey_parent)
    threads = max(1, processors() // workers)
    width = max(len(job.name) for job in jobs)
    try:
        futures = {pool.submit(_work, job, staging, facts, threads, job.name.ljust(width)): job for job in jobs}
        for future in as_completed(futures):
            finish(futures[future], _entry_of(future, futures[future], facts))
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
        return _entry(job, facts, error=f"{type(error).__name__}: {error}")


def _work(job: Job, staging: Path, facts: dict[str, Any], threads: int, label: str) -> dict[str, Any]:
    """Run one notebook and render it into the staging folder; the parent moves both in place."""
    try:
        outcome = execute(job.path, staging / f"{job.name}.ipynb", job.given, threads=threads, label=label)
    except SystemExit:  # told to end, and the kernel has ended; the pool would take this for a result and go on
        os._exit(143)
    title, summary = render.title_and_summary(outcome.notebook)
    entry = _entry(job, facts, error=outcome.error, started=outcome.started, seconds=outcome.seconds)
    entry |= {"title": title, "summary": summary, "page": True, "verdict": render.verdict(outcome.notebook)}
    entry["files"] = [file for result in render.results(outcome.notebook) for file in result["files"]]
    html = render.page(outcome.notebook, name=job.name, folder=job.path.parent, entry=entry, run=facts)
    write_text(staging / f"{job.name}.html", html)
    return entry


def _entry(
    job: Job, facts: Mapping[str, Any], *, error: str, started: str = "", seconds: float = 0.0
) -> dict[str, Any]:
    return {
        "title": "",
        "summary": "",
        "status": "failed" if error else "ok",
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
