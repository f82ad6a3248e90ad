"""espeak-ng by ctypes: samples, and the time of every phone and word."""

import ctypes
import functools
from pathlib import Path

import numpy as np
from phones import from_espeak

ACCENTS = {
    "en-us": "en-us",
    "en-gb": "gmw/en",
    "en-gb-scotland": "en-gb-scotland",
    "en-gb-x-gbclan": "en-gb-x-gbclan",
    "en-gb-x-rp": "en-gb-x-rp",
    "en-gb-x-gbcwmd": "en-gb-x-gbcwmd",
    "en-029": "en-029",
    "en-us-nyc": "en-us-nyc",
}
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_WORD, _PHONE = 1, 7  # espeak_EVENT_TYPE


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique", ctypes.c_uint),
        ("position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Engine:
    """The library keeps global state, so there is one engine a process."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL("libespeak-ng.so.1")
        self.rate = self.lib.espeak_Initialize(2, 0, None, 1)  # synchronous, phone events
        self.lib.espeak_Info.restype = ctypes.c_char_p
        folder = ctypes.c_char_p()
        self.lib.espeak_Info(ctypes.byref(folder))
        self.variants = Path(folder.value.decode()) / "voices" / "!v"
        self.blocks: list[np.ndarray] = []
        self.events: list[tuple[int, int, int, str]] = []
        self._keep = _CALLBACK(self._collect)
        self.lib.espeak_SetSynthCallback(self._keep)

    def _collect(self, samples: object, count: int, events: object) -> int:
        if samples and count:
            self.blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for i in range(1_000_000):
            event = events[i]
            if not event.type:
                return 0
            if event.type in (_WORD, _PHONE):
                name = event.id.string.decode() if event.type == _PHONE else ""
                self.events.append((event.type, event.sample, event.position, name))
        return 0

    def choose(self, accent: str, variant: str) -> None:
        # An unknown variant is accepted and silently spoken with the plain voice.
        if not (self.variants / variant).is_file():
            raise ValueError(f"espeak-ng has no variant {variant!r} in {self.variants}")
        code = self.lib.espeak_SetVoiceByName(f"{ACCENTS[accent]}+{variant}".encode())
        if code:
            raise ValueError(f"espeak-ng refused voice {accent}+{variant} (code {code})")


_engine = functools.cache(_Engine)


def speak(
    text: str, accent: str, variant: str, rate: int, pitch: int
) -> tuple[np.ndarray, int, list[tuple[str, str, float, float]]]:
    """Return int16 samples, their rate, and marks (kind, label, start, end) in seconds."""
    engine = _engine()
    engine.choose(accent, variant)
    for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, 50)):
        engine.lib.espeak_SetParameter(parameter, value, 0)
    engine.blocks, engine.events = [], []
    data = text.encode("ascii")
    engine.lib.espeak_Synth(data, len(data) + 1, 0, 1, 0, 1, None, None)
    samples = np.concatenate(engine.blocks)
    return samples, engine.rate, _marks(text, accent, engine.events, len(samples), engine.rate)


def _marks(
    text: str, accent: str, events: list[tuple[int, int, int, str]], total: int, rate: int
) -> list[tuple[str, str, float, float]]:
    heard = [(sample, position, name) for kind, sample, position, name in events if kind == _PHONE]
    spans = _spans(heard, total)
    marks: list[tuple[str, str, float, float]] = []
    for name, _, start, end in spans:
        labels = from_espeak(name, accent)
        edges = np.linspace(start, end, len(labels) + 1) / rate
        marks += [("phone", label, edges[i], edges[i + 1]) for i, label in enumerate(labels)]
    return marks + _words(text, spans, rate)


def _spans(heard: list[tuple[int, int, str]], total: int) -> list[tuple[str, int, int, int]]:
    """Return (name, text position, start, end); a diacritic's time goes to the phone before it."""
    spans: list[tuple[str, int, int, int]] = []
    for i, (sample, position, name) in enumerate(heard):
        end = min(heard[i + 1][0] if i + 1 < len(heard) else total, total)
        if name == ";" and spans:
            spans[-1] = (*spans[-1][:3], end)
        elif end > sample:
            spans.append((name, position, sample, end))
    return spans


def _words(text: str, spans: list[tuple[str, int, int, int]], rate: int) -> list[tuple[str, str, float, float]]:
    """Return word marks: phones carry the text position of their word; pauses belong to none."""
    times: dict[int, list[int]] = {}
    for name, position, start, end in spans:
        if not name.startswith("_"):
            times.setdefault(position, []).extend((start, end))
    begins = sorted(times)
    words = []
    for begin, stop in zip(begins, [*begins[1:], len(text) + 1], strict=True):
        label = text[begin - 1 : stop - 1].strip(" ,.;:?!").lower()
        words.append(("word", label, min(times[begin]) / rate, max(times[begin]) / rate))
    return words
