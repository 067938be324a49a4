"""What the VAD said about one stream: is there voice, is this a pause, where may audio be cut.  Step 8.

This is the audio half of a re-decoding engine.  Pure: probabilities in, sample positions out.  It does not know
streams, text or turns; the thresholds here serve decoding, turn-taking has its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.audio import VAD_FRAME, to_samples

VOICED = 0.5  # from this probability on somebody speaks
SILENT = 0.35  # below it nobody speaks; between the two nothing changes
_PAUSE = 6  # frames below SILENT (192 ms) that make a pause worth cutting in


class Voice:
    """Probabilities of consecutive frames from sample `start` on.

    Bound: the owner trims what it no longer decodes (two bytes of audio in 512 are remembered here as one float)."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._frames: list[float] = []

    @property
    def end(self) -> int:
        """Sample up to which the stream was heard."""
        return self._start + len(self._frames) * VAD_FRAME

    def append(self, start: int, probabilities: Iterable[float]) -> None:
        if not self._frames:
            self._start = start
        self._frames += probabilities

    def trim(self, before: int) -> None:
        """Forgets frames that end before sample `before`."""
        gone = min(max(0, (before - self._start) // VAD_FRAME), len(self._frames))
        del self._frames[:gone]
        self._start += gone * VAD_FRAME

    def _index(self, sample: int) -> int:
        return max(0, (sample - self._start) // VAD_FRAME)

    def _voiced(self, start: int, end: int) -> list[int]:
        first = self._index(start)
        last = self._index(end + VAD_FRAME - 1)
        return [first + i for i, p in enumerate(self._frames[first:last]) if p >= VOICED]

    def first_voiced(self, start: int, end: int) -> int | None:
        """Where the first voiced frame of [start, end) begins."""
        found = self._voiced(start, end)
        return max(start, self._start + found[0] * VAD_FRAME) if found else None

    def last_voiced(self, start: int, end: int) -> int | None:
        """Where the last voiced frame of [start, end) ends."""
        found = self._voiced(start, end)
        return min(end, self._start + (found[-1] + 1) * VAD_FRAME) if found else None

    def silence(self) -> int:
        """Samples since the last frame that was not silent."""
        count = 0
        for probability in reversed(self._frames):
            if probability >= SILENT:
                break
            count += 1
        return count * VAD_FRAME

    def cut(self, earliest: int, latest: int, *, pause_only: bool) -> int | None:
        """Where to end a segment inside [earliest, latest): the middle of the longest pause, the later of equals.
        Without a pause: the frame in the quietest neighbourhood; None if only a pause will do or nothing was heard."""
        first, last = self._index(earliest), self._index(latest)
        frames = self._frames[first:last]
        best = run = at = 0
        for i, probability in enumerate(frames):
            run = run + 1 if probability < SILENT else 0
            if run >= max(best, _PAUSE):
                best, at = run, i + 1 - run // 2
        if not best and (pause_only or len(frames) < 3):
            return None
        if not best:
            around = [sum(frames[i - 1 : i + 2]) for i in range(1, len(frames) - 1)]
            at = 1 + min(range(len(around)), key=lambda i: around[i])
        return self._start + (first + at) * VAD_FRAME + (0 if best else to_samples(16))
