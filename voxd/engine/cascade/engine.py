"""Answers through a chat server: the transcriber's text goes there, its reply is the answer.  Step 8.

The server is anything with OpenAI's `/chat/completions`: vLLM, llama.cpp, Ollama, Mistral.  It need not run when voxd
starts; each turn tries anew.  Requests run in the thread of `chat`, all else in `receive` and `step` on the loop's
thread.  This module knows neither audio nor HTTP; what it answers is text (`Capabilities.reads_text`), and the session
sees to it that the context has the text of what was spoken, and of an interrupted answer no more than the client got.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxd.engine.cascade.options import WHERE, CascadeOptions
from voxd.engine.contract import Capabilities, Engine, EngineCommand
from voxd.engine.dialogue import messages
from voxd.messages import Cancel, Close, Failed, Output, Respond, Said, Settled

if TYPE_CHECKING:
    from voxd.engine.cascade.chat import Chat, Delta, Done, Lost


@dataclass(slots=True)
class _Answer:
    """One ref, from Respond to Settled."""

    said: str = ""
    deltas: int = 0


class Cascade(Engine):
    """Answers come from somewhere else."""

    capabilities = Capabilities(
        roles=("respond",),
        summary="the transcriber's text to a chat server (vLLM, llama.cpp, Ollama, Mistral) and its answer back",
        needs=("httpx",),
        extra="server",
        reads_text=True,
    )

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        super().__init__(options, wake)
        self._options, self._wake = CascadeOptions.parse(options), wake
        self._key = self._options.key(os.environ)
        self._chat: Chat | None = None
        self._answers: dict[tuple[int, int], _Answer] = {}
        self._out: list[Output] = []

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        from voxd.engine.cascade.chat import Chat
        from voxd.engine.cascade.errors import ChatError, no_model

        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request
        self._chat = Chat(self._options, self._key, self._wake)
        url, model = self._options.url, self._options.model
        progress(f"asking {url} for its models")
        try:
            offered = self._chat.models()
        except ChatError as error:
            return (f"cascade: {error} voxd starts all the same and tries again at each turn.",)
        if model is None and offered:
            return (f"cascade: {offered[0]} at {url} answers; {WHERE}.model chooses another",)
        if {model, f"{model}:latest"} & set(offered):  # Ollama's tag may be left out
            return (f"cascade: {model} at {url} answers",)
        return (f"cascade: {no_model(model, offered)}",)

    def stop(self) -> None:
        self._answers.clear()
        if self._chat is not None:
            self._chat.stop()

    def receive(self, command: EngineCommand) -> None:
        match command:
            case Respond():
                self._respond(command)
            case Cancel(stream=stream, ref=ref):
                if (answer := self._drop((stream, ref))) is not None:
                    self._out.append(Settled(stream, ref, "cancelled", answer.said, output_tokens=answer.deltas))
            case Close(stream=stream):
                for key in [key for key in self._answers if key[0] == stream]:
                    self._drop(key)
                self._out = [output for output in self._out if output.stream != stream]
            case _:
                pass  # audio is the transcriber's; nothing is begun ahead, for the text of a turn is not final before

    def step(self, now_us: int) -> Iterable[Output]:
        for result in self._loaded.results():
            if (answer := self._answers.get(result.key)) is not None:
                self._out.append(self._output(answer, result))
        out, self._out = self._out, []
        return out

    @property
    def _loaded(self) -> Chat:
        assert self._chat is not None, "the engine is used before it was loaded"
        return self._chat

    def _respond(self, command: Respond) -> None:
        key = (command.stream, command.ref)
        if not command.context or not command.context[-1].words.strip():  # noise, or nothing: there is no question
            self._out.append(Settled(*key, "completed", ""))
            return
        self._answers[key] = _Answer()
        self._loaded.ask(key, messages(command.context), command.max_tokens)

    def _drop(self, key: tuple[int, int]) -> _Answer | None:
        """Gives up an answer of which nothing more is wanted."""
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._loaded.cancel(key)
        return answer

    def _output(self, answer: _Answer, result: Delta | Done | Lost) -> Output:
        from voxd.engine.cascade.chat import Delta, Done

        if isinstance(result, Delta):
            answer.said += result.text
            answer.deltas += 1
            return Said(*result.key, result.text, tokens=1)
        del self._answers[result.key]
        if not isinstance(result, Done):
            return Failed(*result.key, result.code, result.message)
        return Settled(
            *result.key,
            "incomplete" if result.cut else "completed",
            answer.said,
            input_tokens=result.input_tokens,
            cached_tokens=result.cached_tokens,
            output_tokens=result.output_tokens or answer.deltas,
        )
