"""What the screen looks like in every state (SVG, to be read as code and looked at).

The pictures have no clock and no cursor in them.  The top and the bottom line have pictures of their own, and are
hidden in the others, so that a new key or a new word of the link changes few of them; the whole screen is pictured by
size.

After a change that is meant: `pytest tests/voxtui/screen/test_screens.py --snapshot-update`, then look at the
difference.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot
from textual.widget import Widget

from shared.latency import TurnMetrics
from tests.support.scenes import (
    MARKUP,
    MICROPHONE,
    PATH,
    Scene,
    answered,
    answering,
    asked,
    conversed,
    dictated,
    opening,
    said,
    settle,
    speaking,
    transcribed,
    typed,
)
from voxtui.events import Connecting, Disconnected, Event, Floor, Health, Painted, Relinked, Remark, Unlinked
from voxtui.screen.widgets import status_bar
from voxtui.screen.widgets.key_bar import KeyBar
from voxtui.screen.widgets.status_bar import StatusBar

Compare = Callable[..., bool]
LEAST, SMALL, LARGE = (60, 18), (80, 24), (160, 48)
PAINTED: list[Event] = [Painted(ms) for ms in (14.0, 17.0, 15.0, 21.0)]
HELD = Floor(hands_free=False, microphone=MICROPHONE)
TALKING = Floor(hands_free=False, talking=True, microphone=MICROPHONE)
GONE = "No microphone is known to the sound system of this machine.  It is tried again until it works."


@pytest.fixture(autouse=True)
def _clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_bar, "monotonic", lambda: 0.0)


def keys(*pressed: str, show: Callable[[Widget], bool] = lambda widget: True) -> Callable[[Pilot[None]], object]:
    """Presses each key when the one before has done its work; then hides the regions of the screen that `show`
    denies."""

    async def press(pilot: Pilot[None]) -> None:
        await settle(pilot)
        for key in pressed:
            await pilot.press(key)
            await settle(pilot)
        for widget in pilot.app.screen_stack[0].walk_children(Widget):
            if not widget.children and not show(widget):
                widget.visible = False
        await settle(pilot)

    return press


def long() -> list[Event]:
    """More than fits, with text in it that would like to be more than text."""
    events: list[Event] = []
    for number in range(12):
        events += said(
            f"q{number}", f"{number + 1}. And what became of him then?", TurnMetrics(final_ms=600.0 + number)
        )
        events += answered(
            f"r{number}", "He had a wife and one little boy; " * 3 + f"{MARKUP} \N{BOOKS} 本を読む。\n\n- so it was"
        )
    return events


DICTATION = [*opening(), *PAINTED, *transcribed(), *dictated(), *speaking()]
TALK = [*opening("mini"), *PAINTED, *conversed(), *asked(), *answered()]
SLOW = [*opening("mini"), *PAINTED, *conversed(132.0), *asked(), *answered(engine=131.0, total=1702.0)]
BROKEN = [*DICTATION, Health(rtt_ms=2, lag_ms=2500), Unlinked("The server did not answer.", 3)]
BACK = [*BROKEN, Relinked(3400, 3, 200, fresh=False), Health(rtt_ms=4, lag_ms=1500, lost_ms=200)]
LOADING: list[Event] = [Connecting(PATH), Connecting(PATH, "whisper: loading weights, 2 of 3")]
MUTED = [*opening(floor=Floor(muted=True, microphone=MICROPHONE)), *dictated()]
LOST = [*opening(), *transcribed(), *dictated(), *speaking(), Disconnected("voxd is shutting down.")]
TYPED = [*opening("mini", Floor(answers=False, microphone=MICROPHONE)), typed("Is anybody there?"), *asked()]

SCENES: dict[str, list[Event]] = {
    "first_run": opening(),
    "first_conversation": opening("mini"),
    "loading": LOADING,
    "listening": TALK,
    "speaking": DICTATION,
    "streaming": [*TALK, *answering()],
    "long_conversation": [*opening("mini"), *PAINTED, *conversed(), *long(), *answering()],
    "breach": SLOW,
    "reconnecting": BROKEN,
    "reconnected": BACK,
    "error": LOST,
    "no_microphone": [*opening(floor=Floor()), Remark(GONE)],
    "nobody_there": [Connecting(PATH), Disconnected(f"No voxd is running at {PATH}.  Start one with `voxd start`.")],
    "push_to_talk": opening("mini", HELD),
    "talking": [*opening("mini", TALKING), *conversed(), *asked(), *answered()],
    "muted": MUTED,
    "answers_off": TYPED,
}
SILENT = {"first_run", "first_conversation", "loading", "no_microphone", "nobody_there"}


def in_the_middle(widget: Widget) -> bool:
    return not isinstance(widget, (StatusBar, KeyBar))


LINES: dict[str, type[Widget]] = {"top": StatusBar, "bottom": KeyBar}
LINE_STATES = ("first_run", "loading", "streaming", "reconnecting", "error", "no_microphone", "push_to_talk", "muted")


@pytest.mark.parametrize("name", LINE_STATES)
@pytest.mark.parametrize("line", LINES)
def test_line(line: str, name: str, snap_compare: Compare) -> None:
    scene = Scene(SCENES[name], speaks=name not in SILENT)
    before = keys(show=lambda widget: isinstance(widget, LINES[line]))
    assert snap_compare(scene, terminal_size=SMALL, run_before=before)


# Each state in both sizes and both themes, two of the four at once; the others are among the slow tests.  They are two
# functions, for pictures of a function that ran in part count as left over.
def _look(name: str, size: tuple[int, int], theme: str, snap_compare: Compare) -> None:
    scene = Scene(SCENES[name], speaks=name not in SILENT, theme=theme)
    assert snap_compare(scene, terminal_size=size, run_before=keys(show=in_the_middle))


@pytest.mark.parametrize(("size", "theme"), [(SMALL, "dark"), (LARGE, "light")], ids=["small-dark", "large-light"])
@pytest.mark.parametrize("name", SCENES)
def test_state(name: str, size: tuple[int, int], theme: str, snap_compare: Compare) -> None:
    _look(name, size, theme, snap_compare)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "theme"), [(SMALL, "light"), (LARGE, "dark")], ids=["small-light", "large-dark"])
@pytest.mark.parametrize("name", SCENES)
def test_state_in_other_looks(name: str, size: tuple[int, int], theme: str, snap_compare: Compare) -> None:
    _look(name, size, theme, snap_compare)


@pytest.mark.parametrize("size", [LEAST, (200, 60), (59, 18)], ids=["least", "most", "too_small"])
def test_sizes(size: tuple[int, int], snap_compare: Compare) -> None:
    assert snap_compare(Scene([*SLOW, *answering()]), terminal_size=size, run_before=keys())


@pytest.mark.parametrize(
    ("pressed", "size", "theme"),
    [
        (["d"], SMALL, "dark"),
        (["d"], SMALL, "light"),
        (["d"], LARGE, "dark"),
        (["d", "down"], LARGE, "light"),
        (["d", "down", "down"], SMALL, "dark"),
        (["s"], SMALL, "dark"),
        (["question_mark"], SMALL, "dark"),
        (["question_mark"], LARGE, "light"),
        (["i"], SMALL, "dark"),
        (["d"], LEAST, "dark"),
        (["question_mark"], LEAST, "dark"),
    ],
    ids=[
        *(
            "devices",
            "devices_light",
            "devices_large",
            "other_device",
            "busy_device",
            "save",
            "help",
            "help_large",
            "typing",
        ),
        *("devices_least", "help_least"),
    ],
)
def test_over_it(pressed: list[str], size: tuple[int, int], theme: str, snap_compare: Compare) -> None:
    before = keys(*pressed, show=in_the_middle)
    assert snap_compare(Scene(TALK, theme=theme), terminal_size=size, run_before=before)
