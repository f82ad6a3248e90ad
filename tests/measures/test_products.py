"""Sums of products: exact to rounding whatever the layout, the means, the cut and the order of frames."""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch

from sslsim.errors import SslsimError
from sslsim.measures import arrays, products
from sslsim.measures.moments import moments
from sslsim.measures.products import Side, cross_products, product, without_blocks


@pytest.fixture
def sides():
    """Two blocks of layers of one width each, some far from zero, huge or tiny; as they may be given."""
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.standard_normal((4, 1)), (300, 41, 259, 400), axis=0)
    made = [
        (rng.standard_normal((1000, width)) * scale + mean + scale * drift).astype("f4")
        for width, scale, mean in ((5, 1, 0), (5, 1, 1000), (7, 1e4, -3e5), (7, 1e-3, 2), (7, 1, 0))
    ]
    made[0].flags.writeable = False  # as a memory map is
    made[3] = torch.from_numpy(made[3])
    return made[:2], made[2:]


def side(layers):
    return Side(layers, torch.cat([arrays.mean(x) for x in layers]), torch.float32)


def assert_near(found, x, y):
    """Within float32 of the size that the products of each pair of neurons can have."""
    x, y = (arrays.block(a, torch.float64) for a in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    assert found.dtype == torch.float64
    assert ((found - x.T @ y).abs() / torch.outer(x.norm(dim=0), y.norm(dim=0))).max() < 3e-6


@pytest.mark.parametrize("whole", [0, products.WHOLE])
@pytest.mark.parametrize("chunk", [1, 17, 5000])
def test_every_pair_of_layers_of_two_blocks_in_any_order(sides, chunk, whole, monkeypatch):
    monkeypatch.setattr(products, "chunks", lambda n: arrays.chunks(n, chunk))
    monkeypatch.setattr(products, "WHOLE", whole)  # frames are read once, or for every product
    left, right = (side(layers) for layers in sides)
    for order in (None, np.random.default_rng(1).permutation(1000)):
        every = cross_products(left, right, order=order)
        some = cross_products(left, right, [(1, 0), (0, 2)], order)
        assert every.shape == (2, 3, 5, 7)
        turned = [y if order is None else y[order] for y in sides[1]]
        for i, x in enumerate(sides[0]):
            for j, y in enumerate(turned):
                assert_near(every[i, j], x, y)
        for found, (i, j) in zip(some, ((1, 0), (0, 2)), strict=True):
            assert_near(found, sides[0][i], turned[j])


@pytest.mark.parametrize("whole", [0, products.WHOLE])
def test_what_is_left_without_each_block(sides, whole, monkeypatch):
    monkeypatch.setattr(products, "WHOLE", whole)
    monkeypatch.setattr(products, "chunks", lambda n: arrays.chunks(n, 37))
    left, right = (side(layers) for layers in sides)
    blocks = [part.nonzero()[0] for part in (np.arange(1000) % 3 == np.arange(3)[:, None])]
    every, some = [0, 1, 2], [2, 0]
    without = [without_blocks(left, right, [(1, 2), (0, 0)], blocks, wanted) for wanted in (every, some)]
    for g, (x_mean, y_mean, found) in zip([*every, *some], itertools.chain(*without), strict=True):
        rest = np.delete(np.arange(1000), blocks[g])
        for products_, (i, j) in zip(found, ((1, 2), (0, 0)), strict=True):
            assert_near(products_, sides[0][i][rest], sides[1][j][rest])
        for means, layers in ((x_mean, sides[0]), (y_mean, sides[1])):
            expected = torch.cat([arrays.mean(x[rest]) for x in layers])
            torch.testing.assert_close(means, expected, rtol=1e-7, atol=1e-7)


def test_neurons_vary_over_some_frames(sides):
    x = np.array(sides[0][1])
    x[:600, 3] = x[0, 3]
    assert side([x]).varies(np.arange(600)).tolist() == [True, True, True, False, True]
    assert side([x]).varies(np.arange(601)).all()


def test_a_block_with_itself(sides):
    block = side(sides[1])
    every = cross_products(block, block)
    for i, x in enumerate(sides[1]):
        for j, y in enumerate(sides[1]):
            assert_near(every[i, j], x, y)


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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_that_of_torch_however_matrices_lie(dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rng = torch.Generator().manual_seed(0)
        a, b = (torch.randn(3, 40, 30, generator=rng, dtype=dtype) for _ in "ab")
        for x, y in ((a, b.mT), (a.mT, a), (a[..., :7], b.mT[..., :7, :]), (a[0], b.mT), (a, a[0].mT)):
            with mock.patch.object(products.np, "matmul", wraps=np.matmul) as of_numpy:
                found = product(x, y)
            assert of_numpy.called == (threads == 1)
            assert found.dtype == dtype
            torch.testing.assert_close(found, x @ y, rtol=1e-5, atol=1e-5)
        assert product(torch.full((2, 2), 3e38), torch.full((2, 2), 3e38)).isinf().all()  # without a word
    finally:
        torch.set_num_threads(before)
