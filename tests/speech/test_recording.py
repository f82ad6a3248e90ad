from __future__ import annotations

import hashlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import soxr
from conftest import tone

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Utterance, read_corpus
from sslsim.speech.index import Segmentation, index_of
from sslsim.speech.recording import (
    LARGEST,
    SILENCE,
    AudioError,
    Recording,
    at_16_khz,
    content_fingerprint,
    is_silent,
    n_frames,
    waveform_fingerprint,
)


def sound(source):
    with Recording(source) as recording:
        return recording.read()


def conv_frames(n: int) -> int:
    for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True):
        n = (n - kernel) // stride + 1 if n >= kernel else 0
    return n


def test_n_frames_is_what_the_convolutions_leave():
    assert all(n_frames(n) == conv_frames(n) for n in range(3_000))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_the_header_tells_how_long_the_resampled_audio_is(tmp_path, rate, suffix):
    rng = np.random.default_rng(rate)
    for n in rng.integers(rate // 30, rate, 8):
        path = tmp_path / f"{n}.{suffix}"
        soundfile.write(path, np.stack([tone(0, n, rate), tone(1, n, rate)], axis=1), rate)
    for utterance in read_corpus(tmp_path):
        waveform = sound(utterance.path)
        assert waveform.dtype == np.float32
        assert waveform.shape == (utterance.n_samples,)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_formats_are_as_long_as_the_header_says(tmp_path, suffix):
    soundfile.write(tmp_path / f"x.{suffix}", tone(0, 30_000, 22_050), 22_050)
    (utterance,) = read_corpus(tmp_path)
    assert len(sound(utterance.path)) == utterance.n_samples


def test_channels_are_averaged_and_16_khz_is_left_alone(tmp_path):
    left, right = tone(0, 5_000), tone(1, 5_000)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(sound(tmp_path / "x.wav"), (left + right) / 2, atol=1e-7)


def test_resampling_keeps_a_tone_where_it_was(tmp_path):
    t = np.arange(44_100) / 44_100
    soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 1_000 * t), 44_100, subtype="FLOAT")
    spectrum = np.abs(np.fft.rfft(sound(tmp_path / "x.wav")))
    assert spectrum.argmax() == 1_000  # one second: bins are 1 Hz


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: 0 bytes"),
        (b"RIFF", r"not audio, or damaged: \w+"),
        (b"this is not audio " * 100, r"not audio, or damaged: \w+"),
    ],
)
def test_not_audio(tmp_path, content, message):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    for read in (lambda: read_corpus(tmp_path)[0].n_samples, lambda: sound(path)):
        with pytest.raises(SslsimError, match=rf"audio '.*x.wav': {message}"):
            read()


def test_no_such_audio(tmp_path):
    with pytest.raises(SslsimError, match=r"audio '.*x.wav': no such file"):
        sound(tmp_path / "x.wav")


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
    (row,) = index_of(read_corpus(tmp_path), Segmentation())[1].itertuples()
    assert re.match(message, row.reason)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad):
    samples = tone(0, 2_000)
    samples[1_234] = bad
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(SslsimError, match=r"audio '.*x.wav': sample 1234 is NaN or infinite"):
        sound(tmp_path / "x.wav")


def test_cut_off(tmp_path):
    path = tmp_path / "x.mp3"
    soundfile.write(path, tone(0, 44_100, 22_050), 22_050)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SslsimError, match=r"audio '.*x.mp3': cut off: [\d,]+ of 44,100 samples can be read"):
        sound(path)


def test_waveform_fingerprint_is_of_the_samples():
    x = tone(0, 1_000)
    assert waveform_fingerprint(x) == waveform_fingerprint(np.asfortranarray(x.astype("f8")))
    assert waveform_fingerprint(x) != waveform_fingerprint(x[::-1])


def written(path, samples, rate, suffix):
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    soundfile.write(path, samples, rate, **options)
    return path


def stretches(path, order, cuts):
    """Read stretches one after another from one open recording."""
    with Recording(path) as recording:
        return {i: recording.read(cuts[i], cuts[i + 1]) for i in order}


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg", "opus"])
def test_a_stretch_is_the_same_whatever_was_read_before(tmp_path, suffix):
    rate = 48_000 if suffix == "opus" else 44_100
    path = written(tmp_path / f"x.{suffix}", tone(0, 2 * rate, rate), rate, suffix)
    cuts = [0, rate // 3 - 7, rate + 1, 4 * rate // 3, 5 * rate // 3 + 99, 2 * rate]
    alone = {i: stretches(path, [i], cuts)[i] for i in range(5)}
    for order in ([0, 1, 2, 3, 4], [2, 0, 1], [4, 3, 2, 1, 0], [1, 3], [3, 3, 4]):
        for i, stretch in stretches(path, order, cuts).items():
            np.testing.assert_array_equal(stretch, alone[i], err_msg=f"stretch {i} of {order}")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_stretch_is_resampled_as_if_it_stood_alone(tmp_path, suffix):
    path = written(tmp_path / f"x.{suffix}", tone(0, 30_000, 22_050), 22_050, suffix)
    whole, rate = soundfile.read(path, dtype="float32")
    with Recording(path) as recording:
        assert (recording.n, recording.rate) == (len(whole), rate)
        for begin, end in ((0, 30_000), (7_777, 20_001), (29_000, 30_000)):
            np.testing.assert_array_equal(recording.read(begin, end), soxr.resample(whole[begin:end], rate, 16_000))


@pytest.mark.parametrize(
    ("name", "subtype", "atol"),
    [
        ("x.wav", "PCM_U8", 2**-6),
        ("x.wav", "PCM_16", 2**-14),
        ("x.wav", "PCM_24", 2**-22),
        ("x.wav", "FLOAT", 0),
        ("x.wav", "DOUBLE", 0),
        ("x.wav", "ULAW", 0.02),
        ("x.flac", "PCM_16", 2**-14),
        ("x.flac", "PCM_24", 2**-22),
        ("x.aiff", "PCM_16", 2**-14),
    ],
)
def test_sample_types_agree_within_their_last_bit(tmp_path, name, subtype, atol):
    samples = np.stack([tone(c, 4_000) for c in range(3)], axis=1)
    soundfile.write(tmp_path / name, samples, 16_000, subtype=subtype)
    waveform = sound(tmp_path / name)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=atol + 1e-7, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_000, 44_100, 96_000])
def test_any_rate_becomes_16_khz(tmp_path, rate):
    t = np.arange(rate) / rate
    soundfile.write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 440 * t), rate, subtype="FLOAT")
    waveform = sound(tmp_path / "x.wav")
    assert waveform.shape == (16_000,)
    middle = slice(1_000, 15_000)  # at the ends the filter hears what is not there
    np.testing.assert_allclose(
        waveform[middle], 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000)[middle] / 16_000), atol=1e-3
    )


def test_the_length_at_16_khz_is_what_soxr_makes():
    rng = np.random.default_rng(0)
    for rate in (4_000, 8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000):
        for n in (1, 2, 3, *rng.integers(1, 60_000, 20)):
            made = len(soxr.resample(np.zeros(n, "f4"), rate, 16_000))
            assert at_16_khz(int(n), rate) == made, (n, rate)


def test_a_flac_from_a_pipe_is_counted(tmp_path):
    path = tmp_path / "x.flac"
    soundfile.write(path, tone(0, 48_000), 16_000)
    whole = sound(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits that tell how many samples there are
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(sound(path), whole)
    with Recording(path) as recording:
        assert recording.n == 48_000
        np.testing.assert_array_equal(recording.read(20_000, 30_000), whole[20_000:30_000])
        np.testing.assert_array_equal(recording.read(0, 10_000), whole[:10_000])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="not audio, or damaged: .*lost sync"):
        sound(path)


def without_header(path):
    """Cut an mp3's first frame off, which tells how long it is, as programs that stream do not write it."""
    content = path.read_bytes()
    second = next(k for k in range(100, 3_000) if content[k : k + 2] == content[:2] and content[k + 3] == content[3])
    path.write_bytes(content[second:])


def test_an_mp3_without_a_header_is_counted(tmp_path, capfd):
    samples = tone(0, 6 * 44_100, 44_100)
    samples[: 2 * 44_100] *= 1e-4
    path = tmp_path / "x.mp3"
    soundfile.write(path, samples, 44_100, bitrate_mode="CONSTANT", compression_level=0.5)
    without_header(path)
    assert 6 < len(sound(path)) / 16_000 < 6.1  # libsndfile guesses more than there is
    (utterance,) = read_corpus(tmp_path)
    assert len(sound(path)) == utterance.n_samples
    soundfile.write(path, samples, 44_100, bitrate_mode="VARIABLE", compression_level=0.5)
    assert len(sound(path)) == 6 * 16_000
    without_header(path)
    with pytest.raises(AudioError, match="goes on where libsndfile ends, for want of a header with its length"):
        sound(path)
    capfd.readouterr()  # the decoder's own remarks


def test_formats_without_a_seek_are_read_on(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(0, 16_000, 8_000), 8_000, subtype="GSM610")
    cuts = [0, 5_000, 9_001, 16_000]
    alone = {i: stretches(tmp_path / "x.wav", [i], cuts)[i] for i in range(3)}
    for i, stretch in stretches(tmp_path / "x.wav", [2, 0, 1], cuts).items():
        np.testing.assert_array_equal(stretch, alone[i])


def test_samples_too_large_for_sound(tmp_path):
    samples = tone(0, 2_000)
    samples[77] = 2 * LARGEST
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"x.wav': sample 77 is larger than 1e\+12"):
        sound(tmp_path / "x.wav")
    samples[77] = 2**31  # whole numbers of 32 bits that nobody scaled
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    assert sound(tmp_path / "x.wav").max() == 2**31


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("level", [0.0, 0.25, -1.0])
def test_a_constant_is_silent_at_any_rate(tmp_path, rate, level):
    soundfile.write(tmp_path / "x.wav", np.full(rate, level), rate, subtype="FLOAT")
    index, skipped = index_of([Utterance("x", tmp_path / "x.wav")], Segmentation())
    assert index.empty
    assert skipped.reason.str.startswith("silent: ").tolist() == [True]


def test_the_last_of_16_bits_is_where_silence_ends():
    square = np.tile([1, -1], 500).astype("f4")
    assert is_silent(0.5 + square * np.float32(SILENCE))
    assert not is_silent(0.5 + square * np.float32(1.1 * SILENCE))


def test_a_fault_is_told_with_and_without_the_name(tmp_path):
    with pytest.raises(AudioError) as caught:
        Recording(tmp_path / "x.wav")
    assert caught.value.reason == "no such file"
    assert str(caught.value) == f"audio '{tmp_path / 'x.wav'}': no such file"
    (tmp_path / "x.wav").mkdir()
    with pytest.raises(AudioError, match="x.wav': a folder, not a file"):
        Recording(tmp_path / "x.wav")
    with pytest.raises(AudioError, match="its name is not UTF-8, or has a NUL; rename it"):
        Recording("a\0b.wav")


def test_content_fingerprint_is_of_the_bytes_or_of_the_reason(tmp_path):
    path = tmp_path / "x.wav"
    assert content_fingerprint(path) == hashlib.sha256(b"no such file").hexdigest()
    path.write_bytes(b"some bytes")
    assert content_fingerprint(path) == hashlib.sha256(b"some bytes").hexdigest()


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    """Return a function that makes a file of a format that ffmpeg alone reads."""
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    folder = tmp_path_factory.mktemp("lossy")
    soundfile.write(folder / "x.wav", tone(0, 32_000), 16_000)

    def make(suffix):
        command = ["ffmpeg", "-y", "-v", "error", "-i", str(folder / "x.wav"), str(folder / f"x.{suffix}")]
        subprocess.run(command, check=True)
        return folder / f"x.{suffix}"

    return make


@pytest.mark.parametrize("suffix", ["m4a", "mp4", "aac", "webm", "wma", "g722"])
def test_what_libsndfile_does_not_read_goes_through_ffmpeg(lossy, suffix):
    path = lossy(suffix)
    with Recording(path) as recording:
        whole = recording.read()
        np.testing.assert_array_equal(recording.mono(100, 4_000), recording.mono()[100:4_000])
    assert abs(len(whole) - 32_000) <= 2_048
    lag = np.correlate(whole[4_000:20_000], tone(0, 32_000)[6_000:16_000], "valid")
    assert lag.max() > 0.9 * np.square(tone(0, 32_000)[6_000:16_000]).sum()
    assert read_corpus(path.parent)[0].path.parent == path.parent


@pytest.mark.parametrize(("suffix", "length"), [("m4a", 0.5), ("aac", 0.5), ("wma", 0.5), ("webm", 0.01)])
def test_what_ffmpeg_cannot_read_is_said_without_path_or_address(lossy, tmp_path, suffix, length):
    content = lossy(suffix).read_bytes()
    (tmp_path / f"x.{suffix}").write_bytes(content[: int(length * len(content))])
    with pytest.raises(AudioError) as raised:
        Recording(tmp_path / f"x.{suffix}")
    assert re.fullmatch("ffmpeg cannot read it: [^/@]+", raised.value.reason)


def test_a_playlist_fetches_nothing(lossy, tmp_path):
    (tmp_path / "x.m4a").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match="ffmpeg cannot read it"):
        Recording(tmp_path / "x.m4a")


def test_without_ffmpeg_such_files_are_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    soundfile.write(tmp_path / "a.wav", tone(0, 800), 16_000)
    (tmp_path / "b.m4a").write_bytes(b"any")
    index, skipped = index_of(read_corpus(tmp_path), Segmentation())
    assert index.utterance.tolist() == ["a"]
    told = ".m4a is read through ffmpeg, which is not here; install it, or convert"
    assert skipped[["utterance", "reason"]].to_numpy().tolist() == [["b", told]]
