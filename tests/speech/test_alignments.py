from __future__ import annotations

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import tone

from sslsim.errors import SslsimError
from sslsim.speech.alignments import (
    MARKS,
    alignment_facts,
    alignments_files,
    alignments_of,
    held,
    read_alignments,
)
from sslsim.speech.corpus import read_corpus
from sslsim.speech.index import Segmentation, index_of
from sslsim.speech.recording import Clock

HEADER = "id,kind,label,start,end\n"


def marks_in(tmp_path, text):
    (tmp_path / "marks.csv").write_text(text)
    return read_alignments(tmp_path / "marks.csv")


def test_marks_lie_beside_a_manifest_or_in_a_folder(tmp_path):
    soundfile.write(tmp_path / "one.wav", tone(0, 16_000), 16_000)
    assert alignments_of(tmp_path).empty
    expected = marks_in(tmp_path, HEADER + "one,phone,a,0,0.1\none,word,all,0,1\n")
    (tmp_path / "manifest.csv").write_text("id,path\none,one.wav\n")
    for corpus in (tmp_path, tmp_path / "manifest.csv", str(tmp_path)):
        assert alignments_of(corpus).equals(expected)
        assert alignments_files(read_corpus(corpus)) == [tmp_path / "marks.csv"]
    assert expected.columns.tolist() == list(MARKS)
    assert alignments_of(object()).empty  # a dataset


def test_marks_keep_names_as_written_and_come_in_order(tmp_path):
    marks = marks_in(tmp_path, HEADER + "007,phone,NA,0.5,1\n007,phone,n,0,0.5\n007,word,null,0,1\n")
    assert marks.to_numpy().tolist() == [
        ["007", "phone", "n", 0.0, 0.5],
        ["007", "phone", "NA", 0.5, 1.0],
        ["007", "word", "null", 0.0, 1.0],
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no column id, kind, label, start, end; give id, kind, label, start, end"),
        (HEADER + "a,phone,x,0,1,\n", "cannot be read: its rows have more values than there are columns"),
        ("id,label,start\na,b,0\n", "no column kind, end; give id, kind, label, start, end"),
        (HEADER + "a,phone,,0,1\n", "row 1 (a,phone,,0,1) has no id, kind or label; correct it"),
        (
            HEADER + "a,phone,x,0,1\na,phone,x,1,soon\n",
            "row 2 (a,phone,x,1,soon) has a start or end that is no time in",
        ),
        (HEADER + "a,phone,x,-1,1\n", "row 1 (a,phone,x,-1,1) has a start or end that is no time in seconds; correct"),
        (HEADER + "a,phone,x,nan,1\n", "row 1 (a,phone,x,nan,1) has a start or end that is no time in seconds"),
        (HEADER + "a,phone,x,1,1\n", "row 1 (a,phone,x,1,1) does not end after its start; correct it"),
        (
            HEADER + "a,phone,y,1,2\na,phone,x,0,1.5\n",
            "row 1 (a,phone,y,1,2) starts before the one before it ends; marks of a kind must not overlap, give them",
        ),
    ],
)
def test_malformed_marks_are_told_by_row(tmp_path, text, fault):
    with pytest.raises(SslsimError, match=re.escape(fault)) as raised:
        marks_in(tmp_path, text)
    assert str(raised.value).startswith(f"marks {str(tmp_path / 'marks.csv')!r}: ")


def test_a_frame_has_the_mark_that_holds_at_its_centre(tmp_path):
    np.testing.assert_allclose(Clock().times(np.array([0, 1, 5])), [0.0125, 0.0325, 0.1125])
    marks = marks_in(tmp_path, HEADER + "u,phone,a,0.02,0.1\nu,phone,b,0.1,0.2\nu,phone,c,0.3,0.4\n")
    times = np.array([0.0, 0.02, 0.0999, 0.1, 0.25, 0.3, 0.4])
    assert held(marks, times).tolist() == [-1, 0, 0, 1, -1, 2, -1]
    assert held(marks[:0], times[:0]).tolist() == []


@pytest.fixture
def corpus(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "speech")


def textgrid(*tiers):
    """Return a TextGrid as Praat writes it, from names and intervals."""
    said = ""
    for number, (name, intervals) in enumerate(tiers, 1):
        said += f'    item [{number}]:\n        class = "IntervalTier"\n        name = "{name}"\n        xmin = 0\n'
        said += f"        xmax = 1\n        intervals: size = {len(intervals)}\n"
        for i, (start, end, label) in enumerate(intervals, 1):
            said += f"        intervals [{i}]:\n            xmin = {start}\n            xmax = {end}\n"
            said += f'            text = "{label}"\n'
    head = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1\ntiers? <exists>\n'
    return head + f"size = {len(tiers)}\nitem []:\n" + said


PHONES = [(0, 0.25, ""), (0.25, 0.5, "g"), (0.5, 1, "ow")]
WORDS = [(0, 0.25, ""), (0.25, 1, "go")]
SPOKEN = [["phone", "g", 0.25, 0.5], ["phone", "ow", 0.5, 1.0], ["word", "go", 0.25, 1.0]]
CTM = ";; id channel start duration word\nann/a 1 0.25 0.75 go 0.9\nann/b A 0.1 0.2 on\n"


def test_a_textgrid_without_a_label_has_no_marks(corpus):
    (corpus / "ann" / "a.TextGrid").write_text(textgrid(("words", [(0, 1, "")])))
    assert alignments_of(corpus).empty


def test_points_and_the_short_format_of_praat(corpus):
    short = ['"IntervalTier"', '"words"', 0, 1, 2, 0, 0.25, '""', 0.25, 1, '"go ""on"""']
    points = ['"TextTier"', '"clicks"', 0, 1, 1, 0.5, '"x"']
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", 0, 1, "<exists>", 2]
    (corpus / "ann" / "b.TextGrid").write_text("\n".join(map(str, [*head, *short, *points])) + "\n")
    assert alignments_of(corpus).to_numpy().tolist() == [["ann/b", "word", 'go "on"', 0.25, 1.0]]


@pytest.mark.parametrize(
    "place", ["ann/a.TextGrid", "alignments/ann/a.TextGrid", "alignments/a.TextGrid", "a.TextGrid"]
)
@pytest.mark.parametrize("tiers", [("words", "phones"), ("Ann Lee - words", "Ann Lee - phones"), ("ORT-MAU", "MAU")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_textgrid_beside_the_audio_or_where_an_aligner_put_it(corpus, place, tiers, encoding):
    (corpus / place).parent.mkdir(parents=True, exist_ok=True)
    (corpus / place).write_text(textgrid((tiers[0], WORDS), (tiers[1], PHONES)), encoding=encoding)
    marks = alignments_of(corpus)
    assert marks.to_numpy().tolist() == [["ann/a", *row] for row in SPOKEN]
    (corpus / "marks.csv").write_text(HEADER + "ann/a,phone,x,0,1\n")
    assert alignments_of(corpus).label.tolist() == ["x"]  # one's own come first


@pytest.mark.parametrize("place", ["alignments/slt/a.TextGrid", "bob/a.TextGrid"])
def test_an_alignment_of_another_speaker_is_of_no_utterance(corpus, place):
    (corpus / place).parent.mkdir(parents=True, exist_ok=True)
    (corpus / place).write_text("junk, which is not read")
    (corpus / "ann" / "b.TextGrid").write_text(textgrid(("words", WORDS)))
    with pytest.warns(UserWarning, match="1 of 2 alignments have marks of no utterance, such as 'a.TextGrid'"):
        assert set(alignments_of(corpus).id) == {"ann/b"}


def test_an_alignment_agrees_with_the_folders_next_to_the_audio(tmp_path):
    for place in ("wavs/bdl/a1.wav", "wavs/slt/a2.wav", "old/jmk/a3.wav", "new/jmk/a3.wav"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / place, np.zeros(8_000), 16_000)
    for place in ("bdl/a1", "bdl/a2", "jmk/a3"):  # a2 is of slt, a3 of two recordings
        (tmp_path / "alignments" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "alignments" / f"{place}.phn").write_text("0 4000 a\n")
    with pytest.warns(UserWarning, match="2 of 3 alignments have marks of no utterance, such as 'a2.phn'"):
        assert alignments_of(tmp_path).id.tolist() == ["wavs/bdl/a1"]


def test_marks_of_another_corpus_are_warned_of(corpus):
    (corpus / "marks.csv").write_text(HEADER + "ann_a,phone,x,0,1\n")
    with pytest.warns(UserWarning, match=r"no id is one of an utterance, such as 'ann_a'.* called as 'ann/a'"):
        assert len(alignments_of(corpus)) == 1
    (corpus / "marks.csv").write_text(HEADER + "ann_a,phone,x,0,1\nann/a,phone,x,0,1\n")  # of a bigger one
    assert len(alignments_of(corpus)) == 2


@pytest.mark.parametrize("lines", [-1, -4, -9, 25])
def test_a_textgrid_that_is_cut_off_is_not_read_as_whole(corpus, lines):
    whole = textgrid(("words", WORDS), ("phones", PHONES))
    (corpus / "ann" / "a.TextGrid").write_text("\n".join(whole.rstrip().split("\n")[:lines]) + "\n")
    with pytest.raises(SslsimError, match="a.TextGrid': cannot be read"):
        alignments_of(corpus)


def test_times_that_rounding_makes_overlap_are_in_turn(corpus):
    noisy = [(0, 0.6500000000000001, "go"), (0.65, 1, "on")]
    (corpus / "ann" / "a.TextGrid").write_text(textgrid(("words", noisy)))
    assert alignments_of(corpus).label.tolist() == ["go", "on"]
    (corpus / "ann" / "a.TextGrid").unlink()
    lines = ["# made by hand", "#", "  ;; twice", "ann/a 1 0 0.51 go", "ann/a 1 0.5 0.2 on", "ann/a 1 0.7 0 none"]
    (corpus / "telephone.ctm").write_text("\n".join(lines))
    assert alignments_of(corpus).to_numpy().tolist() == [
        ["ann/a", "word", "go", 0, 0.5],
        ["ann/a", "word", "on", 0.5, 0.7],
    ]
    (corpus / "telephone.ctm").write_text("ann/b A 0 1 go\nann/a A 0 1 go\nann/a B 1 1 on\n")
    with pytest.raises(SslsimError, match="'ann/a' has several channels"):
        alignments_of(corpus)


def test_marks_of_timit_count_the_samples_of_their_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 8_000)
    (tmp_path / "a.phn").write_text("0 4000 h#\n4000 8000 g\n4000 4000 none\n")
    assert alignments_of(tmp_path)[["start", "end"]].to_numpy().tolist() == [[0, 0.5], [0.5, 1]]


def test_words_of_a_ctm_and_phones_and_words_of_timit(corpus, tmp_path):
    (corpus / "all.ctm").write_text(CTM)
    assert alignments_of(corpus).to_numpy().tolist() == [
        ["ann/a", "word", "go", 0.25, 1.0],
        ["ann/b", "word", "on", 0.1, pytest.approx(0.3)],
    ]
    (corpus / "all.ctm").rename(corpus / "phones.ctm")
    assert set(alignments_of(corpus).kind) == {"phone"}
    (corpus / "phones.ctm").unlink()
    (corpus / "ann" / "a.PHN").write_text("0 4000 h#\n4000 8000 g\n")
    (corpus / "ann" / "a.WRD").write_text("4000 8000 go\n7200 9600 on\n")  # words overlap, as some of TIMIT do
    expected = [
        ["phone", "h#", 0, 0.25],
        ["phone", "g", 0.25, 0.5],
        ["word", "go", 0.25, 0.45],
        ["word", "on", 0.45, 0.6],
    ]
    assert alignments_of(corpus).drop(columns="id").to_numpy().tolist() == expected
    (tmp_path / "m.csv").write_text(f"id,path\n007,{corpus}/ann/a.wav\n")  # beside the files of a list too
    assert alignments_of(tmp_path / "m.csv").id.unique().tolist() == ["007"]


def test_marks_of_a_stretch_are_known_by_its_id_alone(corpus, tmp_path):
    (tmp_path / "m.csv").write_text(f"id,path,offset,duration\nu,{corpus}/ann/a.wav,0.1,0.4\n")
    (corpus / "ann" / "a.TextGrid").write_text(textgrid(("words", WORDS)))
    with pytest.raises(
        SslsimError, match=r"1 of 1 alignments have marks of no utterance, such as 'a.TextGrid'; name them"
    ):
        alignments_of(tmp_path / "m.csv")
    (tmp_path / "x.ctm").write_text("u 1 0 0.2 go\n")
    with pytest.warns(UserWarning, match=r"1 of 2 alignments have marks of no utterance, such as 'a.TextGrid'"):
        assert alignments_of(tmp_path / "m.csv").label.tolist() == ["go"]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.TextGrid", "nothing", "alignment '.*a.TextGrid': cannot be read: .*; mend it or take it away"),
        ("a.phn", "0 x h#\n", "alignment '.*a.phn': cannot be read: invalid literal for int.. with base 10: 'x'; mend"),
        ("a.ctm", "ann/a 1 0\n", "alignment '.*a.ctm': cannot be read: not enough values to unpack .*; mend it"),
        (
            "a.wrd",
            "800 400 go\n",
            r"corpus|marks '.*': row 1 \(ann/a,word,go,0.05,0.025\) does not end after its start",
        ),
    ],
)
def test_alignments_that_cannot_be_read(corpus, name, content, fault):
    (corpus / "ann" / name).write_text(content)
    with pytest.raises(SslsimError, match=fault):
        alignments_of(corpus)


def test_what_is_marked_is_counted(corpus):
    index, _ = index_of(read_corpus(corpus), Segmentation(piece_seconds=0.5))
    assert index.utterance[:2].tolist() == ["ann/a#1", "ann/a#2"]  # 9,000 samples in 27 frames
    marks = pd.DataFrame([["ann/a", "word", "go", 0.0, 0.1], ["ann/a", "word", "on", 0.1, 9.0]], columns=list(MARKS))
    total = sum((n - 400) // 320 + 1 for n in index["n_samples"])
    assert alignment_facts(marks, index) == {
        "marked": f"27 of {total} frames of 20 ms have a word; 1 of 2 marks end after the audio"
    }
    centre = marks.assign(kind="phone", start=[0.0125, 0.04], end=[0.0325, 0.05])  # frame 0 alone
    assert alignment_facts(centre, index) == {"marked": f"1 of {total} frames of 20 ms have a phone"}
    assert alignment_facts(marks.assign(id="other"), index) == {}
