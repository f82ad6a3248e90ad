"""Neuron measures: does single neuron i of one layer have a counterpart in another layer?

All are functions of `Moments`; neurons without variance are left out. Method: Wu et al. 2020 (arXiv 2005.01172).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.moments import Moments


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
