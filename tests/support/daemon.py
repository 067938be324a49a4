"""A real voxd in processes of its own, on a UNIX socket in a directory of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from voxd.commands.control import NotRunning, status

READY_S = 300.0  # a model may have to be loaded
STOP_S = 60.0
TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Daemon:
    """`folder` holds everything that it writes; `log` is its journal."""

    process: subprocess.Popen[bytes]
    socket: Path
    folder: Path
    log: Path

    def status(self) -> dict[str, object]:
        """What `/status` says.  Raises NotRunning."""
        return status(self.socket)

    def ended(self, seconds: float) -> bool:
        """Waits for the end of the process, so long at most."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def until_ready(self, seconds: float = READY_S) -> None:
        latest = time.monotonic() + seconds
        while not self._is_ready():
            if self.ended(TICK_S):
                raise AssertionError(f"voxd ended with status {self.process.returncode}:\n{self.log.read_text()}")
            assert time.monotonic() < latest, f"voxd is not ready after {seconds} s:\n{self.log.read_text()}"

    def _is_ready(self) -> bool:
        try:
            return self.status()["state"] == "ready"
        except NotRunning:
            return False


def environment(folder: Path, more: Mapping[str, str] = {}) -> dict[str, str]:
    """The test's own, but with `folder` as home and without settings of voxd."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VOXD_", "XDG_"))}
    return {**kept, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), **more}


def handing_over(given: Sequence[socket.socket]) -> tuple[str, ...]:
    """A command that runs its arguments with these sockets from number 3 on, and says so in the environment."""
    if not given:
        return ()
    moves = " ".join(f"{3 + number}<&{sock.fileno()}" for number, sock in enumerate(given))
    return "bash", "-c", f'export LISTEN_PID=$$ LISTEN_FDS={len(given)}; exec "$@" {moves}', "bash"


@contextmanager
def voxd_process(
    *arguments: str,
    env: Mapping[str, str] = {},
    ready: bool = True,
    ready_s: float = READY_S,
    given: Sequence[socket.socket] = (),
    at: Path | None = None,
) -> Iterator[Daemon]:
    """`voxd start ARGUMENTS...`; `env` is added to its environment, `given` is handed over as systemd does it.  Not
    ready: it may still be loading, or fail.  `at`: another socket than one of its own."""
    if not {"--respond", "--config"} & {*arguments}:
        arguments = (*arguments, "--respond", "none")  # `auto` would load a model for each daemon
    with tempfile.TemporaryDirectory(prefix="vx-", dir="/tmp") as name:  # pytest's own paths are too long for a socket
        folder = Path(name)
        path, log = at or folder / "voxd.sock", folder / "log"
        command = [*handing_over(given), sys.executable, "-m", "voxd", "start", "--socket", str(path), *arguments]
        with log.open("wb") as written:
            fds = [sock.fileno() for sock in given]
            process = subprocess.Popen(
                command, stdout=written, stderr=written, env=environment(folder, env), pass_fds=fds, process_group=0
            )
        daemon = Daemon(process, path, folder, log)
        try:
            if ready:
                daemon.until_ready(ready_s)
            yield daemon
        finally:
            process.terminate()
            if not daemon.ended(STOP_S):
                process.kill()
                process.wait()
