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

    Utterances of about the same length form a stratum and are brought to the length of its shortest, in the score that
    chance is compared with too: each keeps its first frames and its last, and loses the rest in the middle, so that
    what all utterances have in common at their beginning and at their end is in the mismatches as well. They stand in a
    random circle; each mismatch shifts the circle by another step. Score and mismatches are then a group of pairings,
    no two of which have a pair in common, so that p is exact whatever their number (Hemerik & Goeman 2018). Partners
    chosen anew each time would agree with one another more than with the score, and chance would be found significant
    too often. Frames are never shuffled: neurons of speech change slowly, and shuffled frames would make pure noise
    significant.
    """

    full: NDArray[np.int64]  # frames of each utterance
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
        return cls(full, common, strata, partners)

    def frames(self, partner: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Numbers of the frames that are left, utterance by utterance, or those of the partners in their place."""
        starts, first = np.cumsum(self.full) - self.full, self.lengths - self.lengths // 2
        last = starts + self.full - self.lengths // 2
        who = range(len(self.full)) if partner is None else partner.tolist()
        places = ((starts[u] + np.arange(first[u]), last[u] + np.arange(self.lengths[u] // 2)) for u in who)
        return np.concatenate([part for two in places for part in two])

    @property
    def orders(self) -> list[NDArray[np.int64]]:
        """For each mismatch, which of the frames that are left stands in the place of each."""
        left = self.frames()
        return [np.searchsorted(left, self.frames(partner)) for partner in self.partners]


def p_value(observed: ArrayLike, null: ArrayLike) -> NDArray[np.float64]:
    """Share of scores, the observed one among them, that are as large: ``(1 + #{null >= observed}) / (K + 1)``.

    Of observed scores (...) and the same under chance (K, ...), in which NaN are not counted. Valid at any K, never
    below 1 / (K + 1) (Phipson & Smyth 2010).
    """
    scores = np.asarray(null, dtype=np.float64)
    return (1 + (scores >= np.asarray(observed)).sum(0)) / (1 + np.isfinite(scores).sum(0))


def threshold(observed: ArrayLike, null: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Return the score that chance exceeds with probability `alpha` at most.

    The ``ceil((1 - alpha)(K + 1))``-th smallest of the null scores, NaN left out, and the observed score together.
    """
    if not 0 < alpha < 1:
        raise SslsimError(f"alpha is {alpha}; give the probability of a false alarm, above 0 and below 1")
    every = np.sort(np.concatenate([np.asarray(observed, np.float64)[None], np.asarray(null)]), axis=0)  # NaN last
    known = np.maximum(np.isfinite(every).sum(0), 1)
    place = np.minimum(np.ceil((1 - alpha) * known - 1e-9).astype(np.int64), known) - 1
    return np.take_along_axis(every, place[None], axis=0)[0]


def calibrated(observed: ArrayLike, null: ArrayLike, alpha: float = ALPHA) -> NDArray[np.float64]:
    """Share of the way from the chance threshold to a score of 1: 0 where chance explains it, 1 where it is perfect.

    ``max(0, (s - tau) / (1 - tau))`` with tau the `threshold`. Groeger, Wen & Brbic 2026 (arXiv 2602.14486). For
    the best of several layers give the best of each mismatch, so that the search is in the null too.
    """
    tau = threshold(observed, null, alpha)
    above = np.maximum(np.asarray(observed) - tau, 0.0)
    return np.minimum(above / np.where(tau < 1, 1 - tau, np.inf), 1.0)
