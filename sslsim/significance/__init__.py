"""Chance levels, intervals and random bases: how far a score may be believed."""
