"""Shared fixtures: tiny checkpoints with random weights, a tiny corpus, and stores made without any model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's client is imported: no test asks the network
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("SSLSIM_FRESH", "1")  # what a test computes is computed

import numpy as np
import pandas as pd
import pytest
import soundfile

from sslsim.activations.draft import drafting
from sslsim.activations.shards import ShardFile, keeping, shard_file, write_shard
from sslsim.activations.store import ActivationStore, open_store
from sslsim.encoders.lineup import Checkpoint

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "initializer_range": 0.2,  # so that attention is far from uniform
    "vocab_size": 12,
}


def tone(seed: int, n_samples: int, rate: int = 16_000) -> np.ndarray:
    """Return a chirp in noise, (n_samples,) float32, another one for each seed."""
    rng = np.random.default_rng(seed)
    t = np.arange(n_samples) / rate
    chirp = np.sin(2 * np.pi * (200 + 40 * seed + 300 * t) * t)
    return (0.3 * chirp + 0.02 * rng.standard_normal(n_samples)).astype("f4")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Path:
    """Folders ``{wav2vec2,hubert}-{post,pre}`` and, with the same encoder and a CTC head, ``...-ctc``; a lineup."""
    import torch
    import transformers

    folder, tables = tmp_path_factory.mktemp("checkpoints"), []
    for family, kind in (("wav2vec2", "Wav2Vec2"), ("hubert", "Hubert")):
        for norm in ("post", "pre"):
            pre = norm == "pre"  # as the public ones: base post-norm, group; large pre-norm, layer, mask
            layout = {"do_stable_layer_norm": pre, "feat_extract_norm": "layer" if pre else "group"}
            torch.manual_seed(len(tables))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = getattr(transformers, f"{kind}ForCTC")(getattr(transformers, f"{kind}Config")(**TINY, **layout))
                preprocess = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=pre)
                name = f"{family}-{norm}"
                for path, part in ((name, getattr(model, family)), (f"{name}-ctc", model)):
                    part.save_pretrained(folder / path)
                    preprocess.save_pretrained(folder / path)
            tables += [f'name = "{name}"', f'name = "{name}-ctc"\nfinetuned_from = "{name}"']
    text = "\n".join(f'[[checkpoint]]\n{t}\nsource = "{t.split(chr(34))[1]}"' for t in tables)
    (folder / "lineup.toml").write_text(text)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Write a folder of four short utterances by two speakers, of several formats and rates."""
    folder = tmp_path_factory.mktemp("corpus")
    files = {
        "ann/a.wav": (9_000, 16_000),
        "ann/b.flac": (16_000, 22_050),
        "bob/c.wav": (6_001, 8_000),
        "bob/d.flac": (12_345, 16_000),
    }
    for seed, (name, (n_samples, rate)) in enumerate(files.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, tone(seed, n_samples, rate), rate)
    return folder


@pytest.fixture
def make_store(tmp_path):
    """Return a function that writes a store of random numbers, no model needed, and opens it."""

    def make(
        name: str = "model",
        *,
        frames: tuple[int, ...] = (5, 40, 12),
        queries: int | None = 8,
        n_layers: int = 3,
        n_neurons: int = 6,
        n_heads: int = 2,
        final_norm: bool = True,
        kept: int | None = None,
        seed: int = 0,
        audio: str = "",
        site: str = "hidden",
        **lineage: Any,
    ) -> ActivationStore:
        """`kept` frames in all; `lineage`: fields of its checkpoint, such as family, finetuned_from, untrained_seed."""
        utterances = [f"u{u}" for u in range(len(frames))]
        index = pd.DataFrame({"utterance": utterances, "speaker": "s", "length": frames})
        index["begin"] = 0
        index["n_samples"] = 320 * index["length"] + 80
        index["waveform"] = [f"{audio}{u}" for u in utterances]
        rng = np.random.default_rng(seed)
        store = ActivationStore(
            root=Path(),
            checkpoint=Checkpoint(name, **{"source": "nowhere", **lineage}),
            n_layers=n_layers,
            n_neurons=n_neurons,
            n_heads=n_heads,
            fingerprint="f" * 64,
            corpus_fingerprint="c" * 64,
            segmentation={},
            normed=not final_norm,
            input_normed=not final_norm,
            final_norm=final_norm,
            input={"normalised": True, "mask": False, "features": "group"},
            parameters=99,
            dtype="float32",
            site=site,
            **keeping(index, kept, queries, heads=n_heads > 0)
            | {"shards": [0, 1] if len(frames) > 1 else [0]},  # so that most readings meet the end of a file
            versions={},
            skipped=pd.DataFrame(columns=["utterance", "path", "reason"]),
        )
        with drafting(tmp_path / name, lambda: store) as draft:
            assert draft is not None
            for task in draft.tasks():
                task.write(lambda row: random_arrays(rng, store, row))
        return open_store(tmp_path / name)

    return make


def random_arrays(rng: np.random.Generator, store: ActivationStore, row: Any) -> SimpleNamespace:
    """Return what an encoder might have made of one utterance, a row of the index."""
    maps = rng.random((store.attention_layers, store.n_heads, row.n_rows, row.length), dtype="f4")
    return SimpleNamespace(
        hidden=rng.standard_normal((store.n_layers, row.n_frames, store.n_neurons), dtype="f4"),
        final=rng.standard_normal((row.n_frames, store.n_neurons), dtype="f4") if store.final_norm else None,
        attention=maps / maps.sum(axis=-1, keepdims=True),
    )


def edited(store: ActivationStore, what: str, change: Callable[..., None]) -> ActivationStore:
    """Change numbers of a store, and its checksums with them.

    `change` is called with an array that it may write to: of each utterance if `what` is ``attention L``, of shape
    (n_heads, n_rows, T), else with all rows of ``layer L`` or ``final``, (n_frames, n_neurons).
    """
    kind, _, number = what.partition(" ")
    arrays = [np.array(store.layer(layer)) for layer in range(store.n_layers)]
    arrays += [np.array(store.final())] if store.final_norm else []
    maps = [
        [store.attention(layer, u).copy() for layer in range(1, store.attention_layers + 1)]
        for u in range(len(store.index))
    ]
    if kind == "attention":
        for of_utterance in maps:
            change(of_utterance[int(number) - 1])
    else:
        change(arrays[-1 if kind == "final" else int(number)])
    for shard, (first, layout) in enumerate(zip(store.shards, store.layouts, strict=True)):
        made = []
        for u in range(first, first + len(layout.maps) - 1):
            start, n = store.index[["start", "n_frames"]].iloc[u]
            rows = [array[start : start + n] for array in arrays]
            final = rows.pop() if store.final_norm else None
            made.append(SimpleNamespace(hidden=rows, final=final, attention=maps[u]))
        write_shard(store.root / shard_file(shard), layout, made)
        ShardFile(store.root / shard_file(shard), layout, afresh=True)
    return open_store(store.root)
