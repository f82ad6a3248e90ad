from __future__ import annotations

import numpy as np
import pytest
from conftest import tone
from scipy import signal
from transformers.audio_utils import mel_filter_bank, spectrogram

from sslsim.encoders.encoder import BANDS, log_mel
from sslsim.encoders.lineup import Checkpoint
from sslsim.encoders.load import load_encoder
from sslsim.speech.recording import n_frames

WAVEFORM = tone(0, 16_000)


def hertz(mel):
    """Return the frequency on Slaney's scale: 3 mel per 200 Hz to 1 kHz, then 27 mel per factor of 6.4."""
    mel = np.asarray(mel, dtype="f8")
    return np.where(mel < 15, 200 / 3 * mel, 1_000 * 6.4 ** ((mel - 15) / 27))


EDGES = hertz(np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82))  # band b is a triangle over edges b, b + 1, b + 2


def mel_bands():
    """Return triangles of area 1 over frequency in hertz, (80, 257)."""
    bins = np.arange(257) * 16_000 / 512
    low, peak, high = (EDGES[i : 80 + i, None] for i in range(3))
    return np.clip(np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)), 0, None) * 2 / (high - low)


@pytest.mark.parametrize("samples", [400, 719, 720, 16_000, 16_159])
def test_values_are_those_of_the_formula(samples):
    waveform = tone(3, samples)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(400), np.arange(257)) / 512)
    window = signal.get_window("hann", 400)
    starts = range(0, samples - 399, 320)
    power = np.stack([np.abs((window * waveform[start : start + 400]) @ waves) ** 2 for start in starts])
    wanted = np.log(np.maximum(power @ mel_bands().T, 1e-10))
    values = log_mel(waveform)
    assert values.shape == (n_frames(samples), 80)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted, atol=1e-5)


def test_values_are_those_that_transformers_computes():
    wanted = spectrogram(
        WAVEFORM,
        signal.get_window("hann", 400),
        frame_length=400,
        hop_length=320,
        fft_length=512,
        power=2.0,
        center=False,
        mel_filters=mel_filter_bank(257, 80, 0.0, 8_000.0, 16_000, norm="slaney", mel_scale="slaney"),
        mel_floor=1e-10,
        log_mel="log",
    )
    np.testing.assert_allclose(log_mel(WAVEFORM), wanted.T, atol=1e-4)


@pytest.mark.parametrize("frequency", [150, 440, 1_000, 3_000, 7_000])
def test_a_pure_tone_peaks_in_the_band_around_it(frequency):
    wave = np.sin(2 * np.pi * frequency * np.arange(8_000) / 16_000).astype("f4")
    values = log_mel(wave)
    loudest = values.argmax(axis=1)
    assert len(set(loudest)) == 1
    assert EDGES[loudest[0]] < frequency < EDGES[loudest[0] + 2]
    assert values.max(axis=1).min() - np.median(values, axis=1).max() > 5  # natural logarithms of power


def test_a_frame_changes_only_with_its_own_samples():
    before = log_mel(WAVEFORM)
    for frame in (0, 17, 48):
        own = slice(320 * frame, 320 * frame + 400)
        outside = tone(9, 16_000)
        outside[own] = WAVEFORM[own]
        np.testing.assert_array_equal(log_mel(outside)[frame], before[frame])
        for sample in (own.start + 3, own.start + 200, own.stop - 3):
            changed = WAVEFORM.copy()
            changed[sample] += 1
            assert np.abs(log_mel(changed)[frame] - before[frame]).max() > 1e-3
        middle = WAVEFORM.copy()
        middle[own.start + 100 : own.stop - 100] = 0
        moved = np.flatnonzero((log_mel(middle) != before).any(axis=1))
        assert moved.tolist() == [frame]


def test_twice_as_loud_is_a_shift_and_silence_is_the_floor():
    np.testing.assert_allclose(log_mel(2 * WAVEFORM) - log_mel(WAVEFORM), np.log(4), atol=1e-4)
    np.testing.assert_allclose(log_mel(np.zeros(720, "f4")), np.log(1e-10), rtol=1e-6)
    assert np.isfinite(log_mel(np.full(720, 1e-12, "f4"))).all()


def test_the_spectrogram_in_the_form_of_an_encoder():
    encoder = load_encoder(Checkpoint("floor", "log-mel"))
    anatomy = encoder.anatomy
    assert (anatomy.n_layers, anatomy.n_neurons, anatomy.n_heads, anatomy.parameters) == (1, BANDS, 0, 0)
    assert (anatomy.normed, anatomy.input_normed, anatomy.final_norm) == (False, False, False)
    assert anatomy.input == {"normalised": False, "mask": False, "features": "spectrogram"}
    every, some = encoder.encode(WAVEFORM, []), encoder.encode(WAVEFORM, [0, 7], [5, 40])
    np.testing.assert_array_equal(every.hidden, log_mel(WAVEFORM)[None])
    np.testing.assert_array_equal(some.hidden, every.hidden[:, [5, 40]])
    assert every.final is None
    assert every.attention.size == some.attention.size == 0
