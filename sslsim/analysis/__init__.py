"""What a reader takes from scores and their evidence: tables in, smaller tables, examples and claims out."""

from sslsim.analysis.answers import (
    answer, contents_answer, depth_in_words, entropy_in_words, finetuning_answer, peak_in_words,
)  # fmt: skip
from sslsim.analysis.claims import (
    BOUNDS, attention_claims, contents_claims, finetuning_claims, layer_claims, neuron_claims,
)  # fmt: skip
from sslsim.analysis.contents import alike_layers, block_changes, explained, held_against, known_of, lag_curves
from sslsim.analysis.examples import cut_clips, extremes, head_pair, strongest_moments
from sslsim.analysis.finetuning import changed_neurons, distance_moved, finetuning_by_layer, first_moved
from sslsim.analysis.layers import (
    along_depth, best_depths, best_layers, best_partner_depths, beyond, concentrations, convergence, layer_norms,
    raw_against_standardised, relation_means, similarity_by_relation,
)  # fmt: skip
from sslsim.analysis.partners import chance_levels, matched_heads, one_to_many, strongest, with_intervals, with_partner
from sslsim.analysis.preferences import labels_if_any, same_label, selectivity
from sslsim.analysis.training import also_differ, over_training

__all__ = [
    "BOUNDS", "alike_layers", "along_depth", "also_differ", "answer", "attention_claims", "best_depths",
    "best_layers", "best_partner_depths", "beyond", "block_changes", "chance_levels", "changed_neurons",
    "concentrations", "contents_answer", "contents_claims", "convergence", "cut_clips", "depth_in_words",
    "distance_moved", "entropy_in_words", "explained", "extremes", "finetuning_answer", "finetuning_by_layer",
    "finetuning_claims", "first_moved", "head_pair", "held_against", "known_of", "labels_if_any", "lag_curves",
    "layer_claims", "layer_norms", "matched_heads", "neuron_claims", "one_to_many", "over_training",
    "peak_in_words", "raw_against_standardised", "relation_means", "same_label", "selectivity",
    "similarity_by_relation", "strongest", "strongest_moments", "with_intervals", "with_partner",
]  # fmt: skip
