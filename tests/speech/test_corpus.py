from __future__ import annotations

import gzip
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tone

from sslsim.errors import SslsimError
from sslsim.speech.corpus import Subset, Utterance, corpus_fingerprint, read_corpus
from sslsim.speech.index import Reader, Segmentation, index_of
from sslsim.speech.recording import Recording


def sound(source):
    with Recording(source) as recording:
        return recording.read()


def test_a_folder_is_read_recursively_with_its_speakers(corpus):
    utterances = read_corpus(corpus)
    assert [u.id for u in utterances] == ["ann/a", "ann/b", "bob/c", "bob/d"]
    assert [u.speaker for u in utterances] == ["ann", "ann", "bob", "bob"]
    assert [u.n_samples for u in utterances] == [9_000, 11_610, 12_002, 12_345]


def test_a_corpus_is_a_list_that_shows_itself(corpus, tmp_path):
    utterances = read_corpus(corpus)
    assert isinstance(utterances, list)
    page = "".join(utterances._repr_html_().split("\n")).replace("  ", "")
    assert "4 utterances of 2 named speakers, 0 with text" in page
    assert "<td>bob/d</td><td>bob</td><td></td>" in page
    rows = "".join(f"<script>{i},a.wav,,<b>&\n" for i in range(30))
    (tmp_path / "m.csv").write_text(f"id,path,speaker,text\n{rows}")
    page = "".join(read_corpus(tmp_path / "m.csv")._repr_html_().split("\n")).replace("  ", "")
    assert "30 utterances of 0 named speakers, 30 with text" in page
    assert "<td>&lt;script&gt;0</td><td></td><td>&lt;b&gt;&amp;</td>" in page
    assert page.count("<tr>") == 9  # eight utterances, and more
    assert "<script>" not in page


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
        ("m.csv", "id,speaker\na,x\n", "no column 'path'; its columns are id, speaker; --columns path=NAME says which"),
        ("m.csv", "utt;file\n", "no column 'path'; its columns are utt;file"),
        ("m.csv", "", "no column 'path'; its columns are none"),
        ("m.csv", "path,offset,duration\na.wav,1,\n", "row 1 has offset '1' and duration ''; give both, in seconds"),
        ("m.csv", "path,offset,duration\na.wav,-1,2\n", "row 1 has offset '-1' and duration '2'; give both"),
        ("m.csv", "path,offset,duration\na.wav,0,nan\n", "row 1 has offset '0' and duration 'nan'; give both"),
        ("m.json", '{"id": "a", "recording_id": "r"}', r"cannot be read: no 'sources' where it should be"),
        ("m.jsonl.gz", "{}", "cannot be read: Not a gzipped file"),
        (
            "m.jsonl.gz",
            gzip.compress(b"", mtime=0)[:10] + b"\xff" * 9,
            "cannot be read: Error -3 while decompressing data",
        ),
        ("m.csv", "id,path\n", "lists no utterance"),
        (
            "m.csv",
            'id,path,text\na,a.wav,"go\nb,b.wav,on"\n',
            "a value of row 1 goes on over the next line; is a quote",
        ),
        ("m.json", '{"audio_filepath": "a.wav", "channel_selector": 1}', "channels are not read apart"),
        ("m.csv", "id,path\n,a.wav\n", "row 1 has no id"),
        ("m.csv", "id,path\nu1,\n", "row 1 has no path"),
        ("m.csv", "id,path\nu1,m.csv\nu1,m.csv\n", "id 'u1' occurs twice; every utterance needs its own"),
        ("m.csv", 'id,path\n"u1,a\n', "cannot be read"),
        ("m.csv", b"id,path\n\xff\xfe,a\n", "cannot be read"),
        ("m.csv", "id,path\nu1,a.wav,9\n", "cannot be read: its rows have more values than there are columns"),
        ("m.csv", "id,path\nu1,a.wav\nu2,b.wav,9\n", "cannot be read: .*line 3"),
        ("m.csv", "id,path\nu1\n", "row 1 has no path"),
        ("m.tsv", "id,path\nu1,a.wav\n", "no column 'path'; its columns are id,path"),
        ("m.jsonl", '{"id": 1, "path": "a"}\nnot json\n', "cannot be read: line 2 is not JSON: Expecting value"),
        ("m.jsonl", "[1, 2]\n", "cannot be read: line 1 is not an object with id and path"),
        ("m.jsonl", "\n3\n", "cannot be read: line 2 is not an object with id and path"),
        ("m.jsonl", "", "no column 'path'; its columns are none"),
        ("m.jsonl", '{"id": null, "path": "a"}', "row 1 has no id"),
        ("m.xlsx", "", r"neither a folder nor a manifest \(.csv, .tsv, .jsonl, .jsonl.gz, .json\)"),
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


def test_corpus_fingerprint_follows_content_and_not_place(tmp_path):
    def fingerprint(folder, speaker="s", seed=0):
        (tmp_path / folder).mkdir(exist_ok=True)
        soundfile.write(tmp_path / folder / "x.wav", tone(seed, 1_000), 16_000)
        return corpus_fingerprint([Utterance("x", tmp_path / folder / "x.wav", speaker)])

    assert fingerprint("a") == fingerprint("b")
    assert fingerprint("a") != fingerprint("a", speaker="t")
    assert fingerprint("a") != fingerprint("a", seed=1)


def test_hidden_folders_and_other_files_are_left_out(tmp_path):
    for name in ("a/x.WAV", "a/.trash/y.wav", ".cache/z.wav", "b.c/d.e.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, tone(0, 800), 16_000)
    (tmp_path / "a" / "x.txt").write_text("hello")
    assert [u.id for u in read_corpus(tmp_path)] == ["a/x", "b.c/d.e"]
    hidden = tmp_path / ".cache"  # what is asked for is not hidden
    assert [u.id for u in read_corpus(hidden)] == ["z"]


def test_files_that_differ_in_their_suffix_alone_keep_it_in_their_ids(tmp_path):
    for name in ("a/x.wav", "a/x.flac", "a/y.AIFF", "b/x.au"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, tone(0, 800), 16_000)
    assert [u.id for u in read_corpus(tmp_path)] == ["a/x.flac", "a/x.wav", "a/y", "b/x"]
    assert [u.n_samples for u in read_corpus(tmp_path)] == [800] * 4


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path, corpus):
    (tmp_path / "here").mkdir()
    links = {"all": corpus, "loop": tmp_path / "here", "up": tmp_path, "ann": corpus / "ann", "self": Path("self")}
    for name, target in links.items():
        (tmp_path / "here" / name).symlink_to(target)
    assert [u.id for u in read_corpus(tmp_path / "here")] == ["all/ann/a", "all/ann/b", "all/bob/c", "all/bob/d"]


def test_a_file_goes_by_its_own_name_and_not_by_a_link(tmp_path):
    (tmp_path / "z").mkdir()
    soundfile.write(tmp_path / "z" / "x.wav", tone(0, 800), 16_000)
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert [u.id for u in read_corpus(tmp_path)] == ["z/x"]


@pytest.mark.parametrize("mark", "-_")
def test_speakers_of_librispeech_and_libritts(tmp_path, mark):
    (tmp_path / "19" / "198").mkdir(parents=True)
    soundfile.write(tmp_path / "19" / "198" / f"19{mark}198{mark}0000.wav", tone(0, 800), 16_000)
    assert [u.speaker for u in read_corpus(tmp_path)] == ["19"]


def test_a_quote_in_a_table_of_tabs_is_a_quote(tmp_path):
    (tmp_path / "m.tsv").write_text('id\tpath\ttext\na\ta.wav\t"go\nb\tb.wav\t"on" they said\n')
    assert [(u.id, u.text) for u in read_corpus(tmp_path / "m.tsv")] == [("a", '"go'), ("b", '"on" they said')]


def test_of_stretches_of_a_file_one_without_offset_is_its_beginning(tmp_path):
    lines = [{"audio_filepath": "y.wav", "duration": 1.5}, {"audio_filepath": "y.wav", "offset": 1.5, "duration": 1}]
    (tmp_path / "m.json").write_text("\n".join(map(json.dumps, lines)))
    assert [(u.id, u.start, u.end) for u in read_corpus(tmp_path / "m.json")] == [("y-0", 0, 1.5), ("y-1.5", 1.5, 2.5)]


@pytest.mark.parametrize("pattern", [r"\d_(\w+?)_", r"(\d)_(?P<speaker>[a-z]+)_\d+\.wav$"])
@pytest.mark.parametrize("as_list", [False, True])
def test_a_pattern_names_the_speakers(tmp_path, pattern, as_list):
    names = ["7_jackson_32.wav", "sub/7_theo_1.wav", "noise.wav"]
    (tmp_path / "sub").mkdir()
    for name in names:
        soundfile.write(tmp_path / name, tone(0, 800), 16_000)
    (tmp_path / "m.csv").write_text("\n".join(["path,speaker", *(f"{name},nobody" for name in names)]))
    read = read_corpus(tmp_path / "m.csv" if as_list else tmp_path, pattern)
    assert {u.path.name: u.speaker for u in read} == {
        "7_jackson_32.wav": "jackson", "7_theo_1.wav": "theo", "noise.wav": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("x(", r"speaker_pattern is 'x\('; it must be a regular expression: missing \)"),
        ("ann", "speaker_pattern is 'ann'; put what names the speaker in parentheses"),
        ("(carl)/", r"speaker_pattern '\(carl\)/' is in no path of the corpus, such as 'ann/a.wav'"),
        (7, "speaker_pattern is 7; it must be a regular expression"),
    ],
)
def test_patterns_that_name_nobody(corpus, pattern, message):
    with pytest.raises(SslsimError, match=message):
        read_corpus(corpus, pattern)


def test_columns_can_be_named(tmp_path):
    (tmp_path / "m.csv").write_text("file,voice,path,id\na.wav,ann,elsewhere,7\n")
    (read,) = read_corpus(tmp_path / "m.csv", columns=["path=file", "speaker=voice"])
    assert read == Utterance("7", tmp_path / "a.wav", "ann")
    for columns, message in [
        (["path=files"], "no column 'files'; its columns are file, voice, path, id"),
        (["file=path"], "columns has 'file'; known: .*; give pairs such as path=file"),
        ("path", "columns has 'path'.*; give pairs such as path=file"),
    ]:
        with pytest.raises(SslsimError, match=message):
            read_corpus(tmp_path / "m.csv", columns=columns)


def written(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def test_a_kaldi_folder(corpus, tmp_path, monkeypatch):
    sound = corpus / "bob" / "c.wav"
    kaldi = written(tmp_path / "data", wav__scp=f"c {sound}\nd bob/d.flac\n", utt2spk="c bob\n", text="c go  on\nd\n")
    monkeypatch.chdir(corpus)  # where the recipe ran
    assert read_corpus(kaldi) == [
        Utterance("c", sound, "bob", "go  on"),
        Utterance("d", corpus / "bob" / "d.flac"),
    ]
    written(kaldi, segments="c-1 c 0.1 0.5\nc-2 c 0.5 0.75\n", utt2spk="c-1 bob\nc-2 ann\n")
    read = read_corpus(kaldi)
    assert [(u.id, u.speaker, u.start, u.end) for u in read] == [("c-1", "bob", 0.1, 0.5), ("c-2", "ann", 0.5, 0.75)]
    index, skipped = index_of(read, Segmentation())
    assert skipped.empty
    with Recording(sound) as recording, Reader(read) as reader:
        for row, (begin, end) in zip(index.itertuples(), [(0.1, 0.5), (0.5, 0.75)], strict=True):
            expected = recording.read(round(begin * recording.rate), round(end * recording.rate))
            np.testing.assert_array_equal(reader.read(row), expected)
    assert [u.n_samples for u in read] == index["n_samples"].tolist()
    assert len({corpus_fingerprint([replace(read[0], id="x")]), corpus_fingerprint([replace(read[1], id="x")])}) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"wav__scp": "c touch ran |\n"},
            r"Kaldi folder '.*': cannot be read: 'c' is no file but 'touch ran \|', which",
        ),
        (
            {"wav__scp": "c | touch ran\n"},
            "'c' is no file but '| touch ran', which is not run or unpacked; write it to",
        ),
        ({"wav__scp": "c feats.ark:17\n"}, "'c' is no file but 'feats.ark:17', which is not run or unpacked"),
        ({"wav__scp": "c c.wav\n", "segments": "u d 0 1\n"}, "cannot be read: no 'd' where it should be"),
        ({"wav__scp": "c c.wav\n", "segments": "u c 1 x\n"}, "row 1 has offset '1' and duration ''; give both"),
        ({"wav__scp": "c c.wav\n", "segments": "u c 2 1\n"}, "row 1 has offset '2' and duration '-1.*'; give both"),
        ({"wav__scp": "c\n"}, "row 1 has no path"),
        ({"wav__scp": "c c.wav\nc d.wav\n"}, "wav.scp has 'c' twice"),
        ({"wav__scp": "c c.wav\n", "utt2spk": "c ann\nc bob\n"}, "utt2spk has 'c' twice"),
        ({"wav__scp": "c c.wav\n", "reco2file_and_channel": "c c A\n"}, "channels are not read apart"),
        ({"wav__scp": ""}, "lists no utterance"),
    ],
)
def test_kaldi_folders_that_cannot_be_read_run_nothing(tmp_path, monkeypatch, files, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SslsimError, match=message):
        read_corpus(written(tmp_path / "data", **files))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_stretch_that_ends_after_its_file_is_left_out(corpus, tmp_path):
    path = corpus / "ann" / "a.wav"  # 9,000 samples
    (tmp_path / "m.csv").write_text(f"path,offset,duration\n{path},0,0.6\n{path},0.5,0.5\n{path},9,0.01\n")
    index, skipped = index_of(read_corpus(tmp_path / "m.csv"), Segmentation())
    assert index["n_samples"].tolist() == [9_000]
    assert skipped.reason[0] == "its stretch ends at 1.00 s, the file at 0.56 s"
    assert skipped.reason[1].startswith("its stretch ends at 9.01 s")


def test_a_manifest_of_nemo(tmp_path):
    rows = [
        {"audio_filepath": "a/x.wav", "duration": 3.5, "text": "go"},
        {"audio_filepath": "y.wav", "offset": 0, "duration": 1.5, "text": "on", "speaker": "ann"},
        {"audio_filepath": "y.wav", "offset": 1.5, "duration": 1, "text": ""},
    ]
    (tmp_path / "train.json").write_text("\n".join(map(json.dumps, rows)))
    assert read_corpus(tmp_path / "train.json") == [
        Utterance("a/x", tmp_path / "a" / "x.wav", "", "go"),
        Utterance("y-0", tmp_path / "y.wav", "ann", "on", start=0.0, end=1.5),
        Utterance("y-1.5", tmp_path / "y.wav", start=1.5, end=2.5),
    ]


def test_a_table_of_common_voice(tmp_path):
    (tmp_path / "clips").mkdir()
    head = "client_id\tpath\tsentence\tup_votes\n"
    (tmp_path / "dev.tsv").write_text(f'{head}f00\tcv_1.mp3\t"Go on, he said.\t2\n')
    assert read_corpus(tmp_path / "dev.tsv") == [
        Utterance("cv_1", tmp_path / "clips" / "cv_1.mp3", "f00", '"Go on, he said.')
    ]


def lhotse(folder, source=(), **supervision):
    sources = [{"type": "file", "channels": [0], "source": "a.wav", **dict(source)}]
    recording = {"id": "r", "sources": sources, "sampling_rate": 16_000, "num_samples": 80_000, "duration": 5.0}
    said = {"id": "u", "recording_id": "r", "start": 1.0, "duration": 2.0, "channel": 0, "text": "go", "speaker": "ann"}
    for name, row in {"recordings": recording, "supervisions": said | supervision}.items():
        (folder / f"x_{name}_dev.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    return folder / "x_supervisions_dev.jsonl.gz"


def test_manifests_of_lhotse(tmp_path):
    expected = Utterance("u", tmp_path / "a.wav", "ann", "go", start=1.0, end=3.0)
    assert read_corpus(lhotse(tmp_path)) == [expected]
    assert read_corpus(tmp_path / "x_recordings_dev.jsonl.gz") == [Utterance("r", tmp_path / "a.wav")]
    for source, supervision, message in [
        (
            {"type": "command", "source": "touch ran"},
            {},
            "'u' is a command, channel 0 of .*; write it to a file",
        ),
        ({"type": "url", "source": "touch ran"}, {}, "'u' is a url, .*; write it to a file"),
        ({"channels": [0, 1]}, {}, r"'u' is a file, channel 0 of \[0, 1\]; of files alone all channels"),
        ({}, {"recording_id": "s"}, "cannot be read: no 's' where it should be"),
    ]:
        with pytest.raises(SslsimError, match=message):
            read_corpus(lhotse(tmp_path, source, **supervision))
    lhotse(tmp_path, {"channels": [0, 1]}, channel=[0, 1])
    (tmp_path / "x_recordings_dev.jsonl.gz").unlink()
    with pytest.raises(SslsimError, match="cannot be read: .*No such file.*x_recordings_dev.jsonl.gz"):
        read_corpus(tmp_path / "x_supervisions_dev.jsonl.gz")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_a_manifest_may_begin_with_a_byte_order_mark_and_end_lines_as_windows_does(corpus, tmp_path, suffix):
    path = str(corpus / "ann" / "a.wav")
    row = {"id": "ä1", "path": path, "speaker": "Åsa", "text": "two\u2028lines\x85or one"}
    sep = {"csv": ",", "tsv": "\t"}.get(suffix)
    text = "\r\n".join([sep.join(row), sep.join(row.values())]) if sep else json.dumps(row, ensure_ascii=False) + "\r\n"
    (tmp_path / f"m.{suffix}").write_text("\ufeff" + text, encoding="utf-8", newline="")
    assert read_corpus(tmp_path / f"m.{suffix}") == [Utterance("ä1", Path(path), "Åsa", row["text"])]


def test_numbers_of_a_jsonl_stay_as_written_though_some_are_missing(tmp_path):
    rows = [{"id": 1, "path": "a"}, {"id": 2, "path": "b", "speaker": 84}, {"id": 3, "path": "c", "speaker": None}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [(u.id, u.speaker) for u in read_corpus(tmp_path / "m.jsonl")] == [("1", ""), ("2", "84"), ("3", "")]


@pytest.fixture
def dataset(corpus):
    """Return a function that makes a dataset of the corpus from a column of audio."""
    datasets = pytest.importorskip("datasets")
    utterances = read_corpus(corpus)

    def make(audio, **columns):
        made = datasets.Dataset.from_dict({"audio": [audio(u) for u in utterances], **columns})
        return made.cast_column("audio", datasets.Audio())

    return make


def test_a_dataset_of_paths_of_bytes_or_from_the_disk_gives_what_the_folder_does(corpus, dataset, tmp_path):
    utterances = read_corpus(corpus)
    ids = {"id": [u.id for u in utterances], "speaker_id": [7, 7, 8, None], "text": ["go", "", None, "on"]}
    expected = index_of(utterances, Segmentation())[0].drop(columns="speaker")
    paths = dataset(lambda u: str(u.path), **ids)
    embedded = dataset(lambda u: {"path": u.path.name, "bytes": u.path.read_bytes()}, **ids)
    for name, made in (("paths", paths), ("bytes", embedded)):
        made.save_to_disk(tmp_path / name)
        for corpus_like in (made, tmp_path / name, str(tmp_path / name)):
            read = read_corpus(corpus_like)
            assert [(u.id, u.speaker, u.text) for u in read] == [
                ("ann/a", "7", "go"),
                ("ann/b", "7", ""),
                ("bob/c", "8", ""),
                ("bob/d", "", "on"),
            ]
            assert [u.n_samples for u in read] == [u.n_samples for u in utterances]
            index, skipped = index_of(read, Segmentation())
            assert skipped.empty
            assert index.drop(columns="speaker").equals(expected)
            again = replace(utterances[0], speaker="7")
            assert corpus_fingerprint(read[:1]) == corpus_fingerprint([again])


def test_rows_without_ids_are_numbered_and_pickle(corpus, dataset):
    read = read_corpus(dataset(lambda u: str(u.path)))
    assert [u.id for u in read] == ["0", "1", "2", "3"]
    copy = pickle.loads(pickle.dumps(read[2]))
    assert copy == read[2]
    assert str(copy.source) == "dataset[2]"
    np.testing.assert_array_equal(sound(copy.source), sound(corpus / "bob" / "c.wav"))


def test_a_subset_of_a_dataset_and_its_pieces(dataset):
    read = Subset(max_utterances=2, max_seconds=2).of(read_corpus(dataset(lambda u: str(u.path))))
    index, _ = index_of(read, Segmentation(piece_seconds=0.4))
    assert index.utterance.str.contains("#").all()
    with Reader(read) as reader:
        for row in list(index.itertuples())[::-1]:
            assert len(reader.read(row)) == row.n_samples


def test_rows_of_a_dataset_that_hold_no_audio_are_left_out(corpus, dataset, tmp_path):
    cells = {
        "ann/a": None,
        "ann/b": {"path": str(tmp_path / "gone.wav"), "bytes": None},
        "bob/c": {"path": "c", "bytes": b"no sound"},
        "bob/d": {"path": "d", "bytes": b""},
    }
    read = read_corpus(dataset(lambda u: cells[u.id]))
    index, skipped = index_of(read, Segmentation())
    assert index.empty
    assert skipped.path.tolist() == [f"dataset[{i}]" for i in range(4)]
    assert skipped.reason[0] == "this row has no audio"
    assert skipped.reason[1].startswith("cannot be read: ")
    assert skipped.reason[2:].tolist() == ["not audio, or damaged: Format not recognised.", "empty: 0 bytes"]
    assert len({corpus_fingerprint([u]) for u in read}) == 4


def test_datasets_that_are_no_corpus(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    made = dataset(lambda u: str(u.path), id=["a", "b", None, "d"])
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "splits")
    (tmp_path / "torn").mkdir()
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / "torn" / name).write_text("{")
    cases = [
        (tmp_path / "splits", r"corpus '.*splits': a dataset of several splits; give the folder of one: test, train"),
        (tmp_path / "torn", r"corpus '.*torn': a dataset that cannot be read: "),
        (datasets.DatasetDict(train=made), "corpus of type DatasetDict: give a folder, a manifest, or one split of a"),
        ({"audio": []}, "corpus of type dict: give a folder, a manifest, or one split of a dataset"),
        (None, "corpus of type NoneType: give a folder, a manifest, or one split of a dataset"),
        (made.remove_columns("audio"), "dataset: no column 'audio'; known: id; rename_column names it so"),
        (made.rename_column("audio", "Audio"), "no column 'audio'; did you mean 'Audio'.; rename_column names it so"),
        (made.select([]), "dataset: (no column 'id'|lists no utterance)"),
        (made, "dataset: row 3 has no id"),
        (datasets.Dataset.from_dict({"audio": [[0.1, 0.2]]}), "dataset: column 'audio' holds no audio: "),
        (made.select([0, 0]), "corpus 'dataset': id 'a' occurs twice"),
    ]
    for corpus, message in cases:
        with pytest.raises(SslsimError, match=message):
            read_corpus(corpus)


def test_without_the_package_a_saved_dataset_says_what_it_takes(tmp_path, monkeypatch):
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(SslsimError, match=r"a dataset, which needs: pip install 'sslsim\[datasets\]'"):
        read_corpus(tmp_path)
