"""Chance levels: what a score would be if what is said did not matter.

The unit of evidence is the utterance (or the speaker), never the frame: frames of one utterance are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sslsim.errors import SslsimError

ALPHA = 0.05


@dataclass(frozen=True)
class Mismatches:
    """Wrong partners for utterances: chance is what a measure says of x on one utterance and of y on another.

    Utterances of about the same length form a stratum, are cropped to its shortest, in the score that chance is
    compared with too, and stand in a random circle; each mismatch shifts the circle by another step. Score and
    mismatches are then a group of pairings, no two of which have a pair in common, so that p is exact whatever their
    number (Hemerik & Goeman 2018). Partners chosen anew each time would agree with one another more than with the
    score, and chance would be found significant too often. Frames are never shuffled: neurons of speech change slowly,
    and shuffled frames would make pure noise significant.
    """

    lengths: NDArray[np.int64]  # frames that are left of each utterance
    strata: list[NDArray[np.int64]]  # numbers of the utterances of each stratum
    partners: list[NDArray[np.int64]]  # of every mismatch, the number of the partner of each utterance

    @classmethod
    def of(cls, lengths: Sequence[int], permutations: int, seed: int = 0) -> Mismatches:
        """Choose partners for utterances of these lengths; those without frames keep themselves.

        There are at most as many mismatches as other utterances in a stratum.
        """
        full = np.asarray(lengths, dtype=np.int64)
        order = np.argsort(full, kind="stable")[(full == 0).sum() :]
        if len(order) < 2:
            raise SslsimError(f"a chance level needs at least 2 utterances to mismatch, got {len(order)}; give more")
        rng = np.random.default_rng(seed)
        strata = np.array_split(order, max(1, len(order) // (permutations + 1)))
        circles = [rng.permutation(stratum) for stratum in strata]
        steps = 1 + rng.permutation(min(map(len, strata)) - 1)[:permutations]
        partners, common = [np.arange(len(full)) for _ in steps], full.copy()
        for circle in circles:
            common[circle] = full[circle].min()
            for partner, step in zip(partners, steps, strict=True):
                partner[circle] = np.roll(circle, -step)
        return cls(common, strata, partners)


def p_value(observed: ArrayLike, null: ArrayLike) -> NDArray[np.float64]:
    """Share of scores, the observed one among them, that are as large: ``(1 + #{null >= observed}) / (K + 1)``.

    Of observed scores (...) and the same under chance (K, ...). Valid at any K, never below 1 / (K + 1) (Phipson &
    Smyth 2010).
    """
    null = np.asarray(null, dtype=np.float64)
    return (1 + (~(null < np.asarray(observed))).sum(0)) / (len(null) + 1)  # one without a score counts as large


def threshold(observed: ArrayLike, null: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Return the score that chance exceeds with probability `alpha` at most.

    The ``ceil((1 - alpha)(K + 1))``-th smallest of the null scores and the observed score together.
    """
    if not 0 < alpha < 1:
        raise SslsimError(f"alpha is {alpha}; give the probability of a false alarm, above 0 and below 1")
    every = np.sort(np.concatenate([np.asarray(observed)[None], np.asarray(null)]), axis=0)
    return every[min(int(np.ceil((1 - alpha) * len(every) - 1e-9)), len(every)) - 1]


def calibrated(observed: ArrayLike, null: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Share of the way from the chance threshold to a score of 1: 0 where chance explains it, 1 where it is perfect.

    ``max(0, (s - tau) / (1 - tau))`` with tau the `threshold`. Groeger, Wen & Brbic 2026 (arXiv 2602.14486). For
    the best of several layers give the best of each mismatch, so that the search is in the null too.
    """
    tau = threshold(observed, null, alpha)
    above = np.maximum(np.asarray(observed) - tau, 0.0)
    return np.minimum(above / np.where(tau < 1, 1 - tau, np.inf), 1.0)
