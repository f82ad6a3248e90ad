"""Every layer, neuron and attention head of some checkpoints against every other: tidy tables, a row a pair."""

from sslsim.comparison.heads import compare_attention, compare_heads, describe_heads
from sslsim.comparison.layers import compare, neuron_partners

__all__ = ["compare", "compare_attention", "compare_heads", "describe_heads", "neuron_partners"]
