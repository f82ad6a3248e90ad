"""Similarity of two layers or two attention heads, as functions of arrays and of their moments."""

from sslsim.measures.attention import attention_cka, attention_similarity
from sslsim.measures.registry import MEASURES, similarity

__all__ = ["MEASURES", "attention_cka", "attention_similarity", "similarity"]
