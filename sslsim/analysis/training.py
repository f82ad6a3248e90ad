"""What became of layers over a training, and what else differs between models than what they are compared for."""

import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from sslsim.activations.store import Stores
from sslsim.analysis.layers import concentrations
from sslsim.encoders.lineage import SEPARATE, Lineage
from sslsim.errors import Unanswered
from sslsim.significance import run
from sslsim.significance.evidence import Resampling, near_only

LAST, BEFORE = "to the last step", "to the step before"


def over_training(
    stores: Stores,
    measures: Sequence[str] = ("linear_cka_debiased", "max_corr"),
    *,
    frames: int | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    device: str = "auto",
) -> pd.DataFrame:
    """Compare each step of a training with its last step and with the step before, layer by layer.

    The stores are those of ``Study.series().extract(...)``. Columns: series, measure, reference (``to the last step``,
    ``to the step before``), step, layer, model, depth, value, ci_low, ci_high, chance, p, and dimensions (participation
    ratio: over about so many directions the variance of the layer is spread).
    """
    moments = (store.checkpoint for store in stores if store.checkpoint.step is not None)
    steps = sorted(moments, key=lambda each: (each.series, each.step))
    series = [[each.name for each in of] for _, of in itertools.groupby(steps, lambda c: c.series)]
    pairs = {(name, names[-1], LAST) for names in series for name in names}
    pairs |= {(b, a, BEFORE) for names in series for a, b in itertools.pairwise(names)}
    if all(len(names) < 2 for names in series):
        raise Unanswered("no series of two steps among the checkpoints; give them series and step in the lineup")
    some = stores.only([each.name for each in steps])
    how: dict[str, Any] = {"frames": frames, "between": sorted({pair[:2] for pair in pairs}), "device": device}
    table = run.evidence(some, measures, resampling=near_only(resampling), **how).table()
    out = table[table.layer_x == table.layer_y].rename(columns={"layer_x": "layer", "depth_x": "depth"})
    out = out.merge(pd.DataFrame(sorted(pairs), columns=["model_x", "model_y", "reference"]))
    told = [(each.name, each.name, each.series, each.step) for each in steps]
    out = out.merge(pd.DataFrame(told, columns=["model_x", "model", "series", "step"]))
    out = out.merge(concentrations(some, frames)[["model", "layer", "dimensions"]])
    order = ["series", "measure", "reference", "step", "layer"]
    columns = [*order, "model", "depth", "value", "ci_low", "ci_high", "chance", "p", "dimensions"]
    return out.reindex(columns=columns).sort_values(order, kind="stable", ignore_index=True)


def also_differ(lineage: Lineage) -> str:
    """Say what else differs between models trained apart, by relation: their size, and the tags of their recipes.

    A difference that objectives are credited with may come from any of it (arXiv 2508.08110 found that the number of
    iterations explained one).
    """
    of = {each.name: dict(each.recipe) | ({"size": each.size} if each.size else {}) for each in lineage.checkpoints}
    models = [name for name in lineage.trained_apart() if lineage.trained(name)]
    told = []
    for relation in SEPARATE:
        pairs = [(of[x], of[y]) for x, y in itertools.combinations(models, 2) if lineage.relation(x, y) == relation]
        counts = {}
        for key in dict.fromkeys(key for pair in pairs for each in pair for key in each):
            both = [a[key] != b[key] for a, b in pairs if key in a and key in b]
            counts[key] = (sum(both), len(both))
        words = [f"{key} ({n} of {many})" for key, (n, many) in counts.items() if n]
        told += [f"pairs of {relation} also in {', '.join(words)}"] if words else []
    what = f"Beside what is compared, models differ: {'; '.join(told)}. " if told else ""
    lacking = [name for name in models if not set(of[name]) - {"size"}]
    unknown = f"No recipe is told of {', '.join(lacking)}: what else differs is not known." if lacking else ""
    return (what + unknown).strip()
