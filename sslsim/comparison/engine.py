"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in batches; the frames of a batch stand side by side, and one matrix product a chunk of frames gives the
cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and leaves them in
a scratch folder; a second takes batches two by two. A piece holds two batches and a chunk of frames, so memory grows
neither with layers nor with frames. Mismatched frames are a second round again: another order of the same frames leaves
a layer's own moments as they are.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sslsim.activations.selection import LayerView, utterances_of
from sslsim.comparison import pieces
from sslsim.comparison.pieces import Task
from sslsim.comparison.scores import Controls, Scores
from sslsim.comparison.scratch import save, scratch
from sslsim.measures.neighbours import SAMPLE, sample_frames
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results

BATCH_NEURONS = 2048  # of one batch: a product of two fills a processor, and takes 34 MB in float64
GPU_BATCH_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
GPU_WORKERS = 2  # one reads while the other computes
BATCH_LAYERS = 8  # of one batch of sampled measures, whose kernels are 32 MB each at 2,000 frames


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes
    ----------
    views : list of LayerView
        The layers; pairs go by their numbers in this list.
    measures : tuple of str
        Of layers and neurons.
    between : set of pairs of checkpoint names
        Which checkpoints to compare.
    sample : int
        At most so many frames for measures that compare every frame with every other.
    partners : bool
        Find each neuron's best partner in every other checkpoint too.
    controls : Controls
        Blocks to leave out, random bases.
    device : str
        Where a piece computes.
    title : str
        What its progress bar says.
    """

    views: list[LayerView]
    measures: tuple[str, ...]
    between: set[frozenset[str]]
    sample: int = SAMPLE
    partners: bool = False
    controls: Controls = Controls()
    device: str = "cpu"
    title: str = "layers"


def score_pairs(what: Comparison, executor: Executor | None = None) -> Scores:
    """Score every pair of layers of the wanted checkpoints, both ways, each layer with itself included."""
    (scores,) = score_orders(what, (), executor)
    return scores


def score_orders(what: Comparison, orders: Sequence[np.ndarray], executor: Executor | None = None) -> Iterator[Scores]:
    """Yield the scores of every pair of layers, and then the same with the frames of y in each of some other orders.

    Parameters
    ----------
    what : Comparison
        Layers and measures.
    orders : sequence of ndarray of shape (n_frames,)
        Each has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a layer with
        itself too.
    executor : Executor, optional
        Where pieces run, see `parallel.results`; its workers must see the folder of the stores.
    """
    with scratch(what.views[0].store.root.parent) as folder:
        try:
            tasks = _tasks(what, orders, folder)
            rounds = [[_round(task, order) for task in tasks] for order in range(1 + len(orders))]
            sizes = [
                size for pieces_of in itertools.chain(*rounds) for _, calls in pieces_of for size in calls.values()
            ]
            with tqdm(total=sum(sizes), desc=what.title, file=sys.stdout, mininterval=1.0) as bar:
                for of_order in rounds:
                    scores = Scores()
                    for piece, calls in itertools.chain(*of_order):
                        _run(scores, piece, calls, bar, executor, what.device)
                    yield scores
        finally:
            pieces.forget()


def workers_on(device: str) -> int | None:
    """Return how many pieces may compute at a time: on a CPU as many as there are threads, on a GPU few."""
    return None if torch.device(device).type == "cpu" else GPU_WORKERS


Piece = Callable[..., Scores]
Calls = dict[tuple, int]  # arguments of a piece and how many pairs of layers it has


def _run(scores: Scores, piece: Piece, calls: Calls, bar: tqdm, executor: Executor | None, device: str) -> None:
    """Run the pieces of a round and add what they find, in order."""
    sizes = list(calls.values())
    done = partial(_advance, bar, sizes)
    for part in results(piece, list(calls), executor=executor, workers=workers_on(device), done=done):
        scores.add(part)


def _advance(bar: tqdm, sizes: list[int], i: int) -> None:
    bar.update(sizes[i])


def _round(task: Task, order: int) -> list[tuple[Piece, Calls]]:
    """Pieces to run one after another for the frames of y in one order."""
    if task.of_frames:
        rounds: list[tuple[Piece, list[tuple[int, ...]]]] = [(pieces.sampled_pair, task.pairs(diagonal=True))]
    else:
        rounds = [(pieces.pair_of_batches, task.pairs(diagonal=bool(order)))]
        if not order or task.by_utterance:
            rounds.insert(0, (pieces.own_moments, [(k,) for k in range(len(task.batches))]))
    return [
        (piece, {(task.folder, order, *some): math.prod(len(task.batches[k]) for k in some) for some in batches})
        for piece, batches in rounds
    ]


def _tasks(what: Comparison, orders: Sequence[np.ndarray], folder: Path) -> list[Task]:
    """Put layers in batches and leave in the scratch folder what pieces need to know: of moments, and of frames."""
    views, sampled = what.views, sample_frames(what.views[0], what.sample)
    used = frozenset().union(*what.between)
    runs = [
        list(run)
        for model, run in itertools.groupby(range(len(views)), key=lambda i: views[i].label[0])
        if model in used
    ]
    of_moments, of_frames = (
        tuple(name for name in what.measures if bool(MEASURES[name].prepare) is frames) for frames in (False, True)
    )
    by_utterance = any(MEASURES[name].utterances for name in of_moments)
    tasks = []
    if of_moments or what.partners:
        neurons = BATCH_NEURONS if workers_on(what.device) is None else GPU_BATCH_NEURONS
        sizes = [neurons // views[run[0]].shape[1] for run in runs]
        tasks.append(
            Task(
                folder / "moments", views, _batches(runs, sizes), of_moments, what.between, [None, *orders],
                utterances=utterances_of(views) if by_utterance else what.controls.blocks,
                partners=what.partners, controls=what.controls, device=what.device,
            )
        )  # fmt: skip
    if of_frames:
        rows = [sampled, *(order[sampled] for order in orders)]
        batches = _batches(runs, [BATCH_LAYERS] * len(runs))
        tasks.append(
            Task(
                folder / "frames",
                views,
                batches,
                of_frames,
                what.between,
                rows,
                controls=what.controls,
                device=what.device,
            )
        )
    for task in tasks:
        task.folder.mkdir()
        save(task, task.folder / "task.pickle")
    return tasks


def _batches(runs: list[list[int]], sizes: list[int]) -> list[list[int]]:
    """Cut runs of layers into batches of about equal size, none with more layers than given (one at least)."""
    cut = [np.array_split(np.array(run), -(-len(run) // max(1, size))) for run, size in zip(runs, sizes, strict=True)]
    return [batch.tolist() for batches in cut for batch in batches]
