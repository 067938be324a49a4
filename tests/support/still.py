"""How long one step of work holds its thread, in CPU time of its own: other programs of the machine do not count."""

from __future__ import annotations

import time
from collections.abc import Iterator

LIMIT_S = 0.020  # nothing from outside may hold an event loop longer


class Steps:
    """`pieces` run to their end, with the longest between two of their yields."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.count = 0

    def run(self, pieces: Iterator[None]) -> None:
        more = True
        while more:
            before = time.thread_time()
            more = next(pieces, self) is not self
            self.longest_s = max(self.longest_s, time.thread_time() - before)
            self.count += 1


def quickest(work: list[Steps]) -> float:
    """The least of several runs: of a machine that is shared, the caches and the memory are not one's own either."""
    return min(each.longest_s for each in work)
