"""The commands that wait for the engine process, in order.  Step 5 of a packet's path, a part of the engine host.

Pure.  It knows messages and their sizes; not processes, sockets or time.  Commands wait as objects and become bytes
only when there is room for them, so that texts which the session keeps anyway are not in memory twice.

Bounds: STREAM bytes for one stream and ALL for all streams.  A message over a bound, or one that cannot be encoded, is
not sent: its turn fails and everything else goes on.  Feeds need no bound here, because sessions bound them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from voxd import framing, messages as m

STREAM = 64 << 20  # bytes of one stream: three contexts of the largest conversation
ALL = 512 << 20  # bytes of all streams
SLICE = 256 << 10  # bytes that are written in one go
Heavy = m.Audio | m.Prepare | m.Speculate | m.Respond  # the commands that a client can make large
BEHIND = "The engine is too busy to take this; try again when it has answered something."
UNSENDABLE = "This cannot be sent to the engine: it is too large, or not valid text; send less at a time."
LOST = "Audio of this conversation could not be sent to the engine; delete its item and send it again."


class Slice(NamedTuple):
    """Bytes for the engine process.  `failed`: the turns that fail because a message of theirs cannot be encoded."""

    data: bytes
    failed: tuple[m.Failed, ...]


class EngineQueue:
    """A bounded queue, first in, first out."""

    def __init__(self) -> None:
        self._commands: deque[tuple[m.Command, int]] = deque()
        self._frames: Iterator[bytes] | None = None  # the rest of the first command, once a part of it was taken
        self._waiting: Counter[int] = Counter()  # bytes by stream
        self._all = 0
        self._lost: dict[int, set[int]] = {}  # refs of audio that was not sent, by stream

    def __bool__(self) -> bool:
        return bool(self._commands)

    def put(self, command: m.Command) -> m.Failed | None:
        """Adds a command.  Returns the failure that its turn must be told if it cannot be sent; None if it waits, or if
        leaving it out does no harm."""
        stream, size = _stream(command), command.size
        if isinstance(command, m.Close | m.Leave):
            self._lost.pop(stream, None)
        elif isinstance(command, m.Respond) and any(turn.ref in self._lost.get(stream, ()) for turn in command.context):
            return m.Failed(stream, command.ref, "audio_lost", LOST)
        if isinstance(command, Heavy) and (self._waiting[stream] + size > STREAM or self._all + size > ALL):
            return self._left_out(command, "server_overloaded", BEHIND)
        self._commands.append((command, size))
        self._count(stream, size)
        return None

    def take(self) -> Slice:
        """About the next SLICE bytes, in whole frames; empty if nothing waits."""
        frames, size_out, failed = list[bytes](), 0, list[m.Failed]()
        while self._commands and size_out < SLICE:
            command, size = self._commands[0]
            if self._frames is None:
                self._frames = framing.frames(command)
            try:
                frames.append(next(self._frames))
                size_out += len(frames[-1])
                continue
            except StopIteration:
                pass
            except framing.Unsendable:
                if told := self._left_out(command, "invalid_value", UNSENDABLE):
                    failed.append(told)
            self._commands.popleft()
            self._frames = None
            self._count(_stream(command), -size)
        return Slice(b"".join(frames), tuple(failed))

    def _left_out(self, command: m.Command, code: str, message: str) -> m.Failed | None:
        """The failure of a command that is not sent.  Commands to compute ahead do no harm: the work is done later."""
        if isinstance(command, m.Audio):
            self._lost.setdefault(command.stream, set()).add(command.ref)
        if isinstance(command, m.Prepare | m.Speculate) or not isinstance(command, m.StreamMessage):
            return None
        return m.Failed(command.stream, getattr(command, "ref", None), code, message)

    def _count(self, stream: int, size: int) -> None:
        self._all += size
        self._waiting[stream] += size
        if not self._waiting[stream]:
            del self._waiting[stream]


def _stream(command: m.Command) -> int:
    return command.stream if isinstance(command, m.StreamMessage) else 0
