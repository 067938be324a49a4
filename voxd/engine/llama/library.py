"""llama.cpp in this process, through xllamacpp: a model is loaded, and requests are answered piece by piece.  Step 8.

The only module that touches the library.  What it offers is llama.cpp's own server: continuous batching over *slots*,
each with the cache of one conversation; the model's own chat template; a callback for each piece, which may stop the
answer.  That server also listens for HTTP, which nobody asked for: it gets a socket in a folder of our own, with a key,
and the socket is removed as soon as it is there.  It takes the process's signals, too; they are put back.

It does not know streams, turns or threads: `generate` blocks, and may be called from several threads at once.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from voxd.engine.contract import Unusable
from voxd.engine.llama.options import LlamaOptions

PIECE = 256  # tokens of a prompt that are computed at once; then other answers have their turn
QUIET, ERRORS = -1, 1  # what llama.cpp logs; its errors may quote a request, so they are only asked for while it loads


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of one answer."""

    input: int = msgspec.field(default=0, name="prompt_tokens")
    output: int = msgspec.field(default=0, name="completion_tokens")


class Timings(msgspec.Struct, frozen=True):
    """Milliseconds of one answer, and how many tokens of its prompt were in the cache."""

    cached: int = msgspec.field(default=0, name="cache_n")
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class LlamaTrouble(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    message: str = ""
    type: str = ""
    n_prompt_tokens: int = 0  # of `exceed_context_size_error`

    @property
    def too_long(self) -> bool:
        return self.type == "exceed_context_size_error"


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class AnswerPiece(msgspec.Struct, frozen=True):
    """A piece of an answer, as llama.cpp gives it."""

    choices: tuple[_Choice, ...] = ()
    usage: TokenUsage | None = None
    timings: Timings | None = None
    error: LlamaTrouble | None = None

    @property
    def text(self) -> str:
        return "".join(choice.delta.content or "" for choice in self.choices)

    @property
    def is_token(self) -> bool:
        """Whether a token was computed for it, said or only thought."""
        return any(choice.delta.content or choice.delta.reasoning_content for choice in self.choices)

    @property
    def end(self) -> str | None:
        """Why the answer ended."""
        return next((choice.finish_reason for choice in self.choices if choice.finish_reason), None)


_decoder = msgspec.json.Decoder(AnswerPiece)


class Library:
    """A loaded model.  Raises Unusable."""

    def __init__(self, path: Path, options: LlamaOptions, context: int) -> None:
        """`context`: tokens of each slot."""
        self._server = self._loaded(path, options, context)

    @staticmethod
    def _loaded(path: Path, options: LlamaOptions, context: int) -> Any:
        import xllamacpp

        with tempfile.TemporaryDirectory(prefix="voxd-llama-", ignore_cleanup_errors=True) as folder, _signals_kept():
            for log in (QUIET, ERRORS):
                try:
                    return xllamacpp.Server(_parameters(path, options, context, folder, log))
                except RuntimeError:
                    if log == ERRORS:
                        raise Unusable(
                            f"llama.cpp cannot load {path}; its own words are above this in voxd's journal.  It may be "
                            "damaged, too new for the installed xllamacpp, or larger than the memory"
                        ) from None
        raise AssertionError("unreachable")

    def generate(self, body: dict[str, object], slot: int, take: Callable[[AnswerPiece], bool]) -> None:
        """Answers one request in this slot.  `take` gets each piece; the answer stops once it returns True."""
        raised: list[Exception] = []

        def hear(data: str) -> bool:
            try:
                return take(_decoder.decode(data))
            except Exception as error:  # noqa: BLE001  # raised again below: the library would swallow it
                raised.append(error)
                return True

        fixed = {"stream": True, "stream_options": {"include_usage": True}, "cache_prompt": True, "id_slot": slot}
        self._server.handle_chat_completions(msgspec.json.encode(body | fixed).decode(), hear)
        if raised:
            raise raised[0]

    def close(self) -> None:
        """Frees the model; nothing may be running."""
        self._server = None


def devices() -> tuple[str, ...]:
    """The GPUs that this build of llama.cpp would use."""
    import xllamacpp

    return tuple(each["name"] for each in xllamacpp.get_device_info() if "CPU" not in each["name"])


def _parameters(path: Path, options: LlamaOptions, context: int, folder: str, log: int) -> Any:
    import xllamacpp

    found = xllamacpp.CommonParams()
    found.model.path = os.fspath(path)
    found.n_parallel = options.slots
    found.n_ctx = context * options.slots
    found.n_batch, found.n_ubatch = PIECE, PIECE
    found.n_gpu_layers = options.gpu_layers
    for threads in (found.cpuparams, found.cpuparams_batch):
        threads.n_threads = options.threads
        threads.poll = 0  # threads that wait do not spin: a transcriber wants the core
    found.cache_ram_mib, found.cache_idle_slots = 0, False  # what is in no slot is computed again
    found.prefill_assistant = False  # an answer is never the rest of the last one
    found.fit_params = False  # what was configured holds, or it fails
    found.hostnames, found.api_keys = [f"{folder}/llama.sock"], [secrets.token_urlsafe(32)]
    found.n_threads_http, found.ui, found.sse_ping_interval = 1, False, -1
    found.verbosity = log
    return found


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Puts the handlers of this process back, which llama.cpp's server replaces."""
    if threading.current_thread() is not threading.main_thread():  # only there may Python set them
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
