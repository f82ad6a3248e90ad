"""What layers are compared beyond: what is given of every frame, and what remains of a layer once that is known.

The residuals of a layer are those of a regression of every neuron on what is given, on exactly the frames compared.
They can still share what depends on it in a nonlinear way.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sslsim.activations.results import kept
from sslsim.activations.store import ActivationStore
from sslsim.activations.units import SpanStore, frames_of
from sslsim.encoders.lineup import LOG_MEL
from sslsim.errors import SslsimError, check_whole, close_match

CONTEXT = 8  # frames on each side, 160 ms
FRAMES_A_COLUMN = 20  # of the spectrogram: held-out speech is explained best at 17 to 36 frames a component
VARIANCE = 0.99  # of the spectrogram with context: 445 of 1,360 components in the embedded speech
EDGE, FADING, DEGREE = 8, 32.0, 3  # of `_position`
SMALLEST = 1e-5  # singular value of columns of norm 1: float32 columns may differ by less from rounding

Floats = NDArray[np.float64]


@kept
def condition(stores: Sequence[ActivationStore], given: Any, frames: int | None = None) -> NDArray[np.float32]:
    """Return what is given of every stored frame (or unit) of the first store, (n_stored_frames, k).

    `given` is one of these, or a list of them:

    - ``'log_mel'``: the log-mel spectrogram with 8 frames of context on each side, from the store of the checkpoint
      'log-mel' among `stores`, which must have kept all frames. It is brought to the first principal components that
      hold 99 % of its variance, but at most one for 20 `frames` or units (those to be compared; by default all).
    - ``'loudness'``: the log of its summed power with the same context.
    - ``'position'``: indicators of the first and the last 8 frames of the utterance, exponentials that fade over 32
      frames from both ends, and polynomials of degree 1 to 3 in the share of the utterance that is over.
    - ``'speaker'``: an indicator of each.
    - an array (n_stored_frames, k) of numbers, or (n_stored_frames,) of labels, such as phones: the `codes` of
      ``sslsim.analysis.labels_if_any``. Whole numbers and strings of one dimension are labels.
    """
    check_whole("frames", frames, 1, "all")
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    n = stores[0].n_frames  # of units there may be few
    parts = [_part(stores, part, min(frames or n, n)) for part in several]
    if not parts:
        raise SslsimError(f"given is empty; name some of {', '.join(NAMED)}, give an array, or None")
    return np.concatenate(parts, axis=1).astype("f4")


def _part(stores: Sequence[ActivationStore], given: Any, frames: int) -> NDArray[Any]:
    if isinstance(given, str):
        if given not in NAMED:
            labels = "; labels of phones are given as an array, see analysis.labels_if_any" if given == "phone" else ""
            raise SslsimError(f"given names {given!r}, which is unknown{labels or close_match(given, NAMED)}")
        columns = NAMED[given](frames_of(stores), frames)
        first = stores[0]  # of a unit the mean of what is given of its frames
        return first.pooled(np.arange(first.n_frames), columns.__getitem__) if isinstance(first, SpanStore) else columns
    from sslsim.measures.arrays import block, numbers  # they import torch, which takes seconds

    n, plain = stores[0].n_frames, np.empty(0)
    with suppress(TypeError, ValueError, RuntimeError):  # what is wrong is said below
        plain = np.asarray(given)
    if plain.shape == (n,) and plain.dtype.kind not in "fc" and not np.ma.is_masked(given):
        return _indicators(plain.astype(str) if plain.dtype.kind == "O" else plain)
    columns = block(numbers(given, "given"), None).float().numpy()
    if columns.ndim not in (1, 2) or len(columns) != n or columns.size == 0:
        raise SslsimError(f"given has shape {columns.shape}; give ({n}, k), one row for every stored frame")
    columns = columns.reshape(n, -1)
    if not np.isfinite(columns).all():
        frame = int((~np.isfinite(columns)).any(1).argmax())
        raise SslsimError(f"frame {frame} of what is given is NaN or infinite in float32")
    return columns


def _indicators(labels: NDArray[Any]) -> Floats:
    return (labels[:, None] == np.unique(labels)).astype(np.float64)


def _speaker(stores: Sequence[ActivationStore], _frames: int) -> Floats:
    index = stores[0].index
    return _indicators(np.repeat(index.speaker.to_numpy(dtype=str), index.n_frames))


def _position(stores: Sequence[ActivationStore], _frames: int) -> Floats:
    """Return what can be common to all utterances at one place: steps at both ends, fading from them, trends."""
    index = stores[0].index
    start = np.concatenate([stores[0].frame_rows(u) for u in range(len(index))])[:, None]
    length = np.repeat(index["length"].to_numpy(), index.n_frames)[:, None]
    ends = (start, length - 1 - start)
    trend = np.polynomial.legendre.legvander(((2 * start + 1) / length - 1)[:, 0], DEGREE)[:, 1:]
    return np.hstack([*(end == np.arange(EDGE) for end in ends), *(np.exp(-end / FADING) for end in ends), trend])


def _spectrogram(stores: Sequence[ActivationStore]) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return the log-mel spectrogram of every utterance, all its frames, and which frames around each are wanted."""
    index, found = stores[0].index, [store for store in stores if store.checkpoint.source == LOG_MEL]
    heard = [store for store in found if (store.index.n_frames == store.index["length"]).all()]
    if not heard:
        lack = f"{found[0].name} has kept only some frames" if found else "there is none among the stores"
        how = "study.spectrogram().extract(folder), and give condition([*stores, *those], ...)"
        raise SslsimError(f"the log-mel spectrogram is needed with all its frames, and {lack}; extract it by {how}")
    if heard[0].index.waveform.tolist() != index.waveform.tolist():
        both = f"{heard[0].name} and {stores[0].name}"
        raise SslsimError(f"{both} were made of other audio; extract both from one corpus")
    x, around = heard[0].layer(0), np.arange(-CONTEXT, CONTEXT + 1)
    first, parts = heard[0].clock.times(np.arange(1))[0], []
    for u, row in enumerate(heard[0].index.itertuples()):
        place = (stores[0].times(u) - first) / (heard[0].clock.milliseconds / 1000)
        nearest = np.ceil(place - 0.5 - 1e-6).astype(np.int64)  # of two as near the earlier one, however it is rounded
        wanted = np.clip(nearest[:, None] + around, 0, row.length - 1)  # the ends are repeated
        parts.append((x[row.start : row.start + row.length], wanted))
    return parts


def _loudness(stores: Sequence[ActivationStore], _frames: int) -> Floats:
    parts = _spectrogram(stores)
    return np.concatenate([np.log(np.exp(x.astype(np.float64)).sum(1))[wanted] for x, wanted in parts])


def _log_mel(stores: Sequence[ActivationStore], frames: int) -> NDArray[np.float32]:
    """Principal components of the spectrogram with context, the largest first; utterance by utterance, to save room."""
    parts = _spectrogram(stores)
    middle = np.concatenate([x for x, _ in parts]).mean(0, dtype=np.float64).astype("f4")

    def pieces() -> Any:
        return ((x - middle)[wanted].reshape(len(wanted), -1) for x, wanted in parts)

    n, total = stores[0].n_frames, sum(z.sum(0, dtype=np.float64) for z in pieces())
    scatter = sum((z.T @ z).astype(np.float64) for z in pieces()) - np.outer(total, total) / n
    variance, directions = (values[..., ::-1] for values in np.linalg.eigh(scatter))
    enough = int(np.searchsorted(np.cumsum(variance), VARIANCE * variance.sum())) + 1
    kept = max(1, min(enough, frames // FRAMES_A_COLUMN))
    basis = (directions[:, :kept] / np.sqrt(variance[:kept])).astype("f4")
    return np.concatenate([z @ basis for z in pieces()])


NAMED: dict[str, Callable[..., NDArray[Any]]] = {f.__name__[1:]: f for f in (_log_mel, _loudness, _position, _speaker)}


def orthonormal(columns: ArrayLike) -> Floats:
    """Return an orthonormal basis (n_frames, q) of the constant, which comes first, and columns (n_frames, k)."""
    every = np.asarray(columns, dtype=np.float64)
    z, size = every - every.mean(0), np.linalg.norm(every, axis=0)
    scale = np.linalg.norm(z, axis=0)
    z = (z / np.maximum(scale, np.finfo(float).tiny))[:, scale > 1e-6 * size]  # those that vary
    basis = _spanned(z - z.mean(0))  # the means of small columns of large means again
    if 4 * basis.shape[1] >= len(z):
        fewer = "give fewer than a quarter as many, such as the first principal components, or compare more frames"
        raise SslsimError(f"what is given has {basis.shape[1]:,} dimensions on {len(z):,} frames; {fewer}")
    return np.hstack([np.full((len(z), 1), len(z) ** -0.5), basis])


def further(basis: Floats, order: NDArray[np.int64]) -> Floats:
    """Return an orthonormal basis of what the frames of a basis span in another order and in their own do not."""
    other = basis[order, 1:]
    return _spanned(other - basis @ (basis.T @ other))


def _spanned(columns: Floats) -> Floats:
    """Return an orthonormal basis of columns of norm 1 at most."""
    for _ in range(2):  # what the squares lost to rounding comes with the second
        squares, directions = np.linalg.eigh(columns.T @ columns)
        kept = squares > SMALLEST**2
        columns = columns @ (directions[:, kept] / np.sqrt(squares[kept]))
    return columns
