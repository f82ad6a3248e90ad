"""Chromium tells what is wrong with a page, and JupyterLab does in it what a reader expects."""

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import PROGRAM, check_browser

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
    assert "0 pictures, 1 sounds, loads in" in told
    assert "slowest load" in told
    assert {file.name for file in (tmp_path / "shots").iterdir()} == {"page-1280.png", "page-390.png", "page.pdf"}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<p style="color: #bbb">pale</p>', "axe: color-contrast (serious): p: "),
        ('<details><summary>x</summary><input type="text"></details>', "axe: label (critical): input: "),
        ('<audio controls src="data:audio/wav;base64,AAAA"></audio>', "a sound does not play: "),
        ('<img alt="x" src="data:image/png;base64,AAAA">', "1 pictures do not load"),
        ('<img alt="x" src="x.png">', "asks for file:"),
        (FIGURE.format(900, 20), "page.html at 390 px: scrolls sideways: 90"),
        (FIGURE.format(900, 20), "printed: <svg> : from "),
        (FIGURE.format(300, 1300), "px tall, a page has 1045"),
        ('<figure style="break-inside: auto">x</figure>', "printed: <figure> x: may break over two pages"),
        ('<table tabindex="0"><tr><td><div style="width: 1000px">x</div></table>', "printed: <table> x: from "),
        (f"<!-- {'x' * 8_000_000} -->", "page.html: 8,000,"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, body, problem):
    assert [told for told in problems(tmp_path, body) if problem in told]


@pytest.mark.slow
def test_a_reader_runs_explores_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, Path(__file__).with_name("lab.py"), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "another figure" in done.stdout
    assert done.stdout.endswith("lab: 0 processes left\n")
    assert (tmp_path / "lab-explored.png").stat().st_size > 50_000
