from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from conftest import tone

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Utterance, read_corpus
from sslsim.speech.index import SILENT, Reader, Segmentation, index_of
from sslsim.speech.recording import SAMPLE_RATE, AudioError, Recording, waveform_fingerprint


def sound(source):
    with Recording(source) as recording:
        return recording.read()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Segmentation("30"), "piece_seconds is '30'; it must be a number"),
        (lambda: Segmentation(longest_seconds=None), "longest_seconds is None; it must be a number"),
        (lambda: Segmentation(float("nan")), "0.1 <= piece_seconds <= longest_seconds must hold"),
        (lambda: Segmentation(0.01), "piece_seconds is 0.01 and longest_seconds 3600; 0.1 <= piece_seconds"),
        (lambda: Segmentation(60, 30), "piece_seconds is 60 and longest_seconds 30; 0.1 <= piece_seconds"),
    ],
)
def test_a_segmentation_that_cannot_be(make, message):
    with pytest.raises(SslsimError, match=message):
        make()


def test_long_audio_is_cut_into_equal_pieces_and_nothing_is_lost(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(0, 44_100 * 5 + 17, 44_100), 44_100)
    index, skipped = index_of(read_corpus(tmp_path), Segmentation(piece_seconds=2))
    assert index.utterance.tolist() == ["x#1", "x#2", "x#3"]
    assert index.begin.tolist() == [0, *index.end[:-1]]
    assert index.end.iat[-1] == 44_100 * 5 + 17
    assert np.ptp(index.end - index.begin) <= 1
    assert skipped.empty
    index, skipped = index_of(read_corpus(tmp_path), Segmentation(2, 4))
    assert index.empty
    assert skipped.reason.tolist() == ["5.0 s, longer than longest_seconds = 4"]


def test_one_bad_file_leaves_the_others_as_they_were(corpus, tmp_path):
    utterances = read_corpus(corpus)
    alone, _ = index_of(utterances, Segmentation())
    soundfile.write(tmp_path / "z.wav", np.zeros(9_000), 16_000)
    absent = Utterance("absent", tmp_path / "absent.wav")
    index, skipped = index_of([absent, *utterances, Utterance("z", tmp_path / "z.wav")], Segmentation())
    assert index.drop(columns="recording").equals(alone.drop(columns="recording"))
    assert skipped.utterance.tolist() == ["absent", "z"]
    assert skipped.reason.tolist() == ["no such file", SILENT]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_cuts_are_equal_cover_everything_and_keep_to_the_limit(rate):
    rng = np.random.default_rng(rate)
    for n in (1, 2, 399, 400, *rng.integers(1, 100 * rate, 200)):
        segmentation = Segmentation(piece_seconds=float(rng.uniform(0.1, 40)))
        cuts = segmentation.cuts(int(n), rate)
        lengths = np.diff(cuts)
        assert (cuts[0], cuts[-1]) == (0, n)
        assert lengths.max() <= segmentation.piece_seconds * rate
        assert np.ptp(lengths) <= 1
        assert len(cuts) == 2 or lengths.min() >= 400 * rate / SAMPLE_RATE  # never shorter than a frame
        assert (len(lengths) - 1) * int(segmentation.piece_seconds * rate) < n  # no more pieces than it takes
    assert Segmentation(float("inf"), float("inf")).cuts(10**9, rate) == [0, 10**9]


def test_no_sample_of_a_long_file_is_lost_or_doubled(tmp_path):
    samples = tone(0, 16_000 * 5 + 11)
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    utterances = read_corpus(tmp_path)
    index, _ = index_of(utterances, Segmentation(piece_seconds=0.7))
    assert index.utterance.tolist() == [f"x#{i}" for i in range(1, 9)]
    assert index.n_samples.max() <= 0.7 * 16_000
    with Reader(utterances) as reader:
        pieces = [reader.read(row) for row in index.itertuples()]
    np.testing.assert_array_equal(np.concatenate(pieces), samples)
    assert index.n_samples.tolist() == [len(p) for p in pieces]
    assert index.waveform.tolist() == [waveform_fingerprint(p) for p in pieces]


def test_silent_pieces_are_left_out_by_name(tmp_path):
    samples = tone(0, 6 * 44_100, 44_100)
    samples[2 * 44_100 : 4 * 44_100] = 0.25
    soundfile.write(tmp_path / "x.wav", samples, 44_100)
    index, skipped = index_of(read_corpus(tmp_path), Segmentation(piece_seconds=2))
    assert index.utterance.tolist() == ["x#1", "x#3"]
    assert skipped.values.tolist() == [["x#2", str(tmp_path / "x.wav"), SILENT]]


def test_a_name_like_that_of_a_piece_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(0, 16_000), 16_000)
    soundfile.write(tmp_path / "x#1.wav", tone(1, 8_000), 16_000)
    utterances = read_corpus(tmp_path)
    assert sorted(index_of(utterances, Segmentation())[0].utterance) == ["x", "x#1"]
    with pytest.raises(SslsimError, match="id 'x#1' is that of an utterance and of a piece of another; rename one"):
        index_of(utterances, Segmentation(piece_seconds=0.6))


@pytest.mark.parametrize("place", [0, 2, 4, 40])
def test_a_bad_file_anywhere_changes_no_other_row(corpus, tmp_path, place):
    utterances = [replace(u, id=f"{u.id} {i}") for i in range(11) for u in read_corpus(corpus)]  # several calls' worth
    alone, none = index_of(utterances, Segmentation(piece_seconds=0.4))
    assert none.empty
    (tmp_path / "bad.flac").write_bytes(b"fLaC" + bytes(40))
    bad = Utterance("bad", tmp_path / "bad.flac")
    counted: list[int] = []
    index, skipped = index_of(
        [*utterances[:place], bad, *utterances[place:]], Segmentation(piece_seconds=0.4), done=counted.append
    )
    recording = index.pop("recording")
    assert index.equals(alone.drop(columns="recording"))
    assert place not in set(recording)
    assert (recording - (recording > place)).tolist() == alone.recording.tolist()
    assert skipped.utterance.tolist() == ["bad"]
    assert sum(counted) == 45


@pytest.fixture(params=["wav", "flac", "mp3", "ogg"])
def long_files(tmp_path, request):
    """Return two files that are read in pieces, and their index."""
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.{request.param}", tone(i, 44_100 * 4, 44_100), 44_100)
    utterances = read_corpus(tmp_path)
    index, skipped = index_of(utterances, Segmentation(piece_seconds=0.5))
    assert (len(index), len(skipped)) == (16, 0)
    return utterances, index


def test_pieces_are_read_again_in_any_order(long_files):
    utterances, index = long_files
    rows = list(index.itertuples())
    rng = np.random.default_rng(0)
    for order in (range(16), range(5, 16), range(15, -1, -1), rng.permutation(16)):
        with Reader(utterances) as reader:
            for i in order:
                assert waveform_fingerprint(reader.read(rows[i])) == rows[i].waveform


def test_a_file_that_changed_is_noticed(tmp_path):
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, tone(0, 8_000), 16_000)
    utterances = read_corpus(tmp_path)
    first, second = index_of(utterances, Segmentation())[0].itertuples()
    soundfile.write(tmp_path / "b.wav", tone(1, 8_000), 16_000)
    with Reader(utterances) as reader:
        assert len(reader.read(first)) == 8_000
        with pytest.raises(AudioError, match="audio '.*b.wav': changed while it was being extracted"):
            reader.read(second)
        soundfile.write(tmp_path / "a.wav", tone(0, 7_000), 16_000)
        with pytest.raises(AudioError, match="audio '.*a.wav': changed while it was being extracted"):
            reader.read(first)
        (tmp_path / "a.wav").unlink()
        reader.read(second._replace(waveform=waveform_fingerprint(sound(tmp_path / "b.wav"))))
        with pytest.raises(AudioError, match="audio '.*a.wav': no such file"):
            reader.read(first)


def test_waveforms_that_were_kept_are_not_decoded_again(corpus, tmp_path, monkeypatch):
    utterances = read_corpus(corpus)
    keep = tmp_path / "keep"
    keep.mkdir()
    rows = list(index_of(utterances, Segmentation(0.4), keep=keep)[0].itertuples())
    with Reader(utterances) as reader:
        expected = [reader.read(row) for row in rows]
    first, *others = sorted(keep.iterdir())
    assert len(others) == len(rows) - 1
    first.write_bytes(b"short")  # it is decoded instead, and kept
    with Reader(utterances, keep) as reader:
        for row, waveform in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(reader.read(row), waveform)
    monkeypatch.setattr(Recording, "__init__", lambda *_: pytest.fail("opened"))
    with Reader(utterances, keep) as reader:
        for row, waveform in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(reader.read(row), waveform)
