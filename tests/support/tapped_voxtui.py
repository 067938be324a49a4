"""`voxtui` itself, with a side channel: at SIGUSR1 it says what its compositor holds.

It goes into the file $VOXTUI_TAP, and a title with the same number to the terminal: what came before that title is what
the terminal should hold then.  SIGUSR2 is a bug.

`hum` as the first argument: a microphone that hears a hum, for machines without one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
from rich.cells import cell_len
from rich.segment import Segment

import voxtui.capture.microphone
import voxtui.screen.app
from shared.audio import RATE
from tests.support.scenes import DEVICES, MICROPHONE
from voxtui.capture.sources import FileSource, Packet
from voxtui.cli import main
from voxtui.errors import SourceError


class Tapped(voxtui.screen.app.VoxtuiApp):
    def on_mount(self) -> None:
        self._number, self._wanted = 0, False
        self.set_interval(0.2, self._tell_soon)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._asked)
        loop.add_signal_handler(signal.SIGUSR2, lambda: self.call_later(self._break))

    def _break(self) -> None:
        raise RuntimeError("on purpose")

    def _asked(self) -> None:
        self._wanted = True
        self._tell_soon()

    def _tell_soon(self) -> None:
        """Until it is told: what waits for a dialog's refresh is forgotten when that dialog closes."""
        if self._wanted:
            self.call_after_refresh(self._tell)

    def _tell(self) -> None:
        assert self._driver is not None
        if not self._wanted:
            return
        self._wanted = False
        self._number += 1
        rows = [list(cells(row)) for row in self.screen._compositor.render_strips(self.size)]
        path = Path(os.environ["VOXTUI_TAP"])
        told = {"number": self._number, "rows": rows, "focus": str(self.focused)}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(path)
        self._driver.write(f"\x1b]2;tap {self._number}\x07")
        self._driver.flush()


def cells(row: object) -> Iterator[tuple[str, str, str, bool]]:
    """Sign, foreground, background, boldness of each; a wide sign is followed by an empty one."""
    for segment in row:  # type: ignore[attr-defined]
        assert isinstance(segment, Segment)
        style = segment.style
        colours = [
            "default" if style is None or (colour := of) is None else colour.get_truecolor().hex[1:]
            for of in ((style.color, style.bgcolor) if style else (None, None))
        ]
        for sign in segment.text:
            yield (sign, colours[0], colours[1], bool(style and style.bold))
            yield from [("", colours[0], colours[1], bool(style and style.bold))] * (cell_len(sign) - 1)


class Hum(FileSource):
    """A microphone near a fan: in real time, loud enough for the meter, and no speech.  While the tap has a neighbour
    that ends in `.unplugged`, it is not there."""

    def __init__(self, device: object) -> None:
        self._unplugged = Path(os.environ["VOXTUI_TAP"]).with_suffix(".unplugged")
        self._check()
        super().__init__(MICROPHONE, 0.02 * np.sin(np.arange(30 * RATE, dtype=np.float32) / 9))
        self.samples = self.truth = None

    def _check(self) -> None:
        if self._unplugged.exists():
            raise SourceError("The microphone is not there.")

    async def packets(self) -> AsyncIterator[Packet]:
        async for packet in super().packets():
            self._check()
            yield packet


def hum() -> None:
    voxtui.capture.microphone.Microphone = Hum  # type: ignore[misc,assignment]
    voxtui.capture.microphone.inputs = lambda: DEVICES


if __name__ == "__main__":
    if os.environ.get("VOXTUI_TAP_NOHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    voxtui.screen.app.VoxtuiApp = Tapped  # type: ignore[misc]
    if sys.argv[1:2] == ["hum"]:
        del sys.argv[1]
        hum()
    main(prog_name="voxtui")
