"""Random bases: uniform, truly applied, and a scale from no neuron shared to all."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import World, endless

from sslsim.measures.moments import Moments, moments
from sslsim.measures.neurons import multiple_corr
from sslsim.measures.random_basis import haar, rotated_correlation, shared, shared_without
from sslsim.measures.registry import MEASURES, similarity
from sslsim.significance.jackknife import p_value


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 7)) @ rng.standard_normal((7, 7)) + 4
    return x, x @ rng.standard_normal((7, 5)) + rng.standard_normal((500, 5)) - 9


def zscored(x):
    return (x - x.mean(0)) / x.std(0)


# --- bases


@pytest.mark.parametrize("d", [1, 2, 5, 200])
def test_a_basis_is_orthonormal(d):
    q = haar(d, 3)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.T @ q, torch.eye(d), rtol=0, atol=2e-6)
    torch.testing.assert_close(q @ q.T, torch.eye(d), rtol=0, atol=2e-6)


def test_bases_are_uniform_over_all():
    made = torch.stack([haar(6, draw) for draw in range(1500)]).numpy()
    known = stats.ortho_group(6, seed=0).rvs(1500)
    turn = known[0]
    for of in (lambda q: q[:, 0, 0], lambda q: q[:, 5, 2], lambda q: np.trace(q, axis1=1, axis2=2)):
        assert stats.ks_2samp(of(made), of(known)).pvalue > 0.01
        assert stats.ks_2samp(of(turn @ made), of(known)).pvalue > 0.01  # in any other basis the same
        assert stats.ks_2samp(of(made @ turn), of(known)).pvalue > 0.01
    assert stats.kstest(made[:, 1, 3] ** 2, stats.beta(0.5, 2.5).cdf).pvalue > 0.01
    assert abs(np.mean(np.linalg.det(made))) < 0.1  # reflections as often as rotations
    # as LAPACK leaves it, with signs that depend on the matrix, it is not
    plain = np.linalg.qr(np.random.default_rng(0).standard_normal((1500, 6, 6)))[0]
    assert stats.ks_2samp(plain[:, 0, 0], known[:, 0, 0]).pvalue < 1e-6


def test_a_basis_goes_by_width_draw_and_seed():
    first = haar(9, 4, 2).clone()
    haar.cache_clear()
    assert torch.equal(haar(9, 4, 2), first)
    for other in (haar(9, 5, 2), haar(9, 4, 3), haar(10, 4, 2)[:9, :9]):
        assert (other - first).abs().max() > 0.1


def test_correlations_are_those_of_data_in_that_basis(layers):
    x, y = layers
    m = moments(x, y)
    for draw, seed in ((0, 0), (3, 8)):
        turned = zscored(x) @ haar(7, draw, seed).numpy()
        expected = np.abs(np.corrcoef(turned, y, rowvar=False)[:7, 7:])
        np.testing.assert_allclose(rotated_correlation(m, "x", draw, seed), expected, atol=1e-5)
        turned = zscored(y) @ haar(5, draw, seed).numpy()
        expected = np.abs(np.corrcoef(x, turned, rowvar=False)[:7, 7:])
        np.testing.assert_allclose(rotated_correlation(m, "y", draw, seed), expected, atol=1e-5)
    torch.testing.assert_close(rotated_correlation(m.swapped, "x", 1), rotated_correlation(m, "y", 1).T)


def test_constant_and_repeated_neurons_do_no_harm(layers):
    x, y = layers
    y = np.column_stack([y, np.full(500, 3.0), y[:, 0]])  # 7 columns, 6 vary, one of them twice
    m = moments(x, y)
    assert rotated_correlation(m, "x", 0).shape == (7, 6)
    turned = zscored(np.delete(y, 5, axis=1)) @ haar(6, 0).numpy()
    expected = np.abs(np.corrcoef(x, turned, rowvar=False)[:7, 7:])
    np.testing.assert_allclose(rotated_correlation(m, "y", 0), expected, atol=1e-5)


def test_a_basis_forgets_scale_and_sign_of_neurons(layers):
    x, y = layers
    expected = rotated_correlation(moments(x, y), "y", 2)
    scaled = rotated_correlation(moments(-3 * x + 1, y * [1, 30, 1e-3, 5, 2] + 7), "y", 2)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-5)
    flipped = rotated_correlation(moments(x, y * [1, -1, 1, 1, 1]), "y", 2)  # of a neuron of y: another basis
    assert (flipped - expected).abs().max() > 0.01


def test_a_random_basis_spans_the_same_subspace_with_other_neurons(layers):
    x, y = layers
    y = np.column_stack([y[:, :3], x[:, :2]])  # two neurons in common
    turned = zscored(y) @ haar(5, 0).numpy()
    for name in ("linreg", "linreg_r2", "cca"):
        assert similarity(name, x, turned) == pytest.approx(similarity(name, x, y))
    np.testing.assert_allclose(multiple_corr(moments(x, turned)), multiple_corr(moments(x, y)))
    for name in ("max_corr", "matched_corr"):
        matching = MEASURES[name].matching
        assert matching(rotated_correlation(moments(x, y), "y", 0)) == pytest.approx(similarity(name, x, turned))
        assert similarity(name, x, turned) < similarity(name, x, y) - 0.05


def test_what_is_kept_of_a_basis_is_not_written_with_the_moments(layers):
    m = moments(*layers)
    before = rotated_correlation(m, "x", 0)
    assert list(m.x.turned) == [(0, 0)]
    assert torch.equal(rotated_correlation(m, "x", 0), before)
    again = pickle.loads(pickle.dumps(m.x))
    assert "turned" not in vars(again)
    assert torch.equal(rotated_correlation(Moments(again, m.y, m.cross), "x", 0), before)


# --- the share of neurons with a partner of their own


def bests(m, bases=20, side="y", seed=0):
    """Best correlations of every neuron of the other side, as it is and in random bases."""
    along = 1 if side == "y" else 0
    turned = [rotated_correlation(m, side, draw, seed).amax(along) for draw in range(bases)]
    return m.correlation.abs().amax(along).numpy(), torch.stack(turned).double().numpy()


def test_the_share_by_hand():
    best, turned = np.array([1.0, 0.5]), np.array([[0.6, 0.5], [0.8, 0.7]])
    b = (0.36 + 0.64) / 2, (0.25 + 0.49) / 2
    value, draws = shared(best, turned)
    assert value == pytest.approx(((1 - b[0]) / (1 - b[0]) + (0.25 - b[1]) / (1 - b[1])) / 2)
    with_it = (1 + 0.36 + 0.64) / 3, (0.25 + 0.25 + 0.49) / 3

    def share(squares):
        return sum((s - c) / (1 - c) for s, c in zip(squares, with_it, strict=True)) / 2

    of_bases = np.array([share((0.36, 0.25)), share((0.64, 0.49))])
    np.testing.assert_allclose(draws - value, of_bases - share((1, 0.25)))


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize(
    ("kind", "expected", "tolerance"),
    [("independent", 0, 1e-6), ("permuted", 1, 1e-4), ("rotated", 0, 0.04), ("half", 0, 0.04), ("tenth", 0.1, 0.005)],
)
def test_the_share_of_endless_speech_is_the_share_of_neurons(kind, expected, tolerance, side):
    for seed in range(3):
        m = endless(*World(kind, seed, neurons=40).mixtures[0])
        assert shared(*bests(m, side=side))[0] == pytest.approx(expected, abs=tolerance)


def test_no_scale_or_order_of_neurons_changes_the_share():
    rng = np.random.default_rng(0)
    x, y = World("tenth", 0).mixtures[0]
    order = rng.permutation(30)
    value = shared(*bests(endless(x, y)))[0]
    assert shared(*bests(endless(x[:, order] * rng.uniform(0.1, 30, 30), y)))[0] == pytest.approx(value, abs=1e-6)
    assert shared(*bests(endless(x, y[:, order] * rng.uniform(0.1, 30, 30))))[0] == pytest.approx(value, abs=0.01)
    turn = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    assert shared(*bests(endless(x, y @ turn)))[0] == pytest.approx(0, abs=0.03)  # a rotation takes partners away


def test_a_basis_among_random_ones_has_any_rank_alike():
    ranks = []
    for repeat in range(400):
        squares = torch.stack([haar(8, 10 * repeat + draw, seed=5) for draw in range(10)]).abs().amax(2).numpy()
        value, draws = shared(squares[0], squares[1:])
        ranks.append(round(10 * float(p_value(value, draws))))
    assert stats.chisquare(np.bincount(ranks, minlength=11)[1:]).pvalue > 0.01


def test_the_observed_basis_differs_from_the_others_in_nothing():
    """What is drawn for a basis is what it would have in the place of the observed one."""
    every = np.random.default_rng(0).uniform(0.2, 0.9, (6, 12))
    value, draws = shared(every[0], every[1:])
    for k in range(1, 6):
        swapped = every.copy()
        swapped[[0, k]] = every[[k, 0]]
        other, others = shared(swapped[0], swapped[1:])
        assert other - others[k - 1] == pytest.approx(draws[k - 1] - value)


def test_neurons_that_never_vary_take_no_part():
    rng = np.random.default_rng(0)
    best, turned = rng.random(8), rng.random((4, 8))
    dead = np.insert(best, 3, np.nan), np.insert(turned, 3, np.nan, axis=1)
    value, draws = shared(*dead)
    expected, expected_draws = shared(best, turned)
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(draws, expected_draws)


def test_a_layer_of_one_neuron_has_no_other_basis():
    value, draws = shared(np.array([0.7]), np.array([[0.7], [0.7]]))
    assert (value, *draws) == (0, 0, 0)
    assert shared(np.array([1.0]), np.array([[1.0]]))[0] == 0


@pytest.mark.parametrize("few", [1, 3, 6])
def test_without_nothing_the_share_is_the_same(few):
    rng = np.random.default_rng(0)
    best, turned = rng.random(9), rng.random((6, 9))
    assert shared_without(best, turned[:few], turned) == pytest.approx(shared(best, turned)[0])


def test_fewer_utterances_change_the_share_by_what_they_change_in_the_same_bases():
    """In every basis at once or in one of them: a level that all bases have in common moves along."""
    rng = np.random.default_rng(0)
    best, turned = rng.uniform(0.6, 0.9, 9), rng.uniform(0.2, 0.5, (6, 9))
    after = np.sqrt(turned**2 + 0.05)
    expected = shared(best, after)[0]
    for few in (1, 6):
        assert shared_without(best, after[:few], turned) == pytest.approx(expected)
    assert shared(best, after[:1])[0] != pytest.approx(expected, abs=1e-3)  # one basis alone has another level
