"""All layers as points of one plane, near where alike."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sslsim.errors import SslsimError
from sslsim.figures.maps import matrix
from sslsim.figures.style import COLOURED, looks, styled, title


@styled()
def layer_map(table: pd.DataFrame, measure: str) -> Figure:
    """Draw all layers as points of a plane, near where alike, the layers of a model joined from first to last.

    Classical scaling of the distance sqrt(2 - 2 s), that of unit vectors whose cosine is the similarity s, after both
    directions of a pair were averaged. The title gives the share of all squared distance that the plane accounts for:
    its two eigenvalues over the sum of the sizes of all, since a similarity that is no cosine has negative ones too.
    The first layer is hollow, the last large; models that were not trained are grey. `table` comes from
    `sslsim.compare`; one that lacks a pair of layers is an error. All its models take part: where baselines lie so far
    off that the rest crowds together, leave them out.
    """
    similarity = _symmetric(matrix(table, measure))
    places, share = plane(similarity.to_numpy())
    points = similarity.index.to_frame(index=False).assign(x=places[:, 0], y=places[:, 1])
    points = points.sort_values("layer", kind="stable")
    looks_of = _looks(table, list(dict.fromkeys(similarity.index.get_level_values("model"))))
    figure, ax = plt.subplots(figsize=(8.4, 6.4), layout="constrained")
    for model, look in looks_of.items():
        _path(ax, points[points.model == model], *look)
    ax.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right center")
    held = f"{100 * share:.0f} % of squared distance in this plane; hollow: first layer, large: last"
    ax.set(xlabel="first axis", ylabel="second axis", title=f"{title(measure)}\n{held}")
    return figure


def _looks(table: pd.DataFrame, models: list[str]) -> dict[str, tuple[Any, str]]:
    """Colour and marker of every model; those that were not trained are grey."""
    trained = set(table.model_x[table.trained_x])
    of_trained = looks([model for model in models if model in trained], COLOURED)
    others = looks(model for model in models if model not in trained)
    return {m: of_trained[m] if m in trained else ("0.6", others[m][1]) for m in models}


def _symmetric(grid: pd.DataFrame) -> pd.DataFrame:
    """Mean of both directions of every pair of layers; a pair that is missing is an error."""
    grid = grid.rename_axis(index=["model", "layer"], columns=["model", "layer"])
    every = grid.index.append(grid.columns).unique()
    square = grid.reindex(index=every, columns=every)
    mean = (square + square.T) / 2
    gaps = np.argwhere(np.triu(mean.isna()))
    if len(gaps):
        (x, i), (y, j) = (every[place] for place in gaps[0])
        more = f" (and of {len(gaps) - 1} more pairs)" if len(gaps) > 1 else ""
        raise SslsimError(
            f"the table lacks the similarity of {x} layer {i} and {y} layer {j}{more}; "
            "a map needs every pair of layers in both directions: compare all models or leave some out"
        )
    return mean


def plane(similarity: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return places (n, 2) by classical scaling of sqrt(2 - 2 s), and the share of squared distance that they keep."""
    n = len(similarity)
    if n < 3:
        raise SslsimError(f"a map needs at least 3 layers, got {n}")
    centre = np.eye(n) - 1 / n
    squared = np.where(np.eye(n), 0, 2 - 2 * similarity)
    values, vectors = np.linalg.eigh(-0.5 * centre @ squared @ centre)
    first = np.argsort(values)[::-1][:2]
    kept = np.maximum(values[first], 0)
    places = vectors[:, first] * np.sqrt(kept)
    places *= np.sign(places[np.abs(places).argmax(0), [0, 1]])  # eigenvectors have no sign of their own
    return places, float(kept.sum() / np.abs(values).sum())


def _path(ax: Axes, rows: pd.DataFrame, colour: Any, marker: str) -> None:
    """Join the layers of a model; the first hollow, the last large."""
    ax.plot(
        rows.x, rows.y, label=rows.model.iat[0], color=colour, marker=marker, markersize=4, linewidth=1.0, alpha=0.9
    )
    ax.plot(rows.x[:1], rows.y[:1], marker, color=colour, markerfacecolor="white", markersize=6)
    if len(rows) > 1:
        ax.plot(rows.x[-1:], rows.y[-1:], marker, color=colour, markersize=8)
