"""Which labels neurons prefer (phones, words, anything that begins and ends), and whether partners prefer the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import rankdata

from sslsim.activations.store import ActivationStore, StoredLayer
from sslsim.analysis.labels import Labels
from sslsim.encoders.lineage import SEPARATE
from sslsim.significance.nulls import Mismatches, p_value

KEYS = ["model", "layer", "neuron"]
_BLOCK = 8192  # frames read at a time


def neuron_of(store: ActivationStore, layer: int, neuron: int) -> NDArray[np.float64]:
    """Return the activation of one neuron on all stored frames, (n_frames,)."""
    return np.asarray(store.layer(layer)[:, neuron], dtype=np.float64)


def preferred_labels(stores: Sequence[ActivationStore], labels: Labels) -> pd.DataFrame:
    """Find the label of each neuron of each layer whose frames have the mean z-score that is furthest from 0.

    Columns: model, layer, neuron, label, mean_z (below 0 where the neuron falls on its label). Neurons that never vary
    are left out.
    """
    tables = []
    for store in stores:
        for layer in range(store.n_layers):
            best, mean_z, varies = _preferred(store.layer(layer), labels)
            keys = dict(zip(KEYS, (store.name, layer, np.arange(len(best))), strict=True))
            tables.append(pd.DataFrame(keys | {"label": np.array(labels.names)[best], "mean_z": mean_z})[varies])
    return pd.concat(tables, ignore_index=True)


def _preferred(x: StoredLayer, labels: Labels) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the preferred label of each neuron of a layer, its mean z-score, and whether the neuron varies."""
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
    return *_furthest(np.where(n > 0, z, 0.0)), varies


def _one_hot(codes: NDArray[np.int64], n: int) -> csr_array:
    """Return a row a label and a column a frame; frames without a label have none."""
    frames = np.flatnonzero(codes >= 0)
    return csr_array((np.ones(len(frames)), (codes[frames], frames)), shape=(n, len(codes)))


def _furthest(z: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the row furthest from 0 of each column, and its value."""
    best = np.abs(z).argmax(0)
    return best, z[best, np.arange(z.shape[1])]


def same_label(partners: pd.DataFrame, stores: Sequence[ActivationStore], labels: Labels) -> pd.DataFrame:
    """Say how many neurons of models trained apart prefer the label that their best partner prefers.

    A pair agrees when both prefer one label, on the same side of 0 where they correlate and on opposite ones where they
    anticorrelate. Partners come from `sslsim.evidence`, with rotations.

    Columns: relation, pairs, same (share that agrees), shuffled (share expected if the partners of each two models were
    dealt anew: exact), beyond (pairs that correlate more than in the random bases, by rotated_high), same_beyond and
    shuffled_beyond (the shares of those).
    """
    pairs = partners[partners.relation.isin(SEPARATE)]
    columns = ["relation", "pairs", "same", "shuffled", "beyond", "same_beyond", "shuffled_beyond"]
    if pairs.empty:
        return pd.DataFrame(columns=columns)
    names = {*pairs.model_x, *pairs.model_y}
    preferred = preferred_labels([store for store in stores if store.name in names], labels)
    for side in "xy":
        pairs = pairs.merge(preferred.add_suffix(f"_{side}"), on=[f"{key}_{side}" for key in KEYS], how="inner")
    for side, sign in zip("xy", (1.0, np.sign(pairs.value)), strict=True):
        up = np.where(pairs[f"mean_z_{side}"] * sign > 0, "+", "-")
        pairs[f"likes_{side}"] = up + pairs[f"label_{side}"].astype(object)
    rows = []
    for relation, group in pairs.groupby("relation", sort=False):
        beyond = group[group.value.abs() > group.rotated_high]
        row = (relation, len(group), _same(group), _shuffled(group))
        rows.append((*row, len(beyond), _same(beyond), _shuffled(beyond)))
    table = pd.DataFrame(rows, columns=columns).set_index("relation")
    return table.loc[[relation for relation in SEPARATE if relation in table.index]].reset_index()


def _same(pairs: pd.DataFrame) -> float:
    return float((pairs.likes_x == pairs.likes_y).mean())


def _shuffled(pairs: pd.DataFrame) -> float:
    """Return the share of equal labels when the partners of each two models are dealt anew."""
    expected = 0.0
    for _, group in pairs.groupby(["model_x", "model_y"], sort=False):
        x, y = (group[f"likes_{side}"].value_counts() for side in "xy")
        expected += float((x * y.reindex(x.index, fill_value=0)).sum()) / len(group)
    return expected / len(pairs) if len(pairs) else float("nan")


def selectivity(
    chosen: pd.DataFrame,
    stores: Sequence[ActivationStore],
    labels: Labels,
    *,
    permutations: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Say which label chosen neurons and their partners prefer, how selectively, and what chance gives.

    The selectivity of the preferred label (`preferred_labels`) is the AUROC of its frames against all others by the
    activation, turned around where the neuron falls on its label: the probability that a frame of the label has the
    larger activation. Chance is the same of labels of other utterances of about equal length, cropped, with the label
    searched anew in each permutation (`sslsim.significance.nulls.Mismatches`); p is the share of the permutations, and
    of the score on cropped utterances itself, that are as selective. Utterances without marks are left out.

    Columns: `chosen`, as from `extremes`, without relation and excess, and label_x (after its sign), auroc_x, chance_x,
    p_x, the same of y, and same_label (also in sign, that of the correlation taken off).
    """
    out = chosen.drop(columns=["relation", "excess"], errors="ignore").reset_index(drop=True)
    by_name = {store.name: store for store in stores}
    kept = np.flatnonzero(labels.codes > -2)
    codes, n_labels = labels.codes[kept], len(labels.names)
    ends = np.searchsorted(kept, stores[0].index.start + stores[0].index.n_frames)
    wrong = Mismatches.of(np.diff(ends, prepend=0).tolist(), permutations, seed)
    signs, places = {}, {}
    for side in "xy":
        keys = zip(*(out[f"{key}_{side}"] for key in KEYS), strict=True)
        neurons = [neuron_of(by_name[model], layer, neuron)[kept] for model, layer, neuron in keys]
        x = np.array(neurons).reshape(len(out), len(kept)).T
        places[side], mean_z, auroc = _preference(*_scored(x), codes, n_labels)
        signs[side] = np.where(mean_z > 0, 1, -1)
        signed = [f"{'+' if z > 0 else '-'}{labels.names[i]}" for z, i in zip(mean_z, places[side], strict=True)]
        chance, p = _chance(x, codes, n_labels, wrong, ends)
        columns = {"label": signed, "auroc": auroc, "chance": chance, "p": p}
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

    itself = np.arange(len(starts))
    z, ranks = _scored(x[cropped(itself)])
    scores = [_preference(z, ranks, codes[cropped(partner)], n_labels)[2] for partner in [itself, *wrong.partners]]
    return np.mean(scores[1:], axis=0), p_value(scores[0], np.array(scores[1:]))


def _scored(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return z-scores and ranks of each neuron."""
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread > 0, spread, 1.0), rankdata(x, axis=0)
