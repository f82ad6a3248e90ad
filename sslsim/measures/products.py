"""Sums of products of layers' centred frames: the one pass over the data that all measures share.

Frames are read in chunks, put side by side for as many layers as are wanted, brought near zero and multiplied in the
dtype of the data (float32 for stored layers); chunks are summed in float64. The usual E[xy] - E[x]E[y] loses every
digit when means are large against deviations: here the mean, rounded to the dtype of the product, comes off each frame
first, and what the rounding left is taken out of the sums exactly.

Told which frames belong to one utterance, sums are also kept by group of utterances and of the squares within each
utterance, for measures that must not compare an utterance with itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError

CHUNK = 2048  # frames a product: float32 sums stay exact to 1e-6, buffers in reach of the cache
LARGE = 2**23  # multiplications from which oneDNN is worth its call


class Frames(Protocol):
    """What is read in runs of frames: a numpy or torch array, or a view of a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames and neurons."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


Array = np.ndarray | Tensor | Frames


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
            found = {label: [u for u in some if self.labels[u] == label] for label in sorted(set(self.labels))}
            return [group for group in found.values() if group]
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
        """The same groups with what follows within a group as one utterance, where no utterance is looked at."""
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
    within : Tensor of shape (n_neurons_x, n_neurons_y), optional
        Sum over utterances of the squares of each one's products, about the means of all frames.
    groups : tuple of Tensor
        Over each group of utterances, about the means of the group; empty if no utterances were given.
    sizes : tuple of int
        Frames of each group.
    """

    total: Tensor
    within: Tensor | None = None
    groups: tuple[Tensor, ...] = ()
    sizes: tuple[int, ...] = ()

    def part(self, rows: slice, columns: slice) -> Products:
        """Products of some neurons of x with some of y."""
        within = None if self.within is None else self.within[rows, columns]
        groups = tuple(group[rows, columns] for group in self.groups)
        return Products(self.total[rows, columns], within, groups, self.sizes)


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
        Keep sums by utterance and group too.
    """
    other = right or left
    if right:
        strips = [(slice(None), slice(None))]
    else:
        strips = [(columns, slice(columns.start, None)) for columns in left.columns]
    made = _strips(left, other, strips, n, utterances)
    if right:
        return [[made[0].part(rows, columns) for columns in right.columns] for rows in left.columns]
    return [
        [strip.part(slice(None), slice(c.start - own.start, c.stop - own.start)) for c in left.columns[i:]]
        for i, (strip, own) in enumerate(zip(made, left.columns, strict=True))
    ]


def _strips(
    left: Side, right: Side, strips: list[tuple[slice, slice]], n: int, utterances: Utterances | None
) -> list[Products]:
    """Products of some columns of the left side with some of the right, for each pair of runs of columns."""
    runs = utterances.groups if utterances else [[slice(0, n)]]
    sums = [_Strip(left.means, right.means, *strip, keep=utterances is not None) for strip in strips]
    for g, run in enumerate(runs):
        origin_x, origin_y = (side.means.groups[g].to(side.dtype) for side in (left, right))
        for span in run:
            for part in chunks(span.stop - span.start):
                rows = slice(span.start + part.start, span.start + part.stop)
                a = left.near_zero(rows, origin_x)
                b = a if right is left else right.near_zero(rows, origin_y)
                for strip in sums:
                    strip.add(a, b)
            for strip in sums:
                strip.end_utterance(span.stop - span.start, origin_x, origin_y)
        for strip in sums:
            strip.end_group(g, sum(span.stop - span.start for span in run), origin_x, origin_y)
    return [strip.products for strip in sums]


class _Strip:
    """Running sums of the products of some columns; `keep` those by utterance and group."""

    def __init__(self, means_x: Means, means_y: Means, rows: slice, columns: slice, keep: bool) -> None:
        self.x, self.y, self.rows, self.columns, self.keep = means_x, means_y, rows, columns, keep
        self.total: Tensor | None = None
        self.within: Tensor | None = None
        self.groups: list[Tensor] = []
        self.sizes: list[int] = []
        self._group: Tensor | None = None
        self._span: Tensor | None = None
        self._sums: tuple[Tensor, Tensor] | None = None

    @property
    def products(self) -> Products:
        """What has been summed."""
        assert self.total is not None
        return Products(self.total, self.within, tuple(self.groups), tuple(self.sizes))

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in a chunk of frames near zero."""
        a, b = a[:, self.rows], b[:, self.columns]
        self._span = _plus(self._span, multiply(a.T, b))
        if self.keep:
            sums = a.sum(0, dtype=torch.float64), b.sum(0, dtype=torch.float64)
            self._sums = (self._sums[0] + sums[0], self._sums[1] + sums[1]) if self._sums else sums

    def end_utterance(self, n: int, origin_x: Tensor, origin_y: Tensor) -> None:
        """Close an utterance of n frames."""
        assert self._span is not None
        if self.keep:
            assert self._sums is not None
            shift_x = (origin_x.double() - self.x.whole)[self.rows]
            shift_y = (origin_y.double() - self.y.whole)[self.columns]
            about_all = self._span.addr(self._sums[0] + n * shift_x, shift_y).addr_(shift_x, self._sums[1])
            self.within = about_all.square() if self.within is None else self.within.addcmul_(about_all, about_all)
        self._group = _plus(self._group, self._span)
        self._span = self._sums = None

    def end_group(self, g: int, n: int, origin_x: Tensor, origin_y: Tensor) -> None:
        """Close a group of n frames."""
        assert self._group is not None
        left_x = (self.x.groups[g] - origin_x.double())[self.rows]  # of the mean, by its rounding to the dtype
        left_y = (self.y.groups[g] - origin_y.double())[self.columns]
        group = self._group.addr_(left_x, left_y, alpha=-n)
        self._group = None
        if not self.keep:
            self.total = group
            return
        shift_x = (self.x.groups[g] - self.x.whole)[self.rows]
        shift_y = (self.y.groups[g] - self.y.whole)[self.columns]
        self.total = _plus(self.total, group.addr(shift_x, shift_y, alpha=n))
        self.groups.append(group)
        self.sizes.append(n)


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    """Sum in float64, into `total` where there is one."""
    return more.double() if total is None else total.add_(more)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b``; where it is large, in float32 and on a CPU, by oneDNN.

    MKL, behind ``torch.mm``, does not use the widest registers of processors that are not Intel's: half the speed on an
    AMD EPYC. oneDNN is reached through the two products of a linear layer: one takes a transposed `a`, as products of
    frames have, and the other a plain one, so that no large matrix is copied into another order first.
    """
    if not (
        a.dtype == torch.float32
        and a.device.type == "cpu"
        and a.shape[0] * a.shape[1] * b.shape[1] >= LARGE
        and torch.backends.mkldnn.is_available()
    ):
        return a @ b
    if a.stride(0) == 1:  # the gradient of a layer's weights
        return torch.mkldnn_linear_backward_weights(a.T.to_mkldnn(), b.to_mkldnn(), _NO_WEIGHTS, False)[0]
    return torch.nn.functional.linear(a.to_mkldnn(), b.T).to_dense()


_NO_WEIGHTS = torch.empty(0)  # an argument that only a bias would need


def block(x: Array, dtype: torch.dtype | None, device: str | torch.device = "cpu") -> Tensor:
    """Return frames as a tensor of `dtype` (None: their own); those of a read-only memory map are copied for torch."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()
    return torch.as_tensor(x).detach().to(device, dtype)


def product_dtype(x: Array, name: str = "x") -> torch.dtype:
    """Return the dtype that products of `x` run in, or raise if it is not (n_frames, n_neurons)."""
    if len(x.shape) != 2 or 0 in x.shape:
        raise SslsimError(f"{name} has shape {tuple(x.shape)}; give (n_frames, n_neurons), neither of them 0")
    dtype = block(x[:1], None).dtype
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32  # products in half precision would lose what the measures look at
    return dtype if dtype.is_floating_point else torch.float64


def mean(x: Array, rows: slice = slice(None)) -> Tensor:
    """Mean of every neuron in float64 over a run of frames, shape (n_neurons,).

    An error names the first frame that is not finite.
    """
    total = torch.zeros(x.shape[1], dtype=torch.float64)
    start, stop, _ = rows.indices(len(x))
    for part in chunks(stop - start):
        some = slice(start + part.start, start + part.stop)
        frames = x[some]
        if isinstance(frames, np.ndarray):
            with np.errstate(invalid="ignore"):  # infinities of both signs
                subtotal = torch.from_numpy(frames.sum(0, dtype=np.float64))
        else:
            subtotal = block(frames, None).sum(0, dtype=torch.float64).cpu()
        if not subtotal.isfinite().all():
            bad = some.start + int((~block(frames, None).isfinite()).any(1).int().argmax())
            raise SslsimError(f"frame {bad} holds NaN or infinity; drop such frames before comparing")
        total += subtotal
    return total / (stop - start)


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cut `n` frames into chunks of `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
