"""Writing an activation store, by any number of workers, through any interruption.

A store grows in a hidden folder beside its place, ``.NAME-KEY.partial``, which has its description from the beginning;
shards appear in it in any order, each whole and never changed. Who goes on later keeps those whose bytes are those
written, if the description is to the byte what it would write: the same audio, checkpoint, libraries and kind of
processor. The folder is renamed when all shards are there. What is made depends on no interruption and no number of
workers, since the cut into shards belongs to the store.
"""

import os
import platform
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from sslsim.activations.shards import ShardFile, shard_file, write_shard
from sslsim.activations.store import STORE_FILE, ActivationStore, described
from sslsim.encoders.encoder import Encoded
from sslsim.errors import SslsimError
from sslsim.resources import check_free

_POLL = 0.2  # seconds between two looks whether another process is through


class Unwritable(SslsimError):
    """A store, or the draft of one, that the disk does not take."""

    def __init__(self, root: Path, error: OSError) -> None:
        super().__init__(f"store {str(root)!r}: cannot be written: {error}")
        self.root, self.error = root, error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self.error)  # it may come from another process


@dataclass(frozen=True, eq=False)
class Task:
    """One shard to be made, and all that a worker anywhere must know of it."""

    path: Path  # where the shard's file will be
    store: ActivationStore  # as if it had the utterances of this shard alone

    def write(self, arrays: Callable[[Any], Encoded]) -> None:
        """Write the shard; `arrays`, called with each row of the index in turn, gives what this utterance adds.

        A value that is not finite, arrays of another size than expected and a disk that is full are errors.
        """
        made = (_checked(self.store, row, arrays(row)) for row in self.store.index.itertuples())
        try:
            write_shard(self.path, self.store.layouts[0], made)
        except OSError as error:  # said here, where it is known which of several stores it was
            raise Unwritable(self.store.root, error) from error


@dataclass(frozen=True, eq=False)
class Draft:
    """A store that is being written in a folder, as it will be; see `drafting` for how it comes to be."""

    folder: Path
    store: ActivationStore

    def tasks(self) -> list[Task]:
        """Return the shards that are not there yet."""
        alone = replace(self.store, shards=[0], skipped=self.store.skipped[:0])
        parts = {self.folder / shard_file(number): part for number, part in enumerate(self.store.parts)}
        new = {path: self.store.index.iloc[part] for path, part in parts.items() if not path.is_file()}
        return [Task(path, replace(alone, index=index.reset_index(drop=True))) for path, index in new.items()]

    def begin(self) -> None:
        """Write the description, and keep what is there already if it belongs to it and is not damaged."""
        files = described(self.store)
        written = self.folder / STORE_FILE
        if not written.is_file() or written.read_bytes() != files[STORE_FILE]:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o755, exist_ok=True)
        check_ours(self.folder)
        remove_stale(self.folder, ".*.part")
        for number, layout in enumerate(self.store.layouts):
            path = self.folder / shard_file(number)
            try:
                ShardFile(path, layout, afresh=True).verify()
            except (OSError, ValueError):
                path.unlink(missing_ok=True)
        check_room({self.store.root: sum(layout.size for layout in self.store.layouts)}, f"store {self.store.name!r}")
        for name, content in files.items():  # the description last: without it, what is there is begun anew
            file = self.folder / name
            if not file.is_file() or file.read_bytes() != content:
                file.write_bytes(content)

    def finish(self) -> None:
        """See that all is on the disk, and put the store in its place."""
        if gone := self.tasks():  # another process, unseen for want of locks, was first; or somebody cleared the folder
            raise FileNotFoundError(f"{gone[0].path} was written and is gone")
        for part in self.folder.glob(".*.part"):  # of workers that were killed, on other machines
            part.unlink(missing_ok=True)
        for path in [*sorted(self.folder.iterdir()), self.folder]:
            _sync(path)
        self.folder.rename(self.store.root)
        _sync(self.store.root.parent)


def check_room(sizes: Mapping[Path, int], what: str) -> str:
    """Return, in words, what disk stores need beyond what is there, and what is free; raise if that is too little.

    `sizes` has their bytes by where they will be, all in one folder.
    """
    parts = [file for root in sizes for file in _folder_of(root).glob("shard_*.bin")]
    needed, (beside, *_) = sum(sizes.values()) - sum(file.stat().st_size for file in parts), (r.parent for r in sizes)
    return check_free(beside, needed, what, "use another disk, or fewer frames, queries or utterances")


def _folder_of(root: Path) -> Path:
    """Return where the draft of a store lies."""
    return root.parent / f".{root.name}.partial"


@contextmanager
def drafting(root: Path, plan: Callable[[], ActivationStore]) -> Iterator[Draft | None]:
    """Yield the draft of the store that belongs at `root`, begun or begun again, or None if the store is there.

    `plan` returns the store as it will be. One process at a time has the draft; others wait, and go on from where it
    stopped if it was killed. It stays on any exception, to be resumed, unless no shard of it is complete.
    """
    folder, made = _folder_of(root), False
    try:
        with nullcontext() if root.exists() else alone(root):
            if not root.exists():
                with suppress(FileNotFoundError):
                    check_ours(folder)
                try:
                    draft = Draft(folder, replace(plan(), root=root))
                    draft.begin()
                    made = True
                    yield draft
                    draft.finish()
                except BaseException:
                    if root.exists() or not any(folder.glob("shard_*.bin")):
                        shutil.rmtree(folder, ignore_errors=True)
                    raise
    except Unwritable as error:
        if error.root != root or not root.exists():
            raise
    except OSError as error:
        if not root.exists():  # else another process was first, without a lock that we could see: the same content
            raise Unwritable(root, error) from error
    if not made:
        yield None


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes what belongs at a path; on a disk without locks nobody waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
    with suppress(NotImplementedError):  # whoever else writes puts the same bytes in the same places
        try:
            lock.acquire(timeout=_POLL)
        except filelock.Timeout:
            print(f"{path.name}: waiting for another process that is making it", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _checked(store: ActivationStore, row: Any, arrays: Encoded) -> Encoded:
    """Return the arrays of an utterance, once it is known that they fit and are finite."""
    layer, map_ = (row.n_frames, store.n_neurons), (store.n_heads, row.n_rows, row.length)
    numbered = enumerate(arrays.hidden, store.layer_numbers[0])
    parts: list[tuple[str, Any, tuple]] = [(f"layer {i}", state, layer) for i, state in numbered]
    parts += [("final layer", arrays.final, layer)] if arrays.final is not None else []
    who = f"checkpoint {store.name!r}:"
    maps = (store.attention_layers, store.attention_layers if row.n_rows else 0)  # none where it is too short for a row
    if len(parts) != store.n_layers + store.final_norm or len(arrays.attention) not in maps:
        raise SslsimError(f"{who} gave other layers for utterance {row.utterance!r} than before")
    parts += [(f"attention of layer {i}", rows, map_) for i, rows in enumerate(arrays.attention, 1)]
    for what, values, shape in parts:
        if values.shape != shape:
            raise SslsimError(f"{who} {what} of utterance {row.utterance!r} has the shape {values.shape}, not {shape}")
        if not np.isfinite(values).all():
            fault = f"{what} is NaN or infinite for utterance {row.utterance!r}"
            raise SslsimError(f"{who} {fault}; its weights may be damaged, or too large for {store.dtype}")
    return arrays


def check_ours(folder: Path, opened: int | None = None) -> None:
    """Raise unless a folder, or what was opened as it, is of this user, and no other may put anything into it."""
    state, me = folder.lstat() if opened is None else os.fstat(opened), os.geteuid()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != me or state.st_mode & 0o022:
        found = f"is of user {state.st_uid} with the mode {stat.filemode(state.st_mode)}"
        needed = f"user {me} uses only a folder of its own that nobody else may write to"
        raise SslsimError(f"{str(folder)!r} {found}; {needed}: remove it, or have the stores in another folder")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_stale(out: Path, pattern: str) -> None:
    """Remove what processes of this machine that were killed have left: ``.<...>.<machine>.<pid>.<...>``."""
    mark = f".{platform.node()}."
    for path in out.glob(pattern):
        pid = path.name.rpartition(mark)[2].split(".")[0]
        if mark in path.name and pid.isdecimal():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            except (OSError, OverflowError, ValueError):
                pass  # someone else's is alive, or it is no number of a process
