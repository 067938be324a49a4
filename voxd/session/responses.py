"""One answer, from `response.created` to `response.done`.  A part of the session core (step 10).

Pure.  It knows the order of a response's events and how its text is cut into deltas; not who speaks or why.

    created < output_item.added < item.added < content_part.added < delta* < text.done < content_part.done
            < item.done < output_item.done < done

The four opening events are written with the first text, not before: until then there may be none.  Whatever happens,
`close` is called once and every event that was opened is closed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from shared import events
from shared.events import Response, TextPart
from voxd.session.conversation import Entry

Ending = Literal["completed", "cancelled", "incomplete", "failed"]
Emit = Callable[..., None]


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """`chunked_response` of the settings.  With the defaults each text goes out at once, two words to a delta."""

    min_words: int = 1
    max_words: int = 2
    timeout_us: int = 50_000


class Chunker:
    """Text as it comes from the engine -> deltas.  Concatenated, they are the text.

    min_words 1: nothing is held.  Larger: text waits until so many words are complete or `timeout_us` after the first
    of it came.  max_words: a burst is cut into pieces of at most so many words (0: never cut)."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self._policy = policy
        self._held = ""
        self._since_us = 0

    @property
    def deadline_us(self) -> int | None:
        return self._since_us + self._policy.timeout_us if self._held else None

    def receive(self, text: str, now_us: int) -> Iterator[str]:
        """New text; yields what may go."""
        if not self._held:
            self._since_us = now_us
        self._held += text
        if len(self._held.split()) >= self._policy.min_words:
            yield from self.release()

    def release(self) -> Iterator[str]:
        """All that is held: the end of the answer, or the deadline."""
        text, self._held = self._held, ""
        if text:
            yield from split_words(text, self._policy.max_words)


def split_words(text: str, most: int) -> Iterator[str]:
    """Cuts before the white space that precedes each `most`-th word, so that pieces join without a trace."""
    if most <= 0:
        yield text
        return
    start, words, in_word = 0, 0, False
    for index, char in enumerate(text):
        if not char.isspace() and not in_word:
            if words == most:
                cut = len(text[:index].rstrip())
                yield text[start:cut]
                start, words = cut, 0
            words += 1
        in_word = not char.isspace()
    yield text[start:]


class Answer:
    """An active response of the default conversation."""

    def __init__(
        self,
        ref: int,
        response_id: str,
        item_id: str,
        emit: Emit,
        policy: ChunkPolicy,
        *,
        conversation_id: str,
        max_tokens: int | None,
        metadata: dict[str, str] | None,
    ) -> None:
        self.ref, self.id, self.item_id = ref, response_id, item_id
        self.text = ""  # what has been emitted as deltas
        self.opened = False
        self._previous: str | None = None
        self._emit = emit
        self._chunker = Chunker(policy)
        self._conversation_id = conversation_id
        self._max_tokens = max_tokens
        self._metadata = metadata
        emit(events.ResponseCreated, response=self._response("in_progress"))

    @property
    def deadline_us(self) -> int | None:
        return self._chunker.deadline_us

    def receive_text(self, text: str, now_us: int, add_item: Callable[[Entry], str | None]) -> None:
        """Text of the engine; `add_item` puts the assistant item into the conversation when the first of it comes."""
        for piece in self._chunker.receive(text, now_us):
            self._delta(piece, add_item)

    def receive_time(self, now_us: int, add_item: Callable[[Entry], str | None]) -> None:
        """The clock has passed: what was held too long goes."""
        if self.deadline_us is not None and now_us >= self.deadline_us:
            self._release(add_item)

    def _release(self, add_item: Callable[[Entry], str | None]) -> None:
        for piece in self._chunker.release():
            self._delta(piece, add_item)

    def _delta(self, piece: str, add_item: Callable[[Entry], str | None]) -> None:
        if not self.opened:
            self._open(add_item)
        self.text += piece
        self._emit(events.OutputTextDelta, **self._place(), delta=piece)

    def _open(self, add_item: Callable[[Entry], str | None]) -> None:
        self.opened = True
        entry = Entry(self.item_id, "assistant", "in_progress")
        bare = events.Item(self.item_id, "assistant", (), "in_progress")
        self._emit(events.OutputItemAdded, response_id=self.id, output_index=0, item=bare)
        self._previous = add_item(entry)
        self._emit(events.ItemAdded, item=bare, previous_item_id=self._previous)
        self._emit(events.ContentPartAdded, **self._place(), part=TextPart(""))

    def close(
        self,
        ending: Ending,
        add_item: Callable[[Entry], str | None],
        *,
        details: events.Json | None = None,
        usage: events.Json | None = None,
    ) -> None:
        """All closing events.  Text that is still held goes out first, unless the answer was cancelled."""
        if ending != "cancelled":
            self._release(add_item)
        if self.opened:
            item = self._item("completed" if ending == "completed" else "incomplete")
            self._emit(events.OutputTextDone, **self._place(), text=self.text)
            self._emit(events.ContentPartDone, **self._place(), part=TextPart(self.text))
            self._emit(events.ItemDone, item=item, previous_item_id=self._previous)
            self._emit(events.OutputItemDone, response_id=self.id, output_index=0, item=item)
        self._emit(events.ResponseDone, response=self._response(ending, details, usage))

    def _place(self) -> events.Json:
        return {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: events.ItemStatus) -> events.Item:
        return Entry(self.item_id, "assistant", status, self.text).item()

    def _response(self, status: str, details: events.Json | None = None, usage: events.Json | None = None) -> Response:
        done = status != "in_progress"
        output = (self._item("completed" if status == "completed" else "incomplete"),) if done and self.opened else ()
        return Response(
            id=self.id,
            status=status,  # type: ignore[arg-type]  # Ending or "in_progress"
            status_details=details,
            output=output,
            conversation_id=self._conversation_id,
            max_output_tokens="inf" if self._max_tokens is None else self._max_tokens,
            usage=usage,
            metadata=self._metadata,
        )
