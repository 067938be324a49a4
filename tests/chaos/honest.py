"""The honest client: a person who speaks to voxd through voxtui's own client, is answered, and asks how quick it is."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass

from shared.events import Pong
from tests.chaos.nemesis import Person, Track
from tests.chaos.nemesis_check import Record
from tests.support.service import pause
from voxtui.link.client import RealtimeClient, now_us
from voxtui.link.target import Direct

EVERY_S = 0.05  # between two pings
PATIENCE_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Ping:
    """`took_ms`: until its answer was here; `work_ms`: what the gateway did meanwhile, on whatever machine it was."""

    at_us: int
    took_ms: float
    work_ms: float


class Honest(Person):
    """`work_s`: a clock that counts the gateway's work.  `pings`: those that were answered."""

    def __init__(self, number: int, route: Direct, sound: Track, work_s: Callable[[], float]) -> None:
        super().__init__(number, route, sound, answers=True)
        self.pings: list[Ping] = []
        self._work_s = work_s
        self._asked: list[tuple[int, float]] = []  # when each ping was sent, by both clocks

    @property
    def unanswered(self) -> int:
        """Pings without an answer, but for those at the end of it all, which nobody waited for.  Answers keep order."""
        return sum(at < self._asked[-1][0] - PATIENCE_US for at, _ in self._asked[len(self.pings) :])

    def between(self, begin_us: int, end_us: int) -> list[Ping]:
        return [ping for ping in self.pings if begin_us <= ping.at_us < end_us]

    async def _converse(self, client: RealtimeClient) -> None:
        pinger = asyncio.create_task(self._ping(client))
        try:
            await super()._converse(client)
        finally:
            pinger.cancel()

    async def _ping(self, client: RealtimeClient) -> None:
        while True:
            self._asked.append((now_us(), self._work_s()))
            await client.ping()
            await pause(EVERY_S)

    def _follow(self, record: Record) -> None:
        if isinstance(record.event, Pong):
            at_us, work_s = self._asked[bisect(self._asked, (record.event.t0, math.inf)) - 1]
            took_ms, work_ms = (record.at_us - at_us) / 1000, (self._work_s() - work_s) * 1000
            self.pings.append(Ping(at_us, took_ms, work_ms))
        super()._follow(record)
