"""Layers of stores, and the moments of every pair of them.

Products of many layers are computed at once: layers are put in blocks, the centred frames of a block stand side by
side, and one matrix product gives the cross moments of all its pairs. Each layer's own moments are made once.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslsim import moments
from sslsim.errors import SslsimError, close_match
from sslsim.moments import Marginal, Moments, Products, Utterances
from sslsim.store import ActivationStore, check_pairable

BLOCK_LAYERS = 8  # layers whose kernels of sampled frames are held: 32 MB each at 2,000 frames
BLOCK_NEURONS = 1024  # neurons a block: 16 MB of float32 frames; larger ones save nothing, smaller read more often


@dataclass(frozen=True, eq=False)
class State:
    """One layer of one checkpoint, on the chosen frames."""

    store: ActivationStore
    layer: int
    frames: np.ndarray | None

    @property
    def label(self) -> tuple[str, int]:
        """Checkpoint name and layer number."""
        return self.store.checkpoint.name, self.layer

    def __len__(self) -> int:
        return self.store.n_frames if self.frames is None else len(self.frames)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Activations of a run of the chosen frames, (n, n_neurons)."""
        return self.store.layer(self.layer)[rows if self.frames is None else self.frames[rows]]

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and neurons."""
        return len(self), self.store.n_neurons


def check_names(measures: Sequence[str]) -> None:
    """Raise unless `measures` is a list of at least one name."""
    if isinstance(measures, str) or not measures:
        raise SslsimError(f"measures is {measures!r}; give a list of at least one name")


def check_stores(stores: Sequence[ActivationStore]) -> None:
    """Raise unless there is at least one store, names are distinct, and all hold the same frames."""
    if not stores:
        raise SslsimError("nothing to compare: no store given; extract at least one checkpoint")
    names = [s.checkpoint.name for s in stores]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SslsimError(f"two stores have the name {twice[0]!r}; give each checkpoint its own name in the lineup")
    for other in stores[1:]:
        check_pairable(stores[0], other)


def states_of(stores: Sequence[ActivationStore], frames: int | None) -> list[State]:
    """All layers of all stores, on all frames or on that many evenly spaced ones (None or 0: all)."""
    total, chosen = stores[0].n_frames, None
    if frames:
        if not 2 <= frames <= total:
            raise SslsimError(
                f"frames = {frames:,} cannot be sampled from {total:,} stored frames; give 2 to {total:,}, or 0 for all"
            )
        chosen = (np.arange(frames) * total + total // 2) // frames
    return [State(store, layer, chosen) for store in stores for layer in range(store.n_layers)]


def check_between(between: Iterable[Sequence[str]] | None, stores: Sequence[ActivationStore]) -> set[frozenset[str]]:
    """Return the unordered pairs of checkpoints to compare, each name checked; None stands for all pairs."""
    names = [s.checkpoint.name for s in stores]
    if between is None:
        return {frozenset(pair) for pair in itertools.product(names, names)}
    chosen = set()
    for pair in between:
        if isinstance(pair, str) or len(pair) != 2:
            raise SslsimError(f"between holds {pair!r}; each item must be two names of checkpoints")
        for name in pair:
            if name not in names:
                raise SslsimError(f"between names {name!r}, which is not among the stores{close_match(name, names)}")
        chosen.add(frozenset(pair))
    if not chosen:
        raise SslsimError("between is empty; give pairs of names of checkpoints, or None for all pairs")
    return chosen


Means = dict[State, tuple[Tensor, list[Tensor]]]


def utterances_of(states: list[State]) -> Utterances:
    """Return how many of the chosen frames are of each utterance of the corpus."""
    index = states[0].store.index
    frames = states[0].frames
    if frames is None:
        return Utterances(tuple(int(n) for n in index.n_frames))
    ends = np.searchsorted(frames, index.start + index.n_frames)
    return Utterances(tuple(int(n) for n in np.diff(ends, prepend=0)))


def pairs(
    states: list[State],
    between: set[frozenset[str]],
    device: str,
    progress: bool,
    what: str,
    utterances: Utterances | None = None,
) -> Iterator[tuple[State, State, Moments]]:
    """Moments of every unordered pair of states of the wanted checkpoints, a state with itself included.

    Blocks on the diagonal come first. A pair of checkpoints that is not in `between` costs no product. With
    `utterances` moments keep what is summed by utterance and by group.
    """
    used = frozenset().union(*between)
    states = [s for s in states if s.label[0] in used]
    means = {
        s: moments.on(device, *moments.means(s, utterances))
        for s in tqdm(states, f"{what}: means", disable=not progress, file=sys.stdout)
    }
    marginals: dict[State, Marginal] = {}
    blocks = _blocks(states)
    order = [(b, b) for b in blocks]
    order += [(a, b) for i, a in enumerate(blocks) for b in blocks[i + 1 :] if _models(a, b) in between]
    total = sum(_models([x], [y]) in between for i, x in enumerate(states) for y in states[i:])
    with tqdm(total=total, desc=f"{what}: pairs", disable=not progress, file=sys.stdout, mininterval=1.0) as bar:
        for a, b in order:
            cross = _cross_products(a, b, means, utterances)
            if a is b:
                marginals |= {s: _own(s, cross[i][i], *means[s]) for i, s in enumerate(a)}
                if _models(a, b) not in between:
                    continue
            for i, x in enumerate(a):
                for j, y in list(enumerate(b))[i if a is b else 0 :]:
                    yield x, y, Moments.of(marginals[x], marginals[y], cross[i][j])
                    bar.update()


def _models(a: list[State], b: list[State]) -> frozenset[str]:
    """Names of the checkpoints of two blocks, each of one checkpoint."""
    return frozenset({a[0].label[0], b[0].label[0]})


def sampled_pairs(
    states: list[State], between: set[frozenset[str]], prepare: Callable[[State], Tensor], progress: bool, what: str
) -> Iterator[tuple[State, State, Tensor, Tensor]]:
    """Every unordered pair of the wanted states with what `prepare` makes of each; two blocks of layers are held."""
    used = frozenset().union(*between)
    states = [s for s in states if s.label[0] in used]
    blocks = [states[i : i + BLOCK_LAYERS] for i in range(0, len(states), BLOCK_LAYERS)]
    bar = tqdm(
        total=len(states) * (len(states) + 1) // 2, desc=what, disable=not progress, file=sys.stdout, mininterval=1.0
    )
    with bar:
        for k, a in enumerate(blocks):
            ready = [_prepared(s, prepare) for s in a]
            for b in blocks[k:]:
                other = ready if a is b else [_prepared(s, prepare) for s in b]
                for i, x in enumerate(a):
                    for j, y in list(enumerate(b))[i if a is b else 0 :]:
                        bar.update()
                        if _models([x], [y]) in between:
                            yield x, y, ready[i], other[j]


def _prepared(state: State, prepare: Callable[[State], Tensor]) -> Tensor:
    try:
        return prepare(state)
    except SslsimError as error:
        raise SslsimError(f"{state.label[0]}, layer {state.label[1]}: {error}") from None


def _own(state: State, products: Products, middle: Tensor, groups: list[Tensor]) -> Marginal:
    own = moments.marginal(len(state), middle, groups, products, torch.finfo(torch.float32).eps)
    try:
        own.alive  # noqa: B018  raises where no neuron varies
    except SslsimError as error:
        raise SslsimError(f"{state.label[0]}, layer {state.label[1]}: {error}") from None
    return own


def _blocks(states: list[State]) -> list[list[State]]:
    """Cut the list into runs of layers of one checkpoint of at most `BLOCK_NEURONS` neurons, or of one wider layer."""
    blocks: list[list[State]] = []
    for _, run in itertools.groupby(states, key=lambda state: state.label[0]):
        layers = list(run)
        size = max(1, BLOCK_NEURONS // layers[0].shape[1])
        blocks += [layers[i : i + size] for i in range(0, len(layers), size)]
    return blocks


def _cross_products(
    a: list[State], b: list[State], means: Means, utterances: Utterances | None
) -> list[list[Products]]:
    """Products of every state of `a` with every one of `b`, from one product a chunk of frames."""

    def reader(states: list[State]) -> Callable[[slice], Tensor]:
        middle = torch.cat([means[s][0] for s in states])
        return lambda rows: moments.centred(np.concatenate([s[rows] for s in states], axis=1), middle, torch.float32)

    whole = moments.products(reader(a), None if a is b else reader(b), len(a[0]), utterances)
    rows, columns = ([s.shape[1] for s in block] for block in (a, b))

    def cut(total: Tensor) -> list[tuple[Tensor, ...]]:
        return [strip.split(columns, dim=1) for strip in total.split(rows)]

    totals, within, groups = cut(whole.total), whole.within, [cut(group) for group in whole.groups]
    squares = None if within is None else cut(within)
    return [
        [
            Products(totals[i][j], squares[i][j] if squares else None, tuple(g[i][j] for g in groups), whole.sizes)
            for j in range(len(b))
        ]
        for i in range(len(a))
    ]
