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
from sslsim import extraction, models, writer
from sslsim.audio import load_audio, read_corpus
from sslsim.errors import SslsimError
from sslsim.extraction import extract
from sslsim.lineup import read_lineup
from sslsim.models import load_encoder
from sslsim.parallel import executor
from sslsim.store import check_pairable

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
        assert store.n_layers == encoder.n_layers == 4
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
    assert len(expected) == 4 + 3 + 4 + 3 + 1
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
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "local_directory": tmp_path / "dask"}
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
    assert len(list((tmp_path / "out").iterdir())) <= 1  # the good one, whole, or not begun


def test_stores_are_in_lineup_order_and_pair(stores, corpus):
    assert [store.checkpoint.name for store in stores] == NAMES
    assert [store.pre_norm for store in stores] == [False, True]
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


def test_max_utterances_are_spread_over_the_corpus(checkpoints, corpus, tmp_path):
    lineup = checkpoints / "lineup.toml"
    (store,) = extract(lineup, corpus, tmp_path, checkpoints=["hubert-post"], max_utterances=2, queries=0)
    assert store.index["utterance"].tolist() == ["ann/b", "bob/d"]
    assert store.attention_layers == 0


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
        (b"this is not audio", r"audio '.*z.wav': not audio, or damaged"),
        (None, r"audio '.*z.wav': sample 77 is NaN or infinite"),  # found only by decoding
    ],
)
def test_bad_audio_stops_before_anything_is_loaded_or_written(
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
        extract(checkpoints / "lineup.toml", speech, out, progress=False)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": -1}, "queries is -1; it must be 'all' or a number of rows, 0 for no attention"),
        ({"queries": "some"}, "queries is 'some'; it must be 'all'"),
        ({"queries": 2.5}, "queries is 2.5; it must be 'all'"),
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_an_interrupted_extraction_leaves_nothing(checkpoints, corpus, tmp_path, monkeypatch, error):
    def stop(*_args):
        raise error

    monkeypatch.setattr(writer.ArrayFiles, "append", stop)
    raised = SslsimError if isinstance(error, OSError) else error
    with pytest.raises(raised, match=None if raised is error else "cannot be written: .*No space left on device"):
        extract(checkpoints / "lineup.toml", corpus, tmp_path / "out", checkpoints=["hubert-post"], progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_too_small_is_refused_beforehand(make_store, monkeypatch, tmp_path):
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _path: SimpleNamespace(free=0))
    with pytest.raises(SslsimError, match=r"needs 0\.0 GB, 0\.0 GB are free; use another disk"):
        make_store()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_and_a_living_one_is_not(make_store, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".m-1.{platform.node()}.{dead.pid}.partial"
    other = tmp_path / f".m-1.{platform.node()}.{os.getppid()}.partial"
    elsewhere = tmp_path / f".m-1.not-{platform.node()}.{dead.pid}.partial"
    for folder in (left, other, elsewhere):
        folder.mkdir()
    make_store()
    assert not left.exists()
    assert other.exists()
    assert elsewhere.exists()


def test_when_another_process_was_first_its_store_stays(tmp_path):
    root = tmp_path / "store"
    with writer.temporary(root) as folder:
        (folder / "file").write_text("ours")
        root.mkdir()
        (root / "file").write_text("theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert (root / "file").read_text() == "theirs"


def test_audio_that_changes_meanwhile_is_noticed(checkpoints, corpus, tmp_path, monkeypatch):
    real = extraction._index

    def index_then_change(*args):
        index = real(*args)
        index.loc[1, "waveform"] = "0"
        return index

    monkeypatch.setattr(extraction, "_index", index_then_change)
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
    assert description["version"] == 1
    assert description["frame_rule"] == "frame i covers samples [320 i, 320 i + 400) at 16000 Hz"
    assert "T <= queries" in description["row_rule"]
    assert description["checkpoint"]["name"] == "wav2vec2-post"
    assert sslsim.open(stores[0].root).frame_key == stores[0].frame_key
