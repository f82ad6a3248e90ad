"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in batches of one checkpoint; the frames of a batch stand side by side, and one matrix product a chunk of
frames gives the cross moments of all pairs of two batches, which are scored together. A first round makes each layer's
own moments and decomposition, once, and leaves them in a scratch folder; a second takes batches two by two, with the
frames of y in one order after another: mismatched utterances leave a layer's own moments as they are. A piece is a call
that a worker computes from the stores and the folder alone.
"""

from __future__ import annotations

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
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sslsim.activations.draft import remove_stale
from sslsim.activations.selection import View, mismatched, on_rows
from sslsim.comparison.scores import Comparison, Norms, Part, Run, Scores, in_random_bases, partners_of, score_pairs
from sslsim.errors import SslsimError
from sslsim.measures.arrays import mean
from sslsim.measures.moments import WIDE, Marginal, Moments, marginal, moments, squared_norms
from sslsim.measures.products import Side, cross_products
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results, workers_on
from sslsim.speech.positions import positions, stride_for

BATCH_NEURONS = 2048  # of one batch: a product of two fills a processor, and takes 34 MB in float64
GPU_BATCH_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
BATCH_LAYERS = 8  # of one batch of measures of frames, whose kernels are 32 MB each at 2,000 frames
DTYPE = torch.float32  # of stored layers and their products


@dataclass(frozen=True)
class Task:
    """What every piece of a run needs to know; written once to the scratch folder, read by each worker."""

    folder: Path  # its part of the scratch folder
    what: Comparison  # by measures that are all of moments, or all of frames
    run: Run
    batches: list[list[int]]  # numbers of layers of one checkpoint that are computed together

    @property
    def of_frames(self) -> bool:
        """Whether the measures are of frames."""
        return any(MEASURES[name].of_frames for name in self.what.measures)

    def pairs(self) -> list[tuple[int, int]]:
        """Unordered pairs of batches whose checkpoints are to be compared, a batch with itself too."""
        models = [self.what.views[batch[0]].label[0] for batch in self.batches]
        every = itertools.combinations_with_replacement(range(len(models)), 2)
        wanted = [(k, m) for k, m in every if frozenset((models[k], models[m])) in self.what.between]
        return [pair for pair in wanted if self.run.everywhere or self.cells(*pair, near=True)]

    def cells(self, k: int, m: int, *, near: bool) -> list[tuple[int, int]]:
        """Places, in two batches, of the pairs of layers to compare: all, or those at the same depth."""
        places = itertools.product(enumerate(self.batches[k]), enumerate(self.batches[m]))
        wanted = self.what.near | self.what.near.T
        return [(a, b) for (a, i), (b, j) in places if i <= j and (wanted[i, j] or not near)]


def score_runs(what: Comparison, runs: Sequence[Run], executor: Executor | None) -> list[list[Scores]]:
    """Score pairs of layers both ways in each run, by each order of the frames of y.

    Each order, (n_frames,), has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a
    layer with itself too. Workers of `executor` (see `parallel.results`) must see the folder of the stores.
    """
    scores = [[Scores(len(what.views)) for _ in run.orders] for run in runs]
    with _scratch(what.views[0].store.root.parent) as folder:
        tasks = [(of, task) for of, run in enumerate(runs) for task in _tasks(what, run, folder / str(of))]
        pieces = [(of, *piece) for of, task in tasks for piece in _rounds(task)]
        workers = workers_on(what.device)
        with tqdm(total=sum(len(calls) for *_, calls in pieces), unit="piece", file=sys.stdout, mininterval=1.0) as bar:
            for of, piece, calls in pieces:
                bar.set_description(runs[of].title)
                for parts in results(piece, calls, executor=executor, workers=workers):
                    _take_in(scores[of], parts)
                    bar.update()
    return scores


def _take_in(scores: list[Scores], parts: Any) -> None:
    if isinstance(parts, dict):  # of layers alone, the same in all orders
        for kind, by_measure in parts.items():
            for name, (layers, counts) in by_measure.items():
                known = getattr(scores[0], kind).setdefault(name, np.full(scores[0].size, -1))
                known[layers] = counts
        return
    for one, part in zip(scores, parts, strict=True):
        one.add(part)


def _rounds(task: Task) -> Iterator[tuple[Callable[..., Any], list[tuple[Any, ...]]]]:
    """Pieces to run one after another, and the calls of each."""
    if not task.of_frames:
        every = itertools.product(range(len(task.batches)), _turns(task.run))
        yield moments_of_batch, [(task.folder, *of) for of in every]
    yield frames_of_batches if task.of_frames else pairs_of_batches, [(task.folder, *pair) for pair in task.pairs()]


def _tasks(what: Comparison, run: Run, folder: Path) -> list[Task]:
    """Put layers in batches and leave in the scratch folder what pieces need to know: of moments, and of frames."""
    views, used = what.views, frozenset().union(*what.between)
    models = itertools.groupby(range(len(views)), key=lambda i: views[i].label[0])
    layers = [list(group) for model, group in models if model in used]
    of_moments, of_frames = (
        replace(what, measures=tuple(name for name in what.measures if MEASURES[name].of_frames is frames))
        for frames in (False, True)
    )
    tasks = []
    if of_moments.measures or run.partners:
        neurons = BATCH_NEURONS if workers_on(what.device) is None else GPU_BATCH_NEURONS
        batches = _batches(layers, [neurons // views[of[0]].shape[1] for of in layers])
        tasks.append(Task(folder / "moments", of_moments, run, batches))
    if of_frames.measures:
        sample_of(run.lengths, what.sample)  # says so at once if that cannot be
        batches = _batches(layers, [BATCH_LAYERS] * len(layers))
        tasks.append(Task(folder / "frames", of_frames, replace(run, partners=False), batches))
    for task in tasks:
        task.folder.mkdir(parents=True)
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
        _views.cache_clear()  # with what small layers have read
        _prepared.cache_clear()


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
    """The own moments of the layers of a batch, with what is computed from them."""

    marginal: Marginal  # (layers, ...)
    norms: dict[bool, Tensor]  # by scaling, squared norms of the frames, (layers, n_frames)

    def in_order(self, order: NDArray[np.int64]) -> LayerMoments:
        """Return the moments of the same frames in another order."""
        return LayerMoments(self.marginal, {scaled: norms[:, order] for scaled, norms in self.norms.items()})


@lru_cache(maxsize=2)
def _task(folder: Path) -> Task:
    return pickle.loads((folder / "task.pickle").read_bytes())


@lru_cache(maxsize=2)
def _views(folder: Path) -> tuple[Sequence[View], Sequence[View]]:
    """Layers on the frames of a run, and those of y in another order; the same for all pieces: small ones are kept."""
    task = _task(folder)
    views = task.what.views if task.run.rows is None else on_rows(task.what.views, task.run.rows)
    return (views, views) if task.run.given is None else mismatched(views, task.run.given)


def _turns(run: Run) -> tuple[bool, ...]:
    """Whether layers of y are others in another order."""
    return (False,) if run.given is None else (False, True)


def _moments_file(task: Task, k: int, turned: bool) -> Path:
    return task.folder / f"moments-{k}{'-turned' if turned else ''}.pickle"


def _batch(task: Task, k: int, turned: bool = False) -> list[View]:
    """Layers of a batch; `turned` those that are read in another order."""
    return [_views(task.folder)[turned][i] for i in task.batches[k]]


def moments_of_batch(folder: Path, k: int, turned: bool) -> dict[str, dict[str, Any]]:
    """Make and leave in the scratch folder the moments of every layer of a batch, and say what each layer is like."""
    task = _task(folder)
    what, views = task.what, _batch(task, k, turned)
    means = torch.cat(_of_each(views, mean)).to(what.device)
    of = marginal(Side(views, means, DTYPE), 0 if task.run.chance else WIDE, alone=False)
    for view, varies in zip(views, of.alive.any(-1).tolist(), strict=True):
        if not varies:
            _of_each([view], lambda view: moments(view, view).x.check_varies())
    measures = {name: MEASURES[name] for name in what.measures}
    for name in {name for measure in measures.values() for name in measure.needs}:
        getattr(of, name)  # computed here, once, and kept
    norms = {
        scaled: torch.stack([squared_norms(v, _one(of, a), standardize=scaled) for a, v in enumerate(views)])
        for scaled in {measure.standardize for measure in measures.values() if measure.norms}
    }
    _save(LayerMoments(of, norms), _moments_file(task, k, turned))
    layers = np.array(task.batches[k])
    constant = (layers, (of.mean.shape[-1] - of.count).long().cpu().numpy())
    ranks = {name: (layers, m.ranks(of).cpu().numpy()) for name, m in measures.items() if m.ranks}
    return {"constant": dict.fromkeys(what.measures, constant), "ranks": ranks}


def _one(of: Marginal, a: int) -> Marginal:
    return Marginal(of.n, of.mean[a], of.scatter[a], of.eps)


def pairs_of_batches(folder: Path, k: int, m: int) -> list[Part]:
    """Score layers of one batch with those of another, the frames of y in each order."""
    task = _task(folder)
    what, run = task.what, task.run
    # never the same objects on both sides: each keeps the frames that it last read
    (x, side_x), *sides = (_side(task, *of) for of in ((k, False), *((m, turned) for turned in _turns(run))))
    parts = []
    for number, order in enumerate(run.orders):
        y, side_y = sides[0] if order is None else sides[-1]
        near = number not in run.everywhere
        cells = task.cells(k, m, near=near)
        if not cells:
            parts.append(Part())
            continue
        places = torch.tensor(cells, device=what.device).T
        cross = cross_products(side_x, side_y, cells if near else None, order)
        cross = cross if near else cross[tuple(places)]
        parts.append(_part(task, (k, m), (x, y if order is None else y.in_order(order)), places, cross, order is None))
    return parts


def _side(task: Task, k: int, turned: bool) -> tuple[LayerMoments, Side]:
    of = pickle.loads(_moments_file(task, k, turned).read_bytes())
    return of, Side(_batch(task, k, turned), of.marginal.mean.flatten(), DTYPE)


def _part(
    task: Task,
    batches: tuple[int, int],
    sides: tuple[LayerMoments, LayerMoments],
    places: Tensor,
    cross: Tensor,
    own: bool,
) -> Part:
    """Score pairs of layers at `places` of two batches; `own` says whether their frames stand in their own order."""
    what, run = task.what, task.run
    i, j = (np.array(task.batches[k])[at] for k, at in zip(batches, places.cpu().numpy(), strict=True))
    near = torch.from_numpy(np.flatnonzero(what.near[i, j] | what.near[j, i])).to(places)

    def of(measures: Sequence[str], some: Any = ...) -> tuple[Moments, dict[str, NDArray[np.float64]]]:
        a, b = places[0][some], places[1][some]
        same = torch.from_numpy(i == j).to(places.device)[some] if own else None
        pairs = Moments(sides[0].marginal[a], sides[1].marginal[b], cross[some], same=same)
        norms: Norms = {scaled: (one[a], sides[1].norms[scaled][b]) for scaled, one in sides[0].norms.items()}
        return pairs, score_pairs(pairs, norms, measures)

    costly = [name for name in what.measures if MEASURES[name].costly and not own]
    pairs, value = of([name for name in what.measures if name not in costly])
    part = Part(i, j, value)
    if run.partners:
        part.partners = partners_of(pairs, what, i, j, bases=own and not run.chance)
    if len(near) and (costly or (run.rotations and own)):
        pairs, value = of(costly, near)
        rotated = in_random_bases(pairs, what, run.rotations) if run.rotations and own else {}
        for into, scored in ((part.value, value), (part.rotated, rotated)):
            for name, values in scored.items():
                into[name] = np.full((2, len(i), *values.shape[2:]), np.nan)
                into[name][:, near.cpu().numpy()] = values
    return part


def frames_of_batches(folder: Path, k: int, m: int) -> list[Part]:
    """Score layers of two batches by measures of the frames themselves, those of y in each order."""
    task = _task(folder)
    what, run, parts = task.what, task.run, [Part() for _ in task.run.orders]
    for name in what.measures:
        score = _of_utterances if MEASURES[name].utterances else _of_sample
        for number, (order, part) in enumerate(zip(run.orders, parts, strict=True)):
            cells = task.cells(k, m, near=number not in run.everywhere)
            if cells:
                scored = score(task, name, (k, m), cells, order)
                i, j = (
                    np.array(task.batches[of])[list(at)]
                    for of, at in zip((k, m), zip(*cells, strict=True), strict=True)
                )
                part.x, part.y, part.value[name] = i, j, np.array(scored).T
    return parts


def _of_utterances(
    task: Task, name: str, batches: tuple[int, int], cells: list[tuple[int, int]], order: NDArray[np.int64] | None
) -> list[tuple[float, float]]:
    """Score pairs of layers, both ways, by a measure of moments of groups of utterances."""
    turned = order is not None and task.run.given is not None
    left, right = _batch(task, batches[0]), _batch(task, batches[1], turned)
    scored = []
    for a, b in cells:
        y = right[b][:] if order is None else right[b][order]
        m = moments(left[a], y, utterances=task.run.lengths, device=task.what.device)
        scored.append((float(MEASURES[name].score(m)), float(MEASURES[name].score(m.swapped))))
    return scored


def _of_sample(
    task: Task, name: str, batches: tuple[int, int], cells: list[tuple[int, int]], order: NDArray[np.int64] | None
) -> list[tuple[float, float]]:
    """Score pairs of layers by a symmetric measure of sampled frames; what it needs of a layer is kept."""
    rows = sample_of(task.run.lengths, task.what.sample)
    turned = order is not None and task.run.given is not None
    left, right = _prepared(task.folder, name, batches[0]), _prepared(task.folder, name, batches[1], turned)
    if order is not None:  # the sample is at the same places of all utterances that are mismatched
        turn = torch.from_numpy(np.searchsorted(rows, order[rows])).to(right[0].device)
        reordered: Any = MEASURES[name].reordered
        right = [reordered(one, turn) for one in right]
    scores = [float(MEASURES[name].score(left[a], right[b])) for a, b in cells]
    return [(score, score) for score in scores]


def sample_of(lengths: Sequence[int], sample: int) -> NDArray[np.int64]:
    """Numbers of at most so many frames, of utterances of these lengths, at the same positions of each."""
    stride, starts = stride_for(lengths, sample), np.cumsum([0, *lengths[:-1]])
    rows = np.concatenate([start + positions(n, stride) for start, n in zip(starts, lengths, strict=True)])
    if len(rows) < 2:
        raise SslsimError(f"sample is {sample}; give at least 2 frames")
    return rows


@lru_cache(maxsize=4)
def _prepared(folder: Path, name: str, k: int, turned: bool = False) -> list[Tensor]:
    """Return what a measure of sampled frames compares of every layer of a batch."""
    task = _task(folder)
    rows, prepare = sample_of(task.run.lengths, task.what.sample), MEASURES[name].prepare
    return _of_each(_batch(task, k, turned), lambda view: prepare(view[rows], device=task.what.device))  # type: ignore[misc]


def _of_each(views: Sequence[View], function: Callable[..., Any]) -> list[Any]:
    """Call a function on every layer; an error names the layer."""
    out = []
    for view in views:
        try:
            out.append(function(view))
        except SslsimError as error:
            raise SslsimError(f"{view.label[0]}, layer {view.label[1]}: {error}") from None
    return out
