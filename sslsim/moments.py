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
        """Frames of every utterance, by group."""
        ends = np.cumsum(self.lengths)
        spans = [slice(int(e - n), int(e)) for e, n in zip(ends, self.lengths, strict=True) if n]
        count = min(self.n_groups, len(spans))
        places = [(span.start + span.stop) * count // (2 * int(ends[-1])) for span in spans]
        runs = [[span for span, place in zip(spans, places, strict=True) if place == g] for g in range(count)]
        return [run for run in runs if run]

    def __len__(self) -> int:
        return sum(map(len, self.groups))


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
        """Put together two marginals and the products of their layers centred at the means of all frames."""
        groups = []
        for total, a, b in zip(products.groups, x.groups, y.groups, strict=True):
            groups.append(total - a.n * torch.outer(a.mean - x.mean, b.mean - y.mean))
        return cls(x, y, products.total, products.within, tuple(groups))

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


def means(x: Array, utterances: Utterances | None = None) -> tuple[Tensor, list[Tensor]]:
    """Mean of every neuron over all frames, and over each group of utterances."""
    if utterances is None:
        return mean(x), []
    runs = [slice(run[0].start, run[-1].stop) for run in utterances.groups]
    groups = [mean(x, run) for run in runs]
    sizes = torch.tensor([run.stop - run.start for run in runs], dtype=torch.float64)
    return sizes @ torch.stack(groups) / len(x), groups


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
class Products:
    """Sums of products of two layers' centred frames: over all frames, and by utterance where they are known.

    `total` is over all frames, `within` the sum over utterances of the squared products of each, `groups` the sum over
    each group of utterances and `sizes` its number of frames.
    """

    total: Tensor
    within: Tensor | None = None
    groups: tuple[Tensor, ...] = ()
    sizes: tuple[int, ...] = ()


def products(
    left: Callable[[slice], Tensor],
    right: Callable[[slice], Tensor] | None,
    n: int,
    utterances: Utterances | None = None,
) -> Products:
    """Sum ``left(rows).T @ right(rows)`` over `n` frames in chunks; `right` None is `left` itself.

    Parameters
    ----------
    left, right : callable
        Centred frames of a run of rows, (n_rows, n_neurons).
    n : int
        Number of frames.
    utterances : Utterances, optional
        Keep sums by utterance and group too.
    """

    def over(span: slice) -> Tensor:
        total: Tensor | None = None
        for part in chunks(span.stop - span.start):
            rows = slice(span.start + part.start, span.start + part.stop)
            a = left(rows)
            product = (a.T @ (right(rows) if right else a)).double()
            total = product if total is None else total.add_(product)
        assert total is not None
        return total

    if utterances is None:
        return Products(over(slice(0, n)))
    within, groups = None, []
    for run in utterances.groups:
        parts = over(run[0])
        within = parts.square() if within is None else within.addcmul_(parts, parts)
        for span in run[1:]:
            part = over(span)
            within.addcmul_(part, part)
            parts.add_(part)
        groups.append(parts)
    sizes = tuple(run[-1].stop - run[0].start for run in utterances.groups)
    return Products(reduce(torch.add, groups), within, tuple(groups), sizes)


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
    mean_x, mean_y = (on(device, *means(side, known)) for side in (x, y))

    def reader(side: Array, middle: Tensor) -> Callable[[slice], Tensor]:
        return lambda rows: centred(side[rows], middle, dtype)

    left, right = reader(x, mean_x[0]), reader(y, mean_y[0])
    own_x = marginal(len(x), *mean_x, products(left, None, len(x), known), torch.finfo(dtype).eps)
    own_y = marginal(len(x), *mean_y, products(right, None, len(x), known), torch.finfo(dtype).eps)
    return Moments.of(own_x, own_y, products(left, right, len(x), known))


def on(device: str | torch.device, middle: Tensor, groups: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return what `means` gave, on a device."""
    return middle.to(device), [group.to(device) for group in groups]


def marginal(n: int, middle: Tensor, group_means: Sequence[Tensor], own: Products, eps: float) -> Marginal:
    """Moments of one layer from its means and the products of its centred frames with themselves.

    The two triangles of a product may differ in the last digit, so their mean is taken.
    """
    groups = []
    for product, group_mean, size in zip(own.groups, group_means, own.sizes, strict=True):
        shift = group_mean - middle
        groups.append(Marginal(size, group_mean, (product + product.T) / 2 - size * torch.outer(shift, shift), eps))
    within = None if own.within is None else (own.within + own.within.T) / 2
    return Marginal(n, middle, (own.total + own.total.T) / 2, eps, within, tuple(groups))


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
