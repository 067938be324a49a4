"""Faults whose blast radius is proven here: one session of eight, the engine as a whole, the clock, the disk.

docs/RELIABILITY.md says which test proves what.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shared.audio import RATE, VAD_FRAME, Float32
from tests.project.test_architecture import dotted, name, sources, tree
from tests.support.daemon import voxd_process
from tests.voxd.test_server import SILENCE, SPEECH, talk
from voxd.engine.contract import EngineCommand
from voxd.engine.echo import Echo
from voxd.engine.loop import Inbox, Loop
from voxd.engine.vad import Network, Vad
from voxd.messages import Beat, Commit, Feed, Onset, Open, Output, Report

EIGHT = range(1, 9)
BROKEN = 4
FRAMES = 40


def voiced() -> Network:
    def run(frames: Float32, state: Float32) -> tuple[Float32, Float32]:
        return np.full(len(frames), 0.9, np.float32), state

    return run


class Fragile(Echo):
    """Echo, which raises in one stream."""

    def __init__(self, broken: int | None, everything: bool = False) -> None:
        super().__init__({}, lambda: None)
        self._broken, self._everything = broken, everything

    def receive(self, command: EngineCommand) -> None:
        if command.stream == self._broken and isinstance(command, Commit):
            raise RuntimeError("illegal memory access")
        super().receive(command)

    def step(self, now_us: int) -> Iterable[Output]:
        if self._everything:
            raise RuntimeError("the device is gone")
        return super().step(now_us)


def utterances(engine: Echo) -> Iterator[tuple[int, Report]]:
    """Eight people say the same at the same time; all that is told to each."""
    published: list[list[Report]] = []
    loop = Loop({"transcribe": engine}, Vad(voiced), Inbox(), published.append, lambda: 1_000_000)
    for stream in EIGHT:
        loop.round([Open(stream, ("transcribe",)), Onset(stream, 1, 0)])
    for number in range(FRAMES):
        loop.round([Feed(stream, number * VAD_FRAME, bytes(2 * VAD_FRAME)) for stream in EIGHT])
    for stream in EIGHT:
        loop.round([Commit(stream, 1, FRAMES * VAD_FRAME)])
    for batch in published:
        for report in batch:
            if not isinstance(report, Beat):
                yield getattr(report, "stream", 0), report


def test_one_session_of_eight_fails_and_seven_hear_what_they_would_have_heard() -> None:
    calm, broken = list(utterances(Fragile(None))), list(utterances(Fragile(BROKEN)))
    for stream in EIGHT:
        expected = [report for about, report in calm if about == stream]
        found = [report for about, report in broken if about == stream]
        assert len(expected) > FRAMES
        assert (found == expected) is (stream != BROKEN)
    assert [report for about, report in broken if about == BROKEN][-1].code == "engine_error"  # type: ignore[union-attr]


def test_an_engine_that_raises_outside_a_session_ends_its_process() -> None:
    """The gateway starts another (`tests/voxd/gateway/test_engine_host.py`); a loop that went on would be up and
    dead."""
    loop = Loop({"transcribe": Fragile(None, True)}, Vad(voiced), Inbox(), lambda reports: None, lambda: 1_000_000)
    with pytest.raises(RuntimeError, match="the device is gone"):
        loop.round([Open(1, ("transcribe",))])


# ── the clock ───────────────────────────────────────────────────────────────────────────────────────────────────────


def wall_clocks(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
            if any(dotted(call.func) in {"datetime.now", "datetime.utcnow", "time.time_ns"} for call in calls):
                yield f"{name(path)}:{node.name}"


def test_a_clock_that_jumps_can_change_no_duration() -> None:
    """In the daemon the time of day is read in one place, for what people and clients read."""
    assert [line for path in sources("shared", "voxd") for line in wall_clocks(path)] == ["voxd/app.py:unix_s"]


# ── the disk ────────────────────────────────────────────────────────────────────────────────────────────────────────


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


async def test_nothing_that_was_said_is_written_anywhere() -> None:
    """Neither sound nor words are in its folder, in the temporary one, or in the log."""
    sound = SPEECH[RATE : 2 * RATE]  # half a second from its middle
    with tempfile.TemporaryDirectory(prefix="vx-", dir="/tmp") as temporary:
        options = "{echo: {tokens: 20, token_ms: 5}}"
        environ = {"TMPDIR": temporary, "VOXD_LOG_LEVEL": "debug", "VOXD_ENGINE_OPTIONS": options}
        with voxd_process("--transcribe", "echo", "--respond", "echo", env=environ) as daemon:
            async with talk(daemon) as person:
                await person.speak(SPEECH + SILENCE)
                await person.until("response.done")
            left = [*contents(daemon.folder), *contents(Path(temporary))]
    assert any(path.name == "log" and b"started" in data for path, data in left)
    assert len(sound) == RATE
    for path, data in left:
        assert all(sound[at : at + 64] not in data for at in range(0, len(sound) - 64, 64)), path
        assert b"one two three" not in data, path
