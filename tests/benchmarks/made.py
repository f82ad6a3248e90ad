"""Things to measure on: layers and stores of made numbers, encoders with random weights, and sounds."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import soundfile
import torch

from sslsim.activations.shards import drafting
from sslsim.activations.store import ActivationStore, frame_key, open_store
from sslsim.encoders.lineup import Checkpoint
from sslsim.speech.recording import SAMPLE_RATE

DECAY = 0.5  # component i of a layer has standard deviation i ** -DECAY: 99 % of the variance needs about 90 % of them
UTTERANCE = 250  # frames, 5 s


def layers(n: int, width: int, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Layers (n, width) of one model: a latent code they share, noise that grows with depth, each in its own basis."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.arange(1.0, width + 1) ** -DECAY
    latent = torch.randn(n, width, generator=generator) * spread
    for i in range(count):
        basis = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
        noise = torch.randn(n, width, generator=generator) * spread
        yield ((latent + (0.3 + 0.1 * i) * noise) @ basis + torch.randn(width, generator=generator)).numpy()


def store(root: Path, n: int, width: int, count: int, seed: int = 0) -> ActivationStore:
    """Write a store of made layers, without attention; one layer at a time is in memory."""
    lengths = [min(UTTERANCE, n - start) for start in range(0, n, UTTERANCE)]
    index = pd.DataFrame({"utterance": [f"u{u}" for u in range(len(lengths))], "speaker": "s", "length": lengths})
    index = index.assign(n_samples=320 * index.length + 80, n_frames=index.length, n_rows=0, waveform=index.utterance)
    index = index.assign(start=index.n_frames.cumsum() - index.n_frames)
    planned = ActivationStore(
        root=root,
        checkpoint=Checkpoint(root.name, "made"),
        n_layers=count,
        n_neurons=width,
        n_heads=1,
        n_frames=n,
        fingerprint="0" * 64,
        corpus_fingerprint="0" * 64,
        normed=False,
        input_normed=False,
        final_norm=False,
        heard={},
        dtype="float32",
        frames="all",
        queries=0,
        frame_key=frame_key(index, "all", 0),
        versions={},
        index=index,
        skipped=pd.DataFrame(columns=["utterance", "path", "reason"]),
    )
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        files = [Path(folder) / str(i) for i in range(count)]
        for file, layer in zip(files, layers(n, width, count, seed), strict=True):
            layer.tofile(file)

        def arrays(u: int) -> SimpleNamespace:
            frames, start = index[["n_frames", "start"]].iloc[u]
            parts = [np.fromfile(file, "f4", frames * width, offset=4 * start * width) for file in files]
            return SimpleNamespace(hidden=np.stack(parts).reshape(count, frames, width), final=None, attention=[])

        with drafting(root, lambda: (planned, None), "a benchmark") as draft:
            assert draft
            draft.write(range(len(index)), arrays)
    return open_store(root)


@contextmanager
def stores(n: int, *models: tuple[str, int, int]) -> Iterator[list[ActivationStore]]:
    """Yield stores of (name, width, layers) on n frames, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield [store(Path(folder) / name, n, *size, seed=i) for i, (name, *size) in enumerate(models)]


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
