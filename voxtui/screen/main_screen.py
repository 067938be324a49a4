"""The screen of the conversation, which paints each change of its layout.  Beside step 12.

It knows how Textual decides what to paint anew; not what is shown.
"""

from __future__ import annotations

from textual._compositor import Compositor, ReflowResult
from textual.geometry import Size
from textual.screen import Screen
from textual.widget import Widget


class _Compositor(Compositor):
    """Textual paints what lies elsewhere than at its last look.  But each question for a widget's size is a look, too:
    one between a change of style and the layout that follows hides the change, and rows of the old layout stay."""

    def __init__(self) -> None:
        super().__init__()
        self._laid_out = self._full_map

    def reflow(self, parent: Widget, size: Size) -> ReflowResult:
        self._full_map = self._laid_out
        found = super().reflow(parent, size)
        self._laid_out = self._full_map
        return found


class MainScreen(Screen[object]):
    """Textual's screen, with that compositor."""

    def __init__(self) -> None:
        super().__init__(id="_default")
        self._compositor = _Compositor()

    def _compositor_refresh(self) -> None:
        """Paints, or remembers that it has to: what is painted in a batch, or before the app runs, goes nowhere."""
        if self.app._batch_count or not self.app._running:
            self.refresh()
        else:
            super()._compositor_refresh()
