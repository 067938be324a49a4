"""The windows of a clip, as Voxtral Mini's encoder hears them.  Pure: sample positions and PCM; no tensor.  Step 8.

A clip is padded with silence to whole windows of 30 s.  Its spectrogram reaches a little over each window's borders,
into the neighbouring window, or at the ends of the clip into a mirror image of it.  And it is cut off 8 (in log10 of
power) below the clip's highest value, wherever that is: so a window depends on the others in this one number, and one
that was encoded for another highest value is encoded again, if it has anything that low.  It does not know when, or
whether, anything is encoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from voxd.engine.mini.interface import BEFORE, BEHIND, NONE_HIGHER, WINDOW

RANGE = 8.0  # of a clip's values, in log10 of power


@dataclass(slots=True, eq=False)
class Window:
    """One window as it is, or will be, encoded; equal only to itself."""

    number: int  # in its stream; never used again for other embeddings
    index: int  # in its clip
    reach: tuple[int, bool]  # samples of the clip that it needs, and whether it is the last one
    higher: float = NONE_HIGHER  # the highest value elsewhere, as it was encoded
    asked: bool = False  # the encoder has been given it
    found: tuple[float, float] | None = None  # its highest and lowest value; None: not encoded yet
    place: int | None = None  # of its embeddings on the device
    kept: object = None  # or in the host's memory

    def would_change(self, highest: float) -> bool:
        """Would it be encoded otherwise if the clip's highest value is this?  It may be lower than was thought: where a
        clip ended for a while, its sudden end can be louder than all that follows in its place."""
        assert self.found is not None
        own, lowest = self.found
        used = max(self.higher, own)
        return used != highest and lowest < max(used, highest) - RANGE


@dataclass(slots=True)
class Clip:
    """The windows of audio that begins somewhere in a stream, and may not have ended yet.  `number` gives new numbers
    to windows, `drop` is called with those that are not needed any more."""

    number: Callable[[], int]
    drop: Callable[[Window], None]
    windows: list[Window] = field(default_factory=list)
    length: int | None = None  # samples; None: it goes on

    def extend(self, length: int) -> None:
        """It goes on at least so far: the windows that are over."""
        if self.length is None:
            full = max(0, (length - BEHIND) // WINDOW)
            self._cut([((index + 1) * WINDOW + BEHIND, False) for index in range(full)])

    def end(self, length: int) -> None:
        """It has ended after so many samples."""
        self.length = length
        count = max(1, -(-length // WINDOW))
        self._cut(
            [(min(length, (index + 1) * WINDOW + BEHIND), index == count - 1) for index in range(count)], exact=True
        )

    def go_on(self) -> None:
        """It had not."""
        self.length = None

    @property
    def unasked(self) -> Window | None:
        """The next one to be encoded.  Sets what it must know of the others."""
        for window in self.windows:
            if not window.asked:
                window.higher = self._highest
                return window
        return None

    def settle(self) -> bool:
        """Are all windows encoded as the whole clip wants it?  Those that are not are renewed."""
        if any(window.found is None for window in self.windows):
            return len(self.windows) == 1 and self.windows[0].asked  # alone, it depends on nothing else
        highest = self._highest
        stale = [window for window in self.windows if window.would_change(highest)]
        for window in stale:
            renewed = Window(self.number(), window.index, window.reach)
            renewed.higher = highest
            self.windows[window.index] = renewed
            self.drop(window)
        return not stale

    @property
    def _highest(self) -> float:
        return max((w.found[0] for w in self.windows if w.found is not None), default=NONE_HIGHER)

    def _cut(self, reaches: list[tuple[int, bool]], *, exact: bool = False) -> None:
        for index, reach in enumerate(reaches):
            if index == len(self.windows):
                self.windows.append(Window(self.number(), index, reach))
            elif self.windows[index].reach != reach:
                self.drop(self.windows[index])
                self.windows[index] = Window(self.number(), index, reach)
        if exact:
            for window in self.windows[len(reaches) :]:
                self.drop(window)
            del self.windows[len(reaches) :]


def write_samples(window: Window, read: Callable[[int, int], bytes], around: npt.NDArray[np.int16]) -> None:
    """Into `around`, [SPAN].  `read(begin, end)` gives the clip's samples, whose first is number 0."""
    begin = window.index * WINDOW
    low = max(0, begin - BEFORE)
    reach, last = window.reach
    heard = np.frombuffer(read(low, max(low, reach)), np.int16)
    at = BEFORE - (begin - low)
    around[:at] = 0
    around[at : at + heard.size] = heard
    around[at + heard.size :] = 0
    if window.index == 0:
        around[:BEFORE] = around[2 * BEFORE : BEFORE : -1]
    if last:
        border = BEFORE + WINDOW
        around[border:] = around[border - 2 : border - 2 - BEHIND : -1]
