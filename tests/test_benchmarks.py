"""Benchmarks go on working: those of comparisons, on layers so small that they take a second."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


@pytest.mark.parametrize("name", ["products", "pairs"])
def test_a_benchmark_runs(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    run, made = (importlib.import_module(module) for module in ("run", "made"))
    models = made.models
    monkeypatch.setattr(made, "models", lambda _, *sizes: models(300, *((kind, 6, n) for kind, _, n in sizes)))
    rows = run.BENCHMARKS[name]("cpu")
    assert len(rows) == 2
    assert all(float(row["ratio"]) > 0 for row in rows)
    for module in ("run", "made", "published"):
        sys.modules.pop(module, None)
