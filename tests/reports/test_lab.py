"""Chromium tells what is wrong with a page, and JupyterLab does in it what a reader expects."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import soundfile
from browser import PROGRAM, check_browser
from made_tables import pairs
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from toys import CLAIM, ENTRY, PAIRS, RUN, changed_run, write_run

from sslsim.figures.maps import above_chance_maps
from sslsim.figures.readout import panels
from sslsim.measures.registry import title_of
from sslsim.reports import page as render
from sslsim.reports import sweep
from sslsim.reports.diff import compare_runs
from sslsim.reports.report import DPI, bounds_of

pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs chromium")

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<style>figure {{ break-inside: avoid; margin: 0 }} table {{ display: block; overflow: auto }}
@media print {{ table {{ display: table }} }}</style></head><body><main><h1>A page</h1>{}</main></body></html>"""
FIGURE = '<figure><svg width="{}" height="{}" role="img" aria-label="a figure"></svg></figure>'


def wav(seconds=0.1):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(16_000 * seconds)), 16_000, format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def problems(tmp_path, body):
    (tmp_path / "page.html").write_text(PAGE.format(body), encoding="utf-8")
    return check_browser([tmp_path / "page.html"], tmp_path / "shots")


def test_a_good_page_has_no_problems(tmp_path, capsys):
    sound = f'<audio controls aria-label="a sound" src="data:audio/wav;base64,{wav()}"></audio>'
    assert problems(tmp_path, FIGURE.format(300, 900) + sound) == []
    told = capsys.readouterr().out
    assert "0 pictures, 1 sounds, 0 heatmaps, loads in" in told
    assert "slowest load" in told
    assert {file.name for file in (tmp_path / "shots").iterdir()} == {"page-1280.png", "page-390.png", "page.pdf"}


WRONG = [
    ('<p style="color: #bbb">pale</p>', "axe: color-contrast (serious): p: "),
    ('<details><summary>x</summary><input type="text"></details>', "axe: label (critical): input: "),
    ('<audio controls src="data:audio/wav;base64,AAAA"></audio>', "a sound does not play: "),
    ('<img alt="x" src="data:image/png;base64,AAAA">', "1 pictures do not load"),
    ('<img alt="x" src="x.png">', "asks for file:"),
    (FIGURE.format(900, 20), "at 390 px: scrolls sideways: 90"),
    (FIGURE.format(900, 20), "printed: <svg> : from "),
    (FIGURE.format(300, 1300), "px tall, a page has 1045"),
    ('<figure style="break-inside: auto">x</figure>', "printed: <figure> x: may break over two pages"),
    ('<table tabindex="0"><tr><td><div style="width: 1000px">x</div></table>', "printed: <table> x: from "),
    (f"<!-- {'x' * 8_000_000} -->", ": 8,000,"),
]


def test_what_is_wrong_is_named(tmp_path):
    """All bad pages are opened in one browser, which takes longer to start than to look at one."""
    for i, (body, _) in enumerate(WRONG):
        (tmp_path / f"{i}.html").write_text(PAGE.format(body), encoding="utf-8")
    found = check_browser(sorted(tmp_path.glob("*.html")), tmp_path / "shots")
    for i, (_, problem) in enumerate(WRONG):
        assert [told for told in found if told.startswith(f"{i}.html") and problem in told], problem


def page_of_a_heatmap(tmp_path):
    """Render a page with one heatmap, as a notebook leaves it, and return it and the table that it draws."""
    table = pairs()
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables/some-pairs.csv", index=False)
    figure = above_chance_maps(table, ["svcca"], columns=1)
    maps = panels(figure, bounds_of(figure))
    figure.savefig(buffer := io.BytesIO(), bbox_inches=bounds_of(figure), dpi=DPI)
    plt.close("all")
    mark = {"role": "figure", "name": "map", "files": ["figures/some-map.png"], "caption": "x", "panels": maps}
    mark["table"] = "tables/some-pairs.csv"
    metadata = {"image/png": {"alt": "x"}, "sslsim": mark}
    output = new_output("display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()}, metadata=metadata)
    notebook = new_notebook(cells=[new_markdown_cell("# T"), new_code_cell("code()", outputs=[output])])
    text = render.page(notebook, name="some", folder=tmp_path, entry=ENTRY, run=RUN)
    (tmp_path / "some.html").write_text(text, encoding="utf-8")
    return tmp_path / "some.html", tmp_path / "tables/some-pairs.csv"


def test_cells_of_a_heatmap_say_what_its_table_says(tmp_path):
    page, _ = page_of_a_heatmap(tmp_path)
    assert check_browser([page], tmp_path / "shots") == []


def test_cells_that_say_something_else_are_named(tmp_path):
    page, table = page_of_a_heatmap(tmp_path)
    frame = pd.read_csv(table)
    frame.assign(ci_high=frame.ci_high + 0.001).to_csv(table, index=False)
    found = check_browser([page], tmp_path / "shots")
    assert len(found) == 3, found
    for told in found:
        start = re.escape(f"some.html: {title_of('svcca')}: 'a<b> ")
        assert re.match(start + r"\d in (a<b>|c) \d: similarity .*', but ci_high in the table is", told), told


def test_pages_of_sweeps_and_comparisons_have_no_problems(tmp_path):
    row = {"status": "ok", "kept": False, "sweep": "2026-01-02T03:04:05Z", "seconds": 3.0, "values": {"frames": 5}}
    row["notebooks"] = {"some": ENTRY | {"claims": [CLAIM]}}
    rows = {"frames-5": row, "frames-9": row | {"values": {"frames": 9}, "kept": True}}
    content = {"format": 2, "status": "ok", "started": "2026-01-02T03:04:05Z", "seconds": 6.0, "runs": rows}
    for name in ("frames-5", "frames-9"):
        write_run(tmp_path / name)
    (tmp_path / "index.html").write_text(sweep.page(content), encoding="utf-8")
    a = write_run(tmp_path / "a", changed_run(holds="no", effect=0.9))
    b = write_run(tmp_path / "b", table=PAIRS.assign(value=0.5))
    compare_runs(a, b, out=tmp_path / "compare.html")
    assert check_browser([tmp_path / "index.html", tmp_path / "compare.html"], tmp_path / "shots") == []


@pytest.mark.slow
def test_a_reader_runs_explores_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, Path(__file__).parents[1] / "lab.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "another figure" in done.stdout
    assert done.stdout.endswith("lab: 0 processes left\n")
    assert (tmp_path / "lab-explored.png").stat().st_size > 50_000
