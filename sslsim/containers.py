"""Whether an audio file holds less than its own header promises: a copy or download that was cut off.

libsndfile reads such wav, aiff and ogg files short without a word. Formats whose decoder notices (flac, mp3 with a
header of its length) are not looked at here.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

_STREAMED = (0, 0xFFFFFFFF)  # lengths that a program writes which cannot go back to fill them in
_TAIL = 1 << 17  # bytes; an ogg page is at most 65,307
_LAST_PAGE = 4  # flag of an ogg page


def cut_off(file: BinaryIO) -> str:
    """Return what is missing of a file, in words, or an empty string."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _chunks(file, size, "<", b"data")
    if head[:4] == b"RIFX" and head[8:] == b"WAVE":
        return _chunks(file, size, ">", b"data")
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return _chunks(file, size, ">", b"SSND")
    if head[:4] == b"OggS":
        return _ogg(file, size)
    return ""


def _chunks(file: BinaryIO, size: int, order: str, wanted: bytes) -> str:
    """Walk the chunks of a file until the one with the samples."""
    place, declared64 = 12, None
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"ds64":  # RF64: lengths of 64 bits, the second of which is that of the samples
            declared64 = struct.unpack("<QQ", file.read(16))[1]
        if name == wanted:
            if length == 0xFFFFFFFF and declared64:
                length = declared64
            held = size - place - 8
            if length in _STREAMED or length <= held:
                return ""
            return f"{held:,} of {length:,} bytes of samples are there"
        place += 8 + length + length % 2
    return "it ends before its samples"


def _ogg(file: BinaryIO, size: int) -> str:
    start = max(0, size - _TAIL)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return "its last page is incomplete"
    segments = tail[page + 26]
    lengths = tail[page + 27 : page + 27 + segments]
    if len(lengths) < segments or page + 27 + segments + sum(lengths) > len(tail):
        return "its last page is incomplete"
    return "" if tail[page + 5] & _LAST_PAGE else "its last page is not there"
