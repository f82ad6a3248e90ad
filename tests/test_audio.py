from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tone

from sslsim.audio import Recording, frame_times, load_audio, n_frames, spread, waveform_fingerprint
from sslsim.corpus import SILENT, Draw, Limits, Utterance, corpus_fingerprint, index_of, read_corpus
from sslsim.errors import SslsimError


def conv_frames(n: int) -> int:
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
        n = (n - kernel) // stride + 1 if n >= kernel else 0
    return n


def test_n_frames_is_what_the_convolutions_leave():
    assert all(n_frames(n) == conv_frames(n) for n in range(3_000))


def test_frame_times_are_the_centres():
    np.testing.assert_allclose(frame_times(3), [0.0125, 0.0325, 0.0525])


def test_spread_takes_the_centres_of_equal_bins():
    assert spread(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert spread(10, 2).tolist() == [2, 7]
    assert spread(10, 0).tolist() == []
    for n in range(1, 60):
        for wanted in range(1, n + 1):
            kept = spread(n, wanted)
            assert len(set(kept)) == wanted
            assert (kept >= 0).all()
            assert (kept < n).all()
            assert (kept + kept[::-1] - (n - 1) <= 1).all()  # as far from the end as from the start


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_the_header_tells_how_long_the_resampled_audio_is(tmp_path, rate, suffix):
    rng = np.random.default_rng(rate)
    for n in rng.integers(rate // 30, rate, 8):
        path = tmp_path / f"{n}.{suffix}"
        soundfile.write(path, np.stack([tone(0, n, rate), tone(1, n, rate)], axis=1), rate)
    for utterance in read_corpus(tmp_path):
        waveform = load_audio(utterance.path)
        assert waveform.dtype == np.float32
        assert waveform.shape == (utterance.n_samples,)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_formats_are_as_long_as_the_header_says(tmp_path, suffix):
    soundfile.write(tmp_path / f"x.{suffix}", tone(0, 30_000, 22_050), 22_050)
    (utterance,) = read_corpus(tmp_path)
    assert len(load_audio(utterance.path)) == utterance.n_samples


def test_channels_are_averaged_and_16_khz_is_left_alone(tmp_path):
    left, right = tone(0, 5_000), tone(1, 5_000)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "x.wav"), (left + right) / 2, atol=1e-7)


def test_resampling_keeps_a_tone_where_it_was(tmp_path):
    t = np.arange(44_100) / 44_100
    soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 1_000 * t), 44_100, subtype="FLOAT")
    spectrum = np.abs(np.fft.rfft(load_audio(tmp_path / "x.wav")))
    assert spectrum.argmax() == 1_000  # one second: bins are 1 Hz


def test_a_folder_is_read_recursively_with_its_speakers(corpus):
    utterances = read_corpus(corpus)
    assert [u.id for u in utterances] == ["ann/a", "ann/b", "bob/c", "bob/d"]
    assert [u.speaker for u in utterances] == ["ann", "ann", "bob", "bob"]
    assert [u.n_samples for u in utterances] == [9_000, 11_610, 12_002, 12_345]
    assert utterances[0].seconds == 9_000 / 16_000


def test_librispeech_speakers_and_hidden_files(tmp_path):
    folder = tmp_path / "84" / "121123"
    folder.mkdir(parents=True)
    soundfile.write(folder / "84-121123-0000.flac", tone(0, 800), 16_000)
    (folder / "._84-121123-0000.flac").write_bytes(b"")
    (folder / "84-121123.trans.txt").write_text("84-121123-0000 GO")
    (utterance,) = read_corpus(tmp_path)
    assert (utterance.id, utterance.speaker) == ("84/121123/84-121123-0000", "84")
    assert read_corpus(folder)[0].speaker == "84"


def test_a_manifest_of_each_kind_reads_the_same(corpus, tmp_path):
    path = str(corpus / "ann" / "a.wav")
    (tmp_path / "m.csv").write_text(f'id,path,speaker,text,duration\n007,{path},NA,"go, on",1\n')
    (tmp_path / "m.tsv").write_text(f"id\tpath\tspeaker\ttext\n007\t{path}\tNA\tgo, on\n")
    row = {"id": "007", "path": path, "speaker": "NA", "text": "go, on"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n\n")
    wanted = Utterance("007", corpus / "ann" / "a.wav", "NA", "go, on")
    for suffix in ("csv", "tsv", "jsonl"):
        assert read_corpus(tmp_path / f"m.{suffix}") == [wanted]


def test_manifest_paths_are_relative_to_it_and_speaker_and_text_optional(corpus):
    manifest = corpus.parent / "relative.jsonl"
    manifest.write_text(json.dumps({"id": 3, "path": f"{corpus.name}/bob/d.flac"}))
    (utterance,) = read_corpus(manifest)
    assert (utterance.id, utterance.speaker, utterance.text) == ("3", "", "")
    assert utterance.n_samples == 12_345


def _write(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "path,speaker\na.wav,x\n", "no column 'id'; its columns are path, speaker"),
        ("m.csv", "utt;file\n", "no column 'id' or 'path'; its columns are utt;file"),
        ("m.csv", "", "no column 'id' or 'path'; its columns are none"),
        ("m.csv", "id,path\n", "lists no utterance"),
        ("m.csv", "id,path\n,a.wav\n", "row 1 has no id"),
        ("m.csv", "id,path\nu1,\n", "row 1 has no path"),
        ("m.csv", "id,path\nu1,m.csv\nu1,m.csv\n", "id 'u1' occurs twice; every utterance needs its own"),
        ("m.csv", 'id,path\n"u1,a\n', "cannot be read"),
        ("m.csv", b"id,path\n\xff\xfe,a\n", "cannot be read"),
        ("m.jsonl", "not json\n", "cannot be read"),
        ("m.jsonl", "[1, 2]\n", "no column 'id' or 'path'; its columns are 0, 1"),
        ("m.jsonl", "3\n", "cannot be read"),
        ("m.xlsx", "", r"neither a folder nor a manifest \(.csv, .tsv, .jsonl\)"),
    ],
)
def test_bad_manifests(tmp_path, name, content, message):
    path = _write(tmp_path, name, content)
    with pytest.raises(SslsimError, match=message):
        read_corpus(path)


def test_no_corpus_and_no_audio(tmp_path):
    with pytest.raises(SslsimError, match=r"corpus '.*nowhere': no such folder or manifest"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(SslsimError, match=r"no audio in this folder \(looked for .wav, .flac"):
        read_corpus(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: 0 bytes"),
        (b"RIFF", r"not audio, or damaged: \w+"),
        (b"this is not audio " * 100, r"not audio, or damaged: \w+"),
    ],
)
def test_not_audio(tmp_path, content, message):
    path = _write(tmp_path, "x.wav", content)
    for read in (lambda: read_corpus(tmp_path)[0].n_samples, lambda: load_audio(path)):
        with pytest.raises(SslsimError, match=rf"audio '.*x.wav': {message}"):
            read()


def test_no_such_audio(tmp_path):
    with pytest.raises(SslsimError, match=r"audio '.*x.wav': no such file"):
        load_audio(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0), 16_000, "holds no samples"),
        (np.zeros(399), 16_000, r"399 samples at 16 kHz, shorter than one frame \(400 samples\)"),
        (np.zeros(1_000), 48_000, "333 samples at 16 kHz, shorter than one frame"),
    ],
)
def test_too_short(tmp_path, samples, rate, message):
    soundfile.write(tmp_path / "x.wav", samples, rate)
    with pytest.raises(SslsimError, match=rf"audio '.*x.wav': {message}"):
        load_audio(tmp_path / "x.wav")
    (row,) = index_of(read_corpus(tmp_path), Limits())[1].itertuples()
    assert re.match(message, row.reason)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad):
    samples = tone(0, 2_000)
    samples[1_234] = bad
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(SslsimError, match=r"audio '.*x.wav': sample 1234 is NaN or infinite"):
        load_audio(tmp_path / "x.wav")


def test_cut_off(tmp_path):
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(0, 44_100, 22_050), 22_050)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SslsimError, match=r"audio '.*x.mp3': cut off: [\d,]+ of 44,100 samples can be read"):
        load_audio(path)


def test_corpus_fingerprint_follows_content_and_not_place(tmp_path):
    def fingerprint(folder, speaker="s", seed=0):
        (tmp_path / folder).mkdir(exist_ok=True)
        soundfile.write(tmp_path / folder / "x.wav", tone(seed, 1_000), 16_000)
        return corpus_fingerprint([Utterance("x", tmp_path / folder / "x.wav", speaker)])

    assert fingerprint("a") == fingerprint("b")
    assert fingerprint("a") != fingerprint("a", speaker="t")
    assert fingerprint("a") != fingerprint("a", seed=1)


def test_waveform_fingerprint_is_of_the_samples():
    x = tone(0, 1_000)
    assert waveform_fingerprint(x) == waveform_fingerprint(np.asfortranarray(x.astype("f8")))
    assert waveform_fingerprint(x) != waveform_fingerprint(x[::-1])


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus"])
def test_a_stretch_is_the_same_whatever_was_read_before(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    rate = 48_000 if suffix == "opus" else 44_100
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    soundfile.write(path, tone(0, 3 * rate, rate), rate, **options)
    cuts = [0, rate - 7, 2 * rate, 3 * rate - 100]
    alone = []
    for begin, end in zip(cuts, cuts[1:], strict=False):
        with Recording(path) as recording:
            alone.append(recording.read(begin, end))
    with Recording(path) as recording:
        for i in (2, 0, 1, 1):
            np.testing.assert_array_equal(recording.read(cuts[i], cuts[i + 1]), alone[i])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("x.wav", {}),
        ("x.wav", {"endian": "BIG"}),
        ("x.wav", {"format": "RF64"}),
        ("x.aiff", {}),
        ("x.flac", {}),
        ("x.ogg", {}),
        ("x.ogg", {"format": "OGG", "subtype": "OPUS"}),
        ("x.mp3", {}),
    ],
)
def test_files_that_were_cut_off_are_named_and_whole_ones_read(tmp_path, name, options):
    path = tmp_path / name
    soundfile.write(path, tone(0, 48_000, 48_000), 48_000, **options)
    content = path.read_bytes()
    assert len(load_audio(path)) == 16_000
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(SslsimError, match="cut off: |not audio, or damaged"):
            load_audio(path)


def test_a_streamed_wav_has_no_length_to_miss(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(0, 8_000), 16_000)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff" * 4
    content[4:8] = b"\xff" * 4
    path.write_bytes(content)
    assert len(load_audio(path)) == 8_000


def a_corpus(n):
    return [Utterance(f"u{i}", Path("nowhere") / str(i), f"s{i % 3}") for i in range(n)]


def test_a_draw_does_not_depend_on_order_and_hardly_on_what_else_is_there():
    utterances = a_corpus(50)
    chosen = {u.id for u in Draw(max_utterances=9).of(utterances)}
    assert len(chosen) == 9
    assert {u.id for u in Draw(max_utterances=9).of(utterances[::-1])} == chosen
    assert {u.id for u in Draw(max_utterances=9, seed=1).of(utterances)} != chosen
    for more in range(50, 60):
        other = {u.id for u in Draw(max_utterances=9).of([*utterances, *a_corpus(more + 1)[more:]])}
        assert len(chosen - other) <= 1
    assert Draw().of(utterances) == utterances
    each = Draw(per_speaker=2).of(utterances)
    assert sorted(u.speaker for u in each) == ["s0", "s0", "s1", "s1", "s2", "s2"]


def test_seconds_are_drawn_within_the_limit(tmp_path):
    for i in range(12):
        soundfile.write(tmp_path / f"{i:02}.wav", tone(i, 4_000 + 500 * i), 16_000)
    (tmp_path / "zz.wav").write_bytes(b"")
    chosen = Draw(max_seconds=2).of(read_corpus(tmp_path))
    lengths = [u.seconds for u in chosen if u.id != "zz"]
    assert 1.2 < sum(lengths) <= 2
    with pytest.raises(SslsimError, match="max_seconds is 0.1; no utterance is so short, give more"):
        Draw(max_seconds=0.1).of(read_corpus(tmp_path)[:5])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Draw(max_utterances=0), "max_utterances is 0; it must be at least 1, or None for all"),
        (lambda: Draw(per_speaker=0), "per_speaker is 0; it must be at least 1, or None for all"),
        (lambda: Draw(max_seconds=0), "max_seconds is 0; it must be at least one frame, 0.025, or None for all"),
        (lambda: Limits(piece_seconds=0.01), "piece_seconds is 0.01 and longest_seconds 3600; 0.1 <= piece_seconds"),
        (lambda: Limits(60, 30), "piece_seconds is 60 and longest_seconds 30; 0.1 <= piece_seconds"),
    ],
)
def test_limits_that_cannot_be(make, message):
    with pytest.raises(SslsimError, match=message):
        make()


def test_long_audio_is_cut_into_equal_pieces_and_nothing_is_lost(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(0, 44_100 * 5 + 17, 44_100), 44_100)
    index, skipped = index_of(read_corpus(tmp_path), Limits(piece_seconds=2))
    assert index.utterance.tolist() == ["x#1", "x#2", "x#3"]
    assert index.begin.tolist() == [0, *index.end[:-1]]
    assert index.end.iat[-1] == 44_100 * 5 + 17
    assert np.ptp(index.end - index.begin) <= 1
    assert skipped.empty
    index, skipped = index_of(read_corpus(tmp_path), Limits(2, 4))
    assert index.empty
    assert skipped.reason.tolist() == ["5.0 s, longer than longest_seconds = 4"]


def test_one_bad_file_leaves_the_others_as_they_were(corpus, tmp_path):
    utterances = read_corpus(corpus)
    alone, _ = index_of(utterances, Limits())
    soundfile.write(tmp_path / "z.wav", np.zeros(9_000), 16_000)
    absent = Utterance("absent", tmp_path / "absent.wav")
    index, skipped = index_of([absent, *utterances, Utterance("z", tmp_path / "z.wav")], Limits())
    assert index.drop(columns="recording").equals(alone.drop(columns="recording"))
    assert skipped.utterance.tolist() == ["absent", "z"]
    assert skipped.reason.tolist() == ["no such file", SILENT]


def test_a_dataset_is_heard_like_its_files(corpus, tmp_path):
    datasets = pytest.importorskip("datasets")
    utterances = read_corpus(corpus)
    columns = {"id": [u.id for u in utterances], "speaker": [u.speaker for u in utterances]}
    columns["audio"] = [{"path": str(u.path), "bytes": u.path.read_bytes()} for u in utterances]
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
    expected, _ = index_of(utterances, Limits())
    made.save_to_disk(tmp_path / "saved")
    for corpus_like in (made, tmp_path / "saved"):
        read = pickle.loads(pickle.dumps(read_corpus(corpus_like)))
        assert index_of(read, Limits())[0].equals(expected)
    with pytest.raises(SslsimError, match="dataset: no column 'audio'"):
        read_corpus(made.remove_columns("audio"))
    with pytest.raises(SslsimError, match="corpus of type dict: give a folder, a manifest, or one split"):
        read_corpus({})
