"""Head-to-head tables of stores, layer scores, best matches and what heads look at."""

import numpy as np
import pytest
from conftest import edited

import sslsim
from sslsim.measures.attention import MEASURES, attention_cka, attention_similarity, head_profile


@pytest.fixture
def stores(make_store):
    return [make_store(name, n_heads=n, seed=i) for i, (name, n) in enumerate([("a", 2), ("b", 3)])]


def maps(store, layer):
    return [store.attention(layer, u) for u in range(len(store.index))]


def test_equals_attention_similarity_of_every_pair_of_layers(stores):
    heads = sslsim.compare_heads(stores, list(MEASURES), progress=False)
    scores, _ = sslsim.compare_attention(stores, [*MEASURES, "attention_cka"], progress=False)
    assert len(heads) == 4 * (2 * 2 + 3 * 2) ** 2
    assert len(scores) == 5 * 4 * 4
    assert set(heads.n_frames) == set(scores.n_frames) == {int(stores[0].index.n_rows.sum())}
    pair = "model_x == 'a' and layer_x == 2 and model_y == 'b' and layer_y == 1"
    for measure in MEASURES:
        expected = attention_similarity(measure, maps(stores[0], 2), maps(stores[1], 1))
        rows = heads.query(f"measure == @measure and {pair}")
        np.testing.assert_allclose(rows.value.to_numpy().reshape(2, 3), expected, atol=1e-6)
        row = scores.query(f"measure == @measure and {pair}")
        assert row.value.item() == pytest.approx(expected.max(1).mean(), abs=1e-6)
    row = scores.query(f"measure == 'attention_cka' and {pair}")
    assert row.value.item() == pytest.approx(attention_cka(maps(stores[0], 2), maps(stores[1], 1)), abs=1e-6)


def test_a_layer_with_itself_scores_one(stores):
    scores, _ = sslsim.compare_attention(stores, ["pearson", "js", "frobenius", "attention_cka"], progress=False)
    own = scores[(scores.model_x == scores.model_y) & (scores.layer_x == scores.layer_y)]
    np.testing.assert_allclose(own.value, 1, atol=1e-6)


def test_best_heads_are_the_best_of_each_other_model(stores, make_store):
    stores = [*stores, make_store("c", n_heads=1, seed=5)]
    heads = sslsim.compare_heads(stores, ["js", "pearson"], progress=False)
    _, best = sslsim.compare_attention(stores, ["js", "attention_cka", "pearson"], progress=False)
    assert len(best) == 2 * 2 * (2 * 2 + 3 * 2 + 1 * 2)
    assert (best.model_x != best.model_y).all()
    keys = ["measure", "model_x", "layer_x", "head_x", "model_y"]
    others = heads[heads.model_x != heads.model_y]
    expected = others.loc[others.groupby(keys).value.idxmax()].set_index(keys)
    found = best.set_index(keys).loc[expected.index]
    np.testing.assert_allclose(found.value, expected.value)
    assert (found[["layer_y", "head_y"]] == expected[["layer_y", "head_y"]]).all(axis=None)


def test_a_uniform_head_has_no_match_and_does_not_count(stores):
    def change(flat):
        for u, (start, stop) in enumerate(zip(places, places[1:], strict=False)):
            flat[start : start + (stop - start) // 3] = 1 / stores[1].index.length[u]

    places = stores[1]._attention_offsets
    stores = [stores[0], edited(stores[1], "attention_01.npy", change)]
    heads = sslsim.compare_heads(stores, ["pearson"], progress=False)
    scores, best = sslsim.compare_attention(stores, ["pearson"], progress=False)
    assert heads.query("model_x == 'b' and layer_x == 1 and head_x == 0").value.isna().all()
    assert scores.value.notna().all()
    rows = heads.query("model_x == 'b' and layer_x == 1 and model_y == 'a' and layer_y == 2")
    row = scores.query("model_x == 'b' and layer_x == 1 and model_y == 'a' and layer_y == 2")
    assert row.value.item() == pytest.approx(rows.groupby("head_x").value.max().mean())
    assert best.query("model_x == 'b' and layer_x == 1").head_x.tolist() == [1, 2]


def test_descriptions_are_those_of_the_maps(stores):
    table = sslsim.describe_heads(stores)
    assert len(table) == 2 * 2 + 3 * 2
    queries = [stores[1].query_rows(u) for u in range(len(stores[1].index))]
    expected = head_profile(maps(stores[1], 2), queries)
    rows = table.query("model == 'b' and layer == 2")
    assert rows["head"].tolist() == [0, 1, 2]
    for name in ("entropy", "distance", "diagonality", "one_key"):
        np.testing.assert_allclose(rows[name], getattr(expected, name))


def test_measures_that_are_not_of_heads_are_named(stores):
    with pytest.raises(sslsim.SslsimError, match=r"unknown attention measure 'pearsn'; did you mean 'pearson'\?"):
        sslsim.compare_heads(stores, ["pearsn"])
    with pytest.raises(sslsim.SslsimError, match=r"unknown attention measure 'jss'; did you mean 'js'\?"):
        sslsim.compare_attention(stores, ["jss"])
    with pytest.raises(
        sslsim.SslsimError, match="'attention_cka' compares layers, not heads: use compare or attention"
    ):
        sslsim.compare_heads(stores, ["attention_cka"])


def test_stores_without_attention_are_named(make_store):
    store = make_store(queries=0)
    for call in (sslsim.compare_heads, sslsim.compare_attention, sslsim.describe_heads):
        with pytest.raises(sslsim.SslsimError, match="no attention in these stores; extract with queries above 0"):
            call([store])
