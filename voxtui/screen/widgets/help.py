"""The page behind `?`: what the keys do and what the numbers mean.  Step 12.

It takes both from their tables (`commands`, `shared.latency`) and knows nothing of a session.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

from shared.latency import METRICS
from voxtui.screen.widgets.blocks import BREACH, MUTED
from voxtui.screen.widgets.commands import COMMANDS
from voxtui.screen.widgets.dialogs import Dialog
from voxtui.screen.widgets.folding import Folded

COLUMN = 16


class HelpScreen(Dialog[None]):
    """The help page, which closes with the key that opened it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        keys = [(command.display or command.key, command.about) for command in COMMANDS]
        keys.insert(-2, ("ctrl+p", "every command by name, and more themes"))
        figures = [(metric.label, metric.plain) for metric in METRICS]
        figures.append((BREACH, "over its target: your own, or the daemon's"))
        with VerticalScroll(classes="dialog -page") as page:
            page.border_title = "voxtui"
            page.border_subtitle = "↑ ↓ scroll · esc closes"
            yield Definitions("Keys", keys)
            yield Definitions("Latency", figures)


class Definitions(Widget):
    """Words and what they mean, in two columns."""

    def __init__(self, title: str, rows: list[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._rows = title, rows

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._lines(width))

    def render(self) -> RenderResult:
        return Content("\n").join(self._lines(self.size.width))

    def _lines(self, width: int) -> list[Content]:
        lines = [Content.styled(self._title, "bold $primary")]
        for word, meaning in self._rows:
            folded = Folded(width - COLUMN)
            folded.update(meaning, 0)
            lines += [
                Content.assemble((("" if at else word).ljust(COLUMN), "bold"), (folded.row(at)[1], MUTED))
                for at in range(len(folded))
            ]
        return lines
