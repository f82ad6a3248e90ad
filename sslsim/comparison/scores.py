"""What is computed of one pair of layers from its moments: scores both ways, and their controls."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.activations.selection import LayerView
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.products import Utterances
from sslsim.measures.random_basis import rotated_correlation, shared, shared_without
from sslsim.measures.registry import MEASURES

SHARED = "neurons_shared"
BASES_OUT = 1  # bases in which the blocks are left out: a mean over neurons hardly depends on the basis
BASES_CHANCE = 1  # bases of each mismatch
Norms = dict[bool, tuple[Tensor, Tensor]]  # by scaling, the squared norms of the frames of x and of y


@dataclass(frozen=True)
class Comparison:
    """What to compare, and what to compute of every pair as controls of its scores (see `sslsim.significance.run`)."""

    views: list[LayerView]  # pairs of layers go by their numbers in this list
    measures: tuple[str, ...]  # of layers and neurons
    between: set[frozenset[str]]  # pairs of checkpoints
    sample: int = SAMPLE  # at most so many frames for measures that compare every frame with every other
    partners: bool = False  # find each neuron's best partner in every other checkpoint too
    blocks: Utterances | None = None  # score without each of its groups too, for measures of moments
    rotations: int = 0  # random bases of each side to score measures of single neurons in
    seed: int = 0  # of these bases
    # only what chance levels need: float32 where narrow layers have float64 (`Marginal.dtype`), `BASES_CHANCE` bases
    # with the frames of y in another order, and in these max_corr only, as an assignment takes ten times as long
    chance: bool = False
    device: str = "cpu"
    title: str = "layers"  # of the progress bar


@dataclass(frozen=True)
class PairScores:
    """Scores of one layer x in another layer y, by measure.

    Random bases add measures: MEASURE_excess_x and MEASURE_excess_y, the score less its mean in bases of that side, and
    neurons_shared (`random_basis.shared`).
    """

    value: dict[str, float] = field(default_factory=dict)
    constant: dict[str, tuple[int, int]] = field(default_factory=dict)  # neurons of x and of y that do not vary
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)  # components (k_x, k_y) that a score was made of
    rotated: dict[str, list[float]] = field(default_factory=dict)  # what each random basis has in place of an excess
    without: tuple[dict[str, float], ...] = ()  # the values without each block of utterances

    def __or__(self, other: PairScores) -> PairScores:
        """Put together the scores of the same pair by some measures and by others."""
        constant, ranks = self.constant | other.constant, self.ranks | other.ranks
        nothing: dict[str, float] = {}
        without = (a | b for a, b in zip_longest(self.without, other.without, fillvalue=nothing))
        return PairScores(self.value | other.value, constant, ranks, self.rotated | other.rotated, tuple(without))


@dataclass(frozen=True)
class Partners:
    """Best partner of every neuron of a layer among the neurons of some layers of another checkpoint."""

    layer: np.ndarray  # of the partner, (n_neurons,)
    neuron: np.ndarray  # which of that layer
    r: np.ndarray  # signed correlation; NaN for a neuron that does not vary
    rotated: np.ndarray  # best absolute correlation in random bases of those layers, (bases, n_neurons)

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

    def add(self, other: Scores) -> None:
        """Take in the scores of another piece; pieces come in a fixed order."""
        for pair, record in other.pairs.items():
            self.pairs[pair] = self.pairs[pair] | record if pair in self.pairs else record
        for key, best in other.partners.items():
            self.partners[key] = self.partners[key] | best if key in self.partners else best


@dataclass
class OneWay:
    """Scores of x in y, and the same with the neurons of each side in random bases; without bases these are empty."""

    value: dict[str, float] = field(default_factory=dict)
    in_bases: dict[str, list[float]] = field(default_factory=dict)  # by the name of the excess
    best: np.ndarray = field(default_factory=lambda: np.empty(0))  # absolute correlation of each neuron of x with y
    rotated: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))  # and with random bases of y, a row each

    def with_excess(self, whole: OneWay) -> dict[str, float]:
        """Scores, and how far they are above random bases; of few bases that is what changes of the mean in `whole`."""
        excess = {}
        for name, scores in self.in_bases.items():
            base = whole.in_bases[name]
            mean = np.mean(scores) + np.mean(base) - np.mean(base[: len(scores)])
            excess[name] = float(self.value[name.rpartition("_excess_")[0]] - mean)
        of_all = {SHARED: shared_without(self.best, self.rotated, whole.rotated)} if excess else {}
        return self.value | excess | of_all


def score_pair(
    pair: Moments, norms: Norms, what: Comparison, bases: int, ways: int
) -> list[tuple[PairScores, np.ndarray]]:
    """Score x in y by measures of moments and, where `ways` is 2, y in x.

    Norms are of all frames, and a row more without each block; `bases` are the random ones of each side. With the
    scores come the best correlations of the neurons of x with random bases of y, (bases, n_neurons).
    """
    whole = _score_ways(pair, {scaled: (x[0], y[0]) for scaled, (x, y) in norms.items()}, what, bases, ways)
    fewer = []
    for g, mask in enumerate(what.blocks.without if what.blocks else ()):
        rows = torch.from_numpy(mask)
        norms_out = {scaled: (x[g + 1, rows], y[g + 1, rows]) for scaled, (x, y) in norms.items()}
        fewer.append(_score_ways(pair.without(g), norms_out, what, BASES_OUT, ways))
    ranks = {name: count(pair) for name in what.measures if (count := MEASURES[name].ranks)}
    records = []
    for way, one in enumerate(whole):
        out = tuple(few[way].with_excess(one) for few in fewer)
        rotated = {name: (np.array(scores) - np.mean(scores)).tolist() for name, scores in one.in_bases.items()}
        rotated |= {SHARED: shared(one.best, one.rotated)[1].tolist()} if rotated else {}
        value, constant = one.with_excess(one), (pair.x.n_constant, pair.y.n_constant)
        sides = {name: k[::-1] if way else k for name, k in ranks.items()}
        constants = dict.fromkeys(value, constant[::-1] if way else constant)
        records.append((PairScores(value, constants, sides, rotated, out), one.rotated))
    return records


def _score_ways(pair: Moments, norms: Norms, what: Comparison, bases: int, ways: int) -> list[OneWay]:
    """Score x in y and, where `ways` is 2, y in x, by every measure and in random bases."""
    scored = [OneWay() for _ in range(ways)]
    swapped = None
    for name in what.measures:
        measure = MEASURES[name]
        of_frames = norms[measure.standardize] if measure.norms else ()
        there = back = measure.score(pair, *of_frames)
        if ways == 2 and not measure.symmetric:
            swapped = swapped or pair.swapped  # with what the scores have computed
            back = measure.score(swapped, *of_frames[::-1])
        for one, value in zip(scored, (there, back), strict=False):
            one.value[name] = value
    matched = [name for name in what.measures if MEASURES[name].matching and (name == "max_corr" or not what.chance)]
    bases = min(bases, what.rotations)
    if matched and bases:
        _add_bases(scored, pair, matched, bases, what.seed)
    return scored


def _add_bases(scored: list[OneWay], pair: Moments, measures: list[str], bases: int, seed: int) -> None:
    """Score each way by measures of single neurons, with the neurons of each side in random bases."""
    for side, other in (("y", "x"), ("x", "y")):
        way, axis, marginal = (0, 1, pair.x) if side == "y" else (1, 0, pair.y)  # of the neurons that stay as they are
        rotated = []
        for basis in range(bases):
            r = rotated_correlation(pair, side, basis, seed)
            rotated.append(_spread(r.amax(axis), marginal))
            for name in measures:
                matching: Any = MEASURES[name].matching
                there = matching(r)
                scored[0].in_bases.setdefault(f"{name}_excess_{side}", []).append(there)
                if len(scored) == 2:
                    back = there if MEASURES[name].symmetric else matching(r.T)
                    scored[1].in_bases.setdefault(f"{name}_excess_{other}", []).append(back)
        if way < len(scored):
            scored[way].best = _spread(pair.correlation.abs().amax(axis), marginal)
            scored[way].rotated = np.stack(rotated)


def _spread(values: Tensor, marginal: Marginal) -> np.ndarray:
    """Put values of the varying neurons at their places among all, NaN elsewhere."""
    every = np.full(len(marginal.alive), np.nan)
    every[marginal.alive.cpu().numpy()] = values.cpu().numpy()
    return every
