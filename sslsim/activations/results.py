"""Results kept beside the stores that they are made from: what one notebook or run has computed, no other computes.

A result lies in ``<folder of the stores>/results/<function>-<key>.zip``: its tables as Parquet, its arrays as NPY, and
``result.json``, which says how they belong together. The key is a hash of all that the numbers depend on: the stores
with their checksums, the arguments, the code that computes, and the libraries. So nothing there is ever out of date,
and the folder may be deleted at any time.
"""

import inspect
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial, wraps
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from zipfile import ZipFile

import numpy as np
import pandas as pd

from sslsim.activations.draft import alone
from sslsim.activations.shards import shard_file
from sslsim.activations.store import STORE_FILE, ActivationStore, described
from sslsim.resources import digest, replacing

Given = ParamSpec("Given")
Result = TypeVar("Result")
FRESH = "SSLSIM_FRESH"
"""Environment variable: ``1`` to compute anew, or a time in seconds, as of `time.time`: what was kept before is too."""
_CODE = ("parallel", "speech", "encoders", "activations", "measures", "comparison", "significance")
_LIBRARIES = ("torch", "numpy", "scipy", "pandas")
_WHERE = ("device", "executor")  # arguments that say where to compute, not what
_TOLD = "result.json"


def kept(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Make a function of stores, its first argument, look for its result beside them before it computes it.

    It returns tables, arrays and plain values, or tuples and dataclasses of such. Two processes that want the same at
    once compute it once. Where the stores are nowhere or nothing can be written, or an argument is of a kind that
    cannot be told from another, it computes and keeps nothing.
    """
    signature, code = inspect.signature(function), code_of(function.__module__)

    @wraps(function)
    def found_or_made(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        bound.arguments |= {name: tuple(each) for name, each in bound.arguments.items() if isinstance(each, Iterator)}
        (_, stores), *told = bound.arguments.items()
        try:
            key = key_of({name: value for name, value in told if name not in _WHERE}, stores, code)
            folder = stores[0].root.parent
        except (TypeError, ValueError, AttributeError, LookupError, OSError):
            return function(*bound.args, **bound.kwargs)
        file = folder / "results" / f"{function.__name__}-{key}.zip"
        with alone(folder / file.name) if os.access(folder, os.W_OK) else nullcontext():
            found = _read(file)
            if not found:  # what it warns of is kept too, for whoever reads it later
                with warnings.catch_warnings(record=True) as heard:
                    made = function(*bound.args, **bound.kwargs)
                found = [_write(file, (made, [str(one.message) for one in heard]))]
        for text in found[0][1]:
            warnings.warn(text, stacklevel=2)
        return found[0][0]

    return found_or_made


def code_of(module: str, package: Path = Path(__file__).parents[1]) -> str:
    """Return the hash of the code that a function of a module computes with, and of the versions of the libraries."""
    files = {path for name in _CODE for end in (".py", "/*.py") for path in package.glob(name + end)}
    with suppress(TypeError, OSError):  # typed into a notebook, it has no file
        files.add(Path(inspect.getfile(import_module(module))))
    parts = [f"{path.name} {digest(path.read_bytes())}" for path in sorted(files)]
    return digest("\n".join(parts + [f"{name} {version(name)}" for name in _LIBRARIES]).encode())


def key_of(*arguments: Any) -> str:
    """Return a hash that is equal iff all arguments are; a TypeError if that cannot be told of one."""
    return digest(json.dumps(arguments, sort_keys=True, default=_said).encode())[:24]


def _said(value: Any) -> Any:
    """Return what JSON does not know in terms of what it knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype != object and not np.ma.is_masked(value):
        return {"array": [value.dtype.str, value.shape, digest(np.ascontiguousarray(value).tobytes())]}
    if isinstance(value, pd.DataFrame):
        return {"table": [value.dtypes.astype(str).to_dict(), pd.util.hash_pandas_object(value).to_numpy()]}
    if isinstance(value, set | frozenset):
        return {"set": sorted(value, key=repr)}
    if isinstance(value, ActivationStore):  # where it and its weights lie changes nothing, each of its numbers does
        moved = replace(value, checkpoint=replace(value.checkpoint, source="", revision=None, recipe=()))
        files = [value.root / shard_file(number) for number in range(len(value.shards))]
        sums = [int(np.memmap(file, "<u4", "r")[-1]) for file in files]  # of the checksums of all that is in a file
        return [digest(described(moved)[STORE_FILE]), *sums]
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__qualname__: _fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _read(file: Path) -> list[Any]:
    """Return the result that is kept, alone in a list; nothing where there is none, or what there is is damaged."""
    try:
        since = os.environ.get(FRESH, "")
        anew = bool(since) and (since == "1" or file.stat().st_mtime < float(since))
        return [] if anew else [_loaded(file)]
    except Exception:  # noqa: BLE001  whatever it is, it is made anew
        return []


def _write(file: Path, made: Any) -> Any:
    """Keep a result and return it as it will be read; where it cannot be kept, as it is."""
    try:
        with replacing(file) as part, ZipFile(part, "w") as parts:
            parts.writestr(_TOLD, json.dumps([file.name, made], default=partial(_saved, parts)))  # no tuples in it
        return _loaded(file)
    except (OSError, ValueError, TypeError, KeyError):
        return made


def _saved(parts: ZipFile, value: Any) -> Any:
    """Write a table or an array, and return, for JSON, where it is; of a dataclass return what it is made of."""
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {"module": type(value).__module__, "name": type(value).__qualname__, "fields": _fields(value)}
    if not isinstance(value, pd.DataFrame | np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be kept")
    content = io.BytesIO()
    value.to_parquet(content) if isinstance(value, pd.DataFrame) else np.save(content, value, allow_pickle=False)
    file = f"{len(parts.namelist())}.{'npy' if isinstance(value, np.ndarray) else 'parquet'}"
    parts.writestr(file, content.getvalue())
    return {"file": file}


def _loaded(file: Path) -> Any:
    """Read a result; ZIP checks each part, and none of them can say what is run."""
    with ZipFile(file) as parts:

        def made(told: Any) -> Any:
            if isinstance(told, list):
                return tuple(map(made, told))
            if not isinstance(told, dict):
                return told
            if "file" in told:
                content = io.BytesIO(parts.read(told["file"]))
                return np.load(content) if told["file"].endswith(".npy") else pd.read_parquet(content)
            kind = getattr(import_module(told["module"]), told["name"]) if told["module"][:7] == "sslsim." else None
            if not is_dataclass(kind):
                raise ValueError(f"{told['name']} is no dataclass of this package")
            return kind(**{name: made(each) for name, each in told["fields"].items()})  # type: ignore[operator]

        name, told = json.loads(parts.read(_TOLD))
        if name != file.name:
            raise ValueError(f"{name} is in the place of another")
        return made(told)
