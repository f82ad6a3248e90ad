"""Head-to-head tables of stores, layer scores, best matches and what heads look at."""

import numpy as np
import pytest
from conftest import edited

from sslsim.comparison.heads import compare_attention, compare_heads, describe_heads
from sslsim.errors import SslsimError
from sslsim.measures.attention import HEAD_MEASURES, attention_cka, attention_similarity, looks, profile_of


@pytest.fixture
def stores(make_store):
    return [make_store(name, n_heads=n, seed=i) for i, (name, n) in enumerate([("a", 2), ("b", 3)])]


def maps(store, layer):
    return [store.attention(layer, u) for u in range(len(store.index))]


def test_equals_attention_similarity_of_every_pair_of_layers(stores):
    heads = compare_heads(stores, list(HEAD_MEASURES))
    scores, best = compare_attention(stores, [*HEAD_MEASURES, "attention_cka"])
    assert len(heads) == 4 * (2 * 2 + 3 * 2) ** 2
    assert len(scores) == 5 * 4 * 4
    keys = ["measure", "model_x", "layer_x", "head_x", "model_y", "layer_y", "head_y"]
    pair = ["relation", "depth_x", "depth_y", "trained_x", "trained_y"]
    assert heads.columns.tolist() == [*keys, *pair, "value", "n_frames"]
    assert best.columns.tolist() == [*keys, *pair, "value"]
    assert set(heads.n_frames) == set(scores.n_frames) == {int(stores[0].index.n_rows.sum())}
    pair = "model_x == 'a' and layer_x == 2 and model_y == 'b' and layer_y == 1"
    for measure in HEAD_MEASURES:
        expected = attention_similarity(measure, maps(stores[0], 2), maps(stores[1], 1))
        rows = heads.query(f"measure == @measure and {pair}")
        np.testing.assert_allclose(rows.value.to_numpy().reshape(2, 3), expected, atol=1e-6)
        row = scores.query(f"measure == @measure and {pair}")
        assert row.value.item() == pytest.approx(expected.max(1).mean(), abs=1e-6)
    row = scores.query(f"measure == 'attention_cka' and {pair}")
    assert row.value.item() == pytest.approx(attention_cka(maps(stores[0], 2), maps(stores[1], 1)), abs=1e-6)


def test_a_layer_with_itself_scores_one(stores):
    scores, _ = compare_attention(stores, ["pearson", "js", "frobenius", "attention_cka"])
    own = scores[(scores.model_x == scores.model_y) & (scores.layer_x == scores.layer_y)]
    np.testing.assert_allclose(own.value, 1, atol=1e-6)


def test_best_heads_are_the_best_of_each_other_model(stores, make_store):
    stores = [*stores, make_store("c", n_heads=1, seed=5)]
    heads = compare_heads(stores, ["js", "pearson"])
    _, best = compare_attention(stores, ["js", "attention_cka", "pearson"])
    assert len(best) == 2 * 2 * (2 * 2 + 3 * 2 + 1 * 2)
    assert (best.model_x != best.model_y).all()
    keys = ["measure", "model_x", "layer_x", "head_x", "model_y"]
    others = heads[heads.model_x != heads.model_y]
    expected = others.loc[others.groupby(keys).value.idxmax()].set_index(keys)
    found = best.set_index(keys).loc[expected.index]
    np.testing.assert_allclose(found.value, expected.value)
    assert (found[["layer_y", "head_y"]] == expected[["layer_y", "head_y"]]).all(axis=None)


def test_a_uniform_head_has_no_match_and_does_not_count(stores):
    def change(maps):
        maps[0] = 1 / maps.shape[2]

    stores = [stores[0], edited(stores[1], "attention 1", change)]
    heads = compare_heads(stores, ["pearson"])
    scores, best = compare_attention(stores, ["pearson"])
    assert heads.query("model_x == 'b' and layer_x == 1 and head_x == 0").value.isna().all()
    assert scores.value.notna().all()
    rows = heads.query("model_x == 'b' and layer_x == 1 and model_y == 'a' and layer_y == 2")
    row = scores.query("model_x == 'b' and layer_x == 1 and model_y == 'a' and layer_y == 2")
    assert row.value.item() == pytest.approx(rows.groupby("head_x").value.max().mean())
    assert best.query("model_x == 'b' and layer_x == 1").head_x.tolist() == [1, 2]


def test_descriptions_are_those_of_the_maps(stores):
    table = describe_heads(stores)
    assert len(table) == 2 * 2 + 3 * 2
    queries = [stores[1].query_rows(u) for u in range(len(stores[1].index))]
    expected = profile_of(map(looks, maps(stores[1], 2), queries))
    rows = table.query("model == 'b' and layer == 2")
    assert rows["head"].tolist() == [0, 1, 2]
    for name in ("entropy", "distance", "diagonality", "one_key"):
        np.testing.assert_allclose(rows[name], getattr(expected, name))


def test_measures_that_are_not_of_heads_are_named(stores):
    with pytest.raises(SslsimError, match=r"unknown attention measure 'pearsn'; did you mean 'pearson'\?"):
        compare_heads(stores, ["pearsn"])
    with pytest.raises(SslsimError, match=r"unknown attention measure 'jss'; did you mean 'js'\?"):
        compare_attention(stores, ["jss"])
    with pytest.raises(SslsimError, match="'attention_cka' compares layers, not heads: use compare or attention"):
        compare_heads(stores, ["attention_cka"])


def test_stores_without_attention_are_named(make_store):
    store = make_store(queries=0)
    for call in (compare_heads, compare_attention, describe_heads):
        with pytest.raises(SslsimError, match="no attention in these stores; extract with queries above 0"):
            call([store])
