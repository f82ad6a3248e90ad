from __future__ import annotations

import re

import numpy as np
import pytest

from sslsim.errors import SslsimError
from sslsim.speech.alignments import MARKS, alignments_file, alignments_of, centres, held, read_alignments

HEADER = "id,kind,label,start,end\n"


def marks_in(tmp_path, text):
    (tmp_path / "marks.csv").write_text(text)
    return read_alignments(tmp_path / "marks.csv")


def test_marks_lie_beside_a_manifest_or_in_a_folder(tmp_path):
    assert alignments_of(tmp_path).empty
    expected = marks_in(tmp_path, HEADER + "one,phone,a,0,0.1\none,word,all,0,1\n")
    (tmp_path / "manifest.csv").write_text("id,path\none,one.wav\n")
    for corpus in (tmp_path, tmp_path / "manifest.csv", str(tmp_path)):
        assert alignments_of(corpus).equals(expected)
        assert alignments_file(corpus) == tmp_path / "marks.csv"
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
        ("", "cannot be read: No columns to parse"),
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
    np.testing.assert_allclose(centres(np.array([0, 1, 5])), [0.0125, 0.0325, 0.1125])
    marks = marks_in(tmp_path, HEADER + "u,phone,a,0.02,0.1\nu,phone,b,0.1,0.2\nu,phone,c,0.3,0.4\n")
    times = np.array([0.0, 0.02, 0.0999, 0.1, 0.25, 0.3, 0.4])
    assert held(marks, times).tolist() == [-1, 0, 0, 1, -1, 2, -1]
    assert held(marks[:0], times[:0]).tolist() == []
