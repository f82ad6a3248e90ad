"""Speech in: a corpus becomes utterances, a file becomes mono float32 at 16 kHz, samples become frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import soxr
from numpy.typing import NDArray

from sslsim.errors import SslsimError

SAMPLE_RATE = 16_000
"""Samples per second that every encoder here was trained on."""
WINDOW = 400
"""Samples under one frame (25 ms)."""
HOP = 320
"""Samples from one frame to the next (20 ms)."""
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
"""What counts as audio when a folder is read; a manifest may name anything libsndfile reads."""


@dataclass(frozen=True)
class Utterance:
    """One audio file of a corpus.

    Attributes
    ----------
    id : str
        Unique in its corpus.
    path : Path
        The audio file.
    speaker : str
        Who speaks; ``""`` when the manifest does not say.
    n_samples : int
        Length at 16 kHz, after resampling.
    text : str
        What is said, when the manifest tells.
    """

    id: str
    path: Path
    speaker: str
    n_samples: int
    text: str = ""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / SAMPLE_RATE


def n_frames(n_samples: int) -> int:
    """Return how many frames an encoder makes of ``n_samples`` samples at 16 kHz.

    Frame ``i`` covers samples ``[320 i, 320 i + 400)``: the convolutional front end of wav2vec 2.0,
    HuBERT and their kin (windows 10, 3, 3, 3, 3, 2, 2; strides 5, 2, 2, 2, 2, 2, 2; no padding).
    """
    return max(0, (n_samples - WINDOW) // HOP + 1)


def frame_times(n_frames: int) -> NDArray[np.float64]:
    """Return the centre of each frame in seconds, shape (n_frames,): 0.0125 + 0.02 i."""
    return (np.arange(n_frames) * HOP + WINDOW / 2) / SAMPLE_RATE


def spread(n_items: int, n_wanted: int) -> NDArray[np.int64]:
    """Return ``n_wanted`` of ``range(n_items)``: the centres of equal bins, or all if there are no more.

    The one sampling rule of the package: for the attention query rows of an utterance and for
    ``max_utterances`` of a corpus. It needs no seed and does not depend on order of work.
    """
    if n_items <= n_wanted:
        return np.arange(n_items)
    return (2 * np.arange(n_wanted) + 1) * n_items // (2 * n_wanted)


def read_corpus(path: str | Path) -> list[Utterance]:
    """Read the utterances of a folder or manifest; headers only, no audio is decoded.

    Parameters
    ----------
    path : str or Path
        A folder is searched recursively for wav, flac, ogg, opus and mp3: the id is the relative path
        without suffix; the speaker is the parent folder, or for LibriSpeech's
        ``speaker/chapter/speaker-chapter-number.flac`` the first of these. A manifest (``.csv``,
        ``.tsv``, or ``.jsonl`` with one object a line) has columns ``id`` and ``path`` (relative to
        the manifest) and may have ``speaker`` and ``text``; others are ignored.

    Returns
    -------
    list of Utterance
        In the manifest's order; a folder's sorted by path.

    Raises
    ------
    SslsimError
        Nothing there, a column, file or id missing, an id twice, a file that is not audio, empty or
        shorter than one frame.
    """
    path = Path(path)
    if not path.exists():
        raise SslsimError(f"corpus {str(path)!r}: no such folder or manifest")
    rows = _folder_rows(path) if path.is_dir() else _manifest_rows(path)
    seen: set[str] = set()
    for row in rows:
        if row["id"] in seen:
            raise SslsimError(f"corpus {str(path)!r}: id {row['id']!r} occurs twice; every utterance needs its own")
        seen.add(row["id"])
    return [Utterance(**row, n_samples=_n_samples(row["path"])) for row in rows]


def _folder_rows(folder: Path) -> list[dict]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise SslsimError(f"corpus {str(folder)!r}: no audio in this folder (looked for {', '.join(SUFFIXES)})")
    return [
        {"id": file.relative_to(folder).with_suffix("").as_posix(), "path": file, "speaker": _speaker(file)}
        for file in files
    ]


def _speaker(file: Path) -> str:
    chapter, speaker = file.parent, file.parent.parent
    librispeech = file.stem.startswith(f"{speaker.name}-{chapter.name}-")
    return speaker.name if librispeech else chapter.resolve().name


def _manifest_rows(path: Path) -> list[dict]:
    table = _manifest_table(path)
    missing = [column for column in ("id", "path") if column not in table.columns]
    if missing:
        raise SslsimError(
            f"manifest {str(path)!r}: no column {' or '.join(map(repr, missing))}; "
            f"its columns are {', '.join(map(str, table.columns)) or 'none'}"
        )
    if table.empty:
        raise SslsimError(f"manifest {str(path)!r}: lists no utterance")
    table = table.reindex(columns=["id", "path", "speaker", "text"]).astype(object).fillna("").astype(str)
    rows = [{**row, "path": path.parent / row["path"]} for row in table.to_dict("records")]
    for number, row in enumerate(rows, 1):
        if not row["id"]:
            raise SslsimError(f"manifest {str(path)!r}: row {number} has no id")
        if not row["path"].is_file():
            raise SslsimError(f"manifest {str(path)!r}: row {number} ({row['id']}): no file {str(row['path'])!r}")
    return rows


def _manifest_table(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    try:
        if suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            return pd.DataFrame.from_records([json.loads(line) for line in lines if line.strip()])
        if suffix in (".csv", ".tsv"):
            # every value as written: an id 007 must not become 7, nor a speaker "NA" nothing
            return pd.read_csv(path, sep="," if suffix == ".csv" else "\t", dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (ValueError, AttributeError, TypeError) as error:
        raise SslsimError(f"manifest {str(path)!r}: cannot be read: {error}") from error
    raise SslsimError(f"corpus {str(path)!r}: neither a folder nor a manifest (.csv, .tsv, .jsonl)")


def _n_samples(path: Path) -> int:
    """Length at 16 kHz from the header; soxr rounds half up, and tests hold that."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from error
    n_samples = (2 * info.frames * SAMPLE_RATE + info.samplerate) // (2 * info.samplerate)
    _check_length(path, n_samples)
    return n_samples


def _unreadable(path: Path, error: soundfile.LibsndfileError) -> SslsimError:
    if not path.is_file():
        return SslsimError(f"audio {str(path)!r}: no such file")
    return SslsimError(f"audio {str(path)!r}: not audio, or damaged: {error.error_string or 'no reason given'}")


def _check_length(path: Path, n_samples: int) -> None:
    if n_samples == 0:
        raise SslsimError(f"audio {str(path)!r}: holds no samples")
    if n_samples < WINDOW:
        raise SslsimError(
            f"audio {str(path)!r}: {n_samples} samples at 16 kHz, shorter than one frame ({WINDOW} samples)"
        )


def load_audio(path: str | Path) -> NDArray[np.float32]:
    """Return a file's samples at 16 kHz, shape (n,), float32; channels averaged, resampled by soxr.

    Raises
    ------
    SslsimError
        No such file, not audio, cut off, empty, shorter than one frame, or a sample that is NaN or
        infinite (one such sample would make every frame NaN).
    """
    path = Path(path)
    try:
        with soundfile.SoundFile(path) as file:
            rate, declared = file.samplerate, file.frames
            samples = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(path, error) from error
    if len(samples) != declared:
        raise SslsimError(f"audio {str(path)!r}: cut off: {len(samples):,} of {declared:,} samples can be read")
    if not np.isfinite(samples).all():
        bad = int(np.argmin(np.isfinite(samples).all(axis=1)))
        raise SslsimError(f"audio {str(path)!r}: sample {bad} is NaN or infinite")
    waveform = samples.mean(axis=1)
    if rate != SAMPLE_RATE and len(waveform):
        waveform = soxr.resample(waveform, rate, SAMPLE_RATE)
    _check_length(path, len(waveform))
    return waveform


def waveform_fingerprint(waveform: NDArray[np.float32]) -> str:
    """Return the SHA-256 of the samples as little-endian float32: equal iff two models heard the same."""
    return hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").data).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def corpus_fingerprint(utterances: Iterable[Utterance]) -> str:
    """Return a SHA-256 over every utterance's id, speaker and the bytes of its file.

    File bytes, not decoded samples: it runs at disk speed, so that an extraction that is already done
    is recognised at once. Re-encoding the same samples changes it; moving the corpus does not.
    """
    total = hashlib.sha256()
    for utterance in utterances:
        total.update(f"{utterance.id}\0{utterance.speaker}\0{file_fingerprint(utterance.path)}\n".encode())
    return total.hexdigest()
