"""Moments: exact, mergeable in any way the frames are cut, and honest about what they cannot merge."""

import numpy as np
import pytest
import torch

from sslsim.errors import SslsimError
from sslsim.measures import products as mm
from sslsim.measures.moments import moments, squared_norms


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


@pytest.mark.parametrize("cuts", [[500], [2, 5, 990], [100, 200, 300, 400, 500, 600, 700, 800, 900]])
def test_merged_blocks_equal_the_whole(pair, cuts):
    x, y = pair
    parts = [moments(a, b) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True)]
    assert sum(p.x.n for p in parts) == 1000
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    assert_same(merged, moments(x, y))
    assert_same(parts[-1] + merged, merged + parts[-1])


@pytest.mark.parametrize("chunk", [1, 7, 999, 5000])
def test_any_chunk_size_gives_the_same(pair, chunk, monkeypatch):
    whole = moments(*pair)
    cut = list(mm.chunks(1000, chunk))
    monkeypatch.setattr(mm, "chunks", lambda n: iter(cut))
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
    own = marginal(x)
    assert own.alive.tolist() == [True, False, True, False, False, True]
    assert own.n_constant == 3
    assert own.correlation.shape == (3, 3)


def test_a_tiny_but_varying_neuron_counts():
    x = np.random.default_rng(0).standard_normal((100, 2)) * [1e-18, 1]
    assert marginal(x).n_constant == 0


def test_components_have_no_null_directions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 20)).astype(np.float32)
    doubled = np.hstack([x, x, x @ rng.standard_normal((20, 15)).astype(np.float32)])
    assert len(marginal(doubled).components.variance) == 20
    assert len(marginal(x[:8]).components.variance) == 7
    white = marginal(x).components.whitener
    torch.testing.assert_close(white.T @ marginal(x).correlation @ white, torch.eye(20, dtype=torch.float64))


def test_squared_norms(pair):
    x = pair[1]
    z = (x - x.mean(0)) / x.std(0) / np.sqrt(1000)
    own = marginal(x)
    np.testing.assert_allclose(squared_norms(x, own, standardize=True)[0].numpy(), (z**2).sum(1))
    np.testing.assert_allclose(squared_norms(x, own, standardize=False)[0].numpy(), ((x - x.mean(0)) ** 2).sum(1))


def test_different_layers_do_not_merge(pair):
    with pytest.raises(SslsimError, match="moments cannot be merged: 7 and 5 neurons"):
        marginal(pair[0]) + marginal(pair[1])


def test_swapped_carries_what_is_computed_whenever_it_is_asked_for(pair, monkeypatch):
    m = moments(*pair)
    assert m.swapped.correlation.shape == (5, 7)
    rho = m.canonical[1]
    torch.testing.assert_close(m.swapped.correlation, m.correlation.T)
    monkeypatch.setattr(torch.linalg, "eigh", None)  # a second decomposition would fail
    left, swapped_rho, right = m.swapped.canonical
    torch.testing.assert_close(swapped_rho, rho)
    torch.testing.assert_close(left, m.canonical[2])
    torch.testing.assert_close(right, m.canonical[0])
