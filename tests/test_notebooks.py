"""What every committed notebook keeps to; that they run is shown by `make report` in CI."""

import ast
import json

import nbformat
import pytest
from nbclient import NotebookClient

import sslsim

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
