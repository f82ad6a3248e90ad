"""The recipe of the embedded checkpoints: its losses are transformers' own, and an interrupted run ends the same."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sslsim.resources import DATA
from sslsim.speech.recording import n_frames

FAMILIES = ["wav2vec2", "hubert"]


@pytest.fixture
def recipe(monkeypatch, tmp_path):
    """Return the recipe's modules; training reads the embedded speech, and units are drawn at random."""
    monkeypatch.syspath_prepend(DATA / "recipe")
    names = ("check", "corpus", "lineup", "losses", "tasks", "train", "trained", "units")
    modules = SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    monkeypatch.setattr(modules.train, "Corpus", lambda _: modules.corpus.Corpus("analysis"))
    for module in (modules.tasks, modules.trained):
        monkeypatch.setattr(module, "BUILD", tmp_path)
    frames = modules.corpus.Corpus("analysis").frames
    (tmp_path / "units" / "mfcc").mkdir(parents=True)
    labels = np.random.default_rng(0).integers(100, size=frames.sum()).astype("u1")
    np.save(tmp_path / "units" / "mfcc" / "train.npy", labels)
    return modules


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_quick_forward_and_its_loss_are_those_of_transformers(recipe, family, size):
    with torch.no_grad():
        gaps = recipe.check.compare(family, size, seconds=1.0)
    assert set(gaps) >= {"features", "output"}
    assert ("loss" in gaps) == (family == "wav2vec2")
    assert max(gaps.values()) < 1e-5


@pytest.mark.parametrize("kind", [*FAMILIES, "ctc"])
def test_an_interrupted_training_ends_bit_for_bit_as_one_that_was_not(recipe, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(recipe.train, "SAVE_EVERY", 2)
    monkeypatch.setattr(recipe.train, "LOG_EVERY", 2)
    base = {"wav2vec2": "w2v2-small", "hubert": "hubert-small-first", "ctc": "w2v2-small-ctc"}[kind]
    short = replace(recipe.lineup.RECIPES[base], steps=5, batch=2, warmup=2, easing=3)
    if kind == "ctc":
        start = replace(recipe.lineup.RECIPES["w2v2-small"], steps=2, batch=2)
        recipe.train.train(start, tmp_path / "runs" / "w2v2-small")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    recipe.train.train(short, whole)

    updates, update = [], recipe.train._update

    def interrupted(*arguments):
        if len(updates) == 3:  # after the save at 2
            raise KeyboardInterrupt
        updates.append(1)
        return update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(recipe.train, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recipe.train.train(short, parts)
    assert not (parts / "done").exists()
    recipe.train.train(short, parts)
    assert (parts / "done").exists()
    a, b = (torch.load(folder / "state.pt", weights_only=True) for folder in (whole, parts))
    assert a["step"] == b["step"] == 5
    for key, weight in a["modules"].items():
        assert torch.equal(weight, b["modules"][key]), key
    untrained = recipe.tasks.build(short.family, short.size, short.ctc).state_dict()
    assert not torch.equal(a["modules"]["model." + next(iter(untrained))], next(iter(untrained.values())))
    steps = [line.split(",")[0] for line in (parts / "log.csv").read_text().splitlines()]
    assert steps == ["step", "2", "4", "5"]


def test_masks_cover_about_half_and_negatives_are_other_masked_frames(recipe):
    torch.manual_seed(0)
    masked = recipe.losses.span_mask(64, 149)
    assert 0.4 < masked.float().mean() < 0.6
    negatives = recipe.losses.sample_negatives(masked)
    own = torch.arange(149)[None, :, None]
    assert masked.gather(1, negatives.flatten(1))[masked.repeat_interleave(50, 1)].all()
    assert not (negatives == own)[masked].any()


def test_features_are_on_the_frames_of_the_models(recipe):
    rng = np.random.default_rng(0)
    for samples in (400, 719, 720, 16_000):
        sound = rng.standard_normal(samples).astype("f4")
        assert len(recipe.units.log_mel(sound)) == n_frames(samples)
    assert recipe.units.mfcc(sound).shape == (n_frames(samples), 39)
