"""Every attention head of every checkpoint against every other, and what follows from it for layers and for heads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from sslsim import attention
from sslsim.errors import SslsimError
from sslsim.parallel import results
from sslsim.states import check_names, check_stores
from sslsim.store import ActivationStore
from sslsim.tables import square_table

Label = tuple[str, int, int]  # model, layer, head
UTTERANCES = 4  # of one piece of work
AHEAD = 64  # pieces that may wait: two matrices of heads by heads a measure each


def compare_heads(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius"),
    *,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Compare every attention head of every store that has heads with every other, on the stored query rows.

    The table has as many rows a measure as there are ordered pairs of heads: 4.5 million for eight checkpoints of base
    and large size, where `compare_attention` is the function to call.

    Returns
    -------
    DataFrame
        One row a measure and ordered pair of heads: measure, model_x, layer_x, head_x, model_y, layer_y, head_y, value,
        n_frames (query rows). Layers count from 1: layer 0 is the input of the first block.
    """
    check_names(measures)
    for name in measures:
        attention.check_head_measure(name)
    stores = with_attention(stores)
    means, labels = _mean_scores(stores, measures, executor, device, progress)
    return square_table(means, labels, ["model", "layer", "head"]).assign(n_frames=_query_rows(stores))


def compare_attention(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius", "attention_cka"),
    *,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the attention of layers, and find each head's best match, in one pass over the maps.

    Returns
    -------
    table : DataFrame
        As from `compare`. A layer's score in another is the mean over its heads of the best match there; attention_cka
        compares all heads of the two together.
    best : DataFrame
        Best match of every head among all heads of each other checkpoint, whatever their layer; one row a measure of
        heads, head and other checkpoint: measure, model_x, layer_x, head_x, model_y, layer_y, head_y, value.
    """
    check_names(measures)
    for name in measures:
        if name not in attention.LAYER_MEASURES:
            attention.check_head_measure(name)
    stores = with_attention(stores)
    means, labels = _mean_scores(stores, measures, executor, device, progress)
    grids = {
        name: (_cka if name in attention.LAYER_MEASURES else _best_match)(values, labels)
        for name, values in means.items()
    }
    table = square_table(grids, [*dict.fromkeys(label[:2] for label in labels)], ["model", "layer"])
    table.insert(1, "standardize", True)
    best = [_best_heads(name, means[name], labels) for name in measures if name in attention.MEASURES]
    empty = pd.DataFrame(columns=["measure", *_COLUMNS])
    return table.assign(n_frames=_query_rows(stores)), pd.concat(best, ignore_index=True) if best else empty


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
            profile = attention.head_profile([store.attention(layer, u) for u in range(len(store.index))], queries)
            keys = {"model": store.checkpoint.name, "layer": layer, "head": np.arange(store.n_heads)}
            tables.append(pd.DataFrame(keys | vars(profile)))
    return pd.concat(tables, ignore_index=True)


_COLUMNS = ["model_x", "layer_x", "head_x", "model_y", "layer_y", "head_y", "value"]


def with_attention(stores: Sequence[ActivationStore]) -> list[ActivationStore]:
    """Return the stores that hold attention (log-mel has no heads); raise if they cannot be compared or none does."""
    check_stores(stores)
    found = [store for store in stores if store.attention_layers]
    if not found:
        raise SslsimError("no attention in these stores; extract with queries above 0")
    return found


def _query_rows(stores: Sequence[ActivationStore]) -> int:
    return int(stores[0].index.n_rows.sum())


def _mean_scores(
    stores: Sequence[ActivationStore], measures: Sequence[str], executor: Executor | None, device: str, progress: bool
) -> tuple[dict[str, np.ndarray], list[Label]]:
    """Mean score (for attention_cka covariance) of every pair of heads, (heads, heads) a measure, and the heads."""
    labels = [
        (s.checkpoint.name, layer, head)
        for s in stores
        for layer in range(1, s.attention_layers + 1)
        for head in range(s.n_heads)
    ]
    n = len(stores[0].index)
    calls = [(list(stores), list(measures), range(u, min(u + UTTERANCES, n)), device) for u in range(0, n, UTTERANCES)]
    sums: dict[str, attention.Sums] = {}
    with tqdm(total=n, desc="attention", disable=not progress, file=sys.stdout, unit="utt", mininterval=1.0) as bar:
        for part in results(
            _sum_utterances, calls, executor=executor, ahead=AHEAD, done=lambda i: bar.update(len(calls[i][2]))
        ):
            sums = {name: sums[name] + part[name] for name in measures} if sums else part
    return {name: total.mean.cpu().numpy() for name, total in sums.items()}, labels


def _sum_utterances(
    stores: list[ActivationStore], measures: list[str], utterances: range, device: str
) -> dict[str, attention.Sums]:
    """Sum of the scores of every pair of heads over some utterances."""
    sums: dict[str, attention.Sums] = {}
    for u in utterances:
        stacked = _Stacked([s.attention(layer, u) for s in stores for layer in range(1, s.attention_layers + 1)])
        names = ("attention", "attention")
        parts = attention.utterance_sums(measures, stacked, stacked, names=names, utterance=u, device=device)
        sums = {name: sums[name] + part for name, part in parts.items()} if sums else parts
    return sums


@dataclass(frozen=True)
class _Stacked:
    """Maps of all heads of all layers of one utterance, (heads, rows, T); only the rows asked for are read."""

    maps: list[np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(len(m) for m in self.maps), *self.maps[0].shape[1:])

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        return np.concatenate([m[part] for m in self.maps])


def _starts(labels: list, depth: int) -> np.ndarray:
    """Places where a new layer (`depth` 2) or a new model (1) begins."""
    return np.array([i for i, label in enumerate(labels) if i == 0 or label[:depth] != labels[i - 1][:depth]])


def _best_match(values: np.ndarray, labels: list[Label]) -> np.ndarray:
    """Mean over the heads of every layer of the best match in every layer, (layers, layers)."""
    starts = _starts(labels, 2)
    best = np.fmax.reduceat(values, starts, axis=1)  # a head whose every row was uniform has no correlation: NaN
    scored = np.isfinite(best)
    with np.errstate(invalid="ignore"):  # NaN for a layer without a scored head
        return np.add.reduceat(np.where(scored, best, 0.0), starts) / np.add.reduceat(scored.astype(int), starts)


def _cka(covariance: np.ndarray, labels: list[Label]) -> np.ndarray:
    """Linear CKA of every pair of layers from the covariance of all heads, (layers, layers)."""
    starts = _starts(labels, 2)
    squares = np.add.reduceat(np.add.reduceat(covariance**2, starts, axis=0), starts, axis=1)
    with np.errstate(invalid="ignore"):
        return squares / np.sqrt(np.outer(squares.diagonal(), squares.diagonal()))


def _best_heads(name: str, values: np.ndarray, labels: list[Label]) -> pd.DataFrame:
    """Best match of every head in every other model."""
    starts = _starts(labels, 1)
    models = [labels[start][0] for start in starts]
    rows = []
    for start, stop, model in zip(starts, [*starts[1:], len(labels)], models, strict=True):
        part = np.where(np.isnan(values[:, start:stop]), -np.inf, values[:, start:stop])
        place = start + part.argmax(axis=1)
        rows += [
            (name, *label, *labels[place[i]], values[i, place[i]])
            for i, label in enumerate(labels)
            if label[0] != model and np.isfinite(values[i, place[i]])
        ]
    order = {label: i for i, label in enumerate(labels)}
    rows.sort(key=lambda row: order[row[1:4]])
    return pd.DataFrame(rows, columns=["measure", *_COLUMNS])
