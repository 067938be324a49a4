"""What waits for the engine process, in order, and what is too much.  A part of the engine host (step 5).

Pure.  It knows messages and their sizes; not processes, sockets or time.  Commands wait as they are and become bytes
when there is room for them: texts of a conversation, which the session holds anyway, are not in memory twice.

Bounds: STREAM bytes of one stream and ALL of all streams.  A message over them, and one that cannot be written, is
left out: its turn fails, and everything else goes on.  Feeds need no bound here, for their sessions have one.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from voxd import framing, messages as m

STREAM = 64 << 20  # bytes of one stream: three contexts of the largest conversation
ALL = 512 << 20  # bytes of all streams
SLICE = 256 << 10  # bytes that are written in one go
Heavy = m.Audio | m.Prepare | m.Speculate | m.Respond  # what a client can make large
BEHIND = "The engine has too much to do: this was left out. Try again when something has been answered."
UNSENDABLE = "This cannot be given to the engine: it is too large, or no text; send less at a time."


LOST = "A sound that belongs to this conversation could not be given to the engine; delete its item and send it again."


class Slice(NamedTuple):
    """`failed`: turns of which a message cannot be sent."""

    data: bytes
    failed: tuple[m.Failed, ...]


class EngineQueue:
    """First in, first out."""

    def __init__(self) -> None:
        self._commands: deque[tuple[m.Command, int]] = deque()
        self._frames: Iterator[bytes] | None = None  # of the first command, once it is begun
        self._waiting: Counter[int] = Counter()  # bytes by stream
        self._all = 0
        self._lost: dict[int, set[int]] = {}  # refs of audio that was left out, by stream

    def __bool__(self) -> bool:
        return bool(self._commands)

    def put(self, command: m.Command) -> m.Failed | None:
        """None: it waits, or nobody will miss it.  Else its turn is to be told why it does not."""
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
        """The next SLICE bytes, or a message more; nothing when nothing waits."""
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
        """What is computed ahead is missed by nobody: it is computed when it is asked for."""
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
