"""Corpus x checkpoint -> activation store, once: what is already there is reopened, nothing is loaded.

The work is cut into shards of a few utterances, which any worker can make; see `draft` for how they become a store. An
utterance is encoded by itself, so that its numbers do not depend on which others there are, and memory does not grow
with the corpus. Audio is decoded once a run: the waveforms lie in a scratch folder of the run. What was found out about
a corpus (the index) stays beside the stores, so that another checkpoint needs no look at all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from sslsim import __version__
from sslsim.activations.description import FRAME_RULE, STORE_VERSION, frame_key, open_store, signed
from sslsim.activations.draft import Task, drafting, remove_stale
from sslsim.activations.shards import cut
from sslsim.activations.store import SAMPLE_RULE, ActivationStore, Stores, sampled
from sslsim.activations.study import Study
from sslsim.encoders import load
from sslsim.encoders.encoder import Anatomy, Encoded, Encoder
from sslsim.encoders.files import checkpoint_fingerprint
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.log_mel import LogMel
from sslsim.errors import SslsimError
from sslsim.parallel import chosen_device, chosen_executor, results
from sslsim.resources import write_text
from sslsim.speech.corpus import Utterance, corpus_fingerprint
from sslsim.speech.index import Reader, Segmentation, index_of
from sslsim.speech.recording import SAMPLE_RATE, n_frames

_LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "soxr")
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
_NAMED = 5  # skipped utterances that are named on the terminal


def extract(
    study: Study | str | Path, folder: str | Path, *, executor: Executor | None = None, device: str = "auto"
) -> Stores:
    """Run the checkpoints of a study over its corpus and keep hidden states and rows of every attention map.

    An extraction that was interrupted goes on where it stopped, and ends in the same bytes.

    Parameters
    ----------
    study : Study or path
        What to extract; a path as of ``Study.read``.
    folder : path
        Where the stores lie: ``<folder>/<name>-<key>``. The key is a hash of the content of checkpoint and
        audio and of what is kept of them, so a changed file is extracted anew and nothing else is.
    executor : Executor, optional
        Work in parallel on any executor of `concurrent.futures` whose workers see the same folders; by default
        in as many threads as torch uses. On machines of one kind the numbers are the same bit for bit.
    device : str
        Where the encoders run: cpu, cuda, or auto for cuda if there is one.

    Returns
    -------
    Stores
        In lineup order (in the order of the study's checkpoints where it names some).

    Raises
    ------
    SslsimError
        Anything wrong with lineup, corpus or a checkpoint's files, before any encoder is loaded; weights
        that do not load; hidden states that are not finite.
    """
    study, out = study if isinstance(study, Study) else Study.read(study), Path(folder).absolute()
    chosen, utterances = study.selected(), study.utterances()
    audio = corpus_fingerprint(utterances)
    prints = [checkpoint_fingerprint(checkpoint) for checkpoint in chosen]
    roots = [out / f"{c.name}-{_store_key(study, audio, f)}" for c, f in zip(chosen, prints, strict=True)]
    missing = [Missing(*part) for part in zip(chosen, prints, roots, strict=True) if not part[2].exists()]
    if missing:
        executor = chosen_executor(executor)
        with _scratch(out) as keep:
            index, skipped = _index(utterances, study.segmentation, audio, out, keep, executor)
            _check_skipped(skipped, index.empty, study.strict)
            work = Work(study, utterances, audio, _kept(index, study), skipped, chosen_device(device), keep)
            threads = _threads(executor)
            try:  # in threads one checkpoint after another, so that one is in memory at a time
                for together in [[part] for part in missing] if threads else [missing]:
                    _extract_together(together, work, executor, bool(threads))
            finally:
                _encoder.cache_clear()
    # names and notes as the lineup has them now: they may have changed since, the content has not
    stores = Stores(replace(open_store(r), checkpoint=c) for c, r in zip(chosen, roots, strict=True))
    if study.strict and not missing:
        _check_skipped(stores[0].skipped, False, study.strict)
    return stores


@dataclass(frozen=True)
class Missing:
    """A store to be made."""

    checkpoint: Checkpoint
    fingerprint: str
    root: Path


@dataclass(frozen=True)
class Work:
    """What all stores of an extraction have in common."""

    study: Study
    utterances: list[Utterance]
    audio: str
    index: pd.DataFrame
    skipped: pd.DataFrame
    device: str
    keep: Path


def _store_key(study: Study, audio: str, fingerprint: str) -> str:
    """Return the hash of all on which the numbers of a store depend."""
    kept = [study.frames_per_utterance, study.queries, study.dtype]
    return _key(STORE_VERSION, FRAME_RULE, SAMPLE_RULE, audio, _lengths(study.segmentation), *kept, fingerprint)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _lengths(segmentation: Segmentation) -> list[float]:
    return [float(segmentation.piece_seconds), float(segmentation.longest_seconds)]


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Make a folder for the waveforms of this run, beside the stores, where all workers see it."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        remove_stale(out, ".speech.*")
        folder = Path(tempfile.mkdtemp(prefix=f".speech.{platform.node()}.{os.getpid()}.", dir=out))
    except OSError as error:
        raise SslsimError(f"stores in {str(out)!r}: cannot be written: {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new and not any(out.iterdir()):
            out.rmdir()


def _index(
    utterances: Sequence[Utterance],
    segmentation: Segmentation,
    audio: str,
    out: Path,
    keep: Path,
    executor: Executor | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the index of a corpus and what is left out, as kept beside the stores, or by decoding all of it once.

    So every fault in it is found before an encoder is loaded, and sizes are exact.
    """
    file = out / f"speech-{_key(audio, _lengths(segmentation), version('soundfile'), version('soxr'))}.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content == signed(content):
            return pd.DataFrame(content["index"]), pd.DataFrame(content["skipped"])
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: it is made again
        pass
    total = len(utterances)
    with tqdm(None, "reading audio", total, file=sys.stdout, mininterval=1, delay=2) as bar:
        index, skipped = index_of(utterances, segmentation, keep=keep, executor=executor, done=bar.update)
    if not index.empty:
        content = {"index": index.to_dict("list"), "skipped": skipped.to_dict("list")}
        write_text(file, json.dumps(signed(content)))
    return index, skipped


def _check_skipped(skipped: pd.DataFrame, none_left: bool, strict: bool) -> None:
    if skipped.empty:
        return
    listed = [f"{row.utterance!r}: {row.reason}" for row in skipped.head(_NAMED).itertuples()]
    more = f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    told = "; ".join(listed) + more
    if strict:
        raise SslsimError(f"{len(skipped):,} of the corpus's sounds cannot be used: {told}; mend them or drop strict")
    if none_left:
        raise SslsimError(f"no utterance of the corpus can be used: {told}")
    print(f"left out {len(skipped):,} that cannot be used (skipped.csv in each store): {told}", flush=True)


def _kept(index: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Add to the index what is kept of each utterance."""
    lengths = [n_frames(n) for n in index["n_samples"]]
    index = index.assign(length=lengths, n_frames=[len(sampled(n, study.frames_per_utterance)) for n in lengths])
    index["start"] = index["n_frames"].cumsum() - index["n_frames"]
    index["n_rows"] = [len(sampled(n, study.queries)) for n in lengths]
    return index


def _extract_together(missing: Sequence[Missing], work: Work, executor: Executor | None, threads: bool) -> None:
    """Make some stores, their shards in one row."""
    title = missing[0].checkpoint.name if len(missing) == 1 else f"{len(missing)} checkpoints"
    total = int(work.index["n_samples"].sum())  # whole numbers, whose sum is the total
    stop = threading.Event()
    # the bar first: loading takes seconds, and the first time more, to import transformers
    with (
        tqdm(
            total=total * len(missing),
            desc=title,
            bar_format=_BAR,
            unit_scale=1 / SAMPLE_RATE,
            file=sys.stdout,
            mininterval=1,
        ) as bar,
        ExitStack() as stack,
    ):
        calls: list[tuple] = []
        for part in sorted(missing, key=lambda part: part.root):  # in one order everywhere: no two wait for each other
            draft = stack.enter_context(drafting(part.root, partial(_planned, part, work, executor)))
            tasks = draft.tasks() if draft else []
            bar.update(total - sum(_samples(task) for task in tasks))
            calls += [(task, _of(task, work.utterances), work.device, work.keep) for task in tasks]
        if threads:  # of this process: they tell of every utterance, and can be told to stop
            list(results(partial(_make, stop=stop, tick=bar.update), calls, executor=executor, stop=stop))
        else:
            list(results(_make, calls, executor=executor, done=lambda i: bar.update(_samples(calls[i][0]))))


def _samples(task: Task) -> int:
    return int(task.store.index["n_samples"].sum())


def _of(task: Task, utterances: Sequence[Utterance]) -> dict[int, Utterance]:
    """Return the recordings of which a task has pieces."""
    return {number: utterances[number] for number in task.store.index["recording"].tolist()}


def _threads(executor: Executor | None) -> bool:
    """Return whether threads of this process do the work."""
    return executor is None or isinstance(executor, ThreadPoolExecutor)


def _planned(part: Missing, work: Work, executor: Executor | None) -> ActivationStore:
    """Return the store that is about to be written."""
    import torch

    call = (part.checkpoint, part.fingerprint, work.device, work.study.dtype)
    (anatomy,) = results(_anatomy, [call], executor=executor)
    index = work.index if anatomy.n_heads else work.index.assign(n_rows=0)
    frames, queries = work.study.frames_per_utterance, work.study.queries
    return ActivationStore(
        root=Path(),
        checkpoint=part.checkpoint,
        n_layers=anatomy.n_layers,
        n_neurons=anatomy.n_neurons,
        n_heads=anatomy.n_heads,
        n_frames=int(index["n_frames"].sum()),
        fingerprint=part.fingerprint,
        corpus_fingerprint=work.audio,
        normed=anatomy.normed,
        input_normed=anatomy.input_normed,
        final_norm=anatomy.final_norm,
        input=anatomy.input,
        dtype=work.study.dtype,
        frames_per_utterance=frames,
        queries=queries,
        frame_key=frame_key(index, frames, queries),
        versions={
            "sslsim": __version__,
            **{name: version(name) for name in _LIBRARIES},
            "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        },
        shards=cut((index["n_samples"] / SAMPLE_RATE).tolist()),
        index=index,
        skipped=work.skipped,
    )


_LOADING = threading.Lock()


@lru_cache(maxsize=2)  # a worker that goes from one checkpoint to the next may still need the first
def _encoder(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str) -> Encoder | LogMel:
    return load.load_encoder(checkpoint, device, dtype)


def _loaded(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str) -> Encoder | LogMel:
    with _LOADING:
        return _encoder(checkpoint, fingerprint, device, dtype)


def _anatomy(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str) -> Anatomy:
    return _loaded(checkpoint, fingerprint, device, dtype).anatomy


class _Stopped(Exception):
    """Nobody wants the rest of a shard any more."""


def _make(
    task: Task,
    utterances: dict[int, Utterance],
    device: str,
    keep: Path,
    *,
    stop: threading.Event | None = None,
    tick: Callable[[int], object] = lambda _: None,
) -> None:
    """Read, encode and write the utterances of a shard."""
    store = task.store
    encoder = _loaded(store.checkpoint, store.fingerprint, device, store.dtype)
    with Reader(utterances, keep) as reader:

        def arrays(row: Any) -> Encoded:
            if stop and stop.is_set():
                raise _Stopped
            kept = sampled(row.length, store.queries), sampled(row.length, store.frames_per_utterance)
            encoded = encoder.encode(reader.read(row), *kept)
            tick(int(row.n_samples))
            return encoded

        task.write(arrays)
