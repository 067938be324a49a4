"""A responder for measurements: each word that it says is the time at which it said it, us of the monotonic clock.

All processes of a machine share that clock, in whatever network namespace they are: who hears the word knows how long
it was on its way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from voxd.engine.contract import Capabilities, Engine, EngineCommand
from voxd.messages import Cancel, Close, Output, Respond, Said, Settled, Status

NAME = "timestamps"
TOKENS, TOKEN_US = 200, 20_000


def environment(folder: Path) -> dict[str, str]:
    """The environment in which voxd finds this engine: a package's description in `folder`, as pip would write it."""
    described = folder / "voxd_timestamps-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: voxd-timestamps\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(f"[voxd.engines]\n{NAME} = {__name__}:Timestamps\n")
    return {"PYTHONPATH": f"{folder}:{Path(__file__).parent.parent}"}


def now_us() -> int:
    return time.monotonic_ns() // 1000


@dataclass(slots=True)
class _Answer:
    due_us: int
    words: list[str] = field(default_factory=list)


class Timestamps(Engine):
    capabilities = Capabilities(("respond",), "says what time it is, for measurements")

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        super().__init__(options, wake)
        self._answers: dict[tuple[int, int], _Answer] = {}
        self._out: list[Output] = []

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        return ()

    def receive(self, command: EngineCommand) -> None:
        match command:
            case Respond():
                self._answers[command.stream, command.ref] = _Answer(now_us() + TOKEN_US)
            case Cancel() if (command.stream, command.ref) in self._answers:
                self._settle(command.stream, command.ref, "cancelled")
            case Close():
                self._answers = {key: answer for key, answer in self._answers.items() if key[0] != command.stream}

    def step(self, now_us: int) -> Iterable[Output]:
        for (stream, ref), answer in list(self._answers.items()):
            self._speak(stream, ref, answer)
        out, self._out = self._out, []
        return out

    @property
    def deadline_us(self) -> int | None:
        return min((answer.due_us for answer in self._answers.values()), default=None)

    def _speak(self, stream: int, ref: int, answer: _Answer) -> None:
        """One word at most; its time is read here, for the loop's `now_us` is from before the VAD's work."""
        now = now_us()
        if now >= answer.due_us:
            answer.due_us += TOKEN_US
            answer.words.append(f" {now}" if answer.words else str(now))
            self._out.append(Said(stream, ref, answer.words[-1], tokens=1))
            if len(answer.words) == TOKENS:
                self._settle(stream, ref, "completed")

    def _settle(self, stream: int, ref: int, status: Status) -> None:
        words = self._answers.pop((stream, ref)).words
        self._out.append(Settled(stream, ref, status, "".join(words), output_tokens=len(words)))
