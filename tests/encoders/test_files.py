from __future__ import annotations

import json
import shutil
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import tone
from safetensors.torch import load_file, save_file

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
        before, file = checkpoint_fingerprint(there), tmp_path / "copy" / name
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"7" if name == "model.safetensors" else content + b"\n")
        assert checkpoint_fingerprint(there) != before


def test_folders_that_hold_no_checkpoint(checkpoints, tmp_path):
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no folder '.*nowhere'"):
        locate(Checkpoint("x", str(tmp_path / "nowhere")))
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no config.json in '.*'"):
        locate(Checkpoint("x", str(tmp_path)))
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoints / "hubert-pre" / name, tmp_path)
    with pytest.raises(SslsimError, match=r"checkpoint 'x': no weights in '.*', such as model.safetensors$"):
        locate(Checkpoint("x", str(tmp_path)))
    with pytest.raises(SslsimError, match=r"checkpoint 'x': has a revision, but its source is a folder, '.*'"):
        locate(Checkpoint("x", str(tmp_path), revision="main"))


def test_offline_is_one_clear_line():
    message = (
        r"'x': no folder 'org/name', and it could not be had from the hub at revision v1: it is not whole in the .+$"
    )
    with pytest.raises(SslsimError, match=message) as caught:
        locate(Checkpoint("x", "org/name", revision="v1"))
    assert "\n" not in str(caught.value)


def sharded(checkpoints, folder, names):
    """Write a checkpoint whose weights lie in shards of these names."""
    shutil.copytree(checkpoints / "wav2vec2-post", folder)
    weights, shards = load_file(folder / "model.safetensors"), {}
    (folder / "model.safetensors").unlink()
    for i, (key, weight) in enumerate(sorted(weights.items())):
        shards.setdefault(names[i % len(names)], {})[key] = weight
    for name, part in shards.items():
        (folder / name).parent.mkdir(exist_ok=True)
        save_file(part, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, part in shards.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Checkpoint("x", str(folder))


@pytest.mark.parametrize(
    "names", [["part-1.safetensors", "b.safetensors"], ["sub/one.safetensors", "sub/two.safetensors"]]
)
def test_shards_of_any_name_count(checkpoints, tmp_path, names):
    checkpoint = sharded(checkpoints, tmp_path / "copy", names)
    whole = load_encoder(Checkpoint("y", str(checkpoints / "wav2vec2-post"))).encode(tone(0, 4_000), [])
    np.testing.assert_array_equal(load_encoder(checkpoint).encode(tone(0, 4_000), []).hidden, whole.hidden)
    for name in names:
        before, file = checkpoint_fingerprint(checkpoint), tmp_path / "copy" / name
        save_file({key: weight * 2 for key, weight in load_file(file).items()}, file, {"format": "pt"})
        assert checkpoint_fingerprint(checkpoint) != before


def test_weights_that_settings_or_a_layout_of_shards_name_count(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "wav2vec2-post", tmp_path / "copy")
    checkpoint, weights = Checkpoint("x", str(folder)), load_file(folder / "model.safetensors")
    (folder / "sub").mkdir()
    edit = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(edit | {"transformers_weights": "sub/w.safetensors"}))
    for name in ("sub/w.safetensors", "shard-00001-model-00001-of-00001.safetensors"):  # each before model.safetensors
        before = checkpoint_fingerprint(checkpoint)
        save_file(weights, folder / name, {"format": "pt"})
        assert checkpoint_fingerprint(checkpoint) != before
    (folder / "config.json").write_text(json.dumps(edit))
    (folder / "model.safetensors").unlink()
    (folder / "model.fp16.safetensors").touch()  # which nothing reads
    torch.save(weights, folder / "pytorch_model.bin")
    before = checkpoint_fingerprint(checkpoint)
    torch.save({}, folder / "pytorch_model.bin")
    assert checkpoint_fingerprint(checkpoint) != before


@pytest.mark.parametrize("name", ["../other.safetensors", "/other.safetensors", "sub/../../other.safetensors"])
def test_weights_out_of_the_folder_are_refused(checkpoints, tmp_path, name):
    checkpoint = sharded(checkpoints, tmp_path / "copy", ["one.safetensors"])
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": name}}
    (tmp_path / "copy" / "model.safetensors.index.json").write_text(json.dumps(index))
    told = f"^checkpoint 'x': names weights '{name}', which is out of '.*copy'; put them in there$"
    for use in (locate, checkpoint_fingerprint, load_encoder):
        with pytest.raises(SslsimError, match=told):
            use(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": {}}}', "\udcff"])
def test_an_index_of_odd_shape_is_one_line(checkpoints, tmp_path, text):
    checkpoint = sharded(checkpoints, tmp_path / "copy", ["one.safetensors"])
    (tmp_path / "copy" / "model.safetensors.index.json").write_bytes(text.encode(errors="surrogateescape"))
    checkpoint_fingerprint(checkpoint)
    with pytest.raises(SslsimError, match="^checkpoint 'x': '.*copy' does not load: ") as caught:
        load_encoder(checkpoint)
    assert "\n" not in str(caught.value)


def test_an_adapter_is_refused_by_name_whatever_is_installed(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "wav2vec2-post", tmp_path / "copy")
    (folder / "adapter_config.json").write_text("{}")
    told = "^checkpoint 'x': has an adapter, adapter_config.json in '.*copy'; merge the adapter .* and save"
    for use in (locate, checkpoint_fingerprint, load_encoder):
        with pytest.raises(SslsimError, match=told):
            use(Checkpoint("x", str(folder)))
    assert locate(Checkpoint("x", str(folder), untrained_seed=0)) == folder  # whose weights no adapter changes


IMPOSTORS = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "is a git-lfs pointer, not the file itself; run `git",
    "\n<!DOCTYPE html>\n<html>": "is a web page, not the file itself; download it again",
    "": "is empty, not the file itself; download it again",
}


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", IMPOSTORS)
def test_files_that_are_not_what_they_seem_are_named_before_any_work(checkpoints, tmp_path, name, content):
    folder = shutil.copytree(checkpoints / "wav2vec2-post", tmp_path / "copy")
    (folder / name).write_text(content)
    for use in (locate, checkpoint_fingerprint, load_encoder):
        with pytest.raises(SslsimError, match=f"^checkpoint 'x': {name} in '.*copy' {IMPOSTORS[content]}"):
            use(Checkpoint("x", str(folder)))


def test_cut_weights_are_named_before_any_work(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints / "wav2vec2-post", tmp_path / "copy")
    whole = (folder / "model.safetensors").read_bytes()
    for size in (5, 300, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        told = r"model.safetensors in '.*copy' is cut off or damaged \(.+\); download it again$"
        with pytest.raises(SslsimError, match=told):
            checkpoint_fingerprint(Checkpoint("x", str(folder)))


def test_checkpoints_of_other_trainers_are_named(checkpoints, tmp_path):
    (tmp_path / "w2v.pt").write_bytes(b"PK")
    told = "'w2v.pt' may be a checkpoint of fairseq or another trainer; convert it to a folder of transformers first"
    with pytest.raises(SslsimError, match=f"no folder '.*w2v.pt'; {told}"):
        locate(Checkpoint("x", str(tmp_path / "w2v.pt")))
    with pytest.raises(SslsimError, match=f"no config.json in '.*'; {told}"):
        locate(Checkpoint("x", str(tmp_path)))
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoints / "hubert-pre" / name, tmp_path)
    with pytest.raises(SslsimError, match=f"no weights in '.*', such as model.safetensors; {told}"):
        locate(Checkpoint("x", str(tmp_path)))


def test_a_folder_of_peft_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SslsimError, match="has an adapter, adapter_config.json in '.*'; merge the adapter"):
        locate(Checkpoint("x", str(tmp_path)))


def test_a_checkpoint_of_a_trainer_takes_the_preprocessor_of_the_folder_above(checkpoints, tmp_path):
    whole = Checkpoint("y", str(checkpoints / "wav2vec2-pre"))
    folder = shutil.copytree(whole.source, tmp_path / "checkpoint-500")
    (folder / "preprocessor_config.json").rename(tmp_path / "preprocessor_config.json")
    ours, theirs = (load_encoder(each) for each in (Checkpoint("x", str(folder)), whole))
    assert ours.anatomy == theirs.anatomy
    assert checkpoint_fingerprint(ours.checkpoint) == checkpoint_fingerprint(whole)
    other = folder.rename(tmp_path / "best")
    with pytest.raises(SslsimError, match="no preprocessor_config.json in '.*best'; copy it from the model that"):
        locate(Checkpoint("x", str(other)))


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
    message = (
        f"checkpoint 'x': no folder 'org/tiny', and it could not be had from the hub at revision {revision}: it is"
    )
    with pytest.raises(SslsimError, match=message) as caught:
        load_encoder(Checkpoint("x", "org/tiny", revision=revision))
    assert "\n" not in str(caught.value)
