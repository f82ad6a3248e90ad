"""First and second moments of layers: the one object behind most measures.

Data are read once, in chunks (see `products`), and the moments of groups of utterances merge exactly. Sums, means,
correlations and each layer's eigendecomposition are float64. What is whitened for a pair of wide layers (linreg, CCA,
SVCCA, PWCCA) runs in the dtype of their products, float32 for stored ones: the rounding of each of many directions is
small against what the products have left out, and evens out. Layers of few neurons, where it would not, stay float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.arrays import Array, block, check_pair, chunks, multiply
from sslsim.measures.components import Components, singular_vectors
from sslsim.measures.products import Means, Products, Side, Utterances, cross_products

WIDE = 256  # varying neurons from which the dtype of the products is precise enough


@dataclass(frozen=True)
class Marginal:
    """Moments of one layer."""

    n: int  # number of frames
    mean: Tensor  # of every neuron, (n_neurons,), float64
    scatter: Tensor  # sum_t (x_t - mean)(x_t - mean)', (n_neurons, n_neurons), float64
    eps: float = torch.finfo(torch.float64).eps  # of the products that made it: which directions count as empty
    groups: tuple[Marginal, ...] = ()  # of groups of utterances, which together are all frames, if any were given
    wide: int = WIDE  # varying neurons from which what follows from components runs in the dtype of the products

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is quickly made again: moments are kept on disk between pieces of work."""
        quick = ("correlation", "covariance", "random_bases")
        return {name: value for name, value in vars(self).items() if name not in quick}

    def check_varies(self) -> None:
        """Raise if no neuron varies."""
        if self.n_constant == len(self.alive):
            raise SslsimError(f"none of {len(self.alive)} neurons varies over {self.n:,} frames; nothing to compare")

    @cached_property
    def alive(self) -> Tensor:
        """Mask (n_neurons,) of neurons that vary: constant ones have no correlation and are left out everywhere."""
        # a constant column leaves only the rounding of its float64 mean in the scatter
        return self.scatter.diagonal() > self.n * (1e-12 * self.mean) ** 2

    @cached_property
    def n_constant(self) -> int:
        """Number of neurons without variance."""
        return int((~self.alive).sum())

    @cached_property
    def dtype(self) -> torch.dtype:
        """What is computed from the components runs in it: float32 for a wide layer of float32 products."""
        single = len(self.scale) >= self.wide and self.eps >= torch.finfo(torch.float32).eps
        return torch.float32 if single else torch.float64

    @property
    def means(self) -> Means:
        """What its layer's frames are centred with."""
        return Means(self.mean, tuple(group.mean for group in self.groups) or (self.mean,))

    @cached_property
    def _kept(self) -> dict[Any, Any]:
        """Merged moments by groups left out, components by scaling."""
        return {}

    def without(self, *left_out: int) -> Marginal:
        """Moments of all groups but some; kept, with what is computed from them, for the next time."""
        if left_out not in self._kept:
            kept = [group for g, group in enumerate(self.groups) if g not in left_out]
            n = sum(group.n for group in kept)
            shift = sum(group.n * (group.mean - self.mean) for group in kept) / n
            mean, scatter = self.mean + shift, torch.zeros_like(self.scatter)
            for group in kept:
                away = group.mean - mean
                scatter.add_(group.scatter).addr_(away, away, alpha=group.n)
            self._kept[left_out] = Marginal(n, mean, scatter, self.eps)
        return self._kept[left_out]

    @cached_property
    def scale(self) -> Tensor:
        """Root sum of squared deviations of every varying neuron, shape (n_varying,)."""
        self.check_varies()
        return self.scatter.diagonal()[self.alive].sqrt()

    @cached_property
    def correlation(self) -> Tensor:
        """Correlation matrix of the varying neurons, (n_varying, n_varying)."""
        return self.covariance / torch.outer(self.scale, self.scale)

    @cached_property
    def covariance(self) -> Tensor:
        """Scatter of the varying neurons in their own units, (n_varying, n_varying)."""
        self.check_varies()
        return _of_varying(self.scatter, self, self)

    @cached_property
    def correlation_norm(self) -> Tensor:
        """Frobenius norm of `correlation`."""
        return self.correlation.norm()

    @cached_property
    def covariance_norm(self) -> Tensor:
        """Frobenius norm of `covariance`."""
        return self.covariance.norm()

    @cached_property
    def random_bases(self) -> dict[tuple[int, int], Tensor]:
        """What `sslsim.measures.random_basis` has computed of random bases of this layer."""
        return {}

    def components(self, standardize: bool = True) -> Components:
        """Principal components of the z-scored neurons, or of those in their own units; kept for the next pair."""
        if standardize not in self._kept:
            matrix = self.correlation if standardize else self.covariance
            self._kept[standardize] = Components.of(matrix, self.eps, self.dtype)
        return self._kept[standardize]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of two layers on the same frames."""

    x: Marginal
    y: Marginal
    cross: Tensor  # sum_t (x_t - mean_x)(y_t - mean_y)', (n_neurons_x, n_neurons_y), float64
    groups: tuple[Tensor, ...] = ()  # the same of every group of utterances about the group's means

    @property
    def swapped(self) -> Moments:
        """The same moments with the two sides exchanged; what is already computed goes along."""
        other = Moments(self.y, self.x, self.cross.T, tuple(group.T for group in self.groups))
        known = vars(self)
        for name, there in (("correlation",) * 2, ("x_whitened", "y_whitened"), ("y_whitened", "x_whitened")):
            if name in known:
                vars(other)[there] = known[name].T
        if "canonical" in known:
            vars(other)["canonical"] = self.canonical[::-1]
        return other

    def without(self, *left_out: int) -> Moments:
        """Moments of all groups of utterances but some."""
        x, y = self.x.without(*left_out), self.y.without(*left_out)
        cross = torch.zeros_like(self.cross)
        for g, (group, a, b) in enumerate(zip(self.groups, self.x.groups, self.y.groups, strict=True)):
            if g not in left_out:
                cross.add_(group).addr_(a.mean - x.mean, b.mean - y.mean, alpha=a.n)
        return Moments(x, y, cross)

    @cached_property
    def covariance(self) -> Tensor:
        """Cross products of the varying neurons in their own units, (n_varying_x, n_varying_y)."""
        return _of_varying(self.cross, self.x, self.y)

    @cached_property
    def correlation(self) -> Tensor:
        """Correlation of every varying neuron of x with every one of y, (n_varying_x, n_varying_y)."""
        return self.covariance / torch.outer(self.x.scale, self.y.scale)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed for this pair runs in it: float32 if both layers are wide and their products float32."""
        return torch.promote_types(self.x.dtype, self.y.dtype)

    def _whitener(self, side: Marginal) -> Tensor:
        return side.components().whitener.to(self.dtype)

    @cached_property
    def x_whitened(self) -> Tensor:
        """Correlation of the whitened components of x with every neuron of y, (k_x, n_varying_y)."""
        return multiply(self._whitener(self.x).T, self.correlation.to(self.dtype))

    @cached_property
    def y_whitened(self) -> Tensor:
        """Correlation of every neuron of x with the whitened components of y, (n_varying_x, k_y)."""
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
        return torch.eye(len(self.x.components().variance), dtype=self.dtype, device=self.cross.device)

    @cached_property
    def canonical(self) -> tuple[Tensor, Tensor, Tensor]:
        """Canonical directions of x in its components (k_x, k), correlations (k,), directions of y (k_y, k)."""
        if self.x is self.y:
            return self._identity, self._identity.diagonal(), self._identity
        ((left, rho, right),) = singular_vectors([self.whitened])
        return left, rho.clamp(max=1.0), right


def decompose(pairs: Sequence[Moments]) -> None:
    """Compute, and keep, `canonical` of many pairs in one go."""
    two = [pair for pair in pairs if pair.x is not pair.y]
    for pair, (left, rho, right) in zip(two, singular_vectors([pair.whitened for pair in two]), strict=True):
        vars(pair)["canonical"] = left, rho.clamp(max=1.0), right


def _of_varying(matrix: Tensor, x: Marginal, y: Marginal) -> Tensor:
    """Rows and columns of the varying neurons of x and y; the matrix itself where all vary."""
    if not x.n_constant and not y.n_constant:
        return matrix
    return matrix[x.alive][:, y.alive]


def moments(
    x: Array, y: Array, *, utterances: Sequence[int] | None = None, device: str | torch.device = "cpu"
) -> Moments:
    """Moments of two layers (n_frames, n_neurons) on the same frames, numpy or torch, read in chunks.

    With `utterances`, the number of frames of each in order, those of groups of utterances are kept too. They stay on
    `device`. An error says which shapes do not fit, or which frame is not finite.
    """
    dtype, known = check_pair(x, y), None
    if utterances is not None:
        known = Utterances(tuple(int(length) for length in utterances))
        if min(known.lengths, default=-1) < 0 or sum(known.lengths) != len(x):
            counts = f"utterances have {sum(known.lengths):,} frames together, x {len(x):,}"
            raise SslsimError(f"{counts}; give the number of frames of each, in order")
    means = [Means.of(side, known, device) for side in (x, y)]
    (with_x, cross), (with_y,) = cross_products(Side([x, y], means, dtype), None, len(x), known)
    eps = torch.finfo(dtype).eps
    first, second = (marginal(means[i], products, len(x), eps) for i, products in enumerate((with_x, with_y)))
    return Moments(first, second, cross.total, cross.groups)


def marginal(means: Means, products: Products, n: int, eps: float) -> Marginal:
    """Moments of one layer from its means and the products of its centred frames with themselves."""
    # the two triangles of a product may differ in the last digit, so their mean is taken
    groups = [
        Marginal(size, middle, (product + product.T) / 2, eps)
        for product, middle, size in zip(products.groups, means.groups, products.sizes, strict=False)
    ]
    return Marginal(n, means.whole, (products.total + products.total.T) / 2, eps, tuple(groups))


def squared_norms(x: Array, *marginals: Marginal, standardize: bool) -> Tensor:
    """Squared norms of every centred frame, (marginals, n_frames) float64: what debiased CKA needs beside the moments.

    Each marginal, of all frames of x or of some, has the means and scales of one row of norms; `standardize` divides
    every varying neuron by its root sum of squares, as in `Marginal.correlation`.
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
