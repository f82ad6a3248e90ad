"""The label of every stored frame, from the time marks of a corpus, and where the utterances of a store come from.

Frame i of an utterance covers samples [320 i, 320 i + 400) at 16 kHz and has the label that holds at its centre.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.store import ActivationStore
from sslsim.errors import SslsimError, close_match
from sslsim.speech.alignments import centres, held
from sslsim.speech.corpus import Utterance, read_corpus
from sslsim.speech.recording import Recording

LEAST = 20  # times that a label must be marked: the mean over fewer stands out by accident


@dataclass(frozen=True, eq=False)
class Labels:
    """The label of every stored frame.

    Attributes
    ----------
    names : tuple of str
        The labels that are marked often enough to be preferred.
    codes : ndarray of shape (n_frames,), int
        Place in `names`; -1 for a frame without a mark or with a rarer label, -2 in an utterance without any mark.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int64]


def labels_if_any(
    marks: pd.DataFrame, store: ActivationStore, corpus: str | Path | Any, *, kind: str = "", least: int = LEAST
) -> Labels | None:
    """Return the label of every frame of a store, or nothing where fewer than two utterances have any.

    Parameters
    ----------
    marks : DataFrame
        From `sslsim.speech.alignments`, times from the beginning of the recording: an utterance may be a piece of it.
    store : ActivationStore
        Any of those of the corpus; other stores of the same frames have the same labels.
    corpus : path or dataset
        That the store was made of; it is an error if it lacks an utterance.
    kind : str
        Which kind of mark; by default phone, or the first of these utterances where they have no phone.
    least : int
        Labels that are marked fewer times here cannot be preferred; where all are, all but the most frequent.
    """
    kinds = list(dict.fromkeys(marks.kind))
    if kind and kind not in kinds:
        raise SslsimError(f"no mark of kind {kind!r}{close_match(kind, kinds)}")
    here = marks[marks.id.isin({name for utterance in store.index.utterance for name in _recordings(utterance)})]
    kinds = list(dict.fromkeys(here.kind))
    kind = kind or ("phone" if "phone" in kinds else next(iter(kinds), ""))
    of = dict(list(here[here.kind == kind].groupby("id", sort=False)))
    labels = np.full(store.n_frames, None, dtype=object)
    inside = np.zeros(store.n_frames, dtype=bool)
    used = []  # the marks that hold a frame, by utterance; two pieces of a recording may share one
    for u, (utterance, begin) in enumerate(origins(store.index, corpus) if of else ()):
        if utterance.id in of:
            marked, rows = of[utterance.id], rows_of(store, u)
            at = held(marked, begin + centres(store.frame_rows(u)))
            inside[rows] = True
            labels[rows] = np.where(at >= 0, marked.label.to_numpy(dtype=object)[at], None)
            used.append(marked.iloc[np.unique(at[at >= 0])])
    if sum(len(some) > 0 for some in used) < 2:
        return None
    times = pd.concat(used)[["id", "start", "label"]].drop_duplicates().label.value_counts()
    names = tuple(sorted(times.index[times >= min(least, times.max())]))
    return Labels(names, np.where(inside, pd.Index(names, dtype=object).get_indexer(labels), -2))


def _recordings(utterance: str) -> tuple[str, str]:
    """Return the names that the recording of an utterance may have: the same, or that without the number of a piece."""
    return utterance, utterance.rpartition("#")[0]


def origins(index: pd.DataFrame, corpus: str | Path | Any) -> Iterator[tuple[Utterance, float]]:
    """Yield the recording that each utterance of a store is a piece of, and where it begins there, in seconds."""
    known, rates = {utterance.id: utterance for utterance in read_corpus(corpus)}, {}
    for row in index.itertuples():
        name = next((name for name in _recordings(row.utterance) if name in known), "")
        if not name:
            raise SslsimError(f"no utterance {row.utterance!r} in this corpus; give the one that the store was made of")
        if row.begin and name not in rates:  # of some files it is known only when all is decoded
            with Recording(known[name].source) as recording:
                rates[name] = recording.rate
        yield known[name], row.begin / rates[name] if row.begin else 0.0


def rows_of(store: ActivationStore, u: int) -> slice:
    """Return which rows of a layer are of one utterance."""
    start, n = (int(store.index[column].iat[u]) for column in ("start", "n_frames"))
    return slice(start, start + n)
