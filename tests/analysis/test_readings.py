"""Readings of a made grid, small enough to check by hand."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest

import sslsim
from sslsim.analysis import summaries as readings
from sslsim.comparison.tables import RELATIONS


@pytest.fixture
def stores(make_store):
    """Two families, one with a finetuned counterpart; layers 0 to 2."""
    made = [make_store(name) for name in ("w", "h", "w-ctc")]
    lineage = {"w": ("wav2vec2", None), "h": ("hubert", None), "w-ctc": ("wav2vec2", "w")}
    fields = [dict(zip(("family", "finetuned_from"), lineage[s.checkpoint.name], strict=True)) for s in made]
    return [replace(s, checkpoint=replace(s.checkpoint, **f)) for s, f in zip(made, fields, strict=True)]


@pytest.fixture
def table(stores):
    """Similarity falls by 0.1 a layer apart and by 0.3 between the two families."""
    labels = [(s.checkpoint.name, layer) for s in stores for layer in range(3)]
    rows = [
        {"measure": "svcca", "standardize": True, "model_x": a, "layer_x": i, "model_y": b, "layer_y": j}
        | {"value": 1 - 0.1 * abs(i - j) - 0.3 * (a[0] != b[0]) - 0.05 * (a[0] == b[0] and a != b)}
        for (a, i), (b, j) in itertools.product(labels, labels)
    ]
    return pd.DataFrame(rows)


def test_relation_of_two_models(table, stores):
    related = readings.relate(table, stores).drop_duplicates(["model_x", "model_y"])
    found = {(r.model_x, r.model_y): r.relation for r in related.itertuples()}
    assert found["w", "w"] == "same model"
    assert found["w", "w-ctc"] == found["w-ctc", "w"] == "counterpart"
    assert found["h", "w-ctc"] == found["w", "h"] == "other family"


def test_every_relation(make_store):
    fields = {
        "a": {"family": "f"},
        "a-2": {"family": "f", "seed_of": "a"},
        "a-3": {"family": "f", "seed_of": "a"},
        "a-ctc": {"family": "f", "finetuned_from": "a"},
        "b": {"family": "f"},
        "c": {"family": "g"},
        "d": {},
        "twin": {"family": "f", "untrained_seed": 0},
        "mel": {"source": "log-mel"},
    }
    made = [make_store(name) for name in fields]
    stores = [replace(s, checkpoint=replace(s.checkpoint, **fields[s.checkpoint.name])) for s in made]
    pairs = pd.DataFrame(itertools.product(fields, fields), columns=["model_x", "model_y"])
    found = readings.relate(pairs, stores).set_index(["model_x", "model_y"]).relation
    expected = {
        ("a", "a-2"): "other seed",
        ("a-2", "a-3"): "other seed",
        ("a", "a-ctc"): "counterpart",
        ("a-2", "a-ctc"): "same family",  # of another run, and finetuned
        ("a", "b"): "same family",
        ("a-ctc", "c"): "other family",
        ("a", "d"): "other model",  # of no named family
        ("a", "twin"): "untrained",
        ("twin", "mel"): "spectrogram",
        ("twin", "twin"): "same model",
    }
    for (x, y), relation in expected.items():
        assert found[x, y] == found[y, x] == relation, (x, y)
    assert set(found) == set(RELATIONS)


def test_within_and_across(table, stores):
    read = readings.within_and_across(table, stores).set_index(["model", "layer", "relation"])
    assert len(read) == 3 * 3 + 2 * 3 + 3 * 3  # each relation that exists, a layer
    edge = read.loc["w", 0, "same model"]
    assert edge["mean"] == pytest.approx(0.85)  # 0.9 and 0.8: itself is left out
    assert (edge.best, edge.best_model, edge.best_layer) == (pytest.approx(0.9), "w", 1)
    assert read.loc["h", 1, "other family"].best == pytest.approx(0.7)
    assert read.loc["w", 2, "counterpart"].best_layer == 2
    summary = readings.summary(read.reset_index())
    assert summary.columns.tolist() == ["measure", "standardize", "same model", "counterpart", "other family"]
    assert summary["other family"].item() == pytest.approx(0.7 - 0.1 * 8 / 9)


def test_finetuning_follows_the_same_layer_beside_the_other_family(table, stores):
    changed = readings.finetuning(table, stores)
    assert changed.layer.tolist() == [0, 1, 2]
    assert changed.depth.tolist() == [0, 0.5, 1]
    assert set(changed.level) == {"layer"}
    assert set(changed.pretrained) == {"w"}
    assert set(changed.finetuned) == {"w-ctc"}
    assert changed.value.to_numpy() == pytest.approx(0.95)
    assert changed.other_family.to_numpy() == pytest.approx(0.7)
    assert changed.other_seed.isna().all()


def test_finetuning_beside_another_seed(table, stores):
    extra = table[(table.model_x == "w") & (table.model_y == "w-ctc")].assign(
        model_y="w-2", value=lambda t: t.value - 0.2
    )
    second = replace(stores[0], checkpoint=replace(stores[0].checkpoint, name="w-2", seed_of="w"))
    changed = readings.finetuning(pd.concat([table, extra], ignore_index=True), [*stores, second])
    assert changed.other_seed.to_numpy() == pytest.approx(0.75)
    assert changed.value.to_numpy() == pytest.approx(0.95)


def test_the_pairs_that_finetuning_needs_give_the_same_reading(table, stores):
    pairs = readings.finetuning_pairs(stores)
    assert pairs == [("w", "h"), ("w", "w-ctc")]
    kept = [pair in pairs for pair in zip(table.model_x, table.model_y, strict=True)]
    pd.testing.assert_frame_equal(readings.finetuning(table[kept], stores), readings.finetuning(table, stores))


def test_strongest_leaves_counterparts_out(stores):
    partners = pd.DataFrame(
        {"model_x": ["w", "w", "h"], "model_y": ["w-ctc", "h", "w"], "value": [0.99, -0.8, 0.5], "neuron_x": 0}
    )
    strongest = readings.strongest(partners, stores, n=1)
    assert strongest.value.tolist() == [-0.8]
    assert strongest.relation.tolist() == ["other family"]


def test_without_a_counterpart_there_is_nothing_to_compare(stores):
    with pytest.raises(
        sslsim.SslsimError, match="no finetuned counterpart among w, h; choose checkpoints of which one"
    ):
        readings.finetuned_pairs(stores[:2])


def test_a_chain_of_finetuning_is_one_lineage(make_store):
    made = [make_store(name) for name in ("a", "b", "c", "d")]
    parents = {"b": "a", "c": "b"}
    chain = [replace(s, checkpoint=replace(s.checkpoint, finetuned_from=parents.get(s.checkpoint.name))) for s in made]
    pairs = pd.DataFrame({"model_x": ["a", "b", "c"], "model_y": ["c", "c", "d"], "value": 1.0})
    assert readings.relate(pairs, chain).relation.tolist() == ["counterpart", "counterpart", "other model"]


def test_the_yardstick_leaves_out_relatives_and_unnamed_families(table, stores):
    nameless = [
        replace(s, checkpoint=replace(s.checkpoint, family="" if s.checkpoint.finetuned_from else "x")) for s in stores
    ]
    assert readings.finetuning(table, nameless).other_family.isna().all()
    untrained = [
        replace(s, checkpoint=replace(s.checkpoint, untrained_seed=0 if s.checkpoint.name == "h" else None))
        for s in stores
    ]
    assert readings.finetuning(table, untrained).other_family.isna().all()


def test_strongest_heads_are_the_largest_not_the_most_negative(stores):
    heads = pd.DataFrame({"model_x": "w", "model_y": "h", "head_x": [0, 1], "value": [-6.0, 0.5]})
    assert readings.strongest(heads, stores, n=1).value.tolist() == [0.5]


def test_a_layer_without_a_score_is_left_out(table, stores):
    holes = table.assign(value=table.value.mask(table.model_x == "h"))
    assert set(readings.within_and_across(holes, stores).model) == {"w", "w-ctc"}
