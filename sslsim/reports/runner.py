"""The runner of notebooks: pages, tables, figures, an index and run.json come out.

Everything is checked before anything runs. Each notebook runs in a kernel of its own, a thread here waits for it and
renders its page, and what one leaves does not depend on the others.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslsim.activations import Study
from sslsim.activations.draft import alone, remove_stale
from sslsim.activations.extraction import Plan, announce
from sslsim.activations.study import checked
from sslsim.encoders.files import expected_shape, expected_step
from sslsim.errors import SslsimError
from sslsim.parallel import chosen_device
from sslsim.reports import record
from sslsim.reports.jobs import ORDER, Job, Request, described, plan, study_of
from sslsim.resources import NoRoom, write_text
from sslsim.speech.facts import NAMING
from sslsim.speech.recording import SAMPLE_RATE, n_frames


@dataclass
class Run:
    """A run that was asked for and checked, and how far it is.

    `facts` is run.json without its notebooks, `known` their entries from earlier runs in the folder, `done` those of
    this run; `label` starts what is said of them; `clock` is when it was asked for.
    """

    request: Request
    out: Path
    jobs: list[Job]
    study: Study
    facts: dict[str, Any]
    known: dict[str, dict[str, Any]]
    label: str = ""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    clock: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> str:
        """``ok`` or ``failed``, and ``interrupted`` until the last notebook is through."""
        failed = any(entry["status"] == "failed" for entry in self.done.values())
        return "interrupted" if len(self.done) < len(self.jobs) else "failed" if failed else "ok"

    def calls(self) -> dict[str, tuple[Study, dict[str, Any]]]:
        """Return each study that the notebooks will open, and how it is extracted."""
        found = {}
        for values in (job.values for job in self.jobs if {"study", "store"} <= set(job.values)):
            own = values["study"] != self.request.settings["study"]
            study = Study.read(values["study"]) if own else self.study
            if values.get("checkpoints"):
                study = replace(study, checkpoints=tuple(values["checkpoints"]))
            call = {"folder": values["store"], "device": values.get("device", "auto")}
            found[repr((study, call))] = study, call
        return found

    def extract(self, opened: dict[str, Any]) -> None:
        """Extract what the notebooks will open and note what it was made from; `opened` has what other runs opened."""
        used = []
        for key, (study, call) in self.calls().items():
            if key not in opened:
                opened[key] = study.extract(**call)
            used.append((study, opened[key]))
        self.facts |= record.made_from(used)

    def finish(self, job: Job, entry: dict[str, Any], staging: Path) -> None:
        """Put files in place, delete what only an earlier run of the notebook left, and write run.json and index."""
        pages = [f"{job.name}.html", f"{job.name}.ipynb"]
        new = [file for file in (*entry["files"], *pages) if (staging / file).is_file()]
        for file in new:
            (self.out / file).parent.mkdir(exist_ok=True)
            os.replace(staging / file, self.out / file)
        for file in {*self.known.get(job.name, {}).get("files", []), *pages}.difference(new):
            (self.out / file).unlink(missing_ok=True)
        entry["files"] = [file for file in entry["files"] if file in new]
        self.done[job.name] = entry
        found = {**self.known, **self.done}
        wanted = [*ORDER, *(job.name for job in self.jobs), *sorted(found)]  # the shipped, as asked for, by name
        entries = {name: found[name] for name in dict.fromkeys(wanted) if name in found}
        seconds = round(time.monotonic() - self.clock, 2)
        content = {**self.facts, "status": self.status, "seconds": seconds, "notebooks": entries}
        record.write(self.out / "run.json", content)
        from sslsim.reports import page as render  # it takes seconds

        swept = self.out.name in record.read(self.out.parent / record.SWEEP).get("runs", {})
        write_text(self.out / "index.html", render.fill("index.html.j2", run=content, folder=self.out, sweep=swept))
        for warning in entry["warnings"]:
            print(f"{self.label}{job.name}: {warning}", flush=True)
        where = self.out / f"{job.name}.html" if entry["page"] else "no page"
        error = f" ({entry['error']})" if entry["error"] else ""
        status = "FAILED" if entry["status"] == "failed" else entry["status"]
        print(f"{self.label}{job.name}: {status} in {entry['seconds']:.1f} s, {where}{error}", flush=True)


def run(request: Request) -> int:
    """Run notebooks, write their reports, and return 0, or 1 when a notebook failed.

    Notebooks of the folder that do not run this time keep their place in the index. One whose question the checkpoints
    leave open has not failed. If what was asked for cannot run, that is an SslsimError and nothing was written.
    """
    one = ask(request)
    if request.dry:
        return forecast([one])
    one.extract({})
    run_all([one], request)
    print(one.out / "index.html", flush=True)
    return 0 if one.status == "ok" else 1


def ask(request: Request, label: str = "") -> Run:
    """Check what is asked for and return the run to be; nothing is written."""
    out = request.out.resolve()
    if out.exists() and not out.is_dir():
        raise SslsimError(f"{out} is a file; give a folder for the reports with --out")
    if request.jobs is not None and request.jobs < 1:
        raise SslsimError(f"--jobs {request.jobs}: at least 1 is needed")
    if (out / record.SWEEP).exists():
        raise SslsimError(f"{out} holds a sweep, whose index one run would replace; give another folder with --out")
    jobs = plan(request)
    study = study_of(request.study, request.fields)
    facts = {"format": record.FORMAT, "started": record.now(), **record.of_package()}
    facts |= {"settings": {**request.settings, **request.parameters}, "study": described(study)}
    one = Run(request, out, jobs, study, facts, _known(out), label)
    by_speaker = any(job.values.get("block_by") == "speaker" for job in jobs)
    for own, _ in one.calls().values():
        chosen = own.selected()
        if by_speaker and len(speakers := {u.speaker for u in own.whole_corpus()}) < 2:
            told = f"block_by is 'speaker', and the corpus has one, {speakers.pop()!r}"
            raise SslsimError(f"{told}; {NAMING}, or take block_by=utterance")
        if own.unit == "frame" and any(job.name in ORDER for job in jobs):  # which compare frame by frame
            steps = {round(1000 * expected_step(each), 3): each.name for each in reversed(chosen)}  # names the first
            told = " and ".join(f"every {step:g} ms ({name})" for step, name in sorted(steps.items()))
            if len(steps) > 1:
                raise SslsimError(f"frames are {told}; give --unit 80ms, phone or word, or checkpoints of one rate")
        checked(own)
    return one


def _known(out: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of run.json whose pages are there."""
    entries = record.read(out / "run.json").get("notebooks", {})
    return {name: entry for name, entry in entries.items() if (out / f"{name}.html").is_file()}


def forecast(runs: Sequence[Run]) -> int:
    """Print what runs would do and return 0: of audio only headers are read, and nothing is written."""
    for one in runs:
        print(f"{one.out}: {', '.join(job.name for job in one.jobs)}")
    for study, call in {key: call for one in runs for key, call in one.calls().items()}.values():
        chosen, rows = [each for each in study.selected() if each.times is None], []
        if (steps := study.series()) and any(job.name == "layers" for one in runs for job in one.jobs):
            chosen += [each for each in steps.selected() if each not in chosen]
        for u in (utterances := study.utterances()):
            with suppress(SslsimError, OSError):  # it will be left out, or stop the run
                n, rate = u.header
                cuts = np.diff(study.segmentation.cuts(n, SAMPLE_RATE)).tolist()
                rows += [(u.id, u.speaker, "", rate, samples, n_frames(samples)) for samples in cuts]
        index = pd.DataFrame(rows, columns=["utterance", "speaker", "waveform", "rate", "n_samples", "length"])
        there = next(folder for folder in (Path(call["folder"]), *Path(call["folder"]).parents) if folder.is_dir())
        roots = {each: there / each.name for each in chosen}
        made = ", ".join(each.name for each in study.selected() if each.times)
        more = f", and arrays of {made}" * bool(made)
        print(f"{', '.join(each.name for each in chosen)}{more}: {len(utterances):,} utterances; if none is there yet:")
        where = chosen_device(call["device"]), there, None
        announce(chosen, Plan(study, utterances, {}, {}, roots, index, index, *where))
        hours = index["n_samples"].sum() / SAMPLE_RATE / 3600
        extraction, comparison = minutes_of([expected_shape(each, study.site)[:2] for each in chosen], hours)
        told = f"about {extraction:.0f} minutes of extraction on {_processors()} processors, then {comparison:.0f} of"
        print(f"{told} all five notebooks at 4,000 frames; some processors take two to three times as long")
    return 0


def minutes_of(shapes: Sequence[tuple[int, int]], hours: float) -> tuple[float, float]:
    """Return how long extraction of some speech takes, and all notebooks, of models of so many layers and neurons.

    By what was measured on two cores with AVX-512 (`tests/benchmarks`), in seconds of a processor: 200 for an hour of
    speech by any encoder, and by the square of its neurons; for any pair of layers, and by the neurons of both.
    """
    wide = np.array([neurons for layers, neurons in shapes for _ in range(layers)], dtype=float)
    extraction = hours * (200 * len(shapes) + 52e-6 * np.square(wide).sum())
    pairs, both = len(wide) * (len(wide) + 1) / 2, (wide.sum() ** 2 + np.square(wide).sum()) / 2
    return extraction / 60 / _processors(), (0.05 * pairs + 2.6e-6 * both) / 60 / _processors()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(runs: Sequence[Run], request: Request, then: Callable[[], None] = lambda: None) -> None:
    """Run the notebooks of all runs that are not done and write each report as its notebooks end.

    The request says how many notebooks run at a time, over all runs; twice the processors are shared out. Another run
    into one of the folders is waited for. A folder in each holds what is unfinished, and is gone afterwards. `then` is
    called when a report is written.
    """
    from sslsim.reports.kernel import Kernels

    with ExitStack() as stack:
        folders = {id(one): stack.enter_context(_staging(one)) for one in runs}
        tasks = [(one, job) for one in runs for job in one.jobs if job.name not in one.done]
        tasks.sort(key=lambda task: -task[0].known.get(task[1].name, {"seconds": 0})["seconds"])  # the longest go first
        processors, kernels = _processors(), Kernels()
        jobs = min(request.jobs or processors, len(tasks))
        threads = min(processors, -(-2 * processors // jobs))  # the last one has not half of them idle
        width = max(len(one.label + job.name) for one, job in tasks)
        with ThreadPoolExecutor(jobs) as pool:
            futures = {}
            try:
                for one, job in tasks:
                    options = {"threads": threads, "label": f"{one.label}{job.name}".ljust(width), "kernels": kernels}
                    folder = folders[id(one)] / job.name
                    futures[pool.submit(_work, job, folder, one.facts, options)] = one, job, folder
                for future in as_completed(futures):
                    one, job, folder = futures[future]
                    one.finish(job, future.result(), folder)
                    then()
            except BaseException:  # Ctrl-C: what has not begun does not, what has is ended
                pool.shutdown(wait=False, cancel_futures=True)
                kernels.end()
                raise


@contextmanager
def _staging(one: Run) -> Iterator[Path]:
    """Yield a folder for what is unfinished, once no other run writes to the folder of this one."""
    with alone(one.out / "run.json"):
        remove_stale(one.out, ".run-*")  # a kernel that outlived its run finds nothing that it could write over
        one.study.write(one.out / "study.toml")
        one.known = _known(one.out)
        with tempfile.TemporaryDirectory(prefix=f".run-.{platform.node()}.{os.getpid()}.", dir=one.out) as folder:
            yield Path(folder)


def _work(job: Job, staging: Path, facts: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Run one notebook and render it into the staging folder, and return its entry of run.json."""
    from sslsim.reports import page as render
    from sslsim.reports.kernel import execute

    entry: dict[str, Any] = {"title": "", "summary": "", "status": "failed", "error": "", "started": facts["started"]}
    entry |= {"seconds": 0.0, "run": facts["started"], "commit": facts["commit"], "dirty": facts["dirty"]}
    entry |= {"notebook": job.origin, "parameters": job.table, "page": False}
    entry |= {"claims": [], "answer": "", "note": "", "bounds": {}, "files": [], "keys": {}, "warnings": []}
    staging.mkdir()
    try:
        notebook, outcome = execute(job.path, staging / f"{job.name}.ipynb", job.given, **options)
        title, summary = render.title_and_summary(notebook)
        results = render.results(notebook)
        whole = entry | outcome | {"title": title, "summary": summary, "page": True}
        told = next((result for result in results if "claims" in result), entry)
        whole |= {name: told.get(name, entry[name]) for name in ("claims", "answer", "bounds", "note")}
        whole["files"] = [file for result in results for file in result["files"]]
        whole["warnings"] = render.warnings_in(notebook)
        whole["keys"] = {result["name"]: result["keys"] for result in results if result["role"] == "table"}
        html = render.page(notebook, name=job.name, folder=job.path.parent, entry=whole, run=facts)
        write_text(staging / f"{job.name}.html", html)
    except NoRoom:
        raise
    except Exception as error:  # noqa: BLE001  rendering broke; the other reports are still wanted
        return entry | {"error": f"{type(error).__name__}: {error}"}
    return whole
