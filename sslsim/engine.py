"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in blocks; the centred frames of a block stand side by side, and one matrix product a chunk of frames
gives the cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and
leaves them in a scratch folder; a second takes blocks two by two. A piece holds two blocks and a chunk of frames, so
memory grows neither with layers nor with frames.
"""

from __future__ import annotations

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
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslsim import moments
from sslsim.errors import SslsimError
from sslsim.measures import MEASURES
from sslsim.moments import Marginal, Means, Moments, Products, Utterances
from sslsim.neurons import best_partners
from sslsim.parallel import results
from sslsim.sampled import sample_frames
from sslsim.states import State, utterances_of
from sslsim.writer import remove_stale

BLOCK_NEURONS = 3072  # of one block: a product of two fills a processor, and takes 75 MB in float64
BLOCK_LAYERS = 8  # of one block of sampled measures, whose kernels are 32 MB each at 2,000 frames


@dataclass(frozen=True)
class Job:
    """One measure under one scaling."""

    name: str
    standardize: bool

    @property
    def options(self) -> dict[str, bool]:
        """What the measure is called with."""
        return {"standardize": self.standardize} if MEASURES[self.name].scaling else {}

    @property
    def norms(self) -> bool:
        """Whether it needs the squared norms of the frames."""
        return MEASURES[self.name].norms


@dataclass
class Found:
    """What has been found out about pairs of layers, by the numbers of the two.

    Attributes
    ----------
    values : dict
        (job, i, j) to the score of layer i in layer j.
    ranks : dict
        (job, i, j) to the components (k_i, k_j) that the score was made of.
    constant : dict
        (whether on sampled frames, layer) to its number of neurons that never vary.
    partners : dict
        (i, checkpoint) to the best partner of every neuron of layer i in that checkpoint: layer, neuron, correlation.
    """

    values: dict[tuple[Job, int, int], float] = field(default_factory=dict)
    ranks: dict[tuple[Job, int, int], tuple[int, int]] = field(default_factory=dict)
    constant: dict[tuple[bool, int], int] = field(default_factory=dict)
    partners: dict[tuple[int, str], tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    def add(self, other: Found) -> None:
        """Take in what another piece found."""
        self.values |= other.values
        self.ranks |= other.ranks
        self.constant |= other.constant
        for key, partners in other.partners.items():
            self._add_partners(key, *partners)

    def add_partners(self, i: int, other: State, pair: Moments) -> None:
        """Take in the best partners of layer i in another layer."""
        neuron, r = best_partners(pair)
        self._add_partners((i, other.label[0]), np.full(len(neuron), other.layer), neuron, r)

    def _add_partners(self, key: tuple[int, str], layer: np.ndarray, neuron: np.ndarray, r: np.ndarray) -> None:
        if key in self.partners:
            known = self.partners[key]
            better = np.abs(r) > np.abs(known[2])  # of equals the first stays: pieces come in a fixed order
            layer, neuron, r = (np.where(better, new, old) for new, old in zip((layer, neuron, r), known, strict=True))
        self.partners[key] = layer, neuron, r


@dataclass(frozen=True)
class Work:
    """What every piece needs to know; written once to the scratch folder, read by each worker."""

    folder: Path
    states: list[State]
    blocks: list[list[int]]  # numbers of states of one checkpoint
    jobs: list[Job]
    between: set[frozenset[str]]
    utterances: Utterances | None
    partners: bool
    device: str

    def save(self) -> None:
        """Write it to its folder."""
        _save(self, self.folder / "work.pickle")

    def own(self, k: int) -> Path:
        """File of the moments of the layers of a block."""
        return self.folder / f"own-{k}.pickle"

    def block(self, k: int) -> list[State]:
        """Layers of a block."""
        return [self.states[i] for i in self.blocks[k]]

    def wants(self, k: int, m: int) -> bool:
        """Whether the checkpoints of two blocks are to be compared."""
        return frozenset(self.states[self.blocks[b][0]].label[0] for b in (k, m)) in self.between

    def pairs(self, *, diagonal: bool) -> list[tuple[int, int]]:
        """Unordered pairs of blocks whose checkpoints are to be compared; with `diagonal` each with itself too."""
        n = len(self.blocks)
        return [(k, m) for k in range(n) for m in range(k if diagonal else k + 1, n) if self.wants(k, m)]


@dataclass(frozen=True)
class Own:
    """One layer's own moments, with what is computed from them, and its squared frame norms by scaling."""

    marginal: Marginal
    norms: dict[bool, Tensor]


def score_pairs(
    states: list[State],
    jobs: Sequence[Job],
    between: set[frozenset[str]],
    *,
    sample: int,
    partners: bool = False,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Found:
    """Score every pair of layers of the wanted checkpoints, both ways, each layer with itself included.

    Parameters
    ----------
    states : list of State
        The layers; pairs go by their numbers in this list.
    jobs : sequence of Job
        Measures to score.
    between : set of pairs of checkpoint names
        Which checkpoints to compare.
    sample : int
        At most so many frames for measures that compare every frame with every other.
    partners : bool
        Find each neuron's best partner in every other checkpoint too.
    executor : Executor, optional
        Where pieces run, see `parallel.results`; its workers must see the folder of the stores.
    device : str
        Where a piece computes.
    progress : bool
        Show a bar.
    """
    rows = sample_frames(states[0], sample)
    used = frozenset().union(*between)
    runs = [run for run in _runs(states) if states[run[0]].label[0] in used]
    options: dict[str, Any] = {"executor": executor, "progress": progress}
    found = Found()
    jobs_of = [[job for job in jobs if bool(MEASURES[job.name].prepare) is frames] for frames in (False, True)]
    if jobs_of[0] or partners:
        utterances = utterances_of(states) if any(MEASURES[job.name].utterances for job in jobs) else None
        blocks = [block for run in runs for block in _cut(run, max(1, BLOCK_NEURONS // states[run[0]].shape[1]))]
        with _scratch(states[0].store.root.parent) as folder:
            work = Work(folder, states, blocks, jobs_of[0], between, utterances, partners, device)
            work.save()
            _run(found, work, _own_block, [(k, k) for k in range(len(blocks))], "layers, each", **options)
            _run(found, work, _block_pair, work.pairs(diagonal=False), "layers, in pairs", **options)
    if jobs_of[1]:
        few = [replace(s, frames=rows if s.frames is None else s.frames[rows]) for s in states]
        blocks = [block for run in runs for block in _cut(run, BLOCK_LAYERS)]
        with _scratch(states[0].store.root.parent) as folder:
            work = Work(folder, few, blocks, jobs_of[1], between, None, False, device)
            work.save()
            _run(found, work, _sampled_pair, work.pairs(diagonal=True), "sampled frames", **options)
    return found


def _runs(states: list[State]) -> list[list[int]]:
    """Numbers of the states of each checkpoint."""
    groups = itertools.groupby(range(len(states)), key=lambda i: states[i].label[0])
    return [list(run) for _, run in groups]


def _cut(run: list[int], size: int) -> Iterator[list[int]]:
    return (run[i : i + size] for i in range(0, len(run), size))


def _run(
    found: Found,
    work: Work,
    piece: Callable[[Path, int, int], Found],
    pairs: list[tuple[int, int]],
    what: str,
    executor: Executor | None,
    progress: bool,
) -> None:
    """Run pieces and add what they find, in order."""
    sizes = [len(work.blocks[k]) * len(work.blocks[m]) for k, m in pairs]
    with tqdm(total=sum(sizes), desc=what, disable=not progress, file=sys.stdout, mininterval=1.0) as bar:
        calls = [(work.folder, k, m) for k, m in pairs]
        for part in results(piece, calls, executor=executor, done=lambda i: bar.update(sizes[i])):
            found.add(part)


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


@lru_cache(maxsize=2)
def _work(folder: Path) -> Work:
    return _load(folder / "work.pickle")


def _save(value: object, path: Path) -> None:
    with path.open("wb") as file:
        pickle.dump(value, file, protocol=5)


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _own_block(folder: Path, k: int, _: int) -> Found:
    """Make and leave in the scratch folder the moments of every layer of a block, and score pairs within the block."""
    work, states = _work(folder), _work(folder).block(k)
    means = [Means.of(s, work.utterances, work.device) for s in states]
    cross = _cross_products(states, states, means, means, work.utterances)
    owns = []
    for i, state in enumerate(states):
        with _named(state):
            owns.append(_own(work, state, means[i], cross[i][i]))
    _save(owns, work.own(k))
    found = _scores(work, k, k, owns, owns, cross) if work.wants(k, k) else Found()
    found.constant = {(False, i): own.marginal.n_constant for i, own in zip(work.blocks[k], owns, strict=True)}
    return found


def _own(work: Work, state: State, means: Means, products: Products) -> Own:
    """Return a layer's own moments with all that the measures need of it alone; an error if no neuron varies."""
    own = Own(moments.marginal(means, products, len(state), torch.finfo(torch.float32).eps), {})
    own.marginal.alive  # noqa: B018  raises where no neuron varies
    for job in work.jobs:
        measure = MEASURES[job.name]
        if measure.norms:
            own.norms[job.standardize] = moments.squared_norms(state, own.marginal, **job.options)
        if measure.own:
            measure.own(own.marginal, **job.options)
    return own


def _block_pair(folder: Path, k: int, m: int) -> Found:
    """Score every layer of one block with every layer of another."""
    work = _work(folder)
    left, right = (_load(work.own(block)) for block in (k, m))
    means_x, means_y = ([own.marginal.means for own in owns] for owns in (left, right))
    cross = _cross_products(work.block(k), work.block(m), means_x, means_y, work.utterances)
    return _scores(work, k, m, left, right, cross)


def _scores(work: Work, k: int, m: int, left: list[Own], right: list[Own], cross: list[list[Products]]) -> Found:
    found = Found()
    for a, i in enumerate(work.blocks[k]):
        for b, j in enumerate(work.blocks[m]):
            if j < i:
                continue
            pair = Moments.of(left[a].marginal, right[b].marginal, cross[a][b])
            norms = {job: [own.norms[job.standardize] for own in (left[a], right[b])] for job in work.jobs if job.norms}
            for job in work.jobs:
                found.values[job, i, j] = MEASURES[job.name].score(pair, *norms.get(job, ()), **job.options)
                if count := MEASURES[job.name].ranks:
                    ranks = count(pair, **job.options)
                    found.ranks[job, i, j], found.ranks[job, j, i] = ranks, ranks[::-1]
            swapped = pair.swapped  # with what the scores have computed
            for job in work.jobs if i != j else []:
                found.values[job, j, i] = (
                    found.values[job, i, j]
                    if MEASURES[job.name].symmetric
                    else MEASURES[job.name].score(swapped, *norms.get(job, ())[::-1], **job.options)
                )
            if work.partners and work.states[i].label[0] != work.states[j].label[0]:
                found.add_partners(i, work.states[j], pair)
                found.add_partners(j, work.states[i], swapped)
    return found


def _sampled_pair(folder: Path, k: int, m: int) -> Found:
    """Score pairs of layers of two blocks by measures of the sampled frames."""
    work, found = _work(folder), Found()
    if k == m:
        found.constant = {(True, i): int((np.ptp(work.states[i][:], axis=0) == 0).sum()) for i in work.blocks[k]}
    for job in work.jobs:
        measure = MEASURES[job.name]
        left = [_prepared(work, i, job) for i in work.blocks[k]]
        right = left if k == m else [_prepared(work, i, job) for i in work.blocks[m]]
        for a, i in enumerate(work.blocks[k]):
            for b, j in enumerate(work.blocks[m]):
                if i <= j:
                    found.values[job, i, j] = found.values[job, j, i] = measure.score(left[a], right[b])
    return found


def _prepared(work: Work, i: int, job: Job) -> Tensor:
    prepare = MEASURES[job.name].prepare
    assert prepare
    with _named(work.states[i]):
        return prepare(work.states[i], device=work.device, **job.options)


@contextmanager
def _named(state: State) -> Iterator[None]:
    """Put the name of the layer before what is wrong with it."""
    try:
        yield
    except SslsimError as error:
        raise SslsimError(f"{state.label[0]}, layer {state.label[1]}: {error}") from None


def _cross_products(
    a: list[State], b: list[State], means_a: list[Means], means_b: list[Means], utterances: Utterances | None
) -> list[list[Products]]:
    """Products of every state of `a` with every one of `b`, from one product a chunk of frames."""

    def side(states: list[State], means: list[Means]) -> tuple[Callable[[slice], np.ndarray], Means]:
        return lambda rows: np.concatenate([s[rows] for s in states], axis=1), Means.side_by_side(means)

    right = None if a is b else side(b, means_b)
    whole = moments.products(side(a, means_a), right, len(a[0]), torch.float32, utterances)
    rows, columns = ([s.shape[1] for s in block] for block in (a, b))

    def cut(total: Tensor) -> list[tuple[Tensor, ...]]:
        return [strip.split(columns, dim=1) for strip in total.split(rows)]

    totals, groups = cut(whole.total), [cut(group) for group in whole.groups]
    squares = None if whole.within is None else cut(whole.within)
    return [
        [
            Products(totals[i][j], squares[i][j] if squares else None, tuple(g[i][j] for g in groups), whole.sizes)
            for j in range(len(b))
        ]
        for i in range(len(a))
    ]
