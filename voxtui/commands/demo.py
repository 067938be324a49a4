"""`voxtui demo` plays a clip through the whole program in real time and shows its latency on this machine.  Step 12.

Everything is the real thing: a voxd in processes of its own, the client, the wire.  It does not know the clip's words.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from shared.audio import RATE
from shared.terminal import draw, say
from voxtui.capture.sources import CLIP, FileSource, read_clip
from voxtui.commands.local import private_voxd
from voxtui.events import Event
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct
from voxtui.session.run import Run
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, changes, reduce
from voxtui.table import metrics_table


class Lines:
    """Utterances, one line each, written as they grow.

    `width`: columns of the terminal, on which provisional words stand dim behind the confirmed ones, as many as fit
    into the row, until more is known; 0 in a pipe, where nothing can be taken back."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write, self._width = write, width
        self._written: dict[str, str] = {}  # the text that stands there, by utterance
        self._state = State()
        self._done: set[str] = set()
        self._column = 0
        self._provisional = 0  # columns of it that stand behind the cursor's place
        self.words = 0

    def receive(self, event: Event) -> None:
        before, self._state = self._state, reduce(self._state, event)
        for _, entry in changes(before, self._state):
            if entry.voice is Voice.USER and entry.key not in self._done:
                self._utterance(entry)

    def _utterance(self, entry: Entry) -> None:
        text, before = entry.text.strip(), self._written.get(entry.key, "")
        self._take_back()
        self._written[entry.key] = text
        self._confirm(text[len(before) :] if text.startswith(before) else f" / {text}")
        if entry.progress is EntryProgress.OPEN:
            self._suppose(entry.provisional.rstrip())
            return
        self._done.add(entry.key)
        self.words += len(text.split())
        self._write("\n" if text else "")
        self._column = 0

    def _confirm(self, text: str) -> None:
        self._write(text)
        self._column += len(text)

    def _suppose(self, text: str) -> None:
        if self._width:
            text = text[: max(0, self._width - 1 - self._column % self._width)]
            self._provisional = len(text)
            self._write(click.style(text, dim=True) if text else "")

    def _take_back(self) -> None:
        if self._provisional:
            self._write(f"\x1b[{self._provisional}D\x1b[K")
            self._provisional = 0


def _say(line: str) -> None:
    say(line, err=True)


async def demo(width: int) -> bool:
    """Plays the clip; True if words came.  Raises LocalError, ClientError, SourceError."""
    clip = read_clip(CLIP)
    _say("starting a private voxd on this machine ...")
    async with (
        private_voxd(_say) as target,
        RealtimeClient.connect(Direct(target), wishes=Wishes(answers=False), patience_s=0) as client,
    ):
        _say(f"{client.transcriber} listens to {clip.size / RATE:.0f} s of LibriVox, in real time:\n")
        lines = Lines(lambda text: draw(text, nl=False), width)
        run = Run(client, FileSource(CLIP.name, clip), lines.receive)
        await run.run()
    say(f"\n{metrics_table(run.meter.finished())}")
    return lines.words > 0
