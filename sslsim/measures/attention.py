"""Attention measures: do two heads look at the same places?

A head's map on one utterance is (rows, T): each row is one query frame's distribution over T key frames. Heads are
compared row by row on the same query frames, every head of one layer with every head of the other; a layer's score is
the mean over its heads of the best match there. Pearson, Frobenius and attention_cka are matrix products of all heads,
and of the Jensen-Shannon divergence ``H((a + b) / 2) - (H(a) + H(b)) / 2`` only the mixture's entropy is per pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError, close_match
from sslsim.measures.arrays import block, chunks, numbers
from sslsim.parallel import chosen_device, once

Maps = np.ndarray | Tensor
Among = Sequence[tuple[np.ndarray, np.ndarray]]  # numbers of some heads of a, and of those of b to compare them with
LOG_2 = float(np.log(2.0))
ROW_CELLS = 2**22  # of one block of query rows of all heads: 16 MB in float32
BLOCK_CELLS, BLOCK_HEADS = 4096, 4  # a row of mixtures, and how many heads of x are in a block of them
MIXTURES = 2**26, 2**17  # cells of a block on a GPU, and on a CPU, where it stays in cache with its logarithms
FROBENIUS = "frobenius", "frobenius_published"
HEAD_MEASURES = "pearson", "js", *FROBENIUS  # of two heads
LAYER_MEASURES = ("attention_cka",)  # of two layers, from the products of their heads


@dataclass(frozen=True)
class Sums:
    """Running sums over utterances of head-to-head scores: `total` / `weight` is the mean."""

    total: Tensor  # (heads_a, heads_b)
    weight: Tensor  # likewise, or one for all

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


@dataclass(frozen=True, eq=False)
class Heads:
    """Maps of many heads, (heads, rows, T), and what measures make of each: once, with however many it is compared."""

    maps: Tensor

    @once
    def unit(self) -> tuple[Tensor, Tensor]:
        """Rows centred and of length 1, 0 where uniform, (heads, rows T); and 1 or, where uniform, 0, (heads, rows)."""
        centred = self.maps - 1 / self.maps.shape[2]
        norm = torch.linalg.vecdot(centred, centred).sqrt_()
        # softmax rounds a uniform row to within a few float units of 1 / T
        varies = norm > 8 * torch.finfo(centred.dtype).eps * self.maps.shape[2] ** -0.5
        return centred.mul_(torch.where(varies, 1 / norm, 0.0)[:, :, None]).flatten(1), varies.to(self.maps)

    @once
    def centred(self) -> Tensor:
        """Rows less their mean 1 / T, (heads, rows T)."""
        return self.maps.flatten(1) - 1 / self.maps.shape[2]

    @once
    def squares(self) -> Tensor:
        """Sum of squares of `centred`, (heads,)."""
        return torch.linalg.vecdot(self.centred, self.centred).double()

    @once
    def entropy(self) -> Tensor:
        """Sum of ``a log(2 a)``, (heads,)."""
        return torch.special.xlogy(self.maps, 2 * self.maps).sum((1, 2), dtype=torch.float64)


def _products(a: Heads, b: Heads) -> tuple[Tensor, Tensor]:
    """Products of the heads over all cells, rows centred at 1 / T, and squared distances; float64 on one utterance."""
    if a is b:
        both = a.centred.double()
        products = both @ both.T
        return products, products.diag()[:, None] + products.diag() - 2 * products
    products = (a.centred @ b.centred.T).double()
    return products, a.squares[:, None] + b.squares - 2 * products


def _js(a: Heads, b: Heads, half: bool, among: Among | None) -> Sums:
    """Sum over query rows of one minus the Jensen-Shannon divergence over ln 2, in [0, 1]."""
    mixed = torch.full((len(a.maps), len(b.maps)), torch.nan, dtype=torch.float64, device=a.maps.device)
    flat_a, flat_b = a.maps.flatten(1) + torch.finfo(a.maps.dtype).tiny, b.maps.flatten(1)  # 0 log 0 = 0 without a mask
    for i, j in among or [(np.arange(len(a.maps)), np.arange(len(b.maps)))]:
        first = np.searchsorted(j, i) if half else 0 * i
        mixed[i[:, None], j] = _sum_entropy(flat_a[i], flat_b[j], first.tolist())
    rows = a.maps.shape[1]
    total = rows - (a.entropy[:, None] + b.entropy - mixed) / (2 * LOG_2)
    return Sums(total, torch.full((), rows, dtype=torch.float64, device=total.device))


def _sum_entropy(a: Tensor, b: Tensor, first: Sequence[int]) -> Tensor:
    """``sum_k s_k log s_k`` of s = a_i + b_j for every pair of heads with j from ``first[i]`` on."""
    out = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    on_cpu = a.device.type == "cpu"
    for cells in chunks(a.shape[1], BLOCK_CELLS):
        part_a, part_b = a[:, None, cells].contiguous(), b[:, cells].contiguous()
        size = max(1, MIXTURES[on_cpu] // (BLOCK_HEADS * part_b.shape[1]))
        for i in chunks(len(a), BLOCK_HEADS):
            for start in range(first[i.start], len(b), size):
                j = slice(start, start + size)
                mixture = part_a[i] + part_b[j]
                # numpy's logarithm takes a third of the time of torch's
                log = torch.from_numpy(np.log(mixture.numpy())) if on_cpu else mixture.log()
                out[i, j] += torch.linalg.vecdot(mixture, log)
    return out


def utterance_sums(
    measures: Sequence[str], parts: Iterable[tuple[Heads, Heads]], *, half: bool = False, among: Among | None = None
) -> dict[str, Sums]:
    """Score every head of `a` with every head of `b` on one utterance, by measures of heads or of layers.

    Both are given as runs of the same query rows. With `half` only pairs of head i of `a` with heads i and on of `b`
    need mean anything. js, the slowest, is computed `among` these heads alone, and NaN for other pairs.
    """
    wanted = {*measures}

    def of_rows(a: Heads, b: Heads) -> dict[str, Sums]:
        out: dict[str, Sums] = {}
        if "pearson" in wanted:  # rows without variance are left out of the mean
            out["pearson"] = Sums(*((x @ y.T).double() for x, y in zip(a.unit, b.unit, strict=True)))
        if "js" in wanted:
            out["js"] = _js(a, b, half, among)
        if wanted & {*FROBENIUS, *LAYER_MEASURES}:
            products, squares = _products(a, b)
            rows, keys = (torch.full((), n, dtype=torch.float64, device=products.device) for n in a.maps.shape[1:])
            out |= {"attention_cka": Sums(products, rows * keys), "squares": Sums(squares, rows)}
        return out

    sums = add_up(of_rows(*part) for part in parts)
    if wanted & {*FROBENIUS}:
        squares, keys = sums["squares"], sums["attention_cka"].weight / sums["squares"].weight
        far = squares.total.clamp(min=0.0).div(2 * squares.weight).sqrt()  # over its largest possible value
        sums["frobenius"] = Sums(1 - far, torch.ones_like(keys))
        sums["frobenius_published"] = Sums(1 - far * (2 * keys).sqrt(), torch.ones_like(keys))  # of whole T x T maps
    return {name: sums[name] for name in measures}


def attention_similarity(measure: str, a: Sequence[Maps], b: Sequence[Maps], *, device: str = "cpu") -> np.ndarray:
    """Similarity of every head of `a` with every head of `b`, shape (heads_a, heads_b); 1 for a head with itself.

    The measures pearson and js are means over query rows, frobenius and frobenius_published means over utterances. `a`
    and `b` have one array (heads, rows, T) an utterance, of the same query rows; rows = T for whole maps.
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


def looks(maps: Maps, queries: Sequence[int] | np.ndarray, u: int = 0) -> tuple[Tensor, int]:
    """Means over query rows (numbers of frames) of one utterance of what makes a `Profile`, and how many rows."""
    a, q = check_maps(maps, "maps", u).double(), torch.as_tensor(np.asarray(queries))
    if len(q) != a.shape[1] or q.min() < 0 or q.max() >= a.shape[2]:
        counts = f"{len(q)} frame numbers up to {int(q.max())} for {a.shape[1]} rows of {a.shape[2]} frames"
        raise SslsimError(f"queries, utterance {u}: {counts}")
    away = (torch.arange(a.shape[2]) - q[:, None]).abs().to(a)
    spread = max(float(np.log(a.shape[2])), 1e-300)  # one frame: entropy 0 over log 1
    entropy = torch.special.entr(a).sum((1, 2)) / (len(q) * spread)
    distance = a.flatten(1) @ away.flatten() / len(q)
    return torch.stack([entropy, distance, away.mean().expand(len(a)), a.mean(1).amax(1)]), len(q)


def profile_of(parts: Iterable[tuple[Tensor, int]]) -> Profile:
    """Put together what `looks` says of each utterance."""
    means, rows = zip(*parts, strict=True)
    weights = torch.tensor(rows, dtype=torch.float64) / sum(rows)
    entropy, distance, broad, one_key = torch.einsum("u,ukh->kh", weights, torch.stack(means)).numpy()
    return Profile(entropy, distance, 1 - distance / np.where(broad > 0, broad, 1.0), one_key)


def check_head_measure(name: str) -> None:
    """Raise unless `name` is a measure of two heads."""
    if isinstance(name, str) and name in LAYER_MEASURES:
        raise SslsimError(f"{name!r} compares layers, not heads: use compare or attention_cka")
    if not isinstance(name, str) or name not in HEAD_MEASURES:
        raise SslsimError(f"unknown attention measure {name!r}{close_match(name, [*HEAD_MEASURES, *LAYER_MEASURES])}")


def _sum_over(a: Sequence[Maps], b: Sequence[Maps], measure: str, device: str) -> Sums:
    """Sum of a score over utterances, whose maps are checked to line up."""
    device = chosen_device(device)
    a, b = ([numbers(m, f"{name}, utterance {u}") for u, m in enumerate(maps)] for maps, name in ((a, "a"), (b, "b")))
    if len(a) != len(b) or not len(a):
        raise SslsimError(f"attention cannot be paired: a has {len(a)} utterances, b {len(b)}; give the same ones")

    def parts(u: int) -> Iterator[tuple[Heads, Heads]]:
        for maps, name in ((a[u], "a"), (b[u], "b")):
            _check_shape(maps, name, u)
        if a[u].shape[1:] != b[u].shape[1:]:
            shapes = f"(rows, T) {tuple(a[u].shape[1:])} in a, {tuple(b[u].shape[1:])} in b"
            advice = "keep the same query rows of the same audio"
            raise SslsimError(f"attention cannot be paired: utterance {u} has {shapes}; {advice}")
        for rows in row_runs(max(len(a[u]), len(b[u])), *a[u].shape[1:]):
            x, y = (check_maps(m[:, rows], name, u).to(device) for m, name in ((a[u], "a"), (b[u], "b")))
            dtype = torch.promote_types(x.dtype, y.dtype)
            one = Heads(x.to(dtype))
            yield one, one if b[u] is a[u] else Heads(y.to(dtype))

    return add_up(utterance_sums([measure], parts(u)) for u in range(len(a)))[measure]


def row_runs(heads: int, rows: int, keys: int) -> Iterator[slice]:
    """Cut query rows into runs that are compared at a time."""
    return chunks(rows, max(1, ROW_CELLS // (heads * keys)))


def add_up(sums: Iterable[dict[str, Sums]]) -> dict[str, Sums]:
    """Merge the sums of some utterances or rows, by measure, one after another."""
    return reduce(lambda one, other: {name: one[name] + other[name] for name in one}, sums)


def _check_shape(maps: Any, name: str, utterance: int) -> None:
    if len(maps.shape) != 3 or 0 in maps.shape:
        given = f"{name}, utterance {utterance}: shape {tuple(maps.shape)}"
        raise SslsimError(f"{given}; give (heads, rows, T), none of them 0")


def check_maps(maps: Maps, name: str = "maps", utterance: int = 0) -> Tensor:
    """Return `maps` as a floating tensor (heads, rows, T), or raise what is wrong; halves are brought to sum 1."""
    _check_shape(maps, name, utterance)
    double, half = maps.dtype in (np.float64, torch.float64), maps.dtype.itemsize == 2
    maps = block(maps, torch.float64 if double else torch.float32)
    sums = maps.sum(2, keepdim=True)
    off = (sums - 1).abs().amax()
    if not off < (1e-2 if half else 1e-3) or maps.amin() < 0:  # `not <` is true for NaN too
        why = f"sums off by up to {float(off):.3g}, smallest weight {float(maps.amin()):.3g}"
        advice = "give attention weights after the softmax"
        raise SslsimError(f"{name}, utterance {utterance}: rows are not distributions ({why}); {advice}")
    return maps / sums if half else maps
