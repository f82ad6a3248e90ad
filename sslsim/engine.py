"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in blocks; the centred frames of a block stand side by side, and one matrix product a chunk of frames
gives the cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and
leaves them in a scratch folder; a second takes blocks two by two. A piece holds two blocks and a chunk of frames, so
memory grows neither with layers nor with frames.
"""

from __future__ import annotations

import itertools
import pickle
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
from sslsim.moments import Marginal, Moments, Products, Utterances
from sslsim.neurons import best_partners
from sslsim.parallel import results
from sslsim.sampled import sample_frames
from sslsim.states import State, utterances_of

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
        Layer to its number of neurons that never vary.
    partners : dict
        (i, checkpoint) to the best partner of every neuron of layer i in that checkpoint: layer, neuron, correlation.
    """

    values: dict[tuple[Job, int, int], float] = field(default_factory=dict)
    ranks: dict[tuple[Job, int, int], tuple[int, int]] = field(default_factory=dict)
    constant: dict[int, int] = field(default_factory=dict)
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
    used = frozenset().union(*between)
    runs = [[i for i in run if states[i].label[0] in used] for run in _runs(states)]
    options: dict[str, Any] = {"executor": executor, "progress": progress}
    found = Found()
    jobs_of = [[job for job in jobs if bool(MEASURES[job.name].prepare) is frames] for frames in (False, True)]
    if jobs_of[0] or partners:
        utterances = utterances_of(states) if any(MEASURES[job.name].utterances for job in jobs) else None
        blocks = [block for run in runs for block in _cut(run, max(1, BLOCK_NEURONS // _width(states, run)))]
        with _scratch(states[0].store.root.parent) as folder:
            work = Work(folder, states, blocks, jobs_of[0], between, utterances, partners, device)
            work.save()
            _run(found, work, _own_block, [(k, k) for k in range(len(blocks))], "layers, each", **options)
            _run(found, work, _block_pair, work.pairs(diagonal=False), "layers, in pairs", **options)
    if jobs_of[1]:
        rows = sample_frames(states[0], sample)
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


def _width(states: list[State], run: list[int]) -> int:
    return states[run[0]].shape[1] if run else 1


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
    try:
        folder = Path(tempfile.mkdtemp(prefix=".pieces-", dir=beside))
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="sslsim-"))
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
    means = [moments.on(work.device, *moments.means(s, work.utterances)) for s in states]
    middle = [mean for mean, _ in means]
    cross = _cross_products(states, states, middle, middle, work.utterances)
    owns = [Own(_marginal(s, cross[i][i], *means[i]), {}) for i, s in enumerate(states)]
    for state, own in zip(states, owns, strict=True):
        for job in work.jobs:
            measure = MEASURES[job.name]
            if measure.norms:
                own.norms[job.standardize] = moments.squared_norms(state, own.marginal, **job.options)
            if measure.own:
                measure.own(own.marginal, **job.options)
    _save(owns, work.own(k))
    found = _scores(work, k, k, owns, owns, cross) if work.wants(k, k) else Found()
    found.constant = {i: own.marginal.n_constant for i, own in zip(work.blocks[k], owns, strict=True)}
    return found


def _block_pair(folder: Path, k: int, m: int) -> Found:
    """Score every layer of one block with every layer of another."""
    work = _work(folder)
    left, right = (_load(work.own(block)) for block in (k, m))
    mean_x, mean_y = ([own.marginal.mean for own in owns] for owns in (left, right))
    cross = _cross_products(work.block(k), work.block(m), mean_x, mean_y, work.utterances)
    return _scores(work, k, m, left, right, cross)


def _scores(work: Work, k: int, m: int, left: list[Own], right: list[Own], cross: list[list[Products]]) -> Found:
    found = Found()
    for a, i in enumerate(work.blocks[k]):
        for b, j in enumerate(work.blocks[m]):
            if j < i:
                continue
            pair = Moments.of(left[a].marginal, right[b].marginal, cross[a][b])
            swapped = pair.swapped
            for job in work.jobs:
                measure = MEASURES[job.name]
                norms = [own.norms[job.standardize] for own in (left[a], right[b])] if measure.norms else []
                found.values[job, i, j] = measure.score(pair, *norms, **job.options)
                if i != j:
                    same = measure.symmetric
                    found.values[job, j, i] = (
                        found.values[job, i, j] if same else measure.score(swapped, *norms[::-1], **job.options)
                    )
                if measure.ranks:
                    ranks = measure.ranks(pair, **job.options)
                    found.ranks[job, i, j], found.ranks[job, j, i] = ranks, ranks[::-1]
            if work.partners and work.states[i].label[0] != work.states[j].label[0]:
                found.add_partners(i, work.states[j], pair)
                found.add_partners(j, work.states[i], swapped)
            cross[a][b] = None  # type: ignore[call-overload]  # let go of it
    return found


def _sampled_pair(folder: Path, k: int, m: int) -> Found:
    """Score pairs of layers of two blocks by measures of the sampled frames."""
    work, found = _work(folder), Found()
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
    prepare, (name, layer) = MEASURES[job.name].prepare, work.states[i].label
    assert prepare
    try:
        return prepare(work.states[i], device=work.device, **job.options)
    except SslsimError as error:
        raise SslsimError(f"{name}, layer {layer}: {error}") from None


def _marginal(state: State, products: Products, middle: Tensor, groups: list[Tensor]) -> Marginal:
    own = moments.marginal(len(state), middle, groups, products, torch.finfo(torch.float32).eps)
    try:
        own.alive  # noqa: B018  raises where no neuron varies
    except SslsimError as error:
        raise SslsimError(f"{state.label[0]}, layer {state.label[1]}: {error}") from None
    return own


def _cross_products(
    a: list[State], b: list[State], means_a: list[Tensor], means_b: list[Tensor], utterances: Utterances | None
) -> list[list[Products]]:
    """Products of every state of `a` with every one of `b`, from one product a chunk of frames."""

    def reader(states: list[State], means: list[Tensor]) -> Callable[[slice], Tensor]:
        middle = torch.cat(means)
        return lambda rows: moments.centred(np.concatenate([s[rows] for s in states], axis=1), middle, torch.float32)

    right = None if a is b else reader(b, means_b)
    whole = moments.products(reader(a, means_a), right, len(a[0]), utterances)
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
