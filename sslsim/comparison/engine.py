"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in batches; the frames of a batch stand side by side, and one matrix product a chunk of frames gives the
cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and leaves them in
a scratch folder; a second takes batches two by two. A piece holds two batches and a chunk of frames, so memory grows
neither with layers nor with frames. Mismatched frames are a second round again: another order of the same frames leaves
a layer's own moments as they are.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sslsim.activations.selection import utterances_of
from sslsim.comparison import pieces
from sslsim.comparison.pieces import Task
from sslsim.comparison.scores import Comparison, Scores
from sslsim.measures.neighbours import sample_frames
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results, workers_on

BATCH_NEURONS = 2048  # of one batch: a product of two fills a processor, and takes 34 MB in float64
GPU_BATCH_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
BATCH_LAYERS = 8  # of one batch of sampled measures, whose kernels are 32 MB each at 2,000 frames


def score_pairs(what: Comparison, executor: Executor | None, orders: Sequence[np.ndarray] = ()) -> list[Scores]:
    """Score every pair of layers both ways, and then the same with the frames of y in each of some other orders.

    Each order, (n_frames,), has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a
    layer with itself too. Workers of `executor` (see `parallel.results`) must see the folder of the stores.
    """
    with pieces.scratch(what.views[0].store.root.parent) as folder:
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
        yield pieces.sampled_pair, task.pairs(diagonal=True)
        return
    if not order or task.utterances:  # another order of the frames changes moments of utterances and blocks only
        yield pieces.moments_of_batch, [(k,) for k in range(len(task.batches))]
    yield pieces.pair_of_batches, task.pairs(diagonal=bool(order))


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
        pieces.save(task, task.folder / "task.pickle")
    return tasks


def _batches(runs: list[list[int]], sizes: list[int]) -> list[list[int]]:
    """Cut runs of layers into batches of about equal size, none with more layers than given (one at least)."""
    cut = [np.array_split(np.array(run), -(-len(run) // max(1, size))) for run, size in zip(runs, sizes, strict=True)]
    return [batch.tolist() for batches in cut for batch in batches]
