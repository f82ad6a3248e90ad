"""First and second moments of layers: the one object behind most measures.

A layer is an array ``(n_frames, n_neurons)``. Two layers on the same frames are reduced to `Moments`: count, means and
centred second moments. Correlation, regression, CCA, SVCCA, PWCCA, biased CKA and Procrustes are functions of it,
so data are read once, in chunks (see `products`), and moments of separate blocks of frames merge exactly with ``+``.

Precision: sums, means, correlations and each layer's own eigendecomposition are float64. What is whitened for a pair of
wide layers (linreg, CCA, SVCCA, PWCCA) runs in the dtype of their products, float32 for stored ones: the rounding of
each of many directions is small against what the products have already left out, and evens out. Layers of few neurons,
where it would not and float64 costs little, stay float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sslsim.errors import SslsimError, close_match
from sslsim.measures.products import (
    Array,
    Means,
    Products,
    Side,
    Utterances,
    block,
    chunks,
    cross_products,
    multiply,
    product_dtype,
)

TRUNCATIONS = ("reaching", "below")
WIDE = 256  # varying neurons from which the dtype of the products is precise enough


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
    wide : int
        Varying neurons from which what is computed from the components runs in the dtype of the products.
    """

    n: int
    mean: Tensor
    scatter: Tensor
    eps: float = torch.finfo(torch.float64).eps
    within: Tensor | None = None
    groups: tuple[Marginal, ...] = ()
    wide: int = WIDE

    def __add__(self, other: Marginal) -> Marginal:
        """Merge with the moments of other frames of the same layer (Chan, Golub & LeVeque 1983).

        What was kept by utterance is dropped: it is about the mean of all frames.
        """
        n, shift, weight = _merge(self, other)
        scatter = self.scatter + other.scatter + weight * torch.outer(shift, shift)
        return Marginal(n, self.mean + shift * (other.n / n), scatter, max(self.eps, other.eps))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is quickly made again: moments are kept on disk between pieces of work."""
        return {
            name: value for name, value in vars(self).items() if name not in ("correlation", "covariance", "turned")
        }

    @cached_property
    def alive(self) -> Tensor:
        """Mask (n_neurons,) of neurons that vary: constant ones have no correlation and are left out everywhere."""
        # a constant column leaves only the rounding of its float64 mean in the scatter
        alive = self.scatter.diagonal() > self.n * (1e-12 * self.mean) ** 2
        if not alive.any():
            raise SslsimError(f"none of {len(alive)} neurons varies over {self.n:,} frames; nothing to compare")
        return alive

    @cached_property
    def turned(self) -> dict[tuple[int, int], Tensor]:
        """What `sslsim.measures.random_basis` has computed of random bases of this layer."""
        return {}

    @cached_property
    def _merged(self) -> dict[tuple[int, ...], Marginal]:
        return {}

    @cached_property
    def dtype(self) -> torch.dtype:
        """What is computed from the components runs in it: float32 for a wide layer of float32 products."""
        single = len(self.scale) >= self.wide and self.eps >= torch.finfo(torch.float32).eps
        return torch.float32 if single else torch.float64

    @property
    def means(self) -> Means:
        """What its layer's frames are centred with."""
        return Means(self.mean, tuple(group.mean for group in self.groups) or (self.mean,))

    def without(self, *left_out: int) -> Marginal:
        """Moments of all groups but some; kept, with what is computed from them, for the next time."""
        if left_out not in self._merged:
            self._merged[left_out] = self.weighted([g not in left_out for g in range(len(self.groups))])
        return self._merged[left_out]

    def weighted(self, counts: Sequence[int]) -> Marginal:
        """Moments of the groups with each taken so many times."""
        taken = [(int(count), group) for count, group in zip(counts, self.groups, strict=True) if count]
        n = sum(count * group.n for count, group in taken)
        shift = sum(count * group.n * (group.mean - self.mean) for count, group in taken) / n
        mean, scatter = self.mean + shift, torch.zeros_like(self.scatter)
        for count, group in taken:
            away = group.mean - mean
            scatter.add_(group.scatter, alpha=count).addr_(away, away, alpha=count * group.n)
        return Marginal(n, mean, scatter, self.eps)

    @cached_property
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
        return varying(self.scatter, self, self)

    @cached_property
    def correlation_norm(self) -> Tensor:
        """Frobenius norm of `correlation`."""
        return self.correlation.norm()

    @cached_property
    def covariance_norm(self) -> Tensor:
        """Frobenius norm of `covariance`."""
        return self.covariance.norm()

    @cached_property
    def components(self) -> Components:
        """Principal components of the z-scored neurons, without empty directions."""
        return Components.of(self.correlation, self.eps, self.dtype)

    @cached_property
    def raw_components(self) -> Components:
        """Principal components of the centred neurons in their own units, without empty directions."""
        return Components.of(self.covariance, self.eps, self.dtype)


@dataclass(frozen=True)
class Components:
    """Eigendecomposition of a covariance.

    Attributes
    ----------
    variance : Tensor of shape (k,)
        Eigenvalues, largest first, float64.
    directions : Tensor of shape (n_alive, k)
        Eigenvectors, in the dtype of the marginal.
    """

    variance: Tensor
    directions: Tensor

    @classmethod
    def of(cls, covariance: Tensor, eps: float, dtype: torch.dtype = torch.float64) -> Components:
        """Decompose, dropping directions that hold no more than rounding noise.

        Rounding puts an error of about `eps` times the mean variance on each entry, a noise matrix whose
        eigenvalues reach 2 sqrt(d) times that; the solver adds d float64 units of the largest.
        """
        variance, directions = torch.linalg.eigh(covariance)
        variance, directions = variance.flip(0), directions.flip(1)
        d, double = len(variance), torch.finfo(torch.float64).eps
        floor = 10 * eps * d**0.5 * variance.mean() + 4 * d * double * variance[0]
        kept = int((variance > floor).sum())
        return cls(variance[:kept], directions[:, :kept].to(dtype))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the whitener, which is quickly made again."""
        return {name: value for name, value in vars(self).items() if name != "whitener"}

    @cached_property
    def whitener(self) -> Tensor:
        """Matrix (n_alive, k) that turns centred neurons into orthonormal columns."""
        return self.directions * self.variance.rsqrt().to(self.directions)

    @cached_property
    def _shares(self) -> Tensor:
        return (self.variance.cumsum(0) / self.variance.sum()).cpu()

    def count(self, fraction: float, truncation: str = "reaching") -> int:
        """Return the fewest components whose summed variance reaches `fraction`, or the most that stay below it."""
        if truncation not in TRUNCATIONS:
            raise SslsimError(f"unknown truncation {truncation!r}{close_match(truncation, TRUNCATIONS)}")
        if not 0 < fraction <= 1:
            raise SslsimError(f"variance is {fraction}; give the share of the variance to keep, above 0 and up to 1")
        below = int((self._shares < fraction - 1e-12).sum())
        return min(below + 1, len(self.variance)) if truncation == "reaching" else max(below, 1)


@dataclass(frozen=True, eq=False)
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
        known = vars(self)
        for name, there in (("correlation",) * 2, ("x_whitened", "y_whitened"), ("y_whitened", "x_whitened")):
            if name in known:
                vars(other)[there] = known[name].T
        if "canonical" in known:
            vars(other)["canonical"] = self.canonical[::-1]
        return other

    def without(self, *left_out: int) -> Moments:
        """Moments of all groups of utterances but some."""
        counts = [g not in left_out for g in range(len(self.groups))]
        return self._weighted(counts, self.x.without(*left_out), self.y.without(*left_out))

    def weighted(self, counts: Sequence[int]) -> Moments:
        """Moments of the groups of utterances with each taken so many times."""
        return self._weighted(counts, self.x.weighted(counts), self.y.weighted(counts))

    def _weighted(self, counts: Sequence[int], x: Marginal, y: Marginal) -> Moments:
        cross = torch.zeros_like(self.cross)
        for count, group, a, b in zip(counts, self.groups, self.x.groups, self.y.groups, strict=True):
            if count:
                cross.add_(group, alpha=int(count))
                cross.addr_(a.mean - x.mean, b.mean - y.mean, alpha=int(count) * a.n)
        return Moments(x, y, cross)

    @cached_property
    def covariance(self) -> Tensor:
        """Cross products of the varying neurons in their own units, (n_alive_x, n_alive_y)."""
        return varying(self.cross, self.x, self.y)

    @cached_property
    def correlation(self) -> Tensor:
        """Correlation of every varying neuron of x with every one of y, (n_alive_x, n_alive_y)."""
        return self.covariance / torch.outer(self.x.scale, self.y.scale)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed for this pair runs in it: float32 if both layers are wide and their products float32."""
        return torch.promote_types(self.x.dtype, self.y.dtype)

    def _whitener(self, side: Marginal) -> Tensor:
        return side.components.whitener.to(self.dtype)

    @cached_property
    def x_whitened(self) -> Tensor:
        """Correlation of the whitened components of x with every neuron of y, (k_x, n_alive_y)."""
        return multiply(self._whitener(self.x).T, self.correlation.to(self.dtype))

    @cached_property
    def y_whitened(self) -> Tensor:
        """Correlation of every neuron of x with the whitened components of y, (n_alive_x, k_y)."""
        return multiply(self.correlation.to(self.dtype), self._whitener(self.y))

    @cached_property
    def whitened(self) -> Tensor:
        """Cross products of the principal components of z-scored x and y, each of length 1; (k_x, k_y)."""
        if self.x is self.y:
            return self._identity
        if "y_whitened" in vars(self):
            return multiply(self._whitener(self.x).T, self.y_whitened)
        return multiply(self.x_whitened, self._whitener(self.y))

    @property
    def _identity(self) -> Tensor:
        """What whitening a layer against itself gives; a product would only add its rounding."""
        return torch.eye(len(self.x.components.variance), dtype=self.dtype, device=self.cross.device)

    @cached_property
    def canonical(self) -> tuple[Tensor, Tensor, Tensor]:
        """Canonical directions of x in its components (k_x, k), correlations (k,), directions of y (k_y, k)."""
        if self.x is self.y:
            return self._identity, self._identity.diagonal(), self._identity
        ((left, rho, right),) = singular_vectors([self.whitened])
        return left, rho.clamp(max=1.0), right


def decompose(pairs: Sequence[Moments]) -> None:
    """Compute, and keep, `canonical` of many pairs; eigenvectors of all of one size in one call, as a GPU wants it."""
    two = [pair for pair in pairs if pair.x is not pair.y]
    for pair, (left, rho, right) in zip(two, singular_vectors([pair.whitened for pair in two]), strict=True):
        vars(pair)["canonical"] = left, rho.clamp(max=1.0), right


def singular_vectors(matrices: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Left vectors (p, k), values (k,), largest first, and right vectors (q, k) of matrices of norm near 1.

    From the eigenvectors u of the smaller ``a a'``: half the time of an SVD. Values are ``|a'u|`` and right vectors
    ``a'u / |a'u|``, exact but for small values, whose squares are lost in rounding: the images of those u, less what of
    them lies along the others, are a matrix of few rows and have an SVD of their own.
    """
    wide = [a if a.shape[0] <= a.shape[1] else a.T for a in matrices]
    found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for kind in dict.fromkeys((len(a), a.dtype) for a in wide):
        alike = [n for n, a in enumerate(wide) if (len(a), a.dtype) == kind]
        vectors = torch.linalg.eigh(torch.stack([multiply(wide[n], wide[n].T) for n in alike]))[1]
        for n, left in zip(alike, vectors, strict=True):
            triple = _from_left(wide[n], left.flip(1))
            found[n] = triple if wide[n] is matrices[n] else triple[::-1]
    return [found[n] for n in range(len(matrices))]


def _from_left(a: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors of `a` from the eigenvectors of ``a a'``."""
    images = multiply(left.T, a)
    values = images.norm(dim=1)
    right = images / values[:, None].clamp(min=torch.finfo(a.dtype).tiny)
    # an eigenvector is off by eps along another, its image by eps / value: at the root of eps they are alike
    small = values < 30 * torch.finfo(a.dtype).eps ** 0.5
    if small.any():
        rest, lost = right[~small].double(), images[small].double()
        for _ in range(2):
            lost = lost - (lost @ rest.T) @ rest
        turn, few, found = torch.linalg.svd(lost, full_matrices=False)
        none = few < torch.finfo(lost.dtype).eps
        if none.any():  # no image at all: any direction that none of the others has
            known = torch.cat([rest, found[~none]])
            found[none] = torch.linalg.qr(known.T, mode="complete")[0].T[len(known) :][: int(none.sum())]
        left[:, small] = left[:, small] @ turn.to(left)
        values[small], right[small] = few.to(values), found.to(right)
    return left, values, right.T


def varying(matrix: Tensor, x: Marginal, y: Marginal) -> Tensor:
    """Rows and columns of the varying neurons of x and y; the matrix itself where all vary."""
    if not x.n_constant and not y.n_constant:
        return matrix
    return matrix[x.alive][:, y.alive]


def _merge(a: Marginal, b: Marginal) -> tuple[int, Tensor, float]:
    """Total count, shift of the mean from `a` to `b`, and the weight of that shift in the merged scatter."""
    if a.mean.shape != b.mean.shape:
        raise SslsimError(
            f"moments cannot be merged: {len(a.mean)} and {len(b.mean)} neurons; "
            "merge blocks of frames of the same layers"
        )
    return a.n + b.n, b.mean - a.mean, a.n * b.n / (a.n + b.n)


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
    means = [Means.of(side, known, device) for side in (x, y)]
    (own_x, cross), (own_y,) = cross_products(Side([x, y], means, dtype), None, len(x), known)
    eps = torch.finfo(dtype).eps
    x_alone, y_alone = (marginal(m, own, len(x), eps) for m, own in zip(means, (own_x, own_y), strict=True))
    return Moments.of(x_alone, y_alone, cross)


def marginal(means: Means, own: Products, n: int, eps: float) -> Marginal:
    """Moments of one layer from its means and the products of its centred frames with themselves.

    The two triangles of a product may differ in the last digit, so their mean is taken.
    """
    groups = [
        Marginal(size, middle, (product + product.T) / 2, eps)
        for product, middle, size in zip(own.groups, means.groups, own.sizes, strict=False)
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


def squared_norms(x: Array, *marginals: Marginal, standardize: bool) -> Tensor:
    """Squared norms of every centred frame, (marginals, n_frames) float64: what debiased CKA needs beside the moments.

    Parameters
    ----------
    x : array of shape (n_frames, n_neurons)
        The activations that the marginals were computed from, from all of them or from some frames.
    *marginals : Marginal
        Their moments: each has the means and scales of one row of norms.
    standardize : bool
        Divide every varying neuron by its root sum of squares, as in `Marginal.correlation`.
    """
    origin = marginals[0].mean
    weight = torch.zeros(len(origin), len(marginals), dtype=torch.float64, device=origin.device)
    for one, column in zip(marginals, weight.T, strict=True):
        column[one.alive] = one.scale.square().reciprocal() if standardize else 1.0
    shift = torch.stack([one.mean - origin for one in marginals], 1)  # small: the means of nearly the same frames
    parts = []
    for rows in chunks(len(x)):
        frames = block(x[rows], torch.float64, origin.device) - origin
        parts.append(frames.square() @ weight - 2 * frames @ (weight * shift) + (weight * shift.square()).sum(0))
    return torch.cat(parts).T.contiguous()
