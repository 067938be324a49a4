"""The items of a conversation, in order.  A part of the session core (step 10).

Pure.  It knows items and their order; not where they come from, nor who is told about them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from msgspec import UNSET

from shared.events import Content, Item, ItemDraft, ItemStatus, WireError
from shared.parts import TEXT
from voxd.messages import Turn

MAX_ITEMS = 1000
MAX_BYTES = 16 << 20  # of memory, of all items
CONTENTS = 256  # of one item
ENTRY = 600  # bytes of an item beside its texts, about
Piece = tuple[str, int | None]  # a text, behind the audio of a ref if there is one


def bytes_of(text: str) -> int:
    """What a text takes in memory: as characters, and as UTF-8 once it has been written."""
    return sys.getsizeof(text) + (0 if text.isascii() else len(text.encode()))


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as the session keeps it.  `ref`: the utterance whose audio it is, or the response that said it;
    `transcript`: None until known; `awaited`: it will be known, or fail; `more`: further pieces of a client's item."""

    id: str
    role: str
    status: ItemStatus
    text: str = ""
    ref: int | None = None
    transcript: str | None = None
    awaited: bool = False
    more: tuple[Piece, ...] = ()

    def item(self) -> Item:
        """As the wire shows it; audio is never included."""
        said = "output_text" if self.role == "assistant" else "input_text"
        content: list[Content] = []
        for text, ref in ((self.text, self.ref), *self.more):
            spoken = ref is not None and self.role == "user"
            if spoken:
                content.append(Content("input_audio", transcript=self.transcript))
            if text or not spoken:
                content.append(Content(said, text=text))  # type: ignore[arg-type]  # one of two
        return Item(self.id, self.role, tuple(content), self.status)  # type: ignore[arg-type]  # role is checked at the edge

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        texts = (self.text, self.transcript or "", *(text for text, _ in self.more))
        return ENTRY + 100 * len(self.more) + sum(map(bytes_of, texts))

    def turns(self) -> tuple[Turn, ...]:
        """As a responder sees it: a turn for each piece."""
        first = Turn(self.role, self.text, self.ref, self.transcript or "")  # type: ignore[arg-type]
        return first, *(Turn(self.role, text, ref, continues=True) for text, ref in self.more)  # type: ignore[arg-type]


class Conversation:
    """Bound: MAX_ITEMS and MAX_BYTES; at the bound the oldest items go (`truncation: auto` of the API)."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._sizes: dict[str, int] = {}
        self.size = 0  # bytes, about

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def new_id(self, make: Callable[[str], str]) -> str:
        """Of an item to come; a client may have guessed the next ones."""
        while (item_id := make("item")) in self._entries:
            pass
        return item_id

    @property
    def last_id(self) -> str | None:
        return next(reversed(self._entries), None)

    def add(self, entry: Entry, previous: str | None = None) -> str | None:
        """Puts `entry` after item `previous` (None: at the end, "root": in front); returns the id before it.

        Raises WireError for an id that exists or a `previous` that does not."""
        if entry.id in self._entries:
            message = f"An item with id '{entry.id}' exists already."
            raise WireError("item_create_duplicate_item_id", message, "item.id")
        if previous is None:
            previous = self.last_id
            self._entries[entry.id] = entry
            self._weigh(entry.id)
        else:
            self._insert(entry, previous)
            previous = None if previous == "root" else previous
        self._trim()
        return previous if previous in self._entries else None

    def _trim(self) -> None:
        """The newest item stays, whatever its size: what a client may send of one is bounded elsewhere."""
        while len(self._entries) > MAX_ITEMS or (self.size > MAX_BYTES and len(self._entries) > 1):
            self.remove(next(iter(self._entries)))

    def _weigh(self, item_id: str) -> None:
        """This item has come, changed or gone."""
        entry = self._entries.get(item_id)
        self.size -= self._sizes.pop(item_id, 0)
        if entry is not None:
            self._sizes[item_id] = entry.size
            self.size += entry.size

    def _insert(self, entry: Entry, previous: str) -> None:
        order = list(self._entries.values())
        ids = list(self._entries)
        if previous != "root" and previous not in self._entries:
            raise WireError("invalid_value", f"There is no item '{previous}' to insert after.", "previous_item_id")
        at = 0 if previous == "root" else ids.index(previous) + 1
        order.insert(at, entry)
        self._entries = {each.id: each for each in order}
        self._weigh(entry.id)

    def get(self, item_id: str) -> Entry | None:
        return self._entries.get(item_id)

    def remove(self, item_id: str) -> bool:
        """Was it there?"""
        found = self._entries.pop(item_id, None) is not None
        self._weigh(item_id)
        return found

    def set(self, item_id: str, **changes: object) -> Entry | None:
        """Changes an item that is still there; returns it."""
        entry = self._entries.get(item_id)
        if entry is None:
            return None
        self._entries[item_id] = changed = replace(entry, **changes)  # type: ignore[arg-type]  # dataclasses.replace is untyped here
        self._weigh(item_id)
        self._trim()
        return changed

    def entries(self) -> tuple[Entry, ...]:
        """Those that a responder answers."""
        return tuple(entry for entry in self if entry.status != "in_progress")

    def context(self, instructions: str, entries: tuple[Entry, ...]) -> tuple[Turn, ...]:
        """What a responder answers: `entries` as they are by now."""
        head = (Turn("system", instructions),) if instructions else ()
        return head + tuple(turn for entry in entries for turn in self._now(entry).turns())

    @property
    def unwritten(self) -> bool:
        """Is there sound of the user's that nobody has written down?"""
        return any(
            entry.role == "user"
            and ((entry.ref is not None and not entry.transcript) or any(ref is not None for _, ref in entry.more))
            for entry in self.entries()
        )

    def awaits(self, entries: tuple[Entry, ...]) -> bool:
        """Is the text of one of them still to come?"""
        return any(self._now(entry).awaited for entry in entries if entry.id in self._entries)

    def _now(self, entry: Entry) -> Entry:
        """An entry that is no item, or no longer, is what it was."""
        return self._entries.get(entry.id, entry)


@dataclass(frozen=True, slots=True)
class Draft:
    """A client's item: its texts, and its audio in the session's format, in order."""

    id: str | None
    role: str
    parts: tuple[str | bytes, ...]

    def entry(self, new_id: str, give_audio: Callable[[bytes], int]) -> Entry:
        """`give_audio` gives audio to the responder and names it."""
        pieces: list[Piece] = []
        for part in self.parts:
            if isinstance(part, bytes):
                pieces.append(("", give_audio(part)))
            elif pieces:
                pieces[-1] = (pieces[-1][0] + part, pieces[-1][1])
            else:
                pieces.append((part, None))
        (text, ref), *more = pieces or [("", None)]
        return Entry(self.id or new_id, self.role, "completed", text, ref, more=tuple(more))


def draft_of(item: ItemDraft, param: str = "item") -> Draft:
    """Checks an item, called `param` in errors.  Raises WireError for content that its role cannot have."""
    if len(item.content) > CONTENTS or sum(len(each.text) for each in item.content if each.text is not UNSET) > TEXT:
        message = f"An item may have {CONTENTS} contents with {TEXT} characters of text in all."
        raise WireError("invalid_value", message, f"{param}.content")
    wanted = "output_text" if item.role == "assistant" else "input_text"
    parts: list[str | bytes] = []
    for index, part in enumerate(item.content):
        if part.type == "input_audio" and item.role == "user" and part.audio is not UNSET:
            if not part.audio:
                message = "There is no sound in this audio: leave the part out."
                raise WireError("invalid_value", message, f"{param}.content[{index}].audio")
            parts.append(part.audio)
        elif part.type in (wanted, "text") and part.text is not UNSET:
            parts.append(part.text)
        else:
            message = f"Content of a {item.role} item must be '{wanted}' with a `text` (got '{part.type}')."
            raise WireError("invalid_value", message, f"{param}.content[{index}].type")
    return Draft(None if item.id is UNSET else item.id, item.role, tuple(parts))
