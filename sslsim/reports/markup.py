"""Markdown, TeX and HTML outputs turned into markup that needs no script and no network."""

import html
import re
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import bs4
from latex2mathml.converter import convert as tex_to_mathml
from markupsafe import Markup
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

Heading = tuple[int, str, str]  # level, id, HTML

TEMPLATES = Path(__file__).parent / "templates"
# what a page calls a column of a table, and what it holds; of a column of two sides, the name without x or y
COLUMNS: dict[str, list[str]] = tomllib.loads((TEMPLATES / "columns.toml").read_text(encoding="utf-8"))

_BAR = re.compile(r"\d+%\|.*\|.*|\s*\d+it \[.*\].*")  # tqdm's last state, with and without a total
_NUMBER = re.compile(r"[-+]?[\d.,]*(e[-+]?\d+)?%?|NaN|-?inf|<NA>|None|True|False")


def _mathml(tex: str, display: str) -> str:
    try:
        return str(tex_to_mathml(tex.strip(), display=display))
    except Exception:  # noqa: BLE001  latex2mathml raises whatever it trips over; the reader then sees the TeX
        return f'<code class="tex">{html.escape(tex)}</code>'


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with MathML for TeX and the headings collected."""

    def __init__(self, headings: list[Heading], **options: Any) -> None:
        super().__init__(allow_harmful_protocols=False, exclude_anchor_links=True, **options)
        self.headings = headings

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        base = re.sub(r"[^a-z0-9]+", "-", Markup(text).striptags().lower()).strip("-") or "part"
        taken = {slug for _, slug, _ in self.headings}
        slug = next(s for s in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 2))) if s not in taken)
        self.headings.append((level, slug, re.sub("</?a[^>]*>", "", text)))
        return f'<h{level} id="{slug}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if re.fullmatch(r"[\w./-]+\.ipynb(#.*)?", url):  # a notebook's neighbour is a page here
            url = url.replace(".ipynb", ".html", 1)
        return super().link(text, url, title)

    inline_math = staticmethod(partial(_mathml, display="inline"))
    block_math = staticmethod(partial(_mathml, display="block"))

    def latex_environment(self, name: str, body: str) -> str:
        return _mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")


def markdown(source: str, headings: list[Heading] | None = None, *, folder: Path | None = None, **options: Any) -> str:
    """Render a notebook's Markdown with ``$TeX$``; HTML in it passes, so it must be the author's.

    `headings` is extended by those met, whose ids are unique in it; images named by paths relative to `folder` are
    embedded; `options` are ``attachments`` of the cell.
    """
    images = {"embed_images": bool(folder), "path": str(folder or "")}
    renderer = _Renderer([] if headings is None else headings, escape=False, **images, **options)
    return tidy_html(MarkdownWithMath(renderer=renderer).render(source))


def inline(source: str) -> str:
    """Render a caption or a summary: one paragraph of Markdown in which all HTML is escaped."""
    text = MarkdownWithMath(renderer=_Renderer([], escape=True)).render(source).strip()
    return re.sub(r"\A<p>|</p>\Z", "", text)


def tidy_html(text: str) -> str:
    """Return HTML whose tables and code scroll in a box of their own, without scripts and pandas' inline style.

    Heads of columns are in words, with what they hold as a title; rows that pandas numbered go by their first column.
    """
    text = text.replace("<pre>", '<pre tabindex="0">')  # it scrolls as well
    text = re.sub(r'<span(?: class="[npow]")?>([^<]*)</span>', r"\1", text)  # these have no colour of their own
    if "<table" not in text and "<script" not in text and "<link" not in text:
        return text
    soup = bs4.BeautifulSoup(text, "html.parser")
    for element in soup.select("script, link, style[scoped]"):
        element.decompose()
    for cell in soup.select("th"):
        if not cell.get_text(strip=True):  # pandas' empty corner is no heading of anything
            cell.name = "td"
    for table in soup.select("table"):
        rows = [row.find_all(["td", "th"], recursive=False) for row in table.select("tr")]
        columns = zip(*rows, strict=True) if len({len(row) for row in rows}) == 1 else ()  # none where cells span some
        for column in columns:  # pandas aligns words right, like numbers
            if not all(cell.name == "th" or _NUMBER.fullmatch(cell.get_text(strip=True)) for cell in column):
                for cell in column:
                    cell["class"] = "word"
        if [row[0].get_text(strip=True) for row in rows if row] == ["", *map(str, range(len(rows) - 1))]:
            for number, *cells in rows:
                number.decompose()
                for cell in cells[:1]:
                    cell.name = "th"
        for head in table.select("thead tr:only-child th"):  # scripts find it by its name in the file
            head["data-column"] = name = head.get_text(strip=True)
            base, side = (name[:-2], f" {name[-1]}") if name.endswith(("_x", "_y")) else (name, "")
            words, told = COLUMNS.get(base, [base.replace("_", " "), ""])
            head.string = words + side
            if told:
                head["title"] = f"{told} Column {name} of the file."
        del table["border"], table["style"]
        # a box that scrolls must be reachable by keyboard, and then it needs a name
        box = {"class": "scroll", "tabindex": "0", "role": "group", "aria-label": "Table"}
        table.wrap(soup.new_tag("div", attrs=box))
    return str(soup)


def without_progress(text: str) -> str:
    """Return what a stream leaves on a page: no progress bars, no overwritten lines."""
    lines = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(line for line in lines if not _BAR.search(line)).strip("\n")
