"""The parameters of a notebook: read from its tagged cell, given on the command line, checked before anything runs.

papermill does not check them (a wrong type passes, an unknown name is a warning), so this does, from the source
alone: nothing of the notebook is executed.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from sslsim.errors import SslsimError

_BASES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list": list}
_NAMES = {
    "int": "an int",
    "float": "a float",
    "bool": "a bool (true or false)",
    "str": "a str",
    "list": 'a list (a,b,c or ["a", "b"])',
}
_TYPE = re.compile(r"(?P<base>int|float|bool|str|list)(\[(?P<item>int|float|bool|str)\])?(?P<optional> \| None)?")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line ``name: type = value  # help`` of a parameters cell."""

    name: str
    type: str
    default: Any
    help: str = ""


def read_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Read the parameters of a notebook from the cell tagged ``parameters``.

    Parameters
    ----------
    notebook : path
        An ``.ipynb`` file.

    Returns
    -------
    dict of Parameter
        By name, in the order of the cell.

    Raises
    ------
    SslsimError
        The file is no notebook, no cell has the tag, or the cell holds anything but
        ``name: type = literal`` lines with a type out of int, float, bool, str, list, ``list[int]`` and so on,
        each with ``| None`` or without.
    """
    path = Path(notebook)
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError, AttributeError, KeyError, nbformat.ValidationError) as error:
        raise SslsimError(f"{path.name} is not a notebook: {str(error).splitlines()[0]}") from None
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise SslsimError(
            f"{path.name} has {len(tagged) or 'no'} cell{'s' * bool(tagged)} tagged 'parameters'; tag one cell of"
            " 'name: type = value  # help' lines"
        )
    return _read_cell(tagged[0].source, path.name)


def coerce(parameter: Parameter, value: Any) -> Any:
    """Return `value` in the declared type of `parameter`.

    Parameters
    ----------
    parameter : Parameter
        What the notebook declares.
    value : str or object
        Text is read by the declared type: ``no`` is False for a bool and stays ``no`` for a str; a list is comma
        separated or JSON; ``none`` is None where the type says ``| None``. Anything else must have the type.

    Raises
    ------
    SslsimError
        The value does not have the type.
    """
    base, item, optional = _split(parameter)
    try:
        if isinstance(value, str):
            if optional and value.strip().lower() == "none":
                return None
            return _items(value, item) if base == "list" else _READ[base](value)
        return _checked(value, base, item, optional)
    except ValueError:
        kind = _NAMES[base] + (f" of {item}" if base == "list" and item else "") + (" or none" if optional else "")
        raise SslsimError(
            f"parameter {parameter.name}: {value!r} is not {kind} (default {parameter.default!r})"
        ) from None


def _read_cell(source: str, where: str) -> dict[str, Parameter]:
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise SslsimError(f"{where}: parameters cell, line {error.lineno}: {error.msg}") from None
    notes = _comments(source)
    found: dict[str, Parameter] = {}
    for node in body:
        parameter = _read_line(node, where, notes.get(node.end_lineno or 0, ""))
        if parameter.name in found:
            raise SslsimError(f"{where}: parameter {parameter.name} is given twice in the parameters cell")
        found[parameter.name] = parameter
    return found


def _read_line(node: ast.stmt, where: str, note: str) -> Parameter:
    try:
        target, default = _assignment(node)
    except ValueError:
        raise SslsimError(
            f"{where}: parameters cell, line {node.lineno}: {ast.unparse(node)!r} is not 'name: type = literal'"
        ) from None
    declared = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else type(default).__name__
    parameter = Parameter(target, declared, default, note)
    base, item, optional = _split(parameter, where)
    try:
        _checked(default, base, item, optional)
    except ValueError:
        raise SslsimError(f"{where}: parameter {target}: its default {default!r} is not {_NAMES[base]}") from None
    return parameter


def _assignment(node: ast.stmt) -> tuple[str, Any]:
    """Return the name and the literal of ``name: type = literal`` or ``name = literal``."""
    if isinstance(node, ast.AnnAssign):
        target: ast.expr = node.target
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    else:
        raise ValueError
    if not isinstance(target, ast.Name) or node.value is None:
        raise ValueError
    return target.id, ast.literal_eval(node.value)


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def _split(parameter: Parameter, where: str = "") -> tuple[str, str | None, bool]:
    """Split a declared type into base, type of items and whether None will do."""
    match = _TYPE.fullmatch(parameter.type)
    if not match or (match["item"] and match["base"] != "list"):
        prefix = f"{where}: " if where else ""
        raise SslsimError(
            f"{prefix}parameter {parameter.name}: type {parameter.type!r} is not supported; use int, float, bool, str,"
            " list or list[str], each with '| None' or without"
        )
    return match["base"], match["item"] or _common_type(parameter.default), bool(match["optional"])


def _common_type(default: Any) -> str | None:
    """Return the one type of the items of a default list, which a bare ``list`` does not say."""
    kinds = {type(item).__name__ for item in default} if isinstance(default, list) else set()
    return kinds.pop() if len(kinds) == 1 and kinds < set(_BASES) - {"list"} else None


def _checked(value: Any, base: str, item: str | None, optional: bool) -> Any:
    if value is None and optional:
        return value
    if base == "float" and type(value) is int:
        return float(value)
    if type(value) is not _BASES[base]:  # not isinstance: a bool is no int here
        raise ValueError
    return [_checked(each, item, None, False) for each in value] if isinstance(value, list) and item else value


def _read_int(text: str) -> int:
    return int(text, 10)


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _read_bool(text: str) -> bool:
    if text.strip().lower() not in _TRUTH:
        raise ValueError
    return _TRUTH[text.strip().lower()]


_READ: dict[str, Callable[[str], Any]] = {"int": _read_int, "float": _read_float, "bool": _read_bool, "str": str}


def _items(text: str, item: str | None) -> list[Any]:
    text = text.strip()
    if text.startswith("["):
        values: list[Any] = _checked(json.loads(text), "list", item, False)
        return values
    return [_READ[item or "str"](part.strip()) for part in text.split(",")] if text else []
