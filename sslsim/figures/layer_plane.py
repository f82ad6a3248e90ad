"""All layers as points of one plane, near where alike."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
    `sslsim.compare`; one that lacks a pair of layers is an error. Leave out baselines that crowd the rest together.
    """
    similarity = _symmetric(matrix(table, measure))
    places, share = plane(similarity.to_numpy())
    points = similarity.index.to_frame(index=False).assign(x=places[:, 0], y=places[:, 1])
    points = points.sort_values("layer", kind="stable")
    models, trained = similarity.index.unique("model"), set(table.model_x[table.trained_x])
    coloured, grey = looks(models[models.isin(trained)], COLOURED), looks(models[~models.isin(trained)])
    figure, ax = plt.subplots(figsize=(8.4, 6.4), layout="constrained")
    for model in models:
        colour, marker = coloured[model] if model in trained else ("0.6", grey[model][1])
        path = points[points.model == model]
        ax.plot(path.x, path.y, marker=marker, color=colour, label=model, markersize=4, linewidth=1.0, alpha=0.9)
        ax.plot(path.x[:1], path.y[:1], marker, color=colour, markerfacecolor="white", markersize=6)
        if len(path) > 1:
            ax.plot(path.x[-1:], path.y[-1:], marker, color=colour, markersize=8)
    ax.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right center")
    held = f"{100 * share:.0f} % of squared distance in this plane; hollow: first layer, large: last"
    ax.set(xlabel="first axis", ylabel="second axis", title=f"{title(measure)}\n{held}")
    return figure


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
