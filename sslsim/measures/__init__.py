"""Similarity of two layers or two attention heads, as functions of arrays and of their moments."""
