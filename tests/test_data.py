"""The embedded default: what is in data/ loads, keeps to its sizes, and has its proof beside it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from sslsim.encoders.files import checkpoint_fingerprint
from sslsim.encoders.lineup import read_lineup
from sslsim.encoders.load import load_encoder
from sslsim.resources import DATA
from sslsim.speech.alignments import alignments_of
from sslsim.speech.corpus import read_corpus

LINEUP = read_lineup(DATA / "lineup.toml")
STEPS = [c for c in LINEUP if c.series and c.step < 2800 and c.weights == "trained"]
TRAINED = [c for c in LINEUP if c.weights == "trained" and c not in STEPS]
BEGIN = LINEUP["w2v2-small-b-0"]  # the random weights of a training's step 0, no twin
TWINS = [c for c in LINEUP if c.untrained_seed is not None and c != BEGIN]
PROOF = pd.read_csv(DATA / "proof.csv")
FOLDERS = DATA / "checkpoints"


def test_the_lineup_has_both_families_sizes_finetuned_forms_and_second_seeds():
    kinds = {(c.family, c.size, bool(c.finetuned_from), bool(c.seed_of)) for c in TRAINED}
    expected = {
        (family, size, tuned, False)
        for family in ("wav2vec2", "hubert")
        for size in ("small", "large")
        for tuned in (False, True)
    }
    assert kinds == expected | {("wav2vec2", "small", False, True), ("hubert", "small", False, True)}
    assert {Path(c.source) for c in TRAINED + STEPS} == {folder for folder in FOLDERS.iterdir() if folder.is_dir()}
    assert [c.size for c in TWINS] == ["small"] * 3 + ["large"]
    assert len({c.untrained_seed for c in TWINS if c.size == "small"}) == 3
    assert [c.name for c in LINEUP if c not in [*TRAINED, *STEPS, *TWINS, BEGIN]] == ["log-mel"]
    assert (BEGIN.series, BEGIN.step) == ("w2v2-small-b", 0)
    assert [(c.series, c.step) for c in STEPS] == [("w2v2-small-b", step) for step in (100, 400, 1200)]


@pytest.mark.parametrize("checkpoint", TRAINED + STEPS + TWINS, ids=lambda c: c.name)
def test_every_checkpoint_loads_whole_at_its_size(checkpoint):
    anatomy = load_encoder(checkpoint).anatomy
    assert anatomy.normed == (checkpoint.size == "small")  # as the public ones
    assert anatomy.final_norm == (checkpoint.size == "large")
    assert (anatomy.n_layers, anatomy.n_neurons) == {"small": (6, 128), "large": (7, 160)}[checkpoint.size]


def test_sizes_are_those_of_a_repository():
    sizes = [file.stat().st_size for file in FOLDERS.glob("*/*.safetensors")]
    assert max(sizes) < 4e6
    assert sum(file.stat().st_size for file in FOLDERS.rglob("*")) < 38e6  # 30e6 without the three steps of a training


def test_two_seeds_are_two_models():
    prints = [checkpoint_fingerprint(c) for c in LINEUP]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("checkpoint", TRAINED, ids=lambda c: c.name)
def test_every_checkpoint_is_proven_better_than_chance_log_mel_and_its_untrained_twin(checkpoint):
    rows = PROOF[PROOF.model == checkpoint.name]
    task = (
        "character_error_rate"
        if checkpoint.finetuned_from
        else {"wav2vec2": "contrastive_accuracy", "hubert": "masked_unit_accuracy"}[checkpoint.family]
    )
    (pretext,) = rows[rows.measure == task].itertuples()
    if checkpoint.finetuned_from:
        assert pretext.value < 0.6 * min(pretext.chance, pretext.untrained)
    else:
        assert pretext.value > 2 * max(pretext.chance, pretext.untrained)
    probe = rows[rows.measure == "phone_probe"]
    assert len(probe) == {"small": 6, "large": 7}[checkpoint.size]
    log_mel = PROOF[(PROOF.model == "log-mel") & (PROOF.measure == "phone_probe")].value.item()
    assert probe.value.max() > max(log_mel, probe.untrained.max(), probe.chance.max()) + 0.02


def test_codebooks_are_not_collapsed():
    perplexity = PROOF[PROOF.measure == "codebook_perplexity"]
    assert len(perplexity) == 3
    assert (perplexity.value > 32).all()  # of 128


def test_the_speech_is_what_its_tables_say():
    utterances = read_corpus(DATA / "speech" / "manifest.csv")
    assert len(utterances) == 100
    assert 7 < sum(u.n_samples / 16_000 for u in utterances) / 60 < 8
    marks = alignments_of(DATA / "speech" / "manifest.csv")
    assert set(marks.id) == {u.id for u in utterances}
    lengths = {u.id: u.n_samples / 16_000 for u in utterances}
    assert (marks.end <= marks.id.map(lengths) + 0.02).all()
