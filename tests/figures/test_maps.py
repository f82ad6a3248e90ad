"""Heatmaps: every value in its place on a fixed scale, what chance explains struck through."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from made_tables import no_trace, square  # noqa: F401

from sslsim.errors import SslsimError
from sslsim.figures.maps import above_chance, above_chance_maps, heatmap, heatmaps, matrix, pair_maps
from sslsim.measures.registry import BEYOND_BASES, title_of

pytestmark = pytest.mark.usefixtures("no_trace")

LAYERS = [("alpha", 0), ("alpha", 1), ("beta", 0), ("beta", 1), ("beta", 2)]
RAMP = np.linspace(0.2, 0.98, 25).reshape(5, 5)


def values(ax):
    """Return what each cell of a heatmap shows, NaN where it is blank."""
    return np.ma.filled(ax.collections[0].get_array().astype(float), np.nan)


def struck(ax):
    """Return row and column of the cells that are struck through, and the colours of the strokes."""
    (strokes,) = (c for c in ax.collections if isinstance(c, mpl.collections.LineCollection))
    cells = [(int(y.min()), int(x.min())) for x, y in (segment.T for segment in strokes.get_segments())]
    return cells, [mpl.colors.to_hex(colour) for colour in strokes.get_colors()]


def test_a_heatmap_shows_every_pair_with_its_names_on_a_fixed_scale():
    table = square(LAYERS, value=RAMP)
    ax = heatmap(pd.concat([table.assign(measure="svcca_raw", value=0.0), table]), "svcca")
    np.testing.assert_array_equal(values(ax), RAMP)
    assert ax.collections[0].get_clim() == (0, 1)
    assert ax.yaxis_inverted()
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [text.get_text() for text in labels] == ["0", "1", "0", "1", "2"]
    assert sorted(text.get_text() for text in ax.texts) == ["alpha", "alpha", "beta", "beta"]


def test_a_crowded_heatmap_says_which_layers_a_model_has_beside_its_name():
    layers = [(name, layer) for name in "ab" for layer in range(1, 23)]
    ax = heatmap(square([*layers, ("c", 0)], value=0.5), "svcca")
    assert [*ax.get_xticks(), *ax.get_yticks()] == []
    assert sorted(text.get_text() for text in ax.texts) == ["a 1-22", "a 1-22", "b 1-22", "b 1-22", "c", "c"]


def test_a_measure_below_zero_widens_the_scale_to_a_quarter():
    assert heatmap(square(LAYERS, value=RAMP - 2.5), "svcca").collections[0].get_clim() == (-2.5, 1)


def test_a_matrix_keeps_the_order_of_the_table():
    grid = matrix(square(LAYERS[::-1], value=RAMP), "svcca")
    assert grid.index.tolist() == grid.columns.tolist() == LAYERS[::-1]
    np.testing.assert_array_equal(grid, RAMP)


def test_maps_of_several_measures_stand_in_the_same_places():
    table = square(LAYERS, value=RAMP, chance=0.1, p_t=0.01)
    table = pd.concat([table.assign(measure=name) for name in ("cca", "svcca", "svcca_raw")])
    names = ["svcca_raw", "svcca", "cca"]
    first, second = heatmaps(table, names), above_chance_maps(table, names)
    for a, b, name in zip(first.axes[:3], second.axes[:3], names, strict=True):
        assert a.get_title(loc="left") == b.get_title(loc="left") == title_of(name)
        assert a.get_subplotspec().num1 == b.get_subplotspec().num1
    figure, ax = plt.subplots()
    assert heatmap(table, "cca", ax=ax) is above_chance(table, "cca", ax=ax) is ax


def test_maps_of_pairs_of_models_have_a_row_a_measure():
    table = square(LAYERS, value=RAMP, chance=0.1, p_t=0.01)
    table = pd.concat([table, table.assign(measure="cca", value=table.value / 2)])
    for above, less in ((False, 0.0), (True, 0.1)):
        figure = pair_maps(table, [("alpha", "beta"), ("beta", "alpha")], ["svcca", "cca"], above_chance=above)
        expected = [RAMP[:2, 2:], RAMP[2:, :2], RAMP[:2, 2:] / 2, RAMP[2:, :2] / 2]
        for ax, grid in zip(figure.axes[:4], expected, strict=True):
            np.testing.assert_allclose(values(ax), grid - less)


def test_above_chance_shows_what_chance_leaves_and_strikes_what_it_explains():
    p = np.full((5, 5), 0.05)
    p[0, 2], p[2, 4], p[3, 1] = 0.051, 1.0, np.nan  # the last has one mismatch, or none
    ax = above_chance(square(LAYERS, value=RAMP, chance=0.25, p_t=p), "svcca")
    np.testing.assert_allclose(values(ax), RAMP - 0.25)
    assert ax.collections[0].get_clim() == (0, 1)
    assert struck(ax) == ([(0, 2), (2, 4)], ["#ffffff"] * 2)
    label = ax.collections[0].colorbar.ax.get_ylabel()
    assert label == "similarity above chance, brightest from 1\nstruck through: chance explains it (p > 0.05)"
    assert ax.collections[0].colorbar.extend == "min"  # 0.05 below chance, in the colour of 0


def test_what_was_not_computed_is_grey_in_the_same_grid_as_other_measures():
    table = square(LAYERS, value=RAMP, chance=0.25, p_t=0.01)
    some = square(LAYERS, "pwcca", value=RAMP, chance=0.25, p_t=0.01)[lambda t: (t.layer_x != 1) & (t.layer_y != 1)]
    ax = above_chance(pd.concat([table, some]), "pwcca")
    kept = np.outer(*2 * [[True, False, True, False, True]])
    np.testing.assert_allclose(values(ax), np.where(kept, RAMP - 0.25, np.nan))
    assert values(above_chance(some, "pwcca")).shape == (3, 3)


def test_little_above_chance_is_seen_on_a_scale_that_its_bar_tells():
    """A measure has one scale in all panels, which a model and itself do not set."""
    table = square(LAYERS, "pearson", value=0.3 + 0.18 * RAMP, chance=0.3, p_t=0.01)
    table.loc[table.model_x == table.model_y, "value"] = 1.0
    scales = {"alpha": (0.0, 0.2), "beta": (0.0, 0.2), "one map": (0.0, 0.2)}
    figure = pair_maps(table, [("alpha", "beta"), ("beta", "alpha")], ["pearson"], above_chance=True)
    axes = [*figure.axes[:2], above_chance(table, "pearson")]
    assert dict(zip(scales, (ax.collections[0].get_clim() for ax in axes), strict=True)) == scales
    assert all("brightest from 0.2" in ax.collections[0].colorbar.ax.get_ylabel() for ax in axes)
    assert axes[2].collections[0].colorbar.extend == "max"
    alone = above_chance(table[(table.model_x == "alpha") & (table.model_y == "beta")], "pearson")
    assert alone.collections[0].get_clim() == (0.0, 0.1)  # by itself it would have another


def test_what_was_not_computed_is_grey_and_not_struck():
    """Pairs of layers that are not in the table, and those that have no chance level."""
    chance = np.full((5, 5), 0.1)
    chance[0, 1], chance[4, 0] = np.nan, np.nan
    table = square(LAYERS, value=0.5, chance=chance, p_t=0.6)
    table = table[(table.model_x == "alpha") | (table.model_y == "alpha")]
    ax = above_chance(table, "svcca")
    grey = np.isnan(chance) | (np.add.outer([0, 0, 1, 1, 1], [0, 0, 1, 1, 1]) == 2)
    np.testing.assert_allclose(values(ax), np.where(grey, np.nan, 0.4))
    assert struck(ax)[0] == [*zip(*np.nonzero(~grey), strict=True)]
    assert mpl.colors.same_color(ax.collections[0].get_cmap().get_bad(), "0.88")
    assert np.isnan(values(heatmap(table, "svcca"))).sum() == 9
    nothing = above_chance(table.assign(chance=np.nan, p_t=np.nan), "svcca")
    assert np.isnan(values(nothing)).all()
    assert struck(nothing)[0] == []


@pytest.mark.parametrize("measure", BEYOND_BASES)
def test_what_is_beyond_bases_is_shown_as_it_is_on_a_scale_of_its_own(measure):
    layers = [(name, layer) for name in ("alpha", "beta") for layer in range(2)]
    value, p, chance = np.full((4, 4), 0.02), np.full((4, 4), 0.01), np.full((4, 4), 0.015)
    value[:2, :2] = value[2:, 2:] = 0.9  # a model and itself do not set the scale
    value[0, 3] = 0.049
    p[0, 0], p[0, 2], p[1, 2] = 1.0, 0.051, 0.5
    p[1, 3], chance[1, 3] = np.nan, np.nan  # no mismatches: shown, not struck
    table = square(layers, measure, value=value, p_t=p, chance=chance, p_rotation=1.0)  # of other bases says nothing
    ax = above_chance(table, measure)
    np.testing.assert_allclose(values(ax), value)
    assert ax.collections[0].get_clim() == (0, 0.05)
    assert ax.collections[0].colorbar.extend == "max"
    cells, colours = struck(ax)
    assert cells == [(0, 0), (0, 2), (1, 2)]
    assert colours == ["#000000"] + ["#ffffff"] * 2  # legible on bright cells too
    label = ax.collections[0].colorbar.ax.get_ylabel()
    assert label == "share, brightest from 0.05\nstruck through: chance explains it (p > 0.05)"


def test_what_is_not_in_the_table_is_named():
    table = square(LAYERS, value=RAMP)
    with pytest.raises(SslsimError, match="no rows of svca; did you mean 'svcca'"):
        heatmap(table, "svca")
    with pytest.raises(SslsimError, match="no measure to draw; give a list of at least one"):
        heatmaps(table, [])
    with pytest.raises(SslsimError, match="no column chance, p_t; give one from sslsim.evidence, with permut"):
        above_chance(table, "svcca")
    with pytest.raises(SslsimError, match="no column p_t; give one from sslsim.evidence"):
        above_chance(table.assign(measure="neuron_count", chance=0.0), "neuron_count")


def test_models_stand_in_one_order_on_both_sides_without_pairs_of_a_model_with_itself():
    pairs = [("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")]
    rows = pd.DataFrame(
        [(x, 0, y, 0, "svcca", 0.5) for x, y in pairs],
        columns=["model_x", "layer_x", "model_y", "layer_y", "measure", "value"],
    )
    grid = matrix(rows, "svcca")
    assert list(grid.columns) == list(grid.index) == [("a", 0), ("b", 0), ("c", 0)]
