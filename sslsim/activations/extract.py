"""Corpus x checkpoint -> activation store, once: what is already there is reopened, nothing is loaded.

The work is cut into shards of a few utterances, which any worker can do; see `writer` for how they become a store. An
utterance is read, encoded and written by itself, so that its numbers do not depend on which others there are, and
memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from sslsim import __version__
from sslsim.activations.shards import Draft, drafting, tidy
from sslsim.activations.store import (
    FRAME_RULE,
    SAMPLE_RULE,
    STORE_VERSION,
    ActivationStore,
    Stores,
    frame_key,
    open_store,
    sampled,
)
from sslsim.encoders import load as models
from sslsim.encoders.encoder import Anatomy, Encoded
from sslsim.encoders.lineup import Checkpoint, checkpoint_fingerprint, read_lineup, select
from sslsim.errors import SslsimError
from sslsim.parallel import results
from sslsim.speech.corpus import Draw, Limits, Reader, Utterance, corpus_fingerprint, index_of, read_corpus
from sslsim.speech.recording import SAMPLE_RATE, n_frames

_LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "soxr")
SHARD_SECONDS = 60.0  # of audio in one shard: what is lost when it is interrupted
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
_NAMED = 5  # skipped utterances that are named on the terminal


def extract(
    lineup: str | Path | Sequence[Checkpoint],
    corpus: str | Path | Any,
    out: str | Path,
    *,
    checkpoints: Sequence[str] = (),
    max_utterances: int | None = None,
    max_seconds: float | None = None,
    per_speaker: int | None = None,
    seed: int = 0,
    piece_seconds: float = Limits.piece_seconds,
    longest_seconds: float = Limits.longest_seconds,
    strict: bool = False,
    frames: int | str = "all",
    queries: int | str = 16,
    shard_seconds: float = SHARD_SECONDS,
    executor: Executor | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: bool = True,
) -> Stores:
    """Run checkpoints over a corpus and keep hidden states and rows of every attention map.

    An extraction that was interrupted goes on where it stopped, and ends in the same bytes.

    Parameters
    ----------
    lineup : path or sequence of Checkpoint
        A lineup file or the name of one that comes with sslsim (see ``read_lineup``), or its checkpoints.
    corpus : path or datasets.Dataset
        A folder, a manifest or a dataset (see ``read_corpus``).
    out : path
        Where the stores lie: ``<out>/<name>-<key>``. The key is a hash of the content of checkpoint and
        audio and of what is kept of them, so a changed file is extracted anew and nothing else is.
    checkpoints : sequence of str
        Which of the lineup; all when empty.
    max_utterances, max_seconds, per_speaker, seed
        Draw a sample of the corpus: at most so many utterances, so much audio, so many utterances of
        each speaker. See `corpus.Draw`.
    piece_seconds, longest_seconds : float
        Longer utterances are cut into equal pieces, or left out. See `corpus.Limits`.
    strict : bool
        Raise if there is an utterance that cannot be used (unreadable, cut off, NaN, silent, shorter than a
        frame, too long) instead of leaving it out; ``store.skipped`` lists what was.
    frames, queries : int or "all"
        At most so many frames of each utterance, and query rows of each of its attention maps, evenly
        spread; 0 queries for no attention.
    shard_seconds : float
        Audio that is worked on between two points from which an interrupted extraction can go on.
    executor : Executor, optional
        Work in parallel on any executor of `concurrent.futures` whose workers see the same folders; by default
        in as many threads as torch uses. On machines of one kind the numbers are the same bit for bit.
    device : str
        Where the encoders run.
    dtype : str
        What they compute in: float32, or bfloat16 or float16, which are quicker on a GPU and wrong by about
        a hundredth. What is stored is float32.
    progress : bool
        Show a bar a checkpoint, and say what was left out.

    Returns
    -------
    Stores
        In lineup order (in the order of ``checkpoints`` when given).

    Raises
    ------
    SslsimError
        Anything wrong with lineup, corpus or a checkpoint's files, before any encoder is loaded; weights
        that do not load; hidden states that are not finite.
    """
    draw, limits = Draw(max_utterances, max_seconds, per_speaker, seed), Limits(piece_seconds, longest_seconds)
    _check_options(frames, queries, shard_seconds, dtype)
    chosen = select(read_lineup(lineup) if isinstance(lineup, str | Path) else lineup, checkpoints)
    utterances = [replace(u, path=u.path.absolute()) if not u.clip else u for u in draw.of(read_corpus(corpus))]
    audio = corpus_fingerprint(utterances)
    rule = [STORE_VERSION, FRAME_RULE, SAMPLE_RULE, audio, astuple(limits), frames, queries, dtype]
    prints = [checkpoint_fingerprint(checkpoint) for checkpoint in chosen]
    roots = [Path(out).absolute() / f"{c.name}-{_key(*rule, f)}" for c, f in zip(chosen, prints, strict=True)]
    missing = [part for part in zip(chosen, prints, roots, strict=True) if not part[2].exists()]
    if missing:
        index, skipped = _look(utterances, limits, executor, progress)
        _check_skipped(skipped, index.empty, strict, progress)
        request = Request(utterances, audio, _sampled(index, frames, queries), skipped, frames, queries, device, dtype)
        threads = _threads(executor)
        try:  # in threads one checkpoint after another, so that one is in memory at a time
            for together in [[part] for part in missing] if threads else [missing]:
                _extract_together(together, request, shard_seconds, executor, threads, progress)
        finally:
            _encoder.cache_clear()
    for root in roots:
        tidy(root)
    # names and notes as the lineup has them now: they may have changed since, the content has not
    stores = Stores(replace(open_store(r), checkpoint=c) for c, r in zip(chosen, roots, strict=True))
    if strict and not missing:
        _check_skipped(stores[0].skipped, False, strict, progress)
    return stores


@dataclass(frozen=True)
class Request:
    """What is wanted of every checkpoint, and what a worker must know."""

    utterances: list[Utterance]
    audio: str
    index: pd.DataFrame
    skipped: pd.DataFrame
    frames: int | str
    queries: int | str
    device: str
    dtype: str


def _check_options(frames: int | str, queries: int | str, shard_seconds: float, dtype: str) -> None:
    if frames != "all" and not (type(frames) is int and frames >= 1):
        raise SslsimError(f"frames is {frames!r}; it must be 'all' or a number of frames, 1 or more")
    if queries != "all" and not (type(queries) is int and queries >= 0):
        raise SslsimError(f"queries is {queries!r}; it must be 'all' or a number of rows, 0 for no attention")
    if not isinstance(shard_seconds, int | float) or not shard_seconds > 0:
        raise SslsimError(f"shard_seconds is {shard_seconds!r}; it must be a number above 0")
    if dtype not in models.DTYPES:
        raise SslsimError(f"dtype is {dtype!r}; known: {', '.join(models.DTYPES)}")


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _look(
    utterances: Sequence[Utterance], limits: Limits, executor: Executor | None, progress: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode all audio once: every fault in it is found before an encoder is loaded, and sizes are exact."""
    total = len(utterances)
    with tqdm(None, "reading audio", total, file=sys.stdout, mininterval=1, delay=2, disable=not progress) as bar:
        return index_of(utterances, limits, executor=executor, done=bar.update)


def _check_skipped(skipped: pd.DataFrame, none_left: bool, strict: bool, progress: bool) -> None:
    if skipped.empty:
        return
    listed = [f"{row.utterance!r}: {row.reason}" for row in skipped.head(_NAMED).itertuples()]
    more = f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    told = "; ".join(listed) + more
    if strict:
        raise SslsimError(f"{len(skipped):,} of the corpus's sounds cannot be used: {told}; mend them or drop strict")
    if none_left:
        raise SslsimError(f"no utterance of the corpus can be used: {told}")
    if progress:
        print(f"left out {len(skipped):,} that cannot be used (skipped.csv in each store): {told}", flush=True)


def _sampled(index: pd.DataFrame, frames: int | str, queries: int | str) -> pd.DataFrame:
    """Add to the index what is kept of each utterance."""
    lengths = [n_frames(n) for n in index["n_samples"]]
    index = index.assign(length=lengths, n_frames=[len(sampled(n, frames)) for n in lengths])
    index["start"] = index["n_frames"].cumsum() - index["n_frames"]
    index["n_rows"] = [len(sampled(n, queries)) for n in lengths]
    return index


def _extract_together(
    missing: Sequence[tuple[Checkpoint, str, Path]],
    request: Request,
    shard_seconds: float,
    executor: Executor | None,
    threads: int,
    progress: bool,
) -> None:
    """Make some stores, their shards in one row."""
    title = missing[0][0].name if len(missing) == 1 else f"{len(missing)} checkpoints"
    samples = request.index["n_samples"].to_numpy()  # whole numbers, whose sum is the total
    options: dict[str, Any] = {"bar_format": _BAR, "unit_scale": 1 / SAMPLE_RATE, "file": sys.stdout, "mininterval": 1}
    stop = threading.Event()
    # the bar first: loading takes seconds, and the first time more, to import transformers
    with (
        tqdm(total=int(samples.sum()) * len(missing), desc=title, disable=not progress, **options) as bar,
        ExitStack() as stack,
    ):
        shards: list[tuple[Draft, list[int]]] = []
        for part in sorted(missing, key=lambda part: part[2]):  # in one order everywhere: no two wait for each other
            draft = stack.enter_context(drafting(part[2], partial(_plan, *part[:2], request, executor), _made_by()))
            left = draft.missing() if draft else []
            bar.update(int(samples.sum() - samples[left].sum()))
            most = min(shard_seconds, samples[left].sum() / SAMPLE_RATE / max(threads, 1))  # something for each of them
            shards += [(draft, some) for some in _cut(left, samples / SAMPLE_RATE, most)] if draft else []
        if threads:  # of this process: they tell of every utterance, and can be told to stop
            shard = partial(_shard, stop=stop, tick=lambda u: bar.update(int(samples[u])))
            list(results(shard, shards, executor=executor, stop=stop))
        else:
            sizes = [int(samples[numbers].sum()) for _, numbers in shards]
            list(results(_shard, shards, executor=executor, done=lambda i: bar.update(sizes[i])))


def _threads(executor: Executor | None) -> int:
    """Return how many threads of this process do the work, 0 if it is done elsewhere."""
    if executor is not None and not isinstance(executor, ThreadPoolExecutor):
        return 0
    import torch

    return executor._max_workers if executor else torch.get_num_threads()


def _made_by() -> dict[str, Any]:
    """Name what must be the same for an interrupted extraction to go on: libraries and kind of processor."""
    import torch

    return {
        "versions": {name: version(name) for name in _LIBRARIES},
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def _plan(
    checkpoint: Checkpoint, fingerprint: str, request: Request, executor: Executor | None
) -> tuple[ActivationStore, Request]:
    """Return the store that is about to be written."""
    (anatomy,) = results(_anatomy, [(checkpoint, fingerprint, request.device, request.dtype)], executor=executor)
    index = request.index if anatomy.n_heads else request.index.assign(n_rows=0)
    store = ActivationStore(
        root=Path(),
        checkpoint=checkpoint,
        n_layers=anatomy.n_layers,
        n_neurons=anatomy.n_neurons,
        n_heads=anatomy.n_heads,
        n_frames=int(index["n_frames"].sum()),
        fingerprint=fingerprint,
        corpus_fingerprint=request.audio,
        normed=anatomy.normed,
        input_normed=anatomy.input_normed,
        final_norm=anatomy.final_norm,
        heard=anatomy.heard,
        dtype=request.dtype,
        frames=request.frames,
        queries=request.queries,
        frame_key=frame_key(index, request.frames, request.queries),
        versions={"sslsim": __version__} | {name: version(name) for name in _LIBRARIES},
        index=index,
        skipped=request.skipped,
    )
    return store, request


_LOADING = threading.Lock()


@lru_cache(maxsize=2)  # a worker that goes from one checkpoint to the next may still need the first
def _encoder(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str) -> models.Encoder | models.LogMel:
    return models.load_encoder(checkpoint, device, dtype)


def _loaded(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str) -> models.Encoder | models.LogMel:
    with _LOADING:
        return _encoder(checkpoint, fingerprint, device, dtype)


def _anatomy(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str) -> Anatomy:
    return _loaded(checkpoint, fingerprint, device, dtype).anatomy


def _cut(numbers: list[int], seconds: NDArray[np.float64], most: float) -> Iterator[list[int]]:
    """Cut the numbers of utterances into runs of consecutive ones, each of at most so much audio or of one."""
    run: list[int] = []
    for u in numbers:
        if run and (u != run[-1] + 1 or seconds[run].sum() + seconds[u] > most):
            yield run
            run = []
        run.append(u)
    if run:
        yield run


class _Stopped(Exception):
    """Nobody wants the rest of a shard any more."""


def _shard(
    draft: Draft,
    numbers: list[int],
    *,
    stop: threading.Event | None = None,
    tick: Callable[[int], object] | None = None,
) -> None:
    """Read, encode and write some utterances."""
    store, request = draft.store, draft.work
    encoder = _loaded(store.checkpoint, store.fingerprint, request.device, request.dtype)
    rows: dict[int, Any] = dict(zip(numbers, store.index.iloc[numbers].itertuples(), strict=True))
    with Reader(request.utterances) as reader:

        def arrays(u: int) -> Encoded:
            if stop and stop.is_set():
                raise _Stopped
            length = rows[u].length
            kept = sampled(length, store.queries), sampled(length, store.frames)
            encoded = encoder.encode(reader.read(rows[u]), *kept)
            if tick:
                tick(u)
            return encoded

        draft.write(numbers, arrays)
