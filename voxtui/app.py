"""The screen.  The last step, 12, of a frame's path.

A worker runs the session and posts what happens; handlers here reduce it to the next `State` and hand that to the
widgets.  The app knows keys and layout; how sound and text travel lies below.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.theme import Theme
from textual.widgets import Footer, Input

from voxtui.client import ClientError, RealtimeClient, Wishes
from voxtui.runner import Run
from voxtui.sources import Silence, Source, SourceError
from voxtui.target import Target
from voxtui.transcript import (
    Connecting,
    Disconnected,
    Event,
    Link,
    Remark,
    State,
    Wiped,
    plain_text,
    reduce,
)
from voxtui.widgets.conversation import Conversation
from voxtui.widgets.help import HelpScreen
from voxtui.widgets.latency import LatencyPanel, LatencyStrip
from voxtui.widgets.messages import EventReceived, LevelMeasured
from voxtui.widgets.status_bar import StatusBar
from voxtui.widgets.voice import VoiceBar

PACKETS_PER_LEVEL = 4  # 80 ms: twelve bars a second look alive and cost nothing

DARK = Theme(
    name="voxtui-dark",
    primary="#ff8a5c",
    secondary="#56c8bb",
    accent="#f5c26b",
    success="#7bd88f",
    warning="#f5c26b",
    error="#ff6b81",
    foreground="#e8e6e3",
    background="#14151a",
    surface="#1b1d24",
    panel="#262932",
    dark=True,
)
LIGHT = Theme(
    name="voxtui-light",
    primary="#c8461b",
    secondary="#0b7a70",
    accent="#9a6200",
    success="#2e7d3a",
    warning="#9a6200",
    error="#c0283f",
    foreground="#23252b",
    background="#fbf9f6",
    surface="#f2eee8",
    panel="#e4dfd6",
    dark=False,
)


class Levels:
    """The loudest of a few packets, so that the screen is not told fifty times a second."""

    def __init__(self, post: Callable[[LevelMeasured], object]) -> None:
        self._post = post
        self._waiting: list[float] = []

    def __call__(self, dbfs: float) -> None:
        self._waiting.append(dbfs)
        if len(self._waiting) == PACKETS_PER_LEVEL:
            self._post(LevelMeasured(max(self._waiting)))
            self._waiting.clear()


class VoxtuiApp(App[None]):
    """One conversation with one voxd."""

    TITLE = "voxtui"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "mute", "mute"),
        Binding("c", "wipe", "clear"),
        Binding("y", "copy", "copy"),
        Binding("s", "save", "save"),
        Binding("i", "type", "type"),
        Binding("r", "reconnect", "reconnect"),
        Binding("t", "toggle_theme", "theme"),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
        Binding("escape", "leave_prompt", "back", show=False),
    ]

    def __init__(
        self,
        target: Target,
        *,
        open_source: Callable[[], Source],
        token: str | None = None,
        wishes: Wishes | None = None,
    ) -> None:
        super().__init__()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]
        self._target, self._token, self._wishes = target, token, wishes
        self._open_source = open_source
        self._state = State()
        self._session: Run | None = None
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = DARK.name

    def compose(self) -> ComposeResult:
        yield StatusBar(id="status")
        with Horizontal(id="body"):
            yield Conversation()
            yield LatencyPanel(id="panel")
        yield VoiceBar()
        yield LatencyStrip(id="strip")
        yield Input(placeholder="Type, and press enter", id="prompt")
        yield Footer(show_command_palette=False)

    @property
    def _main(self) -> Screen[object]:
        """The screen of the conversation, also while the help lies over it."""
        return self.screen_stack[0]

    def on_mount(self) -> None:
        self._main.query_one(Conversation).focus()
        self.action_reconnect()

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _converse(self) -> None:
        """One session, from its source to its end.  Runs in a worker: it posts, and touches no widget."""
        self._post(Connecting(self._target.label))
        source = await self._sound()
        try:
            async with RealtimeClient.connect(self._target, token=self._token, wishes=self._wishes) as client:
                self._session = Run(client, source, self._post, level=Levels(self.post_message))
                await self._session.run()
            self._post(Disconnected("The clip is over." if source.samples is not None else "voxd closed the session."))
        except (ClientError, SourceError) as error:
            self._post(Disconnected(str(error)))
        finally:
            self._session = None

    async def _sound(self) -> Source:
        """The microphone or the file; where there is none, silence, for one can still read and type."""
        try:
            return await asyncio.to_thread(self._open_source)
        except SourceError as error:
            self._post(Remark(str(error)))
            return Silence()

    def _post(self, event: Event) -> None:
        self.post_message(EventReceived(event))

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    @on(EventReceived)
    def _receive(self, message: EventReceived) -> None:
        if not self.screen_stack:  # the last messages of a worker may come after the screen has gone
            return
        before, self._state = self._state, reduce(self._state, message.event)
        if isinstance(message.event, Disconnected):
            self._state = reduce(self._state, Remark(f"{message.event.reason}  Press r to connect anew."))
        self._main.query_one(StatusBar).show(self._state)
        self._main.query_one(Conversation).show(self._state)
        self._main.query_one(VoiceBar).show(self._state)
        self._main.query_one(LatencyStrip).show(self._state)
        self._main.query_one(LatencyPanel).show(self._state)
        self._main.query_one("#prompt").display = self._state.responder is not None
        if (before.link, before.responder) != (self._state.link, self._state.responder):
            self.refresh_bindings()

    @on(LevelMeasured)
    def _hear(self, message: LevelMeasured) -> None:
        if not self.screen_stack:
            return
        self._main.query_one(VoiceBar).level = message.dbfs

    @on(Input.Submitted, "#prompt")
    async def _say(self, message: Input.Submitted) -> None:
        text = message.value.strip()
        if text and self._session is not None:
            message.input.clear()
            try:
                await self._session.say(text)
            except ClientError as error:
                self._post(Remark(str(error)))

    # ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that would do nothing are not shown."""
        if action == "reconnect":
            return self._state.link is Link.LOST
        if action == "type":
            return self._state.responder is not None
        return True

    def action_mute(self) -> None:
        if self._session is not None:
            self._session.muted = not self._session.muted
            self._main.query_one(VoiceBar).muted = self._session.muted

    def action_wipe(self) -> None:
        self._post(Wiped())

    def action_copy(self) -> None:
        self.copy_to_clipboard(plain_text(self._state))
        self.notify("Copied, if this terminal allows it.", markup=False)

    def action_save(self) -> None:
        path = Path(f"voxtui-{datetime.now():%Y%m%d-%H%M%S}.txt")
        try:
            path.write_text(plain_text(self._state), encoding="utf-8")
        except OSError as error:
            self.notify(f"Not saved: {error.strerror}.", severity="error", markup=False)
        else:
            self.notify(f"Saved as {path}.", markup=False)

    def action_type(self) -> None:
        self._main.query_one("#prompt").focus()

    def action_leave_prompt(self) -> None:
        self._main.query_one(Conversation).focus()

    def action_reconnect(self) -> None:
        self._main.query_one(VoiceBar).muted = False
        self.run_worker(self._converse(), name="session", group="session", exclusive=True)

    def action_toggle_theme(self) -> None:
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def action_help(self) -> None:
        self.push_screen(HelpScreen())
