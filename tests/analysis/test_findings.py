"""Tables from evidence: each number recomputed by hand, on made worlds."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from worlds import World

import sslsim
from sslsim.analysis import partners as findings
from sslsim.analysis import summaries as readings
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import Unanswered

QUIET = {"progress": False}
MEASURES = ["max_corr", "linreg_r2", "svcca"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return World("half", 1, neurons=12, layers=3, utterances=12, frames=30).models(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def found(models):
    return sslsim.evidence(models, MEASURES, draws=5, groups=4, **QUIET)


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


def test_along_depth_reads_the_mean_of_the_layers_at_that_depth(models, found):
    table = findings.along_depth(found, models, "svcca")
    assert set(table.relation) == {"other family"}
    assert table.depth.tolist() == [0.0, 0.4, 1.0]  # of three layers, to the nearest fifth
    cells = found.cells
    last = (cells.measure == "svcca") & (cells.layer_x == 2) & (cells.layer_y == 2) & (cells.model_x != cells.model_y)
    row = table.iloc[-1]
    assert row.value == pytest.approx(cells.value[last].mean())
    assert row.chance == pytest.approx(found.null[:, last].mean())
    assert row.ci_low < row.value < row.ci_high


def test_along_depth_takes_several_measures(models, found):
    table = findings.along_depth(found, models, ["svcca", "max_corr"])
    assert table.measure.tolist() == ["svcca"] * 3 + ["max_corr"] * 3
    pd.testing.assert_frame_equal(table[:3], findings.along_depth(found, models, "svcca"))


def test_a_measure_without_a_choice_of_scaling_is_found_under_either(models, found):
    for read, measure in itertools.product(
        (findings.best_layers, findings.along_depth), ("max_corr", "neurons_shared")
    ):
        pd.testing.assert_frame_equal(
            read(found, models, measure, standardize=False).drop(columns="standardize", errors="ignore"),
            read(found, models, measure).drop(columns="standardize", errors="ignore"),
        )


@pytest.mark.parametrize(
    ("measure", "standardize", "words"), [("cca", True, "cca"), ("cca", False, "cca"), ("svcca", False, "raw svcca")]
)
def test_a_measure_that_was_not_computed_is_refused(models, found, measure, standardize, words):
    text = f"the evidence has no {words}, only max_corr, linreg_r2, standardised svcca, max_corr_.*; compute it too"
    for read in (findings.best_layers, findings.along_depth):
        with pytest.raises(sslsim.SslsimError, match=text):
            read(found, models, measure, standardize=standardize)


def test_best_layers_take_the_search_into_the_chance_level(models, found):
    table = findings.best_layers(found, models, "svcca").set_index(["model_x", "model_y"])
    cells = found.cells
    between = ((cells.measure == "svcca") & (cells.model_x == "x") & (cells.model_y == "y")).to_numpy()
    row = table.loc["x", "y"]
    assert row.value == cells.value[between].max()
    assert row.chance == pytest.approx(found.null[:, between].max(1).mean())
    assert row.chance > found.null[:, between].mean()  # the best of nine cells, not any of them
    best = cells[between].loc[cells[between].value.idxmax()]
    assert (row.layer_x, row.layer_y) == (best.layer_x, best.layer_y)


def test_one_huge_neuron_owns_its_layer_and_is_what_raw_cka_speaks_of(tmp_path):
    models = World("half", 3, neurons=12, utterances=12, frames=30, outlier=True).models(tmp_path)
    spread = findings.concentrations(models)
    assert spread.owned.all()
    assert (spread.top_neuron == 11).all()
    assert not findings.concentrations(
        World("half", 3, neurons=12, utterances=12, frames=30).models(tmp_path)
    ).owned.any()
    wanted = ["linear_cka_biased", "linear_cka_dropped"]
    table = sslsim.compare(models, wanted, raw=["linear_cka_biased"], **QUIET)
    why = findings.why_cka_differs(table, models, spread)
    assert len(why) == 4
    np.testing.assert_allclose(why.difference, why.raw - why.standardised)
    assert (why.difference.abs() > 0.1).all()
    assert (why.raw < 0.1).all()
    assert (why.dropped > 0.3).all()  # without the huge one, and two more of eleven, much is back
    assert len(findings.why_cka_differs(table, models, spread, n=1)) == 1
    with pytest.raises(
        sslsim.SslsimError, match="the table has no dropped, raw CKA; compare linear_cka_biased, in raw="
    ):
        findings.why_cka_differs(sslsim.compare(models, wanted[:1], **QUIET), models, spread)


def test_scores_and_chance_settle_with_frames(models):
    table = findings.plateau(models, ["linreg_r2"], [("x", "y")], frames=(60, 10**9), draws=4, progress=False)
    assert table.n_frames.tolist() == [60, models[0].n_frames]
    assert table.chance.iloc[0] > 1.5 * table.chance.iloc[1]  # fitted noise
    assert (table.enough == 240).all()
    assert set(table.pair) == {"x in y"}


def test_chance_levels_of_best_partners_agree_where_nothing_is_shared(tmp_path):
    models = World("independent", 4, neurons=20, utterances=20, frames=60).models(tmp_path)
    evidence = sslsim.evidence(models, ["max_corr"], draws=10, groups=0, **QUIET)
    row = findings.chance_levels(evidence, models).iloc[0]
    assert row.effective_frames < 0.7 * row.frames  # frames follow one another
    assert row.extreme_value == pytest.approx(row.mismatched, rel=0.25)
    assert row.rotated == pytest.approx(row.mismatched, rel=0.1)


def test_intervals_of_chosen_pairs_of_neurons(models):
    x, y = models[0].layer(1), models[1].layer(2)
    pair = pd.DataFrame({"model_x": ["x"], "layer_x": [1], "neuron_x": [3], "model_y": ["y"], "layer_y": [2]})
    pair = pair.assign(neuron_y=5, value=np.corrcoef(x[:, 3], y[:, 5])[0, 1])
    row = findings.with_intervals(pair, models, groups=4).iloc[0]
    assert -1 < row.ci_low < row.value < row.ci_high < 1
    pd.testing.assert_frame_equal(findings.with_intervals(pair, models, groups=0), pair)
    own = pair.assign(model_y="x", layer_y=1, neuron_y=3, value=1.0)
    row = findings.with_intervals(own, models, groups=4).iloc[0]
    assert row.ci_low == pytest.approx(1)


def test_partners_of_their_own_and_partners_in_common():
    keys = ["model_x", "layer_x", "neuron_x", "model_y", "layer_y", "neuron_y"]
    rows = [("a", 0, 0, "b", 0, 7), ("a", 0, 1, "b", 0, 7), ("a", 0, 2, "b", 0, 8), ("b", 0, 7, "a", 0, 0)]
    table = pd.DataFrame(rows, columns=keys).assign(relation="other seed", value=0.5)
    row = findings.one_to_many(table).iloc[0]
    assert (row.neurons, row.crowd) == (4, 2)
    assert row.own == 2 / 4  # a's third and b's
    assert row.mutual == 2 / 4  # a's first and b's seventh


def test_distance_after_finetuning_is_in_units_of_two_seeds(tuned):
    evidence = sslsim.evidence(tuned, ["max_corr", "svcca"], draws=2, groups=4, **QUIET)
    table = findings.moved(tuned, evidence)
    table = table[table.measure == "max_corr"].set_index("layer")
    score = {
        (i, m): sslsim.similarity("max_corr", tuned[0].layer(i), tuned[m].layer(i)) for i in range(3) for m in (1, 2)
    }
    for layer in range(3):
        expected = (1 - score[layer, 2]) / (1 - score[layer, 1])
        assert table.distance[layer] == pytest.approx(expected, rel=1e-4)
        assert table.ci_low[layer] <= table.distance[layer] <= table.ci_high[layer]
    assert table.distance[0] < 0.1 < 1 < table.distance[2]
    first = findings.first_moved(findings.moved(tuned, evidence))
    assert (first.first_layer == 2).all()
    assert (first.furthest_layer == 2).all()
    fewer = evidence.only(evidence.cells.model_y.ne("y") & evidence.cells.model_x.ne("y"))
    nothing = findings.moved([tuned[0], tuned[2]], fewer)
    assert nothing.empty
    assert nothing.columns.tolist() == findings.moved(tuned, evidence).columns.tolist()
    assert findings.first_moved(nothing).empty


def test_neurons_are_compared_with_themselves(tuned):
    table = findings.changed_neurons(tuned)
    assert len(table) == 30
    expected = np.corrcoef(tuned[0].layer(1)[:, 4], tuned[2].layer(1)[:, 4])[0, 1]
    row = table[(table.layer_x == 1) & (table.neuron_x == 4)].iloc[0]
    assert row.value == pytest.approx(expected)
    assert (table.neuron_x == table.neuron_y).all()
    assert table[table.layer_x == 2].value.abs().max() < 0.5 < table[table.layer_x < 2].value.min()


def test_matched_heads_bring_what_both_look_at(models):
    best = pd.DataFrame({"model_x": ["x", "y"], "layer_x": 1, "head_x": [0, 1], "model_y": ["y", "x"], "layer_y": 2})
    best = best.assign(head_y=[1, 0], value=[0.5, 0.9], ci_low=0.1, ci_high=0.95, chance=[0.0, 0.6], p=0.04)
    heads = [(m, layer, head) for m in "xy" for layer in (1, 2) for head in (0, 1)]
    profile = pd.DataFrame(heads, columns=["model", "layer", "head"]).assign(diagonality=0.1)
    profile["distance"] = np.arange(8.0)
    table = findings.matched_heads(best, profile, models)
    assert table.value.tolist() == [0.5, 0.9]  # by what is above chance
    assert table.distance_x.tolist() == [0.0, 5.0]
    assert table.distance_y.tolist() == [7.0, 2.0]
    assert len(findings.matched_heads(best, profile, models, n=1)) == 1


def test_one_table_of_several(found):
    assert len(findings.one_table(found, found)) == 2 * len(found.cells)


def test_choices_of_models(tuned, models):
    assert [s.checkpoint.name for s in readings.apart(tuned)] == ["x", "y"]
    with pytest.raises(
        Unanswered, match="no two models trained apart among x, x-ctc; choose two trained checkpoints, n"
    ):
        readings.apart([tuned[0], tuned[2]])
    siblings = [replace(tuned[2], checkpoint=Checkpoint(n, "made", family="one", finetuned_from="z")) for n in "ab"]
    with pytest.raises(Unanswered, match="among a, b; .* or from the same model"):
        readings.apart(siblings)
    twin = replace(tuned[1], checkpoint=Checkpoint("twin", "made", untrained_seed=0))
    with pytest.raises(Unanswered, match="among x, twin; "):
        readings.apart([tuned[0], twin])
    assert [s.checkpoint.name for s in readings.finetuned_family(tuned)] == ["x", "y", "x-ctc"]
    assert readings.typical_pairs(models) == [("x", "y")]
    spectrogram = replace(models[1], checkpoint=Checkpoint("log-mel", "log-mel"))
    twin = replace(models[1], checkpoint=Checkpoint("twin", "made", untrained_seed=1))
    chosen = readings.with_trained([models[0], twin, spectrogram])
    assert chosen == [("x", "x"), ("x", "twin"), ("x", "log-mel")]
