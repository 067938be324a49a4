"""What of a conversation fits into the context of a model, in tokens that are only estimated.  Step 8.

Pure.  llama.cpp counts tokens when it is asked; so each answer says how many its prompt had, and the next estimate is
made from that.  Beyond the context the oldest turns are left out, half of what fits at once, so that the next prompts
begin alike and the cache serves them.
"""

from __future__ import annotations

from collections.abc import Sequence

from voxd.engine.dialogue import messages
from voxd.messages import Turn

FRAMING = 8  # tokens around a turn
RATE = 0.4  # tokens for each byte, before anything is known: English has 0.25, other scripts up to 1
MARGIN = 1.05

Messages = list[dict[str, str]]
Mark = tuple[str, int | None, str]


def _mark(turn: Turn) -> Mark:
    """How a turn is recognised in a later context: by its ref, or by its text if it was typed."""
    return turn.role, turn.ref, turn.text if turn.ref is None else ""


def _size(turn: Turn) -> int:
    return len(turn.words.encode())


class Dialogue:
    """The conversation of one stream.  `first`: the oldest turn that is still read, once older ones are left out."""

    def __init__(self) -> None:
        self.first: Mark | None = None
        self._rate = RATE

    def learn(self, context: Sequence[Turn], tokens: int) -> None:
        """A prompt made of these turns had so many tokens."""
        said = sum(map(_size, context))
        if tokens and said:
            self._rate = min(1.0, max(0.05, MARGIN * (tokens - FRAMING * len(context)) / said))

    def _estimate(self, turn: Turn) -> int:
        return FRAMING + round(self._rate * _size(turn))

    def fit(self, context: Sequence[Turn], limit: int, *, aside: bool = False) -> tuple[Turn, ...] | None:
        """The turns to be read, at most `limit` tokens of them.  None: the last item alone is longer."""
        head = [turn for turn in context if turn.role == "system"]
        turns = self._read([turn for turn in context if turn.role != "system"])
        newest = self._newest(head, turns, limit)
        if len(newest) < len(turns):
            newest = self._newest(head, turns, limit // 2)
            if sum(map(self._estimate, (*head, *newest))) > limit:
                return None
            if not aside:
                self.first = _mark(newest[0])
        elif len(turns) == 1 and sum(map(self._estimate, (*head, *turns))) > limit:
            return None
        return (*head, *newest)

    def _read(self, turns: list[Turn]) -> list[Turn]:
        """The turns from the one on with which the last prompt began, if it is still there."""
        if self.first is None:
            return turns
        return turns[next((index for index, turn in enumerate(turns) if _mark(turn) == self.first), 0) :]

    def _newest(self, head: list[Turn], turns: list[Turn], limit: int) -> list[Turn]:
        """As many of the last items as fit beside the head, and the very last in any case."""
        starts = [index for index, turn in enumerate(turns) if not turn.continues]
        room = limit - sum(map(self._estimate, head))
        for first in reversed(range(len(turns))):
            room -= self._estimate(turns[first])
            if room < 0:
                return turns[next((index for index in starts if index > first), starts[-1]) :]
        return turns


def prompt(context: Sequence[Turn]) -> Messages:
    """The messages of these turns.  Instructions come first; templates know no later ones: the person's."""
    started = False
    turns = []
    for turn in context:
        started = started or turn.role != "system"
        turns.append(Turn("user", turn.text) if started and turn.role == "system" else turn)
    return messages(turns)
