"""Scores of every pair of layers, in independent pieces (see `pieces`) that any executor can run.

A first round makes what depends on one layer, such as its moments, once, and leaves it in a scratch folder; a second
takes batches of layers of one checkpoint two by two, with the frames of y in one order after another: mismatched
utterances leave a layer's own moments as they are.
"""

import itertools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sslsim.activations.draft import remove_stale
from sslsim.comparison import pieces
from sslsim.comparison.pieces import Task, save
from sslsim.comparison.scores import Comparison, Run, Scores
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results, workers_on

BATCH_NEURONS = 2048  # of one batch: a product of two fills a processor, and takes 34 MB in float64
GPU_BATCH_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
BATCH_LAYERS = 8  # of one batch of measures of frames, whose kernels are 32 MB each at 2,000 frames


def score_runs(what: Comparison, runs: Sequence[Run], executor: Executor | None) -> list[list[Scores]]:
    """Score pairs of layers both ways in each run, by each order of the frames of y.

    Each order, (n_frames,), has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a
    layer with itself too. Workers of `executor` (see `parallel.results`) must see the folder of the stores.
    """
    scores = [[Scores(len(what.views)) for _ in run.orders] for run in runs]
    with _scratch(what.views[0].store.root.parent) as folder:
        tasks = [(of, task) for of, run in enumerate(runs) for task in _tasks(what, run, folder / str(of))]
        rounds = [(of, task, [*_rounds(task)]) for of, task in tasks]
        workers = workers_on(what.device)
        total = sum(len(calls) for *_, two in rounds for _, calls in two)
        with tqdm(total=total, unit="piece", file=sys.stdout, mininterval=1.0) as bar:
            for of, task, two in rounds:
                bar.set_description(runs[of].title)
                for parts in itertools.chain(*(results(*one, executor=executor, workers=workers) for one in two)):
                    for one, part in zip(scores[of], parts, strict=False):
                        one.add(part)
                    bar.update()
                shutil.rmtree(task.folder, ignore_errors=True)  # it takes gigabytes
    return scores


def _rounds(task: Task) -> Iterator[tuple[Callable[..., Any], list[tuple[Any, ...]]]]:
    """Pieces to run one after another, and the calls of each."""
    made = itertools.product(range(len(task.batches)), pieces.turns(task.run))
    yield pieces.samples_of_batch if task.of_frames else pieces.moments_of_batch, [(task.folder, *of) for of in made]
    score = pieces.frames_of_batches if task.of_frames else pieces.pairs_of_batches
    yield score, [(task.folder, *pair) for pair in task.pairs()]


def _tasks(what: Comparison, run: Run, folder: Path) -> list[Task]:
    """Put layers in batches and leave in the scratch folder what pieces need to know: of moments, and of frames."""
    views = what.views
    layers = [list(of) for _, of in itertools.groupby(range(len(views)), key=lambda i: views[i].label[0])]
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
        pieces.sample_of(run.lengths, what.sample)  # says so at once if that cannot be
        batches = _batches(layers, [BATCH_LAYERS] * len(layers))
        tasks.append(Task(folder / "frames", of_frames, replace(run, partners=False), batches))
    for task in tasks:
        task.folder.mkdir(parents=True)
        save(task, task.folder / "task.pickle")
    return tasks


def _batches(runs: list[list[int]], sizes: list[int]) -> list[list[int]]:
    """Cut runs of layers into batches of about equal size, none with more layers than given (one at least)."""
    cut = [np.array_split(np.array(run), -(-len(run) // max(1, size))) for run, size in zip(runs, sizes, strict=True)]
    return [batch.tolist() for batches in cut for batch in batches]


@contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
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
        pieces.forget()
