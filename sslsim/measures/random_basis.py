"""Random bases of a layer: the control that tells neurons from the subspace that they span.

Neuron measures look at a layer through its own axes. A basis drawn at random (Haar) for the same z-scored neurons spans
the same subspace; what a measure says of it is what the subspace alone brings about.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.moments import Marginal, Moments


@lru_cache(maxsize=64)
def haar(d: int, draw: int, seed: int = 0) -> Tensor:
    """Random orthogonal matrix (d, d), float32, uniform over all (Mezzadri 2007, arXiv math-ph/0609050)."""
    q, r = np.linalg.qr(np.random.default_rng([seed, draw, d]).standard_normal((d, d)))
    return torch.from_numpy(q * np.sign(r.diagonal())).float()


def rotated_correlation(m: Moments, side: str, draw: int, seed: int = 0) -> Tensor:
    """Absolute correlations (n_alive_x, n_alive_y) after the z-scored neurons of one side were put in a random basis.

    Parameters
    ----------
    m : Moments
        Moments of the two layers.
    side : {'x', 'y'}
        Whose basis is drawn.
    draw : int
        Which of the random bases; layers of one width share them.
    seed : int
        Of all bases.
    """
    r = m.correlation.float()
    return (_directions(m.x, draw, seed).T @ r if side == "x" else r @ _directions(m.y, draw, seed)).abs_()


def _directions(own: Marginal, draw: int, seed: int) -> Tensor:
    """Columns that turn z-scored neurons into those of the basis, each of deviation 1."""
    if (draw, seed) not in own.turned:
        basis = haar(len(own.scale), draw, seed).to(own.mean.device)
        deviation = (basis * (own.correlation.float() @ basis)).sum(0).sqrt()
        own.turned[draw, seed] = basis / deviation
    return own.turned[draw, seed]


def shared(best: np.ndarray, turned: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of neurons that have a partner of their own: what of their best match no random basis explains.

    ``mean_i (r_i^2 - b_i) / (1 - b_i)`` with r_i the best absolute correlation of neuron i in the other layer and b_i
    the mean square of its best in random bases of that layer. Near 1 where every neuron has a counterpart, near 0 where
    both span one subspace in unrelated axes, and near a tenth where a tenth of the neurons are the same and the rest
    unrelated. A construction of this package.

    Parameters
    ----------
    best : ndarray of shape (n_neurons,)
        Best absolute correlations; NaN for neurons to leave out.
    turned : ndarray of shape (bases, n_neurons)
        The same in random bases of the other layer.

    Returns
    -------
    share : float
        Of all neurons.
    draws : ndarray of shape (bases,)
        The share that each basis would have, to be ranked with it: the observed basis takes part in the mean square
        here, so that it differs from the others in nothing if it is one of them.
    """
    value = _share(best**2, (turned**2).mean(0))
    every = np.concatenate([best[None], turned]) ** 2
    shares = np.array([_share(one, every.mean(0)) for one in every])
    return value, value + shares[1:] - shares[0]


def shared_without(best: np.ndarray, turned: np.ndarray, before: np.ndarray) -> float:
    """Return the share from fewer utterances and bases; the mean over bases is carried over from all (`before`)."""
    few = (turned**2 - before[: len(turned)] ** 2).mean(0)
    return _share(best**2, (before**2).mean(0) + few)


def _share(squares: np.ndarray, base: np.ndarray) -> float:
    room = np.maximum(1 - base, 1e-6)  # a layer of one neuron has no other basis
    return float(np.nanmean((squares - base) / room))
