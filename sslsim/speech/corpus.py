"""A corpus is a folder, a manifest or a dataset: its utterances, read without opening audio, and a subset of them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

from sslsim.errors import SslsimError, close_match, is_text, written
from sslsim.speech.recording import SAMPLE_RATE, SUFFIXES, AudioError, Recording, at_16_khz, content_fingerprint, opened

SHOWN = 8  # utterances in a notebook
MISSES = 20  # utterances in a row that are too long for what is left, after which a subset by seconds is full


@dataclass(frozen=True)
class Utterance:
    """One recording of a corpus: its audio file, or `clip` where the sound is no file; speaker, text may be empty."""

    id: str
    path: Path
    speaker: str = ""
    text: str = ""
    clip: "Row | None" = field(default=None, repr=False, compare=False)

    @property
    def source(self) -> "Path | Row":
        """Where the sound is read from."""
        return self.clip or self.path

    @cached_property
    def n_samples(self) -> int:
        """Length at 16 kHz, after resampling; only the header is read."""
        with Recording(self.source) as recording:
            return at_16_khz(recording.n, recording.rate)


class Corpus(list[Utterance]):
    """The utterances of a corpus in their order; in a notebook a table of the first, with counts."""

    def _repr_html_(self) -> str:
        speakers = {utterance.speaker for utterance in self} - {""}
        silent = sum(not utterance.text for utterance in self)
        told = f"{len(self):,} utterances of {len(speakers):,} named speakers, {len(self) - silent:,} with text"
        columns = ["id", "speaker", "text", "path"]
        rows = [[written(str(getattr(utterance, column))) for column in columns] for utterance in self[:SHOWN]]
        more = [["…"] * len(columns)] if len(self) > SHOWN else []
        return f"<p>{told}</p>{pd.DataFrame(rows + more, columns=columns).to_html(index=False)}"


def read_corpus(corpus: str | Path | Any) -> Corpus:
    """Read the list of utterances of a corpus, in the order of manifest or dataset; no audio is opened.

    A folder is searched recursively for wav, flac, ogg, opus and mp3: the id is the relative path without suffix; the
    speaker is the parent folder, or for LibriSpeech's ``speaker/chapter/speaker-chapter-number.flac`` the first of
    these. A manifest (``.csv``, ``.tsv``, or ``.jsonl`` with one object a line) has columns ``id`` and ``path``
    (relative to the manifest) and may have ``speaker`` and ``text``; others are ignored. A dataset of the package
    datasets, or the folder that its ``save_to_disk`` left, has a column ``audio`` and may have ``id``, ``speaker`` or
    ``speaker_id``, and ``text``. A column or id that is missing and an id that occurs twice are errors.
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
    if not str(corpus) or not is_text(str(corpus)) or not (path.is_dir() or path.is_file()):
        raise SslsimError(f"corpus {str(corpus)!r}: no such folder or manifest")
    if not path.is_dir():
        rows = _rows(_manifest_table(path), f"manifest {str(path)!r}")
        return [Utterance(**{**row, "path": path.parent / row["path"]}) for row in rows]
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
    utterances = []
    for file in files:
        chapter, speaker = file.parent, file.parent.parent
        librispeech = file.stem.startswith(f"{speaker.name}-{chapter.name}-")
        name = speaker.name if librispeech else chapter.resolve().name
        # a name that is not UTF-8 can nowhere be written: such a file is left out when it is to be read
        utterances.append(Utterance(written(file.relative_to(folder).with_suffix("").as_posix()), file, written(name)))
    return utterances


def _rows(table: pd.DataFrame, where: str) -> list[dict[str, Any]]:
    """Return id, path, speaker and text of each row, all as text; of the first two there must be something."""
    missing = [column for column in ("id", "path") if column not in table.columns]
    if missing:
        named = ", ".join(map(str, table.columns)) or "none"
        raise SslsimError(f"{where}: no column {' or '.join(map(repr, missing))}; its columns are {named}")
    if table.empty:
        raise SslsimError(f"{where}: lists no utterance")
    table = table.reindex(columns=["id", "path", "speaker", "text"]).astype(object).fillna("")
    rows = [dict(zip(table, map(str, values), strict=True)) for values in table.itertuples(index=False)]
    for number, row in enumerate(rows, 1):
        for column, value in row.items():
            if not is_text(value) or (not value and column in ("id", "path")):
                fault = f"a {column} with NUL or what is not UTF-8" if value else f"no {column}"
                raise SslsimError(f"{where}: row {number} has {fault}")
    return rows


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
    except (ValueError, OSError, RecursionError) as error:
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


def _dataset_utterances(dataset: Any) -> list[Utterance]:
    columns = getattr(dataset, "column_names", None)
    if not isinstance(columns, list) or not hasattr(dataset, "cast_column"):
        kind = type(dataset).__name__
        raise SslsimError(f"corpus of type {kind}: give a folder, a manifest, or one split of a dataset")
    if "audio" not in columns:
        raise SslsimError(f"dataset: no column 'audio'{close_match('audio', columns)}; rename_column names it so")
    from datasets import Audio

    try:
        encoded = dataset.select_columns("audio").cast_column("audio", Audio(decode=False))  # soundfile decodes
    except Exception as error:  # Arrow's own errors
        raise SslsimError(f"dataset: column 'audio' holds no audio: {error}") from error
    named = [name for name in ("id", "speaker", "speaker_id", "text") if name in columns]
    rows = dataset.select_columns(named).to_list() if named else [{}] * len(dataset)
    table = pd.DataFrame([{"id": number} | row for number, row in enumerate(rows)], dtype=object)
    if "speaker" not in named:
        table = table.rename(columns={"speaker_id": "speaker"})
    numbered = enumerate(_rows(table.assign(path=table.get("id")), "dataset"))
    return [Utterance(**{**row, "path": Path(row["id"])}, clip=Row(encoded, number)) for number, row in numbered]


def corpus_fingerprint(utterances: Iterable[Utterance]) -> str:
    """Return a SHA-256 over every utterance's id, speaker and the bytes of its file, at the speed of the disk."""
    total = hashlib.sha256()
    for utterance in utterances:
        total.update(f"{utterance.id}\0{utterance.speaker}\0{content_fingerprint(utterance.source)}\n".encode())
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
        whole, seconds = (Integral, "a whole number, at least", 1), (Real, "a number, at least one frame,", 0.025)
        limits = {"max_utterances": whole, "per_speaker": whole, "max_seconds": seconds}
        for name, (kind, what, least) in limits.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, kind) and float(value) >= least):
                raise SslsimError(f"{name} is {value!r}; it must be {what} {least}, or None for no limit")

    def of(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Return those taken, in the corpus's order."""
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
        n = 0
        with suppress(AudioError):
            n = utterance.n_samples
        if n <= left:
            left, misses = left - n, 0
            yield utterance
        else:
            misses += 1
            if misses == MISSES:
                return
