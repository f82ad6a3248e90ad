"""Units beyond the frame: stores whose rows are means of spans of frames, read from the stores that have the frames.

Spans are phones, words, whole utterances, or steps of a clock. They have less autocorrelation than frames, and are the
one common unit of models whose frames have other rates.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim.activations.shards import keeping
from sslsim.activations.store import ActivationStore, Stores
from sslsim.encoders.lineup import GIVEN, Checkpoint
from sslsim.errors import SslsimError, close_match
from sslsim.resources import digest
from sslsim.speech.alignments import alignments_of
from sslsim.speech.index import origins
from sslsim.speech.recording import SAMPLE_RATE

FRAME, UTTERANCE = "frame", "utterance"
POOLS = ("mean", "centre")
_CLOCK = re.compile(r"([1-9]\d{0,6})ms")
_TOGETHER = 8192  # frames read at a time, or those of one unit
_NEXT = 1e-9  # seconds by which the centre of a frame may differ from itself by rounding

Ints = NDArray[np.int64]
Spans = NDArray[np.float64]  # (n, 2) where each begins, and ends, in seconds from the beginning of its utterance


@dataclass(frozen=True, eq=False, kw_only=True)
class SpanStore(ActivationStore):
    """A store whose row k is the mean of rows ``first[k]`` to ``last[k] - 1`` of another; nothing of it is on the disk.

    In `index`, length and n_frames count its own rows. Its attention is that of the store of frames.
    """

    source: ActivationStore
    unit: str
    first: Ints
    last: Ints
    places: Ints | None = None  # of each row among the units of its utterance, with those that were left out
    lowest: int = 0  # layer of the source that is layer 0 here

    @property
    def attention_layers(self) -> int:
        """As of the store of frames."""
        return self.source.attention_layers

    def times(self, u: int) -> NDArray[np.float64]:
        """Return when the spans of an utterance are centred, in seconds from its beginning."""
        begin, times = self.index.start.iloc[u], self.source.times(u)
        rows = slice(begin, begin + self.index.n_frames.iloc[u])
        first, last = (side[rows] - self.source.index.start.iloc[u] for side in (self.first, self.last))
        return (times[first] + times[last - 1]) / 2

    def attention(self, layer: int, u: int) -> NDArray[np.float32]:
        """As of the store of frames."""
        return self.source.attention(layer, u)

    def query_rows(self, u: int) -> Ints:
        """As of the store of frames."""
        return self.source.query_rows(u)

    def verify(self) -> None:
        """Verify the store of frames."""
        self.source.verify()

    def pooled(self, rows: Ints, read: Callable[[Ints], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return for each of some spans the mean of what `read` gives of its rows of the source."""
        ends = np.cumsum(self.last[rows] - self.first[rows])
        parts = np.split(rows, np.flatnonzero(np.diff(ends // _TOGETHER)) + 1)
        return np.concatenate([self._pooled(part, read) for part in parts])

    def _pooled(self, rows: Ints, read: Callable[[Ints], NDArray[np.float32]]) -> NDArray[np.float32]:
        sizes = self.last[rows] - self.first[rows]
        starts = np.cumsum(sizes) - sizes
        values = read(np.repeat(self.first[rows] - starts, sizes) + np.arange(sizes.sum()))
        if (sizes == 1).all():
            return values
        return (np.add.reduceat(values, starts).T / sizes.astype("f4")).T

    def _rows(self, array: int, rows: Ints, columns: tuple) -> NDArray[np.float32]:
        return self.pooled(rows, lambda wanted: self.source._rows(array + self.lowest, wanted, columns))


@dataclass(frozen=True, eq=False, kw_only=True)
class ColumnStore(ActivationStore):
    """A store of one layer, numbers of every row of another store, held in memory."""

    columns: NDArray[np.float32]  # (n_frames, n_neurons)

    attention_layers = 0

    def _rows(self, array: int, rows: Ints, columns: tuple) -> NDArray[np.float32]:
        return self.columns[rows][(slice(None), *columns)]


def check_unit(unit: Any, pool: Any) -> None:
    """Raise unless these may be the names of a unit, whose marks a corpus must have, and of a pool."""
    if not isinstance(unit, str) or not (_CLOCK.fullmatch(unit) or re.fullmatch(r"[^\W\d][\w -]*", unit)):
        raise SslsimError(f"unit is {unit!r}; give frame, phone, word, utterance, or milliseconds such as 40ms")
    if not isinstance(pool, str) or pool not in POOLS:
        raise SslsimError(f"pool is {pool!r}; known: {', '.join(POOLS)}")


def check_steps(unit: str, milliseconds: Mapping[str, float]) -> None:
    """Raise if a unit is a step of the clock and shorter than the frames, by name of the model, of one."""
    slowest = max(milliseconds, key=lambda name: milliseconds[name])
    if (clock := _CLOCK.fullmatch(unit)) and int(clock[1]) < milliseconds[slowest] - 1e-6:
        told = f"frames of {slowest} are every {milliseconds[slowest]:g} ms"
        raise SslsimError(f"unit is {unit!r}, and {told}; give a unit that is no shorter")


def marks_of(unit: str, corpus: Any) -> pd.DataFrame:
    """Return the marks that are the units, none for a step of the clock; raise if the corpus has none of the kind."""
    marks = pd.DataFrame(columns=["kind"]) if corpus is None else alignments_of(corpus)
    if not (_CLOCK.fullmatch(unit) or unit in (FRAME, UTTERANCE, *(kinds := sorted(set(marks.kind))))):
        has = f"marks of {', '.join(kinds)}" if kinds else "no marks of time"
        told = close_match(unit, [*kinds, UTTERANCE, "40ms"])
        raise SslsimError(f"unit is {unit!r}, and the corpus has {has}{told}")
    return marks[marks.kind == unit]


def frames_of(stores: Sequence[ActivationStore]) -> Stores:
    """Return the stores of frames that stores are of."""
    return Stores(store.source if isinstance(store, SpanStore) else store for store in stores)


def in_units(stores: Sequence[ActivationStore], unit: str, pool: str = "mean", corpus: Any = None) -> Stores:
    """Return stores whose rows are units instead of frames.

    `unit` is one of these: ``"40ms"``, ``"80ms"`` or any whole number of milliseconds, steps of the clock from the
    beginning of the utterance; ``"phone"``, ``"word"`` or another kind of mark that the `corpus` has (see
    `sslsim.speech.alignments.alignments_of`); ``"utterance"``. A unit has the frames whose centres lie in it; `pool`
    says whether their mean is taken or the one nearest to its ``centre``. A unit without a frame in one of the stores
    is left out of all of them, and counted on the terminal. The stores may have frames of other rates, but are of one
    corpus.
    """
    check_unit(unit, pool)
    if not isinstance(stores, Sequence) or not stores or not all(isinstance(s, ActivationStore) for s in stores):
        raise SslsimError(f"stores is {str(stores)[:80]!r}; give a list of at least one store")
    if unit == FRAME:
        return frames_of(stores)
    for other in (stores := frames_of(stores))[1:]:
        if any(other.index[name].tolist() != stores[0].index[name].tolist() for name in ("utterance", "waveform")):
            both = f"{stores[0].name} and {other.name}"
            raise SslsimError(f"{both} hold other utterances, or other audio; extract both from one corpus")
    check_steps(unit, {store.name: store.clock.milliseconds for store in stores})
    wanted = [*_spans(stores, unit, corpus)]
    sides = [[_inside(store, u, spans) for u, spans in enumerate(wanted)] for store in stores]
    full = [np.all([of[u][:, 1] > of[u][:, 0] for of in sides], axis=0) for u in range(len(wanted))]
    counts, empty = [int(these.sum()) for these in full], sum(int((~these).sum()) for these in full)
    told = f"{sum(counts):,} units ({unit}) of {sum(n > 0 for n in counts):,} of {len(counts):,} utterances"
    if sum(counts) < 2:
        raise SslsimError(f"{told} have a frame in every store; keep more frames, or take another unit")
    print(told + (f"; {empty:,} without a frame in every store are left out" if empty else ""), flush=True)
    kept = [spans[these] for spans, these in zip(wanted, full, strict=True)]
    out = []
    for store, rows in zip(stores, sides, strict=True):
        places = np.concatenate([of[these] for of, these in zip(rows, full, strict=True)])
        if pool == "centre":
            times = np.concatenate([store.times(u) for u in range(len(kept))])
            places = _central(times, places, np.concatenate(kept).mean(1))
        key = unit, pool, *(each.tobytes() for each in kept)
        numbers = np.concatenate([np.flatnonzero(these) for these in full])
        out.append(spanned(store, places.T, counts, key, unit=unit, places=numbers))
    return Stores(out)


def spanned(store: ActivationStore, rows: Ints, counts: Sequence[int], key: Iterable[Any], **changes: Any) -> SpanStore:
    """Return the store of spans of rows, (2, n) first and last, so many in each utterance; `key` says which they are.

    Stores with the same utterances and key can be paired. `changes` are fields of the store that differ.
    """
    parts = [*store.index.utterance, *store.index.waveform, *counts, *key]
    same = digest(b"\0".join(p if isinstance(p, bytes) else str(p).encode() for p in parts))
    content = [f"{store.fingerprint} {store.frame_key} {changes.get('lowest', 0)}".encode(), rows.tobytes()]
    kept = keeping(store.index.assign(length=counts), None, 0, heads=False)
    kept |= {"frame_key": same, "shards": store.shards}
    first, last = np.ascontiguousarray(rows)
    return SpanStore(**_like(store, content, **kept, source=store, first=first, last=last, **changes))


def with_columns(store: ActivationStore, name: str, columns: NDArray[np.float32]) -> ColumnStore:
    """Return a store called `name` of one layer: these numbers of every row of a store, (n_frames, k)."""
    made: dict[str, Any] = {"checkpoint": Checkpoint(name, GIVEN), "n_layers": 1, "n_neurons": columns.shape[1]}
    made |= {"n_heads": 0, "final_norm": False, "site": "hidden", "columns": columns}
    return ColumnStore(**_like(store, [store.frame_key.encode(), columns.tobytes()], **made))


def _like(store: ActivationStore, content: Iterable[bytes], **changes: Any) -> dict[str, Any]:
    """Return the fields of a store, of which some differ, with a fingerprint of the content."""
    own = {field.name: getattr(store, field.name) for field in fields(ActivationStore)}
    return own | {"fingerprint": digest(b"\0".join(content))} | changes


def _spans(stores: Stores, unit: str, corpus: Any) -> Iterator[Spans]:
    """Yield where the units of each utterance begin and end."""
    clock = _CLOCK.fullmatch(unit)
    if clock or unit == UTTERANCE:
        for u in range(len(stores[0].index)):
            last = max((times[-1] for store in stores if len(times := store.times(u))), default=0.0)
            step = int(clock[1]) / 1000 if clock else last + 2 * _NEXT
            yield step * (np.arange(int((last + _NEXT) / step) + 1)[:, None] + [0, 1])
    else:
        of = dict(list(marks_of(unit, corpus).groupby("id", sort=False)))
        for row, (utterance, begin) in zip(stores[0].index.itertuples(), origins(stores[0].index, corpus), strict=True):
            some = of.get(utterance.id)
            spans = np.empty((0, 2)) if some is None else some[["start", "end"]].to_numpy(float) - begin
            whole = row.utterance == utterance.id  # of a piece, only what lies in it is missed where it has no frame
            yield spans[whole | (spans[:, 1] > 0) & (spans[:, 0] < row.n_samples / SAMPLE_RATE)]


def _inside(store: ActivationStore, u: int, spans: Spans) -> Ints:
    """Return which rows of an utterance lie in each span, (n, 2): the first of them, and the one after the last."""
    return store.index.start.iloc[u] + np.searchsorted(store.times(u), spans - _NEXT)


def _central(times: NDArray[np.float64], both: Ints, middles: NDArray[np.float64]) -> Ints:
    """Of each span return the row whose time is nearest to its middle alone, (n, 2)."""
    spans = zip(both.tolist(), middles, strict=True)
    nearest = [a + int(np.abs(times[a:b] - at).round(9).argmin()) for (a, b), at in spans]
    return np.array(nearest)[:, None] + [0, 1]
