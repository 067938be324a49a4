"""Splits a chained Ogg file into its links, one after the other.  Step 5, for files; RFC 3533.

A chained file is several Ogg files in a row, as radio recordings are, and each may have another codec or rate; decoders
stop at the second or refuse it.  Pure: it reads pages from whatever it is given, and knows no codec.

Bound: one page, 65 307 bytes.
"""

from __future__ import annotations

from typing import Protocol

MARK = b"OggS"
HEADER = 27  # bytes before the table of segments
FIRST, LAST = 2, 4  # flags: of the first page of a stream, and of its last one


class Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Links:
    """`read` gives the bytes of one link, then nothing; after `go_on` those of the next."""

    def __init__(self, file: Reader) -> None:
        self._file = file
        self.cut = False  # a link ended without the end marks of its streams, or within a page
        self._page = self._next_page()
        self._ready = b""
        self._begun = False  # a page that is no first one was given: the next first page begins another link
        self._open: set[bytes] = set()  # serial numbers of streams that have begun and not ended

    def read(self, size: int) -> bytes:
        if not self._ready:
            if not self._page or (self._begun and self._page[5] & FIRST):
                return b""
            self._ready = self._note(self._page)
            self._page = self._next_page()
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def go_on(self) -> bool:
        """Goes to the next link, past the unread rest of this one.  Returns whether there is one."""
        while self.read(1 << 16):
            pass
        self.cut = self.cut or bool(self._open)
        self._open.clear()
        self._begun = False
        return bool(self._page)

    def _note(self, page: bytes) -> bytes:
        flags, serial = page[5], page[14:18]
        self._begun = self._begun or not flags & FIRST
        if flags & FIRST:
            self._open.add(serial)
        if flags & LAST:
            self._open.discard(serial)
        return page

    def _next_page(self) -> bytes:
        """The next whole page; bytes that belong to no page are passed over.  Empty at the end."""
        head = self._exactly(HEADER)
        while len(head) == HEADER and not head.startswith(MARK):
            at = head.find(MARK[:1], 1)
            head = head[at:] if at > 0 else b""
            head += self._exactly(HEADER - len(head))
        if len(head) < HEADER:
            self.cut = self.cut or bool(head)
            return b""
        table = self._exactly(head[26])
        body = self._exactly(sum(table))
        if len(table) < head[26] or len(body) < sum(table):
            self.cut = True
            return b""
        return head + table + body

    def _exactly(self, size: int) -> bytes:
        """Reads exactly so many bytes, from a pipe too; fewer only at the end."""
        found = b""
        while len(found) < size and (more := self._file.read(size - len(found))):
            found += more
        return found
