"""Distributions of the best matches of neurons and heads."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sslsim.errors import SslsimError
from sslsim.figures.style import COLOURS, looks, need, relations_of, styled, unit_limits

SHAPE: dict[str, Any] = {"cut": 0, "inner": "quart", "density_norm": "width", "linewidth": 0.8}  # of all violins
NOTHING = "no best matches to draw; compare at least two checkpoints, by a measure of neurons or of heads"


@styled()
def best_matches(table: pd.DataFrame) -> Figure:
    """Draw the distribution of every neuron's or head's best match in other checkpoints, by relation.

    Shapes hold the neurons of all models; marks are the medians of each model. `table` has the best partners of
    `sslsim.neuron_partners` or `sslsim.compare_attention`: model_x, relation, value (of neurons its size is drawn).
    """
    if table.empty:
        raise SslsimError(NOTHING)
    sizes = table.assign(value=table.value.abs()) if "neuron_x" in table else table
    order = relations_of(sizes)
    medians = sizes.groupby(["model_x", "relation"], sort=False).value.median().reset_index()
    models = looks(medians.model_x)
    figure, ax = plt.subplots(figsize=(8.6, 3.6), layout="constrained")
    sns.violinplot(sizes, x="relation", y="value", order=order, ax=ax, color="0.85", **SHAPE)
    for i, (model, (colour, marker)) in enumerate(models.items()):
        rows = medians[medians.model_x == model]
        places = rows.relation.map(order.index) + 0.5 * (i + 1) / (len(models) + 1) - 0.25
        ax.plot(places, rows.value, marker, color=colour, markersize=5, label=model)
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
    palette = dict(zip(kinds, [COLOURS[9], COLOURS[1], "0.8"], strict=True))
    look = {"order": relations_of(partners), "hue": "kind", "palette": palette, "gap": 0.1}
    figure, ax = plt.subplots(figsize=(8.6, 3.8), layout="constrained")
    sns.violinplot(sizes.dropna(), x="relation", y="size", ax=ax, **look, **SHAPE)
    ax.set(xlabel="best match sought in a model that is ...", ylabel="absolute correlation", ylim=(0, 1.02))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds))
    return figure
