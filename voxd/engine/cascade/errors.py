"""The errors between voxd and a chat server, each in one sentence that says what to do.  Not in the packet's path.


It knows httpx's exceptions and how vLLM, llama.cpp, Ollama and Mistral say no; it sends nothing.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping

import httpx
import msgspec

from voxd.engine.cascade.foreign import SIZE, decode
from voxd.engine.cascade.options import WHERE, CascadeOptions

SHOWN = 200  # characters of a server's own words
_SECONDS = re.compile(r"[0-9]{1,5}")
_TOO_LONG = re.compile(r"context[ _](length|size|window)|exceed_context|maximum context|too many tokens", re.IGNORECASE)
_NO_MODEL = re.compile(r"not[ _]found|not exist|invalid[ _]model|no such|unknown", re.IGNORECASE)


class ChatError(Exception):
    """A request came to nothing, or an answer to no good end.  `code` is for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def no_connection(error: httpx.RequestError, options: CascadeOptions) -> ChatError:
    """The server was not reached, or broke off before it had answered."""
    url, causes = options.url, list(_causes(error))
    reason = f"{url} cannot be reached: see that the chat server runs there, or correct {WHERE}.url."
    if any(isinstance(each, socket.gaierror) for each in causes):
        reason = f"The host name in {url} is not known: correct {WHERE}.url."
    elif (bad := next((each for each in causes if isinstance(each, ssl.SSLCertVerificationError)), None)) is not None:
        remedy = "name the file of the authority that signed it in SSL_CERT_FILE where voxd is started"
        reason = f"The certificate of {url} is not trusted ({bad.verify_message}): {remedy}."
    elif any(isinstance(each, ssl.SSLError) and not isinstance(each, ssl.SSLWantReadError) for each in causes):
        reason = f"{url} does not speak TLS: should {WHERE}.url begin with http:// instead of https://?"
    elif any(isinstance(each, ConnectionRefusedError) for each in causes):
        reason = f"Nobody listens at {url}: start the chat server there, or correct {WHERE}.url."
    elif isinstance(error, httpx.TimeoutException):
        reason = (
            f"{url} does not answer: see that the machine is up and no firewall is between, or correct {WHERE}.url."
        )
    elif isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        reason = f"{url} hung up without an answer: see that a chat server runs there, and whether it wants https://."
    return ChatError("chat_unreachable", reason)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came of."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            inside = each.exceptions if isinstance(each, BaseExceptionGroup) else ()
            waiting += [found for found in (each.__cause__, each.__context__, *inside) if found is not None]


def broken() -> ChatError:
    return ChatError(
        "chat_broken", "The chat server broke off in the middle of its answer: ask again; its own log may say why."
    )


def garbled() -> ChatError:
    remedy = f"ask again; if it stays so, {WHERE}.url is not an OpenAI-compatible endpoint, or its server has a bug"
    return ChatError("chat_broken", f"The chat server has sent something that is no piece of an answer: {remedy}.")


def too_much() -> ChatError:
    remedy = f"ask again; if it stays so, {WHERE}.url is not an OpenAI-compatible endpoint, or its server has a bug"
    return ChatError("chat_broken", f"The chat server's answer has no end within {SIZE >> 20} MiB: {remedy}.")


def packed() -> ChatError:
    """Compressed although the request says `Accept-Encoding: identity`."""
    remedy = "turn compression off there, or in the proxy before it"
    return ChatError("chat_broken", f"The chat server compresses its answers, which was not asked for: {remedy}.")


def silent(options: CascadeOptions) -> ChatError:
    remedy = f"ask again, or raise {WHERE}.timeout_s if it needs longer"
    return ChatError("chat_timeout", f"The chat server has sent no text for {options.timeout_s:g} s: {remedy}.")


def no_chat(options: CascadeOptions) -> ChatError:
    """The error for an address where something answers that is not a chat endpoint."""
    remedy = f"{WHERE}.url must be what stands before it, which mostly ends in /v1"
    return ChatError("chat_not_found", f"There is no chat endpoint at {options.url}/chat/completions: {remedy}.")


def no_model(model: str | None, offered: tuple[str, ...]) -> ChatError:
    which = f"no model '{model}'" if model else "no model to offer"
    list_ = f"; it offers {', '.join(offered[:8])}" if offered else ""
    return ChatError("model_not_found", f"The chat server has {which}{list_}: set {WHERE}.model to one that it has.")


def is_no_model(status: int, body: bytes) -> bool:
    """Whether this refusal is about the model's name."""
    words = error_words(body)
    return status in (400, 404) and "model" in words.lower() and bool(_NO_MODEL.search(words))


def refused(status: int, headers: Mapping[str, str], body: bytes, options: CascadeOptions) -> ChatError:
    """The error for any status but 200, except for a model that is not there."""
    words = error_words(body)
    quoted = f": {_line(words)}" if words else ""
    if status in (401, 403):
        return _unauthorized(status, options)
    if status == 429:
        after = headers.get("retry-after", "")
        when = f"in {int(after)} s" if _SECONDS.fullmatch(after) else "in a moment"
        return ChatError("rate_limit_exceeded", f"The chat server takes no more requests for now: ask again {when}.")
    if status in (400, 413, 422, 500) and _TOO_LONG.search(words):
        remedy = "begin a new session, or give the model more context where it is served"
        return ChatError("context_length_exceeded", f"This conversation is too long for the model: {remedy}.")
    if status == 404:
        return no_chat(options)
    if status >= 500:
        remedy = "look at its own log, or ask again"
        return ChatError("chat_failed", f"The chat server failed with status {status} ({remedy}){quoted}.")
    if 300 <= status < 400:
        there = _line(headers.get("location", "")) or "another address"
        return ChatError("chat_moved", f"{options.url} has moved to {there}: put the new address into {WHERE}.url.")
    return ChatError("chat_refused", f"The chat server refuses the request with status {status} (see {WHERE}){quoted}.")


def broke_off(error: object) -> ChatError:
    """An error that the server tells in the middle of the stream."""
    words = error_words(msgspec.json.encode({"error": error}))
    if _TOO_LONG.search(words):
        return refused(400, {}, msgspec.json.encode({"error": error}), CascadeOptions())
    return ChatError(
        "chat_failed", f"The chat server gave up its answer (ask again, or look at its log): {_line(words)}."
    )


def _unauthorized(status: int, options: CascadeOptions) -> ChatError:
    if options.key_env is None:
        remedy = f"put it into an environment variable where voxd is started, and name that in {WHERE}.key_env"
        return ChatError("chat_unauthorized", f"The chat server asks for a key (status {status}): {remedy}.")
    remedy = f"put a key that it accepts into the environment variable {options.key_env} where voxd is started"
    return ChatError("chat_unauthorized", f"The chat server does not accept the key (status {status}): {remedy}.")


def error_words(body: bytes) -> str:
    """What the server says of an error: OpenAI's form, older vLLM's, FastAPI's, or as it is."""
    try:
        found = decode(body, object)
    except ValueError:
        return "" if body.lstrip().startswith(b"<") else body.decode("utf-8", "replace")
    if isinstance(found, dict):
        found = found.get("error", found)
    if isinstance(found, dict):
        parts = [found.get("message", found.get("detail")), found.get("code"), found.get("type")]
        return " ".join(str(part) for part in parts if part)
    return str(found)


def _line(text: str) -> str:
    """Fit for one line of a terminal."""
    shown = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return (shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…").rstrip(".")
