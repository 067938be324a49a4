"""Gathers what the doctor asks of this machine: its sound, its terminal, its `ssh` and what that forwards.

Not in the path.  It knows /proc, programs and environment variables; not what they mean, nor voxd.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from voxtui.doctor.facts import Machine, Screen, Sound
from voxtui.doctor.rules import INSTALL, UNMUTE

PULSE_OF_WSLG = Path("/mnt/wslg/PulseServer")
HEARING_S = 5.0  # to load PortAudio, open a device and listen
PROGRAM_S = 3.0  # for a program that only tells something about itself
PROCESSES = 20  # ssh processes whose forwards are looked at
TRUE_COLOUR = 1 << 24


async def look_at_machine(environ: Mapping[str, str], *, here: bool, proc: Path = Path("/proc")) -> Machine:
    """Gathers what is to be known of this machine.  `here`: the target is on it.  Takes HEARING_S at most."""
    return Machine(
        system=sys.platform,
        kernel=_read(proc / "version"),
        pulse="PULSE_SERVER" in environ or _exists(PULSE_OF_WSLG),
        login=environ.get("SSH_CONNECTION", ""),
        user=_user(environ),
        here=here,
        installer=_first_program(INSTALL),
        mixer=_first_program(UNMUTE),
        screen=look_at_screen(environ),
        sound=await hear(environ),
    )


def look_at_screen(environ: Mapping[str, str]) -> Screen:
    """Describes standard output: whether it is a terminal, how wide, how many colours."""
    size = shutil.get_terminal_size()
    name, more = environ.get("TERM", "dumb"), environ.get("COLORTERM", "")
    colours = TRUE_COLOUR if more in ("truecolor", "24bit") else 256 if "256" in name else 16
    if name == "dumb" or environ.get("NO_COLOR"):
        colours = 0
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return Screen(sys.stdout.isatty(), size.columns, size.lines, colours, utf8)


async def hear(environ: Mapping[str, str]) -> Sound | None:
    """What `voxtui.doctor.ear` hears; None if it hangs or fails."""
    said = await ask([sys.executable, "-m", "voxtui.doctor.ear"], HEARING_S, environ=environ)
    try:
        return msgspec.json.decode(said.out, type=Sound) if said is not None else None
    except msgspec.DecodeError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _user(environ: Mapping[str, str]) -> str:
    try:
        return environ.get("USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "user"


def _first_program(names: Mapping[str, str]) -> str:
    return next((name for name in names if shutil.which(name)), "")


# ── ssh ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SshConfig:
    """What `ssh -G` says it would do.  `target`: its host as voxtui and ssh take it, with user and port; `name`: what
    is looked up in DNS; `forwards`: (what it listens on, what that leads to), as ssh writes them."""

    target: str
    name: str
    port: int
    proxy: str  # "ProxyJump bastion", "ProxyCommand", ""
    bare: bool  # -N
    forwards: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SshProcess:
    pid: int
    config: SshConfig


async def ssh_version(command: Sequence[str]) -> str | None:
    """`OpenSSH_9.2p1`; None if there is no such program."""
    said = await ask([*command[:1], "-V"], PROGRAM_S)
    return None if said is None else (said.err or said.out).decode(errors="replace").partition(",")[0].strip()


async def ssh_config(command: Sequence[str], folder: Path | None = None) -> SshConfig | None:
    """Asks ssh what it would do with these arguments: the command line and ssh_config, merged.

    `folder`: where it would run.  None if ssh does not understand the arguments."""
    said = await ask([command[0], "-G", *command[1:]], PROGRAM_S, folder=folder)
    if said is None or said.code != 0:
        return None
    found: dict[str, list[str]] = {}
    for line in said.out.decode(errors="replace").splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)

    def one(key: str) -> str:
        return found.get(key, [""])[0]

    jump, through = one("proxyjump"), one("proxycommand")
    proxy = f"ProxyJump {jump}" if jump not in ("", "none") else "ProxyCommand" if through not in ("", "none") else ""
    return SshConfig(
        target=_target(one("host") or one("hostname"), one("user"), one("port")),
        name=one("hostname"),
        port=int(one("port")) if one("port").isdecimal() else 22,
        proxy=proxy,
        bare=one("sessiontype") == "none" or "-N" in command,
        forwards=tuple(
            (listen, to) for line in found.get("localforward", ()) for listen, _, to in [line.partition(" ")]
        ),
    )


def _target(host: str, user: str, port: str) -> str:
    """The target as short as it can be written."""
    host = host if user in ("", _user({})) else f"{user}@{host}"
    return host if port in ("", "22") else f"ssh://{host}:{port}"


async def ssh_forwards(proc: Path = Path("/proc")) -> list[SshProcess]:
    """The ssh processes of this user that forward something.  Empty where there is no /proc."""
    running = list(_ssh_processes(proc))[:PROCESSES]
    configs = await asyncio.gather(*(ssh_config(command, folder) for _, command, folder in running))
    pairs = zip(running, configs, strict=True)
    return [SshProcess(pid, config) for (pid, _, _), config in pairs if config is not None and config.forwards]


def _ssh_processes(proc: Path) -> Iterator[tuple[int, list[str], Path]]:
    """Process id, command and folder of each ssh of this user."""
    for entry in sorted(proc.glob("[0-9]*")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if entry.stat().st_uid != os.getuid():
                continue
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if len(command) > 1 and Path(command[0]).name == "ssh":
                yield int(entry.name), ["ssh", *command[1:]], (entry / "cwd").resolve()


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Said:
    """What a program printed, and its exit status."""

    code: int
    out: bytes
    err: bytes


async def ask(
    command: Sequence[str], limit_s: float, *, environ: Mapping[str, str] | None = None, folder: Path | None = None
) -> Said | None:
    """Runs a program that asks nothing; None if it cannot be run or takes longer."""
    try:
        async with asyncio.timeout(limit_s), _child(command, environ, folder) as child:
            out, err = await child.communicate()
            return Said(child.returncode or 0, out, err)
    except (OSError, ValueError, TimeoutError):  # ValueError: NUL in an argument
        return None


@asynccontextmanager
async def _child(
    command: Sequence[str], environ: Mapping[str, str] | None, folder: Path | None
) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    child = await asyncio.create_subprocess_exec(
        *command, stdin=nothing, stdout=pipe, stderr=pipe, env=environ, cwd=folder
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
