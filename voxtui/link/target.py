"""Where voxd is: what a person types after `voxtui connect`, turned into one address.  Before step 2 of a packet's
path.

It knows the forms of a target and where control sockets and tokens lie.  It opens no connection: a `Route` does, and
gives the `Address` behind it.
"""

from __future__ import annotations

import ipaddress
import re
import socket as sockets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit, urlunsplit

from shared.config import ConfigError, client_socket
from shared.urls import REALTIME
from voxtui.link.proxy import Proxy, ProxyError, proxy_for

PORT = 8000
ENDPOINT = REALTIME
_USER = r"(?:[A-Za-z0-9_.][A-Za-z0-9_.+%-]*@)?"
_HOST = r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])"
SSH_HOST = re.compile(rf"{_USER}{_HOST}|ssh://{_USER}{_HOST}(?::[0-9]{{1,5}})?")  # what ssh takes for no option


class TargetError(Exception):
    """The target, or the token, is not usable as given; the text is for people."""


@dataclass(frozen=True, slots=True)
class Target:
    """The voxd that was asked for: a WebSocket URL and, if it is reached through a UNIX socket, the path of that; or
    `ssh`, a host of the user's OpenSSH (`[user@]host`, an alias of ssh_config) at which a voxd runs.  `proxy`: the
    proxy in between."""

    url: str
    socket: Path | None = None
    ssh: str | None = None
    proxy: Proxy | None = None

    @property
    def label(self) -> str:
        """The target as it is shown."""
        if self.ssh is not None:
            return f"ssh:{self.ssh.removeprefix('ssh://')}"
        if self.socket is not None:
            return f"unix:{self.socket}"
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, "" if parts.path == ENDPOINT else parts.path, "", ""))

    @property
    def loopback(self) -> bool:
        """Whether the bytes stay on this machine (a forwarded port does, as far as this machine can tell)."""
        return self.ssh is not None or self.socket is not None or is_loopback(self.url)


@dataclass(frozen=True, slots=True)
class Address:
    """Where one connection goes now: a URL, over a UNIX socket, an open socket or a proxy, if there is one."""

    url: str
    socket: Path | None = None
    open: sockets.socket | None = None
    token: str | None = None
    proxy: Proxy | None = None


class Route(Protocol):
    """The way to one voxd for as long as somebody wants to speak with it: nothing at all, or an SSH tunnel.

    `address` is asked before each connection and makes the way good again if it must; `tell` is given a line whenever
    there is something to know (a daemon loads, forwarding is forbidden).  Raises the errors of `voxtui.errors`.
    `udp`: may packets reach the daemon beside it?"""

    label: str
    udp: bool

    async def address(self, tell: Callable[[str], None]) -> Address: ...

    async def close(self) -> None: ...


class Direct:
    """A way that needs nothing to be opened."""

    udp = True

    def __init__(self, target: Target, token: str | None = None) -> None:
        self.label = target.label
        self._address = Address(target.url, target.socket, None, token, target.proxy)

    async def address(self, tell: Callable[[str], None]) -> Address:
        return self._address

    async def close(self) -> None:
        pass


def behind_proxy(target: Target, environ: Mapping[str, str]) -> Target:
    """The target with the proxy that the environment names for it; this machine and what ssh reaches need none.

    Raises TargetError for a variable that names no proxy."""
    if target.loopback:
        return target
    try:
        return replace(target, proxy=proxy_for(target.url, environ))
    except ProxyError as error:
        raise TargetError(str(error)) from None


def is_loopback(url: str) -> bool:
    """Whether a URL means this machine."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.rstrip(".") == "localhost"
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 is where it listens, and leads to it from here


def local_target(environ: Mapping[str, str]) -> Target:
    """The voxd of this machine: the first control socket there is, else where this user's would be."""
    try:
        return unix_target(client_socket(environ))
    except ConfigError as error:
        raise TargetError(f"{error}.") from None


def unix_target(path: Path) -> Target:
    """The target of a UNIX socket.  The host name is only for the HTTP header."""
    return Target(f"ws://localhost{ENDPOINT}", path)


def parse_target(text: str) -> Target:
    """Reads unix:/path, HOST:PORT, a ws://, wss://, http://, https:// URL; for SSH [user@]host or ssh://[user@]host:port.

    Raises TargetError for anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise TargetError(f"{text!r}: write unix: and an absolute path, for example unix:/run/voxd/voxd.sock.")
        return unix_target(Path(path))
    if "://" in text and not text.startswith("ssh://"):
        return _from_url(text)
    if "@" not in text and _has_port(text):
        return _from_url(f"ws://{text}")
    return ssh_target(text)


def ssh_target(text: str) -> Target:
    """Reads [user@]host, where host may be an alias of ssh_config, or ssh://[user@]host:port.

    Whatever ssh could take for an option is refused."""
    if not SSH_HOST.fullmatch(text):
        raise TargetError(
            f"{text!r} is no host for ssh: write [user@]host, or ssh://[user@]host:port; the other forms of a target "
            "are HOST:PORT, unix:/path and a URL."
        )
    host = text.removeprefix("ssh://")
    return Target(f"ws://localhost{ENDPOINT}", ssh=f"ssh://{host}" if _has_port(host) or "[" in host else host)


def _has_port(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    bracketed = not host or ":" not in host or (host.startswith("[") and host.endswith("]"))
    return bool(colon) and bracketed and port.isdecimal()


def _from_url(text: str) -> Target:
    """The target of a URL; one without a path means the Realtime endpoint."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise TargetError(f"{text!r} is not a usable address: {error}.") from None
    scheme = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}.get(parts.scheme)
    if scheme is None:
        raise TargetError(f"{text!r}: the scheme must be ws, wss, http, https or unix.")
    if not parts.hostname or port == 0:
        raise TargetError(f"{text!r} names no host to connect to.")
    if parts.fragment or parts.username or parts.password:
        raise TargetError("A token does not belong into the address: set VOXD_TOKEN or use --token-file.")
    path = parts.path if parts.path not in ("", "/") else ENDPOINT
    return Target(urlunsplit(SplitResult(scheme, parts.netloc, path, parts.query, "")))


def read_token(environ: Mapping[str, str], file: Path | None) -> str | None:
    """The bearer token: --token-file goes before VOXD_TOKEN; None if neither is given."""
    if file is None:
        token = environ.get("VOXD_TOKEN", "")
    else:
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TargetError(f"The token file {file} cannot be read: {_reason(error)}.") from None
    token = token.strip()
    if any(character.isspace() or not character.isprintable() or ord(character) > 126 for character in token):
        raise TargetError("The token holds characters that no voxd token has; is it the right file?")
    if file is not None and not token:
        raise TargetError(f"The token file {file} is empty.")
    return token or None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "unknown error" if isinstance(error, OSError) else "it is not text"
