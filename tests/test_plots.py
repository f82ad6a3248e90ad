"""Figures: what is labelled, what scale they have, and what they refuse."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import sslsim

mpl.use("Agg")

import matplotlib.pyplot as plt

from sslsim import plots, readings


@pytest.fixture
def stores(make_store):
    return [make_store(name, seed=i, n_layers=n) for i, (name, n) in enumerate([("alpha", 3), ("beta", 4)])]


@pytest.fixture
def table(stores):
    return sslsim.compare(
        stores, ["max_corr", "svcca", "frobenius_published"], standardize=(True, False), progress=False
    )


@pytest.fixture(autouse=True)
def _close():
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before  # no global state
    plt.close("all")


def test_heatmap_shows_every_pair_with_labels_and_a_fixed_scale(table):
    ax = plots.heatmap(table, "svcca", standardize=False)
    mesh = ax.collections[0]
    chosen = table[(table.measure == "svcca") & ~table.standardize]
    np.testing.assert_allclose(np.ravel(mesh.get_array()), chosen.value)
    assert mesh.get_clim() == (0, 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1", "2", "0", "1", "2", "3"]
    assert sorted(t.get_text() for t in ax.texts) == ["alpha", "alpha", "beta", "beta"]
    assert ax.get_title(loc="left") == "svcca: 99 % of variance (raw)"


def test_a_crowded_heatmap_numbers_the_first_and_middle_layer_of_each_model(table, monkeypatch):
    monkeypatch.setattr(plots, "CROWDED", 6)
    ax = plots.heatmap(table, "max_corr")
    for labels, places in ((ax.get_xticklabels(), ax.get_xticks()), (ax.get_yticklabels(), ax.get_yticks())):
        assert [t.get_text() for t in labels] == ["0", "1", "0", "2"]
        assert places.tolist() == [0.5, 1.5, 3.5, 5.5]


def test_every_model_of_a_long_lineup_has_a_look_of_its_own():
    looks = plots._looks([f"model {i}" for i in range(100)])
    assert len(set(looks.values())) == 100


def test_a_measure_below_zero_widens_the_scale_to_a_quarter(table):
    rows = table[table.measure == "frobenius_published"].assign(value=lambda t: t.value - 2.5)
    low, high = plots.heatmap(rows, "frobenius_published").collections[0].get_clim()
    assert high == 1
    assert low <= rows.value.min() < low + 0.25
    assert low * 4 == int(low * 4)


def test_matrix_keeps_the_order_of_the_table(table):
    grid = plots.matrix(table, "max_corr")
    assert grid.index.tolist() == [("alpha", i) for i in range(3)] + [("beta", i) for i in range(4)]
    assert np.isfinite(grid.to_numpy()).all()


def test_heatmaps_has_a_panel_a_measure_and_scaling(table):
    figure = plots.heatmaps(table, ["max_corr", "svcca"], standardize=(True, False))
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert titles == [
        "max_corr: best single neuron",
        "svcca: 99 % of variance (standardised)",
        "svcca: 99 % of variance (raw)",
    ]


def test_axes_are_taken_and_given_back(table, stores):
    figure, axes = plt.subplots(1, 2)
    assert plots.heatmap(table, "max_corr", ax=axes[0]) is axes[0]
    read = readings.within_and_across(table, stores)
    assert plots.readings(read, "max_corr", axes=axes) is axes
    with pytest.raises(sslsim.SslsimError, match="1 axes for 2 relations: same model, other model"):
        plots.readings(read, "max_corr", axes=axes[:1])


def test_readings_draw_a_mean_and_a_best_line_a_model(table, stores):
    read = readings.within_and_across(table, stores)
    left, right = plots.readings(read, "svcca", standardize=False)
    assert len(left.lines) == len(right.lines) == 4
    expected = read[~read.standardize & (read.measure == "svcca") & (read.model == "alpha")]
    expected = expected[expected.relation == "same model"].sort_values("layer")
    np.testing.assert_allclose(left.lines[0].get_ydata(), expected["mean"])
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["same model", "other model"]
    (legend,) = left.figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["alpha", "beta"]


def test_best_matches(stores):
    partners = readings.relate(sslsim.compare_neurons(stores, progress=False)[1], stores)
    ax = plots.best_matches(partners)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["other model"]
    assert ax.get_ylim() == (0, 1.02)
    marks = {line.get_label(): line.get_ydata() for line in ax.lines if line.get_marker() not in ("", "None")}
    assert set(marks) == {"alpha", "beta"}
    assert marks["alpha"] == pytest.approx(partners[partners.model_x == "alpha"].value.abs().median())


def test_finetuning_panels_and_pair_heatmaps(table):
    changed = pd.DataFrame(
        {"measure": "svcca", "standardize": True, "pretrained": "alpha", "finetuned": "beta", "layer": [0, 1, 2]}
    ).assign(value=[0.9, 0.8, 0.7], other_seed=[0.5, 0.4, 0.3], other_family=0.2)
    figure = plots.finetuning(changed, ["svcca"])
    solid, dashed, dotted = figure.axes[0].lines
    assert solid.get_ydata().tolist() == [0.9, 0.8, 0.7]
    assert dashed.get_ydata().tolist() == [0.5, 0.4, 0.3]
    assert (dashed.get_linestyle(), dotted.get_linestyle()) == ("--", ":")
    maps = plots.pair_heatmaps(table, [("alpha", "beta"), ("beta", "alpha")], ["svcca", "max_corr"])
    assert [ax.collections[0].get_array().size for ax in maps.axes[:4]] == [12, 12, 12, 12]


def test_a_measure_that_is_not_in_the_table_is_named(table):
    with pytest.raises(
        sslsim.SslsimError, match=r"no rows of svca \(standardised\); did you mean 'svcca \(standardised\)'"
    ):
        plots.heatmap(table, "svca")


def test_one_model_has_no_partners_to_draw_but_readings(stores):
    table, partners = sslsim.compare_neurons(stores[:1], ["max_corr"], progress=False)
    (only,) = plots.readings(readings.within_and_across(table, stores[:1]), "max_corr")
    assert only.get_title(loc="left") == "same model"
    with pytest.raises(
        sslsim.SslsimError, match="no best matches to draw; compare at least two checkpoints, by a measure"
    ):
        plots.best_matches(readings.relate(partners, stores[:1]))


def test_no_measure_is_refused(table):
    with pytest.raises(sslsim.SslsimError, match="no measure to draw; give a list of at least one"):
        plots.heatmaps(table, [])
    with pytest.raises(sslsim.SslsimError, match="no measure to draw"):
        plots.finetuning(table, [])


def test_scale_free_measures_are_those_that_the_measures_say():
    of_attention = {*sslsim.ATTENTION_MEASURES, "attention_cka"}
    assert {name for name, measure in sslsim.MEASURES.items() if not measure.scaling} | of_attention == plots.SCALE_FREE
    assert set(plots.NAMES) == set(sslsim.MEASURES) | of_attention
