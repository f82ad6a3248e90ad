"""Regression judged on utterances that it was not fitted on: what of linreg is not fitted noise.

Everything is computed from the moments of groups of utterances: fitting on all groups but one is a merge of their
moments, and the error on the one left out follows from its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslsim.errors import SslsimError
from sslsim.measures.moments import Marginal, Moments

PENALTIES = tuple(10.0**power for power in range(-6, 2))  # ridge, in units of a z-scored neuron's variance


def linreg_heldout(m: Moments) -> float:
    """Mean over the neurons of x of R2, on utterances left out, of a ridge regression on all neurons of y.

    Each group of utterances is predicted from a fit on the others; ``R2 = 1 - sum e^2 / sum (x - mean_fitted)^2`` over
    all groups, so that predicting the mean of the fitted utterances is 0 and worse is below. The penalty of each fit is
    chosen among `PENALTIES` without the group left out: fitted without the next group too, and judged on that. R2 and
    not R, since it can fall below 0. At least three groups of utterances are needed.
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
