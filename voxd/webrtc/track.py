"""The frames of an RTP track -> 16 kHz audio whose count of samples follows the sender's clock.  Before step 4 of a
frame's path, by WebRTC.

Pure: arrays and numbers in, bytes out.  It does not know RTP packets, codecs, aiortc or sessions.

A packet that is lost leaves a hole between two timestamps; silence of that length stands for it, so positions stay
true.  A timestamp that no passing of time explains is a sender that has begun anew: no silence stands for that.
"""

from __future__ import annotations

import numpy as np

from shared.audio import Int16, Resampler, float_to_pcm16

CLOCK = 48_000  # Hz: the RTP clock of Opus, and the rate that it is decoded at
FACTOR = 3  # to 16 kHz
SLACK = CLOCK  # a gap may be longer than the time since the last frame, for that one may have been late
DRIFT = 1.05  # a sender's clock may run so much faster
BURST = 30 * CLOCK  # that a link may hold back and then deliver at once; what is more than that is a flood
AT_ONCE = 2 * CLOCK  # of it, at the beginning


class Track:
    """`receive` the frames of one track in the order of their numbers; what it returns is to be heard at once."""

    def __init__(self) -> None:
        self._resampler = Resampler(CLOCK)
        self._next: int | None = None  # timestamp of the frame that is expected
        self._at_us = 0  # when the last one came
        self._credit = AT_ONCE  # ticks that the sender may be ahead
        self.lost = 0  # ticks that silence stands for

    def receive(self, timestamp: int, frame: Int16, now_us: int) -> bytes:
        """`timestamp`: of its first sample, in ticks of 1/48000 s that do not wrap.  `frame`: int16 [n, channels] at
        48 kHz.  Returns s16le at 16 kHz, with the silence before it; nothing of a sender that floods."""
        expected, passed = self._next, (now_us - self._at_us) * CLOCK // 1_000_000
        if expected is None:
            expected, passed = timestamp, 0
        gap = timestamp - expected
        if not 0 <= gap <= passed + SLACK:
            gap = 0
        credit = min(self._credit + int(passed * DRIFT), BURST)
        self._at_us = now_us
        if gap + len(frame) > credit:
            self._credit, self._next = credit, expected
            return b""
        self._credit = credit - gap - len(frame)
        self._next = timestamp + len(frame)
        self.lost += gap
        mono = frame.astype(np.float32).mean(axis=1) / np.float32(32768)
        return float_to_pcm16(self._resampler.push(np.concatenate((np.zeros(gap, np.float32), mono))))
