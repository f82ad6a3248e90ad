"""What finetuning changed, on scores made by hand and on a made world."""

from dataclasses import replace

import numpy as np
import pytest
from grids import lineup, scores
from worlds import World

import sslsim
from sslsim import analysis
from sslsim.encoders.lineage import Lineage
from sslsim.encoders.lineup import Checkpoint

PAIRS = [("a", "a-ctc")]


def level(measure, x, i, y, j):
    """Similarity falls by 0.1 a layer apart, by 0.3 between the families, by less between relatives."""
    kin = {frozenset(("a", "a-ctc")): 0.05, frozenset(("a", "a2")): 0.25}.get(frozenset((x, y)), 0.0)
    return 1 - 0.1 * abs(i - j) - 0.3 * (x[0] != y[0]) - kin


def test_the_same_layer_is_followed_beside_the_other_family():
    changed = analysis.finetuning_by_layer(scores(lineup("a", "c", "a-ctc", n_layers=3), ["svcca"], level), PAIRS)
    assert changed.layer.tolist() == [0, 1, 2]
    assert changed.depth.tolist() == [0, 0.5, 1]
    assert set(changed.level) == {"layer"}
    assert (changed.pretrained + changed.finetuned == "aa-ctc").all()
    assert changed.value.to_numpy() == pytest.approx(0.95)
    assert changed.other_family.to_numpy() == pytest.approx(0.7)
    assert changed.other_seed.isna().all()


def test_another_seed_is_a_yardstick_and_the_pairs_of_finetuning_are_enough():
    stores = lineup("a", "c", "a-ctc", "a2", "b", "twin", n_layers=3, c=5)
    table = scores(stores, ["svcca"], lambda m, x, i, y, j: 1 - (0.4 if y == "c" else 0.25 if y == "a2" else 0.05))
    changed = analysis.finetuning_by_layer(table, PAIRS)
    assert changed.other_seed.to_numpy() == pytest.approx(0.75)
    assert changed.other_family.to_numpy() == pytest.approx(0.6)  # c alone: neither relatives nor random weights
    needed = Lineage(tuple(s.checkpoint for s in stores)).finetuning_pairs()
    kept = [pair in needed for pair in zip(table.model_x, table.model_y, strict=True)]
    np.testing.assert_array_equal(analysis.finetuning_by_layer(table[kept], PAIRS), changed)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Return a pretrained model, another seed of it, and a finetuned one whose last layer was replaced."""
    world = World("half", 2, neurons=10, layers=3, utterances=12, frames=30)
    x, y = world.models(tmp_path_factory.mktemp("tuned"))
    rng = np.random.default_rng(0)
    noise = [layer + 0.1 * rng.standard_normal(layer.shape).astype("f4") for layer in x.layers]
    noise[-1] = rng.standard_normal(noise[-1].shape).astype("f4")
    seed = replace(y, checkpoint=Checkpoint("y", "made", family="one", seed_of="x"))
    after = replace(x, checkpoint=Checkpoint("x-ctc", "made", family="one", finetuned_from="x"), layers=noise)
    return [x, seed, after]


def test_distance_after_finetuning_is_in_multiples_of_two_seeds(tuned):
    resampling = sslsim.Resampling(permutations=2, blocks=4, rotations=2)
    evidence = sslsim.evidence(tuned, ["max_corr", "svcca"], resampling=resampling)
    pairs = [("x", "x-ctc")]
    moved = analysis.distance_moved(evidence, pairs)
    assert not moved.measure.str.contains("excess").any()
    table = moved[moved.measure == "max_corr"].set_index("layer")
    score = {
        (i, m): sslsim.similarity("max_corr", tuned[0].layer(i), tuned[m].layer(i)) for i in range(3) for m in (1, 2)
    }
    for layer in range(3):
        expected = (1 - score[layer, 2]) / (1 - score[layer, 1])
        assert table.distance[layer] == pytest.approx(expected, rel=1e-4)
        assert table.ci_low[layer] <= table.distance[layer] <= table.ci_high[layer]
    assert table.distance[0] < 0.1 < 1 < table.distance[2]
    first = analysis.first_moved(moved)
    assert (first.first_layer == 2).all()
    assert (first.furthest_layer == 2).all()
    assert len(analysis.distance_moved([evidence, evidence], pairs)) == 2 * len(moved)
    fewer = evidence.only(evidence.pairs.model_y.ne("y") & evidence.pairs.model_x.ne("y"))
    nothing = analysis.distance_moved(fewer, pairs)
    assert nothing.empty
    assert nothing.columns.tolist() == moved.columns.tolist()
    assert analysis.first_moved(nothing).empty


def test_neurons_are_compared_with_themselves(tuned):
    table = analysis.changed_neurons(tuned)
    assert len(table) == 30
    expected = np.corrcoef(tuned[0].layer(1)[:, 4], tuned[2].layer(1)[:, 4])[0, 1]
    row = table[(table.layer_x == 1) & (table.neuron_x == 4)].iloc[0]
    assert row.value == pytest.approx(expected)
    assert (table.neuron_x == table.neuron_y).all()
    assert table[table.layer_x == 2].value.abs().max() < 0.5 < table[table.layer_x < 2].value.min()
    wider = replace(tuned[2], layers=[np.hstack([layer, layer]) for layer in tuned[2].layers])
    assert analysis.changed_neurons([*tuned[:2], wider]).empty
