"""The parts depend on each other in one direction only, and only loading an encoder needs transformers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sslsim

MODULES = {path.stem: path for path in Path(sslsim.__file__).parent.glob("*.py")}

# what each module may import of the package, everything below it in its own column included
SPEECH = [
    "errors",
    "containers",
    "audio",
    "filterbank",
    "anatomy",
    "names",
    "lineup",
    "store",
    "writer",
    "models",
    "parallel",
]
SPEECH += ["corpus", "extraction"]
MAY_IMPORT: dict[str, set[str]] = {module: set(SPEECH[:i]) for i, module in enumerate(SPEECH)}
MAY_IMPORT |= {
    "products": {"errors"},
    "moments": {"errors", "products"},
    "neurons": {"errors", "moments"},
    "rotations": {"moments"},
    "controls": {"errors", "products", "moments", "measures"},
    "layers": {"errors", "moments", "products"},
    "attention": {"errors", "products", "parallel"},
    "heldout": {"errors", "moments"},
    "sampled": {"errors", "products"},
    "measures": {"errors", "products", "moments", "neurons", "layers", "attention", "sampled", "heldout"},
    "tables": {"errors"},
}
MAY_IMPORT["parallel"] = {"errors"}
MAY_IMPORT["states"] = {"errors", "products", "store"}
MAY_IMPORT["heads"] = {"errors", "tables", "attention", "states", "store", "parallel"}
MAY_IMPORT["engine"] = MAY_IMPORT["measures"] | {"measures", "states", "store", "parallel", "writer", "rotations"}
MAY_IMPORT["grid"] = MAY_IMPORT["engine"] | {"engine", "tables", "heads"}
MAY_IMPORT["controlled"] = MAY_IMPORT["grid"] | {"grid", "controls"}
MAY_IMPORT["readings"] = {"errors", "tables", "measures", "store"}
MAY_IMPORT["findings"] = MAY_IMPORT["controlled"] | {"controlled", "readings"}
MAY_IMPORT["verdicts"] = {"errors", "tables", "store", "controls", "controlled", "readings", "findings"}
MAY_IMPORT["labels"] = {"errors", "audio", "corpus", "controls", "readings", "states", "store"}
MAY_IMPORT["listening"] = {"errors", "audio", "labels", "readings", "store"}
MAY_IMPORT["plots"] = {"errors", "tables", "cells"}  # knows only tables
# the reports know nothing of the science
REPORTS = ["errors", "files", "quick", "markup", "cells", "outputs", "parameters", "provenance", "render"]
REPORTS += ["record", "plan", "execute", "report", "sweep", "compare_runs"]
MAY_IMPORT |= {module: set(REPORTS[:i]) for i, module in enumerate(REPORTS)}
MAY_IMPORT["sweep"] |= {"lineup"}  # only where one lies that comes along
MAY_IMPORT["sounds"] = {"audio", "plots", "listening"}  # of listening only the types
MAY_IMPORT["outputs"] |= {"sounds"}  # only a type
MAY_IMPORT["cli"] = set(MAY_IMPORT)
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set()  # it loads names when first used


def imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module):
    assert module in MAY_IMPORT, f"say in this test what sslsim/{module}.py may import"
    own = {name.split(".")[1] for name in imports(MODULES[module]) if name.startswith("sslsim.")}
    assert own & set(MODULES) <= MAY_IMPORT[module]


def test_only_loading_an_encoder_needs_transformers():
    needs = {m for m, path in MODULES.items() if any(i.split(".")[0] == "transformers" for i in imports(path))}
    assert needs <= {"models", "filterbank"}


@pytest.mark.parametrize("module", ["__init__", *SPEECH, "cli"])
def test_quick_modules_import_torch_and_transformers_only_in_functions(module):
    body = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    heads = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in heads for alias in node.names} | {getattr(n, "module", "") for n in heads}
    assert not {(name or "").split(".")[0] for name in names} & {"torch", "transformers", "huggingface_hub"}
