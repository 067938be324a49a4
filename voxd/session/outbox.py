"""Everything that leaves a session, in order: server events, engine commands, notes for the meter.

Pure.  It knows ids; not what the events mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.events import ServerEvent
from voxd.messages import Command


@dataclass(frozen=True, slots=True)
class UtteranceNote:
    """An utterance ended; positions in samples.  `decided` is where the decision was taken."""

    ref: int
    item_id: str
    start: int
    end: int
    voiced_start: int
    voiced_end: int
    decided: int


@dataclass(frozen=True, slots=True)
class ResponseNote:
    """A response began; `item_id` is the user's item that it answers, if it answers one."""

    ref: int
    response_id: str
    item_id: str | None


Note = UtteranceNote | ResponseNote
Out = tuple[list[ServerEvent], list[Command], list[Note]]


class Outbox:
    """Bound: emptied by the shell after every single input."""

    def __init__(self, stream: int, new_id: Callable[[str], str]) -> None:
        self.stream = stream  # how the engine process knows this session
        self.new_id = new_id
        self.engine = True  # while there is no engine process, commands are not kept: it will be told the state afresh
        self._refs = 0
        self._events: list[ServerEvent] = []
        self._commands: list[Command] = []
        self._notes: list[Note] = []

    def emit(self, kind: Callable[..., ServerEvent], **fields: Any) -> None:
        """One server event; its event_id is given here."""
        self._events.append(kind(event_id=self.new_id("event"), **fields))

    def command(self, command: Command) -> None:
        if self.engine:
            self._commands.append(command)

    def note(self, note: Note) -> None:
        self._notes.append(note)

    def new_ref(self) -> int:
        """Names an utterance or a response towards the engine; only grows."""
        self._refs += 1
        return self._refs

    def take(self) -> Out:
        out = self._events, self._commands, self._notes
        self._events, self._commands, self._notes = [], [], []
        return out
