"""The terminal under the screen: its input is read, however broken; it is given back while the program is stopped; when
it is gone, the program ends.  Step 12.

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
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Resize
from textual.geometry import Size
from textual.message import Message

SEQUENCES = re.compile("(?=\x1b)")  # what lies between two escapes is read or dropped as one
BAD_SEQUENCE = ValueError, OverflowError, LookupError, TypeError  # what Textual's parser throws at numbers nobody types


class Terminal(LinuxDriver):
    """Textual's driver on standard output, which survives broken input and notices when the terminal is gone."""

    class Gone(Message):
        """There is no terminal any more.  The kernel says so too, but not to who ignores SIGHUP."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._file = _Screen(self._hang_up)  # type: ignore[assignment]  # what of a text file the driver uses
        # Between two callbacks: Textual's handlers run in the middle of a write, whose lock they then wait for.
        self._loop.add_signal_handler(signal.SIGTSTP, self._sigtstp_application)
        self._loop.add_signal_handler(signal.SIGCONT, self._sigcont_application)

    def _sigtstp_application(self, *_: object) -> None:
        """Gives the terminal back and stops; not where nobody could let it go on, as the kernel has it, too."""
        if _has_shell():
            super()._sigtstp_application()

    def _sigcont_application(self, *_: object) -> None:
        """Goes on where it was.  Who was stopped by SIGSTOP has not given the terminal back, and the shell has changed
        it since."""
        if self._writer_thread is None:  # not begun
            return
        if not self._must_signal_resume:
            self.suspend_application_mode()
        super()._sigcont_application()
        self._app.refresh(layout=True)

    def _hang_up(self) -> None:
        """Of any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self.send_message(self.Gone())

    def _get_terminal_size(self) -> tuple[int, int]:
        """Columns and rows, from the terminal itself.  Textual believes COLUMNS and LINES before the terminal: programs
        that start others hand them on (Python's readline does, unasked), and they hold another terminal's size, or an
        earlier one."""
        try:
            columns, rows = os.get_terminal_size(1)
        except OSError:  # it is gone
            columns = rows = 0
        return columns or 80, rows or 24

    def process_message(self, message: Message) -> None:
        """Passes on what the terminal said.  A size in its stream (mode 2048) is asked of the kernel: what is typed or
        pasted can look like one, and a screen of no rows would stay so."""
        if isinstance(message, Resize):
            size = Size(*self._get_terminal_size())
            message = Resize(size, size, size, message.pixel_size)
        super().process_message(message)

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
                        self._hang_up()
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


def _has_shell() -> bool:
    """Whether a shell of this terminal can let the program go on (its process group is not orphaned)."""
    parent = os.getppid()
    return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()


class _Screen:
    """The file to which the driver's thread writes.  A terminal that is gone takes nothing, and must not stop that
    thread, for which the program waits at its end."""

    def __init__(self, hang_up: Callable[[], None]) -> None:
        self._hang_up = hang_up
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
            self._hang_up()
