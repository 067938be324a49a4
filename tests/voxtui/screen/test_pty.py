"""The real `voxtui connect` in a pty, against a real daemon: what a terminal emulator holds is what the app believes.

Cell by cell, with colours; and the terminal is given back as it was, however the program ends."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, environment, voxd_process
from tests.support.terminals import ALTERNATE, SHELL, Terminal, agree, given_back, shows, voxtui

pytestmark = pytest.mark.timeout(600)
PROMPT = "Type, and press enter"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


@pytest.fixture
def target(daemon: Daemon) -> str:
    return f"unix:{daemon.socket}"


# ── while it runs ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_size_in_the_environment_is_not_believed(target: str, tmp_path: Path) -> None:
    """Who starts voxtui may hand on COLUMNS and LINES of a terminal of another size."""
    wrong = {"COLUMNS": "132", "LINES": "20"}
    with voxtui(tmp_path, target, hum=True, env=wrong) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        agree(terminal, tap)


def test_sizes_come_and_go(target: str, tmp_path: Path) -> None:
    with voxtui(tmp_path, target, hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        for columns, rows in ((160, 48), (60, 18), (20, 4), (100, 30), (81, 25), (80, 24)):
            terminal.resize(columns, rows)
            wanted = "too small" if columns < 60 else PROMPT
            terminal.until(lambda wanted=wanted: wanted in " ".join(terminal.text().split()))
            held = agree(terminal, tap)
            assert (len(held.rows[0]), len(held.rows)) == (columns, rows)


def test_a_conversation(target: str, tmp_path: Path) -> None:
    with voxtui(tmp_path, target, hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        terminal.send(b"i")
        terminal.until(shows(terminal, "enter send"))
        terminal.send("naïve [b]x[/b]".encode())
        terminal.until(shows(terminal, "naïve"))
        agree(terminal, tap)
        terminal.send(b"\r")
        terminal.until(shows(terminal, "esc back", "naïve"))
        agree(terminal, tap)
        terminal.send(b"\x1b")
        terminal.until(shows(terminal, "q quit"))
        terminal.send(b"?")
        terminal.until(lambda: "push-to-talk" in terminal.text() and "listening" in terminal.text())
        agree(terminal, tap)


def test_a_paste_keeps_its_lines(daemon: Daemon, target: str, tmp_path: Path) -> None:
    """Pasted lines go into the conversation as lines, wherever the focus was."""
    with voxtui(tmp_path, target, hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        terminal.send(b"\x1b[200~first line\r\nsecond\ttabbed\n\nthird line\x1b[201~")
        terminal.until(shows(terminal, "first line↵second tabbed↵↵third", "line"))
        agree(terminal, tap)
        terminal.send(b"\r")
        terminal.until(lambda: re.search(r"first line\s*\n.*second tabbed\s*\n(.*\n)?.*third", terminal.text()))
        agree(terminal, tap)


def test_a_huge_paste(target: str, tmp_path: Path) -> None:
    with voxtui(tmp_path, target, hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        terminal.send(b"i\x1b[200~")
        for number in range(100):
            terminal.send(f"{number} {'x' * 1000}\n".encode())
        terminal.send(b"\x1b[201~")
        terminal.until(shows(terminal, "0 xxxx"))
        agree(terminal, tap)


# ── how it ends ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT"])
def test_a_signal_gives_the_terminal_back(name: str, target: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    with voxtui(tmp_path, target, hum=True) as (terminal, _):
        terminal.until(shows(terminal, "listening"))
        os.killpg(terminal.process.pid, number)
        assert terminal.ended() == 128 + number
        given_back(terminal)
        assert "Traceback" not in terminal.text()


@pytest.fixture
def in_a_shell(target: str, tmp_path: Path) -> Iterator[tuple[Terminal, Path]]:
    """As a person starts it: in a shell with job control.  `terminal.pid` is the program's."""
    tap = tmp_path / "tap"
    kind = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", "PS1": "$ "}
    environ = environment(tmp_path, {**kind, "VOXTUI_TAP": str(tap)})
    terminal = Terminal(["bash", "--norc", "--noprofile", "-i"], environ, 80, 24)
    try:
        terminal.until(shows(terminal, "$"))
        terminal.send(f"{sys.executable} -m tests.support.tapped_voxtui hum {target}\n".encode())
        terminal.until(lambda: ALTERNATE in terminal.held().modes and "listening" in terminal.text())
        (child,) = Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()
        terminal.pid = int(child)
        yield terminal, tap
    finally:
        terminal.close()


@pytest.mark.parametrize("by", ["ctrl-z", "SIGTSTP", "SIGSTOP"])
def test_stopped_and_continued(by: str, in_a_shell: tuple[Terminal, Path]) -> None:
    """Again and again: a signal may come in the middle of a painting."""
    terminal, tap = in_a_shell
    for _ in range(3):
        agree(terminal, tap)
        if by == "ctrl-z":
            terminal.send(b"\x1a")
        else:
            os.kill(terminal.pid, signal.Signals[by])
        terminal.until(lambda: "(stopped)" in Path(f"/proc/{terminal.pid}/status").read_text())
        terminal.until(shows(terminal, "Stopped"))
        if by != "SIGSTOP":  # which nobody can answer
            assert terminal.held().modes >= SHELL
            assert ALTERNATE not in terminal.held().modes
        terminal.send(b"echo between\nfg\n")
        terminal.until(lambda: "listening" in terminal.text() and "Stopped" not in terminal.text())
        assert ALTERNATE in terminal.held().modes
        terminal.send(b"m")
        terminal.until(shows(terminal, "○ muted"))
        terminal.send(b"m")
        terminal.until(shows(terminal, "○ listening"))
    terminal.send(b"q")
    terminal.until(lambda: ALTERNATE not in terminal.held().modes)
    terminal.send(b"echo ended $?\n")
    terminal.until(shows(terminal, "ended 0"))
    assert terminal.held().modes >= SHELL
    assert not terminal.held().modes & {1000, 1003, 1006}


def test_where_nobody_could_let_it_go_on_it_does_not_stop(target: str, tmp_path: Path) -> None:
    """A terminal's only program: as the kernel has it for programs that do not handle the signal."""
    with voxtui(tmp_path, target, hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "listening"))
        terminal.send(b"\x1a")
        os.kill(terminal.pid, signal.SIGTSTP)
        terminal.send(b"m")
        terminal.until(shows(terminal, "○ muted"))
        agree(terminal, tap)


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_a_terminal_that_goes_away_ends_it(ignored: bool, target: str, tmp_path: Path) -> None:
    """The window is closed: the kernel says so; where its signal is ignored, reads and writes fail."""
    with voxtui(tmp_path, target, hum=True, env={"VOXTUI_TAP_NOHUP": "1"} if ignored else {}) as (terminal, _):
        terminal.until(shows(terminal, "listening"))
        if ignored:
            os.killpg(terminal.pid, signal.SIGHUP)
            terminal.send(b"m")
            terminal.until(shows(terminal, "○ muted"))
        terminal.hang_up()
        assert terminal.process.wait(60) == 128 + signal.SIGHUP


def test_quit(target: str, tmp_path: Path) -> None:
    with voxtui(tmp_path, target, hum=True) as (terminal, _):
        terminal.until(shows(terminal, "q quit"))
        terminal.send(b"q")
        assert terminal.ended() == 0
        given_back(terminal)
