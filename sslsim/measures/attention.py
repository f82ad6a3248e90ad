"""Attention measures: do two heads look at the same places?

A head's map on one utterance is (rows, T): each row is one query frame's distribution over T key frames. Heads are
compared row by row on the same query frames, every head of one layer with every head of the other; a layer's score is
the mean over its heads of the best match there. Pearson and Frobenius are one matrix product a block of rows, and of
the Jensen-Shannon divergence ``H((a + b) / 2) - (H(a) + H(b)) / 2`` only the mixture's entropy is per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError, close_match
from sslsim.measures.arrays import block, chunks, multiply
from sslsim.parallel import results

Maps = np.ndarray | Tensor
LOG_2 = float(np.log(2.0))
ROW_CELLS = 2**20  # of one block of query rows of all heads: 4 MB in float32
BLOCK_CELLS, BLOCK_HEADS = 4096, 32  # a block of mixtures is 0.5 MB in float32


@dataclass(frozen=True)
class Sums:
    """Running sums over utterances of head-to-head scores: `total` / `weight` is the mean; both (heads_a, heads_b)."""

    total: Tensor
    weight: Tensor

    def __add__(self, other: Sums) -> Sums:
        """Merge with the sums of other utterances."""
        return Sums(self.total + other.total, self.weight + other.weight)

    def __sub__(self, other: Sums) -> Sums:
        """Leave out some of the utterances."""
        return Sums(self.total - other.total, self.weight - other.weight)

    @property
    def mean(self) -> Tensor:
        """Mean score of every pair of heads; NaN where no row could be scored."""
        return self.total / self.weight


def _correlations(a: Tensor, b: Tensor, half: bool) -> Sums:
    """Sum over query rows of the correlation of the two heads' rows; rows without variance are left out of the mean."""
    unit_a = _unit_rows(a)
    unit_b = unit_a if b is a else _unit_rows(b)
    weight = (unit_a != 0).any(2).to(a) @ (unit_b != 0).any(2).to(b).T
    return Sums(multiply(unit_a.flatten(1), unit_b.flatten(1).T).double(), weight.double())


def _unit_rows(a: Tensor) -> Tensor:
    """Rows centred and scaled to length 1, or 0 where a row is uniform."""
    centred = a - 1 / a.shape[2]
    norm = torch.linalg.vecdot(centred, centred).sqrt_()
    # softmax rounds a uniform row to within a few float units of 1 / T
    varies = norm > 8 * torch.finfo(a.dtype).eps * a.shape[2] ** -0.5
    return centred.mul_(torch.where(varies, 1 / norm, 0.0)[:, :, None])


def _js(a: Tensor, b: Tensor, half: bool) -> Sums:
    """Sum over query rows of one minus the Jensen-Shannon divergence over ln 2, in [0, 1]."""
    rows = a.shape[1]
    alone_a, alone_b = (torch.special.xlogy(side, side).sum((1, 2), dtype=torch.float64) for side in (a, b))
    mass_a, mass_b = (side.sum((1, 2), dtype=torch.float64) for side in (a, b))
    alone, mass = (alone_a[:, None] + alone_b[None]) / 2, (mass_a[:, None] + mass_b[None]) / 2
    mixed = _sum_entropy(a.flatten(1), b.flatten(1), symmetric=a is b or half) / 2 - LOG_2 * mass
    total = rows - (alone - mixed) / LOG_2
    return Sums(total, torch.full_like(total, rows))


def _sum_entropy(a: Tensor, b: Tensor, symmetric: bool) -> Tensor:
    """``sum_k s_k log s_k`` of s = a_i + b_j for every pair of heads, in blocks that stay in cache with their logs.

    On a CPU the logarithm is numpy's, whose vector code is three times as fast as torch's.
    """
    out = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    a = a + torch.finfo(a.dtype).tiny  # 0 log 0 = 0 without a mask
    for cells in chunks(a.shape[1], BLOCK_CELLS):
        part_a, part_b = a[:, cells], b[:, cells].contiguous()
        for i in range(len(a)):
            for j in range(i if symmetric else 0, len(b), BLOCK_HEADS):
                total = part_b[j : j + BLOCK_HEADS] + part_a[i]
                log = torch.from_numpy(np.log(total.numpy())) if total.device.type == "cpu" else total.log()
                out[i, j : j + BLOCK_HEADS] += torch.linalg.vecdot(total, log)
    return out.triu() + out.triu(1).T if symmetric else out


def _squared_distances(a: Tensor, b: Tensor, half: bool) -> Sums:
    """Squared Frobenius distance over the rows given of every pair of heads; float64, for heads nearly alike."""
    flat_a = a.flatten(1).double()
    flat_b = flat_a if b is a else b.flatten(1).double()
    norms = torch.linalg.vecdot(flat_a, flat_a)[:, None] + torch.linalg.vecdot(flat_b, flat_b)[None]
    total = norms - 2 * flat_a @ flat_b.T
    return Sums(total, torch.full_like(total, a.shape[1]))


def _nearness(squares: Tensor) -> Sums:
    """One minus the distance."""
    return Sums(1 - squares.sqrt(), torch.ones_like(squares))


def _bounded(sums: Sums, keys: int) -> Sums:
    """One minus the Frobenius distance over its largest possible value sqrt(2 rows), in [0, 1]."""
    return _nearness(sums.total.clamp(min=0.0).div(2 * sums.weight))


def _published(sums: Sums, keys: int) -> Sums:
    """One minus the Frobenius distance of the whole T x T maps, estimated from the rows given; unbounded below."""
    return _nearness(sums.total.clamp(min=0.0).mul(keys / sums.weight))


def _covariances(a: Tensor, b: Tensor, half: bool) -> Sums:
    """Covariance of the heads over all (query, key) cells, each row centred at 1 / T, for `attention_cka`."""
    centred_a = a.flatten(1) - 1 / a.shape[2]
    centred_b = centred_a if b is a else b.flatten(1) - 1 / b.shape[2]
    total = multiply(centred_a, centred_b.T).double()
    return Sums(total, torch.full_like(total, a.shape[1] * a.shape[2]))


# of maps (heads, rows, T) of two layers, the sums over rows for every pair of heads, with `half` of pairs j >= i only
HEAD_MEASURES: dict[str, Callable[[Tensor, Tensor, bool], Sums]] = {
    "pearson": _correlations,
    "js": _js,
    "frobenius": _squared_distances,
    "frobenius_published": _squared_distances,
}
LAYER_MEASURES = {"attention_cka": _covariances}  # of two layers, from what their heads sum to
# what the sums over all rows of an utterance come to, where that is not their mean
OF_UTTERANCE = {"frobenius": _bounded, "frobenius_published": _published}


def attention_similarity(measure: str, a: Sequence[Maps], b: Sequence[Maps], *, device: str = "cpu") -> np.ndarray:
    """Similarity of every head of `a` with every head of `b`, shape (heads_a, heads_b); 1 for a head with itself.

    Parameters
    ----------
    measure : {'pearson', 'js', 'frobenius', 'frobenius_published'}
        Pearson and js are means over query rows, the two Frobenius forms means over utterances.
    a, b : sequence of arrays of shape (heads, rows, T)
        One array an utterance, the same query rows of the same utterances on both sides; rows = T for whole maps.
    device : str
        Where to compute.
    """
    check_head_measure(measure)
    return _sum_over(a, b, measure, device).mean.cpu().numpy()


def attention_cka(a: Sequence[Maps], b: Sequence[Maps], *, device: str = "cpu") -> float:
    """Linear CKA of two layers' attention: heads are the neurons, (query, key) cells the frames.

    After AttnLinCKA of Wu et al. 2020 (arXiv 2005.01172), who centre each head over the cells of all utterances; here
    every row is centred at 1 / T, its mean, so that long utterances alone do not count as similarity. NaN if all heads
    of a side are uniform. Arguments are those of `attention_similarity`.
    """
    sides = [(a, b), (a, a), (b, b)]
    cross, norm_a, norm_b = (_sum_over(*side, "attention_cka", device).total.norm() for side in sides)
    return float(cross**2 / (norm_a * norm_b))


@dataclass(frozen=True)
class Profile:
    """What each head looks at, (heads,) each; means over query rows."""

    entropy: np.ndarray  # of a row, over log T: 0 looks at one frame, 1 at all alike
    distance: np.ndarray  # in frames, between the query and where it looks
    diagonality: np.ndarray  # 1 - distance over that of uniform attention: 1 looks at the query itself, below 0 away
    one_key: np.ndarray  # share of all attention on the frame that gets most: 1 / T when broad, 1 if always the same


def head_profile(maps: Sequence[Maps], queries: Sequence[Sequence[int] | np.ndarray]) -> Profile:
    """Describe what each head looks at: maps (heads, rows, T) and frame numbers (rows,) of queries, by utterance."""
    if len(maps) != len(queries) or not len(maps):
        raise SslsimError(f"{len(maps)} maps and {len(queries)} lists of query frames; give one list an utterance")
    parts, rows = [], []
    for u, (given, numbers) in enumerate(zip(maps, queries, strict=True)):
        a, q = check_maps(given, "maps", u).double(), torch.as_tensor(np.asarray(numbers), dtype=torch.float64)
        if len(q) != a.shape[1] or q.min() < 0 or q.max() >= a.shape[2]:
            counts = f"{len(q)} frame numbers up to {int(q.max())} for {a.shape[1]} rows of {a.shape[2]} frames"
            raise SslsimError(f"queries, utterance {u}: {counts}")
        away = (torch.arange(a.shape[2], dtype=torch.float64) - q[:, None]).abs()
        spread = max(float(np.log(a.shape[2])), 1e-300)  # one frame: entropy 0 over log 1
        entropy = -torch.special.xlogy(a, a).sum(2).mean(1) / spread
        distance = (a * away).sum(2).mean(1)
        parts.append(torch.stack([entropy, distance, away.mean().expand(len(a)), a.mean(1).amax(1)]))
        rows.append(len(q))
    weights = torch.tensor(rows, dtype=torch.float64) / sum(rows)
    entropy, distance, broad, one_key = torch.einsum("u,ukh->kh", weights, torch.stack(parts)).numpy()
    return Profile(entropy, distance, 1 - distance / np.where(broad > 0, broad, 1.0), one_key)


def check_head_measure(name: str) -> None:
    """Raise unless `name` is a measure of two heads."""
    if name in LAYER_MEASURES:
        raise SslsimError(f"{name!r} compares layers, not heads: use compare or attention_cka")
    if name not in HEAD_MEASURES:
        raise SslsimError(f"unknown attention measure {name!r}{close_match(name, [*HEAD_MEASURES, *LAYER_MEASURES])}")


def _sum_over(a: Sequence[Maps], b: Sequence[Maps], measure: str, device: str) -> Sums:
    """Sum of a score over utterances, whose maps are checked to line up."""
    if len(a) != len(b) or not len(a):
        raise SslsimError(f"attention cannot be paired: a has {len(a)} utterances, b {len(b)}; give the same ones")
    pairs = enumerate(zip(a, b, strict=True))
    return add_up(utterance_sums([measure], *pair, utterance=u, device=device) for u, pair in pairs)[measure]


def add_up(sums: Iterable[dict[str, Sums]]) -> dict[str, Sums]:
    """Merge the sums of some utterances or rows, by measure, one after another."""
    return reduce(lambda one, other: {name: one[name] + other[name] for name in one}, sums)


def utterance_sums(
    measures: Sequence[str],
    a: Any,
    b: Any,
    *,
    names: tuple[str, str] = ("a", "b"),
    utterance: int = 0,
    half: bool = False,
    device: str,
) -> dict[str, Sums]:
    """Score every head of `a` with every head of `b` on one utterance, by measures of heads or of layers.

    Both are maps (heads, rows, T) on the same query rows, of which a run is read at a time; errors call them by `names`
    and `utterance`. With `half` only the pairs of head i of `a` with heads i and on of `b` are wanted, and the rest
    need not mean anything.
    """
    for maps, name in zip((a, b), names, strict=True):
        _check_shape(maps, name, utterance)
    if a.shape[1:] != b.shape[1:]:
        shapes = f"(rows, T) {tuple(a.shape[1:])} in a, {tuple(b.shape[1:])} in b"
        advice = "keep the same query rows of the same audio"
        raise SslsimError(f"attention cannot be paired: utterance {utterance} has {shapes}; {advice}")
    _, rows, keys = a.shape
    scores = {name: (HEAD_MEASURES | LAYER_MEASURES)[name] for name in measures}

    def of_rows(part: slice) -> dict[str, Sums]:
        x = check_maps(a[:, part], names[0], utterance).to(device)
        y = x if b is a else check_maps(b[:, part], names[1], utterance).to(device)
        if x.dtype != y.dtype:
            x, y = x.double(), y.double()
        return {name: score(x, y, half) for name, score in scores.items()}

    parts = list(chunks(rows, max(1, ROW_CELLS // (max(a.shape[0], b.shape[0]) * keys))))
    alone = len(parts) == 1 or torch.get_num_threads() == 1 or torch.device(device).type != "cpu"
    total = add_up(map(of_rows, parts) if alone else results(of_rows, [(part,) for part in parts]))
    return {name: OF_UTTERANCE[name](sums, keys) if name in OF_UTTERANCE else sums for name, sums in total.items()}


def _check_shape(maps: Any, name: str, utterance: int) -> None:
    if len(maps.shape) != 3 or 0 in maps.shape:
        given = f"{name}, utterance {utterance}: shape {tuple(maps.shape)}"
        raise SslsimError(f"{given}; give (heads, rows, T), none of them 0")


def check_maps(maps: Maps, name: str = "maps", utterance: int = 0) -> Tensor:
    """Return `maps` as a floating tensor (heads, rows, T), or raise what is wrong with it."""
    _check_shape(maps, name, utterance)
    double = maps.dtype in (np.float64, torch.float64)
    maps = block(maps, torch.float64 if double else torch.float32)
    off = (maps.sum(2) - 1).abs().amax()
    if not off < 1e-3 or maps.amin() < 0:  # `not <` is true for NaN too
        why = f"sums off by up to {float(off):.3g}, smallest weight {float(maps.amin()):.3g}"
        advice = "give attention weights after the softmax"
        raise SslsimError(f"{name}, utterance {utterance}: rows are not distributions ({why}); {advice}")
    return maps
