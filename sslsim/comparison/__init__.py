"""Every layer, neuron and attention head of some checkpoints against every other: tidy tables, a row a pair."""

from sslsim.comparison.heads import compare_attention, compare_heads, describe_heads
from sslsim.comparison.layers import compare, neuron_partners
from sslsim.comparison.tables import KEYS, SIDES, pair_columns, square_table

__all__ = [
    "KEYS",
    "SIDES",
    "compare",
    "compare_attention",
    "compare_heads",
    "describe_heads",
    "neuron_partners",
    "pair_columns",
    "square_table",
]
