"""Frames that depend on one another and neurons that dominate: against statsmodels, definitions and simulations."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter
from statsmodels.tsa.stattools import acf

from sslsim.errors import SslsimError
from sslsim.measures import diagnostics
from sslsim.measures.diagnostics import autocorrelation, chance_max_corr, effective_frames
from sslsim.measures.moments import moments


def autoregression(rho, n, seed=0):
    noise = np.random.default_rng(seed).standard_normal((n, len(rho))) * np.sqrt(1 - np.square(rho))
    noise[0] /= np.sqrt(1 - np.square(rho))
    return np.stack([lfilter([1], [1, -r], noise[:, i]) for i, r in enumerate(rho)], axis=1)


def test_autocorrelation_of_one_utterance_is_that_of_statsmodels():
    x = autoregression([0.9, 0.2, -0.5], 300) * [1, 50, 1e-3] + [0, 1000, 3]
    found = autocorrelation(x, [300], 40)
    assert found.shape == (41, 3)
    for neuron in range(3):
        expected = acf(x[:, neuron], nlags=40, adjusted=False, fft=False)
        np.testing.assert_allclose(found[:, neuron], expected, atol=1e-9)


def test_one_utterance_never_meets_the_next():
    x, lengths = autoregression([0.9, 0.5], 200), [60, 100, 40]
    found = autocorrelation(x, lengths, 70)
    centred = x - x.mean(0)
    parts = np.split(centred, np.cumsum(lengths)[:-1])
    for lag in (0, 1, 30, 50, 70):
        sums = sum((part[: max(len(part) - lag, 0)] * part[lag:]).sum(0) for part in parts)
        np.testing.assert_allclose(found[lag], sums / (centred**2).sum(0))
    shuffled = [2, 0, 1]
    other = np.concatenate([np.split(x, np.cumsum(lengths)[:-1])[u] for u in shuffled])
    again = autocorrelation(other, [lengths[u] for u in shuffled], 70)
    np.testing.assert_allclose(again, found, atol=1e-12)
    assert np.abs(autocorrelation(other, [200], 70) - found).max() > 0.01  # as one utterance they do meet


def test_autocorrelation_knows_no_scale_and_nothing_longer_than_an_utterance():
    x = autoregression([0.9, 0.5], 90)
    found = autocorrelation(x, [50, 40], 60)
    np.testing.assert_allclose(found[0], 1)
    assert (found[50:] == 0).all()
    np.testing.assert_allclose(autocorrelation(-30 * x + 7, [50, 40], 60), found, atol=1e-9)
    np.testing.assert_allclose(autocorrelation(torch.from_numpy(x), [50, 40], 60), found)
    still = np.hstack([x, np.full((90, 1), 0.5)])
    found = autocorrelation(still, [50, 40], 60)
    assert (found[:, 2] == 0).all()


def test_lengths_that_are_not_of_the_frames_are_refused():
    with pytest.raises(SslsimError, match="utterances have 90 frames together, x 100; give those of each"):
        autocorrelation(np.ones((100, 2)), [50, 40])


def test_a_constant_neuron_whose_mean_is_rounded_has_no_autocorrelation():
    assert (autocorrelation(np.full((1001, 1), 0.1), [1001], 3) == 0).all()


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.9), (0.9, 0.9), (0.97, 0.6), (0.5, -0.4)])
def test_effective_frames_of_autoregressions_have_a_closed_form(a, b):
    n, lags = 10**7, np.arange(400)
    x, y = np.array([a]) ** lags[:, None], np.array([b]) ** lags[:, None]
    expected = n * (1 - a * b) / (1 + a * b)
    assert effective_frames(x, y, n).item() == pytest.approx(min(expected, n), rel=1e-4)


def test_effective_frames_of_data_give_the_spread_of_correlations():
    rho, n = [0.95, 0.9, 0.0], 4000
    found = []
    for seed in range(40):
        x, y = autoregression(rho, n, 2 * seed), autoregression(rho, n, 2 * seed + 1)
        found.append(np.corrcoef(x, y, rowvar=False)[:3, 3:])
    spread = np.std(found, axis=0)
    auto = [autocorrelation(autoregression(rho, n, seed), [n], 200) for seed in (0, 1)]
    effective = effective_frames(*auto, n)
    assert effective.shape == (3, 3)
    np.testing.assert_allclose(spread, effective**-0.5, rtol=0.35)
    assert effective[0, 0] < n / 10  # slow ones are worth few, and with noise they are worth all
    assert effective[0, 2] > 0.7 * n
    np.testing.assert_allclose(effective_frames(*auto[::-1], n).T, effective)


@pytest.mark.parametrize(("neurons", "n"), [(100, 400), (1000, 300)])
def test_the_largest_correlation_with_unrelated_neurons_is_foretold(neurons, n):
    rng = np.random.default_rng(0)
    largest = []
    for _ in range(40):
        x, y = rng.standard_normal((n, 6)), rng.standard_normal((n, neurons))
        largest.append(np.abs(np.corrcoef(x, y, rowvar=False)[:6, 6:]).max(1).mean())
    expected = chance_max_corr(n, neurons)
    assert 0.94 < expected / np.mean(largest) < 1  # the most frequent largest one: a little below the mean
    assert chance_max_corr([n, 4 * n], neurons) == pytest.approx([expected, expected / 2])
    assert chance_max_corr(n, 2 * neurons) > expected


# --- neurons that dominate a layer


def concentration(x):
    return diagnostics.concentration(x, moments(x, x).x)


def participation(eigenvalues):
    return eigenvalues.sum() ** 2 / (eigenvalues**2).sum()


def test_concentration_by_definition():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 12)) @ rng.standard_normal((12, 12)) + rng.gamma(0.3, size=(5000, 12)) + 9
    found = concentration(x)
    variance = x.var(0)
    assert found.top_neuron == variance.argmax()
    assert found.top_share == pytest.approx(variance.max() / variance.sum())
    assert found.neurons_in_effect == pytest.approx(participation(variance))
    assert found.dimensions == pytest.approx(participation(np.linalg.eigvalsh(np.cov(x, rowvar=False))))
    assert found.dimensions_standardized == pytest.approx(
        participation(np.linalg.eigvalsh(np.corrcoef(x, rowvar=False)))
    )
    assert found.kurtosis == pytest.approx(stats.kurtosis(x).max())


def test_equal_independent_neurons_share_a_layer_evenly():
    found = concentration(np.random.default_rng(0).standard_normal((20_000, 30)))
    assert found.neurons_in_effect == pytest.approx(30, rel=0.01)
    assert found.dimensions == pytest.approx(30, rel=0.01)
    assert found.top_share == pytest.approx(1 / 30, rel=0.05)
    assert found.kurtosis < 0.2
    assert not found.dominated


def test_a_neuron_at_thirty_times_the_scale_dominates_the_layer_and_changes_nothing_standardised():
    x = np.random.default_rng(0).standard_normal((3000, 150))
    before = concentration(x)
    x[:, 7] *= 30
    after = concentration(x)
    assert (before.dominated, after.dominated) == (False, True)
    assert after.top_neuron == 7
    assert after.top_share == pytest.approx(900 / 1049, rel=0.02)
    assert after.neurons_in_effect < 1.5
    assert after.dimensions < 1.5 < 100 < before.dimensions
    assert after.dimensions_standardized == pytest.approx(before.dimensions_standardized)
    assert after.kurtosis == pytest.approx(before.kurtosis)


def test_a_rotation_keeps_the_dimensions_of_a_layer_and_hides_what_dominates_it():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 150))
    x[:, 7] *= 30
    rotated = x @ np.linalg.qr(rng.standard_normal((150, 150)))[0]
    assert concentration(rotated).dimensions == pytest.approx(concentration(x).dimensions)
    assert not concentration(rotated).dominated
    assert concentration(rotated).neurons_in_effect > 20


def test_neurons_that_never_vary_dominate_nothing():
    x = np.random.default_rng(0).standard_normal((500, 20))
    still = np.hstack([x, np.full((500, 2), 7.0)])
    assert vars(concentration(still)) == pytest.approx(vars(concentration(x)))
