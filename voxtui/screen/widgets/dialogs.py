"""Dialogs over the conversation: the choice of a file's form.  Step 12.

It does not know how a conversation is written down.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from voxtui.screen.widgets.blocks import MUTED
from voxtui.session.saving import FORMS, write
from voxtui.session.transcript import State

Result = TypeVar("Result")


class Choices(OptionList):
    """A list of which one row is taken with enter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]


class Dialog(ModalScreen[Result]):
    """A screen over the conversation, which closes once."""

    def dismiss(self, result: Result | None = None) -> AwaitComplete:
        """Closes it.  The key behind the one that has closed it may still come here: it would close what is below."""
        return super().dismiss(result) if self.is_current else AwaitComplete()


class SaveScreen(Dialog[None]):
    """The dialog that writes the conversation in the form that is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,s", "dismiss", "close")]

    def __init__(self, state: State, stem: str) -> None:
        """`stem` is that of the new file's name."""
        super().__init__()
        self._state = state
        self._files = {name: f"{stem}.{ending}" for name, (ending, _) in FORMS.items()}

    def compose(self) -> ComposeResult:
        width = max(map(len, self._files)) + 3
        with Vertical(classes="dialog") as box:
            box.border_title = "save the conversation"
            box.border_subtitle = "enter saves · esc closes"
            rows = [Content.assemble(name.ljust(width), (file, MUTED)) for name, file in self._files.items()]
            yield Choices(*(Option(row, id=name) for row, name in zip(rows, self._files, strict=True)), markup=False)

    @on(OptionList.OptionSelected)
    def _chosen(self, message: OptionList.OptionSelected) -> None:
        name = message.option_id or ""
        try:
            write(Path(self._files[name]), FORMS[name][1](self._state))
        except OSError as error:
            self.notify(f"Not saved: {error.strerror}.", severity="error", markup=False)
        else:
            self.notify(f"Saved as {self._files[name]}.", markup=False)
        self.dismiss()
