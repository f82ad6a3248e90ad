"""Layers as arrays that are read a run of frames at a time."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError

Array = Any  # (n_frames, n_neurons), read in runs of frames: numpy, torch, or a layer of a store
CHUNK = 2048  # frames a product: float32 sums stay exact to 1e-6, buffers in reach of the cache


def block(x: Array, dtype: torch.dtype | None, device: str | torch.device = "cpu") -> Tensor:
    """Return frames as a tensor of `dtype` (None: their own); those of a read-only memory map are copied for torch."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()
    return torch.as_tensor(x).detach().to(device, dtype)


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cut `n` frames into chunks of `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def mean(x: Array) -> Tensor:
    """Mean of every neuron in float64; an error names the first frame that is not finite."""
    total = np.zeros(x.shape[1])
    for rows in chunks(len(x)):
        frames = x[rows]
        if not isinstance(frames, np.ndarray):
            frames = block(frames, torch.float64).numpy()
        with np.errstate(invalid="ignore"):  # infinities of both signs
            total += frames.sum(0, dtype=np.float64)
        if not np.isfinite(total).all():
            bad = rows.start + int((~np.isfinite(frames)).any(1).argmax())
            raise SslsimError(f"frame {bad} holds NaN or infinity; drop such frames before comparing")
    return torch.from_numpy(total / len(x))


def check_pair(x: Array, y: Array) -> torch.dtype:
    """Return the dtype that products of two layers run in, or raise if they cannot be paired."""
    for side, name in ((x, "x"), (y, "y")):
        if len(side.shape) != 2 or 0 in side.shape:
            raise SslsimError(f"{name} has shape {tuple(side.shape)}; give (n_frames, n_neurons), neither of them 0")
    if len(x) != len(y):
        counts = f"x has {len(x):,} frames, y {len(y):,}"
        raise SslsimError(f"layers cannot be paired: {counts}; give the same frames of both")
    if len(x) < 2:
        raise SslsimError("one frame has no variance; give at least two")
    dtypes = (block(side[:1], None).dtype for side in (x, y))
    floats = (dtype if dtype.is_floating_point else torch.float64 for dtype in dtypes)
    return reduce(torch.promote_types, floats, torch.float32)  # half precision would lose what the measures look at
