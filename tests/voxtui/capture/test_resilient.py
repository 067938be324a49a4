"""A source that outlives its microphones: each fault in one sentence, told once, and sound again when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.fakes import FakeClock
from voxtui.capture import resilient
from voxtui.capture.resilient import MUTE, RETRY, Ear
from voxtui.capture.sources import PACKET_US, SILENT, Packet, Source
from voxtui.errors import SourceError

SOUND = b"\1\0" * 320


class Device:
    """A microphone that gives so many packets and then does as told."""

    ends = False
    samples = None
    truth = None

    def __init__(self, name: str, packets: int, end: str = "gone", pcm: bytes = SOUND) -> None:
        self.name, self.dropped, self.open = name, 0, False
        self._packets, self._end, self._pcm = packets, end, pcm

    async def packets(self) -> AsyncIterator[Packet]:
        self.open = True
        try:
            for n in range(self._packets):
                yield Packet(n * 320, self._pcm, n * PACKET_US)
            if self._end == "stuck":
                await asyncio.Event().wait()
            self.dropped = 3
            raise SourceError(f"The microphone {self.name!r} has gone.")
        finally:
            self.open = False


def shelf(*wares: Source | SourceError) -> Callable[[], Source]:
    """A function that opens these microphones one after the other."""
    rest = list(wares)

    def opener() -> Source:
        ware = rest.pop(0) if len(rest) > 1 else rest[0]
        if isinstance(ware, SourceError):
            raise ware
        return ware

    return opener


async def take(source: Ear, count: int) -> list[bytes]:
    found: list[bytes] = []
    async for packet in source.packets():
        found.append(packet.pcm)
        if len(found) == count:
            break
    return found


def ear_on(opener: Callable[[], Source]) -> tuple[Ear, list[str]]:
    told: list[str] = []
    return Ear(opener, told.append, FakeClock()), told


async def test_unplugged_and_back() -> None:
    source, told = ear_on(shelf(Device("Blue", 5), Device("Blue", 5, "stuck")))
    found = await take(source, 5 + RETRY + 5)
    assert found == [SOUND] * 5 + [SILENT] * RETRY + [SOUND] * 5
    assert len(told) == 2
    assert told[0].startswith("The microphone 'Blue' has gone.")
    assert "tried again" in told[0]
    assert told[1] == "The microphone 'Blue' is heard again."
    assert source.name == "Blue"
    assert source.dropped == 3


async def test_missing_is_told_once() -> None:
    missing = SourceError("No microphone is known to the sound system of this machine.")
    source, told = ear_on(shelf(missing))
    assert await take(source, 3 * RETRY) == [SILENT] * 3 * RETRY
    assert len(told) == 1


async def test_what_has_gone_is_named_no_more() -> None:
    source, _ = ear_on(shelf(Device("Blue", 5), Device("Blue", 5, "stuck")))
    names = []
    async for _ in source.packets():
        names.append(source.name)
        if len(names) == 5 + RETRY + 1:
            break
    assert names == ["Blue"] * 5 + [""] * RETRY + ["Blue"]


async def test_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilient, "STALL_S", 0.01)
    source, told = ear_on(shelf(Device("Blue", 2, "stuck"), Device("Blue", 2, "stuck")))
    assert await take(source, 2 + RETRY + 1) == [SOUND] * 2 + [SILENT] * RETRY + [SOUND]
    assert "stopped giving sound" in told[0]


async def test_nothing_but_zeros() -> None:
    source, told = ear_on(shelf(Device("Blue", 2 * MUTE, "stuck", SILENT)))
    await take(source, 2 * MUTE)
    assert len(told) == 1
    assert "muted" in told[0]


async def test_another_microphone() -> None:
    """The first microphone is closed before the second is heard."""
    first, second = Device("Blue", 10_000), Device("Red", 10_000)
    source, told = ear_on(lambda: first)
    names: list[str] = []
    async for _ in source.packets():
        names.append(source.name)
        if len(names) == 3:
            source.listen_to(lambda: second)
        if source.name == "Red":
            assert not first.open
            break
    assert names == ["Blue"] * 3 + ["Red"]
    assert told == []
