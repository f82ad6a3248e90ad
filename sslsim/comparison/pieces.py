"""The pieces of a comparison, each a call that a worker computes from the stores and the scratch folder alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslsim.activations.selection import LayerView
from sslsim.comparison.scores import BASES_CHANCE, Controls, PairScores, Partners, Scores, score_pair
from sslsim.comparison.scratch import load, save
from sslsim.errors import SslsimError
from sslsim.measures import moments
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neighbours import SAMPLE
from sslsim.measures.products import Means, Products, Side, Utterances, cross_products
from sslsim.measures.registry import MEASURES

DTYPE = torch.float32  # of stored layers and their products


@dataclass(frozen=True)
class Comparison:
    """What to compare."""

    views: list[LayerView]  # pairs of layers go by their numbers in this list
    measures: tuple[str, ...]  # of layers and neurons
    between: set[frozenset[str]]  # pairs of checkpoints
    sample: int = SAMPLE  # at most so many frames for measures that compare every frame with every other
    partners: bool = False  # find each neuron's best partner in every other checkpoint too
    controls: Controls = Controls()
    device: str = "cpu"
    title: str = "layers"  # of the progress bar


@dataclass(frozen=True)
class Task:
    """What every piece needs to know; written once to the scratch folder, read by each worker."""

    folder: Path  # its part of the scratch folder
    what: Comparison  # by measures that are all of moments, or all of frames
    batches: list[list[int]]  # numbers of layers of one checkpoint that are computed together
    rows: list[np.ndarray | None]  # which frames: first those of x, then those of y in every other order; None for all
    utterances: Utterances | None = None  # keep sums of products by group

    def moments_file(self, k: int, order: int) -> Path:
        """File of the moments of the layers of a batch: of x and, where its order makes a difference, of y."""
        return self.folder / f"moments-{'y' if order and self.utterances else 'x'}-{k}.pickle"

    def batch(self, k: int, order: int = 0) -> list[LayerView]:
        """Layers of a batch on the frames of x, or on those of y in another order."""
        views = _on_rows(self.folder, order)
        return [views[i] for i in self.batches[k]]

    def pairs(self, *, diagonal: bool) -> list[tuple[int, ...]]:
        """Unordered pairs of batches whose checkpoints are to be compared; with `diagonal` each with itself too."""
        models = [self.what.views[batch[0]].label[0] for batch in self.batches]
        every = itertools.combinations_with_replacement(range(len(models)), 2)
        wanted = [(k, m) for k, m in every if frozenset((models[k], models[m])) in self.what.between]
        return [(k, m) for k, m in wanted if diagonal or k < m]


@dataclass(frozen=True)
class LayerMoments:
    """One layer's own moments, with what is computed from them."""

    marginal: Marginal
    norms: dict[bool, Tensor]  # by scaling, squared norms of the frames: of all of them, and a row without each block


@lru_cache(maxsize=2)
def _task(folder: Path) -> Task:
    return load(folder / "task.pickle")


@lru_cache(maxsize=2)
def _on_rows(folder: Path, order: int) -> list[LayerView]:
    """Layers on the frames of x or of y in one order; the same for all pieces, as small layers keep what was read."""
    task = _task(folder)
    rows = task.rows[order]
    if rows is None:
        return task.what.views
    frames = task.what.views[0].only(rows).frames  # one array for all of them
    return [replace(view, frames=frames) for view in task.what.views]


@contextmanager
def caches() -> Iterator[None]:
    """Drop at the end the task that was read last, with what small layers have read."""
    try:
        yield
    finally:
        _task.cache_clear()
        _on_rows.cache_clear()


def moments_of_batch(folder: Path, order: int, k: int) -> Scores:
    """Make and leave in the scratch folder the moments of every layer of a batch, and score pairs within the batch."""
    task = _task(folder)
    views, means = task.batch(k, order), []
    for view in views:
        with _named(view):
            means.append(Means.of(view, task.utterances, task.what.device))
    products = cross_products(Side(views, means, DTYPE), None, len(views[0]), task.utterances)
    layers = []
    for view, mean, row in zip(views, means, products, strict=True):
        with _named(view):
            layers.append(_layer_moments(task, view, mean, row[0]))
    save(layers, task.moments_file(k, order))
    wanted = not order and (k, k) in task.pairs(diagonal=True)
    scores = _scores(task, order, (k, k), (layers, layers), products) if wanted else Scores()
    scores.constant = {(False, i): layer.marginal.n_constant for i, layer in zip(task.batches[k], layers, strict=True)}
    return scores


def _layer_moments(task: Task, view: LayerView, means: Means, products: Products) -> LayerMoments:
    """Return a layer's own moments with all that the measures need of it alone; an error if no neuron varies."""
    marginal = moments.marginal(means, products, len(view), torch.finfo(DTYPE).eps)
    marginal = replace(marginal, wide=0) if task.what.controls.chance else marginal
    blocks = task.what.controls.blocks
    every = [marginal, *(marginal.without(g) for g in range(len(blocks.members) if blocks else 0))]
    for one in every:
        one.check_varies()
    norms: dict[bool, Tensor] = {}
    for name in task.what.measures:
        measure = MEASURES[name]
        if measure.norms and measure.standardize not in norms:
            norms[measure.standardize] = moments.squared_norms(view, *every, standardize=measure.standardize)
        if measure.prepare_layer:
            for one in every:
                measure.prepare_layer(one)
    return LayerMoments(marginal, norms)


def pair_of_batches(folder: Path, order: int, k: int, m: int) -> Scores:
    """Score every layer of one batch with every layer of another."""
    task = _task(folder)
    left = load(task.moments_file(k, 0))  # not the same object as the right: a layer with itself is whitened by nothing
    right = load(task.moments_file(m, order))
    if order and task.utterances is None:
        rows = task.rows[order]
        right = [replace(one, norms={scaled: norms[:, rows] for scaled, norms in one.norms.items()}) for one in right]
    side_x, side_y = (
        Side(views, [layer.marginal.means for layer in layers], DTYPE)
        for views, layers in ((task.batch(k), left), (task.batch(m, order), right))
    )
    products = cross_products(side_x, side_y, len(task.what.views[0]), task.utterances)
    products = [row[a:] if k == m else row for a, row in enumerate(products)]
    return _scores(task, order, (k, m), (left, right), products)


def _scores(
    task: Task,
    order: int,
    batches: tuple[int, int],
    layers: tuple[list[LayerMoments], list[LayerMoments]],
    products: list[list[Products]],
) -> Scores:
    """Score every pair of layers of two batches; of a batch with itself, every layer with those from itself on."""
    what, (k, m) = task.what, batches
    pairs = {
        (a, b): Moments.of(layers[0][a].marginal, layers[1][b].marginal, product)
        for a, row in enumerate(products)
        for b, product in enumerate(row, a if k == m else 0)
    }
    if torch.device(what.device).type != "cpu" and any(MEASURES[name].canonical for name in what.measures):
        moments.decompose(list(pairs.values()))
    bases = BASES_CHANCE if order else what.controls.rotations
    scores = Scores()
    while pairs:
        a, b = next(iter(pairs))
        pair, i, j = pairs.pop((a, b)), task.batches[k][a], task.batches[m][b]
        norms = {scaled: (x, layers[1][b].norms[scaled]) for scaled, x in layers[0][a].norms.items()}
        ways = [(i, j)] if i == j else [(i, j), (j, i)]
        scored = score_pair(pair, norms, what.measures, what.controls, bases, len(ways))
        for way, (record, rotated) in zip(ways, scored, strict=True):
            scores.pairs[way] = record
            x, y = (what.views[n] for n in way)
            if what.partners and x.label[0] != y.label[0]:
                best = Partners.of(pair if way == (i, j) else pair.swapped, y.layer, rotated)
                scores.add(Scores(partners={(way[0], y.label[0]): best}))
    return scores


def sampled_pair(folder: Path, order: int, k: int, m: int) -> Scores:
    """Score pairs of layers of two batches by measures of the sampled frames."""
    task, scores = _task(folder), Scores()
    if k == m and not order:
        counts = [int((np.ptp(view[:], axis=0) == 0).sum()) for view in task.batch(k)]
        scores.constant = {(True, i): count for i, count in zip(task.batches[k], counts, strict=True)}
    for name in task.what.measures:
        left = [_prepared(task, view, name) for view in task.batch(k)]
        right = left if k == m and not order else [_prepared(task, view, name) for view in task.batch(m, order)]
        sides = (zip(task.batches[b], prepared, strict=True) for b, prepared in ((k, left), (m, right)))
        for (i, x), (j, y) in itertools.product(*sides):
            if i <= j:
                record = PairScores({name: MEASURES[name].score(x, y)})
                scores.add(Scores({(i, j): record, (j, i): record}))
    return scores


def _prepared(task: Task, view: LayerView, name: str) -> Tensor:
    """Return what a measure of frames needs of one layer."""
    prepare = MEASURES[name].prepare
    assert prepare
    with _named(view):
        return prepare(view, device=task.what.device)


@contextmanager
def _named(view: LayerView) -> Iterator[None]:
    """Put the name of the layer before what is wrong with it."""
    try:
        yield
    except SslsimError as error:
        raise SslsimError(f"{view.label[0]}, layer {view.label[1]}: {error}") from None
