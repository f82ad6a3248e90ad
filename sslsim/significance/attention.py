"""Evidence of attention: heads on mismatched utterances, and scores without blocks of utterances."""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.results import kept
from sslsim.activations.store import ActivationStore
from sslsim.comparison import heads
from sslsim.comparison.tables import same_depth
from sslsim.measures.attention import Among
from sslsim.measures.registry import MEASURES
from sslsim.significance.evidence import Evidence, Resampling, check_resampling, shifted
from sslsim.significance.jackknife import blocks_of
from sslsim.significance.nulls import Mismatches


@kept
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

    Chance is what a head says of another on a wrong utterance of about the same length, both cropped alike: heads that
    look at the start or the end of any utterance, or at a fixed distance from the query, agree by chance in this sense.
    js, whose cost is many times that of the others, has a chance level for layers at the same relative depth only.
    `rows` is how many query rows of each utterance are compared, evenly spaced among those stored; all by default.

    Returns the evidence of layers, and that of the best match of every head in every other checkpoint. The null of the
    second is the best match in each mismatch, whichever head that is, so that p allows for the search.
    """
    check_resampling(resampling)
    heads.check_attention_measures(measures)
    crops = heads.kept_rows(stores, rows)
    lengths = [len(crop.rows) for crop in crops]
    blocks = blocks_of(stores[0].index, lengths, resampling.blocks, resampling.block_by)
    where: dict[str, Any] = {"executor": executor, "device": device}
    scores, left_out = heads.score_heads(stores, measures, crops, blocks.members, **where)
    tables = scores.tables(stores, sum(lengths))
    null: list[tuple[NDArray, NDArray]] = []
    if resampling.permutations:
        full = [crop.width if len(crop.rows) else 0 for crop in crops]
        wrong = Mismatches.of(full, resampling.permutations, resampling.seed)
        how = (wrong.strata, wrong.partners, _near(tables[0], scores))
        null = [one.values() for one in heads.score_mismatches(stores, measures, crops, *how, **where)]
    made = []
    for i, pairs in enumerate(tables):
        value, n = pairs.value.to_numpy(np.float64), len(pairs)
        out = np.reshape([one.values()[i] for one in left_out], (len(left_out), n))
        low = shifted(np.stack([one[i] for one in null]), value) if null else np.empty((0, n))
        unknown = np.array([MEASURES[name].costly for name in pairs.measure], bool) & (np.isnan(low).all(0) | bool(i))
        low[:, unknown] = np.nan  # nor is a head's best match by it looked for in all layers
        whole = Evidence(pairs, low, out, blocks.sizes, np.empty((0, n)))
        known = np.isfinite(low).all(0) | unknown
        made.append(whole.only(np.isfinite(value) & known & np.isfinite(out).all(0)))
    return made[0], made[1]


def _near(pairs: pd.DataFrame, scores: heads.HeadScores) -> Among:
    """Say which heads are of layers at the same relative depth, in either direction."""
    of_one = pairs[pairs.measure == pairs.measure.iloc[0]]
    near = same_depth(of_one).to_numpy().reshape(2 * [round(len(of_one) ** 0.5)])
    layer = np.repeat(np.arange(len(near)), np.diff([*heads.starts(scores.labels, 2), len(scores.labels)]))
    kinds, kind = np.unique(near | near.T, axis=0, return_inverse=True)
    return [(np.flatnonzero(kind.ravel()[layer] == k), np.flatnonzero(row[layer])) for k, row in enumerate(kinds)]
