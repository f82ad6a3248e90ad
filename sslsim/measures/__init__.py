"""Similarity of two layers or two attention heads, as functions of arrays and of their moments."""

from sslsim.measures.attention import attention_cka, attention_similarity, head_profile
from sslsim.measures.diagnostics import autocorrelation, chance_max_corr, concentration, effective_frames
from sslsim.measures.registry import MEASURES, reference_table, similarity, title_of

__all__ = [
    "MEASURES",
    "attention_cka",
    "attention_similarity",
    "autocorrelation",
    "chance_max_corr",
    "concentration",
    "effective_frames",
    "head_profile",
    "reference_table",
    "similarity",
    "title_of",
]
