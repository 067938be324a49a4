"""Reads server-sent events: bytes in any pieces in, the data of each event out.  Step 8, for the engine `cascade`.

Pure.  It follows the HTML standard, and llama.cpp in calling a field `error`; it does not know what the data means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LIMIT = 1 << 20  # bytes of one event, and of one line; a delta takes a few hundred
LINES = 1 << 18  # of one stream, eight times as many as an answer has; empty lines cost time, too
_END = re.compile(rb"\r\n|\r|\n")


class Events:
    """Lines end in LF, CR or CR LF, whatever piece they come in; they are decoded whole, so no character is torn."""

    def __init__(self) -> None:
        self._line = bytearray()  # what has come of the current one
        self._after_cr = False  # a LF that comes now belongs to the line before
        self._first = True
        self._data: list[str] = []
        self._size = 0  # bytes of the lines in it
        self._lines = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """Raises ValueError for a line, an event or a stream without end."""
        if self._after_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        start = 0
        for end in _END.finditer(piece):
            self._line += piece[start : end.start()]
            start = end.end()
            self._size += len(self._line) + 1
            self._lines += 1
            if self._size > LIMIT or self._lines > LINES:
                raise ValueError(f"more than {LIMIT} bytes in an event, or {LINES} lines")
            yield from self._take_line()
        self._after_cr = self._after_cr or piece.endswith(b"\r")
        self._line += piece[start:]
        if len(self._line) > LIMIT:
            raise ValueError(f"a line of more than {LIMIT} bytes")

    def finish(self) -> Iterator[str]:
        """The end of the stream.  The standard drops an event that no empty line has closed; some servers forget it."""
        yield from self.feed(b"\n\n")

    def _take_line(self) -> Iterator[str]:
        line = self._line.decode("utf-8", "replace")
        self._line.clear()
        if self._first:
            line, self._first = line.removeprefix("\ufeff"), False
        if not line:
            data, self._data, self._size = self._data, [], 0
            if data:
                yield "\n".join(data)
            return
        name, _, value = line.partition(":")
        if name in ("data", "error"):
            self._data.append(value.removeprefix(" "))
