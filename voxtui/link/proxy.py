"""A proxy between this machine and voxd: whether there is one, the way through it, and in one sentence why it fails.
Before step 2 of a packet's path.

It knows the variables that name proxies, HTTP CONNECT, and python-socks (an extra) for SOCKS; not what goes through.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import responses
from urllib.parse import unquote, urlsplit

from shared.extras import how_to_install
from shared.safe_text import safe_line
from voxtui.errors import Misconfigured, Unreachable

OPEN_S = 10.0  # the same wait as for voxd itself
HEAD_MAX = 1 << 16  # bytes of an answer to CONNECT
SOCKS = ("socks5h", "socks5", "socks4a", "socks4")
# As in websockets: where there is a choice, the proxy for TLS is the one that lets connections through (RFC 6455, 4.1).
VARIABLES = {
    "ws": ("ws_proxy", "socks_proxy", "https_proxy", "http_proxy", "all_proxy"),
    "wss": ("wss_proxy", "socks_proxy", "https_proxy", "all_proxy"),
}


class ProxyError(ValueError):
    """A variable names no proxy; the text is for people, without what may be a password."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """`variable`: which one names it."""

    scheme: str
    host: str
    port: int
    variable: str
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        return _place(self.host, self.port)

    def __str__(self) -> str:
        return f"the proxy {self.place} ({self.variable})"


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy on the way to a WebSocket URL of another machine; None for what NO_PROXY names, and where none is set.

    Raises ProxyError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
    for name in VARIABLES[parts.scheme]:
        for variable in (name, name.upper()):
            if text := environ.get(variable, "").strip():
                return None if _bypassed(host, port, environ) else _proxy(text, variable)
    return None


def _bypassed(host: str, port: int, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host: names with their subdomains, addresses, networks (10.0.0.0/8), each with a port
    or without; *."""
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return any(_names(entry.lower(), host.rstrip("."), port) for entry in re.split(r"[,\s]+", listed) if entry)


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    found = re.fullmatch(r"(.+):(\d+)", entry) if _address(entry) is None else None
    if found is not None:
        if int(found[2]) != port:
            return False
        entry = found[1]
    entry = entry.strip("[]")
    if (address := _address(host)) is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name = entry.removeprefix("*").strip(".")
    return host == name or host.endswith(f".{name}")


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _proxy(text: str, variable: str) -> Proxy:
    """Reads the value of a variable as curl does: without a scheme it is an HTTP proxy."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    way = f"unset {variable}, or go without: --no-proxy"
    if host is None or port == 0 or any(not sign.isprintable() or sign.isspace() for sign in host):
        raise ProxyError(f"{variable} names no proxy: write http://HOST:PORT, {way}.")
    if parts.scheme not in ("http", *SOCKS):
        scheme = safe_line(parts.scheme)
        raise ProxyError(
            f"{variable} names a proxy by {scheme}://, and voxtui knows http:// (which carries TLS to voxd, too) and "
            f"socks5h://: write one of them, {way}."
        )
    user = unquote(parts.username) if parts.username is not None else None
    default = 1080 if parts.scheme in SOCKS else 80
    return Proxy(parts.scheme, host, port or default, variable, user, unquote(parts.password or ""))


# ── the way through ─────────────────────────────────────────────────────────────────────────────────────────────────


async def through(proxy: Proxy, url: str) -> socket.socket:
    """A socket that leads to the host of `url`, as if it had been connected there.

    Raises Unreachable, and Misconfigured where a person must change something first."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "wss" else 80)
    place = _place(host, port)
    try:
        async with asyncio.timeout(OPEN_S):
            return await (_by_socks if proxy.scheme in SOCKS else _by_http)(proxy, host, port, place)
    except TimeoutError:
        raise Unreachable(_told(proxy, place, f"it does not answer within {OPEN_S:.0f} s", host)) from None
    except OSError as error:
        refused = error.errno == errno.ECONNREFUSED
        why = "nobody listens there" if refused else safe_line(error.strerror or str(error))
        raise Unreachable(_told(proxy, place, why, host)) from None


async def _by_http(proxy: Proxy, host: str, port: int, place: str) -> socket.socket:
    """Connects by HTTP CONNECT (RFC 9110, 9.3.6).  Reads not one byte of what comes behind the answer."""
    key = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode() if proxy.user is not None else ""
    authorization = f"Proxy-Authorization: Basic {key}\r\n" if key else ""
    with contextlib.ExitStack() as undone:
        sock = undone.enter_context(await _connected(proxy))
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            piece = await loop.sock_recv(sock, 1)
            head += piece
            if not piece or len(head) > HEAD_MAX or not head.startswith(b"HTTP/1."[: len(head)]):
                what = "what answers there is no HTTP proxy" if head else "it hangs up without an answer"
                raise (Misconfigured if head else Unreachable)(_told(proxy, place, what, host))
        if (error := _refusal(proxy, place, host, head)) is not None:
            raise error
        undone.pop_all()
    return sock


async def _by_socks(proxy: Proxy, host: str, port: int, place: str) -> socket.socket:
    """Connects by python-socks.  The proxy looks names up, with socks5 and socks4 too: here they may mean nothing."""
    try:
        import python_socks
        from python_socks.async_.asyncio import Proxy as Socks
    except ImportError:
        how = f"SOCKS takes python-socks, which this voxtui lacks: `{how_to_install('socks')}` brings it"
        raise Misconfigured(_told(proxy, place, how, host)) from None
    kind = python_socks.ProxyType.SOCKS5 if proxy.scheme.startswith("socks5") else python_socks.ProxyType.SOCKS4
    try:
        return await Socks(kind, proxy.host, proxy.port, proxy.user, proxy.password, rdns=True).connect(host, port)
    except python_socks.ProxyError as error:
        raise Misconfigured(_told(proxy, place, f"it refuses: {safe_line(str(error))}", host)) from None


async def _connected(proxy: Proxy) -> socket.socket:
    """Connects to the proxy itself, by the first of its addresses that answers.  Raises OSError."""
    loop = asyncio.get_running_loop()
    failed = OSError(errno.EADDRNOTAVAIL, "its name has no address")
    for family, kind, number, _, where in await loop.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM):
        with contextlib.ExitStack() as undone:
            sock = undone.enter_context(socket.socket(family, kind, number))
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, where)
            except OSError as error:
                failed = error
            else:
                undone.pop_all()
                return sock
    raise failed


def _refusal(proxy: Proxy, place: str, host: str, head: bytes) -> Unreachable | None:
    """The error that the answer to CONNECT means; None for success."""
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        return Misconfigured(_told(proxy, place, "what answers there is no HTTP proxy", host))
    status = int(words[1])
    if 200 <= status < 300:
        return None
    phrase = responses.get(status, "unknown")
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        why = "it refuses the name and password" if proxy.user is not None else "it wants a name and a password"
        return Misconfigured(_told(proxy, place, f"{why}: write http://NAME:PASSWORD@{proxy.place}", host))
    if status >= 500:
        return Unreachable(_told(proxy, place, f"it does not reach that place (HTTP {status} {phrase})", host))
    return Misconfigured(_told(proxy, place, f"it refuses to connect there (HTTP {status} {phrase})", host))


def _told(proxy: Proxy, place: str, why: str, host: str) -> str:
    return f"{place} cannot be reached through {proxy}: {why}. {around(proxy, host)}"


def around(proxy: Proxy, host: str) -> str:
    """What a person can do about the proxy, in a sentence."""
    return f"To go without the proxy: --no-proxy, or NO_PROXY={host}; else mend {proxy.variable}."
