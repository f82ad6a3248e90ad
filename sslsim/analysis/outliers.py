"""Layers whose variance a few neurons hold, and how far raw CKA speaks of those alone."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from sslsim.activations.selection import check_stores, layer_views
from sslsim.activations.store import ActivationStore
from sslsim.analysis.summaries import same_depth
from sslsim.encoders.lineage import SEPARATE
from sslsim.measures.diagnostics import concentration
from sslsim.measures.moments import moments

CKA = {"linear_cka_biased_raw": "raw", "linear_cka_biased": "standardised", "linear_cka_dropped": "dropped"}


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
