"""Layers of stores on the frames to compare, and checks of what is asked for."""

import itertools
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sslsim.activations.conditions import condition, further, orthonormal
from sslsim.activations.store import ActivationStore, StoredLayer
from sslsim.errors import SslsimError, check_whole, close_match
from sslsim.parallel import once
from sslsim.speech.positions import common_positions

SMALL = 2**22  # bytes: chosen frames up to here are kept once read
RUN = 2048  # frames read at a time
FEW = 64  # frames among which any layer varies that does


@dataclass(frozen=True, eq=False)
class LayerView(StoredLayer):
    """One layer of one checkpoint, on the chosen frames (None: on all)."""

    frames: np.ndarray | None

    @property
    def label(self) -> tuple[str, int]:
        """Checkpoint name and layer number."""
        return self.store.name, self.layer

    def __len__(self) -> int:
        return self.store.n_frames if self.frames is None else len(self.frames)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return activations of some of the chosen frames, (n, n_neurons) float32."""
        return self._every[rows] if self._small else self._read(rows)

    @property
    def _small(self) -> bool:  # few enough to be kept
        return 4 * len(self) * self.store.n_neurons <= SMALL

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        return super().__getitem__(rows if self.frames is None else self.frames[rows])

    @once
    def _every(self) -> np.ndarray:
        """The chosen frames of a small layer: a comparison reads them once for every block of others."""
        return self._read(slice(None))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read or computed."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, eq=False)
class PartialView(LayerView):
    """A layer on the chosen frames less its regression on a basis; of that, only the coefficients are kept."""

    view: LayerView
    basis: NDArray[np.float32]  # orthonormal, (n_frames, q)

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        origin, coefficients = self._fit
        return self.view[rows] - origin - self.basis[rows] @ coefficients

    @once
    def _fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Where frames lie, about, and the coefficients of the regression of the rest, (q, n_neurons), float32."""
        origin = self.view[:RUN].mean(0, dtype=np.float64).astype("f4")
        origin *= not isinstance(self.view, PartialView)  # residuals have no mean, and are not regressed on one again
        out = np.zeros((self.basis.shape[1], self.store.n_neurons))
        for rows in (slice(start, start + RUN) for start in range(0, len(self), RUN)):
            out += self.basis[rows].T @ (self.view[rows] - origin)
        return origin, out.astype("f4")


def less(views: Sequence[LayerView], columns: NDArray[Any]) -> list[LayerView]:
    """Return layers less what is given of every stored frame, (n_stored_frames, k) (`conditions.condition`)."""
    return _less(views, orthonormal(columns if views[0].frames is None else columns[views[0].frames]))


def on_rows(views: Sequence[LayerView], rows: NDArray[Any]) -> list[LayerView]:
    """Return layers on some of their chosen frames, by numbers or a mask; what is given is taken off these anew."""
    frames = np.arange(len(views[0]))[rows] if views[0].frames is None else views[0].frames[rows]
    chosen = [LayerView(view.store, view.layer, frames) for view in views]
    for some, view in zip(chosen, views, strict=True):
        whole = view.view if isinstance(view, PartialView) else view
        if whole._small:  # it was read, or will be, for others of these rows
            vars(some)["_every"] = whole._every[rows]
    return _less(chosen, orthonormal(views[0].basis[rows])) if isinstance(views[0], PartialView) else chosen


def mismatched(views: Sequence[LayerView], order: NDArray[np.int64]) -> tuple[list[LayerView], list[LayerView]]:
    """Return layers as they stand on the x side of a mismatch, and, to be read in `order`, on its y side.

    What is given is taken off both sides, as it is on the frames of x and as it is on those of y. Residuals in another
    order would not do: what is given has taken the same slow changes from x and y in the score, but others from each in
    a mismatch, and so the score would look high. Held against the score of the first layers with one another, which
    have lost as much as the second, a mismatch has the same distribution where nothing more is shared.
    """
    assert isinstance(views[0], PartialView)
    basis = views[0].basis.astype(np.float64)
    return _less(views, further(basis, order)), _less(views, further(basis, np.argsort(order)))


def _less(views: Sequence[LayerView], basis: NDArray[np.float64]) -> list[LayerView]:
    single = basis.astype("f4")  # one array for all of them
    return [PartialView(view.store, view.layer, view.frames, view, single) for view in views]


def check_pairable(a: ActivationStore, b: ActivationStore) -> None:
    """Raise unless two stores hold the same frames of the same audio, and the same query rows."""
    if a.frame_key == b.frame_key:
        return
    faults = {"utterance": "hold other utterances", "length": "hold utterances of other lengths"}
    faults |= {"waveform": "were given other audio"}
    other = [told for column, told in faults.items() if a.index[column].tolist() != b.index[column].tolist()]
    if other[:1] == [faults["length"]]:
        u = int((a.index["length"].to_numpy() != b.index["length"].to_numpy()).argmax())
        lengths = " and ".join(f"{store.index['length'].iloc[u]:,}" for store in (a, b))
        other = [f"{faults['length']} ({a.index.utterance.iloc[u]!r}: {lengths} frames)"]
    if a.clock != b.clock and a.unit == b.unit == "frame":
        from_ = [f" from {1000 * float(store.clock.times(np.arange(1))[0]):g} ms on" for store in (a, b)]
        from_ = from_ if a.clock.milliseconds == b.clock.milliseconds else ["", ""]
        both = zip((a, b), from_, strict=True)
        every = " and ".join(f"every {store.clock.milliseconds:g} ms{more} ({store.name})" for store, more in both)
        what = f"frames are {every}; compare a unit of both, such as 80ms, phone or word; attention has none"
    elif a.unit != b.unit:
        what = f"{a.name} is of the unit {a.unit}, {b.name} of {b.unit}; bring both to one by in_units"
    elif other and a.unit != "frame":
        what = f"{a.name} and {b.name} have other units; make both in one call of in_units"
    elif other:
        what = f"{a.name} and {b.name} {other[0]}; extract both from the same corpus"
    elif a.frame_stride != b.frame_stride:
        what = f"{a.name} keeps {a.n_frames:,} frames, {b.name} {b.n_frames:,}; extract both with the same frames"
    else:
        n, m = ("all" if n is None else f"{n:,}" for n in (a.queries, b.queries))
        what = f"{a.name} keeps {n} query rows of an attention map, {b.name} {m}; extract both with the same"
    raise SslsimError(f"layers cannot be paired: {what}")


def check_measures(measures: Sequence[str]) -> None:
    """Raise unless `measures` is a list of at least one name."""
    some = isinstance(measures, Collection) and not isinstance(measures, str) and len(measures) > 0
    if not some or not all(isinstance(name, str) for name in measures):
        raise SslsimError(f"measures is {measures!r}; give a list of at least one name")


def check_stores(stores: Sequence[ActivationStore]) -> None:
    """Raise unless there is at least one store, names are distinct, and all hold the same frames."""
    if not isinstance(stores, Sequence) or not all(hasattr(store, "checkpoint") for store in stores):
        raise SslsimError(f"stores is {str(stores)[:80]!r}; give a list of stores")
    if not stores:
        raise SslsimError("nothing to compare: no store given; extract at least one checkpoint")
    names = [store.name for store in stores]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise SslsimError(f"two stores have the name {twice[0]!r}; give each checkpoint its own name in the lineup")
    for other in stores[1:]:
        check_pairable(stores[0], other)


def layer_views(stores: Sequence[ActivationStore], frames: int | None, given: Any = None) -> list[LayerView]:
    """All layers of all stores, on all frames (None), or at common positions of all utterances on so many at most.

    Less what is `given`, if anything is (`conditions.condition`).
    """
    check_whole("frames", frames, 1, "all")
    index, chosen = stores[0].index, None
    if frames is not None and frames < index.n_frames.sum():
        chosen = common_positions(index.n_frames.tolist(), frames)
        if len(chosen) < 2:
            told = f"at common positions of {len(index):,} utterances that is {len(chosen)}"
            raise SslsimError(f"frames is {frames}; {told}; give more of the {stores[0].n_frames:,}, or None for all")
    views = [LayerView(store, layer, chosen) for store in stores for layer in store.layer_numbers]
    return views if given is None else less(views, condition(stores, given, len(views[0])))


def varying_views(
    stores: Sequence[ActivationStore], between: set[frozenset[str]], frames: int | None, given: Any = None
) -> list[LayerView]:
    """Return the `layer_views` of checkpoints to compare in which a neuron varies; a warning names the others."""
    used = frozenset().union(*between)
    views = [view for view in layer_views(stores, frames, given) if view.label[0] in used]
    live = [view for view in views if _varies(view)]
    if dead := [f"layer {view.layer} of {view.label[0]}" for view in views if view not in live]:
        told = f"no neuron varies over {len(views[0]):,} frames in {', '.join(dead)}"
        if not any(pair <= {view.label[0] for view in live} for pair in between):
            raise SslsimError(f"{told}; nothing to compare")
        warnings.warn(f"{told}; left out of the comparison", stacklevel=2)
    return live


def _varies(view: LayerView) -> bool:
    whole = view.view if isinstance(view, PartialView) else view  # what is given takes long to take off
    first, parts = whole._read(slice(1)), (slice(start, start + FEW) for start in range(0, len(whole), FEW))
    return any((whole._read(part) != first).any() for part in parts)  # mostly the first: no need of all frames


def check_between(between: Iterable[Sequence[str]] | None, stores: Sequence[ActivationStore]) -> set[frozenset[str]]:
    """Return the unordered pairs of checkpoints to compare, each name checked; None stands for all pairs."""
    names = [store.name for store in stores]
    if between is None:
        return {frozenset(pair) for pair in itertools.product(names, names)}
    chosen = set()
    for pair in between if isinstance(between, Iterable) else [between]:
        if isinstance(pair, str) or not isinstance(pair, Collection) or len(pair) != 2:
            raise SslsimError(f"between holds {pair!r}; each item must be two names of checkpoints")
        if odd := [name for name in pair if name not in names]:
            raise SslsimError(f"between names {odd[0]!r}, which is not among the stores{close_match(odd[0], names)}")
        chosen.add(frozenset(pair))
    if not chosen:
        raise SslsimError("between is empty; give pairs of names of checkpoints, or None for all pairs")
    return chosen


def lengths_of(views: Sequence[LayerView]) -> tuple[int, ...]:
    """Return how many of the chosen frames are of each utterance of the corpus."""
    index, frames = views[0].store.index, views[0].frames
    ends = index.start + index.n_frames
    ends = ends if frames is None else np.searchsorted(frames, ends)
    return tuple(np.diff(ends, prepend=0).tolist())
