"""A corpus is a folder, a manifest or a dataset: its utterances, read without opening audio, and a subset of them."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from sslsim.errors import SslsimError, check_whole, close_match, is_text, written
from sslsim.parallel import once
from sslsim.speech.manifests import checked_columns, read_list, utterance_rows
from sslsim.speech.recording import SAMPLE_RATE, SUFFIXES, AudioError, Recording, at_16_khz, content_fingerprint, opened

SHOWN = 8  # utterances in a notebook
MISSES = 20  # utterances in a row that are too long for what is left, after which a subset by seconds is full


@dataclass(frozen=True)
class Utterance:
    """One recording of a corpus, or the stretch of one from `start` to `end` in seconds (None: to its end).

    The sound is an audio file, or `clip` where it is no file; speaker and text may be empty.
    """

    id: str
    path: Path
    speaker: str = ""
    text: str = ""
    start: float = 0.0
    end: float | None = None
    clip: "Row | None" = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> "Path | Row":
        """Where the sound is read from."""
        return self.clip or self.path

    @once
    def header(self) -> tuple[int, int]:
        """Length at 16 kHz, after resampling, and the rate of the file; only the header is read."""
        with Recording(self.source) as recording:
            begin, end = self.stretch(recording)
            return at_16_khz(end - begin, recording.rate), recording.rate

    @property
    def n_samples(self) -> int:
        """Length at 16 kHz."""
        return self.header[0]

    def stretch(self, recording: Recording) -> tuple[int, int]:
        """Return which samples of its file, at their own rate, the utterance is."""
        n, rate = recording.n, recording.rate
        end = n if self.end is None else round(self.end * rate)
        if end > n + 0.1 * rate:  # tenths of a second, to which lists round
            raise AudioError(self.source, f"its stretch ends at {self.end:.2f} s, the file at {n / rate:.2f} s")
        return min(round(self.start * rate), n), min(end, n)


class Corpus(list[Utterance]):
    """The utterances of a corpus in their order; in a notebook a table of the first, with counts.

    `folder` is that of the corpus or of its manifest; None if it is an object. `marks` are its marks of time, once they
    were read (`alignments.alignments_of`).
    """

    folder: Path | None = None
    marks: pd.DataFrame | None = None

    def _repr_html_(self) -> str:
        speakers = {utterance.speaker for utterance in self} - {""}
        silent = sum(not utterance.text for utterance in self)
        told = f"{len(self):,} utterances of {len(speakers):,} named speakers, {len(self) - silent:,} with text"
        columns = ["id", "speaker", "text", "path"]
        rows = [[written(str(getattr(utterance, column))) for column in columns] for utterance in self[:SHOWN]]
        more = [["…"] * len(columns)] if len(self) > SHOWN else []
        return f"<p>{told}</p>{pd.DataFrame(rows + more, columns=columns).to_html(index=False)}"


def read_corpus(corpus: str | Path | Any, speaker_pattern: str = "", columns: Sequence[str] = ()) -> Corpus:
    """Read the list of utterances of a corpus, in the order of manifest or dataset; no audio is opened.

    A folder is searched with all in it, linked ones too: the id is the relative path, without suffix unless two differ
    in that alone; the speaker is the parent folder, or of LibriSpeech the one above. A folder with ``wav.scp`` is one
    of Kaldi, with ``segments``, ``utt2spk`` and ``text`` if they are there. A manifest (CSV, TSV, or JSON with one
    object a line) has a column ``path``, relative to it, and may have ``id``, ``speaker``, ``text``, ``offset`` and
    ``duration`` (seconds); those of NeMo, Common Voice and Lhotse (recordings, supervisions) are known, and `columns`
    such as ``speaker=voice`` name others. A dataset of the package datasets, or the folder that its ``save_to_disk``
    left, has ``audio`` and may have ``id``, ``speaker`` or ``speaker_id``, and ``text``.

    The regular expression `speaker_pattern` is looked for in the path relative to the corpus: its group ``speaker``, or
    the first, is the speaker. It is an error if none has it, a column is missing, or an id occurs twice.
    """
    if isinstance(corpus, Corpus):
        return corpus
    utterances, pattern = Corpus(_utterances(corpus, checked_columns(columns))), checked_pattern(speaker_pattern)
    if isinstance(corpus, str | Path):
        utterances.folder = Path(corpus) if Path(corpus).is_dir() else Path(corpus).parent
    name = str(corpus) if isinstance(corpus, str | Path) else "dataset"
    if twice := [identity for identity, times in Counter(u.id for u in utterances).items() if times > 1]:
        raise SslsimError(f"corpus {name!r}: id {twice[0]!r} occurs twice; every utterance needs its own")
    if pattern:
        paths = [written(Path(os.path.relpath(u.path, utterances.folder or "")).as_posix()) for u in utterances]
        found = [pattern.search(path) for path in paths]
        group = "speaker" if "speaker" in pattern.groupindex else 1
        speakers = [(match and match[group]) or "" for match in found]
        if not any(speakers):
            raise SslsimError(f"speaker_pattern {speaker_pattern!r} is in no path of the corpus, such as {paths[0]!r}")
        utterances[:] = [replace(u, speaker=speaker) for u, speaker in zip(utterances, speakers, strict=True)]
    return utterances


def checked_pattern(pattern: str) -> re.Pattern[str] | None:
    """Return a regular expression that has a group, or None if it is empty."""
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise SslsimError(f"speaker_pattern is {pattern!r}; it must be a regular expression: {error}") from error
    if pattern and not compiled.groups:
        raise SslsimError(f"speaker_pattern is {pattern!r}; put what names the speaker in parentheses")
    return compiled if pattern else None


def _utterances(corpus: str | Path | Any, columns: Mapping[str, str]) -> list[Utterance]:
    if not isinstance(corpus, str | Path):
        return _dataset_utterances(corpus, columns)
    path = Path(corpus)
    if not str(corpus) or not is_text(str(corpus)) or not (path.is_dir() or path.is_file()):
        raise SslsimError(f"corpus {str(corpus)!r}: no such folder or manifest")
    if not path.is_dir() or (path / "wav.scp").is_file():
        return [Utterance(**row) for row in read_list(path, columns)]
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return _dataset_utterances(_load_dataset(path), columns)
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(p.parent.name for p in path.glob("*/state.json")))
        raise SslsimError(f"corpus {str(path)!r}: a dataset of several splits; give the folder of one: {splits}")
    return _folder_utterances(path)


def files_in(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Yield files of a folder and of those in it; links are followed, and each folder is read once."""
    met = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in met:
            inner.clear()
            continue
        met.add(real)
        shown = sorted(name for name in inner if not name.startswith("."))
        links = [name for name in shown if Path(place, name).is_symlink()]
        inner[:] = sorted(shown, key=links.__contains__)  # last, so that a file goes by its own name
        # a folder that is called like a file is named among what cannot be read
        files = (Path(place, name) for name in (*inner, *names) if not name.startswith("."))
        yield from (file for file in files if file.suffix.lower() in suffixes)


def _folder_utterances(folder: Path) -> list[Utterance]:
    if not (files := sorted(files_in(folder, SUFFIXES))):
        raise SslsimError(f"corpus {str(folder)!r}: no audio in this folder (looked for {', '.join(SUFFIXES)})")
    utterances, stems = [], Counter(file.with_suffix("") for file in files)
    for file in files:
        chapter, speaker, stem = file.parent, file.parent.parent, file.with_suffix("")
        ends = (f"{speaker.name}{mark}{chapter.name}{mark}" for mark in "-_")  # as LibriSpeech and LibriTTS have it
        name = speaker.name if stem.name.startswith((*ends,)) else chapter.resolve().name
        identity = (stem if stems[stem] == 1 else file).relative_to(folder).as_posix()
        # a name that is not UTF-8 can nowhere be written: such a file is left out when it is to be read
        utterances.append(Utterance(written(identity), file, written(name)))
    return utterances


@dataclass(frozen=True)
class Row:
    """The sound of one row of a dataset; it pickles with the dataset, whose rows stay on the disk."""

    dataset: Any = field(repr=False)
    number: int

    def __str__(self) -> str:
        return f"dataset[{self.number}]"

    def content(self) -> bytes:
        """Return what a file would hold."""
        cell = self.dataset[self.number]["audio"]
        if cell is None:
            raise AudioError(self, "this row has no audio")
        if cell.get("bytes") is not None:
            return cell["bytes"]
        try:
            with opened(cell["path"] or "") as file:
                return file.read()
        except (OSError, AudioError) as error:
            raise AudioError(self, f"cannot be read: {error}") from error


def _load_dataset(folder: Path) -> Any:
    try:
        from datasets import load_from_disk

        return load_from_disk(folder)
    except ImportError as error:
        raise SslsimError(f"corpus {str(folder)!r}: a dataset, which needs: pip install 'sslsim[datasets]'") from error
    except Exception as error:  # JSON, Arrow and the disk fail each in their own way
        raise SslsimError(f"corpus {str(folder)!r}: a dataset that cannot be read: {error}") from error


def _dataset_utterances(dataset: Any, columns: Mapping[str, str]) -> list[Utterance]:
    there = getattr(dataset, "column_names", None)
    if not isinstance(there, list) or not hasattr(dataset, "cast_column"):
        kind = type(dataset).__name__
        raise SslsimError(f"corpus of type {kind}: give a folder, a manifest, or one split of a dataset")
    if "audio" not in there:
        raise SslsimError(f"dataset: no column 'audio'{close_match('audio', there)}; rename_column names it so")
    from datasets import Audio

    try:
        encoded = dataset.select_columns("audio").cast_column("audio", Audio(decode=False))  # soundfile decodes
    except Exception as error:  # Arrow's own errors
        raise SslsimError(f"dataset: column 'audio' holds no audio: {error}") from error
    named = [name for name in ("id", "speaker", "speaker_id", "text", *columns.values()) if name in there]
    rows = dataset.select_columns(named).to_list() if named else [{}] * len(dataset)
    table = pd.DataFrame([{"id": number} | row for number, row in enumerate(rows)], dtype=object)
    numbered = enumerate(utterance_rows(table.assign(path=table.get("id")), "dataset", columns))
    return [Utterance(**{**row, "path": Path(row["id"])}, clip=Row(encoded, number)) for number, row in numbered]


def corpus_fingerprint(utterances: Iterable[Utterance]) -> str:
    """Return a SHA-256 over every utterance's id, speaker and the bytes of its file, at the speed of the disk."""
    total, content = hashlib.sha256(), cache(content_fingerprint)  # of stretches of one file it is read once
    for u in utterances:
        stretch = f"\0{u.start}\0{u.end}" if u.end is not None else ""
        total.update(f"{u.id}\0{u.speaker}\0{content(u.source)}{stretch}\n".encode())
    return total.hexdigest()


@dataclass(frozen=True)
class Subset:
    """Which utterances of a corpus to take: at most so many, of each speaker so many, so much audio; None: no limit.

    Utterances are ranked by a hash of seed and id, so that what is taken does not depend on their order, and one more
    or less in the corpus moves at most one other in or out.
    """

    max_utterances: int | None = None
    max_seconds: float | None = None
    per_speaker: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("max_utterances", self.max_utterances, 1, "no limit")
        check_whole("per_speaker", self.per_speaker, 1, "no limit")
        most = self.max_seconds
        if most is not None and not (isinstance(most, Real) and float(most) >= 0.025):
            told = "it must be a number, at least one frame, 0.025, or None for no limit"
            raise SslsimError(f"max_seconds is {most!r}; {told}")

    def of(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those taken, in the corpus's order."""
        if self.max_utterances is self.max_seconds is self.per_speaker is None:
            return list(utterances)
        ranked = sorted(utterances, key=lambda u: hashlib.sha256(f"{self.seed}\0{u.id}".encode()).digest())
        if self.per_speaker is not None:
            met: Counter[str] = Counter()
            ranked = [u for u in ranked if (met.update([u.speaker]) or met[u.speaker]) <= self.per_speaker]
        ranked = ranked[: self.max_utterances]
        if self.max_seconds is not None and not (ranked := list(_within(ranked, self.max_seconds * SAMPLE_RATE))):
            raise SslsimError(f"max_seconds is {self.max_seconds:g}; no utterance is so short, give more")
        chosen = {u.id for u in ranked}
        return [u for u in utterances if u.id in chosen]


def _within(ranked: Iterable[Utterance], left: float) -> Iterator[Utterance]:
    """Yield utterances until the samples are used up; those without a length too, to be reported."""
    misses = 0
    for utterance in ranked:
        n = 0
        with suppress(AudioError):
            n = utterance.n_samples
        if n <= left:
            left, misses = left - n, 0
            yield utterance
        elif (misses := misses + 1) == MISSES:
            return
