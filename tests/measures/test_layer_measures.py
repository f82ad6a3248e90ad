"""Layer measures against published reference values, outside oracles, definitions and their invariances."""

import ckatorch
import numpy as np
import pytest
import torch
from reference import GOLDEN, forerunner, kornblith, seeded
from scipy.linalg import orthogonal_procrustes
from sklearn.datasets import load_linnerud
from statsmodels.multivariate.cancorr import CanCorr

import sslsim
from sslsim.measures.layers import svcca_ranks
from sslsim.measures.moments import WIDE, moments

X, Y = seeded()
similarity = sslsim.similarity


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("linear_cka_biased_raw", 0.6584022886324892),
        ("linear_cka_biased", 0.6706103442530751),
        ("linear_cka_debiased_raw", 0.6323496794730227),
        ("cca", 0.9872338639072359),
        ("svcca_raw", 0.9934223447957149),
        ("svcca", 0.9933542658633776),
        ("svcca_below", 0.9847255425712365),  # as the forerunner truncates
        ("pwcca_raw", 0.9880919481790151),
        ("procrustes_raw", 0.7609659226020105),
    ],
)
def test_seeded_reference_values(measure, value):
    assert similarity(measure, X, Y) == pytest.approx(value, abs=1e-8)


def test_pwcca_of_the_other_side_and_the_angle_of_procrustes():
    assert similarity("pwcca_raw", Y, X) == pytest.approx(0.9937561508765284, abs=1e-8)
    assert np.arccos(similarity("procrustes_raw", X, Y)) == pytest.approx(0.7059957068508025, abs=1e-8)


def test_svcca_truncation_and_the_forerunners():
    """The forerunner keeps one component fewer, (29, 17) instead of (30, 18)."""
    m = moments(X, Y)

    def ranks(**options):
        return [int(svcca_ranks(side, **options)) for side in (m.x, m.y)]

    assert ranks() == ranks(standardize=False) == [30, 18]
    assert ranks(below=True) == [29, 17]
    assert ranks(variance=1e-9, below=True) == [1, 1]  # never none


def test_a_share_of_the_variance_that_cannot_be_is_refused():
    with pytest.raises(sslsim.SslsimError, match="variance is 99; give the share of the variance to keep, above 0"):
        similarity("svcca", X, Y, variance=99)


def test_kornblith_demo():
    x, y = kornblith()
    assert similarity("linear_cka_biased_raw", x, y) == pytest.approx(0.55761, abs=5e-6)
    assert similarity("linear_cka_debiased_raw", x, y) == pytest.approx(0.51346, abs=5e-6)
    assert float(moments(x, y).canonical[1].square().mean()) == pytest.approx(0.54540, abs=5e-6)


@pytest.mark.parametrize(
    ("measure", "values"),
    [
        ("linear_cka_biased", (0.04030122, 0.31554640, 0.10561966)),
        ("linear_cka_biased_raw", (0.02779930, 0.35262322, 0.16119772)),
    ],
)
def test_forerunner_cka(measure, values):
    layers = forerunner()
    for (a, b), value in zip([(0, 1), (0, 2), (1, 2)], values, strict=True):
        assert similarity(measure, layers[a], layers[b]) == pytest.approx(value, abs=GOLDEN)


def test_cca_against_sas_and_statsmodels():
    data = load_linnerud()
    rho = moments(data.data, data.target).canonical[1]
    assert rho.numpy() == pytest.approx([0.79560815, 0.20055604, 0.07257029], abs=1e-8)
    assert similarity("cca", X, Y) == pytest.approx(CanCorr(Y, X).cancorr.mean(), abs=1e-10)


def test_procrustes_against_scipy():
    x, y = (a - a.mean(0) for a in (X, Y))
    _, nuclear = orthogonal_procrustes(np.hstack([y, np.zeros((200, 10))]), x)
    expected = nuclear / np.linalg.norm(x) / np.linalg.norm(y)
    assert similarity("procrustes_raw", X, Y) == pytest.approx(expected, abs=1e-10)


def test_cka_against_ckatorch():
    x, y = (torch.as_tensor(a) for a in (X, Y))
    debiased, biased = float(ckatorch.cka_batch(x[None], y[None])), float(ckatorch.cka_base(x, y))
    assert similarity("linear_cka_debiased_raw", x, y) == pytest.approx(debiased, abs=1e-8)
    assert similarity("linear_cka_biased_raw", x, y) == pytest.approx(biased, abs=1e-10)


def test_debiased_cka_against_song_et_al():
    """HSIC_1 written out: kernels with zero diagonal, tr(KL) + 1'K1 1'L1 / (n-1)(n-2) - 2 / (n-2) 1'KL1."""

    def hsic(k, el):
        k, el, n = k - np.diag(np.diag(k)), el - np.diag(np.diag(el)), len(k)
        return (k * el).sum() + k.sum() * el.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ el).sum()

    k, el = X @ X.T, Y @ Y.T  # uncentred: HSIC_1 does not depend on the mean
    expected = hsic(k, el) / np.sqrt(hsic(k, k) * hsic(el, el))
    assert similarity("linear_cka_debiased_raw", X, Y) == pytest.approx(expected, abs=1e-10)


def test_pwcca_against_its_definition():
    x, y = (a - a.mean(0) for a in (X, Y))
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    left, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = np.abs((qx @ left).T @ x).sum(1)
    assert similarity("pwcca_raw", X, Y) == pytest.approx(weights @ rho / weights.sum())


def test_the_largest_neurons_are_dropped():
    x, y = X.copy(), Y.copy()
    x[:, [3, 11, 17]] *= 1000
    kept = np.delete(x, [3, 11, 17], axis=1), np.delete(y, np.argsort(y.std(0))[-3:], axis=1)
    assert similarity("linear_cka_dropped", x, y) == pytest.approx(similarity("linear_cka_biased_raw", *kept))


# what each measure must not notice (True) and must notice (False): a shift, a scale, a scale a neuron, a rotation, any
# invertible map of y
INVARIANCE = {
    "max_corr": (True, True, True, False, False),
    "matched_corr": (True, True, True, False, False),
    "soft_matched_corr": (True, True, True, False, False),
    "linreg": (True, True, True, True, True),
    "linreg_r2": (True, True, True, True, True),
    "cca": (True, True, True, True, True),
    "svcca": (True, True, True, False, False),
    "svcca_raw": (True, True, False, True, False),
    "svcca_below": (True, True, True, False, False),
    "pwcca": (True, True, True, True, True),  # weights come from x, which stays
    "linear_cka_biased": (True, True, True, False, False),
    "linear_cka_biased_raw": (True, True, False, True, False),
    "linear_cka_debiased": (True, True, True, False, False),
    "linear_cka_debiased_raw": (True, True, False, True, False),
    "procrustes": (True, True, True, False, False),
    "procrustes_raw": (True, True, False, True, False),
}


@pytest.mark.parametrize("measure", INVARIANCE)
def test_invariances(measure):
    rng = np.random.default_rng(1)
    latent = rng.standard_normal((400, 12)) * np.linspace(0.2, 2, 12)
    x = latent @ rng.standard_normal((12, 10)) + 0.3 * rng.standard_normal((400, 10))
    y = latent @ rng.standard_normal((12, 10)) + 0.3 * rng.standard_normal((400, 10))
    transforms = (
        y + 100 * rng.standard_normal(10),
        3.0 * y,
        y * np.geomspace(0.01, 50, 10),
        y @ np.linalg.qr(rng.standard_normal((10, 10)))[0],
        y @ rng.standard_normal((10, 10)),
    )
    before = similarity(measure, x, y)
    for transformed, same in zip(transforms, INVARIANCE[measure], strict=True):
        moved = abs(similarity(measure, x, transformed) - before)
        assert moved < 1e-9 if same else moved > 1e-4


@pytest.mark.parametrize(("decay", "bound"), [(0.5, 1e-5), (1.1, 1e-3)], ids=["eigenvalues to 1e-3", "to 1e-6"])
def test_float32_on_ever_steeper_spectra(decay, bound):
    """The smallest components are known the less, the smaller they are against the largest."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, 301.0) ** -decay
    latent = rng.standard_normal((3000, 300)) * spread
    rotation = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    x, y = ((latent + 0.5 * rng.standard_normal(latent.shape) * spread) @ rotation for _ in "xy")
    x, y = (side.astype(np.float32) for side in (x, y))
    assert moments(x, y).whitened.dtype == torch.float32
    for measure in ("linreg", "cca", "svcca", "pwcca"):
        double = similarity(measure, x.astype(float), y.astype(float))
        assert similarity(measure, x, y) == pytest.approx(double, abs=bound)


def test_components_below_the_rounding_of_float32_are_dropped_and_counted_out():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    layer = (rng.standard_normal((3000, 300)) * np.arange(1, 301.0) ** -1.5) @ rotation
    single = layer.astype(np.float32)
    assert moments(layer, layer).x.components.rank == 300
    assert 150 < moments(single, single).x.components.rank < 290


def test_wide_float32_layers_are_paired_in_float32_and_only_those():
    wide = np.random.default_rng(0).standard_normal((400, WIDE)).astype(np.float32)
    assert moments(wide, wide + 1).whitened.dtype == torch.float32
    assert moments(wide, wide.astype(float)).whitened.dtype == torch.float64
    assert moments(wide, wide[:, :30]).whitened.dtype == torch.float64


@pytest.mark.parametrize("measure", ["linreg", "cca", "svcca_raw", "pwcca_raw"])
def test_duplicated_neurons_add_no_direction(measure):
    x, y = (a.astype(np.float32) for a in (X, Y))
    assert similarity(measure, x, np.hstack([y, y])) == pytest.approx(similarity(measure, x, y), abs=1e-5)
