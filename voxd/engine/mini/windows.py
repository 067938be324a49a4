"""The windows of an utterance's audio, as Voxtral Mini's encoder needs them.  Step 8.

Pure: sample positions and PCM; no tensor.  Audio is padded with silence to whole windows of 30 s.  The spectrogram of a
window reaches a little over its borders, into the neighbouring window, or at both ends of the audio into a mirror image
of it.  Values more than 8 (log10 of power) below the highest value of the whole audio are raised to that limit.  So a
window depends on the others in this one number, and is encoded again if a higher one turns up and it has values that
low.  It does not know when, or whether, anything is encoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from voxd.engine.mini.interface import BEFORE, BEHIND, LOG_RANGE, NONE_HIGHER, WINDOW


@dataclass(slots=True, eq=False)
class Window:
    """One window as it is, or will be, encoded; equal only to itself."""

    number: int  # unique in its stream; renewed with the embeddings
    index: int  # in its audio
    reach: tuple[int, bool]  # samples of the audio that it needs, and whether it is the last one
    higher: float = NONE_HIGHER  # the highest value of the other windows when it was encoded
    asked: bool = False  # given to the encoder
    found: tuple[float, float] | None = None  # its highest and lowest value; None: not encoded yet
    place: int | None = None  # of its embeddings on the device
    kept: object = None  # or in the host's memory

    def would_change(self, highest: float) -> bool:
        """Would it be encoded differently if this is the highest value of the audio?

        That may be lower than assumed: a tentative end cuts the audio, and a sudden cut can be louder than the speech
        that then follows."""
        assert self.found is not None
        own, lowest = self.found
        used = max(self.higher, own)
        return used != highest and lowest < max(used, highest) - LOG_RANGE


@dataclass(slots=True)
class WindowedAudio:
    """The windows of audio that begins somewhere in a stream, and may not have ended yet.  `number` gives new numbers
    to windows, `drop` is called with those that are not needed any more."""

    number: Callable[[], int]
    drop: Callable[[Window], None]
    windows: list[Window] = field(default_factory=list)
    length: int | None = None  # samples; None: it goes on

    def extend(self, length: int) -> None:
        """The audio goes on at least to this length; adds the windows that are over."""
        if self.length is None:
            full = max(0, (length - BEHIND) // WINDOW)
            self._cut([((index + 1) * WINDOW + BEHIND, False) for index in range(full)])

    def end(self, length: int) -> None:
        """The audio has ended after so many samples."""
        self.length = length
        count = max(1, -(-length // WINDOW))
        self._cut(
            [(min(length, (index + 1) * WINDOW + BEHIND), index == count - 1) for index in range(count)], exact=True
        )

    def go_on(self) -> None:
        """The audio goes on after all."""
        self.length = None

    @property
    def unasked(self) -> Window | None:
        """The next window to be encoded, with the highest value of the others set."""
        for window in self.windows:
            if not window.asked:
                window.higher = self._highest
                return window
        return None

    def settle(self) -> bool:
        """Whether all windows are encoded with the highest value of the whole audio; those that are not are renewed."""
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
    """Writes what the encoder needs of a window into `around`, int16 [SPAN].

    `read(begin, end)` gives samples of the audio, s16le, counted from its beginning."""
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
