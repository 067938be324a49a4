"""Which KV pages of the device hold which conversation.  Step 7.

Pure: slots, pages and symbols; no tensor.  A `Sequence` has the symbols (`prompt`) of its slot's positions and its
block table: a new prompt that begins with the same symbols is not computed again that far, and later positions are
rolled back by counting back.  Keys and values of idle sequences are the first to go when pages run short; such a
sequence starts at position 0 when it is needed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Symbols
from dataclasses import dataclass, field

from voxd.engine.gpu.batch import Places
from voxd.engine.mini.interface import PAGE
from voxd.engine.mini.prompt import shared

UNKNOWN = -(1 << 62)  # the symbol of a sampled token that this process has not read yet


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence: its symbols, and its slot and pages while it has memory on the device."""

    held: list[int] = field(default_factory=list)  # one symbol per position that is computed or on its way
    slot: int | None = None
    pages: list[int] = field(default_factory=list)  # the block table
    busy: bool = False  # a request computes in it
    used: int = 0  # when it was last used, by the memory's own clock

    def page(self, position: int) -> int:
        return self.pages[position // PAGE]


class Memory:
    """Gives slots and pages to sequences and takes them back."""

    def __init__(self, slots: Places, pages: Places) -> None:
        self._slots, self._pages = slots, pages
        self._resident: dict[int, Sequence] = {}
        self._clock = 0

    @property
    def busy(self) -> int:
        """How many sequences have a request that computes in them."""
        return sum(each.busy for each in self._resident.values())

    def begin(self, sequence: Sequence, prompt: Symbols[int]) -> int:
        """Prepares the sequence for `prompt`: rolls it back to their common beginning, and returns its length.

        The last position of the prompt is always left to be computed."""
        same = min(shared(sequence.held, prompt), len(prompt) - 1)
        self.back_to(sequence, same)
        sequence.busy = True
        return same

    def back_to(self, sequence: Sequence, count: int) -> None:
        """Rolls the sequence back to its first `count` positions."""
        del sequence.held[count:]
        self._give(sequence, -(-count // PAGE))

    def reserve(self, sequence: Sequence, count: int) -> bool:
        """Sees to it that positions before `count` have pages; idle sequences give theirs up.

        False: there are not enough, and this sequence is unchanged."""
        self._clock += 1
        sequence.used = self._clock
        missing = -(-count // PAGE) - len(sequence.pages)
        idle = self._idle(sequence)
        while missing > self._pages.free or (sequence.slot is None and not self._slots.free):
            longest_ago = next(idle, None)
            if longest_ago is None:
                return False
            self.free(longest_ago)
        if sequence.slot is None:
            sequence.slot = self._slots.take()
            self._resident[sequence.slot] = sequence
        sequence.pages += [self._pages.take() for _ in range(max(0, missing))]
        return True

    def rest(self, sequence: Sequence) -> None:
        """Told that no request computes in a sequence any more; it is kept as long as there is room."""
        sequence.busy = False

    def free(self, sequence: Sequence) -> None:
        """Takes all memory of a sequence back."""
        sequence.held.clear()
        self._give(sequence, 0)
        if sequence.slot is not None:
            del self._resident[sequence.slot]
            self._slots.give(sequence.slot)
            sequence.slot = None

    def _give(self, sequence: Sequence, keep: int) -> None:
        for page in sequence.pages[keep:]:
            self._pages.give(page)
        del sequence.pages[keep:]

    def _idle(self, but: Sequence) -> Iterator[Sequence]:
        idle = [each for each in self._resident.values() if not each.busy and each is not but]
        return iter(sorted(idle, key=lambda each: each.used))
