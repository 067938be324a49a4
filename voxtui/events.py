"""Events that the client itself makes, beside the server's: about the link, the person and its own work.

Between steps 2 and 12.  Pure values: it is not known here who makes them and who shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.events import ServerEvent
from shared.latency import TurnMetrics


@dataclass(frozen=True, slots=True)
class Health:
    """How the link does: round trip (None: not yet measured), sound that the server has not yet acknowledged, and sound
    that no server will ever turn into text."""

    rtt_ms: int | None = None
    lag_ms: int = 0
    lost_ms: int = 0


@dataclass(frozen=True, slots=True)
class Floor:
    """How the person speaks.  `hands_free`: the server finds the turns; else a turn is what is said while `talking`.

    `answers`: whether turns are answered, where there is a responder.  `microphone`: what is listened to."""

    hands_free: bool = True
    talking: bool = False
    muted: bool = False
    answers: bool = True
    microphone: str = ""


@dataclass(frozen=True, slots=True)
class Connecting:
    """The client waits for its first link.  `progress`: what the daemon does before it is ready."""

    path: str
    progress: str = ""


@dataclass(frozen=True, slots=True)
class Connected:
    path: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    reason: str


@dataclass(frozen=True, slots=True)
class Unlinked:
    """The link is broken; another one is tried, for the n-th time."""

    reason: str
    tries: int


@dataclass(frozen=True, slots=True)
class Relinked:
    """The conversation goes on over another link, after so long and so many tries.  `lost_ms`: sound that was lost by
    it.  `fresh`: the server knew nothing of the session; what was not yet text has been sent to a new one."""

    down_ms: int
    tries: int
    lost_ms: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of one turn as far as they are known; `complete`: nothing more is expected."""

    key: str
    metrics: TurnMetrics
    complete: bool


@dataclass(frozen=True, slots=True)
class Remark:
    """The program has something to say."""

    text: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many packets of sound have been lost in all, since nobody took them in time."""

    packets: int


@dataclass(frozen=True, slots=True)
class Painted:
    """A delta is on the screen, so many ms after it was received."""

    render_ms: float


@dataclass(frozen=True, slots=True)
class Wiped:
    """The person wants an empty screen."""


LinkEvent = Connecting | Connected | Disconnected | Unlinked | Relinked | Health
LocalEvent = LinkEvent | Measured | Remark | Dropped | Painted | Floor | Wiped
Event = ServerEvent | LocalEvent
