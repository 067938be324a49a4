"""Which way sound is sent, over a network that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.voxtui.link.test_webrtc import Told
from voxtui.link import transport
from voxtui.link.target import Address
from voxtui.link.transport import BY_SOCKET, BY_UDP, SSH, Sound, Transport, WebSocketView
from voxtui.link.transport_policy import MANY, MIXED, REST, TRIAL, WINDOW
from voxtui.link.webrtc import Leg


async def _never() -> None:
    await asyncio.Event().wait()


async def _nowhere() -> Address:
    raise AssertionError("nobody asks for a way")


LINK = WebSocketView(_never, _nowhere, lambda: None, lambda: None)


@pytest.mark.parametrize("wanted", ["webrtc", "auto"])
async def test_through_ssh_it_is_the_websocket_and_that_is_said(wanted: Transport) -> None:
    told = Told()
    await asyncio.wait_for(Sound(wanted, udp=False, tell=told).run(LINK), 60)
    assert told.lines == [SSH]


async def test_the_websocket_is_taken_without_a_word() -> None:
    told = Told()
    await asyncio.wait_for(Sound("ws", udp=True, tell=told).run(LINK), 60)
    assert told.lines == []


@dataclass
class Fake(Leg):
    """A leg whose losses are told by the test."""

    counts: tuple[int, float] = (0, 0)
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    async def counted(self) -> tuple[int, int]:
        self.looked.set()
        sent, lost = self.counts
        return sent, int(lost)

    async def look(self) -> None:
        """Waits until the figures were looked at once more."""
        self.looked.clear()
        await self.looked.wait()


@asynccontextmanager
async def choosing(
    monkeypatch: pytest.MonkeyPatch, wanted: Transport, leg: Fake
) -> AsyncIterator[tuple[Sound, Told, list[None]]]:
    """Runs the choice of a way with a network that the test plays, and counts what was sent again."""
    monkeypatch.setattr(transport, "LOOK_S", 0.001)
    monkeypatch.setattr(transport, "AGAIN_S", 0.001)

    async def ready() -> None:
        pass

    async def address() -> Address:
        return Address("ws://localhost")

    async def opened(address: Address, token: str) -> Leg:
        return leg

    monkeypatch.setattr(Leg, "open", opened)
    told, again = Told(), list[None]()
    chosen = Sound(wanted, udp=True, tell=told)
    running = asyncio.create_task(
        chosen.run(WebSocketView(ready, address, lambda: "token", lambda: again.append(None)))
    )
    try:
        async with asyncio.timeout(60):
            yield chosen, told, again
    finally:
        running.cancel()


async def until(told: Told, part: str) -> str:
    """Waits for the line that has these words."""
    while True:
        if found := [line for line in told.lines if part in line]:
            return found[0]
        told.something.clear()
        await told.something.wait()


def stalling(chosen: Sound, acknowledgements: int = WINDOW) -> None:
    for number in range(acknowledgements):
        chosen.judge.heard(80 if number % 10 == 0 else 0)


async def test_auto_takes_udp_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    leg = Fake()
    async with choosing(monkeypatch, "auto", leg) as (chosen, told, again):
        stalling(chosen)
        assert await until(told, "trying") == (
            "Sound by WebSocket comes late at times (p95 is 80 ms behind the median), as where packets are lost: "
            "trying WebRTC."
        )
        for number in range((MIXED + TRIAL) // 5):
            await leg.look()
            leg.counts = (50 * number, number / 2)
            for _ in range(5):
                chosen.judge.heard(5)
        kept = await until(told, "sooner")
        assert kept == "Sound goes by WebRTC (UDP), text by WebSocket: 75 ms sooner at p95, 1.0% of it lost."
        assert chosen.leg is leg
        leg.counts = (600, 305)
        back = await until(told, "again:")
        assert back == (
            "Sound goes by WebSocket again: WebRTC loses 60.8% of it.  WebRTC is not tried again for 5 minutes."
        )
        assert chosen.leg is None
        assert leg.over.is_set()
        assert again == [None], "what did not arrive goes by WebSocket"
        assert told.lines[0] == BY_SOCKET
        assert len(told.lines) == 4
        stalling(chosen, MIXED + REST - 1)
        assert chosen.judge.stalls() is None, "it rests"
        told.lines.clear()
        stalling(chosen)
        await until(told, "trying")


async def test_auto_stays_where_nothing_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a leg would be the first thing to happen."""
    async with choosing(monkeypatch, "auto", Fake()) as (chosen, told, _):
        looked = asyncio.Event()
        whole, looks = chosen.judge.stalls, iter(range(5))

        def stalls() -> float | None:
            if next(looks, None) is None:
                looked.set()
            return whole()

        monkeypatch.setattr(chosen.judge, "stalls", stalls)
        for _ in range(2 * WINDOW):
            chosen.judge.heard(20)
        await looked.wait()
        assert told.lines == [BY_SOCKET]


async def test_forced_webrtc_stays_and_tells_of_losses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    leg = Fake(counts=(1000, 1000 * (MANY + 0.01)))
    async with choosing(monkeypatch, "webrtc", leg) as (chosen, told, _):
        for _ in range(5):
            await leg.look()
        assert chosen.leg is leg
        complaint = "WebRTC loses 6.0% of the sound; a WebSocket (--transport ws) loses none."
        assert told.lines == [BY_UDP, complaint]
