"""Corpus x checkpoint -> activation store, once: what is already there is reopened, nothing is loaded.

A store is written utterance by utterance into a temporary folder beside its place and renamed when
complete, so that nothing half-written is ever seen and memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from sslsim import __version__, models
from sslsim.audio import (
    Utterance,
    corpus_fingerprint,
    load_audio,
    n_frames,
    read_corpus,
    spread,
    waveform_fingerprint,
)
from sslsim.errors import SslsimError
from sslsim.lineup import Checkpoint, checkpoint_fingerprint, read_lineup, select
from sslsim.parallel import results
from sslsim.store import (
    FRAME_RULE,
    ROW_RULE,
    STORE_VERSION,
    ActivationStore,
    frame_key,
    open_store,
    query_rows,
)
from sslsim.writer import ArrayFiles, temporary, write_description

_LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "soxr")
# utterances, beyond one a thread, that may wait to be written: 35 s at large size take 180 MB, and their attention
AHEAD = 4
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"


def extract(
    lineup: str | Path | Sequence[Checkpoint],
    corpus: str | Path,
    out: str | Path,
    *,
    checkpoints: Sequence[str] = (),
    max_utterances: int | None = None,
    queries: int | str = 16,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: bool = True,
) -> list[ActivationStore]:
    """Run checkpoints over a corpus and keep every hidden state and rows of every attention map.

    Parameters
    ----------
    lineup : path or sequence of Checkpoint
        A lineup file (see ``read_lineup``), or its checkpoints.
    corpus : path
        A folder or manifest (see ``read_corpus``).
    out : path
        Where the stores lie: ``<out>/<name>-<key>``. The key is a hash of the content of checkpoint and
        audio and of the options below, so a changed file is extracted anew and nothing else is.
    checkpoints : sequence of str
        Which of the lineup; all when empty.
    max_utterances : int, optional
        At most so many, evenly spread over the corpus.
    queries : int or "all"
        At most so many query rows of each attention map, evenly spread over the utterance; 0 for none.
    executor : Executor, optional
        Run checkpoints side by side on any executor of `concurrent.futures` whose workers see the same folders; an
        executor of threads, by default as many as torch uses, runs them one after the other, its threads an utterance
        each. On machines of one kind the numbers are the same bit for bit.
    device : str
        Where the encoders run.
    progress : bool
        Show a bar a checkpoint.

    Returns
    -------
    list of ActivationStore
        In lineup order (in the order of ``checkpoints`` when given).

    Raises
    ------
    SslsimError
        Anything wrong with lineup, audio or a checkpoint's files, before any encoder is loaded; weights
        that do not load; hidden states that are not finite. No store is left behind half-written.
    """
    _check_options(max_utterances, queries)
    chosen = select(read_lineup(lineup) if isinstance(lineup, str | Path) else lineup, checkpoints)
    utterances = [replace(u, path=u.path.absolute()) for u in read_corpus(corpus)]
    if max_utterances is not None:
        utterances = [utterances[i] for i in spread(len(utterances), max_utterances)]
    audio = corpus_fingerprint(utterances)
    rule = [STORE_VERSION, FRAME_RULE, ROW_RULE, audio, max_utterances, queries]
    prints = [checkpoint_fingerprint(checkpoint) for checkpoint in chosen]
    roots = [Path(out).absolute() / f"{c.name}-{_key(*rule, f)}" for c, f in zip(chosen, prints, strict=True)]
    missing = [part for part in zip(chosen, prints, roots, strict=True) if not part[2].exists()]
    if missing:
        index = _index(utterances, queries, progress)
        calls = [(*part, utterances, index, audio, queries, device) for part in missing]
        if executor is None or isinstance(executor, ThreadPoolExecutor):
            for call in calls:
                _extract_one(*call, threads=executor, progress=progress)
        else:
            with tqdm(total=len(calls), desc="checkpoints", file=sys.stdout, disable=not progress) as bar:
                list(results(_extract_one, calls, executor=executor, done=lambda _: bar.update()))
    # names and notes as the lineup has them now: they may have changed since, the content has not
    return [replace(open_store(r), checkpoint=c) for c, r in zip(chosen, roots, strict=True)]


def _check_options(max_utterances: int | None, queries: int | str) -> None:
    if max_utterances is not None and max_utterances < 1:
        raise SslsimError(f"max_utterances is {max_utterances}; it must be at least 1, or None for all")
    if queries != "all" and not (type(queries) is int and queries >= 0):
        raise SslsimError(f"queries is {queries!r}; it must be 'all' or a number of rows, 0 for no attention")


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _extract_one(
    checkpoint: Checkpoint,
    fingerprint: str,
    root: Path,
    utterances: Sequence[Utterance],
    index: pd.DataFrame,
    audio: str,
    queries: int | str,
    device: str,
    *,
    threads: ThreadPoolExecutor | None = None,
    progress: bool = False,
) -> None:
    """Write one store, whole or not at all."""
    seconds = sum(utterance.seconds for utterance in utterances)
    # the bar first: loading takes seconds, and the first time more, to import transformers
    with (
        tqdm(
            total=seconds, desc=checkpoint.name, bar_format=_BAR, file=sys.stdout, mininterval=1, disable=not progress
        ) as bar,
        temporary(root) as folder,
    ):
        encoder = models.load_encoder(checkpoint, device)
        store = _plan(folder, encoder, index, fingerprint, audio, queries)
        _write_arrays(store, encoder, utterances, threads, bar)
        write_description(store)


def _index(utterances: Sequence[Utterance], queries: int | str, progress: bool) -> pd.DataFrame:
    """Decode all audio once: every fault in it is found before an encoder is loaded, and sizes are exact."""
    bar = tqdm(utterances, "reading audio", file=sys.stdout, mininterval=1, delay=2, disable=not progress)
    rows = []
    for utterance in bar:
        waveform = load_audio(utterance.path)
        frames = n_frames(len(waveform))
        rows.append(
            {
                "utterance": utterance.id,
                "speaker": utterance.speaker,
                "n_samples": len(waveform),
                "n_frames": frames,
                "start": 0,
                "n_rows": len(query_rows(frames, queries)),
                "waveform": waveform_fingerprint(waveform),
            }
        )
    index = pd.DataFrame(rows)
    index["start"] = index["n_frames"].cumsum() - index["n_frames"]
    return index


def _plan(
    root: Path, encoder: models.Encoder, index: pd.DataFrame, fingerprint: str, audio: str, queries: int | str
) -> ActivationStore:
    """Return the store that is about to be written into ``root``."""
    return ActivationStore(
        root=root,
        checkpoint=encoder.checkpoint,
        n_layers=encoder.n_layers,
        n_neurons=encoder.n_neurons,
        n_heads=encoder.n_heads,
        n_frames=int(index["n_frames"].sum()),
        fingerprint=fingerprint,
        corpus_fingerprint=audio,
        pre_norm=encoder.pre_norm,
        queries=queries,
        frame_key=frame_key(index, queries),
        versions={"sslsim": __version__} | {name: version(name) for name in _LIBRARIES},
        index=index,
    )


def _write_arrays(
    store: ActivationStore,
    encoder: models.Encoder,
    utterances: Sequence[Utterance],
    threads: ThreadPoolExecutor | None,
    bar: tqdm,
) -> None:
    """Encode utterances side by side, each with one thread of torch, and write them in order."""
    import torch  # loading the encoder has imported it

    calls = [(encoder, u, store.query_rows(i), store.index["waveform"].iat[i]) for i, u in enumerate(utterances)]
    ahead = AHEAD + (threads._max_workers if threads else torch.get_num_threads())
    with ExitStack() as stack:
        files = ArrayFiles(store, stack)
        for utterance, encoded in zip(utterances, results(_encode, calls, executor=threads, ahead=ahead), strict=True):
            files.append(encoded, utterance.id)
            bar.update(utterance.seconds)


def _encode(encoder: models.Encoder, utterance: Utterance, rows: NDArray[np.int64], fingerprint: str) -> models.Encoded:
    waveform = load_audio(utterance.path)
    if waveform_fingerprint(waveform) != fingerprint:
        raise SslsimError(f"audio {str(utterance.path)!r}: changed while it was being extracted")
    return encoder.encode(waveform, rows)
