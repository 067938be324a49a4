"""Everything that leaves a session, in order: server events, engine commands, notes for the meter.  Step 10.

Pure.  It knows ids; not what the events mean.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

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
Out = tuple[list[Command], list[Note]]
EVENT = 1024  # bytes of an event that waits, about
E = TypeVar("E", bound=ServerEvent)


@dataclass(frozen=True, slots=True)
class _Burst:
    """Events that are made one at a time, when they are taken."""

    events: Iterator[ServerEvent]
    size: int


class Outbox:
    """The queues of one session: commands and notes are taken after every input, events as fast as the client reads.

    Bound: the shell closes a client for which too much waits, see `waiting`."""

    def __init__(self, stream: int, new_id: Callable[[str], str]) -> None:
        self.stream = stream  # how the engine process knows this session
        self.new_id = new_id
        self.engine = True  # while there is no engine process, commands are not kept: it will be told the state afresh
        self._refs = 0
        self._events: deque[ServerEvent | _Burst] = deque()
        self.waiting = 0  # bytes of what has not been taken, about
        self._commands: list[Command] = []
        self._notes: list[Note] = []

    def emit(self, kind: Callable[..., E], **fields: Any) -> E:
        """Queues one server event and gives it its event_id."""
        event = kind(event_id=self.new_id("event"), **fields)
        self._events.append(event)
        self.waiting += EVENT
        return event

    def withdraw(self, event: ServerEvent) -> None:
        """Takes back an event that waits."""
        self._events.remove(event)
        self.waiting -= EVENT

    def emit_each(self, text: str, pieces: Iterator[str], make: Callable[[str, str], ServerEvent]) -> None:
        """An event for each of `pieces` of `text`, made when it is taken: a long text is kept as it is, not as ten
        thousand events.  `make`: of an event_id and a piece."""
        events = (make(self.new_id("event"), piece) for piece in pieces)
        self._events.append(_Burst(events, EVENT + len(text)))
        self.waiting += EVENT + len(text)

    def next_event(self) -> ServerEvent | None:
        """The oldest event that has not been taken."""
        while self._events:
            first = self._events[0]
            if not isinstance(first, _Burst):
                self._events.popleft()
                self.waiting -= EVENT
                return first
            event = next(first.events, None)
            if event is not None:
                return event
            self._events.popleft()
            self.waiting -= first.size
        return None

    def command(self, command: Command) -> None:
        if self.engine:
            self._commands.append(command)

    def note(self, note: Note) -> None:
        self._notes.append(note)

    def new_ref(self) -> int:
        """A new number for an utterance or a response, as the engine knows it; it only grows."""
        self._refs += 1
        return self._refs

    def take(self) -> Out:
        """Takes the commands and notes; the events stay."""
        out = self._commands, self._notes
        self._commands, self._notes = [], []
        return out
