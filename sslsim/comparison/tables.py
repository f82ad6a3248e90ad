"""Tidy tables of pairs: the columns that name a pair, what its two models are to each other, and square matrices."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from sslsim.activations.store import ActivationStore, Stores

SIDES = ["model_x", "layer_x", "model_y", "layer_y"]
PAIR = ["relation", "depth_x", "depth_y", "trained_x", "trained_y"]


def pair_columns(table: pd.DataFrame, stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Say of every row what its two models are to each other and where in depth its layers are.

    The table, made from `stores`, has `SIDES` and value; before value come relation
    (`sslsim.encoders.lineage.RELATIONS`), depth_x and depth_y (layer over number of blocks, 0 to 1; not of neurons),
    trained_x and trained_y (False for random weights and the spectrogram).
    """
    lineage = Stores(stores).lineage
    last = {store.name: max(1, store.layer_numbers[-1]) for store in stores}
    trained = {name: lineage.trained(name) for name in last}
    pairs = list(zip(table.model_x, table.model_y, strict=True))
    relation = {pair: lineage.relation(*pair) for pair in set(pairs)}
    columns: dict[str, ArrayLike] = {"relation": np.array([relation[pair] for pair in pairs], dtype=object)}
    for side in "xy" if "neuron_x" not in table else "":  # a table of neurons is long, and depth is of layers
        columns[f"depth_{side}"] = table[f"layer_{side}"] / table[f"model_{side}"].map(last)
    for side in "xy":
        columns[f"trained_{side}"] = np.array([trained[name] for name in table[f"model_{side}"]], dtype=bool)
    place = list(table).index("value")
    return table.assign(**columns)[[*table.columns[:place], *columns, *table.columns[place:]]]


def same_depth(table: pd.DataFrame) -> pd.Series:
    """Say which rows of a table are of layers at the same relative depth: each x with the nearest layer of y.

    The last layer of a model follows from any of its rows with a depth above 0; a model without one has one layer.
    """
    sides = [table[[f"{key}_{side}" for key in ("model", "layer", "depth")]] for side in "xy"]
    layers = pd.concat([side.set_axis(["model", "layer", "depth"], axis=1) for side in sides]).drop_duplicates()
    deep = layers[layers.depth > 0]
    last = (deep.layer / deep.depth).round().groupby(deep.model).first()
    last_x, last_y = (table[f"model_{side}"].map(last).fillna(0) for side in "xy")
    return pd.Series(near_layers(table.layer_x, last_x, last_y, layers.layer.min()) == table.layer_y, table.index)


def near_layers(layer: ArrayLike, last: ArrayLike, other: ArrayLike, first: int = 0) -> NDArray[np.float64]:
    """Layers of a model, `first` (0 or 1) to `other`, nearest in relative depth to layers of one with `last`."""
    nearest = np.floor(np.asarray(layer) * np.maximum(other, 1) / np.maximum(last, 1) + 0.5)
    return np.clip(nearest, np.minimum(min(first, 1), other), other)


def sides(labels: Sequence[tuple], names: list[str], x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Columns that name the two sides of pairs, given by the numbers of their labels."""
    keys = pd.DataFrame(labels, columns=names)
    both = ((x, "_x"), (y, "_y"))
    return pd.concat([keys.iloc[numbers].add_suffix(side).reset_index(drop=True) for numbers, side in both], axis=1)


def square_table(values: dict[str, np.ndarray], labels: Sequence[tuple], names: list[str]) -> pd.DataFrame:
    """Square matrices by measure to one row an ordered pair."""
    n = len(labels)
    pairs = sides(labels, names, np.repeat(np.arange(n), n), np.tile(np.arange(n), n))
    tables = [pairs.assign(value=grid.ravel()).assign(measure=name) for name, grid in values.items()]
    return pd.concat(tables, ignore_index=True)[["measure", *pairs.columns, "value"]]
