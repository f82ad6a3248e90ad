"""Small notebooks to run in tests, plain arithmetic and no models, and what run.json says of one."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
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
    "import os, sys, time\n_ = slow and (open('kernel', 'w').write(str(os.getpid())), time.sleep(600))\n"
    "import matplotlib.pyplot as plt\nimport pandas as pd\nfrom tqdm import tqdm\n"
    "from sslsim.reports.report import Report\nreport = Report(out)\nprint('python is', sys.executable)\n"
    "print('to stderr', file=sys.stderr)\n_ = list(tqdm(range(3), file=sys.stdout, desc='counting'))",
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


CLAIM = {"claim": "toys <agree>", "between": "other seed", "measure": "svcca", "effect": 0.5, "ci_low": 0.4}
CLAIM |= {
    "ci_high": 0.6,
    "p": 0.04,
    "control": "chance",
    "unit": "share",
    "p_of": "mismatches",
    "p_floor": 0.04,
    "verdict": "large",
    "effect_text": "0.500 (0.400 to 0.600)",
}
CLAIM["p_text"] = "<= 1/25 (mismatches)"
ENTRY: dict[str, Any] = {
    "title": "Is $R$ <b>high</b>?",
    "summary": "Yes & no.",
    "status": "ok",
    "error": "",
    "started": "2026-01-02T03:04:05Z",
    "seconds": 75.0,
    "run": "2026-01-02T03:04:00Z",
    "commit": "0123456789abcdef",
    "dirty": True,
    "notebook": {"path": "some.ipynb", "hash": "e" * 64, "commit": None, "dirty": False},
    "parameters": [
        {"name": "names", "value": ["<i>a</i>"], "default": [], "help": "of & for"},
        {"name": "count", "value": 1, "default": 1, "help": ""},
    ],
    "page": True,
    "warnings": [],
    "claims": [],
    "note": "",
    "answer": "",
    "bounds": {},
    "files": ["tables/some-grid.csv", "tables/some-grid.parquet"],
    "keys": {"grid": []},
}
RUN: dict[str, Any] = {
    "format": 4,
    "status": "ok",
    "started": "2026-01-02T03:04:00Z",
    "seconds": 100.0,
    "commit": "0123456789abcdef",
    "dirty": False,
    "code": "d" * 64,
    "versions": {"python": "3", "sslsim": "1"},
    "study": {"lineup": "/x/<lineup>.toml", "max_seconds": None},
    "settings": {"out": "/x/<reports>"},
    "checkpoints": [{"name": "<script>alert(1)</script>", "fingerprint": "f00", "size": None, "source": "w2v"}],
    "corpus": {"utterances": 3},
    "notebooks": {"some": ENTRY},
}


PAIRS = pd.DataFrame(
    {
        "measure": ["svcca"] * 4,
        "model_x": ["a", "a", "b", "b"],
        "layer_x": [0, 1, 0, 1],
        "value": [0.1, 0.2, 0.3, math.nan],
        "n_frames": [4000] * 4,
        "best": ["b", "b", "a", None],
        "constant": [1.0, 1.0, 1.0, 1.0],
    }
)


def changed_run(**changes: Any) -> dict[str, Any]:
    """Return run.json of a notebook `layers` with a table and two claims; changes are of the first, or of run.json."""
    run = copy.deepcopy(RUN)
    claim = CLAIM | {name: value for name, value in changes.items() if name in CLAIM}
    claims = [claim, CLAIM | {"measure": "cca", "ci_low": None, "ci_high": None}]
    entry = run["notebooks"].pop("some") | {"claims": claims, "keys": {"pairs": ["measure", "model_x", "layer_x"]}}
    run["notebooks"]["layers"] = entry
    return run | {name: value for name, value in changes.items() if name in RUN}


def write_run(folder: Path, run: dict[str, Any] | None = None, table: pd.DataFrame = PAIRS) -> Path:
    """Write a reports folder whose notebook has left one table."""
    (folder / "tables").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run or changed_run()), encoding="utf-8")
    (folder / "index.html").write_text("x")
    table.to_csv(folder / "tables/layers-pairs.csv", index=False)
    table.to_parquet(folder / "tables/layers-pairs.parquet", index=False)
    return folder


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
