"""Scores of every pair of layers, in independent pieces (see `pieces`) that any executor can run.

A first round makes what depends on one layer, such as its moments, once, and leaves it in a scratch folder; a second
takes batches of layers of one checkpoint two by two, with the frames of y in one order after another: mismatched
utterances leave a layer's own moments as they are.
"""

import itertools
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sslsim.activations.selection import PartialView
from sslsim.comparison import pieces
from sslsim.comparison.pieces import Task
from sslsim.comparison.scores import Comparison, Run, Scores
from sslsim.comparison.scratch import CURE, save, scratch
from sslsim.measures.arrays import chunks
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results, workers_on
from sslsim.resources import check_free

BATCH_NEURONS = 2048  # of one batch: a product of two fills a processor, and takes 34 MB in float64
GPU_BATCH_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
SCRATCH = 8e9  # bytes of moments without a block that wait at a time: those of 48 layers of 1,024 neurons, ten times
BATCH_LAYERS = 8  # of one batch of measures of frames, whose kernels are 32 MB each at 2,000 frames


def score_runs(what: Comparison, runs: Sequence[Run], executor: Executor | None) -> list[list[Scores]]:
    """Score pairs of layers both ways in each run, by each order of the frames of y, or without each block.

    Each order, (n_frames,), has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a
    layer with itself too. Workers of `executor` (see `parallel.results`) must see the folder of the stores.
    """
    scores = [[Scores(len(what.views)) for _ in run.blocks or run.orders] for run in runs]
    with ExitStack() as at_end:
        folder = at_end.enter_context(scratch(what.views[0].store.root.parent))
        at_end.callback(pieces.forget, folder)
        tasks = [(of, *one) for of, run in enumerate(runs) for one in _tasks(what, run, folder / str(of))]
        rounds = [(of, first, task, [*_rounds(task)]) for of, first, task in tasks]
        workers = workers_on(what.device)
        check_free(folder, max(_kept(task) for *_, task in tasks), "moments of layers", CURE)
        total = sum(len(calls) for *_, two in rounds for _, calls in two)
        with tqdm(total=total, unit="piece", file=sys.stdout, mininterval=1.0) as bar:
            for of, first, task, two in rounds:
                bar.set_description(runs[of].title)
                for parts in itertools.chain(*(results(*one, executor=executor, workers=workers) for one in two)):
                    for one, part in zip(scores[of][first:], parts, strict=False):
                        one.add(part)
                    bar.update()
                shutil.rmtree(task.folder, ignore_errors=True)  # it takes gigabytes
    return scores


def _size(what: Comparison, batches: list[list[int]]) -> int:
    """Return about how many bytes the moments of layers take: products in float64, and two bases in float32."""
    bases = {name for measure in what.measures for name in MEASURES[measure].needs}
    return sum(8 * (1 + len(bases)) * what.views[i].store.n_neurons ** 2 for batch in batches for i in batch)


def _kept(task: Task) -> int:
    """Return about how many bytes of moments wait for the pieces of a task."""
    each = 0 if task.of_frames else _size(task.what, task.batches)
    return each * len(pieces.turns(task.run)) * max(1, len(task.run.wanted))


def _parts(run: Run, size: int) -> list[Run]:
    """Leave out so many blocks at a time that moments of that size, without each, do not fill the disk."""
    every = range(len(run.blocks))
    some = max(1, int(SCRATCH // max(1, size)))
    return [replace(run, wanted=tuple(every[part])) for part in chunks(len(every), some)] or [run]


def _rounds(task: Task) -> Iterator[tuple[Callable[..., Any], list[tuple[Any, ...]]]]:
    """Pieces to run one after another, and the calls of each."""
    made = itertools.product(range(len(task.batches)), pieces.turns(task.run))
    yield pieces.samples_of_batch if task.of_frames else pieces.moments_of_batch, [(task.folder, *of) for of in made]
    score = pieces.frames_of_batches if task.of_frames else pieces.pairs_of_batches
    yield score, [(task.folder, *pair) for pair in task.pairs()]


def _tasks(what: Comparison, run: Run, folder: Path) -> Iterator[tuple[int, Task]]:
    """Put layers in batches and leave in the scratch folder what pieces need to know: of moments, and of frames.

    Before each stands the number of its first scores: a run without each block is of moments alone; it is a run for
    each block where measures are of frames, and where something is given, which comes off the frames that are left.
    """
    views, each, given = what.views, run.without_each() or [run], isinstance(what.views[0], PartialView)
    near = np.flatnonzero((what.near | what.near.T).any(0)).tolist()
    used = range(len(views)) if run.everywhere else near  # moments without each block take gigabytes
    layers = [list(of) for _, of in itertools.groupby(used, key=lambda i: views[i].label[0])]
    kinds = [tuple(name for name in what.measures if MEASURES[name].of_frames is kind) for kind in (False, True)]
    of_moments, of_frames = (replace(what, measures=names) for names in kinds)
    tasks: list[Any] = []
    if of_moments.measures or run.partners:
        neurons = BATCH_NEURONS if workers_on(what.device) is None else GPU_BATCH_NEURONS
        batches = _batches(layers, [neurons // views[of[0]].shape[1] for of in layers])
        parts = each if given else _parts(run, _size(of_moments, batches))
        tasks += [(of_moments, batches, one.wanted[0] if one.wanted else first, one) for first, one in enumerate(parts)]
    if of_frames.measures:
        pieces.sample_of(run.lengths, what.sample)  # says so at once if that cannot be
        batches = _batches(layers, [BATCH_LAYERS] * len(layers))
        tasks += [(of_frames, batches, first, replace(one, partners=False)) for first, one in enumerate(each)]
    for number, (some, batches, first, one) in enumerate(tasks):
        task = Task(folder / str(number), some, one, batches)
        task.folder.mkdir(parents=True)
        save(task, task.folder / "task.pickle")
        pieces.HERE[task.folder] = task
        yield first, task


def _batches(runs: list[list[int]], sizes: list[int]) -> list[list[int]]:
    """Cut runs of layers into batches of about equal size, none with more layers than given (one at least)."""
    cut = [np.array_split(np.array(run), -(-len(run) // max(1, size))) for run, size in zip(runs, sizes, strict=True)]
    return [batch.tolist() for batches in cut for batch in batches]
