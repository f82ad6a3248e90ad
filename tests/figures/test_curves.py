"""Lines: the numbers of the table as lines and bands, axes that are fixed, looks that tell lines apart."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from made_tables import no_trace  # noqa: F401

from sslsim import figures
from sslsim.encoders.lineage import RELATIONS, SEPARATE, Lineage
from sslsim.encoders.lineup import LOG_MEL, Checkpoint
from sslsim.errors import SslsimError
from sslsim.figures import style
from sslsim.measures.registry import BEYOND_BASES

pytestmark = pytest.mark.usefixtures("no_trace")


def lines(ax, linestyle):
    """Return the points of the lines of a style, in the order drawn."""
    return [line.get_xydata().tolist() for line in ax.lines if line.get_linestyle() == linestyle]


def band(ax, place):
    extents = ax.collections[place].get_paths()[0].get_extents()
    return round(extents.y0, 6), round(extents.y1, 6)


def legend(figure):
    (only,) = figure.legends
    assert only.get_title().get_text()
    return [text.get_text() for text in only.get_texts()]


def titles(figure):
    return [ax.get_title(loc="left").split(":")[0] for ax in figure.axes]


def test_looks_tell_lines_apart():
    assert len(set(style.looks(f"model {i}" for i in range(100)).values())) == 100
    assert set(style.RELATION_LOOKS) == set(RELATIONS)
    colours, markers = zip(*style.RELATION_LOOKS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(RELATIONS)


# what protanopes, deuteranopes and tritanopes see of linear RGB (Machado et al. 2009), and what all others do
SEEN = [
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    np.eye(3),
]
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
LAB = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]])


def lab(colours, seen):
    """Return CIELAB but for the constant of L, (n, 3), of colours as someone sees them."""
    rgb = np.array([mpl.colors.to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.array(seen).T, 0, 1) @ XYZ.T / XYZ.sum(1)
    return np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116) @ LAB.T


@pytest.mark.parametrize("seen", SEEN)
def test_colours_of_relations_are_told_apart_by_colour_blind_readers_too(seen):
    """On the scale of CIELAB 100 is from black to white; markers tell lines apart in grey."""
    points = lab([colour for colour, _ in style.RELATION_LOOKS.values()], seen)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)[np.triu_indices(len(points), 1)]
    assert apart.min() > 24.9  # of the two greys of baselines; 10 in the palette before
    lightness = [lab([style.RELATION_LOOKS[relation][0]], seen)[0, 0] for relation in SEPARATE[:3]]
    assert np.diff(lightness).min() > 20  # from close to distant, as printed in grey


LINEAGE = Lineage(
    (
        Checkpoint("wave", "w", family="wav2vec2", size="base"),
        Checkpoint("wave-b", "w", family="wav2vec2", size="base", seed_of="wave"),
        Checkpoint("units", "u", family="hubert", size="base"),
        Checkpoint("units-large", "u", family="hubert", size="large"),
        Checkpoint("mine", "m"),
        Checkpoint("random", "w", size="base", untrained_seed=1),
        Checkpoint("log-mel", LOG_MEL),
    )
)


def test_a_family_has_one_colour_a_size_one_marker_and_baselines_are_grey_in_every_figure():
    names = [checkpoint.name for checkpoint in LINEAGE.checkpoints]
    of, named = style.kinds(names, LINEAGE)
    assert of["wave"] == of["wave-b"] == "wav2vec2 base"
    assert list(named) == ["wav2vec2 base", "hubert base", "hubert large", "mine", "untrained base", "spectrogram"]
    colours, markers = zip(*named.values(), strict=True)
    assert colours[1] == colours[2]
    assert len({colours[0], colours[1], colours[3]}) == 3
    assert markers[0] == markers[1] != markers[2]
    assert all(len(set(colour)) == 1 for colour in colours[4:])  # grey
    assert not {colours[k] for k in (0, 1, 3)} & {look[0] for look in style.RELATION_LOOKS.values()}
    assert style.kinds(["units-large"], LINEAGE)[1]["hubert large"] == named["hubert large"]  # whatever else is drawn
    with pytest.raises(SslsimError, match="the lineage has no 'other'; give that of the stores of the table"):
        style.kinds(["wave", "other"], LINEAGE)


def test_models_of_one_family_and_size_are_one_line_which_is_their_mean():
    rows = pd.DataFrame({"layer": [0, 1], "mean": [0.3, 0.4], "relation": "other family", "measure": "svcca"})
    table = pd.concat([rows.assign(model="wave"), rows.assign(model="wave-b", mean=0.5), rows.assign(model="units")])
    figure = figures.layer_lines(table, "svcca", LINEAGE)
    np.testing.assert_allclose(lines(figure.axes[0], "-"), [[[0, 0.4], [1, 0.45]], [[0, 0.3], [1, 0.4]]])
    assert legend(figure) == ["wav2vec2 base", "hubert base"]


def test_finetuned_models_have_the_look_of_their_kind_unless_two_would_look_alike():
    rows = pd.DataFrame({"layer": [0, 1], "depth": [0, 1], "distance": 1.0, "ci_low": 1.0, "ci_high": 1.0})
    rows = rows.assign(measure="svcca", pretrained="units")
    kind = style.kinds(["wave", "units"], LINEAGE)[1]["hubert base"]
    table = pd.concat([rows.assign(finetuned="wave"), rows.assign(finetuned="units")])
    line = figures.distance_moved(table, LINEAGE).axes[0].lines[1]
    assert (line.get_color(), line.get_marker()) == kind
    table = pd.concat([rows.assign(finetuned="wave"), rows.assign(finetuned="wave-b")])
    first, second = figures.distance_moved(table, LINEAGE).axes[0].lines[:2]
    assert (first.get_color(), first.get_marker()) != (second.get_color(), second.get_marker())


def test_layer_lines_are_means_with_a_line_a_model_and_a_panel_a_relation():
    rows = pd.DataFrame({"layer": [2, 0, 1], "mean": [0.5, 0.3, 0.4], "best": [0.8, 0.6, 0.7], "measure": "svcca"})
    others = [rows.assign(model=m, relation=r) for m in ("alpha", "beta") for r in ("untrained", "same model")]
    others += [rows.assign(model="alpha", relation="untrained", measure="svcca_raw", mean=0.0)]
    figure = figures.layer_lines(pd.concat(others), "svcca")
    assert titles(figure) == ["same model", "untrained"]  # in the order of relations
    for ax in figure.axes:
        assert lines(ax, "-") == [[[0, 0.3], [1, 0.4], [2, 0.5]]] * 2
        assert lines(ax, "--") == []
        assert ax.get_ylim() == (0, 1.02)
        assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 2
    assert legend(figure) == ["alpha", "beta"]


def test_finetuning_lines_stand_beside_their_yardsticks():
    table = pd.DataFrame({"measure": "svcca", "pretrained": "alpha", "finetuned": "beta", "layer": [0, 1, 2]})
    table = table.assign(value=[0.9, 0.8, 0.7], other_seed=[0.5, 0.4, 0.3], other_family=0.2)
    table = pd.concat([table, table.assign(measure="pearson", other_seed=np.nan, other_family=-0.3)])
    figure = figures.finetuning_lines(table, ["svcca", "pearson"])
    ax = figure.axes[0]
    assert lines(ax, "-") == [[[0, 0.9], [1, 0.8], [2, 0.7]]]
    assert lines(ax, "--") == [[[0, 0.5], [1, 0.4], [2, 0.3]]]
    assert lines(ax, ":") == [[[0, 0.2], [1, 0.2], [2, 0.2]]]
    assert [ax.get_ylim() for ax in figure.axes] == [(0, 1.02), (-0.5, 1.02)]
    assert titles(figure) == ["svcca", "pearson"]
    assert legend(figure) == ["alpha to beta"]


@pytest.fixture
def depths():
    rows = pd.DataFrame({"depth": [1.0, 0.0, 0.5], "value": [0.7, 0.5, 0.6], "ci_low": [0.6, 0.4, 0.5]})
    rows = rows.assign(ci_high=rows.value + 0.1, chance=0.2, measure="svcca")
    return pd.concat([rows.assign(relation="untrained"), rows.assign(relation="other seed", value=rows.value + 0.2)])


def test_along_depth_has_a_line_a_relation_with_its_interval_and_chance(depths):
    figure = figures.along_depth(pd.concat([depths, depths.assign(measure="cca", value=0.1)]), ["cca", "svcca"])
    assert titles(figure) == ["cca", "svcca"]
    ax = figure.axes[1]
    seed, untrained = [[0, 0.7], [0.5, 0.8], [1, 0.9]], [[0, 0.5], [0.5, 0.6], [1, 0.7]]
    np.testing.assert_allclose(lines(ax, "-"), [seed, untrained])  # in the order of relations
    assert lines(ax, ":") == [[[0, 0.2], [0.5, 0.2], [1, 0.2]]] * 2
    assert {line.get_color() for line in ax.lines} == {style.RELATION_LOOKS[r][0] for r in legend(figure)}
    assert band(ax, 1) == (0.4, 0.8)
    assert ax.get_ylim() == (0, 1.02)
    assert legend(figure) == ["other seed", "untrained"]


def test_a_relation_looks_the_same_whatever_else_is_drawn(depths):
    alone = figures.along_depth(depths[depths.relation == "untrained"], "svcca").axes[0].lines[-1]
    among = figures.along_depth(depths, "svcca").axes[0].lines[-1]
    assert (alone.get_color(), alone.get_marker()) == (among.get_color(), among.get_marker())


@pytest.mark.parametrize(("chance", "bottom"), [(-0.001, -0.02), (-0.1, -0.25)])
def test_what_is_all_but_zero_leaves_the_axis_at_zero(depths, chance, bottom):
    assert figures.along_depth(depths.assign(chance=chance), "svcca").axes[0].get_ylim() == (bottom, 1.02)


def test_what_is_beyond_bases_has_an_axis_of_its_own_along_depth(depths):
    small = depths.assign(chance=-0.001, **{c: depths[c] / 10 for c in ("value", "ci_low", "ci_high")})
    both = pd.concat([depths, *(small.assign(measure=name) for name in BEYOND_BASES)])
    figure = figures.along_depth(both, ["svcca", *BEYOND_BASES])
    assert figure.axes[0].get_ylim() == (0, 1.02)
    assert all(0.08 < ax.get_ylim()[1] < 0.12 for ax in figure.axes[1:])
    assert [ax.get_ylabel() for ax in figure.axes] == ["similarity", "share", "share"]


def test_best_matching_layers_are_means_over_other_models():
    table = pd.DataFrame({"model": "alpha", "depth": [0, 0, 1, 1], "best_depth": [0.2, 0.4, 0.5, 1.0]})
    table = table.assign(relation="same family", best_model=["beta", "gamma"] * 2)
    table = pd.concat([table, table.assign(relation="untrained", model="beta", best_depth=0.5)])
    figure = figures.best_matching_layers(table)
    diagonal, mean = lines(figure.axes[0], "-")
    assert diagonal == [[0, 0], [1, 1]]
    np.testing.assert_allclose(mean, [[0, 0.3], [1, 0.75]])
    assert [y for _, y in lines(figure.axes[0], "None")[0]] == [0.2, 0.4, 0.5, 1.0]
    assert titles(figure) == ["same family", "untrained"]
    assert legend(figure) == ["alpha", "beta"]


@pytest.fixture
def distances():
    rows = pd.DataFrame({"layer": [0, 1, 2], "depth": [0, 0.5, 1], "distance": [0.5, 1.0, 2.0]})
    rows = rows.assign(ci_low=rows.distance - 0.2, ci_high=rows.distance + 0.2, pretrained="alpha")
    return pd.concat([rows.assign(finetuned=f"{m}-ctc", measure=n) for n in ("svcca_raw", "cca") for m in "ab"])


def test_distance_moved_has_another_seed_at_one(distances):
    figure = figures.distance_moved(distances)
    assert figure.axes[0].get_title(loc="left").endswith("raw")
    for ax in figure.axes:
        assert lines(ax, "-") == [[[0, 0.5], [0.5, 1.0], [1, 2.0]]] * 2
        assert lines(ax, "--") == [[[0, 1], [1, 1]]]
        assert band(ax, 0) == (0.3, 2.2)
        assert ax.get_ylim() == (0, 2.2)
    assert legend(figure) == ["a-ctc", "b-ctc", "another seed"]


def test_labels_stand_below_the_lowest_panel_of_a_column(distances):
    rows = distances[distances.measure == "cca"]
    figure = figures.distance_moved(pd.concat([rows.assign(measure=m) for m in ("svcca", "cca", "max_corr", "linreg")]))
    figure.canvas.draw()
    assert [ax.get_xlabel() != "" for ax in figure.axes] == [False, True, True, True]  # two stand above a gap
    assert [ax.get_ylabel() != "" for ax in figure.axes] == [True, False, False, True]
    numbered = [any(t.get_visible() and t.get_text() for t in ax.get_xticklabels()) for ax in figure.axes]
    assert numbered == [False, True, True, True]


def test_convergence_draws_scores_and_chance_against_frames():
    rows = pd.DataFrame({"n_frames": [4000, 500, 1000], "value": [0.5, 0.7, 0.6], "chance": [0.1, 0.3, 0.2]})
    rows = rows.assign(pair="alpha in beta", measure="svcca", enough=2560)
    table = pd.concat([rows, rows.assign(measure="cca"), rows.assign(pair="beta in alpha", enough=5120)])
    figure = figures.convergence(table, ["svcca", "cca"])
    left = figure.axes[0]
    assert left.get_xscale() == "log"
    assert lines(left, ":") == [[[500, 0.3], [1000, 0.2], [4000, 0.1]]] * 2
    *scores, first, second = lines(left, "-")
    assert scores == [[[500, 0.7], [1000, 0.6], [4000, 0.5]]] * 2
    assert (first[0][0], second[0][0]) == (2560, 5120)
    assert legend(figure) == ["alpha in beta", "beta in alpha"]


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (
            lambda t: figures.along_depth(t.drop(columns=["ci_low", "chance"]), "svcca"),
            "no column ci_low, chance; give",
        ),
        (lambda t: figures.along_depth(t.assign(relation="other seeds"), "svcca"), "did you mean 'other seed'"),
        (lambda t: figures.along_depth(t, "ccca"), "no rows of ccca"),
        (lambda t: figures.along_depth(t, []), "no measure to draw; give a list of at least one"),
        (figures.best_matching_layers, "no column model, best_depth; give one from sslsim.analysis.best_depths"),
        (lambda t: figures.best_matching_layers(t.assign(model="a", best_depth=0)[:0]), "the table is empty"),
        (figures.distance_moved, "no column finetuned, distance; give one from sslsim.analysis.distance_moved"),
        (lambda t: figures.distance_moved(t.assign(finetuned="a", distance=0)[:0]), "no measures to draw; the table"),
        (lambda t: figures.convergence(t, ["svcca"]), "no column pair, n_frames, enough; give one from sslsim.anal"),
        (lambda t: figures.finetuning_lines(t, []), "no measure to draw"),
        (lambda t: figures.layer_lines(t, "svca"), "no rows of svca; did you mean 'svcca'"),
    ],
)
def test_what_lines_refuse(depths, draw, match):
    with pytest.raises(SslsimError, match=match):
        draw(depths)
