"""First and second moments of layers: the one object behind most measures.

A layer is an array ``(n_frames, n_neurons)``. Two layers on the same frames are reduced to `Moments`: count, means and
centred second moments. Correlation, regression, CCA, SVCCA, PWCCA, biased CKA and Procrustes are functions of it,
so data are read once, in chunks, and moments of separate blocks of frames merge exactly with ``+``.

Products run in the dtype of the data (float32 for stored layers) on centred chunks and are summed in float64: the usual
E[xy] - E[x]E[y] loses every digit when means are large against deviations.

Told which frames belong to one utterance, moments also keep what measures need that must not compare an utterance
with itself: moments of groups of utterances, and the sum over utterances of the squared products within each.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError, close_match

TRUNCATIONS = ("reaching", "below")
CHUNK = 4096  # frames a product: large enough for full speed, small enough that float32 sums stay exact to 1e-6


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
    """

    lengths: tuple[int, ...]
    n_groups: int = 5

    @cached_property
    def groups(self) -> list[list[slice]]:
        """Frames of every utterance, by group; as many groups as asked for where there are as many utterances."""
        ends = np.cumsum(self.lengths)
        spans = [slice(int(e - n), int(e)) for e, n in zip(ends, self.lengths, strict=True) if n]
        count, total = min(self.n_groups, len(spans)), int(ends[-1]) if len(ends) else 0
        cuts = [0]
        for g in range(1, count):  # where the cut is nearest, with an utterance at least for each group
            room = range(cuts[-1] + 1, len(spans) - count + g + 1)
            cuts.append(min(room, key=lambda cut: abs(spans[cut].start * count - total * g)))
        return [spans[a:b] for a, b in zip(cuts, [*cuts[1:], len(spans)], strict=True)] if spans else []


@dataclass(frozen=True)
class Marginal:
    """Moments of one layer.

    Attributes
    ----------
    n : int
        Number of frames.
    mean : Tensor of shape (n_neurons,)
        Mean of every neuron, float64.
    scatter : Tensor of shape (n_neurons, n_neurons)
        Centred second moments, ``sum_t (x_t - mean)(x_t - mean)'``, float64.
    eps : float
        Rounding unit of the products that made `scatter`; sets which directions count as empty.
    within : Tensor of shape (n_neurons, n_neurons), optional
        Sum over utterances u of the squares of ``sum_{t in u} (x_t - mean)(x_t - mean)'``, float64.
    groups : tuple of Marginal
        The moments of groups of utterances, which together are all frames; empty if no utterances were given.
    """

    n: int
    mean: Tensor
    scatter: Tensor
    eps: float = torch.finfo(torch.float64).eps
    within: Tensor | None = None
    groups: tuple[Marginal, ...] = ()

    def __add__(self, other: Marginal) -> Marginal:
        """Merge with the moments of other frames of the same layer (Chan, Golub & LeVeque 1983).

        What was kept by utterance is dropped: it is about the mean of all frames.
        """
        n, shift, weight = _merge(self, other)
        scatter = self.scatter + other.scatter + weight * torch.outer(shift, shift)
        return Marginal(n, self.mean + shift * (other.n / n), scatter, max(self.eps, other.eps))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is quickly made again: moments are kept on disk between pieces of work."""
        return {name: value for name, value in vars(self).items() if name not in ("correlation", "covariance")}

    @cached_property
    def alive(self) -> Tensor:
        """Mask (n_neurons,) of neurons that vary: constant ones have no correlation and are left out everywhere."""
        # a constant column leaves only the rounding of its float64 mean in the scatter
        alive = self.scatter.diagonal() > self.n * (1e-12 * self.mean) ** 2
        if not alive.any():
            raise SslsimError(f"none of {len(alive)} neurons varies over {self.n:,} frames; nothing to compare")
        return alive

    @cached_property
    def _merged(self) -> dict[tuple[int, ...], Marginal]:
        return {}

    @property
    def means(self) -> Means:
        """What its layer's frames are centred with."""
        return Means(self.mean, tuple(group.mean for group in self.groups))

    def without(self, *left_out: int) -> Marginal:
        """Moments of all groups but some; kept, with what is computed from them, for the next time."""
        if left_out not in self._merged:
            kept = (group for g, group in enumerate(self.groups) if g not in left_out)
            self._merged[left_out] = reduce(operator.add, kept)
        return self._merged[left_out]

    @property
    def n_constant(self) -> int:
        """Number of neurons without variance."""
        return int((~self.alive).sum())

    @cached_property
    def scale(self) -> Tensor:
        """Root sum of squared deviations of every varying neuron, shape (n_alive,)."""
        return self.scatter.diagonal()[self.alive].sqrt()

    @cached_property
    def correlation(self) -> Tensor:
        """Correlation matrix of the varying neurons, (n_alive, n_alive)."""
        return self.covariance / torch.outer(self.scale, self.scale)

    @cached_property
    def covariance(self) -> Tensor:
        """Scatter of the varying neurons in their own units, (n_alive, n_alive)."""
        return self.scatter[self.alive][:, self.alive]

    @cached_property
    def components(self) -> Components:
        """Principal components of the z-scored neurons, without empty directions."""
        return Components.of(self.correlation, self.eps)

    @cached_property
    def raw_components(self) -> Components:
        """Principal components of the centred neurons in their own units, without empty directions."""
        return Components.of(self.covariance, self.eps)


@dataclass(frozen=True)
class Components:
    """Eigendecomposition of a covariance: `variance` (k,), largest first, and `directions` (n_alive, k)."""

    variance: Tensor
    directions: Tensor

    @classmethod
    def of(cls, covariance: Tensor, eps: float) -> Components:
        """Decompose, dropping directions that hold no more than rounding noise.

        Rounding puts an error of about `eps` times the mean variance on each entry, a noise matrix whose
        eigenvalues reach 2 sqrt(d) times that; the solver adds d float64 units of the largest.
        """
        variance, directions = torch.linalg.eigh(covariance)
        variance, directions = variance.flip(0), directions.flip(1)
        d, double = len(variance), torch.finfo(torch.float64).eps
        floor = 10 * eps * d**0.5 * variance.mean() + 4 * d * double * variance[0]
        kept = int((variance > floor).sum())
        return cls(variance[:kept], directions[:, :kept])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the whitener, which is quickly made again."""
        return {name: value for name, value in vars(self).items() if name != "whitener"}

    @cached_property
    def whitener(self) -> Tensor:
        """Matrix (n_alive, k) that turns centred neurons into orthonormal columns."""
        return self.directions * self.variance.rsqrt()

    def count(self, fraction: float, truncation: str = "reaching") -> int:
        """Return the fewest components whose summed variance reaches `fraction`, or the most that stay below it."""
        if truncation not in TRUNCATIONS:
            raise SslsimError(f"unknown truncation {truncation!r}{close_match(truncation, TRUNCATIONS)}")
        if not 0 < fraction <= 1:
            raise SslsimError(f"variance is {fraction}; give the share of the variance to keep, above 0 and up to 1")
        share = self.variance.cumsum(0) / self.variance.sum()
        below = int((share < fraction - 1e-12).sum())
        return min(below + 1, len(self.variance)) if truncation == "reaching" else max(below, 1)


@dataclass(frozen=True)
class Moments:
    """Moments of two layers on the same frames.

    Attributes
    ----------
    x, y : Marginal
        Moments of each side.
    cross : Tensor of shape (n_neurons_x, n_neurons_y)
        ``sum_t (x_t - mean_x)(y_t - mean_y)'``, float64.
    within : Tensor of shape (n_neurons_x, n_neurons_y), optional
        Sum over utterances u of the squares of ``sum_{t in u} (x_t - mean_x)(y_t - mean_y)'``, float64.
    groups : tuple of Tensor of shape (n_neurons_x, n_neurons_y)
        `cross` of every group of utterances about the group's own means.
    """

    x: Marginal
    y: Marginal
    cross: Tensor
    within: Tensor | None = None
    groups: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, x: Marginal, y: Marginal, products: Products) -> Moments:
        """Put together two marginals and the products of their layers."""
        return cls(x, y, products.total, products.within, products.groups)

    def __add__(self, other: Moments) -> Moments:
        """Merge with the moments of other frames of the same two layers; what was kept by utterance is dropped."""
        _, shift_x, weight = _merge(self.x, other.x)
        shift_y = other.y.mean - self.y.mean
        cross = self.cross + other.cross + weight * torch.outer(shift_x, shift_y)
        return Moments(self.x + other.x, self.y + other.y, cross)

    @property
    def swapped(self) -> Moments:
        """The same moments with the two sides exchanged; what is already computed goes along."""
        within = None if self.within is None else self.within.T
        other = Moments(self.y, self.x, self.cross.T, within, tuple(group.T for group in self.groups))
        if "correlation" in vars(self):
            vars(other)["correlation"] = self.correlation.T
        if "canonical" in vars(self):
            vars(other)["canonical"] = self.canonical[::-1]
        return other

    def without(self, *left_out: int) -> Moments:
        """Moments of all groups of utterances but some."""
        x, y = self.x.without(*left_out), self.y.without(*left_out)
        cross = torch.zeros_like(self.cross)
        for g, (a, b) in enumerate(zip(self.x.groups, self.y.groups, strict=True)):
            if g not in left_out:
                cross += self.groups[g] + a.n * torch.outer(a.mean - x.mean, b.mean - y.mean)
        return Moments(x, y, cross)

    @cached_property
    def covariance(self) -> Tensor:
        """Cross products of the varying neurons in their own units, (n_alive_x, n_alive_y)."""
        return self.cross[self.x.alive][:, self.y.alive]

    @cached_property
    def correlation(self) -> Tensor:
        """Correlation of every varying neuron of x with every one of y, (n_alive_x, n_alive_y)."""
        return self.covariance / torch.outer(self.x.scale, self.y.scale)

    @cached_property
    def whitened(self) -> Tensor:
        """Cross products of the principal components of z-scored x and y, each of length 1; (k_x, k_y)."""
        return self.x.components.whitener.T @ self.correlation @ self.y.components.whitener

    @cached_property
    def canonical(self) -> tuple[Tensor, Tensor, Tensor]:
        """Canonical directions of x in its components (k_x, k), correlations (k,), directions of y (k_y, k)."""
        left, rho, right = torch.linalg.svd(self.whitened, full_matrices=False)
        return left, rho.clamp(max=1.0), right.T


def _merge(a: Marginal, b: Marginal) -> tuple[int, Tensor, float]:
    """Total count, shift of the mean from `a` to `b`, and the weight of that shift in the merged scatter."""
    if a.mean.shape != b.mean.shape:
        raise SslsimError(
            f"moments cannot be merged: {len(a.mean)} and {len(b.mean)} neurons; "
            "merge blocks of frames of the same layers"
        )
    return a.n + b.n, b.mean - a.mean, a.n * b.n / (a.n + b.n)


def block(x: Array, dtype: torch.dtype | None, device: str | torch.device = "cpu") -> Tensor:
    """Return frames as a tensor of `dtype` (None: their own); those of a read-only memory map are copied for torch."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()
    return torch.as_tensor(x).to(device, dtype)


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
        values = block(x[some], torch.float64)
        if not (subtotal := values.sum(0)).isfinite().all():
            bad = some.start + int((~values.isfinite()).any(1).int().argmax())
            raise SslsimError(f"frame {bad} holds NaN or infinity; drop such frames before comparing")
        total += subtotal.cpu()
    return total / (stop - start)


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cut `n` frames into chunks of `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def centred(x: Array, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames minus the mean in `dtype`, on the device of `mean`.

    The mean is taken off in two parts, so that its rounding to `dtype` leaves nothing behind.
    """
    high = mean.to(dtype)
    return block(x, dtype, mean.device).sub(high).sub_((mean - high.double()).to(dtype))


@dataclass(frozen=True)
class Means:
    """Mean of every neuron of a layer over all frames, and over each group of utterances."""

    whole: Tensor
    groups: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, x: Array, utterances: Utterances | None = None, device: str | torch.device = "cpu") -> Means:
        """Read the layer once; an error names the first frame that is not finite."""
        if utterances is None:
            return cls(mean(x).to(device))
        runs = [slice(run[0].start, run[-1].stop) for run in utterances.groups]
        groups = [mean(x, run) for run in runs]
        sizes = torch.tensor([run.stop - run.start for run in runs], dtype=torch.float64)
        whole = sizes @ torch.stack(groups) / len(x)
        return cls(whole.to(device), tuple(group.to(device) for group in groups))

    @classmethod
    def side_by_side(cls, means: Sequence[Means]) -> Means:
        """Means of layers whose neurons stand side by side."""
        groups = zip(*(m.groups for m in means), strict=True)
        return cls(torch.cat([m.whole for m in means]), tuple(torch.cat(group) for group in groups))


@dataclass(frozen=True)
class Products:
    """Sums of products of two layers' centred frames.

    Attributes
    ----------
    total : Tensor of shape (n_neurons_x, n_neurons_y)
        Over all frames, about the means of all frames.
    within : Tensor of shape (n_neurons_x, n_neurons_y), optional
        Sum over utterances of the squares of each one's products, about the means of all frames.
    groups : tuple of Tensor
        Over each group of utterances, about the means of the group.
    sizes : tuple of int
        Frames of each group.
    """

    total: Tensor
    within: Tensor | None = None
    groups: tuple[Tensor, ...] = ()
    sizes: tuple[int, ...] = ()


Reader = Callable[[slice], Any]


def products(
    left: tuple[Reader, Means],
    right: tuple[Reader, Means] | None,
    n: int,
    dtype: torch.dtype,
    utterances: Utterances | None = None,
) -> Products:
    """Sum ``x.T @ y`` of centred frames in chunks.

    Frames of a group are centred at the means of the group, so that a neuron that does not vary there leaves nothing
    behind; sums about the means of all frames follow from the sums of frames.

    Parameters
    ----------
    left, right : (callable, Means)
        Frames of a run of rows, (n_rows, n_neurons), and their means; right None is left itself.
    n : int
        Number of frames.
    dtype : torch.dtype
        Of the products; sums are float64.
    utterances : Utterances, optional
        Keep sums by utterance and group too.
    """
    other = right or left

    def over(span: slice, mean_x: Tensor, mean_y: Tensor, sums: bool) -> tuple[Tensor, Tensor, Tensor]:
        total: Tensor = torch.zeros((), dtype=torch.float64)
        sum_x, sum_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
        for part in chunks(span.stop - span.start):
            rows = slice(span.start + part.start, span.start + part.stop)
            a = centred(left[0](rows), mean_x, dtype)
            b = centred(other[0](rows), mean_y, dtype) if right else a
            product = (a.T @ b).double()
            total = total.add_(product) if total.dim() else product
            if sums:
                sum_x += a.sum(0, dtype=torch.float64)
                sum_y += b.sum(0, dtype=torch.float64)
        return total, sum_x, sum_y

    if utterances is None:
        return Products(over(slice(0, n), left[1].whole, other[1].whole, sums=False)[0])
    total = within = None
    groups, sizes = [], []
    for run, mean_x, mean_y in zip(utterances.groups, left[1].groups, other[1].groups, strict=True):
        shift_x, shift_y = mean_x - left[1].whole, mean_y - other[1].whole
        group: Tensor | None = None
        for span in run:
            part, sum_x, sum_y = over(span, mean_x, mean_y, sums=True)
            count = span.stop - span.start
            whole = part.addr(sum_x + count * shift_x, shift_y).addr_(shift_x, sum_y)  # about the means of all frames
            within = whole.square() if within is None else within.addcmul_(whole, whole)
            group = part if group is None else group.add_(part)
        assert group is not None
        sizes.append(run[-1].stop - run[0].start)
        about_all = group.addr(shift_x, shift_y, alpha=sizes[-1])
        total = about_all if total is None else total.add_(about_all)
        groups.append(group)
    assert total is not None
    return Products(total, within, tuple(groups), tuple(sizes))


def moments(
    x: Array, y: Array, *, utterances: Sequence[int] | None = None, device: str | torch.device = "cpu"
) -> Moments:
    """Moments of two layers on the same frames, read in chunks.

    Parameters
    ----------
    x, y : arrays of shape (n_frames, n_neurons_x) and (n_frames, n_neurons_y)
        Activations, frame t of both from the same stretch of speech; numpy or torch.
    utterances : sequence of int, optional
        Number of frames of each utterance, in order, for measures that must not compare an utterance with itself.
    device : str or torch.device
        Where the products run and the moments stay.

    Raises
    ------
    SslsimError
        If the shapes do not fit, fewer than two frames are given, or a value is not finite.
    """
    dtype, known = check_pair(x, y), None
    if utterances is not None:
        known = Utterances(tuple(int(length) for length in utterances))
        if min(known.lengths, default=-1) < 0 or sum(known.lengths) != len(x):
            raise SslsimError(
                f"utterances have {sum(known.lengths):,} frames together, x {len(x):,}; "
                "give the number of frames of each, in order"
            )
    left, right = ((side.__getitem__, Means.of(side, known, device)) for side in (x, y))
    eps = torch.finfo(dtype).eps
    own_x, own_y = (
        marginal(side[1], products(side, None, len(x), dtype, known), len(x), eps) for side in (left, right)
    )
    return Moments.of(own_x, own_y, products(left, right, len(x), dtype, known))


def marginal(means: Means, own: Products, n: int, eps: float) -> Marginal:
    """Moments of one layer from its means and the products of its centred frames with themselves.

    The two triangles of a product may differ in the last digit, so their mean is taken.
    """
    groups = [
        Marginal(size, middle, (product + product.T) / 2, eps)
        for product, middle, size in zip(own.groups, means.groups, own.sizes, strict=True)
    ]
    within = None if own.within is None else (own.within + own.within.T) / 2
    return Marginal(n, means.whole, (own.total + own.total.T) / 2, eps, within, tuple(groups))


def check_pair(x: Array, y: Array) -> torch.dtype:
    """Return the dtype that products of two layers run in, or raise if they cannot be paired."""
    dtype = torch.promote_types(product_dtype(x, "x"), product_dtype(y, "y"))
    if len(x) != len(y):
        raise SslsimError(
            f"layers cannot be paired: x has {len(x):,} frames, y {len(y):,}; give the same frames of both"
        )
    if len(x) < 2:
        raise SslsimError("one frame has no variance; give at least two")
    return dtype


def squared_norms(x: Array, marginal: Marginal, *, standardize: bool) -> Tensor:
    """Squared norm of every centred frame, (n_frames,) float64: what debiased CKA needs beside the moments.

    Parameters
    ----------
    x : array of shape (n_frames, n_neurons)
        The activations that `marginal` was computed from.
    marginal : Marginal
        Their moments.
    standardize : bool
        Divide every varying neuron by its root sum of squares, as in `Marginal.correlation`.
    """
    scale = torch.zeros_like(marginal.mean)
    scale[marginal.alive] = marginal.scale.reciprocal() if standardize else 1.0
    parts = []
    for rows in chunks(len(x)):
        parts.append((centred(x[rows], marginal.mean, torch.float64) * scale).square().sum(1))
    return torch.cat(parts)
