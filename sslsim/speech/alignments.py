"""Time marks of a corpus: phones, words, or anything that begins and ends.

Frame i of an utterance covers samples [320 i, 320 i + 400) at 16 kHz and has the label that holds at its centre.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.errors import SslsimError
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW

MARKS = ("id", "kind", "label", "start", "end")


def read_alignments(path: str | Path) -> pd.DataFrame:
    """Read the time marks of a corpus: a table of five columns, sorted by kind, utterance and start.

    `path` is a CSV file with the columns id (of an utterance), kind (such as phone or word), label, start and end, in
    seconds from the beginning of the recording. It is an error if a column or value is missing, a time is none, a mark
    ends before it starts, or two of one kind and utterance overlap.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SslsimError(f"marks {str(path)!r}: cannot be read: {error}") from error

    def mark(row: int) -> str:
        return f"row {row + 1} ({','.join(table.loc[row, list(MARKS)])})"

    missing = [column for column in MARKS if column not in table]
    if missing:
        raise SslsimError(f"marks {str(path)!r}: no column {', '.join(missing)}; give {', '.join(MARKS)}")
    marks = table[list(MARKS)].copy()
    marks[["start", "end"]] = marks[["start", "end"]].apply(pd.to_numeric, errors="coerce").astype(float)
    times = marks[["start", "end"]].to_numpy()
    faults = {
        "has no id, kind or label": (marks[["id", "kind", "label"]] == "").any(axis=1).to_numpy(),
        "has a start or end that is no time in seconds": ~(np.isfinite(times) & (times >= 0)).all(axis=1),
        "does not end after its start": times[:, 1] <= times[:, 0],
    }
    for fault, at in faults.items():
        if at.any():
            raise SslsimError(f"marks {str(path)!r}: {mark(int(at.argmax()))} {fault}; correct it")
    marks = marks.sort_values(["kind", "id", "start"], kind="stable")
    follows = (marks[["kind", "id"]] == marks[["kind", "id"]].shift()).all(axis=1)
    early = follows & (marks.start < marks.end.shift() - 1e-9)
    if early.any():
        fault = "starts before the one before it ends; marks of a kind must not overlap, give them another kind"
        raise SslsimError(f"marks {str(path)!r}: {mark(int(early.idxmax()))} {fault}")
    return marks.reset_index(drop=True)


def alignments_of(corpus: str | Path | Any) -> pd.DataFrame:
    """Return the marks in ``marks.csv`` beside a manifest or in a folder of audio; no rows where there is none."""
    file = alignments_file(corpus)
    return read_alignments(file) if file else pd.DataFrame(columns=list(MARKS))


def alignments_file(corpus: str | Path | Any) -> Path | None:
    """Return ``marks.csv`` beside a manifest or in a folder of audio, if it is there."""
    if not isinstance(corpus, str | Path):
        return None
    file = (Path(corpus) if Path(corpus).is_dir() else Path(corpus).parent) / "marks.csv"
    return file if file.is_file() else None


def centres(frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the centres of frames, by number, in seconds from the beginning of their utterance."""
    return (HOP * frames + WINDOW / 2) / SAMPLE_RATE


def held(marks: pd.DataFrame, times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which of the marks, in order of start, holds at each time: start <= time < end; -1 for none."""
    at = np.searchsorted(marks.start.to_numpy(), times, side="right") - 1
    return np.where((at >= 0) & (times < marks.end.to_numpy()[at]), at, -1)
