"""First and second moments of layers: the one object behind most measures.

Data are read once, in chunks (see `products`). Sums, means and each layer's eigendecomposition are float64. What is
computed for a pair of wide layers runs in the dtype of their products, float32 for stored ones: rounding is small
against what the products have left out, and evens out. Layers of few neurons, where it would not, stay float64. Moments
may be of one pair of layers or of many at once, with leading dimensions (...); scores are tensors (...). A neuron that
does not vary has correlation 0 with all others and is left out of means.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.arrays import Array, block, check_pair, chunks, mean
from sslsim.measures.components import Components, singular_vectors
from sslsim.measures.products import Side, Utterances, cross_products, product, without_blocks
from sslsim.parallel import once

WIDE = 256  # neurons from which the dtype of the products is precise enough


class _of_each_layer(once):  # noqa: N801  a decorator
    """A property that is computed for all layers once, and picked for some of them."""

    def _made(self, instance: Marginal) -> Any:
        if instance.source is None:
            return self.function(instance)
        whole, index = instance.source
        return getattr(whole, self.name)[index]


@dataclass(frozen=True, eq=False)
class Marginal:
    """Moments of one layer, or of several of one width."""

    n: int  # number of frames
    mean: Tensor  # of every neuron, (..., n_neurons), float64
    scatter: Tensor  # sum_t (x_t - mean)(x_t - mean)', (..., n_neurons, n_neurons), float64
    eps: float = torch.finfo(torch.float64).eps  # of the products that made it: which directions count as empty
    groups: tuple[Marginal, ...] = ()  # of groups of utterances, which together are all frames, if any were given
    # neurons from which what is computed for a pair runs in the dtype of the products; 0 where a chance level is wanted
    wide: int = WIDE
    source: tuple[Marginal, Any] | None = None  # the layers that these were picked from, and which

    def __getitem__(self, index: Any) -> Marginal:
        """Pick some of the layers; what was or will be computed is computed once for all of them."""
        assert self.source is None, "pick from the whole"
        return Marginal(self.n, self.mean[index], self.scatter, self.eps, (), self.wide, (self, index))

    def one(self, i: int) -> Marginal:
        """Moments of one of the layers, by itself."""
        return Marginal(self.n, self.mean[i], self.scatter[i], self.eps)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is quickly made again: moments are kept on disk between pieces of work."""
        quick = ("correlation", "covariance", "random_bases")
        return {name: value for name, value in vars(self).items() if name not in quick}

    def check_varies(self) -> None:
        """Raise if no neuron of a layer varies."""
        if not self.alive.any(-1).all():
            what = f"{self.mean.shape[-1]} neurons varies over {self.n:,} frames"
            raise SslsimError(f"none of {what}; nothing to compare")

    @_of_each_layer
    def alive(self) -> Tensor:
        """Mask (..., n_neurons) of neurons that vary."""
        # a constant column leaves only the rounding of its float64 mean in the scatter
        return self.scatter.diagonal(dim1=-2, dim2=-1) > self.n * (1e-12 * self.mean) ** 2

    @_of_each_layer
    def count(self) -> Tensor:
        """Count of neurons that vary (...), float64."""
        return self.alive.sum(-1, dtype=torch.float64)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed for a pair runs in it: float32 for a wide layer of float32 products."""
        single = self.mean.shape[-1] >= self.wide and self.eps >= torch.finfo(torch.float32).eps
        return torch.float32 if single else torch.float64

    @_of_each_layer
    def scale(self) -> Tensor:
        """Root sum of squared deviations of every neuron, (..., n_neurons); 0 for one that does not vary."""
        self.check_varies()
        return torch.where(self.alive, self.scatter.diagonal(dim1=-2, dim2=-1), 0.0).sqrt()

    @_of_each_layer
    def weight(self) -> Tensor:
        """One over `scale`, which z-scores neurons up to the root of n; 0 for a neuron that does not vary."""
        return torch.where(self.alive, 1 / self.scale, 0.0)

    @_of_each_layer
    def correlation(self) -> Tensor:
        """Correlation matrix of the neurons, (..., n_neurons, n_neurons)."""
        return self.scatter * self.weight[..., :, None] * self.weight[..., None, :]

    @_of_each_layer
    def covariance(self) -> Tensor:
        """Scatter of the varying neurons in their own units, (..., n_neurons, n_neurons)."""
        return self.scatter * self.alive[..., :, None] * self.alive[..., None, :]

    @_of_each_layer
    def correlation_norm(self) -> Tensor:
        """Frobenius norm of `correlation` (...)."""
        return torch.linalg.matrix_norm(self.correlation)

    @_of_each_layer
    def covariance_norm(self) -> Tensor:
        """Frobenius norm of `covariance` (...)."""
        return torch.linalg.matrix_norm(self.covariance)

    @_of_each_layer
    def components(self) -> Components:
        """Principal components of the z-scored neurons."""
        return Components.of(self.correlation, self.eps, self.count, self.dtype)

    @_of_each_layer
    def components_raw(self) -> Components:
        """Principal components of the neurons in their own units."""
        return Components.of(self.covariance, self.eps, self.count, self.dtype)

    def without(self, *left_out: int) -> Marginal:
        """Moments of all groups of utterances but some; kept, with what is computed from them, for the next time."""
        known: dict[tuple[int, ...], Marginal] = vars(self).setdefault("without_groups", {})
        if left_out not in known:
            kept = [group for g, group in enumerate(self.groups) if g not in left_out]
            n = sum(group.n for group in kept)
            shift = sum(group.n * (group.mean - self.mean) for group in kept) / n
            mean, scatter = self.mean + shift, torch.zeros_like(self.scatter)
            for group in kept:
                away = group.mean - mean
                scatter.add_(group.scatter).addr_(away, away, alpha=group.n)
            known[left_out] = Marginal(n, mean, scatter, self.eps)
        return known[left_out]


class _of_either_way(once):  # noqa: N801  a decorator
    """A property that `Moments` take from those with the sides exchanged, where these have computed it."""

    def _made(self, instance: Moments) -> Any:
        value = vars(other).get(self.name) if (other := instance.known_swapped) else None
        if value is None:
            return self.function(instance)
        return value[::-1] if isinstance(value, tuple) else value.mT


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of two layers on the same frames, or of many pairs."""

    x: Marginal
    y: Marginal
    cross: Tensor  # sum_t (x_t - mean_x)(y_t - mean_y)', (..., n_neurons_x, n_neurons_y), float64
    groups: tuple[Tensor, ...] = ()  # the same of every group of utterances about the group's means
    same: Tensor | None = None  # which pairs (...) are of a layer with itself: whitening leaves no rounding there

    @property
    def swapped(self) -> Moments:
        """The same moments with the two sides exchanged; what is the same either way is computed once.

        They know one another, one of them weakly: a cycle would hold gigabytes until Python looks for cycles.
        """
        if (other := self.known_swapped) is None:
            other = Moments(self.y, self.x, self.cross.mT, tuple(group.mT for group in self.groups), self.same)
            vars(self)["mirror"], vars(other)["origin"] = other, weakref.ref(self)
        return other

    @property
    def known_swapped(self) -> Moments | None:
        """The same as `swapped`, if it is there already."""
        return vars(self).get("mirror") or vars(self).get("origin", lambda: None)()

    def without(self, *left_out: int) -> Moments:
        """Moments of all groups of utterances but some."""
        x, y = self.x.without(*left_out), self.y.without(*left_out)
        cross = torch.zeros_like(self.cross)
        for g, (group, a, b) in enumerate(zip(self.groups, self.x.groups, self.y.groups, strict=True)):
            if g not in left_out:
                cross.add_(group).addr_(a.mean - x.mean, b.mean - y.mean, alpha=a.n)
        return Moments(x, y, cross)

    @property
    def dtype(self) -> torch.dtype:
        """What is computed for this pair runs in it: float32 if both layers are wide and their products float32."""
        return torch.promote_types(self.x.dtype, self.y.dtype)

    @_of_either_way
    def covariance(self) -> Tensor:
        """Cross products of the varying neurons in their own units, (..., n_neurons_x, n_neurons_y), float64."""
        return self.cross * self.x.alive[..., :, None] * self.y.alive[..., None, :]

    @_of_either_way
    def correlation(self) -> Tensor:
        """Correlation of every neuron of x with every one of y, (..., n_neurons_x, n_neurons_y)."""
        x, y = (side.weight.to(self.dtype) for side in (self.x, self.y))
        return self.cross.to(self.dtype) * x[..., :, None] * y[..., None, :]

    def whitener(self, side: Marginal) -> Tensor:
        """Return what whitens the z-scored neurons of a side, (..., n_neurons, k)."""
        return side.components.whitener.to(self.dtype)

    @once
    def y_whitened(self) -> Tensor:
        """Correlation of every neuron of x with the whitened components of y, (..., n_neurons_x, k_y)."""
        return product(self.correlation, self.whitener(self.y))

    @_of_either_way
    def whitened(self) -> Tensor:
        """Cross products of the principal components of z-scored x and y, each of length 1; (..., k_x, k_y)."""
        made = product(self.whitener(self.x).mT, self.y_whitened)
        if self.same is None or not self.same.any():
            return made
        one = torch.eye(made.shape[-2], dtype=made.dtype, device=made.device)
        rank = self.x.components.rank
        one = one * (torch.arange(len(one), device=made.device) < rank[..., None])[..., None]
        return torch.where(self.same[..., None, None], one, made)

    @_of_either_way
    def canonical(self) -> tuple[Tensor, Tensor, Tensor]:
        """Canonical directions of x in its components (..., k_x, k), correlations, directions of y (..., k_y, k).

        The correlations (..., k) are float64, the largest first; those beyond the smaller rank are 0.
        """
        left, rho, right = singular_vectors(self.whitened, exact=self.x.wide > 0)
        most = torch.minimum(self.x.components.rank, self.y.components.rank)
        real = torch.arange(rho.shape[-1], device=rho.device) < most[..., None]
        return left, torch.where(real, rho.double().clamp(max=1.0), 0.0), right


def moments(x: Array, y: Array, *, utterances: Sequence[int] | None = None, device: str = "cpu") -> Moments:
    """Moments of two layers (n_frames, n_neurons) on the same frames, numpy or torch, read in chunks.

    With `utterances`, the number of frames of each in order, those of groups of utterances are kept too. They stay on
    `device`. An error says which shapes do not fit, or which frame is not finite.
    """
    dtype = check_pair(x, y)
    whole = _moments(x, y, dtype, device)
    if utterances is None:
        return whole
    try:
        known = Utterances(tuple(int(length) for length in utterances))
    except (TypeError, ValueError, OverflowError) as error:
        raise SslsimError(f"utterances is {utterances!r}; give the number of frames of each, in order") from error
    if min(known.lengths, default=-1) < 0 or sum(known.lengths) != len(x):
        counts = f"utterances have {sum(known.lengths):,} frames together, x {len(x):,}"
        raise SslsimError(f"{counts}; give the number of frames of each, in order")
    parts = [_moments(x[rows], y[rows], dtype, device) for rows in map(np.flatnonzero, known.masks)]
    x, y = replace(whole.x, groups=tuple(p.x for p in parts)), replace(whole.y, groups=tuple(p.y for p in parts))
    return Moments(x, y, whole.cross, tuple(part.cross for part in parts))


def _moments(x: Array, y: Array, dtype: torch.dtype, device: str) -> Moments:
    left, right = (Side([side], mean(side).to(device), dtype) for side in (x, y))
    return Moments(marginal(left).one(0), marginal(right).one(0), cross_products(left, right)[0, 0])


def marginal(side: Side, wide: int = WIDE) -> Marginal:
    """Moments of the layers of a side, (layers, ...)."""
    scatter = cross_products(side, side, [(i, i) for i in range(len(side.columns))])
    return _marginal(side, side.n, side.means, scatter, wide)


def marginals_without(side: Side, blocks: Sequence[np.ndarray], wanted: Sequence[int]) -> Iterator[Marginal]:
    """Yield moments of the layers of a side without each of the `wanted` blocks (numbers of frames) of all frames."""
    same = [(i, i) for i in range(len(side.columns))]
    for g, (mean_, _, scatter) in zip(wanted, without_blocks(side, side, same, blocks, wanted), strict=True):
        rest = np.delete(np.arange(side.n), blocks[g])
        varies = side.varies(rest).view(len(scatter), -1)  # about another mean, a constant leaves some rounding
        yield _marginal(side, len(rest), mean_, scatter * varies[:, :, None] * varies[:, None, :], WIDE)


def _marginal(side: Side, n: int, mean_: Tensor, scatter: Tensor, wide: int) -> Marginal:
    # the two triangles of a product may differ in the last digit, so their mean is taken
    scatter = (scatter + scatter.mT) / 2
    return Marginal(n, mean_.reshape(len(scatter), -1), scatter, torch.finfo(side.dtype).eps, wide=wide)


def squared_norms(x: Array, layer: Marginal, *, standardize: bool) -> Tensor:
    """Squared norms (n_frames,) of every centred frame of a layer; `standardize` scales neurons as in `correlation`."""
    weight = layer.weight.square() if standardize else layer.alive.double()
    parts = [block(x[rows], torch.float64, layer.mean.device) - layer.mean for rows in chunks(len(x))]
    return torch.cat([frames.square_() @ weight for frames in parts])
