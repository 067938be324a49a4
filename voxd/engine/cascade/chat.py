"""Sends requests to a chat server from an asyncio loop in its own thread, so that many answers stream at once.  Step 8.

It knows HTTP and OpenAI's `/chat/completions`; neither streams, utterances nor sessions: an answer has a key, chosen by
the engine.  An exception in a request ends that request only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

from voxd.engine.cascade import errors
from voxd.engine.cascade.errors import ChatError
from voxd.engine.cascade.foreign import SIZE, count, decode
from voxd.engine.cascade.options import WHERE, CascadeOptions
from voxd.engine.cascade.sse import Events
from voxd.engine.contract import Unusable

log = logging.getLogger(__name__)

CONNECT_S = 10.0
LOOK_S = 5.0  # how long /models may take
STOP_S = 5.0
WAITING = 4096  # results that the engine has not taken; at the bound the streams are read no further
ERROR_BYTES = 1 << 16  # of a refusal, that are read at most
ANSWER = 200_000  # characters, as in any item; an answer that goes on is cut there
ANSWER_S = 900.0  # the same in time, however steadily it drips
PIECES = 1 << 17  # in which an answer may come: three for each token
SLICE = 4096  # bytes; after them, or 64 small pieces, other answers have their turn
LONG = 1 << 16  # bytes; above it JSON is read in a thread of its own, so that other answers need not wait
NAME = 256  # characters of a model's name, at most

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer.  Counts are 0 where the server does not tell."""

    key: Key
    cut: bool  # at the limit of tokens
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """The answer failed."""

    key: Key
    code: str
    message: str


class _Piece(msgspec.Struct):
    text: str = ""


class _Text(msgspec.Struct):
    content: str | list[_Piece] | None = None  # Mistral's models that think give pieces; what they thought has no text

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(piece.text for piece in self.content)
        return self.content or ""


class _Choice(msgspec.Struct):
    delta: _Text | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        return self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] = []


class Chat:
    """`wake` is called, from the thread, whenever `results` has something to give.

    Raises Unusable for an address, and for certificates or proxies of the environment, that cannot be used."""

    def __init__(self, options: CascadeOptions, key: str | None, wake: Callable[[], None]) -> None:
        self._options, self._wake = options, wake
        self._model = options.model
        self._asks_usage = True  # until a server turns out not to know `stream_options`
        self._results: deque[Delta | Done | Lost] = deque()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        headers = {"Accept-Encoding": "identity"}  # compression holds small pieces back
        if key:
            headers["Authorization"] = f"Bearer {key}"
        try:
            httpx.URL(options.url)
            self._client = self._made(headers)
        except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:  # ssl's are OSErrors; SOCKS is a package
            what = f"{WHERE}.url, SSL_CERT_FILE or a proxy variable of the environment"
            raise Unusable(f"{what} cannot be used here: {error}") from error
        self._loop = asyncio.new_event_loop()
        self._stopping, self._room = asyncio.Event(), asyncio.Event()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chat", daemon=True)
        self._thread.start()
        self._serving.wait()

    def _made(self, headers: dict[str, str]) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            # Servers drop idle connections between turns, and one that dies just as it is used again would fail a turn.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            verify=httpx.create_ssl_context(),  # SSL_CERT_FILE counts for every machine,
            trust_env=not self._options.local,  # a proxy of the environment is for other machines
        )

    # ── from the engine's thread ────────────────────────────────────────────────────────────────────────────────────

    def models(self) -> tuple[str, ...]:
        """What the server offers.  Blocks for a few seconds at most; raises ChatError."""
        return asyncio.run_coroutine_threadsafe(self._look(), self._loop).result()

    def ask(self, key: Key, messages: list[dict[str, str]], max_tokens: int | None) -> None:
        """Deltas will come, then Done or Lost."""
        self._loop.call_soon_threadsafe(self._begin, key, messages, max_tokens)

    def cancel(self, key: Key) -> None:
        """Closes the connection; what has come of the answer by now may still be among the results."""
        self._loop.call_soon_threadsafe(self._end, key)

    def results(self) -> list[Delta | Done | Lost]:
        found = []
        while self._results:
            found.append(self._results.popleft())
        if len(found) >= WAITING:
            self._loop.call_soon_threadsafe(self._room.set)
        return found

    def stop(self) -> None:
        """Closes all connections and ends the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(STOP_S)

    # ── in the thread ───────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with self._client, asyncio.TaskGroup() as self._group:
            self._serving.set()
            await self._stopping.wait()
            for task in list(self._tasks.values()):
                task.cancel()

    def _begin(self, key: Key, messages: list[dict[str, str]], max_tokens: int | None) -> None:
        self._tasks[key] = self._group.create_task(self._answer(key, messages, max_tokens))

    def _end(self, key: Key) -> None:
        if task := self._tasks.pop(key, None):
            task.cancel()

    async def _put(self, result: Delta | Done | Lost) -> None:
        while len(self._results) >= WAITING:
            self._room.clear()
            await self._room.wait()
        self._results.append(result)
        self._wake()

    async def _answer(self, key: Key, messages: list[dict[str, str]], max_tokens: int | None) -> None:
        try:
            await self._put(await self._stream(key, messages, max_tokens))
        except ChatError as error:
            await self._put(Lost(key, error.code, str(error)))
        except Exception:  # the wall: one request's bug must not end the thread, or other answers, with it
            log.exception("a request to the chat server failed")
            await self._put(Lost(key, "engine_error", "The engine failed in this turn; see voxd's log."))
        finally:
            self._tasks.pop(key, None)

    async def _look(self) -> tuple[str, ...]:
        """`_offered` for another thread.  Raises ChatError and nothing else."""
        try:
            return await self._offered()
        except ChatError:
            raise
        except Exception as error:  # the wall: a bug here must not end the start of the whole engine process
            log.exception("a look at the chat server's models failed")
            raise ChatError("engine_error", "The look at its models failed; see voxd's log.") from error

    async def _stream(self, key: Key, messages: list[dict[str, str]], max_tokens: int | None) -> Done:
        """Puts the deltas; returns how the answer ended.  Raises ChatError."""
        begun, cut, ended, size, usage = False, False, False, 0, _Usage()
        patience, latest = self._options.timeout_s, self._loop.time() + ANSWER_S
        try:
            async with (
                asyncio.timeout(patience) as limit,
                aclosing(self._events(await self._body(messages, max_tokens))) as events,
            ):
                async for data in events:
                    if data == "[DONE]":
                        ended = True
                        break
                    chunk = _parsed(data) if len(data) < LONG else await asyncio.to_thread(_parsed, data)
                    begun, usage = True, chunk.usage or usage
                    for choice in chunk.choices[:1]:
                        text = choice.delta.text if choice.delta else ""
                        if text:
                            await self._put(Delta(key, text[: ANSWER - size]))
                            size += len(text)
                        ended, cut = ended or choice.finish_reason is not None, cut or choice.finish_reason == "length"
                    if size >= ANSWER:
                        return Done(key, cut=True)
                    limit.reschedule(min(self._loop.time() + patience, latest))
        except TimeoutError:
            if size and self._loop.time() >= latest:
                return Done(key, cut=True)
            raise errors.silent(self._options) from None
        except httpx.RequestError as error:
            raise errors.broken() if begun else errors.no_connection(error, self._options) from error
        if not ended:
            raise errors.broken()
        return Done(key, cut, count(usage.prompt_tokens), count(usage.cached_tokens), count(usage.completion_tokens))

    async def _body(self, messages: list[dict[str, str]], max_tokens: int | None) -> dict[str, Any]:
        if self._model is None:
            self._model = next(iter(await self._offered()), None)
        if self._model is None:
            raise errors.no_model(None, ())
        own = self._options.max_tokens
        limits = [limit for limit in (own, max_tokens) if limit is not None]
        body: dict[str, Any] = {"model": self._model, "messages": messages, "stream": True}
        if limits:
            body["max_tokens"] = min(limits)
        if self._options.temperature is not None:
            body["temperature"] = self._options.temperature
        return body

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        """The data of each event of the answer.  Raises ChatError and httpx.RequestError."""
        asks_usage = self._asks_usage
        extra = {"stream_options": {"include_usage": True}} if asks_usage else {}
        async with self._client.stream("POST", f"{self._options.url}/chat/completions", json=body | extra) as response:
            if response.status_code == 200:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    raise errors.no_chat(self._options)
                events = Events()
                try:
                    async with aclosing(_pieces(response)) as pieces:
                        async for piece in pieces:
                            for data in events.feed(piece):
                                yield data
                    for data in events.finish():
                        yield data
                except ValueError:
                    raise errors.garbled() from None
                return
            refusal = await _beginning(response)
        if asks_usage and response.status_code in (400, 422) and b"stream_options" in refusal:
            self._asks_usage = False
            async with aclosing(self._events(body)) as again:
                async for data in again:
                    yield data
            return
        if errors.is_no_model(response.status_code, refusal):
            raise errors.no_model(self._model, await self._offered())
        raise errors.refused(response.status_code, response.headers, refusal, self._options)

    async def _offered(self) -> tuple[str, ...]:
        """The names of its models.  Raises ChatError."""
        try:
            async with asyncio.timeout(LOOK_S), self._client.stream("GET", f"{self._options.url}/models") as response:
                if response.status_code != 200:
                    refusal = await _beginning(response)
                    raise errors.refused(response.status_code, response.headers, refusal, self._options)
                async with aclosing(_pieces(response)) as pieces:
                    body = b"".join([piece async for piece in pieces])
        except TimeoutError:
            raise errors.no_connection(httpx.ReadTimeout(""), self._options) from None
        except httpx.RequestError as error:
            raise errors.no_connection(error, self._options) from error
        try:
            named = [model.id for model in (await asyncio.to_thread(decode, body, _Models)).data]
        except ValueError:
            raise errors.no_chat(self._options) from None
        return tuple(name for name in named if 0 < len(name) <= NAME and name.isprintable())


def _parsed(data: str) -> _Chunk:
    """Raises ChatError for what is no chunk, and for an error that the server tells in its stream."""
    try:
        chunk = decode(data.encode(), _Chunk)
    except ValueError:
        raise errors.garbled() from None
    if chunk.error is not None:
        raise errors.broke_off(chunk.error)
    if any(choice.finish_reason == "content_filter" for choice in chunk.choices):
        raise ChatError("content_filter", "The chat server's filter has ended this answer: ask for something else.")
    return chunk


async def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The body, SIZE bytes at most, as it is sent: unpacked, a few bytes could be any number.  Raises ChatError."""
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise errors.packed()
    size = 0
    number = 0
    async for piece in response.aiter_raw():
        size, number = size + len(piece), number + 1
        if size > SIZE or number > PIECES:
            raise errors.too_much()
        for start in range(0, len(piece), SLICE):
            yield piece[start : start + SLICE]
            if start or number % 64 == 0:
                await asyncio.sleep(0)


async def _beginning(response: httpx.Response) -> bytes:
    """The beginning of a refusal's body, if it can be read."""
    found = b""
    try:
        async with aclosing(_pieces(response)) as pieces:
            async for piece in pieces:
                found += piece
                if len(found) >= ERROR_BYTES:
                    break
    except ChatError:
        pass  # compressed: the status says enough
    return found[:ERROR_BYTES]
