"""What to compare, and what is computed of many pairs of layers at once: scores both ways, partners, rotated pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslsim.activations.selection import LayerView
from sslsim.measures.moments import Moments
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.neurons import best_correlations, best_partners
from sslsim.measures.products import product
from sslsim.measures.random_basis import axes, in_bases, neuron_p
from sslsim.measures.registry import MEASURES

Norms = dict[bool, tuple[Tensor, Tensor]]  # by scaling, the squared norms of the frames of x and of y


@dataclass(frozen=True)
class Comparison:
    """What to compare; pairs of layers go by their numbers in `views`."""

    views: Sequence[LayerView]
    measures: tuple[str, ...]
    between: set[frozenset[str]]  # pairs of checkpoints
    near: NDArray[np.bool_]  # pairs of layers (views, views) at the same relative depth, on which claims rest
    sample: int = SAMPLE  # at most so many frames for measures that compare every frame with every other
    seed: int = 0  # of random bases
    device: str = "cpu"


@dataclass(frozen=True)
class Run:
    """One pass over some of the frames."""

    title: str  # of the progress bar
    rows: NDArray[np.int64] | None = None  # which of the frames of the views; None for all
    lengths: tuple[int, ...] = ()  # how many of them each utterance has
    orders: tuple[NDArray[np.int64] | None, ...] = (None,)  # of the frames of y beside those of x, None for their own
    everywhere: tuple[int, ...] = (0,)  # numbers of the orders for all pairs of layers; others: those at the same depth
    rotations: int = 0  # random bases of y, in which pairs at the same depth are scored too
    partners: bool = False  # find each neuron's best partner in every other checkpoint too
    costly: bool = True  # score all pairs of layers by costly measures too, not only those at the same depth
    # only what chance levels need: float32 where narrow layers have float64 (`Marginal.dtype`)
    chance: bool = False
    # of layers less what is given: the order of a mismatch, in which it comes off too (see `selection.mismatched`);
    # there is no other order then
    given: NDArray[np.int64] | None = None
    blocks: tuple[NDArray[np.int64], ...] = ()  # numbers of frames to leave out, one block after another
    wanted: tuple[int, ...] = ()  # which of the blocks

    def without_each(self) -> list[Run]:
        """Return runs on the frames that are left without each block."""
        rest = [np.delete(np.arange(sum(self.lengths)), rows) for rows in self.blocks]
        utterance = np.repeat(np.arange(len(self.lengths)), self.lengths)
        counts = (tuple(np.bincount(utterance[rows], minlength=len(self.lengths)).tolist()) for rows in rest)
        return [replace(self, rows=rows, lengths=n, blocks=()) for rows, n in zip(rest, counts, strict=True)]


@dataclass(frozen=True)
class Partners:
    """Best partner of every neuron of a layer among the neurons of some layers of another checkpoint."""

    layer: NDArray[np.int64]  # of the partner, (n_neurons,)
    neuron: NDArray[np.int64]  # which of that layer
    r: NDArray[np.float64]  # signed correlation; NaN for a neuron that does not vary
    rotated: NDArray[np.float64]  # mean of the best absolute correlation in random bases of the layer where it is most
    p: NDArray[np.float64]  # smallest probability of a best correlation in random bases of one of the layers
    layers: int = 1  # how many those layers are

    def __or__(self, other: Partners) -> Partners:
        """Keep the better of two partners, and of two as good the first."""
        better = np.abs(other.r) > np.abs(self.r)
        chosen = {k: np.where(better, getattr(other, k), getattr(self, k)) for k in ("layer", "neuron", "r")}
        rotated, p = np.fmax(self.rotated, other.rotated), np.fmin(self.p, other.p)
        return Partners(**chosen, rotated=rotated, p=p, layers=self.layers + other.layers)


@dataclass
class Part:
    """What one piece of work gives for the frames of y in one order."""

    x: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # numbers of the layers of each pair
    y: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    # by measure, (2, pairs): the score of x in y, and of y in x
    value: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rotated: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # (2, pairs, bases), NaN at other depths
    partners: dict[tuple[int, str], Partners] = field(default_factory=dict)  # of layer i in a checkpoint
    # numbers of layers, and a count of each: 'constant' neurons, components that a measure is made of
    counts: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=dict)


@dataclass
class Scores:
    """Scores of all pairs of layers on the frames of one run, those of y in one order; NaN where not computed."""

    size: int
    value: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # by measure, (views, views): of x in column y
    rotated: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # (bases, views, views)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # (views,)
    partners: dict[tuple[int, str], Partners] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        """Take in what a piece gave; pieces come in a fixed order."""
        for name, values in part.value.items():
            grid = self.value.setdefault(name, np.full((self.size, self.size), np.nan))
            grid[part.y, part.x], grid[part.x, part.y] = values[1], values[0]
        for name, values in part.rotated.items():
            grids = self.rotated.setdefault(name, np.full((values.shape[2], self.size, self.size), np.nan))
            grids[:, part.y, part.x], grids[:, part.x, part.y] = values[1].T, values[0].T
        for name, (layers, counts) in part.counts.items():
            self.counts.setdefault(name, np.full(self.size, -1))[layers] = counts
        for key, best in part.partners.items():
            self.partners[key] = self.partners[key] | best if key in self.partners else best


def score_pairs(pairs: Moments, norms: Norms, measures: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Score many pairs by measures of moments, by name (2, pairs): x in y, and y in x."""
    scores = {}
    for name in measures:
        measure = MEASURES[name]
        of_frames = norms[measure.standardize] if measure.norms else ()
        there = back = measure.score(pairs, *of_frames)
        if not measure.symmetric:
            back = measure.score(pairs.swapped, *of_frames[::-1])
        scores[name] = torch.stack([there, back]).cpu().numpy()
    return scores


def in_random_bases(pairs: Moments, what: Comparison, bases: int) -> dict[str, NDArray[np.float64]]:
    """Score many pairs with the neurons looked in turned into random bases, (2, pairs, bases) by measure."""
    names = [name for name in what.measures if MEASURES[name].in_bases]
    out = {name: np.empty((2, len(pairs.cross), bases)) for name in names}
    for way, m in enumerate((pairs, pairs.swapped) if names else ()):
        for basis in range(bases):
            columns, scale = (part.to(m.dtype) for part in axes(m.y, basis, what.seed))
            best = (product(m.correlation, columns) * scale).abs().amax(-1)
            for name in names:
                out[name][way, :, basis] = MEASURES[name].score(m, best=best).cpu().numpy()
    return out


def partners_of(pairs: Moments, what: Comparison, x: NDArray, y: NDArray, *, bases: bool) -> dict[Any, Partners]:
    """Best partner of every neuron of each layer in every other checkpoint, over these pairs; with `bases` p too."""
    found: dict[tuple[int, str], Partners] = {}
    for m, of, to in ((pairs, x, y), (pairs.swapped, y, x)):
        neuron, r = (part.cpu().numpy() for part in best_partners(m))
        rotated = in_bases(m).size.cpu().numpy() if bases else np.full_like(r, np.nan)
        p = neuron_p(m, best_correlations(m)).cpu().numpy() if bases else rotated
        for c, (i, j) in enumerate(zip(of.tolist(), to.tolist(), strict=True)):
            (model, _), (other, layer) = what.views[i].label, what.views[j].label
            if model != other:
                one = Partners(np.full(r.shape[1], layer), neuron[c], r[c], rotated[c], p[c])
                found[i, other] = found[i, other] | one if (i, other) in found else one
    return found
