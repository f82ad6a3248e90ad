"""Smaller tables from the scores of all pairs of layers: by relation, by depth, and what the layers themselves are.

Functions take the table of `sslsim.compare`. The value in row (x, y) of a directional measure says how well x is found
in y; the column `relation` says what the two models are to each other (`sslsim.encoders.lineage`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sslsim.activations.selection import check_stores, layer_views
from sslsim.activations.store import ActivationStore
from sslsim.encoders.lineage import RELATIONS, SEPARATE
from sslsim.measures.diagnostics import concentration
from sslsim.measures.moments import moments

CKA = {"linear_cka_biased_raw": "raw", "linear_cka_biased": "standardised", "linear_cka_dropped": "dropped"}


def layer_norms(stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Say what the first and last layer of each checkpoint are, and how it took its audio.

    Read this beside any result on last layers: a raw residual stream and the output of a LayerNorm differ, and the last
    hidden state that others report is layer L only where no final norm follows.

    Columns: model, layer_0 and layers (output of a LayerNorm, or raw residual stream), last (number of the last layer),
    final_norm (whether another LayerNorm follows it), normalised, mask, features (see
    `sslsim.encoders.encoder.Anatomy`), dtype.
    """

    def output(store: ActivationStore, normed: bool) -> str:
        return "spectrogram" if not store.n_heads else "LayerNorm" if normed else "residual"

    rows = [
        {"model": s.name, "layer_0": output(s, s.input_normed), "last": s.n_layers - 1, "layers": output(s, s.normed)}
        | {"final_norm": s.final_norm, **s.input, "dtype": s.dtype}
        for s in stores
    ]
    return pd.DataFrame(rows)


def same_depth(table: pd.DataFrame) -> pd.Series:
    """Say which rows of a table are of layers at the same relative depth: each x with the nearest layer of y.

    The nearest layer is ``floor(layer_x * last_y / last_x + 0.5)``, in whole numbers of layers. The last layer of a
    model follows from any of its rows with a depth above 0; a model without one is taken to have a single layer, which
    is at the depth of all.
    """
    sides = [table[[f"{key}_{side}" for key in ("model", "layer", "depth")]] for side in "xy"]
    layers = pd.concat([side.set_axis(["model", "layer", "depth"], axis=1) for side in sides]).drop_duplicates()
    deep = layers[layers.depth > 0]
    last = (deep.layer / deep.depth).round().groupby(deep.model).first()
    last_x, last_y = (table[f"model_{side}"].map(last).fillna(0) for side in "xy")
    nearest = np.floor(table.layer_x * last_y.clip(lower=1) / last_x.clip(lower=1) + 0.5)
    return nearest.clip(upper=last_y) == table.layer_y


def similarity_by_relation(table: pd.DataFrame) -> pd.DataFrame:
    """Similarity of each layer to the other layers of its model (intra) and to those of others, by relation (inter).

    Columns: measure, model, layer, depth, relation, mean (over the layers compared with), best, best_model, best_layer
    and best_depth (where the best is). A layer is not compared with itself.
    """
    others = table.dropna(subset="value")  # a layer of uniform attention has no correlation
    others = others[(others.relation != "same model") | (others.layer_x != others.layer_y)]
    groups = others.groupby(["measure", "model_x", "layer_x", "depth_x", "relation"], sort=False).value
    out = groups.agg(mean="mean", best="max")
    best = others.loc[groups.idxmax()]
    for name in ("model", "layer", "depth"):
        out[f"best_{name}"] = best[f"{name}_y"].to_numpy()
    return out.reset_index().rename(columns={"model_x": "model", "layer_x": "layer", "depth_x": "depth"})


def best_depths(by_relation: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Where in depth each layer finds its best match by one measure of `similarity_by_relation`.

    Columns: relation, model, layer, depth (relative, 0 to 1), best_model, best_layer, best_depth, best (its
    similarity). The spectrogram, which has no depth, is left out.
    """
    rows = by_relation[(by_relation.measure == measure) & (by_relation.relation != "spectrogram")]
    columns = ["relation", "model", "layer", "depth", "best_model", "best_layer", "best_depth", "best"]
    return rows[columns].reset_index(drop=True)


def relation_means(by_relation: pd.DataFrame) -> pd.DataFrame:
    """Mean over all layers of all models of `similarity_by_relation`, one row a measure, one column a relation."""
    wide = by_relation.pivot_table(index="measure", columns="relation", values="mean", aggfunc="mean", sort=False)
    return wide.reindex(columns=[r for r in RELATIONS if r in wide]).rename_axis(columns=None).reset_index()


def concentrations(stores: Sequence[ActivationStore], frames: int | None = None) -> pd.DataFrame:
    """Say of every layer how its variance is spread over neurons, and which layers a single neuron dominates.

    Columns: model, layer and the fields of `sslsim.measures.diagnostics.Concentration`.
    """
    check_stores(stores)
    rows = []
    for view in layer_views(stores, frames):
        x = view[:]
        rows.append({"model": view.label[0], "layer": view.layer, **vars(concentration(x, moments(x, x).x))})
    return pd.DataFrame(rows)


def raw_against_standardised(table: pd.DataFrame, spread: pd.DataFrame, n: int | None = None) -> pd.DataFrame:
    """Put CKA raw, standardised and without the largest neurons side by side, a row a layer of a trained model.

    The table is of `sslsim.compare` with linear_cka_biased_raw, linear_cka_biased and linear_cka_dropped, `spread` is
    from `concentrations`. With `n`, only so many layers: those where raw and standardised differ most.

    Columns: model, layer, raw, standardised, dropped (means over the layers at the same depth of models trained apart),
    difference (raw less standardised), top_share, dimensions, kurtosis, dominated.
    """
    near = table[same_depth(table) & table.relation.isin(SEPARATE)]
    kinds = near.measure.map(CKA).fillna("")
    wide = near.assign(kind=kinds).pivot_table(index=["model_x", "layer_x"], columns="kind", values="value", sort=False)
    out = wide[list(CKA.values())].rename_axis(["model", "layer"]).rename_axis(columns=None).reset_index()
    out.insert(5, "difference", out.raw - out.standardised)
    columns = ["model", "layer", "top_share", "dimensions", "kurtosis", "dominated"]
    out = out.merge(spread[columns], on=["model", "layer"])
    if n is None:
        return out
    return out.iloc[out.difference.abs().to_numpy().argsort()[::-1][:n]].reset_index(drop=True)
