"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in blocks; the frames of a block stand side by side, and one matrix product a chunk of frames gives the
cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and leaves them in
a scratch folder; a second takes blocks two by two. A piece holds two blocks and a chunk of frames, so memory grows
neither with layers nor with frames.
"""

from __future__ import annotations

import itertools
import os
import pickle
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from sslsim.moments import Marginal, Moments
from sslsim.neurons import best_partners
from sslsim.parallel import results
from sslsim.products import Means, Products, Side, Utterances, cross_products
from sslsim.sampled import sample_frames
from sslsim.states import State, utterances_of
from sslsim.writer import remove_stale

BLOCK_NEURONS = 2048  # of one block: a product of two fills a processor, and takes 34 MB in float64
GPU_BLOCK_NEURONS = 8192  # the same for a GPU, which wants more at a time: 64 pairs of 1,024 neurons take about 3 GB
GPU_WORKERS = 2  # one reads while the other computes
BLOCK_LAYERS = 8  # of one block of sampled measures, whose kernels are 32 MB each at 2,000 frames
DTYPE = torch.float32  # of stored layers and their products


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
    of_moments, of_frames = ([j for j in jobs if bool(MEASURES[j.name].prepare) is frames] for frames in (False, True))
    if of_moments or partners:
        utterances = utterances_of(states) if any(MEASURES[job.name].utterances for job in jobs) else None
        neurons = BLOCK_NEURONS if torch.device(device).type == "cpu" else GPU_BLOCK_NEURONS
        blocks = _blocks(runs, lambda state: neurons // state.shape[1], states)
        with _work_in_scratch(states, blocks, of_moments, between, utterances, partners, device) as work:
            _run(found, work, _own_block, [(k, k) for k in range(len(blocks))], "layers, each", **options)
            _run(found, work, _block_pair, work.pairs(diagonal=False), "layers, in pairs", **options)
    if of_frames:
        few = [replace(s, frames=rows if s.frames is None else s.frames[rows]) for s in states]
        blocks = _blocks(runs, lambda _: BLOCK_LAYERS, states)
        with _work_in_scratch(few, blocks, of_frames, between, None, False, device) as work:
            _run(found, work, _sampled_pair, work.pairs(diagonal=True), "sampled frames", **options)
    return found


def _runs(states: list[State]) -> list[list[int]]:
    """Numbers of the states of each checkpoint."""
    groups = itertools.groupby(range(len(states)), key=lambda i: states[i].label[0])
    return [list(run) for _, run in groups]


def _blocks(runs: Iterable[list[int]], most: Callable[[State], int], states: list[State]) -> list[list[int]]:
    """Cut runs of layers into blocks of about equal size, none with more layers than `most` says (one at least)."""
    sizes = [max(1, most(states[run[0]])) for run in runs]
    cut = [np.array_split(np.array(run), -(-len(run) // size)) for run, size in zip(runs, sizes, strict=True)]
    return [block.tolist() for blocks in cut for block in blocks]


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
        workers = None if torch.device(work.device).type == "cpu" else GPU_WORKERS
        for part in results(piece, calls, executor=executor, workers=workers, done=lambda i: bar.update(sizes[i])):
            found.add(part)


@contextmanager
def _work_in_scratch(states: list[State], *rest: Any) -> Iterator[Work]:
    with _scratch(states[0].store.root.parent) as folder:
        work = Work(folder, states, *rest)
        _save(work, folder / "work.pickle")
        yield work


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
    try:
        with path.open("wb") as file:
            pickle.dump(value, file, protocol=5)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 1e9
        raise SslsimError(
            f"moments of layers cannot be kept in {str(path.parent)!r}, where {free:,.1f} GB are free: "
            f"{error.strerror}; make room there or compare fewer checkpoints at a time"
        ) from error


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _own_block(folder: Path, k: int, _: int) -> Found:
    """Make and leave in the scratch folder the moments of every layer of a block, and score pairs within the block."""
    work, states = _work(folder), _work(folder).block(k)
    means = []
    for state in states:
        with _named(state):
            means.append(Means.of(state, work.utterances, work.device))
    products = cross_products(Side(states, means, DTYPE), None, len(states[0]), work.utterances)
    owns = []
    for state, mean, row in zip(states, means, products, strict=True):
        with _named(state):
            owns.append(_own(work, state, mean, row[0]))
    _save(owns, work.own(k))
    found = _scores(work, k, k, owns, owns, products) if work.wants(k, k) else Found()
    found.constant = {(False, i): own.marginal.n_constant for i, own in zip(work.blocks[k], owns, strict=True)}
    return found


def _own(work: Work, state: State, means: Means, products: Products) -> Own:
    """Return a layer's own moments with all that the measures need of it alone; an error if no neuron varies."""
    own = Own(moments.marginal(means, products, len(state), torch.finfo(DTYPE).eps), {})
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
    side_x, side_y = (
        Side(work.block(block), [own.marginal.means for own in owns], DTYPE) for block, owns in ((k, left), (m, right))
    )
    products = cross_products(side_x, side_y, len(work.states[0]), work.utterances)
    return _scores(work, k, m, left, right, products)


def _scores(work: Work, k: int, m: int, left: list[Own], right: list[Own], products: list[list[Products]]) -> Found:
    """Score every pair of layers of two blocks; of a block with itself, every layer with those from itself on."""
    found = Found()
    pairs = {
        (a, b): Moments.of(left[a].marginal, right[b].marginal, product)
        for a, row in enumerate(products)
        for b, product in enumerate(row, a if k == m else 0)
    }
    if torch.device(work.device).type != "cpu" and any(MEASURES[job.name].canonical for job in work.jobs):
        moments.decompose(list(pairs.values()))
    while pairs:
        a, b = next(iter(pairs))
        pair, i, j = pairs.pop((a, b)), work.blocks[k][a], work.blocks[m][b]
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
