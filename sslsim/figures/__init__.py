"""Figures from tidy tables: each takes a table and returns a Figure, or the axes that it was given to draw on."""

from sslsim.figures.clips import head_maps, sound_cards, utterance_card
from sslsim.figures.curves import (
    along_depth, best_matches, best_matching_layers, convergence, distance_moved, finetuning_lines, interval_lines,
    layer_lines, partners_against_null,
)  # fmt: skip
from sslsim.figures.explore import explore_heads, explore_layers, explore_neurons
from sslsim.figures.maps import above_chance_maps, heatmaps, layer_map, pair_maps

__all__ = [
    "above_chance_maps", "along_depth", "best_matches", "best_matching_layers", "convergence", "distance_moved",
    "explore_heads", "explore_layers", "explore_neurons", "finetuning_lines", "head_maps", "heatmaps", "interval_lines",
    "layer_lines", "layer_map", "pair_maps", "partners_against_null", "sound_cards", "utterance_card",
]  # fmt: skip
