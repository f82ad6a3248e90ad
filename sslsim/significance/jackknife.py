"""Statistics that say how far a number may be believed: chance levels, intervals, and what owns a layer.

The unit of evidence is the utterance (or the speaker), never the frame: frames of one utterance are alike. Functions
here take numbers, arrays and `Moments`; `sslsim.significance.run` runs them over whole grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sslsim.errors import SslsimError
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.products import Array, block
from sslsim.measures.registry import measure_named

ALPHA = 0.05
LEVEL = 0.95
LAGS = 100  # frames, 2 s: beyond, the correlation of neurons of speech with themselves is noise


@dataclass(frozen=True)
class Mismatches:
    """Wrong partners for utterances: chance is what a measure says of x on one utterance and of y on another.

    Utterances of about the same length form a stratum, are cropped to its shortest, in the score that chance is
    compared with too, and stand in a random circle; each draw shifts the circle by another step. Score and draws are
    then a group of pairings, no two of which have a pair in common, so that p is exact whatever the number of draws
    (Hemerik & Goeman 2018). Partners drawn anew each time would agree with one another more than with the score, and
    chance would be found significant too often. Frames are never shuffled: neurons of speech change slowly, and
    shuffled frames would make pure noise significant.

    Attributes
    ----------
    lengths : ndarray of shape (n_utterances,)
        Frames that are left of each utterance.
    strata : list of ndarray
        Numbers of the utterances of each stratum.
    partners : list of ndarray of shape (n_utterances,)
        Of every draw, the number of the partner of each utterance.
    """

    lengths: NDArray[np.int64]
    strata: list[NDArray[np.int64]]
    partners: list[NDArray[np.int64]]

    @classmethod
    def of(cls, lengths: Sequence[int], draws: int, seed: int = 0) -> Mismatches:
        """Draw partners for utterances of these lengths; those without frames keep themselves.

        As many draws as there are other utterances, where those are fewer than asked for.
        """
        full = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(full, kind="stable")[(full == 0).sum() :]
        if len(order) < 2:
            raise SslsimError(f"a chance level needs at least 2 utterances to mismatch, got {len(order)}; give more")
        rng = np.random.default_rng(seed)
        strata = np.array_split(order, max(1, len(order) // (draws + 1)))
        circles = [rng.permutation(stratum) for stratum in strata]
        steps = 1 + rng.permutation(min(map(len, strata)) - 1)[:draws]
        partners = []
        for step in steps:
            partner = np.arange(len(full))
            for circle in circles:
                partner[circle] = np.roll(circle, -step)
            partners.append(partner)
        common = full.copy()
        for stratum in strata:
            common[stratum] = full[stratum].min()
        return cls(common, strata, partners)


def p_value(observed: ArrayLike, null: ArrayLike) -> NDArray[np.float64]:
    """Share of draws, the observed one among them, that are as large: ``(1 + #{null >= observed}) / (K + 1)``.

    Parameters
    ----------
    observed : array of shape (...)
        Observed scores.
    null : array of shape (K, ...)
        The same under chance. Valid at any K, never below 1 / (K + 1) (Phipson & Smyth 2010).
    """
    null = np.asarray(null, dtype=np.float64)
    return (1 + (~(null < np.asarray(observed))).sum(0)) / (len(null) + 1)  # a draw without a score counts as large


def threshold(observed: ArrayLike, null: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Return the score that chance exceeds with probability `alpha` at most.

    The ``ceil((1 - alpha)(K + 1))``-th smallest of the null draws and the observed score together.
    """
    if not 0 < alpha < 1:
        raise SslsimError(f"alpha is {alpha}; give the probability of a false alarm, above 0 and below 1")
    every = np.sort(np.concatenate([np.asarray(observed)[None], np.asarray(null)]), axis=0)
    return every[min(int(np.ceil((1 - alpha) * len(every) - 1e-9)), len(every)) - 1]


def calibrated(observed: ArrayLike, null: ArrayLike, alpha: float = ALPHA, best: float = 1.0) -> NDArray[np.float64]:
    """Share of the way from the chance threshold to the best score: 0 where chance explains it, 1 where it is perfect.

    ``max(0, (s - tau) / (best - tau))`` with tau the `threshold`. Groeger, Wen & Brbic 2026 (arXiv 2602.14486). For a
    reading over several layers give the reading of each draw, so that the search is in the null too.
    """
    tau = threshold(observed, null, alpha)
    above = np.maximum(np.asarray(observed) - tau, 0.0)
    return np.minimum(above / np.where(best > tau, best - tau, np.inf), 1.0)


def jackknife_error(value: ArrayLike, left_out: ArrayLike, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return the standard error of a score from its values without each group of utterances.

    The delete-a-group jackknife for groups of unequal size (Busing, Meijer & van der Leeden 1999).

    Parameters
    ----------
    value : array of shape (...)
        Scores of all frames.
    left_out : array of shape (G, ...)
        Scores without each group.
    sizes : sequence of int
        Frames of each group.
    """
    pseudo, weight = _pseudo_values(value, left_out, sizes)
    mean = (pseudo / weight).sum(0)
    return np.sqrt((((pseudo - mean) ** 2) / (weight - 1)).mean(0))


def jackknife_interval(
    value: ArrayLike, left_out: ArrayLike, sizes: Sequence[int], level: float = LEVEL, correct: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval for a score over speech like this, from its values without each group of utterances.

    Parameters
    ----------
    value, left_out, sizes
        See `jackknife_error`. The interval is ``value -+ t error`` with the quantile of G - 1 degrees of freedom.
    level : float
        Coverage.
    correct : bool
        Put the middle where the jackknife expects the score of endless speech: scores that fit noise, such as linreg
        and cca, fall with more frames.
    """
    _check_level(level)
    middle = np.asarray(value, dtype=np.float64)
    if correct:
        share = np.asarray(sizes, dtype=np.float64) / np.sum(sizes)
        left = np.asarray(left_out)
        middle = len(left) * middle - np.tensordot(1 - share, left, 1)
    half = stats.t.ppf((1 + level) / 2, len(np.asarray(left_out)) - 1) * jackknife_error(value, left_out, sizes)
    return middle - half, middle + half


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise SslsimError(f"level is {level}; give the coverage of the interval, above 0 and below 1")


def _pseudo_values(value: ArrayLike, left_out: ArrayLike, sizes: Sequence[int]) -> tuple[NDArray, NDArray]:
    left = np.asarray(left_out, dtype=np.float64)
    if len(left) < 2 or len(left) != len(sizes):
        raise SslsimError(
            f"a jackknife needs a score without each of at least 2 groups; got {len(left)} scores, {len(sizes)} groups"
        )
    weight = (np.sum(sizes) / np.asarray(sizes, dtype=np.float64)).reshape(-1, *[1] * (left.ndim - 1))
    return weight * np.asarray(value) - (weight - 1) * left, weight


def leave_out(measure: str, m: Moments, **options: bool) -> NDArray[np.float64]:
    """Scores of a measure of moments without each group of utterances, for `jackknife_interval`."""
    score = _of_moments(measure)
    return np.array([score(m.without(g), **options) for g in range(len(m.groups))])


def bootstrap(
    measure: str, m: Moments, draws: int = 200, *, level: float = LEVEL, seed: int = 0, **options: bool
) -> tuple[float, float]:
    """Interval for a measure of moments by drawing its groups of utterances with replacement.

    The basic interval, ``2 value - quantile``: groups drawn twice make scores that fit noise rise, and this takes as
    much off again. `jackknife_interval` needs as many scores as there are groups, this one as many as draws.

    Parameters
    ----------
    measure : str
        A measure of moments alone.
    m : Moments
        With groups: ``sslsim.measures.moments.moments(x, y, utterances=..., groups=...)``.
    draws, level, seed
        Number of draws, coverage, seed.
    """
    score = _of_moments(measure)
    count = len(m.groups)
    _check_level(level)
    if draws < 1:
        raise SslsimError(f"draws is {draws}; a bootstrap needs at least 1")
    if count < 2:
        raise SslsimError(f"a bootstrap needs at least 2 groups of utterances, got {count}; give moments utterances=")
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(draws):
        taken = np.bincount(rng.integers(count, size=count), minlength=count)
        scores.append(score(m.weighted(taken.tolist()), **options))
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    value = score(m, **options)
    return 2 * value - float(high), 2 * value - float(low)


def _of_moments(name: str):  # noqa: ANN202
    measure = measure_named(name)
    if measure.norms or measure.utterances or measure.prepare:
        raise SslsimError(f"{name!r} is not a function of moments alone; take its interval from sslsim.evidence")
    return measure.score


def autocorrelation(x: Array, lengths: Sequence[int], lags: int = LAGS) -> NDArray[np.float64]:
    """Correlation of every neuron with itself some frames later, within utterances, (lags + 1, n_neurons).

    Parameters
    ----------
    x : array of shape (n_frames, n_neurons)
        Activations.
    lengths : sequence of int
        Frames of each utterance, in order.
    lags : int
        Most frames later; what no utterance is long enough for is 0.
    """
    frames = block(x[:], torch.float64).numpy()
    if sum(lengths) != len(frames):
        raise SslsimError(f"utterances have {sum(lengths):,} frames together, x {len(frames):,}; give those of each")
    mean = frames.mean(0)
    frames = frames - mean
    starts = np.cumsum([0, *lengths])
    products = np.zeros((lags + 1, frames.shape[1]))
    for start, stop in zip(starts, starts[1:], strict=False):
        part = frames[start:stop]
        for lag in range(min(lags + 1, len(part))):
            products[lag] += np.einsum("tn,tn->n", part[: len(part) - lag], part[lag:])
    varies = products[0] > len(frames) * (1e-12 * mean) ** 2
    return np.where(varies, products / np.where(varies, products[0], 1.0), 0.0)


def effective_frames(x: NDArray, y: NDArray, n: int) -> NDArray[np.float64]:
    """Independent frames worth as much for the correlation of two neurons, (n_neurons_x, n_neurons_y).

    ``n / (1 + 2 sum_k (1 - k / n) r_x(k) r_y(k))`` (Bartlett 1946), at most n.

    Parameters
    ----------
    x, y : arrays of shape (lags + 1, n_neurons)
        `autocorrelation` of each layer.
    n : int
        Frames.
    """
    weight = 1 - np.arange(1, len(x)) / n
    return n / np.maximum(1 + 2 * (x[1:] * weight[:, None]).T @ y[1:], 1.0)


def chance_max_corr(n_eff: ArrayLike, neurons: int) -> NDArray[np.float64]:
    """Return the likeliest largest absolute correlation of a neuron with `neurons` unrelated ones over `n_eff` frames.

    ``sqrt(2 ln 2d / n_eff) (1 - ln(4 pi ln 2d) / (4 ln 2d))``: extreme values of 2d normal variables.
    """
    ln = np.log(2 * neurons)
    return np.sqrt(2 * ln / np.asarray(n_eff, dtype=np.float64)) * (1 - np.log(4 * np.pi * ln) / (4 * ln))


@dataclass(frozen=True)
class Concentration:
    """How a layer's variance is spread over its neurons.

    Attributes
    ----------
    top_neuron : int
        The neuron of largest variance.
    top_share : float
        Its share of the layer's variance.
    neurons_in_effect : float
        Participation ratio of the neurons' variances, ``(sum v)^2 / sum v^2``.
    dimensions : float
        Participation ratio of the principal components of the neurons in their own units.
    dimensions_standardized : float
        The same of z-scored neurons.
    kurtosis : float
        Largest excess kurtosis of a neuron: 0 for normal, large for one that fires rarely.
    owned : bool
        Whether the top neuron holds more than a tenth of the variance and more than ten times an even share.
    """

    top_neuron: int
    top_share: float
    neurons_in_effect: float
    dimensions: float
    dimensions_standardized: float
    kurtosis: float
    owned: bool


def concentration(x: Array, own: Marginal) -> Concentration:
    """Say whether few neurons own a layer: then raw CKA, SVCCA and Procrustes speak of those only.

    Parameters
    ----------
    x : array of shape (n_frames, n_neurons)
        Activations.
    own : Marginal
        Their moments.
    """
    variance = own.scatter.diagonal()
    share = float(variance.max() / variance.sum())
    fourth = torch.zeros_like(variance)
    for start in range(0, own.n, 4096):
        fourth += (block(x[start : start + 4096], torch.float64, own.mean.device) - own.mean).pow(4).sum(0)
    kurtosis = fourth[own.alive] * own.n / variance[own.alive] ** 2 - 3
    return Concentration(
        top_neuron=int(variance.argmax()),
        top_share=share,
        neurons_in_effect=_participation(variance),
        dimensions=float(own.covariance.trace() ** 2 / own.covariance_norm**2),
        dimensions_standardized=float(len(own.scale) ** 2 / own.correlation_norm**2),
        kurtosis=float(kurtosis.max()),
        owned=share > max(0.1, 10 / len(own.scale)),
    )


def _participation(values: torch.Tensor) -> float:
    return float(values.sum() ** 2 / values.square().sum())
