"""The grid: every layer of every checkpoint against every other, as one tidy table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from torch import Tensor

from sslsim import attention, moments
from sslsim.errors import SslsimError
from sslsim.heads import compare_attention
from sslsim.measures import MEASURES, measure_named
from sslsim.moments import Marginal, Moments
from sslsim.neurons import best_partners
from sslsim.sampled import SAMPLE, sample_frames
from sslsim.states import (
    State,
    check_between,
    check_names,
    check_stores,
    pairs,
    sampled_pairs,
    states_of,
    utterances_of,
)
from sslsim.store import ActivationStore
from sslsim.tables import square_table


def compare(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("max_corr", "linreg", "svcca", "linear_cka_debiased"),
    *,
    standardize: bool | Sequence[bool] = True,
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    sample: int = SAMPLE,
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
    frames : int, optional
        Use that many evenly spaced frames (query rows of attention are not affected); all by default.
    between : pairs of checkpoint names, optional
        Compare only these checkpoints with each other, in both directions; the rest costs nothing (for attention it
        costs as much). All pairs by default.
    sample : int
        mutual_knn and rbf_cka, which compare every frame with every other, use at most so many evenly spaced frames.
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
    scalings = [standardize] if isinstance(standardize, bool) else list(dict.fromkeys(standardize))
    if not scalings:
        raise SslsimError("standardize is empty; give True, False or both")
    heads = [m for m in measures if m in attention.MEASURES or m in attention.LAYER_MEASURES]
    wanted = [m for m in measures if m not in heads]
    for name in wanted:
        measure_named(name)
    check_stores(stores)
    chosen = check_between(between, stores)
    tables = []
    if wanted:
        scores = _Scores(states_of(stores, frames), wanted, scalings)
        if scores.of_moments:
            for pair in pairs(scores.states, chosen, device, progress, "layers", scores.utterances):
                scores.add(*pair)
        scores.add_sampled(_fewer(scores.states, sample), chosen, device, progress)
        tables.append(scores.table())
    if heads:
        tables.append(compare_attention(stores, heads, device=device, progress=progress)[0])
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
    for name in measures:
        measure_named(name)
    check_stores(stores)
    states = states_of(stores, frames)
    scores, partners = _Scores(states, measures, [True]), _Partners()
    for x, y, m in pairs(states, check_between(None, stores), device, progress, "neurons", scores.utterances):
        scores.add(x, y, m)
        partners.add(x, y, m)
    scores.add_sampled(_fewer(states, SAMPLE), check_between(None, stores), device, progress)
    return scores.table(), partners.table()


def _fewer(states: list[State], sample: int) -> list[State]:
    """Return the same layers on at most `sample` of their frames, evenly spaced."""
    rows = sample_frames(states[0], sample)
    return [replace(s, frames=rows if s.frames is None else s.frames[rows]) for s in states]


class _Partners:
    """Best partner so far of every neuron of a state in every other checkpoint."""

    columns = ("model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y", "value")

    def __init__(self) -> None:
        self.best: dict[tuple[str, int, str], pd.DataFrame] = {}

    def add(self, x: State, y: State, m: Moments) -> None:
        if x.store is y.store:
            return
        for a, b, side in ((x, y, m), (y, x, m.swapped)):
            partner, r = best_partners(side)
            found = pd.DataFrame({"layer_y": b.layer, "neuron_y": partner, "value": r})
            known = self.best.setdefault((*a.label, b.label[0]), found)
            self.best[(*a.label, b.label[0])] = found.where(found.value.abs() > known.value.abs(), known)

    def table(self) -> pd.DataFrame:
        tables = [
            frame.assign(model_x=model_x, layer_x=layer_x, neuron_x=frame.index, model_y=model_y)
            for (model_x, layer_x, model_y), frame in self.best.items()
        ]
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=self.columns)
        return (
            table[[*self.columns]].dropna(subset="value", ignore_index=True).astype({"layer_y": int, "neuron_y": int})
        )


class _Scores:
    """Grids of scores that fill up pair by pair."""

    def __init__(self, states: list[State], measures: Sequence[str], scalings: Sequence[bool]) -> None:
        n = len(states)
        self.states = states
        self.place = {state: i for i, state in enumerate(states)}
        self.jobs = [(name, scaled) for name in measures for scaled in (scalings if MEASURES[name].scaling else [True])]
        self.of_moments = [job for job in self.jobs if not MEASURES[job[0]].prepare]
        self.of_frames = [job for job in self.jobs if MEASURES[job[0]].prepare]
        self.sample = len(states[0])
        self.utterances = utterances_of(states) if any(MEASURES[name].utterances for name in measures) else None
        self.values = {job: np.full((n, n), np.nan) for job in self.jobs}
        self.ranks = {job: np.full((n, n), -1) for job in self.jobs}
        self.constant = np.zeros(n, dtype=int)
        self.norms: dict[tuple[State, bool], Tensor] = {}

    def add(self, x: State, y: State, m: Moments) -> None:
        i, j = self.place[x], self.place[y]
        self.constant[i], self.constant[j] = m.x.n_constant, m.y.n_constant
        for name, scaled in self.of_moments:
            grid = self.values[name, scaled]
            grid[i, j] = self.score(name, scaled, x, y, m)
            grid[j, i] = grid[i, j] if MEASURES[name].symmetric else self.score(name, scaled, y, x, m.swapped)
            if count := MEASURES[name].ranks:
                ranks = self.ranks[name, scaled]
                ranks[i, j], ranks[j, i] = count(m, **self.options(name, scaled))

    def add_sampled(self, states: list[State], between: set[frozenset[str]], device: str, progress: bool) -> None:
        """Fill in the measures that compare frames, on `states`: the same layers on fewer frames."""
        place = {state.label: i for i, state in enumerate(states)}
        self.sample = len(states[0])
        for name, scaled in self.of_frames:
            grid, measure = self.values[name, scaled], MEASURES[name]
            assert measure.prepare
            prepare = partial(measure.prepare, device=device, **self.options(name, scaled))
            for x, y, left, right in sampled_pairs(states, between, prepare, progress, name):
                i, j = place[x.label], place[y.label]
                grid[i, j] = grid[j, i] = measure.score(left, right)

    def score(self, name: str, scaled: bool, x: State, y: State, m: Moments) -> float:
        measure, options = MEASURES[name], self.options(name, scaled)
        norms = (self.norms_of(x, m.x, scaled), self.norms_of(y, m.y, scaled)) if measure.norms else ()
        return measure.score(m, *norms, **options)

    def options(self, name: str, scaled: bool) -> dict[str, bool]:
        return {"standardize": scaled} if MEASURES[name].scaling else {}

    def norms_of(self, state: State, marginal: Marginal, scaled: bool) -> Tensor:
        """Squared frame norms of a layer, computed when a measure first asks for them."""
        if (state, scaled) not in self.norms:
            self.norms[state, scaled] = moments.squared_norms(state, marginal, standardize=scaled)
        return self.norms[state, scaled]

    def table(self) -> pd.DataFrame:
        """One row a measure, scaling and ordered pair, with ranks and counts of constant neurons."""
        tables, n = [], len(self.states)
        for job, grid in self.values.items():
            table = square_table({job[0]: grid}, [s.label for s in self.states], ["model", "layer"])
            table.insert(1, "standardize", job[1])
            table["n_frames"] = self.sample if job in self.of_frames else len(self.states[0])
            for side, ranks in (("rank_x", self.ranks[job]), ("rank_y", self.ranks[job].T)):
                table[side] = pd.Series(ranks.ravel(), dtype="Int64").mask(ranks.ravel() < 0)
            table["constant_x"], table["constant_y"] = np.repeat(self.constant, n), np.tile(self.constant, n)
            tables.append(table)
        return pd.concat(tables, ignore_index=True)
