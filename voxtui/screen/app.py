"""The application on the screen.  Step 12, the last of a packet's path.

A worker runs the session and tells what happens; each event becomes the next `State` at once, and the widgets are
handed the newest one a few times in each moment.  The app knows keys and layout; how sound and text travel lies below.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.events import Paste
from textual.screen import Screen
from textual.widgets import Static

from shared.events import OutputTextDelta, Provisional, TranscriptionDelta
from voxtui.capture.blocking import in_thread
from voxtui.capture.microphone import InputDevice
from voxtui.capture.resilient import Ear
from voxtui.capture.sources import FileSource, Source
from voxtui.errors import ClientError, SourceError
from voxtui.events import Connecting, Disconnected, Event, Painted, Remark, Wiped
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.route import opened
from voxtui.link.target import Target
from voxtui.screen.main_screen import MainScreen
from voxtui.screen.terminal import Terminal
from voxtui.screen.widgets.commands import COMMANDS
from voxtui.screen.widgets.conversation import Conversation
from voxtui.screen.widgets.devices import DevicesScreen
from voxtui.screen.widgets.dialogs import SaveScreen
from voxtui.screen.widgets.help import HelpScreen
from voxtui.screen.widgets.key_bar import KeyBar
from voxtui.screen.widgets.latency import LatencyPanel, LatencyStrip
from voxtui.screen.widgets.levels import Levels
from voxtui.screen.widgets.messages import LevelMeasured
from voxtui.screen.widgets.pace import Pace
from voxtui.screen.widgets.prompt import Prompt
from voxtui.screen.widgets.status_bar import StatusBar
from voxtui.screen.widgets.themes import DARK, LIGHT, THEMES
from voxtui.screen.widgets.voice import VoiceBar
from voxtui.screen.widgets.welcome import Welcome
from voxtui.session.run import Run
from voxtui.session.saving import Keeper
from voxtui.session.transcript import LinkState, State, Voice, plain_text, reduce

WORDS = (TranscriptionDelta, OutputTextDelta, Provisional)  # events that come with each token
# The widgets that are handed the state.
SHOWN = StatusBar, Conversation, Welcome, VoiceBar, LatencyStrip, LatencyPanel, KeyBar


class VoxtuiApp(App[None]):
    """One conversation with one voxd."""

    TITLE = "voxtui"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    BINDINGS: ClassVar[list[BindingType]] = [
        *(command.binding() for command in COMMANDS),
        Binding("escape", "back", "back", show=False),
        Binding("ctrl+z", "suspend_process", "stop", show=False),
    ]

    def __init__(
        self,
        target: Target,
        *,
        open_source: Callable[[], Source],
        token: str | None = None,
        wishes: Wishes | None = None,
        theme: str = "dark",
        open_device: Callable[[int], Source] | None = None,
        devices: Callable[[], list[InputDevice]] | None = None,
        keep: Path | None = None,
        targets: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """`open_source`: a clip, or a microphone where `devices` and `open_device` give others to choose from.

        `theme`: dark, light, or one of Textual's.  `keep`: the file in which the transcript is kept while it grows.
        `targets`: what the person wants of a metric, ms."""
        super().__init__(driver_class=Terminal)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (110, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-flat"), (18, "-short"), (24, "-medium"), (30, "-tall")]
        self._target, self._token, self._wishes = target, token, wishes
        self._open_source, self._open_device, self._devices = open_source, open_device, devices
        self._keeper = Keeper(keep) if keep is not None else None
        self._state = State(targets=tuple(targets.items()))
        self._session: Run | None = None
        self._ending = False  # a signal has come
        self._order = asyncio.Lock()  # what the person asks for happens one after the other
        self._pace = Pace(self, self._paint, lambda ms: self._post(Painted(ms)))
        for own in THEMES.values():
            self.register_theme(own)
        self.theme = THEMES[theme].name if theme in THEMES else theme

    @property
    def kept(self) -> Path | None:
        """The file that holds the transcript, if anything was said."""
        return self._keeper.path if self._keeper is not None and self._keeper.kept else None

    def get_default_screen(self) -> Screen[object]:
        return MainScreen()

    def compose(self) -> ComposeResult:
        yield StatusBar(id="status")
        with Horizontal(id="body"):
            with Container(id="talk"):
                yield Conversation()
                yield Welcome()
            yield LatencyPanel(id="panel")
        yield VoiceBar()
        yield LatencyStrip(id="strip")
        yield Prompt()
        yield KeyBar(id="keys")
        yield Static("This terminal is too small: voxtui needs 60 × 18.", id="small", markup=False)

    @property
    def _main(self) -> Screen[object]:
        """The screen of the conversation, also while a dialog lies over it."""
        return self.screen_stack[0]

    def on_mount(self) -> None:
        self._main.query_one(Conversation).focus()
        self.action_reconnect()

    # ── the worker ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _converse(self) -> None:
        """Runs one session from its source to its end, in a worker: it posts messages and touches no widget."""
        self._connecting()
        try:
            source = await self._sound()
            async with (
                opened(self._target, self._token) as route,
                RealtimeClient.connect(
                    route, wishes=self._wishes, tell=self._connecting, remark=self._remark
                ) as client,
            ):
                self._session = Run(client, source, self._post, level=Levels(self.post_message))
                await self._session.run()
            if isinstance(source, FileSource):
                spoken = any(entry.voice is Voice.USER and entry.text.strip() for entry in self._state.entries)
                for remark in source.remarks(spoken=spoken or client.transcriber is None):
                    self._remark(f"{source.name}: {remark}.")
            self._post(Disconnected("The clip is over." if source.ends else "voxd closed the session."))
        except (ClientError, SourceError) as error:
            self._post(Disconnected(str(error)))
        finally:
            self._session = None

    def _connecting(self, progress: str = "") -> None:
        self._post(Connecting(self._target.label, progress))

    def _remark(self, sentence: str) -> None:
        self._post(Remark(sentence))

    async def _sound(self) -> Source:
        """Opens the source.  Where there is a choice of microphones, one that fails does not end it.  Raises
        SourceError."""
        if self._open_device is None:
            return await in_thread(self._open_source)
        return Ear(self._open_source, self._remark)

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    def _post(self, event: Event) -> None:
        """Takes one event at the moment of its receipt."""
        before, self._state = self._state, reduce(self._state, event)
        words = isinstance(event, WORDS)
        if isinstance(event, Disconnected):
            self._state = reduce(self._state, Remark(f"{event.reason}  Press r to connect anew."))
        if self._keeper is not None and not words:
            try:
                self._keeper.keep(before, self._state)
            except OSError as error:
                self._post(Remark(f"The transcript cannot be kept in {self._keeper.path}: {error.strerror}."))
                self._keeper = None
        self._pace.want(text=words)

    def _paint(self) -> None:
        if not self.screen_stack:  # the last words of a worker may come after the screen, or parts of it, have gone
            return
        for part in SHOWN:
            for widget in self._main.query(part):
                widget.show(self._state)  # type: ignore[attr-defined]  # mypy joins them to Widget
        self._main.query("#prompt").set_class(self._state.responder is not None, "-there")

    @on(LevelMeasured)
    def _hear(self, message: LevelMeasured) -> None:
        if self.screen_stack:
            for bar in self._main.query(VoiceBar):
                bar.level = message.dbfs
            if isinstance(self.screen, DevicesScreen):
                self.screen.level(message.dbfs)

    @on(Prompt.Submitted, "#prompt")
    def _say(self, message: Prompt.Submitted) -> None:
        text = self._main.query_one(Prompt).text
        if text and self._session is not None:
            message.input.clear()
            self._ask(lambda session: session.say(text))

    def on_paste(self, event: Paste) -> None:
        """Puts what is pasted into the prompt when no other widget takes it."""
        if self.screen is self._main and self.check_action("type", ()):
            self.action_type()
            self._main.query_one(Prompt).take(event.text)

    def on_resize(self) -> None:
        """Paints everything, even where the size is what it was: a terminal that was small for a moment, too short for
        two messages, has forgotten what did not fit, and Textual paints only what it believes to have changed."""
        if self.screen_stack:
            self.screen.refresh()

    @on(Terminal.Gone)
    def _hang_up(self) -> None:
        if not self._ending:
            self.end(signal.SIGHUP)

    def end(self, number: int) -> None:
        """Ends the program on a signal: in order, and at once when another comes."""
        if self._ending and self._driver is not None:
            self._driver.stop_application_mode()
            self._driver.close()
            os._exit(128 + number)
        self._ending = True
        self.exit(return_code=128 + number)

    # ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, what: Callable[[Run], Awaitable[None]]) -> None:
        """Asks something of the session in a worker, since the link may be slow."""

        async def asked() -> None:
            try:
                async with self._order:
                    if self._session is not None:
                        await what(self._session)
            except ClientError as error:
                self._post(Remark(str(error)))

        self.run_worker(asked(), group="asked")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hides keys that would do nothing."""
        state = self._state
        speaks = self._session is not None and state.link in (LinkState.OPEN, LinkState.BROKEN)
        match action:
            case "talk":
                return speaks and not state.floor.hands_free
            case "push_to_talk" | "mute":
                return speaks
            case "cancel":
                return state.answering
            case "reconnect":
                return state.link is LinkState.LOST
            case "type" | "converse":
                return speaks and state.responder is not None
            case "devices":
                return speaks and self._devices is not None
            case "save" | "copy":
                return bool(plain_text(state))
            case "wipe":
                return bool(state.entries)
        return True

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for command in COMMANDS:
            if self.check_action(command.action, ()):
                action = command.action
                yield SystemCommand(command.title, command.about, lambda action=action: self.run_action(action))
        yield SystemCommand("More themes", "choose among all there are", self.action_change_theme)

    def action_talk(self) -> None:
        if self._session is not None:
            self._session.talk(not self._state.floor.talking)

    def action_push_to_talk(self) -> None:
        self._ask(lambda session: session.hands_free(not self._state.floor.hands_free))

    def action_mute(self) -> None:
        if self._session is not None:
            self._session.mute(not self._state.floor.muted)

    def action_converse(self) -> None:
        self._ask(lambda session: session.converse(not self._state.floor.answers))

    def action_cancel(self) -> None:
        self._ask(lambda session: session.cancel())

    async def action_back(self) -> None:
        if self._main.query_one("#prompt").has_focus:
            self._main.query_one(Conversation).focus()
        elif self._state.answering:
            self.action_cancel()

    def action_wipe(self) -> None:
        self._post(Wiped())

    def action_copy(self) -> None:
        self.copy_to_clipboard(plain_text(self._state))
        self.notify("Copied, if this terminal allows it.", markup=False)

    def action_devices(self) -> None:
        if self._devices is not None and self._open_device is not None:
            used = self._state.floor.microphone
            self.push_screen(DevicesScreen(self._devices, self._open_device, used), self._listen_to)

    def _listen_to(self, device: InputDevice | None) -> None:
        if device is not None and self._open_device is not None:
            self._open_source = partial(self._open_device, device.index)
            if self._session is not None:
                self._session.listen_to(self._open_source)

    def action_save(self) -> None:
        self.push_screen(SaveScreen(self._state, self.stem()))

    def stem(self) -> str:
        """The stem of a name for a file that does not exist yet."""
        return f"voxtui-{datetime.now():%Y%m%d-%H%M%S}"

    def action_type(self) -> None:
        self._main.query_one("#prompt").focus()

    def action_reconnect(self) -> None:
        self.run_worker(self._converse(), name="session", group="session", exclusive=True)

    def action_toggle_theme(self) -> None:
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def action_help(self) -> None:
        self.push_screen(HelpScreen())
