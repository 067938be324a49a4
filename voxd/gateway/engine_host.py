"""The engine process as the gateway sees it: starts it, watches its heartbeat, restarts it, carries messages.  Steps 5
and 9 of a packet's path.

It knows processes and streams; not sessions, models or what the messages mean.  The owners of streams are told of a
lost process and of the next one; their connections stay.

    queue       `engine_queue` bounds what waits for each stream; a message over the bound fails its turn, nothing else
    stuck       a process that gives no sign of life for `silence_s`, or accepts nothing for as long, is killed
    ended       `losses` decides when another process starts, and which stream is shut out
    no start    while no process can be started, sessions wait, and the log and `/status` say why
    an owner    that raises an exception when it is told something is ended, and nobody else
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from shared.audio import to_ms
from shared.environment import engine_environment
from voxd import framing, messages as m
from voxd.gateway.engine_queue import SLICE, EngineQueue
from voxd.gateway.losses import Losses
from voxd.telemetry.log import fields

log = logging.getLogger("voxd")
UNTOLD = 500  # reports of the engine process that wait for the turn of their client
State = Literal["loading", "ready", "restarting", "failed", "stopped"]
# The exceptions of a process that cannot be started: no descriptors, no memory, no threads.
CannotSpawn = (OSError, MemoryError, RuntimeError)
READ = 1 << 20  # bytes that are read from the engine process in one go
STOP_S = 1.0  # for the engine process to end by itself


class StreamOwner(Protocol):
    """Owns a stream, and is told what concerns it."""

    @property
    def busy(self) -> bool:
        """Is a turn of the stream in flight?"""

    def receive_output(self, output: m.Output) -> None: ...
    def engine_lost(self) -> None: ...
    def engine_ready(self, ready: m.Ready) -> None: ...
    def fail(self, why: str) -> None:
        """The stream is no longer served.  Never raises."""


class EngineFailed(Exception):
    """No engine process can be started, so the daemon ends.  `configuration`: the settings are wrong."""

    def __init__(self, message: str, *, configuration: bool = False) -> None:
        super().__init__(message)
        self.configuration = configuration


class EngineHost:
    """Keeps one engine process running.

    A process that is silent for `silence_s` is killed.  More than `restarts` idle losses within `window_s` end the
    daemon.  `variables`: environment variables that the engines may see besides the usual ones."""

    def __init__(
        self,
        configure: m.Configure,
        *,
        silence_s: float,
        restarts: int,
        window_s: float,
        variables: tuple[str, ...] = (),
    ) -> None:
        self._configure = configure
        self._environment = engine_environment(os.environ, variables)
        self._silence_s, self._window_s = silence_s, window_s
        self._losses = Losses(restarts, window_s)
        self._owners: dict[int, StreamOwner] = {}
        self._contexts: dict[int, contextvars.Context] = {}  # of the owners
        self._untold = 0  # reports that their owners were not told yet
        self._told = asyncio.Event()  # there are fewer than UNTOLD of them
        self._told.set()
        self._streams = 0
        self._queue = EngineQueue()
        self._queued = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._process: Process | None = None
        self._broken: m.Broken | None = None
        self._warm = False  # the present process has been ready
        self._ever_warm = False  # some process has been ready
        self._stopping = asyncio.Event()
        self.changed = asyncio.Condition()
        self.state: State = "loading"
        self.progress = "starting the engine process"
        self.ready: m.Ready | None = None
        self.beat: m.Beat | None = None
        self.heard_at = time.monotonic()  # the last sign of life of the engine process, s
        self.losses = 0  # engine processes that have ended by themselves

    # ── for sessions ────────────────────────────────────────────────────────────────────────────────────────────────

    def new_stream(self) -> int:
        """The number of a new stream; numbers are never used again."""
        self._streams += 1
        return self._streams

    def attach(self, stream: int, owner: StreamOwner) -> None:
        """From now on `owner` is told what the engines say about `stream`."""
        self._owners[stream] = owner
        self._contexts[stream] = contextvars.copy_context()

    def leave(self, stream: int) -> None:
        """Frees the stream's slot at once; its VAD results still come."""
        self.send([m.Leave(stream)])

    def detach(self, stream: int) -> None:
        """Ends the stream: its slot is free at once, and its owner is told nothing more."""
        if self._owners.pop(stream, None) is not None:
            del self._contexts[stream]
            self.send([m.Close(stream)])
            self._losses.gone(stream)

    def send(self, commands: list[m.Command]) -> None:
        """Sends commands in order.  Without an engine process they are dropped: sessions tell the next process their
        state again.

        Everything from one round of the event loop is written together, because a write for each packet would cost a
        system call and wake the engine process each time."""
        if self._writer is None or self.state != "ready":
            return
        for command in commands:
            if failed := self._queue.put(command):
                # later, because the session is in the middle of a step
                asyncio.get_running_loop().call_soon(self._refuse, failed)
            if isinstance(command, m.StreamMessage) and command.stream in self._owners:
                self._losses.sent(command.stream)
        self._queued.set()

    def _refuse(self, failed: m.Failed) -> None:
        """Tells a turn that a message of it was not sent."""
        more = fields("turn.refused", err_code=failed.code)
        log.warning("a turn was not given to the engine process: %s", failed.code, extra=more)
        self._tell(failed.stream, lambda owner: owner.receive_output(failed))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def lag_ms(self) -> int:
        """The most audio of any stream that the engine process has received and not processed, in ms."""
        return to_ms(self.beat.lag_samples) if self.beat else 0

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Runs engine processes until `stop`.  Raises EngineFailed when no further one is worth a try."""
        while not self._stopped:
            trouble = None
            try:
                await self._spawn()
                if not self._stopped:  # `stop` may have been called while the process was being started
                    await self._serve()
            except EngineFailed:
                raise
            except Exception as error:
                if not isinstance(error, CannotSpawn):
                    log.exception("internal error: starting another engine process")
                trouble = error
            finally:
                await self._reap()
            wait_s = await self._after_end(trouble)
            if wait_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), wait_s)

    @property
    def _stopped(self) -> bool:
        return self.state == "stopped"

    async def stop(self) -> None:
        """Asks the engine process to end, and kills it after STOP_S.  A process that still loads is killed at once, for
        it reads no messages yet and has nothing to finish."""
        process, loaded = self._process, self.state == "ready"
        self.state = "stopped"
        self._stopping.set()
        if process is None or self._writer is None:
            return
        if loaded:
            self._queue.put(m.Stop())
            self._queued.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_S)
        self._kill()

    async def _spawn(self) -> None:
        """Raises CannotSpawn."""
        self._process, self._broken, self._warm = None, None, False
        self.heard_at = time.monotonic()
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undone:
            undone.callback(ours.close)
            with theirs:
                command = (sys.executable, "-m", "voxd.engine", str(theirs.fileno()))
                # In a session of its own, so that Ctrl-C reaches the gateway alone and turns in flight may end.
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    env=self._environment,
                    pass_fds=(theirs.fileno(),),
                    stdin=DEVNULL,
                    start_new_session=True,
                )
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            undone.pop_all()
        self._writer.transport.set_write_buffer_limits(high=SLICE)
        self._queue, self._queued = EngineQueue(), asyncio.Event()
        self._writer.write(framing.encode(self._configure))

    async def _serve(self) -> None:
        """Carries messages until the process ends or is stuck."""
        assert self._writer is not None
        writing = asyncio.create_task(self._write(self._writer))
        try:
            await self._listen()
        finally:
            writing.cancel()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        """Writes what waits, a slice at a time; kills a process that accepts nothing."""
        try:
            while True:
                await self._queued.wait()
                self._queued.clear()
                while self._queue:
                    data, failed = self._queue.take()
                    writer.write(data)
                    for each in failed:
                        self._refuse(each)
                    await asyncio.wait_for(writer.drain(), self._silence_s)
                    await asyncio.sleep(0)  # other tasks run between two slices
        except TimeoutError:
            log.error("the engine process has accepted nothing for %.0f s: killing it", self._silence_s)
            self._kill()
        except ConnectionError:
            return  # the process has ended, which `_listen` notices too

    async def _listen(self) -> None:
        """Handles reports until the process ends or is silent for too long.  While it loads it may be silent."""
        unframer = framing.reports()
        while True:
            patience = self._silence_s if self.state == "ready" else None
            try:
                data = await asyncio.wait_for(self._reader.read(READ), patience)
            except TimeoutError:
                log.error("engine process silent for %.0f s: killing it", self._silence_s)
                return
            except ConnectionError:
                return
            if not data:
                return
            try:
                for report in unframer.feed(data):
                    await self._receive(report)
                    await self._told.wait()
            except (ValueError, msgspec.DecodeError) as error:
                if self._warm:  # its messages were valid until now
                    log.error("the engine process has sent a message that is not valid: killing it")
                    return
                text = "the engine process is of another version of voxd than the daemon; restart the daemon"
                raise EngineFailed(text) from error

    async def _receive(self, report: m.Report) -> None:
        self.heard_at = time.monotonic()
        match report:
            case m.Progress():
                log.info("loading · %s", report.text)
                await self._change(self.state, report.text)
            case m.Ready():
                await self._take_up(report)
            case m.Beat():
                self.beat = report
                if (stream := self._losses.beat()) is not None:
                    self._bring_back(stream)
            case m.Broken():
                self._broken = report
            case _:
                if isinstance(report, m.Settled) and report.status == "completed":
                    self._losses.done(report.stream)
                self._tell(report.stream, lambda owner: owner.receive_output(report))

    async def _take_up(self, ready: m.Ready) -> None:
        """The process is ready; streams return to it."""
        self.ready = ready
        for note in ready.notes:
            log.info("engine · %s", note)
        again, self._ever_warm, self._warm = self._ever_warm, True, True
        await self._change("ready", "ready")
        if again:
            for stream in self._losses.started(list(self._owners)):
                self._bring_back(stream)

    def _bring_back(self, stream: int) -> None:
        ready = self.ready
        if ready is not None:
            self._tell(stream, lambda owner: owner.engine_ready(ready))

    def _tell(self, stream: int, tell: Callable[[StreamOwner], None]) -> None:
        """Tells an owner something, in order, when it is that client's turn (`voxd.system.fair_loop`)."""
        if stream in self._contexts:
            asyncio.get_running_loop().call_soon(self._tell_now, stream, tell, context=self._contexts[stream])
            self._untold += 1
            if self._untold >= UNTOLD:
                self._told.clear()

    def _tell_now(self, stream: int, tell: Callable[[StreamOwner], None]) -> None:
        """The wall between clients: one whose code raises an exception is ended, and the others are not affected."""
        self._untold -= 1
        if self._untold < UNTOLD:
            self._told.set()
        owner = self._owners.get(stream)
        if owner is None:
            return
        try:
            tell(owner)
        except Exception:
            log.exception("internal error in stream %d", stream, extra=fields("client.failed", err_code="internal"))
            self._shut_out(stream, "internal error")

    def _shut_out(self, stream: int, why: str) -> None:
        owner = self._owners.get(stream)
        self.detach(stream)
        if owner is not None:
            owner.fail(why)

    async def _change(self, state: State, progress: str) -> None:
        async with self.changed:
            if not self._stopped:
                self.state = state
            self.progress = progress
            self.changed.notify_all()

    def _kill(self) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def _reap(self) -> None:
        self._kill()
        if self._process:
            await self._process.wait()
        if self._writer:
            self._writer.close()
        self._writer = None

    # ── when a process has ended ────────────────────────────────────────────────────────────────────────────────────

    async def _after_end(self, trouble: BaseException | None) -> float | None:
        """The seconds until the next process is started; None if the host was stopped.  Raises EngineFailed.

        If no process was ever ready, a person has to correct something, so there is no further try.  Afterwards there
        is: these settings have worked here, so memory or descriptors that are missing may soon be free again."""
        if self._stopped:
            return None
        if self._warm:
            return await self._after_loss()
        if self._ever_warm:
            return await self._after_failed_start(trouble)
        if self._broken is not None:
            await self._give_up(self._broken.message, configuration=self._broken.configuration)
        if trouble is not None:
            await self._give_up(f"the engine process cannot be started: {trouble}")
        return await self._after_loss()

    async def _after_failed_start(self, trouble: BaseException | None) -> float:
        reason = self._broken.message if self._broken else str(trouble or f"it ended with status {self._status}")
        wait_s = self._losses.not_started()
        text = f"the engine process cannot start again: {reason}; the next try is in {wait_s:.0f} s"
        log.error("%s; connections stay", text, extra=fields("engine.nostart"))
        await self._change("restarting", text)
        return wait_s

    async def _after_loss(self) -> float:
        """Tells all owners of the loss.  Returns the seconds until the next process is started."""
        self.losses += 1
        busy = [stream for stream, owner in self._owners.items() if owner.busy]
        wait_s, culprit = self._losses.lost(time.monotonic(), busy)
        if wait_s is None:
            text = f"the engine process ended {self._losses.idle} times within {self._window_s:.0f} s"
            await self._give_up(f"{text}; last status {self._status}")
            return 0
        more = fields("engine.lost", status=self._status)
        log.error("engine process lost (status %s): starting another; connections stay", self._status, extra=more)
        await self._change("restarting", "the engine process was lost and is starting again")
        if culprit is not None:
            log.error("it ended several times while working only for stream %d: that stream is closed", culprit)
            self._shut_out(culprit, "the engine process ended each time it worked on this session")
        for stream in list(self._owners):
            self._tell(stream, lambda owner: owner.engine_lost())
        return wait_s

    async def _give_up(self, text: str, *, configuration: bool = False) -> None:
        await self._change("failed", text)
        raise EngineFailed(text, configuration=configuration)

    @property
    def _status(self) -> int | None:
        """The exit status of the last process."""
        return self._process.returncode if self._process else None
