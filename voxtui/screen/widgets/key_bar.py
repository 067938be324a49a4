"""The bottom line: what the keys do now.  Step 12.

Keys that would do nothing are left out, and of the rest as many are shown as fit; `?` has them all.  It does not know
what a key does, only its word.
"""

from __future__ import annotations

from collections.abc import Iterator

from textual.app import RenderResult
from textual.content import Content
from textual.events import Click
from textual.screen import Screen
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Input

from voxtui.screen.widgets.blocks import MUTED
from voxtui.screen.widgets.commands import COMMANDS
from voxtui.session.transcript import State

ALWAYS = ("help", "quit")  # at the right end
FIRST = ("talk", "cancel", "reconnect", "mute", "push_to_talk", "save", "devices", "type")  # the most important ones
GAP = 2  # columns between two


class KeyBar(Widget):
    """One row of keys; a click does what the key does."""

    def on_mount(self) -> None:
        self._able: tuple[bool | None, ...] = ()
        self.screen.bindings_updated_signal.subscribe(self, self._updated)

    def show(self, state: State) -> None:
        """Draws anew when another state lets other keys do something."""
        able = tuple(self.app.check_action(command.action, ()) for command in COMMANDS)
        if able != self._able:
            self._able = able
            self.screen.refresh_bindings()

    def _updated(self, screen: Screen[object]) -> None:
        self.refresh()

    async def on_click(self, event: Click) -> None:
        if action := event.style.meta.get("action"):
            await self.app.run_action(f"app.{action}")

    def render(self) -> RenderResult:
        if isinstance(self.screen.focused, Input):  # the prompt has the focus and takes the letters
            return Content.assemble(*_key("enter", "send"), " " * GAP, *_key("esc", "back"))
        keys = dict(self._keys())
        end = [keys[action] for action in ALWAYS if action in keys]
        room = self.size.width - sum(key.cell_length + GAP for key in end)
        chosen = set()
        for action in sorted(keys.keys() - set(ALWAYS), key=lambda name: _rank(name, list(keys))):
            if (needed := keys[action].cell_length + GAP) <= room:
                chosen.add(action)
                room -= needed
        left = Content(" " * GAP).join(key for action, key in keys.items() if action in chosen)
        right = Content(" " * GAP).join(end)
        return Content.assemble(left, " " * max(0, self.size.width - left.cell_length - right.cell_length), right)

    def _keys(self) -> Iterator[tuple[str, Content]]:
        """Key and word of each action, in the order in which the app lists them."""
        for _, binding, _, _ in self.screen.active_bindings.values():
            if binding.show:
                name = self.app.get_key_display(binding)
                text = Content.assemble(*_key(name, binding.description))
                yield binding.action, text.stylize(Style.from_meta({"action": binding.action}))


def _key(name: str, word: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (name, "bold $primary"), (f" {word}", MUTED)


def _rank(action: str, order: list[str]) -> int:
    return FIRST.index(action) if action in FIRST else len(FIRST) + order.index(action)
