"""Evidence: every control is the same comparison on other arrays, built here by hand."""

import itertools
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import conftest
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_arrays
from scipy import stats
from worlds import World

import sslsim
from sslsim.activations.store import sampled
from sslsim.comparison import engine
from sslsim.comparison.heads import HeadScores, crop_rows, head_scores, rows_of
from sslsim.measures.attention import attention_cka, attention_similarity
from sslsim.measures.products import Utterances
from sslsim.measures.random_basis import haar, shared
from sslsim.measures.registry import MEASURES
from sslsim.significance import jackknife as controls
from sslsim.significance.jackknife import Mismatches
from sslsim.significance.run import Evidence, groups_of

DRAWS, GROUPS = 3, 4
KEYS = ["measure", "standardize", "model_x", "layer_x", "model_y", "layer_y"]
FEW = ["max_corr", "svcca", "linear_cka_debiased", "linreg_heldout", "mutual_knn"]  # one of each kind


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two models of two layers, 8 and 6 neurons, half of their subspace in common but for noise; 13 utterances."""
    world = World("half", 1, neurons=8, utterances=13, frames=40, noise=0.3)
    x, y = world.models(tmp_path_factory.mktemp("world"))
    return [x, replace(y, layers=[layer[:, :6] for layer in y.layers])]


@pytest.fixture(scope="module")
def found(stores):
    """Evidence with every measure, of every kind of cell."""
    return quiet(stores, list(MEASURES), standardize=(True, False))


def quiet(stores, measures, **options):
    return sslsim.evidence(stores, measures, **{"draws": DRAWS, "groups": GROUPS, "progress": False} | options)


def plain(evidence):
    """Which cells are scores themselves, as `compare` has them."""
    return evidence.cells.measure.isin(MEASURES).to_numpy()


def changed(stores, change):
    """Return the same stores with other activations: `change(name, layer, array)`."""
    return [
        replace(s, layers=[change(s.checkpoint.name, i, layer.copy()) for i, layer in enumerate(s.layers)])
        for s in stores
    ]


def without(store, gone):
    """Return the same store as if some utterances had never been said."""
    kept = np.setdiff1d(np.arange(len(store.index)), gone)
    rows = np.isin(np.repeat(np.arange(len(store.index)), store.index.n_frames), kept)
    index = store.index.iloc[kept].reset_index(drop=True)
    index["start"] = index.n_frames.cumsum() - index.n_frames
    return replace(store, layers=[layer[rows] for layer in store.layers], index=index)


def members(store, groups=GROUPS, unit="utterance"):
    """Numbers of the utterances of each group that is left out."""
    lengths = tuple(int(n) for n in store.index.n_frames)
    starts = dict(zip(np.cumsum((0, *lengths)).tolist(), range(len(lengths)), strict=False))
    made = groups_of(store.index, lengths, groups, unit)
    return [[starts[span.start] for span in group] for group in made.groups]


# --- scores, intervals


def test_scores_are_those_of_a_comparison(stores, found):
    expected = sslsim.compare(stores, list(MEASURES), standardize=(True, False), progress=False)
    cells = found.only(plain(found)).cells
    pd.testing.assert_frame_equal(cells, expected, rtol=0, atol=1e-6)  # float32 products are summed group by group
    added = found.cells[~plain(found)]
    names = ["max_corr_excess_x", "max_corr_excess_y", "matched_corr_excess_x", "matched_corr_excess_y"]
    assert set(added.measure) == {*names, "neurons_shared"}
    assert (added.groupby("measure").size() == 16).all()
    assert found.cells.n_frames.unique().tolist() == [len(stores[0].layers[0])]


def test_left_out_scores_are_those_without_the_utterances(stores, found):
    assert found.left_out.shape == (GROUPS, len(found.cells))
    groups = members(stores[0])
    assert sorted(itertools.chain(*groups)) == list(range(13))
    assert found.sizes == tuple(int(stores[0].index.n_frames.iloc[group].sum()) for group in groups)
    for group, scores in zip(groups, found.left_out, strict=True):
        fewer = [without(store, group) for store in stores]
        expected = sslsim.compare(fewer, list(MEASURES), standardize=(True, False), progress=False)
        np.testing.assert_allclose(scores[plain(found)], expected.value, rtol=0, atol=2e-6)


def test_a_unit_of_speakers_leaves_whole_speakers_out(stores):
    found = quiet(stores, FEW, unit="speaker", groups=3, draws=0)
    speakers = stores[0].index.speaker
    groups = members(stores[0], 3, "speaker")
    assert len(groups) == 3
    of_groups = [set(speakers.iloc[group]) for group in groups]
    assert sum(map(len, of_groups)) == speakers.nunique() == 5
    assert sorted(itertools.chain(*groups)) == list(range(13))
    for group, scores in zip(groups, found.left_out, strict=True):
        expected = sslsim.compare([without(store, group) for store in stores], FEW, progress=False)
        np.testing.assert_allclose(scores, expected.value, rtol=0, atol=2e-6)


def test_speakers_beyond_the_groups_share_one_where_least_is():
    index = pd.DataFrame({"speaker": ["a", "b", "c", "d", "a", "b"]})
    made = groups_of(index, [50, 5, 30, 10, 50, 20], 3, "speaker")  # a 100, c 30, b 25, d 10
    assert made.labels == (0, 2, 1, 2, 0, 2)
    assert made.sizes == (100, 30, 35)
    assert groups_of(index, [50, 5, 30, 10, 50, 20], 10, "speaker").sizes == (100, 30, 25, 10)
    assert groups_of(index, [50, 5, 30, 10, 50, 0], 3, "utterance") == Utterances((50, 5, 30, 10, 50, 0), 3)


# --- chance


def lengths_of(store):
    return [int(n) for n in store.index.n_frames]


def spans(store, common):
    return [np.arange(start, start + n) for start, n in zip(store.index.start, common, strict=True)]


def scored(cell, x, y, lengths):
    known = {"utterances": lengths} if MEASURES[cell.measure].utterances else {}
    return sslsim.similarity(cell.measure, x, y, standardize=bool(cell.standardize), **known)


def array_of(stores, model, layer):
    return next(s for s in stores if s.checkpoint.name == model).layers[layer]


def test_chance_is_the_comparison_with_mismatched_utterances(stores, found):
    """Of every cell the side that comes first keeps its utterances; what cropping does is taken off."""
    wrong = Mismatches.of(lengths_of(stores[0]), DRAWS, 0)
    rows = np.concatenate(spans(stores[0], wrong.lengths))
    assert 0.5 < len(rows) / len(stores[0].layers[0]) < 1  # something is cropped
    order = {label: i for i, label in enumerate(itertools.product("xy", range(2)))}
    cells = found.cells[plain(found)]
    for k, cell in zip(np.flatnonzero(plain(found)), cells.itertuples(), strict=True):
        x, y = array_of(stores, cell.model_x, cell.layer_x), array_of(stores, cell.model_y, cell.layer_y)
        first = order[cell.model_x, cell.layer_x] <= order[cell.model_y, cell.layer_y]
        shift = cell.value - scored(cell, x[rows], y[rows], wrong.lengths)
        for partner, score in zip(wrong.partners, found.null[:, k], strict=True):
            other = np.concatenate([spans(stores[0], wrong.lengths)[v] for v in partner])
            pair = (x[rows], y[other]) if first else (x[other], y[rows])
            assert score == pytest.approx(scored(cell, *pair, wrong.lengths) + shift, abs=2e-5), cell


def test_moments_of_a_layer_are_made_once_for_all_mismatches(stores, found, monkeypatch):
    """Other orders of the same frames do not change them, unless utterances or groups are told apart."""
    made, own = [], engine._own_block
    monkeypatch.setattr(engine, "_own_block", lambda folder, draw, k: made.append(draw) or own(folder, draw, k))
    apart = [name for name in MEASURES if not MEASURES[name].utterances]
    some = quiet(stores, apart, standardize=(True, False))
    rows = found.cells.measure.isin(set(some.cells.measure))
    pd.testing.assert_frame_equal(some.cells, found.only(rows).cells, rtol=0, atol=1e-6)
    np.testing.assert_allclose(some.null, found.only(rows).null, rtol=0, atol=5e-6)
    assert made == [0, 0, 0, 0]  # the two models, all their frames and cropped
    made.clear()
    quiet(stores, ["linreg_heldout"], groups=0)
    assert made == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_a_layer_is_not_its_own_chance(stores, found):
    own = plain(found) & (found.cells.model_x == found.cells.model_y) & (found.cells.layer_x == found.cells.layer_y)
    some = found.only(own & found.cells.measure.isin(["linreg_r2", "linear_cka_debiased", "mutual_knn"]))
    np.testing.assert_allclose(some.cells.value, 1, atol=1e-6)
    assert some.null.max() < 0.6
    assert (some.table().p == 1 / (DRAWS + 1)).all()


def test_draws_go_by_the_seed_alone(stores, found):
    again, other = (quiet(stores, ["max_corr", "svcca"], seed=seed) for seed in (0, 7))
    of_names = found.cells.measure.isin(["max_corr", "max_corr_excess_x", "max_corr_excess_y", "neurons_shared"])
    of_names |= (found.cells.measure == "svcca") & found.cells.standardize
    for name in ("null", "left_out", "turned"):
        np.testing.assert_allclose(getattr(again, name), getattr(found.only(of_names), name), rtol=0, atol=2e-5)
    scores = plain(again)
    np.testing.assert_array_equal(other.cells.value[scores], again.cells.value[scores])
    np.testing.assert_array_equal(other.left_out[:, scores], again.left_out[:, scores])
    assert np.abs(other.null - again.null).max(0).min() > 1e-6
    assert np.abs(other.turned - again.turned)[:, ~scores].max(0).min() > 1e-6


# --- random bases


def zscored(x):
    return (x - x.mean(0)) / x.std(0)


def in_basis(x, draw, seed=0):
    return zscored(x.astype(float)) @ haar(x.shape[1], draw, seed).numpy()


def best_of(x, y):
    return np.abs(np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]).max(1)


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("name", ["max_corr", "matched_corr"])
def test_the_excess_is_the_score_less_its_mean_in_random_bases(stores, found, name, side):
    wrong = Mismatches.of(lengths_of(stores[0]), DRAWS, 0)
    rows = np.concatenate(spans(stores[0], wrong.lengths))
    other = np.concatenate([spans(stores[0], wrong.lengths)[v] for v in wrong.partners[0]])
    gone = members(stores[0])[1]
    at = "model_x == @model_x and layer_x == 0 and model_y == @model_y and layer_y == 1"

    def turned(x, y, draw):
        return sslsim.similarity(name, *((in_basis(x, draw), y) if side == "x" else (x, in_basis(y, draw))))

    def excess(x, y, bases):
        return sslsim.similarity(name, x, y) - np.mean([turned(x, y, draw) for draw in range(bases)])

    for model_x, model_y in ("xy", "yx"):
        x, y = array_of(stores, model_x, 0), array_of(stores, model_y, 1)
        (k,) = found.cells.query(f"measure == '{name}_excess_{side}' and {at}").index
        scores = [turned(x, y, draw) for draw in range(DRAWS)]
        value = excess(x, y, DRAWS)
        assert found.cells.value[k] == pytest.approx(value, abs=1e-5)
        np.testing.assert_allclose(found.turned[:, k], np.array(scores) - np.mean(scores), atol=1e-5)
        fewer = [array_of([without(s, gone) for s in stores], *label) for label in ((model_x, 0), (model_y, 1))]
        # bases and their mean are those of all utterances: what the first one changes, all do
        moved = turned(*fewer, 0) - scores[0]
        expected = sslsim.similarity(name, *fewer) - np.mean(scores) - moved
        assert found.left_out[1, k] == pytest.approx(expected, abs=1e-5)
        if name == "max_corr":
            pair = (x[rows], y[other]) if model_x == "x" else (x[other], y[rows])
            expected = excess(*pair, 1) + value - excess(x[rows], y[rows], DRAWS)
            assert found.null[0, k] == pytest.approx(expected, abs=1e-5)
        else:
            assert np.isnan(found.null[:, k]).all()  # assignments in random bases of every mismatch would take hours


def test_the_share_of_neurons_is_that_of_the_best_matches(stores, found):
    gone = members(stores[0])[2]
    for model_x, model_y in ("xy", "yx"):
        x, y = array_of(stores, model_x, 1), array_of(stores, model_y, 1)
        at = "model_x == @model_x and layer_x == 1 and model_y == @model_y and layer_y == 1"
        (k,) = found.cells.query(f"measure == 'neurons_shared' and {at}").index
        turned = np.array([best_of(x, in_basis(y, draw)) for draw in range(DRAWS)])
        value, draws = shared(best_of(x, y), turned)
        assert found.cells.value[k] == pytest.approx(value, abs=1e-5)
        np.testing.assert_allclose(found.turned[:, k], draws, atol=1e-5)
        x, y = (array_of([without(s, gone) for s in stores], m, 1) for m in (model_x, model_y))
        base = (turned**2).mean(0) + best_of(x, in_basis(y, 0)) ** 2 - turned[0] ** 2
        expected = np.mean((best_of(x, y) ** 2 - base) / (1 - base))
        assert found.left_out[2, k] == pytest.approx(expected, abs=1e-5)


def test_chance_of_the_share_of_neurons_is_none(tmp_path):
    for seed in range(3):
        stores = World("rotated", seed, neurons=20, layers=1, utterances=24, frames=50).models(tmp_path)
        found = quiet(stores, ["max_corr"], between=[("x", "y")], draws=20, groups=0)
        assert abs(found.only(found.cells.measure == "neurons_shared").reading().chance) < 0.01


def test_only_measures_of_single_neurons_have_random_bases(stores, found):
    of_bases = found.cells.measure.str.contains("excess|neurons_shared").to_numpy()
    assert np.isfinite(found.turned[:, of_bases]).all()
    assert np.isnan(found.turned[:, ~of_bases]).all()
    table = found.table()
    assert (table.p_rotation.notna() == of_bases).all()
    none = quiet(stores, ["cca", "linreg"])
    assert set(none.cells.measure) == {"cca", "linreg"}
    assert "p_rotation" not in none.table()


# --- what is asked for


def test_without_draws_there_is_no_chance_and_without_groups_no_interval(stores, found):
    n = 16
    bare = quiet(stores, ["max_corr"], draws=0, groups=0)
    assert bare.null.shape == bare.left_out.shape == bare.turned.shape == (0, n)
    assert bare.sizes == ()
    assert bare.table().columns.tolist() == found.cells.columns.tolist()
    read = bare.reading()
    assert read.value == bare.cells.value.mean()
    assert np.isnan([v for name, v in vars(read).items() if name != "value"]).all()
    chance = {"chance", "threshold", "z", "p", "calibrated", "p_rotation"}
    of_draws, of_groups = quiet(stores, ["max_corr"], groups=0), quiet(stores, ["max_corr"], draws=0)
    assert set(of_draws.table()) - set(found.cells) == chance
    assert set(of_groups.table()) - set(found.cells) == {"ci_low", "ci_high"}
    assert set(of_groups.cells.measure) == {"max_corr"}
    few = found.only(found.cells.measure.isin(of_draws.cells.measure))
    np.testing.assert_allclose(of_draws.null, few.null, rtol=0, atol=1e-6)
    np.testing.assert_allclose(of_groups.left_out, few.left_out[:, few.cells.measure == "max_corr"], rtol=0, atol=1e-6)


def test_one_draw_has_no_spread(stores):
    one = quiet(stores, ["max_corr"], draws=1, groups=0)
    assert one.null.shape[0] == 1
    assert one.table().z.isna().all()
    assert set(one.table().p) <= {0.5, 1.0}


def test_between_leaves_pairs_out_and_changes_no_other(stores, found):
    some = quiet(stores, FEW, between=[("y", "x")])
    assert set(some.cells.model_x + some.cells.model_y) == {"xy", "yx"}
    whole = found.only(
        (found.cells.model_x != found.cells.model_y)
        & found.cells.standardize
        & (found.cells.measure.isin([*FEW, "max_corr_excess_x", "max_corr_excess_y", "neurons_shared"]))
    )
    columns = some.cells.columns
    there = some.cells.sort_values(KEYS).index, whole.cells.sort_values(KEYS).index
    pd.testing.assert_frame_equal(
        some.cells.loc[there[0]].reset_index(drop=True), whole.cells.loc[there[1], columns].reset_index(drop=True)
    )
    for name in ("null", "left_out", "turned"):
        np.testing.assert_allclose(
            getattr(some, name)[:, there[0]], getattr(whole, name)[:, there[1]], rtol=0, atol=1e-6
        )


def test_controls_are_of_the_frames_asked_for(stores):
    frames = 301
    total = len(stores[0].layers[0])
    rows = (np.arange(frames) * total + total // 2) // frames
    found = quiet(stores, FEW, frames=frames)
    expected = sslsim.compare(stores, FEW, frames=frames, progress=False)
    pd.testing.assert_frame_equal(found.only(plain(found)).cells, expected, rtol=0, atol=1e-6)
    lengths = np.histogram(rows, np.append(stores[0].index.start, total))[0]
    index = stores[0].index.assign(n_frames=lengths, start=lengths.cumsum() - lengths)
    fewer = [replace(s, layers=[layer[rows] for layer in s.layers], index=index) for s in stores]
    same = quiet(fewer, FEW)
    assert same.sizes == found.sizes
    for name in ("null", "left_out", "turned"):
        np.testing.assert_allclose(getattr(found, name), getattr(same, name), rtol=0, atol=1e-9)


def test_utterances_without_a_chosen_frame_do_no_harm(stores):
    found = quiet(stores, ["max_corr", "linear_cka_debiased"], frames=11)  # of 13 utterances
    assert sum(found.sizes) == 11
    assert np.isfinite(found.null).all()
    assert np.isfinite(found.left_out).all()


def test_a_sample_bounds_the_frames_of_sampled_measures(stores):
    found = quiet(stores, ["mutual_knn"], sample=60, draws=1)
    expected = sslsim.compare(stores, ["mutual_knn"], sample=60, progress=False)
    pd.testing.assert_frame_equal(found.cells, expected)
    for group, scores in zip(members(stores[0]), found.left_out, strict=True):
        fewer = sslsim.compare([without(s, group) for s in stores], ["mutual_knn"], sample=60, progress=False)
        np.testing.assert_allclose(scores, fewer.value)


def bits(evidence, partners=None):
    arrays = [evidence.cells.value.to_numpy(), evidence.null, evidence.left_out, evidence.turned]
    if partners is not None:
        arrays += [partners[name].to_numpy() for name in ("value", "chance", "p", "rotated", "rotated_high")]
    return [array.tobytes() for array in arrays]


def test_any_executor_gives_the_same_bits(stores, make_store, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK_NEURONS", 8)  # every layer a block of its own
    heads = [make_store(name, frames=(20, 30, 25), seed=seed) for seed, name in enumerate("ab")]

    def everything(executor=None):
        options = {"executor": executor, "draws": 2, "groups": 2, "progress": False}
        layers, of_heads = sslsim.attention_evidence(heads, **options)
        found = bits(layers) + bits(of_heads) + bits(*sslsim.neuron_evidence(stores, **options))
        return found + bits(sslsim.evidence(stores, FEW[1:], **options))

    expected, threads = everything(), torch.get_num_threads()
    for workers in (1, 3):
        with ThreadPoolExecutor(workers) as executor:
            assert everything(executor) == expected
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert everything(executor) == expected
    assert torch.get_num_threads() == threads


def test_progress_counts_every_control_and_nothing_is_left_behind(stores, capsys):
    folder = stores[0].root.parent
    before = sorted(folder.iterdir())
    sslsim.evidence(stores, ["cca", "mutual_knn"], draws=2, groups=3)
    assert re.search(r"controls: 100%.* 7/7 ", capsys.readouterr().out)  # scores, cropped, 2 mismatches, 3 groups
    assert sorted(folder.iterdir()) == before


# --- readings


@pytest.fixture(scope="module")
def cells(found):
    """Return evidence of the layers of x in those of y by SVCCA: four cells."""
    return found.only(
        (found.cells.measure == "svcca")
        & found.cells.standardize
        & (found.cells.model_x == "x")
        & (found.cells.model_y == "y")
    )


def test_a_table_holds_the_controls_of_each_cell_alone(found):
    table = found.table(level=0.9)
    value = found.cells.value.to_numpy()
    low, high = controls.jackknife_interval(value, found.left_out, found.sizes, 0.9)
    np.testing.assert_array_equal(table.ci_low, low)
    np.testing.assert_array_equal(table.ci_high, high)
    np.testing.assert_allclose(table.chance, found.null.mean(0))
    np.testing.assert_allclose(table.z, (value - found.null.mean(0)) / found.null.std(0, ddof=1))
    known = np.isfinite(found.null).all(0)
    assert (~known == found.cells.measure.str.startswith("matched_corr_excess")).all()
    np.testing.assert_allclose(table.p[known], ((1 + (found.null >= value).sum(0)) / (DRAWS + 1))[known])
    np.testing.assert_array_equal(table.threshold[known], controls.threshold(value, found.null)[known])
    np.testing.assert_array_equal(table.calibrated[known], controls.calibrated(value, found.null)[known])
    assert table.loc[~known, ["chance", "threshold", "z", "p", "calibrated"]].isna().all(axis=None)
    of_bases = table.p_rotation.notna()
    expected = (1 + (found.turned >= value).sum(0)) / (DRAWS + 1)
    np.testing.assert_allclose(table.p_rotation[of_bases], expected[of_bases])
    assert table.columns[: len(found.cells.columns)].tolist() == found.cells.columns.tolist()
    assert len(table) == len(found.cells)


READINGS = {
    "mean": (None, lambda v: v.mean(-1)),
    "best": (lambda v: v.max(-1), lambda v: v.max(-1)),
    "difference": (lambda v: v[..., 3] - v[..., 0], lambda v: v[..., 3] - v[..., 0]),
}


@pytest.mark.parametrize("name", READINGS)
def test_a_reading_by_hand(cells, name):
    given, of = READINGS[name]
    read = cells.reading(given, level=0.9)
    value = of(cells.cells.value.to_numpy())
    null, left_out = (np.array([of(row) for row in rows]) for rows in (cells.null, cells.left_out))
    low, high = controls.jackknife_interval(value, left_out, cells.sizes, 0.9)
    error = controls.jackknife_error(value, left_out, cells.sizes)
    assert (read.value, read.low, read.high, read.error) == pytest.approx((value, low, high, error))
    assert read.chance == pytest.approx(null.mean())
    assert read.z == pytest.approx((value - null.mean()) / null.std(ddof=1))
    assert read.p == (1 + (null >= value).sum()) / (DRAWS + 1)
    assert read.threshold == pytest.approx(sorted([value, *null])[-1])  # of four, the largest
    assert read.calibrated == pytest.approx(max(0, (value - read.threshold) / (1 - read.threshold)))
    assert read.p_zero == pytest.approx(2 * (1 - stats.t.cdf(abs(value) / error, GROUPS - 1)))
    assert np.isnan(read.p_rotation)  # no random basis says anything of SVCCA


def test_a_reading_of_excesses_has_random_bases(found):
    some = found.only(found.cells.measure == "max_corr_excess_y")
    read = some.reading()
    assert read.p_rotation == (1 + (some.turned.mean(1) >= some.cells.value.mean()).sum()) / (DRAWS + 1)
    mixed = found.only(found.cells.measure.isin(["max_corr", "max_corr_excess_y"])).reading()
    assert np.isnan(mixed.p_rotation)
    unknown = found.only(found.cells.measure == "matched_corr_excess_y").reading()
    assert np.isnan([unknown.chance, unknown.threshold, unknown.z, unknown.p, unknown.calibrated]).all()
    assert unknown.low < unknown.value < unknown.high


def test_a_search_is_held_against_searches(cells):
    best, mean = cells.reading(lambda v: v.max(-1)), cells.reading()
    assert best.value >= mean.value
    assert best.chance == pytest.approx(cells.null.max(1).mean())
    assert best.chance > cells.null.mean(0).max() - 1e-12
    assert best.p >= cells.table().p.min()


def test_a_score_that_never_moves_is_certain():
    table = pd.DataFrame({"value": [0.5, 0.0]})
    still = Evidence(table, np.zeros((3, 2)), np.array([[0.5, 0.0]] * 3), (5, 5, 5), np.full((3, 2), np.nan))
    read = still.reading(lambda v: v[..., 0])
    assert (read.low, read.high, read.p_zero, read.z) == (0.5, 0.5, 0, np.inf)
    zero = still.reading(lambda v: v[..., 1])
    assert (zero.p, zero.p_zero) == (1, 1)
    assert np.isnan(zero.z)


def test_only_keeps_cells_with_their_draws(found):
    mask = (found.cells.measure == "cca") & (found.cells.model_y == "y")
    for rows in (mask, mask.to_numpy(), mask.tolist()):
        some = found.only(rows)
        assert len(some.cells) == 8
        assert some.cells.index.tolist() == list(range(8))
        assert some.sizes == found.sizes
        np.testing.assert_array_equal(some.null, found.null[:, mask])
        np.testing.assert_array_equal(some.left_out, found.left_out[:, mask])
        np.testing.assert_array_equal(some.turned, found.turned[:, mask])
        np.testing.assert_array_equal(some.cells.value, found.cells.value[mask])
    assert len(some.only([False] * 8).cells) == 0


# --- laws


def test_constant_neurons_do_no_harm(stores):
    measures = [name for name in MEASURES if name != "svcca_below"]  # as svcca
    still = changed(stores, lambda name, i, a: np.insert(a, (2, 4), 0.0 if name == "x" else 7.5, axis=1))
    expected, found = (quiet(each, measures, groups=3, draws=2) for each in (stores, still))
    assert (found.cells.constant_x == 2).all()
    np.testing.assert_allclose(found.cells.value, expected.cells.value, rtol=0, atol=1e-6)
    for name in ("null", "left_out", "turned"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=2e-5)


def test_a_neuron_at_thirty_times_its_scale_moves_only_raw_scores(stores):
    scaling = [name for name in MEASURES if MEASURES[name].scaling]
    before, after = (
        quiet(
            each, ["max_corr", "linreg", *scaling, "linear_cka_dropped"], standardize=(True, False), draws=2, groups=3
        )
        for each in (stores, changed(stores, lambda name, i, a: a * np.where(np.arange(a.shape[1]) == 3, 30, 1)))
    )
    same = before.cells.standardize.to_numpy(bool)
    np.testing.assert_allclose(after.cells.value[same], before.cells.value[same], rtol=0, atol=1e-5)
    for name in ("null", "left_out", "turned"):
        np.testing.assert_allclose(
            getattr(after, name)[:, same], getattr(before, name)[:, same], rtol=0, atol=2e-5, err_msg=name
        )
    pair = (before.cells.model_x == "x") & (before.cells.model_y == "y")
    pair &= before.cells.layer_x == before.cells.layer_y
    raw = (
        pair & ~before.cells.standardize & before.cells.measure.isin(["linear_cka_biased", "linear_cka_debiased"])
    ).to_numpy()
    assert (np.abs(after.cells.value - before.cells.value)[raw] > 0.1).all()
    assert np.abs(after.left_out - before.left_out)[:, raw].min() > 0.05


def test_neurons_in_another_order_are_the_same_evidence_and_in_another_basis_not(stores):
    rng = np.random.default_rng(0)
    measures = ["max_corr", "svcca", "linear_cka_debiased"]
    shuffled = changed(stores, lambda name, i, a: a[:, rng.permutation(a.shape[1])])
    before, after = (quiet(each, measures, draws=2, groups=3) for each in (stores, shuffled))
    kept = plain(before)  # a random basis of other neurons is another one
    for name in ("null", "left_out"):
        np.testing.assert_allclose(getattr(after, name)[:, kept], getattr(before, name)[:, kept], rtol=0, atol=2e-5)
    turned = changed(stores, lambda name, i, a: in_basis(a, 0, 99).astype("f4") if name == "y" else zscored(a))
    other = quiet(turned, [*measures, "linreg"], draws=2, groups=3)
    both = before.only(before.cells.measure == "max_corr"), other.only(other.cells.measure == "max_corr")
    assert np.abs(both[0].left_out - both[1].left_out).max() > 0.02


def test_the_order_of_models_does_not_matter_to_scores_and_intervals(stores):
    there, back = (quiet(each, FEW, draws=0) for each in (stores, stores[::-1]))
    order = [each.cells.sort_values(KEYS).index for each in (there, back)]
    np.testing.assert_allclose(there.cells.value[order[0]], back.cells.value[order[1]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(there.left_out[:, order[0]], back.left_out[:, order[1]], rtol=0, atol=1e-6)


def test_raw_scores_come_beside_the_others_where_asked_for(stores):
    some = quiet(stores, ["svcca", "linear_cka_biased", "cca"], raw=["linear_cka_biased"], draws=1, groups=2)
    kinds = some.cells.groupby("measure").standardize.unique().map(list).to_dict()
    assert kinds == {"svcca": [True], "linear_cka_biased": [True, False], "cca": [True]}
    both = quiet(stores, ["linear_cka_biased"], standardize=(True, False), draws=1, groups=2)
    raw = some.only((some.cells.measure == "linear_cka_biased") & ~some.cells.standardize)
    expected = both.only(~both.cells.standardize)
    np.testing.assert_allclose(raw.null, expected.null, rtol=0, atol=1e-6)
    np.testing.assert_allclose(raw.left_out, expected.left_out, rtol=0, atol=1e-6)


# --- neurons


@pytest.fixture(scope="module")
def partners(stores):
    return sslsim.neuron_evidence(stores, draws=DRAWS, groups=2, progress=False)


def test_neurons_come_with_the_evidence_of_their_layers(stores, found, partners):
    evidence, table = partners
    names = ["max_corr", "matched_corr", "linreg"]
    expected = quiet(stores, names, groups=2)
    pd.testing.assert_frame_equal(evidence.cells, expected.cells)
    assert bits(evidence) == bits(expected)
    plain_table = sslsim.compare_neurons(stores, progress=False)[1]
    pd.testing.assert_frame_equal(table[plain_table.columns], plain_table, rtol=0, atol=1e-6)
    assert table.columns[len(plain_table.columns) :].tolist() == ["chance", "p", "rotated", "rotated_high"]


def test_a_neuron_has_the_best_of_its_chance_and_of_random_bases(stores, partners):
    table = partners[1]
    wrong = Mismatches.of(lengths_of(stores[0]), DRAWS, 0)
    rows = np.concatenate(spans(stores[0], wrong.lengths))
    others = [np.concatenate([spans(stores[0], wrong.lengths)[v] for v in p]) for p in wrong.partners]
    for model_x, model_y, layer in (("x", "y", 0), ("x", "y", 1), ("y", "x", 1)):
        found = table.query("model_x == @model_x and layer_x == @layer and model_y == @model_y")
        x = array_of(stores, model_x, layer)
        ys = [array_of(stores, model_y, i) for i in range(2)]
        sides = [(rows, other) if model_x == "x" else (other, rows) for other in others]
        null = np.array([np.max([best_of(x[a], y[b]) for y in ys], axis=0) for a, b in sides])
        turned = np.array([np.max([best_of(x, in_basis(y, draw)) for y in ys], axis=0) for draw in range(DRAWS)])
        best = np.max([best_of(x, y) for y in ys], axis=0)
        np.testing.assert_allclose(found.value.abs(), best, atol=1e-5)
        np.testing.assert_allclose(found.chance, null.mean(0), atol=1e-5)
        np.testing.assert_allclose(found.p, (1 + (null >= best - 1e-9).sum(0)) / (DRAWS + 1))
        np.testing.assert_allclose(found.rotated, turned.mean(0), atol=1e-5)
        np.testing.assert_allclose(found.rotated_high, turned.max(0), atol=1e-5)


def test_neurons_of_one_model_have_no_partners_and_without_draws_no_chance(stores):
    evidence, table = sslsim.neuron_evidence(stores[:1], draws=1, groups=2, progress=False)
    assert table.empty
    assert set(evidence.cells.model_y) == {"x"}
    table = sslsim.neuron_evidence(stores, draws=0, groups=0, progress=False)[1]
    pd.testing.assert_frame_equal(table, sslsim.compare_neurons(stores, progress=False)[1], rtol=0, atol=1e-12)


def test_constant_neurons_have_no_partners_and_change_none(stores, partners):
    still = changed(stores, lambda name, i, a: np.insert(a, 3, 7.5, axis=1))
    table = sslsim.neuron_evidence(still, draws=DRAWS, groups=0, progress=False)[1]
    assert not table.neuron_x.eq(3).any()
    assert not table.neuron_y.eq(3).any()
    columns = ["chance", "p", "rotated", "rotated_high"]
    np.testing.assert_allclose(table[columns], partners[1][columns], rtol=0, atol=1e-6)


def late(store):
    """Return a store with a neuron in its first layer that speaks up once, in a frame that cropping takes away."""
    last = store.index.n_frames.idxmax()
    layer = store.layers[0].copy()
    layer[:, 2] = 0
    layer[store.index.start[last] + store.index.n_frames[last] - 1, 2] = 1
    return replace(store, layers=[layer, *store.layers[1:]])


def test_a_neuron_that_cropping_silences_is_not_significant(stores):
    table = sslsim.neuron_evidence([late(stores[0]), stores[1]], draws=DRAWS, groups=0, progress=False)[1]
    row = table.query("model_x == 'x' and layer_x == 0 and neuron_x == 2")
    assert not (row.p < 1).any()


@pytest.mark.parametrize("measures", [["linreg"], ["mutual_knn"]])
def test_partners_have_their_controls_whatever_else_is_measured(stores, measures):
    table = sslsim.neuron_evidence(stores, measures, draws=1, groups=0, progress=False)[1]
    assert {"chance", "p"} <= set(table)


# --- what cannot work


@pytest.mark.parametrize(
    ("measures", "options", "message"),
    [
        (["cca"], {"draws": -1}, "draws is -1; give a number of mismatches, or 0 for none"),
        (["cca"], {"groups": 1}, "groups is 1; an interval needs at least 2"),
        (["cca"], {"groups": -3}, "groups is -3; an interval needs at least 2"),
        (["cca"], {"unit": "word"}, "unit is 'word'; give one of utterance, speaker"),
        ("cca", {}, "measures is 'cca'; give a list of at least one name"),
        ([], {}, r"measures is \[\]; give a list of at least one name"),
        (["ccca"], {}, r"unknown measure 'ccca'; did you mean 'cca'\?"),
        (["js"], {}, "unknown measure 'js'; it compares attention heads"),
        (["attention_cka"], {}, "unknown measure 'attention_cka'; it compares attention"),
        (["cca"], {"frames": 1}, "frames is 1; give at least 2 of the"),
        (["cca"], {"between": [("x", "z")]}, "between names 'z', which is not among the stores"),
        (["cca"], {"between": []}, "between is empty"),
        (["mutual_knn"], {"sample": 8}, "x, layer 0: k is 10 with 8 frames"),
        (["svcca"], {"standardize": []}, "standardize is empty; give True, False or both"),
        (["cca", "svcca"], {"raw": ["cca"]}, "raw names 'cca'; of the measures chosen these depend on scale: svcca"),
        (["cca"], {"raw": ["svcca"]}, "raw names 'svcca'; of the measures chosen these depend on scale: none"),
    ],
)
def test_errors_say_what_failed(stores, measures, options, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        quiet(stores, measures, **options)


def test_stores_that_cannot_be_compared_are_refused(stores):
    with pytest.raises(sslsim.SslsimError, match="nothing to compare: no store given"):
        quiet([], ["cca"])
    with pytest.raises(sslsim.SslsimError, match="two stores have the name 'x'"):
        quiet([stores[0], stores[0]], ["cca"])


def test_one_utterance_or_speaker_gives_no_evidence(stores):
    alone = [without(store, range(1, 13)) for store in stores]
    with pytest.raises(sslsim.SslsimError, match="1 utterance with frames; an interval needs at least 2"):
        quiet(alone, ["cca"])
    with pytest.raises(sslsim.SslsimError, match="a chance level needs at least 2 utterances to mismatch, got 1"):
        quiet(alone, ["cca"], groups=0)
    one = [replace(store, index=store.index.assign(speaker="s")) for store in stores]
    with pytest.raises(sslsim.SslsimError, match="1 speaker with frames; an interval needs at least 2"):
        quiet(one, ["cca"], unit="speaker")


def test_a_group_without_which_nothing_varies_is_named(stores):
    def change(name, i, a):
        a[stores[0].index.start[3] :] = 1
        return a

    with pytest.raises(sslsim.SslsimError, match="x, layer 0: none of 8 neurons varies over .* frames"):
        quiet(changed(stores, change), ["cca"], draws=0)


def test_evidence_of_other_shape_than_its_cells_is_refused():
    table, row = pd.DataFrame({"value": [0.5, 0.2]}), np.zeros((3, 2))
    for name, arrays in (
        ("null", (np.zeros((3, 1)), row, row)),
        ("left_out", (row, np.zeros(2), row)),
        ("turned", (row, row, np.zeros((3, 3)))),
    ):
        with pytest.raises(sslsim.SslsimError, match=rf"{name} has shape \(.*\) for 2 cells"):
            Evidence(table, arrays[0], arrays[1], (1, 1, 1), arrays[2])


def test_nothing_to_read_and_an_interval_that_cannot_be(found):
    with pytest.raises(sslsim.SslsimError, match="no cells to read; choose models or layers that were compared"):
        found.only(found.cells.measure == "none").reading()
    for of in (found.table, found.reading):
        with pytest.raises(sslsim.SslsimError, match="level is 95; give the coverage of the interval"):
            of(level=95)


# --- attention


@pytest.fixture
def make_maps(make_store, monkeypatch):
    """Return a function that writes a store whose attention is ``maps(u, T, queries)``, (layers, heads, rows, T)."""

    def make(name, maps, frames, *, of=None, **options):
        numbers = of if of is not None else range(len(frames))

        def arrays(rng, store, u):
            made = random_arrays(rng, store, u)
            weights = maps(numbers[u], frames[u], store.query_rows(u)).astype("f4")
            made.attention = weights / weights.sum(-1, keepdims=True)
            return made

        with monkeypatch.context() as patch:
            patch.setattr(conftest, "random_arrays", arrays)
            options = {"n_layers": 3, "n_heads": 2, "n_neurons": 1, "final_norm": False, **options}
            store = make_store(name, frames=frames, **options)
        return replace(store, checkpoint=replace(store.checkpoint, family=name))

    return make


def looks(kind, seed):
    """Return maps of two layers of two heads that look at fixed distances, at the same content, or nowhere; noisy."""

    def maps(u, t, queries):
        rng = np.random.default_rng([seed, u])
        noise = rng.random((2, 2, len(queries), t))
        away = np.arange(t) - queries[:, None]
        position = np.exp(-np.abs(away - np.array([-3, 0, 2, 4]).reshape(2, 2, 1, 1)) / 2)
        said = np.random.default_rng([77, u]).gamma(0.2, size=(2, 2, 1, t))
        return {"noise": noise, "position": position + 0.2 * noise, "content": said + 0.2 * noise + 1e-3}[kind]

    return maps


AUDIO = (31, 40, 25, 33, 28, 37, 30, 26)
ATTENTION = ["pearson", "js", "frobenius", "frobenius_published", "attention_cka"]


@pytest.fixture
def attending(make_maps):
    return [make_maps(name, looks("content", seed), AUDIO, n_heads=2) for seed, name in enumerate("ab")]


def quiet_heads(stores, measures=ATTENTION, **options):
    return sslsim.attention_evidence(
        stores, measures, **{"draws": DRAWS, "groups": GROUPS, "progress": False} | options
    )


def test_attention_scores_are_those_of_a_comparison(attending):
    layers, heads = quiet_heads(attending)
    table, best = sslsim.compare_attention(attending, ATTENTION, progress=False)
    pd.testing.assert_frame_equal(layers.cells, table, rtol=0, atol=1e-12)
    pd.testing.assert_frame_equal(heads.cells, best, rtol=0, atol=1e-12)
    assert layers.null.shape == (DRAWS, 5 * 16)
    assert heads.null.shape == (DRAWS, 4 * 8)  # heads have no attention_cka
    assert np.isnan(layers.turned).all()


def test_attention_left_out_is_that_without_the_utterances(attending, make_maps):
    layers, heads = quiet_heads(attending)
    made = Utterances(tuple(attending[0].index.n_rows), GROUPS)
    assert layers.sizes == heads.sizes == made.sizes
    ends = np.cumsum(attending[0].index.n_rows)
    for g, group in enumerate(made.groups):
        gone = [int(np.searchsorted(ends, span.start, "right")) for span in group]
        kept = [u for u in range(8) if u not in gone]
        fewer = [
            make_maps(f"{name}{g}", looks("content", seed), tuple(AUDIO[u] for u in kept), of=kept)
            for seed, name in enumerate("ab")
        ]
        table, best = sslsim.compare_attention(fewer, ATTENTION, progress=False)
        np.testing.assert_allclose(layers.left_out[g], table.value, rtol=0, atol=1e-6)
        np.testing.assert_allclose(heads.left_out[g], best.value, rtol=0, atol=1e-6)


def test_attention_by_speaker(attending):
    said_by = list("abcabcab")
    stores = [replace(s, index=s.index.assign(speaker=said_by)) for s in attending]
    found = quiet_heads(stores, ["pearson"], unit="speaker")[0]
    assert found.sizes == (24, 24, 16)
    with pytest.raises(sslsim.SslsimError, match="1 speaker with frames; an interval needs at least 2"):
        quiet_heads(attending, unit="speaker")


def test_fewer_rows_are_evenly_spaced_among_the_stored(attending):
    layers, _ = quiet_heads(attending, ["pearson", "attention_cka"], rows=3, draws=0, groups=0)
    kept = sampled(8, 3)
    assert kept.tolist() == [1, 4, 6]
    a, b = ([s.attention(2, u)[:, kept] for u in range(8)] for s in attending)
    at = "model_x == 'a' and layer_x == 2 and model_y == 'b' and layer_y == 2"
    row = layers.cells.query(f"measure == 'pearson' and {at}")
    assert row.value.item() == pytest.approx(attention_similarity("pearson", a, b).max(1).mean(), abs=1e-6)
    assert row.n_frames.item() == 24
    row = layers.cells.query(f"measure == 'attention_cka' and {at}")
    assert row.value.item() == pytest.approx(attention_cka(a, b), abs=1e-6)
    whole = quiet_heads(attending, ["pearson"], rows=100, draws=0, groups=0)[0].cells
    pd.testing.assert_frame_equal(whole, sslsim.compare_attention(attending, ["pearson"], progress=False)[0])


def alike(maps, queries):
    """Crop all maps alike, their query frames at one place, as widely as every row of all allows for."""
    left, right = np.min(queries, 0), np.min([m.shape[2] - q for m, q in zip(maps, queries, strict=True)], 0)
    width = int((left + right).min())
    before = np.minimum(np.maximum(width * left // (left + right), width - right), left)
    cut = [
        np.stack([m[:, r, q[r] - n : q[r] - n + width] for r, n in enumerate(before)], 1)
        for m, q in zip(maps, queries, strict=True)
    ]
    return [part / part.sum(-1, keepdims=True) for part in cut]


def mismatched(stores, partner, name):
    """Score every head on each utterance with every head on its partner, written out; all are one stratum."""
    every = range(len(partner))
    maps = [np.concatenate([s.attention(i, u) for s in stores for i in (1, 2)]).astype(float) for u in every]
    parts = alike(maps, [stores[0].query_rows(u) for u in every])
    means = attention_similarity(name, parts, [parts[v] for v in partner])
    means = np.triu(means) + np.triu(means, 1).T  # the side that comes first keeps its utterances
    return HeadScores({name: means}, [(m, layer, h) for m in "ab" for layer in (1, 2) for h in range(2)], 0)


WHOLE = [np.arange(len(AUDIO))]  # one stratum
PARTNERS = [np.roll(WHOLE[0], step) for step in (1, 3)]


@pytest.mark.parametrize("name", ["pearson", "js", "frobenius"])
def test_heads_on_wrong_utterances_are_aligned_at_their_query_frames(attending, name):
    for partner in PARTNERS:
        expected = mismatched(attending, partner, name)
        rows = rows_of(attending)
        crops = crop_rows(attending, rows, WHOLE)
        found, _ = head_scores(attending, [name], rows, crops=crops, partner=partner)
        np.testing.assert_allclose(found.means[name], expected.means[name], atol=1e-5)


@pytest.mark.parametrize("name", ["pearson", "js", "frobenius"])
def test_attention_chance_is_the_best_match_on_wrong_utterances(make_maps, name):
    """Where all utterances are of one length, nothing is cropped."""
    stores = [make_maps(store, looks("content", seed), (30,) * 8) for seed, store in enumerate("ab")]
    layers, heads = quiet_heads(stores, [name])
    for draw, partner in enumerate(Mismatches.of([30] * 8, DRAWS, 0).partners):
        expected = mismatched(stores, partner, name)
        np.testing.assert_allclose(layers.null[draw], expected.layers().value, atol=1e-5)
        np.testing.assert_allclose(heads.null[draw], expected.best().value, atol=1e-5)


@pytest.mark.parametrize("distance", [0, 1])
def test_heads_at_one_distance_from_the_query_agree_on_any_utterance(make_maps, distance):
    """So wrong utterances are aligned at their query frames, wherever these are."""

    def maps(u, t, queries):
        return np.tile((np.arange(t) == queries[:, None] + distance).astype(float), (2, 2, 1, 1))

    stores = [make_maps(name, maps, (80, 11, 95, 20, 60), queries=5) for name in "ab"]
    layers, _ = quiet_heads(stores, ["pearson", "js"], groups=0)
    np.testing.assert_allclose(layers.cells.value, 1, atol=1e-6)
    np.testing.assert_allclose(layers.null, 1, atol=1e-6)
    assert (layers.table().p == 1).all()


def across(evidence, measure):
    cells = evidence.cells
    forth = (cells.model_x.str[0] == "a") & (cells.model_y.str[0] == "b")
    return evidence.only((cells.measure == measure) & forth)


def significant(make_maps, kind, measures, seeds, lengths):
    """Count the worlds in which each measure calls the layers of two models alike beyond chance."""
    alarms = dict.fromkeys(measures, 0)
    for seed in range(seeds):
        stores = [make_maps(f"{name}-{kind}{seed}", looks(kind, 2 * seed + k), lengths) for k, name in enumerate("ab")]
        layers, _ = quiet_heads(stores, measures, draws=19, groups=0)
        for name in measures:
            alarms[name] += int(across(layers, name).reading().p <= 0.05)
    return alarms


HEADS = ["pearson", "js", "frobenius"]
CROPPED = AUDIO


@pytest.mark.parametrize("lengths", [3 * AUDIO, (32,) * 24])
def test_heads_that_look_at_one_content_agree_on_what_is_said(make_maps, lengths):
    assert significant(make_maps, "content", HEADS, 2, lengths) == dict.fromkeys(HEADS, 2)


@pytest.mark.parametrize("lengths", [CROPPED, (32,) * 8])
@pytest.mark.parametrize("kind", ["position", "noise"])
def test_heads_that_hear_nothing_are_alike_by_chance(make_maps, kind, lengths):
    """Whether they look at one distance from the query or anywhere."""
    assert max(significant(make_maps, kind, HEADS, 4, lengths).values()) <= 1


def test_chance_of_attention_cka_is_below_what_is_shared(attending):
    cells = across(quiet_heads(attending, ["attention_cka"], draws=19)[0], "attention_cka")
    assert cells.null.max() <= 1
    assert cells.reading().p == 1 / len(AUDIO)  # as many draws as there are other utterances


def test_uniform_maps_do_no_harm(make_maps):
    def maps(u, t, queries):
        out = looks("content", 0)(u, t, queries)
        out[0, 1] = 1  # a head
        return out

    def flat(u, t, queries):
        out = looks("content", 1)(u, t, queries)
        out[1] = 1  # a layer
        return out

    stores = [make_maps(name, of, AUDIO) for name, of in (("a", maps), ("b", flat))]
    layers, heads = quiet_heads(stores, ["pearson", "js"])
    for found in (layers, heads):
        for values in (found.cells.value, found.null, found.left_out):
            assert np.isfinite(values).all()
    pearson = heads.cells[heads.cells.measure == "pearson"]
    assert len(pearson) == 5  # of eight heads three have no correlation
    assert (heads.cells.measure == "js").sum() == 8
    gone = (layers.cells.measure == "pearson") & (layers.cells.model_x == "b") & (layers.cells.layer_x == 2)
    assert not gone.any()
    expected = sslsim.compare_attention(stores, ["pearson", "js"], progress=False)[0].dropna(subset="value")
    pd.testing.assert_frame_equal(layers.cells, expected.reset_index(drop=True), rtol=0, atol=1e-12)


def test_attention_without_draws_or_groups(attending):
    layers, heads = quiet_heads(attending, ["js"], draws=0)
    assert layers.null.shape == (0, 16)
    assert {"ci_low", "ci_high"} == set(layers.table()) - set(layers.cells)
    layers, heads = quiet_heads(attending, ["js"], groups=0)
    assert heads.left_out.shape == (0, len(heads.cells))
    assert heads.sizes == ()
    assert {"chance", "threshold", "z", "p", "calibrated"} == set(heads.table()) - set(heads.cells)


def test_the_best_head_is_held_against_the_best_of_each_draw(attending):
    layers, heads = quiet_heads(attending, ["pearson"], draws=6)
    some = heads.only((heads.cells.model_x == "a") & (heads.cells.layer_x == 1) & (heads.cells.head_x == 0))
    assert len(some.cells) == 1
    of_layers = across(layers, "pearson")
    assert some.reading().chance > of_layers.null.mean() - 0.2
    assert some.table().p.item() == 1 / 7


@pytest.mark.parametrize(("count", "measures"), [(1, ["pearson"]), (2, ["attention_cka"])])
def test_no_best_matches_are_no_evidence(attending, count, measures):
    layers, heads = quiet_heads(attending[:count], measures)
    assert len(layers.cells)
    assert heads.cells.empty


@pytest.mark.parametrize(
    ("measures", "options", "message"),
    [
        (["pearson"], {"draws": -2}, "draws is -2; give a number of mismatches, or 0 for none"),
        (["pearson"], {"groups": 1}, "groups is 1; an interval needs at least 2"),
        (["pearson"], {"unit": "word"}, "unit is 'word'; give one of utterance, speaker"),
        (["pearson"], {"rows": 0}, "rows is 0; give at least 1 query row of each utterance, or None for all stored"),
        (["pearsn"], {}, r"unknown attention measure 'pearsn'; did you mean 'pearson'\?"),
        (["cca"], {}, "unknown attention measure 'cca'"),
        ("js", {}, "measures is 'js'; give a list of at least one name"),
    ],
)
def test_errors_of_attention_say_what_failed(attending, measures, options, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        quiet_heads(attending, measures, **options)


def test_stores_without_attention_or_utterances_to_compare_are_refused(make_store):
    with pytest.raises(sslsim.SslsimError, match="no attention in these stores; extract with queries above 0"):
        quiet_heads([make_store("silent", queries=0)])
    alone = make_store("alone", frames=(20,))
    with pytest.raises(sslsim.SslsimError, match="1 utterance with frames; an interval needs at least 2"):
        quiet_heads([alone])
    with pytest.raises(sslsim.SslsimError, match="a chance level needs at least 2 utterances to mismatch, got 1"):
        quiet_heads([alone], groups=0)
