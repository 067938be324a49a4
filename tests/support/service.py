"""voxd as systemd keeps it, without systemd: sockets that stay, another process after each end, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.chaos import scribe
from tests.chaos.nemesis_check import ENGINE, GATEWAY, Life
from tests.support.daemon import environment, handing_over
from voxd.commands.control import NotRunning, status
from voxtui.capture.sources import WallClock

RESTART_S = 2.0  # RestartSec of the unit
CLOCK = WallClock()


async def pause(seconds: float) -> None:
    """Of a schedule, which is made of times."""
    await CLOCK.sleep_until(CLOCK.now_us() + round(seconds * 1e6))


class Service:
    """With the engine `scribe` in both roles; `settings` in its environment."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder, self.path = folder, folder / "voxd.sock"
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(str(self.path))
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._unix.listen(128)
        self.port: int = self._tcp.getsockname()[1]
        self.lives: list[Life] = []
        self._environment = environment(folder, {**settings, **scribe.install(folder)})
        self._process: asyncio.subprocess.Process | None = None
        self._engine: int | None = None
        self._ending = False
        self._killed = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        keeper = asyncio.create_task(self._keep())
        try:
            await self.until_ready()
            yield self
        finally:
            self._ending = True
            for number in (signal.SIGCONT, signal.SIGTERM):
                self.signal(GATEWAY, number)
            await keeper
            self._unix.close()
            self._tcp.close()

    async def _keep(self) -> None:
        options = ("--transcribe", "scribe", "--respond", "scribe", "--no-token", "--socket", str(self.path))
        sockets = (self._unix, self._tcp)
        command = (*handing_over(sockets), sys.executable, "-m", "voxd", "start", *options)
        while not self._ending:
            log = self.folder / f"log.{len(self.lives)}"
            with log.open("wb") as written:
                fds = [sock.fileno() for sock in sockets]
                self._killed = False
                self._process = await asyncio.create_subprocess_exec(
                    *command, stdout=written, stderr=written, env=self._environment, pass_fds=fds, cwd=scribe.ROOT
                )
            code = await self._process.wait()
            self._end_engine()
            text = log.read_text(errors="replace")
            if not self._ending and not self._killed:
                text += f"\nTraceback: voxd ended by itself with status {code}"
            self.lives.append(Life(text, killed=self._killed))
            if not self._ending:
                await pause(RESTART_S)

    def _end_engine(self) -> None:
        """systemd leaves nothing of a unit that has ended; a stopped process would stay for ever."""
        if self._engine is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._engine, signal.SIGKILL)
        self._engine = None

    def signal(self, target: str, number: signal.Signals) -> bool:
        """False: there is no such process at the moment."""
        if self._process is None or self._process.returncode is not None:
            return False
        pid = self._engine if target == ENGINE else self._process.pid
        if pid is None:
            return False
        if target == GATEWAY and number == signal.SIGKILL:
            self._killed = True
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    @property
    def takes_reloads(self) -> bool:
        """Does the gateway handle SIGHUP?  A process that does not is ended by it."""
        assert self._process is not None
        with contextlib.suppress(FileNotFoundError):
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
            caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
            return bool(caught >> (signal.SIGHUP - 1) & 1)
        return False

    async def look(self) -> str:
        """The daemon's state; also learns the pid of the engine process."""
        try:
            found = await asyncio.to_thread(status, self.path, 1.0)
        except NotRunning:
            return "silent"
        pid = found["engine_pid"]
        self._engine = pid if isinstance(pid, int) else None
        return str(found["state"])

    async def until_ready(self) -> None:
        async with asyncio.timeout(60):
            while await self.look() != "ready":
                await pause(0.1)
