"""Verdicts: right on worlds whose truth is known, and equal to their definition on cells made by hand."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from worlds import World

import sslsim
from sslsim.analysis import claims as verdicts
from sslsim.analysis import partners as findings
from sslsim.encoders.lineup import Checkpoint
from sslsim.significance import jackknife as controls
from sslsim.significance.run import Evidence

SUBSPACE, NEURONS, PAPER = (
    "the subspace is shared",
    "neurons have partners of their own",
    "the same subspace, other neurons",
)
SEEDS = range(5)
SMALL = {"neurons": 20, "layers": 1, "utterances": 24, "frames": 50}


def judged(kind, seed, folder, measures=("max_corr", "linreg_r2"), of=verdicts.neurons, **options):
    """Return the verdicts on one world, a row a claim."""
    stores = World(kind, seed, **SMALL | options).models(folder)
    found = sslsim.evidence(
        stores, measures, between=[("x", "y")], draws=20, groups=6, seed=seed, raw=measures[2:], progress=False
    )
    return of(found, stores)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Verdicts on neurons of worlds of every kind, by kind and seed; a row a claim."""
    folder = tmp_path_factory.mktemp("worlds")
    kinds = ("independent", "permuted", "rotated", "half", "tenth")
    return {kind: [judged(kind, seed, folder).set_index("claim") for seed in SEEDS] for kind in kinds}


def held(tables, claim):
    return sum(table.holds[claim] == "yes" for table in tables)


def test_without_groups_there_is_no_interval_to_judge_by(tmp_path):
    stores = World("permuted", 0, **SMALL).models(tmp_path)
    measures = ["max_corr", "linreg_r2", "linear_cka_debiased"]
    found = sslsim.evidence(
        stores, measures, between=[("x", "y")], draws=20, groups=0, raw=measures[2:], progress=False
    )
    for of in (verdicts.neurons, verdicts.layers):
        assert set(of(found, stores).holds) == {"no interval"}


# --- worlds


def test_where_nothing_is_shared_no_claim_holds(worlds):
    assert held(worlds["independent"], NEURONS) == 0
    assert held(worlds["independent"], SUBSPACE) <= 1
    for table in worlds["independent"]:
        assert table.effect[[SUBSPACE, NEURONS]].abs().max() < 0.03


def test_the_same_neurons_in_another_order_are_shared_with_their_subspace(worlds):
    for table in worlds["permuted"]:
        assert table.holds.to_dict() == {SUBSPACE: "yes", NEURONS: "yes", PAPER: "no"}
        assert table.effect[[SUBSPACE, NEURONS]].to_numpy() == pytest.approx(1, abs=1e-4)
        assert table.p[[SUBSPACE, NEURONS]].tolist() == [1 / 21] * 2


def test_the_same_subspace_in_other_axes_is_shared_without_its_neurons(worlds):
    assert held(worlds["rotated"], SUBSPACE) == len(SEEDS)
    assert held(worlds["rotated"], NEURONS) <= 1
    assert held(worlds["rotated"], PAPER) >= len(SEEDS) - 1
    for table in worlds["rotated"]:
        assert table.effect[SUBSPACE] == pytest.approx(1, abs=1e-4)
        assert abs(table.effect[NEURONS]) < 0.06


def test_half_a_subspace_is_found_to_be_half(worlds):
    assert held(worlds["half"], SUBSPACE) == len(SEEDS)
    inside = 0
    for table in worlds["half"]:
        row = table.loc[SUBSPACE]
        assert row.effect == pytest.approx(0.5, abs=0.03)
        inside += row.ci_low < 0.5 < row.ci_high
    assert inside >= len(SEEDS) - 1
    assert held(worlds["half"], NEURONS) <= 1


def test_a_tenth_of_the_neurons_is_found_to_be_a_tenth(worlds):
    assert held(worlds["tenth"], NEURONS) == held(worlds["tenth"], SUBSPACE) == len(SEEDS)
    assert held(worlds["tenth"], PAPER) == 0
    for table in worlds["tenth"]:
        assert table.effect[NEURONS] == pytest.approx(0.1, abs=0.02)
        assert table.ci_high[NEURONS] - table.ci_low[NEURONS] < 0.06


def test_a_neuron_at_thirty_times_its_scale_changes_no_verdict_on_neurons(worlds, tmp_path):
    for kind in ("rotated", "tenth"):
        table = judged(kind, 0, tmp_path, outlier=True)
        columns = ["effect", "ci_low", "ci_high", "p"]
        expected = worlds[kind][0].reset_index()
        np.testing.assert_allclose(table[columns].astype(float), expected[columns].astype(float), rtol=0, atol=1e-4)
        assert table.holds.tolist() == expected.holds.tolist()


@pytest.mark.parametrize(("kind", "alike"), [("independent", "no"), ("permuted", "yes"), ("half", "yes")])
def test_layers_are_alike_where_subspaces_are_shared(kind, alike, tmp_path):
    table = judged(kind, 1, tmp_path, ("svcca", "linear_cka_debiased"), verdicts.layers)
    assert table.measure.tolist() == ["svcca", "linear_cka_debiased"]
    assert set(table.claim) == {"layers alike above chance"}
    assert set(table.between) == {"other family"}
    assert table.holds.tolist() == [alike] * 2


@pytest.mark.parametrize(("outlier", "same"), [(False, "yes"), (True, "no")])
def test_raw_cka_says_another_thing_where_a_neuron_owns_the_layer(outlier, same, tmp_path):
    measures = ("svcca", "max_corr", "linear_cka_debiased")  # the last one raw too
    table = judged("permuted", 0, tmp_path, measures, verdicts.layers, outlier=outlier).set_index("claim")
    row = table.loc["raw CKA says what standardised CKA says"]
    assert row.holds == same
    assert abs(row.effect) < 0.05 if same == "yes" else row.effect < -0.5
    assert row.control.startswith("standardised: 0.9") or row.control == "standardised: 1.000"


def test_the_best_pair_of_layers_is_found_and_held_against_searches(tmp_path):
    x, y = World("permuted", 0, **SMALL | {"layers": 2}).models(tmp_path)
    stores = [x, replace(y, layers=y.layers[::-1])]
    found = sslsim.evidence(stores, ["svcca"], draws=20, groups=6, progress=False)
    best = findings.best_layers(found, stores, "svcca")
    assert best[["model_x", "model_y", "relation"]].to_numpy().tolist() == [
        ["x", "y", "other family"],
        ["y", "x", "other family"],
    ]
    assert (best.layer_x + best.layer_y == 1).all()  # the same neurons stand in layer 0 of one and 1 of the other
    assert best.value.to_numpy() == pytest.approx(1, abs=1e-4)
    assert best.p.tolist() == [1 / 21] * 2
    part = found.only((found.cells.model_x == "x") & (found.cells.model_y == "y"))
    assert best.chance[0] == pytest.approx(part.null.max(1).mean())
    low, high = controls.jackknife_interval(part.cells.value.max(), part.left_out.max(1), found.sizes)
    assert (best.ci_low[0], best.ci_high[0]) == pytest.approx((low, high))
    assert best.calibrated[0] == pytest.approx(1, abs=1e-3)


# --- cells made by hand

LINEUP = {
    "a": {"family": "f"},
    "a2": {"family": "f", "seed_of": "a"},
    "a-ctc": {"family": "f", "finetuned_from": "a"},
    "b": {"family": "f"},
    "c": {"family": "g"},
    "twin": {"family": "f", "untrained_seed": 0},
    "twin2": {"family": "f", "untrained_seed": 1},
    "mel": {"source": "log-mel"},
}
DRAWS, SIZES = 19, (30, 30, 30, 30)


def lineup(*names, n_layers=2):
    return [
        SimpleNamespace(
            checkpoint=Checkpoint(**{"name": name, "source": "made"} | LINEUP[name]),
            n_layers=1 if name == "mel" else n_layers,
        )
        for name in names
    ]


def made(stores, measures, level, seed=0):
    """Evidence with scores near ``level(measure, scaled, model_x, layer_x, model_y, layer_y)`` and chance near 0.1."""
    rng, places = np.random.default_rng(seed), [(s.checkpoint.name, i) for s in stores for i in range(s.n_layers)]
    cells = pd.DataFrame(
        [
            {"measure": name, "standardize": scaled, "model_x": x, "layer_x": i, "model_y": y, "layer_y": j}
            | {"value": level(name, scaled, x, i, y, j) + 0.01 * rng.standard_normal()}
            for name, scaled in measures
            for (x, i), (y, j) in itertools.product(places, places)
        ]
    )
    n = len(cells)
    null = 0.1 + 0.02 * rng.standard_normal((DRAWS, n))
    left_out = cells.value.to_numpy() + 0.003 * rng.standard_normal((len(SIZES), n))
    turned = 0.02 * rng.standard_normal((DRAWS, n))
    turned[:, ~cells.measure.str.contains("excess|shared")] = np.nan
    return Evidence(cells, null, left_out, SIZES, turned)


def read(found, rows):
    """Mean of some cells with interval, mean of chance and p, written out."""
    value, left_out = found.cells.value[rows].mean(), found.left_out[:, rows].mean(1)
    null = found.null[:, rows].mean(1)
    half = stats.t.ppf(0.975, len(SIZES) - 1) * error(left_out)
    p = (1 + (null >= value).sum()) / (DRAWS + 1)
    return SimpleNamespace(value=value, low=value - half, high=value + half, chance=null.mean(), p=p)


def error(left_out):
    """Jackknife of equal groups."""
    g = len(left_out)
    return np.sqrt((g - 1) / g * ((left_out - left_out.mean()) ** 2).sum())


def difference(found, a, b):
    value = found.cells.value[a].mean() - found.cells.value[b].mean()
    left_out = found.left_out[:, a].mean(1) - found.left_out[:, b].mean(1)
    return against_zero(value, left_out)


def against_zero(value, left_out):
    half = stats.t.ppf(0.975, len(SIZES) - 1) * error(left_out)
    p = 2 * stats.t.sf(abs(value) / error(left_out), len(SIZES) - 1)
    return SimpleNamespace(value=value, low=value - half, high=value + half, p=p)


def between(cells, pairs, **fixed):
    """Which cells are of pairs of models, in both directions, and of layers of one number."""
    both = {pair for two in pairs for pair in (two, two[::-1])}
    rows = np.array([pair in both for pair in zip(cells.model_x, cells.model_y, strict=True)])
    rows &= (cells.layer_x == cells.layer_y).to_numpy()
    for column, value in fixed.items():
        rows &= (cells[column] == value).to_numpy()
    return rows


def numbers(row):
    return row.effect, row.ci_low, row.ci_high, row.p


def test_neurons_by_hand():
    stores = lineup("a", "b", "a-ctc")
    names = ["max_corr", "linreg_r2", "max_corr_excess_x", "max_corr_excess_y", "neurons_shared"]
    levels = dict(zip(names, (0.5, 0.8, 0.1, 0.15, 0.06), strict=True))
    found = made(stores, [(name, True) for name in names], lambda name, *_: levels[name])
    table = verdicts.neurons(found, stores)
    assert table.columns.tolist() == verdicts.COLUMNS
    assert table.claim.tolist() == [SUBSPACE, NEURONS, PAPER]
    assert set(table.between) == {"same family"}  # a and a-ctc share their weights
    apart = [("a", "b"), ("b", "a-ctc")]

    space = read(found, between(found.cells, apart, measure="linreg_r2"))
    expected = [(v - space.chance) / (1 - space.chance) for v in (space.value, space.low, space.high)]
    assert numbers(table.iloc[0]) == pytest.approx((*expected, space.p))
    assert table.control[0] == f"mismatched utterances: {space.chance:.3f}"

    rows = between(found.cells, apart, measure="neurons_shared")
    single = read(found, rows)
    order = {"a": 0, "b": 1, "a-ctc": 2}
    forth = (found.cells.model_x.map(order) < found.cells.model_y.map(order)).to_numpy()
    of_bases = [
        (1 + (found.turned[:, half].mean(1) >= found.cells.value[half].mean()).sum()) / (DRAWS + 1)
        for half in (rows & forth, rows & ~forth)
    ]
    assert numbers(table.iloc[1]) == pytest.approx((single.value, single.low, single.high, max(single.p, *of_bases)))
    means = [found.cells.value[between(found.cells, apart, measure=m)].mean() for m in ("max_corr", names[3])]
    assert table.control[1] == f"random bases, where max_corr is {means[0] - means[1]:.3f}"
    assert single.p > 0.05  # below the chance of wrong utterances
    assert table.holds.tolist() == ["yes", "no", "yes"]
    assert (
        table.loc[2, ["effect", "ci_low", "ci_high"]].tolist() == table.loc[1, ["effect", "ci_low", "ci_high"]].tolist()
    )
    assert table.ci_high[2] < verdicts.FEW_NEURONS


@pytest.mark.parametrize(("level", "turned", "holds"), [(0.3, 0.0, "yes"), (0.3, 0.4, "no"), (0.05, 0.0, "no")])
def test_a_share_of_neurons_must_pass_chance_and_random_bases_of_either_side(level, turned, holds):
    stores = lineup("a", "b")
    names = ["max_corr", "linreg_r2", "max_corr_excess_y", "neurons_shared"]
    found = made(stores, [(name, True) for name in names], lambda name, *_: level if name == names[3] else 0.5)
    found.turned[:, (found.cells.model_x == "b").to_numpy()] += turned  # only in the direction from b
    table = verdicts.neurons(found, stores).set_index("claim")
    assert table.holds[NEURONS] == holds


def test_layers_by_hand():
    stores = lineup("a", "b", "c", "a-ctc", "twin", "twin2", "mel", n_layers=1)

    def level(name, scaled, x, i, y, j):
        return {frozenset("ab"): 0.8, frozenset("ac"): 0.6, frozenset("bc"): 0.6}.get(frozenset((x, y)), 0.3)

    found = made(stores, [("svcca", True), ("cca", True)], level)
    table = verdicts.layers(found, stores, [("svcca", True), ("missing", True)])
    assert table.columns.tolist() == verdicts.COLUMNS
    assert table[["claim", "between"]].to_numpy().tolist() == [
        ["layers alike above chance", "same family"],
        ["more alike than with random weights", "same family"],
        ["more alike than with the spectrogram", "same family"],
        ["layers alike above chance", "other family"],
        ["more alike than with random weights", "other family"],
        ["more alike than with the spectrogram", "other family"],
        ["one family more alike than two", "same family"],
    ]
    cells, trained = found.cells, ["a", "b", "c", "a-ctc"]
    same = between(cells, [("a", "b"), ("b", "a-ctc")], measure="svcca")
    other = between(cells, [("a", "c"), ("b", "c"), ("c", "a-ctc")], measure="svcca")
    twins = between(cells, itertools.product(trained, ["twin", "twin2"]), measure="svcca")  # not twins among themselves
    mel = between(cells, [(name, "mel") for name in trained], measure="svcca")
    above = read(found, same)
    expected = [v - above.chance for v in (above.value, above.low, above.high)]
    assert numbers(table.iloc[0]) == pytest.approx((*expected, above.p))
    assert table.control[0] == f"mismatched utterances: {above.chance:.3f}"
    for row, a, b, name in (
        (1, same, twins, "untrained"),
        (2, same, mel, "spectrogram"),
        (4, other, twins, "untrained"),
        (6, same, other, "other family"),
    ):
        by_hand = difference(found, a, b)
        assert numbers(table.iloc[row]) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))
        assert table.control[row] == f"{name}: {found.cells.value[b].mean():.3f}"
    assert set(table.holds) == {"yes"}


def test_layers_no_more_alike_than_others_are_said_not_to_be():
    stores = lineup("a", "b", "twin", "mel")
    table = verdicts.layers(made(stores, [("svcca", True)], lambda *_: 0.5), stores).set_index("claim")
    assert table.holds.to_dict() == {
        "layers alike above chance": "yes",
        "more alike than with random weights": "no",
        "more alike than with the spectrogram": "no",
    }
    table = verdicts.layers(made(stores, [("svcca", True)], lambda *_: 0.05), stores).set_index("claim")
    assert table.holds["layers alike above chance"] == "no"


@pytest.mark.parametrize(("raw", "holds"), [(0.5, "yes"), (0.53, "yes"), (0.8, "no"), (0.2, "no")])
def test_raw_and_standardised_cka_say_the_same_within_a_tenth(raw, holds):
    stores = lineup("a", "c")
    kinds = [("linear_cka_debiased", True), ("linear_cka_debiased", False)]
    found = made(stores, kinds, lambda name, scaled, *_: 0.5 if scaled else raw)
    table = verdicts.layers(found, stores)
    assert table.claim.tolist() == ["layers alike above chance", "raw CKA says what standardised CKA says"]
    a, b = (between(found.cells, [("a", "c")], standardize=scaled) for scaled in (False, True))
    by_hand = difference(found, a, b)
    assert numbers(table.iloc[1])[:3] == pytest.approx((by_hand.value, by_hand.low, by_hand.high))
    assert table.control[1] == f"standardised: {found.cells.value[b].mean():.3f}"
    assert table.holds[1] == holds


def test_attention_by_hand():
    stores = lineup("a", "a2", "c", "twin")

    def level(name, scaled, x, i, y, j):
        return 0.3 if "twin" in (x, y) else 0.7

    found = made(stores, [("pearson", True), ("js", True)], level)
    table = verdicts.attention(found, stores)
    claim, floor = "heads agree on what is said, beyond position", "more alike than with random weights"
    assert table.columns.tolist() == verdicts.COLUMNS
    assert table[["claim", "between"]].to_numpy().tolist() == [
        [claim, "other seed"],
        [floor, "other seed"],
        [claim, "other family"],
        [floor, "other family"],
    ]
    assert set(table.measure) == {"pearson"}
    rows = between(found.cells, [("a", "c"), ("a2", "c")], measure="pearson")
    above = read(found, rows)
    expected = [v - above.chance for v in (above.value, above.low, above.high)]
    assert numbers(table.iloc[2]) == pytest.approx((*expected, above.p))
    twins = between(found.cells, [(name, "twin") for name in ("a", "a2", "c")], measure="pearson")
    by_hand = difference(found, rows, twins)
    assert numbers(table.iloc[3]) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))
    assert set(table.holds) == {"yes"}
    assert set(verdicts.attention(found, stores, "js").measure) == {"js"}


@pytest.mark.parametrize(
    ("top", "first_holds", "seed_holds"), [(0.4, "yes", "yes"), (0.7, "yes", "no"), (0.99, "no", "no")]
)
def test_finetuning_by_hand(top, first_holds, seed_holds):
    """Similarity to the counterpart falls from 0.95 to `top` over three layers; two seeds are at 0.6."""
    stores = lineup("a", "a2", "a-ctc", "c", n_layers=3)

    def level(name, scaled, x, i, y, j):
        if {x, y} == {"a", "a-ctc"}:
            return 0.95 - (0.95 - top) * i / 2
        return 0.6 if {x, y} == {"a", "a2"} else 0.2

    found = made(stores, [("svcca", True), ("svcca", False), ("linreg", True)], level)
    table = verdicts.finetuning(found, stores)
    assert table.columns.tolist() == verdicts.COLUMNS
    assert table.measure.tolist() == ["linreg", "linreg", "svcca", "svcca"]  # in the order asked for, if there
    assert set(table.between) == {"a to a-ctc"}

    def place(y, layer):
        wanted = {"measure": "svcca", "standardize": True, "model_x": "a", "model_y": y}
        cells = found.cells
        rows = (
            (cells[list(wanted)] == pd.Series(wanted)).all(axis=1) & (cells.layer_x == layer) & (cells.layer_y == layer)
        )
        (at,) = np.flatnonzero(rows)
        return at

    value, left_out = found.cells.value.to_numpy(), found.left_out
    first, last, away = place("a-ctc", 0), place("a-ctc", 2), place("a2", 2)
    by_hand = against_zero(value[first] - value[last], left_out[:, first] - left_out[:, last])
    row = table.iloc[2]
    assert (row.claim, row.control) == ("the last layer moved further than the first", "layer 0")
    assert numbers(row) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, by_hand.p))

    def quotient(v):
        return (1 - v[..., last]) / (1 - v[..., away])

    by_hand = against_zero(quotient(value) - 1, quotient(left_out) - 1)
    row = table.iloc[3]
    assert (row.claim, row.control) == ("the last layer moved further than another seed", "another seed: 1")
    assert numbers(row) == pytest.approx((by_hand.value + 1, by_hand.low + 1, by_hand.high + 1, by_hand.p))
    assert row.effect == pytest.approx((1 - top) / 0.4, abs=0.2)
    assert table.holds.tolist()[2:] == [first_holds, seed_holds]


def test_finetuning_without_another_seed_has_no_unit():
    stores = lineup("a", "a-ctc", "c")
    table = verdicts.finetuning(made(stores, [("max_corr", True)], lambda *_: 0.5), stores)
    assert table.claim.tolist() == ["the last layer moved further than the first"]


def test_a_claim_needs_its_interval_above_zero_too():
    """Chance far below says nothing where speech like this could have given nothing."""
    stores = lineup("a", "b", n_layers=1)
    found = made(stores, [("svcca", True)], lambda *_: 0.3)
    assert verdicts.layers(found, stores).holds.tolist() == ["yes"]
    found.left_out[:] += np.linspace(-0.2, 0.2, 4)[:, None]
    table = verdicts.layers(found, stores)
    assert table.p.item() == 0.05
    assert table.ci_low.item() < 0
    assert table.holds.tolist() == ["no"]


def test_claims_without_an_interval_are_not_judged():
    stores = lineup("a", "b")
    found = made(stores, [("svcca", True)], lambda *_: 0.9)
    table = verdicts.layers(replace(found, left_out=found.left_out[:0], sizes=()), stores)
    assert table.ci_low.isna().all()
    assert table.holds.tolist() == ["no interval"]


@pytest.mark.parametrize("draws", [0, 18, 19])
def test_fewer_than_nineteen_draws_cannot_judge_what_chance_explains(draws):
    stores = lineup("a", "b", "twin")
    names = ["max_corr", "linreg_r2", "max_corr_excess_y", "neurons_shared", "svcca", "pearson"]
    found = made(stores, [(name, True) for name in names], lambda name, *_: 0.3 if name == names[2] else 0.9)
    few = replace(found, null=found.null[:draws], turned=found.turned[:draws])
    enough = draws >= 19
    assert verdicts.neurons(few, stores).holds.tolist() == (["yes", "yes", "no"] if enough else [verdicts.FEW] * 3)
    for of in (verdicts.layers, verdicts.attention):
        table = of(few, stores)
        assert table.holds.tolist() == ["yes" if enough else verdicts.FEW, "no"]  # the contrast needs no draws
        assert table.control[1].startswith("untrained")
        assert np.isfinite(table.p[1])


def test_the_order_of_cells_does_not_matter():
    stores = lineup("a", "b", "c", "twin")
    found = made(stores, [("svcca", True), ("pearson", True)], lambda *_: 0.5)
    order = np.random.default_rng(0).permutation(len(found.cells))
    cells = found.cells.iloc[order].reset_index(drop=True)
    shuffled = Evidence(cells, found.null[:, order], found.left_out[:, order], SIZES, found.turned[:, order])
    for of in (verdicts.layers, verdicts.attention):
        pd.testing.assert_frame_equal(of(shuffled, stores), of(found, stores))


# --- what cannot be judged


def test_what_the_evidence_lacks_is_named():
    stores = lineup("a", "b")
    found = made(stores, [("max_corr", True), ("cca", True)], lambda *_: 0.5)
    with pytest.raises(sslsim.SslsimError, match="the evidence has no linreg_r2, only max_corr, cca; compute it too"):
        verdicts.neurons(found, stores)
    with pytest.raises(sslsim.SslsimError, match="the evidence has no pearson, only max_corr, cca; compute it too"):
        verdicts.attention(found, stores)
    both = made(stores, [("max_corr", True), ("linreg_r2", True)], lambda *_: 0.5)
    with pytest.raises(sslsim.SslsimError, match="the evidence has no neurons_shared, only max_corr, linreg_r2"):
        verdicts.neurons(both, stores)  # as it is without draws
    with pytest.raises(
        sslsim.SslsimError,
        match="nothing to judge; the evidence needs models trained apart, and svcca or linear_cka_debiased",
    ):
        verdicts.layers(found, stores)


def test_models_that_were_not_trained_apart_are_not_judged():
    stores = lineup("a", "a-ctc", "twin", "mel")
    found = made(stores, [(name, True) for name in ("max_corr", "linreg_r2", "svcca", "pearson")], lambda *_: 0.5)
    for of, needed in (
        (verdicts.neurons, "and max_corr and linreg_r2"),
        (verdicts.layers, "and svcca or linear_cka_debiased"),
        (verdicts.attention, "and pearson"),
    ):
        with pytest.raises(
            sslsim.SslsimError, match=f"nothing to judge; the evidence needs models trained apart, {needed}"
        ):
            of(found, stores)


def test_finetuning_that_cannot_be_judged_is_said():
    stores = lineup("a", "b")
    found = made(stores, [("svcca", True)], lambda *_: 0.5)
    with pytest.raises(sslsim.SslsimError, match="no finetuned counterpart among a, b; choose checkpoints of which"):
        verdicts.finetuning(found, stores)
    stores = lineup("a", "a-ctc")
    found = made(stores, [("cca", True), ("svcca", False)], lambda *_: 0.5)
    with pytest.raises(
        sslsim.SslsimError,
        match="nothing to judge; the evidence needs finetuned counterparts, and max_corr or linreg or svcca",
    ):
        verdicts.finetuning(found, stores)
    kept = found.only(found.cells.layer_x == found.cells.layer_y)
    kept = kept.only(kept.cells.layer_x == 0)  # without the last layer
    with pytest.raises(sslsim.SslsimError, match="finetuned counterparts, and cca"):
        verdicts.finetuning(kept, stores, ["cca"])
