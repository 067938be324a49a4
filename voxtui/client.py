"""One Realtime session as seen from the client: audio out, events in.  Steps 2 and 12 of a frame's path.

It knows the WebSocket, the session's opening and when each sample was captured.  It does not know microphones, files,
screens, nor what an event means: that is `voxtui.transcript` and `voxtui.meter`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from shared.events import (
    AudioAppend,
    ClientEvent,
    ServerEvent,
    SessionCreated,
    SessionUpdate,
    WireError,
    dump,
    parse_server,
)
from shared.latency import SampleClock
from shared.session_config import AnySession
from voxtui.safe_text import safe_line
from voxtui.target import Target

SILENCE_MS = 500  # how long a pause ends a turn, unless told
OPEN_S = 10.0  # the server gives a handshake as long
PING_S = 2.0  # and two misses mean that the other side is gone
MAX_MESSAGE = 4 << 20  # bytes in one message; the server stays below 1 MiB
EXTENSIONS = "metrics,provisional"


class ClientError(Exception):
    """The connection cannot be had, or is over; the text is one sentence for people."""


class Unreachable(ClientError):
    """Nobody answers, or not a voxd, or one that is not ready."""


class Refused(ClientError):
    """The token is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a session shall be like.  `answers`: whether the responder, if there is one, shall be used."""

    language: str | None = None
    silence_ms: int = SILENCE_MS
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Received:
    """One server event and when its bytes were here, in us of this process's monotonic clock."""

    event: ServerEvent
    at_us: int


def now_us() -> int:
    """The clock of every stamp in the client."""
    return time.monotonic_ns() // 1000


class RealtimeClient:
    """An open session; `async with RealtimeClient.connect(target) as client`, then send_audio and `async for`."""

    def __init__(self, link: ClientConnection, target: Target, session: AnySession) -> None:
        self._link = link
        self.target = target
        self.session = session
        self.clock = SampleClock()
        self.position = 0  # samples sent so far: the stream position of the next one

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, target: Target, *, token: str | None = None, wishes: Wishes | None = None
    ) -> AsyncIterator[RealtimeClient]:
        """Opens the session and configures it.  Raises Unreachable, Refused or ClientError with a sentence."""
        async with _Opening(target, token) as link:
            session = await _first_message(link, target)
            client = cls(link, target, session)
            await client.send(SessionUpdate(configuration(session, wishes or Wishes())))
            yield client

    @property
    def transcriber(self) -> str | None:
        return self.session.voxd.transcribe

    @property
    def responder(self) -> str | None:
        return self.session.voxd.respond

    async def send_audio(self, pcm: bytes, captured_us: int | None = None) -> None:
        """Consecutive s16le at 16 kHz; `captured_us`: when its last sample was captured.

        Waits while the socket is full."""
        self.position += len(pcm) // 2
        self.clock.record(self.position, now_us() if captured_us is None else captured_us)
        await self.send(AudioAppend(pcm))

    async def send(self, event: ClientEvent) -> None:
        try:
            await self._link.send(dump(event), text=True)
        except ConnectionClosed as closed:
            raise ClientError(_farewell(closed)) from None

    async def __aiter__(self) -> AsyncIterator[Received]:
        """Events until the other side says goodbye properly; ClientError if the connection breaks.

        What is not an event, or of a kind that this client does not know, is passed over: newer servers say more."""
        while True:
            try:
                data = await self._link.recv(decode=False)
            except ConnectionClosed as closed:
                if closed.rcvd is not None and closed.rcvd.code == 1000:
                    return
                raise ClientError(_farewell(closed)) from None
            at_us = now_us()
            event = _parse(data)
            if event is not None:
                yield Received(event, at_us)


def configuration(session: AnySession, wishes: Wishes) -> dict[str, Any]:
    """The body of `session.update`: transcription alone where nobody answers, a conversation otherwise."""
    answers = wishes.answers and session.voxd.respond is not None
    transcription = {"language": wishes.language} if wishes.language else {}
    sound = {
        "format": {"type": "audio/pcm", "rate": 16_000},
        "transcription": transcription if session.voxd.transcribe is not None or not answers else None,
        "turn_detection": {"type": "server_vad", "silence_duration_ms": wishes.silence_ms},
    }
    return {"type": "realtime" if answers else "transcription", "audio": {"input": sound}}


def _parse(data: bytes) -> ServerEvent | None:
    try:
        return parse_server(data)
    except WireError:
        return None


def _address(target: Target) -> str:
    """The URL with the extensions that this client understands."""
    parts = urlsplit(target.url)
    query = dict(parse_qsl(parts.query))
    query.setdefault("voxd_ext", EXTENSIONS)
    return urlunsplit(parts._replace(query=urlencode(query, safe=",")))


class _Opening:
    """The handshake; turns each way it may fail into one sentence."""

    def __init__(self, target: Target, token: str | None) -> None:
        self._target = target
        options: dict[str, Any] = {
            "additional_headers": {"Authorization": f"Bearer {token}"} if token else None,
            "compression": None,  # audio does not shrink, and packing costs the time that we measure
            "max_size": MAX_MESSAGE,
            "open_timeout": OPEN_S,
            "ping_interval": PING_S,
            "ping_timeout": 2 * PING_S,
            "close_timeout": 1.0,
            "proxy": None if target.loopback else True,  # a forwarded port never goes through a proxy
        }
        url = _address(target)
        self._connect = (
            connect(url, **options) if target.socket is None else unix_connect(str(target.socket), url, **options)
        )

    async def __aenter__(self) -> ClientConnection:
        label = self._target.label
        try:
            return await self._connect.__aenter__()
        except InvalidStatus as answer:
            raise self._refusal(answer) from None
        except TimeoutError:
            raise Unreachable(f"{label} does not answer within {OPEN_S:.0f} s.") from None
        except OSError as error:
            raise Unreachable(_nobody(self._target, error)) from None
        except (WebSocketException, EOFError, ValueError) as error:
            raise Unreachable(f"{label} answers, but is not a voxd: {safe_line(str(error))}.") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connect.__aexit__(kind, error, trace)

    def _refusal(self, answer: InvalidStatus) -> ClientError:
        """An HTTP answer instead of a WebSocket."""
        label, status = self._target.label, answer.response.status_code
        said = _message(bytes(answer.response.body or b""))
        reason = f": {said}" if said else "."
        if status in (401, 403):
            return Refused(
                f"{label} refuses the token{reason} (`voxd token` prints it; VOXD_TOKEN or --token-file give it.)"
            )
        if status == 503:
            return Unreachable(f"{label} is not ready yet{reason}")
        if said:
            return Unreachable(f"{label} refuses the connection (HTTP {status}): {said}")
        return Unreachable(f"{label} answers, but is not a voxd (HTTP {status}).")


class _Complaint(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Complaint


def _message(body: bytes) -> str:
    """`{"error": {"message": ...}}` -> the message, fit for a terminal; "" if it is not that."""
    try:
        return safe_line(msgspec.json.decode(body, type=_Refusal).error.message)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _nobody(target: Target, error: OSError) -> str:
    how = "Start one with `voxd start`." if target.loopback else "Is it running, and is the port right?"
    if isinstance(error, PermissionError):
        return f"{target.label} may not be opened by this user: {error.strerror}."
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return f"No voxd is running at {target.label}. {how}"
    return f"{target.label} cannot be reached: {safe_line(error.strerror or str(error))}. {how}"


async def _first_message(link: ClientConnection, target: Target) -> AnySession:
    """`session.created` is what a Realtime server says first."""
    try:
        async with asyncio.timeout(OPEN_S):
            data = await link.recv(decode=False)
    except TimeoutError:
        raise Unreachable(f"{target.label} opens no session within {OPEN_S:.0f} s.") from None
    except ConnectionClosed as closed:
        raise Unreachable(f"{target.label}: {_farewell(closed)}") from None
    event = _parse(data)
    if not isinstance(event, SessionCreated):
        raise Unreachable(f"{target.label} speaks another protocol than voxd's Realtime API.")
    return event.session


def _farewell(closed: ConnectionClosed) -> str:
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
