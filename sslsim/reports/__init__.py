"""Notebooks in; pages, tables, figures and an index out."""
