"""Thins the levels of packets to a few a second instead of fifty.  Step 12.

It does not know whose level it is.
"""

from __future__ import annotations

from collections.abc import Callable

from voxtui.screen.widgets.messages import LevelMeasured

PACKETS_PER_LEVEL = 4  # 80 ms: twelve bars a second look alive and cost nothing


class Levels:
    """Gives on the loudest of a few packets."""

    def __init__(self, post: Callable[[LevelMeasured], object]) -> None:
        self._post = post
        self._waiting: list[float] = []

    def __call__(self, dbfs: float) -> None:
        self._waiting.append(dbfs)
        if len(self._waiting) == PACKETS_PER_LEVEL:
            self._post(LevelMeasured(max(self._waiting)))
            self._waiting.clear()
