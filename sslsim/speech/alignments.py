"""Time marks of a corpus: phones, words, or anything that begins and ends.

Frame i of an utterance covers samples [320 i, 320 i + 400) at 16 kHz and has the label that holds at its centre.
"""

import warnings
import zlib
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Corpus, files_in, read_corpus
from sslsim.speech.manifests import read_table
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW, n_frames

MARKS = ("id", "kind", "label", "start", "end")
_FOREIGN = (".textgrid", ".ctm", ".phn", ".wrd")
_KINDS = {"words": "word", "wrd": "word", "ort-mau": "word", "phones": "phone", "phn": "phone", "mau": "phone"}


def read_alignments(path: str | Path) -> pd.DataFrame:
    """Read the time marks of a corpus: a table of five columns, sorted by kind, utterance and start.

    `path` is a CSV file with the columns id (of an utterance), kind (such as phone or word), label, start and end, in
    seconds from the beginning of the recording. It is an error if a column or value is missing, a time is none, a mark
    ends before it starts, or two of one kind and utterance overlap.
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

    A TextGrid, or ``.phn`` and ``.wrd`` of TIMIT, belongs to the utterance with the name of the file, and of folders
    around it where several have that. Lines of a ``.ctm`` begin with the id; they are phones if its name has "phone" or
    "phn", else words. Files of no utterance are warned of, and an error if all are.
    """
    files = alignments_files(corpus)
    if not files or files[0].name == "marks.csv":
        return read_alignments(files[0]) if files else pd.DataFrame(columns=list(MARKS))
    listed, tables, strange = read_corpus(corpus), [], []
    ids = {u.id for u in listed}
    whole = [(u.path.absolute().with_suffix(""), u.id) for u in listed if u.end is None]
    times = Counter(path.name for path, _ in whole)
    known = {path.name: name for path, name in whole if times[path.name] == 1}
    known |= {path.as_posix(): name for path, name in whole} | {name: name for name in ids}
    for file in files:
        table, parts = _read(file), file.absolute().with_suffix("").parts
        keys = (PurePath(*parts[i:]).as_posix() for i in range(len(parts)))
        table = table if "id" in table else table.assign(id=next((known[key] for key in keys if key in known), None))
        tables.append(table[table.id.isin(ids)])
        strange += [file.name] if len(tables[-1]) < len(table) else []
    told = f"{len(strange):,} of {len(files):,} alignments have marks of no utterance, such as {''.join(strange[:1])!r}"
    if strange and not any(map(len, tables)):
        raise SslsimError(f"corpus {str(listed.folder)!r}: {told}; name them like the audio, or take them away")
    if strange:
        warnings.warn(told, stacklevel=2)
    return _checked(pd.concat(tables, ignore_index=True), str(listed.folder))


def alignments_files(corpus: str | Path | Any) -> list[Path]:
    """Return ``marks.csv`` beside a manifest or in a folder of audio, or else what other programs made.

    These are ``.TextGrid``, ``.ctm``, ``.phn`` and ``.wrd`` there, beside the audio, and in a folder ``alignments``.
    """
    listed = read_corpus(corpus) if isinstance(corpus, str | Path | Corpus) else Corpus()
    if (folder := listed.folder) is None or (folder / "marks.csv").is_file():
        return [folder / "marks.csv"] if folder else []
    places = {folder, *(u.path.parent for u in listed if not u.clip)}
    found = {path for place in places if place.is_dir() for path in place.iterdir() if path.suffix.lower() in _FOREIGN}
    return sorted(found | {*files_in(folder / "alignments", _FOREIGN)})


def _read(file: Path) -> pd.DataFrame:
    """Return kind, label, start and end of the marks of a file, and their ids if it has some."""
    kind = file.suffix.lower()[1:]
    try:
        if kind == "textgrid":
            from praatio.textgrid import IntervalTier, openTextgrid

            tiers = [tier for tier in openTextgrid(str(file), False).tiers if isinstance(tier, IntervalTier)]
            names = {tier.name: tier.name.split(" - ")[-1].lower() for tier in tiers}
            rows = [(names[tier.name], label, *times) for tier in tiers for *times, label in tier.entries]
            return pd.DataFrame(rows, columns=list(MARKS[1:])).replace({"kind": _KINDS})
        text = file.read_text(encoding="utf-8-sig")
        lines = [line.split() for line in text.splitlines() if line.strip() and line[:2] != ";;"]
        if kind == "ctm":
            rows = [(i, label, float(start), float(start) + float(n)) for i, _, start, n, label, *_ in lines]
            phones = "phone" in file.stem.lower() or "phn" in file.stem.lower()
            return pd.DataFrame(rows, columns=["id", *MARKS[2:]]).assign(kind="phone" if phones else "word")
        rows = [(label, int(start) / SAMPLE_RATE, int(end) / SAMPLE_RATE) for start, end, label in lines]
        table = pd.DataFrame(rows, columns=list(MARKS[2:])).assign(kind=_KINDS[kind])
        return table.assign(end=np.minimum(table.end, table.start.shift(-1, fill_value=np.inf)))  # some words overlap
    except Exception as error:  # praatio's own errors
        raise SslsimError(f"alignment {str(file)!r}: cannot be read: {error}; mend it or take it away") from error


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
    told = f"{(last - first).sum():,.0f} of {index['n_samples'].map(n_frames).sum():,} frames have a {some.kind.iat[0]}"
    return {"marked": told + (f"; {beyond:,} of {len(marks):,} marks end after the audio" if beyond else "")}


def centres(frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the centres of frames, by number, in seconds from the beginning of their utterance."""
    return (HOP * frames + WINDOW / 2) / SAMPLE_RATE


def held(marks: pd.DataFrame, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the marks, in order of start, holds at each time: start <= time < end; -1 for none."""
    at = np.searchsorted(marks.start.to_numpy(), times, side="right") - 1
    return np.where((at >= 0) & (times < marks.end.to_numpy()[at]), at, -1)
