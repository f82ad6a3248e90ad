"""What a run is asked to do, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sslsim import NOTEBOOKS
from sslsim.errors import SslsimError, close_match
from sslsim.reports.parameters import Parameter, coerce, read_parameters
from sslsim.resources import checked_name

ORDER = ("neurons", "layers", "attention", "finetuning")
FLAGS = {"lineup": "--lineup", "corpus": "--corpus", "store": "--store", "out": "--out"}


@dataclass(frozen=True)
class Job:
    """One notebook and the values of its parameters; `given` are those that replace defaults."""

    name: str
    path: Path
    declared: dict[str, Parameter]
    given: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """All parameters with the values that the notebook will see."""
        return {name: self.given.get(name, parameter.default) for name, parameter in self.declared.items()}

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a parameter: name, value, default, overridden, help."""
        return [
            {
                "name": name,
                "value": value,
                "default": self.declared[name].default,
                "overridden": value != self.declared[name].default,
                "help": self.declared[name].help,
            }
            for name, value in self.values.items()
        ]


def plan(
    notebooks: Sequence[str], *, paths: Mapping[str, str | Path], parameters: Mapping[str, Any] | None = None
) -> list[Job]:
    """Check what is asked for.

    Parameters
    ----------
    notebooks : sequence of str
        Names of notebooks of the checkout or paths to others; empty means all of the checkout.
    paths : mapping
        ``lineup``, ``corpus``, ``store`` and ``out``: passed as absolute paths to the notebooks that have a
        parameter of the name.
    parameters : mapping, optional
        Values by name, as text or typed. Each must be a parameter of at least one of the notebooks, and goes
        to those that have it.

    Raises
    ------
    SslsimError
        A notebook or a parameter is unknown, a value does not have its declared type, a file is missing.
    """
    found = [_find(notebook) for notebook in notebooks or _shipped()]
    if not found:
        raise SslsimError(f"no notebooks in {NOTEBOOKS}; name one: sslsim run path/to/notebook.ipynb")
    names = [checked_name(path.stem, "notebook") for path in found]
    for name in names:
        if names.count(name) > 1 or name == "index":
            raise SslsimError(f"notebook {name!r}: each page needs a name of its own, other than 'index'")
    declared = [read_parameters(path) for path in found]
    _check_names(parameters or {}, declared)
    absolute = {name: str(Path(path).resolve()) for name, path in paths.items()}
    jobs = [
        Job(name, path, known, _given(known, parameters or {}, absolute))
        for name, path, known in zip(names, found, declared, strict=True)
    ]
    _check_inputs(jobs, absolute)
    return jobs


def _shipped() -> list[str]:
    return [name for name in ORDER if (NOTEBOOKS / f"{name}.ipynb").is_file()]


def _find(notebook: str) -> Path:
    path = Path(notebook)
    if path.suffix != ".ipynb":
        path = NOTEBOOKS / f"{notebook}.ipynb"
    if path.is_file():
        return path.resolve()
    if Path(notebook).suffix == ".ipynb":
        raise SslsimError(f"notebook not found: {path.resolve()}")
    known = [path.stem for path in NOTEBOOKS.glob("*.ipynb")]
    raise SslsimError(f"unknown notebook {notebook!r}{close_match(notebook, known)}")


def _check_names(parameters: Mapping[str, Any], declared: Sequence[Mapping[str, Parameter]]) -> None:
    known = {name for each in declared for name in each} - set(FLAGS)
    for name in parameters:
        if name in FLAGS:
            raise SslsimError(f"parameter {name} is set with {FLAGS[name]}, not with -p")
        if name not in known:
            raise SslsimError(f"unknown parameter {name!r}{close_match(name, known)}")


def _given(
    declared: Mapping[str, Parameter], parameters: Mapping[str, Any], paths: Mapping[str, str]
) -> dict[str, Any]:
    values = {name: coerce(declared[name], value) for name, value in parameters.items() if name in declared}
    return {**{name: path for name, path in paths.items() if name in declared}, **values}


def _check_inputs(jobs: Sequence[Job], paths: Mapping[str, str]) -> None:
    for name in ("lineup", "corpus"):
        needed = any(name in job.declared for job in jobs)
        if needed and name in paths and not Path(paths[name]).exists():
            raise SslsimError(f"{name} not found: {paths[name]}; give an existing one with {FLAGS[name]}")
