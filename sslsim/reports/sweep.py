"""Sweeps: a run for every combination of values, and one index over all of them.

Runs share the store and the processors: at most so many notebooks at a time over all runs. What is done already, of
the same code, versions, checkpoints, speech and parameters, is not run again.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sslsim.errors import SslsimError
from sslsim.reports import folder as record
from sslsim.reports import page as render
from sslsim.reports import runner
from sslsim.reports.inputs import FIELDS
from sslsim.reports.jobs import FLAGS, Request, find
from sslsim.reports.parameters import coerce, read_parameters
from sslsim.reports.runner import Run
from sslsim.resources import checked_name, write_text

_LONGEST = 100  # characters of a run's name, which is a folder
_SAME = ("versions", "code", "study", "checkpoints", "corpus")  # of run.json, for a run to count as done


@dataclass(frozen=True)
class Table:
    """Values of the command line, or of one ``[[run]]`` of a file; paths count from `folder`."""

    where: str
    values: dict[str, Any]
    name: str = ""
    notebooks: tuple[str, ...] = ()
    folder: Path = Path()


@dataclass
class Sweep:
    """The runs that were asked for, by name, with the values of each, and what sweep.json says of earlier ones."""

    out: Path
    runs: dict[str, Run]
    values: dict[str, dict[str, Any]]
    before: dict[str, Any]
    started: str = field(default_factory=runner.now)

    @property
    def status(self) -> str:
        """``ok``, ``failed``, or ``interrupted`` until the last run is through."""
        states = {one.status for one in self.runs.values()}
        return next((state for state in ("interrupted", "failed") if state in states), "ok")

    def publish(self, kept: Sequence[str]) -> None:
        """Write sweep.json and the index; runs of an earlier sweep keep their places until they have run again."""
        rows = {
            name: self._row(name, name in kept) if one.done or name not in self.before else self.before[name]
            for name, one in self.runs.items()
        }
        seconds = round(sum(row["seconds"] for row in rows.values()), 2)
        facts = {"format": record.FORMAT, "status": self.status, "started": self.started, "seconds": seconds}
        content = {**facts, "runs": {**rows, **self.before, **rows}}
        record.write(self.out / record.SWEEP, content)
        write_text(self.out / "index.html", page(content))

    def _row(self, name: str, kept: bool) -> dict[str, Any]:
        """Return what sweep.json says of a run; values as its notebooks get them, and of paths as they were given."""
        one, values = self.runs[name], self.values[name]
        typed = {key: value for job in one.jobs for key, value in job.given.items()}
        typed |= {key: coerce(FIELDS[key], values[key]) for key in values if key in one.request.fields}
        shown = ("title", "status", "error", "seconds", "claims")
        done = {job.name: one.done[job.name] for job in one.jobs if job.name in one.done}
        return {
            "status": one.status if done else "not run",
            "sweep": self.started,
            "kept": kept,
            "seconds": round(sum(entry["seconds"] for entry in done.values()), 2),
            "values": {key: typed[key] for key in values},
            "notebooks": {book: {key: entry[key] for key in shown} for book, entry in done.items()},
        }


def run(words: Sequence[str], request: Request) -> int:
    """Run notebooks with every combination of values, see `requests`, each run in a folder of its own in `request.out`.

    Return 0, or 1 when a notebook of any run failed. If what was asked for cannot run, that is an SslsimError and of
    no run anything was written.
    """
    out = request.out.resolve()
    if (out / "run.json").exists():
        raise SslsimError(f"{out} holds the report of one run, whose index a sweep would replace; give another --out")
    asked = requests(words, replace(request, store=request.store or out / "store"))
    rows = record.read(out / record.SWEEP).get("runs", {})
    before = {name: row for name, row in rows.items() if (out / name / "run.json").is_file()}
    runs = {name: _ask(name, one) for name, (_, one) in asked.items()}
    sweep = Sweep(out, runs, {name: values for name, (values, _) in asked.items()}, before)
    opened: dict[str, Any] = {}
    for one in runs.values():
        one.extract(opened)
        _take_up(one)
    kept = [name for name, one in runs.items() if one.status == "ok"]
    for name in kept:
        print(f"{name}: done already, {runs[name].out / 'index.html'}", flush=True)
    sweep.publish(kept)
    if len(kept) < len(runs):
        rest = [one for name, one in runs.items() if name not in kept]
        runner.run_all(rest, request, lambda: sweep.publish(kept))
    print(out / "index.html", flush=True)
    return 0 if sweep.status == "ok" else 1


def requests(words: Sequence[str], request: Request) -> dict[str, tuple[dict[str, Any], Request]]:
    """Return the runs that a sweep consists of, by name: the values of its own, and what it asks for.

    Parameters
    ----------
    words : sequence of str
        ``NAME=VALUE,VALUE`` each, the last changes fastest, or one TOML file with ``[[run]]`` tables: ``name``,
        ``notebooks``, and values or lists of values; paths are relative to the file. Names are parameters of the
        notebooks, or else fields of the study. Of a parameter that is a list itself, a list is one value and a list of
        lists are several; the command line cannot say that.
    request : Request
        What all runs have in common; nothing that is set there may be swept.

    Raises
    ------
    SslsimError
        What is asked for cannot be read, or does not give every run a name of its own.
    """
    files = [word for word in words if "=" not in word]
    if files and len(words) > 1:
        raise SslsimError(f"--sweep takes NAME=VALUES or one file, not {' '.join(words)}; put all into the file")
    tables = _read(Path(files[0])) if files else [_assigned(words)]
    known = [
        {n: p.type for path in find(table.notebooks or request.notebooks) for n, p in read_parameters(path).items()}
        for table in tables
    ]
    anywhere = {name for each in known for name in each}
    found: dict[str, tuple[dict[str, Any], Request]] = {}
    for table, of_table in zip(tables, known, strict=True):
        common = {n: v for n, v in request.parameters.items() if n in of_table or n not in anywhere}
        for name, values in _combinations(table, of_table, request):
            if name.casefold() in {"store", *map(str.casefold, found)}:  # folders, on some disks the same in any case
                raise SslsimError(f"a run would be called {name!r}, as another or the store; give it another name")
            fields = {n: _near(table, n, v) for n, v in values.items() if n in FIELDS and n not in of_table}
            own = {n: v for n, v in values.items() if n not in fields}
            books = table.notebooks or request.notebooks
            one = replace(request, out=request.out / name, notebooks=books, parameters=common | own)
            found[name] = values, replace(one, fields={**request.fields, **fields})
    return found


def page(sweep: Mapping[str, Any]) -> str:
    """Render the index of a sweep from the content of sweep.json."""
    rows = sweep["runs"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row["values"]))
    several = [name for name in names if len({json.dumps(row["values"].get(name)) for row in rows.values()}) > 1]
    books = list(dict.fromkeys(name for row in rows.values() for name in row["notebooks"]))
    claims = {
        book: render.side_by_side(
            (claim["claim"], f"{claim['measure']}, {claim['between']}", name, claim)
            for name, row in rows.items()
            for claim in row["notebooks"].get(book, {}).get("claims", [])
        )
        for book in books
    }
    claims = {book: table for book, table in claims.items() if table["rows"]}
    return render.fill("sweep.html.j2", sweep=sweep, parameters=several or names, notebooks=books, claims=claims)


def _read(file: Path) -> list[Table]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SslsimError(f"sweep {str(file)!r}: {error.strerror}; name a TOML file, or NAME=VALUE,VALUE") from None
    except ValueError as error:
        raise SslsimError(f"sweep {str(file)!r}: not TOML: {error}") from None
    tables = content.pop("run", None)
    if content or not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise SslsimError(f"sweep {str(file)!r}: expected [[run]] tables and nothing else")
    found = []
    for i, table in enumerate(tables, 1):
        where = f"sweep {str(file)!r}, run {i}"
        name, books = table.pop("name", ""), table.pop("notebooks", [])
        if not isinstance(books, list) or not all(isinstance(each, str) for each in books):
            raise SslsimError(f'{where}: notebooks is {books!r}, not a list such as ["neurons"]')
        if name:
            checked_name(str(name), f"{where}: name")
        paths = tuple(str(file.parent / each) if each.endswith(".ipynb") else each for each in books)
        found.append(Table(where, table, str(name), paths, file.parent))
    return found


def _assigned(words: Sequence[str]) -> Table:
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = (part.strip() for part in word.partition("="))
        parts = [part.strip() for part in text.split(",")]
        if not name or not all(parts):
            raise SslsimError(f"--sweep {word}: expected NAME=VALUE,VALUE and no empty value")
        if name in values:
            raise SslsimError(f"--sweep {word}: {name} is swept twice; name all its values at once")
        values[name] = parts
    return Table("--sweep", values)


def _near(table: Table, name: str, value: Any) -> Any:
    """Return the path of a lineup or corpus near the file that names it, if it is there; other values as they are."""
    if name not in ("lineup", "corpus") or not (table.folder / str(value)).exists():
        return value
    return str(table.folder / str(value))


def _combinations(table: Table, known: Mapping[str, str], request: Request) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the values of each run of a table."""
    types = {name: one.type for name, one in FIELDS.items()} | dict(known)
    lists = {name for name, kind in types.items() if kind.startswith("list")}
    given = {**request.fields, **request.parameters}
    for name in table.values:
        if name in given:
            raise SslsimError(f"{table.where}: {name} is given for all runs too, as {given[name]!r}; give it once")
        if name in FLAGS:
            raise SslsimError(f"{table.where}: {name} is the same for all runs, set it with --{name}")
        if name in lists and table.where == "--sweep":
            raise SslsimError(f'{table.where}: {name} is a list; write {name} = [["a", "b"], ["c"]] in a file')
    choices = {name: _choices(table.where, name, value, name in lists) for name, value in table.values.items()}
    named = [name for name in choices if not table.name or len(choices[name]) > 1]
    made = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [(_name(table, {name: values[name] for name in named}), values) for values in made]


def _choices(where: str, name: str, value: Any, is_list: bool) -> list[Any]:
    several = isinstance(value, list) and (not is_list or any(isinstance(each, list) for each in value))
    if value == [] and not is_list:
        raise SslsimError(f"{where}: {name} has no values; give one or more, or leave it out")
    return value if several else [value]


def _name(table: Table, values: Mapping[str, Any]) -> str:
    """Return a name that can be a folder's: ``frames-5000_seed-0``."""
    name = "_".join([table.name] * bool(table.name) + [f"{key} {each}" for key, each in values.items()])
    name = re.sub("[^A-Za-z0-9_]+", "-", name).strip("-")
    if not name or len(name) > _LONGEST:
        what = f"their names have {len(name)} characters, {_LONGEST} at most" if name else "no values to name it by"
        raise SslsimError(f"{table.where}: {what}; give name = ... in a [[run]] table")
    return name


def _ask(name: str, request: Request) -> Run:
    try:
        return runner.ask(request, f"{name}/")
    except SslsimError as error:
        raise SslsimError(f"run {name}: {error}") from None


def _take_up(one: Run) -> None:
    """Go on with the run in the folder, if it is the one that is asked for: notebooks of it that are whole stay."""
    before = record.read(one.out / "run.json")
    if [before.get(key) for key in _SAME] != _as_json([one.facts[key] for key in _SAME]):
        return
    for job in one.jobs:
        entry = one.known.get(job.name, {"status": "none"})
        of_this = entry["status"] in ("ok", "unanswered") and entry["run"] == before["started"]
        same = of_this and entry["parameters"] == _as_json(job.table)
        same = same and entry["notebook"]["hash"] == job.origin["hash"]
        if same and all((one.out / file).is_file() for file in entry["files"]):
            one.done[job.name] = entry
    if one.done:
        one.facts["started"] = before["started"]


def _as_json(value: Any) -> Any:
    """Return `value` as it comes back from a file."""
    return json.loads(json.dumps(value, default=str))
