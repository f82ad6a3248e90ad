"""Training audio: crops and whole utterances from the generated sets."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from fast import STRIDE, frames_in, samples_for
from paths import BUILD, SPEECH
from torch import Tensor

CROP_FRAMES = 149  # three seconds


@dataclass(frozen=True)
class Corpus:
    """One set: all samples in one array, and the text of each utterance."""

    name: str

    @property
    def folder(self) -> Path:
        """Where the set's tables are."""
        return SPEECH if self.name == "analysis" else BUILD / "speech" / self.name

    @cached_property
    def samples(self) -> np.ndarray:
        """All samples of the set, int16, one utterance after another."""
        if self.name == "analysis":
            return np.concatenate(self._files)
        return np.load(self.folder / "samples.npy", mmap_mode="r")

    @cached_property
    def bounds(self) -> np.ndarray:
        """Where each utterance begins in `samples`, and where the last one ends."""
        if self.name == "analysis":
            return np.cumsum([0, *map(len, self._files)])
        return np.load(self.folder / "bounds.npy")

    @cached_property
    def _files(self) -> list[np.ndarray]:
        return [soundfile.read(self.folder / row["path"], dtype="int16")[0] for row in self.rows]

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """The rows of the manifest."""
        with open(self.folder / "manifest.csv", newline="") as file:
            return list(csv.DictReader(file))

    @cached_property
    def frames(self) -> np.ndarray:
        """The number of frames of each utterance."""
        return np.array([frames_in(int(n)) for n in np.diff(self.bounds)])

    def wave(self, i: int) -> np.ndarray:
        """Return utterance i, float32, full scale 1."""
        return np.asarray(self.samples[self.bounds[i] : self.bounds[i + 1]], np.float32) / 32768

    def crops(self, batch: int, among: int | None = None) -> tuple[Tensor, list[tuple[int, int]]]:
        """Return crops (each from one utterance) and (utterance, first frame) of each.

        Crops begin on the frame grid of their utterance, so its units can be cut alike.
        `among` keeps to the first so many utterances.
        """
        long = np.flatnonzero(self.frames[:among] > CROP_FRAMES)
        chosen = long[torch.randint(len(long), (batch,)).numpy()]
        starts = [int(torch.randint(int(self.frames[i]) - CROP_FRAMES, ())) for i in chosen]
        length = samples_for(CROP_FRAMES)
        waves = [self.wave(i)[STRIDE * s : STRIDE * s + length] for i, s in zip(chosen, starts, strict=True)]
        wave = normalised(torch.from_numpy(np.stack(waves)))
        return with_noise(wave), list(zip(chosen.tolist(), starts, strict=True))


def normalised(wave: Tensor) -> Tensor:
    """Return the waveform with zero mean and unit variance, as the feature extractors do."""
    return (wave - wave.mean(-1, keepdim=True)) / torch.sqrt(wave.var(-1, keepdim=True) + 1e-7)


def with_noise(wave: Tensor) -> Tensor:
    """Add white noise between -26 and -60 dB and a gain of up to 3 dB either way."""
    level = 10 ** -(1.3 + 1.7 * torch.rand(len(wave), 1))
    gain = 10 ** ((torch.rand(len(wave), 1) - 0.5) * 0.3)
    return gain * (wave + level * torch.randn_like(wave))
