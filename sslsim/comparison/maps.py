"""Attention maps of some utterances, cropped so that any can stand for any other, and sums of scores over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sslsim.activations.selection import check_stores
from sslsim.activations.store import ActivationStore
from sslsim.errors import SslsimError
from sslsim.measures import attention
from sslsim.speech.recording import spread


def with_attention(stores: Sequence[ActivationStore]) -> list[ActivationStore]:
    """Return the stores that hold attention (log-mel has no heads); raise if they cannot be compared or none does."""
    check_stores(stores)
    chosen = [store for store in stores if store.attention_layers]
    if not chosen:
        raise SslsimError("no attention in these stores; extract with queries above 0")
    return chosen


@dataclass(frozen=True)
class Crop:
    """What to compare of one utterance's maps."""

    rows: np.ndarray  # which of the stored query rows
    start: np.ndarray | None = None  # first key of each row: rows are cropped and brought to sum 1 again
    width: int = 0  # keys of each row


def kept_rows(stores: Sequence[ActivationStore], rows: int | None = None) -> list[Crop]:
    """Return the stored query rows of each utterance to compare: all, or so many at most, evenly spaced."""
    index = with_attention(stores)[0].index
    if rows is not None and rows < 1:
        raise SslsimError(f"rows is {rows}; give at least 1 query row of each utterance, or None for all stored")
    return [Crop(spread(stored, stored if rows is None else rows)) for stored in index.n_rows.tolist()]


def cropped_rows(stores: Sequence[ActivationStore], crops: list[Crop], strata: Sequence[np.ndarray]) -> list[Crop]:
    """Crop the maps of the utterances of each stratum alike, so that any can stand for any other.

    The query frames of their rows then stand at one place, with as many keys before and after as all of them have.
    """
    store, out = with_attention(stores)[0], list(crops)
    for stratum in strata:
        count = min(len(crops[u].rows) for u in stratum)
        kept = {int(u): crops[u].rows[spread(len(crops[u].rows), count)] for u in stratum}
        query = {u: store.query_rows(u)[some] for u, some in kept.items()}
        left = np.min([query[u] for u in kept], axis=0)
        right = np.min([int(store.index["length"].iloc[u]) - query[u] for u in kept], axis=0)
        width = int((left + right).min())
        before = np.clip(width * left // (left + right), width - right, left)
        for u, some in kept.items():
            out[u] = Crop(some, query[u] - before, width)
    return out


def sum_utterances(
    device: str, stores: list[ActivationStore], measures: list[str], utterances: list[tuple[int, int, Crop, Crop]]
) -> dict[str, attention.Sums]:
    """Sum of the scores of every pair of heads over some utterances and their partners."""

    def of_one(u: int, v: int, crop_x: Crop, crop_y: Crop) -> dict[str, attention.Sums]:
        x = _Stacked(stores, u, crop_x)
        y, half = (x, False) if u == v else (_Stacked(stores, v, crop_y), True)
        return attention.utterance_sums(
            measures, x, y, names=("attention", "attention"), utterance=u, half=half, device=device
        )

    return attention.add_up(of_one(*one) for one in utterances)


class _Stacked:
    """Maps of all heads of all layers of one utterance, (heads, rows, T); only the rows asked for are read."""

    def __init__(self, stores: list[ActivationStore], u: int, crop: Crop) -> None:
        self.maps = [s.attention(layer, u) for s in stores for layer in range(1, s.attention_layers + 1)]
        self.crop = crop
        self.shape = (sum(map(len, self.maps)), len(crop.rows), crop.width or self.maps[0].shape[2])

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        (heads, some), crop = part, self.crop
        whole = np.concatenate([m[heads, crop.rows[some]] for m in self.maps])
        if crop.start is None:
            return whole
        keys = crop.start[some][:, None] + np.arange(crop.width)
        cropped = np.take_along_axis(whole, keys[None], axis=2)
        mass = cropped.sum(2, keepdims=True)
        return np.where(mass > 1e-6, cropped / np.maximum(mass, 1e-6), np.float32(1 / crop.width))
