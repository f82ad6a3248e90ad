"""The scratch folder of a comparison, and what its pieces leave there for one another."""

import copyreg
import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sslsim.activations.draft import check_ours, remove_stale
from sslsim.errors import SslsimError
from sslsim.resources import size_told

CURE = "make room there or compare fewer checkpoints at a time"


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
        free = size_told(shutil.disk_usage(path.parent).free)
        told = f"moments of layers cannot be kept in {str(path.parent)!r}, where {free} are free"
        raise SslsimError(f"{told}: {error.strerror}; {CURE}") from error


def read(path: Path) -> Any:
    """Read a value from the scratch folder if nobody else can have put it there: a pickle can run anything."""
    check_ours(scratch := path.parents[2])
    opened = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        check_ours(scratch, opened)  # the same, even if it was replaced meanwhile
        with open(os.open(path.relative_to(scratch), os.O_RDONLY, dir_fd=opened), "rb") as file:
            return pickle.loads(file.read())
    finally:
        os.close(opened)


def _as_array(tensor: Tensor) -> tuple[Callable[..., Tensor], tuple[np.ndarray]]:
    """Return how to make a tensor again: torch's own way opens an archive for each, which takes longer than reading."""
    return partial(torch.as_tensor, device=tensor.device), (tensor.numpy(force=True),)
