"""The items of a conversation, in order.  Step 10.

Pure.  It knows items and their order; not where they come from, nor who is told about them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import msgspec
from msgspec import UNSET

from shared.events import AnyItem, Content, Item, ItemStatus, WireError
from voxd.messages import Turn

MAX_ITEMS = 1000
MAX_BYTES = 16 << 20  # of memory, of all items
ENTRY = 600  # bytes of memory that an item takes beside its texts, about
GONE = 1000  # ids that are remembered of items that are not, or no longer, in the conversation
ROOT = "root"  # the place in front of all items
Piece = tuple[str, int | None]  # a text, behind the audio of a ref if there is one


def bytes_of(text: str) -> int:
    """Bytes that a text takes in memory: as characters, and as UTF-8 once it has been encoded."""
    return sys.getsizeof(text) + (0 if text.isascii() else len(text.encode()))


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One item as the session keeps it.  `ref`: the utterance whose audio it is, or the response that said it;
    `transcript`: None until known; `awaited`: it will be known, or fail; `more`: further pieces of a client's item;
    `shown`: a client's own item, which is told as it was given."""

    id: str
    role: str
    status: ItemStatus
    text: str = ""
    ref: int | None = None
    transcript: str | None = None
    awaited: bool = False
    more: tuple[Piece, ...] = ()
    shown: AnyItem | None = None

    def item(self) -> AnyItem:
        """The item as clients see it; audio is never included."""
        if self.shown is not None:
            return self.shown
        if self.role == "assistant":
            content = Content("output_text", text=self.text)
        else:
            content = Content("input_audio", transcript=self.transcript)
        return Item(self.id, self.role, (content,), self.status)  # type: ignore[arg-type]  # one of two

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        texts = (self.text, self.transcript or "", *(text for text, _ in self.more))
        return ENTRY + 100 * len(self.more) + sum(map(bytes_of, texts)) + self._shown_size

    @property
    def _shown_size(self) -> int:
        """Bytes of `shown` beside the texts that it shares; objects take some three times their JSON."""
        if isinstance(self.shown, Item):
            images = (each.image_url for each in self.shown.content)
            return 200 * len(self.shown.content) + sum(len(image) for image in images if image is not UNSET)
        return 0 if self.shown is None else 3 * len(msgspec.json.encode(self.shown))

    def turns(self) -> tuple[Turn, ...]:
        """The item as a responder sees it: a turn for each piece that it can read or hear."""
        if not self.text and self.ref is None and not self.more and self.shown is not None:
            return ()
        first = Turn(self.role, self.text, self.ref, self.transcript or "")  # type: ignore[arg-type]
        return first, *(Turn(self.role, text, ref, continues=True) for text, ref in self.more)  # type: ignore[arg-type]


class Conversation:
    """Bounds: MAX_ITEMS and MAX_BYTES; at a bound the oldest items go (`truncation: auto` of the API).

    An item may be put after one that was refused, deleted or left out at the bound: it then follows what that one
    followed.  A client sends a whole history at once, each item after the last, and one that is missing must not cost
    all that follow it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._gone: dict[str, str] = {}  # id -> the id that it followed, or ROOT
        self._sizes: dict[str, int] = {}
        self.size = 0  # bytes, about

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def new_id(self, make: Callable[[str], str]) -> str:
        """An id for an item to come, other than those that a client may have guessed and used."""
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
            previous = self._place(previous)
            self._insert(entry, previous)
        self._gone.pop(entry.id, None)
        self._trim()
        return previous if previous in self._entries else None

    def _trim(self) -> None:
        """Removes the oldest items above the bounds.  The newest stays; its size is bounded elsewhere."""
        while len(self._entries) > MAX_ITEMS or (self.size > MAX_BYTES and len(self._entries) > 1):
            self.remove(next(iter(self._entries)))

    def _weigh(self, item_id: str) -> None:
        """Counts the size of an item that has come, changed or gone."""
        entry = self._entries.get(item_id)
        self.size -= self._sizes.pop(item_id, 0)
        if entry is not None:
            self._sizes[item_id] = entry.size
            self.size += entry.size

    def _place(self, wanted: str) -> str:
        """The id that an item after `wanted` really follows: an item that is there, or ROOT."""
        found, seen = wanted, 0
        while found in self._gone and found not in self._entries and seen <= GONE:
            found, seen = self._gone[found], seen + 1
        if found != ROOT and found not in self._entries:
            raise WireError("invalid_value", f"There is no item '{wanted[:80]}' to insert after.", "previous_item_id")
        return found

    def _insert(self, entry: Entry, previous: str) -> None:
        order = list(self._entries.values())
        at = 0 if previous == ROOT else list(self._entries).index(previous) + 1
        order.insert(at, entry)
        self._entries = {each.id: each for each in order}
        self._weigh(entry.id)

    def skip(self, item_id: str, previous: str | None) -> None:
        """Remembers the place of an item that was refused: after item `previous` (None: at the end)."""
        if item_id not in self._entries:
            self._forget(item_id, (self.last_id or ROOT) if previous is None else previous)

    def _forget(self, item_id: str, previous: str) -> None:
        self._gone[item_id] = previous
        while len(self._gone) > GONE:
            del self._gone[next(iter(self._gone))]

    def get(self, item_id: str) -> Entry | None:
        return self._entries.get(item_id)

    def remove(self, item_id: str) -> bool:
        """Removes an item; returns whether it was there."""
        if item_id not in self._entries:
            return False
        ids = list(self._entries)
        at = ids.index(item_id)
        self._forget(item_id, ids[at - 1] if at else ROOT)
        del self._entries[item_id]
        self._weigh(item_id)
        return True

    def set(self, item_id: str, **changes: object) -> Entry | None:
        """Changes an item that is still there; returns it."""
        entry = self._entries.get(item_id)
        if entry is None:
            return None
        self._entries[item_id] = changed = msgspec.structs.replace(entry, **changes)
        self._weigh(item_id)
        self._trim()
        return changed

    def entries(self) -> tuple[Entry, ...]:
        """The items that a responder answers: all but those in progress."""
        return tuple(entry for entry in self if entry.status != "in_progress")

    def context(self, instructions: str, entries: tuple[Entry, ...]) -> tuple[Turn, ...]:
        """The turns that a responder answers: `entries` in their present state, after the instructions."""
        head = (Turn("system", instructions),) if instructions else ()
        return head + tuple(turn for entry in entries for turn in self._now(entry).turns())

    @property
    def unwritten(self) -> bool:
        """Whether there is audio of the user without a transcript."""
        return any(
            entry.role == "user"
            and ((entry.ref is not None and not entry.transcript) or any(ref is not None for _, ref in entry.more))
            for entry in self.entries()
        )

    def awaits(self, entries: tuple[Entry, ...]) -> bool:
        """Whether the transcript of one of them is still to come."""
        return any(self._now(entry).awaited for entry in entries if entry.id in self._entries)

    def _now(self, entry: Entry) -> Entry:
        """The present state of an entry; its last known state if it is not in the conversation (any more)."""
        return self._entries.get(entry.id, entry)
