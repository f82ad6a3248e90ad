"""Every recording is decoded and checked once: what of it can be encoded, in pieces of bounded length, and what cannot.

Nothing here stops for a file that is no good: it is left out and named, with the reason.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.errors import SslsimError, written
from sslsim.parallel import results
from sslsim.speech.corpus import Utterance, read_corpus
from sslsim.speech.facts import flaws
from sslsim.speech.recording import WINDOW, AudioError, Recording, at_16_khz, is_silent, waveform_fingerprint

TOGETHER = 16  # recordings that are checked in one call
SILENT = "silent: no sample is further from the mean than the last of 16 bits"


@dataclass(frozen=True)
class Segmentation:
    """What is done about long recordings: attention costs the square of the length, and memory grows with it."""

    piece_seconds: float = 30.0  # longer utterances are cut into pieces of equal length, none longer than this
    longest_seconds: float = 3600.0  # utterances longer than this are left out

    def __post_init__(self) -> None:
        if odd := [name for name, value in vars(self).items() if not isinstance(value, Real)]:
            raise SslsimError(f"{odd[0]} is {getattr(self, odd[0])!r}; it must be a number")
        if not 0.1 <= self.piece_seconds <= self.longest_seconds:
            told = f"piece_seconds is {self.piece_seconds:g} and longest_seconds {self.longest_seconds:g}"
            raise SslsimError(f"{told}; 0.1 <= piece_seconds <= longest_seconds must hold")

    def cuts(self, n: int, rate: int) -> list[int]:
        """Return where `n` samples at `rate` are cut: the ends of all pieces, 0 first."""
        pieces = max(1, -(-n // max(1, int(min(self.piece_seconds * rate, n)))))
        return [i * n // pieces for i in range(pieces + 1)]


def index_of(
    utterances: Sequence[Utterance],
    segmentation: Segmentation,
    *,
    keep: Path | None = None,
    executor: Executor | None = None,
    done: Callable[[int], object] = lambda _: None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode every utterance once, and return a table of what can be encoded and one of what is left out.

    Waveforms are kept in the folder `keep`, see `Reader`; `done` is told a number of utterances as they are through.

    The first table has one row a piece: utterance (``id``, or ``id#1`` and on where there are several), speaker,
    recording (the utterance's place in the list), begin and end (samples of the file, at its own rate), n_samples (at
    16 kHz), rate (of the file), clipped and still (see `speech.facts`), waveform (content hash). The second has
    utterance, path and reason.
    """
    numbered = list(enumerate(utterances))
    calls = [(numbered[i : i + TOGETHER], segmentation, keep) for i in range(0, len(numbered), TOGETHER)]
    rows, skipped = [], []
    for good, bad in results(_check_all, calls, executor=executor, done=lambda i: done(len(calls[i][0]))):
        rows += good
        skipped += bad
    if twice := [name for name, times in Counter(row[0] for row in rows).items() if times > 1]:
        raise SslsimError(f"id {twice[0]!r} is that of an utterance and of a piece of another; rename one of the files")
    columns = ["utterance", "speaker", "recording", "begin", "end", "n_samples", "rate", "clipped", "still", "waveform"]
    return pd.DataFrame(rows, columns=columns), pd.DataFrame(skipped, columns=["utterance", "path", "reason"])


def _check_all(numbered: Sequence[tuple[int, Utterance]], how: Segmentation, keep: Path | None) -> tuple[list, list]:
    rows, skipped = [], []
    for number, utterance in numbered:
        try:
            pieces = list(_pieces(number, utterance, how, keep))
        except AudioError as error:
            skipped.append((utterance.id, written(str(utterance.source)), error.reason))
        else:
            rows += [row for row in pieces if row[-1]]
            skipped += [(row[0], str(utterance.source), SILENT) for row in pieces if not row[-1]]
    return rows, skipped


def _pieces(number: int, utterance: Utterance, how: Segmentation, keep: Path | None) -> Iterator[tuple]:
    """Yield the rows of an utterance's pieces, those that are silent without a hash."""
    with Recording(source := utterance.source) as recording:
        first, last = utterance.stretch(recording)
        samples, seconds = at_16_khz(last - first, recording.rate), (last - first) / recording.rate
        if samples < WINDOW:
            raise AudioError(source, f"{samples} samples at 16 kHz, shorter than one frame ({WINDOW} samples)")
        if seconds > how.longest_seconds:
            raise AudioError(source, f"{seconds:,.1f} s, longer than longest_seconds = {how.longest_seconds:g}")
        cuts = [first + cut for cut in how.cuts(last - first, recording.rate)]
        for piece, (begin, end) in enumerate(pairwise(cuts), 1):
            mono = recording.mono(begin, end)
            waveform, fingerprint = recording.resampled(mono), ""
            if not (is_silent(mono) or is_silent(waveform)):  # a constant rings at its ends once it is resampled
                _keep(keep, number, begin, waveform)
                fingerprint = waveform_fingerprint(waveform)
            name = utterance.id if len(cuts) == 2 else f"{utterance.id}#{piece}"
            heard = len(waveform), recording.rate, *flaws(mono, recording.rate)
            yield name, utterance.speaker, number, begin, end, *heard, fingerprint


class Reader(ExitStack):
    """Pieces of a corpus one after another; a file stays open while its pieces are read.

    `utterances` are those that the `recording` column of the index numbers. In the folder `keep`, of this run, lie
    waveforms that were decoded, and new ones are put; without it, or where it is full, every reading decodes.
    """

    def __init__(self, utterances: Mapping[int, Utterance] | Sequence[Utterance], keep: Path | None = None) -> None:
        super().__init__()
        self._utterances, self._keep = utterances, keep
        self._open: dict[int, Recording] = {}  # one at a time

    def read(self, row: Any) -> NDArray[np.float32]:
        """Return the waveform of a row of the index, and raise if it is no longer what the index was made of."""
        if self._keep:
            with suppress(OSError):
                waveform = np.fromfile(_kept(self._keep, row.recording, row.begin), "<f4")
                if len(waveform) == row.n_samples:
                    return waveform
        if row.recording not in self._open:
            self.close()
            self._open.clear()
            self._open[row.recording] = self.enter_context(Recording(self._utterances[row.recording].source))
        recording = self._open[row.recording]
        if row.end <= recording.n:
            waveform = recording.read(row.begin, row.end)
            if waveform_fingerprint(waveform) == row.waveform:
                _keep(self._keep, row.recording, row.begin, waveform)
                return waveform
        raise AudioError(recording.source, "changed while it was being extracted")


def _kept(folder: Path, recording: int, begin: int) -> Path:
    return folder / f"{recording}-{begin}.f4"


def _keep(folder: Path | None, recording: int, begin: int, waveform: NDArray[np.float32]) -> None:
    if folder is None:
        return
    part = folder / f"{uuid.uuid4()}.part"
    with suppress(OSError):  # no room: it is decoded again
        part.write_bytes(np.ascontiguousarray(waveform, "<f4").data)
        part.replace(_kept(folder, recording, begin))
    with suppress(OSError):
        part.unlink(missing_ok=True)


def origins(index: pd.DataFrame, corpus: Any) -> Iterator[tuple[Utterance, float]]:
    """Yield the recording that each utterance of a store is a piece of, and where it begins there, in seconds."""
    known = {utterance.id: utterance for utterance in read_corpus(corpus)}
    for row in index.itertuples():
        name = row.utterance if row.utterance in known else row.utterance.rpartition("#")[0]  # the number of a piece
        if name not in known:
            raise SslsimError(f"no utterance {row.utterance!r} in this corpus; give the one that the store was made of")
        yield known[name], row.begin / known[name].header[1] - known[name].start if row.begin else 0.0
