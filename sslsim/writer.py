"""Writing an activation store: complete or not at all."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from sslsim.errors import SslsimError
from sslsim.store import (
    FINAL_FILE,
    FRAME_RULE,
    INDEX_FILE,
    JSON_FIELDS,
    ROW_RULE,
    STORE_FILE,
    STORE_VERSION,
    ActivationStore,
    attention_file,
    attention_offsets,
    layer_file,
)


class Arrays(Protocol):
    """What one utterance adds to a store; ``models.Encoded`` is one."""

    @property
    def hidden(self) -> NDArray[np.float32]:
        """Layers, (L + 1, T, n_neurons)."""

    @property
    def final(self) -> NDArray[np.float32] | None:
        """Final layer, (T, n_neurons), for pre-norm models."""

    @property
    def attention(self) -> NDArray[np.float32]:
        """Rows of every map, (L, n_heads, n_rows, T)."""


class ArrayFiles:
    """The open .npy files of a store, their headers written: the final shapes are known beforehand.

    Appended to with plain writes, not through a memory map, where a full disk would kill the process.
    """

    def __init__(self, store: ActivationStore, stack: ExitStack) -> None:
        self._name, self._stack = store.checkpoint.name, stack
        shape = (store.n_frames, store.n_neurons)
        flat = (int(attention_offsets(store.index, store.n_heads)[-1]),)
        blocks = range(1, store.attention_layers + 1)
        names: dict[str, tuple[int, ...]] = {layer_file(i): shape for i in range(store.n_layers)}
        names |= {FINAL_FILE: shape} if store.pre_norm else {}
        names |= {attention_file(i): flat for i in blocks}
        _check_space(store.root, sum(4 * math.prod(s) for s in names.values()))
        self._files = {name: self._open(store.root / name, s) for name, s in names.items()}

    def _open(self, path: Path, shape: tuple[int, ...]) -> IO[bytes]:
        file = self._stack.enter_context(path.open("wb"))
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return file

    def append(self, encoded: Arrays, utterance: str) -> None:
        """Write one utterance's arrays, once they are known to be finite."""
        for i, state in enumerate(encoded.hidden):
            self._write(layer_file(i), state, f"layer {i}", utterance)
        if encoded.final is not None:
            self._write(FINAL_FILE, encoded.final, "final layer", utterance)
        for i, rows in enumerate(encoded.attention, 1):
            self._write(attention_file(i), rows, f"attention of layer {i}", utterance)

    def _write(self, name: str, values: NDArray[np.float32], what: str, utterance: str) -> None:
        if not np.isfinite(values).all():
            raise SslsimError(
                f"checkpoint {self._name!r}: {what} is NaN or infinite for utterance {utterance!r}; "
                "its weights may be damaged"
            )
        self._files[name].write(np.ascontiguousarray(values, dtype="<f4").data)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SslsimError(
            f"store in {str(folder.parent)!r}: needs {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free; "
            "use another disk, fewer queries or fewer utterances"
        )


@contextmanager
def temporary(root: Path) -> Iterator[Path]:
    """Yield a new folder beside ``root``; rename it to ``root`` at the end, remove it on any exception."""
    folder = root.parent / f".{root.name}.{platform.node()}.{os.getpid()}.partial"
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(root.parent, ".*.partial")
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process that had our number
        folder.mkdir()
        yield folder
        _rename(folder, root)
    except OSError as error:
        raise SslsimError(f"store {str(root)!r}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rename(folder: Path, root: Path) -> None:
    try:
        folder.rename(root)
    except OSError:
        if not root.exists():  # else another process finished the same store first: the same content
            raise


def remove_stale(out: Path, pattern: str) -> None:
    """Remove what processes of this machine that were killed have left: folders ``.<...>.<machine>.<pid>.<...>``."""
    mark = f".{platform.node()}."
    for folder in out.glob(pattern):
        pid = folder.name.rpartition(mark)[2].split(".")[0]
        if mark in folder.name and pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # someone else's
    return True


def write_description(store: ActivationStore) -> None:
    """Write ``index.csv`` and, last, ``store.json`` of a store whose arrays are complete."""
    store.index.to_csv(store.root / INDEX_FILE, index=False)
    sizes = {file.name: file.stat().st_size for file in sorted(store.root.iterdir()) if file.name != STORE_FILE}
    plain = {k: v for k, v in vars(store).items() if k in JSON_FIELDS}
    content = {
        "version": STORE_VERSION,
        **plain,
        "checkpoint": asdict(store.checkpoint),
        "frame_rule": FRAME_RULE,
        "row_rule": ROW_RULE,
        "files": sizes,
    }
    (store.root / STORE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
