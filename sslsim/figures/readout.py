"""What a reader can ask of the cells of a heatmap, by pointing at them or by keyboard.

Whoever draws a heatmap attaches its numbers to the axes; `sslsim.Report.figure` passes them on to the page.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from sslsim.errors import SslsimError

_ATTRIBUTE = "sslsim_cells"


@dataclass(frozen=True, eq=False)
class Cells:
    """The numbers of a heatmap; `rows`, from the top, and `columns` say what each is.

    `numbers` are what is said of a cell, in this order: by name one array (n_rows, n_columns), or two, the ends of an
    interval; NaN where there is none. One of another shape is an error.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    numbers: dict[str, tuple[NDArray[Any], ...]]

    def __post_init__(self) -> None:
        shape = (len(self.rows), len(self.columns))
        for name, parts in self.numbers.items():
            for part in parts:
                if part.shape != shape:
                    raise SslsimError(f"{name} has shape {part.shape} for {shape[0]} rows and {shape[1]} columns")

    def packed(self) -> dict[str, Any]:
        """Return what JSON can hold: numbers in float32, little-endian, in base64."""
        packed = [
            {"name": name, "parts": [base64.b64encode(part.astype("<f4").tobytes()).decode() for part in parts]}
            for name, parts in self.numbers.items()
        ]
        return {"rows": list(self.rows), "columns": list(self.columns), "numbers": packed}


def attach(ax: Axes, cells: Cells) -> None:
    """Keep the numbers of a heatmap with the axes that it fills, from edge to edge."""
    setattr(ax, _ATTRIBUTE, cells)


def panels(figure: Figure, bounds: Bbox) -> list[dict[str, Any]]:
    """Return the heatmaps of a drawn figure: title, box and what `Cells.packed` returns.

    A box is left, top, width and height as shares of the picture, whose `bounds` are in inches.
    """
    found = []
    for ax in figure.axes:
        cells = getattr(ax, _ATTRIBUTE, None)
        if cells is None:
            continue
        box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
        left, top = (box.x0 - bounds.x0) / bounds.width, (bounds.y1 - box.y1) / bounds.height
        shares = [left, top, box.width / bounds.width, box.height / bounds.height]
        title = ax.get_title(loc="left") or ax.get_title()
        found.append({"title": title, "box": [round(float(share), 5) for share in shares], **cells.packed()})
    return found
