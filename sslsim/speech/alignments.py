"""Time marks of a corpus: phones, words, or anything that begins and ends. A frame has that which is at its centre."""

import re
import warnings
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Corpus, Utterance, files_in, read_corpus
from sslsim.speech.manifests import read_table
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, n_frames

MARKS = ("id", "kind", "label", "start", "end")
_FOREIGN = (".textgrid", ".ctm", ".phn", ".wrd")
_KINDS = {"words": "word", "wrd": "word", "ort-mau": "word", "phones": "phone", "phn": "phone", "mau": "phone"}


def read_alignments(path: str | Path) -> pd.DataFrame:
    """Read the time marks of a corpus: a table of five columns, sorted by kind, utterance and start.

    `path` is a CSV file with the columns id (of an utterance), kind (such as phone or word), label, start and end, in
    seconds from the beginning of the utterance as the corpus lists it, before it is cut. It is an error if a column or
    value is missing, a time is none, a mark ends before it starts, or two of one kind and utterance overlap.
    """
    try:
        table = read_table(Path(path))
    except (OSError, ValueError, EOFError, RecursionError, zlib.error) as error:
        raise SslsimError(f"marks {str(path)!r}: cannot be read: {error}") from error
    if missing := [column for column in MARKS if column not in table]:
        raise SslsimError(f"marks {str(path)!r}: no column {', '.join(missing)}; give {', '.join(MARKS)}")
    return _checked(table, path)


def _checked(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    marks = table[list(MARKS)].copy()
    marks[["start", "end"]] = marks[["start", "end"]].apply(pd.to_numeric, errors="coerce").astype(float)
    times, ordered = marks[["start", "end"]], marks.sort_values(["kind", "id", "start"], kind="stable")
    follows = (ordered[["kind", "id"]] == ordered[["kind", "id"]].shift()).all(axis=1)
    overlap = "starts before the one before it ends; marks of a kind must not overlap, give them another kind"
    faults = {
        "has no id, kind or label; correct it": (marks[["id", "kind", "label"]] == "").any(axis=1),
        "has a start or end that is no time in seconds; correct it": ~(np.isfinite(times) & (times >= 0)).all(axis=1),
        "does not end after its start; correct it": marks.end <= marks.start,
        overlap: follows & (ordered.start < ordered.end.shift() - 1e-9),
    }
    for fault, at in faults.items():
        if at.any():
            told = ",".join(map(str, table.loc[row := int(at.idxmax()), list(MARKS)]))
            raise SslsimError(f"marks {str(path)!r}: row {row + 1} ({told}) {fault}")
    return ordered.reset_index(drop=True)


def alignments_of(corpus: str | Path | Any) -> pd.DataFrame:
    """Return the time marks of a corpus as `read_alignments` does, from `alignments_files`; no rows if there are none.

    A TextGrid, or ``.phn`` and ``.wrd`` of TIMIT, belongs to the utterance that has its name and those of the folders
    around it, up to that of the corpus or ``alignments``. Lines of a ``.ctm`` begin with the id; they are phones if its
    name has the word "phone", "phones" or "phn", else words. Files of no utterance are warned of, and an error if all
    are; a ``marks.csv`` of no utterance is warned of.
    """
    listed = read_corpus(corpus) if isinstance(corpus, str | Path | Corpus) else Corpus()
    listed.marks = _marks_of(listed) if listed.marks is None else listed.marks
    return listed.marks


def _marks_of(listed: Corpus) -> pd.DataFrame:
    by_id, files, folder = {u.id: u for u in listed}, alignments_files(listed), Path(listed.folder or "")
    if not files or files[0].name == "marks.csv":
        marks = read_alignments(files[0]) if files else pd.DataFrame(columns=list(MARKS))
        if not (marks.empty or marks.id.isin(by_id).any()):
            told = f"such as {marks.id[0]!r}; utterances are called as {listed[0].id!r}"
            warnings.warn(f"marks {str(files[0])!r}: no id is one of an utterance, {told}", stacklevel=3)
        return marks
    whole = [(u.path.absolute().with_suffix("").parts, u.id) for u in listed if u.end is None]
    ends = [("/".join(parts[i:]), name) for parts, name in whole for i in range(len(parts))]
    times = Counter(end for end, _ in ends)
    alone = {end: name for end, name in ends if times[end] == 1}
    known = {"/".join(parts): name for parts, name in whole} | {u.id: u.id for u in listed if u.id != u.path.stem}
    rows, strange = [], []
    for file in files:
        parts = file.absolute().with_suffix("").parts
        keys = ("/".join(parts[i:]) for i in range(len(parts)))
        owner = next((known[key] for key in keys if key in known), None)
        within = [file.relative_to(each) for each in (folder / "alignments", folder) if each in file.parents]
        owner = owner or (alone.get(within[0].with_suffix("").as_posix()) if within else None)
        by_name = file.suffix.lower() != ".ctm"
        found = _read(file, by_id[owner] if owner else None) if owner or not by_name else []
        rows += (own := [(owner if by_name else name, *mark) for name, *mark in found if by_name or name in by_id])
        strange += [file.name] if len(own) < len(found) or (by_name and not owner) else []
    told = f"{len(strange):,} of {len(files):,} alignments have marks of no utterance, such as {''.join(strange[:1])!r}"
    if strange and not rows:
        raise SslsimError(f"corpus {str(listed.folder)!r}: {told}; name them like the audio, or take them away")
    if strange:
        warnings.warn(told, stacklevel=3)
    return _checked(pd.DataFrame(rows, columns=list(MARKS)), str(listed.folder))


def alignments_files(corpus: Corpus) -> list[Path]:
    """Return ``marks.csv`` beside a manifest or in a folder of audio, or else what other programs made.

    These are ``.TextGrid``, ``.ctm``, ``.phn`` and ``.wrd`` there, beside the audio, and in a folder ``alignments``.
    """
    if (folder := corpus.folder) is None or (folder / "marks.csv").is_file():
        return [folder / "marks.csv"] if folder else []
    places = {folder, *(u.path.parent for u in corpus if not u.clip)}
    found = {path for place in places if place.is_dir() for path in place.iterdir() if path.suffix.lower() in _FOREIGN}
    return sorted(found | {*files_in(folder / "alignments", _FOREIGN)})


def _read(file: Path, utterance: Utterance | None) -> list[tuple[Any, ...]]:
    """Return id, if the file has some, kind, label, start and end of the marks of a file, of that utterance or more."""
    kind = file.suffix.lower()[1:]
    try:
        content = file.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if kind == "textgrid":
            return _of_tiers(text)
        split = (line.split() for line in text.splitlines())
        lines = [words for words in split if words and words[0] != "#" and not words[0].startswith(";;")]
        if kind == "ctm":
            kind = "phone" if re.search(r"\b(phones?|phn)\b", re.sub(r"[\W_]+", " ", file.stem.lower())) else "word"
            channels = dict(reversed([line[:2] for line in lines]))
            if several := [name for name, channel, *_ in lines if channel != channels[name]]:
                raise ValueError(f"{several[0]!r} has several channels, which are not read apart; give each its own id")
            timed = [(name, label, float(start), float(length)) for name, _, start, length, label, *_ in lines]
            marks: list[tuple[Any, ...]] = [(name, kind, label, at, at + length) for name, label, at, length in timed]
        else:
            rate = SAMPLE_RATE
            with suppress(SslsimError, OSError):  # samples are those of the file
                rate = utterance.header[1] if utterance else rate
            marks = [(None, _KINDS[kind], label, int(a) / rate, int(b) / rate) for a, b, label in lines]
        return _in_turn(marks)
    except Exception as error:  # praatio's own errors
        raise SslsimError(f"alignment {str(file)!r}: cannot be read: {error}; mend it or take it away") from error


def _of_tiers(text: str) -> list[tuple[Any, ...]]:
    from praatio.utilities.textgrid_io import parseTextgridStr

    grid = parseTextgridStr(text, True)
    count = re.search(r"<exists>\s*(?:size\s*=\s*)?(\d+)", text)
    tiers = [tier for tier in grid["tiers"] if tier["class"] == "IntervalTier"]
    ends = [max((float(end) for _, end, _ in tier["entries"]), default=0.0) for tier in tiers]
    if (count and int(count[1]) != len(grid["tiers"])) or any(end < float(grid["xmax"]) - 1e-3 for end in ends):
        raise ValueError("it is cut off: tiers are missing, or end before it does")
    names = [tier["name"].split(" - ")[-1].lower() for tier in tiers]
    named = [(_KINDS.get(name, name), tier["entries"]) for name, tier in zip(names, tiers, strict=True)]
    shown = [(kind, entry) for kind, entries in named for entry in entries if entry[2].strip()]
    return [(None, kind, label.strip(), float(start), float(end)) for kind, (start, end, label) in shown]


def _in_turn(marks: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Let a mark end where the next one of its utterance starts: some words overlap, and times are rounded."""
    marks = sorted((mark for mark in marks if mark[4] != mark[3]), key=lambda mark: (str(mark[0]), mark[3]))
    follows = [*marks[1:], (None, "", "", np.inf, np.inf)]
    cut = [(*a[:4], min(a[4], b[3]) if a[0] == b[0] else a[4]) for a, b in zip(marks, follows, strict=True)]
    return [mark for mark in cut if mark[4] != mark[3]]


def alignment_facts(marks: pd.DataFrame, index: pd.DataFrame) -> dict[str, str]:
    """Return how many frames of an index have a phone, or what else is marked, and how many marks lie beyond."""
    names = index.utterance.where(index.utterance.isin(marks.id), index.utterance.str.rpartition("#")[0])
    lengths = index["n_samples"].groupby(names).sum()
    if (marks := marks[marks.id.isin(lengths.index)]).empty:
        return {}
    beyond = (marks.end > (marks.id.map(lengths) + HOP) / SAMPLE_RATE).sum()
    some = marks[marks.kind == ("phone" if "phone" in set(marks.kind) else marks.kind.iat[0])]
    most = some.id.map(lengths.map(n_frames))
    first, last = (np.ceil((some[side] * SAMPLE_RATE - WINDOW / 2) / HOP).clip(0, most) for side in ("start", "end"))
    told = f"{(last - first).sum():,.0f} of {index['n_samples'].map(n_frames).sum():,} frames of 20 ms"
    told += f" have a {some.kind.iat[0]}"
    return {"marked": told + (f"; {beyond:,} of {len(marks):,} marks end after the audio" if beyond else "")}


def held(marks: pd.DataFrame, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the marks, in order of start, holds at each time: start <= time < end; -1 for none."""
    at = np.searchsorted(marks.start.to_numpy(), times, side="right") - 1
    return np.where((at >= 0) & (times < marks.end.to_numpy()[at]), at, -1)
