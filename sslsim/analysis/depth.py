"""Similarity along the depth of the models, the layers that match best, and whether scores have settled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.store import ActivationStore
from sslsim.analysis.finetuning import Pairs
from sslsim.analysis.summaries import same_depth
from sslsim.encoders.lineage import RELATIONS, SEPARATE
from sslsim.errors import SslsimError
from sslsim.significance import run
from sslsim.significance.evidence import Estimate, Evidence, Resampling

FRAMES = (500, 1500, 4500, 13500)


def measured(evidence: Evidence, measure: str) -> Evidence:
    """Return the evidence of a measure; raise if there is none."""
    some = evidence.only(evidence.pairs.measure == measure)
    if some.pairs.empty:
        known = ", ".join(dict.fromkeys(evidence.pairs.measure))
        of_bases = "_excess_" in measure or measure == "neurons_shared"
        remedy = "it needs max_corr and rotations" if of_bases else "compute it too"
        raise SslsimError(f"the evidence has no {measure}, only {known}; {remedy}")
    return some


def same_depth_by_relation(pairs: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """Mask, for each relation, the pairs of layers at the same relative depth of which one model at least was trained.

    Random weights and the spectrogram among themselves say nothing about training.
    """
    near = (same_depth(pairs) & (pairs.trained_x | pairs.trained_y)).to_numpy()
    masks = {relation: near & (pairs.relation == relation).to_numpy() for relation in RELATIONS}
    return {relation: mask for relation, mask in masks.items() if mask.any()}


def separate_at_same_depth(evidence: Evidence) -> list[tuple[str, Evidence]]:
    """Return, for each relation of models trained apart, the evidence of layers at the same relative depth."""
    masks = same_depth_by_relation(evidence.pairs)
    return [(relation, evidence.only(masks[relation])) for relation in SEPARATE if relation in masks]


def along_depth(evidence: Evidence, measures: Sequence[str]) -> pd.DataFrame:
    """Similarity of layers at the same relative depth, by measure, relation and depth.

    Columns: measure, relation, depth (relative, of the layer of x, to the nearest fifth), value (mean over the layers),
    ci_low, ci_high, chance, p. Rows are of trained models x; models against themselves are left out.
    """
    rows = []
    for name in measures:
        some = measured(evidence, name)
        depth = (5 * some.pairs.depth_x).round() / 5
        for relation, mask in same_depth_by_relation(some.pairs).items():
            here = mask & some.pairs.trained_x.to_numpy()
            for at in sorted(set(depth[here])) if relation != "same model" else ():
                estimate = some.only(here & (depth == at).to_numpy()).estimate()
                rows.append({"measure": name, "relation": relation, "depth": at, **_columns(estimate)})
    return pd.DataFrame(rows)


def best_layers(evidence: Evidence, measure: str) -> pd.DataFrame:
    """Find the best-matching pair of layers of every two checkpoints, with the chance level of the search.

    Columns: model_x, model_y, relation, layer_x, layer_y, value, ci_low, ci_high, chance, p, calibrated: chance is the
    best pair of layers of each mismatch, whichever that is.
    """
    some = measured(evidence, measure)
    pairs, rows = some.pairs, []
    for (x, y), group in pairs[pairs.model_x != pairs.model_y].groupby(["model_x", "model_y"], sort=False):
        estimate = some.only(pairs.index.isin(group.index)).estimate(lambda v: v.max(-1))
        at = group.iloc[group.value.to_numpy().argmax()]
        place = {"model_x": x, "model_y": y, "relation": at.relation, "layer_x": at.layer_x, "layer_y": at.layer_y}
        rows.append(place | _columns(estimate) | {"calibrated": estimate.calibrated})
    return pd.DataFrame(rows)


def _columns(of: Estimate) -> dict[str, float]:
    return {"value": of.value, "ci_low": of.low, "ci_high": of.high, "chance": of.chance, "p": of.p}


def convergence(
    stores: Sequence[ActivationStore], measures: Sequence[str], pairs: Pairs, *, seed: int = 0, device: str = "auto"
) -> pd.DataFrame:
    """Score pairs of models on more and more frames, to see whether the scores have settled.

    The pairs are of names of checkpoints, each compared at the same relative depth; of `FRAMES` what there is not is
    left out, and all come last. The chance level is that of two mismatches of utterances.

    Columns: measure, pair, n_frames, value, chance, enough (ten frames a neuron of both sides).
    """
    total, width, rows = stores[0].n_frames, {s.name: s.n_neurons for s in stores}, []
    resampling = Resampling(permutations=2, blocks=0, rotations=0, seed=seed)
    for n in [*(f for f in FRAMES if f < total), total]:
        for x, y in pairs:
            two = [s for s in stores if s.name in (x, y)]
            scored = run.evidence(two, measures, frames=n, between=[(x, y)], resampling=resampling, device=device)
            near = same_depth(scored.pairs) & (scored.pairs.model_x == x)
            for name in measures:
                estimate = scored.only(near & (scored.pairs.measure == name)).estimate()
                rows.append((name, f"{x} in {y}", n, estimate.value, estimate.chance, 10 * (width[x] + width[y])))
    return pd.DataFrame(rows, columns=["measure", "pair", "n_frames", "value", "chance", "enough"])
