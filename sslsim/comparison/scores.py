"""What is computed of one pair of layers from its moments: scores both ways, and their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neurons import best_partners
from sslsim.measures.products import Utterances
from sslsim.measures.random_basis import rotated_correlation, shared, shared_without
from sslsim.measures.registry import MEASURES

SHARED = "neurons_shared"
Norms = dict[bool, tuple[Tensor, Tensor]]  # by scaling, the squared norms of the frames of x and of y


@dataclass(frozen=True)
class Controls:
    """What else to compute of every pair, as controls of its scores (see `sslsim.significance.run`)."""

    blocks: Utterances | None = None  # score without each of its groups too, for measures of moments
    rotations: int = 0  # random bases of each side to score measures of single neurons in
    rotations_out: int = 0  # the number of these without each block
    rotations_chance: int = 0  # and with the frames of y in another order
    rotate: tuple[str, ...] | None = None  # which of these measures; all by default
    single: bool = False  # compute in float32 what of narrow layers is otherwise float64 (`Marginal.dtype`)
    seed: int = 0  # of the bases


@dataclass(frozen=True)
class PairScores:
    """Scores of one layer x in another layer y, by measure.

    Random bases add measures: MEASURE_excess_x and MEASURE_excess_y, the score less its mean in bases of that side, and
    neurons_shared (`random_basis.shared`).
    """

    value: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)  # components (k_x, k_y) that a score was made of
    rotated: dict[str, list[float]] = field(default_factory=dict)  # what each random basis has in place of an excess
    without: tuple[PairScores, ...] = ()  # the same without each block of utterances

    def __or__(self, other: PairScores) -> PairScores:
        """Put together the scores of the same pair by some measures and by others."""
        without = (a | b for a, b in zip_longest(self.without, other.without, fillvalue=PairScores()))
        rotated = self.rotated | other.rotated
        return PairScores(self.value | other.value, self.ranks | other.ranks, rotated, tuple(without))


@dataclass(frozen=True)
class Partners:
    """Best partner of every neuron of a layer among the neurons of some layers of another checkpoint."""

    layer: np.ndarray  # of the partner, (n_neurons,)
    neuron: np.ndarray  # which of that layer
    r: np.ndarray  # signed correlation; NaN for a neuron that does not vary
    rotated: np.ndarray  # best absolute correlation in random bases of those layers, (bases, n_neurons)

    @classmethod
    def of(cls, pair: Moments, layer: int, rotated: np.ndarray) -> Partners:
        """Find the partners of the neurons of x in one layer y."""
        neuron, r = best_partners(pair)
        return cls(np.full(len(neuron), layer), neuron, r, rotated)

    def __or__(self, other: Partners) -> Partners:
        """Keep the better of two partners, and of two as good the first."""
        better = np.abs(other.r) > np.abs(self.r)
        layer, neuron = np.where(better, other.layer, self.layer), np.where(better, other.neuron, self.neuron)
        return Partners(layer, neuron, np.where(better, other.r, self.r), np.fmax(self.rotated, other.rotated))


@dataclass
class Scores:
    """Scores of many pairs of layers, which go by their numbers."""

    pairs: dict[tuple[int, int], PairScores] = field(default_factory=dict)  # of layer i in layer j
    partners: dict[tuple[int, str], Partners] = field(default_factory=dict)  # of layer i in a checkpoint
    # whether on sampled frames, layer: number of neurons that never vary
    constant: dict[tuple[bool, int], int] = field(default_factory=dict)

    def add(self, other: Scores) -> None:
        """Take in the scores of another piece; pieces come in a fixed order."""
        self.constant |= other.constant
        for pair, record in other.pairs.items():
            self.pairs[pair] = self.pairs[pair] | record if pair in self.pairs else record
        for key, best in other.partners.items():
            self.partners[key] = self.partners[key] | best if key in self.partners else best


@dataclass
class InBases:
    """Scores of a pair, one way, with the neurons of each side in random bases; empty without bases."""

    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)  # by measure and side
    best: np.ndarray = field(default_factory=lambda: np.empty(0))  # absolute correlation of each neuron of x with y
    rotated: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # and with random bases of y, a row each


def score_pair(
    pair: Moments, norms: Norms, measures: Sequence[str], controls: Controls, bases: int, ways: int
) -> list[tuple[PairScores, InBases]]:
    """Score x in y by measures of moments and, where `ways` is 2, y in x.

    Norms are of all frames, and a row more without each block; `bases` are the random ones of each side.
    """
    values = _values(pair, {scaled: (x[0], y[0]) for scaled, (x, y) in norms.items()}, measures, ways)
    in_bases = _in_bases(pair, measures, controls, bases, ways)
    without: list[list[PairScores]] = [[] for _ in range(ways)]
    for g, mask in enumerate(controls.blocks.without if controls.blocks else ()):
        fewer, rows = pair.without(g), torch.from_numpy(mask)
        norms_out = {scaled: (x[g + 1, rows], y[g + 1, rows]) for scaled, (x, y) in norms.items()}
        values_out = _values(fewer, norms_out, measures, ways)
        in_few = _in_bases(fewer, measures, controls, controls.rotations_out, ways)
        for way in range(ways):
            excess = _excess_without(values_out[way], in_few[way], in_bases[way])
            without[way].append(PairScores(values_out[way] | excess))
    ranks = {name: count(pair) for name in measures if (count := MEASURES[name].ranks)}
    scored = []
    for way, one in enumerate(in_bases):
        both = {name: k[::-1] for name, k in ranks.items()} if way else ranks
        excess, rotated = _excess(values[way], one)
        scored.append((PairScores(values[way] | excess, both, rotated, tuple(without[way])), one))
    return scored


def _excess(values: dict[str, float], bases: InBases) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return how far scores are above random bases, and the same of each of these bases."""
    excess, rotated = {}, {}
    for (name, side), scores in bases.scores.items():
        base = np.mean(scores)
        excess[f"{name}_excess_{side}"] = float(values[name] - base)
        rotated[f"{name}_excess_{side}"] = (np.array(scores) - base).tolist()
    if bases.scores:
        excess[SHARED], in_each = shared(bases.best, bases.rotated)
        rotated[SHARED] = in_each.tolist()
    return excess, rotated


def _excess_without(values: dict[str, float], few: InBases, before: InBases) -> dict[str, float]:
    """Return the excess from fewer utterances and bases; the mean over bases is carried over from all (`before`)."""
    excess = {}
    for (name, side), scores in few.scores.items():
        base = before.scores[name, side]
        excess[f"{name}_excess_{side}"] = float(
            values[name] - (np.mean(scores) + np.mean(base) - np.mean(base[: len(scores)]))
        )
    return excess | ({SHARED: shared_without(few.best, few.rotated, before.rotated)} if few.scores else {})


def _values(pair: Moments, norms: Norms, measures: Sequence[str], ways: int) -> list[dict[str, float]]:
    """Score each way by every measure."""
    values: list[dict[str, float]] = [{} for _ in range(ways)]
    swapped = None
    for name in measures:
        measure = MEASURES[name]
        of_frames = norms[measure.standardize] if measure.norms else ()
        values[0][name] = measure.score(pair, *of_frames)
        if ways == 2 and measure.symmetric:
            values[1][name] = values[0][name]
        elif ways == 2:
            swapped = swapped or pair.swapped  # with what the scores have computed
            values[1][name] = measure.score(swapped, *of_frames[::-1])
    return values


def _in_bases(pair: Moments, measures: Sequence[str], controls: Controls, bases: int, ways: int) -> list[InBases]:
    """Score each way by the measures of single neurons, with the neurons of each side in random bases."""
    out = [InBases() for _ in range(ways)]
    wanted = measures if controls.rotate is None else [name for name in measures if name in controls.rotate]
    matchings = [(name, matching) for name in wanted if (matching := MEASURES[name].matching)]
    for side, other in (("y", "x"), ("x", "y")) if bases and matchings else ():
        way, axis, marginal = (0, 1, pair.x) if side == "y" else (1, 0, pair.y)  # of the neurons that stay as they are
        rotated = []
        for basis in range(bases):
            r = rotated_correlation(pair, side, basis, controls.seed)
            rotated.append(_spread(r.amax(axis), marginal))
            for name, matching in matchings:
                there = matching(r)
                out[0].scores.setdefault((name, side), []).append(there)
                if ways == 2:
                    back = there if MEASURES[name].symmetric else matching(r.T)
                    out[1].scores.setdefault((name, other), []).append(back)
        if way < ways:
            out[way].best = _spread(pair.correlation.abs().amax(axis), marginal)
            out[way].rotated = np.stack(rotated)
    return out


def _spread(values: Tensor, marginal: Marginal) -> np.ndarray:
    """Put values of the varying neurons at their places among all, NaN elsewhere."""
    every = np.full(len(marginal.alive), np.nan)
    every[marginal.alive.cpu().numpy()] = values.cpu().numpy()
    return every
