"""Chooses the way of sound, a WebSocket or UDP beside it, and says why.  Beside step 2 of a packet's path.

It knows when a way is opened, left and tried again, and says so; not how either works, nor which is better: that is
`voxtui.link.transport_policy`.  Text stays on the WebSocket: TCP brings all of it, in order, and sooner than a data
channel does once packets are lost.

    ws       the WebSocket
    webrtc   UDP as soon as it can be had; the WebSocket until then, and whenever it breaks
    auto     the WebSocket; UDP where that brings sound sooner and loses little of it (docs/TRANSPORTS.md)

Through ssh there is no UDP, and a WebSocket is the fastest that there is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from voxtui.link.target import Address
from voxtui.link.transport_policy import MANY, Judge
from voxtui.link.webrtc import Leg, NoLeg

Transport = Literal["ws", "webrtc", "auto"]
TRIES = 3  # tries in a row that end without a leg; then the WebSocket stays
AGAIN_S = 2.0  # between two tries
LOOK_S = 1.0  # between two looks at the figures
SSH = "ssh carries no UDP: sound goes by WebSocket, the fastest way through ssh."
BY_SOCKET = "Sound goes by WebSocket: faster than WebRTC unless the network loses packets; that is being watched."
BY_UDP = "Sound goes by WebRTC (UDP), text by WebSocket."
ENDED = "WebRTC has ended: sound goes by WebSocket."


@dataclass(frozen=True, slots=True)
class WebSocketView:
    """What matters here of the WebSocket."""

    ready: Callable[[], Awaitable[None]]  # until there is a session that may have a leg
    address: Callable[[], Awaitable[Address]]
    token: Callable[[], str | None]
    resend: Callable[[], None]  # what voxd has not got goes out by WebSocket


class Sound:
    """The way of a session's sound.  `leg`: UDP while that is in use, None for the WebSocket.  `judge` is to be told
    how late sound arrives."""

    def __init__(self, wanted: Transport, *, udp: bool, tell: Callable[[str], None]) -> None:
        self.leg: Leg | None = None
        self.judge = Judge()
        self._wanted, self._udp, self._tell = wanted, udp, tell

    async def run(self, link: WebSocketView) -> None:
        """Chooses for as long as there is anything to decide."""
        if self._wanted == "ws":
            return
        if not self._udp:
            self._tell(SSH)
            return
        if self._wanted == "auto":
            self._tell(BY_SOCKET)
        tries = 0
        while tries < TRIES:
            if self._wanted == "auto":
                await self._stalled()
            await link.ready()
            why = await self._by_udp(link)
            tries = 0 if why is None else tries + 1
            if why is not None and (why.final or tries == TRIES):
                self._tell(f"No WebRTC: {why} Sound goes by WebSocket.")
                return
            await asyncio.sleep(AGAIN_S)

    async def _stalled(self) -> None:
        """Waits until sound stalls on the WebSocket, looking by the clock: acknowledgements wake nobody."""
        while True:
            await asyncio.sleep(LOOK_S)
            if (behind_ms := self.judge.stalls()) is not None:
                break
        late = f"Sound by WebSocket comes late at times (p95 is {behind_ms:.0f} ms behind the median)"
        self._tell(f"{late}, as where packets are lost: trying WebRTC.")

    async def _by_udp(self, link: WebSocketView) -> NoLeg | None:
        """Sends sound by UDP until that is over; returns why it never began."""
        token = link.token()
        if token is None:
            return NoLeg("this voxd gives no token for the session.", final=True)
        try:
            leg = await Leg.open(await link.address(), token)
        except NoLeg as why:
            return why
        try:
            self.leg = leg
            self.judge.began()
            if self._wanted == "webrtc":
                self._tell(BY_UDP)
            over = await self._watched(leg)
        finally:
            self.leg = None
            self.judge.ended()
            link.resend()
            await leg.close()
        self._tell(over)
        return None

    async def _watched(self, leg: Leg) -> str:
        """Watches UDP until it is over or to be left; returns why."""
        complained = False
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(leg.over.wait(), LOOK_S)
                return ENDED
            self.judge.counted(*await leg.counted())
            if self._wanted == "auto":
                if (verdict := self.judge.verdict()) is None:
                    continue
                if not verdict.keep:
                    again = f"WebRTC is not tried again for {self.judge.rest_min} minutes."
                    return f"Sound goes by WebSocket again: {verdict.why}  {again}"
                self._tell(f"Sound goes by WebRTC (UDP), text by WebSocket: {verdict.why}")
            elif not complained and (self.judge.loss or 0) > MANY:
                complained = True
                self._tell(f"WebRTC loses {self.judge.loss:.1%} of the sound; a WebSocket (--transport ws) loses none.")
