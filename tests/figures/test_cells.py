from __future__ import annotations

import base64
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sslsim import SslsimError
from sslsim.figures import heatmaps as plots
from sslsim.figures.readout import Cells, panels
from sslsim.reports.outputs import CSS_DPI, DPI, Outputs, _bounds


def unpacked(panel: dict, name: str) -> list[np.ndarray]:
    number = next(number for number in panel["numbers"] if number["name"] == name)
    shape = len(panel["rows"]), len(panel["columns"])
    return [np.frombuffer(base64.b64decode(part), "<f4").reshape(shape) for part in number["parts"]]


def pairs() -> pd.DataFrame:
    """Return a table of two models with three and two layers, as from an evidence."""
    layers = [("a<b>", 0), ("a<b>", 1), ("a<b>", 2), ("c", 0), ("c", 1)]
    rng = np.random.default_rng(0)
    rows = [
        {"measure": "svcca", "standardize": True, "model_x": mx, "layer_x": lx, "model_y": my, "layer_y": ly}
        for mx, lx in layers
        for my, ly in layers
    ]
    table = pd.DataFrame(rows).assign(value=rng.random(25), chance=0.1, threshold=0.2, p=1 / 21)
    table["ci_low"], table["ci_high"] = table.value - 0.01, table.value + 0.01
    return table


def test_numbers_come_back_whatever_their_size() -> None:
    values = np.array([[0.83, -40_000.0], [np.nan, 1e-6]])
    packed = Cells(["x"] * 2, ["y"] * 2, {"v": (values,)}).packed()
    np.testing.assert_allclose(unpacked(packed, "v")[0], values, rtol=1e-7)


def test_numbers_of_another_shape_are_refused() -> None:
    with pytest.raises(SslsimError, match=re.escape("chance has shape (2, 3) for 3 rows and 2 columns")):
        Cells(["x"] * 3, ["y"] * 2, {"chance": (np.zeros((2, 3)),)})


@pytest.mark.parametrize("draw", [plots.heatmaps, plots.companions])
def test_cells_stand_where_the_picture_has_them_and_say_what_the_table_says(tmp_path: Path, draw) -> None:
    table = pairs()
    figure = draw(table, ["svcca"], columns=1)
    bounds = _bounds(figure)
    (panel,) = panels(figure, bounds)
    assert panel["title"] == "svcca: 99 % of variance (standardised)"
    assert panel["rows"] == panel["columns"] == ["a<b> 0", "a<b> 1", "a<b> 2", "c 0", "c 1"]
    np.testing.assert_allclose(unpacked(panel, "similarity")[0].ravel(), table.value, atol=5.1e-5)
    np.testing.assert_allclose(unpacked(panel, "interval")[1].ravel(), table.ci_high, atol=5.1e-5)
    assert [number["name"] for number in panel["numbers"]] == ["similarity", "interval", "chance", "p"]

    mesh = figure.axes[0].collections[0]  # every cell in a colour of its own, to be found in the picture
    mesh.set(array=np.arange(25.0), cmap="nipy_spectral", clim=(-1, 25))
    Outputs(tmp_path, "some").figure("map", figure, alt="x")
    picture = np.asarray(Image.open(tmp_path / "figures/some-map.png").convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    left, top, wide, high = panel["box"]
    for cell in (0, 4, 12, 20, 24):
        x = (left + wide * (cell % 5 + 0.5) / 5) * width + np.array([-0.35, 0, 0.35]) * wide * width / 5
        y = (top + high * (cell // 5 + 0.8) / 5) * height  # beside the stroke
        wanted = np.array(mesh.cmap(mesh.norm(cell))[:3]) * 255
        found = picture[round(y), np.round(x[1:]).astype(int)]
        assert np.abs(found - wanted).max() < 3, (cell, found, wanted)
    assert abs(width * CSS_DPI / DPI - bounds.width * CSS_DPI) < 2
    plt.close("all")


def test_what_a_table_lacks_is_not_said() -> None:
    table = pairs().drop(columns=["ci_low", "chance"]).assign(p=np.nan)
    ax = plots.heatmap(table, "svcca")
    (panel,) = panels(ax.figure, _bounds(ax.figure))
    assert [number["name"] for number in panel["numbers"]] == ["similarity"]
    plt.close("all")


def test_other_axes_have_no_cells() -> None:
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    assert panels(figure, _bounds(figure)) == []
    plt.close("all")


def test_a_figure_that_lays_itself_out_is_not_cut(tmp_path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    table = pairs().replace({"a<b>": "a-very-long-name-of-a-model"})
    for ax in axes:
        plots.heatmap(table, "svcca", ax=ax)
    Outputs(tmp_path, "some").figure("map", figure, alt="x")
    picture = plt.imread(tmp_path / "figures/some-map.png")[..., :3].min(-1)
    (height, width), ink = picture.shape, np.argwhere(picture < 0.98)
    margins = [*ink.min(0), height - 1 - ink.max(0)[0], width - 1 - ink.max(0)[1]]
    assert min(margins) > 10, margins
    plt.close("all")
