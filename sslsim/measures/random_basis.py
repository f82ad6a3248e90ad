"""Random bases of a layer: the control that tells neurons from the subspace that they span.

A random basis (Haar) of the z-scored neurons of a layer spans the same subspace; what a measure says of it is what the
subspace alone brings about. How well its best axis matches a neuron follows from moments, without any basis drawn.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neurons import best_correlations, over_neurons
from sslsim.measures.products import product

POINTS, FURTHEST = 32, 10.0  # of the curve of each neuron, and how many deviations out it goes
FALSE_SHARE = 0.1  # of the neurons that `neuron_count` counts, at most so many by chance


class InBases(NamedTuple):
    """What random bases of y have for each neuron of x, (..., n_neurons_x)."""

    square: Tensor  # mean of the largest squared correlation with an axis
    size: Tensor  # mean of the largest absolute correlation
    curve: tuple[Tensor, Tensor]  # squared correlations, and by each the normal deviate that an axis exceeds so seldom

    def p(self, square: Tensor, axes: Tensor) -> Tensor:
        """Probability that the best of so many axes of a random basis has such a squared correlation."""
        deviate = _interpolated(square.to(self.curve[0])[..., None], *self.curve)[..., 0]
        return _of_best(deviate.double(), axes[..., None])


def _interpolated(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Values at x (..., n) of curves that are known at rising points (..., m); beyond, those of the last point."""
    right = torch.searchsorted(at, x).clamp(1, at.shape[-1] - 1)
    low, high = at.gather(-1, right - 1), at.gather(-1, right)
    share = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return torch.lerp(values.gather(-1, right - 1), values.gather(-1, right), share)


def in_bases(m: Moments) -> InBases:
    """Distribution of the largest correlation of every neuron of x with an axis of a random basis of y.

    With u the correlations of a neuron with those of y and C the correlation matrix of y, a random axis q has the
    squared correlation ``(u'q)^2 / q'Cq``. The probability that it exceeds t is that of a quadratic form of normal
    variables, ``g'(uu' - tC)g > 0``, by the saddlepoint approximation (Kuonen 1999; r* of Barndorff-Nielsen). All t of
    a neuron follow from saddlepoints that neurons of a layer can share, so that the whole costs less than one basis.
    Axes count as independent, which holds but for layers of few neurons. A construction of this package.
    """
    if "in_bases" in vars(m):
        return vars(m)["in_bases"]
    point, slope, curvature, logarithm, *parts = _saddlepoints(m.y, m.dtype)
    squares = m.y_whitened.square() * m.y.components.variance.to(m.dtype)[..., None, :]  # of u along components of y
    near, square, third = (product(squares, part.mT) for part in parts)
    square = square.clamp(min=torch.finfo(m.dtype).tiny)  # of a neuron that has nothing to do with y
    at = point * near + square / slope
    first = (logarithm + (square / (slope * at)).log()).clamp(min=1e-12).sqrt()
    bend = (curvature + slope.square() - 2 * third * slope / square) / 2
    second = point * bend.clamp(min=torch.finfo(m.dtype).tiny).sqrt()
    deviates = first + (second / first).log() / first
    above = _of_best(deviates, m.y.count.to(m.dtype)[..., None, None])
    zero, one = torch.zeros_like(at[..., :1]), torch.ones_like(at[..., :1])
    along, above = torch.cat([zero, at], -1), torch.cat([one, above], -1)
    square, size = (torch.trapezoid(above, of).double() for of in (along, along.sqrt()))
    vars(m)["in_bases"] = found = InBases(square, size, (at.contiguous(), deviates))
    return found


def _saddlepoints(layer: Marginal, dtype: torch.dtype) -> Sequence[Tensor]:
    """Points, and there slope, curvature and logarithm, (..., 1, points); three terms a component (..., points, k)."""
    whole, index = layer.source or (layer, ...)
    known = vars(whole).setdefault("random_bases", {})
    if dtype not in known:
        variance = whole.components.variance
        wide = torch.logspace(-4, 9, 261, dtype=torch.float64, device=variance.device)
        far = (wide[:, None] * variance[..., None, :]).log1p().sum(-1).sqrt()  # (..., 261), rising
        steps = torch.arange(1, POINTS + 1, dtype=torch.float64, device=variance.device) * (FURTHEST / POINTS)
        steps = steps.expand(*far.shape[:-1], -1).contiguous()
        point = _interpolated(steps, far, wide.log().expand_as(far)).exp()[..., None]
        d = 1 + point * variance[..., None, :]
        ratio = variance[..., None, :] / d
        sums = (ratio.sum(-1), ratio.square().sum(-1), d.log().sum(-1))
        flat = [part.to(dtype)[..., None, :] for part in (point[..., 0], *sums)]
        known[dtype] = *flat, *(part.to(dtype) for part in (1 / d, 1 / d**2, ratio / d**2))
    return [part[index] for part in known[dtype]]


def _of_best(deviate: Tensor, axes: Tensor) -> Tensor:
    """Probability that one of so many independent normal variables exceeds a deviate."""
    return -torch.expm1(axes * torch.log1p(-torch.special.ndtr(-deviate).clamp(max=1 - 1e-7)))


def neuron_excess(m: Moments, best: Tensor | None = None) -> Tensor:
    """Mean over the neurons of x of the variance that the best neuron of y explains beyond a random basis.

    ``mean_i (r_i^2 - b_i) / (1 - b_i)`` with r_i the best correlation of neuron i (`best`, if given) and b_i the mean
    square of its best in random bases of y. Near 1 where every neuron has a counterpart, near 0 where both span one
    subspace in unrelated axes. An excess of variance, not a share of neurons. A construction of this package.
    """
    base, best = in_bases(m).square, best_correlations(m) if best is None else best
    return over_neurons(m, (best.double().square() - base) / (1 - base).clamp(min=1e-6))


def neuron_count(m: Moments, best: Tensor | None = None) -> Tensor:
    """Share of the neurons of x with a partner in y that random bases of y do not explain.

    Neurons whose best correlation (`best`, if given) exceeds that of random bases, of which a tenth at most is so by
    chance (Benjamini & Hochberg 1995 on the p of each). A construction of this package.
    """
    best = best_correlations(m) if best is None else best
    p = torch.where(m.x.alive, neuron_p(m, best), torch.inf).sort(-1).values
    ranks = torch.arange(1, p.shape[-1] + 1, dtype=torch.float64, device=p.device)
    found = p <= FALSE_SHARE * ranks / m.x.count[..., None]
    return (found * ranks).amax(-1) / m.x.count


def neuron_p(m: Moments, best: Tensor) -> Tensor:
    """Probability of each best absolute correlation (..., n_neurons_x) in a random basis of y."""
    return in_bases(m).p(best.double().square(), m.y.count)


def max_corr_in_bases(m: Moments) -> Tensor:
    """Mean over the neurons of x of the best absolute correlation with an axis of a random basis of y."""
    return over_neurons(m, in_bases(m).size)


@lru_cache(maxsize=64)
def haar(d: int, basis: int, seed: int = 0) -> Tensor:
    """Random orthogonal matrix (d, d), float32, uniform over all (Mezzadri 2007, arXiv math-ph/0609050)."""
    q, r = torch.linalg.qr(torch.from_numpy(np.random.default_rng([seed, basis, d]).standard_normal((d, d))))
    return (q * r.diagonal().sign()).float()


def axes(layer: Marginal, basis: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Columns (d, d) that turn z-scored neurons into a random basis, and one over the deviation of each, (..., 1, d).

    Layers of one width share the columns. The deviations are kept.
    """
    whole, index = layer.source or (layer, ...)
    q, known = haar(layer.mean.shape[-1], basis, seed).to(layer.mean.device), vars(whole).setdefault("axes", {})
    if (basis, seed) not in known:
        known[basis, seed] = (q * product(whole.correlation.float(), q)).sum(-2, keepdim=True).rsqrt()
    return q, known[basis, seed][index]
