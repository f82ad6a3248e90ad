"""The table of layers: complete, equal to measuring pair by pair, with what its models are to each other."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import edited

from sslsim.activations.selection import check_between, layer_views, lengths_of
from sslsim.comparison import engine
from sslsim.comparison.layers import COLUMNS, compare, comparison, neuron_partners
from sslsim.comparison.pieces import sample_of
from sslsim.comparison.tables import SIDES, near_layers, same_depth
from sslsim.errors import SslsimError
from sslsim.measures.registry import MEASURES, similarity
from sslsim.significance import Resampling, evidence

FRAMES = (30, 40, 51)
EVERY = [name for name in MEASURES if MEASURES[name].level != "attention"]


@pytest.fixture
def stores(make_store):
    """Three checkpoints of three layers; c was finetuned from a, b is not trained."""
    return [
        make_store("a", n_neurons=6, frames=FRAMES, seed=0, family="one"),
        make_store("b", n_neurons=9, frames=FRAMES, seed=1, untrained_seed=3),
        make_store("c", n_neurons=4, frames=FRAMES, seed=2, family="one", finetuned_from="a"),
    ]


def quiet(stores, measures, **options):
    return compare(stores, measures, device="cpu", **options)


def layers_of(stores, row, rows=slice(None)):
    by_name = {s.name: s for s in stores}
    sides = ((row.model_x, row.layer_x), (row.model_y, row.layer_y))
    return [np.asarray(by_name[model].layer(layer))[rows] for model, layer in sides]


def test_equals_similarity_of_every_ordered_pair(stores):
    table = quiet(stores, EVERY)
    labels = [(s.name, layer) for s in stores for layer in range(3)]
    wanted = [(name, *x, *y) for name in EVERY for x, y in itertools.product(labels, labels)]
    assert list(table[["measure", *SIDES]].itertuples(index=False, name=None)) == wanted
    assert table.columns.tolist() == COLUMNS
    assert (table.n_frames == sum(FRAMES)).all()
    alone = table[(table.model_x == table.model_y) & (table.layer_x == table.layer_y)]
    np.testing.assert_allclose(alone[alone.measure != "max_corr_in_bases"].value, 1, atol=1e-6)
    for row in table[table.index % 4 == 0].itertuples():  # of every measure pairs of every kind
        known = {"utterances": FRAMES} if MEASURES[row.measure].utterances else {}
        assert row.value == pytest.approx(similarity(row.measure, *layers_of(stores, row), **known), abs=1e-6)


def test_rows_know_their_models(stores):
    table = quiet(stores, ["max_corr", "js"])
    assert table.columns.tolist() == COLUMNS
    relation = table.groupby(["model_x", "model_y"]).relation.unique().map(list).to_dict()
    assert relation["a", "a"] == ["same model"]
    assert relation["a", "c"] == relation["c", "a"] == ["counterpart"]
    assert relation["b", "c"] == ["untrained"]
    np.testing.assert_allclose(table.depth_x, table.layer_x / 2)
    np.testing.assert_allclose(table.depth_y, table.layer_y / 2)
    for side in "xy":
        assert (table[f"trained_{side}"] == (table[f"model_{side}"] != "b")).all()
    assert (table[table.measure == "js"].groupby("model_x").size() == 2 * 6).all()


@pytest.mark.parametrize("neurons", [1, 20, 10_000])
def test_batches_of_any_size_give_the_same(stores, neurons, monkeypatch):
    whole = quiet(stores, ["max_corr", "cca", "neuron_count"])
    monkeypatch.setattr(engine, "BATCH_NEURONS", neurons)
    np.testing.assert_allclose(quiet(stores, ["max_corr", "cca", "neuron_count"]).value, whole.value, atol=1e-6)


@pytest.mark.parametrize("layers", [2, 100])
def test_sampled_measures_in_batches_of_any_size_on_the_frames_asked_for(stores, layers, monkeypatch):
    monkeypatch.setattr(engine, "BATCH_LAYERS", layers)
    table = quiet(stores, ["rbf_cka", "max_corr", "mutual_knn"], frames=60, sample=40, between=[("a", "b"), ("b", "b")])
    counts = table.groupby("measure").n_frames.unique().map(list).to_dict()
    assert counts == {"rbf_cka": [40], "mutual_knn": [40], "max_corr": [59]}
    view = layer_views(stores, 60)[0]
    rows = view.frames[sample_of(lengths_of([view]), 40)]
    assert set(table.model_x + table.model_y) == {"ab", "ba", "bb"}
    for row in table[table.measure != "max_corr"].itertuples():
        assert row.value == pytest.approx(similarity(row.measure, *layers_of(stores, row, rows)), abs=1e-6)


def test_frames_are_those_of_the_views_and_counted(stores):
    rows = layer_views(stores, 11)[0].frames
    table = quiet(stores, ["max_corr"], frames=11, between=[("a", "b")])
    assert set(table.n_frames) == {11}
    for row in table.itertuples():
        assert row.value == pytest.approx(similarity("max_corr", *layers_of(stores, row, rows)), abs=1e-6)


def test_the_sample_is_at_the_same_positions_of_every_utterance():
    rows = sample_of((30, 40, 0, 51), 40)
    assert len(rows) in range(30, 41)
    starts, ends = (np.split(rows, np.searchsorted(rows, [30, 70])), (30, 70, 121))
    from_start = [part - start for part, start in zip(starts, (0, 30, 70), strict=True)]
    from_end = [end - 1 - part for part, end in zip(starts, ends, strict=True)]
    for sides in (from_start, [part[::-1] for part in from_end]):
        few = min(len(part) // 2 for part in sides)
        assert all((part[:few] == sides[0][:few]).all() for part in sides)
    assert sample_of((5, 7), 12).tolist() == list(range(12))


def test_order_of_stores_does_not_matter(stores):
    there, back = (quiet(each, ["linreg", "pwcca"]).set_index(["measure", *SIDES]) for each in (stores, stores[::-1]))
    np.testing.assert_allclose(back.value.loc[there.index], there.value, atol=1e-6)


def test_ranks_are_reported_where_components_are_counted(stores):
    table = quiet(stores, ["svcca", "cca", "max_corr"])
    svcca = table[(table.measure == "svcca") & (table.model_x == "b") & (table.model_y == "c")]
    assert set(svcca.rank_x) == {9}
    assert set(svcca.rank_y) == {4}
    assert table[table.measure == "max_corr"].rank_x.isna().all()
    assert (table.constant_x == 0).all()


def test_constant_neurons_are_those_of_the_frames_used_whatever_else_is_asked_for(make_store):
    def change(values):
        values[:, 3], values[0, 3], values[:, 2] = 7.5, 1, 2  # neuron 3 varies in a frame that the sample leaves out

    store = edited(make_store("late", n_neurons=5), "layer 1", change)
    for measures in (["rbf_cka"], ["rbf_cka", "max_corr", "svcca", "procrustes"]):
        table = quiet([store], measures, sample=20)
        assert not table.value.isna().any()
        counts = table[table.layer_x == 1].groupby("measure").constant_x.unique().map(list).to_dict()
        assert counts.pop("rbf_cka") == [2]
        assert all(count == [1] for count in counts.values())
        assert set(table[table.layer_x == 2].constant_x) == {0}
    pair = quiet([store, make_store("other")], ["rbf_cka"], sample=20, between=[("late", "other")])
    assert set(pair[(pair.model_y == "late") & (pair.layer_y == 1)].constant_y) == {2}


def test_between_keeps_the_wanted_pairs(stores):
    keys = ["measure", *SIDES]
    whole = quiet(stores, ["max_corr", "pwcca", "js"]).set_index(keys)
    table = quiet(stores, ["max_corr", "pwcca", "js"], between=[("b", "a"), ("a", "b"), ("c", "c")]).set_index(keys)
    wanted = [pair in ("ab", "ba", "cc") for pair in whole.reset_index().model_x + whole.reset_index().model_y]
    pd.testing.assert_frame_equal(table, whole[wanted])


def test_claims_rest_on_layers_at_the_same_relative_depth(make_store):
    assert near_layers(range(4), 3, 12).tolist() == [0, 4, 8, 12]
    assert near_layers(range(5), 4, 2).tolist() == [0, 1, 1, 2, 2]
    assert near_layers(range(3), 2, 0).tolist() == [0, 0, 0]
    assert near_layers([1, 2, 24], 24, 6).tolist() == [0, 1, 6]
    assert near_layers([1, 2, 24], 24, 6, 1).tolist() == [1, 1, 6]  # units have no layer 0
    stores = [make_store(name, n_layers=n, queries=0) for name, n in (("a", 5), ("b", 3), ("one", 1))]
    near = comparison(stores, (), check_between(None, stores), None).near
    assert same_depth(quiet(stores, ["max_corr"])).tolist() == near.ravel().tolist()


def test_of_deep_models_evenly_spaced_layers_may_do(make_store):
    stores = [make_store(name, n_layers=n, queries=0) for name, n in (("base", 13), ("large", 25), ("small", 6))]
    between = check_between(None, stores)
    near = comparison(stores, (), between, None, depths=7).near
    layers = [np.arange(n) for n in (13, 25, 6)]
    of = [*itertools.accumulate((13, 25, 6), initial=0)]
    x, y = np.nonzero(near[: of[1], of[1] : of[2]])  # base in large
    assert layers[0][x].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert layers[1][y].tolist() == [0, 4, 8, 12, 16, 20, 24]
    x, y = np.nonzero(near[of[1] : of[2], of[2] :])  # large in small
    assert layers[1][x].tolist() == [0, 4, 8, 12, 16, 20, 24]
    assert layers[2][y].tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert near[of[2] :].sum() == 6 * 3  # all of a model that has no more
    whole = comparison(stores, (), between, None).near
    assert (near <= whole).all()
    assert (comparison(stores, (), between, None, depths=25).near == whole).all()


def test_layers_that_begin_at_one_are_spaced_from_there_on(make_store):
    for n, expected in ((7, [1, 2, 3, 4, 5, 6, 7]), (8, [1, 2, 3, 5, 6, 7, 8]), (13, [1, 3, 5, 7, 9, 11, 13])):
        stores = [replace(make_store(f"m{n}", n_layers=n, queries=0), site="ffn")]
        near = comparison(stores, (), check_between(None, stores), None, depths=7).near
        assert (np.flatnonzero(near.diagonal()) + 1).tolist() == expected


def test_best_partners_are_the_best_over_all_layers(stores):
    table = neuron_partners(stores, device="cpu")
    keys = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y"]
    assert table.columns.tolist() == [*keys, "relation", "trained_x", "trained_y", "value"]
    assert len(table) == 2 * 3 * (6 + 9 + 4)
    x = np.asarray(stores[0].layer(2))
    layers = [np.asarray(stores[1].layer(layer)) for layer in range(3)]
    r = np.stack([np.corrcoef(x, y, rowvar=False)[:6, 6:] for y in layers], axis=1)
    rows = table[(table.model_x == "a") & (table.layer_x == 2) & (table.model_y == "b")].sort_values("neuron_x")
    for neuron, row in enumerate(rows.itertuples()):
        assert abs(row.value) == pytest.approx(np.abs(r[neuron]).max(), abs=1e-5)
        assert r[neuron, row.layer_y, row.neuron_y] == pytest.approx(row.value, abs=1e-5)
    some = neuron_partners(stores, between=[("a", "b")], device="cpu")
    assert set(some.model_x + some.model_y) == {"ab", "ba"}
    assert set(some.relation) == {"untrained"}
    alone = neuron_partners(stores[:1], device="cpu")
    assert alone.empty
    assert alone.columns.tolist() == table.columns.tolist()


def test_what_cannot_work_is_said_before_anything_is_computed(stores, make_store, monkeypatch):
    monkeypatch.setattr(engine, "results", None)
    with pytest.raises(SslsimError, match="sample is 1; it must be a whole number, 2 or more"):
        quiet(stores, ["max_corr", "mutual_knn"], sample=1)
    silent = make_store("silent", queries=0, frames=FRAMES)
    with pytest.raises(SslsimError, match="no attention in these stores"):
        quiet([silent], ["max_corr", "js"])


@pytest.mark.parametrize(
    ("measures", "options", "message"),
    [
        (["maxcorr"], {}, r"unknown measure 'maxcorr'; did you mean 'max_corr'\?"),
        (["neurons_shared"], {}, "unknown measure 'neurons_shared'"),
        ([], {}, r"measures is \[\]; give a list of at least one name"),
        ("cca", {}, "measures is 'cca'; give a list of at least one name"),
        (["cca"], {"frames": 1}, "frames is 1; at common positions of 3 utterances that is 1; give more of the"),
        (["mutual_knn"], {"sample": 8}, "a, layer 0: k is 10 with 8 frames"),
        (["cca"], {"between": ["ab"]}, "between holds 'ab'; each item must be two names of checkpoints"),
        (["cca"], {"between": [("a", "aa")]}, "between names 'aa', which is not among the stores; did you mean 'a'"),
        (["cca"], {"between": []}, "between is empty; give pairs of names of checkpoints, or None for all pairs"),
    ],
)
def test_errors_say_what_failed(stores, measures, options, message):
    with pytest.raises(SslsimError, match=message):
        quiet(stores, measures, **options)


def test_stores_that_cannot_be_compared_are_refused(stores, make_store):
    with pytest.raises(SslsimError, match="two stores have the name 'a'; give each checkpoint its own name"):
        quiet([stores[0], stores[0]], ["cca"])
    with pytest.raises(SslsimError, match="nothing to compare: no store given"):
        quiet([], ["cca"])
    with pytest.raises(SslsimError, match="a and d hold other utterances; extract both from the same"):
        quiet([stores[0], make_store("d", frames=(50, 30))], ["cca"])


def test_a_layer_in_which_nothing_varies_is_named_and_left_out_whatever_is_compared(make_store, monkeypatch):
    """The other layers have the scores that they have anyway; who reads the kept result is warned too."""
    other = make_store("other", seed=1, family="x")
    whole = make_store("flat", seed=0, family="y")
    before = compare([whole, other], ["max_corr", "mutual_knn"], device="cpu")
    flat = edited(whole, "layer 2", lambda values: values.fill(3.1))
    monkeypatch.setenv("SSLSIM_FRESH", "")
    told = "no neuron varies over 57 frames in layer 2 of flat; left out of the comparison"
    calls = {
        "compare": lambda stores, **how: compare(stores, ["max_corr", "mutual_knn"], device="cpu", **how),
        "given": lambda stores, **how: compare(stores, ["cca"], device="cpu", given=np.arange(57.0)[:, None], **how),
        "partners": lambda stores, **how: neuron_partners(stores, device="cpu", **how),
        "evidence": lambda stores, **how: (
            evidence(stores, ["max_corr"], resampling=Resampling(2, 2, 2), device="cpu", **how).pairs
        ),
    }
    for name, call in calls.items():
        for _ in range(2):
            with pytest.warns(UserWarning, match=told) as heard:
                table = call([flat, other])
            assert len(heard) == 1
            layers = {(model, layer) for model, layer in zip(table.model_x, table.layer_x, strict=True)}
            assert layers == {("flat", 0), ("flat", 1), ("other", 0), ("other", 1), ("other", 2)}, name
        if name == "compare":
            left = before[~((before.model_x == "flat") & (before.layer_x == 2))]
            left = left[~((left.model_y == "flat") & (left.layer_y == 2))].reset_index(drop=True)
            pd.testing.assert_frame_equal(table.reset_index(drop=True), left, rtol=1e-6)
        call([flat, other], between=[("other", "other")])  # where it takes no part nobody is told
    dead = edited(make_store("dead", n_layers=1), "layer 0", lambda values: values.fill(3.0))
    with pytest.raises(SslsimError, match="no neuron varies over 57 frames in layer 0 of dead; nothing to compare"):
        compare([dead, other], ["cca"], between=[("dead", "other")], device="cpu")
