"""The grid: every layer of every checkpoint against every other, as one tidy table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from sslsim import attention, layers, moments
from sslsim.heads import compare_heads, layer_scores
from sslsim.measures import MEASURES, measure_named
from sslsim.moments import Marginal, Moments
from sslsim.neurons import best_partners
from sslsim.states import State, check_stores, pairs, states_of
from sslsim.store import ActivationStore
from sslsim.tables import square_table


def compare(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("max_corr", "linreg", "svcca", "linear_cka_debiased"),
    *,
    standardize: bool | Sequence[bool] = True,
    frames: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Compare every layer of every store with every other.

    Parameters
    ----------
    stores : sequence of ActivationStore
        Extracted from the same corpus.
    measures : sequence of str
        Names in ``sslsim.MEASURES`` or, for attention, ``sslsim.ATTENTION_MEASURES``.
    standardize : bool or sequence of bool
        Z-score neurons first; ``(True, False)`` gives both. Measures that do not depend on scale, and attention, have
        one set of rows, under True.
    frames : int, optional
        Use that many evenly spaced frames (query rows of attention are not affected); all by default.
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
    wanted = [m for m in measures if m not in attention.MEASURES]
    for name in wanted:
        measure_named(name)
    check_stores(stores)
    tables = []
    if wanted:
        scalings = [standardize] if isinstance(standardize, bool) else list(dict.fromkeys(standardize))
        tables.append(_compare_states(stores, wanted, scalings, frames, device, progress))
    heads = [m for m in measures if m in attention.MEASURES]
    if heads:
        tables.append(layer_scores(compare_heads(stores, heads, device=device, progress=progress)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def best_neuron_partners(
    stores: Sequence[ActivationStore],
    *,
    frames: int | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Best partner of every neuron among all neurons of each other checkpoint, whatever their layer.

    Returns
    -------
    DataFrame
        One row a neuron and other checkpoint: model_x, layer_x, neuron_x, model_y, layer_y, neuron_y, value (signed
        correlation). Neurons without variance have no row.
    """
    check_stores(stores)
    best: dict[tuple[str, int, str], pd.DataFrame] = {}
    for x, y, m in pairs(states_of(stores, frames), device, progress, "partners"):
        if x.store is y.store:
            continue
        for a, b, side in ((x, y, m), (y, x, m.swapped)):
            partner, r = best_partners(side)
            found = pd.DataFrame({"layer_y": b.layer, "neuron_y": partner, "value": r})
            key = (*a.label, b.label[0])
            stronger = found.value.abs() > best[key].value.abs() if key in best else None
            best[key] = found if stronger is None else found.where(stronger, best[key])
    tables = [
        frame.assign(model_x=model_x, layer_x=layer_x, neuron_x=frame.index, model_y=model_y)
        for (model_x, layer_x, model_y), frame in best.items()
    ]
    columns = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y", "value"]
    table = pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    return table.dropna(subset="value", ignore_index=True).astype({"layer_y": int, "neuron_y": int})


def _compare_states(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    scalings: Sequence[bool],
    frames: int | None,
    device: str,
    progress: bool,
) -> pd.DataFrame:
    """Grid of the layer and neuron measures."""
    states = states_of(stores, frames)
    place = {state: i for i, state in enumerate(states)}
    jobs = [(name, scaled) for name in measures for scaled in (scalings if MEASURES[name].scaling else [True])]
    values = {job: np.full((len(states), len(states)), np.nan) for job in jobs}
    ranks = {job: np.full((len(states), len(states)), -1) for job in jobs}
    constant = np.zeros(len(states), dtype=int)
    norms = _Norms(device)
    for x, y, m in pairs(states, device, progress, "layers"):
        i, j = place[x], place[y]
        constant[i], constant[j] = m.x.n_constant, m.y.n_constant
        for name, scaled in jobs:
            grid = values[name, scaled]
            grid[i, j] = _score(name, scaled, x, y, m, norms)
            grid[j, i] = grid[i, j] if MEASURES[name].symmetric else _score(name, scaled, y, x, m.swapped, norms)
            ranks[name, scaled][i, j], ranks[name, scaled][j, i] = _ranks(name, scaled, m)
    return _grid_table(values, ranks, constant, states)


class _Norms:
    """Squared frame norms of every layer, computed when a measure first asks for them."""

    def __init__(self, device: str):
        self.device = device
        self.known: dict[tuple[State, bool], Tensor] = {}

    def of(self, state: State, marginal: Marginal, scaled: bool) -> Tensor:
        key = (state, scaled)
        if key not in self.known:
            self.known[key] = moments.squared_norms(state, marginal, standardize=scaled)
        return self.known[key]


def _score(name: str, scaled: bool, x: State, y: State, m: Moments, norms: _Norms) -> float:
    measure = MEASURES[name]
    options = {"standardize": scaled} if measure.scaling else {}
    args = (norms.of(x, m.x, scaled), norms.of(y, m.y, scaled)) if measure.norms else ()
    return measure.score(m, *args, **options)


def _ranks(name: str, scaled: bool, m: Moments) -> tuple[int, int]:
    """Components on each side that a correlation of subspaces used; -1 for other measures."""
    if name == "svcca":
        return layers.svcca_ranks(m, standardize=scaled)
    if name == "cca":
        return len(m.x.components.variance), len(m.y.components.variance)
    return -1, -1


def _grid_table(values: dict, ranks: dict, constant: np.ndarray, states: list[State]) -> pd.DataFrame:
    """Tidy table of the grid with ranks and counts of constant neurons."""
    tables, n = [], len(states)
    for job, grid in values.items():
        table = square_table({job[0]: grid}, [s.label for s in states], ["model", "layer"])
        table.insert(1, "standardize", job[1])
        kept = pd.array(ranks[job].ravel(), dtype="Int64")
        table["n_frames"] = len(states[0])
        table["rank_x"], table["rank_y"] = kept, pd.array(ranks[job].T.ravel(), dtype="Int64")
        table["constant_x"], table["constant_y"] = np.repeat(constant, n), np.tile(constant, n)
        tables.append(table.replace({"rank_x": {-1: pd.NA}, "rank_y": {-1: pd.NA}}))
    return pd.concat(tables, ignore_index=True)
