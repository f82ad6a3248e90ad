"""Sums of products of layers' centred frames: the one pass over the data that all measures share.

Frames are read in chunks, put side by side for as many layers as are wanted, brought near zero and multiplied in the
dtype of the data (float32 for stored layers); chunks are summed in float64. The usual E[xy] - E[x]E[y] loses every
digit when means are large against deviations: here the mean, rounded to the dtype of the product, comes off each frame
first, and what the rounding left is taken out of the sums exactly.

Told which frames belong to which utterance, sums are also kept for each group of utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.arrays import Array, block, chunks, mean, multiply


@dataclass(frozen=True)
class Utterances:
    """Which frames are of one utterance, and which utterances form a group.

    Attributes
    ----------
    lengths : tuple of int
        Number of frames of each utterance, in order.
    n_groups : int
        Groups are runs of whole utterances of about the same length together, so that speakers who stand together stay
        together; at most this many.
    labels : tuple of int, optional
        Group of each utterance, in place of such runs.
    """

    lengths: tuple[int, ...]
    n_groups: int = 5
    labels: tuple[int, ...] | None = None

    @cached_property
    def members(self) -> list[list[int]]:
        """Numbers of the utterances of each group; as many groups as asked for where there are as many utterances."""
        some = [u for u, length in enumerate(self.lengths) if length]
        if self.labels is not None:
            labelled = {label: [u for u in some if self.labels[u] == label] for label in sorted(set(self.labels))}
            return [group for group in labelled.values() if group]
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
        masks = np.ones((len(self.groups), sum(self.lengths)), dtype=bool)
        for mask, group in zip(masks, self.groups, strict=True):
            for span in group:
                mask[span] = False
        return list(masks)

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
        """Read the layer once; an error names the first frame that is not finite."""
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

    @classmethod
    def side_by_side(cls, means: Sequence[Means]) -> Means:
        """Means of layers whose neurons stand side by side."""
        groups = zip(*(m.groups for m in means), strict=True)
        return cls(torch.cat([m.whole for m in means]), tuple(torch.cat(group) for group in groups))


@dataclass(frozen=True)
class Products:
    """Sums of products of two layers' centred frames, float64.

    Attributes
    ----------
    total : Tensor of shape (n_neurons_x, n_neurons_y)
        Over all frames, about the means of all frames.
    groups : tuple of Tensor
        Over each group of utterances, about the means of the group; empty if no utterances were given.
    sizes : tuple of int
        Frames of each group.
    """

    total: Tensor
    groups: tuple[Tensor, ...] = ()
    sizes: tuple[int, ...] = ()

    def part(self, rows: slice, columns: slice) -> Products:
        """Products of some neurons of x with some of y."""
        return Products(self.total[rows, columns], tuple(group[rows, columns] for group in self.groups), self.sizes)


class Side:
    """Layers side by side, read a chunk of frames at a time into one buffer.

    Parameters
    ----------
    layers : sequence of arrays of shape (n_frames, n_neurons)
        On the same frames.
    means : sequence of Means
        Of each layer.
    dtype : torch.dtype
        Of the products.
    """

    def __init__(self, layers: Sequence[Array], means: Sequence[Means], dtype: torch.dtype) -> None:
        self.layers, self.dtype = layers, dtype
        self.means = Means.side_by_side(means)
        ends = np.cumsum([0, *(layer.shape[1] for layer in layers)]).tolist()
        self.columns = [slice(a, b) for a, b in pairwise(ends)]
        self._buffer = self._empty(0)

    def _empty(self, n: int) -> Tensor:
        return torch.empty(n, len(self.means.whole), dtype=self.dtype, device=self.means.whole.device)

    def near_zero(self, rows: slice, origin: Tensor) -> Tensor:
        """Frames of `rows` less `origin`, (n_rows, n_neurons); the next call overwrites them."""
        if len(self._buffer) < rows.stop - rows.start:
            self._buffer = self._empty(rows.stop - rows.start)
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
    """Products of every layer of `left` with every one of `right`, from one product a chunk of frames.

    Frames of a group are taken about the mean of the group, so that a neuron that does not vary there leaves nothing
    behind; sums about the means of all frames follow from the sums of frames.

    Parameters
    ----------
    left, right : Side
        Layers on the same frames; right None is left itself, and then only layers from each one on are multiplied with
        it: entry [i][j] is layer i with layer i + j.
    n : int
        Number of frames.
    utterances : Utterances, optional
        Keep sums by group of utterances too.
    """
    other = right or left
    strips = [slice(None)] if right else left.columns
    sums = [_Strip(left.means, other.means, rows, slice(rows.start, None)) for rows in strips]
    runs = utterances.groups if utterances else [[slice(0, n)]]
    for g, run in enumerate(runs):
        origin_x, origin_y = (side.means.groups[g].to(side.dtype) for side in (left, other))
        for span in run:
            for part in chunks(span.stop - span.start):
                rows = slice(span.start + part.start, span.start + part.stop)
                a = left.near_zero(rows, origin_x)
                b = a if other is left else other.near_zero(rows, origin_y)
                for strip in sums:
                    strip.add(a, b)
            for strip in sums:
                strip.end_utterance()
        for strip in sums:
            strip.end_group(g, sum(span.stop - span.start for span in run), origin_x, origin_y)
    made = [strip.products(keep=utterances is not None) for strip in sums]
    if right:
        return [[made[0].part(rows, columns) for columns in right.columns] for rows in left.columns]
    return [
        [strip.part(slice(None), slice(c.start - first.start, c.stop - first.start)) for c in left.columns[i:]]
        for i, (strip, first) in enumerate(zip(made, left.columns, strict=True))
    ]


class _Strip:
    """Running sums of the products of some columns of two sides."""

    def __init__(self, means_x: Means, means_y: Means, rows: slice, columns: slice) -> None:
        self.x, self.y, self.rows, self.columns = means_x, means_y, rows, columns
        self.groups: list[Tensor] = []
        self.sizes: list[int] = []
        self._group: Tensor | None = None
        self._utterance: Tensor | None = None

    def products(self, keep: bool) -> Products:
        """Return the sums over all groups and, with `keep`, of each group."""
        if not keep:
            return Products(self.groups[0])
        total = None
        for g, (group, n) in enumerate(zip(self.groups, self.sizes, strict=True)):
            shift_x = (self.x.groups[g] - self.x.whole)[self.rows]
            shift_y = (self.y.groups[g] - self.y.whole)[self.columns]
            total = _plus(total, group.addr(shift_x, shift_y, alpha=n))
        assert total is not None
        return Products(total, tuple(self.groups), tuple(self.sizes))

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in a chunk of frames near zero."""
        self._utterance = _plus(self._utterance, multiply(a[:, self.rows].T, b[:, self.columns]))

    def end_utterance(self) -> None:
        """Add the utterance to its group."""
        assert self._utterance is not None
        self._group = _plus(self._group, self._utterance)
        self._utterance = None

    def end_group(self, g: int, n: int, origin_x: Tensor, origin_y: Tensor) -> None:
        """Close a group of n frames."""
        assert self._group is not None
        left_x = (self.x.groups[g] - origin_x.double())[self.rows]  # of the mean, by its rounding to the dtype
        left_y = (self.y.groups[g] - origin_y.double())[self.columns]
        self.groups.append(self._group.addr_(left_x, left_y, alpha=-n))
        self.sizes.append(n)
        self._group = None


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    """Sum in float64, into `total` where there is one."""
    return more.double() if total is None else total.add_(more)
