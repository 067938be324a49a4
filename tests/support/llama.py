"""The engine `llama` as the loop drives it, and llama.cpp's own server beside it, both with the small model."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from voxd.engine.contract import EngineCommand
from voxd.engine.llama.build import load_model
from voxd.engine.llama.engine import Llama
from voxd.engine.llama.library import AnswerPiece
from voxd.engine.llama.options import LlamaOptions
from voxd.engine.llama.shortening import prompt
from voxd.messages import Failed, Open, Output, Said, Settled, Turn

PATIENCE_S = 120.0
SMALL: dict[str, object] = {"max_context": 512, "max_tokens": 16, "threads": 1}


class Talker:
    """The engine with streams 1 and 2 open."""

    def __init__(self, **options: object) -> None:
        self._woken = threading.Event()
        self.engine = Llama(SMALL | options, self._woken.set)
        self.notes = self.engine.load(lambda _: None)
        self.out: list[Output] = []
        for stream in (1, 2):
            self.tell(Open(stream, ("respond",)))

    def tell(self, command: EngineCommand) -> None:
        self.engine.receive(command)
        self.step()

    def step(self) -> None:
        self._woken.clear()
        self.out += self.engine.step(time.monotonic_ns() // 1000)

    def until(self, seen: Callable[[], bool]) -> None:
        latest = time.monotonic() + PATIENCE_S
        while not seen():
            assert self._woken.wait(latest - time.monotonic()), f"it has not come; there is {self.out}"
            self.step()

    def ending(self, ref: int, stream: int = 1) -> Settled | Failed | None:
        mine = (o for o in self.out if isinstance(o, Settled | Failed))
        return next((o for o in mine if (o.stream, o.ref) == (stream, ref)), None)

    def ended(self, ref: int, stream: int = 1) -> Settled:
        self.until(lambda: self.ending(ref, stream) is not None)
        found = self.ending(ref, stream)
        assert isinstance(found, Settled), found
        return found

    def said(self, ref: int, stream: int = 1) -> str:
        return "".join(o.text for o in self.out if isinstance(o, Said) and (o.stream, o.ref) == (stream, ref))


@functools.cache
def own_server() -> Any:
    """llama.cpp's own server with the same model, which is asked without any of the engine's bookkeeping."""
    library, _, _ = load_model(LlamaOptions.parse(SMALL), lambda _: None)
    return library


def own_answer(context: Sequence[Turn], most: int) -> str:
    """What it says to this conversation, from an empty cache."""
    found: list[str] = []

    def take(piece: AnswerPiece) -> bool:
        assert piece.error is None, piece.error
        found.append(piece.text)
        return False

    body = {"messages": prompt(context), "max_tokens": most, **LlamaOptions.parse(SMALL).request}
    own_server().generate(body | {"n_cache_reuse": 0}, 0, take)
    return "".join(found).lstrip()


@dataclass(slots=True)
class ScriptedModel:
    """A model of which the test says when it goes on: no llama.cpp, for the order of things alone."""

    words: int = 4
    bodies: list[dict[str, object]] = field(default_factory=list)
    refuse: Callable[[dict[str, object]], AnswerPiece | None] = lambda body: None

    def generate(self, body: dict[str, object], slot: int, take: Callable[[AnswerPiece], bool]) -> None:
        import msgspec

        self.bodies.append(body)
        if (refusal := self.refuse(body)) is not None:
            take(refusal)
            return
        for number in range(min(self.words, int(str(body["max_tokens"])))):
            piece = {"choices": [{"delta": {"content": f" w{number}"}}]}
            if take(msgspec.convert(piece, AnswerPiece)):
                return
        take(msgspec.convert({"choices": [{"finish_reason": "stop", "delta": {}}]}, AnswerPiece))

    def close(self) -> None:
        pass
