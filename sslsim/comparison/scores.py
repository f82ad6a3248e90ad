"""What is computed of one pair of layers from its moments: scores both ways, and their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neurons import best_partners
from sslsim.measures.products import Utterances
from sslsim.measures.random_basis import rotated_correlation, shared, shared_without
from sslsim.measures.registry import MEASURES

Norms = tuple[Tensor, Tensor]  # squared norms of the frames of x and of y


@dataclass(frozen=True)
class Controls:
    """What else to compute of every pair, as controls of its scores (see `sslsim.significance.run`).

    Attributes
    ----------
    blocks : Utterances, optional
        Score without each of its groups too, for measures of moments.
    rotations : int
        Random bases of each side to score measures of single neurons in.
    rotate : tuple of str, optional
        Which of these measures; all by default.
    rotations_out : int
        The number of bases without each block.
    rotations_chance : int
        The number of bases with the frames of y in another order.
    single : bool
        Compute in float32 what of narrow layers is otherwise float64 (`Marginal.dtype`).
    seed : int
        Of the bases.
    """

    blocks: Utterances | None = None
    rotations: int = 0
    rotate: tuple[str, ...] | None = None
    rotations_out: int = 0
    rotations_chance: int = 0
    single: bool = False
    seed: int = 0


@dataclass(frozen=True)
class PairScores:
    """Scores of one layer x in another layer y, by measure.

    Attributes
    ----------
    value : dict
        The scores.
    ranks : dict
        The components (k_x, k_y) that a score was made of.
    left_out : dict
        Scores without each block of utterances.
    rotated : dict
        By measure and side: scores with the neurons of that side, 'x' or 'y', in each random basis.
    rotated_out : dict
        The same without each block, in the first few bases: a list a block.
    matched : ndarray of shape (1 + bases,), optional
        Share of the neurons of x matched in y beyond random bases (`random_basis.shared`), and that of each basis.
    matched_out : list of float
        The share without each block.
    """

    value: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)
    left_out: dict[str, list[float]] = field(default_factory=dict)
    rotated: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    rotated_out: dict[tuple[str, str], list[list[float]]] = field(default_factory=dict)
    matched: np.ndarray | None = None
    matched_out: list[float] = field(default_factory=list)

    def __or__(self, other: PairScores) -> PairScores:
        """Put together the scores of the same pair by some measures and by others."""
        by_measure = {f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(self)[:5]}
        one = self if other.matched is None else other
        return PairScores(**by_measure, matched=one.matched, matched_out=one.matched_out)


@dataclass(frozen=True)
class Partners:
    """Best partner of every neuron of a layer among the neurons of some layers of another checkpoint.

    Attributes
    ----------
    layer, neuron : ndarray of shape (n_neurons,), int
        Where the partner is.
    r : ndarray of shape (n_neurons,)
        Signed correlation with it; NaN for a neuron that does not vary.
    rotated : ndarray of shape (bases, n_neurons), optional
        Best absolute correlation with a neuron of those layers, each in a random basis.
    """

    layer: np.ndarray
    neuron: np.ndarray
    r: np.ndarray
    rotated: np.ndarray | None = None

    @classmethod
    def of(cls, pair: Moments, layer: int, rotated: np.ndarray | None) -> Partners:
        """Find the partners of the neurons of x in one layer y."""
        neuron, r = best_partners(pair)
        return cls(np.full(len(neuron), layer), neuron, r, rotated)

    def __or__(self, other: Partners) -> Partners:
        """Keep the better of two partners, and of two as good the first."""
        better = np.abs(other.r) > np.abs(self.r)
        names = ("layer", "neuron", "r")
        best = (np.where(better, getattr(other, name), getattr(self, name)) for name in names)
        if self.rotated is None or other.rotated is None:
            return Partners(*best, self.rotated if other.rotated is None else other.rotated)
        return Partners(*best, np.fmax(self.rotated, other.rotated))


@dataclass
class Scores:
    """Scores of many pairs of layers, which go by their numbers.

    Attributes
    ----------
    pairs : dict
        (i, j) to the scores of layer i in layer j.
    partners : dict
        (i, checkpoint) to the best partners of the neurons of layer i in that checkpoint.
    constant : dict
        (whether on sampled frames, layer) to its number of neurons that never vary.
    """

    pairs: dict[tuple[int, int], PairScores] = field(default_factory=dict)
    partners: dict[tuple[int, str], Partners] = field(default_factory=dict)
    constant: dict[tuple[bool, int], int] = field(default_factory=dict)

    def add(self, other: Scores) -> None:
        """Take in the scores of another piece; pieces come in a fixed order."""
        self.constant |= other.constant
        for pair, record in other.pairs.items():
            self.pairs[pair] = self.pairs[pair] | record if pair in self.pairs else record
        for key, best in other.partners.items():
            self.partners[key] = self.partners[key] | best if key in self.partners else best


@dataclass
class _Rotated:
    """Scores of a pair in random bases, one way.

    Attributes
    ----------
    scores : dict
        By measure and side, the score in each basis of that side.
    best : list of two ndarrays, or empty
        Best absolute correlation of every neuron of x with y, (n_neurons,), and with y in each random basis,
        (bases, n_neurons); NaN for neurons that do not vary.
    """

    scores: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    best: list[np.ndarray] = field(default_factory=list)


class PairScorer:
    """Scores pairs of layers by some measures of moments, with controls.

    Parameters
    ----------
    measures : sequence of str
        Of moments, in the order in which they are computed.
    controls : Controls
        What else to compute.
    bases : int
        Random bases of each side.
    """

    def __init__(self, measures: Sequence[str], controls: Controls, bases: int) -> None:
        self.measures, self.controls, self.bases = measures, controls, bases
        wanted = [name for name in measures if controls.rotate is None or name in controls.rotate]
        self._matching = [(name, matching) for name in wanted if (matching := MEASURES[name].matching)]
        blocks = controls.blocks
        self._kept = [torch.from_numpy(mask) for mask in blocks.without] if blocks else []

    def score(self, pair: Moments, norms: dict[bool, Norms], ways: int) -> tuple[list[PairScores], list[np.ndarray]]:
        """Score x in y and, where `ways` is 2, y in x.

        Parameters
        ----------
        pair : Moments
            Of the two layers.
        norms : dict
            Squared norms of the frames by scaling: of all frames, and a row more without each block.
        ways : int
            1 for a layer with itself.

        Returns
        -------
        scores : list of PairScores
            One for each way.
        rotated : list of ndarray of shape (bases, n_neurons)
            Best correlation of every neuron of x, and of y, with the other layer in each random basis; may be empty.
        """
        values = self._values(pair, {scaled: (x[0], y[0]) for scaled, (x, y) in norms.items()}, ways)
        rotated = self._rotated(pair, self.bases, ways)
        left_out, rotated_out = [], []
        for g, rows in enumerate(self._kept):
            fewer = pair.without(g)
            norms_out = {scaled: (x[g + 1, rows], y[g + 1, rows]) for scaled, (x, y) in norms.items()}
            left_out.append(self._values(fewer, norms_out, ways))
            rotated_out.append(self._rotated(fewer, self.controls.rotations_out, ways))
        ranks = {name: count(pair) for name in self.measures if (count := MEASURES[name].ranks)}
        records = [
            PairScores(
                value=values[way],
                ranks=ranks if way == 0 else {name: both[::-1] for name, both in ranks.items()},
                left_out={name: [one[way][name] for one in left_out] for name in self.measures if left_out},
                rotated=rotated[way].scores,
                rotated_out={
                    key: [one[way].scores[key] for one in rotated_out]
                    for key in (rotated_out[0][way].scores if rotated_out else ())
                },
                matched=_matched(rotated[way]),
                matched_out=[
                    shared_without(*one[way].best, rotated[way].best[1]) for one in rotated_out if one[way].best
                ],
            )
            for way in range(ways)
        ]
        return records, [one.best[1] for one in rotated if one.best]

    def _values(self, pair: Moments, norms: dict[bool, Norms], ways: int) -> list[dict[str, float]]:
        """Score each way by every measure."""
        values: list[dict[str, float]] = [{} for _ in range(ways)]
        swapped = None
        for name in self.measures:
            measure = MEASURES[name]
            of_frames = norms[measure.standardize] if measure.norms else ()
            values[0][name] = measure.score(pair, *of_frames)
            if ways == 2 and measure.symmetric:
                values[1][name] = values[0][name]
            elif ways == 2:
                swapped = swapped or pair.swapped  # with what the scores have computed
                values[1][name] = measure.score(swapped, *of_frames[::-1])
        return values

    def _rotated(self, pair: Moments, bases: int, ways: int) -> list[_Rotated]:
        """Score each way with the neurons of each side in random bases."""
        out = [_Rotated() for _ in range(ways)]
        for side, other in (("y", "x"), ("x", "y")) if bases and self._matching else ():
            # the neurons of `marginal` stay as they are, and find their best along `axis`
            axis, marginal, way = (1, pair.x, 0) if side == "y" else (0, pair.y, 1)
            best = []
            for basis in range(bases):
                r = rotated_correlation(pair, side, basis, self.controls.seed)
                best.append(_spread(r.amax(axis), marginal))
                for name, matching in self._matching:
                    there = matching(r)
                    out[0].scores.setdefault((name, side), []).append(there)
                    if ways == 2:
                        back = there if MEASURES[name].symmetric else matching(r.T)
                        out[1].scores.setdefault((name, other), []).append(back)
            if way < ways:
                out[way].best.extend([_spread(pair.correlation.abs().amax(axis), marginal), np.stack(best)])
        return out


def _matched(rotated: _Rotated) -> np.ndarray | None:
    if not rotated.best:
        return None
    value, bases = shared(*rotated.best)
    return np.array([value, *bases])


def _spread(values: Tensor, marginal: Marginal) -> np.ndarray:
    """Put values of the varying neurons at their places among all, NaN elsewhere."""
    every = np.full(len(marginal.alive), np.nan)
    every[marginal.alive.cpu().numpy()] = values.cpu().numpy()
    return every
