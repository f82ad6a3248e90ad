"""Measures against published reference values, outside oracles, naive definitions and their invariances."""

import ckatorch
import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment, linprog
from sklearn.datasets import load_linnerud
from sklearn.linear_model import LinearRegression
from statsmodels.multivariate.cancorr import CanCorr

import sslsim
from sslsim.measures.layers import cca_ranks, svcca_ranks
from sslsim.measures.moments import WIDE, moments
from sslsim.measures.neurons import best_partners, multiple_corr
from sslsim.measures.registry import MEASURES

SCALED = [name for name, measure in MEASURES.items() if measure.scaling]


@pytest.fixture(scope="module")
def seeded():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 30))
    y = x @ rng.standard_normal((30, 20)) + 0.5 * rng.standard_normal((200, 20))
    assert x.sum() == pytest.approx(-8.436579969616659, abs=1e-9)
    assert y.sum() == pytest.approx(461.81280318846296, abs=1e-9)
    return x, y


@pytest.fixture(scope="module")
def forerunner():
    """Return the three layers of the golden files of the toolkit that Wu et al. 2020 published."""
    return np.random.RandomState(0).randn(3, 10, 2)


GOLDEN = 5e-7  # the forerunner's golden files were computed in float32

REFERENCE = [
    ("linear_cka_biased", False, False, 0.6584022886324892),
    ("linear_cka_biased", True, False, 0.6706103442530751),
    ("linear_cka_debiased", False, False, 0.6323496794730227),
    ("cca", True, False, 0.9872338639072359),
    ("svcca", False, False, 0.9934223447957149),
    ("svcca", True, False, 0.9933542658633776),
    ("pwcca", False, False, 0.9880919481790151),
    ("pwcca", False, True, 0.9937561508765284),
    ("procrustes", False, False, 0.7609659226020105),
    ("max_corr", True, False, 0.41487298367887543),
    ("max_corr", True, True, 0.4537878106646193),
    ("matched_corr", True, False, 0.43288492155962954),
    ("linreg", True, False, 0.8274572565004721),
    ("linreg", True, True, 0.9962476332465157),
]


@pytest.mark.parametrize(("measure", "standardize", "swap", "value"), REFERENCE)
def test_seeded_reference_values(seeded, measure, standardize, swap, value):
    x, y = seeded[::-1] if swap else seeded
    assert sslsim.similarity(measure, x, y, standardize=standardize) == pytest.approx(value, abs=1e-8)


def test_procrustes_is_the_cosine_of_the_angular_distance(seeded):
    cosine = sslsim.similarity("procrustes", *seeded, standardize=False)
    assert np.arccos(cosine) == pytest.approx(0.7059957068508025, abs=1e-8)


def test_svcca_truncation_and_the_forerunners(seeded):
    """The forerunner z-scores and keeps one component fewer, (29, 17) instead of (30, 18)."""
    m = moments(*seeded)
    assert svcca_ranks(m) == svcca_ranks(m, standardize=False) == (30, 18)
    assert svcca_ranks(m, truncation="below") == (29, 17)
    for options in ({"measure": "svcca_below"}, {"measure": "svcca", "truncation": "below"}):
        assert sslsim.similarity(x=seeded[0], y=seeded[1], **options) == pytest.approx(0.9847255425712365, abs=1e-8)
    assert svcca_ranks(m, variance=1e-9, truncation="below") == (1, 1)  # never none


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "bellow"}, r"unknown truncation 'bellow'; did you mean 'below'\?"),
        ({"variance": 99}, "variance is 99; give the share of the variance to keep, above 0 and up to 1"),
        ({"variance": 0.0}, "variance is 0.0; give the share"),
    ],
)
def test_options_of_svcca(seeded, options, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        sslsim.similarity("svcca", *seeded, **options)


def test_kornblith_demo():
    np.random.seed(1337)  # noqa: NPY002 the published demo's own generator
    x = np.random.randn(100, 10)  # noqa: NPY002
    y = np.random.randn(100, 10) + x  # noqa: NPY002
    assert sslsim.similarity("linear_cka_biased", x, y, standardize=False) == pytest.approx(0.55761, abs=5e-6)
    assert sslsim.similarity("linear_cka_debiased", x, y, standardize=False) == pytest.approx(0.51346, abs=5e-6)
    r2_cca = moments(x, y).canonical[1].square().mean()
    assert float(r2_cca) == pytest.approx(0.54540, abs=5e-6)


@pytest.mark.parametrize(
    ("a", "neuron", "b", "partner", "r"),
    [
        (0, 1, 1, 1, 0.12938967),
        (0, 1, 2, 1, 0.55549771),
        (0, 0, 1, 1, -0.23845302),
        (0, 0, 2, 0, 0.23722361),
        (1, 0, 2, 1, 0.45089912),
        (2, 0, 0, 1, -0.52799743),
    ],
)
def test_forerunner_signed_partners(forerunner, a, neuron, b, partner, r):
    partners, values = best_partners(moments(forerunner[a], forerunner[b]))
    assert partners[neuron] == partner
    assert values[neuron] == pytest.approx(r, abs=GOLDEN)


@pytest.mark.parametrize(
    ("standardize", "values"),
    [(True, (0.04030122, 0.31554640, 0.10561966)), (False, (0.02779930, 0.35262322, 0.16119772))],
)
def test_forerunner_cka(forerunner, standardize, values):
    for (a, b), value in zip([(0, 1), (0, 2), (1, 2)], values, strict=True):
        ours = sslsim.similarity("linear_cka_biased", forerunner[a], forerunner[b], standardize=standardize)
        assert ours == pytest.approx(value, abs=GOLDEN)


@pytest.mark.parametrize(
    ("a", "neuron", "b", "error"), [(0, 0, 1, 8.47982693), (0, 1, 2, 4.91073561), (2, 1, 0, 6.20416880)]
)
def test_forerunner_regression(forerunner, a, neuron, b, error):
    """Their golden files hold residual sums of squares of z-scored neurons, (n - 1)(1 - R2)."""
    r = multiple_corr(moments(forerunner[a], forerunner[b]))
    assert 9 * (1 - float(r[neuron]) ** 2) == pytest.approx(error, rel=GOLDEN)


def test_linnerud_against_sas():
    data = load_linnerud()
    rho = moments(data.data, data.target).canonical[1]
    assert rho.numpy() == pytest.approx([0.79560815, 0.20055604, 0.07257029], abs=1e-8)


def test_cca_against_statsmodels(seeded):
    assert sslsim.similarity("cca", *seeded) == pytest.approx(CanCorr(*seeded[::-1]).cancorr.mean(), abs=1e-10)


def test_linreg_against_scikit_learn(seeded):
    x, y = seeded
    fitted = LinearRegression().fit(y, x).predict(y)
    r2 = 1 - ((x - fitted) ** 2).sum(0) / ((x - x.mean(0)) ** 2).sum(0)
    assert multiple_corr(moments(x, y)).numpy() == pytest.approx(np.sqrt(r2), abs=1e-10)


def test_procrustes_against_scipy(seeded):
    x, y = (a - a.mean(0) for a in seeded)
    _, nuclear = orthogonal_procrustes(np.hstack([y, np.zeros((200, 10))]), x)
    expected = nuclear / np.linalg.norm(x) / np.linalg.norm(y)
    assert sslsim.similarity("procrustes", *seeded, standardize=False) == pytest.approx(expected, abs=1e-10)


def test_matched_corr_against_scipy(seeded):
    r = np.abs(np.corrcoef(*seeded, rowvar=False)[:30, 30:])
    assert sslsim.similarity("matched_corr", *seeded) == pytest.approx(r[linear_sum_assignment(-r)].mean(), abs=1e-10)


def test_soft_matching_against_a_linear_program_and_its_laws(seeded):
    r = np.abs(np.corrcoef(*seeded, rowvar=False)[:30, 30:])
    p, q = r.shape
    rows, columns = np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q))
    sums = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    best = linprog(-r.ravel(), A_eq=np.vstack([rows, columns]), b_eq=sums)
    assert sslsim.similarity("soft_matched_corr", *seeded) == pytest.approx(-best.fun, abs=1e-10)
    x, y = seeded[0][:, :20], seeded[1]
    assert sslsim.similarity("soft_matched_corr", x, y) == sslsim.similarity("matched_corr", x, y)
    twice = np.hstack([x, x])  # every neuron of x shares its weight between two copies of itself
    assert sslsim.similarity("soft_matched_corr", x, twice) == pytest.approx(1, abs=1e-12)


def test_soft_matching_that_does_not_end_is_an_error(seeded, monkeypatch):
    monkeypatch.setattr("ot.emd", lambda *_, **__: (None, {"warning": "numItermax reached"}))
    with pytest.raises(sslsim.SslsimError, match="soft matching of 30 with 20 neurons found no best plan: numItermax"):
        sslsim.similarity("soft_matched_corr", *seeded)


def test_cka_against_ckatorch(seeded):
    x, y = (torch.as_tensor(a) for a in seeded)
    debiased = float(ckatorch.cka_batch(x[None], y[None]))
    assert sslsim.similarity("linear_cka_debiased", x, y, standardize=False) == pytest.approx(debiased, abs=1e-8)
    biased = float(ckatorch.cka_base(x, y))
    assert sslsim.similarity("linear_cka_biased", x, y, standardize=False) == pytest.approx(biased, abs=1e-10)


def test_debiased_cka_against_song_et_al(seeded):
    """HSIC_1 written out: kernels with zero diagonal, tr(KL) + 1'K1 1'L1 / (n-1)(n-2) - 2 / (n-2) 1'KL1."""

    def hsic(k, el):
        k, el, n = k - np.diag(np.diag(k)), el - np.diag(np.diag(el)), len(k)
        return (k * el).sum() + k.sum() * el.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ el).sum()

    k, el = (a @ a.T for a in seeded)  # uncentred: HSIC_1 does not depend on the mean
    expected = hsic(k, el) / np.sqrt(hsic(k, k) * hsic(el, el))
    assert sslsim.similarity("linear_cka_debiased", *seeded, standardize=False) == pytest.approx(expected, abs=1e-10)


def test_pwcca_against_its_definition(seeded):
    x, y = (a - a.mean(0) for a in seeded)
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    left, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = np.abs((qx @ left).T @ x).sum(1)
    assert sslsim.similarity("pwcca", *seeded, standardize=False) == pytest.approx(weights @ rho / weights.sum())


# what each measure must not notice (True) and must notice (False), by transform of y
INVARIANCE = {
    ("max_corr", True): (True, True, True, False, False),
    ("matched_corr", True): (True, True, True, False, False),
    ("soft_matched_corr", True): (True, True, True, False, False),
    ("linreg", True): (True, True, True, True, True),
    ("cca", True): (True, True, True, True, True),
    ("svcca", True): (True, True, True, False, False),
    ("svcca", False): (True, True, False, True, False),
    ("svcca_below", True): (True, True, True, False, False),
    ("pwcca", True): (True, True, True, True, True),  # weights come from x, which stays
    ("linear_cka_biased", False): (True, True, False, True, False),
    ("linear_cka_biased", True): (True, True, True, False, False),
    ("linear_cka_debiased", False): (True, True, False, True, False),
    ("procrustes", False): (True, True, False, True, False),
    ("procrustes", True): (True, True, True, False, False),
}


@pytest.mark.parametrize(("measure", "standardize"), INVARIANCE)
def test_invariances(measure, standardize):
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
    before = sslsim.similarity(measure, x, y, standardize=standardize)
    for transformed, same in zip(transforms, INVARIANCE[measure, standardize], strict=True):
        moved = abs(sslsim.similarity(measure, x, transformed, standardize=standardize) - before)
        assert moved < 1e-9 if same else moved > 1e-4


def score(measure, x, y, **options):
    """Similarity, the frames cut into six utterances for the measures that need them."""
    known = {"utterances": [len(part) for part in np.array_split(x, 6)]} if MEASURES[measure].utterances else {}
    return sslsim.similarity(measure, x, y, **known, **options)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
class TestLaws:
    def test_itself_is_one(self, measure, standardize, seeded):
        assert score(measure, seeded[0], seeded[0], standardize=standardize) == pytest.approx(1, abs=1e-9)

    def test_range_and_symmetry(self, measure, standardize, seeded):
        there = score(measure, *seeded, standardize=standardize)
        back = score(measure, *seeded[::-1], standardize=standardize)
        assert 0 < there < 1
        assert (abs(there - back) < 1e-9) == MEASURES[measure].symmetric

    def test_constant_and_dead_neurons_are_left_out(self, measure, standardize, seeded):
        x, y = (a.astype(np.float32) for a in seeded)
        dead = np.hstack([x[:, :5], np.zeros((200, 1), np.float32), x[:, 5:], np.full((200, 2), 731.3, np.float32)])
        expected = score(measure, x, y, standardize=standardize)
        assert score(measure, dead, y, standardize=standardize) == pytest.approx(expected, abs=1e-6)

    def test_more_neurons_than_frames_is_defined(self, measure, standardize):
        rng = np.random.default_rng(2)
        x, y = rng.standard_normal((12, 30)), rng.standard_normal((12, 25))
        assert -1 <= score(measure, x, y, standardize=standardize) <= 1

    def test_float32_large_means_match_float64(self, measure, standardize, seeded):
        x, y = ((1000 + a).astype(np.float32) for a in seeded)
        single = score(measure, x, y, standardize=standardize)
        double = score(measure, x.astype(float), y.astype(float), standardize=standardize)
        assert single == pytest.approx(double, abs=1e-5)


@pytest.fixture(scope="module", params=["narrow", "wide"])
def far_from_zero(request):
    """Float32 layers of mean 1000, their units up to 1e4 apart; wide ones are paired in float32."""
    width = {"narrow": 40, "wide": 300}[request.param]
    rng = np.random.default_rng(4)
    latent = rng.standard_normal((2000, width)) * np.linspace(1, 0.3, width)
    x, y = (latent @ rng.standard_normal((width, width)) / width**0.5 for _ in "xy")
    sides = [s / s.std(0) + level * rng.standard_normal(s.shape) for s, level in ((x, 0.4), (y, 0.8))]
    units = [rng.permutation(np.geomspace(1e-2, 1e2, width)) for _ in sides]
    return [((1000 + side) * unit).astype(np.float32) for side, unit in zip(sides, units, strict=True)]


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
def test_float32_is_within_1e_5_of_float64(measure, standardize, far_from_zero):
    single = score(measure, *far_from_zero, standardize=standardize)
    double = score(measure, *(side.astype(float) for side in far_from_zero), standardize=standardize)
    assert single == pytest.approx(double, abs=1e-5)


@pytest.mark.parametrize(
    ("decay", "bound"), [(0.5, 1e-5), (0.9, 1e-4), (1.1, 1e-3)], ids=["eigenvalues to 1e-3", "to 1e-5", "to 1e-6"]
)
@pytest.mark.parametrize("measure", ["linreg", "cca", "svcca", "pwcca"])
def test_float32_on_ever_steeper_spectra(measure, decay, bound):
    """The smallest components are known the less, the smaller they are against the largest."""
    rng = np.random.default_rng(0)
    spread = np.arange(1, 301.0) ** -decay
    latent = rng.standard_normal((3000, 300)) * spread
    turn = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    x, y = ((latent + 0.5 * rng.standard_normal(latent.shape) * spread) @ turn for _ in "xy")
    x, y = (side.astype(np.float32) for side in (x, y))
    double = sslsim.similarity(measure, x.astype(float), y.astype(float))
    assert sslsim.similarity(measure, x, y) == pytest.approx(double, abs=bound)


def test_components_below_the_rounding_of_float32_are_dropped_and_counted_out():
    rng = np.random.default_rng(0)
    layer = (rng.standard_normal((3000, 300)) * np.arange(1, 301.0) ** -1.5) @ np.linalg.qr(
        rng.standard_normal((300, 300))
    )[0]
    single = moments(layer.astype(np.float32), layer.astype(np.float32))
    assert cca_ranks(moments(layer, layer)) == (300, 300)
    assert 150 < cca_ranks(single)[0] < 290


def test_wide_float32_layers_are_paired_in_float32_and_only_those(far_from_zero):
    wide = far_from_zero[0].shape[1] >= WIDE
    assert moments(*far_from_zero).whitened.dtype == (torch.float32 if wide else torch.float64)
    assert moments(far_from_zero[0], far_from_zero[1].astype(float)).whitened.dtype == torch.float64
    assert moments(far_from_zero[0], far_from_zero[1][:, :30]).whitened.dtype == torch.float64


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("damage", ["dead", "duplicated", "few frames"])
def test_wide_layers_with_dead_and_duplicated_neurons_or_few_frames(measure, standardize, damage, far_from_zero):
    x, y = (side[: 120 if damage == "few frames" else None].copy() for side in far_from_zero)
    if damage == "dead":
        x[:, ::7] = 0
    elif damage == "duplicated":
        y = np.hstack([y, y[:, :100]])
    single = score(measure, x, y, standardize=standardize)
    double = score(measure, x.astype(float), y.astype(float), standardize=standardize)
    assert single == pytest.approx(double, abs=5e-5)


@pytest.mark.parametrize("measure", ["linreg", "cca", "svcca", "pwcca"])
def test_duplicated_neurons_add_no_direction(measure, seeded):
    x, y = (a.astype(np.float32) for a in seeded)
    twice = np.hstack([y, y])
    expected = sslsim.similarity(measure, x, y, standardize=False)
    assert sslsim.similarity(measure, x, twice, standardize=False) == pytest.approx(expected, abs=1e-5)


def test_torch_and_numpy_agree_and_half_precision_is_promoted(seeded):
    x, y = (torch.as_tensor(a) for a in seeded)
    assert sslsim.similarity("svcca", x, y) == sslsim.similarity("svcca", *seeded)
    assert sslsim.similarity("svcca", x.half(), y.half()) == pytest.approx(sslsim.similarity("svcca", x, y), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("svca", np.ones((3, 2)), np.ones((3, 2))), r"unknown measure 'svca'; did you mean 'svcca'\?"),
        (
            ("js", np.ones((3, 2)), np.ones((3, 2))),
            "'js'; it compares attention heads: use compare or attention_similarity",
        ),
        (
            ("attention_cka", np.eye(3), np.eye(3)),
            "'attention_cka'; it compares attention: use compare or attention_cka",
        ),
        (("cca", np.eye(5), np.eye(4)), "layers cannot be paired: x has 5 frames, y 4; give the same frames of both"),
        (("cca", np.eye(5)[0], np.eye(5)), r"x has shape \(5,\); give \(n_frames, n_neurons\)"),
        (("cca", np.ones((1, 2)), np.ones((1, 2))), "one frame has no variance; give at least two"),
        (("cca", np.ones((9, 2)), np.ones((9, 2))), "none of 2 neurons varies over 9 frames; nothing to compare"),
        (("cca", np.array([[0.0], [np.nan], [1]]), np.eye(3)), "frame 1 holds NaN or infinity"),
        (("linear_cka_debiased", np.eye(3), np.eye(3)), "debiased CKA needs at least 4 frames, got 3"),
    ],
)
def test_errors_say_what_failed(arguments, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        sslsim.similarity(*arguments)


def test_an_option_the_measure_lacks_is_named(seeded):
    with pytest.raises(sslsim.SslsimError, match="measure 'cca': got an unexpected keyword argument 'variance'"):
        sslsim.similarity("cca", *seeded, variance=0.9)
