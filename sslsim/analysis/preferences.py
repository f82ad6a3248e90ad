"""Which labels neurons prefer (phones, words, anything that begins and ends), and whether partners prefer the same."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from sslsim.activations.store import ActivationStore, StoredLayer
from sslsim.encoders.lineage import SEPARATE
from sslsim.significance.nulls import ALPHA, Mismatches, p_value
from sslsim.speech.alignments import held
from sslsim.speech.index import origins

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
KEYS = ["model", "layer", "neuron"]
PAIR = [f"{key}_{side}" for side in "xy" for key in KEYS]  # of two neurons
LEAST = 20  # times that a label must be marked: the mean over fewer stands out by accident
_BLOCK = 8192  # frames read at a time


class Labels(NamedTuple):
    """The label of every stored frame: that which holds at its centre."""

    names: tuple[str, ...]  # of labels that are marked often enough to be preferred
    codes: Ints  # places in names, (n_frames,): -1 without a mark or with a rarer label, -2 in an utterance without any


def labels_if_any(marks: pd.DataFrame, store: ActivationStore, corpus: Any) -> Labels | None:
    """Return the label of every frame of a store, or nothing where fewer than two utterances have any.

    Labels are phones, or the first kind of mark of these utterances where they have no phones. Those marked fewer than
    `LEAST` times here cannot be preferred; where all are, all but the most frequent. Marks are of
    `sslsim.speech.alignments`, with times from the beginning of the utterance as the corpus lists it, of which one of
    the store may be a piece. It is an error if the corpus lacks an utterance of the store.
    """
    places = list(origins(store.index, corpus)) if len(marks) else []
    here = marks[marks.id.isin({utterance.id for utterance, _ in places})]
    kind = "phone" if (here.kind == "phone").any() else next(iter(here.kind), "")
    of = dict(list(here[here.kind == kind].groupby("id", sort=False)))
    labels, inside = np.full(store.n_frames, None, dtype=object), np.zeros(store.n_frames, dtype=bool)
    used = []  # the marks that hold a frame, by utterance; two pieces of a recording may share one
    for u, (utterance, begin) in enumerate(places):
        if utterance.id in of:
            marked, rows = of[utterance.id], rows_of(store, u)
            at = held(marked, begin + store.times(u))
            inside[rows] = True
            labels[rows] = np.where(at >= 0, marked.label.to_numpy(dtype=object)[at], None)
            used.append(marked.iloc[np.unique(at[at >= 0])])
    if sum(len(some) > 0 for some in used) < 2:
        return None
    times = pd.concat(used)[["id", "start", "label"]].drop_duplicates().label.value_counts()
    names = tuple(sorted(times.index[times >= min(LEAST, times.max())]))
    return Labels(names, np.where(inside, pd.Index(names, dtype=object).get_indexer(labels), -2))


def rows_of(store: ActivationStore, u: int) -> slice:
    """Return which rows of a layer are of one utterance."""
    start = int(store.index.start.iat[u])
    return slice(start, start + int(store.index.n_frames.iat[u]))


def traces(pair: Any, stores: Sequence[ActivationStore]) -> list[Floats]:
    """Return the activations of the two neurons of a pair (a row of a table) on all stored frames, (n_frames,) each."""
    by_name = {store.name: store for store in stores}
    layers = [by_name[pair[f"model_{side}"]].layer(pair[f"layer_{side}"]) for side in "xy"]
    return [x[:, pair[f"neuron_{side}"]].astype(np.float64) for x, side in zip(layers, "xy", strict=True)]


def preferred_labels(stores: Sequence[ActivationStore], labels: Labels) -> pd.DataFrame:
    """Find the label of each neuron of each layer whose frames have the mean z-score that is furthest from 0.

    Columns: model, layer, neuron (those that vary), label, mean_z (below 0 where the neuron falls on its label).
    """
    tables = {(store.name, i): _preferred(store.layer(i), labels) for store in stores for i in store.layer_numbers}
    return pd.concat(tables, names=KEYS).reset_index()


def _preferred(x: StoredLayer, labels: Labels) -> pd.DataFrame:
    """Return label and mean_z of each neuron of a layer that varies, with its number as the index."""
    codes, n_labels = labels.codes, len(labels.names)
    count, total, square = 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    sums = np.zeros((n_labels, x.shape[1]))
    pivot = x[:1][0].astype(np.float64)  # squares of numbers far from 0 would lose what varies
    for start in range(0, len(x), _BLOCK):
        known = codes[start : start + _BLOCK]
        part = (x[start : start + _BLOCK] - pivot)[known > -2]
        sums += _one_hot(known[known > -2], n_labels) @ part
        count, total, square = count + len(part), total + part.sum(0), square + (part**2).sum(0)
    spread = np.sqrt(np.maximum(square / count - (total / count) ** 2, 0.0))
    varies = spread > 1e-6 * (np.abs(pivot) + np.abs(total / count))
    n = np.bincount(codes[codes >= 0], minlength=n_labels)[:, None]
    z = (sums / np.maximum(n, 1) - total / count) / np.where(varies, spread, 1.0)
    z = np.where(n > 0, z, 0.0)
    best = np.abs(z).argmax(0)
    return pd.DataFrame({"label": np.array(labels.names)[best], "mean_z": z[best, np.arange(len(best))]})[varies]


def _one_hot(codes: Ints, n: int) -> csr_array:
    """Return a row a label and a column a frame; frames without a label have none."""
    frames = np.flatnonzero(codes >= 0)
    return csr_array((np.ones(len(frames)), (codes[frames], frames)), shape=(n, len(codes)))


def same_label(partners: pd.DataFrame, stores: Sequence[ActivationStore], labels: Labels) -> pd.DataFrame:
    """Say how many neurons of models trained apart prefer the label that their best partner prefers.

    A pair agrees when both prefer one label, on the same side of 0 where they correlate and on opposite ones where they
    anticorrelate. Partners come from `sslsim.evidence`, with rotations. Columns: relation, pairs, same (share that
    agrees), shuffled (share expected if the partners of each two models were dealt anew: exact), beyond (pairs whose
    p_rotation is 0.05 at most), same_beyond and shuffled_beyond (of those).
    """
    pairs = partners[partners.relation.isin(SEPARATE)]
    columns = ["relation", "pairs", "same", "shuffled", "beyond", "same_beyond", "shuffled_beyond"]
    if pairs.empty:
        return pd.DataFrame(columns=columns)
    preferred = preferred_labels([s for s in stores if s.name in {*pairs.model_x, *pairs.model_y}], labels)
    for side in "xy":
        pairs = pairs.merge(preferred.add_suffix(f"_{side}"), on=[f"{key}_{side}" for key in KEYS])
        up = pairs[f"mean_z_{side}"] * (1.0 if side == "x" else np.sign(pairs.value)) > 0
        pairs[f"likes_{side}"] = np.where(up, "+", "-") + pairs[f"label_{side}"].astype(object)
    beyond = pairs[pairs.p_rotation <= ALPHA]
    known = [relation for relation in SEPARATE if relation in set(pairs.relation)]
    rows = [(r, *_agreement(pairs[pairs.relation == r]), *_agreement(beyond[beyond.relation == r])) for r in known]
    return pd.DataFrame(rows, columns=columns)


def _agreement(pairs: pd.DataFrame) -> tuple[int, float, float]:
    """Return the number of pairs, the share of equal labels, and that with the partners of each two models shuffled."""
    expected = 0.0
    for _, group in pairs.groupby(["model_x", "model_y"], sort=False):
        x, y = (group[f"likes_{side}"].value_counts() for side in "xy")
        expected += float((x * y.reindex(x.index, fill_value=0)).sum()) / len(group)
    same = float((pairs.likes_x == pairs.likes_y).mean())
    return len(pairs), same, expected / len(pairs) if len(pairs) else np.nan


def selectivity(
    chosen: pd.DataFrame, stores: Sequence[ActivationStore], labels: Labels, *, permutations: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Say which label chosen neurons and their partners prefer, how selectively, and what chance gives.

    The selectivity of the preferred label (`preferred_labels`) is the AUROC of its frames against all others, turned
    around where the neuron falls on its label: the probability that a frame of the label has the larger activation
    (Mann & Whitney 1947). Chance is that of labels of other utterances (`sslsim.significance.nulls.Mismatches`),
    searched anew in each permutation; p is the share of them and of the score on cropped utterances that are as
    selective. Utterances without marks are left out. Columns: `chosen`, of `extremes`, without relation and excess,
    label_x (before its sign), auroc_x, chance_x, p_x, the same of y, same_label (in the sign of the correlation too).
    """
    out = chosen.drop(columns=["relation", "excess"], errors="ignore").reset_index(drop=True)
    kept = np.flatnonzero(labels.codes > -2)
    codes, n_labels = labels.codes[kept], len(labels.names)
    ends = np.searchsorted(kept, stores[0].index.start + stores[0].index.n_frames)
    wrong = Mismatches.of(np.diff(ends, prepend=0).tolist(), permutations, seed)
    activations = [[trace[kept] for trace in traces(pair, stores)] for pair in out.to_dict("records")]
    for number, side in enumerate("xy"):
        x = np.array([pair[number] for pair in activations]).reshape(len(out), len(kept)).T
        best, mean_z, auroc = _preference(*_scored(x), codes, n_labels)
        label = np.array(labels.names, dtype=object)[best] + np.where(mean_z > 0, "+", "-")
        scored = _scored(x[wrong.frames()])
        first, *null = (_preference(*scored, codes[wrong.frames(of)], n_labels)[2] for of in (None, *wrong.partners))
        columns = {"label": label, "auroc": auroc, "chance": np.mean(null, axis=0), "p": p_value(first, null)}
        out = out.assign(**{f"{name}_{side}": column for name, column in columns.items()})
    same_sign = (out.label_x.str[-1] == out.label_y.str[-1]) == (out.value > 0)
    return out.assign(same_label=same_sign & (out.label_x.str[:-1] == out.label_y.str[:-1]))


def _preference(z: Floats, ranks: Floats, codes: Ints, n_labels: int) -> tuple[Ints, Floats, Floats]:
    """Return the preferred label of each neuron, its mean z-score, and its AUROC, turned around if that is below 0."""
    one_hot = _one_hot(codes, n_labels)
    counts = one_hot.sum(1)
    means = (one_hot @ z) / np.maximum(counts, 1)[:, None]
    best = np.abs(means).argmax(0)
    at, n = (best, np.arange(len(best))), counts[best]
    auroc = ((one_hot @ ranks)[at] - n * (n + 1) / 2) / np.maximum(n * (len(z) - n), 1)
    return best, means[at], np.where(means[at] > 0, auroc, 1 - auroc)


def _scored(x: Floats) -> tuple[Floats, Floats]:
    """Return z-scores and ranks of each neuron."""
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1.0), rankdata(x, axis=0)
