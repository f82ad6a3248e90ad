"""Pieces of a comparison: calls that a worker computes from the stores and a scratch folder alone.

One matrix product a chunk of frames gives the cross moments of all pairs of two batches, which are scored together.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslsim.activations.selection import LayerView, mismatched, on_rows
from sslsim.comparison.scores import Comparison, Norms, Part, Run, in_random_bases, partners_of, score_pairs
from sslsim.comparison.scratch import read, save
from sslsim.errors import SslsimError
from sslsim.measures.arrays import mean
from sslsim.measures.moments import WIDE, Marginal, Moments, marginal, marginals_without, moments, squared_norms
from sslsim.measures.products import Side, cross_products, without_blocks
from sslsim.measures.random_basis import axes
from sslsim.measures.registry import MEASURES
from sslsim.speech.positions import common_positions

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

    def numbers(self, k: int, m: int, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the layers of such pairs, (2, pairs) places in two batches."""
        return np.array(self.batches[k])[places[0]], np.array(self.batches[m])[places[1]]


@dataclass(frozen=True)
class LayerMoments:
    """The own moments of the layers of a batch, with what is computed from them."""

    marginal: Marginal  # (layers, ...)
    norms: dict[bool, Tensor]  # by scaling, squared norms of the frames, (layers, n_frames)


HERE: dict[Path, Task] = {}  # tasks that this process set: small layers which one of them has read, others need not
os.register_at_fork(after_in_child=HERE.clear)  # a worker would keep them for life


def _task(folder: Path) -> Task:
    return HERE.get(folder) or _task_elsewhere(folder)


@lru_cache(maxsize=2)
def _task_elsewhere(folder: Path) -> Task:
    return read(folder / "task.pickle")


@lru_cache(maxsize=2)
def _views(folder: Path) -> tuple[Sequence[LayerView], Sequence[LayerView]]:
    """Layers on the frames of a run, and those of y in another order; the same for all pieces: small ones are kept."""
    task = _task(folder)
    views = task.what.views if task.run.rows is None else on_rows(task.what.views, task.run.rows)
    return (views, views) if task.run.given is None else mismatched(views, task.run.given)


def turns(run: Run) -> tuple[bool, ...]:
    """Whether layers of y are others in another order."""
    return (False,) if run.given is None else (False, True)


def _turned(task: Task, order: NDArray[np.int64] | None) -> bool:
    return order is not None and task.run.given is not None


def _file(task: Task, what: str, k: int, turned: bool, block: int | None = None) -> Path:
    return task.folder / f"{what}-{k}{'-turned' if turned else ''}{'' if block is None else f'-{block}'}.pickle"


def _batch(task: Task, k: int, turned: bool = False) -> list[LayerView]:
    """Layers of a batch; `turned` those that are read in another order."""
    return [_views(task.folder)[turned][i] for i in task.batches[k]]


def moments_of_batch(folder: Path, k: int, turned: bool) -> list[Part]:
    """Make and leave in the scratch folder the moments of every layer of a batch, and say what each layer is like.

    Where blocks are left out, moments without each.
    """
    task = _task(folder)
    what, views = task.what, _batch(task, k, turned)
    side = Side(views, torch.cat(_of_each(views, mean)).to(what.device), DTYPE)
    if task.run.blocks:
        for g, of in zip(task.run.wanted, marginals_without(side, task.run.blocks, task.run.wanted), strict=True):
            rest = on_rows(views, np.delete(np.arange(side.n), task.run.blocks[g]))
            save(_moments(task, of, rest), _file(task, "moments", k, turned, g))
        return []
    of = marginal(side, 0 if task.run.chance else WIDE)
    save(_moments(task, of, views), _file(task, "moments", k, turned))
    layers = np.array(task.batches[k])
    counts = {"constant": (layers, (of.mean.shape[-1] - of.count).long().cpu().numpy())}
    measures = {name: MEASURES[name] for name in what.measures}
    counts |= {name: (layers, m.ranks(of).cpu().numpy()) for name, m in measures.items() if m.ranks}
    return [Part(counts=counts)]


def _moments(task: Task, of: Marginal, views: Sequence[LayerView]) -> LayerMoments:
    """Compute what measures need of the layers of a batch."""
    for a, view in enumerate(views):
        _of_each([view], lambda _, a=a: of.one(a).check_varies())
    measures = [MEASURES[name] for name in task.what.measures]
    for name in {name for measure in measures for name in measure.needs}:
        getattr(of, name)  # computed here, once, and kept
    if any(measure.in_bases for measure in measures):
        for basis in range(task.run.rotations):
            axes(of, basis, task.what.seed)
    norms = {
        scaled: torch.stack([squared_norms(v, of.one(a), standardize=scaled) for a, v in enumerate(views)])
        for scaled in {measure.standardize for measure in measures if measure.norms}
    }
    return LayerMoments(of, norms)


def pairs_of_batches(folder: Path, k: int, m: int) -> list[Part]:
    """Score layers of one batch with those of another, the frames of y in each order."""
    task = _task(folder)
    what, run = task.what, task.run
    if run.blocks:
        return _without_blocks(task, k, m)
    # never the same objects on both sides: each keeps the frames that it last read
    (x, side_x), *sides = (_side(task, *of) for of in ((k, False), *((m, turned) for turned in turns(run))))
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
        y = y if order is None else LayerMoments(y.marginal, {scaled: n[:, order] for scaled, n in y.norms.items()})
        parts.append(_part(task, (k, m), (x, y), places, cross, order is None, partners=run.partners and not near))
    return parts


def _without_blocks(task: Task, k: int, m: int) -> list[Part]:
    """Score layers of two batches at the same depth without each block."""
    cells, parts = task.cells(k, m, near=True), []
    places = torch.tensor(cells, device=task.what.device).T
    of = [[_file(task, "moments", batch, False, g) for batch in (k, m)] for g in task.run.wanted]
    # frames are near 0 about the mean of any that are many
    means = [read(file).marginal.mean.flatten() for file in of[0]]
    x_side, y_side = (Side(_batch(task, batch), mean_, DTYPE) for batch, mean_ in zip((k, m), means, strict=True))
    without = without_blocks(x_side, y_side, cells, task.run.blocks, task.run.wanted)
    for files, (*_, cross) in zip(of, without, strict=True):
        x, y = map(read, files)
        parts.append(_part(task, (k, m), (x, y), places, cross, True, partners=False))
    return parts


def _side(task: Task, k: int, turned: bool) -> tuple[LayerMoments, Side]:
    of = read(_file(task, "moments", k, turned))
    return of, Side(_batch(task, k, turned), of.marginal.mean.flatten(), DTYPE)


def _part(
    task: Task,
    batches: tuple[int, int],
    sides: tuple[LayerMoments, LayerMoments],
    places: Tensor,
    cross: Tensor,
    own: bool,
    *,
    partners: bool,
) -> Part:
    """Score pairs of layers at `places` of two batches; `own` says whether their frames stand in their own order."""
    what, run = task.what, task.run
    i, j = task.numbers(*batches, places.cpu().numpy())
    near = torch.from_numpy(np.flatnonzero(what.near[i, j] | what.near[j, i])).to(places)

    def of(some: Any) -> tuple[Moments, Norms]:
        a, b = places[0][some], places[1][some]
        same = torch.from_numpy(i == j).to(places.device)[some] if own else None
        pairs = Moments(sides[0].marginal[a], sides[1].marginal[b], cross[some], same=same)
        return pairs, {scaled: (one[a], sides[1].norms[scaled][b]) for scaled, one in sides[0].norms.items()}

    others, (pairs, norms) = len(near) < len(i), of(...)
    costly = [name for name in what.measures if others and MEASURES[name].costly and not run.costly]
    part = Part(i, j, score_pairs(pairs, norms, [name for name in what.measures if name not in costly]))
    if partners:  # of all pairs of layers, or they are nobody's best
        part.partners = partners_of(pairs, what, i, j, bases=own and not run.chance)
    if len(near) and (costly or (run.rotations and own)):
        pairs, norms = of(near) if others else (pairs, norms)
        value = score_pairs(pairs, norms, costly)
        rotated = in_random_bases(pairs, what, run.rotations) if run.rotations and own else {}
        for into, scored in ((part.value, value), (part.rotated, rotated)):
            for name, values in scored.items():
                into[name] = np.full((2, len(i), *values.shape[2:]), np.nan)
                into[name][:, near.cpu().numpy()] = values
    return part


def samples_of_batch(folder: Path, k: int, turned: bool) -> list[Part]:
    """Leave in the scratch folder what measures of sampled frames compare of every layer of a batch."""
    task = _task(folder)
    rows, views = sample_of(task.run.lengths, task.what.sample), _batch(task, k, turned)
    for name in task.what.measures:
        if function := MEASURES[name].prepare:
            prepare: Any = partial(function, device=task.what.device)
            save(_of_each(views, lambda view, prepare=prepare: prepare(view[rows])), _file(task, name, k, turned))
    return []


def frames_of_batches(folder: Path, k: int, m: int) -> list[Part]:
    """Score layers of two batches by measures of the frames themselves, those of y in each order."""
    task = _task(folder)
    parts = [Part() for _ in task.run.orders]
    for name in task.what.measures:
        score = _of_utterances if MEASURES[name].utterances else _of_sample
        for number, (order, part) in enumerate(zip(task.run.orders, parts, strict=True)):
            cells = task.cells(k, m, near=number not in task.run.everywhere)
            if cells:
                part.x, part.y = task.numbers(k, m, np.transpose(cells))
                part.value[name] = np.array(score(task, name, (k, m), cells, order)).T
    return parts


def _of_utterances(
    task: Task, name: str, batches: tuple[int, int], cells: list[tuple[int, int]], order: NDArray[np.int64] | None
) -> list[tuple[float, float]]:
    """Score pairs of layers, both ways, by a measure of moments of groups of utterances."""
    left, right = _batch(task, batches[0]), _batch(task, batches[1], _turned(task, order))
    how: Any = {"utterances": task.run.lengths, "device": task.what.device}
    pairs = (moments(left[a], right[b][slice(None) if order is None else order], **how) for a, b in cells)
    return [(float(MEASURES[name].score(m)), float(MEASURES[name].score(m.swapped))) for m in pairs]


def _of_sample(
    task: Task, name: str, batches: tuple[int, int], cells: list[tuple[int, int]], order: NDArray[np.int64] | None
) -> list[tuple[float, float]]:
    """Score pairs of layers by a symmetric measure of sampled frames; what it needs of a layer is kept."""
    rows = sample_of(task.run.lengths, task.what.sample)
    left = _left(_file(task, name, batches[0], False))
    right = _left(_file(task, name, batches[1], _turned(task, order)))
    if order is not None:  # the sample is at the same places of all utterances that are mismatched
        turn = torch.from_numpy(np.searchsorted(rows, order[rows])).to(right[0].device)
        reordered: Any = MEASURES[name].reordered
        right = [reordered(one, turn) for one in right]
    scores = [float(MEASURES[name].score(left[a], right[b])) for a, b in cells]
    return [(score, score) for score in scores]


@lru_cache(maxsize=4)
def sample_of(lengths: tuple[int, ...], sample: int) -> NDArray[np.int64]:
    """Numbers of at most so many frames, of utterances of these lengths, at the same positions of each."""
    rows = common_positions(lengths, sample)
    if len(rows) < 2:
        raise SslsimError(f"sample is {sample}; give at least 2 frames")
    return rows


@lru_cache(maxsize=4)
def _left(file: Path) -> list[Tensor]:
    """Return what a measure of sampled frames compares of every layer of a batch."""
    return read(file)


def _of_each(views: Sequence[LayerView], function: Callable[..., Any]) -> list[Any]:
    """Call a function on every layer; an error names the layer."""
    out = []
    for view in views:
        try:
            out.append(function(view))
        except SslsimError as error:
            raise SslsimError(f"{view.label[0]}, layer {view.label[1]}: {error}") from None
    return out


def forget(folder: Path) -> None:
    """Let go of what pieces of a comparison in that scratch folder keep between them."""
    for one in [each for each in HERE if folder in each.parents]:
        del HERE[one]
    for kept in (_task_elsewhere, _views, _left):
        kept.cache_clear()
