"""Random bases of a layer: the control that tells neurons from the subspace that they span.

Neuron measures look at a layer through its neurons, one axis each. A random basis (Haar) of the same z-scored neurons
spans the same subspace; what a measure says of it is what the subspace alone brings about.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.moments import Marginal, Moments


@lru_cache(maxsize=64)
def haar(d: int, basis: int, seed: int = 0) -> Tensor:
    """Random orthogonal matrix (d, d), float32, uniform over all (Mezzadri 2007, arXiv math-ph/0609050)."""
    q, r = np.linalg.qr(np.random.default_rng([seed, basis, d]).standard_normal((d, d)))
    return torch.from_numpy(q * np.sign(r.diagonal())).float()


def rotated_correlation(m: Moments, side: str, basis: int, seed: int = 0) -> Tensor:
    """Absolute correlations (n_varying_x, n_varying_y) with the z-scored neurons of side 'x' or 'y' in a random basis.

    `basis` is its number, `seed` that of all bases; layers of one width share them.
    """
    r = m.correlation.float()
    return (_directions(m.x, basis, seed).T @ r if side == "x" else r @ _directions(m.y, basis, seed)).abs_()


def _directions(layer: Marginal, basis: int, seed: int) -> Tensor:
    """Columns that take z-scored neurons to the coordinates in the basis, each of deviation 1; kept by the layer."""
    if (basis, seed) not in layer.random_bases:
        q = haar(len(layer.scale), basis, seed).to(layer.mean.device)
        deviation = (q * (layer.correlation.float() @ q)).sum(0).sqrt()
        layer.random_bases[basis, seed] = q / deviation
    return layer.random_bases[basis, seed]


def shared(best: np.ndarray, rotated: np.ndarray) -> tuple[float, np.ndarray]:
    """Variance that neurons share with single neurons of another layer, beyond what random bases of it explain.

    ``mean_i (r_i^2 - b_i) / (1 - b_i)`` with r_i the `best` absolute correlation of neuron i in the other layer (NaN to
    leave it out) and b_i the mean square of its best in random bases of that layer, `rotated` (bases, n_neurons). Near
    1 where every neuron has a counterpart, near 0 where both span one subspace in unrelated axes, and near a tenth
    where a tenth of the neurons are the same and the rest unrelated. A construction of this package.

    Also returns what each basis would have in its place, (bases,), to be ranked with it: there the observed basis takes
    part in the mean square, so that it differs from the others in nothing if it is one of them.
    """
    value = _share(best**2, (rotated**2).mean(0))
    every = np.concatenate([best[None], rotated]) ** 2
    shares = np.array([_share(one, every.mean(0)) for one in every])
    return value, value + shares[1:] - shares[0]


def shared_without(best: np.ndarray, rotated: np.ndarray, before: np.ndarray) -> float:
    """Return the share from fewer utterances and bases; the mean over bases is carried over from all (`before`)."""
    few = (rotated**2 - before[: len(rotated)] ** 2).mean(0)
    return _share(best**2, (before**2).mean(0) + few)


def _share(squares: np.ndarray, base: np.ndarray) -> float:
    room = np.maximum(1 - base, 1e-6)  # a layer of one neuron has no other basis
    return float(np.nanmean((squares - base) / room))
