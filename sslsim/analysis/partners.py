"""Smaller tables from evidence and stores: what a reader takes from the controls of a grid, each number with its own.

`readings` takes such tables from scores alone; here chance levels and intervals come along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.selection import State, check_stores, states_of, utterances_of
from sslsim.activations.store import ActivationStore
from sslsim.analysis.summaries import SEPARATE, aligned, finetuned_pairs, relate, under
from sslsim.comparison.tables import RELATIONS
from sslsim.errors import SslsimError
from sslsim.measures.moments import moments
from sslsim.measures.registry import has_scaling
from sslsim.significance import jackknife as controls
from sslsim.significance.run import GROUPS, Evidence, Reading, evidence, groups_of

PLATEAU = (500, 1500, 4500, 13500)


def aligned_cells(found: Evidence, stores: Sequence[ActivationStore]) -> dict[str, NDArray[np.bool_]]:
    """Return which cells are of layers at the same relative depth, one model trained, by relation."""
    related = relate(found.cells, stores)
    near = aligned(found.cells, stores).to_numpy()
    trained = {s.checkpoint.name for s in stores if s.checkpoint.weights == "trained"}
    near = near & (related.model_x.isin(trained) | related.model_y.isin(trained)).to_numpy()
    masks = {relation: near & (related.relation == relation).to_numpy() for relation in RELATIONS}
    return {relation: mask for relation, mask in masks.items() if mask.any()}


def one_table(*several: Evidence) -> pd.DataFrame:
    """Return the tables of several evidences one below the other."""
    return pd.concat([one.table() for one in several], ignore_index=True)


def along_depth(
    found: Evidence, stores: Sequence[ActivationStore], measures: str | Sequence[str], standardize: bool = True
) -> pd.DataFrame:
    """Similarity of layers at the same relative depth, by measure, relation and depth.

    Returns
    -------
    DataFrame
        measure, standardize, relation, depth (relative, of the layer of x, to the nearest fifth), value (mean over the
        layers), ci_low, ci_high, chance, p. Models against themselves are left out.
    """
    names = [measures] if isinstance(measures, str) else measures
    return pd.concat([_along_depth(found, stores, name, standardize) for name in names], ignore_index=True)


def _along_depth(found: Evidence, stores: Sequence[ActivationStore], measure: str, standardize: bool) -> pd.DataFrame:
    some = _of(found, measure, standardize)
    last = {s.checkpoint.name: max(1, s.n_layers - 1) for s in stores}
    depth = (5 * some.cells.layer_x / some.cells.model_x.map(last)).round() / 5
    trained = some.cells.model_x.isin([s.checkpoint.name for s in stores if s.checkpoint.weights == "trained"])
    rows = []
    for relation, mask in aligned_cells(some, stores).items():
        here = mask & trained.to_numpy()
        for at in sorted(set(depth[here])) if relation != "same model" else ():
            read = some.only(here & (depth == at).to_numpy()).reading()
            rows.append({"relation": relation, "depth": at, **_short(read)})
    return pd.DataFrame(rows).assign(measure=measure, standardize=standardize)


def best_layers(
    found: Evidence, stores: Sequence[ActivationStore], measure: str, standardize: bool = True
) -> pd.DataFrame:
    """Find the best-matching pair of layers of every two checkpoints, with the chance level of the search.

    Returns
    -------
    DataFrame
        model_x, model_y, relation, layer_x, layer_y, value, ci_low, ci_high, chance, p, calibrated: chance is the best
        layer pair of each mismatch, whichever that is.
    """
    some = _of(found, measure, standardize)
    related = relate(some.cells, stores)
    rows = []
    for (x, y), group in related[related.model_x != related.model_y].groupby(["model_x", "model_y"], sort=False):
        read = some.only(related.index.isin(group.index)).reading(lambda v: v.max(-1))
        at = group.iloc[group.value.to_numpy().argmax()]
        place = {"model_x": x, "model_y": y, "relation": at.relation, "layer_x": at.layer_x, "layer_y": at.layer_y}
        rows.append(place | _short(read) | {"calibrated": read.calibrated})
    return pd.DataFrame(rows)


def _of(found: Evidence, measure: str, standardize: bool) -> Evidence:
    some = found.only(under(found.cells, measure, standardize))
    if some.cells.empty:
        pairs = zip(found.cells.measure, found.cells.standardize, strict=True)
        known = dict.fromkeys(_with_scaling(name, scaled) for name, scaled in pairs)
        wanted = _with_scaling(measure, standardize)
        raise SslsimError(f"the evidence has no {wanted}, only {', '.join(known)}; compute it too")
    return some


def _with_scaling(measure: str, standardize: bool) -> str:
    return f"{'standardised' if standardize else 'raw'} {measure}" if has_scaling(measure) else measure


def _short(read: Reading) -> dict[str, float]:
    return {"value": read.value, "ci_low": read.low, "ci_high": read.high, "chance": read.chance, "p": read.p}


def concentrations(stores: Sequence[ActivationStore], frames: int | None = None) -> pd.DataFrame:
    """Say of every layer how its variance is spread over neurons, and which layers a single neuron owns.

    Returns
    -------
    DataFrame
        model, layer and the fields of `controls.Concentration`.
    """
    check_stores(stores)
    rows = []
    for state in states_of(stores, frames):
        x = state[:]
        spread = controls.concentration(x, moments(x, x).x)
        rows.append({"model": state.label[0], "layer": state.layer, **vars(spread)})
    return pd.DataFrame(rows)


def why_cka_differs(
    table: pd.DataFrame, stores: Sequence[ActivationStore], spread: pd.DataFrame, n: int | None = None
) -> pd.DataFrame:
    """Put CKA raw, standardised and without the largest neurons side by side, a row a layer of a trained model.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.compare` with linear_cka_biased under both scalings and linear_cka_dropped.
    stores : sequence of ActivationStore
        That it was made from.
    spread : DataFrame
        From `concentrations`.
    n : int, optional
        Only the layers where raw and standardised differ most.

    Returns
    -------
    DataFrame
        model, layer, raw, standardised, dropped (means over the layers at the same depth of models trained apart),
        difference (raw less standardised), top_share, dimensions, kurtosis, owned.
    """
    near = relate(table[aligned(table, stores)], stores)
    near = near[near.relation.isin(SEPARATE)]
    names = {("linear_cka_biased", False): "raw", ("linear_cka_biased", True): "standardised"}
    names[("linear_cka_dropped", False)] = "dropped"
    kinds = [names.get(key, "") for key in zip(near.measure, near.standardize, strict=True)]
    missing = set(names.values()) - set(kinds)
    if missing:
        raise SslsimError(
            f"the table has no {', '.join(sorted(missing))} CKA; compare linear_cka_biased, in raw= too, and "
            "linear_cka_dropped"
        )
    wide = near.assign(kind=kinds).pivot_table(index=["model_x", "layer_x"], columns="kind", values="value", sort=False)
    out = wide[list(names.values())].rename_axis(["model", "layer"]).rename_axis(columns=None).reset_index()
    out.insert(5, "difference", out.raw - out.standardised)
    out = out.merge(spread[["model", "layer", "top_share", "dimensions", "kurtosis", "owned"]], on=["model", "layer"])
    if n is None:
        return out
    return out.iloc[out.difference.abs().to_numpy().argsort()[::-1][:n]].reset_index(drop=True)


def plateau(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    frames: Sequence[int] = PLATEAU,
    draws: int = 2,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Score pairs of models on more and more frames, to see whether the scores have settled.

    Parameters
    ----------
    stores, measures, executor, device, progress
        See `sslsim.evidence`.
    pairs : sequence of pairs of names
        Which checkpoints, each with the layers at the same relative depth.
    frames : sequence of int
        How many; what there is not is left out, and all frames come last.
    draws : int
        Mismatches for the chance level.

    Returns
    -------
    DataFrame
        measure, standardize, pair, n_frames, value, chance, enough (ten frames a neuron of both sides).
    """
    check_stores(stores)
    total, rows = stores[0].n_frames, []
    width = {s.checkpoint.name: s.n_neurons for s in stores}
    options: dict[str, Any] = {"groups": 0, "executor": executor, "device": device, "progress": progress}
    for n in [*(f for f in frames if f < total), total]:
        for x, y in pairs:
            two = [s for s in stores if s.checkpoint.name in (x, y)]
            found = evidence(two, measures, frames=n, draws=draws, between=[(x, y)], **options)
            near = aligned(found.cells, two) & (found.cells.model_x == x)
            for name in measures:
                read = found.only(near & (found.cells.measure == name)).reading()
                row = {"measure": name, "standardize": True, "pair": f"{x} in {y}", "n_frames": n}
                rows.append(row | {"value": read.value, "chance": read.chance, "enough": 10 * (width[x] + width[y])})
    return pd.DataFrame(rows)


def chance_levels(
    found: Evidence, stores: Sequence[ActivationStore], frames: int | None = None, seconds: float = 2.0
) -> pd.DataFrame:
    """Three chance levels of max_corr side by side, for layers at the same depth of models trained apart.

    Returns
    -------
    DataFrame
        relation, frames, effective_frames (median over neurons and layers, from the correlation of each neuron with
        itself in time), extreme_value (what a maximum over independent neurons reaches on so many), mismatched (mean
        over the mismatches), rotated (in random bases of the same subspace), value.
    """
    states = {state.label: state for state in states_of(stores, frames)}
    lengths, n = utterances_of(list(states.values())).lengths, len(next(iter(states.values())))
    kept = n / stores[0].n_frames
    lags = max(1, int(50 * seconds * kept))
    auto = cache(lambda label: controls.autocorrelation(states[label], lengths, lags))  # of layers that take part
    rows = []
    for relation, mask in aligned_cells(found, stores).items():
        part = found.only(mask & (found.cells.measure == "max_corr").to_numpy())
        if relation not in SEPARATE or part.cells.empty:
            continue
        effective, floors = [], []
        for cell in part.cells.itertuples():
            x, y = auto((cell.model_x, cell.layer_x)), auto((cell.model_y, cell.layer_y))
            per_neuron = np.median(controls.effective_frames(x, y, n), axis=1)
            effective.append(np.median(per_neuron))
            floors.append(controls.chance_max_corr(per_neuron, y.shape[1]).mean())
        excess = found.only(mask & (found.cells.measure == "max_corr_excess_y").to_numpy()).reading()
        read = part.reading()
        row = {"relation": relation, "frames": n, "effective_frames": float(np.median(effective))}
        row |= {"extreme_value": float(np.mean(floors)), "mismatched": read.chance}
        rows.append(row | {"rotated": read.value - excess.value, "value": read.value})
    return pd.DataFrame(rows)


def with_intervals(
    partners: pd.DataFrame,
    stores: Sequence[ActivationStore],
    *,
    frames: int | None = None,
    groups: int = GROUPS,
    unit: str = "utterance",
) -> pd.DataFrame:
    """Add ci_low and ci_high to the correlations of chosen pairs of neurons.

    By the jackknife on Fisher's z. A pair chosen for its height is a little too high, and its interval with it.

    Parameters
    ----------
    partners : DataFrame
        model_x, layer_x, neuron_x, model_y, layer_y, neuron_y, value: few rows, each is read from the stores.
    stores, frames, groups, unit
        As in the comparison that they come from; with groups 0 nothing is added.
    """
    if not groups:
        return partners
    states = {state.label: state for state in states_of(stores, frames)}
    left = groups_of(stores[0].index, utterances_of(list(states.values())).lengths, groups, unit)
    low, high = [], []
    for row in partners.itertuples():
        x = _neuron(states[row.model_x, row.layer_x], row.neuron_x)
        y = _neuron(states[row.model_y, row.layer_y], row.neuron_y)
        without = [np.corrcoef(x[kept], y[kept])[0, 1] for kept in left.without]
        ends = controls.jackknife_interval(_z(np.corrcoef(x, y)[0, 1]), _z(np.array(without)), left.sizes)
        low.append(float(np.tanh(ends[0])))
        high.append(float(np.tanh(ends[1])))
    return partners.assign(ci_low=low, ci_high=high)


def _z(r: Any) -> Any:
    return np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))


def _neuron(state: State, neuron: int) -> NDArray[np.float64]:
    rows = slice(None) if state.frames is None else state.frames
    return np.asarray(state.store.layer(state.layer)[rows, neuron], dtype=np.float64)


def one_to_many(partners: pd.DataFrame) -> pd.DataFrame:
    """Say whether neurons have partners of their own or crowd around few, by relation.

    Returns
    -------
    DataFrame
        relation, neurons (with a best partner), own (share of them whose partner is no other's of their model), mutual
        (share whose partner's own best partner, among the layers compared, is the neuron itself), crowd (most neurons
        around one partner).
    """
    keys = ["model_x", "model_y", "layer_y", "neuron_y"]
    crowd = partners.groupby(keys).neuron_x.transform("size")
    forth = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y"]
    back = ["model_y", "layer_y", "neuron_y", "model_x", "layer_x", "neuron_x"]
    there = pd.MultiIndex.from_frame(partners[back])
    mutual = pd.MultiIndex.from_frame(partners[forth]).isin(there)
    table = partners.assign(own=crowd == 1, crowd=crowd, mutual=mutual)
    groups = table.groupby("relation", sort=False)
    out = groups.agg(neurons=("own", "size"), own=("own", "mean"), mutual=("mutual", "mean"), crowd=("crowd", "max"))
    return out.reindex([r for r in RELATIONS if r in out.index]).reset_index()


def moved(stores: Sequence[ActivationStore], *several: Evidence) -> pd.DataFrame:
    """Say how far finetuning moved each layer, in units of the distance between two seeds of the pretrained model.

    The distance of two layers is one minus their similarity. Pretrained models without another seed have no unit, and
    no rows.

    Parameters
    ----------
    stores : sequence of ActivationStore
        Those that the evidence was made from.
    *several : Evidence
        Between each pretrained model, its counterparts and its other seeds.

    Returns
    -------
    DataFrame
        measure (excesses over random bases are no similarities and left out), standardize, pretrained, finetuned,
        layer, depth, distance (1: as far as another seed), ci_low, ci_high, similarity, of_seeds (similarity of the
        two seeds in this layer).
    """
    rows = [row for found in several for row in _distances(found, stores)]
    columns = ["measure", "standardize", "pretrained", "finetuned", "layer", "depth", "distance", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=[*columns, "similarity", "of_seeds"])


def _distances(found: Evidence, stores: Sequence[ActivationStore]) -> Iterator[dict[str, Any]]:
    related = relate(found.cells, stores)
    same_layer = (related.layer_x == related.layer_y) & ~related.measure.str.contains("_excess_")
    for before, after in finetuned_pairs(stores):
        here = same_layer & (related.model_x == before.checkpoint.name)
        for (measure, scaled, layer), cells in related[here].groupby(["measure", "standardize", "layer_x"], sort=False):
            to = cells.index[cells.model_y == after.checkpoint.name]
            seeds = cells.index[cells.relation == "other seed"]
            if len(to) and len(seeds):
                read = found.reading(partial(in_seeds, to[0], seeds.to_numpy()))
                row = {"measure": measure, "standardize": scaled, "pretrained": before.checkpoint.name}
                row |= {"finetuned": after.checkpoint.name, "layer": layer, "depth": layer / (before.n_layers - 1)}
                row |= {"distance": read.value, "ci_low": read.low, "ci_high": read.high}
                yield row | {"similarity": related.value[to[0]], "of_seeds": related.value[seeds].mean()}


def in_seeds(to: int, seeds: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of one cell in units of the mean distance of others, a distance being one minus the similarity."""
    return (1 - values[..., to]) / (1 - values[..., seeds]).mean(-1)


def first_moved(distances: pd.DataFrame, share: float = 0.5) -> pd.DataFrame:
    """Find, for each measure and finetuned model, the lowest layer that moved a share of the distance of two seeds.

    Parameters
    ----------
    distances : DataFrame
        From `moved`.
    share : float
        Of the distance between two seeds.

    Returns
    -------
    DataFrame
        measure, standardize, pretrained, finetuned, first_layer (missing if none moved so far), furthest_layer,
        furthest (its distance).
    """
    keys = ["measure", "standardize", "pretrained", "finetuned"]
    rows = []
    for names, group in distances.groupby(keys, sort=False):
        far = group[group.distance >= share]
        top = group.loc[group.distance.idxmax()]
        first = far.layer.min() if len(far) else pd.NA
        rows.append((*names, first, top.layer, top.distance))
    out = pd.DataFrame(rows, columns=[*keys, "first_layer", "furthest_layer", "furthest"])
    return out.astype({"first_layer": "Int64"})


def changed_neurons(stores: Sequence[ActivationStore], *, frames: int | None = None) -> pd.DataFrame:
    """Correlation of every neuron of a pretrained model with the same neuron after finetuning.

    Finetuning begins with the pretrained weights, so a neuron keeps its number; models of different width have no rows.

    Returns
    -------
    DataFrame
        model_x (pretrained), layer_x, neuron_x, model_y (finetuned), layer_y, neuron_y (equal to those of x), value.
    """
    states = {state.label: state for state in states_of(stores, frames)}
    tables = []
    for before, after in finetuned_pairs(stores):
        if before.n_neurons != after.n_neurons:
            continue
        for layer in range(min(before.n_layers, after.n_layers)):
            x, y = (states[s.checkpoint.name, layer][:].astype(np.float64) for s in (before, after))
            x, y = x - x.mean(0), y - y.mean(0)
            with np.errstate(invalid="ignore", divide="ignore"):
                r = (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))
            numbers = np.arange(len(r))
            keys = {"model_x": before.checkpoint.name, "layer_x": layer, "neuron_x": numbers}
            keys |= {"model_y": after.checkpoint.name, "layer_y": layer, "neuron_y": numbers}
            tables.append(pd.DataFrame(keys | {"value": r}).dropna(subset="value"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def matched_heads(
    best: pd.DataFrame, profile: pd.DataFrame, stores: Sequence[ActivationStore], n: int = 12
) -> pd.DataFrame:
    """Say what the best-matched heads of models trained apart look at, both sides.

    Parameters
    ----------
    best : DataFrame
        Best matches of one measure with `relation`, chance and p, and intervals where there are any, from the heads of
        `sslsim.attention_evidence`.
    profile : DataFrame
        From `sslsim.describe_heads`.
    stores : sequence of ActivationStore
        That both were made from.
    n : int
        How many, those furthest above their chance level.
    """
    chosen = relate(best, stores)
    chosen = chosen[chosen.relation.isin(SEPARATE)].assign(above=lambda t: t.value - t.chance)
    chosen = chosen.sort_values("above", ascending=False).head(n).reset_index(drop=True)
    out = chosen[["relation", "model_x", "layer_x", "head_x", "model_y", "layer_y", "head_y"]].copy()
    numbers = [name for name in ("value", "ci_low", "ci_high", "chance", "p") if name in chosen]
    out[numbers] = chosen[numbers]
    for side in "xy":
        of = profile[["model", "layer", "head", "distance", "diagonality"]].add_suffix(f"_{side}")
        out = out.merge(of, on=[f"model_{side}", f"layer_{side}", f"head_{side}"], how="left")
    return out
