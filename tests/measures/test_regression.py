"""Regression on utterances left out, against scikit-learn on the frames."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import sslsim
from sslsim.measures.moments import moments
from sslsim.measures.neurons import PENALTIES, heldout_r2
from sslsim.measures.products import Utterances

LENGTHS = (40, 25, 60, 35, 50, 45, 30, 55)


@pytest.fixture
def layers():
    """Frames that drift from utterance to utterance, as speakers make them."""
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.standard_normal((len(LENGTHS), 6)), LENGTHS, axis=0)
    latent = rng.standard_normal((sum(LENGTHS), 6)) + drift
    x = latent @ rng.standard_normal((6, 9)) + 2 * rng.standard_normal((sum(LENGTHS), 9)) + 5
    return x, latent @ rng.standard_normal((6, 12)) + rng.standard_normal((sum(LENGTHS), 12)) - 3


def naive_r2(x, y):
    """Fit with scikit-learn on frames, group by group; the penalty from a fit without the next group too."""
    runs = list(map(np.flatnonzero, Utterances(LENGTHS).masks))
    error, spread = 0, 0

    def predict(fit, judged, penalty):
        unit = np.linalg.norm(y[fit] - y[fit].mean(0), axis=0)
        return Ridge(penalty).fit((y[fit]) / unit, x[fit]).predict(y[judged] / unit)

    for g in range(len(runs)):
        judge = (g + 1) % len(runs)
        both = np.concatenate([r for k, r in enumerate(runs) if k not in (g, judge)])
        tried = [((x[runs[judge]] - predict(both, runs[judge], p)) ** 2).sum(0) / x.var(0) for p in PENALTIES]
        best = PENALTIES[int(np.mean(tried, axis=1).argmin())]
        fit = np.concatenate([r for k, r in enumerate(runs) if k != g])
        error = error + ((x[runs[g]] - predict(fit, runs[g], best)) ** 2).sum(0)
        spread = spread + ((x[runs[g]] - x[fit].mean(0)) ** 2).sum(0)
    return 1 - error / spread


def test_heldout_regression_against_scikit_learn(layers):
    for x, y in (layers, layers[::-1]):
        expected = naive_r2(x, y)
        np.testing.assert_allclose(heldout_r2(moments(x, y, utterances=LENGTHS)), expected, atol=1e-9)
        assert sslsim.similarity("linreg_heldout", x, y, utterances=LENGTHS) == pytest.approx(expected.mean())


def test_noise_explains_nothing_out_of_sample_and_much_in_sample():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 20)), rng.standard_normal((300, 100))
    lengths = [30] * 10
    assert sslsim.similarity("linreg", x, y) > 0.5
    assert -0.2 < sslsim.similarity("linreg_heldout", x, y, utterances=lengths) < 0.02
    assert sslsim.similarity("linreg_heldout", x, x, utterances=lengths) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("constant", [0, 0.3, 1000.1])
def test_a_neuron_that_only_one_group_moves_takes_no_part(layers, dtype, constant):
    x, y = (side.astype(dtype) for side in layers)
    for side in (x, y):
        side[:, 4] = constant
        side[:10, 4] += 1  # leaves the fit without the first group nothing to fit, or to fit with
    others = [k for k in range(9) if k != 4]
    found = heldout_r2(moments(x, y, utterances=LENGTHS))
    assert len(found) == 8
    expected = heldout_r2(moments(x[:, others], y, utterances=LENGTHS))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    without = heldout_r2(moments(x[:, others], np.delete(y, 4, axis=1), utterances=LENGTHS))
    torch.testing.assert_close(found, without, rtol=0, atol=0.05)  # in the other fits it is one more predictor


def test_nothing_that_varies_in_every_fit(layers):
    x = np.zeros((sum(LENGTHS), 2))
    x[:10] = layers[0][:10, :2]
    with pytest.raises(sslsim.SslsimError, match="none of 2 neurons varies"):
        sslsim.similarity("linreg_heldout", x, layers[1], utterances=LENGTHS)


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        (None, "measure 'linreg_heldout' needs utterances=, the number of frames of each, in order"),
        ([200, 140], "linreg_heldout needs at least 3 utterances, to fit, .*; got 2"),
        ([200, 100], "utterances have 300 frames together, x 340; give the number of frames"),
        ([400, -60], "utterances have 340 frames together, x 340; give the number of frames"),
        ([], "utterances have 0 frames together, x 340"),
    ],
)
def test_errors_say_what_failed(layers, utterances, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        sslsim.similarity("linreg_heldout", *layers, utterances=utterances)
