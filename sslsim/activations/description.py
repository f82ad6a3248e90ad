"""What a store folder says of itself, ``store.json`` and its tables: written, opened, compared with another's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from sslsim.activations.shards import shard_file
from sslsim.activations.store import AGAIN, SAMPLE_RULE, ActivationStore
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW

STORE_VERSION = 3
"""Raised by one whenever the layout or the meaning of a file changes."""
FRAME_RULE = f"frame i covers samples [{HOP} i, {HOP} i + {WINDOW}) at {SAMPLE_RATE} Hz"
STORE_FILE = "store.json"
TABLES = {"index": "index.csv", "skipped": "skipped.csv"}
PLAIN = tuple(f.name for f in fields(ActivationStore) if f.name not in ("root", "checkpoint", *TABLES))
"""The fields that ``store.json`` holds as they are."""
_TEXT_COLUMNS = {"utterance": str, "speaker": str, "waveform": str, "path": str, "reason": str}


def described(store: ActivationStore) -> dict[str, bytes]:
    """Return the small files of a store, by name; the description last."""
    tables = {file: getattr(store, name).to_csv(index=False).encode() for name, file in TABLES.items()}
    content = {
        "version": STORE_VERSION,
        **{name: getattr(store, name) for name in PLAIN},
        "checkpoint": asdict(store.checkpoint),
        "frame_rule": FRAME_RULE,
        "sample_rule": SAMPLE_RULE,
        "hashes": {file: hashlib.sha256(table).hexdigest() for file, table in tables.items()},
    }
    return tables | {STORE_FILE: (json.dumps(signed(content), indent=2) + "\n").encode()}


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a JSON file is to hold with a hash of all of it."""
    rest = {key: value for key, value in content.items() if key != "hash"}
    return rest | {"hash": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def open_store(path: str | Path) -> ActivationStore:
    """Open a store that ``extract`` left; quick: nothing is read but the index.

    Raises
    ------
    SslsimError
        No store there, of another version, or a file missing, of another size than when written, or damaged.
    """
    root = Path(path)
    plain, hashes = _read_description(root)
    tables = {}
    for name, file in TABLES.items():
        content = (root / file).read_bytes() if (root / file).is_file() else b""
        if hashlib.sha256(content).hexdigest() != hashes.get(file):
            raise SslsimError(f"store {str(root)!r}: {file} is not as it was written; {AGAIN}")
        options: dict[str, Any] = {"dtype": _TEXT_COLUMNS, "keep_default_na": False}
        tables[name] = pd.read_csv(root / file, **options)
    store = ActivationStore(root=root.absolute(), **tables, **plain)
    for number, layout in enumerate(store.layouts):
        path = root / shard_file(number)
        found = path.stat().st_size if path.is_file() else None
        if found != layout.size:
            state = f"{found:,} bytes, not {layout.size:,}" if found is not None else "missing"
            raise SslsimError(f"store {str(root)!r}: {path.name} is {state}; {AGAIN}")
    return store


def _read_description(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the store's fields and its tables' hashes, as ``store.json`` tells them."""
    if not (root / STORE_FILE).is_file():
        within = sorted(file.parent.name for file in root.glob(f"[!.]*/{STORE_FILE}"))
        hint = f"; it holds the stores {', '.join(within)}" if within else ""
        raise SslsimError(f"store {str(root)!r}: no {STORE_FILE} there{hint}")
    try:
        content = json.loads((root / STORE_FILE).read_text(encoding="utf-8"))
        if content["version"] != STORE_VERSION:
            fault = f"version {content['version']}, this sslsim reads {STORE_VERSION}"
        elif content == signed(content):
            plain = {name: content[name] for name in PLAIN}
            return plain | {"checkpoint": Checkpoint(**content["checkpoint"])}, dict(content["hashes"])
        else:
            fault = f"{STORE_FILE} is not as it was written"
    except (ValueError, KeyError, TypeError):
        fault = f"{STORE_FILE} is damaged"
    raise SslsimError(f"store {str(root)!r}: {fault}; {AGAIN}")


def frame_key(index: pd.DataFrame, frames_per_utterance: int | None, queries: int | None) -> str:
    """Return the hash that is equal iff two stores hold the same frames and the same query rows."""
    parts = [FRAME_RULE, SAMPLE_RULE, str(frames_per_utterance), str(queries)]
    parts += [f"{r.utterance}\0{r.waveform}\0{r.length}" for r in index.itertuples()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def check_pairable(a: ActivationStore, b: ActivationStore) -> None:
    """Raise unless two stores hold the same frames of the same audio, and the same query rows."""
    if a.frame_key == b.frame_key:
        return
    both, corpus = f"{a.name} and {b.name}", "extract both from the same corpus"
    if a.frames_per_utterance != b.frames_per_utterance:
        told = [_told(store.frames_per_utterance) for store in (a, b)]
        what = f"{a.name} keeps {told[0]} frames an utterance, {b.name} {told[1]}; extract both with the same frames"
    elif a.n_frames != b.n_frames:
        what = f"{a.name} has {a.n_frames:,} frames, {b.name} {b.n_frames:,}; {corpus}"
    elif a.index.utterance.tolist() != b.index.utterance.tolist():
        what = f"{both} hold other utterances; {corpus}"
    elif a.index.waveform.tolist() != b.index.waveform.tolist():
        what = f"{both} were given other audio; {corpus}"
    else:
        told = [_told(store.queries) for store in (a, b)]
        what = (
            f"{a.name} keeps {told[0]} query rows of an attention map, {b.name} {told[1]}; extract both with the same"
        )
    raise SslsimError(f"layers cannot be paired: {what}")


def _told(limit: int | None) -> str:
    return "all" if limit is None else f"{limit:,}"
