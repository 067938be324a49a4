"""An engine of whisper in a scripted world: a model that hears numbered words, and workers that run when told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from shared.audio import VAD_FRAME
from voxd.engine.whisper.engine import Whisper
from voxd.engine.whisper.model import Hypothesis, Task
from voxd.engine.whisper.scheduler import Decode, Kind, Scheduler
from voxd.engine.whisper.workers import Result
from voxd.messages import Feed, Heard, Open, Output, Said, Settled

WORD = 5 * VAD_FRAME  # in the scripted world each 160 ms of voice are one word: w1, w2, ...


class Script:
    """A model that hears one word per WORD of audio, told apart by the value of its samples."""

    name = "script"

    def __init__(self, *languages: str) -> None:
        self.languages = languages or ("en",)
        self.tasks: list[Task] = []
        self.fail = False
        self.score = -0.2

    def decode(self, task: Task) -> Hypothesis:
        self.tasks.append(task)
        if self.fail:
            raise RuntimeError("secret internals")
        numbers = np.rint(task.samples[WORD // 2 :: WORD] * 32768).astype(int)
        words = tuple(f" w{number}" for number in numbers if number)
        return Hypothesis(words, (0.9,) * len(words), self.languages[-1], len(words), score=self.score)


class SyncPool:
    """Runs what is queued when it is told to, in the scheduler's order."""

    def __init__(self, count: int, work: Callable[[Any], Any], wake: Callable[[], None]) -> None:
        self.scheduler: Scheduler[Any] = Scheduler(count)
        self.work, self.kinds, self.held = work, list[Kind](), list[Decode[Any]]()
        self._results: list[Result[Any, Any]] = []
        self.stopped = False
        self.wall_us = 1000  # that each decode takes, as it says

    def submit(self, request: Decode[Any]) -> None:
        self.scheduler.put(request)

    def promote(self, request: Decode[Any]) -> None:
        self.scheduler.promote(request)

    def withdraw(self, stream: int, ref: int | None = None) -> None:
        self.scheduler.withdraw(stream, ref)

    def results(self) -> list[Result[Any, Any]]:
        results, self._results = self._results, []
        return results

    def stop(self) -> None:
        self.stopped = True

    def take(self) -> None:
        """Workers begin what they can, and do not finish."""
        while (request := self.scheduler.take()) is not None:
            self.kinds.append(request.kind)
            self.held.append(request)

    def run(self) -> None:
        self.take()
        while self.held:
            request = self.held.pop(0)
            try:
                value = self.work(request.payload)
            except RuntimeError:
                value = None
            self.scheduler.done(request)
            self._results.append(Result(request, value, self.wall_us))
            self.take()


class World:
    """An engine with a scripted model; audio is a row of numbered words, 0 being silence."""

    def __init__(self, *languages: str, **options: object) -> None:
        self.model = Script(*languages)
        self.pools: list[SyncPool] = []
        self.engine = Whisper(options, lambda: None, lambda o, p: self.model, self._pool)
        self.engine.load(lambda text: None)
        self.model.tasks.clear()
        self.pool = self.pools[0]
        self.outputs: list[Output] = []
        self.position: dict[int, int] = {}

    def _pool(self, *args: Any) -> SyncPool:
        self.pools.append(SyncPool(*args))
        return self.pools[-1]

    def open(self, stream: int = 1, **options: Any) -> None:
        self.engine.receive(Open(stream, ("transcribe",), **options))
        self.position[stream] = options.get("start", 0)

    def say(self, *words: int, stream: int = 1, run: bool = True, voiced: bool = True) -> None:
        """Feeds words, the VAD hearing each frame after it was fed."""
        for word in words:
            for _ in range(WORD // VAD_FRAME):
                at = self.position[stream]
                self.engine.receive(Feed(stream, at, np.full(VAD_FRAME, word, "<i2").tobytes()))
                self.engine.receive(Heard(stream, at, (0.9 if word and voiced else 0.01,)))
                self.position[stream] += VAD_FRAME
            if run:
                self.step()

    def step(self) -> None:
        self.pool.run()
        self.outputs += self.engine.step(0)
        self.pool.run()
        self.outputs += self.engine.step(0)

    def tell(self, *commands: Any) -> None:
        for command in commands:
            self.engine.receive(command)

    def said(self, ref: int = 1, stream: int = 1) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Said) and (o.stream, o.ref) == (stream, ref))

    def settled(self) -> list[tuple[int, str]]:
        return [(o.ref, o.text) for o in self.outputs if isinstance(o, Settled)]


def words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))
