"""A corpus in: folder, manifest or dataset becomes utterances, of which some are drawn and each is cut and checked.

Nothing here stops for a file that is no good: it is left out and named, with the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.encoders.named import as_html
from sslsim.errors import SslsimError, close_match
from sslsim.parallel import results
from sslsim.speech.recording import (
    SAMPLE_RATE,
    SUFFIXES,
    AudioError,
    Clip,
    Recording,
    Source,
    at_16_khz,
    check_length,
    content_fingerprint,
    is_silent,
    waveform_fingerprint,
)

MISSES = 20  # utterances in a row that are too long for what is left, after which a sample by seconds is full
SHOWN = 8  # utterances in a notebook
TOGETHER = 16  # utterances that are checked in one call
INDEX = ("utterance", "speaker", "recording", "begin", "end", "n_samples", "waveform")


@dataclass(frozen=True)
class Utterance:
    """One recording of a corpus.

    Attributes
    ----------
    id : str
        Unique in its corpus.
    path : Path
        The audio file; for a row of a dataset, what the row calls it.
    speaker : str
        Who speaks; ``""`` when nobody says.
    text : str
        What is said, when the manifest or dataset tells.
    clip : Clip or None
        The sound itself where it is no file of its own.
    """

    id: str
    path: Path
    speaker: str = ""
    text: str = ""
    clip: Clip | None = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> Source:
        """Where the sound is read from."""
        return self.clip or self.path

    @cached_property
    def n_samples(self) -> int:
        """Length at 16 kHz, after resampling; only the header is read."""
        with Recording(self.source) as recording:
            return at_16_khz(recording.n, recording.rate)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / SAMPLE_RATE


class Corpus(list[Utterance]):
    """The utterances of a corpus in their order; in a notebook a table of the first, with counts."""

    def _repr_html_(self) -> str:
        speakers = {utterance.speaker for utterance in self} - {""}
        silent = sum(not utterance.text for utterance in self)
        told = f"{len(self):,} utterances of {len(speakers):,} named speakers, {len(self) - silent:,} with text"
        columns = ("id", "speaker", "text", "path")
        rows = [{column: str(getattr(utterance, column)) for column in columns} for utterance in self[:SHOWN]]
        more = [dict.fromkeys(columns, "…")] if len(self) > SHOWN else []
        return as_html(columns, rows + more, told)


@dataclass(frozen=True)
class Draw:
    """Which utterances of a corpus to take.

    Utterances are ranked by a hash of seed and id, so that what is drawn does not depend on their order, and one more
    or less in the corpus moves at most one other in or out.

    Attributes
    ----------
    max_utterances, per_speaker : int or None
        At most so many, of all and of each speaker.
    max_seconds : float or None
        At most so much audio.
    seed : int
        Another seed draws another sample.
    """

    max_utterances: int | None = None
    max_seconds: float | None = None
    per_speaker: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_utterances", "per_speaker"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Integral):
                raise SslsimError(f"{name} is {value!r}; it must be a whole number, or None for all")
            if value is not None and not int(value) >= 1:
                raise SslsimError(f"{name} is {value}; it must be at least 1, or None for all")
        seconds = self.max_seconds
        if seconds is not None and not isinstance(seconds, Real):
            raise SslsimError(f"max_seconds is {seconds!r}; it must be a number, or None for all")
        if seconds is not None and not seconds >= 0.025:
            raise SslsimError(f"max_seconds is {seconds}; it must be at least one frame, 0.025, or None for all")

    def of(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those drawn, in the corpus's order."""
        if self.max_utterances is self.max_seconds is self.per_speaker is None:
            return list(utterances)
        ranks = {u.id: hashlib.sha256(f"{self.seed}\0{u.id}".encode()).digest() for u in utterances}
        ranked = sorted(utterances, key=lambda u: ranks[u.id])
        if self.per_speaker is not None:
            met: Counter[str] = Counter()
            ranked = [u for u in ranked if (met.update([u.speaker]) or met[u.speaker]) <= self.per_speaker]
        ranked = ranked[: self.max_utterances]
        if self.max_seconds is not None:
            ranked = list(_within(ranked, self.max_seconds * SAMPLE_RATE))
            if not ranked:
                raise SslsimError(f"max_seconds is {self.max_seconds:g}; no utterance is so short, give more")
        chosen = {u.id for u in ranked}
        return [u for u in utterances if u.id in chosen]


def _within(ranked: Iterable[Utterance], left: float) -> Iterator[Utterance]:
    """Yield utterances until the samples are used up; those without a length too, to be reported."""
    misses = 0
    for utterance in ranked:
        try:
            n = utterance.n_samples
        except AudioError:
            n = 0
        if n <= left:
            left, misses = left - n, 0
            yield utterance
        else:
            misses += 1
            if misses == MISSES:
                return


def read_corpus(corpus: str | Path | Any) -> Corpus:
    """Read the list of utterances of a corpus; no audio is opened.

    Parameters
    ----------
    corpus : str, Path or datasets.Dataset
        A folder is searched recursively for wav, flac, ogg, opus and mp3: the id is the relative path
        without suffix; the speaker is the parent folder, or for LibriSpeech's
        ``speaker/chapter/speaker-chapter-number.flac`` the first of these. A manifest (``.csv``,
        ``.tsv``, or ``.jsonl`` with one object a line) has columns ``id`` and ``path`` (relative to
        the manifest) and may have ``speaker`` and ``text``; others are ignored. A dataset of the
        package datasets, or the folder that its ``save_to_disk`` left, has a column ``audio`` and may
        have ``id``, ``speaker`` or ``speaker_id``, and ``text``.

    Returns
    -------
    Corpus
        A list of Utterance in the order of manifest or dataset; a folder's sorted by path.

    Raises
    ------
    SslsimError
        Nothing there, a column or id missing, an id twice.
    """
    utterances = Corpus(_utterances(corpus))
    name = str(corpus) if isinstance(corpus, str | Path) else "dataset"
    for identity, times in Counter(u.id for u in utterances).items():
        if times > 1:
            raise SslsimError(f"corpus {name!r}: id {identity!r} occurs twice; every utterance needs its own")
    return utterances


def _utterances(corpus: str | Path | Any) -> list[Utterance]:
    if not isinstance(corpus, str | Path):
        return _dataset_utterances(corpus)
    path = Path(corpus)
    if not path.exists():
        raise SslsimError(f"corpus {str(path)!r}: no such folder or manifest")
    if not path.is_dir():
        return [Utterance(**row) for row in _manifest_rows(path)]
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return _dataset_utterances(_load_dataset(path))
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(p.parent.name for p in path.glob("*/state.json")))
        raise SslsimError(f"corpus {str(path)!r}: a dataset of several splits; give the folder of one: {splits}")
    return _folder_utterances(path)


def _folder_utterances(folder: Path) -> list[Utterance]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    if not files:
        raise SslsimError(f"corpus {str(folder)!r}: no audio in this folder (looked for {', '.join(SUFFIXES)})")
    return [Utterance(f.relative_to(folder).with_suffix("").as_posix(), f, _speaker(f)) for f in files]


def _speaker(file: Path) -> str:
    chapter, speaker = file.parent, file.parent.parent
    librispeech = file.stem.startswith(f"{speaker.name}-{chapter.name}-")
    return speaker.name if librispeech else chapter.resolve().name


def _manifest_rows(path: Path) -> list[dict[str, Any]]:
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
    rows = table.to_dict("records")
    for number, row in enumerate(rows, 1):
        for column in ("id", "path"):
            if not row[column]:
                raise SslsimError(f"manifest {str(path)!r}: row {number} has no {column}")
    return [{**row, "path": path.parent / row["path"]} for row in rows]


def _manifest_table(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    try:
        if suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8-sig").split("\n")  # a text may hold what else counts as a line's end
            return pd.DataFrame([_object(n, line) for n, line in enumerate(lines, 1) if line.strip()], dtype=object)
        if suffix in (".csv", ".tsv"):
            # every value as written: an id 007 must not become 7, nor a speaker "NA" nothing
            options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
            table = pd.read_csv(path, sep="," if suffix == ".csv" else "\t", **options)
            if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first for names of the rows
                raise ValueError("its rows have more values than there are columns")
            return table
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (ValueError, OSError) as error:
        raise SslsimError(f"manifest {str(path)!r}: cannot be read: {error}") from error
    raise SslsimError(f"corpus {str(path)!r}: neither a folder nor a manifest (.csv, .tsv, .jsonl)")


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not an object with id and path")
    return row


@dataclass(frozen=True)
class Row:
    """The sound of one row of a dataset; it pickles with the dataset, whose rows stay on the disk."""

    dataset: Any = field(repr=False)
    number: int
    name: str

    def __str__(self) -> str:
        return self.name

    def content(self) -> bytes:
        """Return what a file would hold."""
        cell = self.dataset[self.number]["audio"]
        if cell is None:
            raise AudioError(self, "this row has no audio")
        if cell.get("bytes") is not None:
            return cell["bytes"]
        try:
            return Path(cell["path"]).read_bytes()
        except (OSError, TypeError) as error:
            raise AudioError(self, f"cannot be read: {error}") from error


def _load_dataset(folder: Path) -> Any:
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise SslsimError(f"corpus {str(folder)!r}: a dataset, which needs: pip install 'sslsim[datasets]'") from error
    try:
        return load_from_disk(folder)
    except Exception as error:  # JSON, Arrow and the disk fail each in their own way
        raise SslsimError(f"corpus {str(folder)!r}: a dataset that cannot be read: {error}") from error


def _dataset_utterances(dataset: Any) -> list[Utterance]:
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list) or not hasattr(dataset, "cast_column"):
        raise SslsimError(
            f"corpus of type {type(dataset).__name__}: give a folder, a manifest, or one split of a dataset"
        )
    if "audio" not in columns:
        raise SslsimError(f"dataset: no column 'audio'{close_match('audio', columns)}; rename_column names it so")
    from datasets import Audio

    try:
        encoded = dataset.select_columns("audio").cast_column("audio", Audio(decode=False))  # soundfile decodes
    except Exception as error:  # Arrow's own errors
        raise SslsimError(f"dataset: column 'audio' holds no audio: {error}") from error
    speaker = next((name for name in ("speaker", "speaker_id") if name in columns), None)
    told = dataset.select_columns([name for name in ("id", speaker, "text") if name in columns])
    utterances = []
    for number, row in enumerate(told if told.column_names else [{}] * len(dataset)):
        if row.get("id", number) in (None, ""):
            raise SslsimError(f"dataset: row {number} has no id")
        identity = str(row.get("id", number))
        clip = Row(encoded, number, f"dataset[{number}]")
        who = row.get(speaker) if speaker else None
        utterances.append(
            Utterance(identity, Path(identity), "" if who is None else str(who), str(row.get("text") or ""), clip)
        )
    if not utterances:
        raise SslsimError("dataset: has no rows")
    return utterances


def corpus_fingerprint(utterances: Iterable[Utterance]) -> str:
    """Return a SHA-256 over every utterance's id, speaker and the bytes of its file.

    File bytes, not decoded samples: it runs at disk speed, so that an extraction that is already done
    is recognised at once. Re-encoding the same samples changes it; moving the corpus does not.
    """
    total = hashlib.sha256()
    for utterance in utterances:
        total.update(f"{utterance.id}\0{utterance.speaker}\0{content_fingerprint(utterance.source)}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True)
class Limits:
    """What is done about long sounds.

    Attributes
    ----------
    piece_seconds : float
        Longer utterances are cut into pieces of equal length, none longer than this: attention costs the square of the
        length, and the memory of the convolutions grows with it.
    longest_seconds : float
        Utterances longer than this are left out.
    """

    piece_seconds: float = 30.0
    longest_seconds: float = 3600.0

    def __post_init__(self) -> None:
        for name in ("piece_seconds", "longest_seconds"):
            if not isinstance(getattr(self, name), Real):
                raise SslsimError(f"{name} is {getattr(self, name)!r}; it must be a number")
        if not 0.1 <= self.piece_seconds <= self.longest_seconds:
            raise SslsimError(
                f"piece_seconds is {self.piece_seconds:g} and longest_seconds {self.longest_seconds:g}; "
                "0.1 <= piece_seconds <= longest_seconds must hold"
            )

    def cuts(self, n: int, rate: int) -> list[int]:
        """Return where `n` samples at `rate` are cut: the ends of all pieces, 0 first."""
        pieces = max(1, -(-n // max(1, int(min(self.piece_seconds * rate, n)))))
        return [i * n // pieces for i in range(pieces + 1)]


def index_of(
    utterances: Sequence[Utterance],
    limits: Limits,
    *,
    executor: Executor | None = None,
    done: Callable[[int], object] = lambda _: None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every utterance once, and say what is there to be encoded and what is left out.

    Parameters
    ----------
    executor : Executor, optional
        Where to decode, see `parallel.results`.
    done : callable
        Told a number of utterances as they are through.

    Returns
    -------
    index : DataFrame
        One row a piece: utterance (``id``, or ``id#1`` and on where there are several), speaker, recording (the
        utterance's place in the list), begin and end (samples of the file, at its own rate), n_samples (at 16 kHz),
        waveform (content hash).
    skipped : DataFrame
        utterance, path and reason of what is left out.
    """
    starts = range(0, len(utterances), TOGETHER)
    calls = [(utterances[i : i + TOGETHER], limits) for i in starts]
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for first, (good, bad) in zip(
        starts, results(_check_all, calls, executor=executor, done=lambda i: done(len(calls[i][0]))), strict=True
    ):
        rows += [{**row, "recording": first + row["recording"]} for row in good]
        skipped += bad
    for name, times in Counter(row["utterance"] for row in rows).items():
        if times > 1:
            raise SslsimError(f"id {name!r} is that of an utterance and of a piece of another; rename one of the files")
    return pd.DataFrame(rows, columns=list(INDEX)), pd.DataFrame(skipped, columns=["utterance", "path", "reason"])


def _check_all(utterances: Sequence[Utterance], limits: Limits) -> tuple[list[dict], list[dict]]:
    rows: list[dict] = []
    skipped: list[dict] = []
    for i, utterance in enumerate(utterances):
        try:
            good, silent = _check(utterance, limits)
        except AudioError as error:
            skipped.append({"utterance": utterance.id, "path": str(utterance.source), "reason": error.reason})
            continue
        rows += [{**row, "recording": i} for row in good]
        skipped += [{"utterance": name, "path": str(utterance.source), "reason": SILENT} for name in silent]
    return rows, skipped


SILENT = "silent: no sample is further from the mean than the last of 16 bits"


def _check(utterance: Utterance, limits: Limits) -> tuple[list[dict], list[str]]:
    """Rows of an utterance's pieces, and the names of those that are silent."""
    with Recording(utterance.source) as recording:
        check_length(utterance.source, at_16_khz(recording.n, recording.rate))
        seconds = recording.n / recording.rate
        if seconds > limits.longest_seconds:
            reason = f"{seconds:,.1f} s, longer than longest_seconds = {limits.longest_seconds:g}"
            raise AudioError(utterance.source, reason)
        cuts = limits.cuts(recording.n, recording.rate)
        rows, silent = [], []
        for number, (begin, end) in enumerate(zip(cuts, cuts[1:], strict=False), 1):
            own = recording.mono(begin, end)
            waveform = recording.resampled(own)
            name = utterance.id if len(cuts) == 2 else f"{utterance.id}#{number}"
            if is_silent(own) or is_silent(waveform):  # a constant rings at its ends once it is resampled
                silent.append(name)
                continue
            rows.append(
                {
                    "utterance": name,
                    "speaker": utterance.speaker,
                    "begin": begin,
                    "end": end,
                    "n_samples": len(waveform),
                    "waveform": waveform_fingerprint(waveform),
                }
            )
    return rows, silent


class Reader:
    """Pieces of a corpus one after another; a recording stays open while its pieces are read.

    Parameters
    ----------
    utterances : sequence of Utterance
        What the `recording` column of the index numbers.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self._utterances = utterances
        self._open: tuple[int, Recording] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open[1].close()
        self._open = None

    def read(self, row: Any) -> NDArray[np.float32]:
        """Return the waveform of a row of the index, and raise if it is no longer what the index was made of."""
        if self._open is None or self._open[0] != row.recording:
            self._close()
            self._open = row.recording, Recording(self._utterances[row.recording].source)
        recording = self._open[1]
        if row.end <= recording.n:
            waveform = recording.read(row.begin, row.end)
            if waveform_fingerprint(waveform) == row.waveform:
                return waveform
        raise AudioError(recording.source, "changed while it was being extracted")
