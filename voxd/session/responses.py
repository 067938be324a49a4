"""The events of one response, from `response.created` to `response.done`.  Step 10.

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

from msgspec import UNSET

from shared import events
from shared.events import Response, TextPart, Warned
from voxd.messages import Said, Settled
from voxd.session.conversation import Entry
from voxd.session.outbox import Outbox

Ending = Literal["completed", "cancelled", "incomplete", "failed"]


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """The section `chunked_response` of the settings.  By default text goes out at once, two words to a delta."""

    min_words: int = 1
    max_words: int = 2
    timeout_us: int = 50_000


class Chunker:
    """Cuts the text that comes from the engine into deltas; concatenated, they are the text.

    min_words 1: nothing is held.  Larger: text waits until so many words are complete or `timeout_us` after the first
    of it came.  max_words: a burst is cut into pieces of at most so many words (0: never cut)."""

    def __init__(self, policy: ChunkPolicy) -> None:
        self._policy = policy
        self._held = ""
        self._since_us = 0

    @property
    def deadline_us(self) -> int | None:
        return self._since_us + self._policy.timeout_us if self._held else None

    def receive(self, text: str, now_us: int) -> str:
        """Takes new text; returns the text that may go out."""
        if not self._held:
            self._since_us = now_us
        self._held += text
        return self.release() if len(self._held.split()) >= self._policy.min_words else ""

    def release(self) -> str:
        """Returns all text that is held, at the end of the answer or at the deadline."""
        text, self._held = self._held, ""
        return text

    def cut(self, text: str) -> Iterator[str]:
        """Cuts text that goes out into deltas."""
        return split_words(text, self._policy.max_words)


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


AddItem = Callable[[Entry], str | None]


class OpenResponse:
    """A response that is not done.  `add_item` puts its item into the conversation; None: the response is beside the
    conversation, and no event of the conversation mentions it."""

    def __init__(
        self,
        ref: int,
        ids: tuple[str, str, str | None],
        out: Outbox,
        policy: ChunkPolicy,
        add_item: AddItem | None,
        *,
        max_tokens: int | None,
        metadata: dict[str, str] | None,
    ) -> None:
        self.ref = ref
        self.id, self.item_id, self._conversation_id = ids
        self.text = ""  # what has been emitted as deltas
        self.opened = False
        self._previous: str | None = None
        self._out, self._add_item = out, add_item
        self._chunker = Chunker(policy)
        self._max_tokens, self._metadata = max_tokens, metadata
        self._tokens = [0, 0, 0]  # input, cached, output: what is known so far

    def begin(self, warnings: tuple[Warned, ...] = ()) -> None:
        """Sends `response.created`."""
        self._out.emit(events.ResponseCreated, response=self._response("in_progress"), voxd_warnings=warnings or UNSET)

    @property
    def deadline_us(self) -> int | None:
        return self._chunker.deadline_us

    def receive_said(self, said: Said) -> None:
        """Takes text of the engine, and its token counts."""
        self._count(said.input_tokens, said.cached_tokens, self._tokens[2] + said.tokens)
        if said.text:
            self._say(self._chunker.receive(said.text, said.at_us))

    def receive_time(self, now_us: int) -> None:
        """Sends the text that has been held until its deadline."""
        if self.deadline_us is not None and now_us >= self.deadline_us:
            self._release()

    def close(self, ending: Ending, *, details: events.Json | None = None, settled: Settled | None = None) -> None:
        """Sends all closing events.  Text that is still held goes out first, unless the response was cancelled."""
        if settled is not None:
            self._count(settled.input_tokens, settled.cached_tokens, settled.output_tokens)
        if ending != "cancelled":
            self._release()
        if self.opened:
            item = self._item("completed" if ending == "completed" else "incomplete")
            self._out.emit(events.OutputTextDone, **self._place(), text=self.text)
            self._out.emit(events.ContentPartDone, **self._place(), part=TextPart(self.text))
            if self._add_item:
                self._out.emit(events.ItemDone, item=item, previous_item_id=self._previous)
            self._out.emit(events.OutputItemDone, response_id=self.id, output_index=0, item=item)
        self._out.emit(events.ResponseDone, response=self._response(ending, details))

    def _count(self, *tokens: int) -> None:
        self._tokens = [max(old, new) for old, new in zip(self._tokens, tokens, strict=True)]

    def _release(self) -> None:
        self._say(self._chunker.release())

    def _say(self, text: str) -> None:
        """Queues text as deltas; those of a long text are made when the client takes them."""
        if not text:
            return
        if not self.opened:
            self._open()
        self.text += text
        place = self._place()
        self._out.emit_each(
            text, self._chunker.cut(text), lambda key, piece: events.OutputTextDelta(key, **place, delta=piece)
        )

    def _open(self) -> None:
        self.opened = True
        bare = events.Item(self.item_id, "assistant", (), "in_progress")
        self._out.emit(events.OutputItemAdded, response_id=self.id, output_index=0, item=bare)
        if self._add_item:
            self._previous = self._add_item(Entry(self.item_id, "assistant", "in_progress", ref=self.ref))
            self._out.emit(events.ItemAdded, item=bare, previous_item_id=self._previous)
        self._out.emit(events.ContentPartAdded, **self._place(), part=TextPart(""))

    def _place(self) -> events.Json:
        return {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: events.ItemStatus) -> events.AnyItem:
        return Entry(self.item_id, "assistant", status, self.text).item()

    def _response(self, status: str, details: events.Json | None = None) -> Response:
        done = status != "in_progress"
        output = (self._item("completed" if status == "completed" else "incomplete"),) if done and self.opened else ()
        return Response(
            id=self.id,
            status=status,  # type: ignore[arg-type]  # Ending or "in_progress"
            status_details=UNSET if details is None else details,
            output=output,
            conversation_id=self._conversation_id,
            max_output_tokens="inf" if self._max_tokens is None else self._max_tokens,
            usage=usage_of(*self._tokens) if done else UNSET,
            metadata=UNSET if self._metadata is None else self._metadata,
        )


def usage_of(given: int, cached: int, output: int) -> events.Json:
    """Token counts as the API shows them; engines do not tell audio and text apart."""
    parts = {"text_tokens": cached, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": given + output,
        "input_tokens": given,
        "output_tokens": output,
        "input_token_details": {
            "text_tokens": given,
            "audio_tokens": 0,
            "image_tokens": 0,
            "cached_tokens": cached,
            "cached_tokens_details": parts,
        },
        "output_token_details": {"text_tokens": output, "audio_tokens": 0},
    }
