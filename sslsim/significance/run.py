"""Comparisons with their controls: the same pairs on mismatched utterances, without blocks, and in random bases."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.results import kept
from sslsim.activations.selection import check_between, check_measures, check_stores, lengths_of
from sslsim.activations.store import ActivationStore
from sslsim.comparison.engine import score_runs
from sslsim.comparison.layers import comparison, partners_table, scores_table
from sslsim.comparison.scores import Comparison, Run, Scores
from sslsim.comparison.tables import pair_columns
from sslsim.errors import SslsimError
from sslsim.measures.registry import measure_named
from sslsim.parallel import chosen_device
from sslsim.significance.evidence import Evidence, Resampling, check_resampling, shifted
from sslsim.significance.jackknife import blocks_of
from sslsim.significance.nulls import Mismatches

REFERENCES = 5  # of layers less what is given: mismatches whose own order is scored; with one, p is a little too small


@kept
def evidence(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    *,
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    given: Any = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    executor: Executor | None = None,
    device: str = "auto",
) -> Evidence:
    """Compare layers as `sslsim.compare` does, with chance level, interval and random bases of every score.

    Measures are of layers and neurons; for the other arguments see `sslsim.compare`. `resampling` says how many
    mismatches, blocks and random bases there are. Each mismatch costs something less than the comparison itself.
    """
    check_measures(measures)
    if odd := [name for name in measures if measure_named(name).level == "attention"]:
        raise SslsimError(f"measure {odd[0]!r} compares attention; use attention_evidence")
    check_resampling(resampling)
    check_stores(stores)
    chosen, device = check_between(between, stores), chosen_device(device, executor)
    what = comparison(stores, measures, chosen, frames, given, resampling.depths, seed=resampling.seed, device=device)
    lengths = lengths_of(what.views)
    partners = "max_corr" in measures and resampling.elsewhere is not None  # each neuron's best, of all layers
    blocks = blocks_of(stores[0].index, lengths, resampling.blocks, resampling.block_by)
    own = Run("scores", lengths=lengths, rotations=resampling.rotations, partners=partners, costly=False)
    runs = [own if resampling.elsewhere is not None else replace(own, everywhere=())]
    left_out = tuple(map(np.flatnonzero, blocks.masks))
    runs += [Run("without a block", lengths=lengths, blocks=left_out, everywhere=())] if left_out else []
    wrong = _mismatches(lengths, resampling, given is not None, partners)
    every = score_runs(what, [*runs, *wrong], executor)
    (scores, *left), null = chain(*every[: len(runs)]), _null(wrong, every[len(runs) :])
    made = _assemble(what, scores, null, left, blocks.sizes)
    best = _partners(what, stores, scores, null[1 : 1 + (resampling.elsewhere or 0)]) if partners else None
    return replace(made, pairs=pair_columns(made.pairs, stores), partners=best)


def _mismatches(lengths: tuple[int, ...], how: Resampling, given: bool, partners: bool) -> list[Run]:
    """Say in which runs utterances are mismatched, and scored in their own order with as much taken off them."""
    if not how.permutations:
        return []
    wrong = Mismatches.of(lengths, how.permutations, how.seed)
    cut = Run("mismatches", wrong.frames(), tuple(wrong.lengths.tolist()), partners=partners, costly=False, chance=True)
    if not given:
        whole = tuple(range(1, 1 + min(how.elsewhere or 0, len(wrong.partners))))
        return [replace(cut, orders=(None, *wrong.orders), everywhere=whole)]
    runs = []
    for number, order in enumerate(wrong.orders):
        orders = (None, order) if number < REFERENCES else (order,)
        everywhere = (len(orders) - 1,) if number < (how.elsewhere or 0) else ()
        runs.append(replace(cut, orders=orders, everywhere=everywhere, given=order))
    return runs


def _null(runs: Sequence[Run], scores: Sequence[Sequence[Scores]]) -> list[Scores]:
    """Return scores in their own order, of several their mean, and then those of every mismatch."""
    every = [*zip((order for run in runs for order in run.orders), chain(*scores), strict=True)]
    own, wrong = ([one for order, one in every if (order is None) is right] for right in (True, False))
    for first in own[:1]:
        first.value = {name: np.mean([one.value[name] for one in own], axis=0) for name in first.value}
    return [*own[:1], *wrong]


def _assemble(
    what: Comparison, scores: Scores, null: list[Scores], left_out: list[Scores], sizes: tuple[int, ...]
) -> Evidence:
    """Put scores and their controls into arrays of one order; `null` is first of the pairs on cropped utterances."""
    table = scores_table(what, scores)
    rotations = max((len(grids) for grids in scores.rotated.values()), default=0)
    none = np.full((rotations, len(what.views), len(what.views)), np.nan)
    places = {name: np.nonzero(np.isfinite(scores.value[name])) for name in what.measures}

    def of(runs: list[Scores]) -> NDArray[np.float64]:
        values = [np.concatenate([one.value[name][at] for name, at in places.items()]) for one in runs]
        return np.reshape(values, (len(runs), len(table)))

    low = shifted(of(null), table.value.to_numpy()) if null else of(null)
    rotated = [scores.rotated.get(name, none)[:, x, y] for name, (x, y) in places.items()]
    return Evidence(table, low, of(left_out), sizes, np.concatenate(rotated, axis=1))


def _partners(what: Comparison, stores: Sequence[ActivationStore], scores: Scores, null: list[Scores]) -> pd.DataFrame:
    """Best partners with what mismatches and random bases give for the same neuron."""
    columns: dict[tuple[int, str], dict[str, NDArray]] = {}
    for key, best in scores.partners.items():
        chance = {"chance": np.mean([np.abs(one.partners[key].r) for one in null], axis=0)} if null else {}
        p = -np.expm1(best.layers * np.log1p(-np.minimum(best.p, 1 - 1e-15)))
        columns[key] = chance | {"rotated": best.rotated, "p_rotation": p}
    return pair_columns(partners_table(what, scores, columns), stores)
