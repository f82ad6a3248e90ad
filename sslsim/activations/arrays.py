"""Activations that no encoder of sslsim made, such as made ones with known answers, as a store like any other."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
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
from sslsim.speech.positions import positions
from sslsim.speech.recording import Clock

MADE = "arrays"  # source of such a checkpoint
WIDEST = 20_000  # neurons of a layer: its second moments alone take 3 GB
_SUFFIXES = (".npy", ".safetensors")


class ArrayFiles(Mapping[str, Any]):
    """Arrays of utterances in the files of a folder, each read when it is asked for.

    ``<utterance>.npy`` has (layers, frames, neurons), or (frames, neurons) of one layer; ``<utterance>.safetensors``
    one such tensor, or one (frames, neurons) for each layer, named 0, 1 and on. Folders within are part of the names.
    Files of other utterances than `only` these are passed over.
    """

    def __init__(self, folder: str | Path, only: Collection[str] | None = None) -> None:
        files = sorted(file for file in Path(folder).rglob("*") if file.suffix in _SUFFIXES)
        self._files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
        if not files or len(self._files) < len(files):
            told = "two files of one utterance" if files else "no file .npy or .safetensors"
            raise SslsimError(f"activations {str(folder)!r}: {told}; give one for each utterance, called by its id")
        self._files = {name: file for name, file in self._files.items() if only is None or name in only}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, utterance: str) -> Any:
        file = self._files[utterance]
        try:
            array = np.load(file, allow_pickle=False) if file.suffix == ".npy" else _tensors(file)
        except Exception as error:  # each format fails in its own ways
            raise SslsimError(f"activations {str(file)!r}: cannot be read: {error}; mend it or take it away") from error
        return array[None] if array.ndim == 2 else array


def _tensors(file: Path) -> NDArray[Any]:
    """Return the only tensor of a file, or those of all layers as one array."""
    from safetensors.numpy import load_file

    tensors = load_file(file)
    if len(tensors) == 1:
        return next(iter(tensors.values()))
    return np.stack([tensors[str(layer)] for layer in range(len(tensors))])


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
    default of 20 ms frames. `speakers` says who speaks where that is known, `facts` what the checkpoint is: family,
    size, finetuned_from, seed_of, untrained_seed, series and step, recipe. Such stores can be compared with each other
    if their utterances have the same names and lengths, and with those of encoders if they are `like` one of these: its
    utterances, with as many frames, or with another clock in units (`sslsim.in_units`). The folder is
    ``<folder>/<name>-<hash of the content>``.
    """
    where, said = f"store {name!r}", {} if speakers is None else speakers
    named = isinstance(arrays, Mapping) and isinstance(said, Mapping)
    if not named or not all(map(is_text, [*arrays, *said.values()])):
        raise SslsimError(f"{where}: give a dict of arrays, and in it and of speakers names that any file can hold")
    checkpoint = checked(where, {"name": name, "source": MADE, **{k: v for k, v in facts.items() if v is not None}})
    for stray in said.keys() - arrays.keys():
        raise SslsimError(f"{where}: speakers has {stray!r}, arrays has not{close_match(stray, arrays)}")
    names = list(arrays) if like is None else _names(where, arrays, like)
    shapes, key = _looked_at(where, names, arrays, said, times, like.frame_key if like else "")
    clock = Clock() if times is None else clock_at(where, times)
    index = _index(names, said, like).assign(length=[n for _, n, _ in shapes])
    how = {"normalised": False, "mask": False, "features": MADE}
    store = ActivationStore(
        root=Path(folder).absolute() / f"{name}-{key[:12]}",
        checkpoint=checkpoint,
        **vars(Anatomy(shapes[0][0], shapes[0][2], 0, how, clock=clock)),
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
        values = _values(where, row.utterance, arrays)[:, positions(row.length, store.frame_stride)]
        return Encoded(values, None, np.zeros((0, 0, 0, 0), "f4"))

    with drafting(store.root, lambda: store) as draft:
        for task in draft.tasks() if draft else ():
            task.write(kept)
    return open_asked(store.root, checkpoint, {"fingerprint": key})


def of_lineup(checkpoint: Checkpoint, folder: Path, stores: Sequence[ActivationStore]) -> ActivationStore:
    """Return the store of a checkpoint whose source has arrays, `like` the first of the stores with its clock, or any.

    Arrays of utterances that the stores do not have are passed over, those of each that they have must be there.
    """
    clock, arrays = clock_at(f"checkpoint {checkpoint.name!r}", checkpoint.times), ArrayFiles(checkpoint.source)
    like = next((store for store in stores if store.clock == clock), stores[0])
    if lacking := [name for name in like.index.utterance if name not in arrays]:
        told = f"{checkpoint.source!r} has arrays of {len(arrays):,} utterances, and none of {lacking[0]!r}"
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        raise problem(checkpoint, f"{told}{more}; add files called by the ids of the corpus")
    arrays = ArrayFiles(checkpoint.source, only=set(like.index.utterance))
    return replace(
        from_arrays(checkpoint.name, arrays, folder, times=checkpoint.times, like=like), checkpoint=checkpoint
    )


def _names(where: str, arrays: Mapping[str, Any], like: ActivationStore) -> list[str]:
    """Return the utterances of a store, in its order; an error if arrays are of others."""
    names = like.index.utterance.tolist()
    if other := set(arrays) ^ set(names):
        told = f"arrays are of {len(arrays):,} utterances, {like.name} of {len(names):,}; not of both is {min(other)!r}"
        raise SslsimError(f"{where}: {told}; give one for each of like.index.utterance")
    return names


def _index(names: Sequence[str], said: Mapping[str, str], like: ActivationStore | None) -> pd.DataFrame:
    """Return the index of utterances, or what another store has of it."""
    index = pd.DataFrame({"utterance": names, "speaker": [said.get(each, "") for each in names]})
    index = index.assign(recording=range(len(index)), begin=0, end=0, n_samples=0, waveform="")
    return index if like is None else like.index[[name for name in index if name in like.index]].reset_index(drop=True)


def _looked_at(
    where: str, names: Sequence[str], arrays: Mapping[str, Any], said: Mapping[str, str], *more: Any
) -> tuple[list[tuple[int, ...]], str]:
    """Return the shapes of arrays and a hash of what is kept of them; raise if they are not what they should be."""
    shapes: list[tuple[int, ...]] = []
    content = hashlib.sha256(repr((RULES, sorted(said.items()), more)).encode())
    for utterance in names:
        what, values = f"{where}: array of utterance {utterance!r}", _values(where, utterance, arrays)
        shapes.append(values.shape)
        if values.ndim != 3 or not values.size:
            raise SslsimError(f"{what} has the shape {values.shape}; give (layers, frames, neurons), none of them 0")
        if shapes[-1][::2] != shapes[0][::2]:
            n = "{} layers of {} neurons"
            raise SslsimError(f"{what} has {n.format(*shapes[-1][::2])}, the first {n.format(*shapes[0][::2])}")
        if values.shape[2] > WIDEST:
            told = f"a layer may have {WIDEST:,}; give components, or some of them"
            raise SslsimError(f"{what} has {values.shape[2]:,} neurons; {told}")
        if not np.isfinite(values).all():
            raise SslsimError(f"{what} is NaN or infinite in float32")
        content.update(f"{utterance}\0{values.shape}".encode())
        content.update(values.data)
    if not shapes:
        raise SslsimError(f"{where}: no arrays; give at least one utterance")
    return shapes, content.hexdigest()


def _values(where: str, utterance: str, arrays: Mapping[str, Any]) -> np.ndarray:
    from sslsim.measures.arrays import block, numbers  # they import torch, which takes seconds

    values = block(numbers(arrays[utterance], f"{where}: array of utterance {utterance!r}"), None)
    return np.ascontiguousarray(values.float().numpy(), "<f4")
