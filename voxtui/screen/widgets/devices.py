"""The choice of a microphone: every input with what it hears, live, before one is chosen.  Step 12.

The highlighted one is listened to for as long as it is highlighted, and no other; one that cannot be opened says why.
It does not know the sound system.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult, RenderResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from shared.audio import level_dbfs, pcm16_to_float
from shared.safe_text import safe_line
from voxtui.capture.microphone import InputDevice
from voxtui.capture.sources import Packet, Source
from voxtui.errors import SourceError
from voxtui.screen.widgets.blocks import MUTED
from voxtui.screen.widgets.dialogs import Choices, Dialog
from voxtui.screen.widgets.levels import Levels
from voxtui.screen.widgets.voice import FLOOR, HISTORY, SCALE, decibels, waveform

NAME = 44  # columns at most
ABOUT = 32  # columns of a row beside the name, the frame included


class DeviceLevel(Message):
    """How loud it is at the device that is tried, or why it cannot be heard."""

    def __init__(self, index: int, found: float | str) -> None:
        super().__init__()
        self.index, self.found = index, found


class Found(Message):
    """The devices there are."""

    def __init__(self, devices: list[InputDevice]) -> None:
        super().__init__()
        self.devices = devices


class Trial(Widget):
    """One row: what is heard, or the sentence that says why not."""

    def __init__(self) -> None:
        super().__init__(id="trial")
        self.levels: deque[float] = deque(maxlen=HISTORY)
        self._latest = -120.0
        self.failure = ""

    def begin(self) -> None:
        self.levels.clear()
        self.failure, self._latest = "", -120.0
        self.refresh(layout=True)

    def hear(self, dbfs: float) -> None:
        self._latest = dbfs
        self.levels.append(max(0.0, dbfs - FLOOR))
        self.refresh()

    def fail(self, why: str) -> None:
        self.failure = why
        self.refresh(layout=True)

    def render(self) -> RenderResult:
        if self.failure:
            return Content.styled(self.failure, "$text-error")
        number = decibels(self._latest) if self.levels else "…"
        wave = waveform(self.levels, max(0, self.size.width - SCALE), "$primary")
        return Content.assemble(*wave, (number.rjust(SCALE), MUTED))


class DevicesScreen(Dialog[InputDevice | None]):
    """The dialog; it gives the device that was chosen, or nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,d", "dismiss", "close")]

    def __init__(
        self, devices: Callable[[], list[InputDevice]], open_device: Callable[[int], Source], used: str
    ) -> None:
        """`used`: the name of the microphone in use, whose level `level` is told: it is not opened twice."""
        super().__init__()
        self._list, self._open, self._used = devices, open_device, used
        self._devices: dict[int, InputDevice] = {}
        self._tried: int | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -page") as box:
            box.border_title = "microphone"
            box.border_subtitle = "enter listens · esc closes"
            yield Choices(markup=False)
            yield Trial()

    def on_mount(self) -> None:
        self.query_one(Choices).display = False
        self.run_worker(self._ask(), group="devices", exclusive=True)

    async def _ask(self) -> None:
        """Looks for devices, in a worker since a sound system may take its time."""
        try:
            self.post_message(Found(await asyncio.to_thread(self._list)))
        except SourceError as error:
            self.post_message(DeviceLevel(-1, str(error)))

    async def _listen(self, device: InputDevice) -> None:
        """Listens until another device is highlighted; it posts messages and touches no widget."""
        levels = Levels(lambda level: self.post_message(DeviceLevel(device.index, level.dbfs)))
        try:
            source = await asyncio.to_thread(self._open, device.index)
            # What is iterated is a generator, which holds the device until it is closed.
            async with aclosing(cast("AsyncGenerator[Packet, None]", source.packets())) as packets:
                async for packet in packets:
                    levels(level_dbfs(pcm16_to_float(packet.pcm)))
        except SourceError as error:
            self.post_message(DeviceLevel(device.index, str(error)))

    # ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────

    @on(Found)
    def _fill(self, message: Found) -> None:
        devices = [replace(device, name=safe_line(device.name)) for device in message.devices]
        self._devices = {device.index: device for device in devices}
        choices = self.query_one(Choices)
        choices.display = True
        choices.add_options([Option(self._row(device), id=str(device.index)) for device in devices])
        choices.focus()
        names = [device.name for device in devices]
        default = next((at for at, device in enumerate(devices) if device.default), 0)
        choices.highlighted = names.index(self._used) if self._used in names else default

    def _row(self, device: InputDevice) -> Content:
        """The row of a device: its name, and what it is."""
        name = Content(device.name).truncate(min(NAME, self.size.width - ABOUT), ellipsis=True, pad=True)
        what = "in use" if device.name == self._used else "default" if device.default else ""
        about = f"{device.channels} ch  {device.rate / 1000:>5g} kHz"
        return Content.assemble(name, (f"  {what:8}", "$primary"), (about, MUTED))

    @on(OptionList.OptionHighlighted)
    def _try(self, message: OptionList.OptionHighlighted) -> None:
        device = self._devices[int(message.option_id or -1)]
        self._tried = device.index
        self.query_one(Trial).begin()
        self.workers.cancel_group(self, "devices")
        if device.name != self._used:
            self.run_worker(self._listen(device), group="devices", exclusive=True)

    @on(OptionList.OptionSelected)
    def _chosen(self, message: OptionList.OptionSelected) -> None:
        self.dismiss(self._devices[int(message.option_id or -1)])

    @on(DeviceLevel)
    def _heard(self, message: DeviceLevel) -> None:
        if isinstance(message.found, str):
            self.query_one(Trial).fail(safe_line(message.found))
        elif message.index == self._tried:
            self.query_one(Trial).hear(message.found)

    @property
    def in_use(self) -> bool:
        """Whether the session listens to the highlighted device."""
        device = self._devices.get(-1 if self._tried is None else self._tried)
        return device is not None and device.name == self._used

    def level(self, dbfs: float) -> None:
        """Told the level of the microphone in use."""
        if self.in_use:
            self.query_one(Trial).hear(dbfs)
