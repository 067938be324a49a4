"""What a terminal holds is what the app believes after every change of the layout, in every kind of terminal."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, voxd_process
from tests.support.terminals import Terminal, agree, shows, voxtui

pytestmark = pytest.mark.timeout(600)
PROMPT = "Type, and press enter"
KINDS: dict[str, dict[str, bool]] = {
    "plain": {},
    "modern": {"modern": True},
    "slow": {"slow": True},
    "sized late": {"sized": False},
}


@pytest.fixture(scope="module")
def talking() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


@pytest.fixture(scope="module")
def writing() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo") as running:
        yield running


def one_row_of_the_voice(terminal: Terminal) -> None:
    """No part of an earlier layout is left."""
    assert (
        len(
            re.findall(
                r"[○●◐◌] (off|muted|sound kept|no sound|talking|finishing|space|speaking|listening)", terminal.text()
            )
        )
        == 1
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("responder", [True, False], ids=["talking", "writing"])
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 30), (60, 18)])
def test_the_first_screen(
    kind: str, responder: bool, columns: int, rows: int, talking: Daemon, writing: Daemon, tmp_path: Path
) -> None:
    """Before any key: the voice, and the line to type into where somebody answers."""
    target = f"unix:{(talking if responder else writing).socket}"
    with voxtui(tmp_path, target, columns=columns, rows=rows, hum=True, **KINDS[kind]) as (terminal, tap):
        if kind == "sized late":
            terminal.until(lambda: b"voxtui" in terminal.raw)
            terminal.resize(columns, rows)
        terminal.until(shows(terminal, "listening", *([PROMPT] if responder else [])))
        agree(terminal, tap)
        one_row_of_the_voice(terminal)


def test_without_a_microphone_with_one_and_without_again(talking: Daemon, tmp_path: Path) -> None:
    unplugged = (tmp_path / "tap").with_suffix(".unplugged")
    unplugged.touch()
    with voxtui(tmp_path, f"unix:{talking.socket}", hum=True) as (terminal, tap):
        terminal.until(shows(terminal, "no sound", PROMPT))
        agree(terminal, tap)
        for _ in range(2):
            unplugged.unlink()
            terminal.until(shows(terminal, "listening"))
            agree(terminal, tap)
            unplugged.touch()
            terminal.until(shows(terminal, "no sound"))
            agree(terminal, tap)
        one_row_of_the_voice(terminal)


def test_a_link_that_breaks_and_a_daemon_of_another_kind(tmp_path: Path) -> None:
    """The prompt is there while somebody answers, and goes with the responder."""
    with voxd_process("--transcribe", "echo", "--respond", "echo") as daemon:
        target = f"unix:{daemon.socket}"
        with voxtui(tmp_path, target, hum=True) as (terminal, tap):
            terminal.until(shows(terminal, "listening", PROMPT))
            daemon.process.kill()
            terminal.until(shows(terminal, "sound kept"))
            agree(terminal, tap)
            with voxd_process("--transcribe", "echo", at=daemon.socket):
                terminal.until(lambda: "listening" in terminal.text() and PROMPT not in terminal.text())
                agree(terminal, tap)
                one_row_of_the_voice(terminal)


STEPS: dict[str, Callable[[Terminal], object]] = {
    "mute": lambda t: t.send(b"m"),
    "push to talk": lambda t: t.send(b"p"),
    "talk": lambda t: t.send(b" "),
    "answers": lambda t: t.send(b"a"),
    "type": lambda t: t.send(b"ihello\r\x1b"),
    "paste": lambda t: t.send(b"\x1b[200~one\ntwo\x1b[201~\r\x1b"),
    "clear": lambda t: t.send(b"c"),
    "help": lambda t: t.send(b"?"),
    "devices": lambda t: t.send(b"d"),
    "theme": lambda t: t.send(b"t"),
    "back": lambda t: t.send(b"\x1b"),
    "mouse": lambda t: t.send(b"\x1b[<35;20;19M\x1b[<0;5;18M\x1b[<0;5;18m"),
    "narrow": lambda t: t.resize(80, 24),
    "wide": lambda t: t.resize(130, 34),
    "short": lambda t: t.resize(90, 18),
    "tiny": lambda t: t.resize(40, 9),
    "cleared": lambda t: t.send(b"\x1b\x1bc"),
}


@pytest.mark.parametrize("kind", ["plain", "modern", "slow"])
def test_after_any_changes(kind: str, talking: Daemon, tmp_path: Path) -> None:
    """Several at once, too: they meet in one painting."""
    choice = random.Random(kind)
    with voxtui(tmp_path, f"unix:{talking.socket}", hum=True, **KINDS[kind]) as (terminal, tap):
        terminal.until(shows(terminal, "listening", PROMPT))
        for step in [*STEPS, *("" for _ in range(12))]:
            for name in [step] if step else choice.sample(list(STEPS), 4):
                STEPS[name](terminal)
            agree(terminal, tap)
