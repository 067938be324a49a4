"""The top line: the link, the engines, how one speaks, and the path that the bytes take.  Step 12.

It does not know how a link is made or measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from time import monotonic

from textual.app import RenderResult
from textual.content import Content
from textual.widget import Widget

from voxtui.screen.widgets.blocks import MUTED
from voxtui.screen.widgets.figures import trip
from voxtui.session.transcript import LinkState, State

MARKS = {
    LinkState.CONNECTING: ("◌", "$warning"),
    LinkState.OPEN: ("●", "$success"),
    LinkState.BROKEN: ("◌", "$warning"),
    LinkState.LOST: ("✕", "$error"),
}
LAG_MS = 1000  # from here on the person is told that the sound arrives late
GAP = "   "
SHORTEST = 12  # columns: less of a path says nothing


class StatusBar(Widget):
    """One row of what matters about the session; where there is no room, the least important goes first."""

    def on_mount(self) -> None:
        self._state, self._since = State(), 0.0
        self._clock = self.set_interval(1.0, self.refresh, pause=True)

    def show(self, state: State) -> None:
        before, self._state = self._state, state
        if state.link is LinkState.BROKEN and before.link is not LinkState.BROKEN:
            self._since = monotonic()
            self._clock.resume()
        elif state.link is not LinkState.BROKEN:
            self._clock.pause()
        if _seen(before) != _seen(state):
            self.refresh()

    def render(self) -> RenderResult:
        width = self.size.width
        for mode, brand, word in product((True, False), repeat=3):
            left = Content(GAP).join(self._left(brand=brand, word=word))
            right = list(self._right(mode=mode))
            used = left.cell_length + sum(len(GAP) + piece.cell_length for piece in right)
            if used <= width:
                break
        path = _tail(self._state.path, width - used - len(GAP))
        right += [Content.styled(path, MUTED)] if path else []
        end = Content(GAP).join(right)
        left = left.truncate(max(0, width - end.cell_length), ellipsis=True, pad=True)
        return Content.assemble(left, end)

    def _left(self, *, brand: bool, word: bool) -> Iterator[Content]:
        state = self._state
        mark, colour = MARKS[state.link]
        if brand:
            yield Content.styled("voxtui", "bold $primary")
        word = word or state.link is not LinkState.OPEN  # where all is well, the mark alone says it
        yield Content.assemble((mark, colour), f" {state.link.value}" if word else "")
        match state.link:
            case LinkState.OPEN:
                yield Content(" → ".join(name for name in (state.transcriber, state.responder) if name))
            case LinkState.BROKEN:
                since = f"{monotonic() - self._since:.0f} s, try {state.tries}"
                yield Content.assemble(since, (", sound is kept", MUTED))
            case _ if state.progress:
                yield Content.styled(state.progress, MUTED)

    def _right(self, *, mode: bool) -> Iterator[Content]:
        state = self._state
        if state.link not in (LinkState.OPEN, LinkState.BROKEN):
            return
        if state.health.lag_ms >= LAG_MS:
            yield Content.styled(f"{state.health.lag_ms / 1000:.1f} s behind", "bold $text-warning")
        if mode and state.link is LinkState.OPEN:
            words = "hands-free" if state.floor.hands_free else "push-to-talk"
            if state.responder is not None:
                words += f" · answers {'on' if state.floor.answers else 'off'}"
            yield Content.styled(words, MUTED)
        if state.link is LinkState.OPEN and state.health.rtt_ms is not None:
            yield Content.styled(f"rtt {trip(state.health.rtt_ms)}", MUTED)


def _seen(state: State) -> tuple[object, ...]:
    """The parts of a state that are shown here."""
    engines = state.transcriber, state.responder, state.floor.hands_free, state.floor.answers
    return state.link, state.path, state.progress, state.tries, state.health, engines


def _tail(path: str, width: int) -> str:
    """The end of a path, which tells most."""
    if len(path) <= width:
        return path
    return f"…{path[1 - width :]}" if width >= SHORTEST else ""
