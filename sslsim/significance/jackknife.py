"""Intervals: how far a score may be believed for speech like this, from scores without each block of utterances."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from sslsim.errors import SslsimError
from sslsim.measures.products import Utterances
from sslsim.speech.facts import NAMING

LEVEL = 0.95


def jackknife_error(value: ArrayLike, left_out: ArrayLike, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Return the standard error of a score from its values without each block of utterances.

    The delete-a-group jackknife for blocks of unequal size (Busing, Meijer & van der Leeden 1999): scores of all frames
    (...), without each block (B, ...), and frames of each block.
    """
    left = np.asarray(left_out, dtype=np.float64)
    if len(left) < 2 or len(left) != len(sizes):
        got = f"{len(left)} scores, {len(sizes)} blocks"
        raise SslsimError(f"a jackknife needs a score without each of at least 2 blocks; got {got}")
    weight = (np.sum(sizes) / np.asarray(sizes, dtype=np.float64)).reshape(-1, *[1] * (left.ndim - 1))
    pseudo = weight * np.asarray(value) - (weight - 1) * left
    mean = (pseudo / weight).sum(0)
    return np.sqrt((((pseudo - mean) ** 2) / (weight - 1)).mean(0))


def jackknife_interval(
    value: ArrayLike, left_out: ArrayLike, sizes: Sequence[int], level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval for a score over speech like this, from its values without each block of utterances.

    ``value -+ t error`` (`jackknife_error`), with the quantile of B - 1 degrees of freedom that covers `level`.
    """
    if not 0 < level < 1:
        raise SslsimError(f"level is {level}; give the coverage of the interval, above 0 and below 1")
    middle = np.asarray(value, dtype=np.float64)
    half = stats.t.ppf((1 + level) / 2, len(np.asarray(left_out)) - 1) * jackknife_error(value, left_out, sizes)
    return middle - half, middle + half


def blocks_of(index: pd.DataFrame, lengths: Sequence[int], blocks: int, block_by: str) -> Utterances:
    """Return the blocks to leave out one after another: runs of utterances, or whole speakers.

    There are `blocks` of them at most, 0 for none; speakers beyond share one. `block_by`, 'utterance' or 'speaker', is
    what stays together; of each utterance of a store's index, `lengths` has the number of frames compared.
    """
    if not blocks:
        return Utterances(())
    made = Utterances(tuple(lengths), blocks)
    if block_by == "speaker":
        size = pd.Series(lengths).groupby(index.speaker.to_numpy()).sum().sort_values(ascending=False, kind="stable")
        load, label = np.zeros(blocks), {}
        for speaker, frames in size.items():  # the longest first, to where least is
            label[speaker] = int(load.argmin())
            load[label[speaker]] += frames
        made = Utterances(tuple(lengths), labels=tuple(label[speaker] for speaker in index.speaker))
    if len(made.members) < 2:
        cure = f"; {NAMING}" if block_by == "speaker" else ""
        raise SslsimError(f"{len(made.members)} {block_by} with frames; an interval needs at least 2{cure}")
    return made
