"""Layers as arrays that are read a run of frames at a time, and how they are multiplied."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.errors import SslsimError

Array = Any  # (n_frames, n_neurons), read in runs of frames: numpy, torch, or a layer of a store
CHUNK = 2048  # frames a product: float32 sums stay exact to 1e-6, buffers in reach of the cache
LARGE = 2**23  # multiplications from which oneDNN is worth its call


def block(x: Array, dtype: torch.dtype | None, device: str | torch.device = "cpu") -> Tensor:
    """Return frames as a tensor of `dtype` (None: their own); those of a read-only memory map are copied for torch."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()
    return torch.as_tensor(x).detach().to(device, dtype)


def chunks(n: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that cut `n` frames into chunks of `size`."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def mean(x: Array, rows: slice = slice(None)) -> Tensor:
    """Mean of every neuron in float64 over a run of frames; an error names the first frame that is not finite."""
    total = np.zeros(x.shape[1])
    start, stop, _ = rows.indices(len(x))
    for part in chunks(stop - start):
        frames = x[start + part.start : start + part.stop]
        if not isinstance(frames, np.ndarray):
            frames = block(frames, torch.float64).numpy()
        with np.errstate(invalid="ignore"):  # infinities of both signs
            total += frames.sum(0, dtype=np.float64)
        if not np.isfinite(total).all():
            bad = start + part.start + int((~np.isfinite(frames)).any(1).argmax())
            raise SslsimError(f"frame {bad} holds NaN or infinity; drop such frames before comparing")
    return torch.from_numpy(total / (stop - start))


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


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b``; where it is large, in float32 and on a CPU, by oneDNN.

    MKL, behind ``torch.mm``, does not use the widest registers of processors that are not Intel's: half the speed on an
    AMD EPYC. oneDNN is reached through the two products of a linear layer: one takes a transposed `a`, as products of
    frames have, and the other a plain one, so that no large matrix is copied into another order first.
    """
    large = a.shape[0] * a.shape[1] * b.shape[1] >= LARGE
    if not (large and a.dtype == torch.float32 and a.device.type == "cpu" and torch.backends.mkldnn.is_available()):
        return a @ b
    if a.stride(0) == 1:  # the gradient of a layer's weights; the empty tensor is an argument that only a bias needs
        return torch.mkldnn_linear_backward_weights(a.T.to_mkldnn(), b.to_mkldnn(), torch.empty(0), False)[0]
    return torch.nn.functional.linear(a.to_mkldnn(), b.T).to_dense()
