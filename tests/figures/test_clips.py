"""Sounds and their pictures: what is heard is the sound, and headings say whose it is."""

import io

import numpy as np
import pandas as pd
import pytest
import soundfile
from made_tables import no_trace  # noqa: F401
from PIL import Image

from sslsim.analysis.examples import Clip, HeadPair
from sslsim.figures import head_maps, sound_cards, utterance_card
from sslsim.figures.clips import DPI, FADE, RANGE, SIZE, flac, spectrogram

pytestmark = pytest.mark.usefixtures("no_trace")

TONE = np.sin(2 * np.pi * 2000 * np.arange(8000) / 16_000).astype("f4")


def marks(*rows):
    return pd.DataFrame(rows, columns=["kind", "label", "start", "end"])


def test_a_file_holds_the_samples_to_16_bits_between_its_fades():
    samples = np.concatenate([0.3 * TONE, [2.0, -2.0], 0.3 * TONE]).astype("f4")
    back, rate = soundfile.read(io.BytesIO(flac(samples)), dtype="float32")
    assert rate == 16_000
    np.testing.assert_allclose(back[FADE:-FADE], np.clip(samples, -1, 1)[FADE:-FADE], atol=2**-15)
    assert back[0] == back[-1] == 0
    assert flac(samples) == flac(samples)
    assert len(soundfile.read(io.BytesIO(flac(samples[:3])))[0]) == 3


def test_a_spectrogram_shows_a_tone_at_its_frequency():
    power = spectrogram(TONE)
    assert power.shape == (201, 101)
    assert (power[:, 10:-10].argmax(0) * 40 == 2000).all()
    assert power.max() == 0
    assert power.min() == -RANGE


@pytest.mark.parametrize("side", ["x", "y"])
def test_cards_say_what_is_heard(side):
    moment = {"pair": 0, "side": side, "kind": "most shared", "utterance": "one", "seconds": 1.0125}
    near = marks(("phone", "a", -0.05, 0.05), ("word", "w1", -0.3, 0.3))
    times = np.arange(-0.2, 0.3, 0.02)
    clip = Clip(moment | {"z": 3.04, "z_other": -2.0}, TONE, -0.2, times, np.cos(times), np.sin(times), near)
    names = {"model_x": "m", "layer_x": 0, "neuron_x": 3, "model_y": "n", "layer_y": 2, "neuron_y": 50}
    (card,) = sound_cards([clip], pd.DataFrame([names | {"value": -0.5, "rotated": 0.2}]))
    pair = "m, layer 0, neuron 3 and its best partner n, layer 2, neuron 50"
    assert card.group == f"Most shared: {pair} (r = -0.50; in random bases 0.20)"
    assert ("m, layer 0, neuron 3" in card.row, "turned around" in card.row) == (side == "x", side == "y")
    assert card.title == "one at 1.01 s, /a/, in “w1”: z 3.0, the other -2.0"
    assert "one at 1.01 s, /a/, in “w1”" in card.alt
    assert card.key == {"x": "neuron-m-0-3", "y": "neuron-n-2-50"}[side]
    assert card.audio == flac(TONE)
    with Image.open(io.BytesIO(card.picture)) as picture:
        assert picture.size == tuple(int(DPI * inches) for inches in SIZE)
    assert len(card.picture) < 40_000


def test_maps_of_heads_are_in_units_of_a_uniform_row():
    rows = np.random.default_rng(0).dirichlet(np.ones(24), (2, 4)).astype("f4")
    words = marks(("word", "w0", 0.0, 0.2), ("phone", "x", 0.0, 0.1), ("word", "w1", 0.2, 0.4))
    pair = HeadPair(("m, layer 1, head 0", "n, layer 2, head 1"), "one", TONE, (*rows,), 0.5, words)
    figure = head_maps(pair)
    maps = [ax.collections[0].get_array() for ax in figure.axes if ax.get_xlabel() == "key, s"]
    np.testing.assert_allclose(np.reshape(maps, rows.shape), 24 * rows, rtol=1e-6)
    assert {text.get_text() for text in figure.texts} == set(pair.names)
    card = utterance_card(pair)
    assert card.title == "one, 0.5 s: w0 w1"
    assert card.audio == flac(TONE)
