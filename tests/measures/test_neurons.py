"""Neuron measures against published reference values, scipy, scikit-learn and a linear program."""

import numpy as np
import pytest
from reference import GOLDEN, forerunner, seeded
from scipy.optimize import linear_sum_assignment, linprog
from sklearn.linear_model import LinearRegression

import sslsim
from sslsim.measures.moments import moments
from sslsim.measures.neurons import best_partners, multiple_corr

X, Y = seeded()
similarity = sslsim.similarity


def test_seeded_reference_values():
    assert similarity("max_corr", X, Y) == pytest.approx(0.41487298367887543, abs=1e-8)
    assert similarity("max_corr", Y, X) == pytest.approx(0.4537878106646193, abs=1e-8)
    assert similarity("matched_corr", X, Y) == pytest.approx(0.43288492155962954, abs=1e-8)
    assert similarity("linreg", X, Y) == pytest.approx(0.8274572565004721, abs=1e-8)
    assert similarity("linreg", Y, X) == pytest.approx(0.9962476332465157, abs=1e-8)


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
def test_forerunner_signed_partners(a, neuron, b, partner, r):
    partners, values = best_partners(moments(forerunner()[a], forerunner()[b]))
    assert partners[neuron] == partner
    assert values[neuron] == pytest.approx(r, abs=GOLDEN)


def test_partners_keep_their_numbers_beside_neurons_that_do_not_vary():
    x, y = np.insert(X, [0, 7], 3.0, axis=1), np.insert(Y, 5, 0.0, axis=1)
    partner, r = (part.numpy() for part in best_partners(moments(x, y)))
    expected, values = (part.numpy() for part in best_partners(moments(X, Y)))
    assert np.isnan(r[[0, 8]]).all()
    np.testing.assert_array_equal(np.delete(partner, [0, 8]), expected + (expected >= 5))
    np.testing.assert_allclose(np.delete(r, [0, 8]), values)


@pytest.mark.parametrize(
    ("a", "neuron", "b", "error"), [(0, 0, 1, 8.47982693), (0, 1, 2, 4.91073561), (2, 1, 0, 6.20416880)]
)
def test_forerunner_regression(a, neuron, b, error):
    """Their golden files hold residual sums of squares of z-scored neurons, (n - 1)(1 - R2)."""
    r = multiple_corr(moments(forerunner()[a], forerunner()[b]))
    assert 9 * (1 - float(r[neuron]) ** 2) == pytest.approx(error, rel=GOLDEN)


def test_linreg_against_scikit_learn():
    fitted = LinearRegression().fit(Y, X).predict(Y)
    r2 = 1 - ((X - fitted) ** 2).sum(0) / ((X - X.mean(0)) ** 2).sum(0)
    assert multiple_corr(moments(X, Y)).numpy() == pytest.approx(np.sqrt(r2), abs=1e-10)
    assert similarity("linreg_r2", X, Y) == pytest.approx(r2.mean(), abs=1e-10)


def test_matched_corr_against_scipy():
    r = np.abs(np.corrcoef(X, Y, rowvar=False)[:30, 30:])
    assert similarity("matched_corr", X, Y) == pytest.approx(r[linear_sum_assignment(-r)].mean(), abs=1e-10)


def test_soft_matching_against_a_linear_program_and_its_laws():
    r = np.abs(np.corrcoef(X, Y, rowvar=False)[:30, 30:])
    p, q = r.shape
    rows, columns = np.kron(np.eye(p), np.ones(q)), np.kron(np.ones(p), np.eye(q))
    sums = np.concatenate([np.full(p, 1 / p), np.full(q, 1 / q)])
    best = linprog(-r.ravel(), A_eq=np.vstack([rows, columns]), b_eq=sums)
    assert similarity("soft_matched_corr", X, Y) == pytest.approx(-best.fun, abs=1e-10)
    x = X[:, :20]
    assert similarity("soft_matched_corr", x, Y) == similarity("matched_corr", x, Y)
    twice = np.hstack([x, x])  # every neuron of x shares its weight between two copies of itself
    assert similarity("soft_matched_corr", x, twice) == pytest.approx(1, abs=1e-12)


def test_soft_matching_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr("ot.emd", lambda *_, **__: (None, {"warning": "numItermax reached"}))
    with pytest.raises(sslsim.SslsimError, match="soft matching of 30 with 20 neurons found no best plan: numItermax"):
        similarity("soft_matched_corr", X, Y)
