"""Which pages of the device hold what of which conversation.  Pure: slots, pages and symbols; no tensor.  Step 7.

A `Sequence` is what a slot's positions hold, as symbols (`mini_prompt`): whatever is asked next, positions that begin
with the same symbols are not computed again, and the others are given up by counting back.  Keys and values of a
sequence that nobody uses are the first to go when pages run short; it starts at position 0 when it is needed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Symbols
from dataclasses import dataclass, field

from voxd.engine.gpu.batch import Places
from voxd.engine.mini.interface import PAGE
from voxd.engine.mini.prompt import shared

UNKNOWN = -(1 << 62)  # a symbol that the device has said and this process has not read yet


@dataclass(slots=True, eq=False)
class Sequence:
    """Positions on one device, or none."""

    held: list[int] = field(default_factory=list)  # one symbol per position that is computed or on its way
    slot: int | None = None
    pages: list[int] = field(default_factory=list)
    busy: bool = False  # somebody computes in it
    used: int = 0  # when it was last: of the memory's own clock

    def page(self, position: int) -> int:
        return self.pages[position // PAGE]


class Memory:
    """Slots and pages of all sequences."""

    def __init__(self, slots: Places, pages: Places) -> None:
        self._slots, self._pages = slots, pages
        self._resident: dict[int, Sequence] = {}
        self._clock = 0

    @property
    def busy(self) -> int:
        """How many sequences are computed in."""
        return sum(each.busy for each in self._resident.values())

    def begin(self, sequence: Sequence, prompt: Symbols[int]) -> int:
        """The sequence is to hold `prompt`: counts back to what both begin with, the last position always left to
        compute, and returns that."""
        same = min(shared(sequence.held, prompt), len(prompt) - 1)
        self.back_to(sequence, same)
        sequence.busy = True
        return same

    def back_to(self, sequence: Sequence, count: int) -> None:
        """The first `count` positions stay."""
        del sequence.held[count:]
        self._give(sequence, -(-count // PAGE))

    def reserve(self, sequence: Sequence, count: int) -> bool:
        """Sees to it that positions before `count` have pages; idle sequences give theirs.  False: there are not
        enough, and nothing has changed for this one."""
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
        """Nobody computes in it any more; it is kept as long as there is room."""
        sequence.busy = False

    def free(self, sequence: Sequence) -> None:
        """It holds nothing any more."""
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
