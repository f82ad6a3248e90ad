"""What finetuning changed: the same layers and neurons before and after, beside other seeds and other families."""

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.results import kept
from sslsim.activations.selection import layer_views
from sslsim.activations.store import ActivationStore, Stores
from sslsim.analysis.layers import Pairs
from sslsim.analysis.preferences import PAIR
from sslsim.comparison.tables import same_depth
from sslsim.measures.registry import BEYOND_BASES, MEASURES
from sslsim.significance.evidence import Evidence


def finetuning_by_layer(table: pd.DataFrame, pairs: Pairs) -> pd.DataFrame:
    """How much of each pretrained layer is still there, in the same layer, after finetuning.

    Beside it, as yardsticks, the same layer of another seed, and other families at the nearest relative depth. The
    table is of `sslsim.compare`, between `Lineage.finetuning_pairs`; `pairs` are `Lineage.finetuned_pairs`. Columns:
    level, measure, pretrained, finetuned, layer, depth (layer over number of blocks), value, other_seed and
    other_family (means over the checkpoints of that relation; NaN if there is none).
    """
    keys = ["measure", "model_x", "layer_x"]
    yardsticks = table[same_depth(table)].pivot_table(index=keys, columns="relation", values="value")
    yardsticks = yardsticks.reindex(columns=["other seed", "other family"])
    same = table[table.layer_x == table.layer_y]
    out = pd.concat([same[(same.model_x == x) & (same.model_y == y)] for x, y in pairs], ignore_index=True)
    names = {"model_x": "pretrained", "model_y": "finetuned", "layer_x": "layer", "depth_x": "depth"}
    names |= {"other seed": "other_seed", "other family": "other_family"}
    out = out.assign(level=out.measure.map(lambda m: MEASURES[m].level)).join(yardsticks, on=keys).rename(columns=names)
    return out[["level", "measure", "pretrained", "finetuned", "layer", "depth", "value", "other_seed", "other_family"]]


def distance_moved(evidences: Evidence | Sequence[Evidence], pairs: Pairs) -> pd.DataFrame:
    """Say how far finetuning moved each layer, in multiples of the distance between two seeds of the pretrained model.

    The distance of two layers is one minus their similarity. Pretrained models without another seed have no rows. The
    evidence is between each pretrained model, its counterparts and other seeds; `pairs` are `Lineage.finetuned_pairs`.
    Columns: measure (neuron_excess and neuron_count are no similarities and left out), pretrained, finetuned, layer,
    depth, distance (1: as far as another seed), ci_low, ci_high, similarity, of_seeds (similarity of the two seeds).
    """
    rows = []
    for evidence, pair in product([evidences] if isinstance(evidences, Evidence) else evidences, pairs):
        table = evidence.pairs
        here = (table.layer_x == table.layer_y) & ~table.measure.isin(BEYOND_BASES) & (table.model_x == pair[0])
        for (measure, layer), same in table[here].groupby(["measure", "layer_x"], sort=False):
            to, seeds = same.index[same.model_y == pair[1]], same.index[same.relation == "other seed"]
            if len(to) and len(seeds):
                of = evidence.estimate(partial(in_seeds, to[0], seeds.to_numpy()))
                row = (measure, *pair, layer, same.depth_x[to[0]], of.value, of.low, of.high)
                rows.append((*row, same.value[to[0]], same.value[seeds].mean()))
    columns = ["measure", "pretrained", "finetuned", "layer", "depth", "distance", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=[*columns, "similarity", "of_seeds"])


def in_seeds(to: int, seeds: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of one pair in multiples of the mean distance of others, a distance being one minus the similarity."""
    return (1 - values[..., to]) / (1 - values[..., seeds]).mean(-1)


def first_moved(moved: pd.DataFrame) -> pd.DataFrame:
    """Find, for each measure and finetuned model, the lowest layer that moved half the distance of two seeds.

    Columns: measure, pretrained, finetuned, first_layer (missing if none), furthest_layer, furthest (its distance).
    """
    keys = ["measure", "pretrained", "finetuned"]
    first = moved[moved.distance >= 0.5].groupby(keys).layer.min().rename("first_layer").astype("Int64")
    far = moved.loc[moved.groupby(keys, sort=False).distance.idxmax()].join(first, on=keys)
    far = far.rename(columns={"layer": "furthest_layer", "distance": "furthest"}).reset_index(drop=True)
    return far[[*keys, "first_layer", "furthest_layer", "furthest"]]


@kept
def changed_neurons(stores: Sequence[ActivationStore], *, frames: int | None = None) -> pd.DataFrame:
    """Correlation of every neuron of a pretrained model with the same neuron, number for number, after finetuning.

    Models of different width have no rows. Columns: `PAIR`, model_x the pretrained one, model_y the other, and value.
    """
    views = {view.label: view for view in layer_views(stores, frames)}
    tables = []
    for before, after in Stores(stores).lineage.finetuned_pairs():
        for layer in [layer for name, layer in views if name == before and (after, layer) in views]:
            two = (views[before, layer], views[after, layer])
            if two[0].shape != two[1].shape:
                continue
            x, y = (view[:].astype(np.float64) for view in two)
            x, y = x - x.mean(0), y - y.mean(0)
            with np.errstate(invalid="ignore", divide="ignore"):  # NaN where one of them does not vary
                r = (x * y).sum(0) / np.sqrt((x * x).sum(0) * (y * y).sum(0))
            keys = [key for view in two for key in (*view.label, np.arange(len(r)))]
            tables.append(pd.DataFrame(dict(zip(PAIR, keys, strict=True)) | {"value": r}).dropna(subset="value"))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
