"""An engine that needs no model: its text is a pure function of sample positions and of a scripted clock.  Step 8.

It implements the whole contract in both roles, so that the gateway, the wire, the client and their tests can run
without weights; it is used only where it is named.  It knows nothing about speech.

transcribe: one word per 320 ms of utterance, live up to the last voiced frame, the rest at the end.
respond:    `tokens` words, one per `token_ms`, whatever is asked; up to 16 of them may be ready speculatively.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from shared.audio import VAD_FRAME as VAD_FRAME
from voxd.engine.contract import Capabilities, Engine, EngineCommand
from voxd.engine.options import read
from voxd.messages import (
    Audio,
    Cancel,
    Close,
    Commit,
    Crop,
    Feed,
    Flush,
    Heard,
    Onset,
    Open,
    Output,
    Prepare,
    Respond,
    Rollback,
    Said,
    Settled,
    Speculate,
    Status,
)

WORD = 5120  # samples of utterance per word: 320 ms
SPECULATIVE_TOKENS = 16
VOICED = 1024  # voiced frames remembered: 33 s
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def words(count: int, first: int = 0) -> str:
    """Words number `first` to `count`, the first of all without a space in front."""
    return "".join(("" if i == 0 else " ") + WORDS[i % len(WORDS)] for i in range(first, count))


@dataclass(slots=True)
class _Utterance:
    ref: int
    start: int
    words: int  # already said


@dataclass(slots=True)
class _Answer:
    stream: int
    limit: int
    whole: int  # tokens it would have without a limit
    begun_us: int | None = None  # the clock starts with the first step that sees it
    released: bool = False  # Respond has come: what is ready may be said
    running: bool = False  # a step has seen it released: from here on nothing holds it up
    said: int = 0

    def due(self, now_us: int, token_us: int) -> int:
        """Tokens that exist by now."""
        if self.begun_us is None:
            self.begun_us = now_us
        if not self.running:  # a speculation stands still at its bound
            self.begun_us = max(self.begun_us, now_us - SPECULATIVE_TOKENS * token_us)
            self.running = self.released
        return min(self.limit, (now_us - self.begun_us) // token_us)


class EchoOptions(Struct, frozen=True):
    """`engine_options.echo` of the settings file."""

    tokens: Annotated[int, Meta(ge=1)] = 200  # of each answer
    token_ms: Annotated[int, Meta(ge=1)] = 20


class Echo(Engine):
    capabilities = Capabilities(
        roles=("transcribe", "respond"),
        summary="scripted text for tests and wire checks; understands nothing",
        live=True,
        speculates=True,
        guided_by=(),
    )

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        super().__init__(options, wake)
        chosen = read("echo", EchoOptions, options)
        self._tokens, self._token_us = chosen.tokens, chosen.token_ms * 1000
        self._streams: dict[int, bool] = {}  # stream -> is this engine its transcriber?
        self._utterances: dict[int, _Utterance] = {}
        self._known: dict[int, int | None] = {}  # `Feed.known`
        self._voiced: dict[int, deque[int]] = {}  # ends of the latest voiced frames: an onset is told after them
        self._answers: dict[tuple[int, int], _Answer] = {}
        self._out: list[Output] = []

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        return ("echo: scripted text, no speech is understood",)

    def receive(self, command: EngineCommand) -> None:
        stream = command.stream
        match command:
            case Open():
                self._streams[stream] = "transcribe" in command.roles
            case Onset():
                if self._streams.get(stream):  # else another engine transcribes it
                    self._utterances[stream] = _Utterance(command.ref, command.start, len(command.said.split()))
                    self._go_on(stream)
            case Heard():
                self._hear(command)
            case Commit():
                self._commit(command)
            case Speculate() | Respond():
                self._answer(command)
            case Cancel():
                self._cancel(stream, command.ref)
            case Crop():
                self._answers.pop((stream, command.ref), None)
            case Close():
                self._close(stream)
            case Feed():
                self._known[stream] = command.known
                self._go_on(stream)
            case Audio() | Prepare() | Flush() | Rollback():
                pass  # its text depends on positions alone, so there is nothing to prepare or undo

    def step(self, now_us: int) -> Iterable[Output]:
        for key in list(self._answers):
            self._speak(key, now_us)
        out, self._out = self._out, []
        return out

    @property
    def deadline_us(self) -> int | None:
        waits = [
            0 if answer.begun_us is None else answer.begun_us + (answer.said + 1) * self._token_us
            for answer in self._answers.values()
            if answer.released or answer.begun_us is None
        ]
        return min(waits, default=None)

    def _hear(self, heard: Heard) -> None:
        if heard.stream in self._streams:
            ends = self._voiced.setdefault(heard.stream, deque(maxlen=VOICED))
            ends += [heard.start + (i + 1) * VAD_FRAME for i, p in enumerate(heard.probabilities) if p >= 0.5]
            self._go_on(heard.stream)

    def _go_on(self, stream: int) -> None:
        """Publishes live words up to the last voiced frame that certainly belongs to this utterance."""
        known, utterance = self._known.get(stream), self._utterances.get(stream)
        if utterance is not None:
            ends = reversed(self._voiced.get(stream, ()))
            self._say_words(stream, utterance, next((end for end in ends if known is None or end <= known), 0))

    def _say_words(self, stream: int, utterance: _Utterance, position: int) -> None:
        count = max(0, position - utterance.start) // WORD
        if count > utterance.words:
            text = words(count, utterance.words)
            utterance.words = count
            self._out.append(Said(stream, utterance.ref, text, samples=position))

    def _commit(self, commit: Commit) -> None:
        utterance = self._utterances.get(commit.stream)
        if utterance is None or utterance.ref != commit.ref:
            return
        del self._utterances[commit.stream]
        self._say_words(commit.stream, utterance, commit.end)
        self._out.append(Settled(commit.stream, commit.ref, "completed", words(utterance.words)))

    def _answer(self, command: Speculate | Respond) -> None:
        key = (command.stream, command.ref)
        limit = self._tokens if command.max_tokens is None else min(self._tokens, command.max_tokens)
        answer = self._answers.setdefault(key, _Answer(command.stream, limit, self._tokens))
        answer.released = answer.released or isinstance(command, Respond)

    def _speak(self, key: tuple[int, int], now_us: int) -> None:
        stream, ref = key
        answer = self._answers[key]
        due = answer.due(now_us, self._token_us)
        if not answer.released:
            return
        for number in range(answer.said, due):
            self._out.append(Said(stream, ref, words(number + 1, number), tokens=1))
        answer.said = due
        if due == answer.limit:
            del self._answers[key]
            status: Status = "completed" if answer.limit == answer.whole else "incomplete"
            self._out.append(Settled(stream, ref, status, words(due), output_tokens=due))

    def _cancel(self, stream: int, ref: int) -> None:
        answer = self._answers.pop((stream, ref), None)
        if answer and answer.released:
            self._out.append(Settled(stream, ref, "cancelled", words(answer.said), output_tokens=answer.said))
        utterance = self._utterances.get(stream)
        if utterance and utterance.ref == ref:
            del self._utterances[stream]
            self._out = [
                out for out in self._out if not (isinstance(out, Said) and (out.stream, out.ref) == (stream, ref))
            ]

    def _close(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._utterances.pop(stream, None)
        self._voiced.pop(stream, None)
        self._known.pop(stream, None)
        self._answers = {key: answer for key, answer in self._answers.items() if key[0] != stream}
        self._out = [output for output in self._out if output.stream != stream]
