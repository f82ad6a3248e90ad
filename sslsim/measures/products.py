"""Sums of products of layers' centred frames: the one pass over the data that all measures share.

Frames are read in chunks, several layers side by side, and multiplied in the dtype of the data (float32 for stored
layers); chunks are summed in float64. The usual E[xy] - E[x]E[y] loses every digit when means are large against
deviations: here the mean, rounded to that dtype, comes off each frame first, and what the rounding left is taken out of
the sums exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.arrays import Array, block, chunks
from sslsim.parallel import once

WHOLE = 2**28  # bytes of centred frames that are kept, to be multiplied in several orders
Pairs = Sequence[tuple[int, int]]  # numbers of layers of two sides


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product (..., n, m) of (..., n, k) and (..., k, m), in their dtype.

    On one thread of a processor by numpy: its BLAS is as quick as that of torch with AVX2, a sixth quicker with
    AVX-512, and takes half the time for a matrix with its own transpose. On more, threads of both stand in one
    another's way.
    """
    if a.device.type != "cpu" or torch.get_num_threads() > 1:
        return a @ b
    with np.errstate(all="ignore"):  # torch is silent too, and what is not finite is refused by name
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))


@dataclass(frozen=True)
class Utterances:
    """Which frames are of one utterance, and which utterances form a group: runs of about one length, or one label."""

    lengths: tuple[int, ...]  # frames of each utterance, in order
    n_groups: int = 5  # runs, at most
    labels: tuple[int, ...] | None = None  # group of each utterance, in place of runs

    @once
    def members(self) -> list[list[int]]:
        """Numbers of the utterances of each group; as many groups as asked for where there are as many utterances."""
        some = [u for u, length in enumerate(self.lengths) if length]
        if self.labels is not None:
            return [[u for u in some if self.labels[u] == label] for label in sorted({self.labels[u] for u in some})]
        starts = (np.cumsum(self.lengths) - self.lengths).tolist()
        count, total = min(self.n_groups, len(some)), sum(self.lengths)
        cuts = [0]
        for g in range(1, count):  # where the cut is nearest, with an utterance at least for each group
            room = range(cuts[-1] + 1, len(some) - count + g + 1)
            cuts.append(min(room, key=lambda cut: abs(starts[some[cut]] * count - total * g)))
        return [some[a:b] for a, b in pairwise([*cuts, len(some)])] if some else []

    @once
    def masks(self) -> list[np.ndarray]:
        """Which frames each group has, (n_frames,)."""
        group_of = np.full(len(self.lengths), -1)
        for g, group in enumerate(self.members):
            group_of[group] = g
        return [np.repeat(group_of == g, self.lengths) for g in range(len(self.members))]

    @once
    def sizes(self) -> tuple[int, ...]:
        """Frames of each group."""
        return tuple(sum(self.lengths[u] for u in group) for group in self.members)


class Side:
    """Layers (n_frames, n_neurons) on the same frames, side by side, about their means, read a chunk at a time.

    Products run in `dtype`; `means` is of all neurons, float64. Where all frames are few they are kept for more
    products.
    """

    def __init__(self, layers: Sequence[Array], means: Tensor, dtype: torch.dtype) -> None:
        self.layers, self.means, self.dtype = layers, means, dtype
        self.origin = means.to(dtype)
        self.rest = means - self.origin.double()  # of the mean, by its rounding to the dtype
        ends = np.cumsum([0, *(layer.shape[1] for layer in layers)]).tolist()
        self.columns = [slice(a, b) for a, b in pairwise(ends)]
        self.n = len(layers[0])
        self._buffer = means.new_empty(0, ends[-1], dtype=dtype)
        self._whole: Tensor | None = None

    def near_zero(self, rows: slice | np.ndarray, order: np.ndarray | None = None) -> Tensor:
        """Frames less their mean, (n_rows, n_neurons), those at `rows` of an order; the next call overwrites them."""
        if self.n * self._buffer.shape[1] * self.origin.element_size() <= WHOLE:
            if self._whole is None:
                self._whole = self._read(slice(0, self.n))
            at = rows if order is None else order[rows]
            return self._whole[at if isinstance(at, slice) else torch.from_numpy(at)]
        return self._read(rows if order is None else order[rows])

    def varies(self, rows: np.ndarray) -> Tensor:
        """Which neurons vary over some frames, (n_neurons,)."""
        first = self.near_zero(rows[:1])[0].clone()
        return torch.stack([(self.near_zero(rows[some]) != first).any(0) for some in chunks(len(rows))]).any(0)

    def _read(self, rows: slice | np.ndarray) -> Tensor:
        n = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        if len(self._buffer) < n:
            self._buffer = self._buffer.new_empty(n, self._buffer.shape[1])
        out = self._buffer[:n]
        for layer, columns in zip(self.layers, self.columns, strict=True):
            part = layer[rows]
            if isinstance(part, np.ndarray) and out.device.type == "cpu":
                np.subtract(part, self.origin[columns].numpy(), out=out[:, columns].numpy())  # straight from the map
            else:
                out[:, columns].copy_(block(part, None)).sub_(self.origin[columns])
        return out


def cross_products(left: Side, right: Side, pairs: Pairs | None = None, order: np.ndarray | None = None) -> Tensor:
    """Products of layers' frames about their means, summed over all frames, float64.

    Of every layer of `left` with every one of `right`, (layers_x, layers_y, n_neurons_x, n_neurons_y), or, given
    `pairs` of their numbers, (pairs, n_neurons_x, n_neurons_y). In an `order` the frames of right stand in another one.
    """
    total = _summed(left, right, pairs, chunks(left.n), order)
    if pairs is not None:
        return _recentred(total, (left, right), pairs, (left.rest, right.rest), left.n)
    total.addr_(left.rest, right.rest, alpha=-left.n)
    sides = (len(left.columns), left.columns[0].stop, len(right.columns), right.columns[0].stop)
    return total.reshape(sides).transpose(1, 2)


def without_blocks(
    left: Side, right: Side, pairs: Pairs, blocks: Sequence[np.ndarray], wanted: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, for those `wanted` of the blocks (numbers of frames) that all frames fall into, what is left without each.

    Means of all neurons of left and of right, (n_neurons,), and products (pairs, n_neurons_x, n_neurons_y) about them,
    float64. All frames are multiplied once.
    """
    of_blocks, sums = [], []
    for rows in blocks:
        parts = [rows[part] for part in chunks(len(rows))]
        of_blocks.append(_summed(left, right, pairs, parts))
        sums.append([sum(side.near_zero(part).sum(0, dtype=torch.float64) for part in parts) for side in (left, right)])
    total, whole = sum(of_blocks), [sum(of_side) for of_side in zip(*sums, strict=True)]
    for g in wanted:
        n = left.n - len(blocks[g])
        rest = [(every - some) / n for every, some in zip(whole, sums[g], strict=True)]
        means = [side.origin.double() + one for side, one in zip((left, right), rest, strict=True)]
        yield *means, _recentred(total - of_blocks[g], (left, right), pairs, rest, n)


def _summed(
    left: Side, right: Side, pairs: Pairs | None, parts: Iterable[slice | np.ndarray], order: np.ndarray | None = None
) -> Tensor:
    """Sum products of near-zero frames over parts of them."""
    total = None
    for rows in parts:
        a = left.near_zero(rows)
        b = a if right is left and order is None else right.near_zero(rows, order)
        if pairs is None:
            part = product(a.T, b)
        else:
            part = torch.stack([product(a[:, left.columns[i]].T, b[:, right.columns[j]]) for i, j in pairs])
        total = part.double() if total is None else total.add_(part)
    assert total is not None
    return total


def _recentred(products: Tensor, sides: tuple[Side, Side], pairs: Pairs, means: Sequence[Tensor], n: int) -> Tensor:
    """Return products of n frames about the means of these, near 0."""
    for part, (i, j) in zip(products, pairs, strict=True):
        part.addr_(means[0][sides[0].columns[i]], means[1][sides[1].columns[j]], alpha=-n)
    return products
