"""Checkpoints of a hub on the loopback address: what is fetched, at which commit, and what is said when it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub import COMMIT, serving
from safetensors.torch import load_file, save_file

from sslsim import Study, cli
from sslsim.encoders.files import checkpoint_fingerprint, locate, pinned
from sslsim.encoders.lineup import Checkpoint, read_lineup
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError
from sslsim.reports import record

SETTINGS = {"config.json", "preprocessor_config.json"}
TINY = Checkpoint("x", "org/tiny")
NEWER = "7" * 40


@pytest.fixture
def hub(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "wav2vec2-post-ctc", tmp_path / "root" / "tiny")
    with serving(tmp_path / "root", tmp_path / "cache") as served:
        yield served


def split(folder: Path) -> None:
    """Put weights into two shards and an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"model-0000{i % 2}-of-00002.safetensors" for i, key in enumerate(sorted(weights))}
    for name in set(names.values()):
        save_file({key: weights[key] for key in weights if names[key] == name}, folder / name, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


UNREAD = ["model.fp16.safetensors", "model.fp32-00001-of-00002.safetensors", "model.safetensors.index.fp32.json"]
UNREAD += ["tf_model.h5", "flax_model.msgpack", "training_args.bin", "adapter.fra.safetensors", "README.md"]
SHARDS = {"model.safetensors.index.json", "model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"}


@pytest.mark.parametrize(
    ("change", "read", "unread"),
    [
        (lambda _: None, {"model.safetensors"}, ["model.safetensors.index.json", "pytorch_model.bin"]),
        (split, SHARDS, ["pytorch_model.bin"]),
        (pickle, {"pytorch_model.bin"}, ["pytorch_model.bin.index.json", "pytorch_model.fp16.bin"]),
    ],
)
def test_what_transformers_reads_is_fetched_and_hashed_and_nothing_else(hub, change, read, unread):
    folder = hub.root / "tiny"
    change(folder)
    alone = checkpoint_fingerprint(Checkpoint("y", str(folder)))
    for name in [*UNREAD, *unread]:
        (folder / name).write_bytes(b"what is not read is not looked at")
    encoder = load_encoder(TINY)
    assert encoder.anatomy == load_encoder(Checkpoint("y", str(folder))).anatomy
    assert set(hub.files()) == SETTINGS | read
    assert checkpoint_fingerprint(TINY) == checkpoint_fingerprint(Checkpoint("y", str(folder))) == alone
    hub.asked.clear()
    huggingface_hub.constants.HF_HUB_OFFLINE = True  # undone by the fixture
    os.environ["SSLSIM_COMMITS"] = "{}"
    assert load_encoder(TINY).anatomy == encoder.anatomy
    assert (pinned(TINY).revision, hub.asked) == (COMMIT, [])


def test_shards_of_any_name_are_fetched(hub):
    folder = hub.root / "tiny"
    split(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-0000", "part-"))
    for file in folder.glob("model-0000*"):
        file.rename(folder / file.name.replace("model-0000", "part-"))
    load_encoder(TINY)
    assert {"part-0-of-00002.safetensors", "part-1-of-00002.safetensors"} < set(hub.files())


def test_a_revision_is_looked_up_once_and_is_one_commit_for_all_of_a_run(hub):
    for _ in range(2):
        locate(TINY)
        checkpoint_fingerprint(TINY)
        locate(Checkpoint("twin", "org/tiny", untrained_seed=1))
    assert hub.lookups() == 1
    hub.moved = NEWER
    inherited = "from sslsim.encoders.files import pinned\n"
    inherited += "from sslsim.encoders.lineup import Checkpoint; print(pinned(Checkpoint('x', 'org/tiny')).revision)"
    seen = subprocess.run([sys.executable, "-c", inherited], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == pinned(TINY).revision == COMMIT
    os.environ["SSLSIM_COMMITS"] = "{}"  # another run
    assert pinned(TINY).revision == NEWER


@pytest.mark.parametrize(
    ("source", "revision", "told"),
    [
        ("gated/tiny", None, "it is gated; accept the terms on the model's page and log in with `hf auth login`$"),
        ("private/tiny", None, "there is no such model, or it is private; check the spelling .*, or log in with"),
        ("missing/tiny", None, "there is no such model, or it is private; check the spelling of org/name, or log"),
        ("forbidden/tiny", None, "the hub refuses, or is down .*403.*; log in with `hf auth login`, or wait a while"),
        ("down/tiny", None, "the hub refuses, or is down .*503.*; log in with .*, or wait a while and run again$"),
        ("portal/tiny", None, "a web page came instead of data; if your network asks you to sign in, do so in a"),
        ("org/tiny", "v9", "it has no such revision; give a commit, branch or tag of the model's page$"),
    ],
)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub, source, revision, told):
    at = f" at revision {revision}" if revision else ""
    message = f"^checkpoint 'x': no folder '{source}', and it could not be had from the hub{at}: {told}"
    with pytest.raises(SslsimError, match=message) as caught:
        locate(Checkpoint("x", source, revision=revision))
    assert "\n" not in str(caught.value)


def test_the_commit_that_was_used_and_the_adapter_are_recorded(hub, corpus, tmp_path):
    config = json.loads((hub.root / "tiny" / "config.json").read_text())
    stable = {"adapter_attn_dim": 4, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
    (hub.root / "tiny" / "config.json").write_text(json.dumps(config | stable))
    study = Study(lineup=[Checkpoint("x", "org/tiny", untrained_seed=0)], corpus=corpus, queries=2)
    stores = study.extract(tmp_path / "store", device="cpu")
    assert stores[0].checkpoint.revision == COMMIT
    (said,) = record.made_from([(study, stores)])["checkpoints"]
    assert (said["source"], said["revision"]) == ("org/tiny", COMMIT)
    assert said["adapter"] == "in the blocks, language: not named"
    assert hub.lookups() == 1


def test_a_hub_that_cannot_be_reached_leaves_what_is_in_the_cache(hub):
    there = locate(TINY)
    hub.server.shutdown()
    hub.server.server_close()
    os.environ["SSLSIM_COMMITS"] = "{}"
    assert locate(TINY) == there
    with pytest.raises(SslsimError, match="the hub cannot be reached; check network and proxy, and run again$"):
        locate(Checkpoint("x", "org/other"))


def test_ctrl_c_ends_a_download_at_once_and_the_bar_names_the_checkpoint(hub, tmp_path):
    lineup = tmp_path / "lineup.toml"
    lineup.write_text('[[checkpoint]]\nname = "long-one"\nsource = "slow/tiny"\n')
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    environment |= {"TQDM_POSITION": "-1", "TQDM_DISABLE": "0"}  # bars though nobody looks
    heed = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job that a shell put aside ignores Ctrl-C
    code = f"import signal, sys; {heed}; from sslsim.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "checkpoints", "--lineup", str(lineup)]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not any(file.endswith(".safetensors") for file in hub.files()) and time.monotonic() < until:
            time.sleep(0.05)
        told = ""
        while "long-one: " not in told:  # the bar, which shows after a second; it would be read to its end otherwise
            told += process.stderr.read(1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        told += process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert time.monotonic() - begun < 5
    assert process.returncode == 130
    assert told.endswith("sslsim: interrupted\n")


def test_a_lineup_is_pinned_to_commits_and_read_again(hub, checkpoints, tmp_path, capsys):
    tables = '[[checkpoint]]\nname = "a"\nsource = "org/tiny"\nfamily = "wav2vec2"\n[[checkpoint]]\nname = "b"\n'
    tables += (
        f'source = "{checkpoints}/hubert-pre"\nfinetuned_from = "a"\n[[checkpoint]]\nname = "c"\nsource = "log-mel"'
    )
    (tmp_path / "some.toml").write_text(tables)
    words = ["checkpoints", "--lineup", str(tmp_path / "some.toml")]
    assert cli.main([*words, "--pin", str(tmp_path / "pinned.toml")]) == 0
    assert COMMIT in capsys.readouterr().out
    assert set(hub.files()) == {"config.json"}  # and no weights
    before, after = read_lineup(tmp_path / "some.toml"), read_lineup(tmp_path / "pinned.toml")
    assert after == [pinned(each) for each in before]
    assert [each.revision for each in after] == [COMMIT, None, None]
    assert cli.main([*words, "--pin", str(tmp_path / "pinned.toml")]) == 2
    assert "is there already; give the lineup another name" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert [COMMIT in line for line in capsys.readouterr().out.splitlines()] == [False, True, False, False]
