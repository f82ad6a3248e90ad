"""What a reader takes from a grid of layer pairs: tables in, smaller tables out.

Every function takes the tidy table of `sslsim.compare` or a finer one. The value in row (x, y) of a directional measure
says how well x is found in y. What two checkpoints are to each other, their *relation*, comes from the lineup:

- counterpart: one was finetuned from the other or both from the same one, so they share most of their weights;
- other seed: pretrained by the same recipe with other random numbers (`seed_of`), the ceiling for two separate models;
- same family, other family: anything else of one family or of two; other model: where a family is not named;
- untrained: at least one has random weights, the floor;
- spectrogram: one is the log-mel spectrogram, what all of them hear.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sslsim.activations.store import ActivationStore
from sslsim.comparison.tables import RELATIONS
from sslsim.errors import Unanswered
from sslsim.measures.registry import has_scaling, level_of

KEYS = ["measure", "standardize"]
SEPARATE = ["other seed", "same family", "other family", "other model"]  # trained, and not from one another


def relate(table: pd.DataFrame, stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Add the column `relation` of the two models of each row, one of `RELATIONS`."""
    chosen = {s.checkpoint.name: s.checkpoint for s in stores}
    lineage = {name: _origin(name, {n: c.finetuned_from for n, c in chosen.items()}) for name in chosen}
    recipe = {name: _origin(name, {n: c.seed_of for n, c in chosen.items()}) for name in chosen}

    def relation(x: str, y: str) -> str:
        a, b = chosen[x], chosen[y]
        if x == y:
            return "same model"
        if "none" in (a.weights, b.weights):
            return "spectrogram"
        if a.untrained_seed is not None or b.untrained_seed is not None:
            return "untrained"
        if lineage[x] == lineage[y]:
            return "counterpart"
        if recipe[x] == recipe[y]:
            return "other seed"
        if not a.family or not b.family:
            return "other model"
        return "same family" if a.family == b.family else "other family"

    known = {pair: relation(*pair) for pair in itertools.product(chosen, chosen)}
    pairs = zip(table.model_x, table.model_y, strict=True)
    return table.assign(relation=pd.Series([known[pair] for pair in pairs], index=table.index, dtype=object))


def layouts(stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Say what the first and last layer of each checkpoint are, and how it took its audio.

    Read this beside any result on last layers: a raw residual stream and the output of a LayerNorm differ, and the last
    hidden state that others report is layer L only where no final norm follows.

    Returns
    -------
    DataFrame
        model, layer_0 and layers (output of a LayerNorm, or raw residual stream), last (number of the last layer),
        final_norm (whether another LayerNorm follows it), normalised, mask, features (see `sslsim.encoders.encoder.Anatomy`),
        dtype.
    """
    norm = {True: "LayerNorm", False: "residual"}
    rows = [
        {
            "model": s.checkpoint.name,
            "layer_0": norm[s.input_normed] if s.n_heads else "spectrogram",
            "last": s.n_layers - 1,
            "layers": norm[s.normed] if s.n_heads else "spectrogram",
            "final_norm": s.final_norm,
            **s.heard,
            "dtype": s.dtype,
        }
        for s in stores
    ]
    return pd.DataFrame(rows)


def _origin(name: str, parents: Mapping[str, str | None]) -> str:
    """Checkpoint at the start of a chain of parents; one that is not among them is an origin all the same."""
    seen = [name]
    while (parent := parents.get(seen[-1])) and parent not in seen:
        seen.append(parent)
    return seen[-1]


def aligned(table: pd.DataFrame, stores: Sequence[ActivationStore]) -> pd.Series:
    """Say which rows of a table are of layers at the same relative depth: each x with the nearest layer of y."""
    depth = {s.checkpoint.name: max(1, s.n_layers - 1) for s in stores}
    nearest = np.floor(table.layer_x * table.model_y.map(depth) / table.model_x.map(depth) + 0.5)
    return nearest.clip(upper=table.model_y.map({s.checkpoint.name: s.n_layers - 1 for s in stores})) == table.layer_y


def under(table: pd.DataFrame, measure: str, standardize: bool = True) -> pd.Series:
    """Mask the rows of a measure under a scaling; of one without a choice of scaling, under either."""
    return (table.measure == measure) & ((not has_scaling(measure)) | (table.standardize == standardize))


def apart(stores: Sequence[ActivationStore]) -> list[ActivationStore]:
    """Return the stores whose models were trained apart: all but those finetuned from another one.

    Raises
    ------
    Unanswered
        If there are no two trained ones, of which neither nor both come from one pretrained model.
    """
    names = [s.checkpoint.name for s in stores]
    found = [s for s in stores if s.checkpoint.finetuned_from not in names]
    trained = [s.checkpoint.name for s in found if s.checkpoint.weights == "trained"]
    pairs = pd.DataFrame(itertools.combinations(trained, 2), columns=["model_x", "model_y"])
    if not relate(pairs, stores).relation.isin(SEPARATE).any():
        raise Unanswered(
            f"no two models trained apart among {', '.join(names)}; "
            "choose two trained checkpoints, neither of them finetuned from the other or from the same model"
        )
    return found


def finetuned_family(stores: Sequence[ActivationStore]) -> list[ActivationStore]:
    """Return the stores that say how far finetuning went: pretrained models, their counterparts and other seeds."""
    chosen = {name for pair in finetuned_pairs(stores) for name in (pair[0].checkpoint.name, pair[1].checkpoint.name)}
    return [s for s in stores if s.checkpoint.name in chosen or s.checkpoint.seed_of in chosen]


def typical_pairs(stores: Sequence[ActivationStore]) -> list[tuple[str, str]]:
    """Return the first pair of checkpoints of each relation between models trained apart, and one of no training."""
    names = [s.checkpoint.name for s in stores]
    pairs = pd.DataFrame(itertools.combinations(names, 2), columns=["model_x", "model_y"])
    first = relate(pairs, stores).drop_duplicates("relation").set_index("relation")
    kept = first.loc[[relation for relation in [*SEPARATE, "untrained"] if relation in first.index]]
    return list(zip(kept.model_x, kept.model_y, strict=True))


def with_trained(stores: Sequence[ActivationStore]) -> list[tuple[str, str]]:
    """Return the pairs of checkpoints, each with itself too, of which one at least was trained.

    Baselines among themselves (random weights, the spectrogram) need no controls.
    """
    trained = {s.checkpoint.name: s.checkpoint.weights == "trained" for s in stores}
    pairs = itertools.combinations_with_replacement(trained, 2)
    return [(x, y) for x, y in pairs if trained[x] or trained[y]]


def within_and_across(table: pd.DataFrame, stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Similarity of each layer to the rest of its own model (intra) and to the layers of others, by relation (inter).

    Returns
    -------
    DataFrame
        measure, standardize, model, layer, relation, mean (over the layers compared with), best, best_model and
        best_layer (where the best is). A layer is not compared with itself.
    """
    others = relate(table, stores).dropna(subset="value")  # a layer of uniform attention has no correlation
    others = others[(others.relation != "same model") | (others.layer_x != others.layer_y)]
    groups = others.groupby([*KEYS, "model_x", "layer_x", "relation"], sort=False).value
    best = others.loc[groups.idxmax(), ["model_y", "layer_y"]]
    out = groups.agg(mean="mean", best="max")
    out[["best_model", "best_layer"]] = best.to_numpy()
    return out.reset_index().rename(columns={"model_x": "model", "layer_x": "layer"})


def best_depths(read: pd.DataFrame, stores: Sequence[ActivationStore], measure: str) -> pd.DataFrame:
    """Where in depth each layer finds its best match.

    Parameters
    ----------
    read : DataFrame
        From `within_and_across`.
    stores : sequence of ActivationStore
        That it was made from.
    measure : str
        Which of its measures.

    Returns
    -------
    DataFrame
        relation, model, layer, depth (relative, 0 to 1), best_model, best_layer, best_depth, best (its similarity). The
        spectrogram, which has no depth, is left out.
    """
    last = {s.checkpoint.name: s.n_layers - 1 for s in stores}
    rows = read[under(read, measure)]
    rows = rows[(rows.model.map(last) > 0) & (rows.best_model.map(last) > 0)]
    depth, best_depth = rows.layer / rows.model.map(last), rows.best_layer / rows.best_model.map(last)
    columns = ["relation", "model", "layer", "depth", "best_model", "best_layer", "best_depth", "best"]
    return rows.assign(depth=depth, best_depth=best_depth)[columns].reset_index(drop=True)


def summary(readings: pd.DataFrame) -> pd.DataFrame:
    """Mean over all layers of all models of `within_and_across`, one row a measure, one column a relation."""
    wide = readings.pivot_table(index=KEYS, columns="relation", values="mean", aggfunc="mean", sort=False)
    return wide.reindex(columns=[r for r in RELATIONS if r in wide]).rename_axis(columns=None).reset_index()


def strongest(table: pd.DataFrame, stores: Sequence[ActivationStore], n: int = 12) -> pd.DataFrame:
    """Return the `n` best of a table of best partners between separately trained models; neurons by size."""
    found = relate(table, stores)
    found = found[found.relation.isin(SEPARATE)]
    key = abs if "neuron_x" in found else None
    return found.sort_values("value", key=key, ascending=False, ignore_index=True).head(n)


def finetuned_pairs(stores: Sequence[ActivationStore]) -> list[tuple[ActivationStore, ActivationStore]]:
    """Pretrained checkpoint and finetuned counterpart, for every counterpart among `stores`.

    Raises
    ------
    Unanswered
        If no checkpoint names another one of `stores` in `finetuned_from`.
    """
    by_name = {s.checkpoint.name: s for s in stores}
    pairs = [(by_name[s.checkpoint.finetuned_from], s) for s in stores if s.checkpoint.finetuned_from in by_name]
    if not pairs:
        raise Unanswered(
            f"no finetuned counterpart among {', '.join(by_name)}; "
            "choose checkpoints of which one is finetuned_from another"
        )
    return pairs


def finetuning_pairs(stores: Sequence[ActivationStore]) -> list[tuple[str, str]]:
    """Names of the checkpoints that `finetuning` compares: each pretrained one with its counterparts and yardsticks."""
    pretrained = {s.checkpoint.name for s, _ in finetuned_pairs(stores)}
    names = [s.checkpoint.name for s in stores]
    pairs = pd.DataFrame(itertools.product(names, names), columns=["model_x", "model_y"])
    related = relate(pairs[pairs.model_x.isin(pretrained)], stores)
    chosen = related[related.relation.isin(["counterpart", "other seed", "other family"])]
    return list(zip(chosen.model_x, chosen.model_y, strict=True))


def finetuning(table: pd.DataFrame, stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """How much of each pretrained layer is still there, in the same layer, after finetuning.

    Beside it, as yardsticks, the same layer of another seed of the pretrained model, and checkpoints of other families
    at the nearest relative depth.

    Returns
    -------
    DataFrame
        level, measure, standardize, pretrained, finetuned, layer, depth (layer over number of blocks), value,
        other_seed and other_family (means over the checkpoints of that relation; NaN if there is none).
    """
    depth = {s.checkpoint.name: s.n_layers - 1 for s in stores}
    near = relate(table[aligned(table, stores)], stores)
    yardsticks = near.pivot_table(index=[*KEYS, "model_x", "layer_x"], columns="relation", values="value")
    yardsticks = yardsticks.reindex(columns=["other seed", "other family"]).set_axis(
        ["other_seed", "other_family"], axis=1
    )
    rows = []
    for pretrained, finetuned in finetuned_pairs(stores):
        name_x, name_y = pretrained.checkpoint.name, finetuned.checkpoint.name
        same = (table.model_x == name_x) & (table.model_y == name_y) & (table.layer_x == table.layer_y)
        rows.append(table[same].join(yardsticks, on=[*KEYS, "model_x", "layer_x"]))
    names = {"model_x": "pretrained", "model_y": "finetuned", "layer_x": "layer"}
    out = pd.concat(rows, ignore_index=True).rename(columns=names)
    out.insert(0, "level", out.measure.map(level_of))
    out["depth"] = out.layer / out.pretrained.map(depth)
    return out[["level", *KEYS, "pretrained", "finetuned", "layer", "depth", "value", *yardsticks]]
