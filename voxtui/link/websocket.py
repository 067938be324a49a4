"""One WebSocket to a voxd: the handshake, and one sentence for each way in which it fails or ends.  Steps 2 and 12.

It knows HTTP answers, close codes and frames; not what an event means, nor what is done when a link breaks.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from shared.events import ServerEvent, WireError, parse_server
from shared.safe_text import safe_line
from shared.urls import LAST_SEQ, RESUME
from voxtui.errors import ClientError, Full, NotReady, TokenRefused, Unreachable
from voxtui.link.http_client import Complaint, complaint, reached
from voxtui.link.proxy import around, through
from voxtui.link.target import Address, is_loopback

OPEN_S = 10.0  # the server allows a handshake as long
PING_S = 2.0  # between two pings
SILENT_S = 3.0  # a pong that takes longer does not come: with the ping before it, a dead link is seen within 6 s
CLOSE_S = 0.5  # for the closing handshake
MAX_MESSAGE = 4 << 20  # bytes in one message; the server stays below 1 MiB
EXTENSIONS = "metrics,provisional,resume"
FILE_EXTENSIONS = "hurry,resume"  # of a sound that nobody listens to
FINAL = (1008, 1009)  # close codes after which another link would end the same way


async def dial(
    address: Address, label: str, resume: tuple[str, int] | None = None, *, hurry: bool = False
) -> ClientConnection:
    """Opens a WebSocket; `resume`: token of the session to go on with, and the last event that was read of it.
    `hurry`: for a file.

    Raises Unreachable (NotReady, Full) or Refused."""
    options: dict[str, Any] = {
        "additional_headers": {"Authorization": f"Bearer {address.token}"} if address.token else None,
        "compression": None,  # audio does not shrink, and packing costs the time that we measure
        "max_size": MAX_MESSAGE,
        "open_timeout": OPEN_S,
        "ping_interval": PING_S,
        "ping_timeout": SILENT_S,
        "close_timeout": CLOSE_S,
        "proxy": None,  # proxies are the caller's business
    }
    url = _with_extensions(address.url, FILE_EXTENSIONS if hurry else EXTENSIONS, resume)
    try:
        if address.socket is not None:
            return await connect(url, sock=await reached(address.socket), **options)
        if address.open is not None:
            return await connect(url, sock=address.open, **options)
        if address.proxy is not None:
            return await connect(url, sock=await through(address.proxy, url), **options)
        return await connect(url, **options)
    except InvalidStatus as answer:
        raise _refusal(address, label, answer.response.status_code, bytes(answer.response.body or b"")) from None
    except TimeoutError:
        raise Unreachable(f"{label} does not answer within {OPEN_S:.0f} s.") from None
    except OSError as error:
        raise Unreachable(_nobody(address, label, error)) from None
    except (WebSocketException, EOFError, ValueError) as error:
        raise Unreachable(_somebody(address, label, safe_line(str(error)))) from None


def farewell(closed: ConnectionClosed) -> str:
    """Why a connection is over, in one sentence."""
    if closed.rcvd is None:
        return "The connection was lost: voxd no longer answers."
    reason = safe_line(closed.rcvd.reason)
    meaning = {
        1000: "voxd closed the session",
        1001: "voxd ended the session",
        1008: "voxd closed the session, as this client was too slow",
        1009: "voxd closed the session, as a message was too long",
        1011: "voxd met an internal error and closed the session",
        1012: "voxd is shutting down",
        1013: "voxd is full; try again later",
    }.get(closed.rcvd.code, f"voxd closed the session with code {closed.rcvd.code}")
    return f"{meaning}{f' ({reason})' if reason else ''}."


def _with_extensions(url: str, extensions: str, resume: tuple[str, int] | None) -> str:
    """The URL with what this client understands."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    query.setdefault("voxd_ext", extensions)
    if resume is not None:
        query |= {RESUME: resume[0], LAST_SEQ: str(resume[1])}
    return urlunsplit(parts._replace(query=urlencode(query, safe=",")))


def _refusal(address: Address, label: str, status: int, body: bytes) -> ClientError:
    """The error for an HTTP answer instead of a WebSocket."""
    found = complaint(body) or Complaint("")
    said = safe_line(found.message)
    reason = f": {said}" if said else "."
    if address.proxy is not None and not said:
        return Unreachable(_somebody(address, label, f"HTTP {status}"))
    if status in (401, 403):
        return TokenRefused(
            f"{label} refuses the token{reason} (`voxd token` prints it; VOXD_TOKEN or --token-file give it.)"
        )
    if found.code == "session_limit_reached":
        return Full(f"{label} is full{reason}")
    if status == 503:
        return NotReady(f"{label} is not ready yet{reason}", said)
    if said:
        return Unreachable(f"{label} refuses the connection (HTTP {status}): {said}")
    return Unreachable(_somebody(address, label, f"HTTP {status}"))


def _somebody(address: Address, label: str, how: str) -> str:
    """The sentence for an answer that is not voxd's; where there is a proxy, it may be the proxy's."""
    if address.proxy is None:
        return f"{label} answers, but is not a voxd: {how}."
    host = urlsplit(address.url).hostname or ""
    return (
        f"{label} is reached through {address.proxy}, and no voxd answers there: {how}. {around(address.proxy, host)}"
    )


def _nobody(address: Address, label: str, error: OSError) -> str:
    near = address.socket is not None or is_loopback(address.url)
    how = "Start one with `voxd start`." if near else "Is it running, and is the port right?"
    if isinstance(error, PermissionError):
        return f"{label} may not be opened by this user: {error.strerror}."
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"No voxd is running at {label}. {how}"
    if isinstance(error, BlockingIOError):  # the queue of a UNIX socket
        return f"{label} is busy: more clients want to connect than it can take at once. Try again in a moment."
    return f"{label} cannot be reached: {safe_line(error.strerror or str(error))}. {how}"


def parse(data: bytes) -> ServerEvent | None:
    """Reads an event; None for a message that is none, or of a type that this client does not know."""
    try:
        return parse_server(data)
    except WireError:
        return None
