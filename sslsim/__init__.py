"""Do self-supervised speech models represent speech alike, and where: in neurons, in layers, in attention heads?

>>> import sslsim
>>> stores = sslsim.extract(sslsim.Study(), "reports/store")
>>> table = sslsim.compare(stores, ["max_corr", "linreg", "svcca", "linear_cka_debiased"])
>>> sslsim.figures.heatmap(table, "svcca")

Names are loaded when first used, so that ``sslsim --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Study": "activations",
    "extract": "activations",
    "open": "activations:open_store",
    "Subset": "speech",
    "Segmentation": "speech",
    "read_corpus": "speech",
    "read_lineup": "encoders",
    "MEASURES": "measures",
    "similarity": "measures",
    "attention_similarity": "measures",
    "attention_cka": "measures",
    "compare": "comparison",
    "compare_attention": "comparison",
    "compare_heads": "comparison",
    "describe_heads": "comparison",
    "neuron_partners": "comparison",
    "Resampling": "significance",
    "evidence": "significance",
    "attention_evidence": "significance",
    "Report": "reports.report",
    "SslsimError": "errors",
}
_PACKAGES = ("analysis", "figures")
__all__ = ["__version__", *_HOME, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        package, _, attribute = _HOME[name].partition(":")
        return getattr(import_module(f"sslsim.{package}"), attribute or name)
    if name in _PACKAGES:
        return import_module(f"sslsim.{name}")
    raise AttributeError(f"module 'sslsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
