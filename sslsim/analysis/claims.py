"""What the evidence says: small tables of claims with effect, interval, p, control, and whether they hold.

A claim holds when its control (chance, random bases, other models) explains it with probability 0.05 at most, and its
interval lies above 0; with fewer than 19 draws no p can be that small, and without groups there is no interval.
Intervals are over speech, with these models and layers as they are: they say nothing about other models of the kind.
p is of one claim alone, without regard to how many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.store import ActivationStore
from sslsim.analysis.partners import aligned_cells, in_seeds
from sslsim.analysis.summaries import SEPARATE, finetuned_pairs, relate, under
from sslsim.errors import SslsimError
from sslsim.significance.jackknife import ALPHA
from sslsim.significance.run import Evidence, Reading

COLUMNS = ["claim", "between", "measure", "effect", "ci_low", "ci_high", "p", "control", "holds"]
FEW = "too few draws"
NO_INTERVAL = "no interval"
FEW_NEURONS = 0.1  # share of neurons with partners of their own below which models have other neurons
CLOSE = 0.1  # how far raw and standardised scores may lie apart and still say the same


def neurons(evidence: Evidence, stores: Sequence[ActivationStore]) -> pd.DataFrame:
    """Judge whether models trained apart share neurons, and whether they share the subspace that these span.

    For each relation, over layers at the same relative depth:

    - the share of the variance of each neuron that lies in the subspace of the other layer, ``(R2 - c) / (1 - c)`` with
      c the R2 of mismatched utterances;
    - the share of neurons that have a partner of their own, beyond any random basis (`rotations.shared`), and beyond
      chance;
    - the claim of the paper, the same subspace with other neurons: the subspace is shared, and the interval of the
      share of neurons lies below a tenth.

    Parameters
    ----------
    evidence : Evidence
        With the measures max_corr and linreg_r2.
    stores : sequence of ActivationStore
        That it was made from.
    """
    rows = []
    for relation, part in _by_relation(evidence, stores):
        draws = len(part.null)
        space = _drawn(_share_of_variance(relation, _of(part, "linreg_r2").reading()), draws)
        shared = _of(part, "neurons_shared").reading()
        height = _of(part, "max_corr").reading().value - _of(part, "max_corr_excess_y").reading().value
        control = f"random bases, where max_corr is {height:.3f}"
        p = max(shared.p, *(half.reading().p_rotation for half in _directions(part, stores)))
        single = _row("neurons have partners of their own", relation, "neurons_shared", shared, control, p=p)
        single = _drawn(single, draws)
        rows += [space, single, _same_space_other_axes(relation, space, single)]
    return _table(rows, "models trained apart, and max_corr and linreg_r2")


def layers(
    evidence: Evidence,
    stores: Sequence[ActivationStore],
    measures: Iterable[tuple[str, bool]] = (("svcca", True), ("linear_cka_debiased", True)),
) -> pd.DataFrame:
    """Judge whether layers of models trained apart are alike, beyond chance and beyond what is no training.

    For each measure and relation, over layers at the same relative depth: above chance; above models with random
    weights; above the spectrogram that all hear. For each measure: one family above two.

    Parameters
    ----------
    evidence : Evidence
        With the measures.
    stores : sequence of ActivationStore
        That it was made from.
    measures : iterable of (name, standardize)
        To judge; those that the evidence lacks are left out.
    """
    rows = []
    for name, scaled in measures:
        some = evidence.only(under(evidence.cells, name, scaled))
        if some.cells.empty:
            continue
        known = aligned_cells(some, stores)
        rows += _above_controls(some, known, "layers alike above chance", name)
        if "same family" in known and "other family" in known:
            claim = "one family more alike than two"
            rows.append(_difference(some, known, "same family", "other family", claim, name))
    for relation, part in _by_relation(evidence, stores):
        cka = part.only(part.cells.measure == "linear_cka_debiased")
        if set(cka.cells.standardize) == {True, False}:
            rows.append(_raw_as_standardized(relation, cka))
    return _table(rows, "models trained apart, and " + " or ".join(name for name, _ in measures))


def attention(evidence: Evidence, stores: Sequence[ActivationStore], measure: str = "pearson") -> pd.DataFrame:
    """Judge whether attention of models trained apart agrees beyond position and beyond what is no training.

    Chance is a wrong utterance with the rows aligned at their query frames: what is above it depends on what is said.
    """
    some = _of(evidence, measure)
    claim = "heads agree on what is said, beyond position"
    rows = _above_controls(some, aligned_cells(some, stores), claim, measure)
    return _table(rows, f"models trained apart, and {measure}")


def finetuning(
    evidence: Evidence, stores: Sequence[ActivationStore], measures: Iterable[str] = ("max_corr", "linreg", "svcca")
) -> pd.DataFrame:
    """Judge how far finetuning moved a model, in units of the distance between two seeds of its recipe.

    The distance of two layers is one minus their similarity. For each measure and finetuned model: the last layer moved
    further than the first compared; where the pretrained model has another seed, the last layer moved further than that
    seed is away (a quotient above 1).

    Parameters
    ----------
    evidence : Evidence
        With the measures, between each pretrained model and its counterparts and other seeds.
    stores : sequence of ActivationStore
        That it was made from.
    measures : iterable of str
        To judge; those that the evidence lacks are left out.
    """
    related = relate(evidence.cells, stores)
    rows = []
    for name in measures:
        of_name = under(related, name)
        for before, after in finetuned_pairs(stores):
            pair = before.checkpoint.name, after.checkpoint.name
            same = of_name & (related.model_x == pair[0]) & (related.layer_x == related.layer_y)
            moved = same & (related.model_y == pair[1])
            if not moved.any():
                continue
            bottom, last = related.layer_x[moved].min(), before.n_layers - 1  # of attention the first is layer 1
            seed = same & (related.relation == "other seed") & (related.layer_x == last)
            ends = [np.flatnonzero(moved & (related.layer_x == layer)) for layer in (bottom, last)]
            if not all(map(len, ends)):
                continue
            first, top = (int(found[0]) for found in ends)
            reading = evidence.reading(lambda v, a=first, b=top: v[..., a] - v[..., b])  # type: ignore[misc]
            between = " to ".join(pair)
            rows.append(_row("the last layer moved further than the first", between, name, reading, f"layer {bottom}"))
            if seed.any():
                in_units = partial(in_seeds, top, np.flatnonzero(seed))
                reading = evidence.reading(lambda v, of=in_units: of(v) - 1)  # type: ignore[misc]
                rows.append(_further_than_seed(between, name, reading))
    return _table(rows, "finetuned counterparts, and " + " or ".join(measures))


def _by_relation(evidence: Evidence, stores: Sequence[ActivationStore]) -> Iterable[tuple[str, Evidence]]:
    known = aligned_cells(evidence, stores)
    return [(relation, evidence.only(known[relation])) for relation in SEPARATE if relation in known]


def _of(evidence: Evidence, *measures: str) -> Evidence:
    found = evidence.only(evidence.cells.measure.isin(measures))
    if found.cells.empty:
        known = ", ".join(dict.fromkeys(evidence.cells.measure))
        raise SslsimError(f"the evidence has no {measures[0]}, only {known}; compute it too")
    return found


def _row(claim: str, between: str, measure: str, reading: Reading, control: str, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"claim": claim, "between": between, "measure": measure}
    row |= {"effect": reading.value, "ci_low": reading.low}
    row |= {"ci_high": reading.high, "p": reading.p_zero, "control": control} | more
    return row | {"holds": _yes_or_no(row["p"] <= ALPHA and row["ci_low"] > 0, row["ci_low"])}


def _yes_or_no(holds: bool, low: float) -> str:
    return NO_INTERVAL if np.isnan(low) else "yes" if holds else "no"


def _drawn(row: dict[str, Any], draws: int) -> dict[str, Any]:
    """Say so where too few draws keep a p from falling to `ALPHA`, whatever the effect."""
    return row | ({"holds": FEW} if 1 / (draws + 1) > ALPHA else {})


def _above_chance(claim: str, between: str, measure: str, reading: Reading) -> dict[str, Any]:
    effect, low, high = (number - reading.chance for number in (reading.value, reading.low, reading.high))
    control = f"mismatched utterances: {reading.chance:.3f}"
    return _row(claim, between, measure, reading, control, effect=effect, ci_low=low, ci_high=high, p=reading.p)


def _directions(part: Evidence, stores: Sequence[ActivationStore]) -> list[Evidence]:
    """Return the cells of the share of neurons in one direction and in the other.

    Random bases are those of the layer looked in. Taken together, the two directions of a pair would agree more than
    their bases do, and chance would be found significant too often.
    """
    shared = _of(part, "neurons_shared")
    place = {store.checkpoint.name: i for i, store in enumerate(stores)}
    forth = (shared.cells.model_x.map(place) < shared.cells.model_y.map(place)).to_numpy()
    return [shared.only(forth), shared.only(~forth)]


def _share_of_variance(between: str, reading: Reading) -> dict[str, Any]:
    """Return what of R2 chance leaves over, as a share of what it leaves open."""
    share = {
        name: (number - reading.chance) / (1 - reading.chance)
        for name, number in (("effect", reading.value), ("ci_low", reading.low), ("ci_high", reading.high))
    }
    control = f"mismatched utterances: {reading.chance:.3f}"
    return _row("the subspace is shared", between, "linreg_r2", reading, control, p=reading.p, **share)


def _same_space_other_axes(between: str, space: dict[str, Any], single: dict[str, Any]) -> dict[str, Any]:
    """Judge by the size of the share of neurons: with enough speech the smallest is told from chance."""
    alone = space["holds"] == "yes" and single["ci_high"] < FEW_NEURONS
    row = {"claim": "the same subspace, other neurons", "between": between, "measure": "linreg_r2, neurons_shared"}
    row |= {name: single[name] for name in ("effect", "ci_low", "ci_high")}
    holds = FEW if space["holds"] == FEW else _yes_or_no(alone, single["ci_low"])
    return row | {"control": f"partners of their own: below {FEW_NEURONS:g}", "holds": holds}


def _above_controls(
    evidence: Evidence, known: dict[str, NDArray[np.bool_]], claim: str, measure: str
) -> list[dict[str, Any]]:
    """Judge each relation of models trained apart against chance, untrained models and the spectrogram."""
    others = {"untrained": "more alike than with random weights", "spectrogram": "more alike than with the spectrogram"}
    rows = []
    for relation in [r for r in SEPARATE if r in known]:
        above = _above_chance(claim, relation, measure, evidence.only(known[relation]).reading())
        rows.append(_drawn(above, len(evidence.null)))
        rows += [_difference(evidence, known, relation, to, others[to], measure) for to in others if to in known]
    return rows


def _difference(
    evidence: Evidence, known: dict[str, NDArray[np.bool_]], relation: str, to: str, claim: str, measure: str
) -> dict[str, Any]:
    a, b = known[relation], known[to]
    reading = evidence.reading(lambda v: v[..., a].mean(-1) - v[..., b].mean(-1))
    control = f"{to}: {evidence.only(b).reading().value:.3f}"
    return _row(claim, relation, measure, reading, control)


def _raw_as_standardized(between: str, cka: Evidence) -> dict[str, Any]:
    scaled = cka.cells.standardize.to_numpy(bool)
    reading = cka.reading(lambda v: v[..., ~scaled].mean(-1) - v[..., scaled].mean(-1))
    control = f"standardised: {cka.only(scaled).reading().value:.3f}"
    row = _row("raw CKA says what standardised CKA says", between, "linear_cka_debiased", reading, control)
    return row | {"holds": _yes_or_no(reading.low > -CLOSE and reading.high < CLOSE, reading.low)}


def _further_than_seed(between: str, measure: str, reading: Reading) -> dict[str, Any]:
    """Judge a quotient of distances from the reading of the quotient less 1."""
    row = _row("the last layer moved further than another seed", between, measure, reading, "another seed: 1")
    return row | {name: row[name] + 1 for name in ("effect", "ci_low", "ci_high")}


def _table(rows: list[dict[str, Any]], needed: str) -> pd.DataFrame:
    if not rows:
        raise SslsimError(f"nothing to judge; the evidence needs {needed}")
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
