"""Pasts to be drawn: the app with events instead of a session, and a session that only notes what is asked of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from shared.events import (
    Content as Part,
    Item,
    ItemAdded,
    OutputTextDelta,
    Provisional,
    Response,
    ResponseCreated,
    ResponseDone,
    SessionCreated,
    SpeechStarted,
    TranscriptionDelta,
)
from shared.latency import TurnMetrics
from shared.session_config import Extensions, RealtimeSession
from tests.support.fakes import utterance
from voxtui.capture.microphone import InputDevice
from voxtui.capture.sources import Packet, Silence, Source
from voxtui.errors import SourceError
from voxtui.events import Connected, Connecting, Event, Floor, Health, Measured, Painted
from voxtui.link.target import unix_target
from voxtui.screen.app import VoxtuiApp
from voxtui.screen.widgets.devices import DevicesScreen, Trial
from voxtui.screen.widgets.messages import LevelMeasured
from voxtui.screen.widgets.voice import VoiceBar

PATH = "unix:/run/user/1000/voxd/voxd.sock"
MICROPHONE = "Built-in Audio Analog Stereo"
MARKUP = "[@click=app.quit]x[/] [/b] [red]"
LEVELS = 300
TARGETS = {"ttft_engine_ms": 100.0, "ttft_server_ms": 120.0, "total_ms": 1500.0}
DEVICES = [
    InputDevice(0, MICROPHONE, 2, 48_000, True),
    InputDevice(3, "USB Condenser Microphone with a very long name", 1, 44_100, False),
    InputDevice(5, "HDA Intel PCH: ALC257 Analog (hw:0,0)", 2, 48_000, False),
]


class Session:
    """In the place of a Run: keeps what it was asked, and says what became of the floor."""

    def __init__(self, tell: Callable[[Event], None], floor: Floor) -> None:
        self.asked: list[object] = []
        self.floor = floor
        self._tell = tell

    def hold(self, **changes: bool | str) -> None:
        self.floor = replace(self.floor, **changes)  # type: ignore[arg-type]
        self._tell(self.floor)

    async def say(self, text: str) -> None:
        self.asked.append(("say", text))

    async def hands_free(self, on: bool) -> None:
        self.hold(hands_free=on, talking=False)

    async def converse(self, on: bool) -> None:
        self.hold(answers=on)

    async def cancel(self) -> None:
        self.asked.append("cancel")

    def talk(self, on: bool) -> None:
        self.hold(talking=on)

    def mute(self, on: bool) -> None:
        self.hold(muted=on)

    def listen_to(self, opener: Callable[[], Source]) -> None:
        self.asked.append(("listen_to", opener().name))


class Hum:
    """A device that hears a tone of some level, and then nothing more."""

    samples = truth = None
    dropped = 0

    def __init__(self, name: str) -> None:
        self.name = name

    async def packets(self) -> AsyncIterator[Packet]:
        for number in range(1, 400):
            amplitude = round(3000 * (1.1 + math.sin(number / 9)))
            yield Packet(320 * number, amplitude.to_bytes(2, "little", signed=True) * 320, 0)


def open_device(index: int) -> Source:
    if index == 5:
        raise SourceError("The microphone 'HDA Intel PCH' cannot be opened: Device unavailable.")
    return Hum(next(device.name for device in DEVICES if device.index == index))


class Scene(VoxtuiApp):
    """The app with a given past."""

    def __init__(
        self, events: list[Event], *, speaks: bool = True, theme: str = "dark", keep: Path | None = None
    ) -> None:
        self._past, self._speaks = events, speaks
        self.double = Session(self._post, Floor(microphone=MICROPHONE))
        super().__init__(
            unix_target(Path("/x")),
            open_source=Silence,
            theme=theme,
            keep=keep,
            open_device=open_device,
            devices=lambda: DEVICES,
        )

    async def _converse(self) -> None:
        self._session = self.double  # type: ignore[assignment]
        for event in self._past:
            if isinstance(event, Floor):
                self.double.floor = event
            self._post(event)
        for n in range(LEVELS if self._speaks else 0):
            self.post_message(LevelMeasured(-55 + 18 * abs(math.sin(n / 17)) + 22 * abs(math.sin(n / 5))))

    def _post(self, event: Event) -> None:
        """How long a painting took is not the same twice."""
        if not isinstance(event, Painted) or event in self._past:
            super()._post(event)

    def on_mount(self) -> None:
        self.query_one(Input).cursor_blink = False

    def stem(self) -> str:
        return "voxtui-20260102-030405"

    @property
    def settled(self) -> bool:
        """All that was told is painted."""
        heard = len(self._main.query_one(VoiceBar).levels)
        return self._session is not None and not self._pace.due and heard >= (LEVELS if self._speaks else 0)


async def settle(pilot: Pilot[None]) -> None:
    """Until nothing changes any more."""
    app = pilot.app
    assert isinstance(app, Scene)
    await until(pilot, lambda: app.settled)
    if isinstance(app.screen, DevicesScreen):
        trial = app.screen.query_one(Trial)
        for n in range(99 if app.screen.in_use else 0):
            app.post_message(LevelMeasured(-40 + 18 * math.sin(n / 7)))
        await until(pilot, lambda: trial.failure != "" or len(trial.levels) >= 99)
    await pilot.pause()


async def until(pilot: Pilot[None], true: Callable[[], bool]) -> None:
    """Lets the app work until something is so."""
    async with asyncio.timeout(60):
        while not true():
            await pilot.pause(0.002)  # without a number it also waits until the process is idle, 20 ms at least


# ── what happened ───────────────────────────────────────────────────────────────────────────────────────────────────


def response(status: str, key: str = "r") -> Response:
    state = "in_progress" if status == "in_progress" else "completed"
    return Response(key, state, (), None, "inf")


def opening(respond: str | None = None, floor: Floor | None = None) -> list[Event]:
    engines = Extensions(metrics=True, transcribe="whisper", respond=respond, targets=TARGETS if respond else None)
    created = SessionCreated("", RealtimeSession(id="s", model="m", voxd=engines))
    return [Connecting(PATH), Connected(PATH), created, floor or Floor(microphone=MICROPHONE), Health(rtt_ms=2)]


def transcribed() -> list[Event]:
    """Turns that were only written down."""
    finals = [612, 580, 700, 640, 910, 560, 590, 610, 720, 655, 600, 585, 640, 668]
    found = [
        TurnMetrics(first_words_ms=480.0 + v / 20, first_text_ms=980.0, endpoint_ms=510.0, final_ms=float(v), rtf=0.21)
        for v in finals
    ]
    return [Measured(f"past{n}", metrics, complete=True) for n, metrics in enumerate(found)]


def conversed(slowest: float = 96.0) -> list[Event]:
    """Turns that were answered, the last but two of them the slowest."""
    engine = [71, 64, 88, 69, 75, 92, 66, 70, 83, 68, slowest, 74, 79]
    gaps = [18.0, 21.0, 19.0, 24.0]
    found = [
        TurnMetrics(
            ttft_user_ms=560.0 + 2 * v,
            ttft_server_ms=v + 6.0,
            ttft_engine_ms=float(v),
            endpoint_ms=508.0,
            total_ms=760.0 + 5 * v,
            itl_ms=gaps,
        )
        for v in engine
    ]
    return [Measured(f"past{n}", metrics, complete=True) for n, metrics in enumerate(found)]


SAID = "Would you say that he was an ill-disposed young man?"
ANSWER = "Not ill-disposed, no, unless to be rather cold hearted and rather selfish is to be ill-disposed."
WRITTEN = "He was not an ill-disposed young man,"


def said(key: str, text: str, metrics: TurnMetrics) -> list[Event]:
    return [*utterance(key, 0, 900, text, metrics=False), Measured(key, metrics, complete=False)]


def dictated() -> list[Event]:
    return said(
        "a",
        WRITTEN,
        TurnMetrics(first_words_ms=318.0, first_text_ms=512.0, endpoint_ms=530.0, final_ms=668.0, rtf=0.22),
    )


def speaking() -> list[Event]:
    return [
        SpeechStarted("", 0, "b"),
        TranscriptionDelta("", "b", 0, "Had he married a more amiable woman, he might have been made still"),
        Provisional("", "b", "more respectable"),
    ]


def asked() -> list[Event]:
    return said("q", SAID, TurnMetrics(first_words_ms=311.0, first_text_ms=498.0, final_ms=655.0, rtf=0.24))


def answered(key: str = "r", text: str = ANSWER, *, engine: float = 79.0, total: float = 1210.0) -> list[Event]:
    metrics = TurnMetrics(ttft_user_ms=718.0, ttft_engine_ms=engine, total_ms=total)
    return [
        ResponseCreated("", response("in_progress", key)),
        OutputTextDelta("", key, "i", 0, 0, text),
        ResponseDone("", response("completed", key)),
        Measured(key, metrics, complete=True),
    ]


def answering(text: str = "Not ill-disposed, no, unless to be rather cold") -> list[Event]:
    return [
        ResponseCreated("", response("in_progress", "open")),
        OutputTextDelta("", "open", "i", 0, 0, text),
        Measured("open", TurnMetrics(ttft_user_ms=702.0), complete=False),
    ]


def typed(text: str, key: str = "t") -> Event:
    return ItemAdded("", Item(key, "user", (Part("input_text", text=text),), "completed"), None)
