"""Made worlds: two models whose likeness is known exactly, to see whether the claims find it.

Neurons are mixtures of independent factors; every factor is an autoregression of its own speed within each utterance,
so frames depend on one another as those of speech do. The value of a measure on endless speech follows from the
mixtures alone (`World.truth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.signal import lfilter

from sslsim.encoders.lineup import Checkpoint
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.random_basis import rotated_correlation, shared
from sslsim.measures.registry import MEASURES
from sslsim.significance.evidence import Evidence, Resampling
from sslsim.significance.run import evidence

SHARES = {"independent": 0.0, "permuted": 1.0, "rotated": 1.0, "half": 0.5, "tenth": 0.1}
KINDS = tuple(SHARES)
MEASURED = ("max_corr", "linreg_r2", "svcca", "linear_cka_debiased")
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
    def name(self) -> str:
        """What tables call the checkpoint."""
        return self.checkpoint.name

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
        The last neuron of every layer is scaled up by `OUTLIER` on both sides.
    draw : int
        Of what is said: worlds of one seed have the same models and lengths of utterances, and other speech.
    shared : float, optional
        In half and tenth, the share of the subspace or of the neurons in place of what their names say.
    noise : float
        Variance of noise of its own in what y shares with x; the correlation of a shared neuron is sqrt(1 - noise).
    speakers : int
        Who take turns at the utterances.
    offset : float
        Deviation of what a speaker adds to each factor, against 1 within utterances; neurons keep variance 1.
    """

    kind: str
    seed: int
    neurons: int = 30
    layers: int = 2
    utterances: int = 42
    frames: int = 60
    outlier: bool = False
    draw: int = 0
    shared: float | None = None
    noise: float = 0.0
    speakers: int = 5
    offset: float = 0.0

    @property
    def n_shared(self) -> int:
        """Dimensions of a layer, or neurons, that the models share."""
        share = SHARES[self.kind] if self.shared is None else self.shared
        return round(share * self.neurons)

    @property
    def share(self) -> float:
        """True share of the variance of a neuron that the other layer explains."""
        return self.n_shared / self.neurons * (1 - self.noise)

    @property
    def evidence_seed(self) -> int:
        """Seed of mismatches and random bases, of its own for each world and draw."""
        return 10_000 * self.seed + self.draw

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance."""
        return self._rng(0).integers(4 * self.frames // 5, 6 * self.frames // 5 + 1, self.utterances)

    @cached_property
    def mixtures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every layer, factors to neurons of x and of y: (factors, neurons) each; factors of y follow those of x."""
        d, shared, rng, out = self.neurons, self.n_shared, self._rng(1), []
        for _ in range(self.layers):
            x, y = np.zeros((2 * d, d)), np.zeros((2 * d, d))
            x[:d] = np.eye(d)
            y[:shared, :shared] = np.sqrt(1 - self.noise) * np.eye(shared)
            y[d:] = np.diag(np.where(np.arange(d) < shared, np.sqrt(self.noise), 1.0))
            if self.kind == "permuted":
                y = y[:, rng.permutation(d)]
            elif self.kind in ("rotated", "half"):
                y = y @ _haar(rng, d)
                x = x @ _haar(rng, d) if self.kind == "half" else x
            if self.outlier:
                x[:, -1] *= OUTLIER
                y[:, -1] *= OUTLIER
            out.append((x, y))
        return out

    def models(self, folder: Path) -> list[Model]:
        """Make the two models, as stores of two families."""
        index = pd.DataFrame({"utterance": [f"u{u}" for u in range(self.utterances)], "n_frames": self.lengths})
        index["speaker"] = [f"s{u % self.speakers}" for u in range(self.utterances)]
        index["start"] = index.n_frames.cumsum() - index.n_frames
        index["length"] = index.n_frames
        names = (("x", "one"), ("y", "two"))
        return [
            Model(Checkpoint(name, "made", family=family), list(side), index, folder / name)
            for (name, family), side in zip(names, zip(*self.activations(), strict=True), strict=True)
        ]

    def activations(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every layer, the activations of x and of y, (n_frames, neurons) float32."""
        speeds, rng, out = self._rng(2), self._rng(3, self.draw), []
        speaker = np.repeat(np.arange(self.utterances) % self.speakers, self.lengths)
        for x, y in self.mixtures:
            rho = speeds.uniform(FASTEST, SLOWEST, 2 * self.neurons)
            factors = _autoregressions(rng, self.lengths, rho)
            if self.offset:
                voices = self.offset * rng.standard_normal((self.speakers, 2 * self.neurons))
                factors = (factors + voices[speaker]) / np.sqrt(1 + self.offset**2)
            out.append(((factors @ x).astype("f4"), (factors @ y).astype("f4")))
        return out

    def _rng(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, KINDS.index(self.kind), *part])

    def truth(self, measure: str, layer: int) -> float:
        """Value of a measure of moments on endless speech."""
        return MEASURES[measure].score(endless(*self.mixtures[layer]))

    def partners(self, seed: int, bases: int = Resampling().rotations) -> float:
        """Share of neurons with partners on endless speech, in the bases of `seed` (`random_basis.shared`).

        Mean over layers and both directions. Near its share in tenth; in rotated and half the axes of a world are as
        near one another as they happen to be.
        """
        shares = []
        for x, y in self.mixtures:
            for m in (endless(x, y), endless(y, x)):
                rotated = torch.stack([rotated_correlation(m, "y", basis, seed).amax(1) for basis in range(bases)])
                shares.append(shared(m.correlation.abs().amax(1).numpy(), rotated.double().numpy())[0])
        return float(np.mean(shares))


def evidence_of(world: World, measures: Sequence[str] = MEASURED, **resampling: Any) -> Evidence:
    """Compare the two models of a world with controls; mismatches and bases are of its seed."""
    with TemporaryDirectory() as folder:
        models = world.models(Path(folder))
        how = Resampling(**resampling, seed=world.evidence_seed)
        return evidence(models, measures, between=[("x", "y")], resampling=how, device="cpu")


def endless(x: np.ndarray, y: np.ndarray) -> Moments:
    """Moments of endlessly many frames of two mixtures of independent factors of variance 1."""
    n = 10**9
    a, b = (torch.from_numpy(side) for side in (x, y))
    sides = [Marginal(n, torch.zeros(s.shape[1], dtype=torch.float64), n * s.T @ s) for s in (a, b)]
    return Moments(*sides, n * a.T @ b)


def _haar(rng: np.random.Generator, d: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(r.diagonal())


def _autoregressions(rng: np.random.Generator, lengths: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Independent factors (n_frames, factors) of variance 1, each utterance anew; `rho` from a frame to the next."""
    noise = rng.standard_normal((len(lengths), max(lengths), len(rho))) * np.sqrt(1 - rho**2)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    out = np.stack([lfilter([1.0], [1.0, -r], noise[:, :, f], axis=1) for f, r in enumerate(rho)], axis=2)
    return np.concatenate([utterance[:length] for utterance, length in zip(out, lengths, strict=True)])
