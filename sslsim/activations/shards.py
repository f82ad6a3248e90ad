"""The files of an activation store: a *shard* holds all arrays of a run of consecutive utterances, written once.

It is little-endian and without a header, as the sizes follow from the store's index: float32, every layer (and the
final one) on the shard's frames, (n_arrays, n_frames, n_neurons); float32, every block's attention rows, and in it
utterance after utterance (n_heads, n_rows, T); uint32, the CRC-32 of each row of each layer, then of each utterance's
rows in each block; uint32, the CRC-32 of these checksums. Each row has its checksum so that a comparison of every
fiftieth frame reads, and checks, every fiftieth frame.
"""

import math
import mmap
import os
import platform
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.encoders.encoder import Encoded
from sslsim.parallel import once
from sslsim.resources import digest
from sslsim.speech.positions import RULE, positions, stride_for
from sslsim.speech.recording import Clock

FRAME_RULE = "the centre of frame i is sample hop i + centre at the rate of the clock"
CLOCK = Clock()
SHARD_SECONDS = 30.0  # of audio in one shard: what is lost of each worker's when it is interrupted
MOST = 256  # shards of a store: beyond, they grow with the corpus


def cut(seconds: Sequence[float]) -> list[int]:
    """Cut utterances of these lengths into shards: the number of the first utterance of each."""
    most, firsts, held = max(SHARD_SECONDS, sum(seconds) / MOST), [0], 0.0
    for u, length in enumerate(seconds):
        if u > firsts[-1] and held + length > most:
            firsts.append(u)
            held = 0.0
        held += length
    return firsts


def keeping(
    index: pd.DataFrame, frames: int | None, queries: int | None, *, heads: bool, clock: Clock = CLOCK
) -> dict[str, Any]:
    """Return what a store says of its frames, given its index without them, and how many are to be kept."""
    lengths = index["length"].tolist()
    strides = stride_for(lengths, frames), stride_for(lengths, None if queries is None else queries * len(lengths))
    kept, rows = ([len(positions(n, stride)) for n in lengths] for stride in strides)
    index = index.assign(n_frames=kept, start=np.cumsum(kept) - kept, n_rows=rows if heads else 0)
    parts = [FRAME_RULE, str(clock), RULE, *map(str, strides)]
    parts += [f"{r.utterance}\0{r.waveform}\0{r.length}" for r in index.itertuples()]
    key = digest("\n".join(parts).encode())
    asked = {"frames": frames, "queries": queries, "frame_stride": strides[0], "query_stride": strides[1]}
    shards = cut([n * clock.hop / clock.rate for n in lengths])
    return asked | {"n_frames": sum(kept), "frame_key": key, "index": index, "shards": shards}


def shard_file(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard_{number:04d}.bin"


@dataclass(frozen=True, eq=False)
class Shard:
    """Where in a shard's file its arrays lie."""

    n_arrays: int  # layers, with the final one where there is one
    n_neurons: int
    n_maps: int  # blocks whose attention is kept
    frames: NDArray[np.int64]  # where each utterance's begin among the shard's, and last how many there are
    maps: NDArray[np.int64]  # the same of its numbers within one block's attention

    @once
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of layers, attention, checksums of either, and the last checksum; every number has 4 bytes."""
        n, m = int(self.frames[-1]), int(self.maps[-1])
        numbers = (self.n_arrays, n, self.n_neurons), (self.n_maps, m)
        return [*numbers, (self.n_arrays, n), (self.n_maps, len(self.maps) - 1), (1,)]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return 4 * sum(map(math.prod, self.shapes))


def _split(content: NDArray[Any], shapes: Sequence[tuple[int, ...]]) -> list[NDArray[Any]]:
    """Return arrays of these shapes that lie one after another."""
    ends = accumulate(map(math.prod, shapes))
    return [content[end - math.prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True)]


_CHECKED: dict[tuple, list[NDArray[np.bool_]]] = {}  # by file, which of its checksums this process has found to hold


class ShardFile:
    """A shard's file, memory-mapped; what is read of it is checked the first time that this process reads it."""

    def __init__(self, path: Path, shard: Shard, *, afresh: bool = False) -> None:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_size != shard.size:
                raise ValueError(f"{state.st_size:,} bytes, not {shard.size:,}")
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), "<f4")
        self._shard = shard
        self._layers, self._maps, *sums = _split(content, shard.shapes)
        self._row_sums, self._map_sums, last = (part.view("<u4") for part in sums)
        key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
        if afresh or key not in _CHECKED:
            if zlib.crc32(self._map_sums.data, zlib.crc32(self._row_sums.data)) != last[0]:
                raise ValueError("its checksums are not those written")
            _CHECKED[key] = [np.zeros(part.shape, bool) for part in (self._row_sums, self._map_sums)]
        self._rows_checked, self._maps_checked = _CHECKED[key]

    def rows(self, array: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of a layer, by their number in this shard."""
        values, checked = self._layers[array], self._rows_checked[array]
        new = rows[~checked[rows]]
        if (row_sums(values, new.tolist()) != self._row_sums[array, new]).any():
            raise ValueError("its bytes are not those written")
        checked[new] = True
        together = len(rows) and (np.diff(rows) == 1).all()
        return values[rows[0] : rows[-1] + 1] if together else values[rows]

    def attention(self, layer: int, u: int) -> NDArray[np.float32]:
        """Return one utterance's rows of a block's attention, flat."""
        place, (begin, end) = (layer - 1, u), self._shard.maps[u : u + 2]
        values = self._maps[layer - 1, begin:end]
        if not self._maps_checked[place]:
            if zlib.crc32(values.data) != self._map_sums[place]:
                raise ValueError("its bytes are not those written")
            self._maps_checked[place] = True
        return values

    def verify(self) -> None:
        """Read and check all of it."""
        for array, values in enumerate(self._layers):
            self.rows(array, np.arange(len(values)))
        for layer, u in np.ndindex(self._map_sums.shape):
            self.attention(layer + 1, u)


def row_sums(values: NDArray[np.float32], rows: Iterable[int]) -> NDArray[np.uint32]:
    """Return the CRC-32 of some rows of an array."""
    content, width = values.reshape(-1).view("u1").data, values.shape[1] * 4
    return np.array([zlib.crc32(content[row * width : (row + 1) * width]) for row in rows], np.uint32)


def write_shard(path: Path, shard: Shard, utterances: Iterable[Encoded]) -> None:
    """Write the shard of these utterances, in their order, whole or not at all; one at a time is in memory."""
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    layers, maps, *shapes = shard.shapes
    sums = np.zeros(sum(map(math.prod, shapes)), "<u4")
    of_rows, of_maps, last = _split(sums, shapes)
    try:
        with part.open("xb", buffering=0) as file:
            for u, arrays in enumerate(utterances):
                first, begin = int(shard.frames[u]), math.prod(layers) + int(shard.maps[u])
                for array, values in enumerate([*arrays.hidden, *([] if arrays.final is None else [arrays.final])]):
                    rows = np.ascontiguousarray(values, "<f4")
                    of_rows[array, first : first + len(rows)] = row_sums(rows, range(len(rows)))
                    _write_at(file.fileno(), rows, (array * layers[1] + first) * layers[2])
                for layer, values in enumerate(np.ascontiguousarray(arrays.attention, "<f4")):
                    of_maps[layer, u] = zlib.crc32(values.data)
                    _write_at(file.fileno(), values, begin + layer * maps[1])
            last[:] = zlib.crc32(sums[:-1].data)
            _write_at(file.fileno(), sums, math.prod(layers) + math.prod(maps))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_at(file: int, values: NDArray[Any], place: int) -> None:
    """Write numbers of 4 bytes: plain writes, not a memory map, where a full disk would kill the process."""
    content, place = values.reshape(-1).view("u1").data, 4 * place
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written
