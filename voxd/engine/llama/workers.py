"""Threads that wait for llama.cpp, which takes longer than the loop may.  Step 8.

A `Job` goes in, `News` of it comes out.  It does not know turns or prompts.  An exception ends that job only: it is
logged once, and the news says so.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from voxd.engine.llama.library import AnswerPiece, LlamaTrouble, Timings, TokenUsage

log = logging.getLogger(__name__)

STOP_S = 30.0  # a prompt that is being computed cannot be given up before its first token


class LlamaModel(Protocol):
    """A loaded model; `generate` may be called from several threads at once."""

    def generate(self, body: dict[str, object], slot: int, take: Callable[[AnswerPiece], bool]) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class LlamaJob:
    """One answer.  `given_up` is set by the loop's thread and read by the one that answers."""

    body: dict[str, object]
    slot: int
    given_up: bool = False
    over: threading.Event = field(default_factory=threading.Event)  # llama.cpp computes nothing more for it


@dataclass(frozen=True, slots=True)
class NewText:
    """New text of a job, empty for what was only thought; one token."""

    job: LlamaJob
    text: str


@dataclass(slots=True)
class JobOver:
    """The end of a job, told when it is over.  `trouble` None: it went well; `cut`: at the limit of tokens."""

    job: LlamaJob
    cut: bool = False
    usage: TokenUsage = field(default_factory=TokenUsage)
    timings: Timings = field(default_factory=Timings)
    trouble: LlamaTrouble | None = None


News = NewText | JobOver


class LlamaWorkers:
    """`count` daemon threads; `wake` is called, from a thread, whenever `news` has something to give.

    Bound of the news: what is left of the answers in progress, each of a limited number of tokens."""

    def __init__(self, model: LlamaModel, slots: int, wake: Callable[[], None]) -> None:
        self._model, self._wake = model, wake
        self._jobs: queue.SimpleQueue[LlamaJob | None] = queue.SimpleQueue()
        self._news: deque[News] = deque()
        self._slots = [threading.Lock() for _ in range(slots)]
        # Twice as many as slots: one that was given up holds its thread until its token is computed.
        self._threads = [threading.Thread(target=self._run, name=f"llama-{n}", daemon=True) for n in range(2 * slots)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: LlamaJob) -> None:
        self._jobs.put(job)

    def news(self) -> list[News]:
        found = []
        while self._news:
            found.append(self._news.popleft())
        return found

    def stop(self) -> None:
        """Ends the threads, once what runs has been given up, and frees the model."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(STOP_S)
        if not any(thread.is_alive() for thread in self._threads):
            self._model.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._slots[job.slot]:  # the one before it may have to end first
                self._answer(job)
            job.over.set()
            self._wake()

    def _answer(self, job: LlamaJob) -> None:
        over = JobOver(job)
        try:
            if not job.given_up:
                self._model.generate(job.body, job.slot, lambda piece: self._take(over, piece))
        except Exception:  # the wall: a bug in one answer must not take its thread with it
            log.exception("an answer of llama.cpp failed")
            over.trouble = LlamaTrouble("the engine failed in this turn; see voxd's log")
        self._news.append(over)

    def _take(self, over: JobOver, piece: AnswerPiece) -> bool:
        if over.job.given_up:
            return True
        over.trouble = piece.error or over.trouble
        over.cut = over.cut or piece.end == "length"
        over.usage, over.timings = piece.usage or over.usage, piece.timings or over.timings
        if piece.is_token:
            self._news.append(NewText(over.job, piece.text))
            self._wake()
        return False
