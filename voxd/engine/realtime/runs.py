"""One sequence of Voxtral Realtime as positions and samples.  Step 8.

Pure: it knows no tensor and no clock.

A *run* hears the audio of its stream from sample `start` on, with silence before it, as transcribing a clip that begins
there would.  Position p hears audio up to the end of frame p and gives the next token:

    position   0 ........ left - 1 | left ...... first - 1 | first ................................ total - 1
    hears      silence             | audio                 | audio ... until `stop`, then silence
    is fed     the same everywhere | PAD                   | PAD, then the token before it
    gives                          | nothing that counts   | out[0], out[1], ... about audio `delay` frames ago

The first `left - 1` positions are a copy (`model`).  Where the audio ends (`end`), silence follows for the
delay and `tail` frames more, as fast as the device runs.  If it did not end there (`go_on`), the tokens about silence
are rolled back, which is done by counting back.  An end-of-text token ends
nothing; it is fed back like any other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

FRAME = 1280  # samples: 80 ms
LOOK_AHEAD = 40  # samples behind the end of a frame that it hears too
SPAN = 2000  # samples that one position is computed from
LAST_TOKEN = -1  # as a token: the one last chosen for this slot, which this process may not have read yet


@dataclass(frozen=True, slots=True)
class Form:
    """How the audio of a stream is framed: two token ids, and three lengths in frames."""

    bos: int
    pad: int
    left: int
    tail: int
    delay: int

    @property
    def first(self) -> int:
        """The first position whose word counts."""
        return self.left + self.delay


class Run:
    """Counts the positions given to the device (`n`) and holds the token ids that came back (`out`)."""

    def __init__(self, start: int, form: Form, *, again: bool = False) -> None:
        self.start, self.form = start, form
        self.again = again  # it replaces a run that was stuck
        self.n = form.left - 1
        self.out: list[int] = []
        self.stop: int | None = None
        self.slot: int | None = None
        self.since_us: int | None = None  # since when its next position has waited for a batch
        self._flying: deque[tuple[int, bool]] = deque()  # positions whose tokens are to come, and whether they count
        self._texts: list[int] = []  # which of `out` are more than blanks

    # ── what it needs ───────────────────────────────────────────────────────────────────────────────────────────────

    def reach(self, position: int) -> int:
        """The sample up to which audio must be there to compute this position."""
        return self.start + (position + 1 - self.form.left) * FRAME + LOOK_AHEAD

    def about(self, index: int) -> int:
        """The sample up to which out[index] covers the speech: a word appears `delay` frames after its end."""
        return self.start + (index + 1) * FRAME

    def ready(self, live: int, there: int) -> bool:
        """Can the next position be computed?  The audio is there up to sample `there`; one that has not ended goes no
        further than `live`."""
        reach = self.reach(self.n)
        if self.stop is None:
            return reach <= min(live, there)
        return self.n < self._total and min(reach, self.stop) <= there

    @property
    def span(self) -> int:
        """The first of the SPAN samples of the next position."""
        return self.reach(self.n) - SPAN

    @property
    def token(self) -> int:
        """The token that the next position is fed."""
        if self.n <= self.form.first:
            return self.form.pad if self.n else self.form.bos
        index = self.n - 1 - self.form.first
        return self.out[index] if index < len(self.out) else LAST_TOKEN

    def take(self) -> None:
        """The next position is given to the device; `hear` brings its token, in order."""
        self._flying.append((self.n, True))
        self.n += 1

    def hear(self, token: int, *, text: bool) -> None:
        """Takes the token of the oldest position in flight.  `text`: it is more than a blank."""
        position, counts = self._flying.popleft()
        if counts and position >= self.form.first:
            if text:
                self._texts.append(len(self.out))
            self.out.append(token)

    # ── where the audio ends ────────────────────────────────────────────────────────────────────────────────────────

    def end(self, stop: int) -> None:
        """The audio ends at sample `stop`: silence from there on, until `finished`."""
        if stop != self.stop:
            self.go_on()
            self.stop = stop
            self._back_to(self._kept(stop))

    def go_on(self) -> None:
        """The audio goes on after all, as if `end` had not been called."""
        if self.stop is not None:
            self._back_to(self._kept(self.stop))
            self.stop = None

    @property
    def finished(self) -> bool:
        return self.stop is not None and len(self.out) == max(0, self._total - self.form.first)

    @property
    def blanks(self) -> int:
        """How many of the latest tokens were blanks."""
        return len(self.out) - 1 - (self._texts[-1] if self._texts else -1)

    def certain(self, released: int) -> int:
        """How many of `out` depend only on audio before sample `released`."""
        positions = (released - LOOK_AHEAD - self.start) // FRAME + self.form.left
        return min(len(self.out), max(0, positions - self.form.first))

    @property
    def _total(self) -> int:
        assert self.stop is not None
        if self.stop <= self.start:  # no audio at all
            return 0
        return self.form.first + -(-(self.stop - self.start) // FRAME) + self.form.tail

    def _kept(self, stop: int) -> int:
        """How many positions depend only on audio before sample `stop`."""
        return max(self.form.left - 1, (stop - LOOK_AHEAD - self.start) // FRAME + self.form.left)

    def _back_to(self, positions: int) -> None:
        if positions < self.n:
            self.n = positions
            del self.out[max(0, positions - self.form.first) :]
            self._flying = deque((p, counts and p < positions) for p, counts in self._flying)
            while self._texts and self._texts[-1] >= len(self.out):
                self._texts.pop()
