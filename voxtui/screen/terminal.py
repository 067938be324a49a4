"""The terminal under the screen: its input is read, however broken; when it is gone, the program ends.  Step 12.

It knows bytes and a pty; not what is drawn.  Textual's driver does the rest.
"""

from __future__ import annotations

import io
import os
import re
import selectors
import signal
import sys
from codecs import getincrementaldecoder
from typing import Any

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

SEQUENCES = re.compile("(?=\x1b)")  # what lies between two escapes is read or dropped as one
BAD_SEQUENCE = ValueError, OverflowError, LookupError, TypeError  # what Textual's parser throws at numbers nobody types


class Terminal(LinuxDriver):
    """Textual's driver on standard output, which survives broken input and notices when the terminal is gone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._file = _Screen()  # type: ignore[assignment]  # what of a text file the driver uses

    def _get_terminal_size(self) -> tuple[int, int]:
        """Columns and rows, from the terminal itself.  Textual believes COLUMNS and LINES before the terminal: programs
        that start others hand them on (Python's readline does, unasked), and they hold another terminal's size, or an
        earlier one."""
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:  # it is gone
            columns = rows = 0
        return columns or 80, rows or 24

    def run_input_thread(self) -> None:
        """Reads keys.  Bytes that are not UTF-8 and sequences that mean nothing are dropped; what is typed after them
        counts."""
        decoder = getincrementaldecoder("utf-8")("replace")
        parser = XTermParser(self._debug)
        with selectors.DefaultSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                text = ""
                if selector.select(0.1):
                    if not (data := self._read()):
                        hang_up()
                        return
                    text = decoder.decode(data).replace("\0", "")
                for piece in filter(None, SEQUENCES.split(text)):
                    try:
                        for event in parser.feed(piece):
                            self.process_message(event)
                    except BAD_SEQUENCE:
                        parser = XTermParser(self._debug)
                for event in parser.tick():
                    self.process_message(event)

    def _read(self) -> bytes:
        """Reads from the terminal; nothing means that it is gone."""
        try:
            return os.read(self.fileno, 1 << 16)
        except OSError:
            return b""


class _Screen:
    """The file to which the driver's thread writes.  A terminal that is gone takes nothing, and must not stop that
    thread, for which the program waits at its end."""

    def __init__(self) -> None:
        out = sys.__stdout__
        encoding = out.encoding if out is not None else "utf-8"
        raw = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
        self._out, self._gone = io.TextIOWrapper(raw, encoding, "replace", newline=""), False

    def write(self, text: str) -> None:
        self._try(lambda: self._out.write(text))

    def flush(self) -> None:
        self._try(self._out.flush)

    def fileno(self) -> int:
        return self._out.fileno()

    def _try(self, what: Any) -> None:
        if self._gone:
            return
        try:
            what()
        except OSError:
            self._gone = True
            hang_up()


def hang_up() -> None:
    """Sends the signal that the kernel sends when a terminal is gone, in case it did not."""
    os.kill(os.getpid(), signal.SIGHUP)
