"""The real `voxtui connect` in a pty, against a real daemon: what a terminal emulator holds is what the app believes.

Cell by cell, with colours; and the terminal is given back as it was, however the program ends."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, voxd_process
from tests.support.terminals import agree, given_back, shows, voxtui

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


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (160, 48), (60, 18)])
@pytest.mark.parametrize("modern", [False, True], ids=["plain", "modern"])
def test_the_first_screen(target: str, columns: int, rows: int, modern: bool, tmp_path: Path) -> None:
    """With a microphone and a responder, before any key: one row of the voice, and the line to type into."""
    with voxtui(tmp_path, target, columns=columns, rows=rows, hum=True, modern=modern) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        assert not re.search(r"○ off", terminal.text())
        agree(terminal, tap)
        assert not re.search(r"○ off", terminal.text())


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
    """Wherever the focus was; into the conversation they go as lines."""
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


def test_quit(target: str, tmp_path: Path) -> None:
    with voxtui(tmp_path, target, hum=True) as (terminal, _):
        terminal.until(shows(terminal, "q quit"))
        terminal.send(b"q")
        assert terminal.ended() == 0
        given_back(terminal)
