"""The label of every frame, on recordings whose marks are known."""

import numpy as np
import pandas as pd
import pytest
from marked import RATES, TIMES, record, spectrogram

import sslsim
from sslsim.analysis import labels_if_any, preferences
from sslsim.errors import SslsimError
from sslsim.speech.alignments import alignments_of
from sslsim.speech.corpus import read_corpus
from sslsim.speech.index import index_of, origins


@pytest.fixture
def speech(tmp_path, least):
    least(1)  # so few marks are enough
    return record(tmp_path / "speech")


@pytest.fixture
def least(monkeypatch):
    """Return a function that sets how often a label must be marked."""
    return lambda n: monkeypatch.setattr(preferences, "LEAST", n)


def expected(times):
    return np.where(times < 0.1, -1, np.floor(times * 10 + 1e-9) % 2).tolist()


def test_a_frame_has_the_label_at_its_centre(speech):
    store, marks = spectrogram(speech), alignments_of(speech)
    labels = labels_if_any(marks, store, speech)
    assert labels.names == ("a", "b")
    assert labels.codes.tolist() == 2 * expected(TIMES)
    words = labels_if_any(marks[marks.kind == "word"], store, speech)
    assert words.codes.tolist() == 2 * np.floor(TIMES).astype(int).tolist()


def test_times_count_from_the_beginning_of_a_recording_that_was_cut(speech):
    store = spectrogram(speech, segmentation=sslsim.Segmentation(piece_seconds=0.7))
    assert store.index.utterance.tolist() == [f"{name}#{i}" for name in RATES for i in (1, 2, 3)]
    labels = labels_if_any(alignments_of(speech), store, speech)
    for row in store.index.itertuples():
        times = row.begin / RATES[row.utterance[:3]] + TIMES[: row.n_frames]
        assert labels.codes[row.start : row.start + row.n_frames].tolist() == expected(times)


def test_kept_frames_have_the_labels_of_their_times(speech):
    store = spectrogram(speech, frames=30)
    labels = labels_if_any(alignments_of(speech), store, speech)
    assert labels.codes[: store.index.n_frames[0]].tolist() == expected(TIMES[store.frame_rows(0)])


def test_rare_labels_cannot_be_preferred_and_utterances_without_marks_are_told_apart(speech, least):
    least(2)
    store = spectrogram(speech, segmentation=sslsim.Segmentation(piece_seconds=0.7))
    marks = alignments_of(speech)
    one = marks[marks.id == "one"].replace({"label": {"a": "b"}})
    one.loc[(one.kind == "phone") & (one.start == 0.5), "label"] = "rare"
    labels = labels_if_any(one, store, speech)
    assert labels.names == ("b",)
    n = int(store.index.n_frames[:3].sum())
    assert set(labels.codes[:n]) == {0, -1}
    assert set(labels.codes[n:]) == {-2}
    least(1000)
    assert labels_if_any(one, store, speech).names == ("b",)  # the most frequent


def test_a_mark_that_two_pieces_share_counts_once(speech, least):
    store = spectrogram(speech, segmentation=sslsim.Segmentation(piece_seconds=0.7))
    rows = [("one", "v", 0.5, 0.9), ("two", "v", 0.5, 0.9), ("one", "x", 1.5, 1.6), ("one", "x", 1.7, 1.8)]
    marks = pd.DataFrame([*rows, ("two", "x", 1.5, 1.6)], columns=["id", "label", "start", "end"]).assign(kind="sound")
    assert labels_if_any(marks, store, speech).names == ("v", "x")
    least(3)
    assert labels_if_any(marks, store, speech).names == ("x",)


def test_marks_of_one_utterance_of_another_corpus_or_beside_the_frames_are_too_few(speech):
    store, marks = spectrogram(speech), alignments_of(speech)
    words = marks[(marks.kind == "word") | (marks.id == "none")]
    elsewhere = pd.concat([marks[marks.kind == "phone"].assign(id="none"), words])
    assert labels_if_any(elsewhere, store, speech).names == ("w0", "w1")  # phones are of another recording
    for few in (marks[marks.id == "one"], marks.assign(start=5.0, end=6.0), marks[:0], marks.assign(id="x")):
        assert labels_if_any(few, store, speech) is None


def test_marks_that_do_not_fit_are_refused(speech):
    store, marks = spectrogram(speech), alignments_of(speech)
    (speech / "one.wav").rename(speech / "uno.wav")
    with pytest.raises(SslsimError, match="no utterance 'one' in this corpus; give the one that the store was made of"):
        labels_if_any(marks, store, speech)


def test_times_count_from_the_beginning_of_a_stretch(speech):
    sound = next(speech.glob("*.wav"))
    (speech / "stretch.csv").write_text(f"id,path,offset,duration\none,{sound},0.5,1.2\n")
    index, _ = index_of(read_corpus(speech / "stretch.csv"), sslsim.Segmentation(piece_seconds=0.7))
    starts = [start for _, start in origins(index, speech / "stretch.csv")]
    assert starts == pytest.approx([0, 0.6], abs=1e-4)
