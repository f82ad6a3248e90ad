"""Activations that no encoder of sslsim made, such as made ones with known answers, as a store like any other."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sslsim import __version__
from sslsim.activations.draft import drafting
from sslsim.activations.shards import keeping
from sslsim.activations.store import RULES, ActivationStore, open_asked
from sslsim.encoders.encoder import Anatomy, Encoded
from sslsim.encoders.lineup import Checkpoint, checked, clock_at, problem
from sslsim.errors import SslsimError, close_match, is_text
from sslsim.resources import digest
from sslsim.speech.corpus import files_in
from sslsim.speech.positions import positions
from sslsim.speech.recording import SAMPLE_RATE, Clock

MADE = "arrays"  # source of such a checkpoint
WIDEST = 20_000  # neurons of a layer: its second moments alone take 3 GB
COVERED = 0.6  # of an utterance, at least: fewer frames say that the clock is wrong
_TAKEN = {"normalised": False, "mask": False, "features": MADE}  # how audio was: not at all
_SUFFIXES = (".npy", ".safetensors", ".npz")  # of the last, an error says what to give
SMALLEST, LARGEST = 1e-15, 1e15  # of the values of a layer, in size: squares of others, and sums of them, leave float32


class ArrayFiles(Mapping[str, Any]):
    """Arrays of utterances in the files of a folder, each read when it is asked for.

    ``<utterance>.npy`` has (layers, frames, neurons), or (frames, neurons) of one layer; ``<utterance>.safetensors``
    one such tensor, or one (frames, neurons) for each layer, named 0, 1 and on. Folders within are part of the names.
    """

    def __init__(self, folder: str | Path) -> None:
        files = sorted(files_in(Path(folder), _SUFFIXES))
        self._files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
        if not files or len(self._files) < len(files):
            told = "two files of one utterance" if files else "no file .npy or .safetensors"
            raise SslsimError(f"activations {str(folder)!r}: {told}; give one for each utterance, called by its id")

    def only(self, utterances: Collection[str]) -> "ArrayFiles":
        """Return those of some utterances alone."""
        some = copy(self)
        some._files = {name: file for name, file in self._files.items() if name in utterances}
        return some

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, utterance: object) -> bool:  # that of a mapping would read the file
        return utterance in self._files

    def __getitem__(self, utterance: str) -> Any:
        file = self._files[utterance]
        try:
            of_torch = file.suffix.lower() == ".safetensors"
            array = _tensors(file) if of_torch else np.load(file, allow_pickle=False)
            return array[None] if array.ndim == 2 else array
        except Exception as error:  # each format fails in its own ways
            told = "it holds several arrays" if isinstance(error, AttributeError) else error
            raise SslsimError(f"activations {str(file)!r}: cannot be read: {told}; mend it or take it away") from error


def _tensors(file: Path) -> Any:
    """Return the only tensor of a file, or those of all layers as one."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(file)
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    if set(tensors) != (names := {str(layer) for layer in range(len(tensors))}) or not names:
        raise ValueError(f"its tensors are {', '.join(sorted(tensors)) or 'none'}, not layers 0, 1 and on")
    return torch.stack([tensors[str(layer)] for layer in range(len(tensors))])


def from_arrays(
    name: str,
    arrays: Mapping[str, Any],
    folder: str | Path,
    *,
    speakers: Mapping[str, str] | None = None,
    times: tuple[float, float] | None = None,
    like: ActivationStore | None = None,
    **facts: Any,
) -> ActivationStore:
    """Keep arrays as a store of a checkpoint called `name`, or open the store in `folder` that has them already.

    `arrays`, which may be `ArrayFiles`, has one (layers, frames, neurons) for each utterance, with one number of layers
    and neurons, kept in float32. `times` are the centre of the first frame and the step to the next, in seconds, by
    default those of `like`, or of 20 ms frames. `speakers` says who speaks where that is known, `facts` what the
    checkpoint is: family, size, finetuned_from, seed_of, untrained_seed, series and step, recipe. Such stores can be
    compared with each other if their utterances have the same names and lengths, and with those of encoders if they are
    `like` one of these: its utterances, at its frames, or with another clock in units (`sslsim.in_units`). Of those at
    its frames the same ones are kept. The folder is ``<folder>/<name>-<hash of the content>``.
    """
    where = f"store {name!r}"
    checkpoint = checked(where, {"name": name, "source": MADE, **{k: v for k, v in facts.items() if v is not None}})
    root, (names, said) = _folder(where, folder), _named(where, arrays, speakers, like)
    clock = _clock(where, times, like)
    shapes, content, key = _looked_at(where, names, arrays, said, clock, like.frame_key if like else "")
    index = _ended(where, _index(names, said, like).assign(length=[n for _, n, _ in shapes]), clock)
    store = ActivationStore(
        root=root / f"{name}-{key[:12]}",
        checkpoint=checkpoint,
        **vars(Anatomy(shapes[0][0], shapes[0][2], 0, dict(_TAKEN), clock=clock)),
        fingerprint=key,
        corpus_fingerprint="",
        segmentation={},
        dtype="float32",
        site="hidden",
        **keeping(index, *((like.frames, like.queries) if like else (None, None)), heads=False, clock=clock),
        versions={"sslsim": __version__, "numpy": np.__version__},
        skipped=pd.DataFrame(columns=["utterance", "path", "reason"]),
    )

    def kept(row: Any) -> Encoded:
        values = _values(where, row.utterance, arrays)
        if _hash(values) != content[row.utterance]:
            raise SslsimError(f"{where}: array of utterance {row.utterance!r} changed while it was read")
        return Encoded(values[:, positions(row.length, store.frame_stride)], None, np.zeros((0, 0, 0, 0), "f4"))

    with drafting(store.root, lambda: store) as draft:
        for task in draft.tasks() if draft else ():
            task.write(kept)
    return open_asked(store.root, checkpoint, {"fingerprint": key})


def check_arrays(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> None:
    """Raise unless checkpoints that are folders of arrays stand beside an encoder, and have an utterance of these."""
    for checkpoint in (each for each in checkpoints if each.times):
        arrays = ArrayFiles(checkpoint.source)
        if all(each.times for each in checkpoints):
            raise problem(checkpoint, "is made of arrays; name an encoder, or log-mel, whose utterances they are of")
        if not any(name in arrays or f"{name}#1" in arrays for name in names):
            told = f"{checkpoint.source!r} has none of {names[0]!r}, but of {next(iter(arrays))!r}"
            raise problem(checkpoint, f"{told}; call files of arrays by the ids of the corpus")


def of_lineup(checkpoint: Checkpoint, folder: Path, stores: Sequence[ActivationStore]) -> ActivationStore:
    """Return the store of a checkpoint whose source has arrays, `like` the first of the stores with its clock, or any.

    Arrays of utterances that the stores do not have are passed over, those of each that they have must be there.
    """
    clock, arrays = clock_at(f"checkpoint {checkpoint.name!r}", checkpoint.times), ArrayFiles(checkpoint.source)
    like = next((store for store in stores if _alike(store.clock, clock)), stores[0])
    if lacking := [name for name in like.index.utterance if name not in arrays]:
        told = f"{checkpoint.source!r} has arrays of {len(arrays):,} utterances, and none of {lacking[0]!r}"
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        raise problem(checkpoint, f"{told}{more}; add files called by the ids of the corpus")
    some = arrays.only(set(like.index.utterance))
    store = from_arrays(checkpoint.name, some, folder, times=checkpoint.times, like=like)
    return replace(store, checkpoint=checkpoint)


def _folder(where: str, folder: Any) -> Path:
    if not isinstance(folder, str | Path) or not folder or not is_text(str(folder)):
        raise SslsimError(f"{where}: folder is {folder!r}; say where the store is to lie")
    return Path(folder).absolute()


def _named(where: str, arrays: Any, speakers: Any, like: Any) -> tuple[list[str], Mapping[str, str]]:
    """Return the utterances, in the order of the store that arrays are like, and who speaks; raise if they differ."""
    said = {} if speakers is None else speakers
    named = isinstance(arrays, Mapping) and isinstance(said, Mapping)
    if not named or not all(map(is_text, [*arrays, *said.values()])):
        raise SslsimError(f"{where}: give a dict of arrays, and in it and of speakers names that any file can hold")
    for stray in said.keys() - arrays.keys():
        raise SslsimError(f"{where}: speakers has {stray!r}, arrays has not{close_match(stray, arrays)}")
    if like is None:
        return list(arrays), said
    if not isinstance(like, ActivationStore) or like.unit != "frame":
        raise SslsimError(f"{where}: like is {str(like)[:80]}; give a store of frames, as sslsim.open does")
    if said:
        raise SslsimError(f"{where}: speakers are those of {like.name}, which it is like; leave them out")
    names = like.index.utterance.tolist()
    if other := set(arrays) ^ set(names):
        told = f"arrays are of {len(arrays):,} utterances, {like.name} of {len(names):,}; not of both is {min(other)!r}"
        raise SslsimError(f"{where}: {told}; give one for each of like.index.utterance")
    return names, said


def _clock(where: str, times: Any, like: ActivationStore | None) -> Clock:
    """Return the clock that is asked for: exactly that of an encoder from which it differs by rounding alone."""
    known = [like.clock, Clock()] if like else [Clock()]
    asked = known[0] if times is None else clock_at(where, times)
    return next((clock for clock in known if _alike(clock, asked)), asked)


def _alike(a: Clock, b: Clock) -> bool:
    """Return whether two clocks differ by less than a microsecond, in the first frame and in the step to the next."""
    return np.allclose(a.times(np.arange(2)), b.times(np.arange(2)), rtol=0, atol=1e-6)


def _ended(where: str, index: pd.DataFrame, clock: Clock) -> pd.DataFrame:
    """Return the index; raise if an utterance has frames after its end, which says that the clock is wrong."""
    ends = index["n_samples"] / SAMPLE_RATE
    for row in index[(clock.times(index["length"].to_numpy() - 2) > ends) & (ends > 0)].head(1).itertuples():
        told = f"{row.length:,} frames every {clock.milliseconds:g} ms, and lasts {row.n_samples / SAMPLE_RATE:.2f} s"
        raise SslsimError(f"{where}: utterance {row.utterance!r} has {told}; give the times of your frames")
    covered = (clock.times(index["length"].to_numpy() - 1) / ends.where(ends > 0)).median()
    if covered < COVERED:
        told = f"frames every {clock.milliseconds:g} ms end at {100 * covered:.0f} % of an utterance (median)"
        raise SslsimError(f"{where}: {told}; give the times of your frames, or arrays of all of the speech")
    return index


def _index(names: Sequence[str], said: Mapping[str, str], like: ActivationStore | None) -> pd.DataFrame:
    """Return the index of utterances, or what another store has of it."""
    index = pd.DataFrame({"utterance": names, "speaker": [said.get(each, "") for each in names]})
    index = index.assign(recording=range(len(index)), begin=0, end=0, n_samples=0, waveform="")
    return index if like is None else like.index[[name for name in index if name in like.index]].reset_index(drop=True)


def _looked_at(
    where: str, names: Sequence[str], arrays: Mapping[str, Any], said: Mapping[str, str], *more: Any
) -> tuple[list[tuple[int, ...]], dict[str, str], str]:
    """Return the shapes and hashes of arrays and a hash of what is kept; raise if they are not what they should be."""
    shapes: list[tuple[int, ...]] = []
    content, largest = {}, np.zeros(1)
    for utterance in names:
        what, values = f"{where}: array of utterance {utterance!r}", _values(where, utterance, arrays)
        shapes.append(values.shape)
        if shapes[-1][::2] != shapes[0][::2]:
            n = "{} layers of {} neurons"
            raise SslsimError(f"{what} has {n.format(*shapes[-1][::2])}, the first {n.format(*shapes[0][::2])}")
        if not np.isfinite(values).all():
            raise SslsimError(f"{what} is NaN or infinite in float32")
        largest = np.maximum(largest, np.abs(values).max((1, 2), initial=0))
        content[utterance] = _hash(values)
    if not sum(n for _, n, _ in shapes):
        raise SslsimError(f"{where}: no arrays, or none with a frame; give at least one utterance")
    for layer in np.flatnonzero((largest > LARGEST) | (largest < SMALLEST) & (largest > 0)):
        told = f"the largest number of layer {layer} is {largest[layer]:.1e} in size"
        raise SslsimError(f"{where}: {told}; scale it to between {SMALLEST:g} and {LARGEST:g}")
    parts = [repr((RULES, sorted(said.items()), more)), *(f"{u}\0{digest}" for u, digest in content.items())]
    return shapes, content, digest("\n".join(parts).encode())


def _hash(values: NDArray[np.float32]) -> str:
    return digest(str(values.shape).encode() + values.data)


def _values(where: str, utterance: str, arrays: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return (layers, frames, neurons) in float32; raise if it is not that, before memory is filled."""
    from sslsim.measures.arrays import block, numbers  # they import torch, which takes seconds

    what, array = f"{where}: array of utterance {utterance!r}", arrays[utterance]
    array = array if hasattr(array, "shape") else numbers(array, what)
    if len(shape := tuple(array.shape)) != 3 or 0 in shape[::2]:
        raise SslsimError(f"{what} has the shape {shape}; give (layers, frames, neurons), none of them 0")
    if shape[2] > WIDEST:
        told = f"a layer may have {WIDEST:,}; give components, or some of them"
        raise SslsimError(f"{what} has {shape[2]:,} neurons; {told}")
    try:
        return np.ascontiguousarray(block(numbers(array, what), None).float().numpy(), "<f4")
    except (TypeError, RuntimeError, NotImplementedError) as error:  # tensors without numbers, nested ones
        raise SslsimError(f"{what} is no array of real numbers: {error}") from error
