"""Turns the frames of an RTP track into 16 kHz audio whose positions follow the sender's clock.  Step 3 of a packet's
path, by WebRTC.

Pure: arrays and numbers in, bytes out.  It does not know RTP packets, codecs, aiortc or sessions.

A lost packet leaves a gap between two timestamps.  Silence of the same length fills it, so that positions stay true.
A jump of the timestamps that is longer than the time that has passed means that the sender has started again; no
silence is put in for it.
"""

from __future__ import annotations

import numpy as np

from shared.audio import Int16, Resampler, float_to_pcm16

CLOCK = 48_000  # Hz: the RTP clock of Opus, and the rate that it is decoded at
FACTOR = 3  # from CLOCK to 16 kHz
SLACK = CLOCK  # a gap may be this much longer than the time since the last frame, which may have been late
DRIFT = 1.05  # a sender's clock may run this much faster than ours
BURST = 30 * CLOCK  # ticks that a link may hold back and then deliver at once; more is taken for a flood
AT_ONCE = 2 * CLOCK  # ticks that may come at once at the beginning


class RtpTrack:
    """`receive` the frames of one track in the order of their sequence numbers; it returns their audio at once."""

    def __init__(self) -> None:
        self._resampler = Resampler(CLOCK)
        self._next: int | None = None  # timestamp of the frame that is expected
        self._at_us = 0  # when the last frame came
        self._credit = AT_ONCE  # ticks that the sender may be ahead of time
        self.lost = 0  # ticks that were filled with silence

    def receive(self, timestamp: int, frame: Int16, now_us: int) -> bytes:
        """`timestamp`: of the frame's first sample, in ticks of 1/48000 s that do not wrap.  `frame`: int16 [n,
        channels] at 48 kHz.  Returns s16le at 16 kHz with the silence before it, or nothing if the sender floods."""
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
