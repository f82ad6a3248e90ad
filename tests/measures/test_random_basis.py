"""Random bases: uniform, truly applied, and known without drawing any; neurons counted against them."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from sslsim.measures import random_basis
from sslsim.measures.moments import Marginal, Moments, moments
from sslsim.measures.neurons import multiple_corr
from sslsim.measures.random_basis import axes, haar, in_bases, neuron_count, neuron_excess, neuron_p
from sslsim.measures.registry import MEASURES, similarity

PERMUTED = [3, 0, 4, 1, 2]
SCORES = ("neuron_excess", "neuron_count", "max_corr_in_bases")


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


def in_basis(m, basis, seed):
    """Correlations of x with the axes of a random basis of y."""
    columns, scale = axes(m.y, basis, seed)
    return m.correlation @ (columns * scale).double()


def test_correlations_are_those_of_data_in_that_basis(layers):
    x, y = layers
    y = np.column_stack([y, y[:, 0]])  # one neuron stands there twice
    m = moments(x, y)
    for basis, seed in ((0, 0), (3, 8)):
        expected = np.corrcoef(x, zscored(y) @ haar(6, basis, seed).numpy(), rowvar=False)[:7, 7:]
        np.testing.assert_allclose(in_basis(m, basis, seed), expected, atol=1e-5)
    rotated = zscored(y) @ haar(6, 3, 8).numpy()  # it spans the same subspace
    np.testing.assert_allclose(multiple_corr(moments(x, rotated)), multiple_corr(m), atol=1e-6)


def test_deviations_of_axes_are_computed_once_for_all_pairs_of_a_layer(layers, monkeypatch):
    layer = moments(*layers).y[None]  # picked, as for one of several pairs
    first = axes(layer, 2)[1]
    monkeypatch.setattr(random_basis, "product", None)
    assert torch.equal(axes(layer, 2)[1], first)
    whole = pickle.loads(pickle.dumps(layer.source[0]))  # as pieces keep it
    assert torch.equal(axes(whole, 2)[1], first[0])


# --- what the best axis of a random basis reaches, without drawing any


def endless(x, y):
    """Moments of endlessly many frames of two mixtures of independent factors of variance 1."""
    n, (x, y) = 10**9, (torch.from_numpy(side) for side in (x, y))
    sides = [Marginal(n, torch.zeros(side.shape[1], dtype=torch.float64), n * side.T @ side) for side in (x, y)]
    return Moments(*sides, n * x.T @ y)


def layer_of(kind, d, rng, p=24):
    """Neurons in terms of a layer of d: axes alike, of falling variance, or a layer of half the rank."""
    spread = {"flat": np.ones(d), "steep": np.arange(1, d + 1.0) ** -0.5, "half rank": np.arange(d) % 2.0}[kind]
    y = spread[:, None] * np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = rng.standard_normal((d, p))
    return endless(np.vstack([x, 1.5 * np.eye(p) * np.linalg.norm(x, axis=0)]), np.vstack([y, np.zeros((p, d))]))


def simulated(m, bases, seed):
    """Largest squared correlation of every neuron of x with an axis, (bases, n_neurons_x)."""
    return torch.stack([in_basis(m, basis, seed).square().amax(-1) for basis in range(bases)])


@pytest.mark.parametrize("kind", ["flat", "steep", "half rank"])
@pytest.mark.parametrize(("d", "bases", "tolerance"), [(30, 300, 0.05), (128, 100, 0.02)])
def test_the_best_axis_is_that_of_a_simulation(kind, d, bases, tolerance):
    """Axes of few neurons repel one another, which makes the best of them better, and closed forms know nothing of."""
    rng, ratios, p = np.random.default_rng(d), [], []
    for repeat in range(2):
        m = layer_of(kind, d, rng)
        drawn, known = simulated(m, bases, repeat), in_bases(m)
        ratios.append(torch.stack([known.square / drawn.mean(0), known.size / drawn.sqrt().mean(0)]))
        p.append(torch.stack([neuron_p(m, best.sqrt()) for best in drawn]))
    assert (torch.cat(ratios, 1).mean(1) - 1).abs().max() < tolerance
    p = torch.cat(p).flatten().numpy()
    for level in (0.01, 0.05):
        error = np.sqrt(level * (1 - level) / len(p))
        assert (p <= level).mean() == pytest.approx(level, abs=4 * error + 0.1 * level), level


@pytest.mark.parametrize("d", [10, 30, 128])
def test_the_tail_of_one_axis_of_independent_neurons_is_exact(d):
    x = np.random.default_rng(0).standard_normal((d, 4))
    m = endless(np.vstack([x, np.diag(np.linalg.norm(x, axis=0) * [0.01, 0.5, 1, 3])]), np.eye(d + 4)[:, :d])
    share, one = multiple_corr(m).square(), torch.tensor(1.0, dtype=torch.float64)
    for p in (0.1, 0.01, 1e-4, 1e-7):
        square = share * stats.beta(0.5, (d - 1) / 2).isf(p)
        np.testing.assert_allclose(in_bases(m).p(square, one), p, rtol=0.12)


def test_many_layers_at_once_and_after_pickling_are_as_each_alone(layers):
    x, y = layers
    whole = Marginal(500, *(torch.stack([getattr(moments(y[:, k], y).x, name) for k in (PERMUTED, slice(None))])
                            for name in ("mean", "scatter")))  # fmt: skip
    first = moments(x, y)
    pairs = Moments(
        moments(x, x).x, whole[torch.tensor([1, 0, 1])], first.cross[:, [range(5), PERMUTED, range(5)]].transpose(0, 1)
    )
    for of in ("square", "size"):
        for one in getattr(in_bases(pairs), of):
            torch.testing.assert_close(one, getattr(in_bases(first), of))
    assert "random_bases" in vars(whole)
    again = pickle.loads(pickle.dumps(whole))
    assert "random_bases" not in vars(again)


# --- neurons with partners beyond random bases


def mixtures(kind, seed=0, d=40):
    """Mixtures (80 factors, d neurons) of two layers: of y none, all or a tenth of the neurons are those of x."""
    rng, y = np.random.default_rng(seed), np.eye(80)[:, 40 : 40 + d]
    alike = {"independent": 0, "tenth": d // 10}.get(kind, d)
    y[:, :alike] = np.eye(80)[:, :alike]
    if kind == "permuted":
        y = y[:, rng.permutation(d)]
    return np.eye(80)[:, :d], y @ haar(d, 99, seed).double().numpy() if kind == "rotated" else y


@pytest.mark.parametrize(
    ("kind", "expected", "tolerance"),
    [("independent", 0, 1e-6), ("permuted", 1, 1e-4), ("rotated", 0, 0.02), ("tenth", 0.1, 0.005)],
)
def test_excess_and_count_on_endless_speech_are_the_share_of_neurons(kind, expected, tolerance):
    every = [endless(*mixtures(kind, seed)) for seed in range(6)]
    every += [m.swapped for m in every]
    assert np.mean([neuron_count(m) for m in every]) == pytest.approx(expected, abs=0.005)
    assert np.mean([neuron_excess(m) for m in every]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("kind", "expected"), [("independent", 0), ("permuted", 1), ("rotated", 0), ("tenth", 0.1)])
def test_the_count_of_noisy_neurons_of_slow_frames(kind, expected):
    rng, found = np.random.default_rng(0), []
    for seed in range(8):
        factors = np.cumsum(rng.standard_normal((900, 80)), axis=0)
        factors = factors - np.repeat(factors[::30], 30, axis=0) + rng.standard_normal((900, 80))
        x, y = (factors @ side + 0.5 * rng.standard_normal((900, 40)) for side in mixtures(kind, seed))
        found += [similarity("neuron_count", x, y), similarity("neuron_count", y, x)]
    assert np.mean(found) == pytest.approx(expected, abs=0.015)


def test_the_count_is_that_of_benjamini_and_hochberg():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((400, 80))
    x, y = (factors @ side for side in mixtures("tenth"))
    y[:, 4:20] += x[:, 4:20] * np.linspace(0.1, 1, 16)  # likeness of every degree
    m = moments(np.insert(x, 3, 2.0, axis=1), y)
    p = neuron_p(m, m.correlation.abs().amax(1))[m.x.alive]
    found = (stats.false_discovery_control(p.numpy()) <= 0.1).mean()
    assert (p < 0.1).double().mean() > found > (p < 0.1 / 40).double().mean()
    assert neuron_count(m) == pytest.approx(found)


def test_the_excess_by_hand(layers):
    m = moments(*layers)
    base, best = in_bases(m).square, torch.linspace(0.1, 0.9, 7)
    expected = [(float(r) ** 2 - float(b)) / (1 - float(b)) for r, b in zip(best, base, strict=True)]
    assert neuron_excess(m, best) == pytest.approx(np.mean(expected))


def test_no_scale_or_order_of_neurons_changes_anything():
    rng = np.random.default_rng(0)
    x, y = mixtures("tenth")
    y[:, 4:] += 0.7 * x[:, 4:]
    order, scale = rng.permutation(40), rng.uniform(0.1, 30, 40)
    for name in SCORES:
        value, *others = (
            MEASURES[name].score(endless(*pair))
            for pair in ((x, y), (x[:, order] * scale, y), (x, y[:, order] * scale))
        )
        for other in others:
            torch.testing.assert_close(other, value, rtol=0, atol=1e-6)
