"""Answers of a chat server that is broken or hostile, from a seed: sizes, depths, ranges, types, encodings, stalls.

Each is bytes on a connection, so that nothing of it is made decent by a library.  Most are nearly right, for what is
plainly wrong is refused by the first check.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from functools import cache

from tests.support.chat_server import PATIENCE_S, Asked

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
SHARE = 0.03  # of the answers are large, of the others as many stand still in the middle
LARGE = 10 << 20  # more than is read of any answer
BLOCK = 1 << 16


@cache
def compressed(size: int) -> bytes:
    """So many zeros as gzip, a thousandth of their size."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    return pack.compress(bytes(size)) + pack.flush()


def json_of(value: object) -> bytes:
    return json.dumps(value).encode()


class Hostile:
    """A script for `ChatServer`, or its page of models."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.kinds: dict[str, int] = {}  # how often each was sent

    async def chat(self, asked: Asked) -> None:
        await self._send(asked, self._one_of(self._events, self._mutated, self._deep, self._refusal, self._framing))

    async def models(self, asked: Asked) -> None:
        await self._send(asked, self._one_of(self._list, self._mutated, self._deep, self._refusal, self._framing))

    def _one_of(self, *kinds: Callable[[], bytes]) -> bytes:
        kind = self._random.choice(kinds)
        if self._random.random() < SHARE:
            kind = self._large
        self.kinds[kind.__name__] = self.kinds.get(kind.__name__, 0) + 1
        return kind()

    async def _send(self, asked: Asked, data: bytes) -> None:
        stalls = len(data) < BLOCK and self._random.random() < SHARE
        if stalls:
            data = data[: self._random.randrange(len(data) + 1)]
        for start in range(0, len(data), BLOCK):
            await asked.send(data[start : start + BLOCK])
        if stalls:
            self.kinds["stalls"] = self.kinds.get("stalls", 0) + 1
            await asked.pause(PATIENCE_S)

    # ── values ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _number(self) -> object:
        r = self._random
        return r.choice([0, -1, 1 << 31, 1 << 63, 1 << 64, -(1 << 64), 10 ** r.randrange(400), 1.5, 1e308, True, 7])

    def _text(self) -> str:
        r = self._random
        return r.choice(["", "yes", " and\n", "\x1b]52;c;x\x07", "\u202e", "\0", "\ud800", "\udc00x", "🎙" * 99, "漢"])

    def _value(self, depth: int = 0) -> object:
        r = self._random
        kinds: list[Callable[[], object]] = [self._number, self._text, lambda: None, lambda: r.random() < 0.5]
        if depth < 5:
            kinds += [
                lambda: [self._value(depth + 1) for _ in range(r.randrange(4))],
                lambda: {self._text(): self._value(depth + 1) for _ in range(r.randrange(4))},
            ]
        return r.choice(kinds)()

    def _or_any(self, right: object) -> object:
        return self._value() if self._random.random() < 0.15 else right

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _chunk(self) -> object:
        content = self._or_any(self._text())
        choice = {"index": self._or_any(0), "delta": self._or_any({"role": "assistant", "content": content})}
        choice["finish_reason"] = self._or_any(self._random.choice([None, None, None, "stop", "length"]))
        count = self._random.choice([0, 1, 1, 1, 1, 2, 5000])
        chunk: dict[str, object] = {"choices": self._or_any([choice] * count)}
        if self._random.random() < 0.3:
            details = {"cached_tokens": self._number()}
            usage = {"prompt_tokens": self._number(), "completion_tokens": self._number()}
            chunk["usage"] = self._or_any(usage | {"prompt_tokens_details": self._or_any(details)})
        if self._random.random() < 0.05:
            chunk["error"] = self._value()
        return self._or_any(chunk)

    def _stream(self) -> bytes:
        r = self._random
        end = r.choice([b"\n\n", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n"])
        events = [b"data: " + json_of(self._chunk()) + end for _ in range(r.randrange(1, 6))]
        return b"".join(events) + r.choice(
            [b"data: [DONE]\n\n", b"data: [DONE]", b"", b"error: x\n\n", b": " + bytes(9)]
        )

    def _events(self) -> bytes:
        return OK + b"\r\n" + self._stream()

    def _list(self) -> bytes:
        r = self._random
        model = {"id": self._or_any(self._text() * r.choice([1, 1, 5000]))}
        return self._with_length(json_of({"data": self._or_any([self._or_any(model)] * r.choice([0, 1, 1, 9999]))}))

    def _with_length(self, body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
        return head + b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def _mutated(self) -> bytes:
        r, data = self._random, bytearray(self._random.choice([self._events, self._list])())
        for _ in range(r.randrange(1, 8)):
            at = r.randrange(len(data))
            match r.randrange(4):
                case 0:
                    data[at] = r.randrange(256)
                case 1:
                    del data[at : at + r.randrange(1, 30)]
                case 2:
                    data[at:at] = r.randbytes(r.randrange(1, 30))
                case _:
                    data[at:at] = data[at : at + r.randrange(1, 200)]
            data = data or bytearray(b"x")
        return bytes(data)

    def _deep(self) -> bytes:
        r = self._random
        count = r.choice([60, 63, 64, 65, 500, 1000, 5000, 50_000, 200_000])
        opened, closed = r.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"error":', b"}"), (b'[{"":', b"}]")])
        middle = r.choice([b"1", b'"]]]]}}"', b'"\\"[[["', b'"'])
        nest = opened * count + middle + r.choice([closed * count, b""])
        body = r.choice([b"%s", b'{"error": %s}', b'{"data": %s}', b'{"choices": [{"delta": {"content": %s}}]}']) % nest
        return r.choice(
            [
                OK + b"\r\ndata: " + body + b"\n\n",
                self._with_length(body),
                self._with_length(body, b"HTTP/1.1 %d No" % r.choice([400, 404, 500])),
            ]
        )

    def _refusal(self) -> bytes:
        r = self._random
        status = r.choice([100, 103, 204, 206, 301, 308, 400, 401, 404, 413, 422, 429, 500, 503, 599, 999])
        words = r.choice([self._value(), {"error": {"message": "model \x1b[2J not found", "code": self._number()}}])
        more = r.choice([b"", b"Retry-After: %s\r\n" % r.choice([b"7", b"9" * 5000, "٣".encode(), b"-1"])])
        more += r.choice([b"", b"Location: \x1b]0;x\x07" + b"/" * r.choice([1, 5000]) + b"\r\n"])
        body = json_of(words)
        return b"HTTP/1.1 %d No\r\n%sContent-Length: %d\r\n\r\n" % (status, more, len(body)) + body

    def _framing(self) -> bytes:
        """HTTP itself is wrong, or the bytes are of another kind than they say."""
        r, body = self._random, self._stream()
        chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n"
        return r.choice(
            [
                OK + b"Content-Length: %s\r\n\r\n" % r.choice([b"-1", b"0", b"9" * 30, b"1, 2", b"x"]) + body,
                chunked + r.choice([b"F" * 30, b"-1", b"0", b"zz", b"%x" % len(body), b"1"]) + b"\r\n" + body,
                OK
                + b"Content-Encoding: "
                + r.choice([b"gzip", b"br", b"zstd", b"identity", b"x"])
                + b"\r\n\r\n"
                + body,
                OK + b"\r\n" + b"data: " + body.decode().encode("utf-16"),
                b"HTTP/1.1 100 Continue\r\n\r\n" * r.choice([1, 3000]) + OK + b"\r\n" + body,
                OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n" + body,
                OK + b"X: \xff\x00\r\nSet-Cookie: " + r.randbytes(20) + b"\r\n\r\n" + body,
                b"HTTP/1.1 200 OK\r\nContent-Type: " + r.choice([b"text/html", b"", b"\xff"]) + b"\r\n\r\n" + body,
                r.randbytes(r.randrange(2000)),
                b"",
            ]
        )

    def _large(self) -> bytes:
        r = self._random
        piece = r.choice([b"x", b"data: x\n", b"data:\n", b": ping\n\n", b"data: {}\n\n", b"\n", b"\r", b"event: x\n"])
        many = piece * (LARGE // len(piece))
        text = b'{"choices": [{"delta": {"content": "' + b"a" * (LARGE >> r.choice([0, 4])) + b'"}}]}'
        models = b'{"data": [' + b'{"id": "m"},' * (LARGE // 12) + b'{"id": "m"}]}'
        return r.choice(
            [
                OK + b"\r\n" + many,
                OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n\n\r\n" * (LARGE // 6),
                OK + b"Content-Encoding: gzip\r\n\r\n" + compressed(LARGE * 8),
                OK + b"\r\ndata: " + text + b"\n\n",
                self._with_length(models),
                self._with_length(many, b"HTTP/1.1 500 No"),
            ]
        )
