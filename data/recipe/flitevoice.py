"""flite by ctypes: samples, and the time of every phone and word."""

import ctypes
import functools

import numpy as np

VOICES = {"rms": "cmu_us_rms", "slt": "cmu_us_slt", "awb": "cmu_us_awb", "kal16": "cmu_us_kal16"}


class _Voice(ctypes.Structure):  # the head of cst_voice
    _fields_ = [("name", ctypes.c_char_p), ("features", ctypes.c_void_p)]


class _Wave(ctypes.Structure):  # cst_wave
    _fields_ = [
        ("type", ctypes.c_char_p),
        ("rate", ctypes.c_int),
        ("count", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


_RESULTS = {
    "flite_synth_text": ctypes.c_void_p,
    "utt_wave": ctypes.POINTER(_Wave),
    "utt_relation": ctypes.c_void_p,
    "relation_head": ctypes.c_void_p,
    "item_next": ctypes.c_void_p,
    "item_feat_string": ctypes.c_char_p,
    "item_feat_float": ctypes.c_float,
    "item_as": ctypes.c_void_p,
    "item_parent": ctypes.c_void_p,
}


@functools.cache
def _library() -> ctypes.CDLL:
    lib = ctypes.CDLL("libflite.so.1", ctypes.RTLD_GLOBAL)
    for part in ("usenglish", "cmulex"):
        ctypes.CDLL(f"libflite_{part}.so.1", ctypes.RTLD_GLOBAL)
    lib.flite_init()
    for name, kind in _RESULTS.items():
        getattr(lib, name).restype = kind
    return lib


@functools.cache
def _voice(name: str) -> ctypes.c_void_p:
    _library()
    plugin = ctypes.CDLL(f"libflite_{VOICES[name]}.so.1", ctypes.RTLD_GLOBAL)
    register = getattr(plugin, f"register_{VOICES[name]}")
    register.restype = ctypes.c_void_p
    return ctypes.c_void_p(register(None))


def speak(text: str, voice: str, stretch: float) -> tuple[np.ndarray, int, list[tuple[str, str, float, float]]]:
    """Return int16 samples, their rate, and marks (kind, label, start, end) in seconds."""
    lib, handle = _library(), _voice(voice)
    features = ctypes.cast(handle, ctypes.POINTER(_Voice)).contents.features
    lib.feat_set_float(ctypes.c_void_p(features), b"duration_stretch", ctypes.c_float(stretch))
    utterance = ctypes.c_void_p(lib.flite_synth_text(text.encode("ascii"), handle))
    wave = lib.utt_wave(utterance).contents
    samples = np.ctypeslib.as_array(wave.samples, (wave.count,)).copy()
    marks = _marks(lib, utterance, wave.count / wave.rate)
    rate = wave.rate
    lib.delete_utterance(utterance)
    return samples, rate, marks


def _marks(lib: ctypes.CDLL, utterance: ctypes.c_void_p, duration: float) -> list[tuple[str, str, float, float]]:
    phones, words, start = [], {}, 0.0
    item = lib.relation_head(ctypes.c_void_p(lib.utt_relation(utterance, b"Segment")))
    while item:
        here = ctypes.c_void_p(item)
        end = min(lib.item_feat_float(here, b"end"), duration)
        if end > start:
            phones.append(("phone", lib.item_feat_string(here, b"name").decode(), start, end))
            if word := _word(lib, here):
                words.setdefault(word, []).extend((start, end))
        start, item = end, lib.item_next(here)
    return phones + [("word", label, min(t), max(t)) for (_, label), t in words.items()]


def _word(lib: ctypes.CDLL, segment: ctypes.c_void_p) -> tuple[int, str] | None:
    """Return the word (its address and name) that a segment belongs to; a pause has none."""
    item = lib.item_as(segment, b"SylStructure")
    for _ in range(2):  # segment -> syllable -> word
        item = lib.item_parent(ctypes.c_void_p(item)) if item else None
    return (item, lib.item_feat_string(ctypes.c_void_p(item), b"name").decode()) if item else None
