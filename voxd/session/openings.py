"""Which updates of a session the engine process has been asked to take, and has not answered.  Step 10.

Pure.  Every Open after a stream's first is answered, in order, as long as the engine process lives; so they are
counted, and not numbered.  It does not know what an update asks for.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from shared.events import SessionUpdate, SessionUpdated
from shared.session_config import AnySession


@dataclass(slots=True)
class Asked:
    """`before`: the configuration without the update.  `answer`: what the client will be told of it; None: nothing of
    this Open is to be told, or it has been."""

    update: SessionUpdate
    before: AnySession
    answer: SessionUpdated | None


class Openings:
    """Those that are on their way, oldest first."""

    def __init__(self) -> None:
        self._asked: deque[Asked] = deque()

    @property
    def undecided(self) -> bool:
        """Does an answer to the client wait for the engine process?"""
        return any(each.answer is not None for each in self._asked)

    def ask(self, asked: Asked) -> None:
        self._asked.append(asked)

    def take(self) -> Asked | None:
        """The one that the engine process has answered now."""
        return self._asked.popleft() if self._asked else None

    def tell_all(self) -> None:
        """The clients' answers wait no longer; the engine process is still going to answer."""
        for each in self._asked:
            each.answer = None

    def withdraw_all(self) -> list[Asked]:
        """Those with an answer that waits: they count as told, and must be asked anew."""
        found = [Asked(each.update, each.before, each.answer) for each in self._asked if each.answer is not None]
        self.tell_all()
        return found

    def forget(self) -> None:
        """The engine process that was asked is gone, or has no such stream."""
        self._asked.clear()
