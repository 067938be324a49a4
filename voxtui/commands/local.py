"""Starts a private voxd for one command, reached through a socket that nobody else sees, and always stops it.

Not in the path.  It knows how a daemon is started, how it says that it is ready and how it is stopped; not what is said
to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import click
import msgspec

from shared.extras import how_to_install, missing
from shared.safe_text import safe_line
from shared.terminal import say
from voxtui.errors import Unreachable
from voxtui.link.http_client import get
from voxtui.link.socket_folder import socket_folder
from voxtui.link.target import Address, Target, unix_target

NEEDED = ("faster_whisper", "onnxruntime", "starlette", "uvicorn")  # what the extra [whisper] brings
START_S = 120.0  # a cold disk and a slow core; a warm one takes two seconds
LOOK_S = 0.1  # between two looks whether it is ready
ANSWER_S = 5.0  # for an answer from somebody who listens
STOP_S = 5.0  # for the daemon to end; then it is killed
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
TAIL = 12  # lines of its log that are shown if it dies

Tell = Callable[[str], None]


class LocalError(Exception):
    """No voxd could be started here; the text is for people."""


@asynccontextmanager
async def private_voxd(tell: Tell, respond: str = "none") -> AsyncIterator[Target]:
    """A warm voxd with the embedded engine; `tell` is given a line whenever its loading goes on.

    `respond`: what answers, auto for the best that can run here."""
    if missing(NEEDED):
        raise LocalError(f"This machine has no speech engine installed: `{how_to_install('whisper')}` brings one.")
    with tempfile.TemporaryDirectory(prefix="voxd-", dir=socket_folder()) as name:  # made with mode 0700
        folder = Path(name)
        socket, log = folder / "voxd.sock", folder / "voxd.log"
        with log.open("wb") as output:
            child = await asyncio.create_subprocess_exec(
                *_command(socket, respond),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C goes to this process only, which stops the daemon
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        try:
            target = unix_target(socket)
            await _until_ready(child, target, log, tell)
            yield target
        finally:
            await _stop(child)


def _die_with_parent() -> None:
    """Has the kernel end the daemon when this process is killed and so cannot stop it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def answers(target: Target) -> bool:
    """Whether somebody listens behind the socket of a target; a daemon that died leaves its file behind.

    A daemon that is too busy to answer counts, since a second one beside it would help nobody."""
    if target.socket is None:
        return False
    try:
        async with asyncio.timeout(ANSWER_S):
            await get(Address(target.url, target.socket), "/ready")
    except (BlockingIOError, TimeoutError):
        return True
    except (OSError, ValueError):
        return False
    return True


async def at(address: Target, tell: Tell, work: Callable[[Target], Awaitable[bool]], *, private: bool) -> bool:
    """Does some work with the voxd there, or with a private one that lives as long as the work takes."""
    if not private:
        return await work(address)
    async with private_voxd(tell) as target:
        return await work(target)


async def here_or_private(address: Target, tell: Tell, work: Callable[[Target], Awaitable[bool]]) -> bool:
    """The same, with a private one if nobody answers there."""
    return await at(address, tell, work, private=not await answers(address))


def may_start(address: Target) -> bool:
    """Whether to start a private voxd for a person who has named none: nobody answers at the usual place, and the
    person, who is asked, does not object.  Raises Unreachable where nobody can be asked, or does not want one."""
    if asyncio.run(answers(address)):
        return False
    if missing(NEEDED):
        how = how_to_install("whisper")
        raise Unreachable(f"No voxd is running at {address.label}, and none can be started: `{how}` brings one.")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Unreachable(f"No voxd is running at {address.label}: `voxd start` starts one, or name a TARGET.")
    say(f"No voxd is running on this machine ({address.label}).", err=True)
    say("One that stays: `voxd start` in another terminal, or `voxd install` (systemd).", err=True)
    if not click.confirm("Start a private one for now?", default=True, err=True):
        raise Unreachable("Then name another machine: `voxtui HOST`, or whatever `voxtui --help` lists as TARGET.")
    return True


def _command(socket: Path, respond: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "voxd",
        "start",
        "--socket",
        str(socket),
        "--transcribe",
        "whisper",
        "--respond",
        respond,
    ]


async def _until_ready(child: Process, target: Target, log: Path, tell: Tell) -> None:
    """Returns when GET /ready says 200.  Raises LocalError if the daemon ends before that, or takes too long."""
    shown = ""
    try:
        async with asyncio.timeout(START_S):
            while True:
                # Wait for the daemon's end; each time it has not come, ask /ready once.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await child.wait()
                if child.returncode is not None:
                    raise LocalError(f"The private voxd ended at once (exit {child.returncode}).{_tail(log)}")
                status, progress = await _look(target)
                if status == 200:
                    return
                if progress and progress != shown:
                    shown = progress
                    tell(progress)
    except TimeoutError:
        raise LocalError(f"The private voxd is not ready after {START_S:.0f} s.{_tail(log)}") from None


async def _look(target: Target) -> tuple[int, str]:
    """Status and line of progress of GET /ready; status 0 while nobody listens."""
    try:
        status, body = await get(Address(target.url, target.socket), "/ready")
    except (OSError, ValueError):
        return 0, ""
    return status, _progress(body)


def _progress(body: bytes) -> str:
    """The line of `progress` in the body, which says what a voxd that loads is doing."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    progress = found.get("progress") if isinstance(found, dict) else None
    if isinstance(progress, list):
        progress = progress[-1] if progress else None
    return safe_line(progress) if isinstance(progress, str) else ""


def _tail(log: Path) -> str:
    """The end of the daemon's log, each line indented."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    return "".join(f"\n    {safe_line(line)}" for line in lines) or " It said nothing."


async def _stop(child: Process) -> None:
    """Sends SIGTERM, and SIGKILL to the whole process group (engine processes too) if it does not end in time."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await child.wait()
        except TimeoutError:
            pass
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()
