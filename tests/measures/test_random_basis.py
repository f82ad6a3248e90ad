"""Random bases: uniform, truly applied, and a scale from no neuron shared to all."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from sslsim.measures.moments import Marginal, Moments, moments
from sslsim.measures.neurons import multiple_corr
from sslsim.measures.random_basis import haar, rotated_correlation, shared, shared_without
from sslsim.measures.registry import MEASURES, similarity


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 7)) @ rng.standard_normal((7, 7)) + 4
    return x, x @ rng.standard_normal((7, 5)) + rng.standard_normal((500, 5)) - 9


def zscored(x):
    return (x - x.mean(0)) / x.std(0)


# --- bases


@pytest.mark.parametrize("d", [1, 5, 200])
def test_a_basis_is_orthonormal(d):
    q = haar(d, 3)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.T @ q, torch.eye(d), rtol=0, atol=2e-6)


def test_bases_are_uniform_over_all():
    made = torch.stack([haar(6, basis) for basis in range(1500)]).numpy()
    known = stats.ortho_group(6, seed=0).rvs(1500)
    rotation = known[0]
    for of in (lambda q: q[:, 0, 0], lambda q: q[:, 5, 2], lambda q: np.trace(q, axis1=1, axis2=2)):
        assert stats.ks_2samp(of(made), of(known)).pvalue > 0.01
        assert stats.ks_2samp(of(rotation @ made), of(known)).pvalue > 0.01  # in any other basis the same
        assert stats.ks_2samp(of(made @ rotation), of(known)).pvalue > 0.01
    assert stats.kstest(made[:, 1, 3] ** 2, stats.beta(0.5, 2.5).cdf).pvalue > 0.01
    assert abs(np.mean(np.linalg.det(made))) < 0.1  # reflections as often as rotations
    # as LAPACK leaves it, with signs that depend on the matrix, it is not
    plain = np.linalg.qr(np.random.default_rng(0).standard_normal((1500, 6, 6)))[0]
    assert stats.ks_2samp(plain[:, 0, 0], known[:, 0, 0]).pvalue < 1e-6


def test_a_basis_goes_by_width_number_and_seed():
    first = haar(9, 4, 2).clone()
    haar.cache_clear()
    assert torch.equal(haar(9, 4, 2), first)
    for other in (haar(9, 5, 2), haar(9, 4, 3), haar(10, 4, 2)[:9, :9]):
        assert (other - first).abs().max() > 0.1


def test_correlations_are_those_of_data_in_that_basis(layers):
    x, y = layers
    m = moments(x, y)
    for basis, seed in ((0, 0), (3, 8)):
        expected = np.abs(np.corrcoef(zscored(x) @ haar(7, basis, seed).numpy(), y, rowvar=False)[:7, 7:])
        np.testing.assert_allclose(rotated_correlation(m, "x", basis, seed), expected, atol=1e-5)
        expected = np.abs(np.corrcoef(x, zscored(y) @ haar(5, basis, seed).numpy(), rowvar=False)[:7, 7:])
        np.testing.assert_allclose(rotated_correlation(m, "y", basis, seed), expected, atol=1e-5)


def test_constant_and_repeated_neurons_do_no_harm(layers):
    x, y = layers
    y = np.column_stack([y, np.full(500, 3.0), y[:, 0]])  # 7 columns, 6 vary, one of them twice
    m = moments(x, y)
    assert rotated_correlation(m, "x", 0).shape == (7, 6)
    rotated = zscored(np.delete(y, 5, axis=1)) @ haar(6, 0).numpy()
    expected = np.abs(np.corrcoef(x, rotated, rowvar=False)[:7, 7:])
    np.testing.assert_allclose(rotated_correlation(m, "y", 0), expected, atol=1e-5)


def test_a_basis_forgets_the_scale_of_neurons(layers):
    x, y = layers
    expected = rotated_correlation(moments(x, y), "y", 2)
    scaled = rotated_correlation(moments(-3 * x + 1, y * [1, 30, 1e-3, 5, 2] + 7), "y", 2)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-5)


def test_a_random_basis_spans_the_same_subspace_with_other_neurons(layers):
    x, y = layers
    y = np.column_stack([y[:, :3], x[:, :2]])  # two neurons in common
    rotated = zscored(y) @ haar(5, 0).numpy()
    for name in ("linreg", "linreg_r2", "cca"):
        assert similarity(name, x, rotated) == pytest.approx(similarity(name, x, y))
    np.testing.assert_allclose(multiple_corr(moments(x, rotated)), multiple_corr(moments(x, y)))
    for name in ("max_corr", "matched_corr"):
        matching = MEASURES[name].matching
        assert matching(rotated_correlation(moments(x, y), "y", 0)) == pytest.approx(similarity(name, x, rotated))
        assert similarity(name, x, rotated) < similarity(name, x, y) - 0.05


def test_what_is_kept_of_a_basis_is_not_written_with_the_moments(layers):
    m = moments(*layers)
    before = rotated_correlation(m, "x", 0)
    assert list(m.x.random_bases) == [(0, 0)]
    assert torch.equal(rotated_correlation(m, "x", 0), before)
    again = pickle.loads(pickle.dumps(m.x))
    assert "random_bases" not in vars(again)
    assert torch.equal(rotated_correlation(Moments(again, m.y, m.cross), "x", 0), before)


# --- variance shared with single neurons beyond random bases


def mixtures(kind, seed=0, d=40):
    """Mixtures (80 factors, d neurons) of two layers: of y none, all or a tenth of the neurons are those of x."""
    rng, y = np.random.default_rng(seed), np.eye(80)[:, 40 : 40 + d]
    alike = {"independent": 0, "tenth": d // 10}.get(kind, d)
    y[:, :alike] = np.eye(80)[:, :alike]
    if kind == "permuted":
        y = y[:, rng.permutation(d)]
    return np.eye(80)[:, :d], y @ haar(d, 99, seed).double().numpy() if kind == "rotated" else y


def endless(x, y):
    """Moments of endlessly many frames of two mixtures of independent factors of variance 1."""
    n, (x, y) = 10**9, (torch.from_numpy(side) for side in (x, y))
    sides = [Marginal(n, torch.zeros(side.shape[1], dtype=torch.float64), n * side.T @ side) for side in (x, y)]
    return Moments(*sides, n * x.T @ y)


def bests(m, side="y"):
    """Best correlations of every neuron of the other side, as it is and in random bases."""
    along = 1 if side == "y" else 0
    rotated = [rotated_correlation(m, side, basis).amax(along) for basis in range(20)]
    return m.correlation.abs().amax(along).numpy(), torch.stack(rotated).double().numpy()


def test_the_share_by_hand():
    best, rotated = np.array([1.0, 0.5]), np.array([[0.6, 0.5], [0.8, 0.7]])
    b = (0.36 + 0.64) / 2, (0.25 + 0.49) / 2
    value, of_bases = shared(best, rotated)
    assert value == pytest.approx(((1 - b[0]) / (1 - b[0]) + (0.25 - b[1]) / (1 - b[1])) / 2)
    with_it = (1 + 0.36 + 0.64) / 3, (0.25 + 0.25 + 0.49) / 3

    def share(squares):
        return sum((s - c) / (1 - c) for s, c in zip(squares, with_it, strict=True)) / 2

    expected = np.array([share((0.36, 0.25)), share((0.64, 0.49))])
    np.testing.assert_allclose(of_bases - value, expected - share((1, 0.25)))


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize(
    ("kind", "expected", "tolerance"),
    [("independent", 0, 1e-6), ("permuted", 1, 1e-4), ("rotated", 0, 0.04), ("tenth", 0.1, 0.005)],
)
def test_the_share_of_endless_speech_is_the_share_of_neurons(kind, expected, tolerance, side):
    for seed in range(3):
        assert shared(*bests(endless(*mixtures(kind, seed)), side))[0] == pytest.approx(expected, abs=tolerance)


def test_no_scale_or_order_of_neurons_changes_the_share():
    rng = np.random.default_rng(0)
    x, y = mixtures("tenth")
    order, scale = rng.permutation(40), rng.uniform(0.1, 30, 40)
    value = shared(*bests(endless(x, y)))[0]
    assert shared(*bests(endless(x[:, order] * scale, y)))[0] == pytest.approx(value, abs=1e-6)
    assert shared(*bests(endless(x, y[:, order] * scale)))[0] == pytest.approx(value, abs=0.01)
    rotation = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    assert shared(*bests(endless(x, y @ rotation)))[0] == pytest.approx(0, abs=0.03)  # a rotation takes partners away


def test_a_basis_among_random_ones_has_any_rank_alike():
    ranks = []
    for repeat in range(400):
        best = torch.stack([haar(8, 10 * repeat + k, seed=5) for k in range(10)]).abs().amax(2).numpy()
        value, of_bases = shared(best[0], best[1:])
        ranks.append((of_bases >= value).sum())
    assert stats.chisquare(np.bincount(ranks, minlength=10)).pvalue > 0.01


def test_the_observed_basis_differs_from_the_others_in_nothing():
    """The share of a basis is what it would have in the place of the observed one."""
    every = np.random.default_rng(0).uniform(0.2, 0.9, (6, 12))
    value, of_bases = shared(every[0], every[1:])
    for k in range(1, 6):
        swapped = every.copy()
        swapped[[0, k]] = every[[k, 0]]
        other, others = shared(swapped[0], swapped[1:])
        assert other - others[k - 1] == pytest.approx(of_bases[k - 1] - value)


def test_neurons_that_never_vary_take_no_part_and_a_lone_neuron_has_no_other_basis():
    rng = np.random.default_rng(0)
    best, rotated = rng.random(8), rng.random((4, 8))
    value, of_bases = shared(np.insert(best, 3, np.nan), np.insert(rotated, 3, np.nan, axis=1))
    assert value == pytest.approx(shared(best, rotated)[0])
    np.testing.assert_allclose(of_bases, shared(best, rotated)[1])
    value, of_bases = shared(np.array([0.7]), np.array([[0.7], [0.7]]))
    assert (value, *of_bases) == (0, 0, 0)


@pytest.mark.parametrize("few", [1, 3, 6])
def test_fewer_utterances_change_the_share_by_what_they_change_in_the_same_bases(few):
    """In every basis at once or in some of them: a level that all bases have in common moves along."""
    rng = np.random.default_rng(0)
    best, rotated = rng.uniform(0.6, 0.9, 9), rng.uniform(0.2, 0.5, (6, 9))
    assert shared_without(best, rotated[:few], rotated) == pytest.approx(shared(best, rotated)[0])
    after = np.sqrt(rotated**2 + 0.05)
    assert shared_without(best, after[:few], rotated) == pytest.approx(shared(best, after)[0])
