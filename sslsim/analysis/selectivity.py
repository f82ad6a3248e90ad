"""Time marks of a corpus, and which of their labels neurons prefer: phones, words, or anything that begins and ends.

Frame i of an utterance covers samples [320 i, 320 i + 400) at 16 kHz and has the label that holds at its centre.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from sslsim.activations.selection import states_of
from sslsim.activations.store import ActivationStore
from sslsim.analysis.summaries import SEPARATE, relate
from sslsim.errors import SslsimError, close_match
from sslsim.significance.jackknife import Mismatches, p_value
from sslsim.speech.corpus import Utterance, read_corpus
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, Recording

MARKS = ("id", "kind", "label", "start", "end")
MARKS_FILE = "marks.csv"
LEAST = 20  # times that a label must be marked: the mean over fewer stands out by accident
SIDES = ("x", "y")
_BLOCK = 8192  # frames read at a time
_KEYS = ["model", "layer", "neuron"]


def read_marks(path: str | Path) -> pd.DataFrame:
    """Read the time marks of a corpus.

    Parameters
    ----------
    path : path
        A CSV file with the columns id (of an utterance), kind (such as phone or word), label, start and end, in seconds
        from the beginning of the recording. Marks of one kind and utterance do not overlap.

    Returns
    -------
    DataFrame
        The five columns, by kind, utterance and start.

    Raises
    ------
    SslsimError
        It cannot be read, a column or value is missing, a time is none, a mark ends before it starts, or two overlap.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SslsimError(f"marks {str(path)!r}: cannot be read: {error}") from error
    missing = [column for column in MARKS if column not in table]
    if missing:
        raise SslsimError(f"marks {str(path)!r}: no column {', '.join(missing)}; give {', '.join(MARKS)}")
    marks = table[list(MARKS)].copy()
    for column in ("start", "end"):
        marks[column] = pd.to_numeric(marks[column], errors="coerce").astype(float)
    times = marks[["start", "end"]].to_numpy()
    faults = {
        "has no id, kind or label": (marks[["id", "kind", "label"]] == "").any(axis=1).to_numpy(),
        "has a start or end that is no time in seconds": ~(np.isfinite(times) & (times >= 0)).all(axis=1),
        "does not end after its start": times[:, 1] <= times[:, 0],
    }
    for fault, at in faults.items():
        if at.any():
            raise SslsimError(f"marks {str(path)!r}: {_mark(table, int(at.argmax()))} {fault}; correct it")
    marks = marks.sort_values(["kind", "id", "start"], kind="stable")
    follows = (marks[["kind", "id"]] == marks[["kind", "id"]].shift()).all(axis=1)
    early = follows & (marks.start < marks.end.shift() - 1e-9)
    if early.any():
        at = int(marks.index[early.to_numpy().argmax()])
        raise SslsimError(
            f"marks {str(path)!r}: {_mark(table, at)} starts before the one before it ends; marks of a kind must not "
            "overlap, give them another kind"
        )
    return marks.reset_index(drop=True)


def _mark(table: pd.DataFrame, row: int) -> str:
    values = ",".join(str(value) for value in table.loc[row, list(MARKS)])
    return f"row {row + 1} ({values})"


def marks_of(corpus: str | Path | Any) -> pd.DataFrame:
    """Return the marks in ``marks.csv`` beside a manifest or in a folder of audio; no rows where there is none."""
    file = marks_file(corpus)
    return read_marks(file) if file else pd.DataFrame(columns=list(MARKS))


def marks_file(corpus: str | Path | Any) -> Path | None:
    """Return ``marks.csv`` beside a manifest or in a folder of audio, if it is there."""
    if not isinstance(corpus, str | Path):
        return None
    file = (Path(corpus) if Path(corpus).is_dir() else Path(corpus).parent) / MARKS_FILE
    return file if file.is_file() else None


def _kind(marks: pd.DataFrame, kind: str) -> str:
    """Return the kind of mark that is asked for; by default phone, or the first where there is no phone."""
    kinds = list(dict.fromkeys(marks.kind))
    return kind or ("phone" if "phone" in kinds else next(iter(kinds), ""))


def _recordings(utterance: str) -> tuple[str, str]:
    """Return the names that the recording of an utterance may have: its own, or that without the number of a piece."""
    return utterance, utterance.rpartition("#")[0]


@dataclass(frozen=True, eq=False)
class Labels:
    """The label of every stored frame.

    Attributes
    ----------
    names : tuple of str
        The labels that are marked often enough to be preferred.
    codes : ndarray of shape (n_frames,), int
        Place in `names`; -1 for a frame without a mark or with a rarer label, -2 in an utterance without any mark.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]


def frame_labels(
    marks: pd.DataFrame, store: ActivationStore, corpus: str | Path | Any, *, kind: str = "", least: int = LEAST
) -> Labels:
    """Return the label of every frame of a store.

    Parameters
    ----------
    marks : DataFrame
        From `read_marks`; times count from the beginning of the recording, of which an utterance may be a piece.
    store : ActivationStore
        Any of those of the corpus.
    corpus : path or dataset
        That the store was made of.
    kind : str
        Which kind of mark; by default phone, or the first of these utterances where they have no phone.
    least : int
        Labels that are marked fewer times here cannot be preferred; where all are, all but the most frequent.

    Raises
    ------
    SslsimError
        No mark of this kind, none in these utterances, or the store is of another corpus.
    """
    kinds = list(dict.fromkeys(marks.kind))
    if _kind(marks, kind) not in kinds:
        raise SslsimError(f"no mark of kind {kind!r}{close_match(kind, kinds)}")
    found = _labelled(marks, store, corpus, kind)
    if not found.times:
        raise SslsimError(
            f"the marks are of none of the {len(store.index)} utterances of {store.checkpoint.name}, such as "
            f"{store.index.utterance.iat[0]!r}; their ids must be those of the corpus, and a mark must hold a frame"
        )
    return found.often(least)


def labels_if_any(marks: pd.DataFrame, store: ActivationStore, corpus: str | Path | Any) -> Labels | None:
    """Return `frame_labels`, or nothing where fewer than two utterances have any: preferences need two."""
    found = _labelled(marks, store, corpus, "")
    return found.often(LEAST) if found.utterances > 1 else None


@dataclass(frozen=True, eq=False)
class _Labelled:
    """The label of every frame, None without one; which frames are of utterances with marks, and of how many.

    `times` is how often each label is marked here.
    """

    labels: NDArray[Any]
    inside: NDArray[np.bool_]
    utterances: int
    times: dict[str, int]

    def often(self, least: int) -> Labels:
        """Return the labels that are marked often enough."""
        enough = min(least, max(self.times.values(), default=0))
        names = tuple(sorted(label for label, n in self.times.items() if n >= enough))
        codes = pd.Index(names, dtype=object).get_indexer(self.labels)
        return Labels(names, np.where(self.inside, codes, -2))


def _labelled(marks: pd.DataFrame, store: ActivationStore, corpus: str | Path | Any, kind: str) -> _Labelled:
    recordings = {name for utterance in store.index.utterance for name in _recordings(utterance)}
    here = marks[marks.id.isin(recordings)]
    of = dict(list(here[here.kind == _kind(here, kind)].groupby("id", sort=False)))
    labels = np.full(store.n_frames, None, dtype=object)
    inside = np.zeros(store.n_frames, dtype=bool)
    met: dict[str, set[tuple[str, float]]] = {}
    utterances = 0
    for u, (utterance, begin) in enumerate(origins(store.index, corpus) if of else ()):
        if utterance.id in of:
            own = of[utterance.id]
            rows = rows_of(store, u)
            at = held(own, begin + centres(store.frame_rows(u)))
            inside[rows] = True
            utterances += bool((at >= 0).any())
            labels[rows] = np.where(at >= 0, own.label.to_numpy(dtype=object)[at], None)
            for mark in own.iloc[np.unique(at[at >= 0])].itertuples():
                met.setdefault(mark.label, set()).add((utterance.id, mark.start))
    return _Labelled(labels, inside, utterances, {label: len(places) for label, places in met.items()})


def origins(index: pd.DataFrame, corpus: str | Path | Any) -> Iterator[tuple[Utterance, float]]:
    """Yield the recording that each utterance of a store is a piece of, and where it begins there, in seconds."""
    known, rates = {utterance.id: utterance for utterance in read_corpus(corpus)}, {}
    for row in index.itertuples():
        name = next((name for name in _recordings(row.utterance) if name in known), "")
        if not name:
            raise SslsimError(f"no utterance {row.utterance!r} in this corpus; give the one that the store was made of")
        begin = 0.0
        if row.begin:
            if name not in rates:  # of some files it is known only when all is decoded
                with Recording(known[name].source) as recording:
                    rates[name] = recording.rate
            begin = row.begin / rates[name]
        yield known[name], begin


def rows_of(store: ActivationStore, u: int) -> slice:
    """Return which rows of a layer are of one utterance."""
    start, n = (int(store.index[column].iat[u]) for column in ("start", "n_frames"))
    return slice(start, start + n)


def centres(frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the centres of frames, by number, in seconds from the beginning of their utterance."""
    return (HOP * frames + WINDOW / 2) / SAMPLE_RATE


def held(marks: pd.DataFrame, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the marks, in order of start, holds at each time: start <= time < end; -1 for none."""
    at = np.searchsorted(marks.start.to_numpy(), times, side="right") - 1
    return np.where((at >= 0) & (times < marks.end.to_numpy()[at]), at, -1)


def preferred(stores: Sequence[ActivationStore], labels: Labels, *, frames: int | None = None) -> pd.DataFrame:
    """Find the label of each neuron of each layer whose frames have the mean z-score that is furthest from 0.

    Parameters
    ----------
    stores : sequence of ActivationStore
        Of the same frames.
    labels : Labels
        Of these.
    frames : int, optional
        So many evenly spaced frames, as in the comparison; all by default.

    Returns
    -------
    DataFrame
        model, layer, neuron, label, mean_z (below 0 where the neuron falls on its label). Neurons that never vary are
        left out.
    """
    states = states_of(stores, frames)
    codes = labels.codes if states[0].frames is None else labels.codes[states[0].frames]
    tables = []
    for state in states:
        count, total, square = 0, np.zeros(state.shape[1]), np.zeros(state.shape[1])
        sums = np.zeros((len(labels.names), state.shape[1]))
        pivot = state[:1][0].astype(np.float64)  # squares of numbers far from 0 would lose what varies
        for start in range(0, len(state), _BLOCK):
            known = codes[start : start + _BLOCK]
            part = (state[start : start + _BLOCK] - pivot)[known > -2]
            sums += _one_hot(known[known > -2], len(labels.names)) @ part
            count, total, square = count + len(part), total + part.sum(0), square + (part**2).sum(0)
        spread = np.sqrt(np.maximum(square / count - (total / count) ** 2, 0.0))
        varies = spread > 1e-6 * (np.abs(pivot) + np.abs(total / count))
        n = np.bincount(codes[codes >= 0], minlength=len(labels.names))[:, None]
        z = (sums / np.maximum(n, 1) - total / count) / np.where(varies, spread, 1.0)
        best, mean_z = _furthest(np.where(n > 0, z, 0.0))
        keys = dict(zip(_KEYS, (*state.label, np.arange(len(best))), strict=True))
        tables.append(pd.DataFrame(keys | {"label": np.array(labels.names)[best], "mean_z": mean_z})[varies])
    return pd.concat(tables, ignore_index=True)


def _one_hot(codes: NDArray[np.int64], n: int) -> csr_array:
    """Return a row a label and a column a frame; frames without a label have none."""
    frames = np.flatnonzero(codes >= 0)
    return csr_array((np.ones(len(frames)), (codes[frames], frames)), shape=(n, len(codes)))


def _furthest(z: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the row furthest from 0 of each column, and its value."""
    best = np.abs(z).argmax(0)
    return best, z[best, np.arange(z.shape[1])]


def agreement(
    partners: pd.DataFrame, stores: Sequence[ActivationStore], labels: Labels, *, frames: int | None = None
) -> pd.DataFrame:
    """Say how many neurons of models trained apart prefer the label that their best partner prefers.

    A pair agrees when both prefer one label, on the same side of 0 where they correlate and on opposite ones where they
    anticorrelate.

    Parameters
    ----------
    partners : DataFrame
        Best partners from `sslsim.neuron_evidence`.
    stores : sequence of ActivationStore
        That they were made from.
    labels, frames
        See `preferred`.

    Returns
    -------
    DataFrame
        relation, pairs, same (share that agrees), shuffled (share expected if the partners of each two models were
        dealt anew: exact, no draws), beyond (pairs that correlate more than in the random bases, by rotated_high),
        same_beyond and shuffled_beyond (the shares of those).
    """
    pairs = relate(partners, stores)
    pairs = pairs[pairs.relation.isin(SEPARATE)]
    columns = ["relation", "pairs", "same", "shuffled", "beyond", "same_beyond", "shuffled_beyond"]
    if pairs.empty:
        return pd.DataFrame(columns=columns)
    names = {*pairs.model_x, *pairs.model_y}
    liked = preferred([store for store in stores if store.checkpoint.name in names], labels, frames=frames)
    for side in SIDES:
        keys = [f"{key}_{side}" for key in _KEYS]
        pairs = pairs.merge(liked.add_suffix(f"_{side}"), on=keys, how="inner")
    sign = {"x": 1.0, "y": np.sign(pairs.value)}
    for side in SIDES:
        up = np.where(pairs[f"mean_z_{side}"] * sign[side] > 0, "+", "-")
        pairs[f"likes_{side}"] = up + pairs[f"label_{side}"].astype(object)
    rows = []
    for relation, group in pairs.groupby("relation", sort=False):
        beyond = group[group.value.abs() > group.rotated_high]
        row = {"relation": relation, "pairs": len(group), "same": _same(group), "shuffled": _shuffled(group)}
        row |= {"beyond": len(beyond), "same_beyond": _same(beyond), "shuffled_beyond": _shuffled(beyond)}
        rows.append(row)
    table = pd.DataFrame(rows, columns=columns).set_index("relation")
    return table.loc[[relation for relation in SEPARATE if relation in table.index]].reset_index()


def _same(pairs: pd.DataFrame) -> float:
    return float((pairs.likes_x == pairs.likes_y).mean())


def _shuffled(pairs: pd.DataFrame) -> float:
    """Return the share of equal labels when the partners of each two models are dealt anew."""
    expected = 0.0
    for _, group in pairs.groupby(["model_x", "model_y"], sort=False):
        x, y = (group[f"likes_{side}"].value_counts() for side in SIDES)
        expected += float((x * y.reindex(x.index, fill_value=0)).sum()) / len(group)
    return expected / len(pairs) if len(pairs) else float("nan")


def selectivity(
    chosen: pd.DataFrame,
    stores: Sequence[ActivationStore],
    labels: Labels,
    *,
    frames: int | None = None,
    draws: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Say which label chosen neurons and their partners prefer, how selectively, and what chance gives.

    The preferred label is that of `preferred`. Its selectivity is the AUROC of its frames against all others by the
    activation, turned around where the neuron falls on its label: the probability that a frame of the label has the
    larger activation. Chance is the same of labels of other utterances of about equal length, cropped, with the label
    searched anew in each draw; p is the share of the draws, and of the score on cropped utterances itself, that are as
    selective. Utterances without marks are left out.

    Parameters
    ----------
    chosen : DataFrame
        With model_x, layer_x, neuron_x, model_y, layer_y, neuron_y and value, as from `extremes`.
    stores, labels, frames
        See `preferred`.
    draws, seed
        Mismatches of utterances, see `sslsim.significance.jackknife.Mismatches`.

    Returns
    -------
    DataFrame
        `chosen` without relation and excess, and label_x (after its sign), auroc_x, chance_x, p_x, the same of y, and
        same_label (also in sign, that of the correlation taken off).
    """
    out = chosen.drop(columns=["relation", "excess"], errors="ignore").reset_index(drop=True)
    by_name = {store.checkpoint.name: store for store in stores}
    states = states_of(stores, frames)
    rows = np.arange(len(labels.codes)) if states[0].frames is None else states[0].frames
    kept = rows[labels.codes[rows] > -2]
    codes = labels.codes[kept]
    ends = np.searchsorted(kept, stores[0].index.start + stores[0].index.n_frames)
    wrong = Mismatches.of(np.diff(ends, prepend=0).tolist(), draws, seed)
    signs, places = {}, {}
    for side in SIDES:
        keys = zip(*(out[f"{key}_{side}"] for key in _KEYS), strict=True)
        neurons = [neuron_of(by_name[model], layer, neuron)[kept] for model, layer, neuron in keys]
        x = np.array(neurons).reshape(len(out), len(kept)).T
        places[side], mean_z, auroc = _preference(*_scored(x), codes, len(labels.names))
        signs[side] = np.where(mean_z > 0, 1, -1)
        told = [("+" if sign > 0 else "-") + labels.names[i] for sign, i in zip(signs[side], places[side], strict=True)]
        chance, p = _chance(x, codes, len(labels.names), wrong, ends)
        columns = {"label": told, "auroc": auroc, "chance": chance, "p": p}
        out = out.assign(**{f"{name}_{side}": column for name, column in columns.items()})
    same_sign = signs["x"] * signs["y"] == np.sign(out.value)
    return out.assign(same_label=same_sign & (places["x"] == places["y"]))


def _preference(
    z: NDArray[np.float64], ranks: NDArray[np.float64], codes: NDArray[np.int64], n_labels: int
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Return the preferred label of each neuron, its mean z-score, and its AUROC, turned around if that is below 0.

    The AUROC is (R - n (n + 1) / 2) / (n m): R the sum of the ranks of n frames of the label, m the other frames (Mann
    & Whitney 1947).
    """
    one_hot = _one_hot(codes, n_labels)
    counts = one_hot.sum(1)
    best, mean_z = _furthest((one_hot @ z) / np.maximum(counts, 1)[:, None])
    n = counts[best]
    sums = (one_hot @ ranks)[best, np.arange(z.shape[1])]
    auroc = (sums - n * (n + 1) / 2) / np.maximum(n * (len(z) - n), 1)
    return best, mean_z, np.where(mean_z > 0, auroc, 1 - auroc)


def _chance(
    x: NDArray[np.float64], codes: NDArray[np.int64], n_labels: int, wrong: Mismatches, ends: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean AUROC of the preferred labels of mismatched utterances, and p."""
    starts = np.concatenate([[0], ends[:-1]])

    def cropped(partner: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.concatenate([starts[v] + np.arange(wrong.lengths[v]) for v in partner])

    own = np.arange(len(starts))
    z, ranks = _scored(x[cropped(own)])
    scores = [_preference(z, ranks, codes[cropped(partner)], n_labels)[2] for partner in [own, *wrong.partners]]
    return np.mean(scores[1:], axis=0), p_value(scores[0], np.array(scores[1:]))


def _scored(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return z-scores and ranks of each neuron."""
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1.0), rankdata(x, axis=0)


def neuron_of(store: ActivationStore, layer: int, neuron: int) -> NDArray[np.float64]:
    """Return the activation of one neuron on all stored frames, (n_frames,)."""
    return np.asarray(store.layer(layer)[:, neuron], dtype=np.float64)
