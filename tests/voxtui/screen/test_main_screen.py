"""voxtui.screen.main_screen: what was sent to a terminal is what the app believes, after any change of the layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyte
import pytest
from textual._compositor import CompositorUpdate
from textual.screen import Screen
from textual.widget import Widget

from tests.support.scenes import Scene, conversed, opening, settle, until
from voxtui.events import Remark

CHANGES: dict[str, Callable[[Scene], object]] = {
    "a prompt": lambda app: app.query_one("#prompt").add_class("-there"),
    "no prompt": lambda app: app.query_one("#prompt").remove_class("-there"),
    "the panel": lambda app: app.screen.remove_class("-narrow").add_class("-wide"),
    "the strip": lambda app: app.screen.remove_class("-wide").add_class("-narrow"),
    "a short terminal": lambda app: app.screen.remove_class("-medium").add_class("-short"),
    "a tall terminal": lambda app: app.screen.remove_class("-short").add_class("-tall"),
    "no voice": lambda app: app.query_one("#voice").set_styles("display: none;"),
    "the voice": lambda app: app.query_one("#voice").set_styles("display: block;"),
    "a tiny terminal": lambda app: app.screen.add_class("-tiny"),
    "no tiny terminal": lambda app: app.screen.remove_class("-tiny"),
}


class Sent(Scene):
    """Everything that it paints goes to a terminal emulator, too."""

    def __init__(self) -> None:
        super().__init__([*opening(None), *(Remark(f"remark {n}") for n in range(9))], speaks=False)
        self._emulator = pyte.Screen(80, 24)
        self._stream = pyte.Stream(self._emulator)

    def _display(self, screen: Screen[object], renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate) and self._running and not self._batch_count:
            self._stream.feed(renderable.render_segments(self.console))
        super()._display(screen, renderable)

    @property
    def held(self) -> list[str]:
        return [row.rstrip() for row in self._emulator.display]

    @property
    def believed(self) -> list[str]:
        return [strip.text.rstrip() for strip in self.screen._compositor.render_strips(self.size)]


@pytest.mark.parametrize("changes", [[*CHANGES], [*reversed(CHANGES)]], ids=["there", "back"])
async def test_a_question_for_a_size_hides_no_change_of_the_layout(changes: list[str]) -> None:
    app = Sent()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        for change in changes:
            app.screen._compositor._full_map_invalidated = True  # as after its first layout, and after each scroll
            CHANGES[change](app)
            sizes = [each.size for each in app.query(Widget)]
            assert sizes
            await pilot.pause()
            await until(pilot, lambda: not app.screen._layout_required)
            await until(pilot, lambda: app.held == app.believed)


async def test_what_is_painted_in_a_batch_is_painted_after_it() -> None:
    app = Sent()
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        with app.batch_update():
            app.query_one("#prompt").add_class("-there")
            app.screen._refresh_layout()
            await pilot.pause()
        await until(pilot, lambda: app.held == app.believed)


@pytest.mark.parametrize("key", ["question_mark", "d"])
async def test_a_dialog_closes_once(key: str) -> None:
    """The second of two keys that come together finds it gone, and leaves what is below."""
    scene = Scene([*opening("mini"), *conversed(132.0)])
    async with scene.run_test(size=(80, 24)) as pilot:
        await settle(pilot)
        below = scene.screen
        await pilot.press(key)
        await until(pilot, lambda: scene.screen is not below)
        dialog = scene.screen
        dialog.dismiss()
        dialog.dismiss()
        await until(pilot, lambda: scene.screen is below)
        await settle(pilot)
        assert scene.is_running
