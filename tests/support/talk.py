"""A session on a desk: deterministic ids, audio as probabilities, no socket, no clock, no engine process.

`Desk` plays the shell's part with lists: it hears what is fed (one probability per VAD frame, chosen by the test) and
keeps what the session sends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from shared import events
from shared.session_config import AnySession, Extensions, Format, RealtimeSession, TranscriptionSession
from voxd import messages as m
from voxd.session.core import Session
from voxd.session.outbox import Note
from voxd.session.terms import Profile
from voxd.session.turns import FRAME

T = TypeVar("T")
STREAM = 7
SILENCE, SPEECH = 0.01, 0.97


def counting_ids() -> Callable[[str], str]:
    counts: dict[str, itertools.count[int]] = {}
    return lambda kind: f"{kind}_{next(counts.setdefault(kind, itertools.count(1)))}"


class Desk:
    """`kind`: transcription or realtime.  Audio is 16 kHz PCM; a test speaks in VAD frames."""

    def __init__(
        self, kind: str = "transcription", profile: Profile | None = None, *, resume: bool = False, **update: Any
    ) -> None:
        voxd = Extensions(resume=resume)
        config: AnySession = (
            TranscriptionSession(id="sess_1", voxd=voxd)
            if kind == "transcription"
            else RealtimeSession(id="sess_1", model="", voxd=voxd)
        )
        self.session = Session(STREAM, config, profile or Profile("echo", "echo"), counting_ids())
        self.events: list[events.ServerEvent] = []
        self.commands: list[m.Command] = []
        self.notes: list[Note] = []
        self.fed = 0
        self.agrees = True  # the engine agrees at once to what an update asks of it
        self._scores: list[float] = []  # of frames sent and not heard yet
        self._heard = 0
        self.drain()
        sound = {"format": msgspec.to_builtins(Format(type="audio/pcm", rate=16_000)), "transcription": {}}
        self.send(events.SessionUpdate(session={"audio": {"input": sound | update}}))

    def drain(self) -> None:
        commands, notes = self.session.to_send()
        if self.agrees:
            self.session.receive_output(m.Opened(STREAM))
        if not self.session.undecided:
            self.events += iter(self.session.next_event, None)
        self.commands += commands
        self.notes += notes
        for command in commands:
            if isinstance(command, m.Feed):
                assert command.start == self.fed, "audio is fed without gaps"
                self.fed = command.start + len(command.pcm) // 2
            elif isinstance(command, m.Open):
                self.fed = max(self.fed, command.start) if command.start >= self.fed else command.start

    def send(self, *sent: events.ClientEvent) -> None:
        for event in sent:
            self.session.receive_event(event)
            self.drain()

    def speak(self, frames: int, probability: float = SPEECH, *, hear: bool = True) -> None:
        """Audio of so many VAD frames, heard at once unless told otherwise."""
        self._scores += [probability] * frames
        self.send(events.AudioAppend(audio=b"\0\0" * FRAME * frames))
        if hear:
            self.hear()

    def hear(self) -> None:
        """The VAD's word on everything that has been fed."""
        while (count := (self.fed - self._heard) // FRAME) > 0:
            scores = tuple(self._scores[self._heard // FRAME :][:count])
            start, self._heard = self._heard, self._heard + count * FRAME
            self.output(m.Heard(STREAM, start, scores))

    def rehear(self, start: int) -> None:
        """A new engine process hears from `start` on."""
        self._heard = start
        self.hear()

    def turn(self, frames: int = 20) -> int:
        """A whole utterance and the silence that ends it; its ref."""
        self.speak(10, SILENCE)
        self.speak(frames, SPEECH)
        self.speak(20, SILENCE)
        return self.last(m.Commit).ref

    def output(self, *outputs: m.Output) -> None:
        for output in outputs:
            self.session.receive_output(output)
            self.drain()

    def settle(self, ref: int, text: str, **fields: Any) -> None:
        self.output(m.Settled(STREAM, ref, "completed", text, **fields))

    def all(self, kind: type[T]) -> list[T]:
        return [each for each in (*self.events, *self.commands, *self.notes) if isinstance(each, kind)]

    def last(self, kind: type[T]) -> T:
        return self.all(kind)[-1]

    def names(self) -> list[str]:
        """Wire names of the events so far, forgotten when read."""
        names = [str(event.__struct_config__.tag) for event in self.events]
        self.events.clear()
        return names


USER_TURN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
]
DELTA = "conversation.item.input_audio_transcription.delta"
COMPLETED = "conversation.item.input_audio_transcription.completed"
FAILED = "conversation.item.input_audio_transcription.failed"
