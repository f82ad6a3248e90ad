"""Sweeps: a run for every combination of parameter values, and one index over all of them.

Runs share the store and the processes: at most so many notebooks at a time over all runs. What is done already, of
the same code, versions, checkpoints, speech and parameters, is not run again.
"""

from __future__ import annotations

import itertools
import json
import re
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sslsim.encoders.lineup import find_lineup
from sslsim.errors import SslsimError
from sslsim.reports import folder as record
from sslsim.reports import page as render
from sslsim.reports import runner as report
from sslsim.reports.jobs import FLAGS, Job, plan
from sslsim.reports.runner import Report
from sslsim.resources import checked_name, write_text

_LONGEST = 100  # characters of a run's name, which is a folder
_INPUTS = ("lineup", "corpus")  # paths that runs may differ in
_SAME = ("versions", "code", "checkpoints", "corpus")  # of run.json, for a run to count as done


@dataclass(frozen=True)
class Run:
    """One run of a sweep: the name of its folder, its notebooks (none: all), the values and paths of its own.

    `known` are the parameters that its notebooks have.
    """

    name: str
    notebooks: list[str]
    values: dict[str, Any]
    paths: dict[str, Path] = field(default_factory=dict)
    known: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True)
class _Table:
    """Values that belong together: those of the command line, or one ``[[run]]`` of a file."""

    where: str
    values: dict[str, Any]
    name: str = ""
    notebooks: list[str] = field(default_factory=list)
    folder: Path = Path()  # that paths are relative to


def run(
    sweep: Sequence[str],
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
    """Run notebooks with every combination of parameter values, each in a folder of its own.

    Parameters
    ----------
    sweep : sequence of str
        ``NAME=VALUE,VALUE`` each, or one TOML file, see `runs`.
    out : path
        Folder of the runs' folders, of index.html, sweep.json and, unless given, the store. Runs of an earlier
        sweep keep their place in the index.
    notebooks, lineup, corpus, store, parameters, prepare
        As of `sslsim.reports.runner.run`, for every run that does not name its own; `prepare` is called once a run, before the
        first notebook.
    workers : int, optional
        Notebooks at a time, over all runs.

    Returns
    -------
    int
        0, or 1 when a notebook of any run failed.

    Raises
    ------
    SslsimError
        What was asked for cannot run: of no run anything was written.
    """
    out = Path(out).resolve()
    if (out / "run.json").exists():
        raise SslsimError(f"{out} holds the report of one run, whose index a sweep would replace; give another --out")
    most = report.checked_workers(workers)
    clock = time.monotonic()
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    paths = {"lineup": lineup, "corpus": corpus, "store": store or out / "store"}
    asked = runs(sweep, notebooks, paths={**paths, "out": out}, parameters=parameters)
    common = _common(asked, parameters or {})
    reports = {one.name: _ask(one, out, {**paths, **one.paths}, common[one.name]) for one in asked}
    _check_different(reports)
    for each in reports.values():
        each.facts |= prepare(each.jobs) if prepare else {}
        _take_up(each)
    kept = [name for name, each in reports.items() if each.status == "ok"]
    for name in kept:
        print(f"{name}: done already, {reports[name].out / 'index.html'}", flush=True)
    before = _earlier(out)

    def publish() -> None:
        found = {
            one.name: before[one.name]
            if one.name in before and not reports[one.name].done  # its older pages stand until then
            else _row(reports[one.name], one.values, started, one.name in kept)
            for one in asked
        }
        seconds = round(time.monotonic() - clock, 2)
        facts = {"format": record.FORMAT, "status": _status(reports), "started": started, "seconds": seconds}
        content = {**facts, "runs": {**found, **{name: row for name, row in before.items() if name not in found}}}
        write_text(out / record.SWEEP, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
        write_text(out / "index.html", page(content))

    out.mkdir(parents=True, exist_ok=True)
    publish()
    if len(kept) < len(reports):
        report.run_all([each for name, each in reports.items() if name not in kept], out, most, publish)
    print(out / "index.html", flush=True)
    return 0 if _status(reports) == "ok" else 1


def runs(
    sweep: Sequence[str],
    notebooks: Sequence[str] = (),
    *,
    paths: Mapping[str, str | Path],
    parameters: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Return the runs that a sweep consists of, in its order: the last name changes fastest.

    Parameters
    ----------
    sweep : sequence of str
        ``NAME=VALUE,VALUE`` each, or one TOML file with ``[[run]]`` tables: ``name``, ``notebooks`` (paths are
        relative to the file), and parameters with a value or a list of values, ``lineup`` and ``corpus`` among them
        (paths, relative to the file too). Of a parameter that is a list itself, a list is one value and a list of
        lists are several; the command line cannot say that.
    notebooks : sequence of str
        For runs that name none.
    paths : mapping
        As for `sslsim.reports.jobs.plan`.
    parameters : mapping, optional
        Values of all runs whose notebooks have them; none of them may be swept.

    Raises
    ------
    SslsimError
        What is asked for cannot be read, or does not give every run a name of its own.
    """
    files = [text for text in sweep if "=" not in text]
    if files and len(sweep) > 1:
        raise SslsimError(f"--sweep takes NAME=VALUES or one file, not {' '.join(sweep)}; put all into the file")
    tables = _read(Path(files[0])) if files else [_assigned(sweep)]
    found = [one for table in tables for one in _combinations(table, notebooks, paths, parameters or {})]
    names = [one.name.casefold() for one in found]  # folders, on some disks the same in any case
    for one in found:
        if names.count(one.name.casefold()) > 1:
            raise SslsimError(f"two runs would be called {one.name!r}: give other values, or each [[run]] a name")
        if one.name.casefold() == "store":
            raise SslsimError("run 'store': the activations are kept there; give it another name")
    return found


def page(sweep: Mapping[str, Any]) -> str:
    """Render the index of a sweep from the content of sweep.json."""
    rows = sweep["runs"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row["values"]))
    several = [name for name in names if len({json.dumps(row["values"].get(name)) for row in rows.values()}) > 1]
    books = list(dict.fromkeys(name for row in rows.values() for name in row["notebooks"]))
    return render.fill(
        "sweep.html.j2",
        sweep=sweep,
        parameters=several or names,
        notebooks=books,
        claims={name: found for name in books if (found := _side_by_side(rows, name))["rows"]},
    )


def _side_by_side(rows: Mapping[str, Any], notebook: str) -> dict[str, Any]:
    """Put the verdicts of one notebook side by side: a row a claim, measure and relation, a column a run."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for name, row in rows.items():
        for claim in row["notebooks"].get(notebook, {}).get("verdict", []):
            cells.setdefault((claim["claim"], f"{claim['measure']}, {claim['between']}"), {})[name] = claim
    return {"between": list(rows), "rows": [(*key, [found.get(name) for name in rows]) for key, found in cells.items()]}


def _read(file: Path) -> list[_Table]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SslsimError(f"sweep {str(file)!r}: {error.strerror}; name a TOML file, or NAME=VALUE,VALUE") from None
    except ValueError as error:
        raise SslsimError(f"sweep {str(file)!r}: not TOML: {error}") from None
    tables = content.pop("run", None)
    if content or not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        other = f", and {', '.join(content)}" if content else ""
        raise SslsimError(f"sweep {str(file)!r}: expected [[run]] tables, found {_kind(tables)}{other}")
    return [_table(file, number, table) for number, table in enumerate(tables, 1)]


def _kind(tables: Any) -> str:
    return "none" if not tables else f"{len(tables)} of them" if isinstance(tables, list) else "a single [run]"


def _table(file: Path, number: int, table: dict[str, Any]) -> _Table:
    where = f"sweep {str(file)!r}, run {number}"
    name, notebooks = table.pop("name", ""), table.pop("notebooks", [])
    if not isinstance(name, str):
        raise SslsimError(f"{where}: name is {name!r}, not text")
    if not isinstance(notebooks, list) or not all(isinstance(each, str) for each in notebooks):
        raise SslsimError(f'{where}: notebooks is {notebooks!r}, not a list such as ["neurons"]')
    if name:
        checked_name(name, f"{where}: name")
    found = [str(file.parent / each) if each.endswith(".ipynb") else each for each in notebooks]
    return _Table(where, table, name, found, file.parent)


def _assigned(pairs: Sequence[str]) -> _Table:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = (part.strip() for part in pair.partition("="))
        parts = [part.strip() for part in text.split(",")]
        if not name or not all(parts):
            raise SslsimError(f"--sweep {pair}: expected NAME=VALUE,VALUE and no empty value")
        if name in values:
            raise SslsimError(f"--sweep {pair}: {name} is swept twice; name all its values at once")
        values[name] = parts
    return _Table("--sweep", values)


def _combinations(
    table: _Table, notebooks: Sequence[str], paths: Mapping[str, str | Path], parameters: Mapping[str, Any]
) -> list[Run]:
    books = table.notebooks or list(notebooks)
    declared = [each for job in plan(books, paths=paths) for each in job.declared.values()]
    known = frozenset(each.name for each in declared)
    lists = {each.name for each in declared if each.type.startswith("list")}
    for name in table.values:
        if name in parameters:
            raise SslsimError(f"{table.where}: {name} is given with -p too, as {parameters[name]!r}; give it once")
        if name in FLAGS and name not in _INPUTS:
            raise SslsimError(f"{table.where}: {name} is the same for all runs, set it with {FLAGS[name]}")
        if name in lists and table.where == "--sweep":
            raise SslsimError(f'{table.where}: {name} is a list; write {name} = [["a", "b"], ["c"]] in a file')
    choices = {name: _choices(table.where, name, value, name in lists) for name, value in table.values.items()}
    named = [name for name in choices if not table.name or len(choices[name]) > 1]
    made = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [
        Run(_name(table, {name: values[name] for name in named}), books, values, _paths(table, values), known)
        for values in made
    ]


def _paths(table: _Table, values: Mapping[str, Any]) -> dict[str, Path]:
    """Return the files and folders that a run names; a lineup may be one that comes along."""
    found = {}
    for name in _INPUTS:
        if name not in values:
            continue
        if not isinstance(values[name], str) or not values[name]:
            raise SslsimError(f"{table.where}: {name} is {values[name]!r}, not a path")
        near = table.folder / values[name]
        found[name] = find_lineup(values[name], table.folder) if name == "lineup" else near
    return found


def _common(asked: Sequence[Run], parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return which of the values of all runs go to each: those its notebooks have, and, an error, what none has."""
    anywhere = frozenset().union(*(one.known for one in asked))
    return {
        one.name: {name: value for name, value in parameters.items() if name in one.known or name not in anywhere}
        for one in asked
    }


def _choices(where: str, name: str, value: Any, is_list: bool) -> list[Any]:
    several = isinstance(value, list) and (not is_list or any(isinstance(each, list) for each in value))
    if value == [] and not is_list:
        raise SslsimError(f"{where}: {name} has no values; give one or more, or leave it out")
    return value if several else [value]


def _name(table: _Table, values: Mapping[str, Any]) -> str:
    """Return a name that can be a folder's: ``frames-5000_seed-0``."""
    name = "_".join([table.name] * bool(table.name) + [_slug(f"{key} {_words(each)}") for key, each in values.items()])
    if not name or len(name) > _LONGEST:
        what = f"their names have {len(name)} characters, {_LONGEST} at most" if name else "no values to name it by"
        raise SslsimError(f"{table.where}: {what}; give name = ... in a [[run]] table")
    return name


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_words, value)) or "empty"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"^-(?=[\d.])", "minus ", text)


def _slug(text: str) -> str:
    return re.sub("[^A-Za-z0-9]+", "-", text).strip("-")


def _ask(one: Run, out: Path, paths: Mapping[str, str | Path], parameters: Mapping[str, Any]) -> Report:
    given = {**parameters, **{name: value for name, value in one.values.items() if name not in one.paths}}
    try:
        return report.ask(
            one.notebooks,
            out=out / one.name,
            lineup=paths["lineup"],
            corpus=paths["corpus"],
            store=paths["store"],
            parameters=given,
            label=f"{one.name}/",
        )
    except SslsimError as error:
        raise SslsimError(f"run {one.name}: {error}") from None


def _check_different(reports: Mapping[str, Report]) -> None:
    seen: dict[str, str] = {}
    for name, each in reports.items():
        jobs = [(str(job.path), {**job.given, "out": ""}) for job in each.jobs]
        other = seen.setdefault(json.dumps(jobs, sort_keys=True), name)
        if other != name:
            raise SslsimError(f"runs {other} and {name} are the same notebooks and values; leave one out")


def _take_up(each: Report) -> None:
    """Go on with the run in the folder, if it is the one that is asked for: notebooks of it that are whole stay."""
    run = record.read(each.out / "run.json")
    if [run.get(key) for key in _SAME] != json.loads(json.dumps([each.facts[key] for key in _SAME], default=str)):
        return
    for job in each.jobs:
        entry = each.known.get(job.name, {"status": "none"})
        of_this = entry["status"] in ("ok", "unanswered") and entry["run"] == run["started"]
        same = of_this and entry["parameters"] == json.loads(json.dumps(job.table, default=str))
        if same and all((each.out / file).is_file() for file in entry["files"]):
            each.done[job.name] = entry
    if each.done:
        each.facts["started"], each.spent = run["started"], run["seconds"]


def _status(reports: Mapping[str, Report]) -> str:
    states = {each.status for each in reports.values()}
    return next((state for state in ("interrupted", "failed") if state in states), "ok")


def _row(each: Report, values: Mapping[str, Any], started: str, kept: bool) -> dict[str, Any]:
    """Return what sweep.json says of a run; values as its notebooks get them."""
    given = [job.given for job in each.jobs]
    typed = {
        name: value if name in _INPUTS else next(known[name] for known in given if name in known)
        for name, value in values.items()
    }
    names = ("title", "status", "error", "seconds", "verdict")
    return {
        "status": each.status if each.done else "not run",
        "sweep": started,
        "kept": kept,
        "seconds": round(sum(entry["seconds"] for entry in each.done.values()), 2),
        "values": typed,
        "notebooks": {
            job.name: {name: each.done[job.name][name] for name in names} for job in each.jobs if job.name in each.done
        },
    }


def _earlier(out: Path) -> dict[str, Any]:
    rows = record.read(out / record.SWEEP).get("runs", {})
    return {name: row for name, row in rows.items() if (out / name / "run.json").is_file()}
