"""The facts that the doctor gathers about this machine, the way to voxd, and voxd.  Pure values, not in the path.

They do not know how they were gathered, nor what they mean: that is `rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

Failure = Literal["", "missing", "refused", "denied", "unknown", "silent", "other"]


# ── this machine ────────────────────────────────────────────────────────────────────────────────────────────────────


class Sound(msgspec.Struct, frozen=True):
    """What was heard of the default microphone, or why nothing was.

    `missing`: what cannot be loaded; `trouble`: one sentence; `peak`: of 16-bit samples; `level`: dBFS."""

    missing: Literal["", "package", "library"] = ""
    version: str = ""
    trouble: str = ""
    device: str = ""
    peak: int = 0
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Screen:
    """Standard output as a terminal.  `colours`: how many, 0 for none."""

    terminal: bool
    columns: int
    rows: int
    colours: int
    utf8: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine at which the person sits, or is logged in.

    `kernel`: the text of /proc/version; `pulse`: whether the sound server of WSLg is there; `login`: SSH_CONNECTION;
    `here`: the target is on this machine; `installer`, `mixer`: the program of INSTALL, UNMUTE that is here."""

    system: str  # as sys.platform
    kernel: str
    pulse: bool
    login: str
    user: str
    here: bool
    installer: str
    mixer: str
    screen: Screen
    sound: Sound | None  # None: the sound system did not answer

    @property
    def wsl(self) -> bool:
        return "microsoft" in self.kernel.lower()


# ── the way ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Knock:
    """One connection that was tried.  `skipped`: why none was; `banner`: what an SSH server says of itself; `failure`
    and `trouble`: why there was none, for rules and for people."""

    place: str
    ms: float = 0.0
    banner: str = ""
    skipped: str = ""
    failure: Failure = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """An `ssh` of this user that forwards what the target names.  `bare`: without a command (-N), which makes older
    servers hold small messages back; `banner`: of its server, "" if unknown."""

    pid: int
    host: str
    bare: bool
    listen: str
    to: str
    banner: str


@dataclass(frozen=True, slots=True)
class Tunnel:
    """voxtui's own tunnel.  `how`: over what the bytes go behind it; `loading`: what voxd says while it cannot be
    spoken with; `trouble`: why there is no tunnel."""

    ms: float = 0.0
    how: Literal["", "a UNIX socket", "a TCP port", "standard input and output"] = ""
    loading: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Way:
    """The way to voxd.  `ssh`: what `ssh -V` says, "" where none is needed; None if it cannot be run, and the knock
    says why.

    `proxy`: the variable that names the proxy that was tried; "" where voxd itself was."""

    kind: Literal["unix", "tcp", "ssh"]
    near: bool
    knock: Knock
    ssh: str | None = ""
    tunnel: Tunnel | None = None
    forwards: tuple[Forward, ...] = ()
    proxy: str = ""

    @property
    def stands(self) -> bool:
        if self.kind == "ssh":
            return self.tunnel is not None and not self.tunnel.trouble
        return not self.knock.failure


# ── voxd ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Token:
    """The token at hand.  `wanted`: this way asks for one (TCP).  `file`, `mode`: path and permissions of
    --token-file."""

    wanted: bool
    given: bool
    file: Path | None = None
    mode: int = 0


class Engines(msgspec.Struct, frozen=True):
    transcribe: str | None = None
    respond: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The part of `/status` that matters here."""

    version: str
    state: str
    progress: str = ""
    engines: Engines = Engines()
    sessions: int = 0
    max_sessions: int = 0

    @property
    def full(self) -> bool:
        return 0 < self.max_sessions <= self.sessions


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to GET /status.  `code` 0: none came; `said`: what went wrong, in voxd's words."""

    code: int = 0
    status: Status | None = None
    said: str = ""


@dataclass(frozen=True, slots=True)
class LinkCheck:
    """A WebSocket: how long until it was open, and one ping.  `trouble`: why there is none."""

    open_ms: float = 0.0
    ping_ms: float = 0.0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """What came of a clip that was spoken through a session."""

    metrics: dict[str, float] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Voxd:
    """What was found of voxd.  What is not known because an earlier step failed is None."""

    token: Token
    answer: Answer | None = None
    link: LinkCheck | None = None

    @property
    def ready(self) -> bool:
        """Whether a session may be had."""
        status = self.answer.status if self.answer else None
        return status is not None and status.state == "ready" and not status.full
