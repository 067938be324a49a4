"""What the gateway tells an engine of sound: clips piece by piece, the VAD's word on them, where utterances end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from shared.audio import VAD_FRAME, float_to_pcm16
from tests.support.tiny_voxtral import Samples
from voxd.engine.contract import Engine, EngineCommand
from voxd.messages import Commit, Feed, Flush, Heard, Output, Rollback

ENOUGH = 5000  # steps


@dataclass
class Feeding(ABC):
    """Steps the engine once after each command."""

    engine: Engine
    clips: dict[int, bytes] = field(default_factory=dict)  # by stream
    fed: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    steps: int = 0

    @abstractmethod
    def note(self, output: Output) -> None:
        """What the engine said."""

    def give(self, stream: int, clip: Samples) -> None:
        """What will be fed to this stream."""
        self.clips[stream], self.fed[stream], self.heard[stream] = float_to_pcm16(clip), 0, 0

    def tell(self, command: EngineCommand) -> None:
        """A command, and one step."""
        self.engine.receive(command)
        self.step()

    def feed(self, stream: int, until: int, voice: float = 1.0, known: int | None = None) -> None:
        """Audio up to sample `until`, and the VAD's word on its whole frames: `voice`."""
        pcm = self.clips[stream][2 * self.fed[stream] : 2 * until]
        self.tell(Feed(stream, self.fed[stream], pcm, known))
        self.fed[stream] += len(pcm) // 2
        frames = (self.fed[stream] - self.heard[stream]) // VAD_FRAME
        self.tell(Heard(stream, self.heard[stream], (voice,) * frames))
        self.heard[stream] += frames * VAD_FRAME

    def flush(self, stream: int, ref: int, end: int) -> None:
        self.tell(Flush(stream, ref, end))

    def rollback(self, stream: int, ref: int) -> None:
        self.tell(Rollback(stream, ref))

    def commit(self, stream: int, ref: int, end: int) -> None:
        self.tell(Commit(stream, ref, end))

    def step(self, now_us: int = 0) -> None:
        """`now_us` 0: 10 ms after the one before."""
        self.steps += 1
        for output in self.engine.step(now_us or 1_000_000 + 10_000 * self.steps):
            self.note(output)

    def rest(self) -> None:
        """Until there is nothing to do."""
        for _ in range(ENOUGH):
            if self.engine.deadline_us is None:
                return
            self.step()
        raise AssertionError("it does not come to rest")
