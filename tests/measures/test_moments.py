"""Moments: exact in any way the frames are cut, over all of them and without some groups of utterances."""

import gc
import weakref

import numpy as np
import pytest
import torch

from sslsim.errors import SslsimError
from sslsim.measures import arrays, products
from sslsim.measures.moments import moments, squared_norms
from sslsim.measures.products import Utterances
from sslsim.measures.registry import MEASURES

LENGTHS = (40, 25, 60, 35, 50, 45, 30, 55)


def marginal(x):
    return moments(x, x).x


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return rng.standard_normal((1000, 7)) + 50, rng.standard_normal((1000, 5)) * np.geomspace(1e-3, 10, 5)


def assert_same(a, b, tolerance=1e-10):
    assert a.x.n == b.x.n
    for left, right in (
        (a.x.mean, b.x.mean),
        (a.x.scatter, b.x.scatter),
        (a.y.scatter, b.y.scatter),
        (a.cross, b.cross),
    ):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_against_numpy(pair):
    m = moments(*pair)
    full = np.cov(*pair, rowvar=False) * 999
    np.testing.assert_allclose(m.cross.numpy(), full[:7, 7:], atol=1e-9)
    np.testing.assert_allclose(m.x.scatter.numpy(), full[:7, :7], atol=1e-9)
    np.testing.assert_allclose(m.x.mean.numpy(), pair[0].mean(0))


@pytest.mark.parametrize("chunk", [1, 7, 999, 5000])
def test_any_chunk_size_gives_the_same(pair, chunk, monkeypatch):
    whole = moments(*pair)
    monkeypatch.setattr(products, "chunks", lambda n: arrays.chunks(n, chunk))
    assert_same(moments(*pair), whole)


def test_float32_keeps_its_digits_at_mean_1000_and_across_scales():
    """Summing E[xy] - E[x]E[y] in float32 is off by percents here."""
    rng = np.random.default_rng(3)
    x = ((1000 + rng.standard_normal((9000, 6))) * np.geomspace(1e-2, 1e2, 6)).astype(np.float32)
    single, double = moments(x, x), moments(x.astype(float), x.astype(float))
    torch.testing.assert_close(single.correlation, double.correlation, rtol=0, atol=1e-5)
    torch.testing.assert_close(single.x.scale, double.x.scale, rtol=1e-5, atol=0)


def test_memory_mapped_arrays_are_read_in_chunks(tmp_path, pair):
    np.save(tmp_path / "x.npy", pair[0])
    assert_same(moments(np.load(tmp_path / "x.npy", mmap_mode="r"), pair[1]), moments(*pair))


def test_constant_neurons_are_found_at_any_size():
    x = np.random.default_rng(0).standard_normal((5000, 6)).astype(np.float32)
    x[:, 1], x[:, 3], x[:, 4] = 0, 1e6 + 0.1, -3e-20
    layer = marginal(x)
    assert layer.alive.tolist() == [True, False, True, False, False, True]
    assert layer.count == 3
    assert (layer.correlation[[1, 3, 4]] == 0).all()
    np.testing.assert_allclose(
        layer.correlation[layer.alive][:, layer.alive], np.corrcoef(x[:, [0, 2, 5]].T), atol=1e-6
    )
    with pytest.raises(SslsimError, match="none of 3 neurons varies over 5,000 frames; nothing to compare"):
        marginal(x[:, [1, 3, 4]]).check_varies()


def test_a_tiny_but_varying_neuron_counts():
    x = np.random.default_rng(0).standard_normal((100, 2)) * [1e-18, 1]
    assert marginal(x).count == 2


def test_squared_norms(pair):
    x = pair[1]
    z = (x - x.mean(0)) / x.std(0) / np.sqrt(1000)
    layer = marginal(x)
    np.testing.assert_allclose(squared_norms(x, layer, standardize=True).numpy(), (z**2).sum(1))
    np.testing.assert_allclose(squared_norms(x, layer, standardize=False).numpy(), ((x - x.mean(0)) ** 2).sum(1))


def test_swapped_is_the_other_way_round_whenever_it_is_asked_for(pair):
    m = moments(*pair)
    assert m.swapped.correlation.shape == (5, 7)
    left, rho, right = m.canonical
    torch.testing.assert_close(m.swapped.correlation, moments(*pair[::-1]).correlation)
    for known, made in zip((right, rho, left), m.swapped.canonical, strict=True):
        assert known is made  # not decomposed a second time


def test_what_was_computed_of_both_ways_goes_with_them(pair):
    """Not only once Python looks for cycles, which it does by the number of objects, not by their size."""
    gc.disable()
    try:
        m = moments(*pair)
        scored = [MEASURES["pwcca"].score(one) for one in (m, m.swapped)]
        assert m.swapped.swapped is m
        kept = [weakref.ref(one) for one in (m, m.swapped, m.canonical[0], m.swapped.y_whitened)]
        alone = moments(*pair).swapped
        assert MEASURES["pwcca"].score(alone) == pytest.approx(scored[1])
        del m
        assert [one() for one in kept] == [None] * 4
        assert MEASURES["pwcca"].score(alone.swapped) == pytest.approx(scored[0])
    finally:
        gc.enable()


# --- groups of utterances


@pytest.fixture
def drifting():
    """Frames that drift from utterance to utterance, as speakers make them."""
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.standard_normal((len(LENGTHS), 6)), LENGTHS, axis=0)
    latent = rng.standard_normal((sum(LENGTHS), 6)) + drift
    return tuple(latent @ rng.standard_normal((6, d)) + rng.standard_normal((len(latent), d)) + d for d in (9, 12))


def test_groups_are_runs_of_whole_utterances_of_like_length():
    groups = Utterances(LENGTHS, 3)
    assert groups.members == [[0, 1, 2], [3, 4], [5, 6, 7]]
    assert groups.sizes == (125, 85, 130)
    for lengths, count in (((280, *[10] * 6), 5), ((300, 20, 20), 3), ((10, 10, 500), 3), ((7, 8), 2)):
        made = Utterances(lengths).members  # one long utterance does not leave the others without a group
        assert len(made) == count
        assert all(made)
        assert sum(made, []) == list(range(len(lengths)))
    assert (np.sum(groups.masks, axis=0) == 1).all()
    assert np.flatnonzero(groups.masks[1]).tolist() == list(range(125, 210))
    assert Utterances((7, 0, 9)).members == [[0], [2]]  # an utterance without a chosen frame is none
    assert Utterances(()).members == []


def test_labelled_groups_have_the_frames_of_their_utterances():
    labelled = Utterances((5, 7, 0, 4, 6), labels=(1, 0, 0, 0, 1))
    assert labelled.members == [[1, 3], [0, 4]]
    assert labelled.sizes == (11, 11)
    assert np.flatnonzero(labelled.masks[0]).tolist() == list(range(5, 16))


@pytest.mark.parametrize("chunk", [7, 5000])
def test_groups_are_the_moments_of_their_frames(drifting, chunk, monkeypatch):
    x, y = drifting
    monkeypatch.setattr(products, "chunks", lambda n: arrays.chunks(n, chunk))
    m = moments(x, y, utterances=LENGTHS)
    torch.testing.assert_close(m.cross, moments(x, y).cross)
    for mask, layer, cross in zip(Utterances(LENGTHS).masks, m.x.groups, m.groups, strict=True):
        expected = moments(x[mask], y[mask])
        assert layer.n == mask.sum()
        torch.testing.assert_close(layer.mean, expected.x.mean)
        torch.testing.assert_close(layer.scatter, expected.x.scatter)
        torch.testing.assert_close(cross, expected.cross)


@pytest.mark.parametrize("left_out", [(0,), (3,), (1, 4)])
def test_all_but_some_groups_are_the_moments_of_their_frames(drifting, left_out):
    x, y = drifting
    m = moments(x, y, utterances=LENGTHS)
    rows = ~np.any([Utterances(LENGTHS).masks[g] for g in left_out], axis=0)
    expected, without = moments(x[rows], y[rows]), m.without(*left_out)
    assert_same(without, expected)
    torch.testing.assert_close(without.y.mean, expected.y.mean)
    assert m.x.without(*left_out) is without.x  # kept, with its decomposition, for the next pair
