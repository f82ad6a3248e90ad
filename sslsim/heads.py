"""Every attention head of every checkpoint against every other, and the scores of layers that follow from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from sslsim import attention
from sslsim.errors import SslsimError, close_match
from sslsim.states import check_names, check_stores
from sslsim.store import ActivationStore
from sslsim.tables import SIDES, square_table


def compare_heads(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius"),
    *,
    device: str = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Compare every attention head of every store with every other, on the stored query rows.

    Returns
    -------
    DataFrame
        One row a measure and ordered pair of heads: measure, model_x, layer_x, head_x, model_y, layer_y, head_y, value,
        n_frames (query rows). Layers count from 1: layer 0 is the input of the first block.
    """
    check_names(measures)
    for name in measures:
        if name not in attention.MEASURES:
            raise SslsimError(f"unknown attention measure {name!r}{close_match(name, attention.MEASURES)}")
    check_stores(stores)
    if not stores[0].attention_layers:
        raise SslsimError("no attention in these stores; extract with queries above 0")
    labels = [
        (s.checkpoint.name, layer, head)
        for s in stores
        for layer in range(1, s.attention_layers + 1)
        for head in range(s.n_heads)
    ]
    sums: dict[str, attention.Sums] = {}
    for u in tqdm(range(len(stores[0].index)), "attention", disable=not progress, file=sys.stdout, unit="utt"):
        maps = [s.attention(layer, u) for s in stores for layer in range(1, s.attention_layers + 1)]
        stacked = attention.check_maps(np.concatenate(maps), "attention", u).to(device)
        for name in measures:
            part = attention.MEASURES[name](stacked, stacked)
            sums[name] = sums[name] + part if name in sums else part
    values = {name: total.mean.cpu().numpy() for name, total in sums.items()}
    table = square_table(values, labels, ["model", "layer", "head"])
    return table.assign(n_frames=int(stores[0].index.n_rows.sum()))


def layer_scores(heads: pd.DataFrame) -> pd.DataFrame:
    """Score pairs of layers from `compare_heads`: mean over the heads of x of the best match among the heads of y."""
    # max then mean skip a head whose every row was uniform: it has no correlation with any other
    best = heads.groupby(["measure", *SIDES, "head_x"], sort=False).agg(
        value=("value", "max"), n_frames=("n_frames", "first")
    )
    table = best.groupby(["measure", *SIDES], sort=False).agg(value=("value", "mean"), n_frames=("n_frames", "first"))
    table = table.reset_index()
    table.insert(1, "standardize", True)
    return table


def best_heads(heads: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Best match of every head among all heads of each other checkpoint, whatever their layer.

    Returns
    -------
    DataFrame
        One row a head and other checkpoint: model_x, layer_x, head_x, model_y, layer_y, head_y, value.
    """
    others = heads[(heads.measure == measure) & (heads.model_x != heads.model_y)].dropna(subset="value")
    best = others.groupby(["model_x", "layer_x", "head_x", "model_y"], sort=False).value.idxmax()
    columns = ["model_x", "layer_x", "head_x", "model_y", "layer_y", "head_y", "value"]
    return others.loc[best, columns].reset_index(drop=True)
