"""Every attention head of every checkpoint against every other, and what follows from it for layers and for heads."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from sslsim.activations.results import kept
from sslsim.activations.selection import check_measures
from sslsim.activations.store import ActivationStore
from sslsim.comparison.crops import Crop, alike, head_labels, kept_rows, read_maps, summed, with_attention
from sslsim.comparison.tables import pair_columns, sides, square_table
from sslsim.measures import attention
from sslsim.measures.arrays import chunks
from sslsim.parallel import results

AT_A_TIME = 7  # mismatches whose sums are in memory together


def compare_heads(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius"),
    *,
    executor: Executor | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Compare every attention head of every store that has heads with every other, on the stored query rows.

    There are 4.5 million ordered pairs of heads for eight checkpoints of base and large size, where `compare_attention`
    is the function to call. Columns, one row a measure and pair: those of the second table of `compare_attention`,
    n_frames (query rows). Layers count from 1: layer 0 is the input of the first block.
    """
    check_attention_measures(measures, of_layers=False)
    crops = kept_rows(stores)
    scores, _ = score_heads(stores, measures, crops, executor=executor, device=device)
    table = square_table(scores.means, scores.labels, ["model", "layer", "head"])
    return pair_columns(table.assign(n_frames=sum(len(crop.rows) for crop in crops)), stores)


@kept
def compare_attention(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius", "attention_cka"),
    *,
    executor: Executor | None = None,
    device: str = "auto",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the attention of layers, and find each head's best match, in one pass over the maps.

    Returns a table of layers as from `compare`, in which a layer's score in another is the mean over its heads of the
    best match there (attention_cka compares all heads of the two together), and a table of the best match of every head
    in each other checkpoint, whatever its layer. Columns of the second, a row a measure of heads, head and other
    checkpoint: measure, model, layer and head of x and y, those of `sslsim.comparison.tables.pair_columns`, value.
    """
    check_attention_measures(measures)
    crops = kept_rows(stores)
    scores, _ = score_heads(stores, measures, crops, executor=executor, device=device)
    table, best = scores.tables(stores, sum(len(crop.rows) for crop in crops))
    return table, best.dropna(subset="value").reset_index(drop=True)


def check_attention_measures(measures: Sequence[str], *, of_layers: bool = True) -> None:
    """Raise unless `measures` are names of measures of heads or, with `of_layers`, of the attention of layers."""
    check_measures(measures)
    for name in measures:
        if name not in attention.LAYER_MEASURES or not of_layers:
            attention.check_head_measure(name)


@kept
def describe_heads(stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Say what every head looks at, on the stored query rows.

    Columns: model, layer, head, entropy, distance (frames), diagonality, one_key; see `attention.Profile`.
    """
    chosen = with_attention(stores)
    calls = [(chosen, crop) for crop in kept_rows(stores) if len(crop.rows)]
    profile = attention.profile_of([*results(_looks, calls)])
    return pd.DataFrame(head_labels(chosen), columns=["model", "layer", "head"]).assign(**vars(profile))


def _looks(stores: list[ActivationStore], crop: Crop) -> tuple[torch.Tensor, int]:
    u = crop.utterance
    return attention.looks(read_maps(stores, crop, slice(None)), stores[0].query_rows(u), u)


@dataclass(frozen=True)
class HeadScores:
    """Scores of every head with every other."""

    means: dict[str, np.ndarray]  # mean score by measure, (heads, heads); of attention_cka the covariance
    labels: list[tuple[str, int, int]]  # model, layer, head
    # `means` of every utterance with itself, where these are of two: what attention_cka is divided by
    alone: dict[str, np.ndarray] | None = None

    def layers(self) -> dict[str, np.ndarray]:
        """By measure, the score of every layer in every other."""
        first, alone = starts(self.labels, 2), self.alone or self.means
        return {
            name: _cka(values, alone[name], first) if name in attention.LAYER_MEASURES else _best_match(values, first)
            for name, values in self.means.items()
        }

    def best(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """By measure of heads: every head as often as there are other models, its best match in each, and the score."""
        models, out = list(pairwise([*starts(self.labels, 1), len(self.labels)])), {}
        own = np.repeat(np.arange(len(models)), np.diff(models).ravel())
        head, other = np.nonzero(own[:, None] != np.arange(len(models)))
        for name in [name for name in self.means if name in attention.HEAD_MEASURES]:
            values = np.where(np.isnan(self.means[name]), -np.inf, self.means[name])
            match = np.stack([a + values[:, a:b].argmax(1) for a, b in models], axis=1)[head, other]
            out[name] = head, match, self.means[name][head, match]  # NaN without a score
        return out

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the column `value` of both `tables`."""
        best = [value for *_, value in self.best().values()]
        return np.concatenate([grid.ravel() for grid in self.layers().values()]), np.concatenate([*best, []])

    def tables(self, stores: Sequence[ActivationStore], n_frames: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both tables of `compare_attention`, where the second has rows without a value too."""
        of_layers = [self.labels[i][:2] for i in starts(self.labels, 2)]
        layers, names = square_table(self.layers(), of_layers, ["model", "layer"]), ["model", "layer", "head"]
        found = [(name, *of) for name, of in self.best().items() if len(of[0])]
        best = [sides(self.labels, names, x, y).assign(value=value, measure=name) for name, x, y, value in found]
        columns = ["measure", *(f"{name}_{side}" for side in "xy" for name in names), "value"]
        table = pd.concat(best, ignore_index=True)[columns] if best else pd.DataFrame(columns=columns)
        return pair_columns(layers.assign(n_frames=n_frames), stores), pair_columns(table, stores)


def starts(labels: list[tuple[str, int, int]], depth: int) -> np.ndarray:
    """Places where a new layer (`depth` 2) or a new model (1) begins."""
    return np.array([i for i, label in enumerate(labels) if i == 0 or label[:depth] != labels[i - 1][:depth]])


def _best_match(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean over the heads of every layer of the best match in every layer, (layers, layers)."""
    best = np.fmax.reduceat(values, starts, axis=1)  # a head whose every row was uniform has no correlation: NaN
    scored = np.isfinite(best)
    with np.errstate(invalid="ignore"):  # NaN for a layer without a scored head
        return np.add.reduceat(np.where(scored, best, 0.0), starts) / np.add.reduceat(scored.astype(int), starts)


def _cka(covariance: np.ndarray, alone: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Linear CKA of every pair of layers from the covariance of all heads, and of all with themselves."""
    rows = (np.add.reduceat(each**2, starts, axis=0) for each in (covariance, alone))
    squares, norms = (np.add.reduceat(each, starts, axis=1) for each in rows)
    with np.errstate(invalid="ignore"):
        return squares / np.sqrt(np.outer(norms.diagonal(), norms.diagonal()))


def score_heads(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    crops: Sequence[Crop],
    blocks: Sequence[Sequence[int]] = (),
    **where: Any,  # executor and device
) -> tuple[HeadScores, list[HeadScores]]:
    """Score every pair of heads, and once more without each block of utterances; the blocks together are all."""
    members = blocks or [[u for u, crop in enumerate(crops) if len(crop.rows)]]
    jobs = [(g, crops[u], crops[u]) for g, block in enumerate(members) for u in block]
    (sums,) = summed(stores, measures, [[jobs]], None, "attention", **where)
    total, labels = attention.add_up(sums.values()), head_labels(with_attention(stores))
    without = [{name: total[name] - one[name] for name in one} for one in sums.values()] if blocks else []
    scores, *left_out = (HeadScores(_means(one), labels) for one in (total, *without))
    return scores, left_out


def score_mismatches(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    crops: Sequence[Crop],
    strata: Sequence[np.ndarray],
    partners: Sequence[np.ndarray],
    near: attention.Among,
    **where: Any,  # executor and device
) -> Iterator[HeadScores]:
    """Score every pair of heads on utterances cropped alike, and then on those with each utterance's partners.

    Pairs are of head i on its utterance with head j on the partner, i up to j, the other half their mirror image; js is
    of heads that are `near` one another alone, else NaN.
    """
    cropped = {crop.utterance: crop for stratum in strata for crop in alike(stores[0], [crops[u] for u in stratum])}
    other = [np.arange(len(crops)), *partners]
    batches = []
    for some in chunks(len(other), AT_A_TIME):
        orders = list(enumerate(other))[some]
        batches += [[[(k, cropped[u], cropped[of[u]]) for u in stratum for k, of in orders] for stratum in strata]]
    labels, alone = head_labels(with_attention(stores)), None
    for sums in summed(stores, measures, batches, near, "attention of mismatches", **where):
        for one in sums.values():
            means = _means(one)
            alone = alone or means
            yield HeadScores(means, labels, alone)


def _means(sums: dict[str, attention.Sums]) -> dict[str, np.ndarray]:
    """Return the mean scores, of which only the pairs of head i with heads i and on were made."""
    means = {name: one.mean.cpu().numpy() for name, one in sums.items()}
    return {name: np.triu(mean) + np.triu(mean, 1).T for name, mean in means.items()}
