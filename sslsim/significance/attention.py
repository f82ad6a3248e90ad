"""Comparisons of attention with their controls: wrong utterances aligned at the query frames, and blocks left out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from sslsim.activations.store import ActivationStore
from sslsim.comparison.heads import HeadScores, check_attention_measures, head_scores, progress
from sslsim.comparison.maps import cropped_rows, kept_rows
from sslsim.comparison.tables import pair_columns
from sslsim.parallel import chosen_device
from sslsim.significance.evidence import Evidence, Resampling, shifted
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
    wrong, null = None, []
    if resampling.permutations:
        wrong = Mismatches.of(index["length"].tolist(), resampling.permutations, resampling.seed)
    with progress(len(kept) * (2 + len(wrong.partners) if wrong else 1)) as bar:
        options: dict[str, Any] = {"executor": executor, "device": chosen_device(device), "done": bar.update}
        scores, left_out = head_scores(stores, measures, kept, blocks.members if blocks else (), **options)
        if wrong:
            crops = cropped_rows(stores, kept, wrong.strata)
            null.append(head_scores(stores, measures, crops, **options)[0])
            for partner in wrong.partners:
                one = head_scores(stores, measures, crops, partner=partner, **options)[0]
                null.append(replace(one, alone=null[0].means))
    sizes = blocks.sizes if blocks else ()
    layers, heads = (
        _evidence(of(scores), [of(one).value for one in null], [of(one).value for one in left_out], sizes)
        for of in (HeadScores.layers, HeadScores.best)
    )
    return replace(layers, pairs=pair_columns(layers.pairs, stores)), replace(
        heads, pairs=pair_columns(heads.pairs, stores)
    )


def _evidence(
    pairs: pd.DataFrame, null: list[pd.Series], left_out: list[pd.Series], sizes: tuple[int, ...]
) -> Evidence:
    """Put scores, those on cropped and on mismatched utterances, and those without blocks into arrays of one order."""
    out = np.array(left_out, dtype=np.float64).reshape(len(left_out), len(pairs))
    whole = Evidence(pairs, shifted(null, pairs.value), out, sizes, np.empty((0, len(pairs))))
    return whole.only(pairs.value.notna() & np.isfinite(whole.null).all(0) & np.isfinite(out).all(0))
