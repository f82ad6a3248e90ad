"""What a page says of the cells of a heatmap: the numbers of the table, at the place where the picture has them."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_tables import no_trace, pairs  # noqa: F401
from matplotlib.collections import LineCollection
from PIL import Image

from sslsim.figures import above_chance_maps, heatmaps
from sslsim.figures.maps import attach, heatmap, panels
from sslsim.significance.nulls import ALPHA

pytestmark = pytest.mark.usefixtures("no_trace")


def unpacked(panel, name):
    number = next(number for number in panel["numbers"] if number["name"] == name)
    shape = len(panel["rows"]), len(panel["columns"])
    return [np.frombuffer(base64.b64decode(part), "<f4").reshape(shape) for part in number["parts"]]


def bounds(figure):
    figure.draw_without_rendering()
    return figure.get_tightbbox().padded(0.1)


def test_numbers_come_back_whatever_their_size():
    figure, ax = plt.subplots()
    values = np.array([[0.83, -40_000.0], [np.nan, 1e-6]])
    attach(ax, ["x"] * 2, ["y"] * 2, {"v": (values,)})
    (panel,) = panels(figure, bounds(figure))
    np.testing.assert_allclose(unpacked(panel, "v")[0], values, rtol=1e-7)


@pytest.mark.parametrize("draw", [heatmaps, above_chance_maps])
def test_cells_stand_where_the_picture_has_them_and_say_what_the_table_says(draw):
    table = pairs()
    figure = draw(table, ["svcca"])
    box = bounds(figure)
    (panel,) = panels(figure, box)
    assert panel["title"].startswith("svcca")
    layers = ["a<b> layer 0", "a<b> layer 1", "a<b> layer 2", "c layer 0", "c layer 1"]
    assert panel["rows"] == panel["columns"] == layers
    np.testing.assert_allclose(unpacked(panel, "similarity")[0].ravel(), table.value, rtol=1e-6)
    np.testing.assert_allclose(unpacked(panel, "interval")[1].ravel(), table.ci_high, rtol=1e-6)
    assert [number["name"] for number in panel["numbers"]] == ["similarity", "interval", "chance", "p by t test"]
    struck = unpacked(panel, "p by t test")[0] > ALPHA  # the p that is told is the one that strikes
    (strokes,) = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)] or [None]
    assert strokes is None or len(strokes.get_segments()) == struck.sum() > 0
    assert (panel["scale"], panel["above"]) == ([0, 1], draw is above_chance_maps)

    mesh = figure.axes[0].collections[0]  # every cell in a colour of its own, to be found in the picture
    mesh.set(array=np.arange(25.0), cmap="nipy_spectral", clim=(-1, 25))
    figure.savefig(file := io.BytesIO(), dpi=150, bbox_inches=box)
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    left, top, wide, high = panel["box"]
    for cell in (0, 4, 12, 20, 24):
        x = (left + wide * (cell % 5 + 0.5 + np.array([0, 0.35])) / 5) * width
        y = (top + high * (cell // 5 + 0.8) / 5) * height  # beside the stroke
        wanted = np.array(mesh.cmap(mesh.norm(cell))[:3]) * 255
        assert np.abs(picture[round(y), np.round(x).astype(int)] - wanted).max() < 3, cell


def test_what_a_table_lacks_is_not_said():
    figure = heatmap(pairs().drop(columns=["ci_low", "chance"]).assign(p_t=np.nan), "svcca").figure
    (panel,) = panels(figure, bounds(figure))
    assert [number["name"] for number in panel["numbers"]] == ["similarity"]


def test_other_axes_have_no_cells():
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    assert panels(figure, bounds(figure)) == []
