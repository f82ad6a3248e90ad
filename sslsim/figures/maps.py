"""Maps of every layer against every other: heatmaps, as they are and above chance, and all as points of one plane.

Whoever draws a heatmap attaches its numbers to the axes; `sslsim.Report.figure` passes them on to the page, where a
reader can ask for those of a cell, by pointing at it or by keyboard.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from sslsim.encoders.lineage import Lineage
from sslsim.errors import SslsimError
from sslsim.figures.style import floor, kinds, listed, need, rows_of, styled, title
from sslsim.measures.registry import BEYOND_BASES
from sslsim.significance.nulls import ALPHA

_ATTRIBUTE = "sslsim_cells"
CROWDED = 40  # layers along an axis; where there are more, the name of a model says which it has
UPWARDS = 200  # points by which a name may be moved up, so that it stands on no other


@styled()
def heatmap(table: pd.DataFrame, measure: str, *, ax: Axes | None = None) -> Axes:
    """Draw every layer of every model against every other, models as labelled blocks.

    `table` comes from `sslsim.compare`. The colour scale, printed on its bar, is 0 to 1 whatever the values; that of a
    measure which falls below 0 starts at the quarter below its smallest value.
    """
    grid = matrix(table, measure)
    ax = _mesh(ax, grid, (floor(np.nanmin(grid.to_numpy())), 1.0), title(measure), "similarity")
    _tell(ax, rows_of(table, measure), "similarity")
    return ax


@styled()
def above_chance(
    table: pd.DataFrame, measure: str, *, ax: Axes | None = None, top_of: pd.DataFrame | None = None
) -> Axes:
    """Draw what of a `heatmap` is above chance, and strike through every cell that chance explains.

    The colours go from 0, or below, to a round number above 98 % of the cells of two models in `top_of`, by default
    in the table: little may be left, and is to be seen; the bar says where they end. A cell is struck through where
    mismatches explain its score, by a t test (p_t above 0.05). Measures that are near 0 where neurons are not shared
    are shown as they are. What was not computed is grey. `table` is the ``table()`` of an evidence: chance and p_t.
    """
    need(table, ["chance", "p_t"], "from sslsim.evidence, with permutations above 0")
    layers = table[["model_x", "layer_x", "model_y", "layer_y"]].drop_duplicates()
    rows, small = layers.merge(rows_of(table, measure), how="left"), measure in BEYOND_BASES
    above, explained = rows.value if small else rows.value - rows.chance, rows.p_t > ALPHA
    grid = _wide(rows.assign(value=above), "value")
    struck = _wide(rows.assign(struck=(above.notna() & explained).astype(float)), "struck").to_numpy() == 1
    top = _round_top(rows_of(table if top_of is None else top_of, measure), small)
    label = "share" if small else "similarity above chance"
    label += f", brightest from {top:g}\nstruck through: chance explains it (p > {ALPHA})"
    ax = _mesh(ax, grid, (0.0, top), title(measure), label, open_ends=True)
    # diagonals; those of neighbours join into hatching, which stays legible in a large grid
    y, x = np.nonzero(struck)
    ends = np.stack([np.stack([x, y + 1], axis=1), np.stack([x + 1, y], axis=1)], axis=1)
    look: dict[str, Any] = {"colors": np.where(grid.to_numpy()[y, x] > 0.6 * top, "black", "white").tolist()}
    look["linewidths"] = min(1.2, 40 / max(grid.shape))
    ax.add_collection(LineCollection(list(ends), **look, rasterized=True), autolim=False)
    _tell(ax, rows, "share" if small else "similarity", above=not small)
    return ax


def heatmaps(table: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Draw one `heatmap` a measure, two side by side."""
    return _tiled([(table, measure) for measure in listed(measures)], None)


def above_chance_maps(table: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Draw one `above_chance` a measure, in the places of `heatmaps`."""
    return _tiled([(table, measure) for measure in listed(measures)], table)


def pair_maps(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], measures: Sequence[str], *, above_chance: bool = False
) -> Figure:
    """Draw the layers of one model against those of another: a row of panels a measure, a column a pair of models.

    `pairs` are names (model_x, model_y), x along the rows of a panel. With `above_chance`, and the ``table()`` of an
    evidence, what is above chance is drawn in place of the similarity.
    """
    tables = [table[(table.model_x == x) & (table.model_y == y)] for x, y in pairs]
    panels = [(rows, measure) for measure in listed(measures) for rows in tables]
    return _tiled(panels, pd.concat(tables) if above_chance else None, len(pairs), (5.4, 4.4, 0.6))


def matrix(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Square frame of one measure: rows (model_x, layer_x), columns (model_y, layer_y), in the order of the table."""
    return _wide(rows_of(table, measure), "value")


@styled()
def _tiled(
    panels: list[tuple[pd.DataFrame, str]], above: pd.DataFrame | None, columns: int = 2, size: Any = (7.0, 6.0, 0.42)
) -> Figure:
    """Draw tables and measures row by row, in panels of a width, height (inches) and gap between them (of a width).

    With the rows of all tables, what is `above` chance is drawn, each measure on one scale.
    """
    columns, (width, height, gap) = min(columns, len(panels)), size
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    figure.subplots_adjust(wspace=gap, hspace=0.3)
    for ax, (table, measure) in zip(axes.flat, panels, strict=False):
        heatmap(table, measure, ax=ax) if above is None else above_chance(table, measure, ax=ax, top_of=above)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    return figure


def _mesh(
    ax: Axes | None, grid: pd.DataFrame, scale: tuple[float, float], title: str, label: str, open_ends: bool = False
) -> Axes:
    """Draw a grid of layers on a fixed scale with its colour bar; with open ends, arrows say that values lie beyond."""
    ax = ax or plt.subplots(figsize=(7.4, 6.4))[1]
    (low, high), values = scale, grid.to_numpy()
    step = 0.25 * np.ceil((high - low) / 1.5) if high - low >= 1 else (high - low) / 5
    slack = 0.01 * (high - low) if open_ends else np.inf  # what no eye sees
    beyond = bool((values < low - slack).any()), bool((values > high + slack).any())
    # not seaborn's heatmap: for every panel it draws the whole figure to see whether tick labels overlap
    cmap = plt.get_cmap("viridis").with_extremes(bad="0.88")
    mesh = ax.pcolormesh(np.ma.masked_invalid(values), vmin=low, vmax=high, cmap=cmap, rasterized=True)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    ticks = np.arange(high, low - 1e-9, -step)
    ax.figure.colorbar(mesh, ax=ax, label=label, shrink=0.8, ticks=ticks, extend=extend)
    ax.set_aspect("equal")
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    _label_blocks(ax, grid)
    ax.set_title(title, y=1.0)
    return ax


def _tell(ax: Axes, chosen: pd.DataFrame, name: str, above: bool = False) -> None:
    """Attach what the page says of each cell: score, interval, chance, and the p by which it is struck through."""
    grid, there = _wide(chosen, "value"), chosen.dropna(axis=1, how="all")
    wanted = {name: ["value"], "interval": ["ci_low", "ci_high"], "chance": ["chance"], "p by t test": ["p_t"]}
    wanted["p in random bases"] = ["p_rotation"]
    known = {said: of for said, of in wanted.items() if {*of} <= {*there}}
    numbers = {said: [_wide(there, name).to_numpy(np.float64) for name in of] for said, of in known.items()}
    rows, columns = ([f"{model} layer {layer}" for model, layer in index] for index in (grid.index, grid.columns))
    attach(ax, rows, columns, numbers, scale=[float(end) for end in ax.collections[0].get_clim()], above=above)


def _round_top(rows: pd.DataFrame, whole: bool) -> float:
    """Return a round number above 98 % of what two models have in common above chance, or as a whole."""
    above = (rows.value if whole else rows.value - rows.chance)[rows.model_x != rows.model_y]
    return next((end for end in (0.05, 0.1, 0.2, 0.5) if above.quantile(0.98) <= end), 1.0)


def _wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Square frame of one column, layers in the order of the rows on both sides."""
    x = pd.MultiIndex.from_frame(rows[["model_x", "layer_x"]]).unique()
    y = pd.MultiIndex.from_frame(rows[["model_y", "layer_y"]]).unique()
    wide = rows.pivot(index=["model_x", "layer_x"], columns=["model_y", "layer_y"], values=column)
    return wide.reindex(index=x, columns=x[x.isin(y)].append(y[~y.isin(x)]))


def _label_blocks(ax: Axes, grid: pd.DataFrame) -> None:
    """Layer numbers on both axes, lines between models, and model names beside their block."""
    for axis, index in ((ax.xaxis, grid.columns), (ax.yaxis, grid.index)):
        shown = np.arange(len(index) if len(index) <= CROWDED else 0)
        axis.set_ticks(shown + 0.5, [str(layer) for layer in index.get_level_values(1)[shown]])
    ax.tick_params(labelsize=8 if max(grid.shape) <= 30 else 7, length=0, pad=1, labelrotation=0)
    look: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 9}
    room = 2 if max(grid.shape) > CROWDED else 11  # points for the numbers
    for model, start, stop in _blocks(grid.columns):
        ax.axvline(start, color="white", linewidth=1.2 if start else 0)
        look |= {"xycoords": ax.get_xaxis_transform(), "xytext": (4, -room), "va": "top", "rotation": 40}
        ax.annotate(model, ((start + stop) / 2, 0), **look)
    for model, start, stop in _blocks(grid.index):
        ax.axhline(start, color="white", linewidth=1.2 if start else 0)
        look |= {"xycoords": ax.get_yaxis_transform(), "xytext": (-1 - room, 0), "va": "center", "rotation": 0}
        ax.annotate(model, (0, (start + stop) / 2), **look)
    ax.set(xlabel="", ylabel="")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_label_coords(0, 0)  # else every drawing looks for room beside the numbers


def _blocks(index: pd.Index) -> Iterator[tuple[str, int, int]]:
    """Name, with its layers where they are not numbered, first position and the one after the last of every model."""
    models = index.get_level_values(0)
    starts = [i for i in range(len(models)) if i == 0 or models[i] != models[i - 1]]
    for start, stop in zip(starts, [*starts[1:], len(models)], strict=True):
        crowded = len(index) > CROWDED and stop > start + 1
        yield models[start] + (f" {index[start][1]}-{index[stop - 1][1]}" if crowded else ""), start, stop


def attach(
    ax: Axes, rows: Sequence[str], columns: Sequence[str], numbers: Mapping[str, Sequence[np.ndarray]], **more: Any
) -> None:
    """Keep the numbers of a heatmap with the axes that it fills, from edge to edge, in a form that JSON can hold.

    `rows`, from the top, and `columns` say what each is. `numbers` are what is said of a cell: by name one array
    (n_rows, n_columns), or two, the ends of an interval; NaN where there is none. Kept in base64 of little-endian f4.
    `more` are the ends of the ``scale`` of colours, and whether what is drawn is ``above`` chance.
    """
    packed = []
    for name, arrays in numbers.items():
        parts = [base64.b64encode(array.astype("<f4").tobytes()).decode() for array in arrays]
        packed.append({"name": name, "parts": parts})
    setattr(ax, _ATTRIBUTE, {"rows": list(rows), "columns": list(columns), "numbers": packed, **more})


def panels(figure: Figure, bounds: Bbox) -> list[dict[str, Any]]:
    """Return the heatmaps of a drawn figure: title, box, and rows, columns and numbers as `attach` keeps them.

    A box is left, top, width and height as shares of the picture, whose `bounds` are in inches.
    """
    found = []
    for ax in figure.axes:
        if not hasattr(ax, _ATTRIBUTE):
            continue
        box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        left, top = (box.x0 - bounds.x0) / bounds.width, (bounds.y1 - box.y1) / bounds.height
        shares = [left, top, box.width / bounds.width, box.height / bounds.height]
        title = ax.get_title(loc="left") or ax.get_title()
        found.append({"title": title, "box": [round(float(share), 5) for share in shares], **getattr(ax, _ATTRIBUTE)})
    return found


@styled()
def layer_map(table: pd.DataFrame, measure: str, lineage: Lineage | None = None) -> Figure:
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
    of, named = kinds(models, lineage)
    if lineage is None:
        named |= {model: ("0.6", named[model][1]) for model in models if model not in trained}
    figure, ax = plt.subplots(figsize=(8.4, 6.4), layout="constrained")
    for model in models:
        colour, marker = named[of[model]]
        path = points[points.model == model]
        ax.plot(path.x, path.y, marker=marker, color=colour, label=of[model], markersize=4, linewidth=1.0, alpha=0.9)
        ax.plot(path.x[:1], path.y[:1], marker, color=colour, markerfacecolor="white", markersize=6)
        if len(path) > 1:
            ax.plot(path.x[-1:], path.y[-1:], marker, color=colour, markersize=8)
        if model in trained:
            end = (path.x.iloc[-1], path.y.iloc[-1])
            ax.annotate(model, end, xytext=(6, 3), textcoords="offset points", fontsize=7, color=colour)
    ax.set_aspect("equal", adjustable="datalim")
    lines = {line.get_label(): line for line in ax.lines}
    figure.legend([lines[kind] for kind in named], list(named), loc="outside right center")
    held = f"{100 * share:.0f} % of squared distance in this plane; hollow: first layer, large: last"
    ax.set(xlabel="first axis", ylabel="second axis", title=f"{title(measure)}\n{held}")
    figure.draw_without_rendering()  # names have no size before
    _part([child for child in ax.get_children() if isinstance(child, Annotation)])
    return figure


def _part(names: Sequence[Annotation]) -> None:
    """Move each name up, a point at a time, until it stands on none before it."""
    for i, name in enumerate(names):
        for _ in range(UPWARDS):
            if not any(name.get_window_extent().overlaps(other.get_window_extent()) for other in names[:i]):
                break
            name.xyann = (name.xyann[0], name.xyann[1] + 1)


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
        lack = f"the table lacks the similarity of {x} layer {i} and {y} layer {j}{more}"
        how = "a map needs every pair of layers in both directions: compare all models or leave some out"
        raise SslsimError(f"{lack}; {how}")
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
