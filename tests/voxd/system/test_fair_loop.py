"""The client that has used the least time comes first and waits for one callback of others; each keeps its order."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from voxd.system.fair_loop import (
    IDLE,
    MOST_S,
    NEW_S,
    SLICE_S,
    WAITING,
    FairLoop,
    Line,
    Lines,
    Share,
    Work,
    count_for,
    in_line,
    newcomer,
)

MS = 0.001


class Callback:
    """The part of asyncio.Handle that is used."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._run, self._cancelled = work, False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


class Bench:
    """Lines on clocks that only work moves.  `done`: names of callbacks, in the order in which they ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []
        self.lines = Lines(lambda: self.now, lambda: self.now)

    def put(self, line: Line, name: str, seconds: float, then: Callable[[], None] = lambda: None) -> Callback:
        """Puts a callback that takes so long into a line."""

        def work() -> None:
            self.now += seconds
            self.done.append(name)
            then()

        callback = Callback(work)
        self.lines.put(line, callback)
        return callback

    def finish(self) -> None:
        while self.lines:
            self.lines.serve()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def line(cost: float = 0.0) -> Line:
    """A line of a client that has used so many seconds of work."""
    return Line(Share(cost, 0.0))


def test_who_has_cost_least_comes_first(bench: Bench) -> None:
    for name, cost in (("most", 0.03), ("least", 0.01), ("less", 0.02)):
        bench.put(line(cost), name, MS)
    bench.finish()
    assert bench.done == ["least", "less", "most"]


def test_a_client_waits_for_one_callback_of_others_however_many_are_ready(bench: Bench) -> None:
    for number in range(8):
        costly = line(0.02)
        for _ in range(125):
            bench.put(costly, f"costly{number}", 2 * MS)
    talker = line()
    while bench.lines:
        bench.put(talker, "talker", 0.1 * MS)
        before = len(bench.done)
        bench.lines.serve()
        assert bench.done[before] == "talker"
        assert len(bench.done) - before <= 1 + SLICE_S / (2 * MS), "then the sockets are looked at again"
        bench.now += 10 * MS
    assert bench.done.count("talker") * 20 > 1000


def test_a_chain_of_callbacks_of_a_cheap_client_is_not_interrupted(bench: Bench) -> None:
    """A message is some five callbacks in a row and must not wait five times."""
    talker = line()
    for number in range(20):
        bench.put(line(0.02), str(number), 2 * MS)

    def next_one(left: int) -> None:
        bench.put(talker, "talker", 0.01 * MS, (lambda: next_one(left - 1)) if left else lambda: None)

    next_one(5)
    bench.lines.serve()
    assert bench.done[:6] == ["talker"] * 6


def test_callbacks_of_one_client_stay_in_their_order(bench: Bench) -> None:
    one, other = line(), line()
    for number in range(30):
        bench.put(one, f"a{number}", (number % 7) * MS)
        bench.put(other, f"b{number}", MS)
    bench.finish()
    assert [name for name in bench.done if name[0] == "a"] == [f"a{number}" for number in range(30)]
    assert [name for name in bench.done if name[0] == "b"] == [f"b{number}" for number in range(30)]


def test_costly_clients_have_the_same_each(bench: Bench) -> None:
    for client in ("a", "b", "c"):
        costly = line(MOST_S)
        for _ in range(40):
            bench.put(costly, client, 5 * MS)
    bench.finish()
    for count in range(0, 120, 12):
        assert {bench.done[:count].count(client) for client in "abc"} <= {count // 3 - 1, count // 3, count // 3 + 1}


def test_nobody_is_passed_over_for_ever(bench: Bench) -> None:
    """New clients come first, but not those that come seconds later."""
    bench.put(line(MOST_S), "old", MS)
    while "old" not in bench.done:
        for _ in range(3):
            bench.put(Line(Share(NEW_S, bench.now)), "new", 2 * MS)
        bench.lines.serve()
    assert bench.now < 2 * (MOST_S - NEW_S) / WAITING


def test_one_who_wants_little_comes_first_even_if_so_many_want_much_that_each_gets_less(bench: Bench) -> None:
    greedy = [line() for _ in range(60)]
    talker = line()
    for turn in range(2000):
        for each in greedy:
            if not each.waiting:
                bench.put(each, "greedy", 2 * MS)
        if turn > 1000 and turn % 10 == 0:
            bench.put(talker, "talker", 0.4 * MS)
            before = len(bench.done)
            bench.lines.serve()
            assert bench.done[before] == "talker"
        bench.lines.serve()


def test_who_speaks_comes_out_of_its_debt_while_others_flood_the_loop(bench: Bench) -> None:
    """One slow callback must not cost a client its link, though its packets wait."""
    speaker, packets = line(NEW_S / 2), 0
    while bench.now < 8:
        while packets < bench.now / 0.02:
            bench.put(speaker, f"packet{packets}", 0.3 * MS)
            packets += 1
        bench.put(Line(Share(NEW_S, bench.now)), "new", 2 * MS)
        bench.put(Line(Share(NEW_S, bench.now)), "new", 2 * MS)
        bench.lines.serve()
    assert len(speaker.waiting) <= 2


def test_whoever_was_let_in_comes_before_any_number_of_strangers_who_still_get_on(bench: Bench) -> None:
    talker = line()
    for turn in range(500):
        for _ in range(4):
            bench.put(Line(Share(NEW_S, bench.now, stranger=True)), "stranger", 2 * MS)
        bench.put(talker, "talker", 0.4 * MS)
        before = len(bench.done)
        bench.lines.serve()
        assert bench.done[before] == "talker", turn
        assert "stranger" in bench.done[before:]
    costly = line(MOST_S)
    for _ in range(100):
        bench.put(costly, "costly", 5 * MS)
        before = len(bench.done)
        bench.lines.serve()
        assert bench.done[before:] == ["costly", "stranger"]


def test_several_lines_of_one_share_have_what_one_has(bench: Bench) -> None:
    together, alone = Share(0.0, 0.0), line()
    for _ in range(10):
        many = Line(together)
        for _ in range(10):
            bench.put(many, "many", MS)
    for _ in range(20):
        bench.put(alone, "alone", MS)
    bench.finish()
    assert bench.done[:40].count("alone") in (19, 20)


def test_what_was_long_ago_is_forgotten() -> None:
    share = Share(0.0, 0.0)
    for _ in range(100):
        share.charge(0.0, 1.0)
    assert share.debt(0.0) == MOST_S
    assert 0 < share.debt(MOST_S / IDLE / 2) < MOST_S
    assert share.debt(MOST_S / IDLE) == pytest.approx(0)


def test_what_is_ready_twice_runs_once_and_what_is_cancelled_not_at_all(bench: Bench) -> None:
    one = line()
    handle = bench.put(one, "a", MS)
    bench.lines.put(one, handle)
    bench.put(one, "b", MS).cancel()
    bench.finish()
    assert bench.done == ["a"]


# ── as the event loop of asyncio ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=FairLoop) as made:
        yield made


def test_asyncio_still_has_the_queue_that_is_replaced(runner: asyncio.Runner) -> None:
    """Private names of CPython: the queue `_ready`, to which each ready callback is appended, and its `_context`."""

    async def ran() -> list[str]:
        done: list[str] = []
        share = newcomer()
        loop = asyncio.get_running_loop()
        loop.call_soon(done.append, "soon", context=in_line(share))
        all_done = asyncio.Event()
        loop.call_later(0, all_done.set, context=in_line(share))
        ready: Any = loop
        assert not [handle for handle in ready._ready if handle._callback == done.append], "it waits in its line"
        await all_done.wait()
        assert share.cost > 0
        return done

    assert runner.run(ran()) == ["soon"]


def busy(milliseconds: float) -> None:
    end = time.thread_time() + milliseconds * MS
    while time.thread_time() < end:
        pass


def test_collecting_garbage_is_nobodys_work(runner: asyncio.Runner) -> None:
    """Whoever makes the last object before a collection would pay for the garbage of all."""
    work = Work()
    before = work()
    busy(5)
    assert work() - before > 4 * MS
    before = work()
    work.collecting("start", {})
    busy(20)
    work.collecting("stop", {})
    assert work() - before < 10 * MS

    async def charged() -> float:
        share = newcomer()
        heap = [[number] for number in range(300_000)]
        took = time.thread_time()
        gc.collect()
        took = time.thread_time() - took
        done = asyncio.Event()
        for call in (gc.collect, done.set):
            asyncio.get_running_loop().call_soon(call, context=in_line(share))
        await done.wait()
        assert heap
        return share.cost / took

    assert runner.run(charged()) < 0.5
    callbacks = len(gc.callbacks)
    runner.close()
    assert len(gc.callbacks) == callbacks - 1


async def costly(turns: list[str]) -> None:
    for _ in range(30):
        busy(1)
        turns.append("costly")
        await asyncio.sleep(0)


async def pinging(near: socket.socket, far: socket.socket, turns: list[str]) -> None:
    """Sends bytes that are answered through a protocol, a queue and a task."""
    reader, writer = await asyncio.open_connection(sock=near)
    for _ in range(8):
        far.send(b"?")
        before = len(turns)
        assert await reader.read(1) == b"?"
        turns.append("ping")
        assert len(turns) - before <= 12, "30 clients were ready"
    writer.close()
    await writer.wait_closed()


def test_bytes_of_a_cheap_client_overtake_the_callbacks_of_others(runner: asyncio.Runner) -> None:
    turns: list[str] = []

    async def all_of_them() -> None:
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        with far:
            tasks = [loop.create_task(costly(turns), context=in_line(newcomer())) for _ in range(30)]
            tasks.append(loop.create_task(pinging(near, far, turns), context=in_line(Share(0.0, 0.0))))
            await asyncio.gather(*tasks)

    runner.run(all_of_them())
    assert turns.count("ping") == 8
    assert turns.count("costly") == 900


def test_what_a_client_starts_is_in_its_line_until_it_counts_for_another_share(runner: asyncio.Runner) -> None:
    strangers, own = newcomer(), newcomer()

    async def child() -> None:
        await asyncio.to_thread(int)
        busy(2)

    async def parent() -> None:
        await asyncio.create_task(child())
        assert strangers.cost > 0
        assert own.cost == 0
        count_for(own)
        async with asyncio.timeout(60):
            await asyncio.create_task(child())

    async def both() -> None:
        await asyncio.get_running_loop().create_task(parent(), context=in_line(strangers))

    runner.run(both())
    assert own.cost > 0


@pytest.mark.parametrize("work", [lambda: asyncio.sleep(0), lambda: asyncio.to_thread(int)], ids=["turns", "threads"])
def test_an_interrupted_loop_can_be_ended_in_order(work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            while True:
                await work()
        finally:
            ended.append("ended")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(endless(), context=in_line(newcomer())) for _ in range(3)]
        loop.call_later(0.01, interrupt, context=in_line(newcomer()))
        await asyncio.gather(*tasks)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=FairLoop) as made:
        made.run(main())
    assert ended == ["ended"] * 3


def test_a_client_of_a_thousand_lines_costs_no_more_to_serve_than_one_of_ten() -> None:
    """Looks at the clock stand for the work of choosing."""
    looks = dict[int, float]()
    for count in (10, 1000):
        now, asked = itertools.count(), itertools.count()
        lines = Lines(lambda now=now: next(now) * 1e-6, lambda asked=asked: next(asked) * 1e-6)
        share = Share(0.0, 0.0)
        for _ in range(count):
            lines.put(Line(share), Callback(lambda: None))
        while lines:
            lines.serve()
        looks[count] = next(asked) / count
    assert looks[1000] < 2 * looks[10]
