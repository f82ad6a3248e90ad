"""Sums over utterances of the scores of all heads with all others: which parts of their maps are read, and when."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sslsim.activations.selection import check_stores
from sslsim.activations.store import ActivationStore
from sslsim.activations.units import frames_of
from sslsim.errors import SslsimError, Unanswered, check_whole
from sslsim.measures import attention
from sslsim.measures.arrays import chunks
from sslsim.measures.attention import Among, Heads, Sums
from sslsim.parallel import chosen_device, results, workers_on
from sslsim.speech.positions import positions, stride_for

WORK = 2**31  # cells of all pairs of heads that one call compares, about a second
AHEAD = 16  # calls whose sums may wait: a matrix of heads by heads for each measure, and for each mismatch
KEPT = 2**25  # cells of maps that a call keeps in memory, with up to four numbers for each


def with_attention(stores: Sequence[ActivationStore]) -> list[ActivationStore]:
    """Return the stores that hold attention, that of frames; raise if they cannot be compared or none has any."""
    check_stores(stores)
    chosen = [store for store in frames_of(stores) if store.attention_layers and store.index.n_rows.any()]
    if stores[0].unit != "frame" and len(rates := {store.clock.milliseconds for store in chosen}) > 1:
        told = ", ".join(f"{rate:.3g}" for rate in sorted(rates))
        raise Unanswered(f"attention is of frames, and these models have one every {told} ms; name some of one rate")
    if not chosen and stores[0].site == "ffn":
        raise Unanswered("units of feed-forward layers have no heads; take site hidden, or measures without attention")
    if not chosen:
        raise SslsimError("no attention in these stores; extract with queries above 0")
    check_stores(chosen)
    return chosen


def head_labels(stores: Sequence[ActivationStore]) -> list[tuple[str, int, int]]:
    """Model, layer and head of all heads, in the order in which they stand side by side."""
    return [(s.name, i, head) for s in stores for i in range(1, s.attention_layers + 1) for head in range(s.n_heads)]


@dataclass(frozen=True, eq=False)
class Crop:
    """What to compare of one utterance's maps."""

    utterance: int
    rows: np.ndarray  # which of the stored query rows
    width: int  # keys of each row
    keys: np.ndarray | None = None  # and which, (rows, width), if not all: rows are brought to sum 1 again


Job = tuple[int, Crop, Crop]  # which of several sums it belongs to, and the utterances on both sides


def kept_rows(stores: Sequence[ActivationStore], rows: int | None = None) -> list[Crop]:
    """Return the stored query rows of each utterance to compare: all, or so many on average, at common positions."""
    index = with_attention(stores)[0].index
    check_whole("rows", rows, 1, "all stored")
    stride = stride_for(index.n_rows, None if rows is None else rows * len(index))
    return [Crop(u, positions(row.n_rows, stride), row.length) for u, row in enumerate(index.itertuples())]


def alike(store: ActivationStore, crops: list[Crop]) -> list[Crop]:
    """Crop the maps of some utterances alike, so that any can stand for any other.

    Half of the query rows stand at one place from the start and half at one place from the end of all utterances. A row
    loses the surplus of its keys halfway between its query and the end of the utterance that is further away: heads
    that look at the start, at the end, or not too far away from the query look at the same keys of all.
    """
    n, width = min(len(crop.rows) for crop in crops), min(crop.width for crop in crops)
    kept, keys, out = np.arange(n), np.arange(width), []
    late = kept >= n - n // 2  # counted from the end
    for crop in crops:
        surplus, rows = crop.width - width, crop.rows[np.where(late, kept + len(crop.rows) - n, kept)]
        query = store.query_rows(crop.utterance)[rows] - late * surplus
        seam = (query + ~late * width) // 2
        out.append(Crop(crop.utterance, rows, width, keys + (keys >= seam[:, None]) * surplus))
    return out


def summed(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    batches: Sequence[Sequence[Sequence[Job]]],
    near: Among | None,
    title: str,
    executor: Executor | None,
    device: str,
) -> Iterator[dict[int, dict[str, Sums]]]:
    """Sum the scores of all pairs of heads over the jobs of each batch, which come in lists that share utterances."""
    chosen, where = with_attention(stores), chosen_device(device, executor)
    calls, pairs = [], len(head_labels(chosen)) ** 2
    for b, batch in enumerate(batches):
        for jobs in batch:
            cells = max(len(x.rows) * x.width for _, x, _ in jobs)
            at_once = max(1, WORK * (1 if near is None else 4) // (pairs * cells))
            calls += [(b, jobs[part]) for part in chunks(len(jobs), at_once)]
    options: dict[str, Any] = {"executor": executor, "workers": workers_on(where), "ahead": AHEAD}
    parts = results(sum_jobs, [(where, chosen, measures, jobs, near) for _, jobs in calls], **options)
    total = sum(len(jobs) for _, jobs in calls)
    with tqdm(total=total, desc=title, file=sys.stdout, unit="utt", mininterval=1.0) as bar:
        for _, done in groupby(zip(calls, parts, strict=True), key=lambda one: one[0][0]):
            sums: dict[int, dict[str, Sums]] = {}
            for (_, jobs), part in done:
                for k, one in part.items():
                    sums[k] = attention.add_up([sums[k], one]) if k in sums else one
                bar.update(len(jobs))
            yield sums


def sum_jobs(
    device: str, stores: list[ActivationStore], measures: Sequence[str], jobs: Sequence[Job], near: Among | None
) -> dict[int, dict[str, Sums]]:
    """Sum the scores of all pairs of heads over some jobs; maps that several of them need are read once."""
    heads = len(head_labels(stores))
    largest = heads * max(len(crop.rows) * crop.width for _, *both in jobs for crop in both)

    @lru_cache(max(2, KEPT // largest))
    def read(crop: Crop, start: int, stop: int) -> Heads:
        return Heads(read_maps(stores, crop, slice(start, stop)).to(device))

    sums: dict[int, dict[str, Sums]] = {}
    for k, x, y in jobs:
        runs = [(rows.start, rows.stop) for rows in attention.row_runs(heads, len(x.rows), x.width)]
        parts = ((read(x, *run), read(y, *run)) for run in runs)
        one = attention.utterance_sums(measures, parts, half=True, among=near)
        sums[k] = attention.add_up([sums[k], one]) if k in sums else one
    return sums


def read_maps(stores: Sequence[ActivationStore], crop: Crop, some: slice) -> torch.Tensor:
    """Read some of the rows of an utterance of all heads of all layers, (heads, rows, width)."""
    rows, u = crop.rows[some], crop.utterance
    read = [s.attention(layer, u)[:, rows] for s in stores for layer in range(1, s.attention_layers + 1)]
    maps = attention.check_maps(np.concatenate(read), "attention", u)
    if crop.keys is None:
        return maps
    maps = maps.gather(2, torch.from_numpy(crop.keys[some]).expand(len(maps), -1, -1))
    mass = maps.sum(2, keepdim=True)
    return torch.where(mass > 1e-6, maps / mass.clamp(min=1e-6), 1 / crop.width)
