"""The screen in a real terminal: tmux, a real daemon, real speech; what a person would see, row by row."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import voxd_process
from tests.support.fakes import short_folder
from voxtui.capture.sources import CLIP
from voxtui.commands.local import NEEDED

PATIENCE_S = 240.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra [whisper]"
    ),
]


class Terminal:
    """One tmux of its own."""

    def __init__(self, folder: Path, columns: int, rows: int) -> None:
        self._socket, self._size = str(folder / "tmux"), ("-x", str(columns), "-y", str(rows))

    def _tmux(self, *args: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", self._socket, *args]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self._environ).stdout

    @property
    def _environ(self) -> dict[str, str]:
        return {**os.environ, "LANG": "C.UTF-8", "TERM": "xterm-256color"}

    def run(self, *program: str) -> None:
        self._tmux("new-session", "-d", *self._size, *program)
        self._tmux("set-option", "-g", "remain-on-exit", "on")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def until(self, done: Callable[[str], bool]) -> str:
        latest = time.monotonic() + PATIENCE_S
        while not done(seen := self.screen()):
            assert time.monotonic() < latest, f"not seen after {PATIENCE_S} s:\n{seen}"
            threading.Event().wait(0.1)
        return seen

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with short_folder() as folder:
        opened = Terminal(folder, 100, 30)
        try:
            yield opened
        finally:
            opened.close()


def words(screen: str) -> str:
    """What is written, without borders and line ends."""
    return " ".join("".join(c if c.isalnum() or c in "'-" else " " for c in screen).split())


def test_words_while_the_clip_still_plays(terminal: Terminal, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with voxd_process("--transcribe", "whisper") as daemon:
        home = tmp_path / "home"
        (home / ".config" / "voxtui").mkdir(parents=True)
        (home / ".config" / "voxtui" / "config.yaml").write_text(f"keep_in: {kept}\n")
        environ = ("env", f"HOME={home}", "XDG_CONFIG_HOME=")
        terminal.run(*environ, sys.executable, "-m", "voxtui", f"unix:{daemon.socket}", "--file", str(CLIP))
        early = terminal.until(lambda screen: "leisure to consider" in words(screen))
        assert "amiable himself" not in words(early)
        terminal.until(lambda screen: "amiable himself" in words(screen))
        late = terminal.until(lambda screen: "The clip is over" in screen)
        assert "final" in late
        assert "\x1b" not in late
        terminal.press("q")
        gone = terminal.until(lambda screen: "kept in" in screen.replace("\n", " "))
    assert str(kept) in gone.replace("\n", "")
    (file,) = kept.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "leisure to consider" in file.read_text()
    assert "amiable himself" in file.read_text()
