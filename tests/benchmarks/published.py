"""What is compared with: the measures as they are published, and activations as they are commonly taken.

Measures: each computed from the data matrices, a layer pair at a time.

Each function stands alone, as published ones do: linreg makes one SVD of each layer's data, the two CCA measures share
another, CKA is three products a pair (the formula of Kornblith et al. 2019, arXiv 1905.00414). Within that as fast as
can be: float32 on all threads, a layer's SVD kept for all its pairs, both directions from one matrix where there is
one, symmetric measures once a pair, as in the code of Wu et al. 2020 (arXiv 2005.01172). Sharing linreg's SVD with the
CCA measures too would take off as many decompositions as there are layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

Grid = Tensor  # (layers, layers), x in rows
VARIANCE = 0.99


def pairs(layers: list[Tensor], ordered: bool = False) -> Iterator[tuple[int, int]]:
    """Pairs of layers, each with itself too: once, or each way by itself as functions of two matrices are called."""
    numbers = range(len(layers))
    return product(numbers, numbers) if ordered else combinations_with_replacement(numbers, 2)


def z_scored(layers: list[Tensor]) -> list[Tensor]:
    return [(x - x.mean(0)) / (x - x.mean(0)).norm(dim=0) for x in layers]


def max_corr(z: list[Tensor], ordered: bool = False) -> Grid:
    grid = torch.zeros(len(z), len(z))
    for i, j in pairs(z, ordered):
        r = (z[i].T @ z[j]).abs()
        grid[i, j], grid[j, i] = r.amax(1).mean(), r.amax(0).mean()
    return grid


def linreg(z: list[Tensor]) -> Grid:
    """R of the neurons of x on the left singular vectors of y: one SVD a layer."""
    grid = torch.zeros(len(z), len(z))
    for j, y in enumerate(z):
        basis = torch.linalg.svd(y, full_matrices=False)[0]
        for i, x in enumerate(z):
            grid[i, j] = (basis.T @ x).square().sum(0).clamp(max=1).sqrt().mean()
    return grid


def decomposed(z: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """One SVD a layer, for svcca and pwcca."""
    return [torch.linalg.svd(x, full_matrices=False) for x in z]


def svcca(svd: list[tuple[Tensor, Tensor, Tensor]], ordered: bool = False) -> Grid:
    grid = torch.zeros(len(svd), len(svd))
    kept = [u[:, : int((s.square().cumsum(0) / s.square().sum() < VARIANCE).sum()) + 1] for u, s, _ in svd]
    for i, j in pairs(kept, ordered):
        grid[i, j] = grid[j, i] = torch.linalg.svdvals(kept[i].T @ kept[j]).mean()
    return grid


def pwcca(svd: list[tuple[Tensor, Tensor, Tensor]], ordered: bool = False) -> Grid:
    grid = torch.zeros(len(svd), len(svd))
    for i, j in pairs(svd, ordered):
        left, rho, right = torch.linalg.svd(svd[i][0].T @ svd[j][0], full_matrices=False)
        for (a, b), vectors, (_, s, v) in (((i, j), left, svd[i]), ((j, i), right.T, svd[j])):
            weights = ((vectors.T * s) @ v).abs().sum(1)
            grid[a, b] = weights @ rho / weights.sum()
    return grid


def linear_cka_biased(z: list[Tensor], ordered: bool = False) -> Grid:
    grid = torch.zeros(len(z), len(z))
    for i, j in pairs(z, ordered):
        x, y = z[i], z[j]
        grid[i, j] = grid[j, i] = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    return grid


def five(layers: list[Tensor], ordered: bool = False) -> dict[str, Grid]:
    """All five measures, as the engine's `compare` on z-scored neurons."""
    z = z_scored(layers)
    grids = {"max_corr": max_corr(z, ordered), "linreg": linreg(z)}
    svd = decomposed(z)
    grids |= {"svcca": svcca(svd, ordered), "pwcca": pwcca(svd, ordered)}
    return grids | {"linear_cka_biased": linear_cka_biased(z, ordered)}


def _pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean(-1)


def _frobenius(a: Tensor, b: Tensor) -> Tensor:
    return 1 - (a - b).flatten(2).norm(dim=2) / (2 * a.shape[2]) ** 0.5


def _js(a: Tensor, b: Tensor) -> Tensor:
    middle = ((a + b) / 2).log()
    divergence = (a * (a.log() - middle)).sum(-1) + (b * (b.log() - middle)).sum(-1)
    return 1 - divergence.mean(-1) / (2 * math.log(2))


_BROADCAST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"pearson": _pearson, "frobenius": _frobenius, "js": _js}


def heads(measure: str, a: Tensor, b: Tensor) -> Tensor:
    """Score every head of `a` (blocks, heads, T, T) with every one of `b`; (blocks_a * heads_a, blocks_b * heads_b).

    A layer pair at a time: ``(heads, 1, T, T)`` with ``(1, heads, T, T)``.
    """
    rows = [torch.cat([_BROADCAST[measure](x[:, None], y[None]) for y in b], 1) for x in a]
    return torch.cat(rows)


def activations(model: Any, preprocess: Any, sounds: Sequence[Path], out: Path, rows: int, workers: int) -> None:
    """Hidden states and so many evenly spread rows of every attention map, appended to one file a layer in `out`.

    One worker takes the sounds one after another, with all threads of torch; more are threads of Python with one thread
    of torch each, and then the utterances stand in the files in the order in which they were done.
    """
    out.mkdir()
    blocks, threads = model.config.num_hidden_layers, torch.get_num_threads()
    with ExitStack() as stack:
        names = [*(f"layer_{i:02d}" for i in range(blocks + 1)), *(f"attention_{i:02d}" for i in range(1, blocks + 1))]
        files = [stack.enter_context((out / name).open("ab", buffering=0)) for name in names]

        def one(path: Path) -> None:
            sound, rate = soundfile.read(path, dtype="float32")
            inputs = preprocess(sound, sampling_rate=rate, return_tensors="pt")
            with torch.inference_mode():
                made = model(**inputs, output_hidden_states=True, output_attentions=True)
                length = made.last_hidden_state.shape[1]
                kept = torch.arange(length) if length <= rows else (2 * torch.arange(rows) + 1) * length // (2 * rows)
                arrays = [state[0].numpy() for state in made.hidden_states]
                arrays += [weights[0].index_select(1, kept).numpy() for weights in made.attentions]
            for file, array in zip(files, arrays, strict=True):
                file.write(np.ascontiguousarray(array).data)

        if workers == 1:
            for path in sounds:
                one(path)
        else:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(one, sounds))
            torch.set_num_threads(threads)
