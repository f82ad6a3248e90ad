"""What a run would do, told without doing any of it: checkpoints, speech, disk and time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sslsim.errors import SslsimError
from sslsim.resources import size_told

if TYPE_CHECKING:
    from sslsim.activations import Study
    from sslsim.reports.runner import Run

_HOUR = 100.0, 26e-6  # core-seconds for an hour of speech on each of two cores: of any model, and for a layer's weight


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forecast(runs: Sequence[Run]) -> int:
    """Print what runs would do and return 0; of audio only headers are read, and nothing is written."""
    for one in runs:
        before = [one.known[job.name]["seconds"] for job in one.jobs if job.name in one.known]
        took = f", {_duration(sum(before))} for {len(before)} of them the last time" if before else ""
        print(f"{one.out}: {', '.join(job.name for job in one.jobs)}{took}")
    for study, call in {key: call for one in runs for key, call in one.calls().items()}.values():
        print(*_of_study(study, Path(call["folder"])), sep="\n")
    return 0


def _of_study(study: Study, store: Path) -> list[str]:
    import pandas as pd

    from sslsim.activations.store import keeping
    from sslsim.encoders.files import expected_shape
    from sslsim.speech.recording import SAMPLE_RATE, n_frames

    chosen, samples, unread = study.selected(), [], 0
    for utterance in study.utterances():
        try:
            seconds = utterance.n_samples / SAMPLE_RATE
        except (SslsimError, OSError, ValueError):
            unread += 1
            continue
        pieces = max(1, -int(-seconds // study.segmentation.piece_seconds))
        samples += [utterance.n_samples // pieces] * pieces if seconds <= study.segmentation.longest_seconds else []
    index = pd.DataFrame({"utterance": "", "waveform": "", "n_samples": samples})
    index["length"] = [n_frames(n) for n in samples]
    kept = keeping(index, study.frames, study.queries, heads=True)
    cells, hours = int((kept["index"]["n_rows"] * index["length"]).sum()), sum(samples) / SAMPLE_RATE / 3600
    shapes = [expected_shape(checkpoint) for checkpoint in chosen]
    size = sum(4 * (a * kept["n_frames"] * (n + 1) + (a - 1) * heads * cells) for a, n, heads in shapes)
    seconds = sum(hours * (_HOUR[0] + _HOUR[1] * a * n**2) * 2 / processors() for a, n, _ in shapes)
    there = [c.name for c in chosen if [*store.glob(f"{c.name}-{'[0-9a-f]' * 12}")]]
    beside = next(folder for folder in (store, *store.absolute().parents) if folder.is_dir())
    return [
        f"checkpoints: {', '.join(checkpoint.name for checkpoint in chosen)}",
        f"speech: {len(samples):,} utterances, {_duration(hours * 3600)}" + f", {unread:,} unreadable" * bool(unread),
        f"frames: {kept['n_frames']:,} of {index['length'].sum():,} to be kept of each layer",
        f"disk: about {size_told(size)} in {str(store)!r}, where {size_told(shutil.disk_usage(beside).free)} are free",
        f"time: about {_duration(seconds)} of extraction on {processors()} cores, and then the notebooks",
        f"stores: of {len(there)} of {len(chosen)} there is one already; it is used if it is of this speech",
    ]


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
