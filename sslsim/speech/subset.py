"""Which utterances of a corpus are used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Utterance
from sslsim.speech.recording import SAMPLE_RATE, AudioError

MISSES = 20  # utterances in a row that are too long for what is left, after which a subset by seconds is full


@dataclass(frozen=True)
class Subset:
    """Which utterances of a corpus to take.

    Utterances are ranked by a hash of seed and id, so that what is taken does not depend on their order, and one more
    or less in the corpus moves at most one other in or out.

    Attributes
    ----------
    max_utterances, per_speaker : int or None
        At most so many, of all and of each speaker; None for no limit.
    max_seconds : float or None
        At most so much audio.
    seed : int
        Another seed gives another subset.
    """

    max_utterances: int | None = None
    max_seconds: float | None = None
    per_speaker: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind, what, least in (
            ("max_utterances", Integral, "a whole number, at least 1", 1),
            ("per_speaker", Integral, "a whole number, at least 1", 1),
            ("max_seconds", Real, "a number, at least one frame, 0.025", 0.025),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, kind) and float(value) >= least):
                raise SslsimError(f"{name} is {value!r}; it must be {what}, or None for no limit")

    def of(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those taken, in the corpus's order."""
        if self.max_utterances is self.max_seconds is self.per_speaker is None:
            return list(utterances)
        ranks = {u.id: hashlib.sha256(f"{self.seed}\0{u.id}".encode()).digest() for u in utterances}
        ranked = sorted(utterances, key=lambda u: ranks[u.id])
        if self.per_speaker is not None:
            met: Counter[str] = Counter()
            ranked = [u for u in ranked if (met.update([u.speaker]) or met[u.speaker]) <= self.per_speaker]
        ranked = ranked[: self.max_utterances]
        if self.max_seconds is not None:
            ranked = list(_within(ranked, self.max_seconds * SAMPLE_RATE))
            if not ranked:
                raise SslsimError(f"max_seconds is {self.max_seconds:g}; no utterance is so short, give more")
        chosen = {u.id for u in ranked}
        return [u for u in utterances if u.id in chosen]


def _within(ranked: Iterable[Utterance], left: float) -> Iterator[Utterance]:
    """Yield utterances until the samples are used up; those without a length too, to be reported."""
    misses = 0
    for utterance in ranked:
        try:
            n = utterance.n_samples
        except AudioError:
            n = 0
        if n <= left:
            left, misses = left - n, 0
            yield utterance
        else:
            misses += 1
            if misses == MISSES:
                return
