"""What the header of a WAV file says about its length, and whether that can be true.  Step 5, for files.

Programs that are killed, or that write into a pipe, leave a length of 0, of 4 GiB, or of the sound that was there when
they last looked.  It reads chunk headers from a file that can seek, and knows nothing of samples.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

UNKNOWN = 0x7FFF0000  # bytes: what is written where the length was not known is this or more, or 0
SLACK_S = 0.05  # so much behind the sound is a tag or padding, whatever it looks like
IDS = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">"}


@dataclass(frozen=True, slots=True)
class Header:
    """`size`: bytes of sound as the header says, None if it says nothing; `rate`: bytes/s.  `there`: up to the end of
    the file.  `runs_on`: what lies behind them is sound too.  `another`: behind them begins another WAV file."""

    size: int | None
    there: int
    rate: int
    runs_on: bool = False
    another: bool = False

    @property
    def missing_s(self) -> float:
        """Seconds of sound that the header promises and the file does not have."""
        return max(0, self.size - self.there) / self.rate if self.size is not None and self.rate else 0.0


def is_wav(start: bytes) -> bool:
    """Whether these first 12 bytes of a file (`start`) are those of a WAV."""
    return start[:4] in IDS and start[8:12] == b"WAVE"


def read_header(file: BinaryIO) -> Header | None:
    """Reads the header of a WAV file; None if no sound begins in it.  The position of the file is kept."""
    before = file.tell()
    try:
        end = file.seek(0, 2)
        file.seek(0)
        order = IDS.get(file.read(12)[:4], "<")
        return _walk(file, order, end)
    finally:
        file.seek(before)


def _walk(file: BinaryIO, order: str, end: int) -> Header | None:
    at, rate, wide = 12, 0, 0
    while (chunk := _chunk(file, at, order)) is not None:
        name, size = chunk
        if name == b"fmt ":
            (rate,) = struct.unpack(f"{order}I", file.read(12)[8:].ljust(4, b"\0"))
        elif name == b"ds64":
            (wide,) = struct.unpack(f"{order}Q", file.read(16)[8:].ljust(8, b"\0"))
        elif name == b"data":
            there = end - at - 8
            told = wide if size == 0xFFFFFFFF else size
            if told == 0 or (told >= UNKNOWN and told > there):
                return Header(None, there, rate, _runs_on(file, at + 8, order, end, rate))
            behind = at + 8 + told
            another = any(is_wav(_start(file, behind + pad)) for pad in (0, 1))
            return Header(told, there, rate, not another and _runs_on(file, behind, order, end, rate), another)
        at += 8 + size + size % 2
    return None


def _runs_on(file: BinaryIO, at: int, order: str, end: int, rate: int) -> bool:
    """Whether sound begins here, and not chunks up to the end of the file.  An odd chunk may have lost its padding."""
    return end - at > max(8.0, SLACK_S * rate) and not any(_chunks(file, at + pad, order, end) for pad in (0, 1))


def _chunks(file: BinaryIO, at: int, order: str, end: int) -> bool:
    while end - at >= 8:
        chunk = _chunk(file, at, order)
        if chunk is None or not all(32 <= each < 127 for each in chunk[0]):
            return False
        at += 8 + chunk[1] + chunk[1] % 2
    return at <= end + 1


def _start(file: BinaryIO, at: int) -> bytes:
    file.seek(at)
    return file.read(12)


def _chunk(file: BinaryIO, at: int, order: str) -> tuple[bytes, int] | None:
    file.seek(at)
    head = file.read(8)
    if len(head) < 8:
        return None
    name, size = struct.unpack(f"{order}4sI", head)
    return name, size
