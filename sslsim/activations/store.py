"""The activation store: what one checkpoint made of one corpus, written once and read memory-mapped.

Its folder holds ``store.json`` (version, checkpoint, fingerprints, rules, versions of libraries, hashes of the tables),
``index.csv`` (one row an utterance), ``skipped.csv`` (utterances that could not be used, and why) and
``shard_0000.bin`` and on (hidden states and attention rows, see `activations.shards`). Every byte is under a checksum:
the small files are checked by ``open_store``, numbers when first read in a process, all of them by ``verify``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.shards import FRAME_RULE, Shard, ShardFile, shard_file
from sslsim.encoders.lineage import Lineage
from sslsim.encoders.lineup import ByName, Checkpoint
from sslsim.errors import SslsimError
from sslsim.parallel import once
from sslsim.resources import digest
from sslsim.speech.positions import RULE, positions
from sslsim.speech.recording import Clock

STORE_VERSION = 6  # raised by one whenever the layout or the meaning of a file changes
RULES = {"version": STORE_VERSION, "frame_rule": FRAME_RULE, "position_rule": RULE}
STORE_FILE = "store.json"
TABLES = {"index": "index.csv", "skipped": "skipped.csv"}
AGAIN = "delete this folder and extract again"
_TEXT_COLUMNS = {"utterance": str, "speaker": str, "waveform": str, "path": str, "reason": str}


@dataclass(frozen=True, eq=False)
class ActivationStore:
    """Hidden states and attention rows of one checkpoint over one corpus.

    What the checkpoint is like is told as in `Anatomy`. `index` has one row an utterance: utterance, speaker,
    recording, begin and end (its place in its file), n_samples, waveform (content hash of its samples), length (T,
    frames that the encoder makes of it), n_frames (frames kept), start (its first frame's row in a layer), n_rows
    (attention query rows kept). `skipped` has one of each that is not there: utterance, path, reason.
    """

    root: Path  # the folder
    checkpoint: Checkpoint
    n_layers: int
    n_neurons: int
    n_heads: int
    n_frames: int  # rows of every layer
    fingerprint: str  # hash of the content of the checkpoint
    corpus_fingerprint: str  # and of the audio
    segmentation: dict[str, float]  # how recordings were cut, see `Segmentation`
    normed: bool
    input_normed: bool
    final_norm: bool
    input: dict[str, Any]
    parameters: int
    dtype: str  # what the encoder computed in; stored are float32 numbers
    site: str  # hidden, or ffn: units of feed-forward layers
    frames: int | None  # most frames that were to be kept in all; None: all
    queries: int | None  # and rows of attention for each utterance, on average
    frame_stride: float  # one frame in so many is kept, at the positions of `speech.positions`
    query_stride: float  # and one row of attention in so many
    frame_key: str  # hash of utterances and of what is kept of them: two stores can be paired iff it is equal
    versions: dict[str, str]  # of the libraries, and the kind of processor, that made it
    shards: list[int] = field(repr=False)  # the first utterance of each file
    index: pd.DataFrame = field(repr=False)
    clock: Clock = field(default=Clock(), kw_only=True)  # when its frames are
    skipped: pd.DataFrame = field(repr=False)

    unit = "frame"  # what a row is; others have the stores of `units`

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return self.checkpoint.name

    @property
    def layer_numbers(self) -> range:
        """Numbers of the layers: 0 to L, or 1 to L of units of feed-forward layers."""
        return range(self.n_layers) if self.site == "hidden" else range(1, self.n_layers + 1)

    @property
    def attention_layers(self) -> int:
        """Number of blocks with attention kept: L, or 0 when extracted with ``queries=0`` or without heads."""
        return 0 if self.queries == 0 or self.n_heads == 0 else self.n_layers - 1

    def layer(self, layer: int) -> "StoredLayer":
        """Return a layer, (n_frames, n_neurons) float32: 0 is the transformer's input, 1 to L its blocks."""
        self._check(layer, "layer", self.layer_numbers[0], self.layer_numbers[-1])
        return StoredLayer(self, layer)

    def final(self) -> "StoredLayer":
        """Return the model's last hidden state: of the LayerNorm that follows the last block, else layer L."""
        if self.site != "hidden":
            raise SslsimError(f"{self.name}: units of feed-forward layers have no final hidden state; take site hidden")
        return StoredLayer(self, self.n_layers if self.final_norm else self.n_layers - 1)

    def attention(self, layer: int, u: int) -> NDArray[np.float32]:
        """Return attention rows of the utterance at place `u` of the index in block `layer`, 1 to ``attention_layers``.

        They are (n_heads, n_rows, T), memory-mapped: row r is the distribution over the T keys of query frame
        ``query_rows(u)[r]``.
        """
        if self.attention_layers == 0:
            why = "extract with queries above 0" if self.n_heads else f"the checkpoint has no heads (site {self.site})"
            raise SslsimError(f"{self.name}: no attention in this store; {why}")
        self._check(layer, "attention layer", 1, self.attention_layers)
        self._check(u, "utterance", 0, len(self.index) - 1)
        number = int(np.searchsorted(self.shards, u, side="right")) - 1
        flat = self._shard(number, lambda file: file.attention(layer, u - self.shards[number]))
        return flat.reshape(self.n_heads, -1, self._lengths[u])

    def query_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the attention rows kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return positions(int(self._lengths[u]), self.query_stride)

    def frame_rows(self, u: int) -> NDArray[np.int64]:
        """Return the frame numbers, within utterance ``u``, of the frames kept."""
        self._check(u, "utterance", 0, len(self.index) - 1)
        return positions(int(self._lengths[u]), self.frame_stride)

    def times(self, u: int) -> NDArray[np.float64]:
        """Return when the frames kept of utterance ``u`` are centred, in seconds from its beginning."""
        return self.clock.times(self.frame_rows(u))

    def verify(self) -> None:
        """Read every byte and raise if one is not what was written."""
        for number in range(len(self.shards)):
            self._shard(number, lambda file: file.verify(), afresh=True)

    @once
    def layouts(self) -> list[Shard]:
        """Where in each shard its arrays lie."""
        frames, rows = (self.index[column].to_numpy(np.int64) for column in ("n_frames", "n_rows"))
        maps = self.n_heads * rows * self._lengths
        arrays = self.n_layers + self.final_norm, self.n_neurons, self.attention_layers
        return [Shard(*arrays, _ends(frames[part]), _ends(maps[part])) for part in self.parts]

    @property
    def parts(self) -> list[slice]:
        """Which utterances each shard has."""
        return list(map(slice, self.shards, [*self.shards[1:], None]))

    @once
    def _lengths(self) -> NDArray[np.int64]:
        return self.index["length"].to_numpy(np.int64)  # a data frame takes longer to look up than a map to read

    @once
    def _frames(self) -> NDArray[np.int64]:
        """Where the frames of each shard begin, and last how many there are."""
        return _ends(np.array([shard.frames[-1] for shard in self.layouts]))

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


_IN_JSON = [f.name for f in fields(ActivationStore) if f.name not in ("root", "checkpoint", "clock", *TABLES)]


@dataclass(frozen=True, eq=False)
class StoredLayer:
    """A layer in a store: ``layer[rows]`` and ``layer[rows, neuron]`` read, check and give an array."""

    store: ActivationStore
    layer: int  # one more than the last for the final one

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and neurons."""
        return len(self), self.store.n_neurons

    def __len__(self) -> int:
        return self.store.n_frames

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        rows, *columns = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(column, slice | int | np.integer) for column in columns):
            raise IndexError("of the neurons of a layer in a store take one or a slice; index what it gives for others")
        wanted = np.arange(self.store.n_frames)[rows]
        read = self.store._rows(self.layer - self.store.layer_numbers[0], wanted.reshape(-1), tuple(columns))
        return read.reshape(wanted.shape + read.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[:], np.float32 if dtype is None else dtype, copy=copy)


class Stores(ByName[ActivationStore]):
    """Stores of the same utterances in the order of their lineup; in a notebook a table."""

    @property
    def lineage(self) -> Lineage:
        """What the checkpoints are to each other."""
        return Lineage(tuple(store.checkpoint for store in self))

    def only(self, names: Sequence[str]) -> "Stores":
        """Return the stores of these checkpoints, in their own order."""
        chosen = [self[name] for name in names]
        return Stores(store for store in self if store in chosen)

    def _repr_html_(self) -> str:
        said = {name: [getattr(s.checkpoint, name) for s in self] for name in ("name", "family", "size", "weights")}
        said |= {name: [getattr(s, f"n_{name}") for s in self] for name in ("layers", "neurons", "heads", "frames")}
        return pd.DataFrame(said).to_html(index=False)


def _ends(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of some parts begins, one after another, and last their whole size."""
    return np.concatenate([[0], np.cumsum(sizes)])


def described(store: ActivationStore) -> dict[str, bytes]:
    """Return the small files of a store, by name; the description last."""
    how: dict[str, Any] = {"index": False, "lineterminator": "\r\n"}
    tables = {file: getattr(store, name).to_csv(**how).encode() for name, file in TABLES.items()}
    content = RULES | {name: getattr(store, name) for name in _IN_JSON}
    content |= {name: asdict(getattr(store, name)) for name in ("checkpoint", "clock")}
    content |= {"hashes": {file: digest(table) for file, table in tables.items()}}
    return tables | {STORE_FILE: (json.dumps(signed(content), indent=2) + "\n").encode()}


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a JSON file is to hold with a hash of all of it."""
    rest = {key: value for key, value in content.items() if key != "hash"}
    return rest | {"hash": digest(json.dumps(rest, sort_keys=True).encode())}


def open_store(path: str | Path) -> ActivationStore:
    """Open a store that ``extract`` left; quick: nothing is read but the index.

    A store that is not there or of another version, or a file that is missing, damaged or of another size is an error.
    """
    root = Path(path)
    plain, hashes = _read_description(root)
    tables = {}
    for name, file in TABLES.items():
        content = (root / file).read_bytes() if (root / file).is_file() else b""
        if digest(content) != hashes.get(file):
            raise SslsimError(f"store {str(root)!r}: {file} is not as it was written; {AGAIN}")
        tables[name] = pd.read_csv(root / file, dtype=_TEXT_COLUMNS, keep_default_na=False)  # type: ignore[arg-type]
    store = ActivationStore(root=root.absolute(), **tables, **plain)
    for number, layout in enumerate(store.layouts):
        path = root / shard_file(number)
        found = path.stat().st_size if path.is_file() else None
        if found != layout.size:
            state = f"{found:,} bytes, not {layout.size:,}" if found is not None else "missing"
            raise SslsimError(f"store {str(root)!r}: {path.name} is {state}; {AGAIN}")
    return store


def open_asked(root: Path, checkpoint: Checkpoint, asked: Mapping[str, Any]) -> ActivationStore:
    """Open the store that is where one with these fields belongs, by that name; one that has others is an error."""
    store = open_store(root)
    for name, wanted in asked.items():
        if (found := getattr(store, name)) != wanted:
            fault = f"its {name.replace('_', ' ')} is {found}, not {wanted} as asked for"
            raise SslsimError(f"store {str(root)!r}: {fault}; another store is in its place, move that away")
    return replace(store, checkpoint=checkpoint)


def _read_description(root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the store's fields and its tables' hashes, as ``store.json`` tells them."""
    if not (root / STORE_FILE).is_file():
        within = sorted(file.parent.name for file in root.glob(f"[!.]*/{STORE_FILE}"))
        hint = f"; it holds the stores {', '.join(within)}" if within else ""
        raise SslsimError(f"store {str(root)!r}: no {STORE_FILE} there{hint}")
    try:
        content = json.loads((root / STORE_FILE).read_text(encoding="utf-8"))
        if other := [name for name, rule in RULES.items() if content[name] != rule]:
            fault = f"{other[0]} {content[other[0]]}, this sslsim reads {RULES[other[0]]}"
        elif content == signed(content):
            plain = {name: content[name] for name in _IN_JSON}
            made = {"checkpoint": Checkpoint(**content["checkpoint"]), "clock": Clock(**content["clock"])}
            return plain | made, dict(content["hashes"])
        else:
            fault = f"{STORE_FILE} is not as it was written"
    except (ValueError, KeyError, TypeError):
        fault = f"{STORE_FILE} is damaged"
    raise SslsimError(f"store {str(root)!r}: {fault}; {AGAIN}")
