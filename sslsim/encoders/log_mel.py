"""The spectrogram as a checkpoint without weights: the input of every encoder, and a floor for what it adds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tqdm import TqdmWarning

from sslsim.encoders.encoder import Anatomy, Encoded
from sslsim.encoders.lineup import Checkpoint
from sslsim.speech.recording import HOP, SAMPLE_RATE, WINDOW

BANDS = 80
_FFT = 512
_FLOOR = 1e-10
RECIPE = (
    f"natural logarithm of {BANDS} mel bands (Slaney's scale and areas, 0 to {SAMPLE_RATE // 2} Hz) of the power "
    f"spectrum of each frame of {WINDOW} samples under a periodic Hann window, {_FFT} points, floor {_FLOOR:g}"
)


def ignore_widgets() -> None:
    """Silence tqdm for good: importing transformers makes it warn in JupyterLab of widgets that nothing here shows."""
    warnings.filterwarnings("ignore", category=TqdmWarning)


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    ignore_widgets()
    from transformers.audio_utils import mel_filter_bank

    top = SAMPLE_RATE / 2
    return mel_filter_bank(_FFT // 2 + 1, BANDS, 0.0, top, SAMPLE_RATE, norm="slaney", mel_scale="slaney")


def log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel spectrogram of a waveform at 16 kHz, (T, 80) float32, as ``RECIPE`` says."""
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * window, _FFT)) ** 2
    return np.log(np.maximum(power @ _filters(), _FLOOR)).astype("f4")


@dataclass(frozen=True, eq=False)
class LogMel:
    """A log-mel spectrogram in the form of an encoder, on the same frames: one layer, 80 neurons, no heads."""

    checkpoint: Checkpoint

    @property
    def anatomy(self) -> Anatomy:
        """As of an encoder."""
        how = {"normalised": False, "mask": False, "features": "spectrogram"}
        return Anatomy(1, BANDS, 0, normed=False, input_normed=False, final_norm=False, input=how, parameters=0)

    def encode(
        self,
        waveform: NDArray[np.float32],
        rows: NDArray[np.int64] | Sequence[int] = (),
        frames: NDArray[np.int64] | Sequence[int] | None = None,
    ) -> Encoded:
        """Return the wanted frames of the spectrogram as ``hidden``, (1, n_frames, 80); there is no attention."""
        values = log_mel(waveform)
        kept = values if frames is None else values[np.asarray(frames, dtype=np.int64)]
        return Encoded(kept[None], None, np.zeros((0, 0, 0, len(values)), "f4"))
