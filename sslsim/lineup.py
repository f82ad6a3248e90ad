"""Which checkpoints: a lineup file is read, a checkpoint's files are found and hashed; none is loaded."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sslsim.audio import file_fingerprint
from sslsim.errors import SslsimError, close_match


@dataclass(frozen=True)
class Checkpoint:
    """One encoder of a lineup.

    Attributes
    ----------
    name : str
        What tables and figures call it.
    source : str
        A folder, or a hub id ``org/name``.
    revision : str or None
        Of a hub id: best a full commit hash.
    family, size : str
        For grouping, such as ``wav2vec2`` and ``base``; never used to decide how to load.
    finetuned_from : str or None
        Name of the checkpoint that this one was finetuned from.
    """

    name: str
    source: str
    revision: str | None = None
    family: str = ""
    size: str = ""
    finetuned_from: str | None = None


_KEYS = tuple(f.name for f in fields(Checkpoint))
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read_lineup(path: str | Path) -> list[Checkpoint]:
    """Read the checkpoints of a lineup file.

    Parameters
    ----------
    path : str or Path
        TOML with one ``[[checkpoint]]`` table each: ``name``, ``source`` (a folder, relative to this
        file, or a hub id ``org/name``) and optionally ``revision``, ``family``, ``size``,
        ``finetuned_from`` (the name of another one).

    Raises
    ------
    SslsimError
        No such file, not TOML, or a table that is incomplete, misspelt or named twice.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("checkpoint", [])
    except OSError as error:
        raise SslsimError(f"lineup {str(path)!r}: no such file") from error
    except ValueError as error:
        raise SslsimError(f"lineup {str(path)!r}: not TOML: {error}") from error
    if not isinstance(tables, list) or not tables:
        raise SslsimError(f"lineup {str(path)!r}: no [[checkpoint]] tables")
    lineup = [_checkpoint(path, number, table) for number, table in enumerate(tables, 1)]
    names = [checkpoint.name for checkpoint in lineup]
    for checkpoint in lineup:
        if names.count(checkpoint.name) > 1:
            raise SslsimError(f"lineup {str(path)!r}: {checkpoint.name!r} occurs twice; give each its own name")
        parent = checkpoint.finetuned_from
        if parent == checkpoint.name:
            raise SslsimError(f"lineup {str(path)!r}: {parent!r} is finetuned from itself; name where it started")
        if parent is not None and parent not in names:
            raise SslsimError(
                f"lineup {str(path)!r}: {checkpoint.name!r} is finetuned from {parent!r}, which is not in it"
                + close_match(parent, names)
            )
    return lineup


def _checkpoint(path: Path, number: int, table: Any) -> Checkpoint:
    where = f"lineup {str(path)!r}, checkpoint {number}"
    if not isinstance(table, dict):
        raise SslsimError(f"{where}: {table!r} is not a table")
    for key, value in table.items():
        if key not in _KEYS:
            raise SslsimError(f"{where}: unknown key {key!r}{close_match(key, _KEYS)}")
        if not isinstance(value, str):
            raise SslsimError(f"{where}: {key} is {value!r}; it must be a string")
    for key in ("name", "source"):
        if not table.get(key):
            raise SslsimError(f"{where}: no {key}")
    if not re.fullmatch(r"\w[\w.+-]*", table["name"]):
        raise SslsimError(f"{where}: name {table['name']!r} may hold only letters, digits and ._+- (it names a folder)")
    return Checkpoint(**{**table, "source": _resolve(path.parent, table["source"])})


def _resolve(base: Path, source: str) -> str:
    """Make a folder absolute, relative to the lineup; leave a hub id as it is."""
    folder = base / Path(source).expanduser()
    if folder.exists() or not _HUB_ID.fullmatch(source) or (base / source.split("/")[0]).exists():
        return str(folder.resolve())
    return source


def select(lineup: Iterable[Checkpoint], names: Sequence[str]) -> list[Checkpoint]:
    """Return the named checkpoints in the order of ``names``; all of the lineup when there are none."""
    known = {checkpoint.name: checkpoint for checkpoint in lineup}
    for name in names:
        if name not in known:
            raise SslsimError(f"no checkpoint {name!r} in the lineup{close_match(name, known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(known.values())


def locate(checkpoint: Checkpoint) -> Path:
    """Return the folder with a checkpoint's files, fetching them from the hub if its source is an id.

    Only configuration and weights are fetched; pickled weights only where there are no safetensors.
    """
    folder = Path(checkpoint.source)
    if folder.is_dir():
        if checkpoint.revision:
            raise problem(checkpoint, f"has a revision, but its source is a folder, {str(folder)!r}")
    elif _HUB_ID.fullmatch(checkpoint.source):
        folder = _fetch(checkpoint, [*_SETTINGS, _WEIGHTS[0]])
        if not _weight_files(folder):
            folder = _fetch(checkpoint, [_WEIGHTS[1]])
    else:
        raise problem(checkpoint, f"no folder {checkpoint.source!r}")
    if not (folder / "config.json").is_file():
        raise problem(checkpoint, f"no config.json in {str(folder)!r}; a folder that save_pretrained left has one")
    if not _weight_files(folder):
        raise problem(checkpoint, f"no weights in {str(folder)!r} ({' or '.join(_WEIGHTS)})")
    return folder


def problem(checkpoint: Checkpoint, text: str) -> SslsimError:
    """Return the error that says what is wrong with a checkpoint."""
    return SslsimError(f"checkpoint {checkpoint.name!r}: {text}")


def _fetch(checkpoint: Checkpoint, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    source, revision = checkpoint.source, f" at {checkpoint.revision}" if checkpoint.revision else ""
    try:
        return Path(snapshot_download(checkpoint.source, revision=checkpoint.revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen kinds: offline, not found, gated, cache...
        revision = f" at revision {checkpoint.revision}" if checkpoint.revision else ""
        raise problem(
            checkpoint,
            f"no folder {source!r}, and it could not be had from the hub{revision} "
            f"({type(error).__name__}: {first_line(error)})",
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of what a library said, so that an error stays one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that from_pretrained reads weights from: safetensors, else pickled ones."""
    return next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Return a SHA-256 over names and content of a checkpoint's settings and weight files."""
    folder = locate(checkpoint)
    files = [folder / name for name in _SETTINGS if (folder / name).is_file()] + _weight_files(folder)
    parts = "".join(f"{file.name}\0{file_fingerprint(file)}\n" for file in files)
    return hashlib.sha256(parts.encode()).hexdigest()
