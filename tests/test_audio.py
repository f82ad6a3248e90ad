from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from conftest import tone

from sslsim.audio import (
    Utterance,
    corpus_fingerprint,
    frame_times,
    load_audio,
    n_frames,
    read_corpus,
    spread,
    waveform_fingerprint,
)
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
    wanted = Utterance("007", corpus / "ann" / "a.wav", "NA", 9_000, "go, on")
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
        ("m.csv", "id,path\nu1,a.wav\n", r"m.csv': row 1 \(u1\): no file '.*a.wav'"),
        ("m.csv", "id,path\nu1,m.csv\nu1,m.csv\n", "id 'u1' occurs twice; every utterance needs its own"),
        ("m.csv", "id,path\nu1,m.csv\n", r"audio '.*m.csv': not audio, or damaged: Format not recognised"),
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


@pytest.mark.parametrize("content", [b"", b"RIFF", b"this is not audio " * 100])
def test_not_audio(tmp_path, content):
    path = _write(tmp_path, "x.wav", content)
    for read in (lambda: read_corpus(tmp_path), lambda: load_audio(path)):
        with pytest.raises(SslsimError, match=r"audio '.*x.wav': not audio, or damaged: \w+"):
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
    for read in (lambda: read_corpus(tmp_path), lambda: load_audio(tmp_path / "x.wav")):
        with pytest.raises(SslsimError, match=rf"audio '.*x.wav': {message}"):
            read()


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
        return corpus_fingerprint([Utterance("x", tmp_path / folder / "x.wav", speaker, 1_000)])

    assert fingerprint("a") == fingerprint("b")
    assert fingerprint("a") != fingerprint("a", speaker="t")
    assert fingerprint("a") != fingerprint("a", seed=1)


def test_waveform_fingerprint_is_of_the_samples():
    x = tone(0, 1_000)
    assert waveform_fingerprint(x) == waveform_fingerprint(np.asfortranarray(x.astype("f8")))
    assert waveform_fingerprint(x) != waveform_fingerprint(x[::-1])
