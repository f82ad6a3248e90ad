"""Scores of every pair of layers, in independent pieces that any executor can run.

Layers are put in blocks; the frames of a block stand side by side, and one matrix product a chunk of frames gives the
cross moments of all its pairs. A first round makes each layer's own moments and decomposition, once, and leaves them in
a scratch folder; a second takes blocks two by two. A piece holds two blocks and a chunk of frames, so memory grows
neither with layers nor with frames. Mismatched frames are a second round again: another order of the same frames leaves
a layer's own moments as they are.
"""

from __future__ import annotations

import copyreg
import itertools
import math
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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslsim.activations.selection import State, utterances_of
from sslsim.activations.shards import remove_stale
from sslsim.errors import SslsimError
from sslsim.measures import moments
from sslsim.measures.moments import Marginal, Moments
from sslsim.measures.neighbours import sample_frames
from sslsim.measures.neurons import best_partners
from sslsim.measures.products import Means, Products, Side, Utterances, cross_products
from sslsim.measures.random_basis import rotated_correlation, shared, shared_without
from sslsim.measures.registry import MEASURES
from sslsim.parallel import results

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
    left_out : dict
        (job, i, j) to the scores without each group of utterances.
    rotated : dict
        (job, side, i, j) to the scores with the neurons of that side, 'x' for i and 'y' for j, in random bases.
    rotated_out : dict
        The same without each group of utterances, in the first few bases: a list a group.
    shared : dict
        (i, j) to the share of the neurons of layer i matched in layer j beyond random bases (`rotations.shared`), and
        that of each basis.
    shared_out : dict
        The same share without each group of utterances.
    rotated_partners : dict
        (i, checkpoint) to the best absolute correlation of every neuron of layer i with one of that checkpoint in a
        random basis of its layer, (bases, n_neurons).
    """

    values: dict[tuple[Job, int, int], float] = field(default_factory=dict)
    left_out: dict[tuple[Job, int, int], list[float]] = field(default_factory=dict)
    rotated: dict[tuple[Job, str, int, int], list[float]] = field(default_factory=dict)
    rotated_out: dict[tuple[Job, str, int, int], list[list[float]]] = field(default_factory=dict)
    shared: dict[tuple[int, int], tuple[float, np.ndarray]] = field(default_factory=dict)
    shared_out: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    rotated_partners: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)
    ranks: dict[tuple[Job, int, int], tuple[int, int]] = field(default_factory=dict)
    constant: dict[tuple[bool, int], int] = field(default_factory=dict)
    partners: dict[tuple[int, str], tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    def add(self, other: Found) -> None:
        """Take in what another piece found."""
        self.values |= other.values
        self.left_out |= other.left_out
        self.rotated |= other.rotated
        self.rotated_out |= other.rotated_out
        self.shared |= other.shared
        self.shared_out |= other.shared_out
        self.ranks |= other.ranks
        self.constant |= other.constant
        for key, partners in other.partners.items():
            self._add_partners(key, *partners)
        for key, rotated in other.rotated_partners.items():
            self.add_rotated_partners(*key, rotated)

    def add_partners(self, i: int, other: State, pair: Moments) -> None:
        """Take in the best partners of layer i in another layer."""
        neuron, r = best_partners(pair)
        self._add_partners((i, other.label[0]), np.full(len(neuron), other.layer), neuron, r)

    def add_rotated_partners(self, i: int, model: str, best: np.ndarray) -> None:
        """Take in the best correlations of layer i with one more layer of another checkpoint, by basis."""
        known = self.rotated_partners.get((i, model))
        self.rotated_partners[i, model] = best if known is None else np.fmax(known, best)

    def _add_partners(self, key: tuple[int, str], layer: np.ndarray, neuron: np.ndarray, r: np.ndarray) -> None:
        if key in self.partners:
            known = self.partners[key]
            better = np.abs(r) > np.abs(known[2])  # of equals the first stays: pieces come in a fixed order
            layer, neuron, r = (np.where(better, new, old) for new, old in zip((layer, neuron, r), known, strict=True))
        self.partners[key] = layer, neuron, r


@dataclass(frozen=True)
class Control:
    """What else to compute of every pair, as controls of its scores (see `sslsim.significance.run`).

    Attributes
    ----------
    groups : Utterances, optional
        Score without each of its groups too, for measures of moments.
    rotations : int
        Random bases of each side to score measures of single neurons in.
    rotate : tuple of str, optional
        Which of these measures; all by default.
    rotations_out : int
        The number of bases without each group.
    rotations_chance : int
        The number of bases with the frames of y in another order.
    single : bool
        Compute in float32 what of narrow layers is otherwise float64 (`Marginal.dtype`).
    seed : int
        Of the bases.
    """

    groups: Utterances | None = None
    rotations: int = 0
    rotate: tuple[str, ...] | None = None
    rotations_out: int = 0
    rotations_chance: int = 0
    single: bool = False
    seed: int = 0


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
    control: Control
    rows: list[np.ndarray | None]  # of the frames of the states: first those of x, then those of y in every other order

    def own(self, k: int, draw: int = 0) -> Path:
        """File of the moments of the layers of a block, of x or of y in another order."""
        return self.folder / f"own-{'y' if draw else 'x'}-{k}.pickle"

    def block(self, k: int, draw: int = 0) -> list[State]:
        """Layers of a block on the frames of x, or on those of y in another order."""
        states = _on_rows(self.folder, draw)
        return [states[i] for i in self.blocks[k]]

    @property
    def of_frames(self) -> bool:
        """Whether the measures need the frames themselves."""
        return any(MEASURES[job.name].prepare for job in self.jobs)

    @property
    def anew(self) -> bool:
        """Whether another order of the frames changes a layer's own moments: those of utterances and groups."""
        return self.utterances is not None

    def wants(self, k: int, m: int) -> bool:
        """Whether the checkpoints of two blocks are to be compared."""
        return frozenset(self.states[self.blocks[b][0]].label[0] for b in (k, m)) in self.between

    def pairs(self, *, diagonal: bool) -> list[tuple[int, ...]]:
        """Unordered pairs of blocks whose checkpoints are to be compared; with `diagonal` each with itself too."""
        n = len(self.blocks)
        return [(k, m) for k in range(n) for m in range(k if diagonal else k + 1, n) if self.wants(k, m)]


@dataclass(frozen=True)
class Own:
    """One layer's own moments, with what is computed from them.

    `norms` by scaling are the squared norms of the frames: a row for all of them and a row without each group.
    """

    marginal: Marginal
    norms: dict[bool, Tensor]

    def in_order(self, rows: np.ndarray) -> Own:
        """Return the moments of the same frames in another order."""
        return replace(self, norms={scaled: norms[:, rows] for scaled, norms in self.norms.items()})


def score_pairs(states: list[State], jobs: Sequence[Job], between: set[frozenset[str]], **options: Any) -> Found:
    """Score every pair of layers of the wanted checkpoints, both ways, each layer with itself included.

    Parameters are those of `score_orders`.
    """
    (found,) = score_orders(states, jobs, between, **options)
    return found


def score_orders(
    states: list[State],
    jobs: Sequence[Job],
    between: set[frozenset[str]],
    orders: Sequence[np.ndarray] = (),
    *,
    sample: int,
    partners: bool = False,
    control: Control | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> Iterator[Found]:
    """Yield the scores of every pair of layers, and then the same with the frames of y in each of some other orders.

    Parameters
    ----------
    states : list of State
        The layers; pairs go by their numbers in this list.
    jobs : sequence of Job
        Measures to score.
    between : set of pairs of checkpoint names
        Which checkpoints to compare.
    orders : sequence of ndarray of shape (n_frames,)
        Each has every frame once. Layer i stands on the x side and layer j, i up to j, on the y side, a layer with
        itself too.
    sample : int
        At most so many frames for measures that compare every frame with every other.
    partners : bool
        Find each neuron's best partner in every other checkpoint too.
    control : Control, optional
        Groups to leave out, random bases.
    executor : Executor, optional
        Where pieces run, see `parallel.results`; its workers must see the folder of the stores.
    device : str
        Where a piece computes.
    progress : bool
        Show a bar.
    """
    control = control or Control()
    rows = sample_frames(states[0], sample)
    used = frozenset().union(*between)
    runs = [run for run in _runs(states) if states[run[0]].label[0] in used]
    options: dict[str, Any] = {"executor": executor, "progress": progress}
    of_moments, of_frames = ([j for j in jobs if bool(MEASURES[j.name].prepare) is frames] for frames in (False, True))
    with _scratch(states[0].store.root.parent) as folder:
        works: list[Work] = []
        if of_moments or partners:
            utterances = utterances_of(states) if any(MEASURES[job.name].utterances for job in jobs) else control.groups
            neurons = BLOCK_NEURONS if torch.device(device).type == "cpu" else GPU_BLOCK_NEURONS
            blocks = _blocks(runs, lambda state: neurons // state.shape[1], states)
            of = (states, blocks, of_moments, between, utterances, partners, device, control)
            works.append(Work(folder / "moments", *of, rows=[None, *orders]))
        if of_frames:
            blocks = _blocks(runs, lambda _: BLOCK_LAYERS, states)
            of = (states, blocks, of_frames, between, None, False, device, control)
            works.append(Work(folder / "frames", *of, rows=[rows, *(order[rows] for order in orders)]))
        for work in works:
            work.folder.mkdir()
            _save(work, work.folder / "work.pickle")
        for draw in range(1 + len(orders)):
            found = Found()
            for work in works:
                _run(found, work, draw, **options)
            yield found


def _runs(states: list[State]) -> list[list[int]]:
    """Numbers of the states of each checkpoint."""
    groups = itertools.groupby(range(len(states)), key=lambda i: states[i].label[0])
    return [list(run) for _, run in groups]


def _blocks(runs: Iterable[list[int]], most: Callable[[State], int], states: list[State]) -> list[list[int]]:
    """Cut runs of layers into blocks of about equal size, none with more layers than `most` says (one at least)."""
    sizes = [max(1, most(states[run[0]])) for run in runs]
    cut = [np.array_split(np.array(run), -(-len(run) // size)) for run, size in zip(runs, sizes, strict=True)]
    return [block.tolist() for blocks in cut for block in blocks]


def _run(found: Found, work: Work, draw: int, executor: Executor | None, progress: bool) -> None:
    """Run the pieces of one order of the frames of y and add what they find, in order."""
    rounds: list[tuple[str, Callable[..., Found], list[tuple[int, ...]]]] = []
    if work.of_frames:
        rounds.append(("sampled frames", _sampled_pair, work.pairs(diagonal=True)))
    else:
        if not draw or work.anew:
            rounds.append(("layers, each", _own_block, [(k,) for k in range(len(work.blocks))]))
        rounds.append(("layers, in pairs", _block_pair, work.pairs(diagonal=bool(draw))))
    workers = None if torch.device(work.device).type == "cpu" else GPU_WORKERS
    for what, piece, blocks in rounds:
        sizes = [math.prod(len(work.blocks[k]) for k in some) for some in blocks]
        with tqdm(total=sum(sizes), desc=what, disable=not progress, file=sys.stdout, mininterval=1.0) as bar:
            calls = [(work.folder, draw, *some) for some in blocks]
            done = partial(_advance, bar, sizes)
            for part in results(piece, calls, executor=executor, workers=workers, done=done):
                found.add(part)


def _advance(bar: tqdm, sizes: list[int], i: int) -> None:
    bar.update(sizes[i])


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
        _work.cache_clear()
        _on_rows.cache_clear()  # with what small layers have read


@lru_cache(maxsize=2)
def _work(folder: Path) -> Work:
    return _load(folder / "work.pickle")


@lru_cache(maxsize=2)
def _on_rows(folder: Path, draw: int) -> list[State]:
    """Layers on the frames of x or of y in one order; the same for all pieces, as small layers keep what was read."""
    work = _work(folder)
    rows = work.rows[draw]
    if rows is None:
        return work.states
    frames = work.states[0].only(rows).frames  # one array for all of them
    return [replace(state, frames=frames) for state in work.states]


def _save(value: object, path: Path) -> None:
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


def _as_array(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[np.ndarray, torch.device]]:
    """Return how to make a tensor again: torch's own way opens an archive for each, which takes longer than reading."""
    return _as_tensor, (tensor.numpy(force=True), tensor.device)


def _as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


def _own_block(folder: Path, draw: int, k: int) -> Found:
    """Make and leave in the scratch folder the moments of every layer of a block, and score pairs within the block."""
    work = _work(folder)
    states, means = work.block(k, draw), []
    for state in states:
        with _named(state):
            means.append(Means.of(state, work.utterances, work.device))
    products = cross_products(Side(states, means, DTYPE), None, len(states[0]), work.utterances)
    owns = []
    for state, mean, row in zip(states, means, products, strict=True):
        with _named(state):
            owns.append(_own(work, state, mean, row[0]))
    _save(owns, work.own(k, draw))
    found = _scores(work, draw, k, k, owns, owns, products) if not draw and work.wants(k, k) else Found()
    found.constant = {(False, i): own.marginal.n_constant for i, own in zip(work.blocks[k], owns, strict=True)}
    return found


def _own(work: Work, state: State, means: Means, products: Products) -> Own:
    """Return a layer's own moments with all that the measures need of it alone; an error if no neuron varies."""
    marginal = moments.marginal(means, products, len(state), torch.finfo(DTYPE).eps)
    groups = work.control.groups
    own = Own(replace(marginal, wide=0) if work.control.single else marginal, {})
    every = [own.marginal, *(own.marginal.without(g) for g in range(len(groups.members) if groups else 0))]
    for marginal in every:
        marginal.alive  # noqa: B018  raises where no neuron varies
    for job in work.jobs:
        measure = MEASURES[job.name]
        if measure.norms and job.standardize not in own.norms:
            own.norms[job.standardize] = moments.squared_norms(state, *every, **job.options)
        if measure.own:
            for marginal in every:
                measure.own(marginal, **job.options)
    return own


def _block_pair(folder: Path, draw: int, k: int, m: int) -> Found:
    """Score every layer of one block with every layer of another."""
    work = _work(folder)
    left = _load(work.own(k))  # and not the same object as the right: a layer with itself is whitened by nothing
    right = _load(work.own(m, draw if work.anew else 0))
    if draw and not work.anew:
        right = [own.in_order(work.rows[draw]) for own in right]
    side_x, side_y = (
        Side(states, [own.marginal.means for own in owns], DTYPE)
        for states, owns in ((work.block(k), left), (work.block(m, draw), right))
    )
    products = cross_products(side_x, side_y, len(work.states[0]), work.utterances)
    return _scores(work, draw, k, m, left, right, [row[a:] if k == m else row for a, row in enumerate(products)])


def _scores(
    work: Work, draw: int, k: int, m: int, left: list[Own], right: list[Own], products: list[list[Products]]
) -> Found:
    """Score every pair of layers of two blocks; of a block with itself, every layer with those from itself on."""
    found = Found()
    pairs = {
        (a, b): Moments.of(left[a].marginal, right[b].marginal, product)
        for a, row in enumerate(products)
        for b, product in enumerate(row, a if k == m else 0)
    }
    if torch.device(work.device).type != "cpu" and any(MEASURES[job.name].canonical for job in work.jobs):
        moments.decompose(list(pairs.values()))
    groups = work.control.groups
    bases = work.control.rotations_chance if draw else work.control.rotations
    kept = [torch.from_numpy(mask) for mask in groups.without] if groups else []
    while pairs:
        a, b = next(iter(pairs))
        pair, i, j = pairs.pop((a, b)), work.blocks[k][a], work.blocks[m][b]
        norms = {scaled: (left[a].norms[scaled], right[b].norms[scaled]) for scaled in left[a].norms}
        found.values |= _both_ways(work, pair, i, j, {s: (x[0], y[0]) for s, (x, y) in norms.items()})
        found.rotated |= (turned := _rotated(work, pair, i, j, bases)).scores
        found.shared |= {key: shared(*best) for key, best in turned.best.items()}
        for job in work.jobs:
            if count := MEASURES[job.name].ranks:
                ranks = count(pair, **job.options)
                found.ranks[job, i, j], found.ranks[job, j, i] = ranks, ranks[::-1]
        if work.partners and work.states[i].label[0] != work.states[j].label[0]:
            found.add_partners(i, work.states[j], pair)
            found.add_partners(j, work.states[i], pair.swapped)
            for (x, y), (_, rotated) in turned.best.items():
                found.add_rotated_partners(x, work.states[y].label[0], rotated)
        for g, rows in enumerate(kept):
            fewer = pair.without(g)
            norms_out = {s: (x[g + 1, rows], y[g + 1, rows]) for s, (x, y) in norms.items()}
            scores = _both_ways(work, fewer, i, j, norms_out)
            for key, value in scores.items():
                found.left_out.setdefault(key, []).append(value)
            turned_out = _rotated(work, fewer, i, j, work.control.rotations_out)
            for turning, values in turned_out.scores.items():
                found.rotated_out.setdefault(turning, []).append(values)
            for two, best in turned_out.best.items():
                found.shared_out.setdefault(two, []).append(shared_without(*best, turned.best[two][1]))
    return found


def _both_ways(
    work: Work, pair: Moments, i: int, j: int, norms: dict[bool, tuple[Tensor, Tensor]]
) -> dict[tuple[Job, int, int], float]:
    """Score layer i in layer j and layer j in layer i."""
    values, swapped = {}, None
    for job in work.jobs:
        measure = MEASURES[job.name]
        of_frames = norms[job.standardize] if measure.norms else ()
        values[job, i, j] = measure.score(pair, *of_frames, **job.options)
        if measure.symmetric:
            values[job, j, i] = values[job, i, j]
        elif i != j:
            swapped = swapped or pair.swapped  # with what the scores have computed
            values[job, j, i] = measure.score(swapped, *of_frames[::-1], **job.options)
    return values


@dataclass(frozen=True)
class Turned:
    """Scores of a pair both ways with the neurons of each side in random bases.

    Attributes
    ----------
    scores : dict
        (job, side, i, j) to the score in each basis.
    best : dict
        (i, j) to the best absolute correlation of every neuron of layer i with layer j, (n_neurons,), and with layer j
        in each random basis, (bases, n_neurons); NaN for neurons that do not vary.
    """

    scores: dict[tuple[Job, str, int, int], list[float]] = field(default_factory=dict)
    best: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def _rotated(work: Work, pair: Moments, i: int, j: int, draws: int) -> Turned:
    """Score both ways in random bases."""
    out = Turned()
    wanted = [job for job in work.jobs if work.control.rotate is None or job.name in work.control.rotate]
    jobs = [(job, matching) for job in wanted if (matching := MEASURES[job.name].matching)]
    for side, other in (("y", "x"), ("x", "y")) if draws and jobs else ():
        along, own = (1, pair.x) if side == "y" else (0, pair.y)  # the neurons that stay as they are
        best = []
        for draw in range(draws):
            r = rotated_correlation(pair, side, draw, work.control.seed)
            best.append(_spread(r.amax(along), own))
            for job, matching in jobs:
                there = matching(r)
                out.scores.setdefault((job, side, i, j), []).append(there)
                if i != j:
                    back = there if MEASURES[job.name].symmetric else matching(r.T)
                    out.scores.setdefault((job, other, j, i), []).append(back)
        as_it_is = _spread(pair.correlation.abs().amax(along), own)
        out.best.setdefault((i, j) if side == "y" else (j, i), (as_it_is, np.stack(best)))
    return out


def _spread(values: Tensor, own: Marginal) -> np.ndarray:
    """Put values of the varying neurons at their places among all, NaN elsewhere."""
    every = np.full(len(own.alive), np.nan)
    every[own.alive.cpu().numpy()] = values.cpu().numpy()
    return every


def _sampled_pair(folder: Path, draw: int, k: int, m: int) -> Found:
    """Score pairs of layers of two blocks by measures of the sampled frames."""
    work, found = _work(folder), Found()
    if k == m and not draw:
        found.constant = {
            (True, i): int((np.ptp(state[:], axis=0) == 0).sum())
            for i, state in zip(work.blocks[k], work.block(k), strict=True)
        }
    for job in work.jobs:
        measure = MEASURES[job.name]
        left = [_prepared(work, state, job) for state in work.block(k)]
        right = left if k == m and not draw else [_prepared(work, state, job) for state in work.block(m, draw)]
        for a, i in enumerate(work.blocks[k]):
            for b, j in enumerate(work.blocks[m]):
                if i <= j:
                    found.values[job, i, j] = found.values[job, j, i] = measure.score(left[a], right[b])
    return found


def _prepared(work: Work, state: State, job: Job) -> Tensor:
    prepare = MEASURES[job.name].prepare
    assert prepare
    with _named(state):
        return prepare(state, device=work.device, **job.options)


@contextmanager
def _named(state: State) -> Iterator[None]:
    """Put the name of the layer before what is wrong with it."""
    try:
        yield
    except SslsimError as error:
        raise SslsimError(f"{state.label[0]}, layer {state.label[1]}: {error}") from None
