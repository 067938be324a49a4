"""Answers what the transcriber wrote from a GGUF file, on this machine's processor or GPU.  Step 8.

    Prepare          the conversation so far is computed into the cache while the person speaks, if it is not there
    Speculate        the answer to what has probably been said is begun and kept back, until Respond or Crop
    Respond          if the words are those that the answer was begun for, what is ready is published at once
    Crop, Cancel     the answer stops at its next token; the cache of the conversation serves the next one all the same

llama.cpp computes on threads of its own, requests wait for it in those of `workers`; all else happens in `receive` and
`step` on the loop's thread.  This module knows commands and requests; not llama.cpp, nor what of a conversation fits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from voxd.engine.contract import Capabilities, Engine, EngineCommand, Refuse
from voxd.engine.llama.build import load_model
from voxd.engine.llama.library import Timings, TokenUsage
from voxd.engine.llama.options import LlamaOptions
from voxd.engine.llama.schedule import LlamaKind, SlotSchedule
from voxd.engine.llama.shortening import Dialogue, Messages, prompt
from voxd.engine.llama.weights import weights_absent
from voxd.engine.llama.workers import JobOver, LlamaJob, LlamaModel, LlamaWorkers, News, NewText
from voxd.messages import (
    Cancel,
    Close,
    Crop,
    Failed,
    Open,
    Output,
    Prepare,
    Respond,
    Said,
    Settled,
    Speculate,
    Status,
    Turn,
    Warned,
)

OPTION = "engine_options.llama.max_context"
TOO_LONG = f"This turn, with the instructions, is too long for a context of {{}} tokens: shorten it, or raise {OPTION}."
SHORTENED = f"The conversation is longer than {{}} tokens: its older half is left out of what follows; see {OPTION}."
TRIES = 3  # for a conversation whose tokens were estimated too low


@dataclass(slots=True, eq=False)
class LlamaRequest:
    """One answer, from the command that asks for it to its end; of the kind OPENING, nothing is published."""

    stream: int
    kind: LlamaKind
    ref: int | None
    context: tuple[Turn, ...]
    most: int  # tokens of the answer
    aside: bool = False
    read: tuple[Turn, ...] = ()  # the turns of the context that fit
    tries: int = 0
    job: LlamaJob | None = None  # None: it waits for a slot
    text: str = ""
    unsaid: str = ""
    tokens: int = 0
    unsaid_tokens: int = 0
    status: Status | None = None  # how it ended
    usage: TokenUsage = field(default_factory=TokenUsage)
    timings: Timings = field(default_factory=Timings)
    since_us: int | None = None  # it began
    asked_us: int | None = None  # since when somebody waits for it, if it was begun before
    first_us: int | None = None  # its first token was read

    def write(self, text: str) -> None:
        text = text if self.text else text.lstrip()  # a text does not begin with a space
        self.text += text
        self.unsaid += text
        self.tokens += 1
        self.unsaid_tokens += 1

    def settled(self, status: Status) -> Settled:
        assert self.ref is not None
        spent = self.timings.prompt_ms + self.timings.predicted_ms
        return Settled(
            self.stream,
            self.ref,
            status,
            self.text,
            input_tokens=self.usage.input,
            cached_tokens=self.timings.cached,
            output_tokens=self.usage.output or self.tokens,
            compute_us=round(1000 * spent),
            saved_us=self._saved_us,
        )

    @property
    def _saved_us(self) -> int:
        """How much of the time to its first token had passed when it was asked for."""
        if self.asked_us is None or self.since_us is None:
            return 0
        return max(0, min(self.first_us or self.asked_us, self.asked_us) - self.since_us)


LoadModel = Callable[[LlamaOptions, Callable[[str], None]], tuple[LlamaModel, int, tuple[str, ...]]]


class Llama(Engine):
    capabilities: ClassVar[Capabilities] = Capabilities(
        roles=("respond",),
        summary="answers from a GGUF file through llama.cpp, on any processor or GPU; SmolLM2-135M unless configured",
        needs=("xllamacpp",),
        extra="llama",
        speculates=True,
        reads_text=True,
    )

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None], load: LoadModel = load_model) -> None:
        super().__init__(options, wake)
        self._options, self._wake, self._load = LlamaOptions.parse(options), wake, load
        self._schedule: SlotSchedule[LlamaRequest] = SlotSchedule(self._options.slots)
        self._dialogues: dict[int, Dialogue] = {}
        self._jobs: dict[LlamaJob, LlamaRequest] = {}
        self._ready: dict[int, LlamaRequest] = {}  # complete answers that were begun ahead, by stream
        self._workers: LlamaWorkers | None = None
        self._context = self._options.max_context
        self._out: list[Output] = []

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        return weights_absent(LlamaOptions.parse(options).model, os.environ)

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        model, self._context, notes = self._load(self._options, progress)
        self._workers = LlamaWorkers(model, self._options.slots, self._wake)
        return notes

    def stop(self) -> None:
        self._dialogues.clear()
        for job in self._jobs:
            job.given_up = True
        if self._workers is not None:
            self._workers.stop()

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            return self._open(command)
        if command.stream not in self._dialogues:
            return None
        match command:
            case Prepare():
                self._prepare(command)
            case Speculate():
                self._speculate(command)
            case Respond():
                self._respond(command)
            case Crop(stream=stream, ref=ref):
                self._drop(self._find(stream, ref))
            case Cancel(stream=stream, ref=ref):
                self._cancel(self._find(stream, ref))
            case Close(stream=stream):
                self._close(stream)
            case _:
                pass  # audio is the transcriber's
        return None

    def _open(self, command: Open) -> None:
        if command.stream in self._dialogues:
            return
        if len(self._dialogues) >= self._options.max_streams:
            raise Refuse(f"all {self._options.max_streams} conversations with llama are taken")
        self._dialogues[command.stream] = Dialogue()

    def _close(self, stream: int) -> None:
        for request in self._of(stream):
            self._drop(request)
        self._schedule.forget(stream)
        del self._dialogues[stream]
        self._out = [output for output in self._out if output.stream != stream]

    def _prepare(self, command: Prepare) -> None:
        if any(not request.aside for request in self._of(command.stream)):
            return  # its slot is busy with the same conversation
        self._begin(LlamaRequest(command.stream, LlamaKind.OPENING, None, command.context, 0))

    def _speculate(self, command: Speculate) -> None:
        if not self._options.ahead or not _asks(command.context):
            return
        most = command.max_tokens or self._options.max_tokens
        self._take_over(command.stream)
        self._begin(LlamaRequest(command.stream, LlamaKind.AHEAD, command.ref, command.context, most))

    def _respond(self, command: Respond) -> None:
        stream, ref = command.stream, command.ref
        if (begun := self._find(stream, ref)) is not None:
            if prompt(begun.context) == prompt(command.context):
                begun.kind = LlamaKind.WANTED
                begun.asked_us = -1  # the clock is read in `step`
                return
            self._drop(begun)  # what was said turned out otherwise
        if not _asks(command.context):
            self._out.append(Settled(stream, ref, "completed", ""))
            return
        if not command.aside:
            self._take_over(stream)
        most = command.max_tokens or self._options.max_tokens
        self._begin(LlamaRequest(stream, LlamaKind.WANTED, ref, command.context, most, command.aside))

    def _take_over(self, stream: int) -> None:
        """Drops what is computed in the conversation's slot that nobody waits for."""
        for request in self._of(stream):
            if request.kind is not LlamaKind.WANTED:
                self._drop(request)

    def _cancel(self, request: LlamaRequest | None) -> None:
        if request is None:
            return
        if request.kind is LlamaKind.WANTED:
            self._say(request)
            self._out.append(request.settled("cancelled"))
        self._drop(request)

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _of(self, stream: int) -> list[LlamaRequest]:
        ready = self._ready.get(stream)
        return [*(each for each in self._schedule if each.stream == stream), *([ready] if ready else [])]

    def _find(self, stream: int, ref: int) -> LlamaRequest | None:
        return next((request for request in self._of(stream) if request.ref == ref), None)

    def _begin(self, request: LlamaRequest) -> None:
        """Chooses what of the conversation is read, and has it wait for a slot."""
        dialogue, first = self._dialogues[request.stream], self._dialogues[request.stream].first
        limit = self._context - min(request.most, self._context // 4)
        read = dialogue.fit(request.context, limit // (1 + request.tries), aside=request.aside)
        if read is None:
            self._fail(request, "context_length_exceeded", TOO_LONG.format(self._context))
            return
        if dialogue.first != first:
            self._out.append(Warned(request.stream, "context_shortened", SHORTENED.format(limit)))
        request.read = read
        self._schedule.add(request)

    def _drop(self, request: LlamaRequest | None) -> None:
        if request is None:
            return
        self._schedule.remove(request)
        if self._ready.get(request.stream) is request:
            del self._ready[request.stream]
        if request.job is not None:
            request.job.given_up = True
            self._jobs.pop(request.job, None)

    def _fail(self, request: LlamaRequest, code: str, message: str) -> None:
        self._drop(request)
        if request.kind is LlamaKind.WANTED:
            assert request.ref is not None
            self._say(request)
            self._out.append(Failed(request.stream, request.ref, code, message))

    # ── outputs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, now_us: int) -> Iterable[Output]:
        for news in self._loaded.news():
            if (request := self._jobs.get(news.job)) is not None:
                self._hear(request, news, now_us)
        self._submit(now_us)
        for request in (*self._schedule, *self._ready.values()):
            if request.kind is LlamaKind.WANTED:
                request.asked_us = now_us if request.asked_us == -1 else request.asked_us
                self._say(request)
        for request in list(self._ready.values()):
            if request.kind is LlamaKind.WANTED:
                self._settle(request)
        out, self._out = self._out, []
        return out

    def _submit(self, now_us: int) -> None:
        begun, gone = self._schedule.begin()
        for request in gone:
            self._drop(request)
        for request, slot in begun:
            request.since_us = now_us
            request.job = LlamaJob(self._body(request), slot)
            self._jobs[request.job] = request
            self._loaded.submit(request.job)

    def _body(self, request: LlamaRequest) -> dict[str, object]:
        messages: Messages = prompt(request.read)
        if request.kind is LlamaKind.OPENING or not messages or messages[-1]["role"] != "user":
            messages = [*messages, {"role": "user", "content": ""}]  # nothing was asked, or not yet
        return {"messages": messages, "max_tokens": request.most, **self._options.request}

    def _hear(self, request: LlamaRequest, news: News, now_us: int) -> None:
        if isinstance(news, NewText):
            request.first_us = now_us if request.first_us is None else request.first_us
            request.write(news.text)
            return
        self._jobs.pop(news.job)
        self._schedule.remove(request)
        request.usage, request.timings = news.usage, news.timings
        if news.trouble is not None:
            self._hear_trouble(request, news)
            return
        self._dialogues[request.stream].learn(request.read, news.usage.input)
        request.status = "incomplete" if news.cut else "completed"
        if request.kind is LlamaKind.WANTED:
            self._settle(request)
        elif request.kind is LlamaKind.AHEAD:
            self._ready[request.stream] = request

    def _hear_trouble(self, request: LlamaRequest, news: JobOver) -> None:
        assert news.trouble is not None
        request.job = None
        if news.trouble.too_long and request.tries < TRIES:  # its tokens had been estimated too low
            request.tries += 1
            self._dialogues[request.stream].learn(request.read, news.trouble.n_prompt_tokens)
            self._begin(request)
        elif news.trouble.too_long:
            self._fail(request, "context_length_exceeded", TOO_LONG.format(self._context))
        else:
            message = f"llama.cpp could not answer: {news.trouble.message[:200].rstrip('.')}."
            self._fail(request, "engine_error", message)

    def _say(self, request: LlamaRequest) -> None:
        if request.unsaid:
            assert request.ref is not None
            self._out.append(Said(request.stream, request.ref, request.unsaid, tokens=request.unsaid_tokens))
            request.unsaid, request.unsaid_tokens = "", 0

    def _settle(self, request: LlamaRequest) -> None:
        assert request.status is not None
        self._say(request)
        self._out.append(request.settled(request.status))
        self._drop(request)

    @property
    def _loaded(self) -> LlamaWorkers:
        assert self._workers is not None, "load() comes first"
        return self._workers


def _asks(context: tuple[Turn, ...]) -> bool:
    """Whether there is anything to answer; there is not if the last turn is audio in which nobody spoke."""
    return bool(context) and bool(context[-1].words.strip())
