"""Addresses of a daemon as people type them, the command that reaches it, and warnings about unsafe ones.

Not in the path.  Pure.  It knows the forms of an address and the fields of `/status`; it opens no socket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from shared.settings import Tcp

EVERYWHERE = ("0.0.0.0", "::", "")  # addresses that one can listen at, but not connect to
LOOPBACK = ("localhost", "::1")


def address_text(address: Tcp | Path) -> str:
    """The address as `--listen` accepts it."""
    return f"unix:{address}" if isinstance(address, Path) else f"{address.host}:{address.port}"


def unencrypted(listening: Sequence[Tcp | Path]) -> Iterator[str]:
    """A warning for each address that other machines can reach; for a daemon without TLS."""
    for address in listening:
        if isinstance(address, Tcp) and address.host not in LOOPBACK and not address.host.startswith("127."):
            yield (
                f"{address_text(address)} is not encrypted: sound, text and token can be read on the way; give "
                "--tls-cert and --tls-key, or listen on localhost and connect through ssh (voxtui connect USER@HOST)"
            )


def page_url(status: Mapping[str, object]) -> str | None:
    """The URL of this daemon's web page for a browser on this machine; None if it listens on no TCP port."""
    place = _tcp(status)
    return None if place is None else f"{'https' if status.get('tls') else 'http'}://{place}/"


def how_to_connect(status: Mapping[str, object], usual: Path) -> str:
    """The command that connects to this daemon.  `usual`: the control socket that clients try by themselves."""
    socket = status.get("socket")
    ways = ["voxtui connect" if socket == str(usual) else f"voxtui connect unix:{socket}"]
    if (page := page_url(status)) is not None:
        ways.append(f"in a browser: {page} (`voxd token --url` has the token in it)")
    return " · ".join(ways)


def _tcp(status: Mapping[str, object]) -> str | None:
    """HOST:PORT of the first TCP address, in the form to connect to."""
    listening = status.get("listen")
    for text in listening if isinstance(listening, list) else ():
        if isinstance(text, str) and not text.startswith("unix:"):
            host, _, port = text.rpartition(":")
            host = "localhost" if host in EVERYWHERE else host
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return None
