"""Comparisons with their controls: the same pairs on mismatched utterances, without blocks, and in random bases."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.selection import check_between, check_measures, check_stores, layer_views, utterances_of
from sslsim.activations.store import ActivationStore
from sslsim.comparison import heads
from sslsim.comparison.engine import score_pairs
from sslsim.comparison.layers import partners_table, scores_table
from sslsim.comparison.scores import SHARED, Comparison, PairScores, Scores
from sslsim.comparison.tables import pair_columns
from sslsim.errors import SslsimError
from sslsim.measures.products import Utterances
from sslsim.measures.registry import MEASURES, measure_named
from sslsim.parallel import chosen_device
from sslsim.significance.evidence import Evidence, Resampling, shifted
from sslsim.significance.jackknife import blocks_of
from sslsim.significance.nulls import Mismatches, p_value


def evidence(
    stores: Sequence[ActivationStore],
    measures: Sequence[str],
    *,
    frames: int | None = None,
    between: Iterable[Sequence[str]] | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    partners: bool = False,
    executor: Executor | None = None,
    device: str = "auto",
) -> Evidence:
    """Compare layers as `sslsim.compare` does, with chance level, interval and random bases of every score.

    Parameters
    ----------
    stores, measures, frames, between, executor, device
        See `sslsim.compare`; measures of layers and neurons.
    resampling : Resampling
        How many mismatches, blocks and random bases. Each mismatch costs something less than the comparison itself.
    partners : bool
        Find each neuron's best partner too, with what chance and random bases give (`Evidence.partners`).
    """
    check_measures(measures)
    for name in measures:
        if measure_named(name).level == "attention":
            raise SslsimError(f"measure {name!r} compares attention; use attention_evidence")
    check_stores(stores)
    views = layer_views(stores, frames)
    lengths = utterances_of(views).lengths
    blocks = blocks_of(stores[0].index, lengths, resampling.blocks, resampling.block_by)
    wrong = Mismatches.of(lengths, resampling.permutations, resampling.seed) if resampling.permutations else None
    chosen = check_between(between, stores)
    what = Comparison(views, tuple(measures), chosen, partners=partners, device=chosen_device(device))
    what = replace(what, rotations=resampling.rotations, seed=resampling.seed)
    scores = _scores(what, blocks, executor)
    null = _mismatched(what, wrong, lengths, executor) if wrong else []
    made = _assemble(what, scores, null, blocks.sizes)
    best = pair_columns(_partners(what, scores, null), stores) if partners else None
    return replace(made, pairs=pair_columns(made.pairs, stores), partners=best)


def attention_evidence(
    stores: Sequence[ActivationStore],
    measures: Sequence[str] = ("pearson", "js", "frobenius", "attention_cka"),
    *,
    rows: int | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  frozen
    executor: Executor | None = None,
    device: str = "auto",
) -> tuple[Evidence, Evidence]:
    """Compare attention as `sslsim.compare_attention` does, with chance level and interval of every score.

    Chance is what a head says of another on a wrong utterance of about the same length, rows cropped alike around their
    query frames: heads that look at a fixed distance whatever is said agree by chance in this sense.

    Parameters
    ----------
    stores, measures, executor, device
        See `sslsim.compare_attention`.
    rows : int, optional
        Query rows of each utterance to compare, evenly spaced among those stored; all by default.
    resampling : Resampling
        How many mismatches and blocks.

    Returns
    -------
    layers : Evidence
        Scores of layers.
    heads : Evidence
        Best match of every head in every other checkpoint. Its null is the best match in each mismatch, whichever head
        that is, so that p allows for the search.
    """
    heads.check_attention_measures(measures)
    kept = heads.kept_rows(stores, rows)
    index, lengths = stores[0].index, [len(crop.rows) for crop in kept]
    blocks = blocks_of(index, lengths, resampling.blocks, resampling.block_by)
    runs = [heads.Run(kept, blocks.members)]
    if resampling.permutations:
        wrong = Mismatches.of(index["length"].tolist(), resampling.permutations, resampling.seed)
        crops = heads.cropped_rows(stores, kept, wrong.strata)
        runs += [heads.Run(crops), *(heads.Run(crops, partner=partner) for partner in wrong.partners)]
    (scores, left_out), *others = heads.head_scores(stores, measures, runs, executor, device)
    null = [one for one, _ in others]
    null = [*null[:1], *(replace(one, alone=null[0].means) for one in null[1:])]
    made = []
    for of in (heads.HeadScores.layers, heads.HeadScores.best):
        pairs = pair_columns(of(scores), stores)
        out = np.array([of(one).value for one in left_out], dtype=np.float64).reshape(len(left_out), len(pairs))
        low = shifted([of(one).value for one in null], pairs.value)
        whole = Evidence(pairs, low, out, blocks.sizes, np.empty((0, len(pairs))))
        made.append(whole.only(pairs.value.notna() & np.isfinite(low).all(0) & np.isfinite(out).all(0)))
    return made[0], made[1]


def _scores(what: Comparison, blocks: Utterances, executor: Executor | None) -> Scores:
    """Score every pair, and once more without each block: of moments these are left out, frames are compared anew."""
    scores = Scores()
    anew = tuple(name for name in what.measures if MEASURES[name].prepare or MEASURES[name].utterances)
    of_moments = tuple(name for name in what.measures if name not in anew)
    if of_moments or not anew:
        joined = blocks.joined if blocks.members else None
        scores.add(*score_pairs(replace(what, measures=of_moments, blocks=joined), executor))
    if not anew:
        return scores
    what = replace(what, measures=anew, partners=what.partners and not of_moments)
    scores.add(*score_pairs(what, executor))
    left_out = []
    for g, kept in enumerate(blocks.without):
        views = [view.only(kept) for view in what.views]
        fewer = replace(what, views=views, partners=False, title=f"without block {g + 1}")
        left_out.append(score_pairs(fewer, executor)[0].pairs)
    for pair in scores.pairs:
        scores.pairs[pair] |= PairScores(without=tuple(one[pair].value for one in left_out))
    return scores


def _mismatched(what: Comparison, wrong: Mismatches, lengths: Sequence[int], executor: Executor | None) -> list[Scores]:
    """Return the scores on utterances cropped alike, and then those with y mismatched in each way."""
    place = np.concatenate([np.arange(n) for n in lengths])
    rows = what.views[0].only(place < np.repeat(wrong.lengths, lengths)).frames  # the first so many of each utterance
    views = [replace(view, frames=rows) for view in what.views]
    spans = np.split(np.arange(wrong.lengths.sum()), np.cumsum(wrong.lengths)[:-1])
    orders = [np.concatenate([spans[v] for v in partner]) for partner in wrong.partners]
    return score_pairs(replace(what, views=views, chance=True, title="mismatches"), executor, orders)


def _assemble(what: Comparison, scores: Scores, null: list[Scores], sizes: tuple[int, ...]) -> Evidence:
    """Put scores and their controls into arrays of one order; `null` is that of `_mismatched`."""
    of_neurons = [name for name in what.measures if MEASURES[name].matching and what.rotations]
    added = [f"{name}_excess_{side}" for side in "xy" for name in of_neurons] + ([SHARED] if of_neurons else [])
    table = scores_table(what, scores, added)
    keys = [(name, pair) for name in (*what.measures, *added) for pair in sorted(scores.pairs)]
    values = [[one.pairs[pair].value.get(name, np.nan) for name, pair in keys] for one in null]
    left_out, rotated = (
        np.array(numbers, dtype=np.float64).T  # as many numbers of every pair in rows
        for numbers in (
            [[one[name] for one in scores.pairs[pair].without] for name, pair in keys],
            [scores.pairs[pair].rotated.get(name, [np.nan] * what.rotations) for name, pair in keys],
        )
    )
    return Evidence(table, shifted(values, table.value), left_out, sizes, rotated).only(table.value.notna())


def _partners(what: Comparison, scores: Scores, null: list[Scores]) -> pd.DataFrame:
    """Best partners with what mismatches and random bases give for the same neuron."""
    columns: dict[tuple[int, str], dict[str, NDArray]] = {key: {} for key in scores.partners}
    for key, best in scores.partners.items():
        if null:
            wrong = np.abs(np.stack([one.partners[key].r for one in null[1:]], axis=1))
            columns[key] |= {"chance": wrong.mean(1), "p": p_value(np.abs(best.r), wrong.T)}
        if what.rotations:  # there are none where no measure is of single neurons
            rotated = best.rotated if len(best.rotated) else np.full((1, len(best.r)), np.nan)
            columns[key] |= {"rotated": np.ascontiguousarray(rotated.T).mean(1), "rotated_high": rotated.max(0)}
    return partners_table(what.views, scores, columns)
