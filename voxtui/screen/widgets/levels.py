"""How loud it is, a few times a second rather than fifty."""

from __future__ import annotations

from collections.abc import Callable

from voxtui.screen.widgets.messages import LevelMeasured

PACKETS_PER_LEVEL = 4  # 80 ms: twelve bars a second look alive and cost nothing


class Levels:
    """The loudest of a few packets."""

    def __init__(self, post: Callable[[LevelMeasured], object]) -> None:
        self._post = post
        self._waiting: list[float] = []

    def __call__(self, dbfs: float) -> None:
        self._waiting.append(dbfs)
        if len(self._waiting) == PACKETS_PER_LEVEL:
            self._post(LevelMeasured(max(self._waiting)))
            self._waiting.clear()
