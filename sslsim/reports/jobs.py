"""What a run is asked to do, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslsim.errors import SslsimError, close_match
from sslsim.reports.inputs import EMBEDDED, FIELDS
from sslsim.reports.parameters import Parameter, coerce, read_parameters
from sslsim.reports.provenance import of_notebook
from sslsim.resources import NOTEBOOKS, checked_name

ORDER = ("neurons", "layers", "attention", "finetuning")
FLAGS = ("study", "store", "out", "device")  # parameters of notebooks that options of the command set


@dataclass(frozen=True)
class Request:
    """What is asked for: of one run, or of all runs of a sweep.

    `notebooks` are names of shipped ones or paths; empty means those of `ORDER`. `study` is a study file or
    ``embedded``, `fields` are values that replace its own. Each of `parameters`, as text or typed, goes to those of the
    notebooks that have it. At most so many `jobs`, notebooks at a time; as many as there are processors by default.
    """

    out: Path
    store: Path | None = None
    notebooks: tuple[str, ...] = ()
    study: str = EMBEDDED
    fields: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    jobs: int | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What options of the command set in notebooks that have parameters of these names."""
        paths = {"study": self.out / "study.toml", "store": self.store or self.out / "store", "out": self.out}
        return {n: str(path.resolve()) for n, path in paths.items()} | ({"device": self.device} if self.device else {})


@dataclass(frozen=True)
class Job:
    """One notebook and the values of its parameters.

    `given` are those that replace defaults, `table` has one row a parameter: name, value, default, help; `origin` says
    which file it was when the run was asked for.
    """

    name: str
    path: Path
    given: dict[str, Any]
    table: list[dict[str, Any]]
    origin: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """All parameters with the values that the notebook will see."""
        return {row["name"]: row["value"] for row in self.table}


def plan(request: Request) -> list[Job]:
    """Return the notebooks of a run with the values of their parameters; an error if anything in it is unknown."""
    files = find(request.notebooks)
    names = [checked_name(path.stem, "notebook") for path in files]
    for name in names:
        if names.count(name) > 1 or name == "index":
            raise SslsimError(f"notebook {name!r}: each page needs a name of its own, other than 'index'")
    declared = [read_parameters(path) for path in files]
    known = {name for each in declared for name in each} - set(FLAGS)
    for name in request.parameters:
        if name in FLAGS or (name in FIELDS and name not in known):
            raise SslsimError(f"parameter {name} is set with --{name.replace('_', '-')}, not with -p")
        if name not in known:
            raise SslsimError(f"unknown parameter {name!r}{close_match(name, known)}")
    return [_job(request, path, each) for path, each in zip(files, declared, strict=True)]


def find(notebooks: Sequence[str]) -> list[Path]:
    """Return the files of notebooks by name or path; of no names, the shipped ones that make reports."""
    found = [_find(notebook) for notebook in notebooks]
    found = found or [path for name in ORDER if (path := NOTEBOOKS / f"{name}.ipynb").is_file()]
    if not found:
        raise SslsimError(f"no notebooks in {NOTEBOOKS}; name one: sslsim run path/to/notebook.ipynb")
    return found


def _find(notebook: str) -> Path:
    if notebook.endswith(".ipynb"):
        if not Path(notebook).is_file():
            raise SslsimError(f"notebook not found: {Path(notebook).resolve()}")
        return Path(notebook).resolve()
    path = NOTEBOOKS / f"{notebook}.ipynb"
    if not path.is_file():
        known = [path.stem for path in NOTEBOOKS.glob("*.ipynb")]
        raise SslsimError(f"unknown notebook {notebook!r}{close_match(notebook, known)}")
    return path.resolve()


def _job(request: Request, path: Path, declared: Mapping[str, Parameter]) -> Job:
    """Return a notebook with its values; it keeps a study of its own if the command names none."""
    settings: dict[str, Any] = request.settings
    own = declared["study"].default if "study" in declared else EMBEDDED
    if own != EMBEDDED and request.study == EMBEDDED and not request.fields:
        settings["study"] = str((path.parent / own).resolve())
    given = {name: value for name, value in settings.items() if name in declared}
    given |= {name: coerce(declared[name], value) for name, value in request.parameters.items() if name in declared}
    rows = [{"name": n, "value": given.get(n, p.default), "default": p.default, "help": p.help} for n, p in declared.items()]
    return Job(path.stem, path, given, rows, of_notebook(path))
