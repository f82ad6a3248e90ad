"""Made worlds: two models whose likeness is known exactly, to see whether the claims find it.

Neurons are mixtures of independent factors; every factor is an autoregression of its own speed within each utterance,
so frames depend on one another as those of speech do. The value of a measure on endless speech follows from the
mixtures alone (`World.truth`), whatever both models do at the same places of every utterance beside (`World.also`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.signal import lfilter
from scipy.special import ndtri

import sslsim
from sslsim.activations.store import ActivationStore
from sslsim.encoders.lineup import Checkpoint
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.registry import MEASURES
from sslsim.significance.evidence import Evidence, Resampling
from sslsim.significance.run import evidence

SHARES = {"independent": 0.0, "permuted": 1.0, "rotated": 1.0, "half": 0.5, "tenth": 0.1}
SHARES |= {"lag": 0.5, "tanh": 0.5, "exp": 0.5}  # half of the neurons have a copy: two frames late, squashed, stretched
KINDS = tuple(SHARES)
ALSO = ("onset", "ends", "trend", "bend", "gain", "loudness")
MEASURED = ("max_corr", "neuron_excess", "neuron_count", "linreg_r2", "svcca", "linear_cka_debiased")
FAMILIES = {"x": "one", "y": "two"}
OUTLIER = 30.0  # times the scale of the others
SLOWEST, FASTEST = 0.97, 0.6  # correlation of a factor with itself a frame later
SLOW, FAST = (0.93, 0.97), (0.3, 0.6)
LAG = 2  # frames
LOUD = 0.25  # share of a neuron's variance that follows the loudness
NORMAL = ndtri((np.arange(100_000) + 0.5) / 100_000)  # a normal variable, value by value
BENT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    kind: lambda f, of=of: (of(f) - of(NORMAL).mean()) / of(NORMAL).std()
    for kind, of in (("tanh", np.tanh), ("exp", np.exp))
}


@dataclass(frozen=True)
class Model:
    """What `sslsim` asks of a store of activations: two of them can be compared."""

    checkpoint: Checkpoint
    layers: list[np.ndarray]
    index: pd.DataFrame
    root: Path
    frame_key: str = "made"
    site: str = "hidden"

    @property
    def name(self) -> str:
        """What tables call the checkpoint."""
        return self.checkpoint.name

    @property
    def layer_numbers(self) -> range:
        """Numbers of the layers."""
        return range(len(self.layers))

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

    def _rows(self, i: int, rows: np.ndarray, columns: tuple) -> np.ndarray:
        return self.layers[i][(rows, *columns)]


@dataclass(frozen=True)
class World:
    """Two models of some layers on made utterances.

    Attributes
    ----------
    kind : str
        independent: nothing shared. permuted: the same neurons in another order. rotated: the same subspace in a random
        basis. half: half of the subspace, in random bases. tenth: a tenth of the neurons, the rest independent. lag,
        tanh, exp: half of the neurons in another order, `LAG` frames later or through a monotone function.
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
        The share of the subspace or of the neurons in place of what their names say.
    noise : float
        Variance of noise of its own in what y shares with x; the correlation of a shared neuron is sqrt(1 - noise).
    speakers : int
        Who take turns at the utterances.
    offset : float
        Deviation of what a speaker adds to each factor, against 1 within utterances; neurons keep variance 1.
    also : str
        What both follow beside, each neuron by a weight of its own. Positions, which are the same in all utterances:
        onset, the first 8 frames; ends, silence of 5 to 10 frames at the beginning and at the end; trend and bend, a
        line and a parabola in t/T. gain: both are scaled by one loudness, so that what is shared is a scale and no
        direction. loudness: `LOUD` of each neuron's variance is one loudness, which is content and shared.
    shared_speed, own_speed : tuple of float
        Least and largest correlation of a factor with itself a frame later.
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
    also: str = ""
    shared_speed: tuple[float, float] = (FASTEST, SLOWEST)
    own_speed: tuple[float, float] = (FASTEST, SLOWEST)

    @property
    def n_shared(self) -> int:
        """Dimensions of a layer, or neurons, that the models share."""
        share = SHARES[self.kind] if self.shared is None else self.shared
        return round(share * self.neurons)

    @property
    def share(self) -> float:
        """True share of the variance of a neuron that the other layer explains; mean over layers and directions."""
        return self.true_mean("linreg_r2")

    def true_mean(self, measure: str) -> float:
        """Mean over layers and both directions of a measure of moments on endless speech.

        neuron_count is near the share of neurons in tenth; in rotated and half the axes of a world are as near one
        another as they happen to be.
        """
        both = [endless(*sides) for x, y in self.mixtures for sides in ((x, y), (y, x))]
        return float(np.mean([float(MEASURES[measure].score(m)) for m in both]))

    @property
    def evidence_seed(self) -> int:
        """Seed of mismatches and random bases, of its own for each world and draw."""
        return 10_000 * self.seed + self.draw

    @cached_property
    def lengths(self) -> np.ndarray:
        """Frames of each utterance."""
        return self._rng(0).integers(4 * self.frames // 5, 6 * self.frames // 5 + 1, self.utterances)

    @property
    def starts(self) -> np.ndarray:
        """First frame of each utterance."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def speeds(self) -> list[np.ndarray]:
        """Of every layer, correlation of each factor with itself a frame later: shared ones first, loudness last."""
        rng, d, shared = self._rng(2), self.neurons, self.n_shared
        drawn = [rng.uniform(0, 1, 2 * d) for _ in range(self.layers)]
        ends = np.array([self.shared_speed if f < shared else self.own_speed for f in range(2 * d)])
        speeds = [ends[:, 0] + u * (ends[:, 1] - ends[:, 0]) for u in drawn]
        return [np.append(rho, SLOW[0]) for rho in speeds] if self.also == "loudness" else speeds

    @cached_property
    def mixtures(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every layer, factors to neurons of x and of y: (factors, neurons) each; factors of y follow those of x.

        A copy that is late or bent is, for moments, its factor in part and one of its own for the rest.
        """
        d, shared, rng, out = self.neurons, self.n_shared, self._rng(1), []
        for speeds in self.speeds:
            x, y = np.zeros((len(speeds), d)), np.zeros((len(speeds), d))
            x[:d] = np.eye(d)
            r = np.sqrt(1 - self.noise) * self._likeness(speeds[:shared])
            y[:shared, :shared] = np.diag(r)
            y[d : 2 * d] = np.diag(np.append(np.sqrt(1 - r**2), np.ones(d - shared)))
            if self.kind in ("permuted", "lag", *BENT):
                y = y[:, rng.permutation(d)]
            elif self.kind in ("rotated", "half"):
                y = y @ _haar(rng, d)
                x = x @ _haar(rng, d) if self.kind == "half" else x
            if self.also == "loudness":
                x, y = (np.sqrt(1 - LOUD) * side for side in (x, y))
                x[-1], y[-1] = np.sqrt(LOUD) * rng.choice([-1, 1], (2, d))
            if self.outlier:
                x[:, -1] *= OUTLIER
                y[:, -1] *= OUTLIER
            out.append((x, y))
        return out

    def _likeness(self, speeds: np.ndarray) -> np.ndarray:
        """Correlation of each copy with its neuron."""
        if self.kind == "lag":
            return speeds**LAG
        bend = BENT.get(self.kind)
        return np.full(len(speeds), float(np.mean(NORMAL * bend(NORMAL))) if bend else 1.0)

    def models(self, folder: Path) -> list[Model]:
        """Make the two models, as arrays in memory that a test can change."""
        index = pd.DataFrame({"utterance": self.utterance_names, "n_frames": self.lengths, "speaker": self.said_by})
        index = index.assign(start=self.starts, length=index.n_frames)
        return [
            Model(Checkpoint(name, "made", family=FAMILIES[name]), list(side), index, folder / name)
            for name, side in zip(FAMILIES, zip(*self.activations(), strict=True), strict=True)
        ]

    def stores(self, folder: Path) -> list[ActivationStore]:
        """Make the two models, as stores of two families."""
        cuts, speakers = self.starts[1:], dict(zip(self.utterance_names, self.said_by, strict=True))
        made = []
        for name, side in zip(FAMILIES, zip(*self.activations(), strict=True), strict=True):
            each = np.split(np.stack(side), cuts, axis=1)
            arrays = dict(zip(self.utterance_names, each, strict=True))
            made.append(sslsim.from_arrays(name, arrays, folder, speakers=speakers, family=FAMILIES[name]))
        return made

    @property
    def utterance_names(self) -> list[str]:
        """Names of utterances."""
        return [f"u{u}" for u in range(self.utterances)]

    @property
    def said_by(self) -> list[str]:
        """Speaker of each utterance."""
        return [f"s{u % self.speakers}" for u in range(self.utterances)]

    def activations(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of every layer, the activations of x and of y, (n_frames, neurons) float32."""
        rng, out = self._rng(3, self.draw), []
        speaker = np.repeat(np.arange(self.utterances) % self.speakers, self.lengths)
        before = LAG if self.kind == "lag" else 0
        for (x, y), rho in zip(self.mixtures, self.speeds, strict=True):
            longer = _autoregressions(rng, self.lengths + before, rho)
            factors, shared = np.concatenate([each[before:] for each in longer]), self.n_shared
            if self.kind == "lag" or self.kind in BENT:  # in place of one of its own, what a copy has beside its factor
                late = np.concatenate([each[:length] for each, length in zip(longer, self.lengths, strict=True)])
                copy, r = BENT.get(self.kind, np.asarray)(late[:, :shared]), self._likeness(rho[:shared])
                factors[:, self.neurons : self.neurons + shared] = (copy - r * factors[:, :shared]) / np.sqrt(1 - r**2)
            if self.offset:
                voices = self.offset * rng.standard_normal((self.speakers, len(rho)))
                factors = (factors + voices[speaker]) / np.sqrt(1 + self.offset**2)
            out.append((self._beside(factors @ x, rng), self._beside(factors @ y, rng)))
        return out

    def _beside(self, side: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Add what is the same in both models whatever is said, or scale by it; float32."""
        if self.also == "gain":
            side = side * np.exp(0.5 * self.followed)[:, None]
        elif self.also in ALSO[:4]:
            side = side + self.followed[:, None] * rng.standard_normal(side.shape[1])
        return side.astype("f4")

    @cached_property
    def followed(self) -> np.ndarray:
        """What both models follow beside what they say, of every frame."""
        rng, out = self._rng(4, self.draw), []
        if self.also == "gain":
            return np.concatenate(_autoregressions(rng, self.lengths, np.array(SLOW[:1])))[:, 0]
        first, last = rng.integers(5, 11, 2)
        for length in self.lengths:
            place = np.arange(length)
            t = (2 * place + 1) / length - 1
            silent = (place < first) | (place >= length - last)
            out.append({"onset": 3.0 * (place < 8), "ends": 3.0 * silent, "trend": t, "bend": 2 * t**2 - 1}[self.also])
        return np.concatenate(out)

    def _rng(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, KINDS.index(self.kind), *part])

    def truth(self, measure: str, layer: int) -> float:
        """Value of a measure of moments on endless speech."""
        return float(MEASURES[measure].score(endless(*self.mixtures[layer])))


def evidence_of(
    world: World, measures: Sequence[str] = MEASURED, frames: int | None = None, given: Any = None, **resampling: Any
) -> Evidence:
    """Compare the two models of a world with controls; mismatches and bases are of its seed."""
    with TemporaryDirectory() as folder:
        stores = world.stores(Path(folder))
        how = Resampling(**resampling, seed=world.evidence_seed)
        more = {} if given is None else {"given": given}
        return evidence(stores, measures, frames=frames, between=[("x", "y")], resampling=how, device="cpu", **more)


def endless(x: np.ndarray, y: np.ndarray) -> Moments:
    """Moments of endlessly many frames of two mixtures of independent factors of variance 1."""
    n = 10**9
    a, b = (torch.from_numpy(side) for side in (x, y))
    sides = [Marginal(n, torch.zeros(s.shape[1], dtype=torch.float64), n * s.T @ s) for s in (a, b)]
    return Moments(*sides, n * a.T @ b)


def _haar(rng: np.random.Generator, d: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(r.diagonal())


def _autoregressions(rng: np.random.Generator, lengths: np.ndarray, rho: np.ndarray) -> list[np.ndarray]:
    """Independent factors of variance 1 of each utterance, (frames, factors); `rho` from a frame to the next."""
    noise = rng.standard_normal((len(lengths), max(lengths), len(rho))) * np.sqrt(1 - rho**2)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    out = np.stack([lfilter([1.0], [1.0, -r], noise[:, :, f], axis=1) for f, r in enumerate(rho)], axis=2)
    return [utterance[:length] for utterance, length in zip(out, lengths, strict=True)]
