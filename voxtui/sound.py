"""By which way sound goes, chosen and explained: a WebSocket, or UDP beside it.  Beside step 2 of a frame's path.

It knows what speaks for which way (docs/TRANSPORTS.md has the figures) and when to try again; not how either works.
Text stays on the WebSocket: TCP brings all of it, in order, and sooner than a data channel does once packets are lost.

    ws       the WebSocket
    webrtc   UDP as soon as it can be had; the WebSocket until then, and whenever it breaks
    auto     the WebSocket, until its round trips tell of a network that loses packets: then as `webrtc`

Through ssh there is no UDP, and a WebSocket is the fastest that there is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from shared.latency import percentile
from voxtui.leg import Leg, NoLeg
from voxtui.target import Address

Transport = Literal["ws", "webrtc", "auto"]
TRIES = 3  # in a row that end without a leg; then the WebSocket stays
AGAIN_S = 2.0  # between two tries
LOOK_S = 2.0  # between two looks at round trips: as often as there is a new one
LOOKS = 15  # that are judged together: 30 s
STALL_MS = 60.0  # p95 above p50: TCP repeats what was lost, and all behind it waits
SSH = "ssh carries no UDP: sound goes by WebSocket, the fastest way through ssh."
BY_SOCKET = "Sound goes by WebSocket: faster than WebRTC unless the network loses packets; that is being watched."
BY_UDP = "Sound goes by WebRTC (UDP), text by WebSocket."


@dataclass(frozen=True, slots=True)
class Link:
    """The WebSocket, as much of it as matters here."""

    ready: Callable[[], Awaitable[None]]  # until there is a session that may have a leg
    address: Callable[[], Awaitable[Address]]
    token: Callable[[], str | None]
    round_trip_ms: Callable[[], int | None]
    resend: Callable[[], None]  # what voxd has not got goes out by WebSocket


class Stalls:
    """Do round trips tell of lost packets?"""

    def __init__(self) -> None:
        self._seen: deque[float] = deque(maxlen=LOOKS)

    def look(self, round_trip_ms: int | None) -> bool:
        if round_trip_ms is not None:
            self._seen.append(round_trip_ms)
        if len(self._seen) < LOOKS:
            return False
        return percentile(self._seen, 95) - percentile(self._seen, 50) > STALL_MS


class Sound:
    """`leg`: where sound goes now; None: the WebSocket."""

    def __init__(self, wanted: Transport, *, udp: bool, tell: Callable[[str], None]) -> None:
        self.leg: Leg | None = None
        self._wanted, self._udp, self._tell = wanted, udp, tell

    async def run(self, link: Link) -> None:
        """As long as there is anything to decide."""
        if self._wanted == "ws":
            return
        if not self._udp:
            self._tell(SSH)
            return
        if self._wanted == "auto":
            self._tell(BY_SOCKET)
            await self._stalled(link)
        tries = 0
        while tries < TRIES:
            await link.ready()
            why = await self._by_udp(link)
            tries = 0 if why is None else tries + 1
            if why is not None and (why.final or tries == TRIES):
                self._tell(f"No WebRTC: {why} Sound goes by WebSocket.")
                return
            await asyncio.sleep(AGAIN_S)

    async def _stalled(self, link: Link) -> None:
        """Pings take their time whether or not anybody looks: there is nothing to wait for but the clock."""
        stalls = Stalls()
        while True:
            await asyncio.sleep(LOOK_S)
            if stalls.look(link.round_trip_ms()):
                break
        self._tell("The network loses packets, and what TCP repeats comes late: trying WebRTC.")

    async def _by_udp(self, link: Link) -> NoLeg | None:
        """Until it is over; or why it never began."""
        token = link.token()
        if token is None:
            return NoLeg("this voxd gives no token for the session.", final=True)
        try:
            leg = await Leg.open(await link.address(), token)
        except NoLeg as why:
            return why
        try:
            self.leg = leg
            self._tell(BY_UDP)
            await leg.over.wait()
        finally:
            self.leg = None
            link.resend()
            await leg.close()
        self._tell("WebRTC has ended: sound goes by WebSocket.")
        return None
