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
from browser import PROGRAM, WIDTHS, check_browser
from made_tables import pairs
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from toys import CLAIM, ENTRY, PAIRS, RUN, changed_run, write_run

from sslsim.figures.maps import above_chance_maps, panels
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


WRONG = {
    """<p style="color: #bbb">pale</p>
    <details><summary>x</summary><input type="text"></details>
    <audio controls src="data:audio/wav;base64,AAAA"></audio>
    <img alt="x" src="data:image/png;base64,AAAA"><img alt="x" src="x.png">""": [
        "axe, light: color-contrast (serious): p: ",
        "axe, dark: label (critical): input: ",
        "a sound does not play: ",
        "2 pictures do not load",
        "asks for file:",
    ],
    f"""{FIGURE.format(900, 20)}{FIGURE.format(300, 1300)}<figure style="break-inside: auto">x</figure>
    <table tabindex="0"><tr><td><div style="width: 1000px">x</div></table><!-- {"x" * 8_000_000} -->""": [
        "at 390 px: scrolls sideways: 90",
        "printed: <svg> : from ",
        "px tall, a page has 1045",
        "printed: <figure> x: may break over two pages",
        "printed: <table> x: from ",
        ": 8,000,",
    ],
    """<style>@media (prefers-color-scheme: dark) { body { background: #111 } }</style><p>dark on dark</p>
    <nav class="toc"><a href="#in">in it</a></nav><details class="enlarge"><summary id="in">x</summary></details>
    <table><thead><tr><th><button>n</button></th></tr></thead><tbody><tr><td>2</td></tr><tr><td>10</td></tr></tbody>
    </table>""": [
        "axe, dark: color-contrast (serious): p: ",
        "#in stays folded",
        "a map does not enlarge the block of two models",
        "n: not sorted ascending but null 2,10",
        "printed: paper is rgb(17, 17, 17) where screens are dark",
    ],
}


def page_of_a_heatmap(tmp_path):
    """Render a page with one heatmap, as a notebook leaves it, and return it and the table that it draws.

    Below it stand neurons of three pairs of layers, the first of which can be heard.
    """
    table = pairs()
    (tmp_path / "tables").mkdir()
    table.to_csv(tmp_path / "tables/some-pairs.csv", index=False)
    figure = above_chance_maps(table, ["svcca"])
    maps = panels(figure, bounds_of(figure))
    figure.savefig(buffer := io.BytesIO(), bbox_inches=bounds_of(figure), dpi=DPI)
    plt.close("all")
    mark = {"role": "figure", "name": "map", "files": ["figures/some-map.png"], "caption": "x", "panels": maps}
    mark["table"] = "tables/some-pairs.csv"
    metadata = {"image/png": {"alt": "x"}, "sslsim": mark}
    output = new_output("display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()}, metadata=metadata)
    neurons = {"model_x": ["c", "a<b>", "c"], "layer_x": [1, 10, 9], "neuron_x": [7, 8, 9], "model_y": "a<b>"}
    html = pd.DataFrame(neurons | {"layer_y": 2, "neuron_y": 5}).to_html() + '<p id="neuron-c-1-7">Sounds</p>'
    cells = [new_code_cell("code()", outputs=[output]), new_markdown_cell("## Neurons", metadata={"tags": ["fold"]})]
    cells += [new_code_cell("more()", outputs=[new_output("display_data", {"text/html": html})])]
    notebook = new_notebook(cells=[new_markdown_cell("# T"), *cells])
    text = render.page(notebook, name="some", folder=tmp_path, entry=ENTRY, run=RUN)
    (tmp_path / "some.html").write_text(text, encoding="utf-8")
    return tmp_path / "some.html", tmp_path / "tables/some-pairs.csv"


def pages_of_sweeps_and_comparisons(tmp_path):
    """Write the index of a sweep and the page of a comparison, and return them."""
    row = {"status": "ok", "kept": False, "sweep": "2026-01-02T03:04:05Z", "seconds": 3.0, "values": {"frames": 5}}
    row["notebooks"] = {"some": ENTRY | {"claims": [CLAIM]}}
    rows = {"frames-5": row, "frames-9": row | {"values": {"frames": 9}, "kept": True}}
    content = {"format": 2, "status": "ok", "started": "2026-01-02T03:04:05Z", "seconds": 6.0, "runs": rows}
    for name in ("frames-5", "frames-9"):
        write_run(tmp_path / name)
    (tmp_path / "index.html").write_text(sweep.page(content), encoding="utf-8")
    a = write_run(tmp_path / "a", changed_run(verdict="small", effect=0.9))
    b = write_run(tmp_path / "b", table=PAIRS.assign(value=0.5))
    compare_runs(a, b, out=tmp_path / "compare.html")
    return [tmp_path / "index.html", tmp_path / "compare.html"]


def test_good_pages_have_no_problems(tmp_path, capsys):
    """All are opened in one browser, which takes longer to start than to look at one."""
    sound = f'<audio controls aria-label="a sound" src="data:audio/wav;base64,{wav()}"></audio>'
    (tmp_path / "page.html").write_text(PAGE.format(FIGURE.format(300, 900) + sound), encoding="utf-8")
    pages = [tmp_path / "page.html", page_of_a_heatmap(tmp_path)[0], *pages_of_sweeps_and_comparisons(tmp_path)]
    assert check_browser(pages, tmp_path / "shots") == []
    told = capsys.readouterr().out
    assert "0 pictures, 1 sounds, 0 heatmaps, loads in" in told
    assert "slowest load" in told
    assert {file.name for file in (tmp_path / "shots").iterdir()} == {
        f"{page.stem}{suffix}"
        for page in pages
        for suffix in (".pdf", *(f"-{width}{part}.png" for width in WIDTHS for part in ("", "-light", "-dark")))
    }


def test_what_is_wrong_is_named(tmp_path):
    """In a page, and in a heatmap whose cells do not say what its table says."""
    for i, body in enumerate(WRONG):
        (tmp_path / f"{i}.html").write_text(PAGE.format(body), encoding="utf-8")
    _, table = page_of_a_heatmap(tmp_path)
    frame = pd.read_csv(table)
    frame.assign(ci_high=frame.ci_high + 0.001).to_csv(table, index=False)
    found = check_browser(sorted(tmp_path.glob("*.html")), tmp_path / "shots")
    for i, problems in enumerate(WRONG.values()):
        for problem in problems:
            assert [told for told in found if told.startswith(f"{i}.html") and problem in told], problem
    of_cells = [told for told in found if told.startswith("some.html")]
    assert len(of_cells) == 3, found
    for told in of_cells:
        start = re.escape(f"some.html: {title_of('svcca')}: 'a<b> layer ")
        assert re.match(start + r"\d in (a<b>|c) layer \d, svcca: similarity .*', but ci_high in the table is", told), (
            told
        )


@pytest.mark.slow
def test_a_reader_runs_explores_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, Path(__file__).parents[1] / "lab.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "another figure" in done.stdout
    assert done.stdout.endswith("lab: 0 processes left\n")
    assert (tmp_path / "lab-explored.png").stat().st_size > 50_000
