"""The parameters of a notebook: read from its tagged cell, given on the command line, checked before anything runs.

papermill does not check them; this does, from the source alone: nothing of the notebook is executed.
"""

import ast
import io
import json
import math
import re
import tokenize
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sslsim.errors import SslsimError, close_match

_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str}
_NAMES = {"int": "an int", "bool": "a bool (true or false)", "list": 'a list (a,b,c or ["a", "b"])'}
_DECLARED = re.compile(r"(?P<base>int|float|bool|str|list)(\[(?P<item>int|float|bool|str)\])?(?P<optional> \| None)?")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line ``name: type = value  # help`` of a parameters cell."""

    name: str
    type: str
    default: Any
    help: str = ""


def read_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Read the parameters of an ``.ipynb`` file, by name, in the order of the cell tagged ``parameters``.

    It is an SslsimError if the file is no notebook, not just one cell has the tag, or the cell holds anything but
    ``name: type = literal`` lines with a type out of int, float, bool, str, list, ``list[int]`` and so on, each with
    ``| None`` or without.
    """
    path = Path(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SslsimError(f"{path.name} is not a notebook: {type(error).__name__}: {error}") from None
    if len(tagged) != 1:
        cells = f"{len(tagged)} cells" if tagged else "no cell"
        what = "tagged 'parameters'; tag one cell of 'name: type = value  # help' lines"
        raise SslsimError(f"{path.name} has {cells} {what}")
    try:
        return _read_cell("".join(tagged[0]))
    except SslsimError as error:
        raise SslsimError(f"{path.name}: {error}") from None


def coerce(parameter: Parameter, value: Any) -> Any:
    """Return `value` in the declared type of `parameter`.

    Text is read by the type: ``no`` is False for a bool and stays ``no`` for a str; a list is comma separated or JSON;
    ``none`` is None where the type says ``| None``. What does not have the type then is an SslsimError.
    """
    match = _DECLARED.fullmatch(parameter.type)
    if not match or (match["item"] and match["base"] != "list"):
        use = "int, float, bool, str, list or list[str], each with '| None' or without"
        raise SslsimError(f"parameter {parameter.name}: type {parameter.type!r} is not supported; use {use}")
    if match["optional"] and (value is None or value == "none"):
        return None
    try:
        return _read(value, match["base"], match["item"])
    except ValueError:
        kind = _NAMES.get(match["base"], f"a {match['base']}") + (f" of {match['item']}" if match["item"] else "")
        kind += " or none" * bool(match["optional"]) + f" (default {parameter.default!r})"
        raise SslsimError(f"parameter {parameter.name}: {value!r} is not {kind}") from None


def check(parameter: Parameter, value: Any) -> None:
    """Raise an SslsimError unless a value can be used by what notebooks give a parameter of this name and type to.

    Where a notebook's own default could not, it means something else by the name, and any value is taken.
    """
    try:
        _use(f"{parameter.name}: {parameter.type}", value, parameter.default)
    except SslsimError as error:
        told = str(error).partition("\n")[0]
        try:
            _use(f"{parameter.name}: {parameter.type}", parameter.default, parameter.default)
        except SslsimError:
            return
        raise SslsimError(f"parameter {parameter.name} is {value!r}: {told}") from None


def _use(name: str, value: Any, default: Any) -> None:
    """Do with a value what notebooks do with it first: ranges and names are declared there."""
    from sslsim.activations import Study
    from sslsim.activations.conditions import NAMED
    from sslsim.parallel import chosen_device

    match name, value:
        case "measures: list[str]", _:
            from sslsim.measures.registry import measure_named  # it takes seconds, as Resampling does

            levels = [{measure_named(each).level == "attention" for each in names} for names in (value, default)]
            if not value or not levels[0] <= levels[1]:
                raise SslsimError(f"give measures that compare {'attention' if levels[1] == {True} else 'layers'}")
        case "given: str", str() if value and value not in NAMED:
            raise SslsimError(f"unknown name{close_match(value, NAMED)}")
        case "device: str", _:
            chosen_device(value)
        case "frames: int | None", _:
            Study(frames=value)
        case (("rows: int | None" | "listen: int"), int()) if value < (least := int(name.startswith("rows"))):
            raise SslsimError(f"give {least} or more")
        case (("permutations: int" | "rotations: int" | "blocks: int" | "block_by: str" | "null_seed: int"), _):
            from sslsim.significance import Resampling

            Resampling(**{name.partition(":")[0].removeprefix("null_"): value})


def _read_cell(source: str) -> dict[str, Parameter]:
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise SslsimError(f"parameters cell, line {error.lineno}: {error.msg}") from None
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    notes = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}
    found: dict[str, Parameter] = {}
    for node in body:
        try:
            parameter = Parameter(*_assignment(node), notes.get(node.end_lineno or 0, ""))
        except ValueError:
            line = f"parameters cell, line {node.lineno}: {ast.unparse(node)!r}"
            raise SslsimError(f"{line} is not 'name: type = literal'") from None
        if parameter.name in found:
            raise SslsimError(f"parameter {parameter.name} is given twice in the parameters cell")
        found[parameter.name] = replace(parameter, default=coerce(parameter, parameter.default))
    return found


def _assignment(node: ast.stmt) -> tuple[str, str, Any]:
    """Return name, type and literal of ``name: type = literal`` or ``name = literal``."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=declared, value=ast.expr() as value):
            return name, ast.unparse(declared), ast.literal_eval(value)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            literal = ast.literal_eval(value)
            return name, type(literal).__name__, literal
    raise ValueError


def _read(value: Any, base: str, item: str | None) -> Any:
    if base == "list":
        if isinstance(value, str):
            text = value.strip()
            value = json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",") if text]
        if not isinstance(value, list):
            raise ValueError
        return [_read(each, item, None) for each in value] if item else value
    if isinstance(value, str):
        value = _TRUTH.get(value.strip().lower()) if base == "bool" else _TYPES[base](value)
    value = float(value) if base == "float" and type(value) is int else value
    if type(value) is not _TYPES[base] or (base == "float" and not math.isfinite(value)):  # a bool is no int here
        raise ValueError
    return value
