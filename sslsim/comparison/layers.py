"""The grid: every layer of every checkpoint against every other, as one tidy table."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd

from sslsim.activations.selection import State, check_between, check_names, check_stores, states_of
from sslsim.activations.store import ActivationStore
from sslsim.comparison.engine import Found, Job, score_pairs
from sslsim.comparison.heads import compare_attention, with_attention
from sslsim.comparison.tables import square_table
from sslsim.errors import SslsimError
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.registry import MEASURES, attention, measure_named


def compare(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("max_corr", "linreg", "svcca", "linear_cka_debiased"),
    *,
    standardize: bool | Sequence[bool] = True,
    raw: Sequence[str] = (),
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    sample: int = SAMPLE,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Compare every layer of every store with every other.

    Parameters
    ----------
    stores : sequence of ActivationStore
        Extracted from the same corpus.
    measures : sequence of str
        Names in ``sslsim.MEASURES`` or, for attention, ``sslsim.ATTENTION_MEASURES`` and ``attention_cka``.
    standardize : bool or sequence of bool
        Z-score neurons first; ``(True, False)`` gives both. Measures that do not depend on scale, and attention, have
        one set of rows, under True.
    raw : sequence of str
        Of the measures, those to score with the neurons in their own units too, beside `standardize`.
    frames : int, optional
        Use at most so many evenly spaced frames (query rows of attention are not affected); all by default.
    between : pairs of checkpoint names, optional
        Compare only these checkpoints with each other, in both directions; the rest costs nothing (for attention it
        costs as much). All pairs by default.
    sample : int
        mutual_knn and rbf_cka, which compare every frame with every other, use at most so many evenly spaced frames.
    executor : Executor, optional
        Any executor of `concurrent.futures` whose workers see the folder of the stores; by default threads of this
        process, as many as torch uses. On machines of one kind the numbers are the same bit for bit.
    device : str
        Where to compute.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row a measure and ordered pair of layers, the diagonal included: measure, standardize, model_x, layer_x,
        model_y, layer_y, value, n_frames (query rows for attention), rank_x and rank_y (components kept, for cca and
        svcca), constant_x and constant_y (neurons left out because they do not vary).
    """
    check_names(measures)
    heads = [m for m in measures if m in attention.MEASURES or m in attention.LAYER_MEASURES]
    wanted = [m for m in measures if m not in heads]
    jobs = jobs_of(wanted, standardize, raw)
    check_stores(stores)
    if heads:
        with_attention(stores)
    chosen = check_between(between, stores)
    options: dict[str, Any] = {"executor": executor, "device": device, "progress": progress}
    tables = []
    if wanted:
        states = states_of(stores, frames)
        found = score_pairs(states, jobs, chosen, sample=sample, **options)
        tables.append(scores_table(states, jobs, found, sample))
    if heads:
        tables.append(compare_attention(stores, heads, **options)[0])
    table = pd.concat(tables, ignore_index=True)
    if between is None:
        return table
    kept = [frozenset(models) in chosen for models in zip(table.model_x, table.model_y, strict=True)]
    return table[kept].reset_index(drop=True)


def compare_neurons(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("max_corr", "matched_corr", "linreg"),
    *,
    frames: int | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare layers as `compare` does, and find each neuron's best partner, in one pass over the data.

    Returns
    -------
    table : DataFrame
        As from `compare`.
    partners : DataFrame
        Best partner of every neuron among all neurons of each other checkpoint, whatever their layer; one row a neuron
        and other checkpoint: model_x, layer_x, neuron_x, model_y, layer_y, neuron_y, value (signed correlation).
        Neurons without variance have no row.
    """
    check_names(measures)
    jobs = jobs_of(measures)
    check_stores(stores)
    states = states_of(stores, frames)
    everything = check_between(None, stores)
    options: dict[str, Any] = {"executor": executor, "device": device, "progress": progress}
    found = score_pairs(states, jobs, everything, sample=SAMPLE, partners=True, **options)
    return scores_table(states, jobs, found, SAMPLE), partners_table(states, found)


def jobs_of(measures: Sequence[str], standardize: bool | Sequence[bool] = True, raw: Sequence[str] = ()) -> list[Job]:
    """Return every measure under every scaling that makes a difference to it, and those of `raw` unscaled too."""
    scalings = [standardize] if isinstance(standardize, bool) else list(dict.fromkeys(standardize))
    if not scalings:
        raise SslsimError("standardize is empty; give True, False or both")
    for name in measures:
        measure_named(name)
    for name in raw:
        if name not in measures or not measure_named(name).scaling:
            known = ", ".join(m for m in measures if MEASURES[m].scaling) or "none"
            raise SslsimError(f"raw names {name!r}; of the measures chosen these depend on scale: {known}")
    every = {name: list(dict.fromkeys([*scalings, *([False] if name in raw else [])])) for name in measures}
    alone = {name: [MEASURES[name].standardize] for name in measures if not MEASURES[name].scaling}
    return [Job(name, scaled) for name in measures for scaled in (every | alone)[name]]


def scores_table(states: list[State], jobs: list[Job], found: Found, sample: int) -> pd.DataFrame:
    """One row a measure, scaling and ordered pair, with ranks and counts of constant neurons."""
    tables, n = [], len(states)
    for job in jobs:
        sampled = MEASURES[job.name].prepare is not None
        constant = np.array([found.constant.get((sampled, i), 0) for i in range(n)])
        grid, ranks = np.full((n, n), np.nan), np.full((2, n, n), -1)
        for i, j in itertools.product(range(n), range(n)):
            grid[i, j] = found.values.get((job, i, j), np.nan)
            ranks[:, i, j] = found.ranks.get((job, i, j), (-1, -1))
        table = square_table({job.name: grid}, [s.label for s in states], ["model", "layer"])
        table.insert(1, "standardize", job.standardize)
        table["n_frames"] = min(sample, len(states[0])) if sampled else len(states[0])
        for side, kept in zip(("rank_x", "rank_y"), ranks, strict=True):
            table[side] = pd.Series(kept.ravel(), dtype="Int64").mask(kept.ravel() < 0)
        table["constant_x"], table["constant_y"] = np.repeat(constant, n), np.tile(constant, n)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def partner_keys(states: list[State], found: Found) -> list[tuple[int, str]]:
    """Return layer and other checkpoint of the best partners found, in the order of `partners_table`."""
    models = list(dict.fromkeys(state.label[0] for state in states))
    return sorted(found.partners, key=lambda key: (key[0], models.index(key[1])))


def partners_table(states: list[State], found: Found) -> pd.DataFrame:
    """One row a neuron that varies and other checkpoint: its best partner there."""
    columns = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y", "value"]
    tables = []
    for i, model in partner_keys(states, found):
        layer, neuron, r = found.partners[i, model]
        keys = {"model_x": states[i].label[0], "layer_x": states[i].layer, "neuron_x": np.arange(len(r))}
        table = pd.DataFrame(keys | {"model_y": model, "layer_y": layer, "neuron_y": neuron, "value": r})
        tables.append(table.dropna(subset="value"))
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
