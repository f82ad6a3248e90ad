"""A private folder for what the pieces of one comparison hand to one another.

It is made with ``mkdtemp``, so that only its owner can write to it: what is pickled there is read by the workers of the
same comparison, and it is gone when that ends.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.activations.draft import remove_stale
from sslsim.errors import SslsimError


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
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


def save(value: object, path: Path) -> None:
    """Write a value; an error says how much room there is."""
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


def load(path: Path) -> Any:
    """Read what `save` wrote."""
    return pickle.loads(path.read_bytes())


def _as_array(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[np.ndarray, torch.device]]:
    """Return how to make a tensor again: torch's own way opens an archive for each, which takes longer than reading."""
    return _as_tensor, (tensor.numpy(force=True), tensor.device)


def _as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
