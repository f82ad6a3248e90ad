"""Tables of all pairs of layers of made lineups, with scores and controls at given levels: to be checked by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from sslsim.comparison.tables import pair_columns
from sslsim.encoders.lineup import Checkpoint
from sslsim.significance.evidence import Evidence

LINEUP: dict[str, dict[str, Any]] = {
    "a": {"family": "f"},
    "a2": {"family": "f", "seed_of": "a"},
    "a-ctc": {"family": "f", "finetuned_from": "a"},
    "b": {"family": "f"},
    "c": {"family": "g"},
    "d": {"family": "g"},
    "twin": {"family": "f", "untrained_seed": 0},
    "twin2": {"family": "f", "untrained_seed": 1},
    "mel": {"source": "log-mel"},
}
PERMUTATIONS, SIZES = 19, (30, 30, 30, 30)


def lineup(*names: str, n_layers: int = 2, **layers: int) -> list[SimpleNamespace]:
    """Return stores as far as tables need them; `layers` of some models by name, a single one of mel."""
    numbers = {"mel": 1} | layers
    return [
        SimpleNamespace(
            name=name,
            checkpoint=Checkpoint(**{"name": name, "source": "made"} | LINEUP.get(name, {})),
            layer_numbers=range(numbers.get(name, n_layers)),
        )
        for name in names
    ]


def scores(stores: Sequence, measures: Iterable[str], level: Callable[..., float]) -> pd.DataFrame:
    """Scores ``level(measure, model_x, layer_x, model_y, layer_y)`` with the columns that `compare` gives."""
    places = [(store.checkpoint.name, layer) for store in stores for layer in store.layer_numbers]
    rows = [
        {"measure": name, "model_x": x, "layer_x": i, "model_y": y, "layer_y": j, "value": level(name, x, i, y, j)}
        for name in measures
        for (x, i), (y, j) in itertools.product(places, places)
    ]
    return pair_columns(pd.DataFrame(rows), stores)  # type: ignore[arg-type]


def made(stores: Sequence, measures: Iterable[str], level: Callable[..., float], seed: int = 0) -> Evidence:
    """Evidence with scores near a level and chance near 0.1; random bases near 0 where a measure has any."""
    rng = np.random.default_rng(seed)
    pairs = scores(stores, measures, level)
    pairs["value"] += 0.01 * rng.standard_normal(len(pairs))
    n = len(pairs)
    null = 0.1 + 0.02 * rng.standard_normal((PERMUTATIONS, n))
    left_out = pairs.value.to_numpy() + 0.003 * rng.standard_normal((len(SIZES), n))
    rotated = 0.02 * rng.standard_normal((PERMUTATIONS, n))
    rotated[:, ~pairs.measure.str.contains("excess|shared")] = np.nan
    return Evidence(pairs, null, left_out, SIZES, rotated)
