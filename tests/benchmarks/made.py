"""Things to measure on: models of made numbers, encoders with random weights, and sounds."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from scipy.signal import lfilter

import sslsim
from sslsim.activations.store import ActivationStore
from sslsim.encoders.lineup import Checkpoint
from sslsim.speech.recording import SAMPLE_RATE

DECAY = 0.5  # component i of a layer has standard deviation i ** -DECAY: 99 % of the variance needs about 90 % of them
UTTERANCE = 250  # frames, 5 s


@dataclass(frozen=True)
class Model:
    """What `sslsim` asks of a store of activations, with each layer in a file of its own."""

    root: Path
    n_frames: int
    n_neurons: int
    n_layers: int
    frame_key: str = "made"

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """A checkpoint of the folder's name, of a family of its own."""
        return Checkpoint(self.root.name, "made", family=self.root.name)

    @property
    def name(self) -> str:
        """Of the checkpoint."""
        return self.root.name

    @cached_property
    def index(self) -> pd.DataFrame:
        """Utterances of UTTERANCE frames."""
        lengths = [min(UTTERANCE, self.n_frames - start) for start in range(0, self.n_frames, UTTERANCE)]
        index = pd.DataFrame({"utterance": [f"u{u}" for u in range(len(lengths))], "speaker": "s", "length": lengths})
        return index.assign(n_frames=index.length, start=index.length.cumsum() - index.length)

    def layer(self, i: int) -> np.ndarray:
        """Activations of a layer, (n_frames, n_neurons), from its file."""
        return np.memmap(self.root / str(i), "f4", "r", shape=(self.n_frames, self.n_neurons))


def layers(code: torch.Tensor, count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield layers of a code (n, width): noise that grows with depth is added, each in a basis of its own."""
    n, width = code.shape
    scale = torch.arange(1.0, width + 1) ** -DECAY
    for i in range(count):
        basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        noise = torch.randn(n, width, generator=generator)
        yield ((code + (0.3 + 0.1 * i) * noise) * scale) @ basis + torch.randn(width, generator=generator)


def write(model: Model, seed: int) -> Model:
    """Write the layers of a model."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(model.n_frames, model.n_neurons, generator=generator)
    model.root.mkdir()
    for i, layer in enumerate(layers(code, model.n_layers, generator)):
        layer.numpy().tofile(model.root / str(i))
    return model


def stores(folder: Path, n: int, sizes: Sequence[tuple[str, int, int]]) -> list[ActivationStore]:
    """Make stores of (name, width, layers) on 40 utterances, n frames in all.

    Half of the variance of a code is of one that all checkpoints share, the rest of the checkpoint's own; each frame of
    a code goes on from the last.
    """
    rng = np.random.default_rng(0)
    ends = np.linspace(0, n, 41).astype(int)[1:-1] + rng.integers(-n // 400, n // 400 + 1, 39)
    kept = []

    def code(seed: int, width: int) -> torch.Tensor:
        noise = torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).numpy()
        return torch.from_numpy(lfilter([0.6], [1, -0.8], noise, axis=0).astype("f4"))

    for seed, (name, width, count) in enumerate(sizes, 1):
        mixed = (code(0, max(size for _, size, _ in sizes))[:, :width] + code(seed, width)) / 2**0.5
        every = torch.stack(list(layers(mixed, count, torch.Generator().manual_seed(seed)))).numpy()
        arrays = {f"u{u:02d}": each for u, each in enumerate(np.split(every, ends, axis=1))}
        kept.append(sslsim.from_arrays(name, arrays, folder, family=name))
    return kept


@contextmanager
def models(n: int, *sizes: tuple[str, int, int]) -> Iterator[list[Model]]:
    """Yield models of (name, width, layers) on n frames, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield [write(Model(Path(folder) / name, n, *size), seed) for seed, (name, *size) in enumerate(sizes)]


def attention(models: int, blocks: int, heads: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Attention maps (models, blocks, heads, frames, frames): diagonal to broad, with noise."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(frames)
    maps = torch.empty(models, blocks, heads, frames, frames)
    for model, block, head in np.ndindex(models, blocks, heads):
        away = (place[:, None] - place - 3 * block).abs() * (0.02 * head)
        noise = 2 * torch.randn(frames, frames, generator=generator)
        maps[model, block, head] = torch.softmax(noise - away.clamp(max=20), 1)
    return maps


CONFIGS = {
    "base": {},  # what transformers takes for wav2vec 2.0 by itself: 12 blocks, 768 neurons
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "do_stable_layer_norm": True,
        "feat_extract_norm": "layer",
    },
}
SOUND = 10  # seconds


def encoder(root: Path, size: str) -> Checkpoint:
    """Write a wav2vec 2.0 of a size in CONFIGS with random weights."""
    import transformers  # here: it would count in the memory of those who do not need it

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**CONFIGS[size]))
        model.save_pretrained(root / size)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=size == "large").save_pretrained(root / size)
    return Checkpoint(size, str(root / size))


def sounds(root: Path, count: int) -> list[Path]:
    """Write so many FLAC files of SOUND seconds: chirps in noise, no two the same."""
    root.mkdir()
    rng = np.random.default_rng(0)
    t = np.arange(SOUND * SAMPLE_RATE) / SAMPLE_RATE
    files = [root / f"{i:04d}.flac" for i in range(count)]
    for file, pitch in zip(files, rng.uniform(100, 1000, count), strict=True):
        chirp = np.sin(2 * np.pi * (pitch + 50 * t) * t)
        soundfile.write(file, 0.3 * chirp + 0.05 * rng.standard_normal(len(t)), SAMPLE_RATE)
    return files
