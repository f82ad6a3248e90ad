"""What every committed notebook keeps to; that they run is shown by `make report` in CI."""

import ast
import json
import os
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from sslsim.activations import Study
from sslsim.reports import record, sweep
from sslsim.reports.diff import claims_that_differ
from sslsim.reports.jobs import ORDER, Request
from sslsim.reports.runner import run
from sslsim.resources import DATA, NOTEBOOKS

SHARED = ["study", "checkpoints", "measures", "permutations", "blocks", "block_by", "null_seed", "device"]
SHARED += ["store", "out"]
FIVE = [NOTEBOOKS / f"{name}.ipynb" for name in ORDER]


@pytest.fixture(params=FIVE, ids=lambda path: path.stem)
def cells(request):
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def test_is_committed_clean(cells):
    code = [c for c in cells if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    assert len({c["id"] for c in cells}) == len(cells) <= 32
    assert all(len(c["source"]) <= 8 for c in code if "parameters" not in c["metadata"].get("tags", []))


def test_keeps_its_logic_in_the_package(cells):
    for cell in (c for c in cells if c["cell_type"] == "code"):
        banned = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda)
        assert not [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, banned)]


def test_has_more_prose_than_code_and_describes_its_figures(cells):
    code = [c for c in cells if c["cell_type"] == "code"]
    words = sum(len(source(c).split()) for c in cells if c["cell_type"] == "markdown")
    assert words > 5 * sum(len(c["source"]) for c in code)
    text = "\n".join(map(source, code))
    assert text.count("report.figure(") == text.count("alt=alt") >= 2
    assert text.count("report.claims(") == 1


def test_opens_with_its_question_and_ends_with_its_limits(cells):
    titles = [line for c in cells if c["cell_type"] == "markdown" for line in c["source"] if line.startswith("# ")]
    assert len(titles) == 1
    assert titles[0].strip().endswith("?")
    assert source(cells[0]).startswith(titles[0])
    assert source(cells[-1]).startswith("## What this shows, and what it does not")


def test_has_one_cell_of_parameters_with_types_and_help(cells):
    (tagged,) = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    statements = ast.parse(source(tagged)).body
    names = [statement.target.id for statement in statements]
    assert [name for name in names if name in SHARED] == SHARED
    for statement in statements:
        ast.literal_eval(statement.value)
        last = tagged["source"][statement.end_lineno - 1]
        assert statement.target.id == "measures" or "  # " in last


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
measures = [["linear_cka_dropped"], ["linear_cka_debiased", "mutual_knn_raw"]]
blocks = 0

[[run]]
name = "a"
notebooks = ["attention"]
checkpoints = ["w2v2-small", "hubert-small"]
measures = [["attention_cka"], ["js"]]
blocks = 0

[[run]]
name = "f"
notebooks = ["finetuning"]
checkpoints = ["w2v2-small", "w2v2-small-b", "w2v2-small-ctc"]
measures = [["linear_cka_dropped"], ["pearson"]]
blocks = 0

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


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Make reports of some choices of measures and checkpoints, on twelve utterances; a summary a run and notebook."""
    folder = tmp_path_factory.mktemp("sweep")
    speech = pd.read_csv(DATA / "speech/manifest.csv").iloc[::9]
    speech.assign(path=[str(DATA / "speech" / path) for path in speech.path]).to_csv(folder / "few.csv")
    (folder / "sweep.toml").write_text(CHOICES)
    few = {"permutations": 2, "rotations": 2, "frames": 500}
    request = Request(folder / "out", fields={"corpus": str(folder / "few.csv")}, parameters=few)
    sweep.run([str(folder / "sweep.toml")], request)
    runs = json.loads((folder / "out/sweep.json").read_text(encoding="utf-8"))["runs"]
    return {f"{run}/{book}": each for run, row in runs.items() for book, each in row["notebooks"].items()}


@pytest.mark.slow
def test_any_measures_and_checkpoints_make_a_report(swept):
    assert {name: each["error"] for name, each in swept.items() if each["status"] == "failed"} == {}
    left_open = {name: each["error"] for name, each in swept.items() if each["status"] == "unanswered"}
    apart = "no two models trained apart among w2v2-small, w2v2-small-ctc; choose two trained checkpoints"
    assert set(left_open) == {"finetuned/neurons", "finetuned/layers", "finetuned/attention", "two/finetuning"}
    assert all(left_open[f"finetuned/{name}"].startswith(apart) for name in ("neurons", "layers", "attention"))
    assert left_open["two/finetuning"].startswith("no finetuned counterpart among w2v2-small, hubert-small")
    assert all(each["claims"] for name, each in swept.items() if name not in left_open)
    assert len(swept) == 15


@pytest.mark.slow
@pytest.mark.parametrize("path", FIVE, ids=lambda path: path.stem)
def test_runs_as_in_jupyterlab(path, tmp_path, monkeypatch):
    """The kernel starts in the notebook's folder and is told its path; settings are small."""
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    (tmp_path / "notebooks").mkdir()
    Study(checkpoints=("w2v2-small", "w2v2-small-b", "hubert-small", "w2v2-small-ctc")).write(tmp_path / "few.toml")
    notebook, few = nbformat.read(path, as_version=4), f"study = {str(tmp_path / 'few.toml')!r}"
    for cell in (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])):
        cell.source += f"\n{few}\nframes = 500\npermutations = rotations = 2"
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path / "notebooks")}}).execute()
    for folder in ("tables", "figures"):
        assert list((tmp_path / "reports" / folder).glob(f"{path.stem}-*"))
    assert Path(tmp_path / "reports/store").is_dir()


ON_A_GPU = """
import pretend, sslsim.parallel
sslsim.parallel.chosen_executor = lambda given: pretend.Here()  # what is pretended holds in one thread
pretended = pretend.pretend_cuda()
pretended.__enter__()
"""


@pytest.mark.slow
def test_a_run_on_a_gpu_says_what_one_on_a_cpu_says(tmp_path, monkeypatch):
    """All four notebooks, to the last product: tensors of two devices do not meet, nor does numpy those of the GPU."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(ON_A_GPU)
    names = ("w2v2-small", "w2v2-small-b", "hubert-small", "w2v2-small-ctc")
    Study(checkpoints=names).extract(tmp_path / "store", device="cpu")
    few = {"permutations": 2, "rotations": 2, "frames": 500, "blocks": 2, "rows": 2}
    runs = {}
    for device in ("cpu", "cuda"):
        here = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), str(tmp_path / "site")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here[: 2 + (device == "cuda")]))
        options = {"fields": {"checkpoints": ",".join(names)}, "parameters": few, "device": device}
        assert run(Request(tmp_path / device, store=tmp_path / "store", **options)) == 0
        runs[device] = record.read(tmp_path / device / "run.json")
    assert runs["cuda"]["settings"]["device"] == "cuda"
    assert claims_that_differ(runs["cpu"], runs["cuda"], tolerance=1e-4) == []
    assert all(each["claims"] for each in runs["cuda"]["notebooks"].values())
