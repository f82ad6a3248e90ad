"""The files of an activation store: a *shard* holds all arrays of a run of consecutive utterances, written once.

It is little-endian and without a header, as the sizes follow from the store's index: float32, every layer (and the
final one) on the shard's frames, (n_arrays, n_frames, n_neurons); float32, every block's attention rows, and in it
utterance after utterance (n_heads, n_rows, T); uint32, the CRC-32 of each row of each layer, then of each utterance's
rows in each block; uint32, the CRC-32 of these checksums. Each row has its checksum so that a comparison of every
fiftieth frame reads, and checks, every fiftieth frame.
"""

import mmap
import os
import platform
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslsim.encoders.encoder import Encoded

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

    @property
    def n_frames(self) -> int:
        """Rows of a layer in this shard."""
        return int(self.frames[-1])

    @property
    def sums(self) -> int:
        """Number of checksums."""
        return self.n_arrays * self.n_frames + self.n_maps * (len(self.maps) - 1)

    @property
    def numbers(self) -> int:
        """Number of float32 values."""
        return self.n_arrays * self.n_frames * self.n_neurons + self.n_maps * int(self.maps[-1])

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return 4 * (self.numbers + self.sums + 1)

    def rows_at(self, array: int, u: int = 0) -> int:
        """Return which checksum is that of the first row of an utterance, by its number in the shard, in a layer."""
        return array * self.n_frames + int(self.frames[u])

    def map_at(self, layer: int, u: int) -> tuple[int, slice]:
        """Return which checksum is that of an utterance's rows in a block (1 to L), and which values they are."""
        start = self.n_arrays * self.n_frames * self.n_neurons + (layer - 1) * int(self.maps[-1])
        sum_at = self.n_arrays * self.n_frames + (layer - 1) * (len(self.maps) - 1) + u
        return sum_at, slice(start + int(self.maps[u]), start + int(self.maps[u + 1]))


_CHECKED: dict[tuple, NDArray[np.bool_]] = {}  # by file, which of its checksums this process has found to hold


class ShardFile:
    """A shard's file, memory-mapped; what is read of it is checked the first time that this process reads it."""

    def __init__(self, path: Path, shard: Shard, *, afresh: bool = False) -> None:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_size != shard.size:
                raise ValueError(f"{state.st_size:,} bytes, not {shard.size:,}")
            content = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), "<f4")
        self._shard, self._values = shard, content[: shard.numbers]
        self._sums = content[shard.numbers :].view("<u4")
        key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
        if afresh or key not in _CHECKED:
            if zlib.crc32(self._sums[:-1].data) != self._sums[-1]:
                raise ValueError("its checksums are not those written")
            _CHECKED[key] = np.zeros(shard.sums, bool)
        self._checked = _CHECKED[key]

    def rows(self, array: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return rows of a layer, by their number in this shard."""
        shard, first = self._shard, self._shard.rows_at(array)
        start = first * shard.n_neurons
        values = self._values[start : start + shard.n_frames * shard.n_neurons].reshape(-1, shard.n_neurons)
        places = first + rows
        new = places[~self._checked[places]]
        if (row_sums(values, (new - first).tolist()) != self._sums[new]).any():
            raise ValueError("its bytes are not those written")
        self._checked[new] = True
        together = len(rows) and (np.diff(rows) == 1).all()
        return values[rows[0] : rows[-1] + 1] if together else values[rows]

    def attention(self, layer: int, u: int) -> NDArray[np.float32]:
        """Return one utterance's rows of a block's attention, flat."""
        place, part = self._shard.map_at(layer, u)
        values = self._values[part]
        if not self._checked[place]:
            if zlib.crc32(values.data) != self._sums[place]:
                raise ValueError("its bytes are not those written")
            self._checked[place] = True
        return values

    def verify(self) -> None:
        """Read and check all of it."""
        for array in range(self._shard.n_arrays):
            self.rows(array, np.arange(self._shard.n_frames))
        for layer, u in np.ndindex(self._shard.n_maps, len(self._shard.maps) - 1):
            self.attention(layer + 1, u)


def row_sums(values: NDArray[np.float32], rows: Iterable[int]) -> NDArray[np.uint32]:
    """Return the CRC-32 of some rows of an array."""
    content, width = values.reshape(-1).view("u1").data, values.shape[1] * 4
    return np.array([zlib.crc32(content[row * width : (row + 1) * width]) for row in rows], np.uint32)


def write_shard(path: Path, shard: Shard, utterances: Iterable[Encoded]) -> None:
    """Write the shard of these utterances, in their order, whole or not at all; one at a time is in memory."""
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    sums = np.zeros(shard.sums, "<u4")
    try:
        with part.open("xb", buffering=0) as file:
            for u, arrays in enumerate(utterances):
                for array, values in enumerate([*arrays.hidden, *([] if arrays.final is None else [arrays.final])]):
                    rows, first = np.ascontiguousarray(values, "<f4"), shard.rows_at(array, u)
                    sums[first : first + len(rows)] = row_sums(rows, range(len(rows)))
                    _write_at(file.fileno(), rows, first * shard.n_neurons)
                for layer, values in enumerate(arrays.attention, 1):
                    maps, (place, values_at) = np.ascontiguousarray(values, "<f4"), shard.map_at(layer, u)
                    sums[place] = zlib.crc32(maps.data)
                    _write_at(file.fileno(), maps, values_at.start)
            _write_at(file.fileno(), np.append(sums, np.uint32(zlib.crc32(sums.data))).astype("<u4"), shard.numbers)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_at(file: int, values: NDArray[Any], place: int) -> None:
    """Write numbers of 4 bytes: plain writes, not a memory map, where a full disk would kill the process."""
    content, place = values.reshape(-1).view("u1").data, 4 * place
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written
