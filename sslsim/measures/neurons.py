"""Neuron measures: does single neuron i of one layer have a counterpart in another layer?

All are functions of `Moments`; neurons without variance are left out. Method: Wu et al. 2020 (arXiv 2005.01172).
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.moments import Marginal, Moments

PENALTIES = tuple(10.0**power for power in range(-6, 2))  # ridge, in units of a z-scored neuron's variance


def max_corr(m: Moments) -> float:
    """Mean over the neurons of x of the best absolute correlation with one neuron of y.

    Positive by chance: it is a maximum over many neurons.
    """
    return best_match(m.correlation.abs())


def best_match(r: Tensor) -> float:
    """Mean over rows of the largest of absolute correlations (p, q)."""
    return float(r.amax(1).mean())


def best_partners(m: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Best partner of every neuron of x among those of y, (n_neurons_x,), and the signed correlation with it.

    -1 and NaN for a neuron of x without variance.
    """
    best = m.correlation.abs().argmax(1, keepdim=True)
    alive_x, alive_y = (side.alive.cpu().numpy() for side in (m.x, m.y))
    partner, r = np.full(len(alive_x), -1), np.full(len(alive_x), np.nan)
    partner[alive_x] = np.flatnonzero(alive_y)[best[:, 0].cpu().numpy()]
    r[alive_x] = m.correlation.gather(1, best)[:, 0].cpu().numpy()
    return partner, r


def matched_corr(m: Moments) -> float:
    """Mean absolute correlation under the best one-to-one assignment of neurons (Li et al. 2016, arXiv 1511.07543).

    Unlike in `max_corr` no neuron of y can serve two of x. Over min(p, q) neurons, by the Hungarian algorithm.
    """
    return one_to_one(m.correlation.abs())


def one_to_one(r: Tensor) -> float:
    """Mean of absolute correlations (p, q) under the best one-to-one assignment."""
    size = r.cpu().numpy()
    return float(size[linear_sum_assignment(size, maximize=True)].mean())


def soft_matched_corr(m: Moments) -> float:
    """Mean absolute correlation under the best soft matching (Khosla & Williams 2023, arXiv 2311.09466).

    Neurons share partners, so that p and q may differ: the largest ``sum_ij T_ij |r_ij|`` over plans T >= 0 whose rows
    sum to 1 / p and columns to 1 / q, exact by the network simplex of POT. `matched_corr` when p = q.
    """
    r = m.correlation.abs().cpu().double().numpy()
    p, q = r.shape
    if p == q:  # a best plan is then an assignment (Birkhoff)
        return matched_corr(m)
    import ot  # takes a second to import

    plan, log = ot.emd(np.full(p, 1 / p), np.full(q, 1 / q), 1 - r, numItermax=10_000_000, log=True)
    if log["warning"]:
        raise SslsimError(f"soft matching of {p} with {q} neurons found no best plan: {log['warning']}")
    return float((plan * r).sum())


def multiple_corr(m: Moments) -> Tensor:
    """Multiple correlation R of every varying neuron of x with all neurons of y, (n_varying_x,).

    The norm of its correlations with the whitened neurons of y, in which empty directions take no part.
    """
    return m.y_whitened.square().sum(1, dtype=torch.float64).clamp(max=1.0).sqrt()


def linreg(m: Moments) -> float:
    """Mean over the neurons of x of R, in sample, of a linear regression on all neurons of y.

    R and not R2, as in Wu et al. It rises with n_neurons_y / n_frames by fitting noise: independent data reach about
    sqrt(n_neurons_y / n_frames).
    """
    return float(multiple_corr(m).mean())


def linreg_r2(m: Moments) -> float:
    """Mean over the neurons of x of R2, in sample, of a linear regression on all neurons of y.

    The share of the variance of z-scored x that lies in the subspace of y, and by chance about n_neurons_y / n_frames
    of what does not.
    """
    return float(multiple_corr(m).square().mean())


def linreg_heldout(m: Moments) -> float:
    """Mean over the neurons of x of R2, on utterances left out, of a ridge regression on all neurons of y.

    Each group of utterances is predicted from a fit on the others; ``R2 = 1 - sum e^2 / sum (x - mean_fitted)^2`` over
    all groups, so that predicting the mean of the fitted utterances is 0 and worse is below. The penalty of each fit is
    chosen among `PENALTIES` without the group left out: fitted without the next group too, and judged on that. R2 and
    not R, since it can fall below 0. At least three groups of utterances are needed. Everything is computed from their
    moments: a fit on all groups but one is a merge of moments, and the error on the one left out follows from its own.
    """
    return float(heldout_r2(m).mean())


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


def prepare_fits(layer: Marginal) -> None:
    """Compute, and keep, the components of a layer in every fit that `linreg_heldout` makes with it."""
    count = len(layer.groups)
    for group in range(count if count >= 3 else 0):
        for left_out in ((group,), tuple(sorted((group, (group + 1) % count)))):
            layer.without(*left_out).components()


def _errors(fit: Moments, held: Moments, alive: Tensor, penalties: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Squared errors on `held` of a fit with each penalty, (penalties, n_alive_x), and about its mean, (n_alive_x,).

    In the principal components of the z-scored y of the fit every penalty is one division.
    """
    scale, kept = fit.y.scale, fit.y.alive
    components = fit.y.components()
    shift_x, shift_y = (held.x.mean - fit.x.mean)[alive], (held.y.mean - fit.y.mean)[kept]
    around = held.x.scatter.diagonal()[alive] + held.x.n * shift_x.square()
    within = (held.y.scatter[kept][:, kept] + held.y.n * torch.outer(shift_y, shift_y)) / torch.outer(scale, scale)
    cross = (held.cross[alive][:, kept] + held.x.n * torch.outer(shift_x, shift_y)).T / scale[:, None]
    basis = components.directions.to(within)
    fitted = basis.T @ (fit.cross[alive][:, kept].T / scale[:, None])
    within, cross = basis.T @ within @ basis, basis.T @ cross
    errors = []
    for penalty in penalties:
        weights = fitted / (components.variance + penalty)[:, None]
        errors.append(around - 2 * (weights * cross).sum(0) + (weights * (within @ weights)).sum(0))
    return torch.stack(errors).clamp(min=0.0), around
