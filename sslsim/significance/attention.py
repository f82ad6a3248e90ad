"""Comparisons of attention with their controls: wrong utterances aligned at the query frames, and blocks left out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from sslsim.activations.store import ActivationStore
from sslsim.comparison import heads
from sslsim.comparison.tables import pair_columns
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
