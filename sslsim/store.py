"""The activation store: what one checkpoint made of one corpus, written once and read memory-mapped.

Layout of a store folder::

    store.json              version, checkpoint, fingerprints, rules, sizes, versions of libraries
    index.csv               one row an utterance
    layer_00.npy ...        (n_frames, n_neurons) float32, utterances one after another
    final.npy               the same for the output of the final LayerNorm, pre-norm models only
    attention_01.npy ...    flat float32: per utterance a block (n_heads, n_rows, T), one after another
"""

from __future__ import annotations

import hashlib
import html
import json
import threading
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.audio import HOP, SAMPLE_RATE, WINDOW, spread
from sslsim.errors import SslsimError
from sslsim.lineup import Checkpoint

STORE_VERSION = 1
"""Raised by one whenever the layout or the meaning of a file changes."""
FRAME_RULE = f"frame i covers samples [{HOP} i, {HOP} i + {WINDOW}) at {SAMPLE_RATE} Hz"
ROW_RULE = "all query rows where T <= queries, else rows floor((2 i + 1) T / (2 queries)), i = 0..queries-1"


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """Hidden states and attention rows of one checkpoint over one corpus.

    Attributes
    ----------
    root : Path
        The folder.
    checkpoint : Checkpoint
        What was run.
    n_layers : int
        Number of hidden states, L + 1: layer 0 is the transformer's input, 1..L its blocks.
    n_neurons, n_heads, n_frames : int
        Width of a layer, heads of a block, rows of every layer.
    fingerprint, corpus_fingerprint : str
        Content hash of the checkpoint and of the audio.
    pre_norm : bool
        Whether blocks normalise their input: then layer L is the raw residual stream and ``final()``
        its LayerNorm.
    queries : int or "all"
        Most attention query rows kept of an utterance.
    frame_key : str
        Hash of utterance ids, waveforms, frame and row rule: two stores can be paired iff it is equal.
    versions : dict
        Versions of the libraries that made it.
    index : pandas.DataFrame
        One row an utterance: utterance, speaker, n_samples, n_frames, start (its first frame's row in
        a layer), n_rows (attention query rows kept), waveform (content hash of its samples).
    """

    root: Path
    checkpoint: Checkpoint
    n_layers: int
    n_neurons: int
    n_heads: int
    n_frames: int
    fingerprint: str
    corpus_fingerprint: str
    pre_norm: bool
    queries: int | str
    frame_key: str
    versions: dict[str, str]
    index: pd.DataFrame = field(repr=False)

    @property
    def attention_layers(self) -> int:
        """Number of blocks with attention kept: L, or 0 when extracted with ``queries=0``."""
        return 0 if self.queries == 0 else self.n_layers - 1

    def layer(self, layer: int) -> NDArray[np.float32]:
        """Return a hidden state, (n_frames, n_neurons) float32, read-only and memory-mapped.

        Parameters
        ----------
        layer : int
            0 (the transformer's input) to L = ``n_layers - 1``.
        """
        self._check(layer, "layer", 0, self.n_layers - 1)
        return _memory_map(self.root / layer_file(layer))

    def final(self) -> NDArray[np.float32]:
        """Return the model's ``last_hidden_state``, (n_frames, n_neurons), memory-mapped.

        The final LayerNorm's output for a pre-norm model, layer L for a post-norm one.
        """
        if not self.pre_norm:
            return self.layer(self.n_layers - 1)
        return _memory_map(self.root / FINAL_FILE)

    def attention(self, layer: int, u: int) -> NDArray[np.float32]:
        """Return attention rows of one utterance, (n_heads, n_rows, T) float32, memory-mapped.

        Parameters
        ----------
        layer : int
            Block, 1 to ``attention_layers``, numbered like the hidden state that it makes.
        u : int
            The utterance's position in ``index``. Row r is the distribution over the T keys of query
            frame ``query_rows(u)[r]``.
        """
        if self.attention_layers == 0:
            raise SslsimError(f"{self.checkpoint.name}: no attention in this store; extract with queries above 0")
        self._check(layer, "attention layer", 1, self.attention_layers)
        self._check(u, "utterance", 0, len(self.index) - 1)
        flat = _memory_map(self.root / attention_file(layer))
        start, stop = self._attention_offsets[u : u + 2]
        rows, frames = self.index[["n_rows", "n_frames"]].iloc[u]
        return flat[start:stop].reshape(self.n_heads, rows, frames)

    def query_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the attention rows kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return query_rows(int(self.index["n_frames"].iloc[u]), self.queries)

    @cached_property
    def _attention_offsets(self) -> NDArray[np.int64]:
        return attention_offsets(self.index, self.n_heads)

    def _check(self, value: int, what: str, low: int, high: int) -> None:
        if not low <= value <= high:
            raise SslsimError(f"{self.checkpoint.name}: no {what} {value}; there are {low} to {high}")

    def _repr_html_(self) -> str:
        seconds = self.index["n_samples"].sum() / SAMPLE_RATE
        rows = {
            "layers": f"0 to {self.n_layers - 1}, {'pre' if self.pre_norm else 'post'}-norm",
            "neurons": f"{self.n_neurons:,}",
            "heads": f"{self.n_heads} in each of {self.attention_layers} blocks",
            "query rows": f"{self.queries} an utterance",
            "frames": f"{self.n_frames:,} of {len(self.index):,} utterances, {seconds / 60:.1f} min",
            "checkpoint": f"{self.checkpoint.source} ({self.fingerprint[:12]})",
            "weights": self.checkpoint.weights,
            "store": str(self.root),
        }
        cells = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in rows.items())
        return f"<table><caption>{html.escape(self.checkpoint.name)}</caption>{cells}</table>"


_READING = (
    threading.Lock()
)  # numpy reads headers with ast, which in Python 3.11 fails in two threads at a time (gh-106905)


def _memory_map(path: Path) -> NDArray[np.float32]:
    with _READING:
        return np.load(path, mmap_mode="r")


STORE_FILE, INDEX_FILE, FINAL_FILE = "store.json", "index.csv", "final.npy"


def layer_file(layer: int) -> str:
    """Return the file name of a hidden state."""
    return f"layer_{layer:02d}.npy"


def attention_file(layer: int) -> str:
    """Return the file name of a block's attention rows."""
    return f"attention_{layer:02d}.npy"


def query_rows(n_frames: int, queries: int | str) -> NDArray[np.int64]:
    """Return which query rows of an utterance's attention maps are kept (``ROW_RULE``)."""
    return spread(n_frames, n_frames if queries == "all" else int(queries))


def attention_offsets(index: pd.DataFrame, n_heads: int) -> NDArray[np.int64]:
    """Return where each utterance's block starts in the flat attention files, and last their length."""
    sizes = n_heads * index["n_rows"].to_numpy(np.int64) * index["n_frames"].to_numpy(np.int64)
    return np.concatenate([[0], np.cumsum(sizes)])


def frame_key(index: pd.DataFrame, queries: int | str) -> str:
    """Return the hash that is equal iff two stores hold the same frames and the same query rows."""
    parts = [FRAME_RULE, ROW_RULE, str(queries)]
    parts += [f"{r.utterance}\0{r.waveform}\0{r.n_frames}" for r in index.itertuples()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


JSON_FIELDS = tuple(f.name for f in fields(ActivationStore) if f.name not in ("root", "checkpoint", "index"))
"""The fields that ``store.json`` holds as they are."""
_TEXT_COLUMNS = {"utterance": str, "speaker": str, "waveform": str}


def open_store(path: str | Path) -> ActivationStore:
    """Open a store that ``extract`` left; quick: nothing is loaded but the index.

    Raises
    ------
    SslsimError
        No store there, of another version, or a file missing or of another size than when written.
    """
    root = Path(path)
    content, files = _read_description(root)
    for name, size in files.items():
        found = (root / name).stat().st_size if (root / name).is_file() else None
        if found != size:
            state = f"{found:,} bytes, not {size:,}" if found is not None else "missing"
            raise SslsimError(f"store {str(root)!r}: {name} is {state}; delete this folder and extract again")
    index = pd.read_csv(root / INDEX_FILE, dtype=_TEXT_COLUMNS, keep_default_na=False)
    return ActivationStore(root=root.absolute(), index=index, **content)


def _read_description(root: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the store's fields and its files' sizes, as ``store.json`` tells them."""
    if not (root / STORE_FILE).is_file():
        within = sorted(file.parent.name for file in root.glob(f"[!.]*/{STORE_FILE}"))
        hint = f"; it holds the stores {', '.join(within)}" if within else ""
        raise SslsimError(f"store {str(root)!r}: no {STORE_FILE} there{hint}")
    try:
        content = json.loads((root / STORE_FILE).read_text(encoding="utf-8"))
        if content["version"] == STORE_VERSION:
            plain = {name: content[name] for name in JSON_FIELDS}
            return plain | {"checkpoint": Checkpoint(**content["checkpoint"])}, dict(content["files"])
        fault = f"version {content['version']}, this sslsim reads {STORE_VERSION}"
    except (ValueError, KeyError, TypeError):
        fault = f"{STORE_FILE} is damaged"
    raise SslsimError(f"store {str(root)!r}: {fault}; delete this folder and extract again")


def check_pairable(a: ActivationStore, b: ActivationStore) -> None:
    """Raise unless two stores hold the same frames of the same audio, and the same query rows."""
    if a.frame_key == b.frame_key:
        return
    name_a, name_b = a.checkpoint.name, b.checkpoint.name
    if a.n_frames != b.n_frames:
        what = f"{name_a} has {a.n_frames:,} frames, {name_b} {b.n_frames:,}; extract both from the same corpus"
    elif differ := _first_difference(a.index, b.index):
        what = f"{name_a} and {name_b} {differ}; extract both from the same corpus"
    else:
        what = (
            f"{name_a} keeps {a.queries} attention query rows an utterance, {name_b} {b.queries}; "
            "extract both with the same queries"
        )
    raise SslsimError(f"layers cannot be paired: {what}")


def _first_difference(a: pd.DataFrame, b: pd.DataFrame) -> str:
    for x, y in zip(a.itertuples(), b.itertuples(), strict=False):
        if x.utterance != y.utterance:
            return f"hold other utterances ({x.utterance!r} against {y.utterance!r})"
        if x.waveform != y.waveform:
            return f"heard other audio for utterance {x.utterance!r}"
    return "" if len(a) == len(b) else f"hold {len(a):,} and {len(b):,} utterances"
