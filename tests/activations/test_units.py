"""Units of speech: what their rows are, which are left out, and that stores of them are stores like any other."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

import sslsim
from sslsim.activations.selection import check_pairable
from sslsim.activations.units import SpanStore, spanned
from sslsim.errors import SslsimError

FRAMES = (30, 42, 9)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture
def marked(tmp_path):
    """Return a folder of audio names with words: of u0 two and a gap, of u1 one, one without a frame, of u2 none."""
    folder = tmp_path / "speech"
    folder.mkdir()
    rows = [("u0", 0.0, 0.2, "one"), ("u0", 0.3, 0.5, "two"), ("u1", 0.1, 0.4, "three"), ("u1", 0.4, 0.402, "gone")]
    table = pd.DataFrame([(u, "word", word, start, end) for u, start, end, word in rows])
    table.set_axis(["id", "kind", "label", "start", "end"], axis=1).to_csv(folder / "marks.csv", index=False)
    pd.DataFrame({"path": ["u0.wav", "u1.wav", "u2.wav"]}).to_csv(folder / "manifest.csv", index=False)
    for name in ("u0", "u1", "u2"):
        (folder / f"{name}.wav").write_bytes(b"")
    return folder / "manifest.csv"


def within(start, end):
    """Return the frames of 20 ms, centred at 12.5 ms and on, whose centres lie in a stretch of an utterance."""
    times = 0.0125 + 0.02 * np.arange(max(FRAMES))
    return np.flatnonzero((times >= start) & (times < end))


def test_a_row_is_the_mean_of_the_frames_whose_centres_lie_in_the_unit(make_store, marked, capsys):
    store = make_store(frames=FRAMES)
    (words,) = sslsim.in_units([store], "word", corpus=marked)
    assert words.index.n_frames.tolist() == words.index.length.tolist() == [2, 1, 0]
    assert (words.unit, words.n_frames, store.unit) == ("word", 3, "frame")
    told = "3 units (word) of 2 of 3 utterances; 1 without a frame in every store are left out"
    assert told in capsys.readouterr().out
    second = FRAMES[0]  # the first row of the second utterance
    spans = [within(0, 0.2), within(0.3, 0.5), second + within(0.1, 0.4)]
    for layer in range(store.n_layers):
        of_frames = store.layer(layer)[:]
        np.testing.assert_allclose(words.layer(layer)[:], [of_frames[span].mean(0) for span in spans], **CLOSE)
        np.testing.assert_allclose(words.layer(layer)[1:, 2], words.layer(layer)[:][1:, 2])
    np.testing.assert_allclose(words.times(0), [0.1125 - 0.0100, 0.4025 - 0.01], atol=0.011)


def test_the_centre_is_one_frame_the_nearest_to_the_middle(make_store, marked):
    store = make_store(frames=FRAMES)
    (words,) = sslsim.in_units([store], "word", "centre", marked)
    nearest = [int(np.abs(0.0125 + 0.02 * np.arange(42) - middle).argmin()) for middle in (0.1, 0.4, 0.25)]
    rows = nearest + np.array([0, 0, FRAMES[0]])
    np.testing.assert_array_equal(words.layer(1)[:], store.layer(1)[:][rows])
    np.testing.assert_allclose(words.times(0), 0.0125 + 0.02 * np.array(nearest[:2]))


def test_a_clock_and_whole_utterances_need_no_marks(make_store):
    store = make_store(frames=FRAMES)
    (steps,), (whole,) = sslsim.in_units([store], "100ms"), sslsim.in_units([store], "utterance")
    assert sslsim.in_units([store], "9000ms")[0].index.n_frames.tolist() == [1, 1, 1]
    assert steps.index.n_frames.tolist() == [6, 9, 2]  # 30 frames end at 0.6 s, 42 at 0.84, 9 at 0.18
    np.testing.assert_allclose(steps.layer(0)[0:1], store.layer(0)[:5].mean(0, keepdims=True), **CLOSE)
    parts = np.split(store.layer(2)[:], np.cumsum(FRAMES)[:-1])
    np.testing.assert_allclose(whole.layer(2)[:], [part.mean(0) for part in parts], **CLOSE)


def test_a_frame_on_the_edge_of_a_step_of_the_clock_is_the_first_of_the_next(tmp_path):
    arrays = {f"u{n}": np.random.default_rng(n).random((1, n, 2)) for n in range(1, 200)}
    for step, unit in ((0.08, "80ms"), (0.1, "100ms"), (0.03, "30ms")):
        store = sslsim.from_arrays("a", arrays, tmp_path, times=(0.0, step))
        (units,) = sslsim.in_units([store], unit)  # each frame is a unit of its own
        assert units.index.n_frames.tolist() == list(range(1, 200))
        np.testing.assert_array_equal(units.layer(0)[:], store.layer(0)[:])


def test_what_a_corpus_lacks_is_said_before_any_audio_is_read(marked, tmp_path):
    with pytest.raises(SslsimError, match="unit is 'wrod', and the corpus has marks of word; did you mean 'word'"):
        sslsim.Study(corpus=marked, unit="wrod").extract(tmp_path / "store")  # its audio is empty
    assert not (tmp_path / "store").exists()


def test_a_unit_shorter_than_the_frames_of_a_model_is_refused(make_store, tmp_path):
    arrays = {f"u{n}": np.random.default_rng(n).random((1, 9, 2)) for n in range(3)}
    slow = sslsim.from_arrays("slow", arrays, tmp_path, times=(0.04, 0.08))
    assert len(sslsim.in_units([slow], "80ms")) == 1
    with pytest.raises(
        SslsimError, match="^unit is '79ms', and frames of slow are every 80 ms; give a unit that is no"
    ):
        sslsim.in_units([slow], "79ms")


def test_where_some_frames_are_kept_a_unit_has_those_and_one_without_is_left_out_of_all(make_store, capsys):
    whole, some = make_store("whole", frames=FRAMES), make_store("some", frames=FRAMES, kept=20)
    pair = sslsim.in_units([whole, some], "60ms")
    check_pairable(*pair)
    assert [store.n_frames for store in pair] == [sum(pair[0].index.n_frames)] * 2
    assert 10 < pair[0].n_frames <= 20
    assert "are left out" in capsys.readouterr().out
    for store in pair:
        for u in range(3):
            assert np.abs(pair[0].times(u) - store.times(u)).max() < 0.03


def test_stores_of_units_are_compared_with_chance_and_intervals_and_what_is_computed_is_kept(make_store, monkeypatch):
    monkeypatch.delenv("SSLSIM_FRESH")
    stores = [make_store(name, frames=(30,) * 24, seed=seed) for seed, name in enumerate("ab")]
    units, more = sslsim.in_units(stores, "60ms"), {"resampling": sslsim.Resampling(5, 4, rotations=2)}
    evidence = sslsim.evidence(units, ["linreg_r2", "neuron_excess", "mutual_knn"], **more)
    assert (evidence.pairs.n_frames == 240).all()
    own = evidence.pairs.query("model_x == model_y and layer_x == layer_y and measure == 'linreg_r2'")
    np.testing.assert_allclose(own.value, 1, rtol=1e-5)
    table = sslsim.compare(units, ["linreg"], given=["position", "speaker"])
    monkeypatch.setattr("sslsim.comparison.layers.score_runs", lambda *_: pytest.fail("computed again"))
    again = sslsim.compare(sslsim.in_units(stores, "60ms"), ["linreg"], given=["position", "speaker"])
    pd.testing.assert_frame_equal(table, again)
    with pytest.raises(pytest.fail.Exception, match="computed again"):  # other spans of the same number
        sslsim.compare(sslsim.in_units(stores, "60ms", "centre"), ["linreg"], given=["position", "speaker"])


def test_what_is_given_of_a_unit_is_the_mean_of_what_is_given_of_its_frames(make_store):
    store = make_store(frames=(30, 42))
    (unit,) = sslsim.in_units([store], "100ms")
    frames, units = (sslsim.condition([each], "position") for each in (store, unit))
    np.testing.assert_allclose(units[0], frames[:5].mean(0), **CLOSE)
    own = np.arange(unit.n_frames) % 3
    assert sslsim.condition([unit], own).shape == (unit.n_frames, 3)


def test_attention_is_that_of_the_frames(make_store):
    stores = [make_store(name, frames=(30,) * 4, seed=seed) for seed, name in enumerate("ab")]
    units = sslsim.in_units(stores, "60ms")
    of_frames, of_units = (sslsim.compare(each, ["pearson"]) for each in (stores, units))
    pd.testing.assert_frame_equal(of_frames, of_units)
    more = {"resampling": sslsim.Resampling(2, 2)}
    frames, whole = (
        sslsim.attention_evidence(each, ["pearson"], **more)[0].table()
        for each in (stores, sslsim.in_units(stores, "utterance"))
    )
    pd.testing.assert_frame_equal(frames, whole)
    pd.testing.assert_frame_equal(sslsim.describe_heads(stores), sslsim.describe_heads(units))
    units[0].verify()


@pytest.mark.parametrize(
    ("unit", "pool", "told"),
    [
        (
            "syllable",
            "mean",
            "^unit is 'syllable', and the corpus has marks of word; known: 40ms, utterance, word$",
        ),
        ("wrod", "mean", r"the corpus has marks of word; did you mean 'word'\?$"),
        ("0ms", "mean", "^unit is '0ms'; give frame, phone, word, utterance, or milliseconds such as 40ms$"),
        (None, "mean", "^unit is None; give frame"),
        ("9" * 400 + "ms", "mean", "^unit is '9*ms'; give frame"),
        ("word", "median", "^pool is 'median'; known: mean, centre$"),
    ],
)
def test_what_is_no_unit_of_the_corpus_is_refused(make_store, marked, unit, pool, told):
    store = make_store(frames=FRAMES)
    with pytest.raises(SslsimError, match=told):
        sslsim.in_units([store], unit, pool, marked)


def test_without_marks_in_the_corpus_and_with_other_audio_it_says_so(make_store):
    store, other = make_store(frames=FRAMES), make_store("other", frames=FRAMES, audio="x")
    with pytest.raises(
        SslsimError, match="^unit is 'word', and the corpus has no marks of time; known: 40ms, utterance$"
    ):
        sslsim.in_units([store], "word")
    with pytest.raises(SslsimError, match="^model and other hold other utterances, or other audio; extract both"):
        sslsim.in_units([store, other], "40ms")
    with pytest.raises(
        SslsimError, match=r"^1 units \(utterance\) of 1 of 1 utterances have a frame in every store; keep"
    ):
        sslsim.in_units([make_store("one", frames=(9,))], "utterance")


def test_stores_of_two_units_are_no_pair(make_store):
    a, b = make_store("a", frames=FRAMES), make_store("b", frames=FRAMES)
    (steps,), (wide,) = sslsim.in_units([a], "40ms"), sslsim.in_units([b], "60ms")
    with pytest.raises(SslsimError, match="a is of the unit 40ms, b of 60ms; bring both to one by in_units$"):
        check_pairable(steps, wide)
    with pytest.raises(SslsimError, match="b is of the unit frame, a of 40ms; bring"):
        check_pairable(b, steps)
    other = spanned(b, np.array([[0, 3], [1, 4]]), [2, 0, 0], ("other",), unit="40ms")
    assert isinstance(other, SpanStore)
    with pytest.raises(SslsimError, match="a and b have other units; make both in one call of in_units$"):
        check_pairable(steps, other)


def test_a_study_says_the_unit(corpus, checkpoints, tmp_path):
    study = sslsim.Study(checkpoints / "lineup.toml", corpus, ("hubert-pre", "log-mel"), queries=0, unit="200ms")
    (hidden, mel), (frames, _) = study.extract(tmp_path), replace(study, unit="frame").extract(tmp_path)
    np.testing.assert_allclose(hidden.layer(1)[0], frames.layer(1)[:10].mean(0), rtol=1e-4, atol=1e-5)
    assert (mel.frame_key, hidden.root) == (hidden.frame_key, frames.root)
    study.write(tmp_path / "study.toml")
    assert sslsim.Study.read(tmp_path / "study.toml").unit == "200ms"


def test_of_a_piece_only_what_lies_in_it_is_counted(make_store, marked, capsys):
    store, names = make_store(frames=(30, 30, 42)), ["u0#1", "u0#2", "u1"]
    index = store.index.assign(utterance=names, begin=[0, 9680, 0])
    soundfile.write(marked.parent / "u0.wav", np.zeros(19_360), 16_000)
    (words,) = sslsim.in_units([replace(store, index=index)], "word", corpus=marked)
    assert words.index.n_frames.tolist() == [2, 0, 1]
    assert "3 units (word) of 2 of 3 utterances; 1 without" in capsys.readouterr().out  # not those of the other piece


def test_attention_rows_are_read_and_many_frames_are_read_some_at_a_time(make_store, monkeypatch):
    store = make_store(frames=(30,) * 24)
    (whole,) = sslsim.in_units([store], "utterance")
    np.testing.assert_array_equal(whole.attention(1, 3), store.attention(1, 3))
    expected, sizes = whole.layer(1)[:], []
    monkeypatch.setattr("sslsim.activations.units._TOGETHER", 100)
    reading = whole.pooled(np.arange(24), lambda rows: (sizes.append(len(rows)), store.layer(1)[rows])[1])
    np.testing.assert_array_equal(reading, expected)
    assert max(sizes) <= 130
    assert sum(sizes) == 720
