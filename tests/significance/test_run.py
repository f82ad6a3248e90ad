"""Evidence: every control is the same comparison on other arrays, built here by hand."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import World

from sslsim.activations.selection import layer_views
from sslsim.analysis.layers import along_depth, same_depth_by_relation
from sslsim.comparison import engine, pieces
from sslsim.comparison.layers import compare, neuron_partners
from sslsim.comparison.tables import same_depth
from sslsim.errors import SslsimError
from sslsim.measures.moments import moments
from sslsim.measures.random_basis import haar, in_bases, neuron_count, neuron_excess, neuron_p
from sslsim.measures.registry import MEASURES, similarity
from sslsim.significance.attention import attention_evidence
from sslsim.significance.evidence import Resampling
from sslsim.significance.jackknife import blocks_of
from sslsim.significance.nulls import Mismatches
from sslsim.significance.run import evidence

HOW = Resampling(permutations=3, elsewhere=2, blocks=4, rotations=3)
KEYS = ["measure", "model_x", "layer_x", "model_y", "layer_y"]
EVERY = [name for name in MEASURES if MEASURES[name].level != "attention"]
FEW = ["linreg_heldout", "max_corr", "svcca", "linear_cka_debiased", "mutual_knn"]  # one of each kind
BEYOND = {"neuron_excess": neuron_excess, "neuron_count": neuron_count}
ARRAYS = ("null", "left_out", "rotated")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two models of two layers, 8 and 6 neurons, half of their subspace in common but for noise; 13 utterances."""
    world = World("half", 1, neurons=8, utterances=13, frames=40, noise=0.3)
    x, y = world.models(tmp_path_factory.mktemp("world"))
    return [x, replace(y, layers=[layer[:, :6] for layer in y.layers])]


@pytest.fixture(scope="module")
def whole(stores):
    """Evidence with every measure, of every kind of pair."""
    return quiet(stores, EVERY)


def quiet(stores, measures, how=HOW, **options):
    return evidence(stores, measures, resampling=how, device="cpu", **options)


def of_evidence(table):
    """Those pairs of a comparison that evidence is of: by a costly measure, those at the same depth."""
    costly = table.measure.map(lambda name: MEASURES[name].costly)
    return table[same_depth(table) | ~costly].reset_index(drop=True)


def near(found):
    """Which pairs are at the same depth: in these models those of layers of one number."""
    return (found.pairs.layer_x == found.pairs.layer_y).to_numpy()


def changed(stores, change):
    """Return the same stores with other activations: `change(name, layer, array)`."""
    return [replace(s, layers=[change(s.name, i, layer.copy()) for i, layer in enumerate(s.layers)]) for s in stores]


def without(store, gone):
    """Return the same store as if some utterances had never been said."""
    kept = np.setdiff1d(np.arange(len(store.index)), gone)
    rows = np.isin(np.repeat(np.arange(len(store.index)), store.index.n_frames), kept)
    index = store.index.iloc[kept].reset_index(drop=True)
    index["start"] = index.n_frames.cumsum() - index.n_frames
    return replace(store, layers=[layer[rows] for layer in store.layers], index=index)


def members(store, how=HOW):
    """Numbers of the utterances of each block that is left out."""
    return blocks_of(store.index, store.index.n_frames.tolist(), how.blocks, how.block_by).members


def assert_alike(a, b, tolerance=1e-6, names=ARRAYS):
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance, err_msg=name)


# --- scores, intervals


def test_scores_are_those_of_a_comparison(stores, whole):
    expected = of_evidence(compare(stores, EVERY, device="cpu"))
    pd.testing.assert_frame_equal(whole.pairs, expected, rtol=0, atol=1e-9)
    assert (near(whole) == same_depth(whole.pairs)).all()


@pytest.mark.parametrize("how", [HOW, Resampling(0, 3, 0, block_by="speaker")])
def test_left_out_scores_are_those_without_the_utterances(stores, whole, how):
    measures = EVERY if how is HOW else FEW[1:]
    found = whole if how is HOW else quiet(stores, measures, how)
    blocks = members(stores[0], how)
    assert sorted(itertools.chain(*blocks)) == list(range(13))
    assert found.sizes == tuple(int(stores[0].index.n_frames.iloc[block].sum()) for block in blocks)
    if how.block_by == "speaker":
        assert sum(stores[0].index.speaker.iloc[block].nunique() for block in blocks) == 5
    for block, left_out in zip(blocks, found.left_out, strict=True):
        expected = of_evidence(compare([without(store, block) for store in stores], measures, device="cpu"))
        np.testing.assert_allclose(left_out[near(found)], expected.value[near(found)], rtol=0, atol=2e-6)
        assert np.isnan(left_out[~near(found)]).all()  # no claim rests on them


# --- chance


def lengths_of(store):
    return [int(n) for n in store.index.n_frames]


def cropped(store, wrong, partner=None):
    """Which frames stand in each place: of every utterance, or of its partner, the first and the last."""
    rows = []
    for u, length in enumerate(wrong.lengths):
        index = store.index.iloc[u if partner is None else partner[u]]
        every = index.start + np.arange(index.n_frames)
        rows += [*every[: length - length // 2], *every[len(every) - length // 2 :]]
    return np.array(rows)


def scored(row, x, y, lengths):
    known = {"utterances": lengths} if MEASURES[row.measure].utterances else {}
    return similarity(row.measure, x, y, **known)


def array_of(stores, model, layer):
    return next(s for s in stores if s.name == model).layers[layer]


def test_chance_is_the_comparison_with_mismatched_utterances(stores, whole):
    """Of a pair the side that comes first keeps its utterances; what cropping does is taken off where it is known."""
    wrong = Mismatches.of(lengths_of(stores[0]), 3, 0)
    rows = cropped(stores[0], wrong)
    others = [cropped(stores[0], wrong, partner) for partner in wrong.partners]
    assert 0.5 < len(rows) / len(stores[0].layers[0]) < 1  # something is cropped
    order = {label: i for i, label in enumerate(itertools.product("xy", range(2)))}
    for k, row in list(enumerate(whole.pairs.itertuples()))[::3]:  # of every measure every kind of pair
        x, y = array_of(stores, row.model_x, row.layer_x), array_of(stores, row.model_y, row.layer_y)
        first, claimed = order[row.model_x, row.layer_x] <= order[row.model_y, row.layer_y], near(whole)[k]
        shift = row.value - scored(row, x[rows], y[rows], wrong.lengths) if claimed else 0
        known = 3 if claimed else 2
        assert np.isfinite(whole.null[:, k]).sum() == known
        for other, score in zip(others[:known], whole.null[:, k], strict=False):
            pair = (x[rows], y[other]) if first else (x[other], y[rows])
            assert score == pytest.approx(scored(row, *pair, wrong.lengths) + shift, abs=2e-5), row


def test_what_else_is_measured_changes_nothing(stores, whole):
    """Moments of utterances are made anew for each mismatch, others once: the scores are the same."""
    some = quiet(stores, ["max_corr", "svcca_raw", "linear_cka_debiased"])
    same = whole.only(whole.pairs.measure.isin(some.pairs.measure))
    pd.testing.assert_frame_equal(some.pairs, same.pairs, rtol=0, atol=1e-6)
    assert_alike(some, same, 5e-6, ["null", "left_out"])


def test_a_layer_is_not_its_own_chance(whole):
    pairs = whole.pairs
    alone = (pairs.model_x == pairs.model_y) & (pairs.layer_x == pairs.layer_y)
    some = whole.only(alone & pairs.measure.isin(["linreg_r2", "linear_cka_debiased", "mutual_knn"]))
    np.testing.assert_allclose(some.pairs.value, 1, atol=1e-6)
    assert some.null.max() < 0.6
    assert (some.table().p == 1 / 4).all()


def test_the_seed_reaches_mismatches_and_bases_and_nothing_else(stores):
    measures = ["neuron_excess", "svcca"]
    again, other = (quiet(stores, measures, replace(HOW, seed=seed)) for seed in (0, 7))
    assert_alike(again, quiet(stores, measures), 0)
    pd.testing.assert_frame_equal(other.pairs, again.pairs)
    assert_alike(other, again, 0, ["left_out"])
    assert np.abs(other.null - again.null)[:, near(again)].max(0).min() > 1e-6
    turned = near(again) & (again.pairs.measure == "neuron_excess")
    assert np.abs(other.rotated - again.rotated)[:, turned].max(0).min() > 1e-6


def test_mismatches_bases_and_blocks_are_independent_numbers(stores, whole):
    measures = ["max_corr", "neuron_excess"]
    some = quiet(stores, measures, Resampling(permutations=2, blocks=0, rotations=5))
    assert (len(some.null), len(some.left_out), len(some.rotated)) == (2, 0, 5)
    at = some.pairs.measure == "neuron_excess"
    same = whole.only(whole.pairs.measure == "neuron_excess").rotated
    np.testing.assert_allclose(some.rotated[:3, at], same, atol=1e-6)  # the first bases are the same
    no_null = quiet(stores, measures, Resampling(permutations=0, blocks=3, rotations=2))
    assert no_null.null.shape == (0, 32)
    assert {"ci_low", "ci_high", "rotated", "p_rotation"} == set(no_null.table()) - set(some.pairs)
    assert no_null.partners.columns[-2:].tolist() == ["rotated", "p_rotation"]
    bare = quiet(stores, measures, Resampling(0, 0, 0))
    assert bare.null.shape == bare.left_out.shape == bare.rotated.shape == (0, 32)
    assert bare.sizes == ()
    assert bare.table().columns.tolist() == some.pairs.columns.tolist()
    estimate = vars(bare.estimate())
    assert estimate.pop("value") == bare.pairs.value.mean()
    assert np.isnan(list(estimate.values())).all()
    one = quiet(stores, ["svcca"], Resampling(1, 0, 0))
    assert one.partners is None
    assert set(one.table().p) <= {0.5, 1.0}
    assert (quiet(stores, ["svcca"], Resampling(4, 0, 0, elsewhere=0)).table().mismatches == 4 * near(one)).all()


def test_layers_at_other_depths_may_be_left_out(stores, whole):
    same = quiet(stores, EVERY, replace(HOW, elsewhere=None))
    assert same.partners is None  # best partners are among all layers
    of_all = whole.only(near(whole))
    order = same.pairs[KEYS].merge(of_all.pairs[KEYS].reset_index())["index"].to_numpy()
    assert len(same.pairs) == len(of_all.pairs) == len(order)
    for name in ARRAYS:  # products of one pair of layers and of many differ in rounding
        np.testing.assert_allclose(getattr(same, name), getattr(of_all, name)[:, order], atol=1e-5)
    np.testing.assert_allclose(same.pairs.value, of_all.pairs.value.iloc[order], atol=1e-5)


def test_of_deep_models_claims_rest_on_evenly_spaced_layers(tmp_path, monkeypatch):
    stores = World("half", 2, neurons=5, layers=7, utterances=6, frames=20, noise=0.3).stores(tmp_path)
    measures, how = ["svcca", "pwcca"], Resampling(permutations=2, blocks=3, rotations=0, depths=3)
    made = []  # layers of each batch without a block

    def watched(value, path, save=pieces.save):
        if re.fullmatch(r"moments-\d+-\d+", path.stem):
            made.append(len(value.marginal.mean))
        save(value, path)

    with monkeypatch.context() as patched:
        patched.setattr(pieces, "save", watched)
        found = quiet(stores, measures, how)
    assert sum(made) == 2 * 3 * 3  # of both models three layers, in each of three blocks
    with monkeypatch.context() as patched:  # one block at a time, so that less has to wait
        patched.setattr(engine, "SCRATCH", 1)
        patched.setenv("SSLSIM_FRESH", "1")
        assert_alike(quiet(stores, measures, how), found, 1e-6)
    whole = quiet(stores, measures, replace(how, depths=None))
    spaced = near(found) & found.pairs.layer_x.isin([0, 3, 6]).to_numpy()
    svcca = (found.pairs.measure == "svcca").to_numpy()
    assert spaced[~svcca].all()  # a costly measure, of these alone
    for name in ("null", "left_out"):
        assert (np.isfinite(getattr(found, name)).all(0) == spaced).all()
    assert np.isfinite(found.null[0, svcca]).all()
    same = whole.only(whole.pairs.measure == "svcca")
    some = found.only(svcca)
    pd.testing.assert_frame_equal(some.pairs, same.pairs)
    for name in ("null", "left_out"):
        np.testing.assert_allclose(*(getattr(of, name)[:, spaced[svcca]] for of in (some, same)), rtol=0, atol=1e-6)
    assert sum(mask.sum() for mask in same_depth_by_relation(some).values()) == spaced[svcca].sum()
    deep = along_depth(some, ["svcca"])
    assert np.isfinite(deep[["value", "ci_low", "ci_high", "chance", "p"]].to_numpy()).all()
    assert set(deep.depth) == {0, 0.4, 1}


# --- random bases


def zscored(x):
    return (x - x.mean(0)) / x.std(0)


def in_basis(x, basis, seed=0):
    return zscored(x.astype(float)) @ haar(x.shape[1], basis, seed).numpy()


def best_of(x, y):
    return np.abs(np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]).max(1)


@pytest.mark.parametrize("name", BEYOND)
def test_rotated_scores_are_those_of_the_best_axes_of_a_random_basis(stores, whole, name):
    for model_x, model_y, layer in (("x", "y", 0), ("y", "x", 1), ("y", "x", 0)):
        x, y = array_of(stores, model_x, layer), array_of(stores, model_y, layer)
        at = "model_x == @model_x and layer_x == @layer and model_y == @model_y and layer_y == @layer"
        (k,) = whole.pairs.query(f"measure == @name and {at}").index
        m = moments(x, y)
        for basis in range(3):
            best = torch.from_numpy(best_of(x, in_basis(y, basis)))
            assert whole.rotated[basis, k] == pytest.approx(float(BEYOND[name](m, best)), abs=1e-5)


def test_only_scores_beyond_random_bases_are_turned_at_the_same_depth(whole):
    turned = near(whole) & whole.pairs.measure.isin(BEYOND)
    assert (np.isfinite(whole.rotated) == turned.to_numpy()).all()
    assert (whole.table().p_rotation.notna() == turned).all()


# --- what is asked for


def test_between_leaves_pairs_out_and_changes_no_other(stores, whole):
    some = quiet(stores, FEW, between=[("y", "x")])
    assert set(some.pairs.model_x + some.pairs.model_y) == {"xy", "yx"}
    both = whole.pairs.measure.isin(some.pairs.measure) & (whole.pairs.model_x != whole.pairs.model_y)
    there, here = some.pairs.sort_values(KEYS).index, whole.pairs[both].sort_values(KEYS).index
    pairs = [each.pairs.loc[order].reset_index(drop=True) for each, order in ((some, there), (whole, here))]
    pd.testing.assert_frame_equal(*pairs, rtol=0, atol=1e-6)
    for name in ("null", "left_out"):
        np.testing.assert_allclose(getattr(some, name)[:, there], getattr(whole, name)[:, here], rtol=0, atol=2e-6)


def test_controls_are_of_the_frames_asked_for(stores):
    total = len(stores[0].layers[0])
    rows = layer_views(stores, 301)[0].frames
    found = quiet(stores, FEW[1:], frames=301)
    lengths = np.histogram(rows, np.append(stores[0].index.start, total))[0]
    index = stores[0].index.assign(n_frames=lengths, start=lengths.cumsum() - lengths)
    same = quiet([replace(s, layers=[layer[rows] for layer in s.layers], index=index) for s in stores], FEW[1:])
    assert same.sizes == found.sizes
    pd.testing.assert_frame_equal(found.pairs, same.pairs)
    assert_alike(found, same, 1e-9)


def test_utterances_without_a_chosen_frame_do_no_harm(stores):
    found = quiet(stores, ["max_corr", "linear_cka_debiased"], frames=11)  # of 13 utterances
    assert 2 <= sum(found.sizes) <= 11
    assert np.isfinite(found.null[:, near(found)]).all()
    assert np.isfinite(found.left_out[:, near(found)]).all()


def bits(found):
    arrays = [found.pairs.value.to_numpy(), found.null, found.left_out, found.rotated]
    if found.partners is not None:
        arrays += [found.partners[name].to_numpy() for name in ("value", "chance", "rotated", "p_rotation")]
    return [array.tobytes() for array in arrays]


def test_threads_give_the_same_bits(stores, make_store, monkeypatch):
    monkeypatch.setattr(engine, "BATCH_NEURONS", 8)  # every layer a batch of its own; processes: see test_engine
    heads = [make_store(name, frames=(20, 30, 25), seed=seed) for seed, name in enumerate("ab")]
    how = Resampling(2, 2, 2)

    def everything(executor=None):
        options = {"executor": executor, "resampling": how, "device": "cpu"}
        layers, of_heads = attention_evidence(heads, **options)
        return bits(layers) + bits(of_heads) + bits(evidence(stores, FEW, **options))

    expected, threads = everything(), torch.get_num_threads()
    with ThreadPoolExecutor(3) as executor:
        assert everything(executor) == expected
    assert torch.get_num_threads() == threads


# --- laws


def test_constant_neurons_do_no_harm(stores):
    how = Resampling(2, 3, 2)
    still = changed(stores, lambda name, i, a: np.insert(a, (2, 4), 0.0 if name == "x" else 7.5, axis=1))
    expected, found = (quiet(each, [*FEW, "neuron_excess", "procrustes_raw"], how) for each in (stores, still))
    assert (found.pairs.constant_x == 2).all()
    np.testing.assert_allclose(found.pairs.value, expected.pairs.value, rtol=0, atol=1e-6)
    assert_alike(found, expected, 2e-5, ["null", "left_out"])  # a basis of more neurons is another one
    for side in "xy":
        assert not found.partners[f"neuron_{side}"].isin([2, 5]).any()
    columns = ["chance", "rotated", "p_rotation"]
    np.testing.assert_allclose(found.partners[columns], expected.partners[columns], rtol=0, atol=1e-6)


def test_a_neuron_at_thirty_times_its_scale_moves_only_raw_scores(stores):
    raw_names = [name for name in EVERY if not MEASURES[name].standardize]
    measures = ["max_corr", "linreg", *raw_names, *(name.removesuffix("_raw") for name in raw_names[:-1])]
    measures = [name for name in dict.fromkeys(measures) if name in MEASURES]
    scale = changed(stores, lambda name, i, a: a * np.where(np.arange(a.shape[1]) == 3, 30, 1))
    before, after = (quiet(each, measures, Resampling(2, 3, 2)) for each in (stores, scale))
    same = ~before.pairs.measure.isin(raw_names).to_numpy()
    np.testing.assert_allclose(after.pairs.value[same], before.pairs.value[same], rtol=0, atol=1e-5)
    assert_alike(after.only(same), before.only(same), 2e-5)
    pair = (before.pairs.model_x == "x") & (before.pairs.model_y == "y")
    pair &= before.pairs.layer_x == before.pairs.layer_y
    raw = (pair & before.pairs.measure.isin(["linear_cka_biased_raw", "linear_cka_debiased_raw"])).to_numpy()
    assert (np.abs(after.pairs.value - before.pairs.value)[raw] > 0.1).all()
    assert np.abs(after.left_out - before.left_out)[:, raw].min() > 0.05


def test_neurons_in_another_order_are_the_same_evidence(stores):
    rng = np.random.default_rng(0)
    measures = ["max_corr", "svcca", "linear_cka_debiased"]
    shuffled = changed(stores, lambda name, i, a: a[:, rng.permutation(a.shape[1])])
    before, after = (quiet(each, measures, Resampling(2, 3, 2)) for each in (stores, shuffled))
    assert_alike(after, before, 2e-5)


def test_the_order_of_models_does_not_matter_to_scores_and_intervals(stores):
    there, back = (quiet(each, FEW[1:], Resampling(0, 4, 0)) for each in (stores, stores[::-1]))
    order = [each.pairs.sort_values(KEYS).index for each in (there, back)]
    np.testing.assert_allclose(there.pairs.value[order[0]], back.pairs.value[order[1]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(there.left_out[:, order[0]], back.left_out[:, order[1]], rtol=0, atol=1e-6)


# --- neurons


def test_a_neuron_has_its_chance_and_what_random_bases_give(stores, whole):
    plain = neuron_partners(stores, device="cpu")
    pd.testing.assert_frame_equal(whole.partners[plain.columns], plain, rtol=0, atol=1e-6)
    wrong = Mismatches.of(lengths_of(stores[0]), 3, 0)
    rows, others = cropped(stores[0], wrong), [cropped(stores[0], wrong, p) for p in wrong.partners[:2]]
    for model_x, model_y, layer in (("x", "y", 0), ("x", "y", 1), ("y", "x", 1)):
        found = whole.partners.query("model_x == @model_x and layer_x == @layer and model_y == @model_y")
        x, ys = array_of(stores, model_x, layer), [array_of(stores, model_y, i) for i in range(2)]
        sides = [(rows, other) if model_x == "x" else (other, rows) for other in others]
        null = np.array([np.max([best_of(x[a], y[b]) for y in ys], axis=0) for a, b in sides])
        np.testing.assert_allclose(found.value.abs(), np.max([best_of(x, y) for y in ys], axis=0), atol=1e-5)
        np.testing.assert_allclose(found.chance, null.mean(0), atol=1e-5)
        pairs = [moments(x, y) for y in ys]
        rotated = torch.stack([in_bases(m).size for m in pairs]).amax(0)
        np.testing.assert_allclose(found.rotated, rotated, atol=1e-5)
        p = torch.stack([neuron_p(m, m.correlation.abs().amax(1)) for m in pairs]).amin(0)
        np.testing.assert_allclose(found.p_rotation, 1 - (1 - p) ** 2, rtol=1e-3, atol=1e-7)


def test_neurons_of_one_model_have_no_partners(stores):
    found = quiet(stores[:1], ["max_corr"], Resampling(1, 2, 1))
    assert found.partners.empty
    assert set(found.pairs.model_y) == {"x"}


def test_a_neuron_that_cropping_silences_has_no_chance(stores):
    last = stores[0].index.n_frames.idxmax()
    layer = np.array(stores[0].layers[0])
    layer[:, 2] = 0
    layer[stores[0].index.start[last] + stores[0].index.n_frames[last] // 2, 2] = 1  # in the middle, which is cut out
    late = replace(stores[0], layers=[layer, *stores[0].layers[1:]])
    found = quiet([late, stores[1]], ["max_corr"], Resampling(3, 0, 0))
    silent = found.partners.eval("model_x == 'x' and layer_x == 0 and neuron_x == 2")
    assert (found.partners.chance.isna() == silent).all()
    assert np.isfinite(found.null[:, near(found)]).all()


# --- what cannot work


@pytest.mark.parametrize(
    ("measures", "options", "message"),
    [
        ("cca", {}, "measures is 'cca'; give a list of at least one name"),
        (["ccca"], {}, r"unknown measure 'ccca'; did you mean 'cca'\?"),
        (["js"], {}, "measure 'js' compares attention; use attention_evidence"),
        (["cca"], {"frames": 1}, "frames is 1; at common positions of "),
        (["cca"], {"between": [("x", "z")]}, "between names 'z', which is not among the stores"),
    ],
)
def test_errors_say_what_failed(stores, measures, options, message):
    with pytest.raises(SslsimError, match=message):
        quiet(stores, measures, **options)


def test_one_utterance_or_speaker_gives_no_evidence(stores):
    alone = [without(store, range(1, 13)) for store in stores]
    with pytest.raises(SslsimError, match="1 utterance with frames; an interval needs at least 2"):
        quiet(alone, ["cca"])
    with pytest.raises(SslsimError, match="a chance level needs at least 2 utterances to mismatch, got 1"):
        quiet(alone, ["cca"], Resampling(blocks=0))
    one = [replace(store, index=store.index.assign(speaker="s")) for store in stores]
    with pytest.raises(SslsimError, match="1 speaker with frames; an interval needs at least 2"):
        quiet(one, ["cca"], Resampling(block_by="speaker"))


def test_a_block_without_which_nothing_varies_is_named(stores):
    def change(name, i, a):
        a[stores[0].index.start[3] :] = 1
        return a

    with pytest.raises(SslsimError, match="x, layer 0: none of 8 neurons varies over .* frames"):
        quiet(changed(stores, change), ["cca"], Resampling(permutations=0, blocks=4))
