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
    chance is compared with too: each loses frames in the middle, so that what all have in common at their beginning and
    at their end is in the mismatches as well. They stand in a random circle; each mismatch shifts the circle by another
    step. Score and mismatches are then a group of pairings, no two of which have a pair in common, so that p is exact
    whatever their number (Hemerik & Goeman 2018).
    """

    full: NDArray[np.int64]  # frames of each utterance
    lengths: NDArray[np.int64]  # frames that are left of each utterance
    strata: list[NDArray[np.int64]]  # numbers of the utterances of each stratum
    partners: list[NDArray[np.int64]]  # of every mismatch, the number of the partner of each utterance

    @classmethod
    def of(cls, lengths: Sequence[int], permutations: int, seed: int = 0) -> Mismatches:
        """Choose partners for utterances of these lengths: one mismatch fewer than a stratum has utterances at most."""
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

    Of scores (...) and their null (K, ...), NaN not counted; never below 1 / (K + 1) (Phipson & Smyth 2010).
    """
    scores = np.asarray(null, dtype=np.float64)
    return (1 + (scores >= np.asarray(observed)).sum(0)) / (1 + np.isfinite(scores).sum(0))
