"""What is summed by utterance: held-out regression and CKA between utterances, against plain definitions."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

import sslsim
from sslsim.measures import products as mm
from sslsim.measures.moments import moments
from sslsim.measures.products import Utterances
from sslsim.measures.regression import PENALTIES, heldout_r2

LENGTHS = (40, 25, 60, 35, 50, 45, 30, 55)


@pytest.fixture
def layers():
    """Frames that drift from utterance to utterance, as speakers make them."""
    rng = np.random.default_rng(0)
    drift = np.repeat(rng.standard_normal((len(LENGTHS), 6)), LENGTHS, axis=0)
    latent = rng.standard_normal((sum(LENGTHS), 6)) + drift
    x = latent @ rng.standard_normal((6, 9)) + 2 * rng.standard_normal((sum(LENGTHS), 9)) + 5
    return x, latent @ rng.standard_normal((6, 12)) + rng.standard_normal((sum(LENGTHS), 12)) - 3


def spans(groups):
    return [np.r_[tuple(np.arange(s.start, s.stop) for s in run)] for run in groups]


def test_groups_are_runs_of_whole_utterances_of_like_length():
    groups = Utterances(LENGTHS, 3).groups
    assert [len(run) for run in groups] == [3, 2, 3]
    assert [run[-1].stop - run[0].start for run in groups] == [125, 85, 130]
    for lengths, count in (((280, *[10] * 6), 5), ((300, 20, 20), 3), ((10, 10, 500), 3), ((7, 8), 2)):
        made = Utterances(lengths).groups  # one long utterance does not leave the others without a group
        assert len(made) == count
        assert all(made)
        assert sum(map(len, made)) == len(lengths)
    assert np.concatenate(spans(groups)).tolist() == list(range(sum(LENGTHS)))
    assert [len(run) for run in Utterances((7, 0, 9)).groups] == [1, 1]  # an utterance without a chosen frame is none
    assert Utterances(()).groups == []


def test_moments_of_groups_and_squares_within(layers):
    x, y = layers
    m = moments(x, y, utterances=LENGTHS)
    for run, own, cross in zip(spans(Utterances(LENGTHS).groups), m.x.groups, m.groups, strict=True):
        expected = moments(x[run], y[run])
        assert own.n == len(run)
        torch.testing.assert_close(own.mean, expected.x.mean)
        torch.testing.assert_close(own.scatter, expected.x.scatter)
        torch.testing.assert_close(cross, expected.cross)
    cx, cy = x - x.mean(0), y - y.mean(0)
    squares = [(cx[i : i + n].T @ cy[i : i + n]) ** 2 for i, n in zip(np.cumsum((0, *LENGTHS)), LENGTHS, strict=False)]
    np.testing.assert_allclose(m.within, sum(squares), rtol=1e-10)
    torch.testing.assert_close(m.cross, moments(x, y).cross)
    torch.testing.assert_close(m.swapped.within, m.within.T)


@pytest.mark.parametrize("chunk", [1, 7, 33])
def test_long_utterances_are_read_in_chunks(layers, chunk, monkeypatch):
    whole = moments(*layers, utterances=LENGTHS)
    chunks = mm.chunks
    monkeypatch.setattr(mm, "chunks", lambda n: chunks(n, chunk))
    cut = moments(*layers, utterances=LENGTHS)
    torch.testing.assert_close(cut.within, whole.within)
    torch.testing.assert_close(cut.groups[1], whole.groups[1])


@pytest.mark.parametrize("left_out", [(0,), (3,), (1, 4)])
def test_all_but_some_groups_are_the_moments_of_their_frames(layers, left_out):
    x, y = layers
    m = moments(x, y, utterances=LENGTHS)
    rows = np.concatenate([s for g, s in enumerate(spans(Utterances(LENGTHS).groups)) if g not in left_out])
    expected, without = moments(x[rows], y[rows]), m.without(*left_out)
    torch.testing.assert_close(without.cross, expected.cross)
    torch.testing.assert_close(without.x.scatter, expected.x.scatter)
    torch.testing.assert_close(without.y.mean, expected.y.mean)
    assert m.x.without(*left_out) is without.x  # kept, with its decomposition, for the next pair


def naive_r2(x, y):
    """Fit with scikit-learn on frames, group by group; the penalty from a fit without the next group too."""
    runs = spans(Utterances(LENGTHS).groups)
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


def test_float32_agrees_with_float64(layers):
    for measure in ("linreg_heldout", "between_utterance_cka"):
        sides = [(1000 + side).astype(np.float32) for side in layers]
        single = sslsim.similarity(measure, *sides, utterances=LENGTHS)
        double = sslsim.similarity(measure, *(side.astype(float) for side in sides), utterances=LENGTHS)
        assert single == pytest.approx(double, abs=1e-5)


def test_nothing_that_varies_in_every_fit(layers):
    x = np.zeros((sum(LENGTHS), 2))
    x[:10] = layers[0][:10, :2]
    with pytest.raises(sslsim.SslsimError, match="none of 2 neurons varies"):
        sslsim.similarity("linreg_heldout", x, layers[1], utterances=LENGTHS)


def test_between_utterance_cka_against_its_definition(layers):
    x, y = layers
    for standardize in (False, True):
        a, b = ((s - s.mean(0)) / (s.std(0) if standardize else 1) for s in (x, y))
        same = np.equal.outer(*2 * [np.repeat(np.arange(len(LENGTHS)), LENGTHS)])
        k, el = np.where(same, 0, a @ a.T), np.where(same, 0, b @ b.T)  # the frames of one utterance do not meet
        expected = (k * el).sum() / np.sqrt((k * k).sum() * (el * el).sum())
        for p, q in ((x, y), (y, x)):
            score = sslsim.similarity("between_utterance_cka", p, q, standardize=standardize, utterances=LENGTHS)
            assert score == pytest.approx(expected, abs=1e-12)


def test_what_only_an_utterance_shares_with_itself_does_not_count():
    """Two layers that are noise but for a common course within each utterance: plain CKA is fooled."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 20, 50, 8))
    for u in range(20):
        course = np.cumsum(rng.standard_normal(50))
        x[u] += np.outer(course, rng.standard_normal(8))
        y[u] += np.outer(course, rng.standard_normal(8))
    x, y = x.reshape(1000, 8), y.reshape(1000, 8)
    assert sslsim.similarity("linear_cka_debiased", x, y, standardize=False) > 0.1
    assert abs(sslsim.similarity("between_utterance_cka", x, y, standardize=False, utterances=[50] * 20)) < 0.1


@pytest.mark.parametrize(
    ("measure", "utterances", "message"),
    [
        ("linreg_heldout", None, "measure 'linreg_heldout' needs utterances=, the number of frames of each, in order"),
        ("linreg_heldout", [200, 140], "linreg_heldout needs at least 3 utterances, to fit, .*; got 2"),
        ("between_utterance_cka", [340], "between_utterance_cka needs at least 2 utterances; give the frames of each"),
        ("between_utterance_cka", [200, 100], "utterances have 300 frames together, x 340; give the number of frames"),
        ("between_utterance_cka", [400, -60], "utterances have 340 frames together, x 340; give the number of frames"),
        ("between_utterance_cka", [], "utterances have 0 frames together, x 340"),
    ],
)
def test_errors_say_what_failed(layers, measure, utterances, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        sslsim.similarity(measure, *layers, utterances=utterances)
