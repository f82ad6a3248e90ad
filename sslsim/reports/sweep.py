"""Sweeps: a run for every combination of values, and one index over all of them.

Runs share the store and the processors: at most so many notebooks at a time over all runs. What is done already, of
the same code, versions, checkpoints, speech and parameters, is not run again.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sslsim.activations.draft import alone
from sslsim.errors import SslsimError
from sslsim.reports import record, runner
from sslsim.reports.jobs import FIELDS, FLAGS, Request, find
from sslsim.reports.parameters import coerce, read_parameters
from sslsim.resources import read_toml, write_text

_LONGEST = 100  # characters of a run's name, which is a folder
_SAME = ("versions", "code", "study", "checkpoints", "corpus")  # of run.json, for a run to count as done


@dataclass
class Sweep:
    """The runs that were asked for, by name, and what sweep.json says of earlier ones."""

    out: Path
    runs: dict[str, runner.Run] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=record.now)

    @property
    def status(self) -> str:
        """``ok``, ``failed``, or ``interrupted`` until the last run is through."""
        return max((one.status for one in self.runs.values()), key=["ok", "failed", "interrupted"].index)

    def publish(self, kept: Sequence[str]) -> None:
        """Write sweep.json and the index; runs of an earlier sweep keep their places until they have run again."""
        new = {name for name, one in self.runs.items() if one.done or name not in self.before}
        rows = {n: self._row(one, n in kept) if n in new else self.before[n] for n, one in self.runs.items()}
        seconds = round(sum(row["seconds"] for row in rows.values()), 2)
        facts = {"format": record.FORMAT, "status": self.status, "started": self.started, "seconds": seconds}
        content = {**facts, "runs": {**rows, **self.before, **rows}}
        record.write(self.out / record.SWEEP, content)
        write_text(self.out / "index.html", page(content))

    def _row(self, one: runner.Run, kept: bool) -> dict[str, Any]:
        """Return what sweep.json says of a run; values as its notebooks get them, and of paths as they were given."""
        swept = one.request.swept
        typed = {key: value for job in one.jobs for key, value in job.given.items()}
        typed |= {key: coerce(FIELDS[key], swept[key]) for key in swept if key in one.request.fields}
        shown = ("title", "status", "error", "seconds", "claims")
        done = {job.name: one.done[job.name] for job in one.jobs if job.name in one.done}
        seconds = round(sum(entry["seconds"] for entry in done.values()), 2)
        row = {"status": one.status if done else "not run", "sweep": self.started, "kept": kept, "seconds": seconds}
        books = {book: {key: entry[key] for key in shown} for book, entry in done.items()}
        return row | {"values": {key: typed[key] for key in swept}, "notebooks": books}


def run(words: Sequence[str], request: Request) -> int:
    """Run notebooks with every combination of values, see `requests`, each run in a folder of its own in `request.out`.

    Return 0, or 1 when a notebook failed. If what was asked for cannot run, that is an SslsimError, nothing is written.
    """
    out = request.out.resolve()
    if (out / "run.json").exists():
        raise SslsimError(f"{out} holds the report of one run, whose index a sweep would replace; give another --out")
    sweep = Sweep(out)
    for name, asked in requests(words, replace(request, store=request.store or out / "store")).items():
        try:
            sweep.runs[name] = runner.ask(asked, f"{name}/")
        except SslsimError as error:
            raise SslsimError(f"run {name}: {error}") from None
    if request.dry:
        return runner.forecast([*sweep.runs.values()])
    opened: dict[str, Any] = {}
    for one in sweep.runs.values():
        one.extract(opened)
        _take_up(one)
    kept = [name for name, one in sweep.runs.items() if one.status == "ok"]
    print(*(f"{name}: done already, {out / name / 'index.html'}\n" for name in kept), sep="", end="", flush=True)
    with alone(out / record.SWEEP):
        rows = record.read(out / record.SWEEP).get("runs", {})
        sweep.before = {name: row for name, row in rows.items() if (out / name / "run.json").is_file()}
        sweep.publish(kept)
        if rest := [one for name, one in sweep.runs.items() if name not in kept]:
            runner.run_all(rest, request, lambda: sweep.publish(kept))
    print(out / "index.html", flush=True)
    return 0 if sweep.status == "ok" else 1


def requests(words: Sequence[str], request: Request) -> dict[str, Request]:
    """Return what each run of a sweep asks for, by the name of the run; `request` is what they have in common.

    `words` are ``NAME=VALUE,VALUE`` each, the last changes fastest, or one TOML file with ``[[run]]`` tables: ``name``,
    ``notebooks``, and values or lists of values; paths are relative to the file. Names are parameters of the notebooks,
    or else fields of the study. Of one that is a list itself, a list is one value and a list of lists are several, in
    files alone. It is an SslsimError if words cannot be read, sweep what the request sets, or give two runs one name.
    """
    folder, tables = _tables(words)
    asked = []
    for table in tables:
        books = table.pop("notebooks", [])
        books = [books] if isinstance(books, str) else books
        paths = tuple(str(folder / book) if book.endswith(".ipynb") else book for book in books) or request.notebooks
        types = {name: one.type for path in find(paths) for name, one in read_parameters(path).items()}
        asked.append((str(table.pop("name", "")), paths, types, table))
    anywhere = {name for _, _, types, _ in asked for name in types}
    found: dict[str, Request] = {}
    for prefix, paths, types, table in asked:
        common = {n: v for n, v in request.parameters.items() if n in types or n not in anywhere}
        choices = _choices(table, types, {**request.fields, **request.parameters})
        for values in itertools.product(*choices.values()):
            swept = dict(zip(choices, values, strict=True))
            name = _name(prefix, {n: v for n, v in swept.items() if not prefix or len(choices[n]) > 1})
            if name.casefold() in {"store", *map(str.casefold, found)}:  # folders, on some disks the same in any case
                raise SslsimError(f"a run would be called {name!r}, as another or the store; give it another name")
            own = {n: v for n, v in swept.items() if n in types or n not in FIELDS}
            fields = {n: v for n, v in swept.items() if n not in own}
            near = {n: folder / str(fields[n]) for n in ("lineup", "corpus") if n in fields}  # the file that names it
            fields |= {n: str(path) for n, path in near.items() if path.exists()}
            one = replace(request, out=request.out / name, notebooks=paths, parameters=common | own, swept=swept)
            found[name] = replace(one, fields={**request.fields, **fields})
    return found


def page(sweep: Mapping[str, Any]) -> str:
    """Render the index of a sweep from the content of sweep.json."""
    rows = sweep["runs"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row["values"]))
    several = [name for name in names if len({json.dumps(row["values"].get(name)) for row in rows.values()}) > 1]
    claims: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        for book, entry in row["notebooks"].items():
            told = [{**c, "measure": f"{c['measure']}, {c['between']}", "between": name} for c in entry["claims"]]
            claims[book] = claims.get(book, []) + told
    from sslsim.reports import page as render  # it takes seconds

    return render.fill("sweep.html.j2", sweep=sweep, parameters=several or names, claims=claims)


def _tables(words: Sequence[str]) -> tuple[Path, list[dict[str, Any]]]:
    """Return what the words ask for as tables, and the folder that paths in them count from."""
    if all("=" in word for word in words):
        values: dict[str, Any] = {}
        for word in words:
            name, _, text = (part.strip() for part in word.partition("="))
            parts = [part.strip() for part in text.split(",")]
            if not name or not all(parts):
                raise SslsimError(f"--sweep {word}: expected NAME=VALUE,VALUE and no empty value")
            if name in values:
                raise SslsimError(f"--sweep {word}: {name} is swept twice; name all its values at once")
            values[name] = tuple(parts)  # a list of a file may be one value
        return Path(), [values]
    if len(words) > 1:
        raise SslsimError(f"--sweep takes NAME=VALUES or one file, not {' '.join(words)}; put all into the file")
    file = Path(words[0])
    content = read_toml(file, "sweep", "; name a TOML file, or NAME=VALUE,VALUE")
    tables = content.pop("run", None)
    if content or not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise SslsimError(f"sweep {str(file)!r}: expected [[run]] tables and nothing else")
    return file.parent, tables


def _choices(table: Mapping[str, Any], types: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values of each name in a table; `types` are of the notebooks' parameters."""
    choices = {}
    for name, value in table.items():
        if name in given:
            raise SslsimError(f"--sweep: {name} is given for all runs too, as {given[name]!r}; give it once")
        if name in FLAGS:
            raise SslsimError(f"--sweep: {name} is the same for all runs, set it with --{name}")
        is_list = (types.get(name) or (FIELDS[name].type if name in FIELDS else "")).startswith("list")
        if is_list and isinstance(value, tuple):
            raise SslsimError(f'--sweep: {name} is a list; write {name} = [["a", "b"], ["c"]] in a file')
        several = isinstance(value, list | tuple) and (not is_list or any(isinstance(each, list) for each in value))
        choices[name] = list(value) if several else [value]
        if not choices[name]:
            raise SslsimError(f"--sweep: {name} has no values; give one or more, or leave it out")
    return choices


def _name(prefix: str, values: Mapping[str, Any]) -> str:
    """Return a name that can be a folder's: ``frames-5000_seed-0``."""
    name = "_".join([prefix] * bool(prefix) + [f"{key} {each}" for key, each in values.items()])
    name = re.sub("[^A-Za-z0-9_]+", "-", name).strip("-")
    if not name or len(name) > _LONGEST:
        what = f"a name of {len(name)} characters, {_LONGEST} at most" if name else "no values to name a run by"
        raise SslsimError(f"--sweep: {what}; give name = ... in a [[run]] table")
    return name


def _take_up(one: runner.Run) -> None:
    """Go on with the run in the folder, if it is the one that is asked for: notebooks of it that are whole stay."""
    before = record.read(one.out / "run.json")
    asked = [one.facts.get(key) for key in _SAME], {job.name: job.table for job in one.jobs}
    facts, tables = json.loads(json.dumps(asked, default=str))  # as they come back from a file
    if [before.get(key) for key in _SAME] != facts:
        return
    for job in one.jobs:
        if entry := one.known.get(job.name):
            made = [entry["run"], entry["parameters"], entry["notebook"]["hash"]]
            same = made == [before["started"], tables[job.name], job.origin["hash"]]
            whole = entry["status"] != "failed" and all((one.out / file).is_file() for file in entry["files"])
            one.done |= {job.name: entry} if same and whole else {}
    if one.done:
        one.facts["started"] = before["started"]
