from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import tone

from sslsim.errors import SslsimError
from sslsim.speech.corpus import SILENT, Draw, Limits, Reader, Utterance, corpus_fingerprint, index_of, read_corpus
from sslsim.speech.recording import SAMPLE_RATE, AudioError, load_audio, waveform_fingerprint


def test_a_folder_is_read_recursively_with_its_speakers(corpus):
    utterances = read_corpus(corpus)
    assert [u.id for u in utterances] == ["ann/a", "ann/b", "bob/c", "bob/d"]
    assert [u.speaker for u in utterances] == ["ann", "ann", "bob", "bob"]
    assert [u.n_samples for u in utterances] == [9_000, 11_610, 12_002, 12_345]
    assert utterances[0].seconds == 9_000 / 16_000


def test_a_corpus_is_a_list_that_shows_itself(corpus, tmp_path):
    utterances = read_corpus(corpus)
    assert isinstance(utterances, list)
    page = utterances._repr_html_()
    assert "4 utterances of 2 named speakers, 0 with text" in page
    assert "<td>bob/d</td><td>bob</td><td></td>" in page
    rows = "".join(f"<script>{i},a.wav,,<b>&\n" for i in range(30))
    (tmp_path / "m.csv").write_text(f"id,path,speaker,text\n{rows}")
    page = read_corpus(tmp_path / "m.csv")._repr_html_()
    assert "30 utterances of 0 named speakers, 30 with text" in page
    assert "<td>&lt;script&gt;0</td><td></td><td>&lt;b&gt;&amp;</td>" in page
    assert page.count("<tr>") == 10  # head, eight utterances, more
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
        ("m.csv", "path,speaker\na.wav,x\n", "no column 'id'; its columns are path, speaker"),
        ("m.csv", "utt;file\n", "no column 'id' or 'path'; its columns are utt;file"),
        ("m.csv", "", "no column 'id' or 'path'; its columns are none"),
        ("m.csv", "id,path\n", "lists no utterance"),
        ("m.csv", "id,path\n,a.wav\n", "row 1 has no id"),
        ("m.csv", "id,path\nu1,\n", "row 1 has no path"),
        ("m.csv", "id,path\nu1,m.csv\nu1,m.csv\n", "id 'u1' occurs twice; every utterance needs its own"),
        ("m.csv", 'id,path\n"u1,a\n', "cannot be read"),
        ("m.csv", b"id,path\n\xff\xfe,a\n", "cannot be read"),
        ("m.csv", "id,path\nu1,a.wav,9\n", "cannot be read: its rows have more values than there are columns"),
        ("m.csv", "id,path\nu1,a.wav\nu2,b.wav,9\n", "cannot be read: .*line 3"),
        ("m.csv", "id,path\nu1\n", "row 1 has no path"),
        ("m.tsv", "id,path\nu1,a.wav\n", "no column 'id' or 'path'; its columns are id,path"),
        ("m.jsonl", '{"id": 1, "path": "a"}\nnot json\n', "cannot be read: line 2 is not JSON: Expecting value"),
        ("m.jsonl", "[1, 2]\n", "cannot be read: line 1 is not an object with id and path"),
        ("m.jsonl", "\n3\n", "cannot be read: line 2 is not an object with id and path"),
        ("m.jsonl", "", "no column 'id' or 'path'; its columns are none"),
        ("m.jsonl", '{"id": null, "path": "a"}', "row 1 has no id"),
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


def test_corpus_fingerprint_follows_content_and_not_place(tmp_path):
    def fingerprint(folder, speaker="s", seed=0):
        (tmp_path / folder).mkdir(exist_ok=True)
        soundfile.write(tmp_path / folder / "x.wav", tone(seed, 1_000), 16_000)
        return corpus_fingerprint([Utterance("x", tmp_path / folder / "x.wav", speaker)])

    assert fingerprint("a") == fingerprint("b")
    assert fingerprint("a") != fingerprint("a", speaker="t")
    assert fingerprint("a") != fingerprint("a", seed=1)


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
        (lambda: Draw(max_utterances=2.0), "max_utterances is 2.0; it must be a whole number, or None for all"),
        (lambda: Draw(max_seconds="9"), "max_seconds is '9'; it must be a number, or None for all"),
        (lambda: Limits("30"), "piece_seconds is '30'; it must be a number"),
        (lambda: Limits(longest_seconds=None), "longest_seconds is None; it must be a number"),
        (lambda: Draw(per_speaker="2"), "per_speaker is '2'; it must be a whole number, or None for all"),
        (lambda: Draw(max_seconds=float("nan")), "max_seconds is nan; it must be at least one frame, 0.025, or None"),
        (lambda: Limits(float("nan")), "0.1 <= piece_seconds <= longest_seconds must hold"),
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


def test_hidden_folders_and_other_files_are_left_out(tmp_path):
    for name in ("a/x.WAV", "a/.trash/y.wav", ".cache/z.wav", "b.c/d.e.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, tone(0, 800), 16_000)
    (tmp_path / "a" / "x.txt").write_text("hello")
    assert [u.id for u in read_corpus(tmp_path)] == ["a/x", "b.c/d.e"]
    hidden = tmp_path / ".cache"  # what is asked for is not hidden
    assert [u.id for u in read_corpus(hidden)] == ["z"]


def test_one_name_with_two_suffixes_is_refused(tmp_path):
    for suffix in ("wav", "flac"):
        soundfile.write(tmp_path / f"x.{suffix}", tone(0, 800), 16_000)
    with pytest.raises(SslsimError, match=r"corpus '.*': id 'x' occurs twice; every utterance needs its own"):
        read_corpus(tmp_path)


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


def test_a_file_that_a_manifest_names_and_is_not_there_is_left_out_later(corpus, tmp_path):
    (tmp_path / "m.csv").write_text(f"id,path\na,{corpus / 'ann' / 'a.wav'}\nb,b.wav\n")
    utterances = read_corpus(tmp_path / "m.csv")
    assert [u.path.name for u in utterances] == ["a.wav", "b.wav"]
    index, skipped = index_of(utterances, Limits())
    assert index.utterance.tolist() == ["a"]
    assert skipped.values.tolist() == [["b", str(tmp_path / "b.wav"), "no such file"]]


@pytest.mark.parametrize("draw", [Draw(max_utterances=9), Draw(per_speaker=3), Draw(max_utterances=5, per_speaker=2)])
def test_one_more_in_the_corpus_moves_at_most_one_in_and_one_out(draw):
    utterances = a_corpus(60)
    for left_out in range(60):
        rest = utterances[:left_out] + utterances[left_out + 1 :]
        whole, part = ({u.id for u in draw.of(some)} for some in (utterances, rest))
        assert len(whole - part) <= 1
        assert len(part - whole) <= 1


def test_a_draw_keeps_the_order_of_the_corpus_and_smaller_ones_are_parts_of_larger():
    utterances = a_corpus(40)
    before: set[str] = set()
    for n in range(1, 41):
        chosen = Draw(max_utterances=n).of(utterances)
        assert len(chosen) == n
        assert chosen == [u for u in utterances if u in chosen]
        assert before <= {u.id for u in chosen}
        before = {u.id for u in chosen}


def test_numbers_of_numpy_will_do():
    assert len(Draw(max_utterances=np.int64(3)).of(a_corpus(9))) == 3


def test_seeds_draw_all_alike():
    utterances = a_corpus(20)
    times = dict.fromkeys((u.id for u in utterances), 0)
    for seed in range(400):
        for utterance in Draw(max_utterances=5, seed=seed).of(utterances):
            times[utterance.id] += 1
    assert sum(times.values()) == 2_000
    assert all(60 < n < 145 for n in times.values())  # 100 on average, 8.7 its standard deviation


def test_files_that_cannot_be_read_are_drawn_to_be_reported(tmp_path):
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", tone(i, 8_000), 16_000)
    for name in ("x.wav", "y.flac"):
        (tmp_path / name).write_bytes(b"no sound")
    chosen = Draw(max_seconds=1.6).of(read_corpus(tmp_path))
    assert {"x", "y"} <= {u.id for u in chosen}
    assert len(chosen) == 5
    every = Draw(max_seconds=float("inf")).of(read_corpus(tmp_path))
    assert len(every) == 8


def test_seconds_go_to_later_ones_that_still_fit(tmp_path):
    lengths = {"long": 40_000, "short": 4_000}
    for i in range(4):
        for name, n in lengths.items():
            soundfile.write(tmp_path / f"{name}{i}.wav", tone(i, n), 16_000)
    for seed in range(6):
        chosen = Draw(max_seconds=2.4, seed=seed).of(read_corpus(tmp_path))
        assert [u.id for u in chosen] == ["short0", "short1", "short2", "short3"]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_cuts_are_equal_cover_everything_and_keep_to_the_limit(rate):
    rng = np.random.default_rng(rate)
    for n in (1, 2, 399, 400, *rng.integers(1, 100 * rate, 200)):
        limits = Limits(piece_seconds=float(rng.uniform(0.1, 40)))
        cuts = limits.cuts(int(n), rate)
        lengths = np.diff(cuts)
        assert (cuts[0], cuts[-1]) == (0, n)
        assert lengths.max() <= limits.piece_seconds * rate
        assert np.ptp(lengths) <= 1
        assert len(cuts) == 2 or lengths.min() >= 400 * rate / SAMPLE_RATE  # never shorter than a frame
        assert (len(lengths) - 1) * int(limits.piece_seconds * rate) < n  # no more pieces than it takes
    assert Limits(float("inf"), float("inf")).cuts(10**9, rate) == [0, 10**9]


def test_no_sample_of_a_long_file_is_lost_or_doubled(tmp_path):
    samples = tone(0, 16_000 * 5 + 11)
    soundfile.write(tmp_path / "x.wav", samples, 16_000, subtype="FLOAT")
    utterances = read_corpus(tmp_path)
    index, _ = index_of(utterances, Limits(piece_seconds=0.7))
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
    index, skipped = index_of(read_corpus(tmp_path), Limits(piece_seconds=2))
    assert index.utterance.tolist() == ["x#1", "x#3"]
    assert skipped.values.tolist() == [["x#2", str(tmp_path / "x.wav"), SILENT]]


def test_a_name_like_that_of_a_piece_is_refused(tmp_path):
    soundfile.write(tmp_path / "x.wav", tone(0, 16_000), 16_000)
    soundfile.write(tmp_path / "x#1.wav", tone(1, 8_000), 16_000)
    utterances = read_corpus(tmp_path)
    assert sorted(index_of(utterances, Limits())[0].utterance) == ["x", "x#1"]
    with pytest.raises(SslsimError, match="id 'x#1' is that of an utterance and of a piece of another; rename one"):
        index_of(utterances, Limits(piece_seconds=0.6))


@pytest.mark.parametrize("place", [0, 2, 4, 40])
def test_a_bad_file_anywhere_changes_no_other_row(corpus, tmp_path, place):
    utterances = [replace(u, id=f"{u.id} {i}") for i in range(11) for u in read_corpus(corpus)]  # several calls' worth
    alone, none = index_of(utterances, Limits(piece_seconds=0.4))
    assert none.empty
    (tmp_path / "bad.flac").write_bytes(b"fLaC" + bytes(40))
    bad = Utterance("bad", tmp_path / "bad.flac")
    counted: list[int] = []
    index, skipped = index_of(
        [*utterances[:place], bad, *utterances[place:]], Limits(piece_seconds=0.4), done=counted.append
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
    index, skipped = index_of(utterances, Limits(piece_seconds=0.5))
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
    first, second = index_of(utterances, Limits())[0].itertuples()
    soundfile.write(tmp_path / "b.wav", tone(1, 8_000), 16_000)
    with Reader(utterances) as reader:
        assert len(reader.read(first)) == 8_000
        with pytest.raises(AudioError, match="audio '.*b.wav': changed while it was being extracted"):
            reader.read(second)
        soundfile.write(tmp_path / "a.wav", tone(0, 7_000), 16_000)
        with pytest.raises(AudioError, match="audio '.*a.wav': changed while it was being extracted"):
            reader.read(first)
        (tmp_path / "a.wav").unlink()
        reader.read(second._replace(waveform=waveform_fingerprint(load_audio(tmp_path / "b.wav"))))
        with pytest.raises(AudioError, match="audio '.*a.wav': no such file"):
            reader.read(first)


@pytest.fixture
def dataset(corpus):
    """Return a function that makes a dataset of the corpus from a column of audio."""
    datasets = pytest.importorskip("datasets")
    utterances = read_corpus(corpus)

    def make(audio, **columns):
        made = datasets.Dataset.from_dict({"audio": [audio(u) for u in utterances], **columns})
        return made.cast_column("audio", datasets.Audio())

    return make


def test_a_dataset_of_paths_of_bytes_or_from_the_disk_is_heard_as_the_folder(corpus, dataset, tmp_path):
    utterances = read_corpus(corpus)
    ids = {"id": [u.id for u in utterances], "speaker_id": [7, 7, 8, None], "text": ["go", "", None, "on"]}
    expected = index_of(utterances, Limits())[0].drop(columns="speaker")
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
            index, skipped = index_of(read, Limits())
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
    np.testing.assert_array_equal(load_audio(copy.source), load_audio(corpus / "bob" / "c.wav"))


def test_a_draw_of_a_dataset_and_its_pieces(dataset):
    read = Draw(max_utterances=2, max_seconds=2).of(read_corpus(dataset(lambda u: str(u.path))))
    index, _ = index_of(read, Limits(piece_seconds=0.4))
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
    index, skipped = index_of(read, Limits())
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
        (made.select([]), "dataset: has no rows"),
        (made, "dataset: row 2 has no id"),
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
