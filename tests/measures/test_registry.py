"""Every measure of layers by name: laws, precision, and what the registry says of it."""

import numpy as np
import pytest
import torch
from reference import seeded

import sslsim
from sslsim.measures.attention import HEAD_MEASURES, LAYER_MEASURES
from sslsim.measures.moments import Marginal, Moments, moments, squared_norms
from sslsim.measures.products import Utterances
from sslsim.measures.registry import MEASURES, measure_named, reference_table, title_of

OF_LAYERS = [name for name, measure in MEASURES.items() if measure.level != "attention"]
X, Y = seeded()


def score(measure, x, y, **options):
    """Similarity, the frames cut into six utterances for the measures that need them."""
    known = {"utterances": [len(part) for part in np.array_split(x, 6)]} if MEASURES[measure].utterances else {}
    return sslsim.similarity(measure, x, y, **known, **options)


@pytest.mark.parametrize("measure", OF_LAYERS)
class TestLaws:
    def test_itself_is_one(self, measure):
        if measure != "max_corr_in_bases":
            assert score(measure, X, X) == pytest.approx(1, abs=1e-9)

    def test_range_and_symmetry(self, measure):
        there, back = score(measure, X, Y), score(measure, Y, X)
        assert -0.1 < there < 1
        assert measure == "neuron_count" or (abs(there - back) < 1e-9) == MEASURES[measure].symmetric

    def test_constant_and_dead_neurons_are_left_out(self, measure):
        x, y = (a.astype(np.float32) for a in (X, Y))
        dead = np.hstack([x[:, :5], np.zeros((200, 1), np.float32), x[:, 5:], np.full((200, 2), 731.3, np.float32)])
        assert score(measure, dead, y) == pytest.approx(score(measure, x, y), abs=1e-6)

    def test_more_neurons_than_frames_is_defined(self, measure):
        rng = np.random.default_rng(2)
        assert -1 <= score(measure, rng.standard_normal((12, 30)), rng.standard_normal((12, 25))) <= 1

    def test_float32_large_means_match_float64(self, measure):
        x, y = ((1000 + a).astype(np.float32) for a in (X, Y))
        assert score(measure, x, y) == pytest.approx(score(measure, x.astype(float), y.astype(float)), abs=1e-5)


OF_MOMENTS = [name for name in OF_LAYERS if not MEASURES[name].of_frames]


def scored(measure, m, x, y):
    """Score of moments of frames, with their norms where it needs them."""
    one = MEASURES[measure]
    sides = ((x, m.x), (y, m.y)) if one.norms else ()
    return one.score(m, *(squared_norms(frames, side, standardize=one.standardize) for frames, side in sides))


@pytest.mark.parametrize("measure", OF_MOMENTS)
def test_a_score_without_a_group_of_utterances_is_that_of_the_other_frames(measure):
    x, y, lengths = (*(a.astype(np.float32) for a in (X, Y)), [30, 10, 60, 40, 60])
    m = moments(x, y, utterances=lengths)
    for g, mask in enumerate(Utterances(tuple(lengths)).masks[:2]):
        found = scored(measure, m.without(g), x[~mask], y[~mask])
        assert float(found) == pytest.approx(sslsim.similarity(measure, x[~mask], y[~mask]), abs=1e-5)


@pytest.fixture(scope="module")
def several():
    """Pairs of layers of one width: whole, with neurons that do not vary, with neurons that stand there twice."""
    (x, y), rng = (a.astype(np.float32) for a in (X, Y)), np.random.default_rng(5)
    still, other = x.copy(), y + rng.standard_normal(Y.shape).astype(np.float32)
    still[:, [3, 9]], other[:, 0], other[:, 5] = 1.5, 0, other[:, 6]
    twice = np.hstack([x[:, :20], x[:, :10]])
    return [(x, y), (still, other), (twice, other), (x, other), (twice, y)]


def stacked(sides):
    whole = Marginal(
        sides[0].n, *(torch.stack([getattr(s, k) for s in sides]) for k in ("mean", "scatter")), sides[0].eps
    )
    return whole[torch.arange(len(sides))]


@pytest.mark.parametrize("measure", OF_MOMENTS)
def test_many_pairs_are_scored_as_one_by_one(measure, several):
    """Both ways, and neurons that do not vary are as good as absent."""
    one, alone = MEASURES[measure], [moments(x, y) for x, y in several]
    pairs = Moments(stacked([m.x for m in alone]), stacked([m.y for m in alone]), torch.stack([m.cross for m in alone]))
    norms = [
        torch.stack(
            [
                squared_norms(frames[k], side, standardize=one.standardize)
                for frames, side in zip(several, sides, strict=True)
            ]
        )
        for k, sides in enumerate(zip(*((m.x, m.y) for m in alone), strict=True))
    ]
    there, back = (
        (one.score(m, *of) if one.norms else one.score(m)) for m, of in ((pairs, norms), (pairs.swapped, norms[::-1]))
    )
    for (x, y), m, *found in zip(several, alone, there.tolist(), back.tolist(), strict=True):
        varying = [side[:, side.std(0) > 0] for side in (x, y)]
        one_by_one = [float(scored(measure, *of)) for of in ((m, x, y), (m.swapped, y, x))]
        assert found == pytest.approx(one_by_one, abs=1e-8)
        assert found[0] == pytest.approx(sslsim.similarity(measure, x, y), abs=1e-8)
        assert found[1] == pytest.approx(sslsim.similarity(measure, y, x), abs=1e-6)  # multiplied the other way round
        assert found[0] == pytest.approx(sslsim.similarity(measure, *varying), abs=2e-6)


@pytest.fixture(scope="module")
def wide():
    """Float32 layers of mean 1000, their units up to 1e4 apart, wide enough to be paired in float32."""
    rng, width = np.random.default_rng(4), 300
    latent = rng.standard_normal((1200, width)) * np.linspace(1, 0.3, width)
    x, y = (latent @ rng.standard_normal((width, width)) / width**0.5 for _ in "xy")
    sides = [s / s.std(0) + level * rng.standard_normal(s.shape) for s, level in ((x, 0.4), (y, 0.8))]
    units = [rng.permutation(np.geomspace(1e-2, 1e2, width)) for _ in sides]
    return [((1000 + side) * unit).astype(np.float32) for side, unit in zip(sides, units, strict=True)]


@pytest.mark.parametrize("damage", ["none", "few frames"])
@pytest.mark.parametrize("measure", [name for name in OF_LAYERS if name != "soft_matched_corr"])  # it takes a second
def test_float32_is_near_float64_for_wide_layers(measure, damage, wide):
    x, y = (side[: 120 if damage == "few frames" else None] for side in wide)
    if damage == "few frames":  # with neurons that are dead and others that stand there twice
        x, y = np.where(np.arange(300) % 7 == 0, np.float32(0), x), np.hstack([y, y[:, :100]])
    expected = score(measure, x.astype(float), y.astype(float))
    assert score(measure, x, y) == pytest.approx(expected, abs=1e-5 if damage == "none" else 5e-5)


def test_torch_and_numpy_agree_and_half_precision_is_promoted():
    x, y = (torch.as_tensor(a) for a in (X, Y))
    assert sslsim.similarity("svcca", x, y) == pytest.approx(sslsim.similarity("svcca", X, Y), abs=1e-12)
    assert sslsim.similarity("svcca", x.half(), y.half()) == pytest.approx(sslsim.similarity("svcca", x, y), abs=1e-3)


def test_the_registry_knows_all_and_says_so():
    assert {name for name in MEASURES if MEASURES[name].level == "attention"} == {*HEAD_MEASURES, *LAYER_MEASURES}
    assert title_of("svcca") == "svcca: 99 % of variance, standardised"
    assert title_of("svcca_raw") == "svcca: 99 % of variance, raw"
    assert title_of("mine") == "mine"
    assert len({measure.title for measure in MEASURES.values()}) == len(MEASURES)
    table = reference_table().set_index("name")
    assert list(table.columns) == ["what it says", "range", "direction"]
    assert (table["what it says"].str.len() > 12).all()
    assert table.loc["svcca_raw", "what it says"] == "svcca of the neurons in their own units"
    assert (table.direction == "x in y").sum() == sum(not measure.symmetric for measure in MEASURES.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("svca", X, Y), r"unknown measure 'svca'; did you mean 'svcca'\?"),
        (("between_utterance_cka", X, Y), "unknown measure 'between_utterance_cka'"),
        (("js", X, Y), "'js' compares attention, not frames: use compare or attention_similarity"),
        (("attention_cka", X, Y), "'attention_cka' compares attention, not frames: use compare or attention_cka"),
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


def test_options_that_a_measure_lacks_are_named():
    with pytest.raises(sslsim.SslsimError, match="measure 'cca': got an unexpected keyword argument 'variance'"):
        sslsim.similarity("cca", X, Y, variance=0.9)
    with pytest.raises(sslsim.SslsimError, match="scaling is part of a measure's name"):
        sslsim.similarity("svcca", X, Y, standardize=False)
    with pytest.raises(sslsim.SslsimError, match=r"unknown measure 'svcca_row'; did you mean 'svcca_raw'\?"):
        measure_named("svcca_row")
