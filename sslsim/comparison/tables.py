"""Tidy tables of pairs: the columns that name a pair, and square matrices unrolled into them."""

from __future__ import annotations

import numpy as np
import pandas as pd

SIDES = ["model_x", "layer_x", "model_y", "layer_y"]
# what two checkpoints are to each other, from the closest (see `readings`)
RELATIONS = ["same model", "counterpart", "other seed", "same family", "other family", "other model"]
RELATIONS += ["untrained", "spectrogram"]


def square_table(values: dict[str, np.ndarray], labels: list[tuple], names: list[str]) -> pd.DataFrame:
    """Square matrices by measure to one row an ordered pair."""
    n = len(labels)
    keys = pd.DataFrame(labels, columns=names)
    x = keys.iloc[np.repeat(np.arange(n), n)].add_suffix("_x").reset_index(drop=True)
    y = keys.iloc[np.tile(np.arange(n), n)].add_suffix("_y").reset_index(drop=True)
    pairs = pd.concat([x, y], axis=1)
    tables = [pairs.assign(value=grid.ravel()).assign(measure=name) for name, grid in values.items()]
    table = pd.concat(tables, ignore_index=True)
    return table[["measure", *pairs.columns, "value"]]
