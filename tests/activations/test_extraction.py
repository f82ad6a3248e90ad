from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from conftest import tone
from safetensors.torch import load_file, save_file

import sslsim
from sslsim.activations import draft as drafts
from sslsim.activations import extraction, shards
from sslsim.activations.selection import check_pairable
from sslsim.activations.study import Study
from sslsim.encoders import load
from sslsim.encoders.lineup import Checkpoint, read_lineup
from sslsim.encoders.load import load_encoder
from sslsim.errors import SslsimError
from sslsim.parallel import executor
from sslsim.speech.corpus import Subset, read_corpus
from sslsim.speech.index import Segmentation
from sslsim.speech.recording import Recording

NAMES = ("wav2vec2-post", "hubert-pre")


@pytest.fixture(scope="module")
def study(checkpoints, corpus):
    return Study(checkpoints / "lineup.toml", corpus, NAMES, queries=8)


@pytest.fixture(scope="module")
def one(checkpoints, corpus):
    return Study(checkpoints / "lineup.toml", corpus, ("hubert-pre",), queries=4)


@pytest.fixture(scope="module")
def stores(study, tmp_path_factory):
    return study.extract(tmp_path_factory.mktemp("stores"), device="cpu")


@pytest.fixture(scope="module")
def mel(one):
    """Of a checkpoint without weights: what has nothing to do with models is quick with it."""
    return replace(one, checkpoints=("log-mel",))


@pytest.fixture
def no_loading(monkeypatch):
    def refuse(*_args):
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(load, "load_encoder", refuse)


@pytest.fixture
def a_shard_each(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SECONDS", 0.01)
    monkeypatch.setattr(shards, "MOST", 100)


@pytest.fixture
def one_thread():
    """Give the test one thread of torch, as extraction gives an utterance: two round in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def everything(stores):
    """Return a hash of every file of stores, tables and descriptions too."""
    files = [file for store in stores for file in sorted(store.root.rglob("*"))]
    return [(f"{file.parent.name}/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]


def left(out):
    """Names in a folder of stores, the index of speech left out."""
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("speech-"))


def sound(path):
    with Recording(path) as recording:
        return recording.read()


def test_a_store_holds_what_the_encoder_gives(stores, corpus, one_thread):
    for store in stores:
        encoder = load_encoder(store.checkpoint)
        assert store.n_layers == encoder.anatomy.n_layers == 4
        assert store.n_frames == store.index["n_frames"].sum() == 27 + 36 + 37 + 38
        for u, utterance in enumerate(read_corpus(corpus)):
            encoded = encoder.encode(sound(utterance.path), store.query_rows(u))
            start, n = store.index[["start", "n_frames"]].iloc[u]
            for layer in range(store.n_layers):
                np.testing.assert_array_equal(store.layer(layer)[start : start + n], encoded.hidden[layer])
            last = encoded.hidden[-1] if encoded.final is None else encoded.final
            np.testing.assert_array_equal(store.final()[start : start + n], last)
            for layer in range(1, store.attention_layers + 1):
                np.testing.assert_array_equal(store.attention(layer, u), encoded.attention[layer - 1])


def test_a_store_of_units_has_the_layers_of_its_blocks_alone(one, corpus, tmp_path, capsys, one_thread):
    study = replace(one, checkpoints=(*NAMES, "log-mel"), site="ffn", frames=90)
    stores = study.extract(tmp_path, device="cpu")
    (kept,) = replace(one, queries=0, frames=90).extract(tmp_path, device="cpu")
    assert "units of feed-forward layers: without attention, and without log-mel" in capsys.readouterr().out
    assert [store.name for store in stores] == [*NAMES]
    encoder = load_encoder(stores[1].checkpoint, site="ffn")
    for u, utterance in enumerate(read_corpus(corpus)):
        expected, start = encoder.encode(sound(utterance.path), []).hidden, stores[1].index.start[u]
        (again,) = extraction.encoded_again(stores[1], {u: sound(utterance.path)}, "cpu")
        np.testing.assert_array_equal(again[1], expected)
        rows = stores[1].frame_rows(u)
        for layer in stores[1].layer_numbers:
            np.testing.assert_array_equal(stores[1].layer(layer)[start : start + len(rows)], expected[layer - 1][rows])
    stores[1].verify()
    assert sslsim.open(stores[1].root).layer(3).shape == (stores[1].n_frames, 32)
    table = sslsim.compare(stores, ["max_corr"], device="cpu")
    assert sorted(set(zip(table.layer_x, table.depth_x, strict=True))) == [(1, 1 / 3), (2, 2 / 3), (3, 1)]
    assert sslsim.analysis.layer_norms(stores).iloc[0, :4].tolist() == [NAMES[0], "none", 3, "units"]
    for use, told in (
        (lambda: stores[0].layer(0), "no layer 0; there are 1 to 3"),
        (lambda: stores[0].attention(1, 0), "no attention in this store; the checkpoint has no heads .site ffn."),
        (lambda: stores[0].final(), "units of feed-forward layers have no final hidden state; take site hidden"),
        (
            lambda: sslsim.compare_attention(stores, ["pearson"]),
            "units of feed-forward layers have no heads; take site",
        ),
        (lambda: sslsim.Study(site="mlp"), "site is 'mlp'; known: hidden, ffn"),
    ):
        with pytest.raises(SslsimError, match=told):
            use()
    both = sslsim.compare([stores[0], kept], ["max_corr"], device="cpu")  # the sites of two models
    assert set(both.layer_y) == {0, 1, 2, 3}
    shutil.rmtree(stores[1].root)
    kept.root.rename(stores[1].root)
    with pytest.raises(SslsimError, match=another(".*").format("site", "hidden", "ffn")):
        study.extract(tmp_path, device="cpu")


def test_stores_are_in_lineup_order_and_pair(stores, corpus):
    assert [store.name for store in stores] == list(NAMES)
    assert [store.final_norm for store in stores] == [False, True]
    assert [store.normed for store in stores] == [True, False]
    check_pairable(*stores)
    assert stores[0].index["utterance"].tolist() == ["ann/a", "ann/b", "bob/c", "bob/d"]
    assert stores[0].index["n_samples"].tolist() == [u.n_samples for u in read_corpus(corpus)]
    made_by = {"sslsim", "torch", "transformers", "numpy", "soundfile", "soxr", "processor"}
    assert set(stores[0].versions) == made_by


@pytest.mark.usefixtures("a_shard_each")
def test_every_way_of_working_ends_in_the_same_store(study, tmp_path):
    """To the byte and in every file, the description too."""
    made = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            made.append(everything(study.extract(tmp_path / f"{threads}", executor=pool, device="cpu")))
    assert len(made[0]) == 2 * (4 + 3)
    assert made[1] == made[0]


@pytest.mark.slow
def test_processes_give_the_same_bytes(stores, study, tmp_path):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert everything(study.extract(tmp_path, executor=pool, device="cpu")) == everything(stores)


def test_a_dask_cluster_gives_the_same_bytes(stores, study, tmp_path, monkeypatch):
    import distributed  # its import alone takes seconds

    options = {"processes": False, "protocol": "tcp", "n_workers": 2, "threads_per_worker": 1}
    options |= {"dashboard_address": ":0", "local_directory": tmp_path / "dask"}
    with distributed.LocalCluster(**options) as cluster:
        monkeypatch.setenv("SSLSIM_SCHEDULER", cluster.scheduler_address)
        made = study.extract(tmp_path / "cluster", device="cpu")
        executor(cluster.scheduler_address)._client.close()
    assert everything(made) == everything(stores)


def test_what_fails_on_an_executor_is_raised_here(checkpoints, corpus, tmp_path):
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoints / "hubert-pre" / name, tmp_path)
    save_file({"other": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    lineup = [*read_lineup(checkpoints / "lineup.toml")[:1], Checkpoint("broken", str(tmp_path))]
    with ThreadPoolExecutor(2) as pool, pytest.raises(SslsimError, match="checkpoint 'broken': .* lacks weights"):
        Study(lineup, corpus).extract(tmp_path / "out", executor=pool)
    assert [name[:13] for name in left(tmp_path / "out")] == ["wav2vec2-post"]  # the good one, whole


def test_a_second_call_loads_nothing(stores, study, no_loading):
    out = stores[0].root.parent
    before = sorted(out.rglob("*"))
    again = study.extract(out)
    assert [store.root for store in again] == [store.root for store in stores]
    assert sorted(out.rglob("*")) == before
    with pytest.raises(AssertionError, match="an encoder was loaded"):
        replace(study, queries=9).extract(out)


def test_reopening_imports_neither_transformers_nor_torch(stores, study, tmp_path):
    study.write(tmp_path / "study.toml")
    code = (
        "import sys\nfrom sslsim.activations import extract\n"
        f"s = extract({str(tmp_path / 'study.toml')!r}, {str(stores[0].root.parent)!r})\n"
        "s[0].layer(0)[:].sum(), s[0].attention(1, 0).sum()\n"
        "assert not {'transformers', 'torch', 'huggingface_hub'} & set(sys.modules), 'slow'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_lineup_may_be_annotated_without_extracting(stores, checkpoints, study, no_loading):
    (wanted,) = [c for c in read_lineup(checkpoints / "lineup.toml") if c.name == "hubert-pre"]
    annotated = Checkpoint(wanted.name, wanted.source, family="hubert", size="tiny")
    (store,) = replace(study, lineup=[annotated], checkpoints=()).extract(stores[0].root.parent)
    assert store.checkpoint == annotated


def test_only_the_subset_is_extracted(mel, tmp_path):
    def run(**subset):
        return replace(mel, subset=Subset(**subset)).extract(tmp_path)[0]

    chosen = [run(max_utterances=2, seed=seed) for seed in range(4)]
    assert all(len(store.index) == 2 for store in chosen)
    assert len({store.root for store in chosen}) > 1
    assert sorted(run(per_speaker=1).index.speaker) == ["ann", "bob"]
    assert run(max_seconds=1.5).index.n_samples.sum() <= 24_000
    assert run(max_seconds=1_000).root == run().root  # the same are taken


def test_a_changed_file_is_extracted_anew(checkpoints, corpus, tmp_path):
    shutil.copytree(checkpoints / "hubert-post", tmp_path / "model")
    shutil.copytree(corpus / "ann", tmp_path / "speech")
    (tmp_path / "lineup.toml").write_text('[[checkpoint]]\nname = "m"\nsource = "model"\n')

    def run():
        return Study(tmp_path / "lineup.toml", tmp_path / "speech").extract(tmp_path / "out", device="cpu")[0]

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
    with pytest.raises(SslsimError, match="were given other audio"):
        check_pairable(second, third)


def test_a_run_says_first_what_it_takes_and_whether_it_fits(study, tmp_path, monkeypatch, capsys):
    made = study.extract(tmp_path / "out", device="cpu")
    told = capsys.readouterr().out.splitlines()[0]
    found = re.fullmatch(
        r"to extract on cpu: 1 minutes of audio by 2 of 2 checkpoints, (\d+) of \1 "
        r"frames to be kept; this takes about ([\d,.]+) kB in '.*/out', where .*B are free",
        told,
    )
    size = sum(file.stat().st_size for store in made for file in store.root.glob("*.bin")) / 1000
    assert float(found[2].replace(",", "")) == pytest.approx(size, rel=0.25)
    monkeypatch.setattr(drafts.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2_000))
    monkeypatch.setattr(extraction, "_anatomy", lambda *_call: pytest.fail("loaded"))
    with pytest.raises(
        SslsimError, match=r"^to extract on cpu: .*: needs .* kB in .*, where 2 kB are free; use another"
    ):
        study.extract(tmp_path / "full", device="cpu")


def test_audio_is_decoded_once_and_not_again_to_look(stores, study, one, mel, tmp_path, monkeypatch):
    """Once for all checkpoints of a run; for a new one, by the reader alone."""
    real, decoded = Recording.mono, []
    monkeypatch.setattr(Recording, "mono", lambda *args: (decoded.append(1), real(*args))[1])
    made = study.extract(tmp_path, device="cpu")
    assert len(decoded) == 4
    assert everything(made) == everything(stores)
    assert len(list(tmp_path.iterdir())) == 3  # two stores and the index; the waveforms are gone
    monkeypatch.setattr(extraction, "index_of", lambda *_args, **_options: pytest.fail("looked at"))
    replace(one, checkpoints=("hubert-post", "log-mel")).extract(tmp_path, device="cpu")
    assert len(decoded) == 8
    (index,) = tmp_path.glob("speech-*.json")
    index.write_text(index.read_text().replace("bob", "bib"))  # damaged: it is not believed
    with pytest.raises(pytest.fail.Exception, match="looked at"):
        replace(mel, frames=3).extract(tmp_path)


def test_without_room_for_waveforms_they_are_decoded_again(mel, tmp_path, monkeypatch):
    expected = everything(mel.extract(tmp_path / "whole"))
    real = extraction.Path.write_bytes

    def full(path, content):
        if path.suffix == ".part":
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(extraction.Path, "write_bytes", full)
    assert everything(mel.extract(tmp_path / "out")) == expected


def test_audio_that_changes_meanwhile_is_noticed(mel, tmp_path, monkeypatch):
    real = extraction.index_of

    def index_then_change(*args, keep, **options):
        index, skipped = real(*args, keep=None, **options)
        index.loc[1, "waveform"] = "0"
        return index, skipped

    monkeypatch.setattr(extraction, "index_of", index_then_change)
    with pytest.raises(SslsimError, match=r"audio '.*b.flac': changed while it was being extracted"):
        mel.extract(tmp_path)


def test_a_missing_folder_stops_before_any_other_checkpoint_is_run(checkpoints, corpus, tmp_path, no_loading):
    lineup = [*read_lineup(checkpoints / "lineup.toml"), Checkpoint("y", str(tmp_path / "absent"))]
    with pytest.raises(SslsimError, match=r"checkpoint 'y': no folder '.*absent'"):
        Study(lineup, corpus).extract(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_states_that_are_not_finite_are_named_and_nothing_stays(checkpoints, corpus, tmp_path):
    shutil.copytree(checkpoints / "hubert-post", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["encoder.layers.1.final_layer_norm.bias"][3] = float("inf")
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(SslsimError, match="checkpoint 'm': layer 2 is NaN or infinite for utterance 'ann/a'"):
        Study([Checkpoint("m", str(tmp_path / "model"))], corpus).extract(tmp_path / "out")
    assert left(tmp_path / "out") == []


# an interrupt may come between a file's opening and what would close it: Python closes it then, and would warn
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("a_shard_each")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_extraction_goes_on_to_the_same_bytes(one, tmp_path, monkeypatch, error):
    expected = everything(one.extract(tmp_path / "whole", device="cpu"))
    write, calls = os.pwrite, []

    def stop(*args):
        calls.append(args)
        if len(calls) == 30:
            raise error
        return write(args[0], args[1][: max(1, len(args[1]) // 3)], args[2])  # and no more than a part at a time

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "pwrite", stop)
        raised = SslsimError if isinstance(error, OSError) else error
        with pytest.raises(raised, match=None if raised is error else "cannot be written: .*No space left on device"):
            one.extract(tmp_path / "out", device="cpu")
    assert len(left(tmp_path / "out")) <= 1  # the draft, if anything of it is complete
    resumed = one.extract(tmp_path / "out", device="cpu")
    assert everything(resumed) == expected
    assert left(tmp_path / "out") == [resumed[0].root.name]


@pytest.mark.usefixtures("a_shard_each")
@pytest.mark.parametrize(("damage", "again"), [("flip", [0, 2, 3]), ("cut", [1, 2, 3]), ("other", [0, 1, 2, 3])])
def test_what_is_damaged_or_made_by_others_is_made_again(one, tmp_path, monkeypatch, damage, again):
    expected = everything(one.extract(tmp_path / "whole", device="cpu"))
    real, made = drafts.Task.write, []

    def stop(task, arrays):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task.path.name)
        return real(task, arrays)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(drafts.Task, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            one.extract(tmp_path / "out", executor=pool, device="cpu")
    assert made == ["shard_0000.bin", "shard_0001.bin"]
    (draft,) = (tmp_path / "out").glob(".*.partial")
    if damage == "flip":
        content = bytearray((draft / "shard_0000.bin").read_bytes())
        content[300] ^= 1
        (draft / "shard_0000.bin").write_bytes(content)
    elif damage == "cut":
        os.truncate(draft / "shard_0001.bin", 200)
    else:
        text = (draft / "store.json").read_text()
        (draft / "store.json").write_text(text.replace(torch.__version__, "1.0"))
    made.clear()
    monkeypatch.setattr(drafts.Task, "write", lambda task, arrays: (made.append(task.path.name), real(task, arrays)))
    assert everything(one.extract(tmp_path / "out", device="cpu")) == expected
    assert sorted(made) == [f"shard_{number:04d}.bin" for number in again]


def test_an_utterance_has_its_numbers_whatever_else_is_there(stores, study, corpus, tmp_path):
    rows = [f"{u.id},{u.path},{u.speaker}" for u in read_corpus(corpus)]
    (tmp_path / "back.csv").write_text("\n".join(["id,path,speaker", *rows[::-1]]))
    (tmp_path / "one.csv").write_text("\n".join(["id,path,speaker", rows[2]]))
    bad = tmp_path / "bad"
    shutil.copytree(corpus, bad)
    (bad / "aaa.wav").write_bytes(b"")
    for name in ("back.csv", "one.csv", "bad"):
        others = replace(study, corpus=tmp_path / name).extract(tmp_path / "out", device="cpu")
        assert others[0].skipped.reason.tolist() == (["empty: 0 bytes"] if name == "bad" else [])
        for store, expected in zip(others, stores, strict=True):
            assert len(store.index) == (1 if name == "one.csv" else 4)
            for u, row in store.index.iterrows():
                v = expected.index.utterance.tolist().index(row.utterance)
                place = slice(row.start, row.start + row.n_frames)
                begin = expected.index.start[v]
                for layer in range(4):
                    there = expected.layer(layer)[begin : begin + row.n_frames]
                    np.testing.assert_array_equal(store.layer(layer)[place], there)
                np.testing.assert_array_equal(store.attention(2, u), expected.attention(2, v))


def test_frames_of_each_utterance_are_those_of_all(stores, study, tmp_path):
    whole, some = stores[1], replace(study, frames=20).extract(tmp_path, device="cpu")[1]
    assert 12 < some.n_frames <= 20
    for u, begin in enumerate(some.index.start):
        rows, here = whole.index.start[u] + some.frame_rows(u), slice(begin, begin + some.index.n_frames[u])
        np.testing.assert_array_equal(some.layer(2)[here], whole.layer(2)[rows])
        np.testing.assert_array_equal(some.final()[here], whole.final()[rows])
        np.testing.assert_array_equal(some.attention(3, u), whole.attention(3, u))


def test_a_long_file_is_extracted_like_its_pieces(checkpoints, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
    soundfile.write(whole / "long.flac", tone(0, 80_000), 16_000)
    samples = soundfile.read(whole / "long.flac", dtype="int16")[0]
    for number, (begin, end) in enumerate(((0, 26_666), (26_666, 53_333), (53_333, 80_000)), 1):
        soundfile.write(pieces / f"long#{number}.wav", samples[begin:end], 16_000)
    lineup, names = checkpoints / "lineup.toml", ("log-mel", "hubert-post")
    study = Study(lineup, whole, names, segmentation=Segmentation(piece_seconds=2), queries=4)
    cut = study.extract(tmp_path / "out", device="cpu")
    apart = Study(lineup, pieces, names, queries=4).extract(tmp_path / "out", device="cpu")
    assert (cut[0].n_layers, cut[0].n_neurons, cut[0].attention_layers) == (1, 80, 0)
    assert cut[0].index.utterance.tolist() == ["long#1", "long#2", "long#3"]
    assert cut[0].index.begin.tolist() == [0, 26_666, 53_333]
    for a, b in zip(cut, apart, strict=True):
        check_pairable(a, b)
        assert [a.index.recording.tolist(), b.index.recording.tolist()] == [[0, 0, 0], [0, 1, 2]]
        assert [f.read_bytes() for f in sorted(a.root.glob("*.bin"))] == [
            f.read_bytes() for f in sorted(b.root.glob("*.bin"))
        ]


def test_half_precision_is_another_store(stores, study, tmp_path):
    half = replace(study, dtype="bfloat16").extract(tmp_path, device="cpu")
    for store, whole in zip(half, stores, strict=True):
        assert store.dtype == "bfloat16"
        assert store.root.name != whole.root.name
        difference = np.abs(store.layer(1)[:] - whole.layer(1)[:]).max() / np.abs(whole.layer(1)).max()
        assert 0 < difference < 0.1


def test_a_dataset_is_extracted_like_its_files(mel, corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    utterances = read_corpus(corpus)
    columns = {"id": [u.id for u in utterances], "speaker": [u.speaker for u in utterances]}
    columns["audio"] = [{"path": u.path.name, "bytes": u.path.read_bytes()} for u in utterances]
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    made.save_to_disk(tmp_path / "saved")
    expected = everything(mel.extract(tmp_path / "files"))
    for number, sounds in enumerate((made, tmp_path / "saved")):
        assert everything(replace(mel, corpus=sounds).extract(tmp_path / f"{number}")) == expected


def test_when_nothing_can_be_used_it_is_said(mel, tmp_path, capsys):
    speech, out = tmp_path / "speech", tmp_path / "out"
    speech.mkdir()
    soundfile.write(speech / "a.wav", np.zeros(80_000), 16_000)
    study = replace(mel, corpus=speech)
    pieces = replace(study, segmentation=Segmentation(piece_seconds=2))
    for asked, name in ((study, "a"), (pieces, "a#1")):
        with pytest.raises(SslsimError, match=f"no utterance of the corpus can be used: '{name}': silent: no sample"):
            asked.extract(out)
    assert not out.exists()
    soundfile.write(speech / "b.wav", tone(0, 9_000), 16_000)
    study.extract(out)
    told = "left out 1 that cannot be used (skipped.csv in each store): 'a': silent"
    assert told in capsys.readouterr().out


def test_what_was_left_out_is_listed_in_the_store_or_stops_a_strict_run(mel, corpus, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(corpus, bad)
    (bad / "aaa.wav").write_bytes(b"")
    (bad / "ann" / "a.wav").write_bytes((corpus / "ann" / "a.wav").read_bytes()[:9_000])
    soundfile.write(bad / "short.wav", tone(0, 399), 16_000)
    study = replace(mel, corpus=bad)
    (store,) = study.extract(tmp_path / "out")
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
            replace(study, strict=True).extract(out)
    assert not list(tmp_path.glob("other/log-mel*"))


@pytest.mark.slow
@pytest.mark.usefixtures("a_shard_each")
def test_two_processes_on_one_store_leave_one(study, tmp_path):
    study.write(tmp_path / "study.toml")
    code = (
        "from sslsim.activations import extract, shards\nshards.SHARD_SECONDS, shards.MOST = 0.01, 100\n"
        f"extract({str(tmp_path / 'study.toml')!r}, {str(tmp_path / 'out')!r}, device='cpu')\n"
    )
    both = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    alone = study.extract(tmp_path / "alone", device="cpu")
    assert everything(study.extract(tmp_path / "out")) == everything(alone)
    assert len(left(tmp_path / "out")) == 2


def test_the_bar_names_the_checkpoint_and_counts_audio(mel, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(extraction, "tqdm", type("Shown", (extraction.tqdm,), {"__init__": shown}))
    mel.extract(tmp_path)
    printed = capsys.readouterr()
    assert "log-mel: 100%" in printed.out
    assert "3/3 s of audio" in printed.out
    assert printed.err == ""


def shown(bar, *args, **options):
    """Begin a bar that TQDM_DISABLE does not silence."""
    super(type(bar), bar).__init__(*args, **options, disable=False)


def test_the_index_beside_the_stores_is_plain_and_signed(stores):
    (file,) = stores[0].root.parent.glob("speech-*.json")
    content = json.loads(file.read_text())
    assert content["index"]["utterance"] == stores[0].index.utterance.tolist()
    assert set(content) == {"of", "index", "skipped", "hash"}


def another(path):
    """Return what a folder of one store says once that of another stands in its place."""
    return rf"^store '{path}': its {{}} is {{}}, not {{}} as asked for; another store is in its place, move that away$"


@pytest.mark.parametrize("how", [shutil.copytree, lambda a, b: b.symlink_to(a), os.rename])
def test_a_store_of_another_checkpoint_in_its_place_is_refused(stores, study, tmp_path, no_loading, how):
    first, second = (shutil.copytree(store.root, tmp_path / store.root.name) for store in stores)
    assert study.extract(tmp_path)[0].root == first
    shutil.rmtree(first)
    how(second, first)
    told = another(first).format("fingerprint", stores[1].fingerprint, stores[0].fingerprint)
    with pytest.raises(SslsimError, match=told):
        replace(study, checkpoints=NAMES[:1]).extract(tmp_path)


@pytest.mark.parametrize(
    ("change", "name", "found", "wanted"),
    [
        ({"frames": 30}, "frames", "25000", "30"),
        ({"queries": 0}, "queries", "16", "0"),
        ({"dtype": "float16"}, "dtype", "float32", "float16"),
        ({"segmentation": Segmentation(0.5)}, "segmentation", ".*_seconds': 30.0.*", ".*_seconds': 0.5.*"),
        ({"subset": Subset(max_utterances=2)}, "corpus fingerprint", r"\w{64}", r"\w{64}"),
    ],
)
def test_a_store_of_another_study_in_its_place_is_refused(mel, tmp_path, change, name, found, wanted):
    """Every field of the key, before anything is extracted."""
    given = mel if "queries" not in change else replace(mel, queries=16)
    (made,), other = given.extract(tmp_path / "out"), replace(given, **change)
    place = other.extract(tmp_path / "other")[0].root.name
    made.root.rename(made.root.with_name(place))
    (tmp_path / "out" / "kept").touch()
    before = sorted((tmp_path / "out").iterdir())
    with pytest.raises(SslsimError, match=another(f".*{place}").format(name, found, wanted)):
        replace(other, checkpoints=("log-mel", "hubert-pre")).extract(tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == before


def test_an_index_of_another_corpus_in_its_place_is_made_again(mel, tmp_path):
    some = replace(mel, subset=Subset(max_utterances=2))
    expected = everything(some.extract(tmp_path / "some"))
    mel.extract(tmp_path / "out")
    (file,), (place,) = (tmp_path / "out").glob("speech-*"), (tmp_path / "some").glob("speech-*")
    file.rename(tmp_path / "out" / place.name)
    assert everything(some.extract(tmp_path / "out")) == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_attention_of_half_precision_is_compared(one, stores, tmp_path, dtype):
    (half,) = replace(one, dtype=dtype, queries=8).extract(tmp_path, device="cpu")
    for u in range(4):
        np.testing.assert_allclose(half.attention(2, u).sum(2), 1, atol=1e-6)
    table = sslsim.compare([half, stores[0]], ["js", "pearson"], device="cpu")
    whole = sslsim.compare([stores[1], stores[0]], ["js", "pearson"], device="cpu")
    np.testing.assert_allclose(table.value, whole.value, atol=0.02)
