"""Sums of products: exact to rounding whatever the layout, the means and the cut."""

import numpy as np
import pytest
import torch

from sslsim.errors import SslsimError
from sslsim.measures import arrays, products
from sslsim.measures.arrays import multiply
from sslsim.measures.moments import moments
from sslsim.measures.products import Means, Side, Utterances, cross_products

LENGTHS = (300, 41, 259, 400)


@pytest.mark.parametrize("large", [1, 2**40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("view", ["plain", "transposed", "strips", "both"])
def test_multiply_in_any_layout(view, dtype, large, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", large)  # oneDNN always, or never
    torch.manual_seed(0)
    a, b = torch.randn(70, 90, dtype=dtype), torch.randn(90, 50, dtype=dtype)
    if view in ("transposed", "both"):
        a = torch.randn(90, 70, dtype=dtype).T
    if view == "strips":
        a, b = torch.randn(90, 200, dtype=dtype)[:, 30:100].T, torch.randn(90, 80, dtype=dtype)[:, 9:59]
    if view == "both":
        b = torch.randn(50, 90, dtype=dtype).T
    tolerance = 2e-5 if dtype == torch.float32 else 1e-12
    found = multiply(a, b)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=0, atol=tolerance)


@pytest.fixture
def sides():
    """Two blocks of layers of several widths, one far from zero, one huge, one tiny; as they may be given."""
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.standard_normal((4, 1)), LENGTHS, axis=0)
    made = [
        (rng.standard_normal((1000, width)) * scale + mean + scale * drift).astype("f4")
        for width, scale, mean in ((5, 1, 0), (7, 1, 1000), (4, 1e4, -3e5), (6, 1e-3, 2))
    ]
    made[0].flags.writeable = False  # as a memory map is
    made[3] = torch.from_numpy(made[3])
    return made[:2], made[2:]


def side(layers, utterances=None):
    return Side(layers, [Means.of(x, utterances) for x in layers], torch.float32)


def exact(x, y, rows=slice(None)):
    x, y = (torch.as_tensor(np.array(a) if isinstance(a, np.ndarray) else a).double().numpy() for a in (x, y))
    return (x - x[rows].mean(0))[rows].T @ (y - y[rows].mean(0))[rows]


def assert_near(found, x, y, rows=slice(None)):
    """Within float32 of the size that the products of each pair of neurons can have."""
    size = np.sqrt(np.outer(exact(x, x, rows).diagonal(), exact(y, y, rows).diagonal()))
    assert np.abs(found.numpy() - exact(x, y, rows)).max(initial=0, where=size > 0) <= 1e-6 * size.max()
    assert (np.abs(found.numpy() - exact(x, y, rows)) / size).max() < 3e-6


@pytest.mark.parametrize("chunk", [1, 17, 5000])
def test_every_pair_of_layers_of_two_blocks(sides, chunk, monkeypatch):
    monkeypatch.setattr(products, "chunks", lambda n: arrays.chunks(n, chunk))
    left, right = sides
    both = cross_products(side(left), side(right), 1000)
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            assert both[i][j].total.dtype == torch.float64
            assert_near(both[i][j].total, x, y)


@pytest.mark.parametrize("utterances", [None, Utterances(LENGTHS, 3)])
def test_a_block_with_itself_is_multiplied_once_a_pair(sides, utterances):
    layers = [*sides[0], *sides[1]]
    made = cross_products(side(layers, utterances), None, 1000, utterances)
    assert [len(row) for row in made] == [4, 3, 2, 1]
    for i, row in enumerate(made):
        for j, found in enumerate(row, i):
            assert_near(found.total, layers[i], layers[j])
            pair = cross_products(
                side(layers[i : i + 1], utterances), side(layers[j : j + 1], utterances), 1000, utterances
            )
            assert_near(pair[0][0].total, layers[i], layers[j])
            for g, run in enumerate(utterances.groups if utterances else []):
                assert_near(found.groups[g], layers[i], layers[j], slice(run[0].start, run[-1].stop))


def test_what_is_given_is_not_changed(sides):
    x, y = sides[0][1], sides[1][1]
    before = x.copy(), y.clone()
    moments(x, y)
    np.testing.assert_array_equal(x, before[0])
    assert torch.equal(y, before[1])


def test_infinities_of_both_signs_are_named():
    x = np.ones((50, 2), dtype="f4")
    x[[20, 30], 1] = np.inf, -np.inf
    with pytest.raises(SslsimError, match="frame 20 holds NaN or infinity"):
        moments(x, x)
