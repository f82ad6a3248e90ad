"""The neurons chosen to be heard, their moments and clips, and a pair of heads: on made data whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import tone
from marked import pair_table, record, spectrogram

import sslsim
from sslsim.analysis import cut_clips, examples, extremes, head_pair, strongest_moments
from sslsim.errors import SslsimError
from sslsim.speech.alignments import alignments_of

CHOSEN = pair_table([(("mel", 0, 3), ("mel", 0, 50))], value=0.5, rotated=0.2, kind="most shared")


@pytest.fixture
def speech(tmp_path):
    return record(tmp_path / "speech")


def test_extremes_are_the_neurons_furthest_above_and_below_random_bases():
    pairs = [(("m", layer, i), ("n", 1, i)) for layer in (0, 1) for i in range(6)]
    partners = pair_table([*pairs, (("m", 1, 0), ("m", 1, 1))], rotated=0.2)
    partners["value"] = [0.9, -0.8, 0.3, 0.1, 0.25, 0.5, 0.85, 0.7, 0.2, 0.15, 0.22, 0.55, 1.0]
    partners["relation"] = ["other model"] * 12 + ["same model"]
    table = extremes(partners, n=2)
    assert table.kind.tolist() == ["most shared"] * 2 + ["least shared"] * 2
    assert list(zip(table.layer_x, table.neuron_x, strict=True)) == [(0, 0), (0, 1), (0, 3), (1, 2)]
    assert table.excess.round(6).tolist() == [0.7, 0.6, -0.1, 0.0]
    assert len(extremes(partners, n=5)) == 6  # no neuron twice, by number
    assert extremes(partners, n=0).empty


def test_a_neuron_is_least_shared_if_no_other_model_shares_it():
    partners = pair_table([(("m", 0, 0), ("n", 0, 0)), (("m", 0, 0), ("o", 0, 0)), (("m", 0, 1), ("n", 0, 1))])
    table = extremes(partners.assign(rotated=0.2, value=[0.1, 0.9, 0.3], relation="other model"), n=1)
    assert table[["neuron_x", "model_y"]].to_numpy().tolist() == [[0, "o"], [1, "n"]]


def test_moments_are_the_maxima_of_distinct_utterances_and_partners_count_by_sign(make_store):
    two = [make_store(name, frames=(40, 41, 43, 44) * 3, n_layers=2, seed=seed) for seed, name in enumerate("mn")]
    chosen = pair_table([(("m", 1, 2), ("n", 1, 3))], value=-0.4, kind="most shared")
    table = strongest_moments(chosen, two, n=4)
    assert table.side.tolist() == ["x"] * 4 + ["y"] * 4
    index = two[0].index
    z = [store.layer(1)[:, i].astype(float) for store, i in zip(two, (2, 3), strict=True)]
    x, y = ((each - each.mean()) / each.std() for each in z)
    for side, this, other in (("x", x, -y), ("y", -y, x)):
        rows = table[table.side == side]
        peaks = [this[a : a + n].max() for a, n in zip(index.start, index.n_frames, strict=True)]
        np.testing.assert_allclose(rows.z, np.sort(peaks)[::-1][:4])
        assert rows.utterance.is_unique
        at = index.set_index("utterance").start[rows.utterance].to_numpy() + rows.frame.to_numpy()
        np.testing.assert_allclose(this[at], rows.z)
        np.testing.assert_allclose(other[at], rows.z_other)
        np.testing.assert_allclose([(other < other[i]).mean() for i in at], rows.above_other)
        np.testing.assert_allclose(rows.seconds, 0.0125 + 0.02 * rows.frame)
    assert strongest_moments(chosen[:0], two).empty


def test_a_frame_that_was_kept_is_told_by_its_number_in_the_utterance(make_store):
    store = make_store(frames=(40, 50), kept=10)
    chosen = pair_table([(("model", 1, 0), ("model", 1, 1))], value=1, kind="most shared")
    for row in strongest_moments(chosen, [store]).itertuples():
        assert row.frame in store.frame_rows(int(row.utterance[1:]))


def test_a_clip_has_the_samples_around_its_moment(speech, monkeypatch):
    monkeypatch.setattr(examples, "SECONDS", 0.4)
    store = spectrogram(speech, segmentation=sslsim.Segmentation(piece_seconds=0.7))
    moments = strongest_moments(CHOSEN, [store], n=6)
    clips = cut_clips(CHOSEN, moments, [store], speech, alignments_of(speech))
    assert len(clips) == 12
    for clip in clips:
        piece = store.index[store.index.utterance == clip.moment["utterance"]].iloc[0]
        samples, rate = soundfile.read(speech / f"{piece.utterance[:3]}.wav", dtype="float32")
        if rate == 16_000:
            middle = 320 * clip.moment["frame"] + 200
            expected = samples[piece.begin : piece.end][max(0, middle - 3200) : middle + 3200]
            np.testing.assert_array_equal(clip.samples, expected)
            assert clip.begin == -min(middle, 3200) / 16_000
            now = piece.begin / rate + clip.moment["seconds"]
            assert clip.label("phone") == ("" if now < 0.1 else "ab"[int(now * 10) % 2])
            assert clip.label("word") == f"w{int(now)}"
        assert clip.z.max() == pytest.approx(clip.moment["z"])
        at = np.abs(clip.times).argmin()
        assert clip.times[at] == pytest.approx(0)
        assert (clip.z[at], clip.z_other[at]) == (clip.moment["z"], clip.moment["z_other"])


def test_frames_that_were_not_kept_are_computed_again_for_a_clip(speech, monkeypatch, capsys):
    whole, some = spectrogram(speech), spectrogram(speech, frames=60)
    moments = strongest_moments(CHOSEN, [some])
    marks = alignments_of(speech)
    for clip in cut_clips(CHOSEN, moments, [some], speech, marks):
        u = some.index.utterance.tolist().index(clip.moment["utterance"])
        frames = np.rint((clip.times + clip.moment["seconds"] - 0.0125) / 0.02).astype(int)
        assert len(frames) > 20
        assert (np.diff(frames) == 1).all()
        x = some.layer(0)[:, 3 if clip.moment["side"] == "x" else 50]
        expected = whole.layer(0)[whole.index.start[u] + frames, 3 if clip.moment["side"] == "x" else 50]
        np.testing.assert_allclose(clip.z, (expected - x.mean()) / x.std(), atol=1e-4)
        assert clip.z[np.abs(clip.times).argmin()] == pytest.approx(clip.moment["z"], abs=1e-5)
    gone = replace(some, checkpoint=replace(some.checkpoint, source="/gone"))
    clips = cut_clips(CHOSEN, moments, [gone], speech, marks)
    assert all(0 < len(clip.times) < 20 for clip in clips)
    assert "clips show the stored frames of mel, one in 3.2: checkpoint 'mel': no folder" in capsys.readouterr().out


def test_a_sound_that_changed_is_not_played(speech):
    store = spectrogram(speech)
    moments = strongest_moments(CHOSEN, [store])
    moments = moments[moments.utterance == "one"]
    for other in (tone(9, 32_000), tone(0, 20_000)):  # another sound, and a shorter one
        soundfile.write(speech / "one.wav", other, 16_000)
        with pytest.raises(SslsimError, match="'one' has another sound than the store was made of; extract again"):
            cut_clips(CHOSEN, moments, [store], speech, alignments_of(speech))


def test_a_pair_of_heads_is_shown_where_it_agrees_as_on_half_of_all(make_store, speech):
    index = spectrogram(speech).index
    stores = [make_store(name, frames=(99, 99), seed=seed) for seed, name in enumerate("mn")]
    stores = [replace(store, index=index.assign(n_rows=store.index.n_rows)) for store in stores]
    keys = [f"{key}_{side}" for side in "xy" for key in ("model", "layer", "head")]
    matched = pd.DataFrame([("m", 1, 0, "n", 2, 1)], columns=keys)
    pair = head_pair(matched, stores, speech, alignments_of(speech))
    of_units = head_pair(matched, sslsim.in_units(stores, "60ms"), speech, alignments_of(speech))
    assert (of_units.utterance, of_units.agreement) == (pair.utterance, pair.agreement)
    assert pair.names == ("m, layer 1, head 0", "n, layer 2, head 1")
    agreement = [
        np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
        for a, b in ((stores[0].attention(1, u)[0], stores[1].attention(2, u)[1]) for u in (0, 1))
    ]
    u = int(np.argsort(agreement)[1])
    assert pair.utterance == ("one", "two")[u]
    assert pair.agreement == pytest.approx(agreement[u])
    np.testing.assert_array_equal(pair.maps[1], stores[1].attention(2, u)[1])
    assert len(pair.samples) == 32_000
    assert pair.marks[pair.marks.kind == "word"].label.tolist() == ["w0", "w1"]
