"""Which frames of each utterance are taken where not all are: those at the same positions of every utterance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RULE = "floor((k + 1/2) stride), k = 0, 1, ..., below ceil(T / 2) from the start, below floor(T / 2) from the end"


def positions(length: int, stride: float) -> NDArray[np.int64]:
    """Return which frames of an utterance are taken, about one in `stride`; all where that is 1.

    Utterances are alike at their beginning and at their end. The first half counts from the start, the second from the
    end, so that all of them are met at the same places (``RULE``): of n frames ceil(n / 2) are counted from the start.
    """
    half, places = length // 2, _places(length, stride)
    return np.concatenate([places[places < length - half], length - 1 - places[places < half][::-1]])


def stride_for(lengths: Sequence[int], most: int | None) -> float:
    """Return the least stride at which utterances of these lengths have `most` frames in all, or fewer; None: all."""
    whole = np.asarray(lengths, np.int64)
    if most is None or whole.sum() <= most:
        return 1.0
    halves = np.concatenate([whole - whole // 2, whole // 2])
    low, high = 1.0, 2.0 * halves.max()  # which takes none
    while low < (middle := (low + high) / 2) < high:
        many = np.searchsorted(_places(halves.max(), middle), halves).sum() > most
        low, high = (middle, high) if many else (low, middle)
    return float(high)


def common_positions(lengths: Sequence[int], most: int) -> NDArray[np.int64]:
    """Numbers, utterance after utterance, of at most so many frames at the same positions of all."""
    stride, starts = stride_for(lengths, most), np.cumsum([0, *lengths[:-1]])
    return np.concatenate([start + positions(n, stride) for start, n in zip(starts, lengths, strict=True)])


def _places(n: int, stride: float) -> NDArray[np.int64]:
    """Return the positions of the rule from 0 to `n`, and something beyond."""
    return np.floor((np.arange(np.ceil(n / stride) + 1) + 0.5) * stride).astype(np.int64)
