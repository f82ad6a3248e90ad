"""The activation store: what one checkpoint made of one corpus, written once and read memory-mapped.

Layout of a store folder::

    store.json              version, checkpoint, fingerprints, rules, sizes, versions of libraries
    index.csv               one row an utterance
    skipped.csv             utterances of the corpus that could not be used, and why
    layer_00.npy ...        (n_frames, n_neurons) float32, utterances one after another
    final.npy               the same for the model's last hidden state, where it is not the last layer
    attention_01.npy ...    flat float32: per utterance a block (n_heads, n_rows, T), one after another
    checksums.npy           CRC-32 of every utterance in every array file, (n_utterances, n_files)

Every byte is under a checksum. An array file is checked when a process first opens it, the others by ``open_store``.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.named import Named, as_html
from sslsim.errors import SslsimError
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, spread

STORE_VERSION = 2
"""Raised by one whenever the layout or the meaning of a file changes."""
FRAME_RULE = f"frame i covers samples [{HOP} i, {HOP} i + {WINDOW}) at {SAMPLE_RATE} Hz"
SAMPLE_RULE = "all T frames of an utterance where T <= N, else frames floor((2 i + 1) T / (2 N)), i = 0..N-1"
"""How both the frames kept (N = frames) and the attention query rows (N = queries) are chosen."""


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
    normed : bool
        Whether layers 1..L are outputs of a LayerNorm, as in post-norm models and conformers, or the raw
        residual stream, as in pre-norm models, where a few neurons may be very large.
    input_normed : bool
        Whether layer 0 is the output of a LayerNorm.
    final_norm : bool
        Whether another LayerNorm follows the last block: then layer L is not the model's
        ``last_hidden_state``, which ``final()`` gives.
    heard : dict
        How the checkpoint takes its audio, see ``anatomy.Anatomy``.
    dtype : str
        What the encoder computed in; stored are float32 numbers.
    frames : int or "all"
        Most frames kept of an utterance.
    queries : int or "all"
        Most attention query rows kept of an utterance.
    frame_key : str
        Hash of utterance ids, waveforms, frame and row rule: two stores can be paired iff it is equal.
    versions : dict
        Versions of the libraries that made it.
    index : pandas.DataFrame
        One row an utterance: utterance, speaker, recording, begin and end (its place in its file), n_samples,
        waveform (content hash of its samples), length (T, frames that the encoder makes of it), n_frames (frames
        kept), start (its first frame's row in a layer), n_rows (attention query rows kept).
    skipped : pandas.DataFrame
        Utterances of the corpus that are not there, one row each: utterance, path, reason.
    """

    root: Path
    checkpoint: Checkpoint
    n_layers: int
    n_neurons: int
    n_heads: int
    n_frames: int
    fingerprint: str
    corpus_fingerprint: str
    normed: bool
    input_normed: bool
    final_norm: bool
    heard: dict[str, Any]
    dtype: str
    frames: int | str
    queries: int | str
    frame_key: str
    versions: dict[str, str]
    index: pd.DataFrame = field(repr=False)
    skipped: pd.DataFrame = field(repr=False)

    @property
    def attention_layers(self) -> int:
        """Number of blocks with attention kept: L, or 0 when extracted with ``queries=0`` or without heads."""
        return 0 if self.queries == 0 or self.n_heads == 0 else self.n_layers - 1

    @property
    def last_layer(self) -> str:
        """What layer L is, in words."""
        what = "LayerNorm output" if self.normed else "raw residual stream"
        return f"{what}, a final LayerNorm follows" if self.final_norm else f"{what}, the last hidden state"

    def layer(self, layer: int) -> NDArray[np.float32]:
        """Return a hidden state, (n_frames, n_neurons) float32, read-only and memory-mapped.

        Parameters
        ----------
        layer : int
            0 (the transformer's input) to L = ``n_layers - 1``.
        """
        self._check(layer, "layer", 0, self.n_layers - 1)
        return self._array(layer_file(layer))

    def final(self) -> NDArray[np.float32]:
        """Return the model's ``last_hidden_state``, (n_frames, n_neurons), memory-mapped.

        Where a LayerNorm follows the last block (pre-norm models) its output, else layer L.
        """
        return self._array(FINAL_FILE) if self.final_norm else self.layer(self.n_layers - 1)

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
            why = "extract with queries above 0" if self.n_heads else "the checkpoint has no heads"
            raise SslsimError(f"{self.checkpoint.name}: no attention in this store; {why}")
        self._check(layer, "attention layer", 1, self.attention_layers)
        self._check(u, "utterance", 0, len(self.index) - 1)
        flat = self._array(attention_file(layer))
        start, stop = self._attention_offsets[u : u + 2]
        return flat[start:stop].reshape(self.n_heads, -1, self._lengths[u])

    def query_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the attention rows kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return sampled(int(self._lengths[u]), self.queries)

    def frame_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the frames kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return sampled(int(self._lengths[u]), self.frames)

    def verify(self) -> None:
        """Read every byte and raise if one is not what was written."""
        for name in array_files(self):
            self._array(name, known=False)

    @cached_property
    def _attention_offsets(self) -> NDArray[np.int64]:
        return attention_offsets(self.index, self.n_heads)

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return self.index["length"].to_numpy(np.int64)  # a data frame takes longer to look up than a map to read

    @cached_property
    def _checksums(self) -> NDArray[np.uint32]:
        return np.load(self.root / CHECKSUM_FILE)

    def _array(self, name: str, known: bool = True) -> NDArray[np.float32]:
        """Map an array file; its bytes are checked the first time that this process maps it, or if not `known`."""
        path = self.root / name
        try:
            state = path.stat()
            key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
            if not known or key not in _VERIFIED:
                sums = self._checksums[:, list(array_files(self)).index(name)]
                damaged = next((u for u, crc in enumerate(checksums(self, name)) if crc != sums[u]), None)
                if damaged is not None:
                    where = f"the bytes of utterance {self.index.utterance.iat[damaged]!r} are"
                    raise SslsimError(f"store {str(self.root)!r}: {name}: {where} not those written; {_AGAIN}")
                _VERIFIED.add(key)
            with _READING:
                return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            if isinstance(error, SslsimError):
                raise
            raise SslsimError(f"store {str(self.root)!r}: {name} cannot be read ({error}); {_AGAIN}") from error

    def _check(self, value: int, what: str, low: int, high: int) -> None:
        if not low <= value <= high:
            raise SslsimError(f"{self.checkpoint.name}: no {what} {value}; there are {low} to {high}")

    def _repr_html_(self) -> str:
        checkpoint, seconds = self.checkpoint, self.index["n_samples"].sum() / SAMPLE_RATE
        rows = {
            "family": " ".join(filter(None, (checkpoint.family, checkpoint.size))) or "not named",
            "weights": checkpoint.weights,
            "checkpoint": f"{checkpoint.source} ({self.fingerprint[:12]})",
            "layers": f"0 to {self.n_layers - 1}; the last: {self.last_layer}",
            "audio": ", ".join(f"{key} {value}" for key, value in self.heard.items()),
            "neurons": f"{self.n_neurons:,}",
            "heads": f"{self.n_heads} in each of {self.attention_layers} blocks",
            "query rows": f"{self.queries} an utterance",
            "frames": f"{self.n_frames:,} of {len(self.index):,} utterances, {_lasting(seconds)}",
            "left out": f"{len(self.skipped):,} utterances",
            "on disk": f"{sum(int(extents(self, name)[-1]) for name in array_files(self)) / 1e6:,.1f} MB",
            "store": str(self.root),
        }
        cells = "".join(
            f'<tr><th scope="row">{key}</th><td>{html.escape(value)}</td></tr>' for key, value in rows.items()
        )
        return f"<table><caption>{html.escape(self.checkpoint.name)}</caption>{cells}</table>"


class Stores(Named[ActivationStore]):
    """Stores of the same utterances in the order of their lineup; in a notebook a table whose names complete."""

    PLACE = "these stores"

    @staticmethod
    def name_of(item: ActivationStore) -> str:
        """Name of the checkpoint."""
        return item.checkpoint.name

    def _repr_html_(self) -> str:
        columns = ["name", "family", "size", "weights", "layers", "neurons", "heads", "frames"]
        rows = [
            {
                **{name: getattr(store.checkpoint, name) for name in columns[:4]},
                **{"layers": store.n_layers, "neurons": store.n_neurons, "heads": store.n_heads},
                "frames": f"{store.n_frames:,}",
            }
            for store in self
        ]
        return as_html(columns, rows)


_READING = (
    threading.Lock()
)  # numpy reads headers with ast, which in Python 3.11 fails in two threads at a time (gh-106905)
_VERIFIED: set[tuple[str, int, int, int]] = set()  # array files whose bytes this process has checked
_AGAIN = "delete this folder and extract again"

STORE_FILE, INDEX_FILE, SKIPPED_FILE = "store.json", "index.csv", "skipped.csv"
FINAL_FILE, CHECKSUM_FILE = "final.npy", "checksums.npy"
TABLES = (INDEX_FILE, SKIPPED_FILE, CHECKSUM_FILE)  # small files, checked when a store is opened


def _lasting(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def layer_file(layer: int) -> str:
    """Return the file name of a hidden state."""
    return f"layer_{layer:02d}.npy"


def attention_file(layer: int) -> str:
    """Return the file name of a block's attention rows."""
    return f"attention_{layer:02d}.npy"


def sampled(length: int, wanted: int | str) -> NDArray[np.int64]:
    """Return which frames or query rows of an utterance of ``length`` frames are kept (``SAMPLE_RULE``)."""
    return spread(length, length if wanted == "all" else int(wanted))


def attention_offsets(index: pd.DataFrame, n_heads: int) -> NDArray[np.int64]:
    """Return where each utterance's block starts in the flat attention files, and last their length."""
    sizes = n_heads * index["n_rows"].to_numpy(np.int64) * index["length"].to_numpy(np.int64)
    return np.concatenate([[0], np.cumsum(sizes)])


def array_files(store: ActivationStore) -> dict[str, tuple[int, ...]]:
    """Return the array files of a store and their shapes, in the order of the columns of the checksums."""
    shape = (store.n_frames, store.n_neurons)
    flat = (int(attention_offsets(store.index, store.n_heads)[-1]),)
    names: dict[str, tuple[int, ...]] = {layer_file(i): shape for i in range(store.n_layers)}
    names |= {FINAL_FILE: shape} if store.final_norm else {}
    return names | {attention_file(i): flat for i in range(1, store.attention_layers + 1)}


def header(shape: tuple[int, ...]) -> bytes:
    """Return what stands before the numbers of an array file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def extents(store: ActivationStore, name: str) -> NDArray[np.int64]:
    """Return where each utterance's bytes begin in an array file, and last the size of the file."""
    shape = array_files(store)[name]
    if len(shape) == 1:
        places = attention_offsets(store.index, store.n_heads)
    else:
        places = np.append(store.index["start"].to_numpy(np.int64), store.n_frames) * store.n_neurons
    return 4 * places + len(header(shape))


def checksums(store: ActivationStore, name: str) -> Iterator[int]:
    """Yield the CRC-32 of each utterance's bytes in an array file, as the disk has them."""
    ends = extents(store, name)
    with (store.root / name).open("rb") as file:
        if file.read(int(ends[0])) != header(array_files(store)[name]):
            raise ValueError("its header is not the one written")
        for start, stop in zip(ends, ends[1:], strict=False):
            yield zlib.crc32(file.read(int(stop - start)))


def frame_key(index: pd.DataFrame, frames: int | str, queries: int | str) -> str:
    """Return the hash that is equal iff two stores hold the same frames and the same query rows."""
    parts = [FRAME_RULE, SAMPLE_RULE, str(frames), str(queries)]
    parts += [f"{r.utterance}\0{r.waveform}\0{r.length}" for r in index.itertuples()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


JSON_FIELDS = tuple(f.name for f in fields(ActivationStore) if f.name not in ("root", "checkpoint", "index", "skipped"))
"""The fields that ``store.json`` holds as they are."""
_TEXT_COLUMNS = {"utterance": str, "speaker": str, "waveform": str, "path": str, "reason": str}


def open_store(path: str | Path) -> ActivationStore:
    """Open a store that ``extract`` left; quick: nothing is read but the index.

    Raises
    ------
    SslsimError
        No store there, of another version, or a file missing, of another size than when written, or damaged.
    """
    root = Path(path)
    content, files, hashes = _read_description(root)
    for name, size in files.items():
        found = (root / name).stat().st_size if (root / name).is_file() else None
        if found != size:
            state = f"{found:,} bytes, not {size:,}" if found is not None else "missing"
            raise SslsimError(f"store {str(root)!r}: {name} is {state}; {_AGAIN}")
    for name in TABLES:
        if file_hash(root / name) != hashes.get(name):
            raise SslsimError(f"store {str(root)!r}: {name} is not as it was written; {_AGAIN}")
    options: dict[str, Any] = {"dtype": _TEXT_COLUMNS, "keep_default_na": False}
    index, skipped = (pd.read_csv(root / name, **options) for name in (INDEX_FILE, SKIPPED_FILE))
    return ActivationStore(root=root.absolute(), index=index, skipped=skipped, **content)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def description_hash(content: dict[str, Any]) -> str:
    """Return the hash that ``store.json`` holds of everything else in it."""
    rest = {key: value for key, value in content.items() if key != "hash"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_description(root: Path) -> tuple[dict[str, Any], dict[str, int], dict[str, str]]:
    """Return the store's fields, its files' sizes and its tables' hashes, as ``store.json`` tells them."""
    if not (root / STORE_FILE).is_file():
        within = sorted(file.parent.name for file in root.glob(f"[!.]*/{STORE_FILE}"))
        hint = f"; it holds the stores {', '.join(within)}" if within else ""
        raise SslsimError(f"store {str(root)!r}: no {STORE_FILE} there{hint}")
    try:
        content = json.loads((root / STORE_FILE).read_text(encoding="utf-8"))
        if content["version"] != STORE_VERSION:
            fault = f"version {content['version']}, this sslsim reads {STORE_VERSION}"
        elif content["hash"] == description_hash(content):
            plain = {name: content[name] for name in JSON_FIELDS}
            plain |= {"checkpoint": Checkpoint(**content["checkpoint"])}
            return plain, dict(content["files"]), dict(content["hashes"])
        else:
            fault = f"{STORE_FILE} is not as it was written"
    except (ValueError, KeyError, TypeError):
        fault = f"{STORE_FILE} is damaged"
    raise SslsimError(f"store {str(root)!r}: {fault}; {_AGAIN}")


def check_pairable(a: ActivationStore, b: ActivationStore) -> None:
    """Raise unless two stores hold the same frames of the same audio, and the same query rows."""
    if a.frame_key == b.frame_key:
        return
    name_a, name_b = a.checkpoint.name, b.checkpoint.name
    if a.frames != b.frames:
        what = f"{name_a} keeps {a.frames} frames an utterance, {name_b} {b.frames}; extract both with the same frames"
    elif a.n_frames != b.n_frames:
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
