"""Lines over layers, depth or frames, a panel a measure or relation, and distributions of best matches."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from sslsim.encoders.lineage import Lineage
from sslsim.errors import SslsimError
from sslsim.figures import style
from sslsim.figures.style import COLOURED, Look, kinds, listed, looks, need, relations_of, rows_of, styled, unit_limits
from sslsim.measures.registry import BEYOND_BASES

COLUMNS = 3  # panels in a row
SIZE, ALONE = (3.6, 3.0), (6.0, 3.6)  # inches of a panel, and of one that is the only one
TITLE_WIDTH = 40  # letters that fit above a panel
DEPTH = "relative depth"
SHAPE: dict[str, Any] = {"cut": 0, "inner": "quart", "density_norm": "width", "linewidth": 0.8}  # of all violins
NOTHING = "no best matches to draw; compare at least two checkpoints, by a measure of neurons or of heads"


@styled()
def layer_lines(by_relation: pd.DataFrame, measure: str, lineage: Lineage | None = None) -> Figure:
    """Draw similarity by layer, the mean over the layers compared with: a panel a relation, a line a model.

    With a lineage models of one family and size are one line, their mean. `by_relation` comes from
    `sslsim.analysis.similarity_by_relation`.
    """
    rows = rows_of(by_relation, measure)
    of, named = kinds(rows.model, lineage)
    rows = rows.assign(kind=rows.model.map(of))
    grid = _panels(rows, "relation", relations_of(rows), "kind", "layer", named, sharey=True)
    grid.map(_mean, "layer", "mean", markersize=4)
    grid.set(ylim=unit_limits(rows[["mean"]]))
    return _finished(grid, "layer", "similarity", f"{style.title(measure)}, mean over the layers compared with")


@styled()
def finetuning_lines(by_layer: pd.DataFrame, measures: Sequence[str], lineage: Lineage | None = None) -> Figure:
    """Draw, by layer, how much of a pretrained model is left after finetuning: a panel a measure, a line a model.

    `by_layer` comes from `sslsim.analysis.finetuning_by_layer`; what dashes and dots are is in the legend.
    """
    rows = rows_of(by_layer, measures).assign(model=lambda t: t.pretrained + " to " + t.finetuned)
    grid = _panels(rows, "measure", listed(measures), "model", "layer", _by_kind(rows, "finetuned", "model", lineage))
    grid.map(plt.plot, "layer", "other_seed", linestyle="--", linewidth=1.0, markersize=2)
    grid.map(plt.plot, "layer", "other_family", linestyle=":", linewidth=1.2, markersize=2)
    grid.map(plt.plot, "layer", "value", markersize=4)
    for measure, ax in grid.axes_dict.items():
        ax.set_ylim(unit_limits(rows_of(rows, measure)[["value", "other_seed", "other_family"]]))
    legend = "solid: same layer after finetuning; dashed: another seed; dotted: other family, same depth"
    return _finished(grid, "layer", "similarity", legend)


@styled()
def along_depth(deep: pd.DataFrame, measures: str | Sequence[str]) -> Figure:
    """Draw similarity at equal relative depth: a panel a measure, a line a relation with its interval, chance dotted.

    The axis is fixed, but for measures near 0 where neurons are not shared. `deep`: `sslsim.analysis.along_depth`.
    """
    need(deep, ["relation", "depth", "value", "ci_low", "ci_high", "chance"], "from sslsim.analysis.along_depth")
    rows = rows_of(deep, measures)
    named = {relation: style.RELATION_LOOKS[relation] for relation in relations_of(rows)}
    grid = _panels(rows, "measure", listed(measures), "relation", "depth", named)
    grid.map(_band, "depth", "ci_low", "ci_high")
    grid.map(plt.plot, "depth", "chance", linestyle=":", linewidth=1.0, markersize=0)
    grid.map(plt.plot, "depth", "value", markersize=4)
    figure = _finished(grid, DEPTH, "similarity", "band: 95 % interval; dotted: chance")
    for measure, ax in grid.axes_dict.items():
        ax.set_xlim(-0.03, 1.03)
        if measure in BEYOND_BASES:  # chance is near 0, and values are small
            ax.axhline(0, color="0.7", linewidth=1.0, zorder=0)
            ax.set_ylabel("share")
        else:
            ax.set_ylim(unit_limits(rows_of(rows, measure)[["value", "chance"]]))
    return figure


@styled()
def interval_lines(rows: pd.DataFrame, panel: str, line: str, x: str, y: str, lineage: Lineage | None = None) -> Figure:
    """Draw values along `x`, each with its interval, chance dotted: a panel a value of a column, a line of another.

    `rows` have the columns named, and value, ci_low, ci_high, chance: tables of `sslsim.analysis.contents`. With a
    lineage lines are models, those of one family and size with one look, finetuned ones dashed. `y` is what values are.
    """
    need(rows, [panel, line, x, "value", "ci_low", "ci_high", "chance"], "from sslsim.analysis.contents")
    if rows.empty:
        raise SslsimError("no values to draw; the table is empty")
    of, named = kinds(rows[line], lineage) if lineage else ({name: name for name in rows[line]}, looks(rows[line]))
    rows = rows.assign(look=rows[line].map(of))
    dashed = {each.name for each in lineage.checkpoints if each.finetuned_from} if lineage else set()

    def drawn(*_: Any, data: pd.DataFrame, color: Any, marker: str, label: str) -> None:
        for number, (model, one) in enumerate(data.groupby(line, sort=False)):
            _band(one[x], one.ci_low, one.ci_high, color=color)
            plt.plot(one[x], one.chance, ":", color=color, linewidth=1.0)
            how: dict[str, Any] = {"linestyle": "--" if model in dashed else "-", "label": None if number else label}
            plt.plot(one[x], one.value, marker=marker, color=color, markersize=4, linewidth=1.2, **how)

    grid = _panels(rows, panel, list(dict.fromkeys(rows[panel])), "look", x, named)
    grid.map_dataframe(drawn)
    for name, ax in grid.axes_dict.items():
        ax.set_title(fill(str(name), TITLE_WIDTH))
    legend = "band: 95 % interval; dotted: chance" + "; dashed: finetuned" * bool(dashed)
    return _finished(grid, DEPTH if x == "depth" else x, y, legend)


@styled()
def best_matching_layers(best_depths: pd.DataFrame, lineage: Lineage | None = None) -> Figure:
    """Draw how deep in other models the best-matching layer is: a panel a relation, a line a model, grey: as deep.

    With a lineage, models of one family and size are one line. Lines are means of the rows of
    `sslsim.analysis.best_depths`, small marks each of them.
    """
    need(best_depths, ["relation", "model", "depth", "best_depth"], "from sslsim.analysis.best_depths")
    of, named = kinds(best_depths.model, lineage)
    best_depths = best_depths.assign(kind=best_depths.model.map(of))
    grid = _panels(best_depths, "relation", relations_of(best_depths), "kind", "depth", named, sharey=True)
    for ax in grid.axes.flat:
        ax.plot([0, 1], [0, 1], color="0.8", linewidth=4, zorder=0, solid_capstyle="butt")
    grid.map(plt.plot, "depth", "best_depth", linestyle="", markersize=2, alpha=0.5)
    grid.map(_mean, "depth", "best_depth", markersize=4, linewidth=1.2)
    grid.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    return _finished(grid, DEPTH, "relative depth of its best match", "mean; small marks: each; grey: equal depth")


@styled()
def distance_moved(moved: pd.DataFrame, lineage: Lineage | None = None) -> Figure:
    """Draw how far finetuning moved each layer: a panel a measure, a line a finetuned model with its interval.

    The unit, a dashed line, is the distance between two seeds. `moved` comes from `sslsim.analysis.distance_moved`.
    """
    columns = ["finetuned", "measure", "depth", "distance", "ci_low", "ci_high"]
    need(moved, columns, "from sslsim.analysis.distance_moved")
    if moved.empty:
        raise SslsimError("no measures to draw; the table is empty")
    named = _by_kind(moved, "finetuned", "finetuned", lineage)
    grid = _panels(moved, "measure", listed(list(moved.measure)), "finetuned", "depth", named, sharey=True)
    grid.map(_band, "depth", "ci_low", "ci_high")
    grid.map(plt.plot, "depth", "distance", markersize=4)
    for ax in grid.axes.flat:
        ax.axhline(1, color="0.4", linewidth=1.0, linestyle="--", zorder=0, label="another seed")
        ax.set(xlim=(-0.03, 1.03), ylim=(0, max(1.2, 1.1 * moved.distance.max())))
    legend = "distance after finetuning, in units of the distance between two seeds; band: 95 % interval"
    return _finished(grid, DEPTH, "distance from pretrained", legend)


@styled()
def convergence(settled: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Draw scores and their chance levels against the number of frames: a panel a measure, a line a pair of models.

    `settled` comes from `sslsim.analysis.convergence`; a vertical line stands where there are ten frames a neuron.
    """
    need(settled, ["pair", "n_frames", "value", "chance", "enough"], "from sslsim.analysis.convergence")
    rows = rows_of(settled, measures)
    grid = _panels(rows, "measure", listed(measures), "pair", "n_frames", looks(rows.pair))
    grid.map(plt.plot, "n_frames", "chance", linestyle=":", linewidth=1.2, markersize=0)
    grid.map(plt.plot, "n_frames", "value", markersize=4)
    for measure, ax in grid.axes_dict.items():
        chosen = rows_of(rows, measure)
        for enough in sorted(set(chosen.enough.dropna())):
            ax.axvline(enough, color="0.7", linewidth=1.0, zorder=0)
        ax.set(xscale="log", ylim=unit_limits(chosen[["value", "chance"]]))
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_formatter("")
    legend = "solid: similarity; dotted: chance; grey: ten frames a neuron of both"
    return _finished(grid, "frames", "similarity", legend)


class _Grid(sns.FacetGrid):
    def tight_layout(self, *_: Any, **__: Any) -> None:
        """Leave it to `_finished`: each would draw the whole figure, to no effect."""


def _by_kind(rows: pd.DataFrame, model: str, line: str, lineage: Lineage | None) -> dict[str, Look]:
    """Return the look of each line: that of the kind of its model, or where models share a kind, one of its own."""
    of, named = kinds(rows[model], lineage)
    lines = dict(zip(rows[line], rows[model].map(of), strict=True))
    return {name: named[kind] for name, kind in lines.items()} if len(named) == len(lines) else looks(lines)


def _panels(
    rows: pd.DataFrame, col: str, order: Sequence[str], hue: str, x: str, named: dict[str, Look], sharey: bool = False
) -> sns.FacetGrid:
    """Make a grid: a panel each value of one column, a line with the colour and marker `named` each of another."""
    colours, markers = (list(look) for look in zip(*named.values(), strict=True))
    width, height = SIZE if len(order) > 1 else ALONE
    of_panels = {"col": col, "col_order": order, "col_wrap": min(COLUMNS, len(order)), "sharey": sharey}
    of_lines = {"hue": hue, "hue_order": list(named), "palette": colours, "hue_kws": {"marker": markers}}
    rows = rows.sort_values(x, kind="stable")
    grid = _Grid(rows, **of_panels, **of_lines, height=height, aspect=width / height).set_titles("{col_name}")
    for name, ax in grid.axes_dict.items() if col == "measure" else ():
        ax.set_title(style.title(name, TITLE_WIDTH))
    return grid


def _band(x: pd.Series, low: pd.Series, high: pd.Series, *, color: Any, **_: Any) -> None:
    plt.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _mean(x: pd.Series, y: pd.Series, **look: Any) -> None:
    means = y.groupby(x).mean()
    plt.plot(means.index, means, **look)


def _finished(grid: sns.FacetGrid, x: str, y: str, legend: str) -> Figure:
    """Label the axes and put one legend of what is in any of them above the figure."""
    grid.set_axis_labels(x, y)
    if x == "layer":
        for ax in grid.axes.flat:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    shown = {h.get_label(): h for ax in grid.axes.flat for h in ax.get_legend_handles_labels()[0]}
    names = [name for name in dict.fromkeys([*grid.hue_names, *shown]) if name in shown]
    width, height = grid.figure.get_size_inches()
    columns = max(1, min(5, len(names), int(width / (0.4 + 0.075 * max(map(len, names))))))
    grid.figure.set_size_inches(width, height + 0.3 + 0.17 * -(-len(names) // columns))
    grid.figure.set_layout_engine("constrained")
    grid.figure.legend([shown[n] for n in names], names, title=legend, loc="outside upper center", ncols=columns)
    return grid.figure


@styled()
def best_matches(table: pd.DataFrame, lineage: Lineage | None = None) -> Figure:
    """Draw the distribution of every neuron's or head's best match in other checkpoints, by relation.

    Shapes hold the neurons of all models; marks are the medians of each model. `table` has the best partners of
    `sslsim.neuron_partners` or `sslsim.compare_attention`: model_x, relation, value (of neurons its size is drawn).
    """
    if table.empty:
        raise SslsimError(NOTHING)
    sizes = table.assign(value=table.value.abs()) if "neuron_x" in table else table
    order = relations_of(sizes)
    medians = sizes.groupby(["model_x", "relation"], sort=False).value.median().reset_index()
    of, named = kinds(medians.model_x, lineage)
    figure, ax = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
    sns.violinplot(sizes, x="relation", y="value", order=order, ax=ax, color="0.85", **SHAPE)
    for i, (kind, (colour, marker)) in enumerate(named.items()):
        rows = medians[medians.model_x.map(of) == kind]
        places = rows.relation.map(order.index) + 0.5 * (i + 1) / (len(named) + 1) - 0.25
        ax.plot(places, rows.value, marker, color=colour, markersize=5, label=kind)
    ax.set(xlabel="best match found in a model that is ...", ylabel="best match", ylim=unit_limits(sizes[["value"]]))
    ax.legend(title="median of a model", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


@styled()
def partners_against_null(partners: pd.DataFrame) -> Figure:
    """Draw every neuron's best match in other checkpoints beside what the same neurons find by chance, by relation.

    Three shapes a relation, each with its quartiles: the sizes of the best correlations; those in random bases of the
    other checkpoint, which is what sharing a subspace brings about; those on mismatched utterances. `partners` are
    those of `sslsim.evidence`: relation, value, rotated, chance.
    """
    if partners.empty:
        raise SslsimError(NOTHING)
    need(partners, ["relation", "value", "rotated", "chance"], "from sslsim.evidence, of max_corr")
    kinds = {"best match": partners.value.abs(), "in random bases": partners.rotated}
    kinds["on mismatched utterances"] = partners.chance
    sizes = pd.concat([pd.DataFrame({"relation": partners.relation, "size": v, "kind": k}) for k, v in kinds.items()])
    palette = dict(zip(kinds, [COLOURED[4], "0.6", "0.85"], strict=True))  # controls are grey, as baselines are
    look = {"order": relations_of(partners), "hue": "kind", "palette": palette, "gap": 0.1}
    figure, ax = plt.subplots(figsize=(8.6, 3.8), layout="constrained")
    sns.violinplot(sizes.dropna(), x="relation", y="size", ax=ax, **look, **SHAPE)
    ax.set(xlabel="best match sought in a model that is ...", ylabel="absolute correlation", ylim=(0, 1.02))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds))
    return figure
