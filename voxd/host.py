"""The engine process seen from the gateway: starts it, watches its heartbeat, restarts it, carries messages.  Steps 5
and 9.

It knows processes and streams; not sessions, models or what the messages mean.  Sessions hear of a loss and of the
new process through `Client`; their connections stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import Process
from collections import deque
from typing import Literal, Protocol

import msgspec

from voxd import messages as m
from voxd.journal import fields

log = logging.getLogger("voxd")
WRITE_LIMIT = 64 << 20  # bytes waiting for the engine process; above it, it counts as hung and is restarted
State = Literal["loading", "ready", "restarting", "failed", "stopped"]


class Client(Protocol):
    """Who owns a stream."""

    def receive_output(self, output: m.Output) -> None: ...
    def engine_lost(self) -> None: ...
    def engine_ready(self, ready: m.Ready) -> None: ...


class EngineFailed(Exception):
    """There is no engine process and none will be started: the daemon ends.  `configuration`: a person must mend
    settings."""

    def __init__(self, message: str, *, configuration: bool = False) -> None:
        super().__init__(message)
        self.configuration = configuration


class EngineHost:
    """`restarts` within `window_s` are tried; a process silent for `silence_s` is killed."""

    def __init__(self, configure: m.Configure, *, silence_s: float, restarts: int, window_s: float) -> None:
        self._configure = configure
        self._silence_s, self._restarts, self._window_s = silence_s, restarts, window_s
        self._lost_at: deque[float] = deque(maxlen=restarts + 1)
        self._clients: dict[int, Client] = {}
        self._streams = 0
        self._writer: asyncio.StreamWriter | None = None
        self._unsent: list[bytes] = []  # of this turn of the event loop
        self._process: Process | None = None
        self._broken: m.Broken | None = None
        self._ever_ready = False
        self.changed = asyncio.Condition()
        self.state: State = "loading"
        self.progress = "starting the engine process"
        self.ready: m.Ready | None = None
        self.beat: m.Beat | None = None
        self.heard_at = time.monotonic()  # the last sign of life of the engine process, s
        self.losses = 0  # engine processes that ended when nobody wanted them to

    # ── for sessions ────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, client: Client) -> int:
        """A stream for `client`; its number is never used again."""
        self._streams += 1
        self._clients[self._streams] = client
        return self._streams

    def leave(self, stream: int) -> None:
        """The slot is free at once; what the VAD hears of the stream still comes."""
        self.send([m.Leave(stream)])

    def detach(self, stream: int) -> None:
        """The slot is free at once."""
        if self._clients.pop(stream, None) is not None:
            self.send([m.Close(stream)])

    def send(self, commands: list[m.Command]) -> None:
        """In order.  Without an engine process they vanish: sessions tell their state afresh to the next one.

        What one turn of the event loop has to send is written at once: a write per packet is a system call per packet,
        and wakes the engine process as often."""
        if self._writer is None or self.state != "ready" or not commands:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.extend(m.encode(command) for command in commands)

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self._writer is None or not data:
            return
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > WRITE_LIMIT:
            log.error("engine process takes no audio: restarting it")
            self._kill()

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
            try:
                await self._spawn()
                if not self._stopped:  # it may have been told so while the process was being started
                    await self._listen()
            finally:
                await self._reap()
            await self._after_loss()

    @property
    def _stopped(self) -> bool:
        return self.state == "stopped"

    async def stop(self) -> None:
        """In order: Stop, then a second, then by force.  While it loads it reads nothing and has nothing to end."""
        process, loaded = self._process, self.state == "ready"
        self.state = "stopped"
        if process is None or self._writer is None:
            return
        if loaded:
            self._flush()
            self._writer.write(m.encode(m.Stop()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 1.0)
        self._kill()

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        command = (sys.executable, "-m", "voxd.engine", str(theirs.fileno()))
        # One BLAS thread: decodes run on threads of their own, and idle BLAS threads spin (0.1 core-seconds a decode).
        # Freed audio goes back to the system: glibc would keep 2 KiB of every session in fragments.
        environment = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "131072", **os.environ}
        # A session of its own: a signal to the gateway's group reaches the gateway alone, and turns may end meanwhile.
        self._process = await asyncio.create_subprocess_exec(
            *command, env=environment, pass_fds=(theirs.fileno(),), stdin=-3, start_new_session=True
        )
        theirs.close()
        self.heard_at = time.monotonic()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._writer.write(m.encode(self._configure))

    async def _listen(self) -> None:
        """Reports until the process ends or falls silent.  Loading may take as long as it takes, but not once it was
        warm."""
        unframer = m.reports()
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
                reports = list(unframer.feed(data))
            except (ValueError, msgspec.DecodeError) as error:
                text = "the engine process speaks another version of voxd than this one; restart the daemon"
                raise EngineFailed(text) from error
            for report in reports:
                await self._receive(report)

    async def _receive(self, report: m.Report) -> None:
        self.heard_at = time.monotonic()
        match report:
            case m.Progress():
                log.info("loading · %s", report.text)
                await self._change(self.state, report.text)
            case m.Ready():
                await self._warm(report)
            case m.Beat():
                self.beat = report
            case m.Broken():
                self._broken = report
            case _:
                if client := self._clients.get(report.stream):
                    client.receive_output(report)

    async def _warm(self, ready: m.Ready) -> None:
        self.ready = ready
        for note in ready.notes:
            log.info("engine · %s", note)
        again, self._ever_ready = self._ever_ready, True
        await self._change("ready", "ready")
        if again:
            for client in list(self._clients.values()):
                client.engine_ready(ready)

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
        self._writer, self._unsent = None, []

    async def _after_loss(self) -> None:
        """Tells the sessions, then decides whether another process is worth starting."""
        if self._stopped:
            return
        status = self._process.returncode if self._process else None
        if self._broken is not None:
            await self._change("failed", self._broken.message)
            raise EngineFailed(self._broken.message, configuration=self._broken.configuration)
        now = time.monotonic()
        self.losses += 1
        self._lost_at.append(now)
        recent = [at for at in self._lost_at if now - at < self._window_s]
        if len(recent) > self._restarts:
            text = f"the engine process ended {len(recent)} times within {self._window_s:.0f} s; last status {status}"
            await self._change("failed", text)
            raise EngineFailed(text)
        log.error(
            "engine process lost (status %s): starting another; connections stay", status, extra=fields("engine.lost")
        )
        await self._change("restarting", "the engine process was lost and is starting again")
        for client in list(self._clients.values()):
            client.engine_lost()
