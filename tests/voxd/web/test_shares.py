"""Who may use the loop: cheap clients at once, costly ones in turn, half of the time, who has cost least first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from voxd.web.shares import LIGHT, MOST_S, SLICE_S, Share, Shares

from tests.support.peers import BINARY, frame, tcp, upgraded
from tests.voxd.web.test_protocol import serving
from voxd.web import shares as module

MS = 0.001


class Bench:
    """Shares on clocks that only work moves.  `done`: names of pieces, in the order in which they were done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.rests: list[float] = []
        self.shares = Shares(lambda: self.now, lambda: self.now)
        loop = asyncio.get_running_loop()

        def call_later(delay: float, call: Callable[[], None]) -> None:
            self.rests.append(delay)
            loop.call_soon(call)

        monkeypatch.setattr(loop, "call_later", call_later)

    def piece(self, name: str, seconds: float) -> Callable[[], str]:
        def work() -> str:
            self.now += seconds
            self.done.append(name)
            return name

        return work

    async def spend(self, share: Share, name: str, seconds: float, pieces: int = 1) -> None:
        for _ in range(pieces):
            assert await self.shares.run(share, self.piece(name, seconds)) == name


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def cheap() -> Share:
    """Somebody who has been here for a while and costs nothing."""
    return Share(debt=0.0, at=0.0)


def dear(debt: float = MOST_S) -> Share:
    return Share(debt, at=0.0)


async def test_who_costs_little_never_waits(bench: Bench) -> None:
    share = cheap()
    for _ in range(100):
        ran = asyncio.ensure_future(bench.spend(share, "a", 0.4 * MS))
        await asyncio.sleep(0)
        assert ran.done()
        bench.now += 10 * MS
    assert bench.rests == []


async def test_whoever_costs_little_comes_between_any_two_pieces_of_others(bench: Bench) -> None:
    costly = asyncio.gather(
        *(bench.spend(bench.shares.newcomer(), f"costly{number}", 20 * MS, 5) for number in range(10))
    )
    talker = cheap()
    while not costly.done():
        before = len(bench.done)
        await bench.shares.run(talker, bench.piece("talker", 0.1 * MS))
        assert bench.done[before:] == ["talker"], "it was done at once"
        await asyncio.sleep(0)
        assert len(bench.done) - before <= 2, "at most one piece of somebody else in a turn of the loop"
        bench.now += 5 * MS
    await costly
    assert sum(name != "talker" for name in bench.done) == 50


async def test_costly_work_gets_half_of_the_loop(bench: Bench) -> None:
    await asyncio.gather(*(bench.spend(dear(), str(number), 2 * MS, 20) for number in range(5)))
    assert sum(bench.rests) >= 200 * MS - 2 * SLICE_S
    assert all(rest >= SLICE_S for rest in bench.rests)


async def test_a_new_connection_is_not_free(bench: Bench) -> None:
    """Else a connection for each piece of work would be."""
    for _ in range(20):
        await bench.spend(bench.shares.newcomer(), "x", 20 * MS)
    assert len(bench.rests) >= 19


async def test_who_has_cost_least_comes_first(bench: Bench) -> None:
    most, less, least = dear(0.03), dear(0.02), dear(0.01)
    await asyncio.gather(bench.spend(most, "most", MS), bench.spend(less, "less", MS), bench.spend(least, "least", MS))
    assert bench.done == ["least", "less", "most"]


async def test_what_was_long_ago_is_forgotten(bench: Bench) -> None:
    share = bench.shares.newcomer()
    await bench.spend(share, "a", 50 * MS)
    bench.now += MOST_S / LIGHT
    ran = asyncio.ensure_future(bench.spend(share, "b", MS))
    await asyncio.sleep(0)
    assert ran.done()


async def test_what_work_raises_goes_to_whoever_wanted_it_and_the_next_is_served(bench: Bench) -> None:
    def broken() -> None:
        raise LookupError

    failing = asyncio.ensure_future(bench.shares.run(dear(0.01), broken))
    leaving = asyncio.ensure_future(bench.spend(dear(0.02), "left", MS))
    staying = asyncio.ensure_future(bench.spend(dear(0.03), "stayed", MS))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    with pytest.raises(LookupError):
        await failing
    assert bench.done == ["stayed"]


# ── bytes that wait for their turn ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def nobody_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BURST_S", -1.0)


@pytest.mark.usefixtures("nobody_is_cheap")
async def test_messages_that_wait_arrive_whole_and_in_order() -> None:
    async with serving() as (_, address), upgraded(address) as peer:
        sent = [bytes([number]) * size for number, size in enumerate((900, 30_000, 700, 100_000, 800), 65)]
        peer.writer.write(b"".join(frame(BINARY, data) for data in sent))
        got = b""
        async with asyncio.timeout(60):
            while not all(data in got for data in sent):
                got += await peer.reader.read(1 << 16)
        places = [got.find(data) for data in sent]
        assert places == sorted(places)


@pytest.mark.usefixtures("nobody_is_cheap")
async def test_requests_that_wait_are_answered_one_after_the_other() -> None:
    async with serving() as (_, address), tcp(address) as peer:
        await peer.send(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        got = b""
        async with asyncio.timeout(60):
            while got.count(b"HTTP/1.1 ") < 20:
                got += await peer.reader.read(1 << 16)
