"""The activation store: what one checkpoint made of one corpus, written once and read memory-mapped.

Layout of a store folder::

    store.json            version, checkpoint, fingerprints, rules, versions of libraries, hashes of the tables
    index.csv             one row an utterance
    skipped.csv           utterances of the corpus that could not be used, and why
    shard_0000.bin ...    hidden states and attention rows, see `activations.shards`

Every byte is under a checksum. The small files are checked by ``open_store``; numbers where they are read, for the
first time in a process, and all of them by ``verify``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.shards import Shard, ShardFile, shard_file
from sslsim.encoders.lineage import Lineage
from sslsim.encoders.lineup import ByName, Checkpoint
from sslsim.errors import SslsimError
from sslsim.speech.recording import spread

SAMPLE_RULE = "all T frames of an utterance where T <= N, else frames floor((2 i + 1) T / (2 N)), i = 0..N-1"
"""How both the frames kept (N = frames_per_utterance) and the attention query rows (N = queries) are chosen."""
AGAIN = "delete this folder and extract again"


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """Hidden states and attention rows of one checkpoint over one corpus.

    Attributes
    ----------
    root : Path
        The folder.
    checkpoint : Checkpoint
        What was run.
    n_layers, n_neurons, n_heads, normed, input_normed, final_norm, input, parameters
        What it is like, see `encoders.Anatomy`.
    n_frames : int
        Rows of every layer.
    fingerprint, corpus_fingerprint : str
        Content hash of the checkpoint and of the audio.
    dtype : str
        What the encoder computed in; stored are float32 numbers.
    frames_per_utterance, queries : int or None
        Most frames and most attention query rows kept of an utterance; None: all.
    frame_key : str
        Hash of utterance ids, waveforms, frame and row rule: two stores can be paired iff it is equal.
    versions : dict
        Versions of the libraries, and the kind of processor, that made it.
    shards : list of int
        The first utterance of each file.
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
    input: dict[str, Any]
    parameters: int
    dtype: str
    frames_per_utterance: int | None
    queries: int | None
    frame_key: str
    versions: dict[str, str]
    shards: list[int] = field(repr=False)
    index: pd.DataFrame = field(repr=False)
    skipped: pd.DataFrame = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return self.checkpoint.name

    @property
    def attention_layers(self) -> int:
        """Number of blocks with attention kept: L, or 0 when extracted with ``queries=0`` or without heads."""
        return 0 if self.queries == 0 or self.n_heads == 0 else self.n_layers - 1

    def layer(self, layer: int) -> StoredLayer:
        """Return a hidden state, (n_frames, n_neurons) float32: 0 is the transformer's input, 1 to L its blocks."""
        self._check(layer, "layer", 0, self.n_layers - 1)
        return StoredLayer(self, layer)

    def final(self) -> StoredLayer:
        """Return the model's last hidden state: of the LayerNorm that follows the last block, else layer L."""
        return StoredLayer(self, self.n_layers if self.final_norm else self.n_layers - 1)

    def attention(self, layer: int, u: int) -> NDArray[np.float32]:
        """Return attention rows of the utterance at place `u` of the index, (n_heads, n_rows, T), memory-mapped.

        `layer` is the block, 1 to ``attention_layers``. Row r is the distribution over the T keys of query frame
        ``query_rows(u)[r]``.
        """
        if self.attention_layers == 0:
            why = "extract with queries above 0" if self.n_heads else "the checkpoint has no heads"
            raise SslsimError(f"{self.name}: no attention in this store; {why}")
        self._check(layer, "attention layer", 1, self.attention_layers)
        self._check(u, "utterance", 0, len(self.index) - 1)
        number = int(np.searchsorted(self.shards, u, side="right")) - 1
        flat = self._shard(number, lambda file: file.attention(layer, u - self.shards[number]))
        return flat.reshape(self.n_heads, -1, self._lengths[u])

    def query_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the attention rows kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return sampled(int(self._lengths[u]), self.queries)

    def frame_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the frames kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return sampled(int(self._lengths[u]), self.frames_per_utterance)

    def verify(self) -> None:
        """Read every byte and raise if one is not what was written."""
        for number in range(len(self.shards)):
            self._shard(number, lambda file: file.verify(), afresh=True)

    @cached_property
    def layouts(self) -> list[Shard]:
        """Where in each shard its arrays lie."""
        frames, rows = (self.index[column].to_numpy(np.int64) for column in ("n_frames", "n_rows"))
        maps = self.n_heads * rows * self._lengths
        n_arrays = self.n_layers + self.final_norm
        return [
            Shard(n_arrays, self.n_neurons, self.attention_layers, _ends(frames[part]), _ends(maps[part]))
            for part in map(slice, self.shards, [*self.shards[1:], None])
        ]

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return self.index["length"].to_numpy(np.int64)  # a data frame takes longer to look up than a map to read

    @cached_property
    def _frames(self) -> NDArray[np.int64]:
        """Where the frames of each shard begin, and last how many there are."""
        return _ends(np.array([shard.n_frames for shard in self.layouts]))

    def _rows(self, array: int, rows: NDArray[np.int64], columns: tuple) -> NDArray[np.float32]:
        """Read rows of a layer from the shards that have them."""
        numbers = np.searchsorted(self._frames, rows, side="right") - 1
        out = np.empty((len(rows), self.n_neurons), np.float32)[(slice(None), *columns)]
        for number in np.unique(numbers).tolist():
            at = np.flatnonzero(numbers == number)
            local = rows[at] - self._frames[number]
            read = self._shard(number, lambda file, local=local: file.rows(array, local))[(slice(None), *columns)]
            if len(at) == len(rows):
                return read
            out[at] = read
        return out

    def _shard(self, number: int, read: Any, afresh: bool = False) -> Any:
        """Open a shard and read from it; what is wrong with it is said in terms of the store."""
        path = self.root / shard_file(number)
        try:
            return read(ShardFile(path, self.layouts[number], afresh=afresh))
        except (OSError, ValueError) as error:
            raise SslsimError(f"store {str(self.root)!r}: {path.name}: {error}; {AGAIN}") from error

    def _check(self, value: int, what: str, low: int, high: int) -> None:
        if not low <= value <= high:
            raise SslsimError(f"{self.name}: no {what} {value}; there are {low} to {high}")


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer in a store: ``layer[rows]`` and ``layer[rows, neuron]`` read, check and give an array."""

    store: ActivationStore
    array: int

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and neurons."""
        return self.store.n_frames, self.store.n_neurons

    def __len__(self) -> int:
        return self.store.n_frames

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        rows, *columns = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(column, slice | int | np.integer) for column in columns):
            raise IndexError("of the neurons of a layer in a store take one or a slice; index what it gives for others")
        wanted = np.arange(len(self))[rows]
        read = self.store._rows(self.array, wanted.reshape(-1), tuple(columns))
        return read.reshape(wanted.shape + read.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(np.float32 if dtype is None else dtype, copy=False)


class Stores(ByName[ActivationStore]):
    """Stores of the same utterances in the order of their lineup; in a notebook a table."""

    @property
    def lineage(self) -> Lineage:
        """What the checkpoints are to each other."""
        return Lineage(tuple(store.checkpoint for store in self))

    def only(self, names: Sequence[str]) -> Stores:
        """Return the stores of these checkpoints, in their own order."""
        chosen = [self[name] for name in names]
        return Stores(store for store in self if store in chosen)

    def _repr_html_(self) -> str:
        columns = ["name", "family", "size", "weights", "layers", "neurons", "heads", "frames"]
        rows = [
            (s.name, s.checkpoint.family, s.checkpoint.size, s.checkpoint.weights)
            + (s.n_layers, s.n_neurons, s.n_heads, s.n_frames)
            for s in self
        ]
        return pd.DataFrame(rows, columns=columns).to_html(index=False)


def sampled(length: int, wanted: int | None) -> NDArray[np.int64]:
    """Return which frames or query rows of an utterance of ``length`` frames are kept (``SAMPLE_RULE``)."""
    return spread(length, length if wanted is None else wanted)


def _ends(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some parts begins, one after another, and last their whole size."""
    return np.concatenate([[0], np.cumsum(sizes)])
