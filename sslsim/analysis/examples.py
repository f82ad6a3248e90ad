"""Hear what neurons and heads respond to: the moments where they are strongest, with the sound around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.store import ActivationStore
from sslsim.analysis.selectivity import MARKS, SIDES, centres, neuron_of, origins, rows_of
from sslsim.analysis.summaries import SEPARATE, relate
from sslsim.errors import SslsimError
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, Recording, waveform_fingerprint

KINDS = ("most shared", "least shared")
_KEYS = ["model", "layer", "neuron"]


def extremes(partners: pd.DataFrame, stores: Sequence[ActivationStore], n: int = 4) -> pd.DataFrame:
    """Choose the neurons that are shared most and least between models trained apart.

    By how far the correlation of a neuron with its best partner exceeds what it finds in random bases, in the other
    model where that is most. Blocks add to what they are given, so that a neuron goes through the layers of its model
    under one number; no neuron, number for number, is chosen twice.

    Parameters
    ----------
    partners : DataFrame
        Best partners from `sslsim.neuron_evidence`, draws above 0.
    stores : sequence of ActivationStore
        That they were made from.
    n : int
        How many of each kind at most.

    Returns
    -------
    DataFrame
        kind (most shared, least shared), relation, model_x, layer_x, neuron_x, model_y, layer_y, neuron_y, value,
        rotated, excess.
    """
    if "rotated" not in partners:
        raise SslsimError("these partners have no column rotated; take them from sslsim.neuron_evidence, draws above 0")
    found = relate(partners, stores)
    found = found[found.relation.isin(SEPARATE)].dropna(subset=["value", "rotated"])
    found = found.assign(excess=found.value.abs() - found.rotated).sort_values("excess", ascending=False, kind="stable")
    best = found.drop_duplicates([f"{key}_x" for key in _KEYS])
    taken: set[tuple[str, int]] = set()
    rows = []
    for kind, ordered in zip(KINDS, (best, best[::-1]), strict=True):
        chosen = 0
        for row in ordered.to_dict("records"):
            if chosen == n:
                break
            two = {(row[f"model_{side}"], row[f"neuron_{side}"]) for side in SIDES}
            if not two & taken:
                taken |= two
                chosen += 1
                rows.append({"kind": kind} | row)
    columns = ["kind", "relation", *(f"{key}_{side}" for side in SIDES for key in _KEYS), "value", "rotated", "excess"]
    return pd.DataFrame(rows, columns=columns)


def moments(chosen: pd.DataFrame, stores: Sequence[ActivationStore], n: int = 3) -> pd.DataFrame:
    """Find the moments where chosen neurons, and where their partners, are most active: each in another utterance.

    Parameters
    ----------
    chosen : DataFrame
        From `extremes`, or with kind, value and model, layer and neuron of both sides.
    stores : sequence of ActivationStore
        That it was made from.
    n : int
        How many of each neuron at most.

    Returns
    -------
    DataFrame
        pair (row of `chosen`), kind, side (x the neuron, y its partner), model, layer, neuron, utterance, frame (its
        number there), seconds (its centre), z (z-score of the neuron over all stored frames), z_other and above_other
        (z-score of the other one of the pair at the same frame, and the share of all frames where that is lower). The
        sign of a partner that anticorrelates is turned around.
    """
    by_name = {store.checkpoint.name: store for store in stores}
    rows = []
    for pair, row in enumerate(chosen.to_dict("records")):
        scores = _scores(row, by_name)
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            store = by_name[row[f"model_{side}"]]
            for u, at in _peaks(scores[side], store.index, n):
                frame = int(store.frame_rows(u)[at - int(store.index.start.iat[u])])
                place = {"utterance": store.index.utterance.iat[u], "frame": frame}
                place |= {"seconds": float(centres(np.array([frame]))[0]), "z": scores[side][at]}
                found = {"pair": pair, "kind": row["kind"], "side": side} | {k: row[f"{k}_{side}"] for k in _KEYS}
                above = float((scores[other] < scores[other][at]).mean())
                rows.append(found | place | {"z_other": scores[other][at], "above_other": above})
    columns = ["pair", "kind", "side", *_KEYS, "utterance", "frame", "seconds", "z", "z_other", "above_other"]
    return pd.DataFrame(rows, columns=columns)


def _scores(row: dict[str, Any], by_name: dict[str, ActivationStore]) -> dict[str, NDArray[np.float64]]:
    """Return the z-scores of a neuron and its partner over all stored frames, the partner's in the neuron's sense."""
    scores = {}
    for side, sign in zip(SIDES, (1.0, float(np.sign(row["value"]))), strict=True):
        x = neuron_of(by_name[row[f"model_{side}"]], row[f"layer_{side}"], row[f"neuron_{side}"])
        scores[side] = sign * (x - x.mean()) / (x.std() or 1.0)
    return scores


def _peaks(z: NDArray[np.float64], index: pd.DataFrame, n: int) -> list[tuple[int, int]]:
    """Return the utterances with the `n` highest peaks and the row of each peak, the highest first."""
    extents = zip(index.start, index.start + index.n_frames, strict=True)
    peaks = [(u, int(start + z[start:stop].argmax())) for u, (start, stop) in enumerate(extents) if stop > start]
    return sorted(peaks, key=lambda peak: -z[peak[1]])[:n]


@dataclass(frozen=True, eq=False)
class Clip:
    """The sound around a moment, and what a pair of neurons does in it. Times are seconds from the moment.

    Attributes
    ----------
    moment : dict
        Its row of `moments`.
    samples : ndarray of shape (n,), float32
        At 16 kHz; where the utterance begins or ends within the clip, fewer than asked for.
    begin : float
        Time of the first sample, at most 0.
    times, z, z_other : ndarray of shape (n_frames,)
        Centres of the stored frames, z-scores of the neuron and of the other one of the pair.
    marks : DataFrame
        kind, label, start and end of the marks that touch the clip.
    """

    moment: dict[str, Any]
    samples: NDArray[np.float32]
    begin: float
    times: NDArray[np.float64]
    z: NDArray[np.float64]
    z_other: NDArray[np.float64]
    marks: pd.DataFrame

    def label(self, kind: str) -> str:
        """Return the label of a kind that holds at the moment, or an empty string."""
        now = self.marks[(self.marks.kind == kind) & (self.marks.start <= 0) & (self.marks.end > 0)]
        return "" if now.empty else str(now.label.iat[0])


def clips(
    chosen: pd.DataFrame,
    found: pd.DataFrame,
    stores: Sequence[ActivationStore],
    corpus: str | Path | Any,
    marks: pd.DataFrame | None = None,
    *,
    seconds: float = 0.8,
) -> list[Clip]:
    """Cut the sound around moments out of the corpus, each moment in the middle.

    Parameters
    ----------
    chosen, found : DataFrame
        From `extremes` and `moments`.
    stores : sequence of ActivationStore
        That they were made from.
    corpus : path or dataset
        That the stores were made of.
    marks : DataFrame, optional
        From `sslsim.analysis.selectivity.read_marks`.
    seconds : float
        Length of a clip.

    Raises
    ------
    SslsimError
        The corpus has no such utterance, or another sound under its name.
    """
    by_name = {store.checkpoint.name: store for store in stores}
    scores = {pair: _scores(row, by_name) for pair, row in enumerate(chosen.to_dict("records"))}
    sounds = _Sounds(stores[0], corpus, marks)
    half = round(seconds * SAMPLE_RATE / 2)
    cut = []
    for moment in found.to_dict("records"):
        store, u = by_name[moment["model"]], sounds.number(moment["utterance"])
        waveform, own = sounds.of(u)
        middle = HOP * moment["frame"] + WINDOW // 2
        first, last = max(0, middle - half), min(len(waveform), middle + half)
        times = centres(store.frame_rows(u)) - moment["seconds"]
        inside = (times >= (first - middle) / SAMPLE_RATE) & (times < (last - middle) / SAMPLE_RATE)
        z = {side: scores[moment["pair"]][side][rows_of(store, u)][inside] for side in SIDES}
        shifted = own.assign(start=own.start - moment["seconds"], end=own.end - moment["seconds"])
        touched = (shifted.start < (last - middle) / SAMPLE_RATE) & (shifted.end > (first - middle) / SAMPLE_RATE)
        other = SIDES[1 - SIDES.index(moment["side"])]
        sound = {"samples": waveform[first:last], "begin": (first - middle) / SAMPLE_RATE}
        trace = {"times": times[inside], "z": z[moment["side"]], "z_other": z[other]}
        cut.append(Clip(moment, **sound, **trace, marks=shifted[touched].reset_index(drop=True)))
    return cut


class _Sounds:
    """The waveforms of a store's utterances, and their marks with times from the beginning of each."""

    def __init__(self, store: ActivationStore, corpus: str | Path | Any, marks: pd.DataFrame | None) -> None:
        self._index = store.index
        self._origins = list(origins(store.index, corpus))
        self._marks = pd.DataFrame(columns=list(MARKS)) if marks is None else marks

    def number(self, utterance: str) -> int:
        return int((self._index.utterance == utterance).to_numpy().argmax())

    def of(self, u: int) -> tuple[NDArray[np.float32], pd.DataFrame]:
        (utterance, begin), row = self._origins[u], self._index.iloc[u]
        with Recording(utterance.source) as recording:
            waveform = recording.read(int(row.begin), int(row.end)) if row.end <= recording.n else np.empty(0, "f4")
        if waveform_fingerprint(waveform) != row.waveform:
            raise SslsimError(
                f"utterance {row.utterance!r} has another sound than the store was made of; extract again"
            )
        own = self._marks[self._marks.id == utterance.id]
        return waveform, own.assign(start=own.start - begin, end=own.end - begin)


@dataclass(frozen=True, eq=False)
class HeadPair:
    """Attention of two heads on one utterance.

    Attributes
    ----------
    names : tuple of two str
        Model, layer and head of each.
    utterance : str
        That was heard.
    samples : ndarray of shape (n,), float32
        Its sound at 16 kHz.
    queries : ndarray of shape (n_rows,), int
        Frame of each query row.
    maps : tuple of two ndarrays of shape (n_rows, T)
        What each query looks at.
    agreement : float
        Mean correlation of the rows of the two, here; the median of all utterances.
    marks : DataFrame
        Marks of the utterance, times from its beginning.
    """

    names: tuple[str, str]
    utterance: str
    samples: NDArray[np.float32]
    queries: NDArray[np.int64]
    maps: tuple[NDArray[np.float32], NDArray[np.float32]]
    agreement: float
    marks: pd.DataFrame


def head_pair(
    matched: pd.DataFrame,
    stores: Sequence[ActivationStore],
    corpus: str | Path | Any,
    marks: pd.DataFrame | None = None,
    *,
    place: int = 0,
) -> HeadPair:
    """Return the maps of two matched heads on the utterance where they agree as much as on half of all, not the best.

    Parameters
    ----------
    matched : DataFrame
        model_x, layer_x, head_x, model_y, layer_y, head_y, as from `sslsim.analysis.partners.matched_heads`.
    stores : sequence of ActivationStore
        That it was made from.
    corpus, marks
        See `clips`.
    place : int
        Which row.
    """
    if not 0 <= place < len(matched):
        raise SslsimError(f"no pair of heads {place}; there are {len(matched)}, counted from 0")
    row = matched.iloc[place]
    by_name = {store.checkpoint.name: store for store in stores}
    two = [(by_name[row[f"model_{side}"]], int(row[f"layer_{side}"]), int(row[f"head_{side}"])) for side in SIDES]
    index = two[0][0].index

    def maps(u: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        x, y = (np.asarray(store.attention(layer, u)[head]) for store, layer, head in two)
        return x, y

    agreement = np.array([_row_correlation(*maps(u)) for u in range(len(index))])
    scored = np.flatnonzero(np.isfinite(agreement))
    u = int(scored[agreement[scored].argsort(kind="stable")[len(scored) // 2]])
    samples, own = _Sounds(two[0][0], corpus, marks).of(u)
    x, y = (f"{store.checkpoint.name}, layer {layer}, head {head}" for store, layer, head in two)
    queries = two[0][0].query_rows(u)
    return HeadPair((x, y), str(index.utterance.iat[u]), samples, queries, maps(u), float(agreement[u]), own)


def _row_correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Return the mean correlation of the rows of two maps; NaN where no row of both varies."""
    a, b = (m.astype(np.float64) - m.mean(1, keepdims=True, dtype=np.float64) for m in (x, y))
    norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    varies = norms > 0
    return float(((a * b).sum(1)[varies] / norms[varies]).mean()) if varies.any() else float("nan")
