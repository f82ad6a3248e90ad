"""Parts of the data card, data/README.md, that scripts fill in: what stands between the marks of a name."""

import re
from collections.abc import Iterable

from paths import DATA

CARD = DATA / "README.md"


def fill(text: str, name: str, lines: Iterable[str]) -> str:
    """Replace what stands between the marks of a part."""
    marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if any(text.count(mark) != 1 for mark in marks):
        raise ValueError(f"{CARD} must have {marks[0]} and {marks[1]} once each")
    part = "\n".join([marks[0], *lines, marks[1]])
    return re.sub(re.escape(marks[0]) + ".*" + re.escape(marks[1]), lambda _: part, text, flags=re.DOTALL)


def write(name: str, lines: Iterable[str]) -> None:
    """Write the card with a part filled in."""
    CARD.write_text(fill(CARD.read_text(encoding="utf-8"), name, lines), encoding="utf-8")
