"""Intervals: the jackknife against its published definition, its laws, and the blocks that are left out."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.signal import lfilter

from sslsim.errors import SslsimError
from sslsim.measures.products import Utterances
from sslsim.significance.jackknife import blocks_of, jackknife_error, jackknife_interval


def test_a_mean_of_equal_blocks_has_its_usual_error_and_interval():
    x = np.random.default_rng(0).gamma(2, size=17)
    without = [np.delete(x, i).mean() for i in range(17)]
    error = jackknife_error(x.mean(), without, [1] * 17)
    assert error == pytest.approx(x.std(ddof=1) / np.sqrt(17), rel=1e-12)
    for level in (0.5, 0.95):
        expected = stats.ttest_1samp(x, 0).confidence_interval(level)
        assert jackknife_interval(x.mean(), without, [1] * 17, level) == pytest.approx(tuple(expected))
    assert jackknife_interval(x.mean(), without, [300] * 17) == pytest.approx(
        jackknife_interval(x.mean(), without, [1] * 17)
    )  # only the shares of blocks count


def busing(value, left_out, sizes):
    """Variance as Busing, Meijer & van der Leeden 1999 write them, with h_j = n / m_j."""
    n, count = sum(sizes), len(sizes)
    middle = count * value - sum((1 - m / n) * t for m, t in zip(sizes, left_out, strict=True))
    variance = 0.0
    for m, t in zip(sizes, left_out, strict=True):
        h = n / m
        variance += (h * value - (h - 1) * t - middle) ** 2 / (h - 1) / count
    return variance


UNEQUAL = (40, 5, 10, 2, 3)


@pytest.mark.parametrize("sizes", [(12, 12, 12, 12, 12), UNEQUAL])
def test_blocks_of_any_size_follow_the_published_definition(sizes):
    value, left_out = 0.6, np.random.default_rng(0).normal(0.6, 0.02, 5)
    variance = busing(value, left_out, sizes)
    assert jackknife_error(value, left_out, sizes) == pytest.approx(variance**0.5)
    low, high = jackknife_interval(value, left_out, sizes)
    assert (low + high) / 2 == pytest.approx(value)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 4) * variance**0.5)


@pytest.mark.parametrize("sizes", [(12, 12, 12, 12, 12), UNEQUAL])
def test_the_variance_of_a_mean_is_found_without_bias(sizes):
    rng, group = np.random.default_rng(0), np.repeat(np.arange(5), sizes)
    found = []
    for _ in range(3000):
        x = rng.standard_normal(60)
        without = [x[group != g].mean() for g in range(5)]
        found.append(jackknife_error(x.mean(), without, sizes) ** 2)
    assert np.mean(found) == pytest.approx(1 / 60, rel=0.06)


def test_intervals_move_with_the_scores_and_forget_the_order_of_blocks():
    rng = np.random.default_rng(0)
    value, left_out, sizes = 0.5, rng.normal(0.5, 0.1, 6), np.array([5, 5, 5, 9, 9, 9])
    low, high = jackknife_interval(value, left_out, sizes)
    assert jackknife_interval(3 + 2 * value, 3 + 2 * left_out, sizes) == pytest.approx((3 + 2 * low, 3 + 2 * high))
    order = rng.permutation(6)
    assert jackknife_interval(value, left_out[order], sizes[order]) == pytest.approx((low, high))
    assert jackknife_interval(value, left_out, sizes[::-1]) != pytest.approx((low, high), rel=1e-3)
    wide = jackknife_interval(value, left_out, sizes, level=0.99)
    assert wide[0] < low < high < wide[1]


def test_many_intervals_at_once_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    value, left_out, sizes = rng.random((2, 3)), rng.random((5, 2, 3)), (4, 5, 6, 7, 8)
    ends = jackknife_interval(value, left_out, sizes)
    alone = jackknife_interval(value[1, 2], left_out[:, 1, 2], sizes)
    assert (ends[0][1, 2], ends[1][1, 2]) == pytest.approx(alone)


def test_intervals_over_utterances_cover_and_those_over_frames_do_not():
    """The mean of a slow process: frames of one utterance are not independent."""
    rng, inside = np.random.default_rng(0), np.zeros(2)
    for _ in range(300):
        noise = rng.standard_normal((20, 40))
        noise[:, 0] /= np.sqrt(1 - 0.95**2)
        x = lfilter([1], [1, -0.95], noise, axis=1)
        of_utterances = [np.delete(x, u, axis=0).mean() for u in range(20)]
        of_frames = (x.sum() - x.ravel()) / (x.size - 1)
        for i, without in enumerate((of_utterances, of_frames)):
            low, high = jackknife_interval(x.mean(), without, [1] * len(without))
            inside[i] += low < 0 < high
    assert 0.91 < inside[0] / 300 < 0.98
    assert inside[1] / 300 < 0.5


def test_an_interval_that_cannot_be_is_refused():
    for level in (0, 1, 95):
        with pytest.raises(
            SslsimError, match=f"level is {level}; give the coverage of the interval, above 0 and below 1"
        ):
            jackknife_interval(0.5, [0.4, 0.6], [1, 1], level)
    message = "a jackknife needs a score without each of at least 2 blocks; got {} scores, {} blocks"
    for left_out, sizes in (([0.4], [1]), ([], []), ([0.4, 0.6], [1, 2, 3])):
        for of in (jackknife_error, jackknife_interval):
            with pytest.raises(SslsimError, match=message.format(len(left_out), len(sizes))):
                of(0.5, left_out, sizes)


def test_speakers_beyond_the_blocks_share_one_where_least_is():
    index = pd.DataFrame({"speaker": ["a", "b", "c", "d", "a", "b"]})
    made = blocks_of(index, [50, 5, 30, 10, 50, 20], 3, "speaker")  # a 100, c 30, b 25, d 10
    assert made.labels == (0, 2, 1, 2, 0, 2)
    assert made.sizes == (100, 30, 35)
    assert blocks_of(index, [50, 5, 30, 10, 50, 20], 10, "speaker").sizes == (100, 30, 25, 10)
    assert blocks_of(index, [50, 5, 30, 10, 50, 0], 3, "utterance") == Utterances((50, 5, 30, 10, 50, 0), 3)
