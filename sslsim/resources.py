"""Where data and notebooks lie, and files that are there whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sslsim.errors import SslsimError

_NAME = re.compile(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoom(SslsimError):
    """A file that the disk has no room for."""


def _folder(name: str) -> Path:
    """Return a folder of the checkout; an installed package has it inside."""
    package = Path(__file__).resolve().parent
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parent / name


DATA = _folder("data")
"""The embedded default: lineup.toml, checkpoints/, speech/, and the lineups that are known by name."""
NOTEBOOKS = _folder("notebooks")


@contextmanager
def replacing(path: str | Path, needed: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` at the end, or vanishes on any error.

    The folder is made when missing. The temporary name keeps the suffix, since writers choose the format by it. A full
    disk is a `NoRoom` that names the file and the bytes `needed`, if they are known.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        part.unlink(missing_ok=True)
        free = size_told(shutil.disk_usage(next(folder for folder in path.parents if folder.is_dir())).free)
        told = f"it needs {size_told(needed) if needed else 'more'}, where {free} are free ({os.strerror(error.errno)})"
        raise NoRoom(f"{path} cannot be written: {told}; make room and run again") from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, its line ends as they are, whole or not at all."""
    with replacing(path, len(content := text.encode())) as part:
        part.write_bytes(content)


def digest(content: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def size_told(size: float) -> str:
    """Return a number of bytes in a unit that suits it, such as 340 kB or 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            break
        size, unit = size / 1000, "TB"
    return f"{size:.2g} {unit}" if 0 < size < 9.95 else f"{size:,.0f} {unit}"


def check_free(folder: Path, needed: float, what: str, cure: str) -> str:
    """Return, in words, what disk is needed in a folder and what is free; raise if that is too little."""
    free = shutil.disk_usage(folder).free
    told = f"{size_told(needed)} in {str(folder)!r}, where {size_told(free)} are free"
    if free < needed:
        raise SslsimError(f"{what}: needs {told}; {cure}")
    return told


def checked_name(name: str, what: str) -> str:
    """Return `name` if it can be part of file names and links: letters and digits, joined by single ``-`` or ``_``.

    Anything else is an SslsimError, whose message says `what` is named.
    """
    if not _NAME.fullmatch(name):
        raise SslsimError(f"{what} {name!r} cannot name a file: use letters and digits joined by - or _")
    return name


def read_toml(path: str | Path, what: str, cure: str = "") -> dict[str, Any]:
    """Return what a TOML file holds; an error says `what` it is and, if it cannot be read, the `cure`."""
    try:
        return tomllib.loads(regular(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        told = f"cannot be read: {error.strerror}{cure}" if isinstance(error, OSError) else f"not TOML: {error}"
        raise SslsimError(f"{what} {str(path)!r}: {told}") from error


def regular(path: str | Path) -> Path:
    """Return the path of a file or folder, or raise: a device or a pipe might be read for ever."""
    if (path := Path(path)).exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a device, a pipe or a socket", str(path))
    return path
