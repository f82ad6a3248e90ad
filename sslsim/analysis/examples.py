"""Hear what neurons and heads respond to: the moments where they are strongest, with the sound around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.extraction import encoded_again
from sslsim.activations.store import ActivationStore
from sslsim.activations.units import frames_of
from sslsim.analysis.preferences import KEYS, PAIR, rows_of, traces
from sslsim.encoders.lineage import SEPARATE
from sslsim.errors import SslsimError
from sslsim.measures.attention import attention_similarity
from sslsim.speech.corpus import Utterance
from sslsim.speech.index import origins
from sslsim.speech.recording import SAMPLE_RATE, Recording, waveform_fingerprint

SECONDS = 0.8  # of a clip


def extremes(partners: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """Choose the neurons that are shared most and least between models trained apart, `n` of each kind at most.

    By how far the correlation of a neuron with its best partner exceeds what it finds in random bases. Blocks add to
    what they are given, so that a neuron goes through layers under one number; none, number for number, comes twice.
    Partners are of `sslsim.evidence`. Columns: kind (most or least shared), relation, `PAIR`, value, rotated, excess.
    """
    between = partners[partners.relation.isin(SEPARATE)].dropna(subset=["value", "rotated"])
    ordered = between.assign(excess=between.value.abs() - between.rotated)
    ordered = ordered.sort_values("excess", ascending=False, kind="stable")
    best = ordered.drop_duplicates(PAIR[:3])
    taken: set[tuple[str, int]] = set()
    rows: list[dict[str, Any]] = []
    for kind, order in (("most shared", best), ("least shared", best[::-1])):
        for pair in order.to_dict("records"):
            two = {(pair[f"model_{side}"], pair[f"neuron_{side}"]) for side in "xy"}
            if not two & taken and sum(row["kind"] == kind for row in rows) < n:
                taken |= two
                rows.append({"kind": kind} | pair)
    return pd.DataFrame(rows, columns=["kind", "relation", *PAIR, "value", "rotated", "excess"])


def strongest_moments(chosen: pd.DataFrame, stores: Sequence[ActivationStore], n: int = 3) -> pd.DataFrame:
    """Find the `n` moments where chosen neurons, and where their partners, are most active, each in another utterance.

    Columns: pair (row of `chosen`, from `extremes`), kind, side (x the neuron, y its partner), model, layer, neuron,
    utterance, frame (its number there), seconds (its centre), z (z-score over all stored frames), z_other (of the other
    one then, turned around if it anticorrelates) and above_other (share of frames where it is lower).
    """
    store, rows = stores[0], []  # all have the same frames
    utterances = np.repeat(np.arange(len(store.index)), store.index.n_frames)  # of each frame
    for number, pair in enumerate(chosen.to_dict("records")):
        scores = _scores(pair, stores)
        for side, other in ("xy", "yx"):
            neuron, z, here = [pair[f"{key}_{side}"] for key in KEYS], scores[other](), scores[side]()
            peaks = pd.Series(here).groupby(utterances).idxmax().to_numpy()
            for at in peaks[np.argsort(-here[peaks], kind="stable")[:n]]:
                place = at - rows_of(store, u := int(utterances[at])).start
                frame, seconds = int(store.frame_rows(u)[place]), float(store.times(u)[place])
                moment = (store.index.utterance.iat[u], frame, seconds, here[at])
                rows.append((number, pair["kind"], side, *neuron, *moment, z[at], float((z < z[at]).mean())))
    columns = ["pair", "kind", "side", *KEYS, "utterance", "frame", "seconds", "z", "z_other", "above_other"]
    return pd.DataFrame(rows, columns=columns)


def _scores(pair: dict[str, Any], stores: Sequence[ActivationStore]) -> dict[str, Callable[..., NDArray[np.float64]]]:
    """Return what gives the z-scores of a neuron and of its partner, the partner's in the neuron's sense."""

    def z(stored: NDArray[np.float64], sign: float, x: Any = None) -> NDArray[np.float64]:
        return sign * ((stored if x is None else x) - stored.mean()) / (stored.std() or 1.0)

    x, y = traces(pair, stores)
    return {"x": partial(z, x, 1.0), "y": partial(z, y, float(np.sign(pair["value"])))}


@dataclass(frozen=True, eq=False)
class Clip:
    """The sound around a moment, and what a pair of neurons does in it. Times are seconds from the moment."""

    moment: dict[str, Any]  # its row of `strongest_moments`
    samples: NDArray[np.float32]  # (n,) at 16 kHz, fewer where the utterance begins or ends within the clip
    begin: float  # time of the first sample, at most 0
    times: NDArray[np.float64]  # centres of frames, (n_frames,)
    z: NDArray[np.float64]  # z-scores of the neuron, (n_frames,)
    z_other: NDArray[np.float64]  # of the other one
    marks: pd.DataFrame  # those that touch the clip: kind, label, start, end

    def label(self, kind: str) -> str:
        """Return the label of a kind that holds at the moment, or an empty string."""
        now = self.marks[(self.marks.kind == kind) & (self.marks.start <= 0) & (self.marks.end > 0)]
        return "" if now.empty else str(now.label.iat[0])


def cut_clips(
    chosen: pd.DataFrame,
    moments: pd.DataFrame,
    stores: Sequence[ActivationStore],
    corpus: Any,
    marks: pd.DataFrame,
    device: str = "auto",
) -> list[Clip]:
    """Cut the sound around moments out of the corpus, each moment in the middle of `SECONDS`.

    The neurons and moments come from `extremes` and `strongest_moments`, the stores were made of the corpus (as for
    `sslsim.speech.corpus.read_corpus`), whose marks are read by `sslsim.speech.alignments`. A sound that it lacks, or
    that differs, is an error. Where stores keep some frames of it alone, encoders run on it again, on `device`.
    """
    scores = [_scores(pair, stores) for pair in chosen.to_dict("records")]
    index, half, clips = stores[0].index, round(SECONDS * SAMPLE_RATE / 2), []
    numbers: list[int] = pd.Index(index.utterance).get_indexer(moments.utterance).tolist()
    places, neurons = list(origins(index, corpus)), chosen[PAIR].to_numpy(dtype=object).reshape(-1, 2, 3)
    sounds = {u: _sound(index.iloc[u], *places[u], marks) for u in dict.fromkeys(numbers)}
    partly = {(u, *x) for u, p in zip(numbers, moments.pair, strict=True) for x in neurons[p]}
    whole = _again({each for each in partly if index.n_frames[each[0]] < index.length[each[0]]}, stores, sounds, device)
    for u, moment in zip(numbers, moments.to_dict("records"), strict=True):
        waveform, said = sounds[u]
        middle = round(moment["seconds"] * SAMPLE_RATE)
        first, last = max(0, middle - half), min(len(waveform), middle + half)
        begin, end = ((at - middle) / SAMPLE_RATE for at in (first, last))
        all_frames = [whole.get((u, *x)) for x in neurons[moment["pair"]]]
        both = all(x is not None for x in all_frames)
        when = stores[0].clock.times(np.arange(index.length[u])) if both else stores[0].times(u)
        times = when - moment["seconds"]
        inside, z = (times >= begin) & (times < end), scores[moment["pair"]].values()
        x, y = (f(of) if both else f()[rows_of(stores[0], u)] for f, of in zip(z, all_frames, strict=True))
        this, other = (x[inside], y[inside])[:: 1 if moment["side"] == "x" else -1]
        said = said.assign(start=said.start - moment["seconds"], end=said.end - moment["seconds"])
        said = said[(said.start < end) & (said.end > begin)].reset_index(drop=True)
        clips.append(Clip(moment, waveform[first:last], begin, times[inside], this, other, said))
    return clips


def _again(neurons: set[tuple], stores: Sequence[ActivationStore], sounds: Any, device: str) -> dict[tuple, Any]:
    """Return neurons (u, model, layer, neuron) on all frames, from encoders that run again; say which cannot."""
    found: dict[tuple, Any] = {}
    for store in stores:
        mine = sorted(neuron for neuron in neurons if neuron[1] == store.name)
        try:
            for u, hidden in encoded_again(store, {u: sounds[u][0] for u, *_ in mine}, device):
                found |= {each: hidden[store.layer_numbers.index(each[2])][:, each[3]] for each in mine if each[0] == u}
        except SslsimError as error:
            print(f"clips show the stored frames of {store.name}, one in {store.frame_stride:.1f}: {error}")
    return found


def _sound(row: Any, utterance: Utterance, begin: float, marks: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the waveform of an utterance, its row of the index given, and its marks with times from its beginning."""
    with Recording(utterance.source) as recording:
        waveform = recording.read(int(row.begin), int(row.end)) if row.end <= recording.n else np.empty(0, "f4")
    if waveform_fingerprint(waveform) != row.waveform:
        raise SslsimError(f"utterance {row.utterance!r} has another sound than the store was made of; extract again")
    said = marks[marks.id == utterance.id]
    return waveform, said.assign(start=said.start - begin, end=said.end - begin)


@dataclass(frozen=True, eq=False)
class HeadPair:
    """Attention of two heads on one utterance."""

    names: tuple[str, str]  # model, layer and head of each
    utterance: str
    samples: NDArray[np.float32]  # the sound at 16 kHz, (n,)
    maps: tuple[NDArray[np.float32], ...]  # what each query looks at, (n_rows, T)
    agreement: float  # mean correlation of the rows of the two, here: the median of all utterances
    marks: pd.DataFrame  # with times from the beginning of the utterance
    step: float = 0.02  # seconds from one frame to the next


def head_pair(matched: pd.DataFrame, stores: Sequence[ActivationStore], corpus: Any, marks: pd.DataFrame) -> HeadPair:
    """Return the maps of two matched heads on the utterance where they agree as much as on half of all, not the best.

    The first row of `matched` (model_x, layer_x, head_x, and of y) says which; for the rest see `cut_clips`.
    """
    row, by_name = matched.iloc[0], {store.name: store for store in frames_of(stores)}
    two = [(by_name[row[f"model_{side}"]], int(row[f"layer_{side}"]), int(row[f"head_{side}"])) for side in "xy"]
    index = two[0][0].index

    def maps(u: int) -> list[NDArray[np.float32]]:
        return [np.asarray(store.attention(layer, u)[head]) for store, layer, head in two]

    alike = np.full(len(index), np.nan)  # an utterance too short for a query row has no score, and comes last
    for u in np.flatnonzero(index.n_rows).tolist():
        alike[u] = attention_similarity("pearson", *([each[None]] for each in maps(u))).item()
    u = int(np.argsort(alike, kind="stable")[np.isfinite(alike).sum() // 2])
    samples, said = _sound(index.iloc[u], *list(origins(index, corpus))[u], marks)
    x, y = (f"{store.name}, layer {layer}, head {head}" for store, layer, head in two)
    step = two[0][0].clock.milliseconds / 1000
    return HeadPair((x, y), str(index.utterance.iat[u]), samples, tuple(maps(u)), float(alike[u]), said, step)
