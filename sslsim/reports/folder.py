"""The reports folder: run.json, the index over it, and which table or figure belongs to which notebook."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from sslsim.reports import page as render
from sslsim.resources import write_text

FORMAT = 1
SWEEP = "sweep.json"
Snapshot = dict[str, tuple[int, int]]


def earlier(out: Path) -> dict[str, Any]:
    """Return the notebooks' entries of an earlier run in `out` whose pages are still there."""
    entries = read(out / "run.json").get("notebooks", {})
    return {name: entry for name, entry in entries.items() if (out / f"{name}.html").is_file()}


def read(file: Path) -> dict[str, Any]:
    """Return the content of run.json or sweep.json, or nothing when it is missing, broken or of another format."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content if content["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def code(notebooks: Iterable[Path]) -> str:
    """Return a hash of this package's files and of the notebooks: what a commit says of a clean checkout only."""
    package = sorted(path for path in Path(__file__).parents[1].rglob("*.*") if "__pycache__" not in path.parts)
    hashes = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in [*package, *notebooks]]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def snapshot(out: Path, name: str, others: Collection[str]) -> Snapshot:
    """Return the tables and figures of one notebook with what changes when a file is written anew.

    Parameters
    ----------
    out : Path
        Reports folder.
    name : str
        The notebook. ``layers-grid.csv`` is of `layers`, unless there is a notebook `layers-grid`.
    others : collection of str
        Names of all notebooks known in the folder.
    """
    longer = tuple(f"{other}-" for other in others if other.startswith(f"{name}-"))
    files = [file for part in ("tables", "figures") for file in (out / part).glob("*") if file.is_file()]
    plain = {file: file.name.lstrip(".") for file in files}  # a killed run leaves .name.pid.part files
    owned = sorted(f for f in files if plain[f].startswith(f"{name}-") and not (longer and plain[f].startswith(longer)))
    return {file.relative_to(out).as_posix(): (file.stat().st_ino, file.stat().st_mtime_ns) for file in owned}


def remove_stale(out: Path, before: Snapshot, after: Snapshot) -> list[str]:
    """Delete what a run did not write anew, and return the files that it did."""
    stale = {file for file, state in after.items() if before.get(file) == state}
    for file in stale:
        (out / file).unlink(missing_ok=True)
    return [file for file in after if file not in stale]


def publish(out: Path, run: Mapping[str, Any]) -> None:
    """Write run.json and the index, each whole or not at all."""
    write_text(out / "run.json", json.dumps(run, indent=1, ensure_ascii=False, default=str) + "\n")
    swept = out.name in read(out.parent / SWEEP).get("runs", {})
    write_text(out / "index.html", render.index(run, out, sweep=swept))
