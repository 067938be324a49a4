"""The honest client: a person who speaks to voxd through voxtui's own client, is answered, and asks how quick it is."""

from __future__ import annotations

import asyncio

from shared.events import Pong
from tests.nemesis import Person, Track
from tests.nemesis_check import Record
from tests.service import pause
from voxtui.client import RealtimeClient, now_us
from voxtui.target import Direct

EVERY_S = 0.05  # between two pings
PATIENCE_US = 1_000_000


class Honest(Person):
    """`asked`: when each ping was sent.  `pings`: of those answered, when that was and how long it took; in us."""

    def __init__(self, number: int, route: Direct, sound: Track) -> None:
        super().__init__(number, route, sound, answers=True)
        self.asked: list[int] = []
        self.pings: list[tuple[int, int]] = []

    @property
    def unanswered(self) -> int:
        """Pings without an answer, but for those at the end of it all, which nobody waited for.  Answers keep order."""
        return sum(at < self.asked[-1] - PATIENCE_US for at in self.asked[len(self.pings) :])

    def between(self, begin_us: int, end_us: int) -> list[float]:
        """ms that pings of this time took."""
        return [took / 1000 for at, took in self.pings if begin_us <= at < end_us]

    async def _converse(self, client: RealtimeClient) -> None:
        pinger = asyncio.create_task(self._ping(client))
        try:
            await super()._converse(client)
        finally:
            pinger.cancel()

    async def _ping(self, client: RealtimeClient) -> None:
        while True:
            self.asked.append(now_us())
            await client.ping()
            await pause(EVERY_S)

    def _follow(self, record: Record) -> None:
        if isinstance(record.event, Pong):
            self.pings.append((record.event.t0, record.at_us - record.event.t0))
        super()._follow(record)
