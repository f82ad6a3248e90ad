"""What a notebook calls to leave its tables, figures and claims beside the page."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import jinja2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from sslsim.errors import SslsimError
from sslsim.resources import checked_name, replacing

if TYPE_CHECKING:
    from sslsim.analysis.claims import Bounds
    from sslsim.figures.clips import Card

DPI = 150  # a 7-inch figure is 1050 pixels wide: sharp on a dense screen and on paper
NAMING = (
    "claim", "measure", "kind", "between", "pair", "pretrained", "finetuned",
    *(f"{thing}{side}" for side in ("", "_x", "_y") for thing in ("model", "layer", "neuron", "head")),
    "side", "relation", "label", "utterance", "speaker", "depth", "n_frames",
)  # fmt: skip
"""Columns that may name a row, those first that name most: of x before y, whose layer or neuron may be a result."""


@dataclass(frozen=True)
class Report:
    """The results of one notebook, in JupyterLab and in ``sslsim run`` alike.

    `out` is the reports folder, with ``tables/`` and ``figures/`` in it. `name` starts every file: the name of the
    notebook's own file unless given, so that a copy writes beside the original. It is an SslsimError if the name
    cannot be part of a file name, or none is given and the program that runs the notebook tells none.
    """

    out: str | Path
    name: str = ""

    def __post_init__(self) -> None:
        told = [os.environ.get("JPY_SESSION_NAME", "")]  # by Jupyter, `sslsim run`, or else VS Code
        told += [shell.user_ns.get("__vsc_ipynb_file__", "")] if (shell := get_ipython()) else []
        name = self.name or next((Path(path).stem for path in told if path.endswith(".ipynb")), "")
        if not name:
            raise SslsimError("the notebook's name is not known here; give it: sslsim.Report(out, name='...')")
        object.__setattr__(self, "name", checked_name(name, "notebook"))

    @property
    def folder(self) -> Path:
        """Where files go: in `sslsim run` a folder in `out` whose files it moves when the notebook is done."""
        staging, out = Path(os.environ.get("SSLSIM_STAGING", "")), Path(self.out)
        return staging if staging.parent.parent == out.resolve() else out

    def table(self, name: str, frame: pd.DataFrame, keys: Sequence[str] | None = None) -> pd.DataFrame:
        """Write ``tables/<notebook>-<name>.csv`` and ``.parquet`` and return the table unchanged, to be shown.

        It is written without its index, but named index levels become columns. Numbers in the CSV have as many digits
        as bring back the same float. `keys` are the columns that tell the rows apart, by default the first of `NAMING`
        that do: two runs are compared row by row with them, or in the order of rows where there are none. It is an
        SslsimError if the name cannot be part of a file name, the columns are not strings, an index that carries
        labels has no name, or the keys given do not tell all rows apart.
        """
        self._table(name, frame, keys, {})
        return frame

    def _table(self, name: str, frame: pd.DataFrame, keys: Sequence[str] | None, more: dict[str, Any]) -> None:
        unnamed = None in frame.index.names
        if unnamed and (frame.index.nlevels > 1 or not pd.api.types.is_integer_dtype(frame.index.dtype)):
            raise SslsimError(f"table {name!r} has labels in an index without a name: name it or reset_index()")
        if odd := [column for column in frame.columns if not isinstance(column, str)]:
            raise SslsimError(f"table {name!r} has the column name {odd[0]!r}, which is not a string: rename it")
        flat = frame.reset_index(drop=unnamed)
        keys = keys_of(flat) if keys is None else list(keys)
        if missing := [key for key in keys if key not in flat]:
            raise SslsimError(f"table {name!r} has no {', '.join(missing)}; give other keys")
        if keys and flat.duplicated(keys).any():
            raise SslsimError(f"table {name!r} has rows that {', '.join(keys)} do not tell apart; give other keys")
        files = [f"tables/{self.name}-{checked_name(name, 'table')}{suffix}" for suffix in (".csv", ".parquet")]
        with replacing(self.folder / files[0]) as part:
            flat.to_csv(part, index=False, lineterminator="\n")
        with replacing(self.folder / files[1]) as part:
            flat.to_parquet(part, index=False)
        rows, path = f"{len(flat):,} row{'' if len(flat) == 1 else 's'} in", Path(self.out, files[0])
        link = f'<a href="{quote(os.path.relpath(path))}">{escape(str(path))}</a>'  # JupyterLab opens it in a tab
        mark = {"role": "table", "name": name, "files": files, "rows": len(flat), "keys": keys} | more
        said = {"text/plain": f"{rows} {path} and .parquet", "text/html": f"{rows} {link} and .parquet"}
        _show(said, {"sslsim": mark})

    def claims(
        self, frame: pd.DataFrame, answer: str = "", bounds: "Bounds | None" = None, note: str = ""
    ) -> pd.DataFrame:
        """Write the table ``claims``, which page and index show first, and return it in words, three decimals each.

        It has the columns of `sslsim.analysis.claims.CLAIM_COLUMNS` (an error names those missing) and a row a claim.
        `answer` is the sentence above it; below it stand `bounds`, those that the claims were made with, and a `note`.
        """
        from sslsim.analysis.claims import BOUNDS, CLAIM_COLUMNS  # they bring torch along, which notebooks have anyway

        if missing := [column for column in CLAIM_COLUMNS if column not in frame]:
            raise SslsimError(f"the claims have no {', '.join(missing)}; give the columns {', '.join(CLAIM_COLUMNS)}")
        rows = [_claim(row) for row in frame[list(CLAIM_COLUMNS)].to_dict("records")]
        more = {"claims": rows, "answer": answer, "bounds": dict(bounds or BOUNDS), "note": note}
        self._table("claims", frame, None, more)
        for text in filter(None, (answer, note)):
            _show({"text/plain": text}, {"sslsim": {"role": "caption"}})  # the page says it at its top
        words = {name: [row[f"{name}_text"] for row in rows] for name in ("effect", "p")}
        shown = ["claim", "between", "measure", "verdict", "effect", "unit", "p", "p_of", "control"]
        return frame[shown].assign(**words)

    def figure(self, name: str, fig: Figure, *, alt: str, caption: str = "", table: str = "") -> None:
        """Write ``figures/<notebook>-<name>.png`` (150 dpi) and ``.svg``, show the figure, and close it.

        `alt` says what it shows, to a reader who cannot see it; `caption` says what to look at, in Markdown and TeX
        (``$...$``); `table` names the table that it draws, whose CSV the page links. No alt text, or a table that was
        not written before, is an SslsimError. The same figure gives the same bytes; the SVG draws letters as paths,
        the same on every machine.
        """
        from sslsim.figures.maps import panels

        if not alt.strip():
            raise SslsimError(f"figure {name!r} has no alt text: say in alt=... what it shows")
        drawn = f"tables/{self.name}-{table}.csv" if table else ""
        if drawn and not (self.folder / drawn).is_file():
            raise SslsimError(f"figure {name!r} draws the table {table!r}, which is not there: write it first")
        files = [f"figures/{self.name}-{checked_name(name, 'figure')}{suffix}" for suffix in (".png", ".svg")]
        with plt.rc_context({"svg.hashsalt": "sslsim", "svg.fonttype": "path"}):
            bounds = bounds_of(fig)
            maps = panels(fig, bounds)
            for file, metadata in zip(files, ({"Software": None}, {"Date": None}), strict=True):
                with replacing(self.folder / file) as part:
                    fig.savefig(part, dpi=DPI, bbox_inches=bounds, metadata=metadata)
        plt.close(fig)
        mark = {"role": "figure", "name": name, "files": files, "caption": caption, "panels": maps, "table": drawn}
        png = (self.folder / files[0]).read_bytes()
        width = round(int.from_bytes(png[16:20], "big") * 96 / DPI)  # from the PNG header, in pixels of a browser
        _show({"image/png": png, "text/plain": alt}, {"image/png": {"alt": alt, "width": width}, "sslsim": mark})
        if caption:  # JupyterLab shows it; the page sets it under the figure instead
            _show({"text/markdown": caption, "text/plain": caption}, {"sslsim": {"role": "caption"}})

    def clips(self, name: str, cards: "Sequence[Card]") -> None:
        """Show sounds to be played, each with its picture, in JupyterLab and in the page alike; no file is written.

        `name` says what they are, to a reader who cannot see the page. Neighbours of one group and row stand together
        under its headings. A card without title, or with a picture without alt text, is an error.
        """
        if not all(card.title.strip() and (card.alt.strip() or not card.picture) for card in cards):
            raise SslsimError(f"clips {name!r}: a card needs a title, and alt text where it has a picture")
        environment = jinja2.Environment(loader=jinja2.PackageLoader(__package__), autoescape=True, trim_blocks=True)
        environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
        text = environment.get_template("clips.html.j2").render(name=name, cards=cards)
        data = {"text/html": text, "text/plain": "\n".join(card.title for card in cards)}
        if cards:
            _show(data, {"sslsim": {"role": "clips", "name": name}})


def bounds_of(fig: Figure) -> Bbox:
    """Draw a figure and return what it fills, in inches, as ``bbox_inches="tight"`` finds it."""
    fig.set_dpi(DPI)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # a constrained layout would move things again while saving
    return fig.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])


def keys_of(frame: pd.DataFrame) -> list[str]:
    """Return the first columns of `NAMING` that tell all rows apart, or none."""
    known = [name for name in NAMING if name in frame]
    ends = range(1, len(known) + 1)
    return next((known[:end] for end in ends if not frame.duplicated(known[:end]).any()), [])


def _claim(row: dict[Any, Any]) -> dict[str, Any]:
    """Return a claim as JSON knows it: text, a finite number, or None; effect and p also as they are shown."""
    numbers = {name: value for name, value in row.items() if not isinstance(value, str) and not pd.isna(value)}
    numbers = {name: float(value) if np.isfinite(float(value)) else None for name, value in numbers.items()}
    effect, low, high, p, floor = (numbers.get(name) for name in ("effect", "ci_low", "ci_high", "p", "p_floor"))
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    words = "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"  # smaller ones are worth no more
    if p is not None and floor is not None and p <= floor * (1 + 1e-9):  # no draw was as large
        words = f"<= 1/{1 / floor:.0f}"
    told = {"effect_text": "" if effect is None else f"{effect:.3f}{interval}"}
    told["p_text"] = "" if p is None else f"{words} ({row['p_of']})"
    return {name: value if isinstance(value, str) else numbers.get(name) for name, value in row.items()} | told


def _show(data: dict[str, Any], metadata: dict[str, Any]) -> None:
    if get_ipython():  # in a plain script, display() would print the PNG's bytes
        display(data, metadata=metadata, raw=True)
