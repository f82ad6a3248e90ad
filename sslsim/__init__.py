"""Do self-supervised speech models represent speech alike, and where: in neurons, in layers, in attention heads?

>>> import sslsim
>>> stores = sslsim.extract(sslsim.Study(), "reports/store")
>>> table = sslsim.compare(stores, ["max_corr", "linreg", "svcca", "linear_cka_debiased"])
>>> sslsim.figures.heatmaps(table, ["svcca"])
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "activations": ("Study", "condition", "extract", "from_arrays", "in_units", "open"),
    "speech": ("Subset", "Segmentation", "read_corpus"),
    "encoders": ("read_lineup",),
    "measures": ("MEASURES", "similarity", "attention_similarity", "attention_cka"),
    "comparison": ("compare", "compare_attention", "compare_heads", "describe_heads", "neuron_partners"),
    "significance": ("Resampling", "evidence", "attention_evidence"),
    "reports.report": ("Report",),
    "errors": ("SslsimError",),
}  # loaded when first used: `sslsim --help` must not wait for torch
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_PACKAGES = ("analysis", "figures")
__all__ = ["__version__", *_HOME, *_PACKAGES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"sslsim.{_HOME[name]}"), "open_store" if name == "open" else name)
    if name in _PACKAGES:
        return import_module(f"sslsim.{name}")
    raise AttributeError(f"module 'sslsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
