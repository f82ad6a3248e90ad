"""Executed notebooks to self-contained pages, and the index over them.

A page asks the network for nothing and runs one script of its own, for folds, tables and the cells of heatmaps; a
content security policy in it holds that even for markup that a notebook's outputs bring along.
"""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import nbformat
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from PIL import Image
from traitlets.config import Config

from sslsim.errors import Unanswered
from sslsim.reports.markup import TEMPLATES, Heading, inline, markdown, tidy_html, without_progress

_HIDDEN = {"papermill-error-cell-tag"}  # papermill's own notes on a failure; the page has its own
_OPEN = Unanswered.__name__
_THUMBNAIL = 480  # pixels wide
MANY = 3  # measures of claims in one table; with more, each is a fold


def page(notebook: NotebookNode, *, name: str, folder: Path, entry: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Render an executed notebook as one HTML page, whose links are relative to the reports folder.

    A traceback is shown as it stands, and nothing after a cell that leaves the question open. `folder` has the source
    notebook, for images its text names; `entry` is what run.json says of it, `run` the rest of run.json.
    """
    headings: list[Heading] = []
    body = _body(notebook, folder, headings)
    script = "".join((TEMPLATES / file).read_text(encoding="utf-8") for file in ("cells.js", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # as a policy names a script
    facts = {"name": name, "entry": entry, "run": run, "results": results(notebook), "headings": headings, "body": body}
    values = {row["name"]: row["value"] for row in entry["parameters"]}
    used = [*(values.get("measures") or []), *(claim["measure"] for claim in entry.get("claims") or [])]
    facts |= {"values": values, "used": used, "cited": references(used)}
    return fill("page.html.j2", **facts, script=script, script_hash=f"sha256-{digest}")


def title_and_summary(notebook: NotebookNode) -> tuple[str, str]:
    """Return the first H1 of a notebook and the first paragraph under it, as Markdown, each maybe empty."""
    cells = [cell for cell in notebook.cells if not _HIDDEN & set(cell.metadata.get("tags", []))]
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    match = re.search(r"^# +(.+)\n*((?:[^#\n].*\n?)*)", text, re.MULTILINE)
    return (match[1].strip(), " ".join(match[2].split())) if match else ("", "")


def results(notebook: NotebookNode) -> list[dict[str, Any]]:
    """Return what the notebook left with `Report`, in its order: role, name, files; a repeated one once."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    marks = [output.get("metadata", {}).get("sslsim", {}) for output in outputs]
    return list({(mark["role"], mark["name"]): dict(mark) for mark in marks if mark.get("files")}.values())


def warnings_in(notebook: NotebookNode) -> list[str]:
    """Return what Python and libraries warned of while the notebook ran, each once."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(output.text for output in outputs if output.get("name") == "stderr")
    return list(dict.fromkeys(re.findall(r"^(?:.+:\d+: )?(\w*Warning: .+|WARNING\b.+)", text, re.MULTILINE)))


def references(measures: Sequence[str]) -> list[tuple[str, str]]:
    """Return what to cite for these measures, and for any page: each in short, and its BibTeX."""
    text = (TEMPLATES / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"(?s:(@.+?)),\n  shorthand = {(.+)},\n  keywords = {(.+)}\n}", text)
    return [(short, f"{bibtex}\n}}") for bibtex, short, words in entries if {"always", *measures} & {*words.split()}]


def side_by_side(claims: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Put claims of run.json into tables: a row a claim, measure and unit, a column each that they are between.

    Rows that have no column in common, such as those of relations and those of families, stand in two tables. Where
    measures are many, each is a fold, whose summary counts the verdicts.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for claim in claims:
        rows.setdefault((claim["claim"], f"{claim['measure']}, {claim['unit']}"), {})[claim["between"]] = claim
    tables: list[tuple[list[str], list[tuple[Any, ...]]]] = []
    for key, row in rows.items():
        near = [one for one in tables if not row.keys().isdisjoint(one[0])] or [([], [])]
        columns = list(dict.fromkeys([*(name for one in near for name in one[0]), *row]))
        tables = [one for one in tables if one not in near]
        tables.append((columns, [*(of for one in near for of in one[1]), (*key, row)]))
    full = [(columns, [(*key, [row.get(name) for name in columns]) for *key, row in of]) for columns, of in tables]
    return [{"columns": columns, "rows": of, "folds": _folds(of)} for columns, of in full]


def _folds(rows: Sequence[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    """Gather rows of claims by measure where there are more than `MANY`, under a name that counts the verdicts."""
    by: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        by.setdefault(row[1].partition(",")[0], []).append(row)
    if len(by) <= MANY:
        return {"": [*rows]}
    counts = {name: Counter(cell["verdict"] for *_, cells in of for cell in cells if cell) for name, of in by.items()}
    return {f"{name}: {', '.join(f'{n} {said}' for said, n in counts[name].items())}": of for name, of in by.items()}


def fill(template: str, **facts: Any) -> str:
    """Fill in a template of this package."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "side_by_side": side_by_side,
        "thumbnail": _thumbnail,
        "inline": lambda text: Markup(inline(text)),
        "href": quote,
        "literal": lambda value: json.dumps(value, ensure_ascii=False, default=str),
        "duration": lambda s: f"{s:.1f} s" if s < 60 else f"{int(s // 60)} min {int(s % 60):02d} s",
        "stamp": lambda text: text.replace("T", " ").removesuffix("Z") + " UTC",
        "filled": lambda columns, rows: [c for c in columns if any(row[c] not in (None, "") for row in rows)],
        "brief": lambda fact: re.sub(r"\A([0-9a-f]{8})[0-9a-f]{24,}\Z", r"\1…", "" if fact is None else str(fact)),
    }
    return environment.get_template(template).render(facts)


def _body(notebook: NotebookNode, folder: Path, headings: list[Heading]) -> str:
    """Render the cells, without what the page shows elsewhere or not at all."""

    def render(context: jinja2.runtime.Context, source: str) -> str:
        cell = context.get("cell", {})
        return markdown(source, headings, folder=folder, attachments=cell.get("attachments", {}))

    copy = nbformat.from_dict(notebook)
    ends = [i for i, cell in enumerate(copy.cells, 1) for o in cell.get("outputs", []) if o.get("ename") == _OPEN]
    copy.cells = _folded(copy.cells[: min(ends, default=None)])
    for cell in (cell for cell in copy.cells if cell.cell_type == "markdown"):
        cell.source, n = re.subn(r"^# +.+$", "", cell.source, count=1, flags=re.MULTILINE)
        if n:  # the page's header has the title
            break
    filters: dict[str, Any] = {made.__name__: made for made in (inline, tidy_html, without_progress)}
    filters |= {"markdown": jinja2.pass_context(render), "compact": partial(json.dumps, separators=(",", ":"))}
    config = Config({"TagRemovePreprocessor": {"remove_cell_tags": _HIDDEN}})
    template = str(TEMPLATES / "cells.html.j2")
    exporter = HTMLExporter(template_name="base", template_file=template, filters=filters, config=config)
    return exporter.from_notebook_node(copy)[0]


def _folded(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Mark where a fold begins, at a heading whose cell is tagged so, and where it ends: at the next as high a one."""
    level, end = 0, new_markdown_cell()
    for cell in [*cells, end]:
        heading = re.match("#+(?= )", cell.source) if cell.cell_type == "markdown" else None
        if level and (cell is end or (heading and len(heading[0]) <= level)):
            cell.metadata["unfold"], level = True, 0
        if heading and not level and "fold" in cell.metadata.get("tags", []):
            cell.metadata["fold"], level = True, len(heading[0])
    return [*cells, end]


def _thumbnail(files: Sequence[str], folder: Path) -> str:
    """Return the first figure, made small, as a data URI; nothing when there is none."""
    figure = next((folder / file for file in files if file.endswith(".png") and (folder / file).is_file()), None)
    if not figure:
        return ""
    with Image.open(figure) as picture:
        top = (0, 0, picture.width, min(picture.height, picture.width))  # of a tall one the start
        small = picture.convert("RGB").crop(top)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.quantize(64).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
