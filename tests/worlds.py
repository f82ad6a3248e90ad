"""Made worlds: two models whose likeness is known exactly, to see whether the verdicts find it.

Neurons are mixtures of independent factors; every factor is an autoregression of its own speed within each utterance,
so frames depend on one another as those of speech do. The value of a measure on endless speech follows from the
mixtures alone (`World.truth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.signal import lfilter

from sslsim.lineup import Checkpoint
from sslsim.measures import MEASURES
from sslsim.moments import Marginal, Moments
from sslsim.rotations import rotated_correlation

KINDS = ("independent", "permuted", "rotated", "half", "tenth")
OUTLIER = 30.0  # times the scale of the others
SLOWEST, FASTEST = 0.97, 0.6  # correlation of a factor with itself a frame later


@dataclass(frozen=True)
class Model:
    """What `sslsim` asks of a store of activations: two of them can be compared."""

    checkpoint: Checkpoint
    layers: list[np.ndarray]
    index: pd.DataFrame
    root: Path
    frame_key: str = "made"

    @property
    def n_layers(self) -> int:
        """Layers."""
        return len(self.layers)

    @property
    def n_neurons(self) -> int:
        """Neurons of a layer."""
        return self.layers[0].shape[1]

    @property
    def n_frames(self) -> int:
        """Frames."""
        return len(self.layers[0])

    def layer(self, i: int) -> np.ndarray:
        """Activations of a layer, (n_frames, n_neurons)."""
        return self.layers[i]


@dataclass(frozen=True)
class World:
    """Two models of some layers on made utterances.

    Attributes
    ----------
    kind : str
        independent: nothing shared. permuted: the same neurons in another order. rotated: the same subspace in a random
        basis. half: half of the subspace, in random bases. tenth: a tenth of the neurons, the rest independent.
    seed : int
        Of everything.
    neurons, layers : int
        Of each model.
    utterances, frames : int
        Utterances, and the mean of their lengths.
    outlier : bool
        The last neuron of every layer, and in half and tenth only that, is scaled up by `OUTLIER` on both sides.
    """

    kind: str
    seed: int
    neurons: int = 30
    layers: int = 2
    utterances: int = 30
    frames: int = 60
    outlier: bool = False
    _rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rng", np.random.default_rng([self.seed, KINDS.index(self.kind)]))

    @cached_property
    def mixtures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every layer, factors to neurons of x and of y: (factors, neurons) each; factors of y follow those of x."""
        d, out = self.neurons, []
        for _ in range(self.layers):
            x, y = np.zeros((2 * d, d)), np.zeros((2 * d, d))
            shared = {"independent": 0, "half": d // 2, "tenth": d // 10}.get(self.kind, d)
            x[:d] = np.eye(d)
            y[:shared, :shared] = np.eye(shared)
            y[d + shared :, shared:] = np.eye(d - shared)
            if self.kind == "permuted":
                y = y[:, self._rng.permutation(d)]
            elif self.kind in ("rotated", "half"):
                y = y @ _haar(self._rng, d)
                x = x @ _haar(self._rng, d) if self.kind == "half" else x
            if self.outlier:
                x[:, -1] *= OUTLIER
                y[:, -1] *= OUTLIER
            out.append((x, y))
        return out

    def models(self, folder: Path) -> list[Model]:
        """Make the two models, as stores of two families."""
        mixtures, rng = self.mixtures, self._rng
        lengths = rng.integers(self.frames // 2, 3 * self.frames // 2, self.utterances)
        index = pd.DataFrame({"utterance": [f"u{u}" for u in range(self.utterances)], "n_frames": lengths})
        index["speaker"] = [f"s{u % 5}" for u in range(self.utterances)]
        index["start"] = index.n_frames.cumsum() - index.n_frames
        index["length"] = index.n_frames
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for mixture in mixtures:
            factors = _autoregressions(rng, lengths, 2 * self.neurons)
            for side, matrix in zip(sides, mixture, strict=True):
                side.append((factors @ matrix).astype("f4"))
        names = (("x", "one"), ("y", "two"))
        return [
            Model(Checkpoint(name, "made", family=family), side, index, folder / name)
            for (name, family), side in zip(names, sides, strict=True)
        ]

    def truth(self, measure: str, layer: int, draws: int = 0) -> float:
        """Value of a measure of moments on endless speech; with `draws` its mean excess over bases of both sides."""
        m = endless(*self.mixtures[layer])
        value = MEASURES[measure].score(m)
        if not draws:
            return value
        matching = MEASURES[measure].matching
        turned = [matching(rotated_correlation(m, side, draw)) for side in "xy" for draw in range(draws)]
        return value - float(np.mean(turned))


def endless(x: np.ndarray, y: np.ndarray) -> Moments:
    """Moments of endlessly many frames of two mixtures of independent factors of variance 1."""
    n = 10**9
    a, b = (torch.from_numpy(side) for side in (x, y))
    sides = [Marginal(n, torch.zeros(s.shape[1], dtype=torch.float64), n * s.T @ s) for s in (a, b)]
    return Moments(*sides, n * a.T @ b)


def _haar(rng: np.random.Generator, d: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(r.diagonal())


def _autoregressions(rng: np.random.Generator, lengths: Sequence[int], count: int) -> np.ndarray:
    """Independent factors (n_frames, count) of variance 1, each utterance anew."""
    rho = rng.uniform(FASTEST, SLOWEST, count)
    n, longest = len(lengths), max(lengths)
    noise = rng.standard_normal((n, longest, count)) * np.sqrt(1 - rho**2)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    out = np.stack([lfilter([1.0], [1.0, -r], noise[:, :, f], axis=1) for f, r in enumerate(rho)], axis=2)
    return np.concatenate([utterance[:length] for utterance, length in zip(out, lengths, strict=True)])
