"""Layers that published values are known of."""

from __future__ import annotations

import numpy as np


def seeded() -> tuple[np.ndarray, np.ndarray]:
    """Return two layers, (200, 30) and (200, 20), that share a subspace."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 30))
    y = x @ rng.standard_normal((30, 20)) + 0.5 * rng.standard_normal((200, 20))
    assert abs(x.sum() + 8.436579969616659) < 1e-9
    assert abs(y.sum() - 461.81280318846296) < 1e-9
    return x, y


def forerunner() -> np.ndarray:
    """Return the three layers, (3, 10, 2), of the golden files of the toolkit that Wu et al. 2020 published."""
    return np.random.RandomState(0).randn(3, 10, 2)  # noqa: NPY002 its generator


GOLDEN = 5e-7  # the forerunner's golden files were computed in float32


def kornblith() -> tuple[np.ndarray, np.ndarray]:
    """Return the two layers, (100, 10) each, of the demo of Kornblith et al. 2019."""
    generator = np.random.RandomState(1337)  # noqa: NPY002 its generator
    x = generator.randn(100, 10)
    return x, generator.randn(100, 10) + x
