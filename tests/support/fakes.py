"""Doubles, each written once: a scripted voxd on a UNIX socket, a clock that nobody waits for."""

from __future__ import annotations

import asyncio
import http
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from shared.audio import to_ms
from shared.events import (
    AudioAppend,
    AudioCommit,
    ClientEvent,
    Committed,
    Error,
    ErrorBody,
    Metrics,
    ServerEvent,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionDelta,
    dump,
    parse_client,
)
from shared.session_config import AnySession, Extensions, RealtimeSession, merge
from voxtui.link.target import Target, unix_target

Step = tuple[int, Sequence[ServerEvent]]  # when so many ms of audio have been received: say this


@contextmanager
def short_folder() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name; pytest's own may not."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as name:
        yield Path(name)


def utterance(
    key: str, start_ms: int, stop_ms: int, *words: str, text: str | None = None, metrics: bool = True
) -> list[ServerEvent]:
    """Everything that a server says of one utterance, in order."""
    whole = "".join(words) if text is None else text
    said: list[ServerEvent] = [SpeechStarted("", start_ms, key)]
    said += [TranscriptionDelta("", key, 0, word) for word in words]
    said += [SpeechStopped("", stop_ms, key), Committed("", key, None)]
    said.append(TranscriptionCompleted("", key, 0, whole, {}))
    if metrics:
        said.append(Metrics("", "transcription", key, {}, {"final_ms": 1.0}, {}, {}, 100.0, rtf=0.25))
    return said


@dataclass
class FakeVoxd:
    """One session, said from a script; what it received is kept."""

    script: Sequence[Step] = ()
    transcribe: str | None = "fake"
    respond: str | None = None
    replies: Callable[[ClientEvent], Sequence[ServerEvent]] = lambda event: ()
    refuse: tuple[int, str] | None = None  # HTTP status and body instead of a WebSocket
    wont: str = ""  # why it refuses every session.update
    first: bytes | None = None  # said instead of session.created; b"": nothing is
    noise: Sequence[bytes] = ()  # said after session.created: what no client understands
    close: int | None = None  # closes with this code after the script
    events: list[ClientEvent] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    path: str = ""
    samples: int = 0
    session: AnySession | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)  # a client has closed its link

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Target]:
        with short_folder() as folder:
            socket = folder / "voxd.sock"
            async with unix_serve(self._talk, str(socket), process_request=self._gate, compression=None):
                yield unix_target(socket)

    def _gate(self, link: ServerConnection, request: Request) -> Response | None:
        self.headers = dict(request.headers.raw_items())
        self.path = request.path
        if self.refuse is None:
            return None
        status, body = self.refuse
        return link.respond(http.HTTPStatus(status), body)

    async def _talk(self, link: ServerConnection) -> None:
        script = list(self.script)
        try:
            self.session = RealtimeSession(id="sess_1", model="fake", voxd=self._extensions())
            first = dump(SessionCreated("e0", self.session)) if self.first is None else self.first
            if first:
                await link.send(first, text=True)
            for data in self.noise:
                await link.send(data, text=True)
            async for data in link:
                event = parse_client(data)
                for answer in self._take(event):
                    await link.send(dump(answer), text=True)
                while script and script[0][0] <= to_ms(self.samples):
                    for said in script.pop(0)[1]:
                        await link.send(dump(said), text=True)
                if self.close is not None and not script:
                    await link.close(self.close, "as scripted")
        except ConnectionClosed:
            pass
        finally:
            self.left.set()

    def _extensions(self) -> Extensions:
        return Extensions(metrics=True, provisional=True, transcribe=self.transcribe, respond=self.respond)

    def _take(self, event: ClientEvent) -> Sequence[ServerEvent]:
        self.events.append(event)
        match event:
            case SessionUpdate() if self.wont:
                return (Error("e1", ErrorBody("invalid_request_error", "invalid_value", self.wont, None, None)),)
            case SessionUpdate(session=patch):
                assert self.session is not None
                self.session = merge(self.session, patch, model="fake")
                return (SessionUpdated("e1", self.session),)
            case AudioAppend(audio=audio):
                self.samples += len(audio) // 2
            case AudioCommit() if self.replies(event) == ():
                return (
                    Committed("", "item_commit", None),
                    TranscriptionCompleted("", "item_commit", 0, "", {}),
                )
            case _:
                pass
        return self.replies(event)

    def sent(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def refusal(message: str, code: str | None = None) -> str:
    """The body of an HTTP error as voxd words it."""
    return json.dumps({"error": {"message": message, "type": "server_error", "code": code, "param": None}})


class FakeClock:
    """Time passes when somebody sleeps."""

    def __init__(self, now_us: int = 1_000_000) -> None:
        self.time_us = now_us
        self.slept: list[int] = []

    def now_us(self) -> int:
        return self.time_us

    async def sleep_until(self, time_us: int) -> None:
        self.slept.append(time_us)
        self.time_us = max(self.time_us, time_us)
        await asyncio.sleep(0)
