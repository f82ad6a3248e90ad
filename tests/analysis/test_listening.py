"""Marks, preferences, moments and clips, on made data whose truth is known."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bs4
import numpy as np
import pandas as pd
import pytest
import soundfile
from check_reports import content, outside
from conftest import edited, tone
from nbformat.v4 import new_output
from sklearn.metrics import roc_auc_score
from test_render import shown

import sslsim
from sslsim.analysis import examples as listening
from sslsim.analysis import selectivity as labels
from sslsim.errors import SslsimError
from sslsim.figures import clips as sounds
from sslsim.reports import outputs

HEADER = "id,kind,label,start,end\n"
LINEUP = '[[checkpoint]]\nname = "mel"\nsource = "log-mel"\n'


@pytest.fixture
def speech(tmp_path):
    """Two recordings of 2 s, one of them at 8 kHz, and a mark every tenth of a second: a b a b ..."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for seed, (name, rate) in enumerate({"one": 16_000, "two": 8_000}.items()):
        soundfile.write(folder / f"{name}.wav", tone(seed, 2 * rate, rate), rate)
    rows = [
        f"{name},phone,{'ab'[i % 2]},{i / 10:.2f},{(i + 1) / 10:.2f}" for name in ("one", "two") for i in range(1, 20)
    ]
    rows += [f"{name},word,w{i},{i:.2f},{i + 1:.2f}" for name in ("one", "two") for i in range(2)]
    (folder / "marks.csv").write_text(HEADER + "\n".join(rows) + "\n")
    (folder / "manifest.csv").write_text("id,path\none,one.wav\ntwo,two.wav\n")
    (tmp_path / "lineup.toml").write_text(LINEUP)
    return folder


def heard(speech, **options):
    return sslsim.extract(speech.parent / "lineup.toml", speech, speech.parent / "store", progress=False, **options)[0]


def marks_in(tmp_path, text):
    (tmp_path / "marks.csv").write_text(text)
    return labels.read_marks(tmp_path / "marks.csv")


def test_marks_lie_beside_a_manifest_or_in_a_folder(speech, tmp_path):
    for corpus in (speech, speech / "manifest.csv", str(speech)):
        marks = labels.marks_of(corpus)
        assert marks.columns.tolist() == ["id", "kind", "label", "start", "end"]
        assert len(marks) == 2 * (19 + 2)
    assert labels.marks_of(tmp_path).empty
    assert labels.marks_of(object()).empty  # a dataset


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


def test_a_frame_has_the_label_at_its_centre(speech):
    store, marks = heard(speech), labels.marks_of(speech)
    known = labels.frame_labels(marks, store, speech, least=1)
    assert known.names == ("a", "b")
    times = sslsim.speech.recording.frame_times(99)  # of 2 s
    expected = np.where(times < 0.1, -1, np.floor(times * 10) % 2)
    assert known.codes.tolist() == [*expected, *expected]
    words = labels.frame_labels(marks, store, speech, kind="word", least=1)
    assert words.codes.tolist() == 2 * np.floor(times).astype(int).tolist()


def test_times_count_from_the_beginning_of_a_recording_that_was_cut(speech):
    store, marks = heard(speech, piece_seconds=0.7), labels.marks_of(speech)
    assert store.index.utterance.tolist() == [f"{name}#{i}" for name in ("one", "two") for i in (1, 2, 3)]
    known = labels.frame_labels(marks, store, speech, least=1)
    rates = {"one": 16_000, "two": 8_000}
    for row in store.index.itertuples():
        times = row.begin / rates[row.utterance[:3]] + sslsim.speech.recording.frame_times(row.n_frames)
        found = known.codes[row.start : row.start + row.n_frames]
        assert found.tolist() == np.where(times < 0.1, -1, np.floor(times * 10 + 1e-9) % 2).tolist()


def test_kept_frames_have_the_labels_of_their_own_times(speech):
    store = heard(speech, frames=10)
    known = labels.frame_labels(labels.marks_of(speech), store, speech, least=1)
    times = sslsim.speech.recording.frame_times(99)[store.frame_rows(0)]
    assert known.codes[:10].tolist() == np.where(times < 0.1, -1, np.floor(times * 10) % 2).tolist()


def test_rare_labels_cannot_be_preferred_and_utterances_without_marks_are_told_apart(speech):
    store, marks = heard(speech), labels.marks_of(speech)
    one = marks[marks.id == "one"].replace({"label": {"a": "b"}})
    one.loc[(one.kind == "phone") & (one.start == 0.5), "label"] = "rare"
    known = labels.frame_labels(one, store, speech, least=2)
    assert known.names == ("b",)
    assert set(known.codes[:99]) == {0, -1}
    assert set(known.codes[99:]) == {-2}
    assert labels.frame_labels(one, store, speech, least=1000).names == ("b",)  # the most frequent


def test_marks_that_do_not_fit_are_refused(speech, tmp_path):
    store, marks = heard(speech), labels.marks_of(speech)
    with pytest.raises(SslsimError, match="no mark of kind 'phon'; did you mean 'phone'"):
        labels.frame_labels(marks, store, speech, kind="phon")
    with pytest.raises(SslsimError, match="the marks are of none of the 2 utterances of mel, such as 'one'; their ids"):
        labels.frame_labels(marks.assign(id="x"), store, speech)
    (speech / "one.wav").rename(speech / "uno.wav")
    with pytest.raises(SslsimError, match="no utterance 'one' in this corpus; give the one that the store was made of"):
        labels.frame_labels(marks, store, speech)


def made_labels(store, n_labels=5, seed=0):
    """Labels in runs of 3 frames."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(rng.integers(n_labels, size=store.n_frames // 3 + 1), 3)[: store.n_frames]
    return labels.Labels(tuple("abcde"[:n_labels]), codes)


def pair_table(pairs, **columns):
    """One row a pair of (model, layer, neuron)."""
    keys = [f"{key}_{side}" for side in "xy" for key in ("model", "layer", "neuron")]
    return pd.DataFrame([(*x, *y) for x, y in pairs], columns=keys).assign(**columns)


@pytest.fixture
def planted(make_store):
    """Neuron 2 rises and neuron 4 falls by two on label c."""
    store = make_store(frames=(40, 41, 43, 44) * 6, n_layers=2)
    known = made_labels(store)

    def plant(layer):
        layer[known.codes == 2, 2] += 2
        layer[known.codes == 2, 4] -= 2

    return edited(store, "layer_01.npy", plant), known


def test_a_neuron_that_fires_on_a_label_is_found_whatever_its_scale(planted):
    store, known = planted
    liked = labels.preferred([store], known).set_index(["layer", "neuron"])
    x = store.layer(1)[:].astype(float)
    z = (x - x.mean(0)) / x.std(0)
    means = np.array([z[known.codes == label].mean(0) for label in range(5)])
    np.testing.assert_allclose(liked.loc[1].mean_z.abs(), np.abs(means).max(0), rtol=1e-6)
    assert liked.loc[(1, 2), "label"] == liked.loc[(1, 4), "label"] == "c"
    assert liked.loc[(1, 2), "mean_z"] > 1 > -1 > liked.loc[(1, 4), "mean_z"]
    scaled = edited(store, "layer_01.npy", lambda layer: np.copyto(layer, -3 * layer + 100))
    again = labels.preferred([scaled], known).set_index(["layer", "neuron"])
    assert again.loc[1].label.tolist() == liked.loc[1].label.tolist()
    np.testing.assert_allclose(again.loc[1].mean_z, -liked.loc[1].mean_z, rtol=1e-4)


def test_preferences_leave_out_constant_neurons_and_utterances_without_marks(planted):
    store, known = planted
    some = replace(known, codes=np.where(np.arange(store.n_frames) < 500, known.codes, -2))
    liked = labels.preferred([edited(store, "layer_01.npy", lambda x: np.copyto(x[:, 0], 7))], some)
    assert liked[liked.layer == 1].neuron.tolist() == [1, 2, 3, 4, 5]
    x = store.layer(1)[:500, 2].astype(float)
    expected = (x[known.codes[:500] == 2].mean() - x.mean()) / x.std()
    found = liked[(liked.layer == 1) & (liked.neuron == 2)].mean_z.item()
    assert found == pytest.approx(expected)


def test_selectivity_is_the_auroc_of_the_preferred_label(planted):
    store, known = planted
    pairs = pair_table([(("model", 1, 2), ("model", 1, 4)), (("model", 1, 2), ("model", 1, 3))], value=[-0.5, 0.5])
    found = labels.selectivity(pairs, [store], known, draws=9)
    assert found.label_x.tolist() == ["+c", "+c"]
    assert found.label_y[0] == "-c"
    assert found.same_label.tolist() == [True, False]
    x, on = store.layer(1)[:], known.codes == 2
    assert found.auroc_x[0] == pytest.approx(roc_auc_score(on, x[:, 2]))
    assert found.auroc_y[0] == pytest.approx(roc_auc_score(~on, x[:, 4]))
    assert found.p_x[0] == found.p_y[0] == 0.1
    assert found.chance_x[0] < 0.6 < 0.85 < found.auroc_x[0]
    assert labels.selectivity(pairs[:0], [store], known, draws=9).empty


def test_ties_of_activations_count_half(make_store):
    store = edited(make_store(frames=(40,) * 12), "layer_01.npy", lambda x: np.copyto(x, np.round(x)))
    known = made_labels(store)
    found = labels.selectivity(pair_table([(("model", 1, 0), ("model", 1, 1))], value=1), [store], known, draws=3)
    on = known.codes == known.names.index(found.label_x[0][1])
    expected = roc_auc_score(on, store.layer(1)[:, 0])
    assert found.auroc_x[0] == pytest.approx(expected if found.label_x[0][0] == "+" else 1 - expected)


def test_chance_allows_for_slow_neurons_and_for_the_search(make_store):
    """Neurons that change slowly and have nothing to do with the labels are selective no more often than p says."""
    store = make_store(frames=(60, 62) * 20, n_layers=2, n_neurons=200)

    def slow(layer):
        for t in range(1, len(layer)):
            layer[t] += 0.9 * layer[t - 1]

    store = edited(store, "layer_01.npy", slow)
    pairs = pair_table([(("model", 1, i), ("model", 1, i)) for i in range(200)], value=1)
    p = np.concatenate([labels.selectivity(pairs, [store], made_labels(store, seed=s), draws=9).p_x for s in range(4)])
    assert p.min() == 0.1
    assert 0.04 < (p <= 0.1).mean() < 0.17
    assert 0.4 < p.mean() < 0.7


@pytest.fixture
def two(make_store):
    return [make_store(name, frames=(40, 41, 43, 44) * 3, n_layers=2, seed=seed) for seed, name in enumerate("mn")]


def test_agreement_counts_the_label_with_its_sign_beside_shuffled_partners(two, monkeypatch):
    """Neurons 0 to 3 of m like a a b b, those of n a b b b; partners are i and i, of which the last anticorrelate."""
    liked = pd.DataFrame({"model": list("mmmmnnnn"), "layer": 1, "neuron": [*range(4)] * 2, "label": list("aabbabbb")})
    liked["mean_z"] = [1, 1, 1, 1, 1, 1, 1, -1]
    monkeypatch.setattr(labels, "preferred", lambda *_, **__: liked)
    partners = pair_table([(("m", 1, i), ("n", 1, i)) for i in range(4)], value=[0.9, 0.9, 0.9, -0.9])
    partners["rotated_high"] = [0.8, 0.95, 0.95, 0.8]
    known = made_labels(two[0])
    found = labels.agreement(partners, two, known).iloc[0]
    assert found.relation == "other model"
    assert (found.pairs, found.same, found.beyond, found.same_beyond) == (4, 0.75, 2, 1.0)
    rng = np.random.default_rng(0)
    x, y = np.array(list("aabb")), np.array(list("abbb"))  # both signs taken off
    assert found.shuffled == pytest.approx(np.mean([(x == rng.permutation(y)).mean() for _ in range(4000)]), abs=0.02)
    odd = labels.agreement(partners.assign(value=0.9), two, known).iloc[0]
    assert odd.same == 0.5  # the last pair likes one label on two sides


def test_agreement_of_nobody_is_an_empty_table(two):
    partners = pair_table([(("m", 1, 0), ("m", 1, 1))], value=0.5, rotated_high=0.1)
    assert labels.agreement(partners, two, made_labels(two[0])).empty


def test_extremes_are_the_neurons_furthest_above_and_below_random_bases(two):
    pairs = [(("m", layer, i), ("n", 1, i)) for layer in (0, 1) for i in range(6)]
    partners = pair_table([*pairs, (("m", 1, 0), ("m", 1, 1))], rotated=0.2)
    partners["value"] = [0.9, -0.8, 0.3, 0.1, 0.25, 0.5, 0.85, 0.7, 0.2, 0.15, 0.22, 0.55, 1.0]
    found = listening.extremes(partners, two, n=2)
    assert found.kind.tolist() == ["most shared"] * 2 + ["least shared"] * 2
    assert list(zip(found.layer_x, found.neuron_x, strict=True)) == [(0, 0), (0, 1), (0, 3), (1, 2)]
    assert found.excess.round(6).tolist() == [0.7, 0.6, -0.1, 0.0]
    assert len(listening.extremes(partners, two, n=5)) == 6  # no neuron twice, by number
    assert listening.extremes(partners, two, n=0).empty


def test_a_neuron_is_least_shared_if_no_other_model_shares_it(make_store):
    three = [make_store(name) for name in "mno"]
    partners = pair_table([(("m", 0, 0), ("n", 0, 0)), (("m", 0, 0), ("o", 0, 0)), (("m", 0, 1), ("n", 0, 1))])
    found = listening.extremes(partners.assign(rotated=0.2, value=[0.1, 0.9, 0.3]), three, n=1)
    assert found[["neuron_x", "model_y"]].to_numpy().tolist() == [[0, "o"], [1, "n"]]


def test_extremes_need_random_bases(two):
    with pytest.raises(
        SslsimError, match=r"have no column rotated; take them from sslsim.neuron_evidence, draws above"
    ):
        listening.extremes(pair_table([(("m", 0, 0), ("n", 0, 0))], value=1.0), two)


def test_moments_are_the_maxima_of_distinct_utterances_and_partners_count_by_sign(two):
    chosen = pair_table([(("m", 1, 2), ("n", 1, 3))], value=-0.4, kind="most shared")
    found = listening.moments(chosen, two, n=4)
    assert found.side.tolist() == ["x"] * 4 + ["y"] * 4
    index = two[0].index
    z = [store.layer(1)[:, i].astype(float) for store, i in zip(two, (2, 3), strict=True)]
    x, y = ((each - each.mean()) / each.std() for each in z)
    for side, own, other in (("x", x, -y), ("y", -y, x)):
        rows = found[found.side == side]
        peaks = [own[a : a + n].max() for a, n in zip(index.start, index.n_frames, strict=True)]
        np.testing.assert_allclose(rows.z, np.sort(peaks)[::-1][:4])
        assert rows.utterance.is_unique
        at = index.set_index("utterance").start[rows.utterance].to_numpy() + rows.frame.to_numpy()
        np.testing.assert_allclose(own[at], rows.z)
        np.testing.assert_allclose(other[at], rows.z_other)
        np.testing.assert_allclose([(other < other[i]).mean() for i in at], rows.above_other)
        np.testing.assert_allclose(rows.seconds, 0.0125 + 0.02 * rows.frame)
    assert listening.moments(chosen[:0], two).empty


def test_a_frame_that_was_kept_is_told_by_its_number_in_the_utterance(make_store):
    store = make_store(frames=(40, 50), kept=5)
    chosen = pair_table([(("model", 1, 0), ("model", 1, 1))], value=1, kind="most shared")
    for row in listening.moments(chosen, [store]).itertuples():
        u = int(row.utterance[1:])
        assert row.frame in store.frame_rows(u)


CHOSEN = pair_table([(("mel", 0, 3), ("mel", 0, 50))], value=0.5, rotated=0.2, kind="most shared")


def test_a_clip_has_the_samples_around_its_moment(speech):
    store, marks = heard(speech, piece_seconds=0.7), labels.marks_of(speech)
    found = listening.moments(CHOSEN, [store], n=6)
    cut = listening.clips(CHOSEN, found, [store], speech, marks, seconds=0.4)
    assert len(cut) == 12
    for clip in cut:
        piece = store.index[store.index.utterance == clip.moment["utterance"]].iloc[0]
        samples, rate = soundfile.read(speech / f"{piece.utterance[:3]}.wav", dtype="float32")
        own = samples[piece.begin : piece.end]
        if rate == 16_000:
            middle = 320 * clip.moment["frame"] + 200
            expected = own[max(0, middle - 3200) : middle + 3200]
            np.testing.assert_array_equal(clip.samples, expected)
            assert clip.begin == -min(middle, 3200) / 16_000
            now = piece.begin / rate + clip.moment["seconds"]
            assert clip.label("phone") == ("" if now < 0.1 else "ab"[int(now * 10) % 2])
            assert clip.label("word") == f"w{int(now)}"
        assert clip.z.max() == pytest.approx(clip.moment["z"])
        at = np.abs(clip.times).argmin()
        assert clip.times[at] == pytest.approx(0)
        assert (clip.z[at], clip.z_other[at]) == (clip.moment["z"], clip.moment["z_other"])


def test_a_sound_that_changed_is_not_played(speech):
    store = heard(speech)
    found = listening.moments(CHOSEN, [store])
    soundfile.write(speech / "one.wav", tone(9, 32_000), 16_000)
    with pytest.raises(SslsimError, match="'one' has another sound than the store was made of; extract again"):
        listening.clips(CHOSEN, found[found.utterance == "one"], [store], speech)
    soundfile.write(speech / "one.wav", tone(0, 20_000), 16_000)  # shorter
    with pytest.raises(SslsimError, match="'one' has another sound"):
        listening.clips(CHOSEN, found[found.utterance == "one"], [store], speech)


@pytest.fixture
def with_heads(make_store, speech):
    """Return two stores with made maps, as if of the speech."""
    own = heard(speech).index
    made = [make_store(name, frames=(99, 99), seed=seed) for seed, name in enumerate("mn")]
    return [replace(store, index=own.assign(n_rows=store.index.n_rows)) for store in made]


def test_a_pair_of_heads_is_shown_where_it_agrees_as_on_half_of_all(with_heads, speech):
    matched = pd.DataFrame([("m", 1, 0, "n", 2, 1)], columns=[f"{k}_{s}" for s in "xy" for k in KEYS_OF_HEADS])
    pair = listening.head_pair(matched, with_heads, speech, labels.marks_of(speech))
    assert pair.names == ("m, layer 1, head 0", "n, layer 2, head 1")
    agreement = [
        np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
        for a, b in ((with_heads[0].attention(1, u)[0], with_heads[1].attention(2, u)[1]) for u in (0, 1))
    ]
    u = int(np.argsort(agreement)[1])
    assert pair.utterance == ("one", "two")[u]
    assert pair.agreement == pytest.approx(agreement[u])
    np.testing.assert_array_equal(pair.maps[1], with_heads[1].attention(2, u)[1])
    assert pair.queries.tolist() == with_heads[0].query_rows(u).tolist()
    assert len(pair.samples) == 32_000
    figure = sounds.head_maps(pair)
    maps = [ax.collections[0].get_array() for ax in figure.axes if ax.get_xlabel() == "key, s"]
    np.testing.assert_allclose(maps[0].reshape(8, 99), 99 * pair.maps[0], rtol=1e-6)
    sounds.plt.close(figure)
    assert sounds.utterance_card(pair).title == f"{pair.utterance}, 2.0 s: w0 w1"
    with pytest.raises(SslsimError, match="no pair of heads 1; there are 1, counted from 0"):
        listening.head_pair(matched, with_heads, speech, place=1)


KEYS_OF_HEADS = ("model", "layer", "head")


def test_a_file_holds_the_samples_to_16_bits_between_its_fades():
    samples = np.concatenate([tone(3, 4000), [2.0, -2.0], tone(4, 4000)]).astype("f4")
    back, rate = soundfile.read(io.BytesIO(sounds.flac(samples)), dtype="float32")
    assert rate == 16_000
    inside = slice(sounds.FADE, -sounds.FADE)
    np.testing.assert_allclose(back[inside], np.clip(samples, -1, 1)[inside], atol=2**-15)
    assert back[0] == back[-1] == 0
    assert sounds.flac(samples) == sounds.flac(samples)
    assert len(soundfile.read(io.BytesIO(sounds.flac(samples[:3])))[0]) == 3


def test_a_spectrogram_shows_a_tone_at_its_frequency():
    power = sounds.spectrogram(np.sin(2 * np.pi * 2000 * np.arange(8000) / 16_000).astype("f4"))
    assert power.shape == (201, 101)
    assert (power[:, 10:-10].argmax(0) * 40 == 2000).all()
    assert power.max() == 0
    assert power.min() == -sounds.RANGE


def test_cards_say_what_is_heard(speech):
    store, marks = heard(speech), labels.marks_of(speech)
    chosen = CHOSEN.assign(value=-0.5)
    found = listening.moments(chosen, [store], n=1).assign(frame=50, seconds=1.0125)
    x, y = sounds.cards(listening.clips(chosen, found, [store], speech, marks), chosen)
    assert x.group == y.group
    assert x.group == (
        "Most shared: mel, layer 0, neuron 3 and its best partner mel, layer 0, neuron 50 "
        "(r = -0.50; in random bases 0.20)"
    )
    assert (x.row, y.row) == (
        "Strongest moments of mel, layer 0, neuron 3",
        "Strongest moments of mel, layer 0, neuron 50, turned around",
    )
    moment = found.iloc[0]
    assert x.title.startswith(f"{moment.utterance} at {moment.seconds:.2f} s")
    assert x.title.endswith(f"z {moment.z:.1f}, the other {moment.z_other:.1f}")
    assert f"{moment.utterance} at 1.01 s, /a/, in “w1”" in x.alt
    with sounds.Image.open(io.BytesIO(x.picture)) as picture:
        assert picture.size == (429, 351)
    assert len(x.picture) < 40_000


CARD = sounds.Card('<b>"group"</b>', "row & co", "a<script>'\"", 'alt "<i>"', b"fLaC\x00", b"\x89PNG")


def show(cards, monkeypatch):
    calls = []
    monkeypatch.setattr(outputs, "_show", lambda data, metadata: calls.append((data, metadata)))
    outputs.Outputs("nowhere", "neurons").clips("<all>", cards)
    return calls


def test_clips_are_players_whose_every_text_is_escaped(monkeypatch):
    [(data, metadata)] = show([CARD, replace(CARD, picture=b"", alt=""), replace(CARD, row="other")], monkeypatch)
    assert metadata == {"sslsim": {"role": "clips", "name": "<all>"}}
    soup = shown(new_output("display_data", data=data, metadata=metadata))
    assert not [*content(soup), *outside(soup)]
    section = soup.select_one("section.clips")
    assert section["aria-label"] == "<all>"
    assert [p.get_text() for p in section.select("p")] == ['<b>"group"</b>', "row & co", "other"]
    assert len(section.select("figure")) == len(section.select("audio[controls][preload=none]")) == 3
    audio, picture = section.audio, section.img
    assert audio["aria-label"] == section.figcaption.get_text() == CARD.title
    assert base64.b64decode(audio["src"].removeprefix("data:audio/flac;base64,")) == CARD.audio
    assert base64.b64decode(picture["src"].removeprefix("data:image/png;base64,")) == CARD.picture
    assert picture["alt"] == CARD.alt
    assert len(section.select("img")) == 2
    assert bs4.BeautifulSoup(data["text/html"], "html.parser").find(["script", "b", "i"]) is None


def test_of_no_clips_nothing_is_shown(monkeypatch):
    assert show([], monkeypatch) == []


@pytest.mark.parametrize("card", [replace(CARD, alt=" "), replace(CARD, title=""), SimpleNamespace(**vars(CARD), x=1)])
def test_clips_need_words(card, monkeypatch):
    if isinstance(card, SimpleNamespace):  # anything with these fields is a card
        assert len(show([card], monkeypatch)) == 1
        return
    with pytest.raises(SslsimError, match="clips '<all>': a card needs a title, and alt text where it has a picture"):
        show([card], monkeypatch)


def test_labels_where_marks_allow_preferences(speech):
    """Marks of one utterance, of another corpus, or beside the frames, are too few."""
    store = heard(speech)
    marks = labels.marks_of(speech)
    corpus = speech / "manifest.csv"
    found, expected = labels.labels_if_any(marks, store, corpus), labels.frame_labels(marks, store, corpus)
    assert found.names == expected.names
    np.testing.assert_array_equal(found.codes, expected.codes)
    words = marks[(marks.kind == "word") | (marks.id == "none")]
    elsewhere = pd.concat([marks[marks.kind == "phone"].assign(id="none"), words])
    assert labels.labels_if_any(elsewhere, store, corpus).names == ("w0", "w1")  # phones are of another recording
    assert labels.labels_if_any(marks[marks.id == "one"], store, corpus) is None
    assert labels.labels_if_any(marks.assign(start=5.0, end=6.0), store, corpus) is None
    assert labels.labels_if_any(marks[:0], store, corpus) is None
    with pytest.raises(SslsimError, match="of none of the 2 utterances of mel, .* and a mark must hold a frame"):
        labels.frame_labels(marks.assign(start=5.0, end=6.0), store, corpus)


def test_the_file_of_marks_is_found_where_there_is_one(tmp_path: Path) -> None:
    assert labels.marks_file(tmp_path) is None
    (tmp_path / "marks.csv").write_text("id")
    assert labels.marks_file(tmp_path / "manifest.csv") == labels.marks_file(tmp_path) == tmp_path / "marks.csv"
    assert labels.marks_file(["a dataset"]) is None
