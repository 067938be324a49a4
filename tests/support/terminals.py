"""A terminal emulator written by others (pyte) at the end of a pty in which a program runs, and what it holds."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyte

from tests.support.daemon import environment

PATIENCE_S = 60.0
ALTERNATE, CURSOR, WRAP, PASTE = 1049, 25, 7, 2004
MOUSE = {1000, 1003, 1006, 1015, 1016}
Cell = tuple[str, str, str, bool]  # sign, foreground, background, bold
SHELL = {CURSOR, WRAP}  # the modes of a terminal that nobody has changed


class Held(NamedTuple):
    """At one moment.  `modes`: the private ones that are set (DECSET)."""

    rows: list[list[Cell]]
    modes: frozenset[int]


class Emulator(pyte.Screen):
    """With the alternate screen, which pyte has not, and a copy of everything at each title that is set."""

    def __init__(self, columns: int, rows: int) -> None:
        self.told: dict[str, Held] = {}
        self._main: tuple[Any, Any] | None = None
        super().__init__(columns, rows)

    def set_mode(self, *modes: int, **options: Any) -> None:
        super().set_mode(*modes, **options)
        if options.get("private") and ALTERNATE in modes and self._main is None:
            self._main = copy.deepcopy(self.buffer), copy.copy(self.cursor)
            self.erase_in_display(2)

    def reset_mode(self, *modes: int, **options: Any) -> None:
        super().reset_mode(*modes, **options)
        if options.get("private") and ALTERNATE in modes and self._main is not None:
            (self.buffer, self.cursor), self._main = self._main, None

    def set_title(self, param: str) -> None:
        if not param.startswith(";"):  # OSC 22, the shape of the pointer, which pyte reads as OSC 2
            self.told = {param: self.held()}  # the last alone: a test that asks again and again keeps nothing

    def held(self) -> Held:
        rows = [
            [(cell.data, cell.fg, cell.bg, cell.bold) for cell in (self.buffer[y][x] for x in range(self.columns))]
            for y in range(self.lines)
        ]
        return Held(rows, frozenset(mode >> 5 for mode in self.mode if mode >= 1 << 5))


class Terminal:
    """A program on a pty of its own, as a shell starts it; its output is read all the time."""

    def __init__(
        self,
        command: list[str],
        environ: Mapping[str, str],
        columns: int,
        rows: int,
        *,
        modern: bool = False,
        slow: bool = False,
        sized: bool = True,
    ) -> None:
        """`modern`: it answers queries.  `slow`: it takes a little at a time.  `sized`: the kernel knows its size from
        the beginning, not only from the first `resize` on."""
        self._modern, self._slow, self._over = modern, slow, False
        self.master, self.slave = os.openpty()
        self.emulator = Emulator(columns, rows)
        self._stream, self._lock = pyte.ByteStream(self.emulator), threading.Lock()
        self.raw = b""
        if sized:
            self._set_size(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environ,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )
        self.pid = self.process.pid  # of the program that draws
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._over:
            if not select.select([self.master], [], [], 0.05)[0]:
                continue
            try:
                data = os.read(self.master, 97 if self._slow else 1 << 16)
            except OSError:  # EIO: nobody has the other end open any more
                return
            if self._modern:
                self._answer(data)
            with self._lock:
                self.raw += data
                self._stream.feed(data.replace(b"\x1b[<u", b""))  # kitty's keyboard protocol, which pyte would draw

    def _answer(self, data: bytes) -> None:
        """As terminals of today do: painting at once (2026), sizes told in the stream (2048, in pixels too)."""
        for query, reply in ((b"\x1b[?2026$p", b"\x1b[?2026;2$y"), (b"\x1b[?2048$p", b"\x1b[?2048;2$y")):
            if query in data:
                self.send(reply)
        if b"\x1b[?2048h" in data:
            self._tell_size()

    def _tell_size(self) -> None:
        rows, columns = self.emulator.lines, self.emulator.columns
        self.send(f"\x1b[48;{rows};{columns};{rows * 16};{columns * 8}t".encode())

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """As a window manager does: the emulator, then the kernel, which signals the program."""
        with self._lock:
            self.emulator.resize(rows, columns)
            self._set_size(columns, rows)
        os.killpg(self.process.pid, signal.SIGWINCH)
        if self._modern:
            self._tell_size()

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def held(self) -> Held:
        with self._lock:
            return self.emulator.held()

    def text(self) -> str:
        return text_of(self.held().rows)

    def title(self, wanted: str) -> Held | None:
        with self._lock:
            return self.emulator.told.get(wanted)

    def until(self, done: Callable[[], object]) -> None:
        latest = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < latest, f"not so after {PATIENCE_S} s:\n{self.text()}\n{self.raw[-2000:]!r}"
            threading.Event().wait(0.05)

    def ended(self) -> int:
        """The exit status."""
        status = self.process.wait(PATIENCE_S)
        seen = -1
        while seen != len(self.raw):  # what it wrote last is still in the pty
            seen = len(self.raw)
            threading.Event().wait(0.1)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE_S)
        self.hang_up()

    def hang_up(self) -> None:
        """The window is closed."""
        if not self._over:
            self._over = True
            self._reader.join()  # before its descriptor becomes another's
            os.close(self.slave)
            os.close(self.master)


class Pane:
    """The same in tmux: what it holds, and what the program in it believes."""

    def __init__(self, tmux: Callable[..., str], tap: Path) -> None:
        self._tmux, self._tap = tmux, tap

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._tmux("capture-pane", "-p").splitlines())

    def until(self, done: Callable[[], object]) -> None:
        latest = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < latest, f"not so after {PATIENCE_S} s:\n{self.text()}"
            threading.Event().wait(0.05)

    def agrees(self) -> bool:
        """Whether it holds what the program said just before and says again just after."""
        first, text, second = self._asked(), self.text(), self._asked()
        return first == text == second

    def _asked(self) -> str:
        before = _number(self._tap)
        os.kill(int(self._tmux("display-message", "-p", "#{pane_pid}")), signal.SIGUSR1)
        self.until(lambda: _number(self._tap) > before)
        return text_of(json.loads(self._tap.read_text())["rows"])


class Believed(NamedTuple):
    """What the program says that it shows, and what the terminal held when it said so."""

    rows: list[list[Cell]]
    held: Held


def believed(terminal: Terminal, tap: Path) -> Believed:
    """Asks through the side channel of `tests.support.tapped_voxtui`, until the program knows the terminal's size."""
    latest = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < latest, (
            f"the program believes in another size than the terminal's:\n{terminal.text()}"
        )
        before = _number(tap)
        os.kill(terminal.pid, signal.SIGUSR1)
        terminal.until(lambda before=before: _number(tap) > before)  # type: ignore[misc]
        told = json.loads(tap.read_text())
        title = f"tap {told['number']}"
        terminal.until(lambda title=title: terminal.title(title))  # type: ignore[misc]
        held = terminal.title(title)
        assert held is not None
        rows = [[(a, b, c, d) for a, b, c, d in row] for row in told["rows"]]
        if [len(row) for row in rows] == [len(row) for row in held.rows]:
            return Believed(rows, held)


def _number(tap: Path) -> int:
    return int(json.loads(tap.read_text())["number"]) if tap.exists() else 0


def text_of(rows: list[list[Cell]]) -> str:
    return "\n".join("".join(cell[0] for cell in row).rstrip() for row in rows)


@contextmanager
def voxtui(
    folder: Path,
    *args: str,
    columns: int = 80,
    rows: int = 24,
    hum: bool = False,
    env: Mapping[str, str] = {},
    **kind: bool,
) -> Iterator[tuple[Terminal, Path]]:
    """The real program, tapped.  `kind`: of terminal."""
    tap = folder / "tap"
    environ = environment(folder, {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", **env})
    environ["VOXTUI_TAP"] = str(tap)
    command = [sys.executable, "-m", "tests.support.tapped_voxtui", *(["hum"] if hum else []), *args]
    terminal = Terminal(command, environ, columns, rows, **kind)
    try:
        yield terminal, tap
    finally:
        terminal.close()


def agree(terminal: Terminal, tap: Path) -> Held:
    """At one moment every sign, colour and weight are the same; what the terminal held then.  Something moves all the
    time, and may be between two paintings when it is asked: what stays different is wrong."""
    latest = time.monotonic() + PATIENCE_S
    while (found := believed(terminal, tap)).held.rows != found.rows:
        assert time.monotonic() < latest, (text_of(found.held.rows), text_of(found.rows))
    assert found.held.modes >= {ALTERNATE, PASTE, *MOUSE} - {1016}
    assert CURSOR not in found.held.modes
    return found.held


def shows(terminal: Terminal, *words: str) -> Callable[[], bool]:
    return lambda: all(word in terminal.text() for word in words)


def given_back(terminal: Terminal) -> None:
    """As a shell has it: its own screen, a cursor, no reports, and lines with echo."""
    assert terminal.held().modes == SHELL
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert "\x1b" not in terminal.text()
