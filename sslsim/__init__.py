"""Do self-supervised speech models represent speech alike, and where: in neurons, in layers, in attention heads?

>>> import sslsim
>>> stores = sslsim.extract("data/lineup.toml", "data/speech/manifest.csv", "reports/store")
>>> table = sslsim.compare(stores, ["max_corr", "linreg", "svcca", "linear_cka_debiased"])
>>> sslsim.figures.heatmaps.heatmap(table, "svcca")

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
    "similarity": "measures.registry",
    "MEASURES": "measures.registry",
    "attention_similarity": "measures.attention",
    "attention_cka": "measures.attention",
    "ATTENTION_MEASURES": "measures.attention:MEASURES",
    "extract": "activations.extract",
    "open": "activations.store:open_store",
    "read_lineup": "encoders.lineup",
    "read_corpus": "speech.corpus",
    "compare": "comparison.layers",
    "compare_heads": "comparison.heads",
    "compare_attention": "comparison.heads",
    "describe_heads": "comparison.heads",
    "compare_neurons": "comparison.layers",
    "evidence": "significance.run",
    "neuron_evidence": "significance.run",
    "attention_evidence": "significance.run",
    "executor": "parallel",
    "Outputs": "reports.outputs",
    "SslsimError": "errors",
}
__all__ = ["DATA", "NOTEBOOKS", "__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, _, attribute = _HOME[name].partition(":")
        return getattr(import_module(f"sslsim.{module}"), attribute or name)
    raise AttributeError(f"module 'sslsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
