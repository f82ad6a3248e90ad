from __future__ import annotations

import shutil
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import tone
from safetensors.torch import load_file

from sslsim.encoders.encoder import RECIPE
from sslsim.encoders.files import checkpoint_fingerprint, locate
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError


def test_the_spectrogram_has_a_fingerprint_of_its_recipe(monkeypatch):
    first = checkpoint_fingerprint(Checkpoint("log-mel", "log-mel"))
    assert first == checkpoint_fingerprint(Checkpoint("floor", "log-mel"))
    monkeypatch.setattr("sslsim.encoders.files.RECIPE", RECIPE.replace("80", "40"))
    assert checkpoint_fingerprint(Checkpoint("log-mel", "log-mel")) != first


def test_an_untrained_twin_needs_no_weights_and_its_fingerprint_follows_seed_and_settings(checkpoints, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoints / "hubert-pre" / name, tmp_path)
    twins = [Checkpoint("x", str(tmp_path), untrained_seed=seed) for seed in (0, 1)]
    assert locate(twins[0]) == tmp_path
    whole = Checkpoint("y", str(checkpoints / "hubert-pre"), untrained_seed=0)
    prints = [checkpoint_fingerprint(c) for c in (*twins, whole, replace(whole, untrained_seed=None))]
    assert prints[0] == prints[2]
    assert len(set(prints)) == 3
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert checkpoint_fingerprint(twins[0]) != prints[0]


def test_the_fingerprint_follows_content_and_not_place(checkpoints, tmp_path):
    here, there = Checkpoint("a", str(checkpoints / "hubert-pre")), Checkpoint("b", str(tmp_path / "copy"))
    shutil.copytree(here.source, there.source)
    (tmp_path / "copy" / "README.md").write_text("not part of the model")
    assert checkpoint_fingerprint(here) == checkpoint_fingerprint(there)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        before = checkpoint_fingerprint(there)
        with (tmp_path / "copy" / name).open("ab") as file:
            file.write(b"\n")
        assert checkpoint_fingerprint(there) != before


def test_folders_that_hold_no_checkpoint(checkpoints, tmp_path):
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no folder '.*nowhere'"):
        locate(Checkpoint("x", str(tmp_path / "nowhere")))
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no config.json in '.*'"):
        locate(Checkpoint("x", str(tmp_path)))
    shutil.copy(checkpoints / "hubert-pre" / "config.json", tmp_path)
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no weights in '.*' \(model\*.safetensors\* or pytorch"):
        locate(Checkpoint("x", str(tmp_path)))
    with pytest.raises(SslsimError, match=r"checkpoint 'x': has a revision, but its source is a folder, '.*'"):
        locate(Checkpoint("x", str(tmp_path), revision="main"))


def test_a_hub_id_is_fetched_at_its_revision_and_without_pickles(checkpoints, monkeypatch):
    asked = []

    def snapshot_download(repo, *, revision, allow_patterns):
        asked.append((repo, revision, allow_patterns))
        return str(checkpoints / "wav2vec2-post")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert locate(Checkpoint("x", "org/name", revision="0" * 40)) == checkpoints / "wav2vec2-post"
    settings = ["config.json", "preprocessor_config.json", "processor_config.json"]
    assert asked == [("org/name", "0" * 40, [*settings, "adapter_config.json", "model*.safetensors*"])]


def test_pickles_are_fetched_where_there_is_nothing_else(checkpoints, monkeypatch, tmp_path):
    shutil.copy(checkpoints / "wav2vec2-post" / "config.json", tmp_path)

    def snapshot_download(repo, *, revision, allow_patterns):
        if allow_patterns == ["pytorch_model*.bin*"]:
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    locate(Checkpoint("x", "org/name"))
    assert (tmp_path / "pytorch_model.bin").exists()


def test_offline_is_one_clear_line():
    message = r"checkpoint 'x': no folder 'org/name', and it could not be had from the hub at revision v1 \(\w+: .+\)$"
    with pytest.raises(SslsimError, match=message) as caught:
        locate(Checkpoint("x", "org/name", revision="v1"))
    assert "\n" not in str(caught.value)


COMMIT, OLDER = "5" * 40, "a" * 40


@pytest.fixture
def hub(checkpoints, tmp_path, monkeypatch):
    """Return a cache as the hub's client keeps it: two commits of org/tiny, main is the later one, v1 the older."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--org--tiny"
    for commit, ref, name in ((COMMIT, "main", "wav2vec2-post-ctc"), (OLDER, "v1", "hubert-pre")):
        shutil.copytree(checkpoints / name, repo / "snapshots" / commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / ref).write_text(commit)
    return repo


def pickled(folder):
    """Replace safetensors by pickled weights, as older checkpoints on the hub have them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("pickles", [False, True])
@pytest.mark.parametrize(
    ("revision", "commit", "name"),
    [
        (None, COMMIT, "wav2vec2-post"),
        ("v1", OLDER, "hubert-pre"),
        (OLDER, OLDER, "hubert-pre"),
    ],
)
def test_a_hub_id_is_found_in_the_cache_with_no_network(hub, checkpoints, revision, commit, name, pickles):
    if pickles:
        pickled(hub / "snapshots" / commit)
    checkpoint = Checkpoint("x", "org/tiny", revision=revision)
    assert locate(checkpoint) == hub / "snapshots" / commit
    encoded = load_encoder(checkpoint).encode(tone(0, 4_000), [0])
    wanted = load_encoder(Checkpoint("y", str(checkpoints / name))).encode(tone(0, 4_000), [0])
    np.testing.assert_array_equal(encoded.hidden, wanted.hidden)
    np.testing.assert_array_equal(encoded.attention, wanted.attention)
    whole = checkpoint_fingerprint(Checkpoint("y", str(hub / "snapshots" / commit)))
    assert checkpoint_fingerprint(checkpoint) == whole


def test_an_untrained_twin_of_a_hub_id_needs_only_its_settings(hub):
    (hub / "snapshots" / OLDER / "model.safetensors").unlink()
    twin = load_encoder(Checkpoint("x", "org/tiny", revision=OLDER, untrained_seed=1))
    assert twin.anatomy.n_layers == 4
    with pytest.raises(SslsimError, match=f"checkpoint 'x': no weights in '.*{OLDER}'"):
        load_encoder(Checkpoint("x", "org/tiny", revision=OLDER))


@pytest.mark.parametrize("revision", ["v2", "b" * 40])
def test_a_revision_that_is_not_in_the_cache(hub, revision):
    message = f"checkpoint 'x': no folder 'org/tiny', and it could not be had from the hub at revision {revision} \\("
    with pytest.raises(SslsimError, match=message) as caught:
        load_encoder(Checkpoint("x", "org/tiny", revision=revision))
    assert "\n" not in str(caught.value)
