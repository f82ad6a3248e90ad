"""Evidence on made worlds: what is there is found, what is not as often as p says, and intervals cover the truth."""

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
from worlds import FAST, MEASURED, SLOW, World, evidence_of

from sslsim.measures.registry import similarity
from sslsim.significance.nulls import ALPHA, p_value

SUBSPACE, PARTNERS, COUNT = "linreg_r2", "neuron_excess", "neuron_count"
COUNTS = {"independent": 20, "permuted": 4, "rotated": 16, "half": 10, "tenth": 10}
SMALL = {"neurons": 20, "layers": 1}


def judge(world: World) -> pd.DataFrame:
    """Effect, interval, p and truth of the shared subspace and of neurons with partners, of layers at one depth."""
    evidence = evidence_of(world, MEASURED if world.layers > 1 else MEASURED[:4], elsewhere=20)
    here = evidence.pairs.layer_x == evidence.pairs.layer_y
    space = evidence.only(here & (evidence.pairs.measure == SUBSPACE)).estimate()
    c = space.chance
    ends = {"effect": space.value, "low": space.low, "high": space.high}
    rows = {SUBSPACE: {name: (v - c) / (1 - c) for name, v in ends.items()} | {"p": space.p, "truth": world.share}}
    for measure in (PARTNERS, COUNT):
        shared = evidence.only(here & (evidence.pairs.measure == measure))
        one, truth = shared.estimate(), world.true_mean(measure)
        halves = [shared.only(shared.pairs.model_x == model).estimate().p_rotation for model in "xy"]
        rows[measure] = {"effect": one.value, "low": one.low, "high": one.high, "truth": truth}
        rows[measure]["p"] = max(one.p, *halves)
    for measure in MEASURED[4:] if world.layers > 1 else ():
        mask = (evidence.pairs.measure == measure) & (evidence.pairs.model_x == "x")
        rows[measure] = {"p": evidence.only(mask).estimate(lambda v: v.max(-1)).p}  # the best pair of layers
    return pd.DataFrame(rows).T


@cache
def judged(kind: str) -> pd.DataFrame:
    return pd.concat([judge(World(kind, seed, **SMALL)) for seed in range(COUNTS[kind])])


def at_most(rate: float, count: int) -> int:
    """Hits that so many trials of this rate exceed once in a thousand times."""
    return int(binom.ppf(0.999, count, rate))


def assert_covered(rows: pd.DataFrame, level: float = 0.95) -> None:
    missed = ~((rows.low - 1e-6 <= rows.truth) & (rows.truth <= rows.high + 1e-6))
    assert missed.sum() <= at_most(1 - level, len(rows)), rows[missed]


@pytest.mark.parametrize("what", [SUBSPACE, PARTNERS])
def test_nothing_shared_is_found_as_often_as_said(what):
    rows = judged("independent").loc[what]
    for p in (ALPHA, 0.5):
        assert (rows.p <= p).sum() <= at_most(p, len(rows))
    assert rows.effect.abs().max() < 0.05
    assert_covered(rows)


def test_permuted_neurons_share_neurons_and_subspace():
    rows = judged("permuted")
    assert (rows.p <= ALPHA).all()
    np.testing.assert_allclose(rows.effect, 1, atol=1e-6)


def test_a_rotation_shares_the_subspace_and_not_the_neurons():
    rows = judged("rotated")
    assert (rows.loc[SUBSPACE].p <= ALPHA).all()
    np.testing.assert_allclose(rows.loc[SUBSPACE].effect, 1, atol=1e-6)
    assert (rows.loc[PARTNERS].p <= ALPHA).sum() <= at_most(ALPHA, COUNTS["rotated"])
    assert rows.loc[PARTNERS].effect.max() < 0.1
    assert_covered(rows.loc[PARTNERS])


@pytest.mark.parametrize(("kind", "subspace", "neurons"), [("half", 0.5, 0.0), ("tenth", 0.1, 0.1)])
def test_what_is_shared_in_part_is_measured(kind, subspace, neurons):
    rows = judged(kind)
    assert (rows.loc[SUBSPACE].p <= ALPHA).all()
    assert rows.loc[SUBSPACE].effect.mean() == pytest.approx(subspace, abs=0.01)
    assert rows.loc[PARTNERS].effect.mean() == pytest.approx(neurons, abs=0.02)
    found = (rows.loc[PARTNERS].p <= ALPHA).sum()
    assert found == COUNTS[kind] if neurons else found <= at_most(ALPHA, COUNTS[kind])
    for what in (SUBSPACE, PARTNERS):
        assert_covered(rows.loc[what])


def test_shuffled_frames_would_make_noise_significant():
    """The trap that mismatched utterances avoid: frames of speech are alike, shuffled ones are not."""
    wrong, rng = 0, np.random.default_rng(0)
    for seed in range(10):
        ((x, y),) = World("independent", seed, **SMALL).activations()
        score = [similarity("linreg_r2", x, y[rng.permutation(len(y))]) for _ in range(20)]
        wrong += p_value(similarity("linreg_r2", x, y), np.array(score)) <= ALPHA
    assert wrong >= 9


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
        assert similarity("linreg_r2", x, y) == pytest.approx(world.share, abs=0.02)
    assert World("tenth", 0, shared=0.2, noise=0.5).share == pytest.approx(0.1)
    for measure in (PARTNERS, COUNT):
        assert World("tenth", 0).true_mean(measure) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "lag"},
        {"kind": "tanh"},
        {"kind": "exp"},
        {"kind": "independent", "also": "loudness"},
        {"kind": "half", "shared_speed": SLOW, "own_speed": FAST},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_copies_loudness_and_speeds_are_as_the_mixtures_say(options):
    world = World(seed=0, layers=1, utterances=200, frames=200, **options)
    ((x, y),), ((a, b),) = world.activations(), world.mixtures
    np.testing.assert_allclose(x.std(0), 1, atol=0.15)
    np.testing.assert_allclose(np.corrcoef(x.T, y.T)[:30, 30:], a.T @ b, atol=0.1)
    assert similarity("linreg_r2", x, y) == pytest.approx(world.share, abs=0.02)


@pytest.mark.parametrize("also", ["onset", "ends", "trend", "bend", "gain"])
def test_what_both_models_follow_beside_is_no_content(also):
    plain, beside = World("independent", 0, **SMALL), World("independent", 0, **SMALL, also=also)
    assert beside.share == plain.share == 0
    followed = np.split(beside.followed, beside.starts[1:])
    if also in ("onset", "ends"):
        assert all((part[:5] == 3).all() for part in followed)
    if also != "gain":  # by position: utterances of one length have the same
        a, b = (followed[u] for u in np.flatnonzero(beside.lengths == np.bincount(beside.lengths).argmax())[:2])
        np.testing.assert_array_equal(a, b)
    assert np.abs(beside.activations()[0][0] - plain.activations()[0][0]).max() > 0.1


def test_stores_of_a_world_hold_what_its_models_hold(tmp_path):
    world = World("tenth", 0, **SMALL)
    for store, model in zip(world.stores(tmp_path), world.models(tmp_path), strict=True):
        np.testing.assert_array_equal(store.layer(0), model.layer(0))
        assert list(store.index.speaker) == list(model.index.speaker)


def single() -> None:
    torch.set_num_threads(1)


def in_processes(worlds: list[World]) -> pd.DataFrame:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=single) as pool:
        return pd.concat(pool.map(judge, worlds, chunksize=5))


@pytest.mark.slow
def test_false_alarms_over_two_hundred_worlds():
    rows = in_processes([World("independent", seed) for seed in range(200)])
    low, high = binom.interval(0.99, 200, 1 / 21)
    for exact in (SUBSPACE, *MEASURED[4:]):
        assert low <= (rows.loc[exact].p <= ALPHA).sum() <= high, exact
    assert (rows.loc[PARTNERS].p <= ALPHA).sum() <= high


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half", "tenth"])
def test_coverage_over_a_hundred_worlds(kind):
    rows = in_processes([World(kind, seed, layers=1) for seed in range(100)])
    for what in (SUBSPACE, PARTNERS):
        assert_covered(rows.loc[what])
