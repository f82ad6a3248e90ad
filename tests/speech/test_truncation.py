from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from conftest import tone

from sslsim.speech.recording import AudioError, Recording
from sslsim.speech.truncation import cut_off, finished, tells_length

KINDS = {
    "wav": {"format": "WAV"},
    "wav float": {"format": "WAV", "subtype": "FLOAT"},
    "wav adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "wavex": {"format": "WAVEX"},
    "rf64": {"format": "RF64"},
    "rifx": {"format": "WAV", "endian": "BIG"},
    "w64": {"format": "W64"},
    "aiff": {"format": "AIFF"},
    "aifc": {"format": "AIFF", "subtype": "FLOAT"},
    "au": {"format": "AU"},
    "caf": {"format": "CAF"},
    "sphere": {"format": "NIST"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
NOTICED = {"flac": {"format": "FLAC"}, "mp3": {"format": "MP3"}}  # by their decoders


def sound(source):
    with Recording(source) as recording:
        return recording.read()


def encoded(options, n=48_000):
    file = io.BytesIO()
    soundfile.write(file, tone(0, n), 16_000, **options)
    return file.getvalue()


def ends(content):
    """Lengths to cut a file to: within its headers, near its beginning, middle and end."""
    n = len(content)
    return [n // 10, n // 3, n // 2, n - n // 10, n - 1_000, n - 2, n - 1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_cut_off_is_noticed_and_what_is_whole_is_not(kind):
    content = encoded(KINDS[kind])
    assert cut_off(io.BytesIO(content)) == ""
    for n in ends(content):
        fault = cut_off(io.BytesIO(content[:n]))
        assert "there" in fault or "incomplete" in fault or "ends before" in fault, n


@pytest.mark.parametrize("kind", [*KINDS, *NOTICED])
def test_a_file_that_was_cut_off_is_named_wherever_that_was(tmp_path, kind, capfd):
    content = encoded((KINDS | NOTICED)[kind])
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    assert len(sound(path)) >= 48_000
    for n in (*range(1, 60, 4), *ends(content)):
        path.write_bytes(content[:n])
        with pytest.raises(AudioError, match="x.wav': (cut off: |not audio, or damaged: |holds no samples)"):
            sound(path)
    capfd.readouterr()  # libmpg123 talks


def test_what_is_missing_is_told_in_bytes():
    wav, aiff = encoded(KINDS["wav"]), encoded(KINDS["aiff"])
    assert cut_off(io.BytesIO(wav[:50_044])) == "50,000 of 96,000 bytes of samples are there"
    assert cut_off(io.BytesIO(wav[:44])) == "0 of 96,000 bytes of samples are there"
    assert cut_off(io.BytesIO(wav[:40])) == "it ends before its samples"
    assert cut_off(io.BytesIO(aiff[:-8])) == "96,000 of 96,008 bytes of samples are there"
    assert cut_off(io.BytesIO(encoded(KINDS["w64"])[:50_000])) == "50,000 of 96,104 bytes are there"
    assert cut_off(io.BytesIO(encoded(KINDS["sphere"])[:51_024])) == "50,000 of 96,000 bytes of samples are there"
    assert cut_off(io.BytesIO(encoded(KINDS["au"])[:30])) == "6 of 96,000 bytes of samples are there"
    assert cut_off(io.BytesIO(encoded(KINDS["rf64"])[:20])) == "it ends before its samples"


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_an_ogg_that_ends_with_a_page_but_not_its_last(kind):
    content = encoded(KINDS[kind])
    pages = [i for i in range(len(content)) if content[i : i + 4] == b"OggS"]
    assert len(pages) > 3
    for page in pages[1:]:
        assert cut_off(io.BytesIO(content[:page])) == "its last page is not there"
    assert cut_off(io.BytesIO(content[: pages[-1] + 20])) == "its last page is incomplete"


def streamed(content, riff, length):
    """Return a wav as programs leave it that cannot go back to fill in its lengths."""
    content = bytearray(content)
    order = "<" if content[:4] == b"RIFF" else ">"
    place = content.index(b"data") + 4
    content[4:8] = struct.pack(f"{order}I", riff)
    content[place : place + 4] = struct.pack(f"{order}I", length)
    return bytes(content)


@pytest.mark.parametrize("kind", ["wav", "wavex", "rifx"])
@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_streamed_wav_has_no_length_to_miss_and_is_read_to_its_end(tmp_path, kind, riff, length):
    path = tmp_path / "x.wav"
    path.write_bytes(encoded(KINDS[kind], 8_001))
    whole = sound(path)
    path.write_bytes(streamed(path.read_bytes(), riff, length))
    assert cut_off(io.BytesIO(path.read_bytes())) == ""
    np.testing.assert_array_equal(sound(path), whole)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.read(4_000, 5_000), whole[4_000:5_000])
        np.testing.assert_array_equal(recording.read(100, 600), whole[100:600])


def test_a_wav_without_samples_is_not_taken_for_a_streamed_one(tmp_path):
    empty = encoded(KINDS["wav"], 0)
    tagged = bytearray(empty + chunk(b"LIST", b"INFO" + bytes(2_000)))
    tagged[4:8] = struct.pack("<I", len(tagged) - 8)
    for content in (empty, bytes(tagged)):
        (tmp_path / "x.wav").write_bytes(content)
        assert finished(file := io.BytesIO(content)) is file
        with pytest.raises(AudioError, match="holds no samples"):
            sound(tmp_path / "x.wav")


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


@pytest.mark.parametrize("size", [0, 5, 4_097])
def test_chunks_before_the_samples_are_passed_over(tmp_path, size):
    content = encoded(KINDS["wav"], 8_000)
    tagged = bytearray(
        content[:36] + chunk(b"LIST", b"INFO" + bytes(size)) + chunk(b"junk", b"x" * size) + content[36:]
    )
    tagged[4:8] = struct.pack("<I", len(tagged) - 8)
    path = tmp_path / "x.wav"
    path.write_bytes(tagged)
    assert len(sound(path)) == 8_000
    path.write_bytes(tagged[:-10])
    with pytest.raises(AudioError, match="cut off: 15,990 of 16,000 bytes of samples are there"):
        sound(path)
    path.write_bytes(tagged[: 36 + size])
    with pytest.raises(AudioError, match="cut off: it ends before its samples"):
        sound(path)


def test_what_follows_the_samples_does_not_matter(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(encoded(KINDS["wav"], 8_000) + chunk(b"LIST", b"INFOand more") + b"and a torn chun")
    assert len(sound(path)) == 8_000


@pytest.mark.parametrize("content", [b"", b"R", b"RIFF", b"text " * 99, b"OggS", b".snd", b"caff", b"FORM\0\0\0\0AIFF"])
def test_any_bytes_can_be_asked(content):
    assert isinstance(cut_off(io.BytesIO(content)), str)
    assert finished(file := io.BytesIO(content)) is file
    assert not tells_length(io.BytesIO(content))


def test_a_header_of_a_sphere_file_that_is_compressed_or_torn_promises_nothing():
    content = encoded(KINDS["sphere"])
    shortened = content.replace(b"-s3 pcm", b"-s3 zip")[:50_000]
    assert cut_off(io.BytesIO(shortened)) == ""
    assert cut_off(io.BytesIO(content[:30])) == ""


def test_an_mp3_tells_its_length_behind_a_tag_or_not_at_all():
    content = encoded(NOTICED["mp3"])
    tag = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
    assert tells_length(io.BytesIO(content))
    assert tells_length(io.BytesIO(tag + content))
    assert not tells_length(io.BytesIO(tag + content[2_000:]))
