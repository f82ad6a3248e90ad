"""Evidence of layers less what is given, against plain least squares."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

import sslsim
from sslsim import Resampling
from sslsim.activations.selection import layer_views, lengths_of
from sslsim.significance.nulls import Mismatches

LENGTHS = (30, 41, 36, 44, 33, 40, 38, 31)
N = sum(LENGTHS)


def slow(rng, n, rho=0.9):
    """Return autoregressions of each utterance, (n_frames, n)."""
    parts = [lfilter([1.0], [1.0, -rho], rng.standard_normal((t + 30, n)), axis=0)[30:] for t in LENGTHS]
    return np.concatenate(parts) * np.sqrt(1 - rho**2)


def left(x, z):
    z = np.c_[np.ones(len(z)), z]
    return x - z @ np.linalg.lstsq(z, x, rcond=None)[0]


def r2(x, y):
    return 1 - np.mean((left(x, y) ** 2).sum(0) / ((x - x.mean(0)) ** 2).sum(0))


@pytest.fixture
def world(tmp_path):
    """Return stores of two models that share nothing but what is given, their activations, and it."""
    rng = np.random.default_rng(3)
    z = slow(rng, 6)
    sides = [slow(rng, 5, 0.6) + z @ rng.standard_normal((6, 5)) for _ in range(2)]
    ends = np.cumsum(LENGTHS)[:-1]
    stores = [
        sslsim.from_arrays(
            name, {f"u{u}": part[None] for u, part in enumerate(np.split(x.astype("f4"), ends))}, tmp_path
        )
        for name, x in zip("xy", sides, strict=True)
    ]
    return stores, sides, z


def test_score_chance_and_blocks_are_those_of_least_squares(world):
    stores, (x, y), z = world
    how = Resampling(permutations=3, blocks=4, rotations=0)
    made = sslsim.evidence(stores, ["linreg_r2"], between=[("x", "y")], given=z, resampling=how)
    (row,) = np.flatnonzero((made.pairs.model_x == "x") & (made.pairs.model_y == "y"))
    assert made.pairs.value[row] == pytest.approx(r2(left(x, z), left(y, z)), abs=1e-5)
    cuts = np.repeat(np.arange(4), np.add.reduceat(LENGTHS, [0, 2, 4, 6]))
    for g, score in enumerate(made.left_out[:, row]):
        rest = cuts != g
        assert score == pytest.approx(r2(left(x[rest], z[rest]), left(y[rest], z[rest])), abs=1e-5)
    wrong = Mismatches.of(lengths_of(layer_views(stores, None)), 3)
    kept = wrong.frames()
    own, null = [], []
    for order in wrong.orders:
        twice = np.c_[z[kept], z[kept][order]]
        own.append(r2(left(x[kept], twice), left(y[kept], twice)))
        null.append(r2(left(x[kept], twice), left(y[kept][order], twice)))
    np.testing.assert_allclose(made.null[:, row], made.pairs.value[row] + np.array(null) - np.mean(own), atol=1e-5)


def test_what_is_shared_only_through_what_is_given_is_chance(world):
    stores, _, z = world
    how = Resampling(permutations=7, blocks=0, rotations=0)
    measures = ["linreg_r2", "linear_cka_debiased", "mutual_knn", "linreg_heldout"]
    plain, partial = (
        made.pairs.value - made.null.mean(0)
        for given in (None, ["position", z])
        for made in [sslsim.evidence(stores, measures, between=[("x", "y")], given=given, resampling=how)]
    )
    assert plain.min() > 0.05
    assert (partial.abs() < plain / 3).all()
