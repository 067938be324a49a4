"""Whether one is heard: the state of speech and the last seconds of the microphone's level."""

from __future__ import annotations

from collections import deque

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from voxtui.transcript import Link, Speech, State
from voxtui.widgets.blocks import MUTED, bars

FLOOR = -60.0  # dBFS that draw nothing
HISTORY = 400  # levels that are kept: more than any terminal has columns
LABEL = 12  # columns
SCALE = 8  # columns of the number at the right


class VoiceBar(Widget):
    """One row: state, waveform, level."""

    level: reactive[float] = reactive(-120.0, always_update=True)
    muted: reactive[bool] = reactive(False)
    speech: reactive[Speech] = reactive(Speech.QUIET)
    link: reactive[Link] = reactive(Link.CONNECTING)
    lost_ms: reactive[int] = reactive(0)

    def __init__(self) -> None:
        super().__init__(id="voice")
        self._levels: deque[float] = deque(maxlen=HISTORY)

    def show(self, state: State) -> None:
        self.speech, self.link, self.lost_ms = state.speech, state.link, state.dropped * 20

    def watch_level(self, level: float) -> None:
        self._levels.append(max(0.0, level - FLOOR))

    def render(self) -> RenderResult:
        label, colour = self._label()
        number = "" if self.level <= -120 else f"{self.level:.0f} dB"
        if self.lost_ms:
            number = f"-{self.lost_ms} ms"
        width = max(0, self.size.width - LABEL - SCALE)
        wave = bars(list(self._levels), width, 1, -FLOOR)[0]
        old, recent = width // 3, 2 * width // 3
        return Content.assemble(
            (label.ljust(LABEL), f"bold {colour}"),
            (wave[:old], _faded(colour, 35)),
            (wave[old:recent], _faded(colour, 60)),
            (wave[recent:], colour),
            (number.rjust(SCALE), MUTED),
        )

    def _label(self) -> tuple[str, str]:
        if self.link is not Link.OPEN:
            return "○ off", MUTED
        if self.muted:
            return "○ muted", "$text-error"
        return {
            Speech.QUIET: ("○ listening", "$secondary"),
            Speech.SPEAKING: ("● speaking", "$primary"),
            Speech.SETTLING: ("◐ finishing", "$accent"),
        }[self.speech]


def _faded(colour: str, percent: int) -> str:
    """What is past stands back."""
    return f"{colour.split()[0]} {percent}%"
