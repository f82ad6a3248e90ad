"""What the evidence says: small tables of claims with effect, interval, p, control, and a word for the size.

An effect is told from its control (chance, random bases, other models) when that explains it with probability `ALPHA`
at most, and its interval lies above 0 (a ratio: above 1). The word for its size goes by the end of the interval that is
nearest to no effect, so that it is large only where all of the interval is; "none" is an interval that lies nearer to
no effect than a small one does, however small its p. Intervals are over speech and say nothing about other models of
the kind. p is of one claim alone, however many there are.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.analysis.contents import OF_GIVEN
from sslsim.analysis.finetuning import in_seeds
from sslsim.analysis.layers import Pairs, measured, same_depth_by_relation, separate_at_same_depth
from sslsim.encoders.lineage import Lineage
from sslsim.errors import SslsimError, Unanswered
from sslsim.measures.registry import BEYOND_BASES
from sslsim.significance.evidence import Estimate, Evidence
from sslsim.significance.nulls import ALPHA

Masks = dict[str, NDArray[np.bool_]]  # of pairs of layers, by name
Row = dict[str, Any]
Bounds = Mapping[str, tuple[float, float, float]]
CLAIM_COLUMNS = ["claim", "between", "measure", "effect", "unit", "ci_low", "ci_high", "p", "p_of", "p_floor"]
CLAIM_COLUMNS += ["control", "verdict"]
BOUNDS: Bounds = {"share": (0.1, 0.3, 0.6), "difference": (0.05, 0.15, 0.3), "ratio": (1.1, 1.5, 2.0)}
"""From where an effect is small, moderate and large, by its unit."""
SIZES = ["small", "moderate", "large"]
NONE, OPPOSITE, NOT_TOLD, NOT_TESTED = "none", "opposite", "not told from chance", "not tested"
FINETUNED = ", finetuned"
FAMILIES, EQUIVALENCE = "one family more alike than two", "equivalence"
THAN_SEED = "the last layer moved further than another seed"
ROOM = 0.05  # below the best score: where chance leaves less, as with few frames for many neurons, nothing is told
MORE, CONTROLS = "more alike than with ", {"untrained": "random weights", "spectrogram": "the spectrogram"}


def neuron_claims(evidence: Evidence, lineage: Lineage | None = None, bounds: Bounds = BOUNDS) -> pd.DataFrame:
    """Judge whether models trained apart share neurons, and whether they share the subspace that these span.

    For each relation, over layers at the same depth, also against baselines, and with the lineage by family:

    - linreg_r2: the share of the variance of each neuron that lies in the subspace of the other layer,
      ``(R2 - c) / (1 - c)`` with c the R2 of mismatched utterances;
    - neuron_excess: the variance that single neurons explain beyond random axes of the same subspace, and neuron_count:
      the share of neurons that have a partner which random bases do not explain, of those that chance leaves; both
      judged against mismatches and random bases.
    """
    rows: list[Row] = []
    for relation, part in separate_at_same_depth(evidence):
        rows.append(_above_bases("single neurons are shared", relation, part, "neuron_count", best=1.0))
        rows.append(_above_bases("single neurons explain more than random axes", relation, part, "neuron_excess"))
        rows.append(_above_chance("the subspace is shared", relation, part, "linreg_r2", best=1.0))
    for name in ("neuron_count", "linreg_r2") if rows else ():
        rows += _above_controls(measured(evidence, name), name, lineage)
    return _table(rows, bounds, "models trained apart, linreg_r2, neuron_excess and neuron_count")


def _above_bases(claim: str, between: str, evidence: Evidence, measure: str, best: float | None = None) -> Row:
    """Judge a score of single neurons against mismatches and random bases."""
    evidence = measured(evidence, measure)
    whole = evidence.estimate()
    # random bases are those of the layer looked in: taken together, the two directions of a pair would agree more
    # than their bases do, and chance would be found significant too often
    x, y = np.split(pd.factorize(pd.concat([evidence.pairs.model_x, evidence.pairs.model_y]))[0], 2)
    p = np.max([whole.p, *(evidence.only(half).estimate().p_rotation for half in (x < y, x > y))])
    row = _above_chance(claim, between, evidence, measure, best)
    floor = max(row["p_floor"], 1 / (len(evidence.rotated) + 1))
    row |= {"p": p, "p_of": "mismatches or random bases", "p_floor": floor}
    return row | {"control": f"{row['control']}, random bases: {whole.rotated:z.3f}"}


def layer_claims(
    evidence: Evidence,
    measures: Sequence[str] = ("svcca", "linear_cka_debiased"),
    lineage: Lineage | None = None,
    bounds: Bounds = BOUNDS,
) -> pd.DataFrame:
    """Judge whether layers of models trained apart are alike, beyond chance and beyond what is no training.

    For each measure and relation, over layers at the same relative depth: above chance; above random weights; above the
    spectrogram, the input of all. With the lineage, for each measure and family: more alike than two families. Where
    the evidence has debiased CKA raw and standardised: whether they differ, or are the same within the least small
    difference: two one-sided tests, by an interval that lies within. Measures that it lacks are left out.
    """
    rows = []
    for name in [name for name in measures if (evidence.pairs.measure == name).any()]:
        rows += _above_controls(measured(evidence, name), name, lineage, "layers at the same relative depth are alike")
    cka = evidence.only(evidence.pairs.measure.isin(["linear_cka_debiased", "linear_cka_debiased_raw"]))
    for relation, part in separate_at_same_depth(cka) if cka.pairs.measure.nunique() == 2 else ():
        raw = (part.pairs.measure == "linear_cka_debiased_raw").to_numpy()
        both, claim = {relation: raw, "standardised": ~raw}, "raw CKA differs from standardised CKA"
        row = _difference(claim, "linear_cka_debiased", part, both, *both)
        control = f"{row['control']}, counts as the same within ±{bounds['difference'][0]:g}"
        rows.append(row | {"p": np.nan, "p_of": EQUIVALENCE, "control": control})
    return _table(rows, bounds, "models trained apart, and " + " or ".join(measures))


def attention_claims(
    evidence: Evidence, measure: str = "pearson", lineage: Lineage | None = None, bounds: Bounds = BOUNDS
) -> pd.DataFrame:
    """Judge whether attention of models trained apart agrees beyond position and beyond what is no training.

    Chance is a wrong utterance with the rows aligned at their query frames: what is above it depends on what is said.
    """
    rows = _above_controls(measured(evidence, measure), measure, lineage, "beyond position, heads are alike")
    return _table(rows, bounds, f"models trained apart, and {measure}")


def contents_claims(evidence: Evidence, lineage: Lineage, bounds: Bounds = BOUNDS) -> pd.DataFrame:
    """Judge whether layers hold what is given of every frame, by `sslsim.analysis.held_against`.

    For each of what is given and each family, pretrained and finetuned: the share of its variance that a layer explains
    beyond chance, mean over layers; more than layers of random weights; of finetuned ones, more than pretrained ones.
    """
    rows, known = [], {each.name: each for each in lineage.checkpoints}
    group = {name: f"{each.family or name}{FINETUNED * bool(each.finetuned_from)}" for name, each in known.items()}
    group |= {name: "random weights" for name, each in known.items() if each.untrained_seed is not None}
    of = evidence.pairs[evidence.pairs.share == OF_GIVEN]
    groups, trained = of.model.map(group), of.model.map(lambda name: known[name].weights == "trained")
    for given in dict.fromkeys(of.given):
        masks = {name: (groups == name) & (of.given == given) for name in dict.fromkeys(groups)}
        masks = {name: mask.reindex(evidence.pairs.index, fill_value=False).to_numpy() for name, mask in masks.items()}
        for name in dict.fromkeys(groups[trained]):
            one = evidence.only(masks[name])
            rows.append(_above_chance(f"{given} is in the layers", name, one, "linreg_r2", best=1.0))
            before = f"{name.removesuffix(FINETUNED)}, where they began"
            origins = {known[model].finetuned_from for model in of.model[groups == name]}
            masks[before] = (evidence.pairs.model.isin(origins) & (of.given == given)).fillna(False).to_numpy(bool)
            for claim, control in (("in random weights", "random weights"), ("it was before finetuning", before)):
                if control in masks and masks[control].any():
                    claim = f"{given} is in them more than {claim}"
                    rows.append(_difference(claim, "linreg_r2", evidence, masks, name, control))
    return _table(rows, bounds, "layers of trained models, by held_against")


def finetuning_claims(
    evidences: Evidence | Sequence[Evidence],
    pairs: Pairs,
    measures: Sequence[str] = ("max_corr", "linreg", "svcca"),
    bounds: Bounds = BOUNDS,
) -> pd.DataFrame:
    """Judge how far finetuning moved a model, each layer held against the same layer before it.

    For each measure and finetuned model: how much more of the first layer compared than of the last is left; where the
    pretrained model has another seed, how far the last layer moved as a multiple of how far that seed's is away. For
    the arguments and the distance see `distance_moved`; measures that the evidence lacks are left out.
    """
    every = [evidences] if isinstance(evidences, Evidence) else evidences
    rows = [row for one, name, pair in product(every, measures, pairs) for row in _moved(one, pair, name)]
    return _table(rows, bounds, "finetuned counterparts, and " + " or ".join(measures))


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
    rows = [_row("the last layer moved more than the first", between, measure, estimate, f"layer {layers.min()}")]
    if len(seeds) and measure not in BEYOND_BASES:
        estimate = evidence.estimate(lambda v: in_seeds(top, seeds.to_numpy(), v) - 1)
        row = _row(THAN_SEED, between, measure, estimate, "another seed: 1")
        rows.append(row | {name: row[name] + 1 for name in ("effect", "ci_low", "ci_high")} | {"unit": "ratio"})
    return rows


def _row(claim: str, between: str, measure: str, estimate: Estimate, control: str) -> Row:
    row: Row = {"claim": claim, "between": between, "measure": measure, "p": estimate.p_zero, "control": control}
    row |= {"effect": estimate.value, "ci_low": estimate.low, "ci_high": estimate.high}
    return row | {"unit": "difference", "p_of": "interval", "p_floor": np.nan}


def _above_chance(claim: str, between: str, evidence: Evidence, measure: str, best: float | None = None) -> Row:
    """Take chance off a score, as a share of what chance leaves open (if it does) where the best score is given."""
    estimate = measured(evidence, measure).estimate()
    whole = 1.0 if best is None else best - estimate.chance
    whole = whole if whole > ROOM else np.nan
    value, low, high = ((end - estimate.chance) / whole for end in (estimate.value, estimate.low, estimate.high))
    above = Estimate(value, low, high, p_zero=estimate.p)
    row = _row(claim, between, measure, above, f"mismatched utterances: {estimate.chance:z.3f}")
    unit = "share" if best or measure in BEYOND_BASES else "difference"
    return row | {"unit": unit, "p_of": "mismatches", "p_floor": 1 / (len(evidence.null) + 1)}


def _above_controls(evidence: Evidence, measure: str, lineage: Lineage | None, claim: str = "") -> list[Row]:
    """Hold relations against chance, if with a claim, and no training; families one by one, as a mean hides signs."""
    known, parts = same_depth_by_relation(evidence), separate_at_same_depth(evidence)
    rows = [_above_chance(claim, relation, part, measure) for relation, part in parts if claim]
    for to, what in CONTROLS.items():
        if to in known:
            rows += [_difference(MORE + what, measure, evidence, known, relation, to) for relation, _ in parts]
    family = {each.name: each.family for each in lineage.checkpoints} if lineage else {}
    x, y = (evidence.pairs[side].map(family) for side in ("model_x", "model_y"))
    for name in dict.fromkeys(filter(None, family.values())):
        masks = {name: known.get("same family", False) & (x == name).to_numpy()}
        masks |= {"other family": known.get("other family", False) & ((x == name) | (y == name)).to_numpy()}
        if all(mask.any() for mask in masks.values()):
            rows.append(_difference(FAMILIES, measure, evidence, masks, *masks))
    return rows


def _difference(claim: str, measure: str, evidence: Evidence, masks: Masks, of: str, control: str) -> Row:
    """Take the mean over the pairs of layers of one mask less that over another, the control."""
    a, b = masks[of], masks[control]
    estimate = evidence.estimate(lambda v: v[..., a].mean(-1) - v[..., b].mean(-1))
    return _row(claim, of, measure, estimate, f"{control}: {evidence.only(b).estimate().value:z.3f}")


def _table(rows: list[Row], bounds: Bounds, needed: str) -> pd.DataFrame:
    if not rows:
        raise Unanswered(f"nothing to judge; the evidence needs {needed}")
    if {unit: len(steps) for unit, steps in bounds.items()} != dict.fromkeys(BOUNDS, len(SIZES)):
        raise SslsimError(f"bounds are {dict(bounds)}; give three numbers each for {', '.join(BOUNDS)}")
    return pd.DataFrame([row | {"verdict": _verdict(row, bounds)} for row in rows])[CLAIM_COLUMNS]


def _verdict(row: Row, bounds: Mapping[str, Sequence[float]]) -> str:
    """Return the word for the size of an effect, or why there is none."""
    low, high, steps = row["ci_low"], row["ci_high"], bounds[row["unit"]]
    if row["unit"] == "ratio":  # half as far is as far from 1 as twice as far
        low, high, *steps = np.log(np.maximum([low, high, *steps], np.finfo(float).tiny))
    if row["p_floor"] > ALPHA:
        return f"{NOT_TESTED} (too few {row['p_of']})"
    if np.isnan(row.get("effect", 0)):
        return f"{NOT_TESTED} (too few frames)"  # chance leaves nothing
    if np.isnan(low):
        return f"{NOT_TESTED} (no interval)"
    if max(-low, high) < steps[0]:
        return NONE
    differs = row["p_of"] == EQUIVALENCE
    if low <= 0 <= high or (low > 0 and row["p"] > ALPHA and not differs):
        return NOT_TOLD
    if high < 0 and not differs:
        return OPPOSITE
    return SIZES[int(sum(max(low, -high) >= step for step in steps[1:]))]
