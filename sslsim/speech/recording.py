"""Sound in: a file, or a stretch of one, becomes mono float32 at 16 kHz; samples become frames."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from sslsim.errors import SslsimError, is_text
from sslsim.resources import digest, regular
from sslsim.speech.truncation import cut_off, finished, tells_length

SAMPLE_RATE = 16_000  # samples per second that every encoder here was trained on
WINDOW = 400  # samples under one frame (25 ms)
HOP = 320  # samples from one frame to the next (20 ms)
_FFMPEG = (".m4a", ".mp4", ".aac", ".webm", ".wma", ".g722")  # which libsndfile does not read
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".sph", *_FFMPEG)  # looked for in folders
SILENCE = 2.0**-15  # a sound that never leaves its mean by more, the last bit of 16 (-90 dB), is silent
LARGEST = 1e12  # floating-point samples beyond it are no sound, and their squares would soon be infinite
_CANCELLED = 1e-3  # of the power of the channels, -30 dB: what less is left in their mean is not what was said
_UNKNOWN = 2**48  # libsndfile gives a length beyond any file where a stream does not tell its own
_BLOCK = 1 << 20  # samples to skip at a time where a format cannot be entered anywhere
_EXACT = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF"}  # a seek gives the samples that reading on would
Source = str | Path | Any  # a file, or what `content` of, as of a row of a dataset, gives what a file would hold


class AudioError(SslsimError):
    """A sound that cannot be used; `reason` says why without naming it."""

    def __init__(self, source: Source, reason: str) -> None:
        super().__init__(f"audio {str(source)!r}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.source, self.reason)  # it may come from another process


@dataclass(frozen=True)
class Clock:
    """When the frames of an encoder are; the default is that of the convolutions of wav2vec 2.0 and HuBERT.

    Those have windows of 10, 3, 3, 3, 3, 2, 2 and strides of 5, 2, 2, 2, 2, 2, 2: frame i is [320 i, 320 i + 400).
    """

    hop: int = HOP  # samples from one frame to the next
    needed: int = WINDOW  # samples that there must be for the first frame
    centre: int = WINDOW // 2  # sample on which it is centred
    rate: int = SAMPLE_RATE  # samples a second that the encoder takes

    def samples(self, n_samples: int) -> int:
        """Return how many samples at this rate there are of ``n_samples`` at 16 kHz."""
        return n_samples * self.rate // SAMPLE_RATE

    def resampled(self, sound: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a sound of 16 kHz at this rate; nothing above 8 kHz comes in."""
        if self.rate == SAMPLE_RATE:
            return sound
        return np.pad(soxr.resample(sound, SAMPLE_RATE, self.rate), (0, 1))[: self.samples(len(sound))]

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames an encoder makes of ``n_samples`` samples at 16 kHz."""
        return max(0, (self.samples(n_samples) - self.needed) // self.hop + 1)

    def times(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the centres of frames, by number, in seconds from the beginning of their utterance."""
        return (self.hop * frames + self.centre) / self.rate

    @property
    def milliseconds(self) -> float:
        """From one frame to the next."""
        return 1000 * self.hop / self.rate


n_frames = Clock().n_frames


class _Stream(soundfile.SoundFile):
    """Only read on, as soundfile does not, which seeks after every read: in an mp3 that changes what comes next."""

    def seekable(self) -> bool:
        return False


class Recording(AbstractContextManager["Recording"]):
    """An open sound, of which any stretch is read, mixed to mono and resampled by itself.

    `n` is its length in samples at its own sampling rate, `rate`. It is an AudioError if it is not there, nothing that
    libsndfile reads, cut off, or without samples.
    """

    def __init__(self, source: Source) -> None:
        self.source, self._file = source, opened(source)
        self._sound: Any = None
        try:
            if not self._file.read(1):
                raise AudioError(source, "empty: 0 bytes")
            if isinstance(source, str | Path) and Path(source).suffix.lower() in _FFMPEG:
                self._file.close()
                self._file = _converted(Path(source))
            if fault := cut_off(self._file):
                raise AudioError(source, f"cut off: {fault}")
            self._file, self._exact = finished(self._file), True
            sound = self._begin_again()
            counted = sound.frames < _UNKNOWN and (sound.format != "MP3" or tells_length(self._file))
            if not counted or sound.format not in _EXACT or not sound.seekable():
                self._exact = False
                sound = self._begin_again()
            self.rate: int = sound.samplerate
            self.n: int = sound.frames if counted else self._count()
            if self.n == 0:
                raise AudioError(source, "holds no samples")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._sound:
            self._sound.close()
        self._file.close()

    def _begin_again(self) -> soundfile.SoundFile:
        if self._sound:
            self._sound.close()
        self._file.seek(0)
        self._place = 0
        with self._decoding():
            self._sound = (soundfile.SoundFile if self._exact else _Stream)(self._file)
        return self._sound

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except soundfile.LibsndfileError as error:
            told = error.error_string or "no reason given"
            if "not a regular file" in told:  # what libsndfile says of a first frame that it cannot read
                told = "Format not recognised."
            raise AudioError(self.source, f"not audio, or damaged: {told}") from error

    def _count(self) -> int:
        total = 0
        while got := len(self._decoded(1 << 13)):  # few at a time: where libsndfile ends, what is left must be seen
            total += got
        place = self._file.tell()
        if self._file.seek(0, os.SEEK_END) - place > 1 << 14:  # bytes: tags may follow the last sample
            raise AudioError(self.source, "goes on where libsndfile ends, for want of a header with its length")
        return total

    def _decoded(self, n: int) -> NDArray[np.float32]:
        with self._decoding():
            samples = self._sound.read(n, dtype="float32", always_2d=True)
        self._place += len(samples)
        return samples

    def _go_to(self, sample: int) -> None:
        """Stand at a sample, so that what is read does not depend on what was read before."""
        if self._exact and self._place != sample:
            with self._decoding():
                self._place = self._sound.seek(sample)
        if sample < self._place:  # anew: an mp3 that is wound back decodes to other last bits
            self._begin_again()
        while self._place < sample and len(self._decoded(min(_BLOCK, sample - self._place))):
            pass

    def read(self, begin: int = 0, end: int | None = None) -> NDArray[np.float32]:
        """Return the samples from `begin` to `end`, counted at its own rate, as (n,) float32 at 16 kHz.

        Channels are averaged; the stretch is resampled by soxr as if nothing stood before or after it. A sample that is
        NaN, infinite or too large raises AudioError: it would make every frame NaN.
        """
        return self.resampled(self.mono(begin, end))

    def mono(self, begin: int = 0, end: int | None = None) -> NDArray[np.float32]:
        """Return the mean of the channels, at its own rate; see `read`."""
        end = self.n if end is None else end
        self._go_to(begin)
        samples = self._decoded(end - begin)
        if len(samples) != end - begin:
            raise AudioError(self.source, f"cut off: {begin + len(samples):,} of {self.n:,} samples can be read")
        good = np.abs(samples) <= LARGEST
        if not good.all():
            bad = int(np.argmin(good.all(axis=1)))
            what = f"larger than {LARGEST:g}" if np.isfinite(samples[bad]).all() else "NaN or infinite"
            raise AudioError(self.source, f"sample {begin + bad} is {what}")
        mean = samples.mean(axis=1)
        if SILENCE**2 < np.square(samples).mean() > np.square(mean).mean() / _CANCELLED:
            raise AudioError(self.source, "its channels cancel (opposite phase); give one of them")
        return mean

    def resampled(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return samples of its own rate at 16 kHz."""
        return waveform if self.rate == SAMPLE_RATE else soxr.resample(waveform, self.rate, SAMPLE_RATE)


def _converted(path: Path) -> BinaryIO:
    """Return what ffmpeg makes of the first sound in a file, with nothing fetched; it is gone once it is closed."""
    if not shutil.which("ffmpeg"):
        what = f"{path.suffix.lower()} is read through ffmpeg"
        raise AudioError(path, f"{what}, which is not here; install it, or convert")
    command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-protocol_whitelist", "file", "-i", f"file:{path}"]
    command += ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
    file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        file.close()
        told = (getattr(error, "stderr", b"") or str(error).encode()).decode(errors="replace").split("\n")[0]
        told = re.sub(r"^\[[^]]*\] |file:.*: ", "", told)  # an address in memory, and the path
        raise AudioError(path, f"ffmpeg cannot read it: {told}") from error
    return file


def opened(source: Source) -> BinaryIO:
    """Open the bytes of a sound."""
    if not isinstance(source, str | Path):
        return io.BytesIO(source.content())
    if not is_text(str(source)):
        raise AudioError(source, "its name is not UTF-8, or has a NUL; rename it")
    try:
        return regular(source).open("rb")
    except OSError as error:
        known: dict[type, str] = {IsADirectoryError: "a folder, not a file", FileNotFoundError: "no such file"}
        raise AudioError(source, known.get(type(error), f"cannot be read: {error.strerror}")) from error


def at_16_khz(n_samples: int, rate: int) -> int:
    """Return how many samples at 16 kHz soxr makes of ``n_samples``; it rounds half up, and tests hold that."""
    return (2 * n_samples * SAMPLE_RATE + rate) // (2 * rate)


def is_silent(waveform: NDArray[np.float32]) -> bool:
    """Return whether a waveform never leaves its mean by more than ``SILENCE``."""
    return float(np.abs(waveform - waveform.mean(dtype=np.float64)).max()) <= SILENCE


def waveform_fingerprint(waveform: NDArray[np.float32]) -> str:
    """Return the SHA-256 of the samples as little-endian float32: equal iff two models were given the same."""
    return digest(np.ascontiguousarray(waveform, dtype="<f4").data)


def content_fingerprint(source: Source) -> str:
    """Return the SHA-256 of the bytes of a file or clip; of one that cannot be read, of the reason."""
    try:
        with opened(source) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (AudioError, OSError) as error:
        reason = error.reason if isinstance(error, AudioError) else str(error.strerror)
        return digest(reason.encode())
