from __future__ import annotations

from dataclasses import replace

import pytest

from sslsim.activations.study import Study
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError
from sslsim.resources import DATA
from sslsim.speech.corpus import Subset
from sslsim.speech.index import Segmentation


def written(tmp_path, text):
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    return tmp_path / "study.toml"


def test_the_embedded_study_is_the_default():
    assert Study.read("embedded") == Study()
    assert Study().lineup == DATA / "lineup.toml"
    named = Study.read("embedded", ["w2v2-small", "untrained:hubert-small"])
    assert [c.name for c in named.selected()] == ["w2v2-small", "untrained-hubert-small-0"]
    assert len(named.utterances()) == 100
    assert all(u.path.is_absolute() for u in named.utterances())


def test_a_study_is_read_from_a_file_beside_its_lineup_and_corpus(tmp_path):
    text = """
        lineup = "my.toml"
        corpus = "speech"
        checkpoints = ["b", "a"]
        frames = 9
        queries = "none"
        dtype = "bfloat16"
        strict = true
        [subset]
        max_utterances = 3
        per_speaker = "none"
        seed = 7
        [segmentation]
        piece_seconds = 10
    """
    study = Study.read(written(tmp_path, text))
    assert study == Study(
        tmp_path / "my.toml",
        tmp_path / "speech",
        ("b", "a"),
        Subset(max_utterances=3, seed=7),
        Segmentation(piece_seconds=10),
        frames=9,
        queries=None,
        dtype="bfloat16",
        strict=True,
    )
    assert Study.read(tmp_path / "study.toml", ["c"]).checkpoints == ("c",)
    assert Study.read(written(tmp_path, 'lineup = "paper"')).lineup == DATA / "lineups" / "paper.toml"
    assert Study.read(written(tmp_path, "")) == Study()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checkpoints": ("ä",), "queries": None, "strict": True, "dtype": "float16"},
        {"site": "ffn", "queries": 0},
        {"subset": Subset(5, 1.5, None, 3), "frames": 4, "segmentation": Segmentation(10.0, 20.0)},
        {"lineup": "paper"},
        {"segmentation": Segmentation(10.0, float("inf")), "speaker_pattern": "(\x7f)"},
    ],
)
def test_what_is_written_is_read_back_from_any_folder(tmp_path, monkeypatch, changes):
    study = replace(Study(), **changes)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'odd "name"\\ü').mkdir()
    study = replace(study, corpus='odd "name"\\ü')
    study.write("study.toml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = Study.read("../study.toml")
    lineup = DATA / "lineups" / "paper.toml" if study.lineup == "paper" else study.lineup
    assert again == replace(study, corpus=tmp_path / 'odd "name"\\ü', lineup=lineup)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lineup = ", "not TOML: "),
        ('linup = "x"', r"unknown key 'linup'; did you mean 'lineup'\?$"),
        ("[subset]\nmax_uterances = 3", r"\[subset\]: unknown key 'max_uterances'; did you mean 'max_utterances'\?$"),
        ("[segmentation]\nmax_seconds = 3", r"\[segmentation\]: unknown key 'max_seconds'"),
        ("subset = 3", r"subset is 3; it must be a table \[subset\]$"),
        ("lineup = 3", "lineup is 3; it must be a path$"),
        ('checkpoints = "a,b"', "checkpoints is 'a,b'; give a list of names$"),
        (
            "frames = 1",
            "frames is 1; it must be a whole number, 2 or more, or None for all$",
        ),
        ("queries = true", "queries is True; it must be a whole number, 0 or more"),
        ('dtype = "int8"', "dtype is 'int8'; known: float32, bfloat16, float16$"),
        (
            "[subset]\nmax_utterances = 0",
            "max_utterances is 0; it must be a whole number, 1 or more, or None for no limit$",
        ),
        ("[segmentation]\npiece_seconds = 0", "piece_seconds is 0 and longest_seconds 3600; 0.1 <= "),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, message):
    with pytest.raises(SslsimError, match=rf"study '.*study.toml': {message}"):
        Study.read(written(tmp_path, text))


def test_what_is_no_file_or_cannot_be_written(tmp_path):
    with pytest.raises(SslsimError, match="study 'absent.toml': cannot be read: No such file"):
        Study.read("absent.toml")
    with pytest.raises(SslsimError, match="checkpoints is 'a'; give a list of names"):
        Study.read("embedded", "a")
    with pytest.raises(SslsimError, match="a study is written with a lineup file and a corpus on the disk"):
        Study([Checkpoint("a", "a")]).write(tmp_path / "x.toml")


def test_a_folder_without_a_name_is_refused(corpus, checkpoints):
    with pytest.raises(SslsimError, match="folder is ''; say where the stores are to lie"):
        Study(checkpoints / "lineup.toml", corpus, ("hubert-pre",)).extract("")
