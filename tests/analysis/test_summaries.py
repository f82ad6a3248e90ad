"""Tables from scores of a made lineup, small enough to check by hand; layers that one huge neuron dominates."""

import numpy as np
import pandas as pd
import pytest
from grids import lineup, scores
from worlds import World

import sslsim
from sslsim import analysis
from sslsim.analysis.layers import same_depth


@pytest.fixture(scope="module")
def table():
    """Similarity falls by 0.1 a layer apart and by 0.3 between the two families."""

    def level(measure, x, i, y, j):
        return 1 - 0.1 * abs(i - j) - 0.3 * (x[0] != y[0]) - 0.05 * (x[0] == y[0] and x != y)

    return scores(lineup("a", "c", "a-ctc", n_layers=3), ["svcca"], level)


def test_similarity_by_relation(table):
    by_relation = analysis.similarity_by_relation(table)
    rows = by_relation.set_index(["model", "layer", "relation"])
    assert len(rows) == 3 * 3 + 2 * 3 + 3 * 3  # each relation that exists, a layer
    edge = rows.loc["a", 0, "same model"]
    assert edge["mean"] == pytest.approx(0.85)  # 0.9 and 0.8: itself is left out
    assert (edge.best, edge.best_model, edge.best_layer, edge.best_depth) == (pytest.approx(0.9), "a", 1, 0.5)
    assert rows.loc["c", 1, "other family"].best == pytest.approx(0.7)
    assert rows.loc["c", 1, "other family"].depth == 0.5
    assert rows.loc["a", 2, "counterpart"].best_layer == 2
    means = analysis.relation_means(by_relation)
    assert means.columns.tolist() == ["measure", "same model", "counterpart", "other family"]
    assert means["other family"].item() == pytest.approx(0.7 - 0.1 * 8 / 9)


def test_published_means_stand_beside_the_models_and_measures_that_they_are_of():
    names = [each.name for each in sslsim.read_lineup("paper")]
    rows = pd.DataFrame({"model": names, "measure": "svcca_below", "relation": "other family", "mean": 0.5})
    assert analysis.relation_means(rows).published.tolist() == [0.384]
    assert "published" not in analysis.relation_means(rows[1:])
    assert "published" not in analysis.relation_means(rows.assign(measure="svcca"))  # has one component more


def test_a_layer_without_a_score_is_left_out(table):
    holes = table.assign(value=table.value.mask(table.model_x == "c"))
    assert set(analysis.similarity_by_relation(holes).model) == {"a", "a-ctc"}


def test_best_depths_are_those_of_the_best_layers_and_the_spectrogram_has_none():
    stores = lineup("a", "c", "mel", n_layers=3, c=5)
    table = scores(stores, ["svcca", "cca"], lambda m, x, i, y, j: 1 - abs(i - j) / 10)
    depths = analysis.best_depths(analysis.similarity_by_relation(table), "svcca")
    assert set(depths.relation) == {"same model", "other family"}
    between = depths[depths.relation == "other family"].set_index(["model", "layer"])
    assert between.depth.tolist() == [0, 0.5, 1, 0, 0.25, 0.5, 0.75, 1]
    assert between.best_layer["a"].tolist() == [0, 1, 2]  # by number, as the scores go
    assert between.best_depth["a"].tolist() == [0, 0.25, 0.5]
    assert len(depths) == 2 * 8


# --- the same depth


def nearest(layer_x, layers_x, layers_y):
    """Apply the rule in whole numbers of layers."""
    last_x, last_y = max(1, layers_x - 1), max(1, layers_y - 1)
    return min((2 * layer_x * last_y + last_x) // (2 * last_x), layers_y - 1)


def test_the_same_depth_is_the_nearest_layer_for_all_sizes():
    places = [(f"{layers}", layers, layer) for layers in range(1, 26) for layer in range(layers)]
    sides = [pd.DataFrame(places, columns=["model", "layers", "layer"]).add_suffix(side) for side in ("_x", "_y")]
    table = sides[0].merge(sides[1], how="cross")
    for side in "xy":
        table[f"depth_{side}"] = table[f"layer_{side}"] / (table[f"layers_{side}"] - 1).clip(lower=1)
    expected = [nearest(*row) for row in table[["layer_x", "layers_x", "layers_y"]].itertuples(index=False)]
    assert len(table) == 325**2
    assert (same_depth(table) == (table.layer_y == expected)).all()


def test_layers_of_attention_count_from_one_and_are_at_the_same_depth():
    table = scores(lineup("a", "b", n_layers=13, b=25), ["pearson"], lambda *_: 1.0)
    blocks = table[(table.layer_x > 0) & (table.layer_y > 0)]
    whole = same_depth(table)
    assert same_depth(blocks).equals(whole[blocks.index])
    near = blocks[same_depth(blocks) & (blocks.model_x == "a") & (blocks.model_y == "b")]
    assert (near.layer_y == 2 * near.layer_x).all()


def test_what_layers_are_is_said_beside_their_norms(make_store):
    table = analysis.layer_norms([make_store("m"), make_store("n", final_norm=False)]).set_index("model")
    assert table.loc["m", ["layer_0", "layers", "last", "final_norm"]].tolist() == ["residual", "residual", 2, True]
    assert table.loc["n", ["layers", "final_norm"]].tolist() == ["LayerNorm", False]
    assert {"normalised", "mask", "features", "dtype"} <= set(table)


# --- what a single neuron does to a layer

CKA = ["linear_cka_biased", "linear_cka_biased_raw", "linear_cka_dropped"]


def test_one_huge_neuron_dominates_its_layer_and_is_what_raw_cka_speaks_of(tmp_path):
    size = {"neurons": 12, "utterances": 12, "frames": 30}
    models = World("half", 3, outlier=True, **size).models(tmp_path)
    spread = analysis.concentrations(models)
    assert spread.dominated.all()
    assert (spread.top_neuron == 11).all()
    assert not analysis.concentrations(World("half", 3, **size).models(tmp_path)).dominated.any()
    table = sslsim.compare(models, CKA)
    why = analysis.raw_against_standardised(table, spread)
    assert len(why) == 4
    np.testing.assert_allclose(why.difference, why.raw - why.standardised)
    assert (why.difference.abs() > 0.1).all()
    assert (why.raw < 0.1).all()
    assert (why.dropped > 0.3).all()  # without the huge one, and two more of eleven, much is back
    assert len(analysis.raw_against_standardised(table, spread, n=1)) == 1
