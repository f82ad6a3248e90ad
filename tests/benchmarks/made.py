"""Things to measure on: models of made numbers, encoders with random weights, and sounds."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import lfilter

import sslsim
from sslsim.activations.store import ActivationStore
from sslsim.encoders.lineup import Checkpoint
from sslsim.speech.recording import SAMPLE_RATE

DECAY = 0.5  # component i of a layer has standard deviation i ** -DECAY: 99 % of the variance needs about 90 % of them
UTTERANCE = 250  # frames, 5 s


def layers(code: torch.Tensor, count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield layers of a code (n, width): noise that grows with depth is added, each in a basis of its own."""
    n, width = code.shape
    scale = torch.arange(1.0, width + 1) ** -DECAY
    for i in range(count):
        basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        noise = torch.randn(n, width, generator=generator)
        yield ((code + (0.3 + 0.1 * i) * noise) * scale) @ basis + torch.randn(width, generator=generator)


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
def models(n: int, *sizes: tuple[str, int, int]) -> Iterator[list[ActivationStore]]:
    """Yield stores of (name, width, layers) on n frames that are not alike, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield [unlike(Path(folder), n, *size, seed) for seed, size in enumerate(sizes)]


def unlike(folder: Path, n: int, name: str, width: int, count: int, seed: int) -> ActivationStore:
    """Make a store of frames drawn one by one, in utterances of UTTERANCE."""
    generator = torch.Generator().manual_seed(seed)
    every = np.empty((count, n, width), "f4")
    for i, layer in enumerate(layers(torch.randn(n, width, generator=generator), count, generator)):
        every[i] = layer.numpy()
    parts = np.split(every, range(UTTERANCE, n, UTTERANCE), axis=1)
    return sslsim.from_arrays(name, {f"u{u:04d}": part for u, part in enumerate(parts)}, folder, family=name)


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
