"""Chance levels, intervals and what owns a layer: against other implementations, written-out definitions, and laws."""

import calibrated_similarity
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter
from statsmodels.tsa.stattools import acf

import sslsim
from sslsim.measures.moments import moments
from sslsim.measures.products import Utterances
from sslsim.measures.registry import MEASURES
from sslsim.significance import jackknife as controls
from sslsim.significance.jackknife import Mismatches

OF_MOMENTS = [name for name, m in MEASURES.items() if not (m.norms or m.utterances or m.prepare)]
LENGTHS = (40, 25, 60, 35, 50, 45, 30, 55)


@pytest.fixture(scope="module")
def layers():
    """Two layers with half of their factors in common; every utterance has a mean of its own."""
    rng = np.random.default_rng(0)
    common = np.repeat(rng.standard_normal((len(LENGTHS), 4)), LENGTHS, axis=0) / 2
    common = common + rng.standard_normal((sum(LENGTHS), 4))
    sides = (
        common @ rng.standard_normal((4, d)) / 2 + rng.standard_normal((sum(LENGTHS), d)) + mean
        for d, mean in ((6, 3), (8, -5))
    )
    return tuple(side.astype("f4") for side in sides)


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())


# --- chance


def drawn(n, count, seed=0):
    """Permutations, and a function that hands them to the reference implementation one by one."""
    rng = np.random.default_rng(seed)
    orders = [torch.from_numpy(rng.permutation(n)) for _ in range(count)]
    turn = iter(orders)
    return orders, lambda n, device: next(turn)


@pytest.mark.parametrize("signal", [0.0, 0.15, 3.0])
@pytest.mark.parametrize(("draws", "alpha"), [(5, 0.05), (19, 0.05), (40, 0.1), (99, 0.05)])
def test_calibrates_as_the_published_code_does(signal, draws, alpha):
    rng = np.random.default_rng(3)
    x, y = (torch.from_numpy(rng.standard_normal((60, 4))) for _ in range(2))
    y = y + signal * x
    orders, perm_fn = drawn(60, draws)
    score, p, tau = calibrated_similarity.calibrate(x, y, cka, K=draws, alpha=alpha, perm_fn=perm_fn)
    observed, null = cka(x, y).numpy(), np.array([cka(x, y[order]) for order in orders])
    assert controls.p_value(observed, null) == pytest.approx(float(p))
    assert controls.threshold(observed, null, alpha) == pytest.approx(float(tau), rel=1e-6)
    assert controls.calibrated(observed, null, alpha) == pytest.approx(float(score), abs=1e-6)


@pytest.mark.parametrize("agg", ["max", "mean"])
def test_calibrates_a_search_over_layers_as_the_published_code_does(agg):
    rng = np.random.default_rng(0)
    xs = [torch.from_numpy(rng.standard_normal((50, 5))) for _ in range(3)]
    ys = [torch.from_numpy(rng.standard_normal((50, 4))) for _ in range(2)]
    ys[1] = ys[1] + 0.5 * xs[2][:, :4]
    orders, perm_fn = drawn(50, 39)
    score, p, tau = calibrated_similarity.calibrate_layers(xs, ys, cka, agg=agg, K=39, perm_fn=perm_fn)
    of = {"max": np.max, "mean": np.mean}[agg]
    observed = of([[cka(x, y) for y in ys] for x in xs])
    null = np.array([of([[cka(x, y[order]) for y in ys] for x in xs]) for order in orders])
    assert controls.p_value(observed, null) == pytest.approx(float(p))
    assert controls.threshold(observed, null) == pytest.approx(float(tau), rel=1e-6)
    assert controls.calibrated(observed, null) == pytest.approx(float(score), abs=1e-6)
    each = np.array([[[cka(x, y[order]) for y in ys] for x in xs] for order in orders])
    if agg == "max":  # the threshold of one cell alone would let a search through more often than it says
        assert controls.threshold(observed, each[:, 0, 0]) < tau


def test_p_is_uniform_under_chance_and_never_below_one_over_all_draws():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((20, 40_000))
    p = controls.p_value(scores[0], scores[1:])
    assert p.min() == pytest.approx(1 / 20)
    counts = np.bincount(np.round(p * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 0.01
    assert controls.p_value(1e9, rng.standard_normal(7)) == 1 / 8
    assert controls.p_value(-1e9, rng.standard_normal(7)) == 1


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("draws", [3, 19, 20, 50])
def test_chance_is_above_the_threshold_no_more_often_than_said(alpha, draws):
    scores = np.random.default_rng(draws).standard_normal((draws + 1, 20_000))
    above = (scores[0] > controls.threshold(scores[0], scores[1:], alpha)).mean()
    assert above <= alpha + 0.01
    assert above >= alpha - 1 / (draws + 1) - 0.01  # and no less than a step of p
    calibrated = controls.calibrated(scores[0], scores[1:], alpha, best=100.0)
    assert ((calibrated > 0) == (scores[0] > controls.threshold(scores[0], scores[1:], alpha))).all()


def test_ties_with_chance_count_against_the_score():
    assert controls.p_value(0.5, np.full(19, 0.5)) == 1
    assert controls.calibrated(0.5, np.full(19, 0.5)) == 0
    assert controls.calibrated(1.0, np.full(19, 1.0)) == 0  # no room above chance


def test_only_ranks_matter_to_p_and_only_a_common_scale_to_calibrated():
    rng = np.random.default_rng(1)
    observed, null = 0.7, rng.uniform(0.1, 0.6, 39)
    order = rng.permutation(39)
    assert controls.p_value(np.exp(observed), np.exp(null)) == controls.p_value(observed, null)
    assert controls.threshold(np.exp(observed), np.exp(null)) == np.exp(controls.threshold(observed, null))
    for of in (controls.p_value, controls.threshold, controls.calibrated):
        assert of(observed, null[order]) == of(observed, null)
    score = controls.calibrated(observed, null)
    assert 0 < score < 1
    assert controls.calibrated(2 + 3 * observed, 2 + 3 * null, best=5.0) == pytest.approx(score)
    assert controls.calibrated(2 + 3 * observed, 2 + 3 * null, best=9.0) < score
    assert controls.calibrated(np.exp(observed), np.exp(null), best=np.e) != pytest.approx(score, abs=1e-3)
    assert controls.calibrated(1.0, null) == 1


def test_too_few_draws_never_pass_a_threshold_of_one_in_twenty():
    null = np.zeros((18, 1))
    assert controls.calibrated([0.9], null) == 0
    assert controls.calibrated([0.9], np.zeros((19, 1))) == 0.9


def test_many_scores_at_once_are_those_of_each_alone():
    rng = np.random.default_rng(2)
    observed, null = rng.random((3, 4)), rng.random((25, 3, 4))
    for of in (controls.p_value, controls.threshold, controls.calibrated):
        whole = of(observed, null)
        assert whole.shape == (3, 4)
        assert whole[1, 2] == of(observed[1, 2], null[:, 1, 2])


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5])
def test_a_false_alarm_rate_that_cannot_be_is_refused(alpha):
    message = f"alpha is {alpha}; give the probability of a false alarm, above 0 and below 1"
    for of in (controls.threshold, controls.calibrated):
        with pytest.raises(sslsim.SslsimError, match=message):
            of(0.5, [0.1, 0.2], alpha)


# --- mismatched utterances


def strata(made, full):
    """Utterances that are ever drawn for one another, from many draws."""
    left, found = set(np.flatnonzero(full)), []
    while left:
        some = {min(left)}
        while (grown := some | {int(partner[u]) for partner in made.partners for u in some}) != some:
            some = grown
        found.append(sorted(some))
        left -= some
    return found


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 14, 23, 61])
def test_partners_are_of_about_one_length_and_never_an_utterance_itself(count):
    full = np.random.default_rng(count).integers(1, 400, count)
    made = Mismatches.of(full, 9, seed=1)
    every = np.arange(count)
    for partner in made.partners:
        assert sorted(partner) == every.tolist()
        assert (partner != every).all()
        assert (made.lengths[partner] == made.lengths).all()  # so that cropped pairs have frames alike in number
    found = strata(made, full)
    assert len(made.partners) == min(9, min(map(len, made.strata)) - 1)
    assert min(map(len, made.strata)) >= min(count, 10)  # room for so many draws that have no pair in common
    pairings = np.array([every, *made.partners])
    assert all(len(set(column)) == len(pairings) for column in pairings.T)
    for stratum in found:
        assert (made.lengths[stratum] == full[stratum].min()).all()
        low, high = full[stratum].min(), full[stratum].max()
        outside = np.setdiff1d(every, stratum)
        assert not ((full[outside] > low) & (full[outside] < high)).any()


def test_utterances_without_frames_keep_themselves():
    full = np.array([0, 30, 0, 20, 25, 0])
    made = Mismatches.of(full, 10)
    assert made.lengths.tolist() == [0, 20, 0, 20, 20, 0]
    for partner in made.partners:
        assert partner[[0, 2, 5]].tolist() == [0, 2, 5]
        assert set(partner[[1, 3, 4]]) == {1, 3, 4}
        assert (partner[[1, 3, 4]] != [1, 3, 4]).all()


def test_draws_go_by_the_seed_alone():
    full = np.random.default_rng(0).integers(50, 100, 30)

    def draws(count, seed=0):
        return np.array(Mismatches.of(full.tolist(), count, seed).partners)

    assert (draws(6) == draws(6)).all()
    assert (draws(6) != draws(6, 1)).any()
    assert len(np.unique(draws(50), axis=0)) == 29  # no more than there are other utterances
    assert Mismatches.of(full, 0).partners == []


def test_the_order_of_utterances_does_not_matter_to_draws():
    rng = np.random.default_rng(0)
    full, order = rng.permutation(np.arange(20, 60)), rng.permutation(40)
    one, other = Mismatches.of(full, 5), Mismatches.of(full[order], 5)
    assert (other.lengths == one.lengths[order]).all()
    for there, here in zip(other.partners, one.partners, strict=True):
        assert (order[there] == here[order]).all()


def test_every_other_utterance_of_a_stratum_is_as_likely():
    made = Mismatches.of([50] * 7, 6000)
    counts = np.zeros((7, 7), int)
    for partner in made.partners:
        counts[np.arange(7), partner] += 1
    assert (counts.diagonal() == 0).all()
    assert stats.chisquare(counts[~np.eye(7, dtype=bool)]).pvalue > 0.01


@pytest.mark.parametrize("lengths", [[], [5], [0, 0], [0, 7, 0]])
def test_fewer_than_two_utterances_cannot_be_mismatched(lengths):
    count = np.count_nonzero(lengths)
    message = f"a chance level needs at least 2 utterances to mismatch, got {count}; give more"
    with pytest.raises(sslsim.SslsimError, match=message):
        Mismatches.of(lengths, 3)


def false_alarms(utterances, repeats=1500, draws=20):
    """How often unrelated layers get the smallest p, where a score sums what each utterance says of its partner."""
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(repeats):
        said = rng.standard_normal((utterances, utterances))  # by x on one utterance, of y on another
        partners = Mismatches.of([10] * utterances, draws, seed).partners
        null = [said[np.arange(utterances), partner].sum() for partner in partners]
        alarms += controls.p_value(said.trace(), np.array(null)) <= 1 / (draws + 1)
    return alarms / repeats


@pytest.mark.parametrize("utterances", [3, 5, 20])
def test_unrelated_layers_are_significant_no_more_often_than_p_says(utterances):
    assert false_alarms(utterances) < 1 / 21 + 0.02


# --- intervals


def test_a_mean_of_equal_groups_has_its_usual_error_and_interval():
    x = np.random.default_rng(0).gamma(2, size=17)
    without = [np.delete(x, i).mean() for i in range(17)]
    error = controls.jackknife_error(x.mean(), without, [1] * 17)
    assert error == pytest.approx(x.std(ddof=1) / np.sqrt(17), rel=1e-12)
    for level in (0.5, 0.95):
        expected = stats.ttest_1samp(x, 0).confidence_interval(level)
        assert controls.jackknife_interval(x.mean(), without, [1] * 17, level) == pytest.approx(tuple(expected))
    assert controls.jackknife_interval(x.mean(), without, [300] * 17) == pytest.approx(
        controls.jackknife_interval(x.mean(), without, [1] * 17)
    )  # only the shares of groups count


def busing(value, left_out, sizes):
    """Estimate and variance as Busing, Meijer & van der Leeden 1999 write them, with h_j = n / m_j."""
    n, count = sum(sizes), len(sizes)
    middle = count * value - sum((1 - m / n) * t for m, t in zip(sizes, left_out, strict=True))
    variance = 0.0
    for m, t in zip(sizes, left_out, strict=True):
        h = n / m
        variance += (h * value - (h - 1) * t - middle) ** 2 / (h - 1) / count
    return middle, variance


UNEQUAL = (40, 5, 10, 2, 3)


@pytest.mark.parametrize("sizes", [(12, 12, 12, 12, 12), UNEQUAL])
def test_groups_of_any_size_follow_the_published_definition(sizes):
    value, left_out = 0.6, np.random.default_rng(0).normal(0.6, 0.02, 5)
    middle, variance = busing(value, left_out, sizes)
    assert controls.jackknife_error(value, left_out, sizes) == pytest.approx(variance**0.5)
    low, high = controls.jackknife_interval(value, left_out, sizes, correct=True)
    assert (low + high) / 2 == pytest.approx(middle)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 4) * variance**0.5)


@pytest.mark.parametrize("sizes", [(12, 12, 12, 12, 12), UNEQUAL])
def test_the_variance_of_a_mean_is_found_without_bias(sizes):
    rng, group = np.random.default_rng(0), np.repeat(np.arange(5), sizes)
    found = []
    for _ in range(3000):
        x = rng.standard_normal(60)
        without = [x[group != g].mean() for g in range(5)]
        found.append(controls.jackknife_error(x.mean(), without, sizes) ** 2)
    assert np.mean(found) == pytest.approx(1 / 60, rel=0.06)


def test_the_middle_of_a_corrected_interval_is_free_of_the_bias_of_a_variance():
    x = np.random.default_rng(0).gamma(2, size=23)
    without = [np.delete(x, i).var() for i in range(23)]
    low, high = controls.jackknife_interval(x.var(), without, [1] * 23, correct=True)
    assert (low + high) / 2 == pytest.approx(x.var(ddof=1), rel=1e-12)
    plain = controls.jackknife_interval(x.var(), without, [1] * 23)
    assert sum(plain) / 2 == pytest.approx(x.var())
    assert plain[1] - plain[0] == pytest.approx(high - low)


def test_intervals_move_with_the_scores_and_forget_the_order_of_groups():
    rng = np.random.default_rng(0)
    value, left_out, sizes = 0.5, rng.normal(0.5, 0.1, 6), np.array([5, 5, 5, 9, 9, 9])
    low, high = controls.jackknife_interval(value, left_out, sizes)
    assert controls.jackknife_interval(3 + 2 * value, 3 + 2 * left_out, sizes) == pytest.approx(
        (3 + 2 * low, 3 + 2 * high)
    )
    order = rng.permutation(6)
    assert controls.jackknife_interval(value, left_out[order], sizes[order]) == pytest.approx((low, high))
    assert controls.jackknife_interval(value, left_out, sizes[::-1]) != pytest.approx((low, high), rel=1e-3)
    wide = controls.jackknife_interval(value, left_out, sizes, level=0.99)
    assert wide[0] < low < high < wide[1]


def test_many_intervals_at_once_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    value, left_out, sizes = rng.random((2, 3)), rng.random((5, 2, 3)), (4, 5, 6, 7, 8)
    for correct in (False, True):
        ends = controls.jackknife_interval(value, left_out, sizes, correct=correct)
        alone = controls.jackknife_interval(value[1, 2], left_out[:, 1, 2], sizes, correct=correct)
        assert (ends[0][1, 2], ends[1][1, 2]) == pytest.approx(alone)


def test_intervals_over_utterances_cover_and_those_over_frames_do_not():
    """The mean of a slow process: frames of one utterance are not independent."""
    rng, inside = np.random.default_rng(0), np.zeros(2)
    for _ in range(300):
        noise = rng.standard_normal((20, 40))
        noise[:, 0] /= np.sqrt(1 - 0.95**2)
        x = lfilter([1], [1, -0.95], noise, axis=1)
        of_utterances = [np.delete(x, u, axis=0).mean() for u in range(20)]
        of_frames = (x.sum() - x.ravel()) / (x.size - 1)
        for i, without in enumerate((of_utterances, of_frames)):
            low, high = controls.jackknife_interval(x.mean(), without, [1] * len(without))
            inside[i] += low < 0 < high
    assert 0.91 < inside[0] / 300 < 0.98
    assert inside[1] / 300 < 0.5


def test_an_interval_that_cannot_be_is_refused():
    for level in (0, 1, 95):
        with pytest.raises(
            sslsim.SslsimError, match=f"level is {level}; give the coverage of the interval, above 0 and below 1"
        ):
            controls.jackknife_interval(0.5, [0.4, 0.6], [1, 1], level)
    message = "a jackknife needs a score without each of at least 2 groups; got {} scores, {} groups"
    for left_out, sizes in (([0.4], [1]), ([], []), ([0.4, 0.6], [1, 2, 3])):
        for of in (controls.jackknife_error, controls.jackknife_interval):
            with pytest.raises(sslsim.SslsimError, match=message.format(len(left_out), len(sizes))):
                of(0.5, left_out, sizes)


def frames_of(groups):
    return [np.concatenate([np.arange(span.start, span.stop) for span in group]) for group in groups]


@pytest.mark.parametrize("name", OF_MOMENTS)
def test_a_score_without_a_group_is_that_of_the_other_frames(layers, name):
    x, y = layers
    m = moments(x, y, utterances=LENGTHS)
    for options in ({"standardize": True}, {"standardize": False}) if MEASURES[name].scaling else ({},):
        found = controls.leave_out(name, m, **options)
        assert len(found) == len(m.groups) == 5
        for value, gone in zip(found, frames_of(Utterances(LENGTHS).groups), strict=True):
            rest = np.delete(x, gone, axis=0), np.delete(y, gone, axis=0)
            assert value == pytest.approx(sslsim.similarity(name, *rest, **options), abs=1e-5)


def test_nothing_is_left_out_of_moments_without_groups(layers):
    assert len(controls.leave_out("cca", moments(*layers))) == 0
    with pytest.raises(sslsim.SslsimError, match="got 0 scores, 0 groups"):
        controls.jackknife_interval(0.5, controls.leave_out("cca", moments(*layers)), [])


@pytest.mark.parametrize("standardize", [True, False])
def test_bootstrap_draws_whole_groups_with_replacement(layers, standardize):
    x, y = layers
    m, rng, rows = moments(x, y, utterances=LENGTHS), np.random.default_rng(7), frames_of(Utterances(LENGTHS).groups)
    scores = []
    for _ in range(6):
        drawn = np.concatenate([rows[g] for g in rng.integers(5, size=5)])
        scores.append(sslsim.similarity("linear_cka_biased", x[drawn], y[drawn], standardize=standardize))
    value = sslsim.similarity("linear_cka_biased", x, y, standardize=standardize)
    low, high = controls.bootstrap("linear_cka_biased", m, 6, level=0.8, seed=7, standardize=standardize)
    assert low == pytest.approx(2 * value - np.quantile(scores, 0.9), abs=1e-5)
    assert high == pytest.approx(2 * value - np.quantile(scores, 0.1), abs=1e-5)


def mixed(rng, mixtures):
    """Two layers on ten utterances of which each has a voice of its own, and their moments in five groups."""
    factors = rng.standard_normal((10, 1, 6)) + rng.standard_normal((10, 40, 6))
    x, y = ((factors.reshape(400, 6) @ mixture).astype("f4") for mixture in mixtures)
    return moments(x, y, utterances=[40] * 10)


def test_intervals_hold_the_score_of_endless_speech():
    """By the jackknife as often as they say; the bootstrap, which knows nothing of t, less often with five groups."""
    rng = np.random.default_rng(0)
    mixtures = rng.standard_normal((2, 6, 4))
    a, b = mixtures
    truth = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    inside, widths = np.zeros(2), []
    for seed in range(150):
        m = mixed(rng, mixtures)
        name, options = "linear_cka_biased", {"standardize": False}
        value, left_out = MEASURES[name].score(m, **options), controls.leave_out(name, m, **options)
        ends = (
            controls.jackknife_interval(value, left_out, [80] * 5),
            controls.bootstrap(name, m, 60, seed=seed, **options),
        )
        inside += [low < truth < high for low, high in ends]
        error = controls.jackknife_error(value, left_out, [80] * 5)
        widths.append((ends[1][1] - ends[1][0]) / 2 / 1.96 / error)
    assert 0.88 < inside[0] / 150 <= 1
    assert 0.6 < inside[1] / 150 < inside[0] / 150
    assert np.mean(widths) == pytest.approx((4 / 5) ** 0.5, rel=0.15)  # groups drawn spread by n - 1 over n as much


def test_bootstrap_goes_by_its_seed(layers):
    m = moments(*layers, utterances=LENGTHS)
    assert controls.bootstrap("max_corr", m, 20, seed=3) == controls.bootstrap("max_corr", m, 20, seed=3)
    assert controls.bootstrap("max_corr", m, 20, seed=3) != controls.bootstrap("max_corr", m, 20, seed=4)


def test_bootstrap_needs_groups(layers):
    with pytest.raises(
        sslsim.SslsimError, match="a bootstrap needs at least 2 groups of utterances, got 0; give moments utterances="
    ):
        controls.bootstrap("max_corr", moments(*layers))


@pytest.mark.parametrize("name", sorted(set(MEASURES) - set(OF_MOMENTS)))
def test_measures_of_more_than_moments_are_refused(layers, name):
    m = moments(*layers, utterances=LENGTHS)
    for of in (controls.leave_out, controls.bootstrap):
        with pytest.raises(
            sslsim.SslsimError,
            match=f"'{name}' is not a function of moments alone; take its interval from sslsim.evidence",
        ):
            of(name, m)
        with pytest.raises(sslsim.SslsimError, match=r"unknown measure 'max_cor'; did you mean 'max_corr'\?"):
            of("max_cor", m)


# --- frames that depend on one another


def autoregression(rho, n, seed=0):
    noise = np.random.default_rng(seed).standard_normal((n, len(rho))) * np.sqrt(1 - np.square(rho))
    noise[0] /= np.sqrt(1 - np.square(rho))
    return np.stack([lfilter([1], [1, -r], noise[:, i]) for i, r in enumerate(rho)], axis=1)


def test_autocorrelation_of_one_utterance_is_that_of_statsmodels():
    x = autoregression([0.9, 0.2, -0.5], 300) * [1, 50, 1e-3] + [0, 1000, 3]
    found = controls.autocorrelation(x, [300], 40)
    assert found.shape == (41, 3)
    for neuron in range(3):
        expected = acf(x[:, neuron], nlags=40, adjusted=False, fft=False)
        np.testing.assert_allclose(found[:, neuron], expected, atol=1e-9)


def test_one_utterance_never_meets_the_next():
    x, lengths = autoregression([0.9, 0.5], 200), [60, 100, 40]
    found = controls.autocorrelation(x, lengths, 70)
    centred = x - x.mean(0)
    parts = np.split(centred, np.cumsum(lengths)[:-1])
    for lag in (0, 1, 30, 50, 70):
        sums = sum((part[: max(len(part) - lag, 0)] * part[lag:]).sum(0) for part in parts)
        np.testing.assert_allclose(found[lag], sums / (centred**2).sum(0))
    shuffled = [2, 0, 1]
    other = np.concatenate([np.split(x, np.cumsum(lengths)[:-1])[u] for u in shuffled])
    again = controls.autocorrelation(other, [lengths[u] for u in shuffled], 70)
    np.testing.assert_allclose(again, found, atol=1e-12)
    assert np.abs(controls.autocorrelation(other, [200], 70) - found).max() > 0.01  # as one utterance they do meet


def test_autocorrelation_knows_no_scale_and_nothing_longer_than_an_utterance():
    x = autoregression([0.9, 0.5], 90)
    found = controls.autocorrelation(x, [50, 40], 60)
    np.testing.assert_allclose(found[0], 1)
    assert (found[50:] == 0).all()
    np.testing.assert_allclose(controls.autocorrelation(-30 * x + 7, [50, 40], 60), found, atol=1e-9)
    np.testing.assert_allclose(controls.autocorrelation(torch.from_numpy(x), [50, 40], 60), found)
    still = np.hstack([x, np.full((90, 1), 0.5)])
    found = controls.autocorrelation(still, [50, 40], 60)
    assert (found[:, 2] == 0).all()


def test_a_constant_neuron_whose_mean_is_rounded_has_no_autocorrelation():
    assert (controls.autocorrelation(np.full((1001, 1), 0.1), [1001], 3) == 0).all()


@pytest.mark.parametrize(("a", "b"), [(0.0, 0.9), (0.9, 0.9), (0.97, 0.6), (0.5, -0.4)])
def test_effective_frames_of_autoregressions_have_a_closed_form(a, b):
    n, lags = 10**7, np.arange(400)
    x, y = np.array([a]) ** lags[:, None], np.array([b]) ** lags[:, None]
    expected = n * (1 - a * b) / (1 + a * b)
    assert controls.effective_frames(x, y, n).item() == pytest.approx(min(expected, n), rel=1e-4)


def test_effective_frames_of_data_give_the_spread_of_correlations():
    rho, n = [0.95, 0.9, 0.0], 4000
    found = []
    for seed in range(40):
        x, y = autoregression(rho, n, 2 * seed), autoregression(rho, n, 2 * seed + 1)
        found.append(np.corrcoef(x, y, rowvar=False)[:3, 3:])
    spread = np.std(found, axis=0)
    auto = [controls.autocorrelation(autoregression(rho, n, seed), [n], 200) for seed in (0, 1)]
    effective = controls.effective_frames(*auto, n)
    assert effective.shape == (3, 3)
    np.testing.assert_allclose(spread, effective**-0.5, rtol=0.35)
    assert effective[0, 0] < n / 10  # slow ones are worth few, and with noise they are worth all
    assert effective[0, 2] > 0.7 * n
    np.testing.assert_allclose(controls.effective_frames(*auto[::-1], n).T, effective)


@pytest.mark.parametrize(("neurons", "n"), [(100, 400), (400, 1500), (1000, 500)])
def test_the_largest_correlation_with_unrelated_neurons_is_foretold(neurons, n):
    rng = np.random.default_rng(0)
    largest = []
    for _ in range(40):
        x, y = rng.standard_normal((n, 6)), rng.standard_normal((n, neurons))
        largest.append(np.abs(np.corrcoef(x, y, rowvar=False)[:6, 6:]).max(1).mean())
    expected = controls.chance_max_corr(n, neurons)
    assert 0.94 < expected / np.mean(largest) < 1  # the most frequent largest one: a little below the mean
    assert controls.chance_max_corr([n, 4 * n], neurons) == pytest.approx([expected, expected / 2])
    assert controls.chance_max_corr(n, 2 * neurons) > expected


# --- who owns a layer


def concentration(x):
    return controls.concentration(x, moments(x, x).x)


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
    assert not found.owned


def test_a_neuron_at_thirty_times_the_scale_owns_the_layer_and_changes_nothing_standardised():
    x = np.random.default_rng(0).standard_normal((3000, 150))
    before = concentration(x)
    x[:, 7] *= 30
    after = concentration(x)
    assert (before.owned, after.owned) == (False, True)
    assert after.top_neuron == 7
    assert after.top_share == pytest.approx(900 / 1049, rel=0.02)
    assert after.neurons_in_effect < 1.5
    assert after.dimensions < 1.5 < 100 < before.dimensions
    assert after.dimensions_standardized == pytest.approx(before.dimensions_standardized)
    assert after.kurtosis == pytest.approx(before.kurtosis)


def test_a_rotation_keeps_the_dimensions_of_a_layer_and_hides_who_owns_it():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 150))
    x[:, 7] *= 30
    turned = x @ np.linalg.qr(rng.standard_normal((150, 150)))[0]
    assert concentration(turned).dimensions == pytest.approx(concentration(x).dimensions)
    assert not concentration(turned).owned
    assert concentration(turned).neurons_in_effect > 20


def test_neurons_that_never_vary_own_nothing():
    x = np.random.default_rng(0).standard_normal((500, 20))
    still = np.hstack([x, np.full((500, 2), 7.0)])
    assert vars(concentration(still)) == pytest.approx(vars(concentration(x)))
