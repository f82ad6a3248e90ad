"""All layers as points of one plane, near where alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from sslsim.errors import SslsimError, close_match
from sslsim.figures.heatmaps import matrix
from sslsim.figures.style import COLOURED, looks, need, styled, title

NAME_SIZE = 8.0  # points
NEAR_TO_FAR = (7, 16, 28, 42, 60, 85, 115, 150)  # points from a mark to its name


@styled()
def layer_map(table: pd.DataFrame, measure: str, *, baselines: Sequence[str] | None = None) -> Figure:
    """Draw all layers as points of a plane, near where alike, the layers of a model joined from first to last.

    Classical scaling of the distance sqrt(2 - 2 s), that of unit vectors whose cosine is the similarity s, after both
    directions of a pair were averaged. The title gives the share of all squared distance that the plane accounts for:
    its two eigenvalues over the sum of the sizes of all, since a similarity that is no cosine has negative ones too.
    The first layer is hollow; the name of a model stands at its last. All models of the table take part, baselines too:
    where those lie so far off that the rest crowds together, leave them out of the table.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.compare`. Nothing is filled in: a table that lacks a pair of layers is an error.
    measure : str
        Which of its measures.
    baselines : sequence of str, optional
        Models to draw in grey; by default those that were not trained.
    """
    similarity = _symmetric(matrix(table, measure))
    places, share = _plane(similarity.to_numpy())
    points = similarity.index.to_frame(index=False).assign(x=places[:, 0], y=places[:, 1])
    points = points.sort_values("layer", kind="stable")
    looks_of = _looks(table, list(dict.fromkeys(similarity.index.get_level_values("model"))), baselines)
    figure, ax = plt.subplots(figsize=(7.4, 6.6), layout="constrained")
    _frame(ax, places)
    for model, look in looks_of.items():
        _path(ax, points[points.model == model], *look)
    held = f"{100 * share:.0f} % of squared distance in this plane; hollow: first layer"
    ax.set(xlabel="first axis", ylabel="second axis", title=f"{title(measure)}\n{held}")
    ends = points.groupby("model", sort=False).tail(1).set_index("model")[["x", "y"]]
    _name_points(ax, ends, places, {model: colour for model, (colour, _) in looks_of.items()})
    return figure


def _looks(table: pd.DataFrame, models: list[str], baselines: Sequence[str] | None) -> dict[str, tuple[Any, str]]:
    """Colour and marker of every model, baselines grey."""
    if baselines is None:
        need(table, ["trained_x"], "from sslsim.compare")
        trained = set(table.model_x[table.trained_x])
        baselines = [model for model in models if model not in trained]
    for name in baselines:
        if name not in models:
            raise SslsimError(f"the table has no model {name!r} to draw as a baseline{close_match(name, models)}")
    of_all = looks([model for model in models if model not in baselines], COLOURED)
    of_all |= {model: ("0.6", marker) for model, (_, marker) in looks(baselines).items()}
    return {model: of_all[model] for model in models}


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


def _plane(similarity: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coordinates (n, 2) by classical scaling of sqrt(2 - 2 s), and the share of squared distance they account for."""
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


def _frame(ax: Axes, places: NDArray[np.float64]) -> None:
    """Fix limits of one unit on both axes with room for names."""
    middle = (places.max(0) + places.min(0)) / 2
    half = 0.6 * max(np.ptp(places, axis=0).max(), 1e-9)
    ax.set(xlim=middle[0] + np.array([-half, half]), ylim=middle[1] + np.array([-half, half]))
    ax.set_aspect("equal", adjustable="box")


def _path(ax: Axes, rows: pd.DataFrame, colour: Any, marker: str) -> None:
    """Join the layers of a model; the first hollow, the last large."""
    ax.plot(rows.x, rows.y, color=colour, marker=marker, markersize=4, linewidth=1.0, alpha=0.9)
    ax.plot(rows.x[:1], rows.y[:1], marker, color=colour, markerfacecolor="white", markersize=6)
    if len(rows) > 1:
        ax.plot(rows.x[-1:], rows.y[-1:], marker, color=colour, markersize=8)


def _name_points(ax: Axes, ends: pd.DataFrame, points: NDArray[np.float64], colours: Mapping[str, Any]) -> None:
    """Write names beside their points, where they cover fewest points and no other name; with a line where far."""
    ax.figure.canvas.figure.draw_without_rendering()  # it places the axes
    to_pt = 72 / ax.figure.dpi
    frame = np.array(ax.get_window_extent().get_points()) * to_pt
    marks = ax.transData.transform(points) * to_pt
    taken: list[tuple[NDArray, NDArray]] = []  # middle and half size of the names so far
    for name, place in zip(ends.index, ends.to_numpy(), strict=True):
        at, half = ax.transData.transform(place) * to_pt, _half_size(name)
        costs: list[tuple[float, int, int, NDArray]] = []
        for reach in NEAR_TO_FAR:
            for angle in np.arange(0, 2 * np.pi, np.pi / 8):
                middle = at + np.array([np.cos(angle), np.sin(angle)]) * (reach + half)
                outside = (middle - half < frame[0]).any() or (middle + half > frame[1]).any()
                hidden = (np.abs(marks - middle) < half + 3).all(axis=1).sum()
                overlaps = sum((np.abs(middle - other) < half + size).all() for other, size in taken)
                costs.append((2 * hidden + 20 * (outside + overlaps) + 0.08 * reach, len(costs), reach, middle))
        *_, reach, middle = min(costs)
        taken.append((middle, half))
        dark = tuple(0.65 * part for part in to_rgb(colours[name]))
        look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": NAME_SIZE, "color": dark}
        if reach > NEAR_TO_FAR[0]:
            look["arrowprops"] = {"arrowstyle": "-", "color": dark, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
        ax.annotate(name, tuple(place), tuple(middle - at), textcoords="offset points", **look)


def _half_size(name: str) -> NDArray[np.float64]:
    """Half width and half height of a name in points."""
    return np.array([TextPath((0, 0), name, size=NAME_SIZE).get_extents().width, NAME_SIZE]) / 2 + 2
