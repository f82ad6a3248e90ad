"""Similarity of two layers or two attention heads, as functions of arrays and of their moments."""

from sslsim.measures.attention import attention_cka, attention_similarity, head_profile
from sslsim.measures.diagnostics import Concentration, autocorrelation, chance_max_corr, concentration, effective_frames
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.registry import (
    MEASURES,
    TITLES,
    Measure,
    level_of,
    measure_named,
    reference_table,
    similarity,
    title_of,
)

__all__ = [
    "MEASURES",
    "TITLES",
    "Concentration",
    "Marginal",
    "Measure",
    "Moments",
    "attention_cka",
    "attention_similarity",
    "autocorrelation",
    "chance_max_corr",
    "concentration",
    "effective_frames",
    "head_profile",
    "level_of",
    "measure_named",
    "reference_table",
    "similarity",
    "title_of",
]
