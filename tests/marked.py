"""Recordings with time marks, and the store of their spectrogram: labels, moments and clips whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from conftest import tone

import sslsim
from sslsim.activations.store import ActivationStore

RATES = {"one": 16_000, "two": 8_000}
HEADER = "id,kind,label,start,end\n"
TIMES = 0.0125 + 0.02 * np.arange(99)  # centres of the frames of 2 s


def record(folder: Path) -> Path:
    """Write two recordings of 2 s, one of them at 8 kHz, and a mark every tenth of a second: a b a b ..."""
    folder.mkdir()
    for seed, (name, rate) in enumerate(RATES.items()):
        soundfile.write(folder / f"{name}.wav", tone(seed, 2 * rate, rate), rate)
    rows = [f"{name},phone,{'ab'[i % 2]},{i / 10:.2f},{(i + 1) / 10:.2f}" for name in RATES for i in range(1, 20)]
    rows += [f"{name},word,w{i},{i:.2f},{i + 1:.2f}" for name in RATES for i in range(2)]
    (folder / "marks.csv").write_text(HEADER + "\n".join(rows) + "\n")
    (folder.parent / "lineup.toml").write_text('[[checkpoint]]\nname = "mel"\nsource = "log-mel"\n')
    return folder


def spectrogram(corpus: Path, **options: Any) -> ActivationStore:
    """Extract the log-mel spectrogram of recordings."""
    study = sslsim.Study(lineup=corpus.parent / "lineup.toml", corpus=corpus, **options)
    return study.extract(corpus.parent / "store", device="cpu")[0]


def pair_table(pairs: list[tuple[tuple, tuple]], **columns: Any) -> pd.DataFrame:
    """One row a pair of (model, layer, neuron)."""
    keys = [f"{key}_{side}" for side in "xy" for key in ("model", "layer", "neuron")]
    return pd.DataFrame([(*x, *y) for x, y in pairs], columns=keys).assign(**columns)
