"""The pieces of a comparison, each a call that a worker computes from the stores and the scratch folder alone.

The folder is made with ``mkdtemp``, so that only its owner can write to it: what is pickled there is read by the
workers of the same comparison, and it is gone when that ends.
"""

from __future__ import annotations

import copyreg
import itertools
import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.activations.draft import remove_stale
from sslsim.activations.selection import LayerView
from sslsim.comparison.scores import BASES_CHANCE, Comparison, PairScores, Partners, Scores, score_pair
from sslsim.errors import SslsimError
from sslsim.measures import moments
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neurons import best_partners
from sslsim.measures.products import Means, Products, Side, Utterances, cross_products
from sslsim.measures.registry import MEASURES

DTYPE = torch.float32  # of stored layers and their products


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """Yield a new folder that all workers see, or, where stores are read-only, one of this machine; remove it after."""
    remove_stale(beside, ".pieces.*")  # of processes of this machine that were killed
    prefix = f".pieces.{platform.node()}.{os.getpid()}."
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=beside.absolute()))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _task.cache_clear()
        _on_rows.cache_clear()  # with what small layers have read


def save(value: object, path: Path) -> None:
    """Write a value; an error says how much room there is."""
    try:
        with path.open("wb") as file:
            pickler = pickle.Pickler(file, protocol=5)
            pickler.dispatch_table = copyreg.dispatch_table | {Tensor: _as_array}
            pickler.dump(value)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 1e9
        raise SslsimError(
            f"moments of layers cannot be kept in {str(path.parent)!r}, where {free:,.1f} GB are free: "
            f"{error.strerror}; make room there or compare fewer checkpoints at a time"
        ) from error


def _as_array(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[np.ndarray]]:
    """Return how to make a tensor again: torch's own way opens an archive for each, which takes longer than reading."""
    return partial(torch.as_tensor, device=tensor.device), (tensor.numpy(force=True),)


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


Batch = tuple[int, list[LayerMoments]]  # its number and its layers


@lru_cache(maxsize=2)
def _task(folder: Path) -> Task:
    return pickle.loads((folder / "task.pickle").read_bytes())


@lru_cache(maxsize=2)
def _on_rows(folder: Path, order: int) -> list[LayerView]:
    """Layers on the frames of x or of y in one order; the same for all pieces, as small layers keep what was read."""
    task = _task(folder)
    rows = task.rows[order]
    if rows is None:
        return task.what.views
    frames = task.what.views[0].only(rows).frames  # one array for all of them
    return [replace(view, frames=frames) for view in task.what.views]


def moments_of_batch(folder: Path, order: int, k: int) -> Scores:
    """Make and leave in the scratch folder the moments of every layer of a batch, and score pairs within the batch."""
    task = _task(folder)
    what, views = task.what, task.batch(k, order)
    means = _of_each(views, lambda view: Means.of(view, task.utterances, what.device))
    products = cross_products(Side(views, means, DTYPE), None, len(views[0]), task.utterances)
    layers = _of_each(views, partial(_layer_moments, what), means, [row[0] for row in products])
    save(layers, task.moments_file(k, order))
    wanted = not order and (k, k) in task.pairs(diagonal=True)
    return _scores(task, order, (k, layers), (k, layers), products) if wanted else Scores()


def _layer_moments(what: Comparison, view: LayerView, means: Means, products: Products) -> LayerMoments:
    """Return a layer's own moments with all that the measures need of it alone; an error if no neuron varies."""
    marginal = moments.marginal(means, products, len(view), torch.finfo(DTYPE).eps)
    marginal = replace(marginal, wide=0) if what.chance else marginal
    every = [marginal, *(marginal.without(g) for g in range(len(what.blocks.members) if what.blocks else 0))]
    for one in every:
        one.check_varies()
    norms: dict[bool, Tensor] = {}
    for measure in (MEASURES[name] for name in what.measures):
        if measure.norms and measure.standardize not in norms:
            norms[measure.standardize] = moments.squared_norms(view, *every, standardize=measure.standardize)
        if measure.prepare_layer:
            for one in every:
                measure.prepare_layer(one)
    return LayerMoments(marginal, norms)


def pair_of_batches(folder: Path, order: int, k: int, m: int) -> Scores:
    """Score every layer of one batch with every layer of another."""
    task = _task(folder)
    # never the same objects on both sides: a layer with itself would be whitened by nothing
    left, right = (pickle.loads(task.moments_file(*of).read_bytes()) for of in ((k, 0), (m, order)))
    if order and task.utterances is None:
        rows = task.rows[order]
        right = [replace(one, norms={scaled: norms[:, rows] for scaled, norms in one.norms.items()}) for one in right]
    side_x, side_y = (
        Side(views, [layer.marginal.means for layer in layers], DTYPE)
        for views, layers in ((task.batch(k), left), (task.batch(m, order), right))
    )
    products = cross_products(side_x, side_y, len(task.what.views[0]), task.utterances)
    products = [row[a:] if k == m else row for a, row in enumerate(products)]
    return _scores(task, order, (k, left), (m, right), products)


def _scores(task: Task, order: int, x: Batch, y: Batch, products: list[list[Products]]) -> Scores:
    """Score every pair of layers of two batches; of a batch with itself, every layer with those from itself on."""
    what, (k, left), (m, right), scores = task.what, x, y, Scores()
    pairs = {
        (a, b): Moments(left[a].marginal, right[b].marginal, product.total, product.groups)
        for a, row in enumerate(products)
        for b, product in enumerate(row, a if k == m else 0)
    }
    if torch.device(what.device).type != "cpu" and any(MEASURES[name].canonical for name in what.measures):
        moments.decompose(list(pairs.values()))
    while pairs:
        a, b = next(iter(pairs))
        pair, i, j = pairs.pop((a, b)), task.batches[k][a], task.batches[m][b]
        norms = {scaled: (of_x, right[b].norms[scaled]) for scaled, of_x in left[a].norms.items()}
        ways = [(i, j)] if i == j else [(i, j), (j, i)]
        scored = score_pair(pair, norms, what, BASES_CHANCE if order else what.rotations, len(ways))
        for way, (record, rotated) in zip(ways, scored, strict=True):
            scores.pairs[way] = record
            (model_x, _), (model_y, layer_y) = (what.views[n].label for n in way)
            if what.partners and model_x != model_y:
                neuron, r = best_partners(pair if way == (i, j) else pair.swapped)
                best = Partners(np.full(len(neuron), layer_y), neuron, r, rotated)
                scores.add(Scores(partners={(way[0], model_y): best}))
    return scores


def sampled_pair(folder: Path, order: int, k: int, m: int) -> Scores:
    """Score pairs of layers of two batches by measures of the sampled frames."""
    task, scores = _task(folder), Scores()
    views = task.batch(k), task.batch(m, order)
    constant = [[int((np.ptp(view[:], axis=0) == 0).sum()) for view in side] for side in views]
    for name in task.what.measures:
        prepare: Any = MEASURES[name].prepare
        left = _of_each(views[0], partial(prepare, device=task.what.device))
        right = left if k == m and not order else _of_each(views[1], partial(prepare, device=task.what.device))
        for (a, i), (b, j) in itertools.product(enumerate(task.batches[k]), enumerate(task.batches[m])):
            if i <= j:
                value, counts = {name: MEASURES[name].score(left[a], right[b])}, (constant[0][a], constant[1][b])
                there, back = (PairScores(value, {name: of_sides}) for of_sides in (counts, counts[::-1]))
                scores.add(Scores({(i, j): there, (j, i): back}))
    return scores


def _of_each(views: list[LayerView], function: Callable[..., Any], *more: list[Any]) -> list[Any]:
    """Call a function on every layer; an error names the layer."""
    out = []
    for view, *rest in zip(views, *more, strict=True):
        try:
            out.append(function(view, *rest))
        except SslsimError as error:
            raise SslsimError(f"{view.label[0]}, layer {view.label[1]}: {error}") from None
    return out
