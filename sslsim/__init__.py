"""Do self-supervised speech models represent speech alike, and where: in neurons, in layers, in attention heads?

>>> import sslsim
>>> stores = sslsim.extract("data/lineup.toml", "data/speech/manifest.csv", "reports/store")
>>> table = sslsim.compare(stores, ["max_corr", "linreg", "svcca", "linear_cka_debiased"])
>>> sslsim.plots.heatmap(table, "svcca")

Names are loaded when first used, so that ``sslsim --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"  # the embedded default: lineup.toml, checkpoints/, speech/
NOTEBOOKS = ROOT / "notebooks"

_HOME = {
    "similarity": "measures",
    "MEASURES": "measures",
    "attention_similarity": "attention",
    "attention_cka": "attention",
    "ATTENTION_MEASURES": "attention.MEASURES",
    "extract": "extraction",
    "open": "store.open_store",
    "read_lineup": "lineup",
    "read_corpus": "corpus",
    "compare": "grid",
    "compare_heads": "heads",
    "compare_attention": "heads",
    "describe_heads": "heads",
    "compare_neurons": "grid",
    "evidence": "controlled",
    "neuron_evidence": "controlled",
    "attention_evidence": "controlled",
    "executor": "parallel",
    "Outputs": "outputs",
    "SslsimError": "errors",
}
_MODULES = ("controls", "findings", "plots", "readings", "verdicts")
__all__ = ["DATA", "NOTEBOOKS", "__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"sslsim.{name}")
    if name in _HOME:
        module, _, attribute = _HOME[name].partition(".")
        return getattr(import_module(f"sslsim.{module}"), attribute or name)
    raise AttributeError(f"module 'sslsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
