"""Chance levels: against published code, exact under chance, and mismatches that are of one length and never repeat."""

import calibrated_similarity
import numpy as np
import pytest
import torch
from scipy import stats

from sslsim.errors import SslsimError
from sslsim.significance.nulls import Mismatches, p_value


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())


def drawn(n, count, seed=0):
    """Permutations, and a function that hands them to the reference implementation one by one."""
    rng = np.random.default_rng(seed)
    orders = [torch.from_numpy(rng.permutation(n)) for _ in range(count)]
    turn = iter(orders)
    return orders, lambda n, device: next(turn)


@pytest.mark.parametrize("signal", [0.0, 0.15, 3.0])
@pytest.mark.parametrize(("draws", "alpha"), [(5, 0.05), (40, 0.1), (99, 0.05)])
def test_calibrates_as_the_published_code_does(signal, draws, alpha):
    rng = np.random.default_rng(3)
    x, y = (torch.from_numpy(rng.standard_normal((60, 4))) for _ in range(2))
    y = y + signal * x
    orders, perm_fn = drawn(60, draws)
    _, p, _ = calibrated_similarity.calibrate(x, y, cka, K=draws, alpha=alpha, perm_fn=perm_fn)
    observed, null = cka(x, y).numpy(), np.array([cka(x, y[order]) for order in orders])
    assert p_value(observed, null) == pytest.approx(float(p))


@pytest.mark.parametrize("agg", ["max", "mean"])
def test_calibrates_a_search_over_layers_as_the_published_code_does(agg):
    rng = np.random.default_rng(0)
    xs = [torch.from_numpy(rng.standard_normal((50, 5))) for _ in range(3)]
    ys = [torch.from_numpy(rng.standard_normal((50, 4))) for _ in range(2)]
    ys[1] = ys[1] + 0.5 * xs[2][:, :4]
    orders, perm_fn = drawn(50, 39)
    _, p, _ = calibrated_similarity.calibrate_layers(xs, ys, cka, agg=agg, K=39, perm_fn=perm_fn)
    of = {"max": np.max, "mean": np.mean}[agg]
    observed = of([[cka(x, y) for y in ys] for x in xs])
    null = np.array([of([[cka(x, y[order]) for y in ys] for x in xs]) for order in orders])
    assert p_value(observed, null) == pytest.approx(float(p))


def test_p_is_uniform_under_chance_and_never_below_one_over_all_draws():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((20, 40_000))
    p = p_value(scores[0], scores[1:])
    assert p.min() == pytest.approx(1 / 20)
    counts = np.bincount(np.round(p * 20).astype(int), minlength=21)[1:]
    assert stats.chisquare(counts).pvalue > 0.01
    assert p_value(1e9, rng.standard_normal(7)) == 1 / 8
    assert p_value(-1e9, rng.standard_normal(7)) == 1


def test_ties_with_chance_count_against_the_score():
    assert p_value(0.5, np.full(19, 0.5)) == 1


def test_only_ranks_matter_to_p():
    rng = np.random.default_rng(1)
    observed, null = 0.7, rng.uniform(0.1, 0.6, 39)
    order = rng.permutation(39)
    assert p_value(np.exp(observed), np.exp(null)) == p_value(observed, null)
    assert p_value(observed, null[order]) == p_value(observed, null)


def test_mismatches_that_were_not_computed_do_not_count():
    rng = np.random.default_rng(2)
    observed, null = rng.uniform(0.2, 0.8, 5), rng.uniform(0, 1, (39, 5))
    null[[3, 8], 1], null[5:, 2], null[:, 4] = np.nan, np.nan, np.nan
    alone = [p_value(observed[k], null[np.isfinite(null[:, k]), k]) for k in range(4)]
    np.testing.assert_allclose(p_value(observed, null), [*alone, 1])


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


@pytest.mark.parametrize("count", [2, 9, 11, 23])
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


def test_what_cropping_leaves_is_the_beginning_and_the_end():
    full = np.array([9, 0, 4, 12, 5, 30])
    made = Mismatches.of(full, 1, seed=3)  # strata of two and three
    starts = np.cumsum(full) - full
    left = np.split(made.frames(), np.cumsum(made.lengths)[:-1])
    assert (made.lengths < full).sum() == 5 - len(made.strata)
    for u, rows in enumerate(left):
        first, last = -(-made.lengths[u] // 2), made.lengths[u] // 2
        assert (rows - starts[u]).tolist() == [*range(first), *range(full[u] - last, full[u])]
    for partner, order in zip(made.partners, made.orders, strict=True):
        assert sorted(order) == list(range(made.lengths.sum()))
        expected = np.concatenate([left[v] for v in partner])
        assert made.frames()[order].tolist() == made.frames(partner).tolist() == expected.tolist()


@pytest.mark.parametrize("lengths", [[], [5], [0, 7, 0]])
def test_fewer_than_two_utterances_cannot_be_mismatched(lengths):
    count = np.count_nonzero(lengths)
    message = f"a chance level needs at least 2 utterances to mismatch, got {count}; give more"
    with pytest.raises(SslsimError, match=message):
        Mismatches.of(lengths, 3)


def false_alarms(utterances, repeats=1500, draws=20):
    """How often unrelated layers get the smallest p, where a score sums what each utterance says of its partner."""
    rng, alarms = np.random.default_rng(0), 0
    for seed in range(repeats):
        said = rng.standard_normal((utterances, utterances))  # by x on one utterance, of y on another
        partners = Mismatches.of([10] * utterances, draws, seed).partners
        null = [said[np.arange(utterances), partner].sum() for partner in partners]
        alarms += p_value(said.trace(), np.array(null)) <= 1 / (draws + 1)
    return alarms / repeats


@pytest.mark.parametrize("utterances", [3, 5, 20])
def test_unrelated_layers_are_significant_no_more_often_than_p_says(utterances):
    assert false_alarms(utterances) < 1 / 21 + 0.02
