"""Principal components without empty directions, and singular vectors that are those of an SVD."""

import numpy as np
import pytest
import torch

from sslsim.measures.components import singular_values, singular_vectors
from sslsim.measures.moments import moments


def test_components_have_no_null_directions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 20)).astype(np.float32)
    doubled = np.hstack([x, x, x @ rng.standard_normal((20, 15)).astype(np.float32)])
    assert len(moments(doubled, x).x.components.variance) == 20
    assert len(moments(x[:8], x[:8]).x.components.variance) == 7
    layer = moments(x, x).x
    white = layer.components.whitener
    torch.testing.assert_close(white.T @ layer.correlation @ white, torch.eye(20, dtype=torch.float64))


def spectrum(values, p, q, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(n, len(values), generator=generator, dtype=torch.float64))[0] for n in (p, q))
    return ((u * torch.tensor(values, dtype=torch.float64)) @ v.T).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("p", "q"), [(40, 40), (40, 70), (70, 40)])
@pytest.mark.parametrize(
    "values",
    [
        np.linspace(1, 0.1, 40),
        [1.0] * 20 + [0.5] * 20,  # alike
        np.geomspace(1, 1e-9, 40),  # ever smaller
        [0.9] * 30 + [0.0] * 10,  # nothing left
    ],
)
def test_singular_vectors_are_those_of_an_svd(values, p, q, dtype):
    a = spectrum(values, p, q, dtype)
    left, found, right = singular_vectors(a)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found, torch.linalg.svdvals(a), rtol=0, atol=tolerance)
    for vectors, n in ((left, p), (right, q)):
        assert vectors.shape == (n, 40)
        eye = torch.eye(40, dtype=dtype)
        torch.testing.assert_close(vectors.T @ vectors, eye, rtol=0, atol=2e-4 if dtype == torch.float32 else 5e-5)
    torch.testing.assert_close((left * found) @ right.T, a, rtol=0, atol=tolerance)


def test_singular_vectors_of_rows_that_are_exactly_zero():
    a = torch.zeros(6, 6, dtype=torch.float64)
    a[0, 2], a[1, 4] = 0.5, 0.25
    left, values, right = singular_vectors(a)
    torch.testing.assert_close(values, torch.tensor([0.5, 0.25, 0, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(right.T @ right, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close((left * values) @ right.T, a)


def test_small_and_absent_values_together_keep_their_signs():
    for seed in range(4):
        a = spectrum([0.9, 0.5, 0.2, 3e-8, 1e-8, 0.0], 6, 6, torch.float64, seed)
        left, values, right = singular_vectors(a)
        torch.testing.assert_close((left * values) @ right.T, a, rtol=0, atol=1e-10)
        torch.testing.assert_close(
            (left.T @ a @ right).diagonal()[:5] / values[:5], torch.ones(5).double(), rtol=1e-4, atol=0
        )


def test_many_matrices_are_decomposed_together_as_one_by_one():
    full, poor = [0.9, 0.5, 0.2, 0.1, 0.1, 0.05], [0.7, 0.3, 1e-8, 0.0, 0.0, 0.0]
    for p, q in ((6, 9), (9, 6)):
        every = torch.stack([spectrum(values, p, q, torch.float64, seed) for seed, values in enumerate((full, poor))])
        left, values, right = singular_vectors(every)
        torch.testing.assert_close((left * values[:, None]) @ right.mT, every, rtol=0, atol=1e-10)
        for one, found in zip(every, values, strict=True):
            torch.testing.assert_close(found, torch.linalg.svdvals(one), rtol=0, atol=1e-10)
        counted = singular_values(every, torch.tensor([6, 2])).flip(-1)
        torch.testing.assert_close(counted, values * (values > 1e-6), rtol=0, atol=1e-8)
