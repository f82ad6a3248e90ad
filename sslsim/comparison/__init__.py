"""Every layer and head of some checkpoints against every other, as tidy tables."""
