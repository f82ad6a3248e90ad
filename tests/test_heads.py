"""Head-to-head tables of stores, layer scores and best matches."""

import numpy as np
import pytest

import sslsim
from sslsim.attention import MEASURES, attention_similarity


@pytest.fixture
def stores(make_store):
    return [make_store(name, n_heads=n, seed=i) for i, (name, n) in enumerate([("a", 2), ("b", 3)])]


def maps(store, layer):
    return [store.attention(layer, u) for u in range(len(store.index))]


def test_equals_attention_similarity_of_every_pair_of_layers(stores):
    heads = sslsim.compare_heads(stores, list(MEASURES), progress=False)
    scores = sslsim.layer_scores(heads)
    assert len(heads) == 4 * (2 * 2 + 3 * 2) ** 2
    assert len(scores) == 4 * 4 * 4
    assert set(heads.n_frames) == {int(stores[0].index.n_rows.sum())}
    for measure in MEASURES:
        expected = attention_similarity(measure, maps(stores[0], 2), maps(stores[1], 1))
        rows = heads.query(
            "measure == @measure and model_x == 'a' and layer_x == 2 and model_y == 'b' and layer_y == 1"
        )
        np.testing.assert_allclose(rows.value.to_numpy().reshape(2, 3), expected, atol=1e-6)
        row = scores.query(
            "measure == @measure and model_x == 'a' and layer_x == 2 and model_y == 'b' and layer_y == 1"
        )
        assert row.value.item() == pytest.approx(expected.max(1).mean(), abs=1e-6)


def test_a_layer_with_itself_scores_one(stores):
    scores = sslsim.layer_scores(sslsim.compare_heads(stores, ["pearson", "js", "frobenius"], progress=False))
    own = scores[(scores.model_x == scores.model_y) & (scores.layer_x == scores.layer_y)]
    np.testing.assert_allclose(own.value, 1, atol=1e-6)


def test_best_heads_are_the_best_of_each_other_model(stores):
    heads = sslsim.compare_heads(stores, ["js"], progress=False)
    best = sslsim.best_heads(heads, "js")
    assert len(best) == 2 * 2 + 3 * 2
    row = best.query("model_x == 'b' and layer_x == 2 and head_x == 1").iloc[0]
    candidates = heads.query("model_x == 'b' and layer_x == 2 and head_x == 1 and model_y == 'a'")
    assert row.value == candidates.value.max()
    assert (best.model_x != best.model_y).all()


def test_an_unknown_attention_measure_is_named(stores):
    with pytest.raises(sslsim.SslsimError, match=r"unknown attention measure 'pearsn'; did you mean 'pearson'\?"):
        sslsim.compare_heads(stores, ["pearsn"])


def test_stores_without_attention_are_named(make_store):
    with pytest.raises(sslsim.SslsimError, match="no attention in these stores; extract with queries above 0"):
        sslsim.compare_heads([make_store(queries=0)], ["js"])
