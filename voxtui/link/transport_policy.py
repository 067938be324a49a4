"""Judges which way is better for the sound: a WebSocket, or UDP beside it.  Beside step 2 of a packet's path.

Pure: it is fed with how late sound was and how many packets were lost, and reads no clock: its measure of time is the
sound itself, of which an acknowledgement stands for 200 ms.  It does not know how either way works, nor who changes it.

Lags are told by two clocks (sent here, arrived at voxd), so only their differences mean anything, and those only within
minutes: clocks drift.  What is compared over a longer time is how far p95 lies behind the median.

    by WebSocket   p95 over STALL_MS behind the median in WINDOW, as where TCP repeats what was lost: try UDP
    tried          TRIAL later: kept if p95 is GAIN_MS better than it was, and less than FEW of the packets were lost
    kept           left again when p95 lies further behind the median than it did by WebSocket
    tried or kept  left at once when more than MANY are lost, or nothing arrives
    left           REST before UDP is tried again, twice as long after each time
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from shared.latency import percentile

# Counted in acknowledgements, five a second.
WINDOW = 150
TRIAL = 50
MIXED = 5  # the first ones after a change may be of the way before
REST = 1500
STALL_MS = 40.0
GAIN_MS = 20.0
# Counted in packets of 20 ms.
LOOK_BACK = 500  # losses are counted over the latest ones, and are not known before so many were sent
GONE = 150  # packets sent without any acknowledgement
FEW, MANY = 0.02, 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement of UDP.  `keep`: it is the better way.  `why`: the figures, as the end of a sentence."""

    keep: bool
    why: str


class _Phase(Enum):
    SOCKET = "socket"
    TRIED = "tried"
    KEPT = "kept"


class Judge:
    """Judges the ways of one session: fed by `heard` and `counted`, asked for `stalls` on the WebSocket, for a
    `verdict` on UDP."""

    def __init__(self) -> None:
        self._phase = _Phase.SOCKET
        self._lags: deque[float] = deque(maxlen=WINDOW)
        self._mixed = 0  # acknowledgements still to be passed over
        self._rest, self._next_rest = 0, REST
        self._p95 = self._spread = 0.0  # spread of the WebSocket, when it was left
        self._counts: deque[tuple[int, int]] = deque([(0, 0)])
        self._acknowledged = 0  # packets that had been sent by UDP when something was last acknowledged

    def heard(self, lag_ms: float) -> None:
        """Takes one acknowledgement: how late its newest sample was on the way in use, from any fixed zero."""
        self._acknowledged = self._counts[-1][0]
        if self._mixed:
            self._mixed -= 1
            return
        self._rest = max(0, self._rest - 1)
        self._lags.append(lag_ms)

    def counted(self, sent: int, lost: int) -> None:
        """Takes how many packets were sent by UDP since it began, and how many of them are known to be lost."""
        self._counts.append((sent, lost))
        while len(self._counts) > 2 and sent - self._counts[1][0] >= LOOK_BACK:
            self._counts.popleft()

    def forget(self) -> None:
        """Forgets the lags of the link before: sound that was held back while there was none says nothing of the
        way."""
        self._lags.clear()
        self._mixed = MIXED

    def began(self) -> None:
        """Told that sound goes by UDP from now on."""
        if self._lags:
            self._p95, self._spread = percentile(self._lags, 95), self._behind()
        self._changed(_Phase.TRIED)

    def ended(self) -> None:
        """Told that sound goes by WebSocket again."""
        self._rest, self._next_rest = self._next_rest, 2 * self._next_rest
        self._changed(_Phase.SOCKET)

    def stalls(self) -> float | None:
        """How many ms p95 lies behind the median on the WebSocket, if that is a reason to try UDP now."""
        if len(self._lags) < WINDOW or self._rest or self._behind() <= STALL_MS:
            return None
        return self._behind()

    @property
    def loss(self) -> float | None:
        """The share of the latest packets that UDP has lost; None: too few to tell."""
        (sent, lost), (sent_now, lost_now) = self._counts[0], self._counts[-1]
        if sent_now - sent < LOOK_BACK:
            return None
        return min(1.0, max(0, lost_now - lost) / (sent_now - sent))

    @property
    def rest_min(self) -> int:
        """Minutes before UDP is tried again, at the earliest, if it is left now."""
        return self._next_rest // (5 * 60)

    def verdict(self) -> Verdict | None:
        """A verdict when there is something to decide: once that UDP is kept, or that it is to be left."""
        if self._counts[-1][0] - self._acknowledged > GONE:
            return Verdict(keep=False, why=f"nothing is acknowledged by WebRTC for {GONE // 50} s.")
        loss = self.loss
        if loss is not None and loss > MANY:
            return Verdict(keep=False, why=f"WebRTC loses {loss:.1%} of it.")
        if self._phase is _Phase.TRIED:
            return self._tried(loss)
        if len(self._lags) == WINDOW and self._behind() > max(self._spread, STALL_MS):
            behind, was = f"{self._behind():.0f}", f"{self._spread:.0f}"
            why = f"by WebRTC p95 is {behind} ms behind the median, by WebSocket it was {was}."
            return Verdict(keep=False, why=why)
        return None

    def _tried(self, loss: float | None) -> Verdict | None:
        if len(self._lags) < TRIAL or loss is None:
            return None
        gain = self._p95 - percentile(self._lags, 95)
        if loss >= FEW:
            return Verdict(keep=False, why=f"WebRTC loses {loss:.1%} of it.")
        if gain < GAIN_MS:
            how = f"{gain:.0f} ms sooner" if gain >= 1 else "no sooner" if gain > -1 else f"{-gain:.0f} ms later"
            return Verdict(
                keep=False, why=f"by WebRTC it comes {how} at p95; {GAIN_MS:.0f} ms would be worth its losses."
            )
        self._phase = _Phase.KEPT
        return Verdict(keep=True, why=f"{gain:.0f} ms sooner at p95, {loss:.1%} of it lost.")

    def _behind(self) -> float:
        return percentile(self._lags, 95) - percentile(self._lags, 50)

    def _changed(self, phase: _Phase) -> None:
        self._phase, self._mixed, self._acknowledged = phase, MIXED, 0
        self._lags.clear()
        self._counts = deque([(0, 0)])
