"""Small tables of the columns that `sslsim.compare` and the evidence write, for tests of figures and pages."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

SIDES = ["model_x", "layer_x", "model_y", "layer_y"]


@pytest.fixture
def no_trace():
    """Hold that a test leaves matplotlib's settings as they were, and close its figures."""
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before
    plt.close("all")


def square(layers: list[tuple[str, int]], measure: str = "svcca", **columns) -> pd.DataFrame:
    """Make a table of every ordered pair of layers; each column is one number or a square array of them."""
    table = pd.DataFrame([(*x, *y) for x in layers for y in layers], columns=SIDES).assign(measure=measure)
    shape = (len(layers), len(layers))
    table = table.assign(**{name: np.broadcast_to(grid, shape).ravel() for name, grid in columns.items()})
    trained = {f"trained_{s}": ~table[f"model_{s}"].str.startswith("untrained") for s in "xy"}
    return table.assign(**trained)


def pairs() -> pd.DataFrame:
    """Make a table of two models with three and two layers, as from an evidence; one cell has no chance level."""
    layers = [("a<b>", 0), ("a<b>", 1), ("a<b>", 2), ("c", 0), ("c", 1)]
    value, known = np.random.default_rng(0).random((5, 5)), np.ones((5, 5))
    known[0, 1] = np.nan
    worth = {"chance": 0.1 * known, "p": known / 21, "p_t": np.where(value > 0.2, 0.01, 0.4) * known}
    return square(layers, value=value, ci_low=value - 0.01, ci_high=value + 0.01, **worth)
