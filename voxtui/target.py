"""Where voxd is: what a person types after `voxtui connect`, turned into one address.  Before step 2 of a frame's path.

It knows the forms of a target and where control sockets and tokens lie.  It opens no connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from shared.config import ConfigError, client_socket

PORT = 8000
ENDPOINT = "/v1/realtime"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class TargetError(Exception):
    """The target, or the token, is not usable as given; the text is for people."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a voxd: a WebSocket URL and, if it is reached through a UNIX socket, the path of that."""

    url: str
    socket: Path | None = None

    @property
    def label(self) -> str:
        """How the path in use is shown."""
        if self.socket is not None:
            return f"unix:{self.socket}"
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, "" if parts.path == ENDPOINT else parts.path, "", ""))

    @property
    def loopback(self) -> bool:
        """Whether the bytes stay on this machine (a forwarded port does, as far as this machine can tell)."""
        return self.socket is not None or urlsplit(self.url).hostname in LOOPBACK


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
    """unix:/path, HOST:PORT, or a ws://, wss://, http://, https:// URL.  Raises TargetError for anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise TargetError(f"{text!r}: write unix: and an absolute path, for example unix:/run/voxd/voxd.sock.")
        return unix_target(Path(path))
    if "://" in text:
        return _from_url(text)
    if "@" not in text and _has_port(text):
        return _from_url(f"ws://{text}")
    raise TargetError(_no_ssh(text))


def _no_ssh(text: str) -> str:
    """A host alone would mean SSH."""
    return (
        f"{text!r}: a host without a port would be reached through SSH, which this version does not do by itself. "
        f"Run `ssh -L {PORT}:localhost:{PORT} {text}` in another terminal, then `voxtui connect ws://localhost:{PORT}`."
    )


def _has_port(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    bracketed = not host or ":" not in host or (host.startswith("[") and host.endswith("]"))
    return bool(colon) and bracketed and port.isdecimal()


def _from_url(text: str) -> Target:
    """A URL without a path means the Realtime endpoint."""
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
