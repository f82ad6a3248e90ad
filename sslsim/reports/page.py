"""Executed notebooks to self-contained pages, and the index over them.

A page asks the network for nothing and runs one script of its own, which reads out the cells of heatmaps; a content
security policy in it holds that even for markup that a notebook's outputs bring along.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import nbformat
from markupsafe import Markup
from nbconvert.exporters import HTMLExporter
from nbformat import NotebookNode
from PIL import Image

from sslsim.errors import Unanswered
from sslsim.reports.markup import Heading, inline, markdown, tidy_html, without_progress

_TEMPLATES = Path(__file__).parent / "templates"
_HIDDEN = {"papermill-error-cell-tag"}  # papermill's own notes on a failure; the page has its own
_THUMBNAIL = 480  # pixels wide


def page(notebook: NotebookNode, *, name: str, folder: Path, entry: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Render an executed notebook as one HTML page, whose links are relative to the reports folder.

    A traceback is shown as it stands, and nothing after a cell that leaves the question open. `folder` has the source
    notebook, for images its text names; `entry` is what run.json says of it, `run` the rest of run.json.
    """
    headings: list[Heading] = []
    body = _body(notebook, folder, headings)
    script = (_TEMPLATES / "cells.js").read_text(encoding="utf-8") if "data-cells=" in body else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # as a policy names a script
    facts = {"name": name, "entry": entry, "run": run, "results": results(notebook)}
    facts |= {"claims": side_by_side(entry["claims"])}
    silent = entry["status"] == "failed" and 'id="failure"' not in body  # a kernel that died says nothing
    code = {"body": body, "script": script, "script_hash": f"sha256-{digest}" if script else "", "silent": silent}
    return fill("page.html.j2", **facts, **code, toc=[heading for heading in headings if heading[0] in (2, 3)])


def index(run: Mapping[str, Any], folder: Path, sweep: bool = False) -> str:
    """Render the index of a reports folder from run.json.

    Thumbnails are made from the folder's figures. `sweep` says whether the folder above holds the index of a sweep
    that this is a run of.
    """
    cards = [
        {
            "name": name,
            "entry": entry,
            "thumbnail": _thumbnail(folder, entry["files"]),
            "tables": [(Path(f).stem.removeprefix(f"{name}-"), f) for f in entry["files"] if f.endswith(".csv")],
            "claims": side_by_side(entry["claims"]),
        }
        for name, entry in run["notebooks"].items()
    ]
    return fill("index.html.j2", run=run, cards=cards, sweep=sweep)


def title_and_summary(notebook: NotebookNode) -> tuple[str, str]:
    """Return the first H1 of a notebook and the first paragraph under it, as Markdown, each maybe empty."""
    text = "\n\n".join(cell.source for cell in _shown(notebook) if cell.cell_type == "markdown")
    match = re.search(r"^# +(?P<title>[^\n]+)$(?P<rest>.*)", text, re.MULTILINE | re.DOTALL)
    if not match:
        return "", ""
    paragraphs = [part.strip() for part in match["rest"].split("\n\n") if part.strip()]
    summary = paragraphs[0] if paragraphs and not paragraphs[0].startswith("#") else ""
    return match["title"].strip(), " ".join(summary.split())


def results(notebook: NotebookNode) -> list[dict[str, Any]]:
    """Return what the notebook left with `Report`, in its order: role, name, files; a repeated one once."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    marks = [output.get("metadata", {}).get("sslsim", {}) for output in outputs]
    return list({(mark["role"], mark["name"]): dict(mark) for mark in marks if mark.get("files")}.values())


def side_by_side(claims: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put claims of run.json into a table: a row a claim and measure, a column each that they are between."""
    columns = list(dict.fromkeys(claim["between"] for claim in claims))
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for claim in claims:
        cells.setdefault((claim["claim"], claim["measure"]), {})[claim["between"]] = claim
    return {"columns": columns, "rows": [(*key, [row.get(c) for c in columns]) for key, row in cells.items()]}


def fill(template: str, **facts: Any) -> str:
    """Fill in a template of this package."""
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "inline": lambda text: Markup(inline(text)),
        "href": quote,
        "literal": lambda value: json.dumps(value, ensure_ascii=False, default=str),
        "duration": lambda s: f"{s:.1f} s" if s < 60 else f"{int(s // 60)} min {int(s % 60):02d} s",
        "stamp": lambda text: text.replace("T", " ").removesuffix("Z") + " UTC",
        "filled": lambda columns, rows: [c for c in columns if any(row[c] not in (None, "") for row in rows)],
        "brief": _brief,
    }
    return environment.get_template(template).render(facts)


def _body(notebook: NotebookNode, folder: Path, headings: list[Heading]) -> str:
    """Render the cells, without what the page shows elsewhere or not at all."""

    def render(context: jinja2.runtime.Context, source: str) -> str:
        cell = context.get("cell", {})
        return markdown(source, headings, folder=folder, attachments=cell.get("attachments", {}))

    copy = nbformat.from_dict(notebook)
    copy.cells = _shown(copy)
    for cell in [cell for cell in copy.cells if cell.cell_type == "markdown"][:1]:  # the page's header has the title
        cell.source = re.sub(r"^# +.+$", "", cell.source, count=1, flags=re.MULTILINE)
    for cell in (cell for cell in copy.cells if "outputs" in cell):
        cell.outputs = [output for output in cell.outputs if not _is_dropped(output)]
    filters = {"inline": inline, "tidy_html": tidy_html, "without_progress": without_progress, "picture": _picture}
    filters |= {"markdown": jinja2.pass_context(render)}
    template = str(_TEMPLATES / "cells.html.j2")
    return HTMLExporter(template_name="base", template_file=template, filters=filters).from_notebook_node(copy)[0]


def _shown(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells up to one that leaves the question open; papermill's notes are left out."""
    shown = [cell for cell in notebook.cells if not _HIDDEN & set(cell.metadata.get("tags", []))]
    errors = [{o.get("ename") for o in cell.get("outputs", [])} for cell in shown]
    ends = [i for i, names in enumerate(errors, 1) if Unanswered.__name__ in names]
    return shown[: ends[0]] if ends else shown


def _is_dropped(output: NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr" or not without_progress(output.text)
    widget = any(mime.startswith("application/vnd.jupyter.widget") for mime in output.get("data", {}))
    return widget or output.get("metadata", {}).get("sslsim", {}).get("role") == "caption"


def _picture(output: NotebookNode, mime: str) -> dict[str, Any]:
    """Return what the template needs of a picture: its data URI, alt text, width, and what `Report` says of it."""
    data, metadata = output.data[mime], output.get("metadata", {})
    encoded = base64.b64encode(data.encode()).decode() if mime == "image/svg+xml" else data.replace("\n", "")
    own, mark = metadata.get(mime, {}), metadata.get("sslsim", {})
    return {
        "uri": f"data:{mime};base64,{encoded}",
        "alt": own.get("alt") or "No description has been provided for this image",
        "width": own.get("width"),
        **{"caption": "", "files": [], "table": "", **mark},
        "panels": [{**panel, "data": json.dumps(panel, separators=(",", ":"))} for panel in mark.get("panels", [])],
    }


def _thumbnail(folder: Path, files: Sequence[str]) -> str:
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


def _brief(value: Any) -> str:
    """Return what a page shows of a fact: of a content hash its start, run.json has all of it."""
    text = "" if value is None else str(value)
    return f"{text[:8]}…" if re.fullmatch("[0-9a-f]{32,}", text) else text
