"""voxtui.app and its widgets: keys, streaming text, and what the screen looks like (SVG, to be read as code).

The pictures have no clock and no cursor in them.  After a change that is meant: `pytest tests/test_voxtui_app.py
--snapshot-update`, then look at the difference."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import Input

from shared.events import (
    ClientEvent,
    Item,
    ItemAdded,
    ItemCreate,
    OutputTextDelta,
    Provisional,
    Response,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    SpeechStarted,
    TranscriptionDelta,
)
from shared.events import (
    Content as Part,
)
from shared.latency import TurnMetrics
from shared.session_config import Extensions, RealtimeSession
from tests.fakes import FakeVoxd, utterance
from voxtui.app import DARK, LIGHT, VoxtuiApp
from voxtui.sources import Silence, Source, SourceError
from voxtui.target import Target, unix_target
from voxtui.transcript import Connected, Connecting, Disconnected, Entry, Event, Link, Measured, Progress, Remark, Voice
from voxtui.widgets.blocks import bars
from voxtui.widgets.conversation import EntryView, rendered
from voxtui.widgets.help import HelpScreen
from voxtui.widgets.messages import LevelMeasured
from voxtui.widgets.voice import VoiceBar

PATH = "unix:/run/user/1000/voxd/voxd.sock"
SAID = "He was not an ill-disposed young man,"
MARKUP = "[@click=app.quit]x[/] [/b] [red]"


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Scene(VoxtuiApp):
    """The app with a given past instead of a session."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__(unix_target(Path("/x")), open_source=Silence)
        self._past = events

    async def _converse(self) -> None:
        for event in self._past:
            self._post(event)
        for n in range(300):
            self.post_message(LevelMeasured(-55 + 18 * abs(math.sin(n / 17)) + 22 * abs(math.sin(n / 5))))


def answer(status: str) -> Response:
    return Response("r", "in_progress" if status == "in_progress" else "completed", None, (), None, "inf", None, None)


def opening(respond: str | None = None) -> list[Event]:
    engines = Extensions(metrics=True, transcribe="whisper", respond=respond)
    created = SessionCreated("", RealtimeSession(id="s", model="m", voxd=engines))
    return [Connecting(PATH), Connected(PATH), created]


def turns() -> list[Event]:
    finals = [612, 580, 700, 640, 910, 560, 590, 610, 720, 655, 600, 585, 640, 668]
    found = [TurnMetrics(first_text_ms=480.0, endpoint_ms=510.0, final_ms=float(value), rtf=0.21) for value in finals]
    return [Measured(f"past{n}", metrics, complete=True) for n, metrics in enumerate(found)]


def talk() -> list[Event]:
    metrics = TurnMetrics(first_text_ms=512.0, endpoint_ms=530.0, final_ms=668.0, rtf=0.22)
    return [
        *utterance("a", 0, 9, SAID, metrics=False),
        Measured("a", metrics, complete=False),
        Remark("The microphone is silent."),
        SpeechStarted("", 0, "b"),
        TranscriptionDelta("", "b", 0, "Had he married a more amiable woman, he might have been made still"),
        Provisional("", "b", "more respectable"),
    ]


def reply() -> list[Event]:
    return [
        ResponseCreated("", answer("in_progress")),
        OutputTextDelta("", "r", "i", 0, 0, f"Unless to be rather cold hearted is to be ill-disposed. {MARKUP}"),
        ResponseDone("", answer("completed")),
        Measured("r", TurnMetrics(ttft_user_ms=580.0, total_ms=1210.0), complete=True),
    ]


Compare = Callable[..., bool]
SMALL, LARGE = (80, 24), (160, 48)


def test_small(snap_compare: Compare) -> None:
    assert snap_compare(Scene([*opening(), *turns(), *talk()]), terminal_size=SMALL)


def test_large_with_answers(snap_compare: Compare) -> None:
    assert snap_compare(Scene([*opening("mini"), *turns(), *reply(), *talk()]), terminal_size=LARGE)


def test_light(snap_compare: Compare) -> None:
    scene = Scene([*opening("mini"), *turns(), *reply(), *talk()])
    assert snap_compare(scene, terminal_size=SMALL, press=["t"])


def test_empty(snap_compare: Compare) -> None:
    assert snap_compare(Scene(opening()), terminal_size=SMALL)


def test_lost(snap_compare: Compare) -> None:
    assert snap_compare(Scene([*opening(), *talk(), Disconnected("voxd is shutting down.")]), terminal_size=SMALL)


def test_help(snap_compare: Compare) -> None:
    assert snap_compare(Scene([*opening(), *talk()]), terminal_size=SMALL, press=["question_mark"])


# ── behaviour ───────────────────────────────────────────────────────────────────────────────────────────────────────


def app_on(target: Target, source: Callable[[], Source] = Silence) -> VoxtuiApp:
    return VoxtuiApp(target, open_source=source)


async def until(pilot: Pilot[None], true: Callable[[], bool]) -> None:
    """Lets the app work until something is so."""
    async with asyncio.timeout(10):
        while not true():
            await pilot.pause()


def shown(app: VoxtuiApp) -> list[str]:
    return [str(view.render()) for view in app.screen_stack[0].query(EntryView)]


def link(app: VoxtuiApp) -> Link:
    return app.screen_stack[0].query_one(VoiceBar).link


def saved(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.glob("voxtui-*.txt")]


async def test_words_arrive_and_the_screen_keeps_up_under_the_help() -> None:
    voxd = FakeVoxd([(200, utterance("a", 0, 100, "Hello ", "world", text="Hello world."))])
    async with voxd.serve() as target:
        app = app_on(target)
        async with app.run_test(size=SMALL) as pilot:
            await pilot.press("question_mark")
            await until(pilot, lambda: any("Hello world." in text for text in shown(app)))
            assert isinstance(app.screen, HelpScreen)
            await pilot.press("escape")
            assert not isinstance(app.screen, HelpScreen)


async def test_without_a_microphone_one_is_told_and_goes_on() -> None:
    def missing() -> Source:
        raise SourceError("No microphone is known.")

    async with FakeVoxd().serve() as target:
        app = app_on(target, missing)
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: link(app) is Link.OPEN and shown(app) == ["No microphone is known."])


async def test_a_lost_connection_and_a_new_one() -> None:
    voxd = FakeVoxd([(100, [])], close=1012)
    async with voxd.serve() as target:
        app = app_on(target)
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: link(app) is Link.LOST and "shutting down" in "".join(shown(app)))
            voxd.close = None
            await pilot.press("r")
            await until(pilot, lambda: link(app) is Link.OPEN)


async def test_mute_clear_theme_and_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with FakeVoxd([(100, utterance("a", 0, 90, "Hello."))]).serve() as target:
        app = app_on(target)
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: "rtf" in "".join(shown(app)))
            await pilot.press("m")
            assert app.query_one(VoiceBar).muted
            await pilot.press("m", "s", "y")
            assert not app.query_one(VoiceBar).muted
            assert saved(tmp_path) == ["Hello.\n"]
            assert app.clipboard == "Hello.\n"
            await pilot.press("t")
            assert app.theme == LIGHT.name
            await pilot.press("t")
            assert app.theme == DARK.name
            await pilot.press("c")
            await until(pilot, lambda: shown(app) == [])


async def test_typing_to_a_responder() -> None:
    def replies(event: ClientEvent) -> list[ServerEvent]:
        match event:
            case ItemCreate():
                text = event.item.content[0].text
                return [ItemAdded("", Item("t", "user", (Part("input_text", text=text),), "completed"), None)]
            case ResponseCreate():
                said = OutputTextDelta("", "r", "i", 0, 0, MARKUP)
                return [ResponseCreated("", answer("in_progress")), said, ResponseDone("", answer("completed"))]
            case _:
                return []

    async with FakeVoxd(respond="echo", replies=replies).serve() as target:
        app = app_on(target)
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: link(app) is Link.OPEN)
            await until(pilot, lambda: app.query_one("#prompt", Input).display)
            await pilot.press("i", *"quiz", "enter")
            await until(pilot, lambda: len(shown(app)) == 2 and "total" in shown(app)[1])
            assert shown(app)[0] == "quiz"
            assert shown(app)[1].startswith(MARKUP)


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Entry("a", Voice.USER, "One", " two"), "One two ▍"),
        (Entry("a", Voice.USER), "▍"),
        (Entry("a", Voice.USER, heard=True, progress=Progress.DONE), "(spoken)"),
        (Entry("a", Voice.USER, MARKUP, progress=Progress.BROKEN, remark="lost"), f"{MARKUP}\nlost"),
        (
            Entry("a", Voice.USER, "x", progress=Progress.DONE, metrics=TurnMetrics(final_ms=640.4, rtf=0.217)),
            "x\nfinal 640 ms  ·  rtf 0.22",
        ),
    ],
)
def test_an_entry(entry: Entry, text: str) -> None:
    found: Any = rendered(entry)
    assert isinstance(found, Content)
    assert found.plain == text


def test_bars() -> None:
    assert bars([0, 4, 8], 4, 1, 8) == [" ▁▄█"]
    assert bars([1, 2, 3, 4], 2, 2, 4) == ["▄█", "██"]
    assert bars([], 3, 1, 0) == ["   "]
    assert bars([1], 0, 1, 1) == [""]
