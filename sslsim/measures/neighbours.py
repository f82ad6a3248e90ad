"""Measures that need the frames themselves: do the same frames lie close together in two layers?

They compare every frame with every other of a sample, `SAMPLE` evenly spaced ones at most unless told.
"""

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError, check_whole
from sslsim.measures.arrays import Array, block
from sslsim.measures.products import product

SAMPLE = 2000
NEIGHBOURS = 10


def sample_frames(x: Array, sample: int = SAMPLE) -> np.ndarray:
    """Frame numbers of `sample` evenly spaced frames of x, or of all when it has no more."""
    check_whole("sample", sample, 2)
    n = len(x)
    return np.arange(n) if n <= sample else (np.arange(sample) * n + n // 2) // sample


def neighbours(frames: Array, *, standardize: bool = True, k: int = NEIGHBOURS, device: str = "cpu") -> Tensor:
    """Return the k nearest neighbours by cosine of every one of the sampled frames, itself left out, (n_frames, k).

    Without `standardize` (z-scored over these frames) the cosine is of the activations as they are, uncentred.
    """
    if not 1 <= k < len(frames):
        raise SslsimError(f"k is {k} with {len(frames):,} frames; give at least 1 and fewer than there are frames")
    x = _varying(frames, standardize, device)
    x = (x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)).float()  # three times as quick
    cosine = product(x, x.T)
    cosine.fill_diagonal_(-torch.inf)
    return cosine.topk(k, dim=1).indices


def neighbours_in(x: Tensor, order: Tensor) -> Tensor:
    """Return the neighbours of frames that stand in another order: now frame t is what frame ``order[t]`` was."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place[x[order]]


def mutual_knn(x: Tensor, y: Tensor) -> float:
    """Share of the 10 nearest frames (cosine) in common, on at most 2,000 frames; by chance 10 / (n_frames - 1).

    From `neighbours` of each layer (Huh et al. 2024, arXiv 2405.07987).
    """
    return float((x[:, :, None] == y[:, None, :]).sum()) / x.numel()


def chance_in_common(n: int) -> float:
    """Share of nearest frames in common by chance, of n frames."""
    return NEIGHBOURS / (n - 1)


def kernel(frames: Array, *, standardize: bool = True, bandwidth: float = 1.0, device: str = "cpu") -> Tensor:
    """Centred Gaussian kernel of the sampled frames at norm 1, (n_frames, n_frames), float64.

    ``exp(-d^2 / (2 s^2))`` with s = `bandwidth` times the root of the median squared distance of all pairs
    (Kornblith et al. 2019, arXiv 1905.00414); `standardize` z-scores over these frames first.
    """
    if not bandwidth > 0:
        raise SslsimError(f"bandwidth is {bandwidth}; give a multiple of the median distance, above 0")
    x = _varying(frames, standardize, device)
    x = x - x.mean(0)
    squares = x.square().sum(1)
    distance = (squares[:, None] + squares[None] - 2 * product(x, x.T)).clamp(min=0.0)
    distance.fill_diagonal_(0.0)
    n = distance.numel()  # the two middle values, which are one where n is odd
    low, high = (distance.flatten().kthvalue(k).values for k in ((n + 1) // 2, n // 2 + 1))
    median = float((low + high) / 2)
    if not median > 1e-12 * squares.mean():  # the rounding of distances between equal frames
        pairs = f"all pairs of {len(x):,} frames"
        raise SslsimError(f"more than half of {pairs} are equal; RBF CKA has no bandwidth for them")
    gram = torch.exp(-distance / (2 * bandwidth**2 * median))
    gram = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    return gram / gram.norm()


def kernel_in(x: Tensor, order: Tensor) -> Tensor:
    """Return the kernel of frames that stand in another order."""
    return x[order][:, order]


def rbf_cka(x: Tensor, y: Tensor) -> float:
    """CKA of Gaussian kernels as wide as the median distance, on at most 2,000 frames; too high with few."""
    return float(torch.linalg.vecdot(x, y).sum())


def _varying(frames: Array, standardize: bool, device: str) -> Tensor:
    """Neurons that vary over the frames, float64; z-scored or as they are."""
    x = block(frames[:], torch.float64, device)
    if not (finite := x.isfinite().all(1)).all():
        bad = int((~finite).int().argmax())
        raise SslsimError(f"frame {bad} of the sample holds NaN or infinity; drop such frames before comparing")
    mean = x.mean(0)
    deviation = (x - mean).square().mean(0).sqrt()
    alive = deviation > 1e-12 * mean.abs()
    if not alive.any():
        raise SslsimError(f"none of {x.shape[1]} neurons varies over {len(x):,} frames; nothing to compare")
    x = x[:, alive]
    return (x - mean[alive]) / deviation[alive] if standardize else x
