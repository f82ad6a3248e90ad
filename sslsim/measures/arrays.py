"""Layers as arrays that are read a run of frames at a time."""

from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sslsim.errors import SslsimError

Array = Any  # (n_frames, n_neurons), read in runs of frames: numpy, torch, or a layer of a store
CHUNK = 2048  # frames a product: float32 sums stay exact to 1e-6, buffers in reach of the cache


def numbers(x: Any, name: str) -> Array:
    """Return an array of numbers: what numpy or torch can compute with as it is, tables and lists as arrays.

    What is sparse is filled. It is an error if something is masked, complex or no number. `name` says what it is.
    """
    fault = "some of its values are masked" * np.ma.is_masked(x)
    if isinstance(x, Tensor):
        x, fault = x.to_dense() if x.layout != torch.strided else x, f"it is {x.dtype}" * x.is_complex()
    elif isinstance(x, np.ndarray | pd.DataFrame) or not hasattr(x, "shape") or hasattr(x, "toarray"):
        try:
            x = np.asarray(x.toarray() if hasattr(x, "toarray") else x)
            x = x.astype(np.float64) if x.dtype.kind == "O" or x.dtype == np.longdouble else x
            fault = fault or f"it is {x.dtype}" * (x.dtype.kind not in "fiub")
        except (TypeError, ValueError) as error:
            fault = str(error)
    if fault:
        raise SslsimError(f"{name} is no array of real numbers: {fault}")
    return x


def block(x: Array, dtype: torch.dtype | None, device: str | torch.device = "cpu") -> Tensor:
    """Return frames as a tensor of `dtype` (None: their own), copied where torch cannot take them as they lie."""
    if isinstance(x, np.ndarray) and not (x.flags.writeable and min(x.strides, default=0) >= 0 and x.dtype.isnative):
        x = x.astype(x.dtype.newbyteorder("="), order="C")
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
