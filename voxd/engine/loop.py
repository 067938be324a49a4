"""The one loop of the engine process: take commands, run the VAD, step the engines, publish.  Steps 6 to 9.

It knows the order of work and the promises of `contract`; not what an engine computes, nor what a session is.
Nothing in it sleeps: it waits for the inbox, for an engine's deadline or for the next heartbeat, whichever is first.

One round publishes the outputs of a stream in this order: what the VAD heard, then what the engines made of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

from voxd.engine.contract import Engine, EngineCommand, Refuse
from voxd.engine.vad import Vad
from voxd.messages import (
    Beat,
    Close,
    Command,
    Commit,
    Configure,
    Failed,
    Feed,
    Leave,
    Open,
    Opened,
    Output,
    Part,
    Refused,
    Report,
    Respond,
    Role,
    Said,
    Settled,
    Stop,
)

log = logging.getLogger("voxd.engine")
BEAT_US = 500_000


class Inbox:
    """Passes commands to the loop from the thread that reads the socket.

    Bound: `size` commands and `room` bytes; at the bound the reader waits, and through its socket the gateway."""

    def __init__(self, size: int = 4096, room: int = 64 << 20) -> None:
        self._size, self._room = size, room
        self._bytes = 0
        self._commands: deque[Command] = deque()
        self._changed = threading.Condition()
        self._woken = False

    def put(self, *commands: Command) -> None:
        """Adds all of these commands, once there is room for one."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._commands) < self._size and self._bytes < self._room)
            self._commands.extend(commands)
            self._bytes += sum(command.size for command in commands)
            self._changed.notify_all()

    def wake(self) -> None:
        """Ends the wait of `take`: an engine has something to give.  Safe from any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> list[Command]:
        """Takes all commands; first waits for one, for `wake`, or for the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._commands or self._woken, max(0.0, timeout_s))
            self._woken = False
            commands = list(self._commands)
            self._commands.clear()
            self._bytes = 0
            self._changed.notify_all()
        return commands


def monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class Loop:
    """`engines`: one per filled role, possibly the same object twice.  `publish` gets the reports
    of each round in order."""

    def __init__(
        self,
        engines: dict[Role, Engine],
        vad: Vad,
        inbox: Inbox,
        publish: Callable[[list[Report]], None],
        clock: Callable[[], int] = monotonic_us,
    ) -> None:
        self._engines = engines
        self._distinct = list(dict.fromkeys(engines.values()))
        self._vad, self._inbox, self._publish, self._clock = vad, inbox, publish, clock
        self._roles: dict[int, tuple[Role, ...]] = {}
        self._left: dict[int, list[Engine]] = {}  # engines that remember a stream whose client is gone
        self._taken_us: dict[tuple[int, int], int] = {}  # when Commit or Respond was taken up
        self._beat_us = 0
        self._vad_us = self._step_us = 0  # time spent so far
        self._out: list[Report] = []

    def run(self) -> None:
        """Runs rounds until Stop, then stops the engines."""
        while self.round(self._inbox.take(self._patience_s())):
            pass
        for engine in self._distinct:
            engine.stop()

    def round(self, commands: Iterable[Command]) -> bool:
        """One round with these commands; False if one of them was Stop."""
        for command in commands:
            if isinstance(command, Stop):
                return False
            if isinstance(command, Leave):
                self._leave(command)
            elif not isinstance(command, Configure | Part):
                self._receive(command)
        now_us = self._clock()
        for heard in self._vad.step():
            self._out.append(heard)
            self._tell(heard)
        heard_us = self._clock()
        for engine in self._distinct:
            for output in engine.step(now_us):
                self._collect(output)
        self._vad_us += heard_us - now_us
        self._step_us += self._clock() - heard_us
        self._heartbeat(now_us)
        out, self._out = self._out, []
        if out:
            self._publish(out)
        return True

    def _patience_s(self) -> float:
        if self._vad.has_work:
            return 0.0
        deadlines = [engine.deadline_us for engine in self._distinct]
        until = min((d for d in deadlines if d is not None), default=self._beat_us)
        return (min(until, self._beat_us) - self._clock()) / 1e6

    def _heartbeat(self, now_us: int) -> None:
        if now_us >= self._beat_us:
            self._beat_us = now_us + BEAT_US
            vad = self._vad
            beat = Beat(now_us, len(self._roles), vad.lag_samples, vad.batches, vad.rows, self._vad_us, self._step_us)
            self._out.append(beat)

    # ── in ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, command: EngineCommand) -> None:
        match command:
            case Open():
                self._open(command)
                return
            case Feed() if command.stream in self._roles:
                self._vad.feed(command.stream, command.pcm, command.start)
            case Commit() | Respond():
                self._taken_us[command.stream, command.ref] = self._clock()
            case Close():
                self._vad.close(command.stream)
                self._taken_us = {key: us for key, us in self._taken_us.items() if key[0] != command.stream}
        self._tell(command)
        if isinstance(command, Close):
            self._tell(command, self._left.pop(command.stream, []))
            self._roles.pop(command.stream, None)

    def _leave(self, command: Leave) -> None:
        """The client is gone: the slots of its stream are freed at once."""
        audience = self._audience(command)
        self._left[command.stream] = [engine for engine in audience if engine.capabilities.remembers]
        self._tell(Close(command.stream), [engine for engine in audience if not engine.capabilities.remembers])
        self._tell(command, self._left[command.stream])
        self._roles[command.stream] = ()

    def _open(self, command: Open) -> None:
        """Admits a stream to all its engines or to none, and to the VAD.

        Engines whose role a second Open gives up are closed, the others receive it, and it is answered.  If it is
        refused, the stream goes on as it was; a client that had left has nothing that could go on."""
        stream, before = command.stream, self._audience(command)
        roles = None if stream in self._left else self._roles.get(stream)
        self._roles[stream] = tuple(role for role in command.roles if role in self._engines)
        audience = self._audience(command)
        before += self._left.pop(stream, [])
        self._tell(Close(stream), [engine for engine in before if engine not in audience])
        try:
            for engine in audience:
                engine.receive(self._as_told(command, engine))
        except Refuse as refusal:
            if roles is None:
                self._shut_out(Refused(stream, str(refusal), refusal.retry_after_s))
            else:
                self._tell(Close(stream), [engine for engine in audience if engine not in before])
                self._roles[stream] = roles
                self._out.append(Refused(stream, str(refusal), refusal.retry_after_s, kept=True))
        except Exception:
            log.exception("engine error in stream %d at Open", stream)
            self._shut_out(Refused(stream, "The engine failed at the start of this session; see voxd's log."))
        else:
            self._vad.open(stream, command.start)
            if roles is not None:
                self._out.append(Opened(stream))

    def _as_told(self, command: Open, engine: Engine) -> Open:
        """The Open with only the roles that this engine has: a responder must not write down what is said."""
        own = tuple(role for role in self._roles[command.stream] if self._engines[role] is engine)
        return msgspec.structs.replace(command, roles=own)

    def _shut_out(self, refused: Refused) -> None:
        """Closes the stream in all engines, so that none keeps a part of it."""
        self._tell(Close(refused.stream))
        del self._roles[refused.stream]
        self._vad.close(refused.stream)
        self._out.append(refused)

    def _audience(self, command: EngineCommand) -> list[Engine]:
        roles = self._roles.get(command.stream, ())
        return list(dict.fromkeys(self._engines[role] for role in command.audience if role in roles))

    def _tell(self, command: EngineCommand, audience: Iterable[Engine] | None = None) -> None:
        """Gives a command to engines.  An exception fails this turn of this stream, and nothing else."""
        for engine in self._audience(command) if audience is None else audience:
            try:
                engine.receive(command)
            except Exception:
                log.exception("engine error in stream %d at %s", command.stream, type(command).__name__)
                ref = getattr(command, "ref", None)
                message = "The engine failed in this turn; see voxd's log."
                self._out.append(Failed(command.stream, ref, "engine_error", message))

    # ── out ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _collect(self, output: Output) -> None:
        """Adds the times to an output, and drops outputs of streams that are closed."""
        if output.stream not in self._roles:
            return
        if isinstance(output, Said | Settled):
            key = (output.stream, output.ref)
            taken = self._taken_us.get(key, 0)
            if isinstance(output, Settled):
                self._taken_us.pop(key, None)
            output = msgspec.structs.replace(output, at_us=self._clock(), commit_us=taken)
        self._out.append(output)
