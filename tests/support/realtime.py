"""Voxtral Realtime under test: a tiny model whose text is its token ids, and a gateway that tells it what happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache

from tests.support.feeding import Feeding
from tests.support.tiny_voxtral import Samples, folder
from voxd.engine.realtime.build import load
from voxd.engine.realtime.engine import VoxtralRealtime
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.messages import Close, Onset, Open, Output, Said, Settled, Warned

STREAMS = 4


@cache
def device(seed: int, encoder_window: int = 200, decoder_window: int = 64) -> RealtimeDevice:
    """A loaded model; its text is the list of its token ids, blanks too."""
    path = folder(seed, encoder_window, decoder_window)
    options = RealtimeOptions.parse({"model": str(path), "device": "cpu", "max_streams": STREAMS})
    found = load(options, lambda text: None, eager=True)
    return replace(found, pieces=tuple(f"{i} ".encode() for i in range(len(found.pieces))))


def as_text(token_ids: Sequence[int]) -> str:
    """What the engine writes of these ids."""
    return "".join(f"{each} " for each in token_ids)


@dataclass
class Gateway(Feeding):
    """Feeds clips to an engine and writes down what it says.  Afterwards no slot may be taken."""

    said: dict[tuple[int, int], str] = field(default_factory=dict)
    guessed: dict[tuple[int, int], str] = field(default_factory=dict)
    settled: dict[tuple[int, int], str] = field(default_factory=dict)
    warnings: list[Warned] = field(default_factory=list)

    def open(self, stream: int, clip: Samples, delay_ms: int | None = None) -> None:
        self.give(stream, clip)
        self.tell(Open(stream, ("transcribe",), delay_ms=delay_ms))

    def onset(self, stream: int, ref: int, start: int = 0, said: str = "") -> None:
        self.said[stream, ref] = said
        self.tell(Onset(stream, ref, start, said))

    def close(self, stream: int) -> None:
        self.tell(Close(stream))

    def note(self, output: Output) -> None:
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
def gateway(made: RealtimeDevice, options: Mapping[str, object] = {}) -> Iterator[Gateway]:
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
