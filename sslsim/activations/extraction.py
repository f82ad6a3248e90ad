"""Corpus x checkpoint -> activation store, once: what is already there is reopened, nothing is loaded.

The work is cut into shards of a few utterances, which any worker can make; see `draft` for how they become a store.
Audio is decoded once a run. What was found out about a corpus (the index) stays beside the stores, so that another
checkpoint needs no look at all of it.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from sslsim import __version__
from sslsim.activations.arrays import MADE, of_lineup
from sslsim.activations.draft import Task, check_room, drafting, remove_stale
from sslsim.activations.results import key_of
from sslsim.activations.shards import keeping
from sslsim.activations.store import RULES, ActivationStore, Stores, open_asked, signed
from sslsim.encoders import load
from sslsim.encoders.encoder import Anatomy, Encoded, Encoder, LogMel
from sslsim.encoders.files import checkpoint_fingerprint, expected_shape, expected_step, pinned
from sslsim.encoders.lineup import Checkpoint, problem
from sslsim.errors import SslsimError
from sslsim.parallel import chosen_device, chosen_executor, results, workers_on
from sslsim.resources import write_text
from sslsim.speech.corpus import Utterance, corpus_fingerprint
from sslsim.speech.facts import speech_facts
from sslsim.speech.index import Reader, index_of
from sslsim.speech.positions import positions
from sslsim.speech.recording import HOP, SAMPLE_RATE, n_frames

if TYPE_CHECKING:
    from sslsim.activations.study import Study

_LIBRARIES = ("torch", "transformers", "numpy", "soundfile", "soxr")
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]"
_NAMED = 5  # skipped utterances that are named on the terminal
_LOADING = threading.Lock()


def extract_all(study: "Study", out: Path, executor: Executor | None, device: str) -> Stores:
    """Make the stores of a study that are not in the folder `out`, and open all; see `study.extract`."""
    every, utterances = [pinned(each) for each in study.selected()], study.utterances()
    chosen = [each for each in every if each.times is None]
    prints = {checkpoint: checkpoint_fingerprint(checkpoint) for checkpoint in chosen}
    seconds = {name: float(value) for name, value in vars(study.segmentation).items()}
    heard = {"corpus_fingerprint": corpus_fingerprint(utterances), "segmentation": seconds}
    kept = heard | {name: getattr(study, name) for name in ("frames", "queries", "dtype", "site")}
    asked = {checkpoint: kept | {"fingerprint": prints[checkpoint]} for checkpoint in chosen}
    roots = {each: out / f"{each.name}-{key_of(RULES, asked[each])[:12]}" for each in chosen}
    there = {each: open_asked(roots[each], each, asked[each]) for each in chosen if roots[each].exists()}
    missing = [checkpoint for checkpoint in chosen if checkpoint not in there]
    with suppress(OSError):  # of a run that was killed when all but its scratch folder was done
        remove_stale(out, ".speech.*")
    if missing:
        executor = chosen_executor(executor)
        device = chosen_device(device, executor)
        with _scratch(out) as keep:
            file = out / f"speech-{key_of(heard, 'facts', version('soundfile'), version('soxr'))[:12]}.json"
            index, skipped = _index(study, utterances, file, keep, executor)
            _check_skipped(skipped, index.empty, study.strict)
            index = index.assign(length=[n_frames(n) for n in index["n_samples"]])
            plan = Plan(study, utterances, heard, prints, roots, index, skipped, device, keep, executor)
            announce(missing, plan)
            try:  # in threads one checkpoint after another, so that one is in memory at a time
                threads = executor is None or isinstance(executor, ThreadPoolExecutor)
                for i, together in enumerate([[checkpoint] for checkpoint in missing] if threads else [missing], 1):
                    title = together[0].name + (f" ({i} of {len(missing)})" if len(missing) > 1 else "")
                    _extract(together, plan, title if threads else f"{len(missing)} checkpoints", threads)
            finally:
                _encoder.cache_clear()
    # names and notes as the lineup has them now: they may have changed since, the content has not
    stores = [there.get(each) or open_asked(roots[each], each, asked[each]) for each in chosen]
    if study.strict and not missing:
        _check_skipped(stores[0].skipped, False, study.strict)
    found = dict(zip(chosen, stores, strict=True))
    return Stores(found.get(each) or of_lineup(each, out, stores) for each in every)


@dataclass(frozen=True)
class Plan:
    """What all stores of an extraction have in common."""

    study: "Study"
    utterances: list[Utterance]
    heard: Mapping[str, Any]  # what a store says of the audio
    prints: Mapping[Checkpoint, str]  # those of the checkpoints
    roots: Mapping[Checkpoint, Path]  # where the stores will be
    index: pd.DataFrame
    skipped: pd.DataFrame
    device: str
    keep: Path  # where waveforms lie
    executor: Executor | None


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Make a folder for the waveforms of this run, beside the stores, where all workers see it."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".speech.{platform.node()}.{os.getpid()}.", dir=out))
    except OSError as error:
        raise SslsimError(f"stores in {str(out)!r}: cannot be written: {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new:
            with suppress(OSError):  # there is something in it
                out.rmdir()


def _index(
    study: "Study", utterances: list[Utterance], file: Path, keep: Path, executor: Executor | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the index of a corpus and what is left out, as the file tells, or by decoding all of it once."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged: it is made again
        content = json.loads(file.read_text(encoding="utf-8"))
        if content == signed(content) and content["of"] == file.name:
            return pd.DataFrame(content["index"]), pd.DataFrame(content["skipped"])
    options: dict[str, Any] = {"unit": " utterances", "file": sys.stdout, "mininterval": 1, "delay": 2}
    with tqdm(total=len(utterances), desc="reading audio", **options) as bar:
        index, skipped = index_of(utterances, study.segmentation, keep=keep, executor=executor, done=bar.update)
    if not index.empty:
        content = {"of": file.name, "index": index.to_dict("list"), "skipped": skipped.to_dict("list")}
        write_text(file, json.dumps(signed(content)))
    return index, skipped


def _check_skipped(skipped: pd.DataFrame, none_left: bool, strict: bool) -> None:
    if skipped.empty:
        return
    told = "; ".join(f"{row.utterance!r}: {row.reason}" for row in skipped.head(_NAMED).itertuples())
    told += f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
    if strict:
        raise SslsimError(f"{len(skipped):,} of the corpus's sounds cannot be used: {told}; mend them or drop strict")
    if none_left:
        raise SslsimError(f"no utterance of the corpus can be used: {told}")
    print(f"left out {len(skipped):,} that cannot be used (skipped.csv in each store): {told}", flush=True)


def announce(missing: list[Checkpoint], plan: Plan) -> None:
    """Say what is about to be extracted and about how much disk that takes; raise if there is too little."""
    seconds, sizes = plan.index["n_samples"] / SAMPLE_RATE, {}
    steps = {checkpoint: expected_step(checkpoint) for checkpoint in missing}
    usual, told = HOP / SAMPLE_RATE, plan.index["length"]
    lengths = {step: told if step == usual else (seconds / step).astype(int) for step in steps.values()}
    how: dict[str, Any] = {"frames": plan.study.frames, "queries": plan.study.queries, "heads": True}
    kept = {step: keeping(plan.index.assign(length=n), **how) for step, n in lengths.items()}
    for checkpoint, step in steps.items():
        layers, neurons, heads = expected_shape(checkpoint, plan.study.site)
        cells = int((kept[step]["index"]["n_rows"] * lengths[step]).sum())
        rows = layers * kept[step]["n_frames"] * (neurons + 1)
        sizes[plan.roots[checkpoint]] = 4 * (rows + (layers - 1) * heads * cells)
    total = seconds.sum()
    audio = f"{total / 3600:.1f} hours" if total > 5400 else f"{-(-total // 60):.0f} minutes"
    what = f"to extract on {plan.device}: {audio} of audio by {len(missing)} of {len(plan.roots)} checkpoints"
    for step in sorted(lengths):
        what += f", {kept[step]['n_frames']:,} of {lengths[step].sum():,} frames"
        what += f" of {1000 * step:.3g} ms" if {*lengths} != {usual} else ""
    what += " to be kept"
    if plan.study.site == "ffn":
        what += ", of units of feed-forward layers: without attention, and without log-mel"
    print(f"{what}; this takes about {check_room(sizes, what)}", flush=True)
    print(*(f"{key}: {told}" for key, told in speech_facts(plan.index).items()), sep="\n", flush=True)


def _extract(checkpoints: list[Checkpoint], plan: Plan, title: str, threads: bool) -> None:
    """Make some stores, their shards in one row; `threads` of this process or others do it."""
    total = int(plan.index["n_samples"].sum()) * len(checkpoints)  # whole numbers, whose sum is the total
    options: dict[str, Any] = {"bar_format": _BAR, "unit_scale": 1 / SAMPLE_RATE, "file": sys.stdout, "mininterval": 1}
    where: dict[str, Any] = {"executor": plan.executor, "workers": workers_on(plan.device)}
    stop, tasks = threading.Event(), []
    # the bar first: loading takes seconds, and the first time more, to import transformers
    with tqdm(total=total, desc=title, **options) as bar, ExitStack() as stack:
        for checkpoint in sorted(checkpoints, key=lambda c: plan.roots[c]):  # in one order everywhere: no deadlock
            draft = stack.enter_context(drafting(plan.roots[checkpoint], partial(_planned, checkpoint, plan)))
            tasks += draft.tasks() if draft else []
        samples = [int(task.store.index["n_samples"].sum()) for task in tasks]
        bar.update(total - sum(samples))
        pieces = [{n: plan.utterances[n] for n in task.store.index["recording"].tolist()} for task in tasks]
        calls = [(task, some, plan.device, plan.keep) for task, some in zip(tasks, pieces, strict=True)]

        def tick(n_samples: int) -> None:
            if stop.is_set():
                raise CancelledError
            bar.update(n_samples)

        if threads:  # they tell of every utterance, and can be told to stop
            list(results(partial(_make, tick=tick), calls, **where, stop=stop))
        else:
            list(results(_make, calls, **where, done=lambda i: bar.update(samples[i])))


def _planned(checkpoint: Checkpoint, plan: Plan) -> ActivationStore:
    """Return the store that is about to be written."""
    import torch

    study = plan.study
    call = (checkpoint, plan.prints[checkpoint], plan.device, study.dtype, study.site)
    (anatomy,) = results(_anatomy, [call], executor=plan.executor)
    lengths = [anatomy.clock.n_frames(n) for n in plan.index["n_samples"].tolist()]
    how: dict[str, Any] = {"heads": anatomy.n_heads > 0, "clock": anatomy.clock}
    versions = {"sslsim": __version__} | {name: version(name) for name in _LIBRARIES}
    return ActivationStore(
        root=Path(),
        checkpoint=checkpoint,
        **vars(anatomy),
        fingerprint=plan.prints[checkpoint],
        **plan.heard,
        dtype=study.dtype,
        site=study.site,
        **keeping(plan.index.assign(length=lengths), study.frames, study.queries, **how),
        versions=versions | {"processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"},
        skipped=plan.skipped,
    )


@lru_cache(maxsize=2)  # a worker that goes from one checkpoint to the next may still need the first
def _encoder(checkpoint: Checkpoint, fingerprint: str, device: str, dtype: str, site: str) -> Encoder | LogMel:
    return load.load_encoder(checkpoint, device, dtype, site)


def _loaded(*call: Any) -> Encoder | LogMel:
    with _LOADING:
        return _encoder(*call)


def encoded_again(
    store: ActivationStore, waveforms: Mapping[int, NDArray[np.float32]], device: str = "auto"
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield all layers on all frames of utterances, (layers, T, n_neurons) with their numbers, whatever is kept.

    The encoder runs again; it is an error if it is not there any more, or another one.
    """
    if waveforms:
        if store.input["features"] == MADE:
            raise problem(store.checkpoint, "is made of arrays, and of these no other frames were kept")
        if checkpoint_fingerprint(store.checkpoint) != store.fingerprint:
            raise problem(store.checkpoint, "its files have changed since it was extracted")
        encoder = _loaded(store.checkpoint, store.fingerprint, chosen_device(device), store.dtype, store.site)
        for u, waveform in waveforms.items():
            yield u, encoder.encode(waveform, ()).hidden


def _anatomy(*call: Any) -> Anatomy:
    return _loaded(*call).anatomy


def _make(task: Task, some: dict[int, Utterance], device: str, keep: Path, tick: Callable[[int], Any] = int) -> None:
    """Read, encode and write the utterances of a shard; `tick` is told the samples of each, and may break it off."""
    store = task.store
    encoder = _loaded(store.checkpoint, store.fingerprint, device, store.dtype, store.site)
    with Reader(some, keep) as reader:

        def arrays(row: Any) -> Encoded:
            kept = [positions(row.length, stride) for stride in (store.query_stride, store.frame_stride)]
            encoded = encoder.encode(reader.read(row), *kept)
            tick(int(row.n_samples))
            return encoded

        task.write(arrays)
