"""What is made of scores and their controls: tables and estimates by hand, on numbers drawn at random."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sslsim.errors import SslsimError
from sslsim.significance.evidence import Evidence, Resampling
from sslsim.significance.jackknife import jackknife_error, jackknife_interval


@pytest.fixture
def made():
    """Evidence of four pairs: a score, two that are turned into random bases, and one at other depths."""
    rng = np.random.default_rng(0)
    measure = ["svcca", "neuron_excess", "neuron_excess", "neuron_excess"]
    pairs = pd.DataFrame({"measure": measure, "model_x": "a", "model_y": "b", "value": [0.5, 0.3, 0.2, 0.4]})
    null, rotated = rng.uniform(0, 0.45, (7, 4)), rng.uniform(-0.3, 0.3, (9, 4))
    left_out = pairs.value.to_numpy() + rng.normal(0, 0.02, (5, 4))
    null[3:, 3], left_out[:, 3], rotated[:, [0, 3]] = np.nan, np.nan, np.nan
    return Evidence(pairs, null, left_out, (40, 5, 10, 2, 3), rotated)


def test_a_table_holds_the_controls_of_each_pair_alone(made):
    table = made.table(level=0.9)
    value = made.pairs.value.to_numpy()
    low, high = jackknife_interval(value, made.left_out, made.sizes, 0.9)
    np.testing.assert_array_equal(table[["ci_low", "ci_high"]], np.transpose([low, high]))
    assert table.ci_low.isna().tolist() == [False, False, False, True]
    for k, known in enumerate((7, 7, 7, 3)):
        row, null, score = table.loc[k], made.null[:known, k], value[k]
        assert row.mismatches == known
        assert row.chance == pytest.approx(null.mean())
        assert row.p == (1 + (null >= score).sum()) / (known + 1)
    assert table.p_rotation.isna().tolist() == table.rotated.isna().tolist() == [True, False, False, True]
    np.testing.assert_allclose(table.p_rotation[1:3], (1 + (made.rotated >= value).sum(0)[1:3]) / 10)
    np.testing.assert_allclose(table.rotated[1:3], made.rotated.mean(0)[1:3])


def test_a_few_mismatches_of_many_layers_make_a_t_test(made):
    pairs, rng = pd.concat([made.pairs[1:2]] * 400, ignore_index=True), np.random.default_rng(0)
    pairs["value"], null = rng.normal(0.3, 0.1, 400), rng.normal(0.3, 0.1, (7, 400))
    null[2:, 9:], null[1:, 200:] = np.nan, np.nan  # the last have one mismatch, which says nothing of their variance
    p = Evidence(pairs, null, np.empty((0, 400)), (), np.empty((0, 400))).table().p_t
    squares = np.nansum((null - np.nanmean(null, axis=0)) ** 2)
    at = (pairs.value[0] - null[:, 0].mean()) / np.sqrt(squares / (9 * 6 + 191) * (1 + 1 / 7))
    assert p[0] == pytest.approx(stats.t.sf(at, 9 * 6 + 191))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    null[:, 5] = np.nan
    assert np.flatnonzero(Evidence(pairs, null, null[:0], (), null[:0]).table().p_t.isna()).tolist() == [5]


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
    assert found.p == (1 + (null >= value).sum()) / 8
    assert found.p_zero == pytest.approx(2 * (1 - stats.t.cdf(abs(value) / error, 4)))


def test_controls_that_were_not_computed_are_left_out(made):
    turned = made.only([False, True, True, False])
    assert turned.estimate().p_rotation == (1 + (turned.rotated.mean(1) >= 0.25).sum()) / 10
    with pytest.warns(UserWarning, match="^no interval"):
        mixed = made.only([True, True, True, True]).estimate()
    assert mixed.chance == pytest.approx(made.null[:3].mean())  # of mismatches that all pairs have
    assert mixed.p == (1 + (made.null[:3].mean(1) >= mixed.value).sum()) / 4
    assert np.isnan([mixed.low, mixed.error, mixed.p_zero, mixed.rotated, mixed.p_rotation]).all()
    with pytest.warns(UserWarning, match="^no interval"):
        nothing = replace(made, null=made.null * np.nan).estimate()
    assert np.isnan([nothing.chance, nothing.p]).all()


def test_a_score_that_never_moves_is_certain():
    table = pd.DataFrame({"value": [0.5, 0.0]})
    still = Evidence(table, np.zeros((3, 2)), np.array([[0.5, 0.0]] * 3), (5, 5, 5), np.empty((0, 2)))
    first, second = (still.estimate(lambda v, k=k: v[..., k]) for k in (0, 1))
    assert (first.low, first.high, first.p_zero) == (0.5, 0.5, 0)
    assert (second.p, second.p_zero) == (1, 1)


def test_only_keeps_pairs_with_their_controls(made):
    mask = (made.pairs.measure == "neuron_excess") & (made.pairs.value < 0.4)
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


def test_an_interval_that_some_pairs_have_not_is_warned_of(made):
    left_out = made.left_out.copy()
    left_out[:, 2:] = np.nan
    some = replace(made, left_out=left_out)
    assert some.controlled.tolist() == [True, True, False, False]
    with pytest.warns(
        UserWarning, match=r"^no interval, .* not all controls .*; take evidence.only\(evidence.controlled"
    ):
        assert np.isnan(some.estimate().low)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(some.only(some.controlled).estimate().low)
    bare = replace(made, left_out=made.left_out[:0], null=made.null[:0], sizes=())
    assert bare.controlled.all()
    null = made.null.copy()
    null[1:, 1] = np.nan
    assert replace(bare, null=null).controlled.tolist() == [True, False, True, False]


def test_nothing_to_estimate_from_and_an_interval_that_cannot_be(made):
    with pytest.raises(SslsimError, match="no pairs to estimate from; choose models or layers that were compared"):
        made.only([False] * 4).estimate()
    for of in (made.table, made.estimate):
        with pytest.raises(SslsimError, match="level is 95; give the coverage of the interval"):
            of(level=95)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"permutations": -2}, "permutations is -2; it must be a whole number, 0 or more"),
        ({"rotations": -1}, "rotations is -1; it must be a whole number, 0 or more"),
        ({"elsewhere": -1}, "elsewhere is -1; it must be a whole number, 0 or more"),
        ({"depths": 1}, "depths is 1; it must be a whole number, 2 or more, or None for no limit"),
        ({"blocks": 1}, "blocks is 1; an interval needs at least 2, and 0 is for none"),
        ({"blocks": -3}, "blocks is -3; it must be a whole number, 0 or more"),
        ({"block_by": "word"}, "block_by is 'word'; give one of utterance, speaker"),
        ({"seed": -1}, "seed is -1; it must be a whole number, 0 or more"),
    ],
)
def test_resampling_that_cannot_be_is_refused(values, message):
    with pytest.raises(SslsimError, match=message):
        Resampling(**values)
