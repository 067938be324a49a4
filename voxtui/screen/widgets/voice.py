"""The line that shows whether one is heard: the state of speech, the last seconds of the level, which microphone.  Step
12.

It does not know where the level is measured.
"""

from __future__ import annotations

from collections import deque

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from voxtui.events import Floor
from voxtui.screen.widgets.blocks import MUTED, bars
from voxtui.session.transcript import LinkState, Speech, State

FLOOR = -60.0  # dBFS that draw nothing
HISTORY = 400  # levels that are kept: more than any terminal has columns
LABEL = 14  # columns
SCALE = 9  # columns of the number at the right
NAME = 3  # one column in so many is for the microphone's name
ROOMY = 70  # columns from which on there is room for it


def waveform(levels: deque[float], width: int, colour: str) -> list[tuple[str, str]]:
    """One row of bars; older ones are dimmer."""
    wave = bars(list(levels), width, 1, -FLOOR)[0]
    old, recent = width // 3, 2 * width // 3
    faded = colour.split()[0]
    return [(wave[:old], f"{faded} 35%"), (wave[old:recent], f"{faded} 60%"), (wave[recent:], colour)]


def decibels(level: float) -> str:
    return "" if level <= -120 else f"{level:.0f} dB"


class VoiceBar(Widget):
    """One row with state, waveform, level and microphone."""

    level: reactive[float] = reactive(-120.0, always_update=True, init=False)
    floor: reactive[Floor] = reactive(Floor())
    speech: reactive[Speech] = reactive(Speech.QUIET)
    link: reactive[LinkState] = reactive(LinkState.CONNECTING)
    lost_ms: reactive[int] = reactive(0)

    def __init__(self) -> None:
        super().__init__(id="voice")
        self.levels: deque[float] = deque(maxlen=HISTORY)

    def show(self, state: State) -> None:
        self.speech, self.link, self.lost_ms = state.speech, state.link, state.dropped * 20
        self.floor = state.floor

    def watch_level(self, level: float) -> None:
        self.levels.append(max(0.0, level - FLOOR))

    def render(self) -> RenderResult:
        label, colour = self._label()
        number = f"-{self.lost_ms} ms" if self.lost_ms else decibels(self.level)
        name = Content("")
        if self.floor.microphone and self.size.width >= ROOMY:
            name = Content(f"   {self.floor.microphone}").truncate(self.size.width // NAME, ellipsis=True)
        width = max(0, self.size.width - LABEL - SCALE - name.cell_length)
        return Content.assemble(
            (label.ljust(LABEL), f"bold {colour}"),
            *waveform(self.levels, width, colour),
            (number.rjust(SCALE), MUTED),
            name.stylize(MUTED),
        )

    def _label(self) -> tuple[str, str]:
        if self.link not in (LinkState.OPEN, LinkState.BROKEN):
            return "○ off", MUTED
        if self.floor.muted:
            return "○ muted", "$text-error"
        if self.link is LinkState.BROKEN:
            return "◌ sound kept", "$text-warning"
        if not self.floor.microphone:
            return "○ no sound", MUTED
        if self.floor.talking:
            return "● talking", "$primary"
        if self.speech is Speech.SETTLING:
            return "◐ finishing", "$text-accent"
        if not self.floor.hands_free:
            return "○ space talks", MUTED
        return ("● speaking", "$primary") if self.speech is Speech.SPEAKING else ("○ listening", "$secondary")
