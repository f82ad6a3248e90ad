"""Figures from tidy tables: every function takes a table and an ``ax`` (or makes one) and returns what it drew on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from sslsim.comparison.tables import RELATIONS
from sslsim.errors import SslsimError, close_match
from sslsim.figures.readout import Cells, attach

EXCESSES = {  # over random bases: chance is near 0
    "neurons_shared": "neurons_shared: partners of their own",
    "max_corr_excess_x": "max_corr_excess_x: best neuron, beyond bases of x",
    "max_corr_excess_y": "max_corr_excess_y: best neuron, beyond bases of y",
    "matched_corr_excess_x": "matched_corr_excess_x: one-to-one, beyond bases of x",
    "matched_corr_excess_y": "matched_corr_excess_y: one-to-one, beyond bases of y",
}
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
    **EXCESSES,
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
    *EXCESSES,
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
COLOURED = [c for i, c in enumerate(COLOURS) if i not in (7, 11)]  # without the greys
_PALETTE = dict(zip(RELATIONS, [9, 1, 2, 0, 3, 5, 4, 7], strict=True))
# of a relation, whichever others are drawn; "same model" and baselines least like the rest
RELATION_LOOKS = {relation: (COLOURS[c], MARKERS[i]) for i, (relation, c) in enumerate(_PALETTE.items())}
ALPHA = 0.05  # what chance may explain
DEPTH = "relative depth"
NAME_SIZE = 8.0  # points
NEAR_TO_FAR = (7, 16, 28, 42, 60, 85, 115, 150)  # points from a mark to its name
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
    low = _floor(np.nanmin(grid.to_numpy())) if vmin is None else vmin
    with plt.rc_context(STYLE):
        ax = _mesh(ax, grid, (low, vmax), _title(measure, standardize), "similarity")
    _tell(ax, _chosen(table, measure, standardize), "similarity")
    return ax


def above_chance(table: pd.DataFrame, measure: str, *, standardize: bool = True, ax: Axes | None = None) -> Axes:
    """Draw what of a `heatmap` is above chance, and strike through every cell that chance explains.

    The colours are those of `heatmap` for similarity less chance, from 0 to 1; what is below chance has the colour of
    0. A cell is struck through unless its value is above its threshold. A measure that is an excess over random bases
    (`EXCESSES`) is shown as it is, on a scale that ends above 95 % of the cells of two models; its cells are struck
    through unless p and p_rotation are 0.05 at most (of matched_corr p_rotation alone, whose p is not computed). Pairs
    that were not computed are grey.

    Parameters
    ----------
    table : DataFrame
        From the ``table()`` of `sslsim.evidence`, with its columns chance and threshold; of an excess p and p_rotation.
    measure : str
        Which of its measures.
    standardize : bool
        Which scaling, where the table has both.
    ax : Axes, optional
        Where to draw.
    """
    excess = measure in EXCESSES
    _need(table, ["p", "p_rotation"] if excess else ["chance", "threshold"], "from sslsim.evidence, draws above 0")
    chosen = _chosen(table, measure, standardize)
    if excess:
        above, holds = chosen.value, chosen[["p", "p_rotation"]].max(axis=1) <= ALPHA
        against = "them or chance" if chosen.p.notna().any() else "them"
        label = f"excess over random bases\nstruck through: p > {ALPHA} against {against}"
    else:
        above, holds = chosen.value - chosen.chance, chosen.value > chosen.threshold
        label = f"similarity above chance\nstruck through: chance explains it (p > {ALPHA})"
    grid = _wide(chosen.assign(value=above), "value")
    struck = _wide(chosen.assign(struck=(above.notna() & ~holds).astype(float)), "struck").to_numpy() == 1
    scale = (0.0, _round_top(grid) if excess else 1.0)
    with plt.rc_context(STYLE):
        ax = _mesh(ax, grid, scale, _title(measure, standardize), label, open_ends=True)
        _strike(ax, struck, grid.to_numpy() > 0.6 * scale[1])
    _tell(ax, chosen, "excess" if excess else "similarity")
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
    return _tiled(heatmap, table, measures, standardize, columns)


def companions(
    table: pd.DataFrame, measures: Sequence[str], *, standardize: bool | Sequence[bool] = True, columns: int = 2
) -> Figure:
    """Draw one `above_chance` a measure (and scaling, where it matters), in the places of `heatmaps`.

    Parameters
    ----------
    table : DataFrame
        From the ``table()`` of `sslsim.evidence`.
    measures, standardize, columns
        See `heatmaps`.
    """
    return _tiled(above_chance, table, measures, standardize, columns)


def pair_heatmaps(
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str]],
    measures: Sequence[str],
    *,
    standardize: bool = True,
    companion: bool = False,
) -> Figure:
    """Draw the layers of one model (rows) against those of another (columns): a panel a measure and pair of models.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.compare`; for companions from the ``table()`` of `sslsim.evidence`.
    pairs : sequence of (model_x, model_y)
        Names of the checkpoints of each column of panels.
    measures : sequence of str
        Measure of each row of panels.
    standardize : bool
        Which scaling, where the table has both.
    companion : bool
        Draw `above_chance` in place of `heatmap`.
    """
    draw = above_chance if companion else heatmap
    with plt.rc_context(STYLE):
        size = (5.4 * len(pairs), 4.4 * len(measures))
        figure, axes = plt.subplots(len(measures), len(pairs), figsize=size, squeeze=False)
        figure.subplots_adjust(wspace=0.6, hspace=0.35)
    for row, measure in zip(axes, measures, strict=True):
        for ax, (model_x, model_y) in zip(row, pairs, strict=True):
            panel = table[(table.model_x == model_x) & (table.model_y == model_y)]
            draw(panel, measure, standardize=standardize, ax=ax)
    return figure


def matrix(table: pd.DataFrame, measure: str, *, standardize: bool = True) -> pd.DataFrame:
    """Square frame of one measure: rows (model_x, layer_x), columns (model_y, layer_y), in the order of the table."""
    return _wide(_chosen(table, measure, standardize), "value")


def readings(
    table: pd.DataFrame, measure: str, *, standardize: bool = True, axes: Sequence[Axes] | None = None
) -> Sequence[Axes]:
    """Draw similarity by layer: a panel a relation, from layers of the same model to untrained ones.

    Solid: mean over the layers compared with; dashed: the best of them.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.analysis.summaries.within_and_across`.
    measure : str
        Which measure.
    standardize : bool
        Which scaling, where the table has both.
    axes : sequence of Axes, optional
        Where to draw, one a relation of the table, in the order of `sslsim.comparison.tables.RELATIONS`.
    """
    chosen = _chosen(table, measure, standardize)
    relations = _relations(chosen)
    models = list(dict.fromkeys(chosen.model))
    with plt.rc_context(STYLE):
        figure, axes = _taken(axes, relations, "relations", (3.3, 2.9), sharex=True, sharey=True)
        for ax, relation in zip(axes, relations, strict=True):
            rows = chosen[chosen.relation == relation]
            _lines(ax, rows, "mean", models)
            _lines(ax, rows, "best", models, linestyle="--", linewidth=0.8, markersize=0)
            ax.set(xlabel="layer", ylabel="similarity", title=relation)
        _label_outside(axes)
        _fit_unit(axes, chosen[["mean", "best"]].min().min())
        _legend(figure, axes, f"{_title(measure, standardize)}; solid mean, dashed best")
    return axes


def best_matches(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of every neuron's or head's best match in other checkpoints, by relation.

    Shapes hold the neurons of all models; marks are the medians of each model.

    Parameters
    ----------
    table : DataFrame
        Best partners with the column of `sslsim.analysis.summaries.relate`: model_x, relation, value (of neurons its size).
    ax : Axes, optional
        Where to draw.
    """
    _check_matches(table)
    sizes = table.assign(value=table.value.abs()) if "neuron_x" in table else table
    order = _relations(sizes)
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
        From `sslsim.analysis.summaries.finetuning`.
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


def along_depth(table: pd.DataFrame, measure: str, *, standardize: bool = True, ax: Axes | None = None) -> Axes:
    """Draw similarity at equal relative depth: a line a relation with its interval as a band, and chance dotted.

    The similarity axis is fixed, but for an excess over random bases (`EXCESSES`), whose values are small.

    Parameters
    ----------
    table : DataFrame
        relation, measure, standardize, depth (0 the first layer, 1 the last), value, ci_low, ci_high, chance.
    measure : str
        Which measure.
    standardize : bool
        Which scaling, where the table has both.
    ax : Axes, optional
        Where to draw.
    """
    _need(table, ["relation", "depth", "value", "ci_low", "ci_high", "chance"], "a row a relation and depth")
    chosen = _chosen(table, measure, standardize)
    with plt.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(6.4, 3.8), layout="constrained")[1]
        _depth_lines(ax, chosen, measure, standardize)
        ax.legend(title="band: interval\ndotted: chance", loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def along_depths(table: pd.DataFrame, measures: Sequence[str], *, standardize: bool = True, columns: int = 3) -> Figure:
    """Draw one `along_depth` a measure, with one legend.

    Parameters
    ----------
    table, standardize
        See `along_depth`.
    measures : sequence of str
        One panel each.
    columns : int
        Panels in a row.
    """
    _check_measures(measures)
    _need(table, ["relation", "depth", "value", "ci_low", "ci_high", "chance"], "a row a relation and depth")
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), columns, (3.4, 3.0), sharex=True)
        for ax, measure in zip(axes, measures, strict=True):
            _depth_lines(ax, _chosen(table, measure, standardize), measure, standardize)
        _label_outside(axes, "x")
        _legend(figure, axes, "band: interval; dotted: chance")
    return figure


def partners_against_null(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw every neuron's best match in other checkpoints beside what the same neurons find by chance, by relation.

    Three shapes a relation, each with its quartiles: the sizes of the best correlations; those in random bases of the
    other checkpoint, which is what sharing a subspace brings about; those on mismatched utterances.

    Parameters
    ----------
    table : DataFrame
        Best partners of `sslsim.neuron_evidence` with the column of `sslsim.analysis.summaries.relate`: model_x, layer_x,
        neuron_x, model_y, relation, value, rotated, chance.
    ax : Axes, optional
        Where to draw.
    """
    _check_matches(table)
    _need(table, ["relation", "value", "rotated", "chance"], "from sslsim.neuron_evidence, draws above 0, with relate")
    kinds = {
        "best match": table.value.abs(),
        "in random bases": table.rotated,
        "on mismatched utterances": table.chance,
    }
    sizes = pd.concat([pd.DataFrame({"relation": table.relation, "size": v, "kind": k}) for k, v in kinds.items()])
    with plt.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(8.6, 3.8), layout="constrained")[1]
        look = {"cut": 0, "inner": "quart", "density_norm": "width", "linewidth": 0.8, "gap": 0.1}
        palette = dict(zip(kinds, [COLOURS[9], COLOURS[1], "0.8"], strict=True))
        order = _relations(table)
        sns.violinplot(sizes.dropna(), x="relation", y="size", hue="kind", order=order, palette=palette, ax=ax, **look)
        ax.set(xlabel="best match sought in a model that is ...", ylabel="absolute correlation")
        _fit_unit([ax], 0.0)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds))
    return ax


def layer_map(
    table: pd.DataFrame,
    measure: str,
    *,
    standardize: bool = True,
    baselines: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
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
    standardize : bool
        Which scaling, where the table has both.
    baselines : sequence of str, optional
        Models to draw in grey; by default those of one layer and those whose names begin with untrained.
    ax : Axes, optional
        Where to draw.
    """
    similarity = _symmetric(matrix(table, measure, standardize=standardize))
    places, share = _plane(similarity.to_numpy())
    points = similarity.index.to_frame(index=False).assign(x=places[:, 0], y=places[:, 1])
    points = points.sort_values("layer", kind="stable")
    models = list(dict.fromkeys(similarity.index.get_level_values("model")))
    if baselines is None:
        baselines = [m for m in models if m.startswith("untrained") or (points.model == m).sum() == 1]
    for name in baselines:
        if name not in models:
            raise SslsimError(f"the table has no model {name!r} to draw as a baseline{close_match(name, models)}")
    looks = _looks([m for m in models if m not in baselines], COLOURED)
    looks |= {m: ("0.6", marker) for m, (_, marker) in _looks(baselines).items()}
    with plt.rc_context(STYLE):
        ax = ax or plt.subplots(figsize=(7.4, 6.6), layout="constrained")[1]
        _frame(ax, places)
        for model in models:
            _path(ax, points[points.model == model], *looks[model])
        ax.set(xlabel="first axis", ylabel="second axis")
        held = f"{100 * share:.0f} % of squared distance in this plane; hollow: first layer"
        ax.set_title(f"{_title(measure, standardize)}\n{held}")
        ends = points.groupby("model", sort=False).tail(1).set_index("model")[["x", "y"]]
        _name_points(ax, ends, places, {m: colour for m, (colour, _) in looks.items()})
    return ax


def best_matching_layers(table: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw where in other models the best-matching layer is, against the depth of the layer: a panel a relation.

    On the diagonal layers match at equal depth. Where a layer has a row for each of several other models, lines are
    means over these and small marks each of them.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.analysis.summaries.best_depths`, or of the kind: relation, model, depth (0 the first layer, 1 the last) and
        best_depth.
    axes : sequence of Axes, optional
        Where to draw, one a relation of the table, in the order of `sslsim.comparison.tables.RELATIONS`.
    """
    _need(table, ["relation", "model", "depth", "best_depth"], "a row each layer and other model")
    relations, models = _relations(table), list(dict.fromkeys(table.model))
    with plt.rc_context(STYLE):
        figure, axes = _taken(axes, relations, "relations", (3.2, 3.2), sharex=True, sharey=True)
        for ax, relation in zip(axes, relations, strict=True):
            ax.plot([0, 1], [0, 1], color="0.8", linewidth=4, zorder=0, solid_capstyle="butt")
            for model, (colour, marker) in _looks(models).items():
                rows = table[(table.relation == relation) & (table.model == model)]
                ax.plot(rows.depth, rows.best_depth, ".", color=colour, markersize=3, alpha=0.5)
                mean = rows.groupby("depth").best_depth.mean()
                ax.plot(mean.index, mean, color=colour, marker=marker, markersize=4, linewidth=1.2, label=model)
            ax.set(xlabel=DEPTH, ylabel="of its best match", title=relation)
            ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
        _label_outside(axes)
        several = table.duplicated(["relation", "model", "depth"]).any()
        of = "mean over the other models; small marks: each" if several else "best match in any of the other models"
        _legend(figure, axes, f"{of}; grey: equal depth")
    return axes


def moved(table: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw how far finetuning moved each layer, in units of the distance between two seeds: a panel a measure.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.analysis.partners.moved`: pretrained, finetuned, measure, depth, distance (1: as far as another seed),
        ci_low, ci_high; standardize, where a measure comes under both scalings.
    axes : sequence of Axes, optional
        Where to draw, one a measure and scaling of the table, in its order.
    """
    _need(
        table, ["finetuned", "measure", "depth", "distance", "ci_low", "ci_high"], "from sslsim.analysis.partners.moved"
    )
    table = table if "standardize" in table else table.assign(standardize=True)
    panels = list(dict.fromkeys(zip(table.measure, table.standardize, strict=True)))
    models = list(dict.fromkeys(table.finetuned))
    with plt.rc_context(STYLE):
        figure, axes = _taken(axes, [m for m, _ in panels], "measures", (3.6, 3.0), sharex=True, sharey=True)
        for ax, (measure, scaled) in zip(axes, panels, strict=True):
            rows = table[(table.measure == measure) & (table.standardize == scaled)].sort_values("depth")
            for model, look in _looks(models).items():
                _banded(ax, rows[rows.finetuned == model], "depth", "distance", ("ci_low", "ci_high"), look, model)
            ax.axhline(1, color="0.4", linewidth=1.0, linestyle="--", zorder=0, label="another seed")
            ax.set(xlabel=DEPTH, ylabel="distance from pretrained", title=_title(measure, scaled), xlim=(-0.03, 1.03))
            ax.set_ylim(0, max(1.2, 1.1 * table.distance.max()))
        _label_outside(axes)
        _legend(figure, axes, "distance after finetuning, in units of the distance between two seeds")
    return axes


def plateau(table: pd.DataFrame, measures: Sequence[str], *, standardize: bool = True, columns: int = 3) -> Figure:
    """Draw scores and their chance levels against the number of frames, to see whether they have settled.

    Parameters
    ----------
    table : DataFrame
        From `sslsim.analysis.partners.plateau`: measure, standardize, pair, n_frames, value, chance; enough, if there, is the
        number of frames where a vertical line says that there are ten a neuron.
    measures : sequence of str
        One panel each.
    standardize : bool
        Which scaling, where the table has both.
    columns : int
        Panels in a row.
    """
    _check_measures(measures)
    _need(table, ["pair", "n_frames", "value", "chance"], "from sslsim.analysis.partners.plateau")
    pairs = list(dict.fromkeys(table.pair))
    with plt.rc_context(STYLE):
        figure, axes = _panels(len(measures), columns, (3.6, 3.0), sharex=True)
        for ax, measure in zip(axes, measures, strict=True):
            chosen = _chosen(table, measure, standardize).sort_values("n_frames")
            for pair, (colour, marker) in _looks(pairs).items():
                rows = chosen[chosen.pair == pair]
                ax.plot(rows.n_frames, rows.value, color=colour, marker=marker, markersize=4, label=pair)
                ax.plot(rows.n_frames, rows.chance, color=colour, linestyle=":", linewidth=1.2)
            for enough in sorted(set(chosen.get("enough", []))):
                ax.axvline(enough, color="0.7", linewidth=1.0, zorder=0)
            _log_counts(ax)
            ax.set(xlabel="frames", ylabel="similarity", title=_title(measure, standardize))
            _fit_unit([ax], chosen[["value", "chance"]].min().min())
        _label_outside(axes, "x")
        grey = "; grey: ten frames a neuron of both" if "enough" in table else ""
        _legend(figure, axes, f"solid: similarity; dotted: chance{grey}", columns=2)
    return figure


def power(table: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Draw how often a claim is found to hold against the amount of speech: a panel a claim, a line a kind of effect.

    Horizontal lines are at 0.05, which no effect should reach, and at 0.8, which is usually asked of an effect.

    Parameters
    ----------
    table : DataFrame
        claim, kind, utterances, frames, power, low, high (ends of an interval for the power).
    axes : sequence of Axes, optional
        Where to draw, one a claim of the table, in its order.
    """
    _need(table, ["claim", "kind", "utterances", "frames", "power", "low", "high"], "a row a claim, kind and amount")
    claims, kinds = list(dict.fromkeys(table.claim)), list(dict.fromkeys(table.kind))
    with plt.rc_context(STYLE):
        figure, axes = _taken(axes, claims, "claims", (3.4, 3.0), sharey=True)
        for ax, claim in zip(axes, claims, strict=True):
            rows = table[table.claim == claim].sort_values("utterances")
            for level in (ALPHA, 0.8):
                ax.axhline(level, color="0.7", linewidth=1.0, zorder=0)
            for kind, look in _looks(kinds).items():
                _banded(ax, rows[rows.kind == kind], "utterances", "power", ("low", "high"), look, kind)
            _log_amounts(ax, rows)
            ax.set(xlabel="utterances, frames below", ylabel="share of trials found", title=fill(claim, 36))
            ax.set(ylim=(-0.02, 1.02), yticks=[0, ALPHA, 0.2, 0.4, 0.6, 0.8, 1])
        _label_outside(axes, "y")
        _legend(figure, axes, "", columns=3)
    return axes


def _depth_lines(ax: Axes, chosen: pd.DataFrame, measure: str, standardize: bool) -> None:
    """Draw a line a relation over depth, with its interval as a band, and its chance level dotted."""
    chosen = chosen.sort_values("depth")
    for relation in _relations(chosen):
        rows, look = chosen[chosen.relation == relation], RELATION_LOOKS[relation]
        _banded(ax, rows, "depth", "value", ("ci_low", "ci_high"), look, relation)
        ax.plot(rows.depth, rows.chance, color=look[0], linestyle=":", linewidth=1.0)
    ax.set(xlabel=DEPTH, ylabel="similarity", title=_title(measure, standardize), xlim=(-0.03, 1.03))
    if measure in EXCESSES:
        ax.set_ylabel("excess over random bases")
        ax.axhline(0, color="0.7", linewidth=1.0, zorder=0)
    else:
        _fit_unit([ax], chosen[["value", "chance"]].min().min())


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


def _taken(
    axes: Sequence[Axes] | None, names: Sequence[str], what: str, size: tuple[float, float], **sharing: Any
) -> tuple[Figure | None, Sequence[Axes]]:
    """Return the axes given, one a name, with no figure; or new ones, three in a row, with theirs."""
    if not names:
        raise SslsimError(f"no {what} to draw; the table is empty")
    if axes is None:
        return _panels(len(names), 3, size, **sharing)
    if len(axes) != len(names):
        raise SslsimError(f"{len(axes)} axes for {len(names)} {what}: {', '.join(names)}")
    return None, axes


def _legend(figure: Figure | None, axes: Sequence[Axes], title: str, columns: int = 5) -> None:
    """One legend of what is in any of the axes: above a figure of our own, in the last axes of another."""
    found = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": min(columns, len(found))} if figure else {}
    (figure or axes[-1]).legend(list(found.values()), list(found), title=title, **place)


def _tiled(
    draw: Callable[..., Axes],
    table: pd.DataFrame,
    measures: Sequence[str],
    standardize: bool | Sequence[bool],
    columns: int,
) -> Figure:
    """One panel a measure and, where it matters, scaling."""
    _check_measures(measures)
    scalings = [standardize] if isinstance(standardize, bool) else list(standardize)
    panels = [(m, s) for m in measures for s in (scalings[:1] if m in SCALE_FREE else scalings)]
    rows = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(6.8 * columns, 6.0 * rows), squeeze=False)
        figure.subplots_adjust(hspace=0.25, wspace=0.3)
    for ax, (measure, scaled) in zip(axes.flat, panels, strict=False):
        draw(table, measure, standardize=scaled, ax=ax)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    return figure


def _mesh(
    ax: Axes | None,
    grid: pd.DataFrame,
    scale: tuple[float, float],
    title: str,
    label: str,
    open_ends: bool = False,
) -> Axes:
    """Draw a grid of layers on a fixed scale with its colour bar; with open ends, arrows say that values lie beyond."""
    ax = ax or plt.subplots(figsize=(7.4, 6.4))[1]
    (low, high), values = scale, grid.to_numpy()
    step = 0.25 * np.ceil((high - low) / 1.5) if high - low >= 1 else (high - low) / 5
    slack = 0.01 * (high - low) if open_ends else np.inf  # what no eye sees
    beyond = bool(np.nanmin(values) < low - slack), bool(np.nanmax(values) > high + slack)
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
    ax.set_title(title)
    return ax


def _tell(ax: Axes, chosen: pd.DataFrame, name: str) -> None:
    """Attach what the page says of each cell: the score and, where there are, its interval, chance level and p."""
    grid = _wide(chosen, "value")
    wanted = {name: ["value"], "interval": ["ci_low", "ci_high"], "chance": ["chance"], "p": ["p"]}
    wanted["p in random bases"] = ["p_rotation"]
    numbers = {
        said: tuple(_wide(chosen, column).to_numpy(np.float64) for column in columns)
        for said, columns in wanted.items()
        if all(column in chosen and chosen[column].notna().any() for column in columns)
    }
    rows, columns = ([f"{model} {layer}" for model, layer in index] for index in (grid.index, grid.columns))
    attach(ax, Cells(rows, columns, numbers))


def _strike(ax: Axes, cells: NDArray[np.bool_], bright: NDArray[np.bool_]) -> None:
    """Draw a diagonal through cells; those of neighbours join into hatching, which stays legible in a large grid."""
    y, x = np.nonzero(cells)
    ends = np.stack([np.stack([x, y + 1], axis=1), np.stack([x + 1, y], axis=1)], axis=1)
    colours = np.where(bright[y, x], "black", "white").tolist()
    width = min(1.2, 40 / max(cells.shape))
    ax.add_collection(LineCollection(list(ends), colors=colours, linewidths=width, rasterized=True), autolim=False)


def _round_top(grid: pd.DataFrame) -> float:
    """Return a round number above 95 % of what two models have in common, for the end of a scale."""
    other = grid.index.get_level_values(0).to_numpy()[:, None] != grid.columns.get_level_values(0).to_numpy()
    values = grid.to_numpy()[other] if other.any() else grid.to_numpy()
    top = np.nanquantile(values, 0.95) if np.isfinite(values).any() else 1.0
    return next((end for end in (0.05, 0.1, 0.2, 0.5) if top <= end), 1.0)


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


def _banded(
    ax: Axes, rows: pd.DataFrame, x: str, y: str, ends: tuple[str, str], look: tuple[Any, str], label: str
) -> None:
    """One line with its interval as a band."""
    colour, marker = look
    ax.fill_between(rows[x], rows[ends[0]], rows[ends[1]], color=colour, alpha=0.15, linewidth=0)
    ax.plot(rows[x], rows[y], color=colour, marker=marker, markersize=4, label=label)


def _log_counts(ax: Axes) -> None:
    """Put numbers of frames on a log axis, written out."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _log_amounts(ax: Axes, rows: pd.DataFrame) -> None:
    """Put numbers of utterances, each above its frames, on a log axis; of two that are close the larger."""
    ax.set_xscale("log")
    frames = rows.groupby("utterances").frames.mean().sort_index(ascending=False)
    apart = 0.17 * np.log(frames.index.max() / frames.index.min())
    named: list[int] = []
    for n in frames.index:
        if not named or np.log(named[-1] / n) > apart:
            named.append(n)
    ax.set_xticks(frames.index, [f"{n:,}\n{frames[n]:,.0f}" if n in named else "" for n in frames.index])
    ax.set_xticks([], minor=True)


def _label_outside(axes: Sequence[Axes], which: str = "xy") -> None:
    """Label x below the lowest panel of each column only, y beside the first column only."""
    specs = [(ax, spec) for ax in axes if (spec := ax.get_subplotspec())]
    for ax, spec in specs:
        if "y" in which and not spec.is_first_col():
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        lowest = max(other.rowspan.stop for _, other in specs if other.colspan == spec.colspan)
        if "x" in which:
            ax.tick_params(labelbottom=spec.rowspan.stop == lowest)
            ax.set_xlabel(ax.get_xlabel() if spec.rowspan.stop == lowest else "")


def _relations(table: pd.DataFrame) -> list[str]:
    """Relations of a table in their order."""
    for name in dict.fromkeys(table.relation):
        if name not in RELATIONS:
            raise SslsimError(f"unknown relation {name!r}{close_match(name, RELATIONS)}")
    return [relation for relation in RELATIONS if relation in set(table.relation)]


def _check_measures(measures: Sequence[str]) -> None:
    if not measures:
        raise SslsimError("no measure to draw; give a list of at least one")


def _check_matches(table: pd.DataFrame) -> None:
    if table.empty:
        raise SslsimError(
            "no best matches to draw; compare at least two checkpoints, by a measure of neurons or of heads"
        )


def _need(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise SslsimError(f"the table has no column {', '.join(missing)}; give one {source}")


def _wide(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Square frame of one column, layers in the order of the rows."""
    x = pd.MultiIndex.from_frame(rows[["model_x", "layer_x"]]).unique()
    y = pd.MultiIndex.from_frame(rows[["model_y", "layer_y"]]).unique()
    wide = rows.pivot(index=["model_x", "layer_x"], columns=["model_y", "layer_y"], values=column)
    return wide.reindex(index=x, columns=y)


def _looks(models: Sequence[str], colours: Sequence[Any] = COLOURS) -> dict[str, tuple[Any, str]]:
    """Colour and marker of every model, by its place in the list."""
    return {m: (colours[i % len(colours)], MARKERS[i % len(MARKERS)]) for i, m in enumerate(models)}


def _lines(ax: Axes, table: pd.DataFrame, column: str, models: Sequence[str], **style: Any) -> None:
    """One line a model over layers."""
    for model, (colour, marker) in _looks(models).items():
        rows = table[table.model == model].sort_values("layer")
        label = model if column in ("mean", "value") else None
        ax.plot(rows.layer, rows[column], color=colour, marker=marker, label=label, **{"markersize": 4, **style})
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _fit_unit(axes: Sequence[Axes], smallest: float) -> None:
    """Fix the similarity axis to 0..1, or from the quarter below the smallest value unless that is all but 0."""
    for ax in axes:
        ax.set_ylim(-0.02 if -0.02 < smallest < 0 else _floor(smallest), 1.02)


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
    """Rows of one measure; a measure without a choice of scaling is found under either."""
    rows = table[(table.measure == measure) & ((table.standardize == standardize) | (measure in SCALE_FREE))]
    if rows.empty:
        known = sorted({f"{m} ({_scaling(s)})" for m, s in zip(table.measure, table.standardize, strict=True)})
        wanted = f"{measure} ({_scaling(standardize)})"
        raise SslsimError(f"the table has no rows of {wanted}{close_match(wanted, known)}")
    return rows
