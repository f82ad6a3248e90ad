"""Every attention head of every checkpoint against every other, and what follows from it for layers and for heads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from sslsim.activations.selection import check_measures, check_stores
from sslsim.activations.store import ActivationStore
from sslsim.comparison.tables import pair_columns, square_table
from sslsim.errors import SslsimError
from sslsim.measures import attention
from sslsim.parallel import chosen_device, results, workers_on
from sslsim.speech.positions import positions, stride_for

UTTERANCES = 4  # of one piece
AHEAD = 64  # pieces that may wait: two matrices of heads by heads a measure each


def compare_heads(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius"),
    *,
    executor: Executor | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Compare every attention head of every store that has heads with every other, on the stored query rows.

    The table has as many rows a measure as there are ordered pairs of heads: 4.5 million for eight checkpoints of base
    and large size, where `compare_attention` is the function to call.

    Returns
    -------
    DataFrame
        One row a measure and ordered pair of heads: the columns of `best` of `compare_attention`, n_frames (query
        rows). Layers count from 1: layer 0 is the input of the first block.
    """
    check_attention_measures(measures, of_layers=False)
    ((scores, _),) = head_scores(stores, measures, [Run(kept_rows(stores))], executor, device)
    table = square_table(scores.means, scores.labels, ["model", "layer", "head"])
    return pair_columns(table.assign(n_frames=scores.n_rows), stores)


def compare_attention(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius", "attention_cka"),
    *,
    executor: Executor | None = None,
    device: str = "auto",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the attention of layers, and find each head's best match, in one pass over the maps.

    Returns
    -------
    table : DataFrame
        As from `compare`. A layer's score in another is the mean over its heads of the best match there; attention_cka
        compares all heads of the two together.
    best : DataFrame
        Best match of every head among all heads of each other checkpoint, whatever their layer; one row a measure of
        heads, head and other checkpoint: measure, model_x, layer_x, head_x, model_y, layer_y, head_y, the columns of
        `sslsim.comparison.tables.pair_columns`, value.
    """
    check_attention_measures(measures)
    ((scores, _),) = head_scores(stores, measures, [Run(kept_rows(stores))], executor, device)
    best = scores.best().dropna(subset="value").reset_index(drop=True)
    return pair_columns(scores.layers(), stores), pair_columns(best, stores)


def check_attention_measures(measures: Sequence[str], *, of_layers: bool = True) -> None:
    """Raise unless `measures` are names of measures of heads or, with `of_layers`, of the attention of layers."""
    check_measures(measures)
    for name in measures:
        if name not in attention.LAYER_MEASURES or not of_layers:
            attention.check_head_measure(name)


def describe_heads(stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Say what every head looks at, on the stored query rows.

    Returns
    -------
    DataFrame
        One row a head: model, layer, head, entropy, distance (frames), diagonality, one_key; see `attention.Profile`.
    """
    tables = []
    for store in with_attention(stores):
        queries = [store.query_rows(u) for u in range(len(store.index))]
        for layer in range(1, store.attention_layers + 1):
            profile = attention.head_profile([store.attention(layer, u) for u in range(len(queries))], queries)
            keys = {"model": store.name, "layer": layer, "head": np.arange(store.n_heads)}
            tables.append(pd.DataFrame(keys | vars(profile)))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class HeadScores:
    """Scores of every head with every other."""

    means: dict[str, np.ndarray]  # mean score by measure, (heads, heads); of attention_cka the covariance
    labels: list[tuple[str, int, int]]  # model, layer, head
    n_rows: int  # query rows compared
    # `means` of every utterance with itself, where these are of two: what attention_cka is divided by
    alone: dict[str, np.ndarray] | None = None

    def layers(self) -> pd.DataFrame:
        """Scores of layers, a row a measure and ordered pair."""
        starts, alone = _starts(self.labels, 2), self.alone or self.means
        grids = {
            name: _cka(values, alone[name], starts) if name in attention.LAYER_MEASURES else _best_match(values, starts)
            for name, values in self.means.items()
        }
        table = square_table(grids, [self.labels[i][:2] for i in starts], ["model", "layer"])
        return table.assign(n_frames=self.n_rows)

    def best(self) -> pd.DataFrame:
        """Best match of every head in every other model; its value is NaN where no row could be scored."""
        starts = _starts(self.labels, 1)
        rows = []
        for name in [name for name in self.means if name in attention.HEAD_MEASURES]:
            values, best = self.means[name], {}
            for start, stop in zip(starts, [*starts[1:], len(self.labels)], strict=True):
                part = np.where(np.isnan(values[:, start:stop]), -np.inf, values[:, start:stop])
                best[self.labels[start][0]] = start + part.argmax(axis=1)
            rows += [
                (name, *label, *self.labels[place[i]], values[i, place[i]])
                for i, label in enumerate(self.labels)
                for model, place in best.items()
                if model != label[0]
            ]
        sides = [f"{key}_{side}" for side in "xy" for key in ("model", "layer", "head")]
        return pd.DataFrame(rows, columns=["measure", *sides, "value"])


@dataclass(frozen=True)
class Run:
    """One comparison of every head with every other."""

    crops: list[Crop]  # what of each utterance (`kept_rows`, `cropped_rows`)
    blocks: Sequence[Sequence[int]] = ()  # score without each of these lists of utterances too; together they are all
    # utterance that stands on the other side for each: pairs are then of head i on its utterance with head j on the
    # partner, i up to j, and the other half their mirror image
    partner: np.ndarray | None = None

    def pieces(self) -> Iterator[tuple[int, list[tuple[int, int, Crop, Crop]]]]:
        """Give the number of a block, and a few of its utterances with their partners."""
        other = range(len(self.crops)) if self.partner is None else self.partner.tolist()
        for g, block in enumerate(self.blocks or [range(len(self.crops))]):
            for k in range(0, len(block), UTTERANCES):
                yield g, [(u, other[u], self.crops[u], self.crops[other[u]]) for u in block[k : k + UTTERANCES]]


def head_scores(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    runs: Sequence[Run],
    executor: Executor | None = None,
    device: str = "auto",
) -> list[tuple[HeadScores, list[HeadScores]]]:
    """Score every pair of heads in each run, and once more without each of its blocks of utterances."""
    chosen, where = with_attention(stores), chosen_device(device)
    labels = [(s.name, layer, head) for s in chosen for layer in range(1, s.n_layers) for head in range(s.n_heads)]
    options: dict[str, Any] = {"executor": executor, "workers": workers_on(where), "ahead": AHEAD}
    total, scored = sum(len(run.crops) for run in runs), []
    with tqdm(total=total, desc="attention", file=sys.stdout, unit="utt", mininterval=1.0) as bar:
        for run in runs:
            sums: dict[int, dict[str, attention.Sums]] = {}  # by block
            calls = [(where, chosen, list(measures), some) for _, some in run.pieces()]
            for (g, some), part in zip(run.pieces(), results(sum_utterances, calls, **options), strict=True):
                sums[g] = attention.add_up([sums[g], part]) if g in sums else part
                bar.update(len(some))
            scored.append(_scores(run, [*sums.values()], labels))
    return scored


def _scores(
    run: Run, sums: list[dict[str, attention.Sums]], labels: list[tuple[str, int, int]]
) -> tuple[HeadScores, list[HeadScores]]:
    """Return the scores from the sums of all blocks, and those without each block."""

    def scores(of: dict[str, attention.Sums], left_out: Sequence[int] = ()) -> HeadScores:
        means = {name: one.mean.cpu().numpy() for name, one in of.items()}
        if run.partner is not None:
            means = {name: np.triu(mean) + np.triu(mean, 1).T for name, mean in means.items()}
        return HeadScores(means, labels, sum(len(crop.rows) for u, crop in enumerate(run.crops) if u not in left_out))

    total = attention.add_up(sums)
    without = [{name: total[name] - each[name] for name in each} for each in sums] if run.blocks else []
    return scores(total), [scores(*one) for one in zip(without, run.blocks, strict=True)]


def _starts(labels: list[tuple[str, int, int]], depth: int) -> np.ndarray:
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
    squares, norms = (
        np.add.reduceat(np.add.reduceat(each**2, starts, axis=0), starts, axis=1) for each in (covariance, alone)
    )
    with np.errstate(invalid="ignore"):
        return squares / np.sqrt(np.outer(norms.diagonal(), norms.diagonal()))


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
    """Return the stored query rows of each utterance to compare: all, or so many on average, at common positions."""
    index = with_attention(stores)[0].index
    if rows is not None and rows < 1:
        raise SslsimError(f"rows is {rows}; give at least 1 query row of each utterance, or None for all stored")
    stride = stride_for(index.n_rows, None if rows is None else rows * len(index))
    return [Crop(positions(stored, stride)) for stored in index.n_rows.tolist()]


def cropped_rows(stores: Sequence[ActivationStore], crops: list[Crop], strata: Sequence[np.ndarray]) -> list[Crop]:
    """Crop the maps of the utterances of each stratum alike, so that any can stand for any other.

    The query frames of their rows then stand at one place, with as many keys before and after as all of them have.
    """
    store, out = with_attention(stores)[0], list(crops)
    for stratum in strata:
        count = min(len(crops[u].rows) for u in stratum)
        half = count // 2
        kept = {int(u): np.delete(rows := crops[u].rows, np.s_[count - half : len(rows) - half]) for u in stratum}
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
    names = "attention", "attention"

    def of_one(u: int, v: int, crop_x: Crop, crop_y: Crop) -> dict[str, attention.Sums]:
        x = _Stacked(stores, u, crop_x)
        y = x if u == v else _Stacked(stores, v, crop_y)
        return attention.utterance_sums(measures, x, y, names=names, utterance=u, half=u != v, device=device)

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
