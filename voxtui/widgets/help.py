"""The page behind `?`: what the keys do and what the numbers mean."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from voxtui.widgets.blocks import MUTED

KEYS = (
    ("m", "mute: silence is sent instead of the microphone"),
    ("c", "clear the screen; the server keeps its context"),
    ("y", "copy the conversation to the clipboard"),
    ("s", "save the conversation as a text file in this folder"),
    ("r", "connect anew after a lost connection"),
    ("i", "type instead of speaking, where there is a responder"),
    ("t", "dark or light"),
    ("ctrl+p", "every command, and more themes"),
    ("q", "quit"),
)
METRICS = (
    ("first_text_ms", "you begin to speak → the first word is here"),
    ("endpoint_ms", "you stop speaking → the turn is known to be over"),
    ("final_ms", "you stop speaking → the final text is here"),
    ("ttft_user_ms", "you stop speaking → the first word of the answer"),
    ("total_ms", "the turn is over → the answer's last word"),
    ("rtf", "computing ÷ audio; below 1 keeps up"),
)


class HelpScreen(ModalScreen[None]):
    """Closes with the key that opened it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as page:
            page.border_title = "voxtui"
            page.border_subtitle = "esc closes"
            yield Static(_list("Keys", KEYS, 10), markup=False)
            yield Static(_list("Latency", METRICS, 15), markup=False)


def _list(title: str, rows: tuple[tuple[str, str], ...], width: int) -> Content:
    lines = [Content.styled(title, "bold $primary")]
    lines += [Content.assemble((name.ljust(width), "bold"), (what, MUTED)) for name, what in rows]
    return Content("\n").join(lines)
