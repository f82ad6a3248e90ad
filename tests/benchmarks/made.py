"""Layers and stores to measure on: made numbers with the shape of speech encoders, no model needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sslsim.lineup import Checkpoint
from sslsim.store import ActivationStore, frame_key, layer_file, open_store
from sslsim.writer import write_description

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
    """Write a store of made layers, without attention."""
    lengths = [min(UTTERANCE, n - start) for start in range(0, n, UTTERANCE)]
    index = pd.DataFrame({"utterance": [f"u{u}" for u in range(len(lengths))], "speaker": "s", "n_frames": lengths})
    index = index.assign(n_samples=320 * index.n_frames + 80, start=index.n_frames.cumsum() - index.n_frames)
    index = index.assign(n_rows=0, waveform=index.utterance)
    root.mkdir()
    made = ActivationStore(
        root=root,
        checkpoint=Checkpoint(root.name, "made"),
        n_layers=count,
        n_neurons=width,
        n_heads=1,
        n_frames=n,
        fingerprint="0" * 64,
        corpus_fingerprint="0" * 64,
        final_norm=False,
        queries=0,
        frame_key=frame_key(index, 0),
        versions={},
        index=index,
    )
    for i, layer in enumerate(layers(n, width, count, seed)):
        np.save(root / layer_file(i), layer)
    write_description(made)
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
