"""Neuron measures: does single neuron i of one layer have a counterpart in another layer?

All are functions of `Moments`, of one pair of layers or many. Method: Wu et al. 2020 (arXiv 2005.01172).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.moments import Moments

PENALTIES = tuple(10.0**power for power in range(-6, 2))  # ridge, in units of a z-scored neuron's variance


def max_corr(m: Moments) -> Tensor:
    """Mean over the neurons of x of the best absolute correlation with one neuron of y.

    Positive by chance: it is a maximum over many neurons.
    """
    return over_neurons(m, best_correlations(m))


def best_correlations(m: Moments) -> Tensor:
    """Best absolute correlation of every neuron of x with one of y, (..., n_neurons_x)."""
    return m.correlation.abs().amax(-1)


def over_neurons(m: Moments, values: Tensor) -> Tensor:
    """Mean of values (..., n_neurons_x) over the neurons of x that vary."""
    return (values * m.x.alive).sum(-1, dtype=torch.float64) / m.x.count


def best_partners(m: Moments) -> tuple[Tensor, Tensor]:
    """Best partner in y of every neuron of x, (..., n_neurons_x), and its correlation: NaN if x does not vary."""
    best = m.correlation.abs().argmax(-1, keepdim=True)
    r = m.correlation.gather(-1, best)[..., 0].double()
    return best[..., 0], torch.where(m.x.alive, r, torch.nan)


def matched_corr(m: Moments) -> Tensor:
    """Mean absolute correlation under the best one-to-one assignment of neurons (Li et al. 2016, arXiv 1511.07543).

    Unlike in `max_corr` no neuron of y can serve two of x. Over min(p, q) neurons, by the Hungarian algorithm.
    """
    most = torch.minimum(m.x.count, m.y.count)  # a neuron that does not vary adds nothing
    return _of_each_pair(m, lambda r: r[linear_sum_assignment(r, maximize=True)].sum()) / most


def _of_each_pair(m: Moments, score: Callable[[NDArray[Any]], float]) -> Tensor:
    """Score the absolute correlations (n_neurons_x, n_neurons_y) of one pair after another."""
    size = m.correlation.abs().cpu().numpy()
    scores = [score(one) for one in size.reshape(-1, *size.shape[-2:])]
    return torch.tensor(scores, dtype=torch.float64, device=m.cross.device).reshape(size.shape[:-2])


def soft_matched_corr(m: Moments) -> Tensor:
    """Mean absolute correlation under the best soft matching (Khosla & Williams 2023, arXiv 2311.09466).

    Neurons share partners, so that p and q may differ: the largest ``sum_ij T_ij |r_ij|`` over plans T >= 0 whose rows
    sum to 1 / p and columns to 1 / q, exact by the network simplex of POT. `matched_corr` when p = q.
    """
    p, q = m.correlation.shape[-2:]
    if p == q and bool((m.x.count == m.y.count).all()):  # a best plan is then an assignment (Birkhoff)
        return matched_corr(m)
    return _of_each_pair(m, _soft_match)


def _soft_match(size: NDArray[Any]) -> float:
    import ot  # takes a second to import

    r = size[size.any(1)][:, size.any(0)].astype(np.float64)  # neurons that do not vary have no part
    p, q = r.shape
    plan, log = ot.emd(np.full(p, 1 / p), np.full(q, 1 / q), 1 - r, numItermax=10_000_000, log=True)
    if log["warning"]:
        raise SslsimError(f"soft matching of {p} with {q} neurons found no best plan: {log['warning']}")
    return float((plan * r).sum())


def multiple_corr(m: Moments) -> Tensor:
    """Multiple correlation of every neuron of x with all of y, (..., n_neurons_x): the norm of that with whitened y."""
    return m.y_whitened.square().sum(-1, dtype=torch.float64).clamp(max=1.0).sqrt()


def linreg(m: Moments) -> Tensor:
    """Mean over the neurons of x of R, in sample, of a linear regression on all neurons of y.

    R and not R2, as in Wu et al. By fitting noise, independent data reach about sqrt(n_neurons_y / n_frames).
    """
    return over_neurons(m, multiple_corr(m))


def linreg_r2(m: Moments) -> Tensor:
    """Mean over the neurons of x of R2, in sample, of a linear regression on all neurons of y.

    The share of the variance of z-scored x that lies in the subspace of y, and by chance about n_neurons_y / n_frames
    of what does not.
    """
    return over_neurons(m, multiple_corr(m).square())


def linreg_heldout(m: Moments) -> Tensor:
    """Mean over the neurons of x of R2, on utterances left out, of a ridge regression on all neurons of y.

    Each group of utterances is predicted from a fit on the others; ``R2 = 1 - sum e^2 / sum (x - mean_fitted)^2`` over
    all groups, so that predicting the mean of the fitted utterances is 0 and worse is below. The penalty of each fit is
    chosen among `PENALTIES` without the group left out: fitted without the next group too, and judged on that. At least
    three groups are needed. A fit on all groups but one is a merge of moments; the error on the one follows from its
    own.
    """
    return heldout_r2(m).mean()


def heldout_r2(m: Moments) -> Tensor:
    """R2 of `linreg_heldout` for every neuron of x that varies in all fits."""
    count, held = len(m.groups), [Moments(*one) for one in zip(m.x.groups, m.y.groups, m.groups, strict=True)]
    if count < 3:
        why = "to fit, to choose a penalty and to judge"
        raise SslsimError(f"linreg_heldout needs at least 3 utterances, {why}; got {count}")
    alive = torch.stack([m.x.without(g).alive for g in range(count)]).all(0)
    if not alive.any():
        raise SslsimError(f"none of {len(alive)} neurons varies in every fit of linreg_heldout; nothing to predict")
    error, spread = (torch.zeros(int(alive.sum()), dtype=torch.float64, device=alive.device) for _ in range(2))
    for group in range(count):
        judge = (group + 1) % count
        tried, _ = _errors(m.without(*sorted((group, judge))), held[judge], alive, PENALTIES)
        best = int((tried / m.x.without(group).scatter.diagonal()[alive]).mean(1).argmin())
        left, around = _errors(m.without(group), held[group], alive, PENALTIES[best : best + 1])
        error += left[0]
        spread += around
    return 1 - error / spread


def _errors(fit: Moments, held: Moments, alive: Tensor, penalties: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Squared errors on `held` of a fit with each penalty, (penalties, n_alive_x), and about its mean, (n_alive_x,)."""
    weight, components = fit.y.weight, fit.y.components
    shift_x, shift_y = (held.x.mean - fit.x.mean)[alive], held.y.mean - fit.y.mean
    around = held.x.scatter.diagonal()[alive] + held.x.n * shift_x.square()
    within = (held.y.scatter + held.y.n * torch.outer(shift_y, shift_y)) * torch.outer(weight, weight)
    cross = (held.cross[alive] + held.x.n * torch.outer(shift_x, shift_y)).T * weight[:, None]
    basis = components.directions.to(within)
    fitted = basis.T @ (fit.cross[alive].T * weight[:, None])
    within, cross = basis.T @ within @ basis, basis.T @ cross
    errors = []
    for penalty in penalties:
        weights = fitted / (components.variance + penalty)[:, None]
        errors.append(around - 2 * (weights * cross).sum(0) + (weights * (within @ weights)).sum(0))
    return torch.stack(errors).clamp(min=0.0), around
