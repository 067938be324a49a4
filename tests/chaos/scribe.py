"""An engine that reads which sound it was given: words are written into the lowest bits of the samples.

So a text says which samples of which client it is about: what is lost, doubled or somebody else's shows in the text
alone, whatever has happened in between.  A mark is 80 samples (5 ms): a pattern, the client, a number, a check sum.

transcribe: a word `CLIENT.NUMBER` for each mark of an utterance, live up to the last voiced frame; the rest, and that
            it is all, FINAL_US after the end: as a model would, so that there is time to be lost in.
respond:    the tokens `CLIENT:0 CLIENT:1 …`, of the client whose mark was heard last; the pace is that of `echo`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shared.audio import Int16
from voxd.engine.contract import EngineCommand
from voxd.engine.echo import Echo, _Utterance
from voxd.messages import Cancel, Close, Commit, Feed, Open, Output, Said, Settled, Status

ROOT = Path(__file__).parents[2]
SPACING = 5120  # samples between two marks
MARK = 80  # samples of one
FINAL_US = 400_000  # from the end of an utterance to its final text
PATTERN = 0xB7E15162
_FIELDS = (32, 8, 24, 16)  # bits: pattern, client, number, check sum
_SYNC = bytes(int(bit) for bit in f"{PATTERN:032b}")


def _bits(client: int, number: int) -> list[int]:
    check = zlib.crc32(f"{client}.{number}".encode()) & 0xFFFF
    values = zip((PATTERN, client, number, check), _FIELDS, strict=True)
    return [int(bit) for value, width in values for bit in f"{value:0{width}b}"]


def write(samples: Int16, at: int, client: int, number: int) -> None:
    """Puts a mark into [at, at + MARK)."""
    samples[at : at + MARK] = samples[at : at + MARK] & ~1 | np.array(_bits(client, number), np.int16)


def read(bits: bytes) -> Iterator[tuple[int, int, int]]:
    """Place, client and number of each whole mark; `bits` has one byte for each sample."""
    at = bits.find(_SYNC)
    while 0 <= at <= len(bits) - MARK:
        text = "".join(map(str, bits[at : at + MARK]))
        client, number = int(text[32:40], 2), int(text[40:64], 2)
        if list(bits[at : at + MARK]) == _bits(client, number):
            yield at, client, number
        at = bits.find(_SYNC, at + 1)


def install(folder: Path) -> dict[str, str]:
    """Makes `scribe` an engine of every voxd that is started with what is returned in its environment."""
    package = folder / "scribe-0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: scribe\nVersion: 0\n")
    (package / "entry_points.txt").write_text("[voxd.engines]\nscribe = tests.chaos.scribe:Scribe\n")
    paths = (str(folder), str(ROOT), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@dataclass(slots=True)
class _Ear:
    """One stream: `words` with the place behind each, in order."""

    end: int = 0
    tail: bytes = b""  # bits before `end` in which a mark may have begun
    client: int | None = None
    words: list[tuple[int, str]] = field(default_factory=list)

    def feed(self, start: int, pcm: bytes) -> None:
        if start != self.end:
            self.tail = b""
            self.words = [(end, word) for end, word in self.words if end <= start]
        bits = self.tail + (np.frombuffer(pcm, "<i2") & 1).astype(np.uint8).tobytes()
        first = start - len(self.tail)
        done = 0
        for at, self.client, number in read(bits):
            self.words.append((first + at + MARK, f"{self.client}.{number}"))
            done = at + MARK
        self.end = start + len(pcm) // 2
        self.tail = bits[max(done, len(bits) - MARK + 1) :]

    def text(self, start: int, end: int) -> list[str]:
        return [word for place, word in self.words if start + MARK <= place <= end]


@dataclass(slots=True, eq=False)
class _Final:
    """A text that is still being made."""

    commit: Commit
    utterance: _Utterance
    due_us: int | None = None


class Scribe(Echo):
    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        super().__init__(options, wake)
        self._ears: dict[int, _Ear] = {}
        self._finals: list[_Final] = []

    def receive(self, command: EngineCommand) -> None:
        match command:
            case Open():
                self._ears.setdefault(command.stream, _Ear(command.start))
            case Feed() if command.stream in self._ears:
                self._ears[command.stream].feed(command.start, command.pcm)
            case Close():
                self._ears.pop(command.stream, None)
                self._finals = [each for each in self._finals if each.commit.stream != command.stream]
            case Cancel():
                self._finals = [
                    each
                    for each in self._finals
                    if (each.commit.stream, each.commit.ref) != (command.stream, command.ref)
                ]
        super().receive(command)

    def _say_words(self, stream: int, utterance: _Utterance, position: int) -> None:
        found = self._ears[stream].text(utterance.start, position)
        new = found[utterance.words :]
        if new:
            text = " ".join(["", *new] if utterance.words else new)
            utterance.words = len(found)
            self._out.append(Said(stream, utterance.ref, text, samples=position))

    def _commit(self, commit: Commit) -> None:
        """The text is final in a while: `step` knows the time."""
        utterance = self._utterances.get(commit.stream)
        if utterance is not None and utterance.ref == commit.ref:
            del self._utterances[commit.stream]
            self._finals.append(_Final(commit, utterance))

    def step(self, now_us: int) -> Iterable[Output]:
        for final in self._finals:
            final.due_us = final.due_us or now_us + FINAL_US
        due = [final for final in self._finals if final.due_us is not None and final.due_us <= now_us]
        self._finals = [final for final in self._finals if final not in due]
        for final in due:
            stream, ref, end = final.commit.stream, final.commit.ref, final.commit.end
            self._say_words(stream, final.utterance, end)
            whole = " ".join(self._ears[stream].text(final.utterance.start, end))
            self._out.append(Settled(stream, ref, "completed", whole))
        return super().step(now_us)

    @property
    def deadline_us(self) -> int | None:
        waits = [final.due_us or 0 for final in self._finals]
        return min((each for each in (*waits, super().deadline_us) if each is not None), default=None)

    def _speak(self, key: tuple[int, int], now_us: int) -> None:
        stream, ref = key
        answer = self._answers[key]
        due = answer.due(now_us, self._token_us)
        if not answer.released:
            return
        client = self._ears[stream].client
        for number in range(answer.said, due):
            self._out.append(Said(stream, ref, f"{' ' if number else ''}{client}:{number}", tokens=1))
        answer.said = due
        if due == answer.limit:
            del self._answers[key]
            status: Status = "completed" if answer.limit == answer.whole else "incomplete"
            whole = " ".join(f"{client}:{number}" for number in range(due))
            self._out.append(Settled(stream, ref, status, whole, output_tokens=due))
