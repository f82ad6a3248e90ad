"""Claims: right on worlds whose truth is known, and equal to their definition on pairs made by hand."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from grids import PERMUTATIONS, SIZES, lineup, made
from scipy import stats
from worlds import World, evidence_of

import sslsim
from sslsim.analysis import claims
from sslsim.analysis.claims import (
    BOUNDS,
    CLAIM_COLUMNS,
    FAMILIES,
    attention_claims,
    finetuning_claims,
    layer_claims,
    neuron_claims,
)
from sslsim.comparison.tables import same_depth
from sslsim.encoders.lineage import Lineage
from sslsim.measures.registry import BEYOND_BASES
from sslsim.significance.evidence import Evidence

NEURONS, EXCESS, SUBSPACE = (
    "single neurons are shared",
    "single neurons explain more than random axes",
    "the subspace is shared",
)
WORDS = ["small", "moderate", "large"]
ALIKE = "layers at the same relative depth are alike"
FIRST, SEED = "the last layer moved more than the first", "the last layer moved further than another seed"
ALONE = [EXCESS, NEURONS]
OF_NEURONS = ("linreg_r2", *BEYOND_BASES)
SEEDS = range(5)
SMALL = {"neurons": 20, "layers": 1, "utterances": 24, "frames": 50}
WIDE = {"neurons": 60, "utterances": 48, "frames": 100}  # a tenth of them is six, not two
PAIRS = [("a", "a-ctc")]
ACROSS = [*itertools.product("ab", "cd")]  # of two families


def lineage_of(stores):
    return Lineage(tuple(store.checkpoint for store in stores))


def judged(kind, seed, measures=OF_NEURONS, of=neuron_claims, **options):
    """Return the claims on one world, a row a claim."""
    world = World(kind, seed, **SMALL | (WIDE if kind == "tenth" else {}) | options)
    return of(evidence_of(world, measures, permutations=20, blocks=6, rotations=20))


@pytest.fixture(scope="module")
def worlds():
    """Claims on neurons of worlds of every kind, by kind and seed; a row a claim."""
    kinds = ("independent", "permuted", "rotated", "half", "tenth")
    return {kind: [judged(kind, seed).set_index("claim") for seed in SEEDS] for kind in kinds}


def held(tables, claim):
    """Count the tables in which an effect is told from its control, whatever its size."""
    return sum(table.p[claim] <= 0.05 and table.ci_low[claim] > 0 for table in tables)


# --- worlds


def test_where_nothing_is_shared_no_claim_holds(worlds):
    assert held(worlds["independent"], NEURONS) == 0
    assert {word for table in worlds["independent"] for word in table.verdict} <= {"none", "not told from chance"}
    assert held(worlds["independent"], SUBSPACE) <= 1
    assert held(worlds["independent"], EXCESS) <= 1
    for table in worlds["independent"]:
        assert table.effect.abs().max() < 0.03
        assert (table.ci_low < 0).all()
        assert (table.ci_high > 0).all()


def test_the_same_neurons_in_another_order_are_shared_with_their_subspace(worlds):
    for table in worlds["permuted"]:
        assert table.verdict.to_dict() == dict.fromkeys([NEURONS, EXCESS, SUBSPACE], "large")
        assert table.effect[[SUBSPACE, NEURONS]].tolist() == pytest.approx(
            [1, 1], abs=1e-4
        )  # each neuron has a partner
        chance = float(table.control[EXCESS].split("utterances: ")[1].split(",")[0])
        assert table.effect[EXCESS] + chance == pytest.approx(1, abs=0.0006)
        assert abs(chance) < 0.05
        assert table.p[[SUBSPACE, *ALONE]].tolist() == [1 / 21] * 3


def test_the_same_subspace_in_other_axes_is_shared_without_its_neurons(worlds):
    assert held(worlds["rotated"], SUBSPACE) == len(SEEDS)
    assert held(worlds["rotated"], EXCESS) <= 1
    assert held(worlds["rotated"], NEURONS) <= 1
    for table in worlds["rotated"]:
        assert table.verdict.to_dict() == {NEURONS: "none", EXCESS: "none", SUBSPACE: "large"}
        assert table.effect[SUBSPACE] == pytest.approx(1, abs=1e-4)
        assert table.effect[ALONE].abs().max() < 0.06


def test_half_a_subspace_is_found_to_be_half(worlds):
    assert held(worlds["half"], SUBSPACE) == len(SEEDS)
    inside = 0
    for table in worlds["half"]:
        row = table.loc[SUBSPACE]
        assert row.effect == pytest.approx(0.5, abs=0.03)
        assert row.verdict == "moderate"
        inside += row.ci_low < 0.5 < row.ci_high
        assert table.effect[ALONE].abs().max() < 0.06
    assert inside >= len(SEEDS) - 1
    assert held(worlds["half"], EXCESS) <= 1
    assert held(worlds["half"], NEURONS) <= 1


def test_a_tenth_of_the_neurons_is_found_to_be_a_tenth(worlds):
    assert held(worlds["tenth"], EXCESS) == held(worlds["tenth"], SUBSPACE) == len(SEEDS)
    assert held(worlds["tenth"], NEURONS) >= len(SEEDS) - 1  # a count moves by whole neurons, its interval is wide
    for table in worlds["tenth"]:
        assert table.effect[[SUBSPACE, EXCESS]].to_numpy() == pytest.approx(0.1, abs=0.02)
        assert table.ci_high[EXCESS] - table.ci_low[EXCESS] < 0.06
        assert table.effect[NEURONS] == pytest.approx(0.1, abs=0.04)
        assert table.ci_low[NEURONS] < 0.1 < table.ci_high[NEURONS]
        assert table.p[[SUBSPACE, *ALONE]].tolist() == [1 / 21] * 3


def test_a_neuron_at_thirty_times_its_scale_changes_no_claim_on_neurons(worlds):
    for kind in ("rotated", "tenth"):
        table = judged(kind, 0, outlier=True)
        columns = ["effect", "ci_low", "ci_high", "p"]
        expected = worlds[kind][0].reset_index()
        np.testing.assert_allclose(table[columns].astype(float), expected[columns].astype(float), rtol=0, atol=1e-4)
        assert table.verdict.tolist() == expected.verdict.tolist()


@pytest.mark.parametrize(("kind", "alike"), [("independent", ["none"]), ("permuted", ["large"]), ("half", WORDS)])
def test_layers_are_alike_where_subspaces_are_shared(kind, alike):
    table = judged(kind, 1, ("svcca", "linear_cka_debiased"), layer_claims)
    assert table.measure.tolist() == ["svcca", "linear_cka_debiased"]
    assert set(table.claim) == {ALIKE}
    assert set(table.between) == {"other family"}
    assert set(table.verdict) <= set(alike)


@pytest.mark.parametrize(("outlier", "verdict"), [(False, "none"), (True, "large")])
def test_raw_cka_says_another_thing_where_a_neuron_dominates_the_layer(outlier, verdict):
    measures = ("svcca", "linear_cka_debiased", "linear_cka_debiased_raw")
    table = judged("permuted", 0, measures, layer_claims, outlier=outlier).set_index("claim")
    row = table.loc["raw CKA differs from standardised CKA"]
    assert row.verdict == verdict
    assert abs(row.effect) < 0.05 if verdict == "none" else row.effect < -0.5
    assert row.control.startswith(("standardised: 0.9", "standardised: 1.000"))


# --- pairs made by hand


def made_of_neurons(stores, level, names=OF_NEURONS):
    """Evidence of these measures; random bases near 0 of both that have any."""
    evidence = made(stores, names, level)
    rows = evidence.pairs.measure.isin(BEYOND_BASES).to_numpy()
    evidence.rotated[:, rows] = 0.02 * np.random.default_rng(1).standard_normal((PERMUTATIONS, rows.sum()))
    return evidence


def read(evidence, rows):
    """Mean of some pairs with interval, mean of chance and p, written out."""
    value, left_out = evidence.pairs.value[rows].mean(), evidence.left_out[:, rows].mean(1)
    null = evidence.null[:, rows].mean(1)
    half = stats.t.ppf(0.975, len(SIZES) - 1) * error(left_out)
    p = (1 + (null >= value).sum()) / (PERMUTATIONS + 1)
    return SimpleNamespace(value=value, low=value - half, high=value + half, chance=null.mean(), p=p)


def error(left_out):
    """Jackknife of equal blocks."""
    g = len(left_out)
    return np.sqrt((g - 1) / g * ((left_out - left_out.mean()) ** 2).sum())


def difference(evidence, a, b):
    value = evidence.pairs.value[a].mean() - evidence.pairs.value[b].mean()
    left_out = evidence.left_out[:, a].mean(1) - evidence.left_out[:, b].mean(1)
    return against_zero(value, left_out)


def against_zero(value, left_out):
    half = stats.t.ppf(0.975, len(SIZES) - 1) * error(left_out)
    p = 2 * stats.t.sf(abs(value) / error(left_out), len(SIZES) - 1)
    return SimpleNamespace(value=value, low=value - half, high=value + half, p=p)


def between(table, models, **fixed):
    """Which rows are of pairs of models, in both directions, and of layers of one number."""
    both = {pair for two in models for pair in (two, two[::-1])}
    rows = np.array([pair in both for pair in zip(table.model_x, table.model_y, strict=True)])
    rows &= (table.layer_x == table.layer_y).to_numpy()
    for column, value in fixed.items():
        rows &= (table[column] == value).to_numpy()
    return rows


def numbers(row):
    return row.effect, row.ci_low, row.ci_high, row.p


def test_neurons_by_hand():
    levels = dict(zip(OF_NEURONS, (0.8, 0.3, 0.06), strict=True))
    evidence = made_of_neurons(lineup("a", "b", "a-ctc"), lambda name, *_: levels[name])
    table = neuron_claims(evidence)
    assert table.columns.tolist() == CLAIM_COLUMNS
    assert table.claim.tolist() == [NEURONS, EXCESS, SUBSPACE]
    assert table.measure.tolist() == ["neuron_count", "neuron_excess", "linreg_r2"]
    assert set(table.unit) == {"share"}
    assert table.p_of.tolist() == ["mismatches or random bases"] * 2 + ["mismatches"]
    assert table.p_floor.tolist() == [1 / (PERMUTATIONS + 1)] * 3
    assert set(table.between) == {"same family"}  # a and a-ctc share their weights
    apart = [("a", "b"), ("b", "a-ctc")]

    space = read(evidence, between(evidence.pairs, apart, measure="linreg_r2"))
    expected = [(v - space.chance) / (1 - space.chance) for v in (space.value, space.low, space.high)]
    assert numbers(table.iloc[2]) == pytest.approx((*expected, space.p))
    assert table.control[2] == f"mismatched utterances: {space.chance:.3f}"

    order = {"a": 0, "b": 1, "a-ctc": 2}
    forth = (evidence.pairs.model_x.map(order) < evidence.pairs.model_y.map(order)).to_numpy()
    for row, measure, share in ((1, "neuron_excess", False), (0, "neuron_count", True)):
        rows = between(evidence.pairs, apart, measure=measure)
        single = read(evidence, rows)
        of_bases = [
            (1 + (evidence.rotated[:, half].mean(1) >= evidence.pairs.value[half].mean()).sum()) / (PERMUTATIONS + 1)
            for half in (rows & forth, rows & ~forth)
        ]
        left = 1 - single.chance if share else 1
        expected = [(v - single.chance) / left for v in (single.value, single.low, single.high)]
        assert numbers(table.iloc[row]) == pytest.approx((*expected, max(single.p, *of_bases)))
        bases = evidence.rotated[:, rows].mean()
        assert table.control[row] == f"mismatched utterances: {single.chance:z.3f}, random bases: {bases:z.3f}"
    assert single.p > 0.05  # below the chance of wrong utterances
    assert table.verdict.tolist() == ["none", "small", "large"]


def test_shared_neurons_are_held_against_random_weights_and_the_spectrogram():
    stores = lineup("a", "b", "twin", "mel", n_layers=1)

    def level(name, x, i, y, j):
        return 0.4 if "twin" in (x, y) else 0.25 if "mel" in (x, y) else 0.3

    evidence = made_of_neurons(stores, level)
    table = neuron_claims(evidence)
    for measure in ("neuron_count", "linreg_r2"):
        pairs, rows = evidence.pairs, table[(table.measure == measure) & table.claim.str.startswith("more alike")]
        own = between(pairs, [("a", "b")], measure=measure)
        assert rows.claim.tolist() == [f"more alike than with {what}" for what in ("random weights", "the spectrogram")]
        for row, name in zip(rows.itertuples(), ("twin", "mel"), strict=True):
            to = between(pairs, [(one, name) for one in "ab"], measure=measure)
            by_hand = difference(evidence, own, to)
            assert numbers(row) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))
        assert rows.effect.iloc[0] < 0 < rows.effect.iloc[1]
    assert not table[table.measure == "neuron_excess"].claim.str.startswith("more alike").any()


@pytest.mark.parametrize(
    ("measure", "claim"), [("neuron_excess", EXCESS), ("neuron_count", NEURONS)], ids=["excess", "count"]
)
@pytest.mark.parametrize(
    ("level", "turned", "verdict"),
    [(0.5, 0.0, "moderate"), (0.5, 0.6, "not told from chance"), (0.05, 0.0, "none"), (-0.2, 0.0, "opposite")],
)
def test_single_neurons_must_pass_chance_and_random_bases_of_either_side(measure, claim, level, turned, verdict):
    evidence = made_of_neurons(lineup("a", "b"), lambda name, *_: level if name == measure else 0.5)
    pairs = evidence.pairs
    evidence.rotated[:, ((pairs.model_x == "b") & (pairs.measure == measure)).to_numpy()] += turned  # only from b
    table = neuron_claims(evidence).set_index("claim")
    expected = dict.fromkeys([NEURONS, EXCESS, SUBSPACE], "moderate") | {claim: verdict}
    assert table.verdict.to_dict() == expected


def test_layers_at_other_depths_need_no_controls():
    """Beyond the first mismatches they have none, and no intervals."""
    stores = lineup("a", "b", "c", "twin", "mel", "a-ctc")
    evidence = made_of_neurons(stores, lambda *_: 0.5, [*OF_NEURONS, "svcca", "pearson"])
    elsewhere = ~same_depth(evidence.pairs).to_numpy()
    null, left_out = evidence.null.copy(), evidence.left_out.copy()
    null[2:, elsewhere] = left_out[:, elsewhere] = np.nan
    without = replace(evidence, null=null, left_out=left_out)
    for of in (neuron_claims, layer_claims, attention_claims, lambda some: finetuning_claims(some, PAIRS)):
        pd.testing.assert_frame_equal(of(without), of(evidence))


def test_layers_by_hand():
    stores = lineup("a", "b", "c", "a-ctc", "twin", "twin2", "mel", n_layers=1)

    def level(name, x, i, y, j):
        return {frozenset("ab"): 0.8, frozenset("ac"): 0.6, frozenset("bc"): 0.6}.get(frozenset((x, y)), 0.3)

    evidence = made(stores, ["svcca", "cca"], level)
    table = layer_claims(evidence, ["svcca", "missing"], lineage_of(stores))
    assert table.columns.tolist() == CLAIM_COLUMNS
    assert table[["claim", "between"]].to_numpy().tolist() == [
        [ALIKE, "same family"],
        [ALIKE, "other family"],
        ["more alike than with random weights", "same family"],
        ["more alike than with random weights", "other family"],
        ["more alike than with the spectrogram", "same family"],
        ["more alike than with the spectrogram", "other family"],
        [FAMILIES, "f"],
    ]
    pairs, trained = evidence.pairs, ["a", "b", "c", "a-ctc"]
    same = between(pairs, [("a", "b"), ("b", "a-ctc")], measure="svcca")
    other = between(pairs, [("a", "c"), ("b", "c"), ("c", "a-ctc")], measure="svcca")
    twins = between(pairs, itertools.product(trained, ["twin", "twin2"]), measure="svcca")  # not twins among themselves
    mel = between(pairs, [(name, "mel") for name in trained], measure="svcca")
    above = read(evidence, same)
    expected = [v - above.chance for v in (above.value, above.low, above.high)]
    assert numbers(table.iloc[0]) == pytest.approx((*expected, above.p))
    assert table.control[0] == f"mismatched utterances: {above.chance:.3f}"
    for row, a, b, name in (
        (2, same, twins, "untrained"),
        (3, other, twins, "untrained"),
        (4, same, mel, "spectrogram"),
        (6, same, other, "other family"),
    ):
        by_hand = difference(evidence, a, b)
        assert numbers(table.iloc[row]) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))
        assert table.control[row] == f"{name}: {evidence.pairs.value[b].mean():.3f}"
    assert set(table.verdict) <= set(WORDS)
    assert table.p_of.tolist() == ["mismatches"] * 2 + ["interval"] * 5
    assert set(table.unit) == {"difference"}


def test_layers_no_more_alike_than_others_are_said_not_to_be():
    stores = lineup("a", "b", "twin", "mel")
    table = layer_claims(made(stores, ["svcca"], lambda *_: 0.5)).set_index("claim")
    assert table.verdict.to_dict() == {
        ALIKE: "large",
        "more alike than with random weights": "none",
        "more alike than with the spectrogram": "none",
    }
    table = layer_claims(made(stores, ["svcca"], lambda *_: 0.02)).set_index("claim")
    assert table.verdict[ALIKE] == "opposite"


def test_a_family_is_judged_by_itself():
    """One that is more alike than two and one that is less would otherwise be one mean."""
    stores = lineup("a", "b", "c", "d")

    def level(name, x, i, y, j):
        return {frozenset("ab"): 0.8, frozenset("cd"): 0.3}.get(frozenset((x, y)), 0.6)

    evidence, lineage = made(stores, ["svcca", *OF_NEURONS, "pearson"], level), lineage_of(stores)
    for of, measures in (
        (neuron_claims, ["neuron_count", "linreg_r2"]),
        (lambda *given: layer_claims(given[0], ["svcca"], given[1]), ["svcca"]),
        (lambda *given: attention_claims(given[0], "pearson", given[1]), ["pearson"]),
    ):
        table = of(evidence, lineage)
        families = table[table.claim == FAMILIES]
        assert families.measure.unique().tolist() == measures
        assert families.between.tolist() == ["f", "g"] * len(measures)
        assert families.verdict.tolist() == ["moderate", "opposite"] * len(measures)
        assert FAMILIES not in set(of(evidence, None).claim)
    same, other = (between(evidence.pairs, pairs, measure="pearson") for pairs in ([("c", "d")], ACROSS))
    by_hand = difference(evidence, same, other)
    assert numbers(families.iloc[1]) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))


@pytest.mark.parametrize(("raw", "verdict"), [(0.5, "none"), (0.52, "none"), (0.6, "small"), (0.3, "moderate")])
def test_sameness_is_an_interval_within_its_tolerance_and_no_p_of_a_difference(raw, verdict):
    stores = lineup("a", "c")
    kinds = ["linear_cka_debiased", "linear_cka_debiased_raw"]
    evidence = made(stores, kinds, lambda name, *_: 0.5 if name == kinds[0] else raw)
    table = layer_claims(evidence)
    assert table.claim.tolist() == [ALIKE, "raw CKA differs from standardised CKA"]
    a, b = (between(evidence.pairs, [("a", "c")], measure=name) for name in kinds[::-1])
    by_hand = difference(evidence, a, b)
    assert numbers(table.iloc[1])[:3] == pytest.approx((by_hand.value, by_hand.low, by_hand.high))
    assert table.control[1] == f"standardised: {evidence.pairs.value[b].mean():.3f}, counts as the same within ±0.05"
    assert (table.verdict[1], table.p_of[1]) == (verdict, "equivalence")
    assert np.isnan(table.p[1])
    assert (max(-by_hand.low, by_hand.high) < BOUNDS["difference"][0]) == (verdict == "none")
    wide = layer_claims(evidence, bounds={**BOUNDS, "difference": (0.25, 0.3, 0.4)})
    assert (wide.verdict[1], wide.control[1].split("±")[1]) == ("none", "0.25")


def test_attention_by_hand():
    stores = lineup("a", "a2", "c", "twin")

    def level(name, x, i, y, j):
        return 0.3 if "twin" in (x, y) else 0.7

    evidence = made(stores, ["pearson", "js"], level)
    table = attention_claims(evidence)
    claim, floor = "beyond position, heads are alike", "more alike than with random weights"
    assert table.columns.tolist() == CLAIM_COLUMNS
    assert table[["claim", "between"]].to_numpy().tolist() == [
        [claim, "other seed"],
        [claim, "other family"],
        [floor, "other seed"],
        [floor, "other family"],
    ]
    assert set(table.measure) == {"pearson"}
    rows = between(evidence.pairs, [("a", "c"), ("a2", "c")], measure="pearson")
    above = read(evidence, rows)
    expected = [v - above.chance for v in (above.value, above.low, above.high)]
    assert numbers(table.iloc[1]) == pytest.approx((*expected, above.p))
    twins = between(evidence.pairs, [(name, "twin") for name in ("a", "a2", "c")], measure="pearson")
    by_hand = difference(evidence, rows, twins)
    assert numbers(table.iloc[3]) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))
    assert set(table.verdict) == {"large"}
    assert set(attention_claims(evidence, "js").measure) == {"js"}


@pytest.mark.parametrize(
    ("top", "than_first", "than_seed"),
    [(0.4, "large", "small"), (0.1, "large", "large"), (0.7, "moderate", "opposite"), (0.99, "none", "opposite")],
)
def test_finetuning_by_hand(top, than_first, than_seed):
    """Similarity to the counterpart falls from 0.95 to `top` over three layers; two seeds are at 0.6."""
    stores = lineup("a", "a2", "a-ctc", "c", n_layers=3)

    def level(name, x, i, y, j):
        if {x, y} == {"a", "a-ctc"}:
            return 0.95 - (0.95 - top) * i / 2
        return 0.6 if {x, y} == {"a", "a2"} else 0.2

    evidence = made(stores, ["svcca", "svcca_raw", "linreg"], level)
    table = finetuning_claims(evidence, PAIRS)
    assert table.columns.tolist() == CLAIM_COLUMNS
    assert table.measure.tolist() == ["linreg", "linreg", "svcca", "svcca"]  # in the order asked for, if there
    assert set(table.between) == {"a to a-ctc"}

    def place(y, layer):
        wanted = {"measure": "svcca", "model_x": "a", "model_y": y}
        pairs = evidence.pairs
        rows = (
            (pairs[list(wanted)] == pd.Series(wanted)).all(axis=1) & (pairs.layer_x == layer) & (pairs.layer_y == layer)
        )
        (at,) = np.flatnonzero(rows)
        return at

    value, left_out = evidence.pairs.value.to_numpy(), evidence.left_out
    first, last, away = place("a-ctc", 0), place("a-ctc", 2), place("a2", 2)
    by_hand = against_zero(value[first] - value[last], left_out[:, first] - left_out[:, last])
    row = table.iloc[2]
    assert (row.claim, row.control) == (FIRST, "layer 0")
    assert numbers(row) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))

    def quotient(v):
        return (1 - v[..., last]) / (1 - v[..., away])

    by_hand = against_zero(quotient(value) - 1, quotient(left_out) - 1)
    row = table.iloc[3]
    assert (row.claim, row.control) == (SEED, "another seed: 1")
    assert numbers(row) == pytest.approx((by_hand.value + 1, by_hand.low + 1, by_hand.high + 1, by_hand.p))
    assert row.effect == pytest.approx((1 - top) / 0.4, abs=0.2)
    assert table.verdict.tolist()[2:] == [than_first, than_seed]
    assert table.unit.tolist()[2:] == ["difference", "ratio"]
    pd.testing.assert_frame_equal(finetuning_claims([evidence], PAIRS), table)


def test_finetuning_without_another_seed_has_no_yardstick():
    stores = lineup("a", "a-ctc", "c")
    table = finetuning_claims(made(stores, ["max_corr"], lambda *_: 0.5), PAIRS)
    assert table.claim.tolist() == [FIRST]


def test_a_claim_needs_its_interval_above_zero_too():
    """Chance far below says nothing where speech like this could have given nothing."""
    stores = lineup("a", "b", n_layers=1)
    evidence = made(stores, ["svcca"], lambda *_: 0.3)
    assert layer_claims(evidence).verdict.tolist() == ["moderate"]
    evidence.left_out[:] += np.linspace(-0.2, 0.2, 4)[:, None]
    table = layer_claims(evidence)
    assert table.p.item() == 0.05
    assert table.ci_low.item() < 0
    assert table.verdict.tolist() == ["not told from chance"]


def test_claims_without_an_interval_are_not_judged():
    evidence = made_of_neurons(lineup("a", "b"), lambda *_: 0.9, [*OF_NEURONS, "svcca"])
    for of in (neuron_claims, layer_claims):
        table = of(replace(evidence, left_out=evidence.left_out[:0], sizes=()))
        assert table.ci_low.isna().all()
        assert set(table.verdict) == {"not tested (no interval)"}


FEW = "not tested (too few mismatches)"
FEW_BASES = "not tested (too few mismatches or random bases)"


@pytest.mark.parametrize(
    ("permutations", "rotations", "neurons"),
    [
        (0, 19, [FEW_BASES, FEW_BASES, FEW]),
        (18, 19, [FEW_BASES, FEW_BASES, FEW]),
        (19, 18, [FEW_BASES, FEW_BASES, "large"]),
        (19, 19, ["large", "small", "large"]),
    ],
)
def test_fewer_than_nineteen_cannot_judge_what_chance_explains(permutations, rotations, neurons):
    stores = lineup("a", "b", "twin")
    names = [*OF_NEURONS, "svcca", "pearson"]
    evidence = made_of_neurons(stores, lambda name, *_: 0.3 if name == "neuron_excess" else 0.9, names)
    few = replace(evidence, null=evidence.null[:permutations], rotated=evidence.rotated[:rotations])
    table = neuron_claims(few)
    assert table.verdict.tolist()[:3] == neurons
    assert set(table.claim[3:]) == {"more alike than with random weights"}
    assert set(table.verdict[3:]) == {"none"}  # contrasts need no mismatches
    for of in (layer_claims, attention_claims):
        table = of(few)
        assert table.verdict.tolist() == ["large" if permutations == 19 else FEW, "none"]  # the contrast needs none
        assert table.control[1].startswith("untrained")
        assert np.isfinite(table.p[1])


@pytest.mark.parametrize(
    ("unit", "low", "high", "verdict"),
    [
        ("share", -0.09, 0.09, "none"),
        ("share", 0.02, 0.09, "none"),  # told from chance, and of no size
        ("share", 0.02, 0.2, "small"),
        ("share", -0.02, 0.2, "not told from chance"),
        ("share", 0.2, 0.9, "small"),  # the near end of the interval counts
        ("share", 0.3, 0.9, "moderate"),
        ("share", 0.6, 0.9, "large"),
        ("share", -0.3, -0.05, "opposite"),
        ("difference", 0.05, 0.09, "small"),
        ("ratio", 0.95, 1.05, "none"),
        ("ratio", 1.05, 1.2, "small"),
        ("ratio", 2.0, 3.0, "large"),
        ("ratio", 0.8, 0.95, "opposite"),
        ("ratio", 0.92, 0.99, "none"),  # as far from 1 as 1.1 is, downwards
        ("ratio", -0.5, 1.3, "not told from chance"),
    ],
)
def test_the_word_goes_by_the_near_end_of_the_interval(unit, low, high, verdict):
    row = {"unit": unit, "ci_low": low, "ci_high": high, "p": 1 / 21, "p_of": "mismatches", "p_floor": 1 / 21}
    assert claims._verdict(row, BOUNDS) == verdict
    told = {"small", "moderate", "large"}
    assert claims._verdict(row | {"p": 0.06}, BOUNDS) == ("not told from chance" if verdict in told else verdict)


def test_bounds_that_do_not_fit_are_refused():
    evidence = made(lineup("a", "b"), ["svcca"], lambda *_: 0.5)
    wanted = r"bounds are \{'share': \(0.1, 0.2\)\}; give three numbers each for share, difference, ratio"
    with pytest.raises(sslsim.SslsimError, match=wanted):
        layer_claims(evidence, bounds={"share": (0.1, 0.2)})


def test_the_order_of_pairs_does_not_matter():
    stores = lineup("a", "b", "c", "twin")
    evidence = made(stores, ["svcca", "pearson"], lambda *_: 0.5)
    order = np.random.default_rng(0).permutation(len(evidence.pairs))
    pairs = evidence.pairs.iloc[order].reset_index(drop=True)
    shuffled = Evidence(pairs, evidence.null[:, order], evidence.left_out[:, order], SIZES, evidence.rotated[:, order])
    for of in (layer_claims, attention_claims):
        pd.testing.assert_frame_equal(of(shuffled), of(evidence))


# --- what cannot be judged


def test_what_the_evidence_lacks_is_named():
    stores = lineup("a", "b")
    evidence = made(stores, ["max_corr", "cca"], lambda *_: 0.5)
    with pytest.raises(
        sslsim.SslsimError, match="the evidence has no neuron_count, only max_corr, cca; compute it too"
    ):
        neuron_claims(evidence)
    with pytest.raises(sslsim.SslsimError, match="the evidence has no pearson, only max_corr, cca; compute it too"):
        attention_claims(evidence)
    for lacks in OF_NEURONS:
        some = made(stores, [name for name in OF_NEURONS if name != lacks], lambda *_: 0.5)
        known = ", ".join(name for name in OF_NEURONS if name != lacks)
        with pytest.raises(sslsim.SslsimError, match=f"the evidence has no {lacks}, only {known}; compute it too"):
            neuron_claims(some)
    with pytest.raises(
        sslsim.SslsimError,
        match="nothing to judge; the evidence needs models trained apart, and svcca or linear_cka_debiased",
    ):
        layer_claims(evidence)


def test_models_that_were_not_trained_apart_are_not_judged():
    stores = lineup("a", "a-ctc", "twin", "mel")
    evidence = made(stores, [*OF_NEURONS, "svcca", "pearson"], lambda *_: 0.5)
    for of, needed in (
        (neuron_claims, "linreg_r2, neuron_excess and neuron_count"),
        (layer_claims, "and svcca or linear_cka_debiased"),
        (attention_claims, "and pearson"),
    ):
        with pytest.raises(
            sslsim.SslsimError, match=f"nothing to judge; the evidence needs models trained apart, {needed}"
        ):
            of(evidence)


def test_finetuning_that_cannot_be_judged_is_said():
    stores = lineup("a", "b")
    evidence = made(stores, ["svcca"], lambda *_: 0.5)
    with pytest.raises(sslsim.SslsimError, match="nothing to judge; the evidence needs finetuned counterparts, and"):
        finetuning_claims(evidence, PAIRS)
    stores = lineup("a", "a-ctc")
    evidence = made(stores, ["cca", "svcca_raw"], lambda *_: 0.5)
    with pytest.raises(
        sslsim.SslsimError,
        match="nothing to judge; the evidence needs finetuned counterparts, and max_corr or linreg or svcca",
    ):
        finetuning_claims(evidence, PAIRS)
    kept = evidence.only(evidence.pairs.layer_x == evidence.pairs.layer_y)
    kept = kept.only(kept.pairs.layer_x == 0)  # without the last layer
    with pytest.raises(sslsim.SslsimError, match="finetuned counterparts, and cca"):
        finetuning_claims(kept, PAIRS, ["cca"])
