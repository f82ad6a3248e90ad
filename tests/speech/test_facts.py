"""What is told of the speech, on sounds whose flaws are made."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import tone

from sslsim.speech.corpus import read_corpus
from sslsim.speech.facts import flaws, speech_facts
from sslsim.speech.index import Segmentation, index_of


@pytest.mark.parametrize(
    ("change", "clipped", "still"),
    [
        (lambda x: x, 0, 0),
        (lambda x: np.clip(9 * x, -1, 1), "many", 0),
        (lambda x: np.concatenate([x, np.zeros(800, "f4")]), 0, 800),
        (lambda x: np.concatenate([np.full(400, 0.5, "f4"), x]), 0, 400),
        (lambda x: np.concatenate([x, np.zeros(398, "f4"), x]), 0, 0),  # shorter than a frame
        (lambda x: np.where(np.arange(len(x)) % 50 < 2, 1, x), 0, 0),  # a peak of two samples is none of a clipped wave
        (lambda x: np.where(np.arange(len(x)) % 50 < 5, -1, x), 3 * 16_000 // 50, 0),
    ],
)
def test_clipped_samples_and_digital_silence_are_counted(change, clipped, still):
    mono = change(tone(0, 16_000)).astype("f4")
    counted = flaws(mono, 16_000)
    assert counted[1] == still
    assert counted[0] > 1_000 if clipped == "many" else counted[0] == clipped
    assert flaws(np.zeros(1, "f4"), 16_000) == (0, 0)


def test_what_is_told_of_a_corpus(tmp_path):
    sounds = {
        "ann/a.wav": (tone(0, 16_000), 16_000),
        "ann/b.wav": (tone(0, 16_000), 16_000),
        "bob/c.wav": (tone(1, 8_000), 8_000),
        "bob/d.wav": (np.concatenate([tone(2, 30_000), np.zeros(2_000, "f4")]), 16_000),
        "e.wav": (np.clip(9 * tone(3, 16_000), -1, 1), 16_000),
    }
    for name, (samples, rate) in sounds.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, samples, rate)
    index, skipped = index_of(read_corpus(tmp_path, "(ann|bob)/"), Segmentation())
    assert skipped.empty
    clipped = index.clipped[4] / (16_000 * 4 + 32_000 - 8_000)
    assert speech_facts(index) == {
        "speakers": "bob 3 s, ann 2 s, unnamed 1 s, such as 'e'",
        "upsampled": "1 of 5 utterances, the lowest with nothing above 4 kHz",
        "clipped": f"1 of 5 utterances, {clipped:.2%} of all samples",
        "digital silence": "1 of 5 utterances, 2.27% of all samples",
        "duplicates": "1 of 5 utterances with the samples of another",
    }
    many = pd.DataFrame({"utterance": "u", "speaker": list("abcdefghij"), "n_samples": range(16_000, 176_000, 16_000)})
    assert speech_facts(many.assign(rate=16_000)) == {"speakers": "10, of 1 to 10 s each"}
    assert speech_facts(many) == {}  # a store of before


@pytest.mark.parametrize("left", [0.0, 0.01])
def test_channels_that_cancel_are_named(tmp_path, left):
    sound = tone(0, 16_000)
    soundfile.write(tmp_path / "x.wav", np.stack([sound, (left - 1) * sound], 1), 16_000)
    soundfile.write(tmp_path / "y.wav", np.stack([sound, 0 * sound], 1), 16_000)
    index, skipped = index_of(read_corpus(tmp_path), Segmentation())
    assert index.utterance.tolist() == ["y"]
    assert skipped.reason.tolist() == ["its channels cancel (opposite phase); give one of them"]
