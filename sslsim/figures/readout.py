"""What a reader can ask of the cells of a heatmap, by pointing at them or by keyboard.

Whoever draws a heatmap attaches its numbers to the axes; `sslsim.Report.figure` passes them on to the page.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_ATTRIBUTE = "sslsim_cells"


def attach(ax: Axes, rows: Sequence[str], columns: Sequence[str], numbers: dict[str, tuple[np.ndarray, ...]]) -> None:
    """Keep the numbers of a heatmap with the axes that it fills, from edge to edge, in a form that JSON can hold.

    `rows`, from the top, and `columns` say what each is. `numbers` are what is said of a cell, in this order: by name
    one array (n_rows, n_columns), or two, the ends of an interval; NaN where there is none. They are kept in float32,
    little-endian, in base64.
    """
    packed = [
        {"name": name, "parts": [base64.b64encode(part.astype("<f4").tobytes()).decode() for part in parts]}
        for name, parts in numbers.items()
    ]
    setattr(ax, _ATTRIBUTE, {"rows": list(rows), "columns": list(columns), "numbers": packed})


def panels(figure: Figure, bounds: Bbox) -> list[dict[str, Any]]:
    """Return the heatmaps of a drawn figure: title, box, and rows, columns and numbers as `attach` keeps them.

    A box is left, top, width and height as shares of the picture, whose `bounds` are in inches.
    """
    found = []
    for ax in figure.axes:
        if not hasattr(ax, _ATTRIBUTE):
            continue
        box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        left, top = (box.x0 - bounds.x0) / bounds.width, (bounds.y1 - box.y1) / bounds.height
        shares = [left, top, box.width / bounds.width, box.height / bounds.height]
        title = ax.get_title(loc="left") or ax.get_title()
        found.append({"title": title, "box": [round(float(share), 5) for share in shares], **getattr(ax, _ATTRIBUTE)})
    return found
