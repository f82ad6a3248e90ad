"""What the evidence says: small tables of claims with effect, interval, p, control, and whether they hold.

A claim holds when its control (chance, random bases, other models) explains it with probability `ALPHA` at most, and
its interval lies above 0; with fewer than 19 permutations or rotations no p can be that small. Intervals are over
speech and say nothing about other models of the kind. p is of one claim alone, however many there are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.analysis.finetuning import in_seeds
from sslsim.analysis.layers import Pairs, measured, same_depth_by_relation, separate_at_same_depth
from sslsim.encoders.lineage import SEPARATE
from sslsim.errors import SslsimError
from sslsim.measures.registry import BEYOND_BASES
from sslsim.significance.evidence import Estimate, Evidence
from sslsim.significance.nulls import ALPHA

Masks = dict[str, NDArray[np.bool_]]  # of pairs of layers, by name
Row = dict[str, Any]
CLAIM_COLUMNS = ["claim", "between", "measure", "effect", "ci_low", "ci_high", "p", "control", "holds"]
TOO_FEW = "too few"
FEW_NEURONS = 0.1  # share of neurons with partners below which models have other neurons
CLOSE = 0.1  # how far raw and standardised scores may lie apart and still say the same


def neuron_claims(evidence: Evidence) -> pd.DataFrame:
    """Judge whether models trained apart share neurons, and whether they share the subspace that these span.

    For each relation, over layers at the same relative depth:

    - linreg_r2: the share of the variance of each neuron that lies in the subspace of the other layer,
      ``(R2 - c) / (1 - c)`` with c the R2 of mismatched utterances;
    - neuron_excess: the variance that single neurons explain beyond random axes of the same subspace, and neuron_count:
      the share of neurons that have a partner which random bases do not explain, of those that chance leaves; both
      judged against mismatches and random bases;
    - the claim of the paper: the subspace is shared, and the interval of the share of neurons lies below a tenth.
    """
    rows = []
    for relation, part in separate_at_same_depth(evidence):
        space = _above_chance("the subspace is shared", relation, part, "linreg_r2", best=1.0)
        more = _above_bases("single neurons explain more than random axes", relation, part, "neuron_excess")
        single = _above_bases("neurons have partners", relation, part, "neuron_count", best=1.0)
        # judged is the size of the share of neurons: with enough speech the smallest is told from chance
        alone = space["holds"] == "yes" and single["ci_high"] < FEW_NEURONS
        holds = space["holds"] if space["holds"].startswith(TOO_FEW) else _yes_or_no(alone, single["ci_low"])
        both = {"claim": "the same subspace, other neurons", "measure": "linreg_r2, neuron_count", "p": np.nan}
        both |= {"control": f"neurons with partners: below {FEW_NEURONS:g}", "holds": holds}
        rows += [space, more, single, single | both]
    return _table(rows, "models trained apart, linreg_r2, neuron_excess and neuron_count")


def _above_bases(claim: str, between: str, evidence: Evidence, measure: str, best: float | None = None) -> Row:
    """Judge a score of single neurons against mismatches and random bases."""
    evidence = measured(evidence, measure)
    whole = evidence.estimate()
    # random bases are those of the layer looked in: taken together, the two directions of a pair would agree more
    # than their bases do, and chance would be found significant too often
    x, y = np.split(pd.factorize(pd.concat([evidence.pairs.model_x, evidence.pairs.model_y]))[0], 2)
    p = np.max([whole.p, *(evidence.only(half).estimate().p_rotation for half in (x < y, x > y))])
    row = _above_chance(claim, between, evidence, measure, best)
    row |= {"control": f"{row['control']}, random bases: {whole.rotated:.3f}", "p": p}
    return _judged(row, permutations=len(evidence.null), rotations=len(evidence.rotated))


def layer_claims(evidence: Evidence, measures: Sequence[str] = ("svcca", "linear_cka_debiased")) -> pd.DataFrame:
    """Judge whether layers of models trained apart are alike, beyond chance and beyond what is no training.

    For each measure and relation, over layers at the same relative depth: above chance; above random weights; above the
    spectrogram, the input of all. For each measure: one family above two. Where the evidence has debiased CKA raw and
    standardised: whether the two say the same. Measures that it lacks are left out.
    """
    rows = []
    for name in [name for name in measures if (evidence.pairs.measure == name).any()]:
        some = measured(evidence, name)
        known = same_depth_by_relation(some.pairs)
        rows += _above_controls(some, known, "layers alike above chance", name)
        if "same family" in known and "other family" in known:
            claim = "one family more alike than two"
            rows.append(_difference(claim, name, some, known, "same family", "other family"))
    cka = evidence.only(evidence.pairs.measure.isin(["linear_cka_debiased", "linear_cka_debiased_raw"]))
    for relation, part in separate_at_same_depth(cka) if cka.pairs.measure.nunique() == 2 else ():
        raw = (part.pairs.measure == "linear_cka_debiased_raw").to_numpy()
        claim, both = "raw CKA says what standardised CKA says", {relation: raw, "standardised": ~raw}
        row = _difference(claim, "linear_cka_debiased", part, both, relation, "standardised")
        same = row["ci_low"] > -CLOSE and row["ci_high"] < CLOSE
        rows.append(row | {"holds": _yes_or_no(same, row["ci_low"])})
    return _table(rows, "models trained apart, and " + " or ".join(measures))


def attention_claims(evidence: Evidence, measure: str = "pearson") -> pd.DataFrame:
    """Judge whether attention of models trained apart agrees beyond position and beyond what is no training.

    Chance is a wrong utterance with the rows aligned at their query frames: what is above it depends on what is said.
    """
    some, claim = measured(evidence, measure), "heads agree on what is said, beyond position"
    rows = _above_controls(some, same_depth_by_relation(some.pairs), claim, measure)
    return _table(rows, f"models trained apart, and {measure}")


def finetuning_claims(
    evidence: Evidence, pairs: Pairs, measures: Sequence[str] = ("max_corr", "linreg", "svcca")
) -> pd.DataFrame:
    """Judge how far finetuning moved a model, in multiples of the distance between two seeds of its recipe.

    For each measure and finetuned model: the last layer moved further than the first compared; where the pretrained
    model has another seed, it moved further than that seed is away (a quotient above 1). For the arguments and the
    distance see `distance_moved`; measures that the evidence lacks are left out.
    """
    rows = [row for name in measures for pair in pairs for row in _moved(evidence, pair, name)]
    return _table(rows, "finetuned counterparts, and " + " or ".join(measures))


def _moved(evidence: Evidence, pair: tuple[str, str], measure: str) -> list[Row]:
    """Judge one finetuned model by one measure; no rows without its last layer."""
    table, between = evidence.pairs, " to ".join(pair)
    same = table[(table.measure == measure) & (table.model_x == pair[0]) & (table.layer_x == table.layer_y)]
    layers, last = same.layer_x[same.model_y == pair[1]], same[same.depth_x == 1]
    tops, seeds = last.index[last.model_y == pair[1]], last.index[last.relation == "other seed"]
    if tops.empty:
        return []
    first, top = layers.idxmin(), tops[0]
    estimate = evidence.estimate(lambda v: v[..., first] - v[..., top])
    rows = [_row("the last layer moved further than the first", between, measure, estimate, f"layer {layers.min()}")]
    if len(seeds) and measure not in BEYOND_BASES:
        estimate = evidence.estimate(lambda v: in_seeds(top, seeds.to_numpy(), v) - 1)
        row = _row("the last layer moved further than another seed", between, measure, estimate, "another seed: 1")
        rows.append(row | {name: row[name] + 1 for name in ("effect", "ci_low", "ci_high")})
    return rows


def _row(claim: str, between: str, measure: str, estimate: Estimate, control: str) -> Row:
    row: Row = {"claim": claim, "between": between, "measure": measure, "p": estimate.p_zero, "control": control}
    return _judged(row | {"effect": estimate.value, "ci_low": estimate.low, "ci_high": estimate.high})


def _yes_or_no(holds: bool, low: float) -> str:
    return "no interval" if np.isnan(low) else "yes" if holds else "no"


def _judged(row: Row, **counts: int) -> Row:
    """Say whether a claim holds, or which count is too small for any p to fall to `ALPHA`, whatever the effect."""
    few = [name for name, n in counts.items() if 1 / (n + 1) > ALPHA]
    holds = _yes_or_no(row["p"] <= ALPHA and row["ci_low"] > 0, row["ci_low"])
    return row | {"holds": f"{TOO_FEW} {' and '.join(few)}" if few else holds}


def _above_chance(claim: str, between: str, evidence: Evidence, measure: str, best: float | None = None) -> Row:
    """Judge a score less chance, as a share of what chance leaves open where the best score is given."""
    estimate = measured(evidence, measure).estimate()
    whole = 1.0 if best is None else best - estimate.chance
    value, low, high = ((end - estimate.chance) / whole for end in (estimate.value, estimate.low, estimate.high))
    above = Estimate(value, low, high, p_zero=estimate.p)
    row = _row(claim, between, measure, above, f"mismatched utterances: {estimate.chance:.3f}")
    return _judged(row, permutations=len(evidence.null))


def _above_controls(evidence: Evidence, known: Masks, claim: str, measure: str) -> list[Row]:
    """Judge each relation of models trained apart against chance, untrained models and the spectrogram."""
    rows = []
    for relation in [r for r in SEPARATE if r in known]:
        rows.append(_above_chance(claim, relation, evidence.only(known[relation]), measure))
        for to, what in (("untrained", "random weights"), ("spectrogram", "the spectrogram")):
            if to in known:
                rows.append(_difference(f"more alike than with {what}", measure, evidence, known, relation, to))
    return rows


def _difference(claim: str, measure: str, evidence: Evidence, masks: Masks, of: str, control: str) -> Row:
    """Judge how far the mean over the pairs of layers of one mask lies above that over another, the control."""
    a, b = masks[of], masks[control]
    estimate = evidence.estimate(lambda v: v[..., a].mean(-1) - v[..., b].mean(-1))
    return _row(claim, of, measure, estimate, f"{control}: {evidence.only(b).estimate().value:.3f}")


def _table(rows: list[Row], needed: str) -> pd.DataFrame:
    if not rows:
        raise SslsimError(f"nothing to judge; the evidence needs {needed}")
    return pd.DataFrame(rows).reindex(columns=CLAIM_COLUMNS)
