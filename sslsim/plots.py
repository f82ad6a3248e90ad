"""Figures from tidy tables: every function takes a table and an ``ax`` (or makes one) and returns what it drew on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sslsim.errors import SslsimError, close_match
from sslsim.tables import RELATIONS

NAMES = {
    "max_corr": "max_corr: best single neuron",
    "matched_corr": "matched_corr: one-to-one neurons",
    "soft_matched_corr": "soft_matched_corr: shared partners",
    "linreg": "linreg: all neurons, in-sample R",
    "linreg_r2": "linreg_r2: all neurons, in-sample R2",
    "linreg_heldout": "linreg_heldout: R2 on other utterances",
    "cca": "cca: mean canonical correlation",
    "svcca": "svcca: 99 % of variance",
    "svcca_below": "svcca: below 99 %, as published",
    "pwcca": "pwcca: projection-weighted",
    "linear_cka_biased": "linear CKA, biased",
    "linear_cka_dropped": "linear CKA, raw, 3 largest neurons dropped",
    "linear_cka_debiased": "linear CKA, debiased",
    "between_utterance_cka": "between-utterance CKA",
    "procrustes": "procrustes: after best rotation",
    "mutual_knn": "mutual_knn: shared neighbours",
    "rbf_cka": "RBF CKA",
    "pearson": "pearson: rows of attention",
    "js": "js: 1 - Jensen-Shannon",
    "frobenius": "frobenius, bounded",
    "frobenius_published": "frobenius, as published",
    "attention_cka": "attention_cka: all heads together",
}
SCALE_FREE = {
    "max_corr",
    "matched_corr",
    "soft_matched_corr",
    "linreg",
    "linreg_r2",
    "linreg_heldout",
    "cca",
    "linear_cka_dropped",
    "pearson",
    "js",
    "frobenius",
    "frobenius_published",
    "attention_cka",
}
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.dpi": 110,
}
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p"]
COLOURS = [*sns.color_palette("colorblind", 10), "black", "0.6"]  # one more than markers: no pair comes twice soon
CROWDED = 40  # layers along an axis from which only the first and middle of each model are numbered


def heatmap(
    table: pd.DataFrame,
    measure: str,
    *,
    standardize: bool = True,
    vmin: float | None = None,
    vmax: float = 1.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw every layer of every model against every other, models as labelled blocks.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.compare`.
    measure : str
        Which of its measures.
    standardize : bool
        Which scaling, where the table has both.
    vmin, vmax : float
        Ends of the colour scale. 0 to 1 by default; a measure that falls below 0 starts at the quarter below its
        smallest value. The scale is printed on the colour bar.
    ax : Axes, optional
        Where to draw.
    """
    grid = matrix(table, measure, standardize=standardize)
    with plt.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(7.4, 6.4))[1]
        low = _floor(np.nanmin(grid.to_numpy())) if vmin is None else vmin
        step = 0.25 * np.ceil((vmax - low) / 1.5)
        # not seaborn's heatmap: for every panel it draws the whole figure to see whether tick labels overlap
        mesh = ax.pcolormesh(grid.to_numpy(), vmin=low, vmax=vmax, cmap="viridis", rasterized=True)
        ax.figure.colorbar(mesh, ax=ax, label="similarity", shrink=0.8, ticks=np.arange(vmax, low - 1e-9, -step))
        ax.set_aspect("equal")
        ax.invert_yaxis()
        ax.spines[:].set_visible(False)
        _label_blocks(ax, grid)
        ax.set_title(_title(measure, standardize))
    return ax


def heatmaps(
    table: pd.DataFrame, measures: Sequence[str], *, standardize: bool | Sequence[bool] = True, columns: int = 2
) -> Figure:
    """Draw one `heatmap` a measure (and scaling, where it matters) side by side.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.compare`.
    measures : sequence of str
        Which measures, in this order.
    standardize : bool or sequence of bool
        Scalings to show; a measure that does not depend on scale is shown once.
    columns : int
        Panels in a row.
    """
    scalings = [standardize] if isinstance(standardize, bool) else list(standardize)
    panels = [(m, s) for m in measures for s in (scalings[:1] if m in SCALE_FREE else scalings)]
    if not panels:
        raise SslsimError("no measure to draw; give a list of at least one")
    rows = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(6.8 * columns, 6.0 * rows), squeeze=False)
        figure.subplots_adjust(hspace=0.25, wspace=0.3)
    for ax, (measure, scaled) in zip(axes.flat, panels, strict=False):
        heatmap(table, measure, standardize=scaled, ax=ax)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    return figure


def pair_heatmaps(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], measures: Sequence[str], *, standardize: bool = True
) -> Figure:
    """Draw the layers of one model (rows) against those of another (columns): a panel a measure and pair of models.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.compare`.
    pairs : sequence of (model_x, model_y)
        Names of the checkpoints of each column of panels.
    measures : sequence of str
        Measure of each row of panels.
    standardize : bool
        Which scaling, where the table has both.
    """
    with plt.rc_context(STYLE):
        size = (5.4 * len(pairs), 4.4 * len(measures))
        figure, axes = plt.subplots(len(measures), len(pairs), figsize=size, squeeze=False)
        figure.subplots_adjust(wspace=0.6, hspace=0.35)
    for row, measure in zip(axes, measures, strict=True):
        for ax, (model_x, model_y) in zip(row, pairs, strict=True):
            panel = table[(table.model_x == model_x) & (table.model_y == model_y)]
            heatmap(panel, measure, standardize=standardize, ax=ax)
    return figure


def matrix(table: pd.DataFrame, measure: str, *, standardize: bool = True) -> pd.DataFrame:
    """Square frame of one measure: rows (model_x, layer_x), columns (model_y, layer_y), in the order of the table."""
    chosen = _chosen(table, measure, standardize)
    x = pd.MultiIndex.from_frame(chosen[["model_x", "layer_x"]]).unique()
    y = pd.MultiIndex.from_frame(chosen[["model_y", "layer_y"]]).unique()
    wide = chosen.pivot(index=["model_x", "layer_x"], columns=["model_y", "layer_y"], values="value")
    return wide.reindex(index=x, columns=y)


def readings(
    table: pd.DataFrame, measure: str, *, standardize: bool = True, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw similarity by layer: a panel a relation, from layers of the same model to untrained ones.

    Solid: mean over the layers compared with; dashed: the best of them.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.readings.within_and_across`.
    measure : str
        Which measure.
    standardize : bool
        Which scaling, where the table has both.
    axes : sequence of Axes, optional
        Where to draw, one a relation of the table, in the order of `sslsim.tables.RELATIONS`.
    """
    chosen = _chosen(table, measure, standardize)
    relations = [relation for relation in RELATIONS if relation in set(chosen.relation)]
    models = list(dict.fromkeys(chosen.model))
    with plt.rc_context(STYLE):
        figure = None
        if axes is None:
            figure, axes = _panels(len(relations), 3, (3.3, 2.9), sharex=True, sharey=True)
        if len(axes) != len(relations):
            raise SslsimError(f"{len(axes)} axes for {len(relations)} relations: {', '.join(relations)}")
        for ax, relation in zip(axes, relations, strict=True):
            rows = chosen[chosen.relation == relation]
            _lines(ax, rows, "mean", models)
            _lines(ax, rows, "best", models, linestyle="--", linewidth=0.8, markersize=0)
            ax.set(xlabel="layer", ylabel="similarity", title=relation)
            ax.label_outer()
        _fit_unit(axes, chosen[["mean", "best"]].min().min())
        handles, labels = axes[0].get_legend_handles_labels()
        title = f"{_title(measure, standardize)}; solid mean, dashed best"
        place: dict[str, Any] = {"loc": "outside upper center", "ncols": min(5, len(models))} if figure else {}
        (figure or axes[-1]).legend(handles, labels, title=title, **place)
    return axes


def best_matches(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of every neuron's or head's best match in other checkpoints, by relation.

    Shapes hold the neurons of all models; marks are the medians of each model.

    Parameters
    ----------
    table : DataFrame
        Best partners with the column of `sslsim.readings.relate`: model_x, relation, value (of neurons its size).
    ax : Axes, optional
        Where to draw.
    """
    if table.empty:
        raise SslsimError(
            "no best matches to draw; compare at least two checkpoints, by a measure of neurons or of heads"
        )
    sizes = table.assign(value=table.value.abs()) if "neuron_x" in table else table
    order = [relation for relation in RELATIONS if relation in set(sizes.relation)]
    medians = sizes.groupby(["model_x", "relation"], sort=False).value.median().reset_index()
    with plt.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(8.6, 3.6), layout="constrained")[1]
        look = {"cut": 0, "inner": "quart", "density_norm": "width", "linewidth": 0.8, "color": "0.85"}
        sns.violinplot(sizes, x="relation", y="value", order=order, ax=ax, **look)
        models = list(dict.fromkeys(medians.model_x))
        for model, (colour, marker) in _looks(models).items():
            rows = medians[medians.model_x == model]
            places = [
                order.index(r) + 0.5 * (models.index(model) + 1) / (len(models) + 1) - 0.25 for r in rows.relation
            ]
            ax.plot(places, rows.value, marker, color=colour, markersize=5, label=model)
        ax.set(xlabel="best match found in a model that is ...", ylabel="best match")
        _fit_unit([ax], sizes.value.min())
        ax.legend(title="median of a model", loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def finetuning(table: pd.DataFrame, measures: Sequence[str], *, standardize: bool = True, columns: int = 3) -> Figure:
    """Draw, by layer, how much of a pretrained model is left after finetuning, beside its yardsticks.

    Solid: the finetuned model; dashed: another seed of the pretrained one; dotted: models of another family.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.readings.finetuning`.
    measures : sequence of str
        One panel each.
    standardize : bool
        Scaling of the measures that depend on it.
    columns : int
        Panels in a row.
    """
    if not measures:
        raise SslsimError("no measure to draw; give a list of at least one")
    table = table.assign(model=table.pretrained + " to " + table.finetuned)
    models = list(dict.fromkeys(table.model))
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), columns, (3.6, 3.1), sharex=True)
        for ax, measure in zip(axes, measures, strict=True):
            chosen = _chosen(table, measure, standardize)
            _lines(ax, chosen, "value", models)
            _lines(ax, chosen, "other_seed", models, linestyle="--", linewidth=1.0, markersize=2)
            _lines(ax, chosen, "other_family", models, linestyle=":", linewidth=1.2, markersize=2)
            ax.set(xlabel="layer", ylabel="similarity", title=_title(measure, standardize))
            _fit_unit([ax], chosen[["value", "other_seed", "other_family"]].min().min())
        handles, labels = axes[0].get_legend_handles_labels()
        title = "solid: same layer after finetuning; dashed: another seed; dotted: other family, same depth"
        figure.legend(handles, labels, title=title, loc="outside upper center", ncols=2)
    return figure


def _panels(count: int, columns: int, size: tuple[float, float], **sharing: Any) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels of one size and return it with its axes, row by row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    inches = (size[0] * columns, size[1] * rows + 1.0)
    figure, axes = plt.subplots(rows, columns, figsize=inches, layout="constrained", squeeze=False, **sharing)
    for ax in axes.flat[count:]:
        ax.remove()
    for ax in axes.flat[max(0, count - columns) : count]:
        ax.xaxis.set_tick_params(labelbottom=True)  # also above a place that stayed empty
    return figure, list(axes.flat[:count])


def _looks(models: Sequence[str]) -> dict[str, tuple[Any, str]]:
    """Colour and marker of every model, by its place in the list."""
    return {m: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, m in enumerate(models)}


def _lines(ax: Axes, table: pd.DataFrame, column: str, models: Sequence[str], **style: Any) -> None:
    """One line a model over layers."""
    for model, (colour, marker) in _looks(models).items():
        rows = table[table.model == model].sort_values("layer")
        label = model if column in ("mean", "value") else None
        ax.plot(rows.layer, rows[column], color=colour, marker=marker, label=label, **{"markersize": 4, **style})
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fit_unit(axes: Sequence[Axes], smallest: float) -> None:
    """Fix the similarity axis to 0..1, or from the quarter below the smallest value."""
    for ax in axes:
        ax.set_ylim(_floor(smallest), 1.02)


def _floor(smallest: float) -> float:
    """Return 0, or the quarter below the smallest value where that is negative."""
    return min(0.0, float(np.floor(4 * smallest + 1e-6)) / 4)


def _label_blocks(ax: Axes, grid: pd.DataFrame) -> None:
    """Layer numbers on both axes, lines between models, and model names beside their block."""
    for axis, index in ((ax.xaxis, grid.columns), (ax.yaxis, grid.index)):
        shown = list(range(len(index)))
        if len(index) > CROWDED:
            shown = sorted({place for _, start, stop in _blocks(index) for place in (start, (start + stop) // 2)})
        axis.set_ticks(np.array(shown) + 0.5, [str(layer) for layer in index.get_level_values(1)[shown]])
    ax.tick_params(labelsize=min(8.0, 240 / min(CROWDED, max(grid.shape))), length=0, pad=1, labelrotation=0)
    for model, start, stop in _blocks(grid.columns):
        ax.axvline(start, color="white", linewidth=1.2 if start else 0)
        place: dict[str, Any] = {
            "xy": ((start + stop) / 2, 0),
            "xycoords": ax.get_xaxis_transform(),
            "xytext": (4, -11),
        }
        ax.annotate(model, **place, textcoords="offset points", rotation=30, ha="right", va="top", fontsize=8)
    for model, start, stop in _blocks(grid.index):
        ax.axhline(start, color="white", linewidth=1.2 if start else 0)
        place = {"xy": (0, (start + stop) / 2), "xycoords": ax.get_yaxis_transform(), "xytext": (-12, 0)}
        ax.annotate(model, **place, textcoords="offset points", ha="right", va="center", fontsize=8)
    ax.set(xlabel="", ylabel="")


def _blocks(index: pd.Index) -> Iterator[tuple[str, int, int]]:
    """Name, first position and position after the last of every model along an axis."""
    models = index.get_level_values(0)
    starts = [i for i in range(len(models)) if i == 0 or models[i] != models[i - 1]]
    return zip(models[starts], starts, [*starts[1:], len(models)], strict=True)


def _scaling(standardize: bool) -> str:
    return "standardised" if standardize else "raw"


def _title(measure: str, standardize: bool) -> str:
    """Name of the measure, with the scaling where it makes a difference."""
    return NAMES.get(measure, measure) + ("" if measure in SCALE_FREE else f" ({_scaling(standardize)})")


def _chosen(table: pd.DataFrame, measure: str, standardize: bool) -> pd.DataFrame:
    """Rows of one measure; a measure that does not depend on scale is found under either scaling."""
    rows = table[(table.measure == measure) & (table.standardize == (standardize or measure in SCALE_FREE))]
    if rows.empty:
        known = sorted({f"{m} ({_scaling(s)})" for m, s in zip(table.measure, table.standardize, strict=True)})
        wanted = f"{measure} ({_scaling(standardize)})"
        raise SslsimError(f"the table has no rows of {wanted}{close_match(wanted, known)}")
    return rows
