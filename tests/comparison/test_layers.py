"""The grid: complete, equal to measuring pair by pair, however layers are put in blocks."""

import errno
import itertools
import multiprocessing
import os
import platform
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import edited

import sslsim
from sslsim.activations.selection import check_stores
from sslsim.comparison import engine, heads
from sslsim.measures.registry import MEASURES

FRAMES = (30, 40, 51)


@pytest.fixture
def stores(make_store):
    sizes = [("a", 6), ("b", 9), ("c", 4)]
    return [make_store(name, n_neurons=n, frames=FRAMES, seed=i) for i, (name, n) in enumerate(sizes)]


def quiet(stores, *args, **options):
    return sslsim.compare(stores, *args, progress=False, **options)


def test_equals_similarity_of_every_ordered_pair(stores):
    table = quiet(stores, list(MEASURES), standardize=(True, False))
    by_name = {s.checkpoint.name: s for s in stores}
    assert len(table) == (9 * 2 + 8) * 9 * 9  # nine measures depend on scale, eight do not
    for row in table.itertuples():
        x, y = by_name[row.model_x].layer(row.layer_x), by_name[row.model_y].layer(row.layer_y)
        known = {"utterances": FRAMES} if MEASURES[row.measure].utterances else {}
        expected = sslsim.similarity(row.measure, x, y, standardize=row.standardize, **known)
        assert row.value == pytest.approx(expected, abs=1e-6)


def test_is_complete_and_one_on_the_diagonal(stores):
    table = quiet(stores, list(MEASURES), standardize=(True, False))
    labels = [(s.checkpoint.name, layer) for s in stores for layer in range(3)]
    wanted = [x + y for x, y in itertools.product(labels, labels)]
    for _, rows in table.groupby(["measure", "standardize"]):
        assert list(rows[["model_x", "layer_x", "model_y", "layer_y"]].itertuples(index=False, name=None)) == wanted
        own = rows[(rows.model_x == rows.model_y) & (rows.layer_x == rows.layer_y)]
        np.testing.assert_allclose(own.value, 1, atol=1e-6)
    assert not table.value.isna().any()
    assert (table.n_frames == sum(FRAMES)).all()


@pytest.mark.parametrize("neurons", [1, 9, 20, 10_000])
def test_blocks_of_any_size_give_the_same(stores, neurons, monkeypatch):
    whole = quiet(stores, ["max_corr", "cca"])
    monkeypatch.setattr(engine, "BLOCK_NEURONS", neurons)
    np.testing.assert_allclose(quiet(stores, ["max_corr", "cca"]).value, whole.value, atol=1e-6)


EVERY = [*MEASURES, "js", "pearson", "attention_cka"]


def bits(stores, **options):
    table = quiet(stores, EVERY, standardize=(True, False), **options)
    _, partners = sslsim.compare_neurons(stores, progress=False, **options)
    return table.value.to_numpy().tobytes(), partners.value.to_numpy().tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(stores, threads, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK_NEURONS", 9)
    monkeypatch.setattr(heads, "UTTERANCES", 1)
    before = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as executor:
        assert bits(stores, executor=executor) == bits(stores)
    assert torch.get_num_threads() == before


def test_processes_give_the_same_bits(stores):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert bits(stores, executor=executor) == bits(stores)


def test_wide_layers_give_the_same_bits_too(make_store, monkeypatch):
    """They are multiplied by oneDNN and paired in float32."""
    monkeypatch.setattr(engine, "BLOCK_NEURONS", 600)
    wide = [
        make_store(name, n_neurons=n, frames=(900, 1000, 400), seed=n, n_layers=3)
        for name, n in (("a", 300), ("b", 280))
    ]
    measures = ["max_corr", "linreg", "svcca", "pwcca", "linear_cka_debiased", "linreg_heldout"]
    expected = quiet(wide, measures).value.to_numpy()
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as executor:
            assert np.array_equal(quiet(wide, measures, executor=executor).value, expected)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert np.array_equal(quiet(wide, measures, executor=executor).value, expected)


def test_a_dask_cluster_gives_the_same_bits(stores, tmp_path):
    import distributed  # its import alone takes seconds

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "local_directory": tmp_path / "dask"}
    with distributed.LocalCluster(**options) as cluster:
        assert bits(stores, executor=sslsim.executor(scheduler=cluster.scheduler_address)) == bits(stores)


def test_nothing_is_left_in_the_folder_of_the_stores(stores, monkeypatch):
    folder = stores[0].root.parent
    before = sorted(folder.iterdir())
    seen = []
    pair = engine._block_pair

    def spied(scratch, *rest):
        seen.append(scratch)
        assert scratch.parent.parent == folder
        return pair(scratch, *rest)

    monkeypatch.setattr(engine, "_block_pair", spied)
    quiet(stores, ["max_corr"])
    assert seen
    monkeypatch.setattr(engine, "_block_pair", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quiet(stores, ["max_corr"])
    assert sorted(folder.iterdir()) == before


def test_a_full_disk_is_said_and_nothing_is_left(stores, monkeypatch):
    folder = stores[0].root.parent
    before = sorted(folder.iterdir())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine.pickle, "Pickler", full)
    with pytest.raises(
        sslsim.SslsimError, match=r"kept in '.*\.pieces.*', where .* GB are free: No space left on device"
    ):
        quiet(stores, ["max_corr"])
    assert sorted(folder.iterdir()) == before


def test_stores_that_cannot_be_written_beside_are_compared_all_the_same(stores, monkeypatch):
    expected = quiet(stores, ["max_corr"])
    make = tempfile.mkdtemp

    def refuse(**options):
        if "dir" in options:
            raise PermissionError("read-only")
        return make(**options)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    pd.testing.assert_frame_equal(quiet(stores, ["max_corr"]), expected)


def test_measures_by_utterance_on_fewer_frames(stores):
    table = quiet(stores, ["linreg_heldout", "between_utterance_cka"], frames=60, between=[("a", "b")])
    rows = (np.arange(60) * 121 + 60) // 60
    lengths = np.histogram(rows, bins=np.cumsum((0, *FRAMES)))[0]
    for row in table.itertuples():
        x, y = ({s.checkpoint.name: s for s in stores}[m].layer(n)[rows] for m, n in (row[3:5], row[5:7]))
        assert row.value == pytest.approx(sslsim.similarity(row.measure, x, y, utterances=lengths), abs=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 100])
def test_sampled_measures_in_blocks_of_any_size_on_the_frames_asked_for(stores, layers, monkeypatch):
    monkeypatch.setattr(engine, "BLOCK_LAYERS", layers)
    table = quiet(stores, ["rbf_cka", "max_corr", "mutual_knn"], frames=60, sample=40, between=[("a", "b"), ("b", "b")])
    counts = table.groupby("measure").n_frames.unique().map(list).to_dict()
    assert counts == {"rbf_cka": [40], "mutual_knn": [40], "max_corr": [60]}
    rows = ((np.arange(60) * 121 + 60) // 60)[(np.arange(40) * 60 + 30) // 40]
    assert set(table.model_x + table.model_y) == {"ab", "ba", "bb"}
    for row in table[table.measure != "max_corr"].itertuples():
        x, y = ({s.checkpoint.name: s for s in stores}[m].layer(n)[rows] for m, n in (row[3:5], row[5:7]))
        assert row.value == pytest.approx(sslsim.similarity(row.measure, x, y), abs=1e-6)


def test_compare_neurons_takes_sampled_measures_too(stores):
    table, _ = sslsim.compare_neurons(stores, ["max_corr", "mutual_knn"], progress=False)
    pd.testing.assert_frame_equal(table, quiet(stores, ["max_corr", "mutual_knn"]))


def test_a_sample_that_cannot_be_prepared_names_its_layer(stores):
    with pytest.raises(sslsim.SslsimError, match="a, layer 0: k is 10 with 8 frames"):
        quiet(stores, ["mutual_knn"], sample=8)


def test_order_of_stores_does_not_matter(stores):
    columns = ["measure", "model_x", "layer_x", "model_y", "layer_y"]
    there = quiet(stores, ["linreg", "pwcca"]).set_index(columns).value
    back = quiet(stores[::-1], ["linreg", "pwcca"]).set_index(columns).value
    np.testing.assert_allclose(back.loc[there.index], there, atol=1e-6)


def test_frames_are_evenly_spaced_and_counted(stores):
    table = quiet(stores, ["max_corr"], frames=11)
    chosen = (np.arange(11) * 121 + 60) // 11
    assert chosen.tolist() == list(range(5, 121, 11))
    row = table[(table.model_x == "a") & (table.model_y == "b") & (table.layer_x == 1) & (table.layer_y == 2)]
    expected = sslsim.similarity("max_corr", stores[0].layer(1)[chosen], stores[1].layer(2)[chosen])
    assert row.value.item() == pytest.approx(expected, abs=1e-6)
    assert set(table.n_frames) == {11}
    assert set(quiet(stores, ["max_corr"], frames=0).n_frames) == {121}


def test_ranks_are_reported_where_components_are_counted(stores):
    table = quiet(stores, ["svcca", "cca", "max_corr"])
    svcca = table[(table.measure == "svcca") & (table.model_x == "b") & (table.model_y == "c")]
    assert set(svcca.rank_x) == {9}
    assert set(svcca.rank_y) == {4}
    assert table[table.measure == "max_corr"].rank_x.isna().all()
    assert (table.constant_x == 0).all()


def test_constant_neurons_are_counted(make_store):
    def change(values):
        values[:, 3] = 7.5

    store = edited(make_store("dead", n_neurons=5), "layer_01.npy", change)
    table = quiet([store], ["max_corr", "linreg", "svcca", "linear_cka_debiased", "procrustes"])
    assert set(table[table.layer_x == 1].constant_x) == {1}
    assert set(table[table.layer_x == 2].constant_x) == {0}
    assert not table.value.isna().any()


def test_between_keeps_the_wanted_pairs_and_multiplies_no_others(stores, monkeypatch):
    measures, keys = ["max_corr", "pwcca", "js"], ["measure", "model_x", "layer_x", "model_y", "layer_y"]
    whole = quiet(stores, measures).set_index(keys)
    asked, products = [], engine.cross_products

    def counted(a, b, *rest):
        asked.append(tuple(side.layers[0].label[0] for side in (a, b or a)))
        return products(a, b, *rest)

    monkeypatch.setattr(engine, "cross_products", counted)
    table = quiet(stores, measures, between=[("b", "a"), ("a", "b"), ("c", "c")]).set_index(keys)
    expected = [("a", "b"), ("b", "a"), ("c", "c")]
    pairs = [
        pair in expected
        for pair in zip(*(whole.index.get_level_values(n) for n in ("model_x", "model_y")), strict=True)
    ]
    pd.testing.assert_frame_equal(table, whole[pairs])
    assert sorted(asked) == [("a", "a"), ("a", "b"), ("b", "b"), ("c", "c")]
    asked.clear()
    quiet(stores, ["max_corr"], between=[("a", "b")])
    assert sorted(asked) == [("a", "a"), ("a", "b"), ("b", "b")]  # c is not even read


def test_constant_neurons_are_those_of_the_frames_used_whatever_else_is_asked_for(make_store):
    def change(values):
        values[:, 3], values[0, 3], values[:, 2] = 7.5, 1, 2  # neuron 3 varies in a frame that the sample leaves out

    store = edited(make_store("late", n_neurons=5), "layer_01.npy", change)
    for measures in (["rbf_cka"], ["rbf_cka", "max_corr"]):
        table = quiet([store], measures, sample=20)
        counts = table[table.layer_x == 1].groupby("measure").constant_x.unique().map(list).to_dict()
        assert counts == {"rbf_cka": [2], "max_corr": [1]} if "max_corr" in measures else {"rbf_cka": [2]}


def test_what_cannot_work_is_said_before_anything_is_computed(stores, make_store, monkeypatch):
    monkeypatch.setattr(engine, "results", None)
    with pytest.raises(sslsim.SslsimError, match="sample is 1; give at least 2 frames"):
        quiet(stores, ["max_corr", "mutual_knn"], sample=1)
    silent = make_store("silent", queries=0, frames=FRAMES)
    with pytest.raises(sslsim.SslsimError, match="no attention in these stores"):
        quiet([silent], ["max_corr", "js"])


def test_one_decomposition_serves_both_directions(stores, monkeypatch):
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *a, **k: calls.append(1) or eigh(*a, **k))
    monkeypatch.setattr(torch.linalg, "svd", None)
    quiet(stores[:2], ["cca", "pwcca"])
    assert len(calls) == 6 + 6 * 5 // 2  # one a layer, one a pair of two


def test_scratch_folders_of_killed_processes_are_swept(stores):
    folder = stores[0].root.parent
    gone = folder / f".pieces.{platform.node()}.999999999.abc"
    elsewhere, alive = folder / ".pieces.another-machine.1.abc", folder / f".pieces.{platform.node()}.{os.getpid()}.abc"
    for each in (gone, elsewhere, alive):
        each.mkdir()
    quiet(stores, ["max_corr"])
    assert [each.exists() for each in (gone, elsewhere, alive)] == [False, True, True]


def test_attention_measures_go_with_layer_measures(stores):
    table = quiet(stores, ["max_corr", "js", "attention_cka"])
    assert set(table.measure) == {"max_corr", "js", "attention_cka"}
    attention = table[table.measure == "js"]
    assert len(attention) == 6 * 6
    assert set(attention.layer_x) == {1, 2}


def test_best_partners_are_the_best_over_all_layers(stores):
    grid, table = sslsim.compare_neurons(stores, progress=False)
    pd.testing.assert_frame_equal(grid, quiet(stores, ["max_corr", "matched_corr", "linreg"]))
    assert len(table) == 2 * 3 * (6 + 9 + 4)
    x = stores[0].layer(2)
    r = np.stack([np.corrcoef(x, stores[1].layer(layer), rowvar=False)[:6, 6:] for layer in range(3)], axis=1)
    rows = table[(table.model_x == "a") & (table.layer_x == 2) & (table.model_y == "b")].sort_values("neuron_x")
    for neuron, row in enumerate(rows.itertuples()):
        assert abs(row.value) == pytest.approx(np.abs(r[neuron]).max(), abs=1e-5)
        assert r[neuron, row.layer_y, row.neuron_y] == pytest.approx(row.value, abs=1e-5)
    assert sslsim.compare_neurons(stores[:1], progress=False)[1].empty


def test_stores_that_do_not_line_up_are_refused(make_store):
    a, b = make_store("a", frames=(50, 30)), make_store("b", frames=(50, 29))
    with pytest.raises(sslsim.SslsimError, match="a has 80 frames, b 79; extract both from the same corpus"):
        check_stores([a, b])


@pytest.mark.parametrize(
    ("measures", "options", "message"),
    [
        (["maxcorr"], {}, r"unknown measure 'maxcorr'; did you mean 'max_corr'\?"),
        ([], {}, r"measures is \[\]; give a list of at least one name"),
        ("cca", {}, "measures is 'cca'; give a list of at least one name"),
        (["cca"], {"standardize": []}, "standardize is empty; give True, False or both"),
        (["cca"], {"frames": 1}, "frames is 1; give at least 2 of the 121 stored frames, or 0 for all"),
        (["cca"], {"between": ["ab"]}, "between holds 'ab'; each item must be two names of checkpoints"),
        (["cca"], {"between": [("a", "aa")]}, "between names 'aa', which is not among the stores; did you mean 'a'"),
        (["cca"], {"between": []}, "between is empty; give pairs of names of checkpoints, or None for all pairs"),
    ],
)
def test_errors_say_what_failed(stores, measures, options, message):
    with pytest.raises(sslsim.SslsimError, match=message):
        quiet(stores, measures, **options)


def test_stores_of_one_name_are_refused(stores):
    with pytest.raises(sslsim.SslsimError, match="two stores have the name 'a'; give each checkpoint its own name"):
        quiet([stores[0], stores[0]])
    with pytest.raises(sslsim.SslsimError, match="nothing to compare: no store given"):
        quiet([])


def test_a_constant_layer_is_named(make_store):
    store = edited(make_store("flat"), "layer_02.npy", lambda values: values.fill(3.0))
    with pytest.raises(sslsim.SslsimError, match="flat, layer 2: none of 6 neurons varies over 57 frames"):
        quiet([store], ["max_corr"])
