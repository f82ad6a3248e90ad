"""Figures: what is labelled, what scale they have, and what they refuse."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import sslsim

mpl.use("Agg")

import matplotlib.pyplot as plt

from sslsim.analysis import summaries as readings
from sslsim.comparison.tables import RELATIONS, square_table
from sslsim.figures import heatmaps as plots


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
    others = {*sslsim.ATTENTION_MEASURES, "attention_cka", *plots.EXCESSES}
    assert {name for name, measure in sslsim.MEASURES.items() if not measure.scaling} | others == plots.SCALE_FREE
    assert set(plots.NAMES) == set(sslsim.MEASURES) | others
    matching = [name for name, measure in sslsim.MEASURES.items() if measure.matching]
    excesses = {f"{name}_excess_{side}" for name in matching for side in "xy"}
    assert {"neurons_shared", *excesses} == set(plots.EXCESSES)


def controlled(values, measure="svcca", names=("alpha", "beta"), **columns):
    """Return a table of an evidence between models of two layers: values (4, 4), further columns of the same shape."""
    labels = [(name, layer) for name in names for layer in range(2)]
    rows = [(*x, *y) for x in labels for y in labels]
    table = pd.DataFrame(rows, columns=["model_x", "layer_x", "model_y", "layer_y"])
    numbers = {"value": values} | columns
    table = table.assign(**{name: np.broadcast_to(grid, (4, 4)).ravel() for name, grid in numbers.items()})
    return table.assign(measure=measure, standardize=True)


def struck(ax):
    """Return row and column of the cells that are struck through, and the colours of the strokes."""
    (strokes,) = (c for c in ax.collections if isinstance(c, mpl.collections.LineCollection))
    cells = [(int(y.min()), int(x.min())) for x, y in (segment.T for segment in strokes.get_segments())]
    return cells, strokes.get_colors()


def test_above_chance_shows_what_chance_leaves_and_strikes_the_rest():
    value = np.linspace(0.2, 0.95, 16).reshape(4, 4)
    threshold = np.full((4, 4), 0.1)
    threshold[0, 2], threshold[3, 1] = value[0, 2], np.nan  # as high as chance gets; not known
    ax = plots.above_chance(controlled(value, chance=0.25, threshold=threshold), "svcca")
    mesh = ax.collections[0]
    np.testing.assert_allclose(np.reshape(mesh.get_array(), (4, 4)), value - 0.25)
    assert mesh.get_clim() == (0, 1)
    assert struck(ax)[0] == [(0, 2), (3, 1)]
    assert ax.get_title(loc="left") == "svcca: 99 % of variance (standardised)"
    bar = mesh.colorbar
    assert bar.ax.get_ylabel() == "similarity above chance\nstruck through: chance explains it (p > 0.05)"
    assert bar.extend == "min"  # 0.05 below chance, in the colour of 0
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1", "0", "1"]


def test_pairs_that_were_not_computed_are_grey_and_not_struck():
    table = controlled(np.full((4, 4), 0.5), chance=0.1, threshold=0.6)
    table = table[(table.model_x == "alpha") | (table.model_y == "alpha")]
    ax = plots.above_chance(table, "svcca")
    hidden = np.reshape(np.ma.getmaskarray(ax.collections[0].get_array()), (4, 4))
    assert hidden.tolist() == [[False] * 4] * 2 + [[False, False, True, True]] * 2
    assert len(struck(ax)[0]) == 12
    assert mpl.colors.same_color(ax.collections[0].get_cmap().get_bad(), "0.88")
    assert plots.heatmap(table, "svcca").collections[0].get_array().mask.sum() == 4


def test_above_chance_shows_an_excess_as_it_is_on_a_scale_of_its_own():
    value = np.full((4, 4), 0.02)
    value[:2, :2] = value[2:, 2:] = 0.9  # a model and itself do not set the scale
    value[0, 3], p, rotation = 0.049, np.full((4, 4), 1 / 21), np.full((4, 4), 1 / 21)
    p[0, 2], rotation[1, 2], p[1, 3], rotation[1, 3] = 2 / 21, 0.5, np.nan, np.nan
    rotation[0, 0], p[2, 0] = 1.0, np.nan
    table = controlled(value, "neurons_shared", chance=0.01, p=p, p_rotation=rotation)
    ax = plots.above_chance(table, "neurons_shared")
    mesh = ax.collections[0]
    np.testing.assert_allclose(np.reshape(mesh.get_array(), (4, 4)), value)
    assert mesh.get_clim() == (0, 0.05)
    assert mesh.colorbar.extend == "max"
    cells, colours = struck(ax)
    assert cells == [(0, 0), (0, 2), (1, 2), (1, 3)]  # p unknown: p_rotation decides; both unknown: struck
    assert [mpl.colors.to_hex(c) for c in colours] == ["#000000"] + ["#ffffff"] * 3  # legible on bright cells too
    assert ax.get_title(loc="left") == plots.NAMES["neurons_shared"]
    assert "p > 0.05 against them or chance" in mesh.colorbar.ax.get_ylabel()
    table = controlled(value, "matched_corr_excess_y", p=np.nan, p_rotation=rotation)
    label = plots.above_chance(table, "matched_corr_excess_y").collections[0].colorbar.ax.get_ylabel()
    assert label.endswith("p > 0.05 against them")


def test_above_chance_takes_the_table_of_an_evidence(make_store):
    stores = [make_store(name, seed=i, frames=(30, 40, 35, 38)) for i, name in enumerate(["alpha", "beta"])]
    found = sslsim.evidence(stores, ["max_corr", "svcca"], draws=20, groups=3, progress=False)
    figure = plots.companions(found.table(), ["max_corr", "neurons_shared", "svcca"])
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert titles == [plots.NAMES["max_corr"], plots.NAMES["neurons_shared"], "svcca: 99 % of variance (standardised)"]
    for measure, ax in zip(["max_corr", "svcca"], (figure.axes[0], figure.axes[2]), strict=True):
        rows = found.table()[lambda t, m=measure: t.measure == m]
        assert len(struck(ax)[0]) == (rows.value <= rows.threshold).sum()


def test_companions_are_in_the_places_of_heatmaps():
    table = controlled(np.full((4, 4), 0.5), chance=0.1, threshold=0.2)
    table = pd.concat([table, table.assign(standardize=False), table.assign(measure="max_corr")])
    call = {"measures": ["max_corr", "svcca"], "standardize": (True, False)}
    first, second = plots.heatmaps(table, **call), plots.companions(table, **call)
    for a, b in zip(first.axes[:3], second.axes[:3], strict=True):
        assert a.get_title(loc="left") == b.get_title(loc="left")
        assert a.get_subplotspec().num1 == b.get_subplotspec().num1
    with pytest.raises(sslsim.SslsimError, match="no measure to draw"):
        plots.companions(table, [])


def test_a_table_without_controls_is_refused(table):
    with pytest.raises(
        sslsim.SslsimError, match="no column chance, threshold; give one from sslsim.evidence, draws ab"
    ):
        plots.above_chance(table, "svcca")
    with pytest.raises(sslsim.SslsimError, match="no column p_rotation; give one from sslsim.evidence"):
        plots.above_chance(table.assign(measure="neurons_shared", p=1.0), "neurons_shared")


@pytest.fixture
def depths():
    rows = pd.DataFrame({"depth": [1.0, 0.0, 0.5], "value": [0.7, 0.5, 0.6], "ci_low": [0.6, 0.4, 0.5]})
    rows = rows.assign(ci_high=rows.value + 0.1, chance=0.2, measure="svcca", standardize=True)
    return pd.concat([rows.assign(relation="untrained"), rows.assign(relation="other seed", value=rows.value + 0.2)])


def test_along_depth_draws_a_line_a_relation_with_its_interval_and_chance(depths):
    ax = plots.along_depth(depths, "svcca")
    seed, chance, untrained, _ = ax.lines
    assert (seed.get_label(), untrained.get_label()) == ("other seed", "untrained")  # in the order of relations
    assert seed.get_xdata().tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(seed.get_ydata(), [0.7, 0.8, 0.9])
    assert chance.get_ydata().tolist() == [0.2] * 3
    assert (chance.get_linestyle(), chance.get_color()) == (":", seed.get_color())
    band = ax.collections[1].get_paths()[0].get_extents()
    np.testing.assert_allclose([band.y0, band.y1], [0.4, 0.8])
    assert ax.get_ylim() == (0, 1.02)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["other seed", "untrained"]


def test_along_depths_draws_a_panel_a_measure_like_along_depth(depths):
    table = pd.concat([depths, depths.assign(measure="cca", value=depths.value / 2)])
    figure = plots.along_depths(table, ["cca", "svcca"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [plots._title("cca", True), plots._title("svcca", True)]
    alone = plots.along_depth(depths, "svcca")
    for mine, its in zip(figure.axes[1].lines, alone.lines, strict=True):
        np.testing.assert_array_equal(mine.get_xydata(), its.get_xydata())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["other seed", "untrained"]
    with pytest.raises(sslsim.SslsimError, match="no measure to draw"):
        plots.along_depths(table, [])


def test_a_relation_looks_the_same_whatever_else_is_drawn(depths):
    alone = plots.along_depth(depths[depths.relation == "untrained"], "svcca").lines[0]
    among = plots.along_depth(depths, "svcca").lines[2]
    assert (alone.get_color(), alone.get_marker()) == (among.get_color(), among.get_marker())
    assert set(plots.RELATION_LOOKS) == set(RELATIONS)
    colours, markers = zip(*plots.RELATION_LOOKS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(RELATIONS)


def test_what_along_depth_refuses(depths):
    with pytest.raises(sslsim.SslsimError, match="no column ci_low, chance; give one a row a relation and depth"):
        plots.along_depth(depths.drop(columns=["ci_low", "chance"]), "svcca")
    with pytest.raises(sslsim.SslsimError, match="unknown relation 'other seeds'; did you mean 'other seed'"):
        plots.along_depth(depths.assign(relation="other seeds"), "svcca")
    with pytest.raises(sslsim.SslsimError, match=r"no rows of cca \(standardised\)"):
        plots.along_depth(depths, "cca")


def test_what_is_all_but_zero_leaves_the_axis_at_zero(depths):
    assert plots.along_depth(depths.assign(chance=-0.001), "svcca").get_ylim() == (-0.02, 1.02)
    assert plots.along_depth(depths.assign(chance=-0.1), "svcca").get_ylim() == (-0.25, 1.02)


def test_an_excess_along_depth_has_an_axis_of_its_own(depths):
    table = depths.assign(measure="neurons_shared", **{c: depths[c] / 10 for c in ("value", "ci_low", "ci_high")})
    ax = plots.along_depth(table.assign(chance=-0.001), "neurons_shared")
    assert ax.get_ylim()[1] < 0.12
    assert ax.get_ylabel() == "excess over random bases"
    assert ax.get_title(loc="left") == plots.NAMES["neurons_shared"]


def test_partners_stand_beside_what_the_same_neurons_find_by_chance():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"model_x": "alpha", "layer_x": 0, "neuron_x": range(40), "model_y": "beta"})
    table = table.assign(value=-rng.uniform(0.6, 0.9, 40), rotated=rng.uniform(0.4, 0.5, 40), relation="other seed")
    table = table.assign(chance=rng.uniform(0.1, 0.2, 40))
    table = pd.concat([table.assign(relation="untrained"), table])
    ax = plots.partners_against_null(table)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["other seed", "untrained"]
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["best match", "in random bases", "on mismatched utterances"]
    shapes = [shape.get_paths()[0].get_extents() for shape in ax.collections[:6]]
    ends = {(round(s.y0, 6), round(s.y1, 6)) for s in shapes}
    columns = (table.value.abs(), table.rotated, table.chance)
    assert ends == {(round(c.min(), 6), round(c.max(), 6)) for c in columns}
    assert ax.get_ylim() == (0, 1.02)
    with pytest.raises(sslsim.SslsimError, match="no column rotated, chance; give one from sslsim.neuron_evidence"):
        plots.partners_against_null(table.drop(columns=["rotated", "chance"]))
    with pytest.raises(sslsim.SslsimError, match="no best matches to draw"):
        plots.partners_against_null(table.iloc[:0])


def vectors(n_models=3, n_layers=2, dimensions=2, seed=0):
    """Make unit vectors of layers and the table of their cosines, so that a map can be right."""
    points = np.random.default_rng(seed).standard_normal((n_models * n_layers, dimensions + 1))
    points[:, -1] = 2.0
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = [(name, layer) for name in ("alpha", "beta", "untrained-a")[:n_models] for layer in range(n_layers)]
    table = square_table({"svcca": points @ points.T}, labels, ["model", "layer"])
    return points, table.assign(standardize=True)


def drawn(ax):
    """Return places of all layers in a map, in the order of models."""
    return np.concatenate([line.get_xydata() for line in ax.lines if line.get_linestyle() == "-"])


def test_a_map_keeps_distances_and_says_how_much_of_them():
    angles = np.array([0.0, 0.3, 0.8, 1.3, 2.0, 2.4])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # a plane holds it all
    table = square_table({"svcca": circle @ circle.T}, [(n, i) for n in "ab" for i in range(3)], ["model", "layer"])
    ax = plots.layer_map(table.assign(standardize=True), "svcca")
    places = drawn(ax)
    expected = np.linalg.norm(circle[:, None] - circle, axis=2)
    np.testing.assert_allclose(np.linalg.norm(places[:, None] - places, axis=2), expected, atol=1e-7)
    title = "svcca: 99 % of variance (standardised)\n100 % of squared distance in this plane; hollow: first layer"
    assert ax.get_title(loc="left") == title
    points, table = vectors(dimensions=5)
    share = plots.layer_map(table, "svcca").get_title(loc="left").split("\n")[1]
    values = np.linalg.svd(points - points.mean(0), compute_uv=False) ** 2
    assert share.startswith(f"{100 * values[:2].sum() / values.sum():.0f} % of squared distance")


def test_a_map_averages_directions_and_counts_negative_eigenvalues_against_itself():
    _, table = vectors()
    skew = np.where(table.model_x < table.model_y, 0.05, np.where(table.model_x > table.model_y, -0.05, 0))
    before = drawn(plots.layer_map(table, "svcca"))
    np.testing.assert_allclose(drawn(plots.layer_map(table.assign(value=table.value + skew), "svcca")), before)
    similarity = np.array([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1.0]])  # no cosines: two steps are shorter than one
    places, share = plots._plane(similarity)
    centre = np.eye(3) - 1 / 3
    values = np.linalg.eigvalsh(centre @ similarity @ centre)
    assert values.min() < -0.01
    assert share == pytest.approx(np.clip(np.sort(values)[-2:], 0, None).sum() / np.abs(values).sum())
    assert share < 1
    assert np.isfinite(places).all()


def test_a_map_joins_layers_in_order_names_models_and_greys_baselines():
    _, table = vectors()
    shuffled = table.sort_values(["layer_x", "layer_y"], ascending=False)  # whatever the order of the table
    for rows in (table, shuffled):
        ax = plots.layer_map(rows, "svcca")
        names = {t.get_text(): t for t in ax.texts}
        assert set(names) == {"alpha", "beta", "untrained-a"}
        paths = [line for line in ax.lines if line.get_linestyle() == "-"]
        hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
        for path, first in zip(paths, hollow, strict=True):
            np.testing.assert_allclose(first.get_xydata()[0], path.get_xydata()[0])
        ends = [tuple(path.get_xydata()[-1]) for path in paths]
        assert {tuple(t.xy) for t in names.values()} == set(ends)
        grey = [path.get_color() == "0.6" for path in paths]
        assert [names["untrained-a"].xy == end for end in ends] == grey
    ax = plots.layer_map(table, "svcca", baselines=["alpha", "beta"])
    assert [line.get_color() == "0.6" for line in ax.lines if line.get_linestyle() == "-"] == [True, True, False]
    with pytest.raises(sslsim.SslsimError, match="no model 'alfa' to draw as a baseline; did you mean 'alpha'"):
        plots.layer_map(table, "svcca", baselines=["alfa"])


def test_a_model_of_one_layer_is_a_baseline_of_a_map():
    _, table = vectors()
    one = table[~((table.model_x == "beta") & (table.layer_x > 0)) & ~((table.model_y == "beta") & (table.layer_y > 0))]
    ax = plots.layer_map(one, "svcca")
    assert [line.get_color() == "0.6" for line in ax.lines if line.get_linestyle() == "-"] == [False, True, True]


def test_names_on_a_map_do_not_overlap():
    rng = np.random.default_rng(1)
    points = np.array([1.0, 0, 0]) + 0.01 * rng.standard_normal((42, 3))  # fourteen models in one place
    points[0] = [0, 1, 0]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    labels = [(f"hubert-small-{m}", layer) for m in range(14) for layer in range(3)]
    table = square_table({"svcca": points @ points.T}, labels, ["model", "layer"]).assign(standardize=True)
    ax = plots.layer_map(table, "svcca")
    ax.figure.canvas.draw()
    boxes = [mpl.text.Text.get_window_extent(text) for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(ax.get_window_extent().padded(2).fully_containsx(x) for box in boxes for x in (box.x0, box.x1))


def test_a_map_lacks_no_pair():
    _, table = vectors()
    holes = (table.model_x == "untrained-a") & (table.model_y == "beta")
    with pytest.raises(
        sslsim.SslsimError,
        match="lacks the similarity of beta layer 0 and untrained-a layer 0 .and of 3 more pairs.; a map needs every",
    ):
        plots.layer_map(table[~holes], "svcca")
    with pytest.raises(sslsim.SslsimError, match="a map needs at least 3 layers, got 2"):
        plots.layer_map(table[(table.model_x == "beta") & (table.model_y == "beta")], "svcca")
    rows = table[table.model_x == "alpha"]  # a table that is not square
    with pytest.raises(sslsim.SslsimError, match="lacks the similarity of alpha layer 0 and beta layer 0"):
        plots.layer_map(rows, "svcca")


def test_best_matching_layers_draws_means_over_other_models():
    table = pd.DataFrame({"model": "alpha", "depth": [0, 0, 1, 1], "best_depth": [0.2, 0.4, 0.5, 1.0]})
    table = table.assign(relation="same family", best_model=["beta", "gamma"] * 2)
    table = pd.concat([table, table.assign(relation="untrained", model="beta", best_depth=0.5)])
    left, right = plots.best_matching_layers(table)
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["same family", "untrained"]
    diagonal, each, mean, *_ = left.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert each.get_ydata().tolist() == [0.2, 0.4, 0.5, 1.0]
    np.testing.assert_allclose(mean.get_xydata(), [[0, 0.3], [1, 0.75]])
    (legend,) = left.figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["alpha", "beta"]
    assert legend.get_title().get_text() == "mean over the other models; small marks: each; grey: equal depth"
    single = plots.best_matching_layers(table[table.best_model == "beta"])[0].figure.legends[0]
    assert single.get_title().get_text() == "best match in any of the other models; grey: equal depth"
    with pytest.raises(sslsim.SslsimError, match="no column best_depth; give one a row each layer and other model"):
        plots.best_matching_layers(table.drop(columns="best_depth"))
    with pytest.raises(sslsim.SslsimError, match="no relations to draw; the table is empty"):
        plots.best_matching_layers(table.iloc[:0])


@pytest.fixture
def distances():
    rows = pd.DataFrame({"layer": [0, 1, 2], "depth": [0, 0.5, 1], "distance": [0.5, 1.0, 2.0]})
    rows = rows.assign(ci_low=rows.distance - 0.2, ci_high=rows.distance + 0.2, pretrained="alpha", level="layer")
    return pd.concat(
        [rows.assign(finetuned=f"{m}-ctc", measure=name) for name in ("svcca", "max_corr") for m in ("alpha", "beta")]
    ).assign(standardize=True)


def test_moved_draws_a_panel_a_measure_with_another_seed_at_one(distances):
    first, second = plots.moved(distances)
    assert first.get_title(loc="left") == "svcca: 99 % of variance (standardised)"
    assert second.get_title(loc="left") == "max_corr: best single neuron"
    alpha, beta, seed = first.lines
    assert alpha.get_xydata().tolist() == [[0, 0.5], [0.5, 1.0], [1, 2.0]]
    assert (beta.get_label(), seed.get_label()) == ("beta-ctc", "another seed")
    assert seed.get_ydata() == [1, 1]
    band = first.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([band.y0, band.y1], [0.3, 2.2])
    assert first.get_ylim() == second.get_ylim() == (0, 2.2)
    (legend,) = first.figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["alpha-ctc", "beta-ctc", "another seed"]


def test_moved_tells_scalings_apart_and_counts_axes(distances):
    both = pd.concat([distances, distances[distances.measure == "svcca"].assign(standardize=False)])
    titles = [ax.get_title(loc="left") for ax in plots.moved(both)]
    assert titles[2] == "svcca: 99 % of variance (raw)"
    _, axes = plt.subplots(1, 2)
    assert plots.moved(distances.drop(columns="standardize"), axes=axes) is axes
    with pytest.raises(sslsim.SslsimError, match="2 axes for 3 measures: svcca, max_corr, svcca"):
        plots.moved(both, axes=axes)
    with pytest.raises(sslsim.SslsimError, match="no column depth; give one from sslsim.analysis.partners.moved"):
        plots.moved(distances.drop(columns="depth"))
    with pytest.raises(sslsim.SslsimError, match="no measures to draw; the table is empty"):
        plots.moved(distances.iloc[:0])


def test_plateau_draws_scores_and_chance_against_frames():
    rows = pd.DataFrame({"n_frames": [4000, 500, 1000], "value": [0.5, 0.7, 0.6], "chance": [0.1, 0.3, 0.2]})
    rows = rows.assign(pair="alpha in beta", measure="svcca", standardize=True, enough=2560)
    table = pd.concat([rows, rows.assign(measure="cca"), rows.assign(pair="beta in alpha", enough=5120)])
    figure = plots.plateau(table, ["svcca", "cca"])
    left, right = figure.axes
    value, chance = left.lines[:2]
    assert left.get_xscale() == "log"
    assert value.get_xydata().tolist() == [[500, 0.7], [1000, 0.6], [4000, 0.5]]
    assert chance.get_ydata().tolist() == [0.3, 0.2, 0.1]
    assert (value.get_linestyle(), chance.get_linestyle()) == ("-", ":")
    assert [line.get_xdata() for line in left.lines[4:]] == [[2560, 2560], [5120, 5120]]
    assert right.get_title(loc="left") == "cca: mean canonical correlation"
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["alpha in beta", "beta in alpha"]
    assert legend.get_title().get_text() == "solid: similarity; dotted: chance; grey: ten frames a neuron of both"
    bare = plots.plateau(table.drop(columns="enough"), ["svcca"])
    assert len(bare.axes[0].lines) == 4
    assert bare.legends[0].get_title().get_text() == "solid: similarity; dotted: chance"


def test_what_plateau_refuses():
    table = pd.DataFrame({"n_frames": [500], "value": 0.7, "pair": "a", "measure": "svcca", "standardize": True})
    with pytest.raises(sslsim.SslsimError, match="no column chance; give one from sslsim.analysis.partners.plateau"):
        plots.plateau(table, ["svcca"])
    with pytest.raises(sslsim.SslsimError, match=r"no rows of cca \(standardised\)"):
        plots.plateau(table.assign(chance=0.1), ["cca"])
    with pytest.raises(sslsim.SslsimError, match="no measure to draw"):
        plots.plateau(table, [])


def test_power_draws_a_panel_a_claim_with_the_levels_asked_of_it():
    rows = pd.DataFrame({"utterances": [80, 10, 100], "frames": [18000, 2250, 22500], "power": [0.8, 0.3, 0.9]})
    rows = rows.assign(low=rows.power - 0.1, high=rows.power + 0.1, claim="neurons have partners of their own")
    table = pd.concat(
        [rows.assign(kind="none"), rows.assign(kind="a tenth", claim="another"), rows.assign(kind="half")]
    )
    first, second = plots.power(table)
    assert first.get_title(loc="left") == "neurons have partners of their own"
    low, high, none, half = (line for line in first.lines if len(line.get_xdata()))
    assert [line.get_ydata()[0] for line in (low, high)] == [0.05, 0.8]
    assert none.get_xydata().tolist() == [[10, 0.3], [80, 0.8], [100, 0.9]]
    assert (none.get_label(), half.get_label()) == ("none", "half")
    band = first.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([band.y0, band.y1], [0.2, 1.0])
    # of 80 and 100, which are close, only the larger is named
    assert sorted(t.get_text() for t in first.get_xticklabels()) == ["", "10\n2,250", "100\n22,500"]
    (legend,) = second.figure.legends
    assert {t.get_text() for t in legend.get_texts()} == {"none", "half", "a tenth"}
    with pytest.raises(sslsim.SslsimError, match="no column low, high; give one a row a claim, kind and amount"):
        plots.power(table.drop(columns=["low", "high"]))
    with pytest.raises(sslsim.SslsimError, match="no claims to draw; the table is empty"):
        plots.power(table.iloc[:0])


def test_labels_stand_below_the_lowest_panel_of_a_column(distances):
    rows = distances[distances.measure == "svcca"]
    table = pd.concat([rows.assign(measure=name) for name in ("svcca", "cca", "max_corr", "linreg")])
    axes = plots.moved(table)
    assert [ax.get_xlabel() != "" for ax in axes] == [False, True, True, True]  # two panels stand above a gap
    assert [ax.get_ylabel() != "" for ax in axes] == [True, False, False, True]
    axes[0].figure.canvas.draw()
    named = [any(t.get_visible() and t.get_text() for t in ax.get_xticklabels()) for ax in axes]
    assert named == [False, True, True, True]


def test_axes_are_taken_by_every_figure(depths):
    _, ax = plt.subplots()
    assert plots.along_depth(depths, "svcca", ax=ax) is ax
    assert plots.layer_map(vectors()[1], "svcca", ax=plt.subplots()[1]).texts
    own = plt.subplots()[1]
    assert plots.above_chance(controlled(np.eye(4), chance=0.0, threshold=0.1), "svcca", ax=own) is own
