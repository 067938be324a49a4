"""`voxtui connect` with its screen: what the settings say becomes an app, which runs until the person leaves it.

Not in the path.  It knows settings and signals; not what is on the screen.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from datetime import datetime
from pathlib import Path

from msgspec.structs import asdict

from shared.program import hang_up
from shared.terminal import say
from voxtui.capture.sources import Source, open_file
from voxtui.link.client import Wishes
from voxtui.link.target import Target
from voxtui.settings import Settings, transcripts_folder

BROKE_OFF = 1


async def show(address: Target, token: str | None, wishes: Wishes, file: Path | None, settings: Settings) -> bool:
    """Runs the screen, then ends the program with its exit status."""
    from voxtui.capture.microphone import inputs
    from voxtui.screen.app import VoxtuiApp  # slow, and plain text needs none of it

    device = settings.device
    keep = transcripts_folder(settings) / f"{datetime.now():%Y-%m-%d-%H%M%S}.txt" if settings.keep else None
    app = VoxtuiApp(
        address,
        token=token,
        wishes=wishes,
        open_source=lambda: chosen_source(file, device),
        open_device=None if file is not None else lambda chosen: chosen_source(None, chosen),
        devices=None if file is not None else inputs,
        theme=settings.theme,
        keep=keep,
        targets=asdict(settings.targets),
    )
    gc.freeze()  # what is loaded by now stays: each search for garbage among it would stop the screen for 30 ms
    # Signals end it in order, so that the terminal is given back as it was.
    for number in (signal.SIGINT, signal.SIGTERM, *hang_up(), signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, app.end, number)
    await app.run_async()
    if app.kept is not None:
        say(f"The conversation is kept in {app.kept}", err=True)
    sys.exit(BROKE_OFF if app.return_code is None else app.return_code)


def chosen_source(file: Path | None, device: str | int | None) -> Source:
    """The clip, or the microphone.  Raises SourceError."""
    if file is not None:
        return open_file(file)
    from voxtui.capture.microphone import Microphone

    return Microphone(int(device) if isinstance(device, str) and device.isdecimal() else device)
