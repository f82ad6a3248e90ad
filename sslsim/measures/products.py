"""Sums of products of layers' centred frames: the one pass over the data that all measures share.

Frames are read in chunks, put side by side for as many layers as are wanted, brought near zero and multiplied in the
dtype of the data (float32 for stored layers); chunks are summed in float64. The usual E[xy] - E[x]E[y] loses every
digit when means are large against deviations: here the mean, rounded to the dtype of the product, comes off each frame
first, and what the rounding left is taken out of the sums exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.arrays import Array, block, chunks, mean, multiply


@dataclass(frozen=True)
class Utterances:
    """Which frames are of one utterance, and which utterances form a group.

    Groups are runs of whole utterances of about the same length together, so that speakers who stand together stay
    together, or those of one label.
    """

    lengths: tuple[int, ...]  # frames of each utterance, in order
    n_groups: int = 5  # runs, at most
    labels: tuple[int, ...] | None = None  # group of each utterance, in place of runs

    @cached_property
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

    @cached_property
    def groups(self) -> list[list[slice]]:
        """Frames of every utterance, by group."""
        ends = np.cumsum(self.lengths).tolist()
        return [[slice(ends[u] - self.lengths[u], ends[u]) for u in group] for group in self.members]

    @cached_property
    def without(self) -> list[np.ndarray]:
        """Masks (n_frames,) of what is left without each group."""
        group_of = np.full(len(self.lengths), -1)
        for g, group in enumerate(self.members):
            group_of[group] = g
        return [np.repeat(group_of != g, self.lengths) for g in range(len(self.members))]

    @property
    def joined(self) -> Utterances:
        """The same groups, with neighbours of one group as one utterance: longer runs are quicker to read."""
        group_of = sorted((u, g) for g, group in enumerate(self.members) for u in group)
        runs = [(g, sum(self.lengths[u] for u, _ in run)) for g, run in groupby(group_of, key=lambda member: member[1])]
        labels, lengths = zip(*runs, strict=True)
        return Utterances(lengths, labels=labels)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Frames of each group."""
        return tuple(sum(self.lengths[u] for u in group) for group in self.members)


@dataclass(frozen=True)
class Means:
    """Mean of every neuron over all frames, and over each group of utterances (all frames, where none were given)."""

    whole: Tensor
    groups: tuple[Tensor, ...]

    @classmethod
    def of(cls, x: Array, utterances: Utterances | None = None, device: str | torch.device = "cpu") -> Means:
        """Read the layer once."""
        if utterances is None:
            whole = mean(x).to(device)
            return cls(whole, (whole,))
        sizes = torch.tensor(utterances.sizes, dtype=torch.float64)
        groups = [
            sum((run.stop - run.start) * mean(x, run) for run in group) / size
            for group, size in zip(utterances.joined.groups, sizes, strict=True)
        ]
        whole = sizes @ torch.stack(groups) / len(x)
        return cls(whole.to(device), tuple(group.to(device) for group in groups))


@dataclass(frozen=True)
class Products:
    """Sums of products of two layers' centred frames, (n_neurons_x, n_neurons_y), float64."""

    total: Tensor  # over all frames, about the means of all frames
    groups: tuple[Tensor, ...] = ()  # over each group of utterances, if any were given, about the means of the group
    sizes: tuple[int, ...] = ()  # frames of each group

    def part(self, rows: slice, columns: slice) -> Products:
        """Products of some neurons of x with some of y."""
        return Products(self.total[rows, columns], tuple(group[rows, columns] for group in self.groups), self.sizes)


class Side:
    """Layers (n_frames, n_neurons) on the same frames, side by side, read a chunk of frames at a time into one buffer.

    Their products run in `dtype`.
    """

    def __init__(self, layers: Sequence[Array], means: Sequence[Means], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        groups = zip(*(one.groups for one in means), strict=True)
        self.means = Means(torch.cat([one.whole for one in means]), tuple(torch.cat(group) for group in groups))
        ends = np.cumsum([0, *(layer.shape[1] for layer in layers)]).tolist()
        self.columns = [slice(a, b) for a, b in pairwise(ends)]
        self._buffer = torch.empty(0, ends[-1], dtype=dtype, device=self.means.whole.device)

    def near_zero(self, rows: slice, origin: Tensor) -> Tensor:
        """Frames of `rows` less `origin`, (n_rows, n_neurons); the next call overwrites them."""
        if len(self._buffer) < rows.stop - rows.start:
            self._buffer = self._buffer.new_empty(rows.stop - rows.start, self._buffer.shape[1])
        out = self._buffer[: rows.stop - rows.start]
        for layer, columns in zip(self.layers, self.columns, strict=True):
            part = layer[rows]
            if isinstance(part, np.ndarray) and out.device.type == "cpu":
                np.subtract(part, origin[columns].numpy(), out=out[:, columns].numpy())  # straight from a memory map
            else:
                out[:, columns].copy_(block(part, None)).sub_(origin[columns])
        return out


def cross_products(
    left: Side, right: Side | None, n: int, utterances: Utterances | None = None
) -> list[list[Products]]:
    """Products over n frames of every layer of `left` with every one of `right`; with `utterances`, of groups too.

    Right None is left itself, and then only layers from each one on are multiplied with it: entry [i][j] is layer i
    with layer i + j. Frames of a group are taken about the mean of the group, so that a neuron that does not vary there
    leaves nothing behind; sums about the means of all frames follow from the sums of frames.
    """
    other = right or left
    strips = [(rows, slice(rows.start, None)) for rows in ([slice(None)] if right else left.columns)]
    runs = utterances.groups if utterances else [[slice(0, n)]]
    sums = [_of_group(left, other, strips, g, run) for g, run in enumerate(runs)]
    sizes = utterances.sizes if utterances else ()
    made = [
        _assembled(left.means, other.means, strip, groups, sizes)
        for strip, groups in zip(strips, zip(*sums, strict=True), strict=True)
    ]
    if right:
        return [[made[0].part(rows, columns) for columns in right.columns] for rows in left.columns]
    return [
        [strip.part(slice(None), slice(c.start - first.start, c.stop - first.start)) for c in left.columns[i:]]
        for i, (strip, first) in enumerate(zip(made, left.columns, strict=True))
    ]


def _of_group(left: Side, right: Side, strips: list[tuple[slice, slice]], g: int, run: list[slice]) -> list[Tensor]:
    """Products over a group of utterances, about its means, of each pair of some columns of left and of right."""
    origin_x, origin_y = (side.means.groups[g].to(side.dtype) for side in (left, right))
    totals: list[Any] = [None] * len(strips)
    for span in run:
        sums: list[Any] = [None] * len(strips)
        for part in chunks(span.stop - span.start):
            rows = slice(span.start + part.start, span.start + part.stop)
            a = left.near_zero(rows, origin_x)
            b = a if right is left else right.near_zero(rows, origin_y)
            sums = [_plus(some, multiply(a[:, i].T, b[:, j])) for some, (i, j) in zip(sums, strips, strict=True)]
        totals = [_plus(total, some) for total, some in zip(totals, sums, strict=True)]
    n = sum(span.stop - span.start for span in run)
    rest_x = left.means.groups[g] - origin_x.double()  # of the mean, by its rounding to the dtype
    rest_y = right.means.groups[g] - origin_y.double()
    return [total.addr_(rest_x[i], rest_y[j], alpha=-n) for total, (i, j) in zip(totals, strips, strict=True)]


def _assembled(
    x: Means, y: Means, strip: tuple[slice, slice], groups: Sequence[Tensor], sizes: tuple[int, ...]
) -> Products:
    """Return sums over all frames from those of the groups; without sizes the one group is all frames."""
    if not sizes:
        return Products(groups[0])
    total: Any = None
    for group, mean_x, mean_y, n in zip(groups, x.groups, y.groups, sizes, strict=True):
        total = _plus(total, group.addr((mean_x - x.whole)[strip[0]], (mean_y - y.whole)[strip[1]], alpha=n))
    return Products(total, tuple(groups), sizes)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    """Sum in float64, into `total` where there is one."""
    return more.double() if total is None else total.add_(more)
