"""Numbers along depth, the best layers and convergence: each recomputed by hand, on made worlds."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from grids import lineup, made
from worlds import World

import sslsim
from sslsim import analysis
from sslsim.analysis import layers
from sslsim.analysis.layers import same_depth_by_relation
from sslsim.comparison.tables import same_depth

RESAMPLING = sslsim.Resampling(permutations=5, blocks=4, rotations=2, elsewhere=20)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return World("half", 1, neurons=12, layers=3, utterances=12, frames=30).stores(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def evidence(models):
    return sslsim.evidence(models, ["max_corr", "linreg_r2", "svcca"], resampling=RESAMPLING)


def test_along_depth_gives_the_mean_of_the_layers_at_that_depth(evidence):
    table = analysis.along_depth(evidence, ["svcca"])
    assert set(table.relation) == {"other family"}
    assert table.depth.tolist() == [0.0, 0.4, 1.0]  # of three layers, to the nearest fifth
    pairs = evidence.pairs
    last = (pairs.measure == "svcca") & (pairs.layer_x == 2) & (pairs.layer_y == 2) & (pairs.model_x != pairs.model_y)
    row = table.iloc[-1]
    assert row.value == pytest.approx(pairs.value[last].mean())
    assert row.chance == pytest.approx(evidence.null[:, last].mean())
    assert row.ci_low < row.value < row.ci_high
    several = analysis.along_depth(evidence, ["svcca", "max_corr"])
    assert several.measure.tolist() == ["svcca"] * 3 + ["max_corr"] * 3
    pd.testing.assert_frame_equal(several[:3], table)


def test_depth_is_that_of_trained_models_and_baselines_do_not_meet():
    evidence = made(lineup("a", "b", "twin", "twin2", "mel"), ["svcca"], lambda *_: 0.5)
    masks = same_depth_by_relation(evidence)
    assert list(masks) == ["same model", "same family", "untrained", "spectrogram"]
    untrained = evidence.pairs[masks["untrained"]]
    assert len(untrained) == 2 * 2 * 2 * 2  # a and b, each with the twins, both ways, two layers
    deep = analysis.along_depth(evidence, ["svcca"]).set_index("relation")
    forward = untrained[untrained.trained_x & (untrained.layer_x == 0)]
    assert deep.value["untrained"].tolist()[0] == pytest.approx(forward.value.mean())
    assert set(deep.index) == {"same family", "untrained", "spectrogram"}


def test_best_layers_take_the_search_into_the_chance_level(evidence):
    table = analysis.best_layers(evidence, "svcca").set_index(["model_x", "model_y"])
    pairs = evidence.pairs
    between = ((pairs.measure == "svcca") & (pairs.model_x == "x") & (pairs.model_y == "y")).to_numpy()
    row = table.loc["x", "y"]
    assert row.value == pairs.value[between].max()
    null = evidence.null[:, between]  # all, as layers at other depths have them too
    assert np.isfinite(null).all()
    assert row.chance == pytest.approx(null.max(1).mean())
    assert row.chance > null.mean()  # the best of nine pairs, not any of them
    best = pairs[between].loc[pairs[between].value.idxmax()]
    assert (row.layer_x, row.layer_y) == (best.layer_x, best.layer_y)


def test_the_chance_level_of_the_search_is_of_the_mismatches_that_all_pairs_of_layers_have(evidence):
    """Layers at other depths have the first `elsewhere` alone; the rest would be of a search among fewer pairs."""
    pairs, null = evidence.pairs, evidence.null.copy()
    null[2:, (pairs.layer_x != pairs.layer_y).to_numpy()] = np.nan
    row = analysis.best_layers(replace(evidence, null=null), "svcca").set_index(["model_x", "model_y"]).loc["x", "y"]
    between = ((pairs.measure == "svcca") & (pairs.model_x == "x") & (pairs.model_y == "y")).to_numpy()
    assert row.chance == pytest.approx(evidence.null[:2, between].max(1).mean())
    assert row.value == pairs.value[between].max()


def test_the_best_pair_of_layers_is_recognised_and_held_against_searches(tmp_path):
    world = World("permuted", 0, neurons=20, layers=2, utterances=24, frames=50)
    x, y = world.stores(tmp_path)
    turned = np.split(np.stack([y.layer(1), y.layer(0)]), world.starts[1:], axis=1)
    arrays, said_by = (dict(zip(world.utterance_names, each, strict=True)) for each in (turned, world.said_by))
    stores = [x, sslsim.from_arrays("y", arrays, tmp_path, speakers=said_by, family="two")]
    resampling = sslsim.Resampling(blocks=6, rotations=0, elsewhere=20)
    evidence = sslsim.evidence(stores, ["svcca"], resampling=resampling)
    best = analysis.best_layers(evidence, "svcca")
    assert best[["model_x", "model_y"]].to_numpy().tolist() == [["x", "y"], ["y", "x"]]
    assert (best.layer_x + best.layer_y == 1).all()  # the same neurons stand in layer 0 of one and 1 of the other
    assert best.value.to_numpy() == pytest.approx(1, abs=1e-4)
    assert (best.chance < 0.9).all()


def test_there_is_no_best_layer_among_those_at_one_depth(models):
    few = sslsim.evidence(models, ["pwcca"], resampling=sslsim.Resampling(1, 0, 0))
    assert same_depth(few.pairs).all()  # it is costly
    assert analysis.best_layers(few, "pwcca").empty


def test_a_measure_that_was_not_computed_is_refused(evidence):
    with pytest.raises(sslsim.SslsimError, match="the evidence has no svcca_raw, only max_corr, .*; compute it too"):
        analysis.best_layers(evidence, "svcca_raw")
    few = evidence.only(evidence.pairs.measure == "svcca")
    with pytest.raises(sslsim.SslsimError, match="no neuron_count, only svcca; compute it too"):
        analysis.along_depth(few, ["neuron_count"])


def test_scores_and_chance_settle_with_frames(models, monkeypatch):
    monkeypatch.setattr(layers, "FRAMES", (60, 10**9))
    table = analysis.convergence(models, ["linreg_r2"], [("x", "y")])
    assert table.n_frames.tolist() == [60, models[0].n_frames]
    assert table.chance.iloc[0] > 1.5 * table.chance.iloc[1]  # fitted noise
    assert (table.enough == 240).all()
    assert set(table.pair) == {"x in y"}
