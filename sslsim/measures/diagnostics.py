"""What to know of layers before a similarity is believed: dependent frames, and neurons that dominate a layer."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sslsim.errors import SslsimError
from sslsim.measures.arrays import Array, block
from sslsim.measures.moments import Marginal

LAGS = 100  # frames, 2 s: beyond, the correlation of neurons of speech with themselves is noise


def autocorrelation(x: Array, lengths: Sequence[int], lags: int = LAGS) -> NDArray[np.float64]:
    """Correlation of every neuron with itself up to `lags` frames later, within utterances, (lags + 1, n_neurons).

    `lengths` are the frames of each utterance, in order; lags that no utterance is long enough for are 0.
    """
    frames = block(x[:], torch.float64).numpy()
    if sum(lengths) != len(frames):
        raise SslsimError(f"utterances have {sum(lengths):,} frames together, x {len(frames):,}; give those of each")
    mean = frames.mean(0)
    frames = frames - mean
    products = np.zeros((lags + 1, frames.shape[1]))
    for part in np.split(frames, np.cumsum(lengths)[:-1]):
        for lag in range(min(lags + 1, len(part))):
            products[lag] += np.einsum("tn,tn->n", part[: len(part) - lag], part[lag:])
    varies = products[0] > len(frames) * (1e-12 * mean) ** 2
    return np.where(varies, products / np.where(varies, products[0], 1.0), 0.0)


def effective_frames(x: NDArray, y: NDArray, n: int) -> NDArray[np.float64]:
    """Independent frames worth as much for the correlation of two neurons, (n_neurons_x, n_neurons_y), at most n.

    ``n / (1 + 2 sum_k (1 - k / n) r_x(k) r_y(k))`` (Bartlett 1946); x and y are the `autocorrelation` of each layer.
    """
    weight = 1 - np.arange(1, len(x)) / n
    return n / np.maximum(1 + 2 * (x[1:] * weight[:, None]).T @ y[1:], 1.0)


def chance_max_corr(n_eff: ArrayLike, neurons: int) -> NDArray[np.float64]:
    """Return the likeliest largest absolute correlation of a neuron with `neurons` unrelated ones over `n_eff` frames.

    ``sqrt(2 ln 2d / n_eff) (1 - ln(4 pi ln 2d) / (4 ln 2d))``: extreme values of 2d normal variables.
    """
    ln = np.log(2 * neurons)
    return np.sqrt(2 * ln / np.asarray(n_eff, dtype=np.float64)) * (1 - np.log(4 * np.pi * ln) / (4 * ln))


def concentration(x: Array, layer: Marginal) -> SimpleNamespace:
    """Say whether few neurons dominate a layer x of these moments: raw CKA, SVCCA, Procrustes then see only those."""
    variance = layer.scatter.diagonal()
    share = float(variance.max() / variance.sum())
    fourth = torch.zeros_like(variance)
    for start in range(0, layer.n, 4096):
        fourth += (block(x[start : start + 4096], torch.float64, layer.mean.device) - layer.mean).pow(4).sum(0)
    kurtosis = fourth[layer.alive] * layer.n / variance[layer.alive] ** 2 - 3
    return SimpleNamespace(
        top_neuron=int(variance.argmax()),  # of largest variance
        top_share=share,  # of the layer's variance
        # participation ratios: of the neurons' variances, of the components of neurons in their own units, of z-scored
        neurons_in_effect=float(variance.sum() ** 2 / variance.square().sum()),
        dimensions=float(layer.covariance.trace() ** 2 / layer.covariance_norm**2),
        dimensions_standardized=float(layer.count**2 / layer.correlation_norm**2),
        kurtosis=float(kurtosis.max()),  # the largest excess: 0 for normal, large for a neuron that fires rarely
        dominated=share > max(0.1, 10 / float(layer.count)),  # a tenth of the variance, ten times an even share
    )
