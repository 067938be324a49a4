"""How the real `voxtui connect` ends, and where it has no screen: crashes, closed windows, killed shells, kinds of
terminals, redirections."""

from __future__ import annotations

import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, environment, voxd_process
from tests.support.terminals import ALTERNATE, SHELL, Terminal, agree, given_back, shows, voxtui
from voxtui.capture.sources import CLIP

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
PROMPT = "Type, and press enter"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


@pytest.fixture
def target(daemon: Daemon) -> str:
    return f"unix:{daemon.socket}"


def test_before_anything_is_connected(tmp_path: Path) -> None:
    with voxtui(tmp_path, f"unix:{tmp_path}/nobody", hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "Not connected"))
        agree(terminal, tap)
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 128 + signal.SIGTERM
        given_back(terminal)


def test_a_crash(target: str, tmp_path: Path) -> None:
    """A bug is named on a terminal that works, and the exit status is not success."""
    with voxtui(tmp_path, target, hum=True, env={"VOXTUI_TAP_CRASH": "1"}) as (terminal, _):
        terminal.until(shows(terminal, "listening"))
        terminal.process.send_signal(signal.SIGUSR2)
        assert terminal.ended() == 1
        assert "on purpose" in terminal.text()
        assert terminal.held().modes == SHELL
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_the_shell_around_it_is_killed(daemon: Daemon, tmp_path: Path) -> None:
    """With its terminal, as a terminal emulator's process dies."""
    script = f"{sys.executable} -m voxtui unix:{daemon.socket} --file {CLIP}; true"
    environ = environment(tmp_path, {"TERM": "xterm-256color"})
    terminal = Terminal(["bash", "-c", script], environ, 80, 24)
    try:
        terminal.until(lambda: ALTERNATE in terminal.held().modes and "connected" in terminal.text())
        (child,) = Path(f"/proc/{terminal.process.pid}/task/{terminal.process.pid}/children").read_text().split()
        terminal.process.kill()
        terminal.process.wait(60)
        terminal.until(lambda: not Path(f"/proc/{child}/cmdline").exists())
    finally:
        terminal.close()


# ── where there is no screen ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["dumb", "", None, "unknown", "nobody-knows-this"])
def test_terminals_without_a_screen_get_plain_text(kind: str | None, target: str, tmp_path: Path) -> None:
    environ = {"TERM": kind} if kind is not None else {}
    base = {name: value for name, value in environment(tmp_path).items() if name != "TERM"}
    terminal = Terminal([sys.executable, "-m", "voxtui", target, "--file", str(CLIP)], base | environ, 80, 24)
    try:
        assert terminal.ended() == 0
        assert "plain text, for" in terminal.text() or "plain text, for" in terminal.raw.decode()
        assert b"connected" in terminal.raw
        assert b"\x1b" not in terminal.raw
        given_back(terminal)
    finally:
        terminal.close()


@pytest.mark.parametrize("kind", ["xterm-256color", "xterm-ghostty", "tmux-256color", "alacritty", "linux", "screen"])
def test_terminals_that_this_machine_may_not_know_get_the_screen(kind: str, target: str, tmp_path: Path) -> None:
    with voxtui(tmp_path, target, hum=True, env={"TERM": kind}) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        agree(terminal, tap)


@pytest.mark.parametrize("redirection", ["</dev/null", "<&-", "| cat"])
def test_without_a_terminal_at_one_end_it_is_plain_text(redirection: str, target: str, tmp_path: Path) -> None:
    shell = f"{sys.executable} -m voxtui {target} --file {CLIP} {redirection}"
    terminal = Terminal(["bash", "-c", shell], environment(tmp_path, {"TERM": "xterm-256color"}), 80, 24)
    try:
        assert terminal.ended() == 0
        assert b"\x1b" not in terminal.raw
        assert b"connected" in terminal.raw
    finally:
        terminal.close()


def test_what_goes_to_standard_error_stays_out_of_the_screen(target: str, tmp_path: Path) -> None:
    """`2>log` neither takes the screen away nor gets it."""
    log = tmp_path / "log"
    shell = f"exec {sys.executable} -m tests.support.tapped_voxtui hum {target} 2>{log}"
    environ = environment(tmp_path, {"TERM": "xterm-256color", "VOXTUI_TAP": str(tmp_path / "tap")})
    terminal = Terminal(["bash", "-c", shell], environ, 80, 24)
    try:
        terminal.until(shows(terminal, "listening", PROMPT))
        terminal.send(b"q")
        assert terminal.ended() == 0
        assert "\x1b" not in log.read_text()
        given_back(terminal)
    finally:
        terminal.close()
