"""What every committed notebook keeps to; that they run is shown by `make report` in CI."""

import ast
import json

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

import sslsim
from sslsim.reports import sweep

NOTEBOOKS = sorted(sslsim.NOTEBOOKS.glob("*.ipynb"))
SHARED = ["lineup", "corpus", "checkpoints", "measures", "queries", "store", "out", "workers", "scheduler"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def test_the_four_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["attention", "finetuning", "layers", "neurons"]


def test_is_committed_clean(cells):
    code = [c for c in cells if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    assert len({c["id"] for c in cells}) == len(cells) <= 36


def test_opens_with_its_question_and_ends_with_its_limits(cells):
    titles = [line for c in cells if c["cell_type"] == "markdown" for line in c["source"] if line.startswith("# ")]
    assert len(titles) == 1
    assert titles[0].strip().endswith("?")
    assert source(cells[0]).startswith(titles[0])
    assert source(cells[-1]).startswith("## What this shows, and what it does not")


def test_has_one_cell_of_parameters_with_types_and_help(cells):
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(source(tagged[0])).body
    assert all(isinstance(s, ast.AnnAssign) for s in statements)
    assert set(SHARED) <= {s.target.id for s in statements}
    for line, statement in zip(tagged[0]["source"], statements, strict=True):
        ast.literal_eval(statement.value)
        assert statement.target.id == "measures" or "  # " in line


def test_keeps_its_logic_in_the_package(cells):
    for cell in (c for c in cells if c["cell_type"] == "code"):
        tree = ast.parse(source(cell))
        banned = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda)
        assert not [node for node in ast.walk(tree) if isinstance(node, banned)]
        assert len(cell["source"]) <= 8 or "parameters" in cell["metadata"].get("tags", [])


def test_has_more_prose_than_code(cells):
    words = sum(len(source(c).split()) for c in cells if c["cell_type"] == "markdown")
    lines = sum(len(c["source"]) for c in cells if c["cell_type"] == "code")
    assert words > 5 * lines


def test_shows_figures_with_alt_text_and_writes_every_table(cells):
    code = "\n".join(source(c) for c in cells if c["cell_type"] == "code")
    assert code.count("results.figure(") == code.count("alt=alt") >= 2
    assert code.count("results.table(") >= 2


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Make reports of some choices of measures and checkpoints, on twelve utterances; a summary a run and notebook."""
    folder = tmp_path_factory.mktemp("sweep")
    speech = pd.read_csv(sslsim.DATA / "speech/manifest.csv").iloc[::9]
    speech.assign(path=[str(sslsim.DATA / "speech" / path) for path in speech.path]).to_csv(folder / "few.csv")
    (folder / "sweep.toml").write_text(CHOICES)
    options = {"lineup": sslsim.DATA / "lineup.toml", "corpus": folder / "few.csv", "out": folder / "out"}
    sweep.run([str(folder / "sweep.toml")], parameters={"draws": 2, "frames": 500}, **options)
    runs = json.loads((folder / "out/sweep.json").read_text(encoding="utf-8"))["runs"]
    return {f"{run}/{book}": each for run, row in runs.items() for book, each in row["notebooks"].items()}


CHOICES = """
[[run]]
name = "n"
notebooks = ["neurons"]
checkpoints = ["w2v2-small", "hubert-small"]
measures = [["linreg"], ["soft_matched_corr"]]

[[run]]
name = "l"
notebooks = ["layers"]
checkpoints = ["w2v2-small", "hubert-small"]
measures = [["linear_cka_dropped"], ["linear_cka_debiased", "mutual_knn"]]
groups = 0

[[run]]
name = "a"
notebooks = ["attention"]
checkpoints = ["w2v2-small", "hubert-small"]
measures = [["attention_cka"], ["js"]]
groups = 0

[[run]]
name = "f"
notebooks = ["finetuning"]
checkpoints = ["w2v2-small", "w2v2-small-b", "w2v2-small-ctc"]
measures = [["linear_cka_dropped"], ["pearson"]]
groups = 0

[[run]]
name = "no-other-seed"
notebooks = ["finetuning"]
checkpoints = ["w2v2-small", "w2v2-small-ctc", "hubert-large", "hubert-large-ctc"]

[[run]]
name = "finetuned"
checkpoints = ["w2v2-small", "w2v2-small-ctc"]

[[run]]
name = "two"
notebooks = ["finetuning"]
checkpoints = ["w2v2-small", "hubert-small"]
"""


@pytest.mark.slow
def test_any_measures_and_checkpoints_make_a_report(swept):
    assert {name: each["error"] for name, each in swept.items() if each["status"] == "failed"} == {}
    left_open = {name: each["error"] for name, each in swept.items() if each["status"] == "unanswered"}
    apart = "no two models trained apart among w2v2-small, w2v2-small-ctc; choose two trained checkpoints"
    assert set(left_open) == {"finetuned/neurons", "finetuned/layers", "finetuned/attention", "two/finetuning"}
    assert all(left_open[f"finetuned/{name}"].startswith(apart) for name in ("neurons", "layers", "attention"))
    assert left_open["two/finetuning"].startswith("no finetuned counterpart among w2v2-small, hubert-small")
    assert all(each["verdict"] for name, each in swept.items() if name not in left_open)
    assert len(swept) == 14


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_with_its_defaults_as_in_jupyterlab(path, tmp_path):
    """The defaults are relative to the notebook's folder, which is where JupyterLab starts a kernel."""
    (tmp_path / "data").symlink_to(sslsim.DATA)
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    tables = sorted((tmp_path / "reports" / "tables").glob(f"{path.stem}-*.csv"))
    figures = sorted((tmp_path / "reports" / "figures").glob(f"{path.stem}-*.svg"))
    assert len(tables) >= 2
    assert len(figures) >= 2
