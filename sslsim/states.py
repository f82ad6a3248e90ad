"""Layers of stores, and the moments of every pair of them.

Products of many layers are computed at once: layers are put in blocks, the centred frames of a block stand side by
side, and one matrix product gives the cross moments of all its pairs. Each layer's own moments are made once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sslsim import moments
from sslsim.errors import SslsimError
from sslsim.moments import Marginal, Moments
from sslsim.store import ActivationStore, check_pairable

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


def pairs(states: list[State], device: str, progress: bool, what: str) -> Iterator[tuple[State, State, Moments]]:
    """Moments of every unordered pair of states, each state with itself included; blocks on the diagonal come first."""
    means = {
        s: moments.mean(s).to(device) for s in tqdm(states, f"{what}: means", disable=not progress, file=sys.stdout)
    }
    marginals: dict[State, Marginal] = {}
    blocks = _blocks(states)
    order = [(b, b) for b in blocks] + [(a, b) for i, a in enumerate(blocks) for b in blocks[i + 1 :]]
    total = len(states) * (len(states) + 1) // 2
    with tqdm(total=total, desc=f"{what}: pairs", disable=not progress, file=sys.stdout, mininterval=1.0) as bar:
        for a, b in order:
            cross = _cross_products(a, b, means, device)
            if a is b:
                marginals |= {s: _own(s, cross[i][i], means) for i, s in enumerate(a)}
            for i, x in enumerate(a):
                for j, y in list(enumerate(b))[i if a is b else 0 :]:
                    yield x, y, Moments(marginals[x], marginals[y], cross[i][j])
                    bar.update()


def _own(state: State, scatter: Tensor, means: dict[State, Tensor]) -> Marginal:
    # the two triangles of a product may differ in the last digit; a copy lets go of the block
    own = Marginal(len(state), means[state], (scatter + scatter.T) / 2, torch.finfo(torch.float32).eps)
    try:
        own.alive  # noqa: B018  raises where no neuron varies
    except SslsimError as error:
        raise SslsimError(f"{state.label[0]}, layer {state.label[1]}: {error}") from None
    return own


def _blocks(states: list[State]) -> list[list[State]]:
    """Cut the list of states into runs of at most `BLOCK_NEURONS` neurons (a wider layer is a block alone)."""
    blocks: list[list[State]] = []
    room = 0
    for state in states:
        if not blocks or state.shape[1] > room:
            blocks.append([])
            room = BLOCK_NEURONS
        blocks[-1].append(state)
        room -= state.shape[1]
    return blocks


def _cross_products(a: list[State], b: list[State], means: dict[State, Tensor], device: str) -> list[list[Tensor]]:
    """Centred cross products of every state of `a` with every one of `b`, from one product a chunk of frames."""
    mean_a, mean_b = (torch.cat([means[s] for s in block]) for block in (a, b))
    total = -moments.correction(len(a[0]), mean_a, mean_b, torch.float32)
    for rows in moments.chunks(len(a[0])):
        left = moments.centred(np.concatenate([s[rows] for s in a], axis=1), mean_a, torch.float32)
        right = left if a is b else moments.centred(np.concatenate([s[rows] for s in b], axis=1), mean_b, torch.float32)
        total += left.T @ right
    widths_a, widths_b = ([s.shape[1] for s in block] for block in (a, b))
    return [list(strip.split(widths_b, dim=1)) for strip in total.split(widths_a)]
