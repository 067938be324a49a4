"""voxtui.screen.app: sessions on the screen, and what the keys do.  What it looks like:
tests/voxtui/screen/test_screens.py."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.strip import Strip

from shared.events import (
    ClientEvent,
    Content as Part,
    Item,
    ItemAdded,
    ItemCreate,
    OutputTextDelta,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
)
from shared.session_config import Extensions, RealtimeSession
from tests.support.fakes import FakeVoxd, utterance
from tests.support.scenes import (
    DEVICES,
    MARKUP,
    MICROPHONE,
    Hum,
    Scene,
    answered,
    answering,
    asked,
    dictated,
    opening,
    response,
    settle,
    until,
)
from voxtui.capture.microphone import InputDevice
from voxtui.capture.sources import Silence, Source
from voxtui.errors import SourceError
from voxtui.events import Connected, Connecting, Disconnected, Event, Floor, Remark
from voxtui.link.target import Target, unix_target
from voxtui.screen.app import VoxtuiApp
from voxtui.screen.widgets.conversation import Conversation
from voxtui.screen.widgets.devices import DevicesScreen, Trial
from voxtui.screen.widgets.help import HelpScreen
from voxtui.screen.widgets.key_bar import KeyBar
from voxtui.screen.widgets.latency import LatencyPanel, LatencyStrip
from voxtui.screen.widgets.messages import LevelMeasured
from voxtui.screen.widgets.themes import DARK, LIGHT
from voxtui.session.transcript import LinkState, State

SIZE = (80, 24)


def app_on(target: Target, source: Callable[[], Source] = Silence) -> VoxtuiApp:
    return VoxtuiApp(target, open_source=source, devices=lambda: DEVICES, open_device=lambda index: Hum(str(index)))


def shown(app: VoxtuiApp) -> str:
    """The rows of the conversation that are visible."""
    view = app.screen_stack[0].query_one(Conversation)
    return "\n".join(view.render_line(y).text.rstrip() for y in range(view.size.height))


def screen_text(app: VoxtuiApp) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips(app.size))


def drawn(app: VoxtuiApp) -> list[Strip]:
    """The visible rows with their colours."""
    view = app.screen_stack[0].query_one(Conversation)
    return [view.render_line(y) for y in range(view.size.height)]


def offered(app: VoxtuiApp) -> str:
    return str(app.screen_stack[0].query_one(KeyBar).render())


def state(app: VoxtuiApp) -> State:
    return app._state


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_words_arrive_and_the_screen_keeps_up_under_the_help() -> None:
    voxd = FakeVoxd([(200, utterance("a", 0, 100, "Hello ", "world", text="Hello world."))])
    async with voxd.serve() as target:
        app = app_on(target)
        async with app.run_test(size=SIZE) as pilot:
            await pilot.press("question_mark")
            await until(pilot, lambda: "Hello world." in shown(app))
            assert isinstance(app.screen, HelpScreen)
            await pilot.press("escape")
            assert not isinstance(app.screen, HelpScreen)


async def test_without_a_microphone_one_is_told_and_goes_on() -> None:
    def missing() -> Source:
        raise SourceError("No microphone is known.")

    async with FakeVoxd().serve() as target:
        app = app_on(target, missing)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: state(app).link is LinkState.OPEN and "No microphone is known." in shown(app))


async def test_a_clip_that_cannot_be_played_is_the_end() -> None:
    def missing() -> Source:
        raise SourceError("talk.wav: there is no such file.")

    async with FakeVoxd().serve() as target:
        app = VoxtuiApp(target, open_source=missing)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: state(app).link is LinkState.LOST and "no such file" in shown(app))
            assert "microphone" not in offered(app)


async def test_a_broken_link_is_replaced_by_itself() -> None:
    voxd = FakeVoxd([(100, [])], close=1012)
    async with voxd.serve() as target:
        app = app_on(target)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: state(app).link is LinkState.BROKEN)
            voxd.close = None
            await until(pilot, lambda: state(app).link is LinkState.OPEN and "Connected again" in shown(app))


async def test_a_lost_connection_and_a_new_one() -> None:
    voxd = FakeVoxd([(100, [])], close=1009)
    async with voxd.serve() as target:
        app = app_on(target)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: state(app).link is LinkState.LOST and "too long" in shown(app))
            await until(pilot, lambda: "r reconnect" in offered(app) and "mute" not in offered(app))
            voxd.close = None
            await pilot.press("r")
            await until(pilot, lambda: state(app).link is LinkState.OPEN)
            await until(pilot, lambda: "r reconnect" not in offered(app))


async def test_a_daemon_that_stays_away_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, seen = app_on(unix_target(tmp_path / "nobody.sock")), list[Event]()
    whole = app._post

    def post(event: Event) -> None:
        seen.append(event)
        whole(event)

    monkeypatch.setattr(app, "_post", post)
    async with app.run_test(size=SIZE) as pilot:
        for number in range(1, 4):
            await until(pilot, lambda number=number: sum(isinstance(each, Disconnected) for each in seen) == number)
            await pilot.press("r")
        (note,) = state(app).entries
        assert note.text.startswith("No voxd is running at")
        assert note.text.endswith("Press r to connect anew.")


async def test_typing_to_a_responder() -> None:
    def replies(event: ClientEvent) -> list[ServerEvent]:
        match event:
            case ItemCreate():
                text = event.item.content[0].text
                return [ItemAdded("", Item("t", "user", (Part("input_text", text=text),), "completed"), None)]
            case ResponseCreate():
                said = OutputTextDelta("", "r", "i", 0, 0, MARKUP)
                return [ResponseCreated("", response("in_progress")), said, ResponseDone("", response("completed"))]
            case _:
                return []

    async with FakeVoxd(respond="echo", replies=replies).serve() as target:
        app = app_on(target)
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: "type" in offered(app))
            await pilot.press("i", *"quiz")
            assert "enter send" in offered(app)
            await pilot.press("enter")
            await until(pilot, lambda: "quiz" in shown(app) and MARKUP in shown(app) and "total" in shown(app))
            await pilot.press("escape")
            assert "enter send" not in offered(app)


async def test_what_is_said_is_kept_while_it_is_said(tmp_path: Path) -> None:
    kept = tmp_path / "new" / "talk.txt"
    two = [(100, utterance("a", 0, 90, "Hello.")), (200, utterance("b", 100, 190, "And more."))]
    async with FakeVoxd(two).serve() as target:
        app = VoxtuiApp(target, open_source=Silence, keep=kept)
        assert app.kept is None
        async with app.run_test(size=SIZE) as pilot:
            await until(pilot, lambda: "And more." in shown(app))
            assert app.kept == kept
            assert kept.read_text() == "Hello.\n\nAnd more.\n\n"
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600


async def test_a_transcript_that_cannot_be_kept_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    scene = Scene([*opening(), *dictated(), *asked()], keep=tmp_path / "file" / "talk.txt")
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        assert " ".join(shown(scene).split()).count("cannot be kept") == 1
        assert scene.kept is None


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_push_to_talk_mute_and_answers() -> None:
    scene = Scene(opening("mini"))
    async with scene.run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        assert "space" not in offered(scene)
        await pilot.press("space")
        assert not state(scene).floor.talking
        await pilot.press("p")
        await until(pilot, lambda: not state(scene).floor.hands_free and "space talk" in offered(scene))
        await pilot.press("space")
        assert state(scene).floor.talking
        await pilot.press("space", "m", "a")
        await until(pilot, lambda: not state(scene).floor.answers)
        assert (state(scene).floor.talking, state(scene).floor.muted) == (False, True)
        await pilot.press("m", "a", "p")
        await until(pilot, lambda: state(scene).floor == opening("mini")[3])


@pytest.mark.parametrize("key", ["x", "escape"])
async def test_an_answer_is_stopped_by_a_key_that_is_there_only_then(key: str) -> None:
    scene = Scene([*opening("mini"), *asked()])
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        assert "stop" not in offered(scene)
        await pilot.press(key)
        for event in answering():
            scene._post(event)
        await until(pilot, lambda: "x stop" in offered(scene))
        await pilot.press(key)
        await until(pilot, lambda: scene.double.asked == ["cancel"])


async def test_clear_theme_and_copy() -> None:
    scene = Scene([*opening(), *dictated(), Remark("A note.")])
    async with scene.run_test(size=(120, 30)) as pilot:
        await settle(pilot)
        await pilot.press("y")
        assert scene.clipboard == "He was not an ill-disposed young man,\n"
        dark = drawn(scene)
        await pilot.press("t")
        await until(pilot, lambda: scene.theme == LIGHT.name and drawn(scene) != dark)
        await pilot.press("t")
        await until(pilot, lambda: scene.theme == DARK.name and drawn(scene) == dark)
        assert "c clear" in offered(scene)
        await pilot.press("c")
        await until(pilot, lambda: shown(scene).strip() == "" and "c clear" not in offered(scene))


@pytest.mark.parametrize(
    ("downs", "ending", "beginning"),
    [(0, "txt", "You: Would"), (1, "md", "**You**"), (2, "json", "{"), (3, "srt", "1\n00:00:00,000 --> ")],
)
async def test_saving(downs: int, ending: str, beginning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene = Scene([*opening("mini"), *asked(), *answered()])
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("s", *["down"] * downs, "enter")
        file = tmp_path / f"{scene.stem()}.{ending}"
        await until(pilot, file.exists)
        assert file.read_text().startswith(beginning)
        await pilot.press("s", *["down"] * downs, "enter")
        await until(pilot, lambda: any("File exists" in note.message for note in scene._notifications))


async def test_another_microphone() -> None:
    scene = Scene([*opening(), *dictated()])
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(scene.screen, DevicesScreen) and scene.screen.in_use)
        scene.post_message(LevelMeasured(-30.0))
        trial = scene.screen.query_one(Trial)
        await until(pilot, lambda: len(trial.levels) > 0)
        await pilot.press("down", "down")
        await until(pilot, lambda: "Device unavailable" in trial.failure)
        await pilot.press("up")
        await until(pilot, lambda: trial.failure == "" and len(trial.levels) > 0)
        await pilot.press("enter")
        await until(pilot, lambda: scene.double.asked == [("listen_to", DEVICES[1].name)])
        assert not isinstance(scene.screen, DevicesScreen)


async def test_no_microphone_to_choose_from() -> None:
    scene = Scene(opening())

    def none() -> list[object]:
        raise SourceError("No microphone is known to the sound system of this machine.")

    scene._devices = none  # type: ignore[assignment]
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(scene.screen, DevicesScreen))
        trial = scene.screen.query_one(Trial)
        await until(pilot, lambda: trial.failure.startswith("No microphone"))
        await pilot.press("enter", "escape")
        assert not isinstance(scene.screen, DevicesScreen)


async def test_the_palette_has_what_the_keys_do() -> None:
    scene = Scene([*opening(), *dictated()])
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        titles = [command.title for command in scene.get_system_commands(scene.screen)]
        assert {"Mute or unmute the microphone", "Save the conversation", "Quit", "More themes"} <= set(titles)
        assert not {"Stop the answer", "Connect anew", "Begin or end talking"} & set(titles)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(scene.screen, CommandPalette))
        await pilot.press(*"mute")
        await until(pilot, lambda: scene.screen.query_one("CommandList").option_count > 0)  # type: ignore[attr-defined]
        await pilot.press("enter", "enter")
        await until(pilot, lambda: state(scene).floor.muted)


async def test_no_name_can_touch_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a server, a sound system or an error calls itself, it is text."""
    name = f"{MARKUP}\x1b]0;owned\x07\x1b[2J\u202eevil"
    engines = Extensions(transcribe=name, respond=name, targets={name: 1.0})
    created = SessionCreated("", RealtimeSession(id="s", model="m", voxd=engines))
    floor = Floor(microphone=name)
    scene = Scene([Connecting(name, name), Connected(name), created, floor, *answered("r", name), Remark(name)])
    monkeypatch.setattr(
        scene, "_devices", lambda: [InputDevice(0, name, 1, 16_000, True), InputDevice(1, name, 1, 8_000, False)]
    )
    async with scene.run_test(size=(200, 50)) as pilot:
        await settle(pilot)
        pages = [screen_text(scene)]
        await pilot.press("d")
        await until(pilot, lambda: isinstance(scene.screen, DevicesScreen) and scene.screen.in_use)
        await pilot.press("down")
        await until(pilot, lambda: MARKUP in screen_text(scene))
        pages.append(screen_text(scene))
        await pilot.press("escape")
        scene._post(Connecting(name, name))
        scene._post(Disconnected(name))
        await settle(pilot)
        pages.append(screen_text(scene))
        assert [MARKUP in page for page in pages] == [True] * 3
        assert not set("".join(pages)) & set("\x1b\x07\u202e")


async def test_a_click_does_what_the_key_does() -> None:
    scene = Scene(opening())
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        column = offered(scene).index("mute")
        await pilot.click(KeyBar, offset=(column + 2, 0))
        await until(pilot, lambda: state(scene).floor.muted)


# ── the regions ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_stays_at_the_end_unless_one_has_scrolled_up() -> None:
    scene = Scene([*opening("mini"), *[event for n in range(20) for event in answered(f"r{n}", f"Answer {n}.")]])
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        view = scene.query_one(Conversation)
        assert "Answer 19." in shown(scene)
        await pilot.press("pageup")
        await until(pilot, lambda: "Answer 19." not in shown(scene))
        at = view.scroll_offset.y
        for event in answered("new", "One more."):
            scene._post(event)
        await settle(pilot)
        assert view.scroll_offset.y == at
        view.scroll_end(animate=False)
        await until(pilot, lambda: "One more." in shown(scene))
        await pilot.resize_terminal(100, 30)
        await until(pilot, lambda: view.size.width > 90 and "One more." in shown(scene))


async def test_marking_text_with_the_mouse() -> None:
    scene = Scene([*opening(), *dictated(), Disconnected("It is over.")])
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        view = scene.query_one(Conversation)
        row = next(y for y in range(view.size.height) if "He was" in view.render_line(y).text)
        await pilot.mouse_down(view, offset=(4, row + 1))
        await pilot.hover(view, offset=(70, row + 2))
        await pilot.mouse_up(view, offset=(70, row + 2))
        marked = scene.screen.get_selected_text() or ""
        assert "He was not an ill-disposed young man,\nfirst text 512 ms" in marked
        assert "▌" not in marked
        grounds = [{segment.style.bgcolor for segment in line if segment.style} for line in drawn(scene)]
        assert len(grounds[row - 1]) == 1
        assert grounds[row] - grounds[row - 1]


async def test_a_breach_is_seen_without_colour() -> None:
    slow: list[Event] = [*opening("mini"), *answered(engine=131.0), *answered("s", engine=71.0)]
    scene = Scene(slow)
    async with scene.run_test(size=SIZE) as pilot:
        await settle(pilot)
        assert "✗ engine 131 ms, over 100" in shown(scene)
        assert "✗▄" in str(scene.query_one(LatencyStrip).render())
        await pilot.resize_terminal(140, 40)
        await until(pilot, lambda: scene.query_one(LatencyPanel).size.width > 0)
        panel = str(scene.query_one(LatencyPanel).render())
        assert "target 100  ✗ 1/2" in panel
        assert MICROPHONE not in panel
