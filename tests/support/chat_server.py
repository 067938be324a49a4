"""A chat server for tests: real HTTP on a loopback port, scripted answers, and every way to misbehave.

It writes what a script tells it, byte by byte if need be, keeps what it was asked, and sees when a client hangs up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 120.0
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass(eq=False, slots=True)
class Asked:
    """One request, and the way to answer it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the client has hung up before the answer was whole
    hung_up: bool = False

    @property
    def messages(self) -> list[tuple[str, str]]:
        return [(message["role"], message["content"]) for message in self.body["messages"]]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def pause(self, seconds: float) -> None:
        """Or until the client hangs up: then the answer ends."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), seconds)
            raise ConnectionResetError


Script = Callable[[Asked], Awaitable[None]]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


def words(text: str) -> list[str]:
    """Pieces as a model makes them: each word with the space before it."""
    return [word if index == 0 else f" {word}" for index, word in enumerate(text.split(" "))]


def says(text: str, finish: str = "stop", usage: dict[str, Any] | None = None) -> Script:
    async def script(asked: Asked) -> None:
        await asked.send(STREAM + b"".join(delta(word) for word in words(text)) + delta("", finish))
        if usage and asked.body.get("stream_options") == {"include_usage": True}:
            await asked.send(event(choices=[], usage=usage))
        await asked.send(b"data: [DONE]\n\n")

    return script


async def repeats(asked: Asked) -> None:
    """A function of what was asked, as long as the limit allows."""
    limit = asked.body.get("max_tokens", 1000)
    pieces = words(f"You said: {asked.messages[-1][1]}")
    await says("".join(pieces[:limit]), "stop" if len(pieces) <= limit else "length")(asked)


def endless(every_s: float = 0.02) -> Script:
    """One word after another until the client hangs up."""

    async def script(asked: Asked) -> None:
        await asked.send(STREAM)
        for number in range(100_000):
            await asked.send(delta(f" {number}" if number else "0"))
            await asked.pause(every_s)

    return script


def raw(data: bytes) -> Script:
    """These bytes, then the end of the connection."""

    async def script(asked: Asked) -> None:
        await asked.send(data)

    return script


def refuses(status: int, body: object = None, **headers: str) -> Script:
    data = json.dumps(body).encode() if body is not None else b""
    lines = [f"HTTP/1.1 {status} No", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return raw("\r\n".join([*lines, "", ""]).encode() + data)


async def mute(asked: Asked) -> None:
    """Accepts, and says nothing."""
    await asked.pause(PATIENCE_S)


class ChatServer:
    """`script` may be changed at any time; `models`: None means that there is no such page; a script answers itself."""

    def __init__(self, script: Script = repeats, models: tuple[str, ...] | Script | None = ("tiny",)) -> None:
        self.script, self.models = script, models
        self.asked: list[Asked] = []
        self.port = 0
        self.scheme = "http"
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    def until(self, seen: Callable[[], bool]) -> None:
        """Waits for what the client does."""
        with self._changed:
            assert self._changed.wait_for(seen, PATIENCE_S), "the chat server has not seen it"

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[ChatServer]:
        loop, ready = asyncio.new_event_loop(), threading.Event()
        stop = asyncio.Event()
        self.scheme = "https" if tls else "http"

        async def serve() -> None:
            server = await asyncio.start_server(self._talk, "127.0.0.1", self.port, ssl=tls)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()
            server.close()
            talks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in talks:
                task.cancel()
            await asyncio.gather(*talks, return_exceptions=True)

        def run() -> None:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(PATIENCE_S)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(PATIENCE_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if not first.isalpha():  # TLS, and this is not
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(": ") for line in head[1:] if line)
        headers = {name.lower(): value for name, _, value in fields}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = Asked(head[0].split()[1], headers, json.loads(body or b"{}"), writer)
        watching = asyncio.ensure_future(self._watch(reader, asked))
        try:
            await self._script(asked)(asked)
        finally:
            watching.cancel()

    def _script(self, asked: Asked) -> Script:
        if asked.path == "/v1/models":
            if callable(self.models):
                return self.models
            listed = {"object": "list", "data": [{"id": model, "object": "model"} for model in self.models or ()]}
            return refuses(404) if self.models is None else refuses(200, listed)
        if asked.path != "/v1/chat/completions":
            return refuses(404, {"detail": "Not Found"})
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        return self.script

    async def _watch(self, reader: asyncio.StreamReader, asked: Asked) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        asked.gone.set()
        with self._changed:
            asked.hung_up = True
            self._changed.notify_all()
