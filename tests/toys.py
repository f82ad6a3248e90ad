"""Small notebooks to run in tests: plain arithmetic, no models."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = """\
count: int = 3  # how many squares
names: list = ["a", "b"]  # of the models
slow: bool = False
out: str = "../reports"
"""
GOOD = [
    "# Do toys add up?\n\nSquares of $n$ and\nwhat `they` say.\n\nMore in [bad](bad.ipynb).",
    ("parameters", PARAMETERS),
    "## Set-up",
    "import os, sys, time\nimport matplotlib.pyplot as plt\nimport pandas as pd\nfrom tqdm import tqdm\n"
    "from sslsim.reports.report import Report\nreport = Report(out)\nprint('python is', sys.executable)\n"
    "print('to stderr', file=sys.stderr)\nfor _ in tqdm(range(3), file=sys.stdout, desc='counting'):\n"
    "    _ = slow and (open('kernel', 'w').write(str(os.getpid())), time.sleep(600))",
    "## The grid <i>of</i> toys\n\n$$\\frac{1}{n}\\sum_i x_i$$",
    "grid = pd.DataFrame({'model_x': ['a', 'a', 'b', 'b'], 'layer_x': 0, 'model_y': ['a', 'b', 'a', 'b'],\n"
    "                     'layer_y': 0, 'measure': 'toy', 'value': [1, 1 / 3, 0.1 + 0.2, 1]})\n"
    "report.table('grid', grid)",
    "fig, ax = plt.subplots(figsize=(3, 2))\nax.plot([n**2 for n in range(count)])\n"
    "report.figure('squares', fig, alt='A \"rising\" line', caption='Steeper with $n$. <b>Names</b>')",
    "## What this shows\n\n### Little\n\nIt adds up.",
    "count * 2",
]
BAD = ["# Does it fail?", ("parameters", "count: int = 1"), "print('before')", "'<u>x</u>' + 1", "print('never')"]
DEAD = ["# Does it die?", ("parameters", "count: int = 1"), "import os\nos.kill(os.getpid(), 9)", "print('never')"]


def write_notebook(path: Path, cells: list[str | tuple[str, str]]) -> Path:
    """Write a notebook: text that starts with # is Markdown, a pair is a tagged cell."""
    made = []
    for cell in cells:
        tag, source = cell if isinstance(cell, tuple) else ("", cell)
        made.append((new_markdown_cell if source.startswith("#") and not tag else new_code_cell)(source))
        made[-1].metadata["tags"] = [tag] if tag else []
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path
