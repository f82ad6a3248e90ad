"""Tables of layers: what they are, how alike by relation and along depth, which match best, whether scores settled.

The value in row (x, y) of a directional measure says how well x is found in y; relations: `sslsim.encoders.lineage`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.results import kept
from sslsim.activations.selection import check_between, check_stores, varying_views
from sslsim.activations.store import ActivationStore, Stores
from sslsim.comparison.tables import same_depth
from sslsim.encoders.lineage import RELATIONS, SEPARATE
from sslsim.encoders.lineup import read_lineup
from sslsim.errors import SslsimError
from sslsim.measures.diagnostics import concentration
from sslsim.measures.moments import moments
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.registry import MEASURES
from sslsim.significance import run
from sslsim.significance.evidence import Evidence, Resampling, near_only

Pairs = Sequence[tuple[str, str]]  # names of two checkpoints each
CKA = {"linear_cka_biased_raw": "raw", "linear_cka_biased": "standardised", "linear_cka_dropped": "dropped"}
PUBLISHED = {"max_corr": 0.234, "linreg": 0.670, "svcca_below": 0.384, "pwcca": 0.499, "linear_cka_biased": 0.487}
"""Means between the models of the lineup ``paper`` over all layers, read off the maps of arXiv 2406.16099 to 0.01."""
FRAMES = (500, 1500, 4500, 13500)


def layer_norms(stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Say what the first and last layer of each checkpoint are, and how it took its audio.

    The last hidden state that others report is layer L only where no final norm follows. Columns: model, layer_0 and
    layers (output of a LayerNorm, raw residual stream, units, or what is no model, which differ), last (number of the
    last layer), final_norm (whether another LayerNorm follows it), normalised, mask, features (see `Anatomy.input`) and
    dtype.
    """
    rows = []
    for s in stores:
        kinds = ["LayerNorm" if normed else "residual" for normed in (s.input_normed, s.normed)]
        alone = [str(s.input["features"])] * 2 if s.site == "hidden" else ["none", "units"]  # spectrogram, arrays
        first, others = kinds if s.n_heads else alone
        row = {"model": s.name, "layer_0": first, "last": s.layer_numbers[-1], "layers": others}
        rows.append(row | {"final_norm": s.final_norm, **s.input, "dtype": s.dtype})
    return pd.DataFrame(rows)


@kept
def concentrations(stores: Sequence[ActivationStore], frames: int | None = None) -> pd.DataFrame:
    """Say of every layer how variance is spread over its neurons: model, layer and what `concentration` returns."""
    check_stores(stores)
    frames_of = ((*view.label, view[:]) for view in varying_views(stores, check_between(None, stores), frames))
    rows = [{"model": name, "layer": i} | vars(concentration(x, moments(x, x).x)) for name, i, x in frames_of]
    return pd.DataFrame(rows)


def similarity_by_relation(table: pd.DataFrame) -> pd.DataFrame:
    """Similarity of each layer to the other layers of its model (intra) and to those of others, by relation (inter).

    Columns: measure, model, layer, depth, relation, mean (over the layers compared with), best, best_model, best_layer
    and best_depth (where the best is). A layer is not compared with itself.
    """
    others = table.dropna(subset="value")  # a layer of uniform attention has no correlation
    others = others[(others.relation != "same model") | (others.layer_x != others.layer_y)]
    groups = others.groupby(["measure", "model_x", "layer_x", "depth_x", "relation"], sort=False).value
    best = others.loc[groups.idxmax(), ["model_y", "layer_y", "depth_y"]]
    out = groups.agg(mean="mean", best="max").reset_index()
    out[["best_model", "best_layer", "best_depth"]] = best.reset_index(drop=True)
    return out.rename(columns={"model_x": "model", "layer_x": "layer", "depth_x": "depth"})


def relation_means(by_relation: pd.DataFrame) -> pd.DataFrame:
    """Mean over all layers of `similarity_by_relation`, by measure and relation; `PUBLISHED` beside those models."""
    wide = by_relation.pivot_table(index="measure", columns="relation", values="mean", aggfunc="mean", sort=False)
    out = wide.reindex(columns=[r for r in RELATIONS if r in wide]).rename_axis(columns=None).reset_index()
    known = PUBLISHED if {each.name for each in read_lineup("paper")} <= {*by_relation.model} else {}
    return out.assign(published=out.measure.map(known)).dropna(axis="columns", how="all")


def best_depths(by_relation: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Where in depth each layer finds its best match by one measure of `similarity_by_relation`.

    The columns are that table's, without mean. The spectrogram, which has no depth, is left out.
    """
    rows = by_relation[(by_relation.measure == measure) & (by_relation.relation != "spectrogram")]
    return rows.drop(columns="mean").reset_index(drop=True)


def best_partner_depths(table: pd.DataFrame, measures: Sequence[str], models: Sequence[str]) -> pd.DataFrame:
    """Say where the most similar layer of another model lies, beside what layers at the same relative depth score.

    The table is of `sslsim.compare`, the models are trained apart. Columns: measure, relation, searches (of a layer in
    another model that has some to choose from), same_depth and last_layer (shares of them whose most similar layer is
    at the same relative depth, or the last of its model), value_of_best and value_at_depth (means).
    """
    of = table.measure.isin(measures) & table.relation.isin(SEPARATE)
    some = table[of & table.model_x.isin(models) & table.model_y.isin(models)]
    some = some[some.groupby("model_y").layer_y.transform("nunique") > 1]
    some = some.assign(same_depth=same_depth(some), last_layer=some.depth_y == 1)
    best = some.loc[some.groupby(["measure", "model_x", "layer_x", "model_y"], sort=False).value.idxmax()]
    names = {name: (name, "mean") for name in ("same_depth", "last_layer")} | {"value_of_best": ("value", "mean")}
    out = best.groupby(["measure", "relation"], sort=False).agg(searches=("value", "size"), **names)
    return out.assign(value_at_depth=some[some.same_depth].groupby(out.index.names).value.mean()).reset_index()


def raw_against_standardised(table: pd.DataFrame, spread: pd.DataFrame, n: int | None = None) -> pd.DataFrame:
    """Put CKA raw, standardised and without the largest neurons side by side, a row a layer of a trained model.

    The table is of `sslsim.compare` with the measures of `CKA`, `spread` of `concentrations`. With `n`, only the layers
    where raw and standardised differ most. Columns: model, layer, raw, standardised, dropped (means over the layers at
    the same depth of models trained apart), difference (of the first two), top_share, dimensions, kurtosis, dominated.
    """
    near = table[same_depth(table) & table.relation.isin(SEPARATE)]
    kinds = near.measure.map(CKA).fillna("")
    wide = near.assign(kind=kinds).pivot_table(index=["model_x", "layer_x"], columns="kind", values="value", sort=False)
    out = wide[list(CKA.values())].assign(difference=wide.raw - wide.standardised).rename_axis(columns=None)
    columns = ["model", "layer", "top_share", "dimensions", "kurtosis", "dominated"]
    out = out.rename_axis(columns[:2]).reset_index().merge(spread[columns], on=columns[:2])
    largest = out.difference.abs().to_numpy().argsort()[::-1][:n]
    return out if n is None else out.iloc[largest].reset_index(drop=True)


def measured(evidence: Evidence, measure: str) -> Evidence:
    """Return the evidence of a measure; raise if there is none."""
    some = evidence.only(evidence.pairs.measure == measure)
    if some.pairs.empty:
        known = ", ".join(dict.fromkeys(evidence.pairs.measure))
        raise SslsimError(f"the evidence has no {measure}, only {known}; compute it too")
    return some


def same_depth_by_relation(evidence: Evidence) -> dict[str, NDArray[np.bool_]]:
    """Mask, for each relation, the pairs of layers on which claims rest: with all controls, at the same relative depth.

    One of the two at least was trained. Of deep models these are not all layers, see `Resampling.depths`.
    """
    pairs = evidence.pairs
    near = (same_depth(pairs) & (pairs.trained_x | pairs.trained_y)).to_numpy() & evidence.controlled
    masks = {relation: near & (pairs.relation == relation).to_numpy() for relation in RELATIONS}
    return {relation: mask for relation, mask in masks.items() if mask.any()}


def separate_at_same_depth(evidence: Evidence) -> list[tuple[str, Evidence]]:
    """Return, for each relation of models trained apart, the evidence of layers at the same relative depth."""
    masks = same_depth_by_relation(evidence)
    return [(relation, evidence.only(masks[relation])) for relation in SEPARATE if relation in masks]


def along_depth(evidence: Evidence, measures: Sequence[str]) -> pd.DataFrame:
    """Similarity of layers at the same relative depth, by measure, relation and depth.

    Columns: measure, relation, depth (relative, of the layer of x, to the nearest fifth), value (mean over the layers),
    ci_low, ci_high, chance, p. Rows are of trained models x; models against themselves are left out.
    """
    rows = []
    for name in measures:
        some = measured(evidence, name)
        depth = (5 * some.pairs.depth_x).round() / 5
        for relation, mask in same_depth_by_relation(some).items():
            here = mask & some.pairs.trained_x.to_numpy()
            for at in sorted(set(depth[here])) if relation != "same model" else ():
                of = some.only(here & (depth == at).to_numpy()).estimate()
                rows.append((name, relation, at, of.value, of.low, of.high, of.chance, of.p))
    columns = ["measure", "relation", "depth", "value", "ci_low", "ci_high", "chance", "p"]
    return pd.DataFrame(rows, columns=columns)


def beyond(
    stores: Stores,
    given: Any,
    measure: str = "linreg_r2",
    *,
    frames: int | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    device: str = "auto",
) -> pd.DataFrame:
    """Similarity along depth of layers, and of what is left of them once something is known of every frame.

    Compared are the first two models of each relation; `given` is as `sslsim.compare` takes it. Columns are those of
    `along_depth`, with the measure and then the measure "of the rest".
    """
    pairs, tables = stores.lineage.typical_pairs(), []
    some = [store for store in stores if any(store.name in pair for pair in pairs)]
    how: dict[str, Any] = {"frames": frames, "between": pairs, "device": device}
    how["resampling"] = replace(near_only(resampling), depths=resampling.depths)  # a curve shows fifths of the depth
    for of, known in (("", None), (" of the rest", given)):
        deep = along_depth(run.evidence(some, [measure], given=known, **how), [measure])
        tables.append(deep.assign(measure=f"{measure}{of}"))
    return pd.concat(tables, ignore_index=True)


def best_layers(evidence: Evidence, measure: str) -> pd.DataFrame:
    """Find the best-matching pair of layers of every two checkpoints, with the chance level of the search.

    Columns: measure, model_x, model_y, relation, layer_x, layer_y, value, chance (mean over `Resampling.elsewhere`
    mismatches of the best pair, whichever that is: too few for a p). Costly measures, of one depth alone, give no rows.
    """
    some = measured(evidence, measure)
    pairs, rows = some.pairs[:0] if MEASURES[measure].costly else some.pairs, []
    for _, group in pairs[pairs.model_x != pairs.model_y].groupby(["model_x", "model_y"], sort=False):
        chance = pd.Series(some.null[:, pairs.index.isin(group.index)].max(-1)).mean()  # of mismatches that all have
        rows.append({**group.loc[group.value.idxmax()], "chance": chance})
    columns = ["measure", "model_x", "model_y", "relation", "layer_x", "layer_y", "value", "chance"]
    return pd.DataFrame(rows, columns=columns)


@kept
def convergence(
    stores: Sequence[ActivationStore], measures: Sequence[str], pairs: Pairs, *, seed: int = 0, device: str = "auto"
) -> pd.DataFrame:
    """Score pairs of models on more and more frames, to see whether the scores have settled.

    The pairs are of names of checkpoints, compared at the same relative depth, of deep models at seven layers, on those
    of `FRAMES` that there are, and on all. Chance is that of two mismatches of utterances. Measures that compare every
    frame with every other depend on how many they compare; their curve ends at 2,000. Columns: measure, pair, n_frames,
    value, chance, enough (ten frames a neuron of both sides; not of these measures).
    """
    total, width, rows = stores[0].n_frames, {s.name: s.n_neurons for s in stores}, []
    some = [s for s in stores if any(s.name in pair for pair in pairs)]
    how: dict[str, Any] = {"between": pairs, "device": device}
    how["resampling"] = Resampling(permutations=2, elsewhere=None, blocks=0, rotations=0, seed=seed)
    sizes = [*(f for f in FRAMES if f < total), total] if pairs else []
    for before, n in zip([0, *sizes], sizes, strict=False):
        names = [name for name in measures if before < SAMPLE or not MEASURES[name].prepare]
        if not names:
            break
        scored = run.evidence(some, names, frames=n, **how)
        for (x, y), name in itertools.product(pairs, names):
            here = scored.pairs.measure.eq(name) & (scored.pairs.model_x == x) & (scored.pairs.model_y == y)
            these = scored.only(same_depth(scored.pairs) & here)
            enough = np.nan if MEASURES[name].prepare else 10 * (width[x] + width[y])
            estimate, pool = these.estimate(), int(these.pairs.n_frames.iloc[0])
            rows.append((name, f"{x} in {y}", pool, estimate.value, estimate.chance, enough))
    return pd.DataFrame(rows, columns=["measure", "pair", "n_frames", "value", "chance", "enough"])
