from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import tone
from safetensors.torch import load_file, save_file

import sslsim
from sslsim.activations import extract as extraction
from sslsim.activations import shards as writer
from sslsim.activations.extract import extract
from sslsim.activations.store import check_pairable
from sslsim.encoders import load as models
from sslsim.encoders.lineup import read_lineup
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError
from sslsim.parallel import executor
from sslsim.speech.corpus import read_corpus
from sslsim.speech.recording import load_audio

NAMES = ["wav2vec2-post", "hubert-pre"]


@pytest.fixture(scope="module")
def stores(checkpoints, corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("stores")
    return extract(checkpoints / "lineup.toml", corpus, out, checkpoints=NAMES, queries=8, progress=False)


@pytest.fixture
def no_loading(monkeypatch):
    def refuse(*_args):
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(models, "load_encoder", refuse)


@pytest.fixture
def one_thread():
    """Give the test one thread of torch, as extraction gives an utterance: two round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_store_holds_what_the_encoder_gives(stores, corpus, one_thread):
    for store in stores:
        encoder = load_encoder(store.checkpoint)
        assert store.n_layers == encoder.anatomy.n_layers == 4
        assert store.n_frames == store.index["n_frames"].sum() == 27 + 36 + 37 + 38
        for u, utterance in enumerate(read_corpus(corpus)):
            rows = store.query_rows(u)
            encoded = encoder.encode(load_audio(utterance.path), rows)
            start, n = store.index[["start", "n_frames"]].iloc[u]
            for layer in range(store.n_layers):
                np.testing.assert_array_equal(store.layer(layer)[start : start + n], encoded.hidden[layer])
            last = encoded.hidden[-1] if encoded.final is None else encoded.final
            np.testing.assert_array_equal(store.final()[start : start + n], last)
            for layer in range(1, store.attention_layers + 1):
                np.testing.assert_array_equal(store.attention(layer, u), encoded.attention[layer - 1])


def content(stores):
    """Return a hash of every file of stores that holds numbers."""
    files = [file for store in stores for file in sorted(store.root.glob("*.npy"))]
    return [(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def test_any_number_of_workers_gives_the_same_bytes(stores, checkpoints, corpus, tmp_path):
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": NAMES, "queries": 8}
    expected = content(stores)
    assert len(expected) == 4 + 3 + 4 + 3 + 1 + 2
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert content(extract(**call, out=tmp_path / f"threads {threads}", progress=False)) == expected
    finally:
        torch.set_num_threads(before)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = extract(**call, out=tmp_path / "processes", executor=pool, progress=False)
    assert content(made) == expected
    assert [s.checkpoint.name for s in made] == NAMES


def test_a_dask_cluster_of_processes_gives_the_same_bytes(stores, checkpoints, corpus, tmp_path):
    import distributed  # its import alone takes seconds

    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": NAMES, "queries": 8}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "local_directory": tmp_path / "dask"}
    with distributed.LocalCluster(**options) as cluster:
        where = executor(scheduler=cluster.scheduler_address)
        made = extract(**call, out=tmp_path / "cluster", executor=where, progress=False)
    assert content(made) == content(stores)


def test_what_fails_on_an_executor_is_raised_here(checkpoints, corpus, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoints / "hubert-pre" / name, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"junk" * 9)
    lineup = [*read_lineup(checkpoints / "lineup.toml")[:1], models.Checkpoint("broken", str(tmp_path))]
    with ThreadPoolExecutor(2) as pool, pytest.raises(SslsimError, match="checkpoint 'broken': .* does not load"):
        extract(lineup, corpus, tmp_path / "out", executor=pool, progress=False)
    assert [path.name[:13] for path in (tmp_path / "out").iterdir()] == ["wav2vec2-post"]  # the good one, whole


def test_stores_are_in_lineup_order_and_pair(stores, corpus):
    assert [store.checkpoint.name for store in stores] == NAMES
    assert [store.final_norm for store in stores] == [False, True]
    assert [store.normed for store in stores] == [True, False]
    check_pairable(*stores)
    assert stores[0].index["utterance"].tolist() == ["ann/a", "ann/b", "bob/c", "bob/d"]
    assert stores[0].index["n_samples"].tolist() == [u.n_samples for u in read_corpus(corpus)]
    assert set(stores[0].versions) == {"sslsim", "torch", "transformers", "numpy", "soundfile", "soxr"}


def test_a_second_call_loads_nothing(stores, checkpoints, corpus, no_loading):
    out = stores[0].root.parent
    before = sorted(out.rglob("*"))
    again = extract(checkpoints / "lineup.toml", corpus, out, checkpoints=NAMES, queries=8)
    assert [store.root for store in again] == [store.root for store in stores]
    assert sorted(out.rglob("*")) == before
    with pytest.raises(AssertionError, match="an encoder was loaded"):
        extract(checkpoints / "lineup.toml", corpus, out, checkpoints=NAMES, queries=9, progress=False)


def test_reopening_imports_neither_transformers_nor_torch(stores, checkpoints, corpus):
    code = (
        "import sys, sslsim\n"
        f"s = sslsim.extract({str(checkpoints / 'lineup.toml')!r}, {str(corpus)!r}, {str(stores[0].root.parent)!r},"
        f" checkpoints={NAMES!r}, queries=8)\n"
        "s[0].layer(0).sum(), s[0].attention(1, 0).sum()\n"
        "assert not {'transformers', 'torch'} & set(sys.modules), 'slow'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_lineup_may_be_renamed_and_annotated_without_extracting(stores, checkpoints, corpus, no_loading, tmp_path):
    (wanted,) = [c for c in read_lineup(checkpoints / "lineup.toml") if c.name == "hubert-pre"]
    annotated = type(wanted)(wanted.name, wanted.source, family="hubert", size="tiny")
    (store,) = extract([annotated], corpus, stores[0].root.parent, queries=8, progress=False)
    assert store.checkpoint == annotated


def test_utterances_are_drawn_by_seed_and_speaker(checkpoints, corpus, tmp_path):
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "out": tmp_path, "checkpoints": ["hubert-post"]}
    drawn = [extract(**call, max_utterances=2, seed=seed, queries=0, progress=False)[0] for seed in range(4)]
    assert all(len(store.index) == 2 for store in drawn)
    assert len({store.root for store in drawn}) > 1
    assert drawn[0].attention_layers == 0
    (each,) = extract(**call, per_speaker=1, queries=0, progress=False)
    assert sorted(each.index.speaker) == ["ann", "bob"]
    (short,) = extract(**call, max_seconds=1.5, queries=0, progress=False)
    assert short.index.n_samples.sum() <= 24_000
    (whole,) = extract(**call, queries=0, progress=False)
    assert extract(**call, queries=0, max_seconds=1_000, progress=False)[0].root == whole.root  # the same is drawn


def test_a_changed_file_is_extracted_anew(checkpoints, corpus, tmp_path):
    shutil.copytree(checkpoints / "hubert-post", tmp_path / "model")
    shutil.copytree(corpus / "ann", tmp_path / "speech")
    lineup = tmp_path / "lineup.toml"
    lineup.write_text('[[checkpoint]]\nname = "m"\nsource = "model"\n')

    def run():
        return extract(lineup, tmp_path / "speech", tmp_path / "out", progress=False)[0]

    first = run()
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["encoder.layer_norm.weight"] *= 2
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    second = run()
    assert second.root != first.root
    assert second.fingerprint != first.fingerprint
    assert not np.array_equal(second.layer(0), first.layer(0))
    soundfile.write(tmp_path / "speech" / "a.wav", tone(9, 9_000), 16_000)
    third = run()
    assert third.root not in (first.root, second.root)
    assert third.corpus_fingerprint != second.corpus_fingerprint
    with pytest.raises(SslsimError, match="heard other audio for utterance 'a'"):
        check_pairable(second, third)
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is not audio", r"1 of the corpus's sounds cannot be used: 'z': not audio, or damaged"),
        (
            None,
            r"1 of the corpus's sounds cannot be used: 'z': sample 77 is NaN or infinite; mend them or drop strict",
        ),  # found only by decoding
    ],
)
def test_bad_audio_stops_a_strict_run_before_anything_is_loaded_or_written(
    checkpoints, corpus, tmp_path, no_loading, content, message
):
    speech, out = tmp_path / "speech", tmp_path / "out"
    shutil.copytree(corpus, speech)
    if content:
        (speech / "z.wav").write_bytes(content)
    else:
        samples = tone(0, 2_000)
        samples[77] = np.nan
        soundfile.write(speech / "z.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(SslsimError, match=message):
        extract(checkpoints / "lineup.toml", speech, out, strict=True, progress=False)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": -1}, "queries is -1; it must be 'all' or a number of rows, 0 for no attention"),
        ({"queries": "some"}, "queries is 'some'; it must be 'all'"),
        ({"queries": 2.5}, "queries is 2.5; it must be 'all'"),
        ({"frames": 0}, "frames is 0; it must be 'all' or a number of frames, 1 or more"),
        ({"shard_seconds": 0}, "shard_seconds is 0; it must be a number above 0"),
        ({"dtype": "int8"}, "dtype is 'int8'; known: float32, bfloat16, float16"),
        ({"max_utterances": 0}, "max_utterances is 0; it must be at least 1, or None for all"),
        ({"checkpoints": ["huber-pre"]}, "no checkpoint 'huber-pre' in the lineup; did you mean 'hubert-pre'?"),
    ],
)
def test_bad_options(checkpoints, corpus, tmp_path, no_loading, options, message):
    with pytest.raises(SslsimError, match=message):
        extract(checkpoints / "lineup.toml", corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_stops_before_any_other_checkpoint_is_run(checkpoints, corpus, tmp_path, no_loading):
    lineup = [*read_lineup(checkpoints / "lineup.toml"), models.Checkpoint("y", str(tmp_path / "absent"))]
    with pytest.raises(SslsimError, match=r"checkpoint 'y': no folder '.*absent'"):
        extract(lineup, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_states_that_are_not_finite_are_named_and_nothing_stays(checkpoints, corpus, tmp_path):
    shutil.copytree(checkpoints / "hubert-post", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["encoder.layers.1.final_layer_norm.bias"][3] = float("inf")
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    lineup = [models.Checkpoint("m", str(tmp_path / "model"))]
    with pytest.raises(SslsimError, match="checkpoint 'm': layer 2 is NaN or infinite for utterance 'ann/a'"):
        extract(lineup, corpus, tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("what", ["hidden", "final", "attention"])
def test_every_array_is_checked(what, make_store, monkeypatch):
    from conftest import random_arrays

    def spoilt(*args):
        arrays = random_arrays(*args)
        getattr(arrays, what)[..., -1, -1] = np.nan
        return arrays

    monkeypatch.setitem(make_store.__globals__, "random_arrays", spoilt)
    named = {"hidden": "layer 0", "final": "final layer", "attention": "attention of layer 1"}[what]
    with pytest.raises(SslsimError, match=f"checkpoint 'model': {named} is NaN or infinite for utterance 'u0'"):
        make_store()


def everything(stores):
    """Return a hash of every file of stores, tables and descriptions too."""
    files = [file for store in stores for file in sorted(store.root.rglob("*"))]
    return [(f"{file.parent.name}/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


@pytest.mark.parametrize("shard_seconds", [0.01, 60])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_extraction_goes_on_to_the_same_bytes(
    checkpoints, corpus, tmp_path, monkeypatch, error, shard_seconds
):
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": ["hubert-pre"], "progress": False}
    expected = everything(extract(**call, out=tmp_path / "whole"))
    write, calls = os.pwrite, []

    def stop(*args):
        calls.append(args)
        if len(calls) == 30:
            raise error
        return write(args[0], args[1][: max(1, len(args[1]) // 3)], args[2])  # and no more than a part at a time

    with monkeypatch.context() as patch:
        patch.setattr(writer.os, "pwrite", stop)
        raised = SslsimError if isinstance(error, OSError) else error
        with pytest.raises(raised, match=None if raised is error else "cannot be written: .*No space left on device"):
            extract(**call, out=tmp_path / "out", shard_seconds=shard_seconds)
    left = list((tmp_path / "out").iterdir())
    assert len(left) <= 1  # the draft, if anything of it is complete
    resumed = extract(**call, out=tmp_path / "out", shard_seconds=0.3)
    assert everything(resumed) == expected
    assert list((tmp_path / "out").iterdir()) == [resumed[0].root]


@pytest.mark.parametrize("damage", ["flip", "cut", "torn", "other"])
def test_what_is_damaged_or_made_by_others_is_made_again(checkpoints, corpus, tmp_path, monkeypatch, damage):
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": ["hubert-pre"], "progress": False}
    expected = everything(extract(**call, out=tmp_path / "whole"))
    real, made = writer.Draft.write, []

    def stop(draft, utterances, arrays):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(list(utterances))
        return real(draft, utterances, arrays)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as one:
        patch.setattr(writer.Draft, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(**call, out=tmp_path / "out", shard_seconds=0.01, executor=one)
    assert made == [[0], [1]]
    (draft,) = (tmp_path / "out").iterdir()
    if damage == "flip":
        content = bytearray((draft / "layer_01.npy").read_bytes())
        content[300] ^= 1
        (draft / "layer_01.npy").write_bytes(content)
    elif damage == "cut":
        os.truncate(draft / "attention_01.npy", 200)
    elif damage == "torn":
        (draft / ".progress" / "1.npy").write_bytes(b"")
    else:
        monkeypatch.setattr(extraction, "_made_by", lambda: "another version")
    again = []
    monkeypatch.setattr(writer.Draft, "write", lambda d, u, a: (again.extend(u), real(d, u, a))[1])
    assert everything(extract(**call, out=tmp_path / "out")) == expected
    wanted = {"flip": [0, 2, 3], "cut": [0, 1, 2, 3], "torn": [1, 2, 3], "other": [0, 1, 2, 3]}
    assert sorted(again) == wanted[damage]


def test_an_utterance_has_its_numbers_whatever_else_is_there(checkpoints, corpus, tmp_path):
    call = {"lineup": checkpoints / "lineup.toml", "checkpoints": NAMES, "queries": 4, "progress": False}
    together = extract(**call, corpus=corpus, out=tmp_path / "together")
    rows = [f"{u.id},{u.path},{u.speaker}" for u in read_corpus(corpus)]
    (tmp_path / "back.csv").write_text("\n".join(["id,path,speaker", *rows[::-1]]))
    (tmp_path / "one.csv").write_text("\n".join(["id,path,speaker", rows[2]]))
    bad = tmp_path / "bad"
    shutil.copytree(corpus, bad)
    (bad / "aaa.wav").write_bytes(b"")
    others = {
        name: extract(**call, corpus=tmp_path / name, out=tmp_path / "o") for name in ("back.csv", "one.csv", "bad")
    }
    assert others["bad"][0].skipped.reason.tolist() == ["empty: 0 bytes"]
    for name, stores in others.items():
        for store, expected in zip(stores, together, strict=True):
            assert len(store.index) == (1 if name == "one.csv" else 4)
            for u, row in store.index.iterrows():
                v = expected.index.utterance.tolist().index(row.utterance)
                place = slice(row.start, row.start + row.n_frames)
                begin = expected.index.start[v]
                for layer in range(4):
                    there = expected.layer(layer)[begin : begin + row.n_frames]
                    np.testing.assert_array_equal(store.layer(layer)[place], there)
                np.testing.assert_array_equal(store.attention(2, u), expected.attention(2, v))


def test_frames_of_each_utterance_are_those_of_all(checkpoints, corpus, tmp_path):
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": NAMES, "progress": False}
    whole, some = extract(**call, out=tmp_path)[1], extract(**call, out=tmp_path, frames=5)[1]
    assert some.n_frames == 20
    for u in range(4):
        rows = whole.index.start[u] + some.frame_rows(u)
        np.testing.assert_array_equal(some.layer(2)[5 * u : 5 * u + 5], whole.layer(2)[rows])
        np.testing.assert_array_equal(some.final()[5 * u : 5 * u + 5], whole.final()[rows])
        np.testing.assert_array_equal(some.attention(3, u), whole.attention(3, u))


def test_log_mel_needs_no_weights_and_long_audio_is_cut(checkpoints, tmp_path):
    soundfile.write(tmp_path / "long.wav", tone(0, 80_000), 16_000)
    (tmp_path / "out").mkdir()
    call = {"lineup": checkpoints / "lineup.toml", "corpus": tmp_path, "out": tmp_path / "out", "progress": False}
    mel, model = extract(**call, checkpoints=["log-mel", "hubert-post"], piece_seconds=2)
    check_pairable(mel, model)
    assert (mel.n_layers, mel.n_neurons, mel.attention_layers) == (1, 80, 0)
    assert mel.index.utterance.tolist() == ["long#1", "long#2", "long#3"]
    assert mel.index.begin.tolist() == [0, 26_666, 53_333]
    encoder = load_encoder(model.checkpoint)
    piece = load_audio(tmp_path / "long.wav")[26_666:53_333]
    start, n = model.index[["start", "n_frames"]].iloc[1]
    np.testing.assert_allclose(model.layer(3)[start : start + n], encoder.encode(piece, []).hidden[3], atol=1e-5)


def test_half_precision_is_another_store(stores, checkpoints, corpus, tmp_path):
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": NAMES, "queries": 8}
    half = extract(**call, out=tmp_path, dtype="bfloat16", progress=False)
    for store, whole in zip(half, stores, strict=True):
        assert store.dtype == "bfloat16"
        assert store.root.name != whole.root.name
        difference = np.abs(store.layer(1) - whole.layer(1)).max() / np.abs(whole.layer(1)).max()
        assert 0 < difference < 0.1


def test_when_nothing_can_be_used_it_is_said(checkpoints, tmp_path, capsys):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", np.zeros(9_000), 16_000)
    call = {"lineup": checkpoints / "lineup.toml", "corpus": tmp_path / "speech", "checkpoints": ["log-mel"]}
    with pytest.raises(SslsimError, match="no utterance of the corpus can be used: 'a': silent: no sample"):
        extract(**call, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    soundfile.write(tmp_path / "speech" / "b.wav", tone(0, 9_000), 16_000)
    extract(**call, out=tmp_path / "out")
    told = "left out 1 that cannot be used (skipped.csv in each store): 'a': silent"
    assert told in capsys.readouterr().out
    with pytest.raises(SslsimError, match="1 of the corpus's sounds cannot be used: 'a'"):
        extract(**call, out=tmp_path / "out", strict=True)


def test_two_processes_on_one_store_leave_one(checkpoints, corpus, tmp_path):
    code = (
        "import sslsim\n"
        f"sslsim.extract({str(checkpoints / 'lineup.toml')!r}, {str(corpus)!r}, {str(tmp_path / 'out')!r},"
        f" checkpoints={NAMES!r}, queries=8, shard_seconds=0.01, progress=False)\n"
    )
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": NAMES, "queries": 8}
    expected = extract(**call, out=tmp_path / "alone", progress=False)
    made = extract(**call, out=tmp_path / "out", progress=False)
    assert everything(made) == everything(expected)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_disk_too_small_is_refused_beforehand(make_store, monkeypatch, tmp_path):
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
    with pytest.raises(SslsimError, match=r"needs 0\.0 GB, 0\.0 GB are free; use another disk"):
        make_store()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_and_a_living_one_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".pieces.{platform.node()}.{dead.pid}.x"
    other = tmp_path / f".pieces.{platform.node()}.{os.getppid()}.x"
    elsewhere = tmp_path / f".pieces.not-{platform.node()}.{dead.pid}.x"
    for folder in (left, other, elsewhere):
        folder.mkdir()
    writer.remove_stale(tmp_path, ".pieces.*")
    assert not left.exists()
    assert other.exists()
    assert elsewhere.exists()


def test_audio_that_changes_meanwhile_is_noticed(checkpoints, corpus, tmp_path, monkeypatch):
    real = extraction.index_of

    def index_then_change(*args, **options):
        index, skipped = real(*args, **options)
        index.loc[1, "waveform"] = "0"
        return index, skipped

    monkeypatch.setattr(extraction, "index_of", index_then_change)
    with pytest.raises(SslsimError, match=r"audio '.*b.flac': changed while it was being extracted"):
        extract(checkpoints / "lineup.toml", corpus, tmp_path, checkpoints=["hubert-post"], progress=False)


def test_the_bar_names_the_checkpoint_and_counts_audio(checkpoints, corpus, tmp_path, capsys):
    extract(checkpoints / "lineup.toml", corpus, tmp_path, checkpoints=["hubert-post"])
    printed = capsys.readouterr()
    assert "hubert-post: 100%" in printed.out
    assert "3/3 s of audio" in printed.out
    assert printed.err == ""


def test_the_store_tells_its_rules(stores):
    description = json.loads((stores[0].root / "store.json").read_text())
    assert description["version"] == 2
    assert description["frame_rule"] == "frame i covers samples [320 i, 320 i + 400) at 16000 Hz"
    assert "all T frames of an utterance where T <= N" in description["sample_rule"]
    assert description["checkpoint"]["name"] == "wav2vec2-post"
    assert sslsim.open(stores[0].root).frame_key == stores[0].frame_key


def test_every_way_of_working_ends_in_the_same_store(checkpoints, corpus, tmp_path):
    """To the byte and in every file, the description too."""
    call = {"lineup": checkpoints / "lineup.toml", "corpus": corpus, "checkpoints": NAMES, "queries": 4}
    ways = {
        f"{threads} threads, {shard_seconds} s": {
            "executor": ThreadPoolExecutor(threads) if threads else None,
            "shard_seconds": shard_seconds,
        }
        for threads, shard_seconds in ((0, 60), (1, 0.01), (1, 1), (3, 0.01), (3, 1_000))
    }
    made = [everything(extract(**call, **way, out=tmp_path / name, progress=False)) for name, way in ways.items()]
    assert len(made[0]) == 4 + 3 + 4 + 3 + 1 + 2 * 4
    assert all(files == made[0] for files in made)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        processes = extract(**call, executor=pool, shard_seconds=0.01, out=tmp_path / "processes", progress=False)
    assert everything(processes) == made[0]


def test_a_long_file_is_extracted_like_its_pieces(checkpoints, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    soundfile.write(whole / "long.flac", tone(0, 80_000), 16_000)
    samples = soundfile.read(whole / "long.flac", dtype="int16")[0]
    for number, (begin, end) in enumerate(((0, 26_666), (26_666, 53_333), (53_333, 80_000)), 1):
        soundfile.write(pieces / f"long#{number}.wav", samples[begin:end], 16_000)
    call = {"lineup": checkpoints / "lineup.toml", "checkpoints": NAMES, "queries": 4, "progress": False}
    cut = extract(**call, corpus=whole, out=tmp_path / "out", piece_seconds=2)
    apart = extract(**call, corpus=pieces, out=tmp_path / "out")
    for a, b in zip(cut, apart, strict=True):
        check_pairable(a, b)
        assert [a.index.recording.tolist(), b.index.recording.tolist()] == [[0, 0, 0], [0, 1, 2]]
        names = sorted(file.name for file in a.root.glob("*.npy"))
        assert [(a.root / n).read_bytes() for n in names] == [(b.root / n).read_bytes() for n in names]


def test_a_dataset_is_extracted_like_its_files(checkpoints, corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    utterances = read_corpus(corpus)
    columns = {"id": [u.id for u in utterances], "speaker": [u.speaker for u in utterances]}
    columns["audio"] = [{"path": u.path.name, "bytes": u.path.read_bytes()} for u in utterances]
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    made.save_to_disk(tmp_path / "saved")
    call = {"lineup": checkpoints / "lineup.toml", "checkpoints": NAMES[:1], "queries": 4, "progress": False}
    expected = everything(extract(**call, corpus=corpus, out=tmp_path / "files"))
    for number, sounds in enumerate((made, tmp_path / "saved")):
        assert everything(extract(**call, corpus=sounds, out=tmp_path / f"{number}")) == expected


def test_when_all_pieces_are_silent_it_is_said(checkpoints, tmp_path):
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", np.zeros(80_000), 16_000)
    with pytest.raises(SslsimError, match="no utterance of the corpus can be used: 'a#1': silent: .*'a#3': silent"):
        extract(checkpoints / "lineup.toml", tmp_path / "speech", tmp_path / "out", piece_seconds=2)
    assert not (tmp_path / "out").exists()


def test_what_was_left_out_is_listed_in_the_store(checkpoints, corpus, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(corpus, bad)
    (bad / "aaa.wav").write_bytes(b"")
    (bad / "ann" / "a.wav").write_bytes((corpus / "ann" / "a.wav").read_bytes()[:9_000])
    soundfile.write(bad / "short.wav", tone(0, 399), 16_000)
    call = {"lineup": checkpoints / "lineup.toml", "corpus": bad, "out": tmp_path / "out", "checkpoints": NAMES[:1]}
    (store,) = extract(**call, progress=False)
    assert store.index.utterance.tolist() == ["ann/b", "bob/c", "bob/d"]
    assert store.skipped.utterance.tolist() == ["aaa", "ann/a", "short"]
    assert store.skipped.path.tolist() == [str(bad / name) for name in ("aaa.wav", "ann/a.wav", "short.wav")]
    assert store.skipped.reason[0] == "empty: 0 bytes"
    assert store.skipped.reason[1].startswith("cut off: ")
    assert store.skipped.reason[2] == "399 samples at 16 kHz, shorter than one frame (400 samples)"
    told = (
        r"3 of the corpus's sounds cannot be used: 'aaa': empty: 0 bytes; 'ann/a': cut off: .*; 'short': 399 samples "
        r"at 16 kHz, shorter than one frame \(400 samples\); mend them or drop strict$"
    )
    for out in (tmp_path / "out", tmp_path / "other"):  # of a store that is there, and of one that is not
        with pytest.raises(SslsimError, match=told):
            extract(**{**call, "out": out}, strict=True, progress=False)
    assert not (tmp_path / "other").exists()
