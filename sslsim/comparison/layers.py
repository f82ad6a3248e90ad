"""Every layer of every checkpoint against every other, as one tidy table, and the best partner of every neuron."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd

from sslsim.activations.results import kept
from sslsim.activations.selection import check_between, check_measures, check_stores, lengths_of, varying_views
from sslsim.activations.store import ActivationStore
from sslsim.comparison.engine import score_runs
from sslsim.comparison.heads import compare_attention, with_attention
from sslsim.comparison.pieces import sample_of
from sslsim.comparison.scores import Comparison, Run, Scores
from sslsim.comparison.tables import PAIR, SIDES, near_layers, pair_columns, sides
from sslsim.errors import check_whole
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.registry import MEASURES, measure_named
from sslsim.parallel import chosen_device

COLUMNS = ["measure", *SIDES, *PAIR, "value", "n_frames", "rank_x", "rank_y", "constant_x", "constant_y"]


@kept
def compare(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    *,
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    given: Any = None,
    sample: int = SAMPLE,
    executor: Executor | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Compare every layer of every store with every other.

    - `stores` are of the same corpus, `measures` names in ``sslsim.MEASURES``, of neurons, layers or attention.
    - `frames`: so many evenly spaced frames in all (attention has query rows instead); all by default.
    - `between`: pairs of names of checkpoints to compare, in both directions; the rest costs nothing (for attention it
      costs as much). All pairs by default.
    - `given`: compare what is left of layers once this is known of every frame: ``'log_mel'``, ``'loudness'``,
      ``'position'``, ``'speaker'``, numbers or labels of every stored frame, or a list of these (see
      `sslsim.condition`). Not for attention.
    - `sample`: mutual_knn and rbf_cka, which compare every frame with every other, use so many frames at most.
    - `executor`: any of `concurrent.futures` whose workers see the folder of the stores; by default threads of this
      process, as many as torch uses. On machines of one kind the numbers are the same bit for bit.
    - `device`: 'cpu', 'cuda', or 'auto' for a GPU if there is one.

    Columns, one row a measure and ordered pair of layers, the diagonal included: measure, model_x, layer_x, model_y,
    layer_y, those of `sslsim.comparison.tables.pair_columns`, value, n_frames (query rows for attention), rank_x and
    rank_y (components kept, for cca and svcca), constant_x and constant_y (neurons left out because they do not vary).
    Layers in which none varies have no rows, and a warning names them.
    """
    check_measures(measures)
    check_whole("sample", sample, 2)
    heads = [name for name in measures if measure_named(name).level == "attention"]
    wanted = [name for name in measures if name not in heads]
    (with_attention if heads else check_stores)(stores)
    chosen, device, tables = check_between(between, stores), chosen_device(device, executor), []
    if wanted:
        what = comparison(stores, wanted, chosen, frames, given, sample=sample, device=device)
        run = Run("scores", lengths=lengths_of(what.views))
        tables.append(pair_columns(scores_table(what, score_runs(what, [run], executor)[0][0]), stores))
    if heads:
        table = compare_attention(stores, heads, executor=executor, device=device)[0]
        kept = [frozenset(models) in chosen for models in zip(table.model_x, table.model_y, strict=True)]
        tables.append(table[kept])
    return pd.concat(tables, ignore_index=True).reindex(columns=COLUMNS)


@kept
def neuron_partners(
    stores: Sequence[ActivationStore],
    *,
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    executor: Executor | None = None,
    device: str = "auto",
) -> pd.DataFrame:
    """Find each neuron's best partner among all neurons of each other checkpoint, whatever their layer.

    For the arguments see `compare`. Columns: model_x, layer_x, neuron_x (those that vary), model_y, layer_y, neuron_y,
    relation, trained_x, trained_y, value (signed correlation).
    """
    check_stores(stores)
    what = comparison(stores, (), check_between(between, stores), frames, device=chosen_device(device, executor))
    scores = score_runs(what, [Run("partners", partners=True)], executor)[0][0]
    return pair_columns(partners_table(what, scores), stores)


def comparison(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    between: set[frozenset[str]],
    frames: int | None,
    given: Any = None,
    depths: int | None = None,
    **how: Any,
) -> Comparison:
    """Return what to compare of these stores: all layers in which a neuron varies.

    Layers `near` in relative depth are those nearest to each layer or, with `depths`, to so many evenly spaced ones.
    """
    views = varying_views(stores, between, frames, given)
    last = {store.name: store.layer_numbers[-1] for store in stores}
    layers, deep = (np.array(side) for side in zip(*((view.layer, last[view.label[0]]) for view in views), strict=True))
    near = near_layers(layers[:, None], deep[:, None], deep[None], layers.min()) == layers[None]
    if depths:
        lowest = np.array([view.store.layer_numbers[0] for view in views])
        spaced = lowest + np.floor(np.arange(depths)[:, None] / (depths - 1) * (deep - lowest) + 0.5)
        near &= (spaced == layers).any(0)[:, None]
    return Comparison(views, tuple(measures), between, near, **how)


def scores_table(what: Comparison, scores: Scores) -> pd.DataFrame:
    """One row a measure and ordered pair of layers that was scored."""
    names, tables = [view.label for view in what.views], []
    for name in what.measures:
        grid, frames, ranks = scores.value[name], len(what.views[0]), scores.counts.get(name)
        x, y = np.nonzero(np.isfinite(grid))
        table = sides(names, ["model", "layer"], x, y).assign(value=grid[x, y])
        table.insert(0, "measure", name)
        if not MEASURES[name].of_frames:
            constant = scores.counts["constant"]
        else:
            rows: Any = slice(None)
            if MEASURES[name].prepare:
                rows = sample_of(lengths_of(what.views), what.sample)
                frames = len(rows)
            constant = np.array([(np.ptp(view[rows], axis=0) == 0).sum() for view in what.views])
        table["n_frames"] = frames
        for side, of in (("x", x), ("y", y)):
            table[f"rank_{side}"] = pd.array(ranks[of] if ranks is not None else [pd.NA] * len(of), dtype="Int64")
        table["constant_x"], table["constant_y"] = constant[x], constant[y]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def partners_table(
    what: Comparison, scores: Scores, more: Mapping[tuple[int, str], dict[str, np.ndarray]] | None = None
) -> pd.DataFrame:
    """One row a neuron that varies and other checkpoint: its best partner there, and more columns of each layer."""
    columns = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y", "value"]
    models = list(dict.fromkeys(view.label[0] for view in what.views))
    tables = [pd.DataFrame(columns=columns)]
    for i, model in sorted(scores.partners, key=lambda key: (key[0], models.index(key[1]))):
        best, (name, layer) = scores.partners[i, model], what.views[i].label
        values = (name, layer, np.arange(len(best.r)), model, best.layer, best.neuron, best.r)
        table = pd.DataFrame(dict(zip(columns, values, strict=True)) | (more[i, model] if more else {}))
        tables.append(table.dropna(subset="value"))
    return pd.concat(tables[1:] or tables, ignore_index=True)
