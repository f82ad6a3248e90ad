"""Writing an activation store, by any number of workers, through any interruption.

A store grows in a hidden folder beside its place, ``.NAME-KEY.partial``. Every utterance has its fixed place in every
array file, so that work can be cut, ordered and interrupted anyhow and ends in the same bytes. What a worker has
written of a few utterances counts once a file of their checksums stands in ``.progress``, put there in one step; who
goes on later believes it only if the bytes on the disk still have these checksums. The folder is renamed when all is
there, so that nothing half-written is ever seen in its place.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import filelock
import numpy as np
from numpy.typing import NDArray

from sslsim.activations.store import (
    CHECKSUM_FILE,
    FINAL_FILE,
    FRAME_RULE,
    INDEX_FILE,
    JSON_FIELDS,
    SAMPLE_RULE,
    SKIPPED_FILE,
    STORE_FILE,
    STORE_VERSION,
    TABLES,
    ActivationStore,
    array_files,
    attention_file,
    checksums,
    description_hash,
    extents,
    file_hash,
    header,
    layer_file,
)
from sslsim.errors import SslsimError

_PROGRESS, _LOCK, _PLAN = ".progress", "lock", "plan.pickle"
_POLL = 0.2  # seconds between two looks whether another process is through
_TRIES = 1000  # of taking a folder that others remove


class Arrays(Protocol):
    """What one utterance adds to a store; ``models.Encoded`` is one."""

    @property
    def hidden(self) -> NDArray[np.float32]:
        """Layers, (L + 1, n_frames, n_neurons)."""

    @property
    def final(self) -> NDArray[np.float32] | None:
        """Last hidden state, (n_frames, n_neurons), where it is not layer L."""

    @property
    def attention(self) -> NDArray[np.float32]:
        """Rows of every map, (L, n_heads, n_rows, T)."""


class Unwritable(SslsimError):
    """A store, or the draft of one, that the disk does not take."""

    def __init__(self, root: Path, error: OSError) -> None:
        super().__init__(f"store {str(root)!r}: cannot be written: {error}")
        self.root, self.error = root, error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self.error)  # it may come from another process


class Draft:
    """A store that is being written.

    Parameters
    ----------
    folder : path
        Where it grows; see `drafting` for how it comes to be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # another process reads the rest for itself

    @cached_property
    def _content(self) -> tuple[ActivationStore, Any]:
        with (self.folder / _PROGRESS / _PLAN).open("rb") as file:
            store, work = pickle.load(file)
        return replace(store, root=self.folder), work

    @property
    def store(self) -> ActivationStore:
        """The store as it will be, in the folder where it grows."""
        return self._content[0]

    @property
    def work(self) -> Any:
        """What `drafting` was given for the workers."""
        return self._content[1]

    def missing(self) -> list[int]:
        """Return the numbers of the utterances that are not there yet, or whose bytes are damaged."""
        return np.flatnonzero(~self._done()[0]).tolist()

    def _done(self) -> tuple[NDArray[np.bool_], NDArray[np.uint32]]:
        """Which utterances somebody says are there, and their checksums."""
        names = array_files(self.store)
        sums = np.zeros((len(self.store.index), len(names)), np.uint32)
        done = np.zeros(len(sums), bool)
        for file in (self.folder / _PROGRESS).glob("*.npy"):
            try:
                first, part = int(file.stem), np.load(file)
                sums[first : first + len(part)] = part
                done[first : first + len(part)] = True
            except Exception:  # lost with the power (numpy fails in many ways): its utterances are made again
                file.unlink(missing_ok=True)
        return done, sums

    def verify(self) -> None:
        """Forget what is said to be there and is not what was written."""
        done, sums = self._done()
        if not done.any():
            return
        good = done.copy()
        for column, name in enumerate(array_files(self.store)):
            found = np.fromiter(checksums(self.store, name), np.uint32, len(done))
            good &= found == sums[:, column]
        if (good == done).all():
            return
        for file in (self.folder / _PROGRESS).glob("*.npy"):
            file.unlink()
        for u in np.flatnonzero(good).tolist():
            self._mark(u, sums[u : u + 1])

    def write(self, utterances: Sequence[int], arrays: Callable[[int], Arrays]) -> None:
        """Write a run of utterances, and then that they are there.

        Parameters
        ----------
        utterances : sequence of int
            Consecutive numbers.
        arrays : callable
            Given one of them, what it adds.

        Raises
        ------
        SslsimError
            A value that is not finite, or a disk that is full.
        """
        try:
            self._write(utterances, arrays)
        except OSError as error:  # said here, where it is known which of several stores it was
            raise Unwritable(_root(self.folder), error) from error

    def _write(self, utterances: Sequence[int], arrays: Callable[[int], Arrays]) -> None:
        store = self.store
        names = array_files(store)
        sums = np.zeros((len(utterances), len(names)), np.uint32)
        with ExitStack() as stack:
            files = {name: stack.enter_context((self.folder / name).open("r+b", buffering=0)) for name in names}
            places = {name: extents(store, name) for name in names}
            for i, u in enumerate(utterances):
                for column, (name, values) in enumerate(_named(store, u, arrays(u))):
                    content = np.ascontiguousarray(values, dtype="<f4").data.cast("B")
                    start, stop = (int(place) for place in places[name][u : u + 2])
                    if len(content) != stop - start:
                        raise SslsimError(
                            f"checkpoint {store.checkpoint.name!r}: made {len(content):,} bytes for {name} of "
                            f"utterance {store.index.utterance.iat[u]!r}, where {stop - start:,} have room"
                        )
                    _write_at(files[name].fileno(), content, start)
                    sums[i, column] = zlib.crc32(content)
        self._mark(utterances[0], sums)

    def _mark(self, first: int, sums: NDArray[np.uint32]) -> None:
        progress = self.folder / _PROGRESS
        part = progress / f".{first}.{platform.node()}.{os.getpid()}.part"
        with part.open("wb") as file:
            np.save(file, sums)
        os.replace(part, progress / f"{first}.npy")

    def finish(self, root: Path) -> None:
        """Complete the description, see that all is on the disk, and put the store in its place."""
        store = self.store
        done, sums = self._done()
        assert done.all()
        store.index.to_csv(self.folder / INDEX_FILE, index=False)
        store.skipped.to_csv(self.folder / SKIPPED_FILE, index=False)
        np.save(self.folder / CHECKSUM_FILE, sums)
        names = [*array_files(store), *TABLES]
        content = {
            "version": STORE_VERSION,
            **{k: v for k, v in vars(store).items() if k in JSON_FIELDS},
            "checkpoint": asdict(store.checkpoint),
            "frame_rule": FRAME_RULE,
            "sample_rule": SAMPLE_RULE,
            "files": {name: (self.folder / name).stat().st_size for name in names},
            "hashes": {name: file_hash(self.folder / name) for name in TABLES},
        }
        content["hash"] = description_hash(json.loads(json.dumps(content)))
        (self.folder / STORE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for path in [*(self.folder / name for name in [*names, STORE_FILE]), self.folder]:
            _sync(path)
        self.folder.rename(root)
        _sync(root.parent)


def _named(store: ActivationStore, u: int, arrays: Arrays) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name each array of an utterance by its file, in the order of the files, once it is known to be finite."""
    parts = [(layer_file(i), f"layer {i}", state) for i, state in enumerate(arrays.hidden)]
    if arrays.final is not None:
        parts.append((FINAL_FILE, "final layer", arrays.final))
    parts += [(attention_file(i), f"attention of layer {i}", rows) for i, rows in enumerate(arrays.attention, 1)]
    for name, what, values in parts:
        if not np.isfinite(values).all():
            raise SslsimError(
                f"checkpoint {store.checkpoint.name!r}: {what} is NaN or infinite for utterance "
                f"{store.index.utterance.iat[u]!r}; its weights may be damaged, or too large for {store.dtype}"
            )
        yield name, values


def _write_at(file: int, content: memoryview, place: int) -> None:
    """Write all of it: plain writes, not a memory map, where a full disk would kill the process."""
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def drafting(root: Path, plan: Callable[[], tuple[ActivationStore, Any]], made_by: Any) -> Iterator[Draft | None]:
    """Yield the draft of the store that belongs to `root`, begun or begun again, or None if the store is there.

    One process at a time has it; others wait, and go on from where it stopped if it was killed. The draft stays on
    any exception, to be resumed, unless nothing of it is complete.

    Parameters
    ----------
    root : path
        The place of the store.
    plan : callable
        Returns the store as it will be, and what workers must know.
    made_by : object
        Libraries and machine; what others made is not gone on with.
    """
    folder, draft = _folder(root), None
    try:
        with _locked(root, folder) as ours:
            if ours:
                try:
                    draft = _begin(folder, plan, made_by)
                    yield draft
                    draft.finish(root)
                except BaseException:
                    if folder.is_dir() and not any((folder / _PROGRESS).glob("*.npy")):
                        shutil.rmtree(folder, ignore_errors=True)
                    raise
    except Unwritable as error:
        if error.root != root or not root.exists():
            raise
    except OSError as error:
        if not root.exists():  # else another process was first, without a lock that we could see: the same content
            raise Unwritable(root, error) from error
    tidy(root)
    if draft is None:
        yield None


def _folder(root: Path) -> Path:
    return root.parent / f".{root.name}.partial"


def _root(folder: Path) -> Path:
    return folder.parent / folder.name.removeprefix(".").removesuffix(".partial")


@contextmanager
def _locked(root: Path, folder: Path) -> Iterator[bool]:
    """Wait until no other process has the draft; yield whether the store is still to be made."""
    waited, gone = False, 0
    while not root.exists():
        lock = filelock.FileLock(folder / _PROGRESS / _LOCK)
        try:
            (folder / _PROGRESS).mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=_POLL)
        except filelock.Timeout:
            if not waited:
                print(f"{root.name}: waiting for another process that is making it", flush=True)
            waited = True
            continue
        except NotImplementedError:
            yield True  # no locks on this disk: whoever else writes puts the same bytes in the same places
            return
        except FileNotFoundError:  # it was renamed, or removed, between two of our steps
            gone += 1
            if gone == _TRIES:
                raise
            continue
        try:
            if (folder / _PROGRESS).is_dir() and not root.exists():
                yield True
                return
        finally:
            lock.release()
    yield False


def _begin(folder: Path, plan: Callable[[], tuple[ActivationStore, Any]], made_by: Any) -> Draft:
    store, work = plan()
    described = json.dumps([made_by, store.frame_key, store.fingerprint, store.dtype, array_files(store)]).encode()
    progress = folder / _PROGRESS
    identity = progress / "identity"
    if not identity.is_file() or identity.read_bytes() != described:
        for path in [*folder.iterdir(), *progress.iterdir()]:
            if path.is_file() and path.name != _LOCK:
                path.unlink()
        identity.write_bytes(described)
    draft = Draft(folder)
    _write_whole(progress / _PLAN, pickle.dumps((replace(store, root=folder), work), protocol=5))
    _check_space(store, folder)
    for name, shape in array_files(store).items():
        size = int(extents(store, name)[-1])
        (folder / name).touch()
        with (folder / name).open("r+b") as file:
            file.write(header(shape))
            file.truncate(size)
    draft.verify()
    return draft


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _check_space(store: ActivationStore, folder: Path) -> None:
    needed = sum(int(extents(store, name)[-1]) for name in array_files(store))
    held = sum(file.stat().st_blocks * 512 for file in folder.glob("*.npy"))
    free = shutil.disk_usage(folder).free
    if free < needed - held:
        raise SslsimError(
            f"store in {str(folder.parent)!r}: needs {(needed - held) / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free; "
            "use another disk, or fewer frames, queries or utterances"
        )


def tidy(root: Path) -> None:
    """Remove what the making of a store leaves in it, and beside it what one leaves who came as it was put there."""
    shutil.rmtree(root / _PROGRESS, ignore_errors=True)
    shutil.rmtree(_folder(root), ignore_errors=True)


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
