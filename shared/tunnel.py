"""The lines that `voxd tunnel`, at the far end of an SSH connection, sends to `voxtui`.  Beside step 3.

Each line is one JSON object.

The first line is `Hello` or `Trouble`; after a `Hello`, `Beat`s follow for as long as the tunnel lives (with `--stdio`
none do: behind the line come the bytes of the connection itself).  Pure; it does not know SSH.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL = 1  # of these lines and of the events; a change that old programs do not understand raises it
BEAT_S = 2.0  # between two beats
LINE_MAX = 64 << 10  # bytes; a longer line is not one of these
LINK_NAME = "voxd.sock"  # in the directory of `voxd tunnel --link DIRECTORY`: leads to the daemon's socket


class Line(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    """Base of all lines."""


class Hello(Line, tag="hello", frozen=True):
    """The tunnel stands.  `socket`: the daemon's own; `tcp`: the port of its loopback TCP listener, if it has one;
    `state` and `progress`: as in `/status`.

    `token`: a client secret for that listener, until `expires_at` (seconds of the Unix epoch)."""

    version: str
    protocol: int
    socket: str
    state: str
    progress: str
    token: str
    expires_at: int
    tcp: int | None = None


class Beat(Line, tag="beat", frozen=True):
    """Sent every BEAT_S.  `token`: a new one when half the lifetime of the last is over."""

    state: str
    progress: str = ""
    token: str | None = None
    expires_at: int | None = None


class Trouble(Line, tag="trouble", frozen=True):
    """There is no tunnel.  `message`: what is wrong and what to do, one sentence for people."""

    version: str
    protocol: int
    code: Literal["not_running", "forbidden", "failed"]
    message: str


TunnelLine = Hello | Beat | Trouble
_decoder: msgspec.json.Decoder[TunnelLine] = msgspec.json.Decoder(TunnelLine)


def dump_line(line: TunnelLine) -> bytes:
    """One line as bytes, with its newline."""
    return msgspec.json.encode(line) + b"\n"


def parse_line(data: bytes) -> TunnelLine | None:
    """The line; None for anything else, such as a greeting of the far shell or a line of a newer voxd."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
