"""Best partners of neurons and heads: each number recomputed by hand."""

import numpy as np
import pandas as pd
import pytest
from worlds import World

import sslsim
from sslsim import analysis


def test_the_strongest_leave_counterparts_out():
    sides = {"model_x": "x", "layer_x": 0, "model_y": "y", "layer_y": 0}
    partners = pd.DataFrame({"relation": ["counterpart", "other family"], "value": [0.99, -0.8], "neuron_x": 0})
    assert analysis.strongest(partners.assign(**sides, neuron_y=1), n=1).value.tolist() == [-0.8]
    heads = pd.DataFrame({"relation": "other family", "head_x": [0, 1], "value": [-6.0, 0.5]})
    assert analysis.strongest(heads.assign(**sides, head_y=1), n=1).value.tolist() == [0.5]  # not the most negative


def test_a_pair_that_is_best_in_both_directions_stands_once():
    rows = [("x", 0, 3, "y", 1, 5), ("y", 1, 5, "x", 0, 3), ("x", 0, 5, "y", 1, 3)]
    keys = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y"]
    pairs = pd.DataFrame(rows, columns=keys).assign(relation="other family", value=[0.9, 0.9, 0.8])
    assert analysis.strongest(pairs)[keys].to_numpy().tolist() == [list(rows[0]), list(rows[2])]


@pytest.mark.parametrize(("kind", "found"), [("tenth", True), ("rotated", False)])
def test_neurons_with_a_partner_are_those_that_are_counted(tmp_path, kind, found):
    models = World(kind, 1, neurons=60, layers=1, utterances=24, frames=60).stores(tmp_path)
    resampling = sslsim.Resampling(permutations=2, blocks=0, rotations=0)
    evidence = sslsim.evidence(models, ["neuron_count"], resampling=resampling)
    listed = analysis.with_partner(evidence, models)
    shares = listed.groupby(["model_x", "model_y"]).size() / 60
    apart = evidence.pairs[evidence.pairs.model_x != evidence.pairs.model_y]
    counted = apart.set_index(["model_x", "model_y"]).value
    assert shares.to_dict() == pytest.approx(counted[counted > 0].to_dict())
    assert (len(listed) > 4) == found
    for row in listed.itertuples():
        x, y = (store.layer(layer)[:] for store, layer in zip(models, (row.layer_x, row.layer_y), strict=True))
        x, y = (x, y) if row.model_x == models[0].name else (y, x)
        r = np.corrcoef(x[:, row.neuron_x], y.T)[0, 1:]
        assert abs(r).argmax() == row.neuron_y
        assert row.value == pytest.approx(r[row.neuron_y], abs=1e-5)
        assert abs(row.value) > row.rotated
        assert row.p_rotation <= 0.1


def test_chance_levels_of_best_partners_agree_where_nothing_is_shared(tmp_path):
    models = World("independent", 4, neurons=60, utterances=20, frames=60).stores(tmp_path)
    resampling = sslsim.Resampling(
        permutations=10, blocks=0, rotations=0
    )  # what random bases give follows from moments
    evidence = sslsim.evidence(models, ["max_corr", "max_corr_in_bases"], resampling=resampling)
    row = analysis.chance_levels(evidence, models).iloc[0]
    assert row.effective_frames < 0.7 * row.frames  # frames follow one another
    assert row.extreme_value == pytest.approx(row.mismatched, rel=0.25)
    assert row.rotated == pytest.approx(row.mismatched, rel=0.1)
    assert row.value == pytest.approx(row.mismatched, rel=0.1)  # as nothing is shared
    without = evidence.only(evidence.pairs.measure == "max_corr")
    with pytest.raises(sslsim.SslsimError, match="no max_corr_in_bases, only max_corr; compute it too"):
        analysis.chance_levels(without, models)


def test_intervals_of_chosen_pairs_of_neurons(tmp_path):
    models = World("half", 1, neurons=12, layers=3, utterances=12, frames=30).models(tmp_path)
    x, y = models[0].layer(1), models[1].layer(2)
    pair = pd.DataFrame({"model_x": ["x"], "layer_x": [1], "neuron_x": [3], "model_y": ["y"], "layer_y": [2]})
    pair = pair.assign(neuron_y=5, value=np.corrcoef(x[:, 3], y[:, 5])[0, 1])
    blocks = sslsim.Resampling(blocks=4)
    row = analysis.with_intervals(pair, models, resampling=blocks).iloc[0]
    assert -1 < row.ci_low < row.value < row.ci_high < 1
    pd.testing.assert_frame_equal(analysis.with_intervals(pair, models, resampling=sslsim.Resampling(blocks=0)), pair)
    itself = pair.assign(model_y="x", layer_y=1, neuron_y=3, value=1.0)
    assert analysis.with_intervals(itself, models, resampling=blocks).ci_low.item() == pytest.approx(1)


def test_exclusive_partners_and_partners_in_common():
    keys = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y"]
    rows = [("a", 0, 0, "b", 0, 7), ("a", 0, 1, "b", 0, 7), ("a", 0, 2, "b", 0, 8), ("b", 0, 7, "a", 0, 0)]
    table = pd.DataFrame(rows, columns=keys).assign(relation="other seed", value=0.5)
    row = analysis.one_to_many(table).iloc[0]
    assert (row.neurons, row.most_to_one) == (4, 2)
    assert row.exclusive == 2 / 4  # a's third and b's
    assert row.mutual == 2 / 4  # a's first and b's seventh


def test_matched_heads_bring_what_both_look_at():
    best = pd.DataFrame({"model_x": ["x", "y"], "layer_x": 1, "head_x": [0, 1], "model_y": ["y", "x"], "layer_y": 2})
    best = best.assign(head_y=[1, 0], value=[0.5, 0.9], ci_low=0.1, ci_high=0.95, chance=[0.0, 0.6], p=0.04)
    best["relation"] = "other family"
    best.loc[2] = ["y", 2, 1, "x", 1, 0, 0.5, 0.1, 0.95, 0.0, 0.04, "other family"]  # the first, the other way round
    heads = [(m, layer, head) for m in "xy" for layer in (1, 2) for head in (0, 1)]
    profile = pd.DataFrame(heads, columns=["model", "layer", "head"]).assign(diagonality=0.1)
    profile["distance"] = np.arange(8.0)
    table = analysis.matched_heads(best, profile)
    assert table.value.tolist() == [0.5, 0.9]  # by what is above chance
    assert table.distance_x.tolist() == [0.0, 5.0]
    assert table.distance_y.tolist() == [7.0, 2.0]
    assert len(analysis.matched_heads(best, profile, n=1)) == 1
    assert analysis.matched_heads(best.assign(relation="counterpart"), profile).empty
