"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in batches; the frames of a batch stand side by side, and one matrix product a chunk of frames gives the
cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and leaves them in
a scratch folder; a second takes batches two by two. A piece holds two batches and a chunk of frames, so memory grows
neither with layers nor with frames. Mismatched frames are a second round again: another order of the same frames leaves
a layer's own moments as they are. A piece is a call that a worker computes from the stores and the folder alone.
"""

import copyreg
import itertools
import os
import pickle
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslsim.activations.draft import remove_stale
from sslsim.activations.selection import LayerView, utterances_of
from sslsim.comparison.scores import BASES_CHANCE, Comparison, PairScores, Partners, Scores, score_pair
from sslsim.errors import SslsimError
from sslsim.measures import moments
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neighbours import sample_frames
from sslsim.measures.neurons import best_partners
from sslsim.measures.products import Means, Products, Side, Utterances, cross_products
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results, workers_on

BATCH_NEURONS = 2048  # of one batch: a product of two fills a processor, and takes 34 MB in float64
GPU_BATCH_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
BATCH_LAYERS = 8  # of one batch of sampled measures, whose kernels are 32 MB each at 2,000 frames
DTYPE = torch.float32  # of stored layers and their products


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


def score_pairs(what: Comparison, executor: Executor | None, orders: Sequence[np.ndarray] = ()) -> list[Scores]:
    """Score every pair of layers both ways, and then the same with the frames of y in each of some other orders.

    Each order, (n_frames,), has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a
    layer with itself too. Workers of `executor` (see `parallel.results`) must see the folder of the stores.
    """
    with _scratch(what.views[0].store.root.parent) as folder:
        tasks, scores = _tasks(what, orders, folder), [Scores() for _ in range(1 + len(orders))]
        rounds = [(k, task.folder, *one) for task in tasks for k in range(len(scores)) for one in _rounds(task, k)]
        total, workers = sum(len(batches) for *_, batches in rounds), workers_on(what.device)
        with tqdm(total=total, desc=what.title, file=sys.stdout, mininterval=1.0) as bar:
            for k, place, piece, batches in rounds:
                for part in results(piece, [(place, k, *some) for some in batches], executor=executor, workers=workers):
                    scores[k].add(part)
                    bar.update()
    return scores


def _rounds(task: Task, order: int) -> Iterator[tuple[Callable[..., Scores], list[tuple[int, ...]]]]:
    """Pieces to run for the frames of y in one order, one after another, and the batches that each call takes."""
    if any(MEASURES[name].prepare for name in task.what.measures):
        yield sampled_pair, task.pairs(diagonal=True)
        return
    if not order or task.utterances:  # another order of the frames changes moments of utterances and blocks only
        yield moments_of_batch, [(k,) for k in range(len(task.batches))]
    yield pair_of_batches, task.pairs(diagonal=bool(order))


def _tasks(what: Comparison, orders: Sequence[np.ndarray], folder: Path) -> list[Task]:
    """Put layers in batches and leave in the scratch folder what pieces need to know: of moments, and of frames."""
    views, used = what.views, frozenset().union(*what.between)
    models = itertools.groupby(range(len(views)), key=lambda i: views[i].label[0])
    runs = [list(run) for model, run in models if model in used]
    sampled = sample_frames(views[0], what.sample)
    of_moments, of_frames = (
        replace(what, measures=tuple(name for name in what.measures if bool(MEASURES[name].prepare) is frames))
        for frames in (False, True)
    )
    tasks = []
    if of_moments.measures or what.partners:
        neurons = BATCH_NEURONS if workers_on(what.device) is None else GPU_BATCH_NEURONS
        batches = _batches(runs, [neurons // views[run[0]].shape[1] for run in runs])
        by_utterance = any(MEASURES[name].utterances for name in of_moments.measures)
        utterances = utterances_of(views) if by_utterance else what.blocks
        tasks.append(Task(folder / "moments", of_moments, batches, [None, *orders], utterances))
    if of_frames.measures:
        batches = _batches(runs, [BATCH_LAYERS] * len(runs))
        tasks.append(Task(folder / "frames", of_frames, batches, [sampled, *(order[sampled] for order in orders)]))
    for task in tasks:
        task.folder.mkdir()
        _save(task, task.folder / "task.pickle")
    return tasks


def _batches(runs: list[list[int]], sizes: list[int]) -> list[list[int]]:
    """Cut runs of layers into batches of about equal size, none with more layers than given (one at least)."""
    cut = [np.array_split(np.array(run), -(-len(run) // max(1, size))) for run, size in zip(runs, sizes, strict=True)]
    return [batch.tolist() for batches in cut for batch in batches]


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """Yield a new folder that all workers see, or, where stores are read-only, one of this machine; remove it after.

    Only its owner can write to it: what is pickled there is read by the workers of the same comparison.
    """
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


def _save(value: object, path: Path) -> None:
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
    _save(layers, task.moments_file(k, order))
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
    # another order of the frames leaves it as it is, and no table asks for it there
    constant = [] if order else [[int((np.ptp(view[:], axis=0) == 0).sum()) for view in side] for side in views]
    for name in task.what.measures:
        prepare: Any = MEASURES[name].prepare
        left = _of_each(views[0], partial(prepare, device=task.what.device))
        right = left if k == m and not order else _of_each(views[1], partial(prepare, device=task.what.device))
        for (a, i), (b, j) in itertools.product(enumerate(task.batches[k]), enumerate(task.batches[m])):
            if i <= j:
                value = {name: MEASURES[name].score(left[a], right[b])}
                counts: list[dict[str, tuple[int, int]]] = [{}, {}]
                if not order:
                    counts = [{name: (constant[0][a], constant[1][b])}, {name: (constant[1][b], constant[0][a])}]
                there, back = (PairScores(value, each) for each in counts)
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
