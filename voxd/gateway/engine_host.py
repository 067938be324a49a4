"""The engine process seen from the gateway: starts it, watches its heartbeat, restarts it, carries messages.  Steps 5
and 9.

It knows processes and streams; not sessions, models or what the messages mean.  Sessions hear of a loss and of the
new process through `Client`; their connections stay.

    waiting     `engine_queue`: a bound for each stream; what is over it fails its turn, and nothing else happens
    stuck       no sign of life for `silence_s`, or nothing taken for as long although there is something to take
    ended       `losses`: when another one is started, and which client is not to come back
    no start    while there is none and none can be had, sessions wait and the daemon says why
    a client    that throws at what it is told is ended, alone
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
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from shared.environment import engine_environment
from voxd import framing, messages as m
from voxd.gateway.engine_queue import SLICE, EngineQueue
from voxd.gateway.losses import Losses
from voxd.telemetry.log import fields

log = logging.getLogger("voxd")
UNTOLD = 500  # reports of the engine process that wait for the turn of their client
State = Literal["loading", "ready", "restarting", "failed", "stopped"]
# How a process cannot be had: no descriptors, no memory, no threads.
CannotSpawn = (OSError, MemoryError, RuntimeError)


class Client(Protocol):
    """Who owns a stream."""

    @property
    def busy(self) -> bool:
        """Is a turn of it in flight?"""

    def receive_output(self, output: m.Output) -> None: ...
    def engine_lost(self) -> None: ...
    def engine_ready(self, ready: m.Ready) -> None: ...
    def fail(self, why: str) -> None:
        """It is no longer served.  Never raises."""


class EngineFailed(Exception):
    """There is no engine process and none will be started: the daemon ends.  `configuration`: a person must mend
    settings."""

    def __init__(self, message: str, *, configuration: bool = False) -> None:
        super().__init__(message)
        self.configuration = configuration


class EngineHost:
    """`restarts` idle losses within `window_s` are borne; a process silent for `silence_s` is killed.

    `variables`: names of those of the environment that the engines may see besides the usual ones."""

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
        self._clients: dict[int, Client] = {}
        self._contexts: dict[int, contextvars.Context] = {}  # of the clients
        self._untold = 0  # reports of which their clients were not told yet
        self._told = asyncio.Event()  # there are less than UNTOLD
        self._told.set()
        self._streams = 0
        self._queue = EngineQueue()
        self._queued = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._process: Process | None = None
        self._broken: m.Broken | None = None
        self._warm = False  # this process was ready
        self._ever_warm = False
        self._stopping = asyncio.Event()
        self.changed = asyncio.Condition()
        self.state: State = "loading"
        self.progress = "starting the engine process"
        self.ready: m.Ready | None = None
        self.beat: m.Beat | None = None
        self.heard_at = time.monotonic()  # the last sign of life of the engine process, s
        self.losses = 0  # engine processes that ended when nobody wanted them to

    # ── for sessions ────────────────────────────────────────────────────────────────────────────────────────────────

    def new_stream(self) -> int:
        """A number that is never used again."""
        self._streams += 1
        return self._streams

    def attach(self, stream: int, client: Client) -> None:
        """From now on `client` is told what the engines say about `stream`."""
        self._clients[stream] = client
        self._contexts[stream] = contextvars.copy_context()

    def leave(self, stream: int) -> None:
        """The slot is free at once; what the VAD hears of the stream still comes."""
        self.send([m.Leave(stream)])

    def detach(self, stream: int) -> None:
        """The slot is free at once."""
        if self._clients.pop(stream, None) is not None:
            del self._contexts[stream]
            self.send([m.Close(stream)])
            self._losses.gone(stream)

    def send(self, commands: list[m.Command]) -> None:
        """In order.  Without an engine process they vanish: sessions tell their state afresh to the next one.

        What one turn of the event loop has to send is written at once: a write per packet is a system call per packet,
        and wakes the engine process as often."""
        if self._writer is None or self.state != "ready":
            return
        for command in commands:
            if failed := self._queue.put(command):
                # The session is in the middle of something.
                asyncio.get_running_loop().call_soon(self._refuse, failed)
            if isinstance(command, m.StreamMessage) and command.stream in self._clients:
                self._losses.sent(command.stream)
        self._queued.set()

    def _refuse(self, failed: m.Failed) -> None:
        """A message was not sent."""
        more = fields("turn.refused", err_code=failed.code)
        log.warning("a turn was not given to the engine process: %s", failed.code, extra=more)
        self._tell(failed.stream, lambda client: client.receive_output(failed))

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def lag_ms(self) -> int:
        """Audio received by the engine process and not yet heard, worst stream."""
        return self.beat.lag_samples // 16 if self.beat else 0

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Until `stop`; raises EngineFailed when it is of no use to go on."""
        while not self._stopped:
            trouble = None
            try:
                await self._spawn()
                if not self._stopped:  # it may have been told so while the process was being started
                    await self._serve()
            except EngineFailed:
                raise
            except Exception as error:
                if not isinstance(error, CannotSpawn):
                    log.exception("internal error: the engine process is started anew")
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
        """In order: Stop, then a second, then by force.  While it loads it reads nothing and has nothing to end."""
        process, loaded = self._process, self.state == "ready"
        self.state = "stopped"
        self._stopping.set()
        if process is None or self._writer is None:
            return
        if loaded:
            self._queue.put(m.Stop())
            self._queued.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
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
                # A session of its own: a signal to the gateway's group reaches the gateway alone, and turns may end.
                self._process = await asyncio.create_subprocess_exec(
                    *command, env=self._environment, pass_fds=(theirs.fileno(),), stdin=-3, start_new_session=True
                )
            self._reader, self._writer = await asyncio.open_connection(sock=ours)
            undone.pop_all()
        self._writer.transport.set_write_buffer_limits(high=SLICE)
        self._queue, self._queued = EngineQueue(), asyncio.Event()
        self._writer.write(framing.encode(self._configure))

    async def _serve(self) -> None:
        """Until the process ends or counts as stuck."""
        assert self._writer is not None
        writing = asyncio.create_task(self._write(self._writer))
        try:
            await self._listen()
        finally:
            writing.cancel()

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        """What waits, a slice at a time, for as long as the process takes it."""
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
                    await asyncio.sleep(0)  # everybody else has his turn between two slices
        except TimeoutError:
            log.error("engine process has taken nothing for %.0f s: killing it", self._silence_s)
            self._kill()
        except ConnectionError:
            return  # it has ended, which `_listen` sees too

    async def _listen(self) -> None:
        """Reports until the process ends or falls silent.  Loading may take as long as it takes, but not once it was
        warm."""
        unframer = framing.reports()
        while True:
            patience = self._silence_s if self.state == "ready" else None
            try:
                data = await asyncio.wait_for(self._reader.read(1 << 20), patience)
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
                if self._warm:  # it has spoken our language until now
                    log.error("engine process says what is no message: killing it")
                    return
                text = "the engine process speaks another version of voxd than this one; restart the daemon"
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
                self._tell(report.stream, lambda client: client.receive_output(report))

    async def _take_up(self, ready: m.Ready) -> None:
        """The process is warm."""
        self.ready = ready
        for note in ready.notes:
            log.info("engine · %s", note)
        again, self._ever_warm, self._warm = self._ever_warm, True, True
        await self._change("ready", "ready")
        if again:
            for stream in self._losses.started(list(self._clients)):
                self._bring_back(stream)

    def _bring_back(self, stream: int) -> None:
        ready = self.ready
        if ready is not None:
            self._tell(stream, lambda client: client.engine_ready(ready))

    def _tell(self, stream: int, tell: Callable[[Client], None]) -> None:
        """In the turn of that client (`voxd.system.fair_loop`), and in order."""
        if stream in self._contexts:
            asyncio.get_running_loop().call_soon(self._tell_now, stream, tell, context=self._contexts[stream])
            self._untold += 1
            if self._untold >= UNTOLD:
                self._told.clear()

    def _tell_now(self, stream: int, tell: Callable[[Client], None]) -> None:
        """The wall between clients: one that throws is ended, and the others hear what they would have heard."""
        self._untold -= 1
        if self._untold < UNTOLD:
            self._told.set()
        client = self._clients.get(stream)
        if client is None:
            return
        try:
            tell(client)
        except Exception:
            log.exception("internal error in stream %d", stream, extra=fields("client.failed", err_code="internal"))
            self._shut_out(stream, "internal error")

    def _shut_out(self, stream: int, why: str) -> None:
        client = self._clients.get(stream)
        self.detach(stream)
        if client is not None:
            client.fail(why)

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

    # ── after a process has ended ───────────────────────────────────────────────────────────────────────────────────

    async def _after_end(self, trouble: BaseException | None) -> float | None:
        """The seconds until the next one is started.  Raises EngineFailed when there is none.

        Before the first one was warm, what is wrong is for a person to mend.  Afterwards it is not: it has worked here
        with these settings, so the memory or the descriptors that are missing now may be free again in a moment."""
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
        """Tells the sessions."""
        self.losses += 1
        busy = [stream for stream, client in self._clients.items() if client.busy]
        wait_s, culprit = self._losses.lost(time.monotonic(), busy)
        if wait_s is None:
            text = f"the engine process ended {self._losses.idle} times within {self._window_s:.0f} s"
            await self._give_up(f"{text}; last status {self._status}")
            return 0
        more = fields("engine.lost", status=self._status)
        log.error("engine process lost (status %s): starting another; connections stay", self._status, extra=more)
        await self._change("restarting", "the engine process was lost and is starting again")
        if culprit is not None:
            log.error("it ended several times while it worked for stream %d alone: that one is closed", culprit)
            self._shut_out(culprit, "the engine process ended each time it worked on this session")
        for stream in list(self._clients):
            self._tell(stream, lambda client: client.engine_lost())
        return wait_s

    async def _give_up(self, text: str, *, configuration: bool = False) -> None:
        await self._change("failed", text)
        raise EngineFailed(text, configuration=configuration)

    @property
    def _status(self) -> int | None:
        """With which the last process ended."""
        return self._process.returncode if self._process else None
