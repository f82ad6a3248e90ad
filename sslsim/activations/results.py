"""Results kept beside the stores that they are made from: what one notebook or run has computed, no other computes.

A result lies in ``<folder of the stores>/results/<function>-<key>``: ``result.json``, which says what it is, its tables
as Parquet and its arrays as NPY, all under checksums. The key is a hash of all that the numbers depend on: the stores
with their checksums, the arguments, the code that computes, and the libraries. So nothing there is ever out of date,
and the folder may be deleted at any time.
"""

import hashlib
import inspect
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import filelock
import numpy as np
import pandas as pd

from sslsim.activations.draft import remove_stale
from sslsim.activations.shards import shard_file
from sslsim.activations.store import STORE_FILE, ActivationStore, described, signed

Given = ParamSpec("Given")
Result = TypeVar("Result")
FRESH = "SSLSIM_FRESH"
"""Environment variable: ``1`` to compute anew, or a time in seconds, as of `time.time`: what was kept before is too."""
_CODE = ("parallel.py", *(f"{name}/*.py" for name in ("speech", "encoders", "activations", "measures")))
_CODE += ("comparison/*.py", "significance/*.py")
_LIBRARIES = ("torch", "numpy", "scipy", "pandas")
_WHERE = ("device", "executor")  # arguments that say where to compute, not what
_FILE = "result.json"
_POLL = 0.2  # seconds between two looks whether another process is through


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
        for name, value in bound.arguments.items():
            bound.arguments[name] = tuple(value) if isinstance(value, Iterator) else value
        stores, *_ = bound.arguments.values()
        try:
            told = {name: said(value) for name, value in list(bound.arguments.items())[1:] if name not in _WHERE}
            told |= {"code": code, "stores": [_state(store) for store in stores]}
            key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]
            folder = stores[0].root.parent / "results" / f"{function.__name__}-{key}"
        except (TypeError, AttributeError, IndexError, OSError):
            return function(*bound.args, **bound.kwargs)
        if found := _read(folder):
            return found[0]
        with _alone(folder):
            if found := _read(folder):
                return found[0]
            return _write(folder, function(*bound.args, **bound.kwargs))

    return found_or_made


def code_of(module: str, package: Path = Path(__file__).parents[1]) -> str:
    """Return the hash of the code that a function of a module computes with, and of the versions of the libraries."""
    files = {path for pattern in _CODE for path in package.glob(pattern)}
    with suppress(TypeError, OSError):  # typed into a notebook, it has no file
        files.add(Path(inspect.getfile(import_module(module))))
    parts = [f"{path.name} {_hash(path.read_bytes())}" for path in sorted(files)]
    return _hash("\n".join(parts + [f"{name} {version(name)}" for name in _LIBRARIES]).encode())


def said(value: Any) -> Any:
    """Return an argument as JSON that is equal iff the arguments are; a TypeError if that cannot be told."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return said(value.item())
    if isinstance(value, np.ndarray) and value.dtype != object:
        return ["array", value.dtype.str, value.shape, _hash(np.ascontiguousarray(value).tobytes())]
    if isinstance(value, pd.DataFrame):
        rows = pd.util.hash_pandas_object(value).to_numpy()
        return ["table", *zip(map(str, value), map(str, value.dtypes), strict=True), said(rows)]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, {field.name: said(getattr(value, field.name)) for field in fields(value)}]
    if isinstance(value, Mapping):
        return ["mapping", sorted([[said(key), said(each)] for key, each in value.items()], key=json.dumps)]
    if isinstance(value, set | frozenset):
        return ["set", sorted(map(said, value), key=json.dumps)]
    if isinstance(value, Sequence):
        return [said(each) for each in value]
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def _state(store: ActivationStore) -> list[str]:
    """Return what tells a store from any other: its description, and the checksum of each of its files."""
    sums = []
    for number in range(len(store.shards)):
        with (store.root / shard_file(number)).open("rb") as file:
            file.seek(-4, os.SEEK_END)
            sums.append(file.read().hex())
    moved = replace(store, checkpoint=replace(store.checkpoint, source=""))  # where weights lie changes nothing
    return [_hash(described(moved)[STORE_FILE]), *sums]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes this result; without locks, both make the same."""
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock", thread_local=False)
    try:
        folder.parent.mkdir(exist_ok=True)
        remove_stale(folder.parent, ".*")
        lock.acquire(timeout=_POLL)
    except filelock.Timeout:
        print(f"{folder.name.partition('-')[0]}: waiting for another process that computes it", flush=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _read(folder: Path) -> list[Any]:
    """Return the result that is kept, alone in a list; nothing where there is none, or what there is is damaged."""
    try:
        file, since = folder / _FILE, os.environ.get(FRESH, "")
        if since and (since == "1" or file.stat().st_mtime < float(since)):
            return []
        content = json.loads(file.read_text(encoding="utf-8"))
        files = {name: (folder / name).read_bytes() for name in content["hashes"]}
        if content != signed(content) or content["hashes"] != {name: _hash(each) for name, each in files.items()}:
            return []
        return [_loaded(content["result"], files)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _write(folder: Path, made: Any) -> Any:
    """Keep a result and return it as it will be read; where it cannot be kept, as it is."""
    beside = None
    try:
        prefix = f".{folder.name}.{platform.node()}.{os.getpid()}."
        beside = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        new = beside / "new"
        new.mkdir()
        told = _saved(made, new, "result")
        hashes = {path.name: _hash(path.read_bytes()) for path in sorted(new.iterdir())}
        (new / _FILE).write_text(json.dumps(signed({"result": told, "hashes": hashes})), encoding="utf-8")
        if folder.exists():  # damaged, or to be made anew
            folder.rename(beside / "old")
        new.rename(folder)
        return _loaded(told, {name: (folder / name).read_bytes() for name in hashes})
    except (OSError, ValueError, TypeError):
        return made
    finally:
        if beside:
            shutil.rmtree(beside, ignore_errors=True)


def _saved(value: Any, folder: Path, name: str) -> dict[str, Any]:
    """Write the tables and arrays of a value, and return what it is made of."""
    if isinstance(value, pd.DataFrame):
        value.to_parquet(folder / f"{name}.parquet")
        return {"table": f"{name}.parquet"}
    if isinstance(value, np.ndarray):
        np.save(folder / f"{name}.npy", value, allow_pickle=False)
        return {"array": f"{name}.npy"}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_saved(each, folder, f"{name}-{i}") for i, each in enumerate(value)]}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {each.name: _saved(getattr(value, each.name), folder, f"{name}-{each.name}") for each in fields(value)}
        return {"dataclass": [type(value).__module__, type(value).__qualname__], "fields": parts}
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"{type(value).__name__} cannot be kept")


def _loaded(told: Mapping[str, Any], files: Mapping[str, bytes]) -> Any:
    if "table" in told:
        return pd.read_parquet(io.BytesIO(files[told["table"]]))
    if "array" in told:
        return np.load(io.BytesIO(files[told["array"]]), allow_pickle=False)
    if "dataclass" in told:
        module, name = told["dataclass"]
        kind = getattr(import_module(module), name) if module.startswith("sslsim.") else None
        if not is_dataclass(kind):
            raise ValueError(f"{module}.{name} is no dataclass of this package")
        return kind(**{field: _loaded(each, files) for field, each in told["fields"].items()})  # type: ignore[operator]
    for kind in (tuple, list):
        if kind.__name__ in told:
            return kind(_loaded(each, files) for each in told[kind.__name__])
    return told["value"]
