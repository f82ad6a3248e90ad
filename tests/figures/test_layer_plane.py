"""The map of layers: distances as they are, and how much of them the plane holds."""

import itertools

import numpy as np
import pandas as pd
import pytest
from made_tables import no_trace, square  # noqa: F401
from matplotlib.text import Annotation

from sslsim.errors import SslsimError
from sslsim.figures import layer_map
from sslsim.figures.maps import plane

pytestmark = pytest.mark.usefixtures("no_trace")


def vectors(dimensions=2):
    """Make unit vectors of layers and the table of their cosines, so that a map can be right."""
    layers = [(name, layer) for name in ("alpha", "beta", "untrained-a") for layer in range(2)]
    points = np.random.default_rng(0).standard_normal((6, dimensions + 1))
    points[:, -1] = 2.0
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points, square(layers, value=points @ points.T)


def drawn(table):
    """Return the axes of a map and the path of each model by name."""
    (ax,) = layer_map(table, "svcca").axes
    return ax, {line.get_label(): line for line in ax.lines if line.get_linestyle() == "-"}


def places(table):
    return np.concatenate([path.get_xydata() for path in drawn(table)[1].values()])


def test_a_map_keeps_distances_and_says_how_much_of_them():
    angles = np.array([0.0, 0.3, 0.8, 1.3, 2.0, 2.4])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # a plane holds it all
    table = square([(n, i) for n in "ab" for i in range(3)], value=circle @ circle.T)
    expected, points = np.linalg.norm(circle[:, None] - circle, axis=2), places(table)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points, axis=2), expected, atol=1e-7)
    assert "100 % of squared distance" in drawn(table)[0].get_title(loc="left")
    points, table = vectors(dimensions=5)
    values = np.linalg.svd(points - points.mean(0), compute_uv=False) ** 2
    share = f"{100 * values[:2].sum() / values.sum():.0f} % of squared distance"
    assert share in drawn(table)[0].get_title(loc="left")


def test_a_map_averages_directions():
    _, table = vectors()
    skew = np.where(table.model_x < table.model_y, 0.05, np.where(table.model_x > table.model_y, -0.05, 0))
    np.testing.assert_allclose(places(table.assign(value=table.value + skew)), places(table))


def test_negative_eigenvalues_count_against_a_map():
    similarity = np.array([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1.0]])  # no cosines: two steps are shorter than one
    points, share = plane(similarity)
    centre = np.eye(3) - 1 / 3
    values = np.linalg.eigvalsh(centre @ similarity @ centre)
    assert values.min() < -0.01
    assert share == pytest.approx(np.clip(np.sort(values)[-2:], 0, None).sum() / np.abs(values).sum())
    assert share < 1
    assert np.isfinite(points).all()


def test_a_map_joins_layers_in_order_and_greys_what_was_not_trained():
    _, table = vectors()
    for rows in (table, table.sort_values(["layer_x", "layer_y"], ascending=False)):  # whatever their order
        ax, paths = drawn(rows)
        hollow = [line.get_xydata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]
        np.testing.assert_allclose(hollow, [path.get_xydata()[0] for path in paths.values()])
        assert {name for name, path in paths.items() if path.get_color() == "0.6"} == {"untrained-a"}
        assert {text.get_text() for text in ax.figure.legends[0].get_texts()} == set(paths)


def test_a_map_lacks_no_pair():
    _, table = vectors()
    holes = (table.model_x == "untrained-a") & (table.model_y == "beta")
    match = "lacks the similarity of beta layer 0 and untrained-a layer 0 .and of 3 more pairs.; a map needs every pair"
    with pytest.raises(SslsimError, match=match):
        drawn(table[~holes])
    with pytest.raises(SslsimError, match="a map needs at least 3 layers, got 2"):
        drawn(table[(table.model_x == "beta") & (table.model_y == "beta")])
    with pytest.raises(SslsimError, match="lacks the similarity of alpha layer 0 and beta layer 0"):
        drawn(table[table.model_x == "alpha"])  # a table that is not square


def test_names_stand_on_no_other():
    """Three models of which each layer is the same have their ends in one place."""
    pairs = list(itertools.product(itertools.product("abc", range(3)), repeat=2))
    rows = [("svcca", x, i, y, j, 1.0 - 0.1 * abs(i - j), True, True) for (x, i), (y, j) in pairs]
    names = ["measure", "model_x", "layer_x", "model_y", "layer_y", "value", "trained_x", "trained_y"]
    figure = layer_map(pd.DataFrame(rows, columns=names), "svcca")
    boxes = [each.get_window_extent() for each in figure.axes[0].get_children() if isinstance(each, Annotation)]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
