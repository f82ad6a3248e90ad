"""Whether an audio file holds less than its own header promises: a copy or download that was cut off.

libsndfile reads such wav, w64, aiff, au, caf, sphere and ogg files short without a word. Formats whose decoder notices
(flac, mp3 with a header of its length) are not looked at here.
"""

import io
import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

_STREAMED = (0, 0xFFFFFFFF)  # lengths that a program writes which cannot go back to fill them in
_ORDERS = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}  # of the bytes of a wav's numbers


def cut_off(file: BinaryIO) -> str:
    """Return what is missing of a file, in words, or an empty string."""
    size, head = _beginning(file)
    kind, form = head[:4], head[8:]
    if kind in _ORDERS and form == b"WAVE":
        return _chunks(file, size, f"{_ORDERS[kind]}4sI", b"data")
    if kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        return _chunks(file, size, ">4sI", b"SSND")
    if kind == b"caff":
        return _chunks(file, size, ">4sq", b"data", 8)
    if kind == b"OggS":
        return _ogg(file, size)
    if kind == b".snd":
        start, length = struct.unpack(">II", head[4:].ljust(8, b"\0"))
        return "" if length in _STREAMED else _missing(length, size - start)
    if head[:7] == b"NIST_1A":
        return _sphere(file, size)
    if head == b"riff.\x91\xcf\x11\xa5\xd6\x28\xdb":  # W64: the length of the whole file, in 64 bits
        file.seek(16)
        length = int.from_bytes(file.read(8), "little")
        return f"{size:,} of {length:,} bytes are there" if size < length < 2**63 else ""
    return ""


def tells_length(file: BinaryIO) -> bool:
    """Return whether an mp3 says how long it is: else libsndfile guesses from the rate of its first frame."""
    _, head = _beginning(file)
    tagged = head[:3] == b"ID3" and len(head) >= 10  # a tag, whose length has seven bits a byte, comes first
    file.seek(10 + sum((byte & 0x7F) << 7 * i for i, byte in enumerate(head[9:5:-1])) if tagged else 0)
    first = file.read(1024)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


def finished(file: BinaryIO) -> BinaryIO:
    """Return the file, or a copy in memory where a wav's length was never filled in: libsndfile takes 0 for none."""
    size, head = _beginning(file)
    order = _ORDERS.get(head[:4])
    if head[8:] != b"WAVE" or order is None or struct.unpack(f"{order}I", head[4:8])[0] + 8 == size:
        return file
    chunks = (chunk for chunk in _walk(file, size, f"{order}4sI") if chunk[0] == b"data")
    _, length, start = next(chunks, (b"", 0, size))
    if length or start >= size:
        return file
    file.seek(0)
    content = bytearray(file.read())
    content[4:8] = content[start - 4 : start] = b"\xff" * 4
    file.close()
    return io.BytesIO(content)


def _beginning(file: BinaryIO) -> tuple[int, bytes]:
    """Return the size of a file and its first 12 bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size, file.read(12)


def _walk(file: BinaryIO, size: int, header: str, place: int = 12) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, length and beginning of each chunk; those with lengths of 32 bits begin at even places."""
    width = struct.calcsize(header)
    while place + width <= size:
        file.seek(place)
        name, length = struct.unpack(header, file.read(width))
        yield name, length, place + width
        place += width + max(length, 0) + (length % 2 if width == 8 else 0)


def _missing(length: int, held: int) -> str:
    return f"{max(0, held):,} of {length:,} bytes of samples are there" if held < length else ""


def _chunks(file: BinaryIO, size: int, header: str, wanted: bytes, place: int = 12) -> str:
    declared64 = None
    for name, length, start in _walk(file, size, header, place):
        if name == b"ds64":  # RF64: lengths of 64 bits, the second of which is that of the samples
            declared64 = struct.unpack("<QQ", file.read(16).ljust(16, b"\0"))[1]
        if name == wanted:  # in caf the length is -1 where they reach to the end
            told = declared64 if length == 0xFFFFFFFF and declared64 else length
            return "" if told in _STREAMED else _missing(told, size - start)
    return "it ends before its samples"


def _sphere(file: BinaryIO, size: int) -> str:
    """Look at the text at the beginning of a NIST SPHERE file, such as those of TIMIT."""
    file.seek(0)
    header = file.read(1024)
    found = {k: int(v) for k, v in re.findall(rb"\b(sample_count|sample_n_bytes|channel_count) -i (\d+)", header)}
    start = re.match(rb"NIST_1A\s+(\d+)", header)
    if start is None or b"-s3 pcm" not in header or not {b"sample_count", b"sample_n_bytes"} <= found.keys():
        return ""
    length = found[b"sample_count"] * found[b"sample_n_bytes"] * found.get(b"channel_count", 1)
    return _missing(length, size - int(start[1]))


def _ogg(file: BinaryIO, size: int) -> str:
    file.seek(max(0, size - (1 << 17)))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    segments = tail[page + 26] if 0 <= page < len(tail) - 26 else len(tail)  # those of a torn page do not fit
    lengths = tail[page + 27 : page + 27 + segments]
    if len(lengths) < segments or page + 27 + segments + sum(lengths) > len(tail):
        return "its last page is incomplete"
    last = tail[page + 5] & 4  # the flag of it
    return "" if last else "its last page is not there"
