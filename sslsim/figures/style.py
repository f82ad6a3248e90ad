"""What all figures share: look, fixed scales, titles of measures, and how rows of a table are chosen."""

from collections.abc import Iterable, Sequence
from functools import partial
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns

from sslsim.encoders.lineage import RELATIONS, Lineage
from sslsim.errors import SslsimError, close_match
from sslsim.measures.registry import title_of

Look = tuple[Any, str]  # colour and marker

STYLE: dict[Any, Any] = {"axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelsize": 9, "figure.dpi": 110}
STYLE |= dict.fromkeys(["xtick.labelsize", "ytick.labelsize", "legend.fontsize"], 8)
STYLE |= dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False)
styled = partial(mpl.rc_context, STYLE)  # decorates functions that draw in our style and leave no trace of it
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p"]
COLOURS = [*sns.color_palette("colorblind", 10), "black", "0.6"]  # one more than markers: no pair comes twice soon
COLOURED = [c for i, c in enumerate(COLOURS) if i not in (7, 11)]  # without the greys
BASELINES: dict[str, Any] = {"untrained": (0.35,) * 3, "spectrogram": (0.6,) * 3, "arrays": "#0808a9"}
# of a relation, whichever others are drawn, in none of the colours of families; told apart with any colour blindness
_RELATED = sns.color_palette(["#920506", "#2e0000", "#4755fe", "#130637", "#951997", "#d99d5a", "#46c5f8"])
_PALETTE = [*_RELATED, *BASELINES.values()]
RELATION_LOOKS: dict[str, Look] = dict(zip(RELATIONS, zip(_PALETTE, MARKERS, strict=False), strict=True))


def looks(names: Iterable[str], colours: Sequence[Any] = COLOURS) -> dict[str, Look]:
    """Give every name a colour and a marker, by its place among them."""
    return {n: (colours[i % len(colours)], MARKERS[i % len(MARKERS)]) for i, n in enumerate(dict.fromkeys(names))}


def kinds(names: Iterable[str], lineage: Lineage | None) -> tuple[dict[str, str], dict[str, Look]]:
    """Return what kind each model is, and the look of each kind, the same in all figures.

    A kind is a family, by its colour, of a size, by its marker; baselines are grey. Without a lineage each model is a
    kind of its own. A model that the lineage lacks is an error.
    """
    wanted = list(dict.fromkeys(names))
    if lineage is None:
        return {name: name for name in wanted}, looks(wanted, COLOURED)
    known = {checkpoint.name: checkpoint for checkpoint in lineage.checkpoints}
    if missing := [name for name in wanted if name not in known]:
        raise SslsimError(f"the lineage has no {missing[0]!r}; give that of the stores of the table")
    kind = {n: {"trained": c.family or n, "none": "spectrogram"}.get(c.weights, "untrained") for n, c in known.items()}
    what = kind | {n: "arrays" for n, c in known.items() if c.weights == "none" and c.times}
    families = looks((w for n, w in what.items() if lineage.trained(n)), COLOURED)
    sizes = looks(checkpoint.size for checkpoint in known.values())
    of = {name: f"{what[name]} {known[name].size}".strip() for name in wanted}
    colours = {n: families[w][0] if lineage.trained(n) else BASELINES[w] for n, w in what.items()}
    return of, {of[name]: (colours[name], sizes[known[name].size][1]) for name in wanted}


def title(measure: str, width: int = 100) -> str:
    """Return what a figure writes above a panel of a measure, in lines of at most `width` letters."""
    return fill(title_of(measure), width)


def floor(smallest: float) -> float:
    """Return 0, or the quarter below the smallest value where that is negative."""
    return min(0.0, float(np.floor(4 * smallest + 1e-6)) / 4)


def unit_limits(values: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of a similarity axis: 0 and 1, or from the `floor` of values that are not all but 0."""
    smallest = values.min().min()
    return (-0.02 if -0.02 < smallest < 0 else floor(smallest)), 1.02


def listed(measures: str | Sequence[str]) -> list[str]:
    """Return measures as a list, each once; none at all is an error."""
    names = [measures] if isinstance(measures, str) else list(dict.fromkeys(measures))
    if not names:
        raise SslsimError("no measure to draw; give a list of at least one")
    return names


def rows_of(table: pd.DataFrame, measures: str | Sequence[str]) -> pd.DataFrame:
    """Return the rows of one or more measures; one without rows is an error."""
    names, known = listed(measures), sorted(table.measure.unique())
    if missing := [name for name in names if name not in known]:
        raise SslsimError(f"the table has no rows of {missing[0]}{close_match(missing[0], known)}")
    return table[table.measure.isin(names)]


def relations_of(table: pd.DataFrame) -> list[str]:
    """Return the relations of a table in their order; none, or one that is unknown, is an error."""
    for name in table.relation.unique():
        if name not in RELATIONS:
            raise SslsimError(f"unknown relation {name!r}{close_match(name, RELATIONS)}")
    if table.empty:
        raise SslsimError("no relations to draw; the table is empty")
    return [relation for relation in RELATIONS if relation in set(table.relation.unique())]


def need(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Check that a table has these columns; an error says where one that has them comes from."""
    if missing := [name for name in columns if name not in table]:
        raise SslsimError(f"the table has no column {', '.join(missing)}; give one {source}")
