"""Threads that decode: they run, wake, survive a failure and end."""

from __future__ import annotations

import threading

from voxd.engine.whisper.scheduler import Decode, Kind
from voxd.engine.whisper.workers import Workers


def test_workers_run_wake_and_stop() -> None:
    woken = threading.Event()

    def work(n: int) -> int:
        if n == 2:
            raise ValueError(n)
        return 10 * n

    pool: Workers[int, int] = Workers(2, work, woken.set)
    found: dict[int, int | None] = {}
    for n in (1, 2, 3):
        pool.submit(Decode(n, 1, Kind.FINAL, n))
    while len(found) < 3:
        assert woken.wait(60)
        woken.clear()
        found |= {result.request.payload: result.value for result in pool.results()}
    pool.stop()
    assert found == {1: 10, 2: None, 3: 30}
