"""Voxtral Realtime under test: a tiny model whose text is its token ids, and a gateway that tells it what happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

from shared.audio import float_to_pcm16
from tests.tiny_voxtral import Samples, folder
from voxd.engine.contract import EngineCommand
from voxd.engine.realtime_device import load
from voxd.engine.realtime_port import Device, Options
from voxd.engine.vad import FRAME
from voxd.engine.voxtral_realtime import VoxtralRealtime
from voxd.messages import Close, Commit, Feed, Flush, Heard, Onset, Open, Output, Rollback, Said, Settled, Warned

STREAMS = 4


@cache
def device(seed: int, encoder_window: int = 200, decoder_window: int = 64) -> Device:
    """A loaded model; its text is the list of its token ids, blanks too."""
    path = folder(seed, encoder_window, decoder_window)
    options = Options.parse({"model": str(path), "device": "cpu", "max_streams": STREAMS})
    found = load(options, lambda text: None, eager=True)
    return replace(found, pieces=tuple(f"{i} ".encode() for i in range(len(found.pieces))))


def as_text(ids: Sequence[int]) -> str:
    """What the engine writes of these ids."""
    return "".join(f"{each} " for each in ids)


@dataclass
class Gateway:
    """Feeds clips to an engine and writes down what it says.  Afterwards no slot may be taken."""

    engine: VoxtralRealtime
    clips: dict[int, bytes] = field(default_factory=dict)
    fed: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    said: dict[tuple[int, int], str] = field(default_factory=dict)
    guessed: dict[tuple[int, int], str] = field(default_factory=dict)
    settled: dict[tuple[int, int], str] = field(default_factory=dict)
    warnings: list[Warned] = field(default_factory=list)
    steps: int = 0

    def open(self, stream: int, clip: Samples, delay_ms: int | None = None) -> None:
        self.clips[stream], self.fed[stream], self.heard[stream] = float_to_pcm16(clip), 0, 0
        self.tell(Open(stream, ("transcribe",), delay_ms=delay_ms))

    def tell(self, command: EngineCommand) -> None:
        """A command, and one step."""
        self.engine.receive(command)
        self.step()

    def feed(self, stream: int, until: int, voice: float = 1.0, known: int | None = None) -> None:
        """Audio up to sample `until`, and the VAD's word on its whole frames: `voice`."""
        pcm = self.clips[stream][2 * self.fed[stream] : 2 * until]
        self.tell(Feed(stream, self.fed[stream], pcm, known))
        self.fed[stream] += len(pcm) // 2
        frames = (self.fed[stream] - self.heard[stream]) // FRAME
        self.tell(Heard(stream, self.heard[stream], (voice,) * frames))
        self.heard[stream] += frames * FRAME

    def onset(self, stream: int, ref: int, start: int = 0, said: str = "") -> None:
        self.said[stream, ref] = said
        self.tell(Onset(stream, ref, start, said))

    def flush(self, stream: int, ref: int, end: int) -> None:
        self.tell(Flush(stream, ref, end))

    def rollback(self, stream: int, ref: int) -> None:
        self.tell(Rollback(stream, ref))

    def commit(self, stream: int, ref: int, end: int) -> None:
        self.tell(Commit(stream, ref, end))

    def close(self, stream: int) -> None:
        self.tell(Close(stream))

    def step(self, now_us: int = 0) -> None:
        self.steps += 1
        for output in self.engine.step(now_us or 1_000_000 + self.steps):
            self._note(output)

    def rest(self) -> None:
        """Until there is nothing to do."""
        while self.engine.deadline_us is not None:
            self.step()

    def _note(self, output: Output) -> None:
        match output:
            case Said(stream=stream, ref=ref):
                assert (stream, ref) not in self.settled
                self.said[stream, ref] += output.text
                self.guessed[stream, ref] = output.provisional
            case Settled(stream=stream, ref=ref):
                assert output.text == self.said[stream, ref]
                self.settled[stream, ref] = output.text
            case Warned():
                self.warnings.append(output)
            case _:
                raise AssertionError(output)


@contextmanager
def gateway(made: Device, options: Mapping[str, object] = {}) -> Iterator[Gateway]:
    """An engine on this device; at the end all streams are closed, and every slot must be free again."""
    engine = VoxtralRealtime(options, lambda: None, lambda options, progress: made)
    engine.load(lambda text: None)
    found = Gateway(engine)
    try:
        yield found
    finally:
        for stream in found.clips:
            engine.receive(Close(stream))
        found.rest()
    assert made.slots.free == made.slots.count
