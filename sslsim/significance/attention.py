"""Comparisons of attention with their controls: wrong utterances aligned at the query frames, and blocks left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sslsim.activations.store import ActivationStore
from sslsim.comparison.heads import (
    HeadScores,
    check_attention_measures,
    cropped_rows,
    head_scores,
    kept_rows,
    progress,
)
from sslsim.comparison.tables import pair_columns
from sslsim.measures.products import Utterances
from sslsim.parallel import chosen_device
from sslsim.significance.evidence import Evidence, Resampling
from sslsim.significance.jackknife import blocks_of
from sslsim.significance.nulls import Mismatches


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
    check_attention_measures(measures)
    kept = kept_rows(stores, rows)
    index, lengths = stores[0].index, [len(crop.rows) for crop in kept]
    blocks = blocks_of(index, lengths, resampling.blocks, resampling.block_by) if resampling.blocks else None
    # without blocks one is made, so that sums are made in the same order, and its scores are dropped
    members = (blocks or Utterances(tuple(lengths), 1)).members
    wrong = None
    if resampling.permutations:
        wrong = Mismatches.of(index["length"].tolist(), resampling.permutations, resampling.seed)
    null: list[HeadScores] = []
    with progress(len(kept) * (2 + len(wrong.partners) if wrong else 1)) as bar:
        options: dict[str, Any] = {"executor": executor, "device": chosen_device(device), "done": bar.update}
        scores, left_out = head_scores(stores, measures, kept, members, **options)
        if wrong:
            crops = cropped_rows(stores, kept, wrong.strata)
            null.append(head_scores(stores, measures, crops, **options)[0])
            for partner in wrong.partners:
                one = head_scores(stores, measures, crops, partner=partner, **options)[0]
                null.append(replace(one, alone=null[0].means))
    if blocks is None:
        left_out = []

    def made(of: Callable[[HeadScores], pd.DataFrame]) -> Evidence:
        pairs, (low, out) = of(scores), ([of(one).value for one in some] for some in (null, left_out))
        return _evidence(pair_columns(pairs, stores), low, out, blocks.sizes if blocks else ())

    return made(HeadScores.layers), made(HeadScores.best)


def _evidence(
    pairs: pd.DataFrame, null: list[pd.Series], left_out: list[pd.Series], sizes: tuple[int, ...]
) -> Evidence:
    """Put the scores on cropped utterances, those of mismatches and those without blocks into arrays of one order."""
    values, out = (np.array(some, dtype=np.float64).reshape(len(some), len(pairs)) for some in (null, left_out))
    value = pairs.value.to_numpy(np.float64)
    null_values = values[1:] + (value - values[0]) if len(null) else values
    whole = Evidence(pairs, null_values, out, sizes, np.empty((0, len(pairs))))
    return whole.only(pairs.value.notna() & np.isfinite(null_values).all(0) & np.isfinite(out).all(0))
