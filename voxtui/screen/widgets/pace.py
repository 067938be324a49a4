"""Decides when the screen paints what is new: at once if nothing was painted lately, else a few times a second.  Step
12.

Tokens that come close together are painted together, and a lone one never waits.  It does not know what is painted.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from textual.message_pump import MessagePump

BETWEEN_S = 1 / 60  # between two paintings
PROBES_S = 0.25  # between two of which it is measured how long they took


class Pace:
    """`paint` is called after `want`, on the node's own turn; `painted` is told after how many ms what was wanted first
    stood on the screen, now and then."""

    def __init__(self, node: MessagePump, paint: Callable[[], None], painted: Callable[[float], None]) -> None:
        self._node, self._paint, self._painted = node, paint, painted
        self.due = False
        self._next = self._probe = 0.0
        self._since: float | None = None  # when the first text arrived that waits to be painted

    def want(self, *, text: bool = False) -> None:
        """Told that something is new; `text`: words that somebody waits for."""
        now = monotonic()
        if text and self._since is None:
            self._since = now
        if self.due:
            return
        self.due = True
        if now >= self._next:
            self._node.call_later(self._show)
        else:
            self._node.set_timer(self._next - now, self._show)

    def _show(self) -> None:
        self.due = False
        since, self._since = self._since, None
        now = monotonic()
        self._next = now + BETWEEN_S
        self._paint()
        if since is not None and now >= self._probe:
            self._probe = now + PROBES_S
            self._node.call_after_refresh(self._tell, since)

    def _tell(self, since: float) -> None:
        self._painted((monotonic() - since) * 1000)
