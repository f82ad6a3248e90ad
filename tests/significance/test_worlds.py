"""Verdicts and intervals on made worlds: what is there is found, what is not is not, intervals cover the truth."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom
from worlds import MEASURED, World, evidence_of

import sslsim
from sslsim.analysis import claims as verdicts
from sslsim.analysis import partners as findings
from sslsim.measures.moments import moments
from sslsim.significance import jackknife as controls

SUBSPACE, PARTNERS, AXES = (
    "the subspace is shared",
    "neurons have partners of their own",
    "the same subspace, other neurons",
)
COUNTS = {"independent": 20, "permuted": 4, "rotated": 16, "half": 10, "tenth": 10}
SMALL = {"neurons": 20, "layers": 1}


def judge(world: World) -> pd.DataFrame:
    found, models = evidence_of(world, MEASURED if world.layers > 1 else MEASURED[:2])
    table = verdicts.neurons(found, models).set_index("claim")
    truth = {SUBSPACE: world.share, PARTNERS: world.partners(world.evidence_seed)}
    table = table.assign(truth=pd.Series(truth), found=table.holds == "yes")
    for measure in MEASURED[2:] if world.layers > 1 else ():
        table.loc[measure, "p"] = findings.best_layers(found, models, measure).p[0]
    return table


@cache
def judged(kind: str) -> pd.DataFrame:
    return pd.concat([judge(World(kind, seed, **SMALL)) for seed in range(COUNTS[kind])])


def at_most(rate: float, count: int) -> int:
    """Hits that so many trials of this rate exceed once in a thousand times."""
    return int(binom.ppf(0.999, count, rate))


def assert_covered(rows: pd.DataFrame, level: float = 0.95) -> None:
    missed = ~((rows.ci_low - 1e-6 <= rows.truth) & (rows.truth <= rows.ci_high + 1e-6))
    assert missed.sum() <= at_most(1 - level, len(rows)), rows[missed]


@pytest.mark.parametrize("claim", [SUBSPACE, PARTNERS])
def test_nothing_shared_is_found_as_often_as_said(claim):
    rows = judged("independent").loc[claim]
    assert rows.found.sum() <= at_most(controls.ALPHA, len(rows))
    assert (rows.p <= 0.5).sum() <= at_most(0.5, len(rows))
    assert rows.effect.abs().max() < 0.05
    assert_covered(rows)


def test_permuted_neurons_share_neurons_and_subspace():
    rows = judged("permuted")
    assert rows.loc[[SUBSPACE, PARTNERS]].found.all()
    assert not rows.loc[AXES].found.any()
    np.testing.assert_allclose(rows.loc[[SUBSPACE, PARTNERS]].effect, 1, atol=1e-6)


def test_a_rotation_shares_the_subspace_and_not_the_neurons():
    rows = judged("rotated")
    assert rows.loc[SUBSPACE].found.all()
    np.testing.assert_allclose(rows.loc[SUBSPACE].effect, 1, atol=1e-6)
    alarms = at_most(controls.ALPHA, COUNTS["rotated"])
    assert rows.loc[PARTNERS].found.sum() <= alarms
    assert rows.loc[AXES].found.sum() >= COUNTS["rotated"] - alarms
    assert_covered(rows.loc[PARTNERS])


@pytest.mark.parametrize(("kind", "subspace", "neurons"), [("half", 0.5, 0.0), ("tenth", 0.1, 0.1)])
def test_what_is_shared_in_part_is_measured(kind, subspace, neurons):
    rows = judged(kind)
    assert rows.loc[SUBSPACE].found.all()
    assert rows.loc[SUBSPACE].effect.mean() == pytest.approx(subspace, abs=0.01)
    assert rows.loc[PARTNERS].effect.mean() == pytest.approx(neurons, abs=0.02)
    if neurons:
        assert rows.loc[PARTNERS].found.all()
    else:
        assert rows.loc[PARTNERS].found.sum() <= at_most(controls.ALPHA, COUNTS[kind])
    for claim in (SUBSPACE, PARTNERS):
        assert_covered(rows.loc[claim])


def test_shuffled_frames_would_make_noise_significant():
    """The trap that mismatched utterances avoid: frames of speech are alike, shuffled ones are not."""
    wrong, rng = 0, np.random.default_rng(0)
    for seed in range(10):
        ((x, y),) = World("independent", seed, **SMALL).activations()
        score = [sslsim.similarity("linreg_r2", x, y[rng.permutation(len(y))]) for _ in range(20)]
        wrong += controls.p_value(sslsim.similarity("linreg_r2", x, y), np.array(score)) <= controls.ALPHA
    assert wrong >= 9
    right = judged("independent").loc[SUBSPACE].p <= controls.ALPHA
    assert right.sum() <= at_most(1 / 21, len(right))


@pytest.mark.parametrize("kind", ["rotated", "tenth"])
def test_one_neuron_of_another_scale_moves_raw_scores_only(kind):
    worlds = [World(kind, 0, outlier=outlier) for outlier in (False, True)]
    (plain, models), (scaled, large) = (evidence_of(world, standardize=[True, False]) for world in worlds)
    standard = plain.cells.standardize.to_numpy(bool)
    for a, b in ((plain.null, scaled.null), (plain.left_out, scaled.left_out), (plain.turned, scaled.turned)):
        np.testing.assert_allclose(a[:, standard], b[:, standard], atol=1e-5)
    tables = [
        pd.concat([verdicts.neurons(found, stores), verdicts.layers(found, stores)])
        for found, stores in ((plain, models), (scaled, large))
    ]
    raw = tables[0].claim.str.startswith("raw")
    numbers = ["effect", "ci_low", "ci_high", "p"]
    pd.testing.assert_frame_equal(tables[0][~raw][numbers], tables[1][~raw][numbers], atol=1e-5, rtol=0)
    assert (tables[0][~raw].holds == tables[1][~raw].holds).all()
    assert [table.holds[raw].item() for table in tables] == ["yes", "no"]
    cka = (plain.cells.measure == "linear_cka_debiased") & ~standard
    other = cka & (plain.cells.layer_x == plain.cells.layer_y) & (plain.cells.model_x != plain.cells.model_y)
    assert (scaled.cells.value[other] < plain.cells.value[other] - 0.05).all()


def test_layers_that_an_outlier_owns_are_named():
    for outlier in (False, True):
        for pair in World("half", 1, outlier=outlier).activations():
            for x in pair:
                found = controls.concentration(x, moments(x, x).x)
                assert found.owned == outlier
                assert not outlier or found.top_neuron == x.shape[1] - 1


def test_worlds_of_one_seed_have_the_same_models_and_other_speech():
    world = World("half", 3, offset=0.5)
    again, other = replace(world), replace(world, draw=1)
    np.testing.assert_array_equal(world.activations()[0][0], again.activations()[0][0])
    np.testing.assert_array_equal(world.mixtures[0][1], other.mixtures[0][1])
    np.testing.assert_array_equal(world.lengths, other.lengths)
    assert np.abs(np.corrcoef(world.activations()[0][0][:, 0], other.activations()[0][0][:, 0])[0, 1]) < 0.3


def test_a_world_is_as_it_says():
    long = {"layers": 1, "utterances": 200, "frames": 200}
    for world in (World("half", 0, **long), World("tenth", 0, **long, shared=0.2, noise=0.5)):
        ((x, y),) = world.activations()
        np.testing.assert_allclose(x.var(0), 1, atol=0.2)
        assert world.truth("linreg_r2", 0) == pytest.approx(world.share)
        assert sslsim.similarity("linreg_r2", x, y) == pytest.approx(world.share, abs=0.02)
    assert World("tenth", 0, shared=0.2, noise=0.5).share == pytest.approx(0.1)
    assert World("tenth", 0).partners(0) == pytest.approx(0.1)


def single() -> None:
    torch.set_num_threads(1)


def in_processes(worlds: list[World]) -> list[pd.DataFrame]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=single) as pool:
        return list(pool.map(judge, worlds, chunksize=5))


@pytest.mark.slow
def test_false_alarms_over_two_hundred_worlds():
    rows = pd.concat(in_processes([World("independent", seed) for seed in range(200)]))
    low, high = binom.interval(0.99, 200, 1 / 21)
    for exact in (SUBSPACE, *MEASURED[2:]):
        assert low <= (rows.loc[exact].p <= controls.ALPHA).sum() <= high, exact
    for claim in (SUBSPACE, PARTNERS):
        assert rows.loc[claim].found.sum() <= high


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half", "tenth"])
def test_coverage_over_a_hundred_worlds(kind):
    rows = pd.concat(in_processes([World(kind, seed, layers=1) for seed in range(100)]))
    for claim in (SUBSPACE, PARTNERS):
        assert_covered(rows.loc[claim])
