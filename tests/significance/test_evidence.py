"""What is made of scores and their controls: tables and estimates by hand, on numbers drawn at random."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sslsim.errors import SslsimError
from sslsim.significance.evidence import Evidence, Resampling
from sslsim.significance.jackknife import jackknife_error, jackknife_interval
from sslsim.significance.nulls import calibrated, threshold


@pytest.fixture
def made():
    """Evidence of four pairs: a score, two excesses over random bases, and one whose chance level is not known."""
    rng = np.random.default_rng(0)
    measure = ["svcca", "max_corr_excess_y", "max_corr_excess_y", "matched_corr_excess_y"]
    pairs = pd.DataFrame({"measure": measure, "value": [0.5, 0.3, 0.2, 0.4]})
    null, rotated = rng.uniform(0, 0.45, (7, 4)), rng.uniform(-0.3, 0.3, (9, 4))
    null[:, 3], rotated[:, 0] = np.nan, np.nan
    return Evidence(pairs, null, pairs.value.to_numpy() + rng.normal(0, 0.02, (5, 4)), (40, 5, 10, 2, 3), rotated)


def test_a_table_holds_the_controls_of_each_pair_alone(made):
    table = made.table(level=0.9)
    value = made.pairs.value.to_numpy()
    low, high = jackknife_interval(value, made.left_out, made.sizes, 0.9)
    np.testing.assert_array_equal(table[["ci_low", "ci_high"]], np.transpose([low, high]))
    known = table[:3]
    null, score = made.null[:, :3], value[:3]
    np.testing.assert_allclose(known.chance, null.mean(0))
    np.testing.assert_allclose(known.z, (score - null.mean(0)) / null.std(0, ddof=1))
    np.testing.assert_allclose(known.p, (1 + (null >= score).sum(0)) / 8)
    np.testing.assert_array_equal(known.threshold, threshold(score, null))
    np.testing.assert_array_equal(known.calibrated, calibrated(score, null))
    assert table.loc[3, ["chance", "threshold", "z", "p", "calibrated"]].isna().all()
    assert np.isnan(table.p_rotation[0])
    np.testing.assert_allclose(table.p_rotation[1:], (1 + (made.rotated >= value).sum(0)[1:]) / 10)
    assert table.columns.tolist() == [
        "measure", "value", "ci_low", "ci_high", "chance", "threshold", "z", "p", "calibrated", "p_rotation",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "of", [None, lambda v: v.max(-1), lambda v: v[..., 2] - v[..., 0]], ids=["mean", "best", "difference"]
)
def test_an_estimate_by_hand(made, of):
    """The best of several is held against the best of each mismatch: the search is in the null too."""
    some = made.only([True, True, True, False])
    found = some.estimate(of, level=0.9)
    of = of or (lambda v: v.mean(-1))
    value = of(some.pairs.value.to_numpy())
    null, left_out = (np.array([of(row) for row in rows]) for rows in (some.null, some.left_out))
    ends = jackknife_interval(value, left_out, some.sizes, 0.9)
    error = jackknife_error(value, left_out, some.sizes)
    assert (found.value, found.low, found.high, found.error) == pytest.approx((value, *ends, error))
    assert found.chance == pytest.approx(null.mean())
    assert found.z == pytest.approx((value - null.mean()) / null.std(ddof=1))
    assert found.p == (1 + (null >= value).sum()) / 8
    assert found.threshold == pytest.approx(max([value, *null]))  # of eight, the largest
    assert found.calibrated == pytest.approx(max(0, (value - found.threshold) / (1 - found.threshold)))
    assert found.p_zero == pytest.approx(2 * (1 - stats.t.cdf(abs(value) / error, 4)))


def test_only_excesses_have_random_bases_and_those_of_assignments_no_chance(made):
    excess = made.only([False, True, True, False])
    assert excess.estimate().p_rotation == (1 + (excess.rotated.mean(1) >= 0.25).sum()) / 10
    assert np.isnan(made.only([True, True, False, False]).estimate().p_rotation)
    unknown = made.only([False, False, False, True]).estimate()
    assert np.isnan([unknown.chance, unknown.threshold, unknown.z, unknown.p, unknown.calibrated]).all()
    assert unknown.low < unknown.value < unknown.high


def test_a_score_that_never_moves_is_certain():
    table = pd.DataFrame({"value": [0.5, 0.0]})
    still = Evidence(table, np.zeros((3, 2)), np.array([[0.5, 0.0]] * 3), (5, 5, 5), np.empty((0, 2)))
    first, second = (still.estimate(lambda v, k=k: v[..., k]) for k in (0, 1))
    assert (first.low, first.high, first.p_zero, first.z) == (0.5, 0.5, 0, np.inf)
    assert (second.p, second.p_zero) == (1, 1)
    assert np.isnan(second.z)


def test_only_keeps_pairs_with_their_controls(made):
    mask = made.pairs.measure == "max_corr_excess_y"
    for rows in (mask, mask.to_numpy(), mask.tolist()):
        some = made.only(rows)
        assert some.pairs.index.tolist() == [0, 1]
        assert some.sizes == made.sizes
        for name in ("null", "left_out", "rotated"):
            np.testing.assert_array_equal(getattr(some, name), getattr(made, name)[:, 1:3])
    assert made.only([False] * 4).pairs.empty


def test_evidence_of_other_shape_than_its_pairs_is_refused():
    table, row = pd.DataFrame({"value": [0.5, 0.2]}), np.zeros((3, 2))
    for name, arrays in (
        ("null", (np.zeros((3, 1)), row, row)),
        ("left_out", (row, np.zeros(2), row)),
        ("rotated", (row, row, np.zeros((3, 3)))),
    ):
        with pytest.raises(SslsimError, match=rf"{name} has shape \(.*\) for 2 pairs"):
            Evidence(table, arrays[0], arrays[1], (1, 1, 1), arrays[2])


def test_nothing_to_estimate_from_and_an_interval_that_cannot_be(made):
    with pytest.raises(SslsimError, match="no pairs to estimate from; choose models or layers that were compared"):
        made.only([False] * 4).estimate()
    for of in (made.table, made.estimate):
        with pytest.raises(SslsimError, match="level is 95; give the coverage of the interval"):
            of(level=95)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"permutations": -2}, "permutations is -2; give 0 or more"),
        ({"rotations": -1}, "rotations is -1; give 0 or more"),
        ({"blocks": 1}, "blocks is 1; an interval needs at least 2, and 0 is for none"),
        ({"blocks": -3}, "blocks is -3; an interval needs at least 2, and 0 is for none"),
        ({"block_by": "word"}, "block_by is 'word'; give one of utterance, speaker"),
        ({"seed": -1}, "seed is -1; give 0 or more"),
    ],
)
def test_resampling_that_cannot_be_is_refused(values, message):
    with pytest.raises(SslsimError, match=message):
        Resampling(**values)
