"""`--plain`: words to standard output as they come, everything else to standard error.  Step 12 of a frame's path.

For pipes and screen readers: nothing is ever taken back or redrawn, so what is provisional is not shown.  It does not
know where the sound comes from.
"""

from __future__ import annotations

from collections.abc import Callable

import click

from shared.latency import TurnMetrics
from voxtui.client import RealtimeClient
from voxtui.runner import Run
from voxtui.sources import Source
from voxtui.table import metrics_table
from voxtui.told import Connected, Dropped, Event, Measured, Unlinked
from voxtui.transcript import Entry, Progress, State, Voice, changes, reduce

Write = Callable[[str], None]


class Printer:
    """Events in, text out.  One line per utterance; when another voice begins, the open line ends."""

    def __init__(self, out: Write, err: Write) -> None:
        self._out, self._err = out, err
        self._state = State()
        self._line: str | None = None  # key of the entry whose line is open

    def receive(self, event: Event) -> None:
        before, self._state = self._state, reduce(self._state, event)
        for old, entry in changes(before, self._state):
            self._entry(old, entry, named=self._state.responder is not None)
        match event:
            case Connected(path=path):
                self._err(f"connected: {path}")
            case Measured(metrics=metrics, complete=True):
                self._err(_one_line(metrics))
            case Unlinked(reason=reason, tries=1):
                self._err(f"{reason}  Trying again; what is said meanwhile is kept.")
            case Dropped(packets=packets):
                self._err(f"sound lost: {packets * 20} ms, since the connection is too slow")
            case _:
                pass

    def close(self) -> None:
        """Ends an open line."""
        if self._line is not None:
            self._out("\n")
            self._line = None

    def _entry(self, before: Entry | None, entry: Entry, *, named: bool) -> None:
        if entry.voice is Voice.NOTE:
            self._err(entry.text)
            return
        self._words(before.text.lstrip() if before else "", entry, named=named)
        over = entry.progress is not Progress.OPEN and (before is None or before.progress is Progress.OPEN)
        if over and self._line == entry.key:
            self.close()
        if over and entry.remark:
            self._err(entry.remark)

    def _words(self, written: str, entry: Entry, *, named: bool) -> None:
        """What is new in an entry."""
        text = entry.text.lstrip()
        if text == written:
            return
        if not text.startswith(written):
            # A sequence that the gate met in two halves: the line is written anew.
            self.close()
            written = ""
        if self._line != entry.key:
            self.close()
            self._out(_name(entry) if named else "")
            self._line = entry.key
        new = text[len(written) :]
        self._out(new.replace("\n", " ") if entry.voice is Voice.USER else new)


def _name(entry: Entry) -> str:
    return "you: " if entry.voice is Voice.USER else "voxd: "


def _one_line(metrics: TurnMetrics) -> str:
    return "  ".join(f"{name}={value:g}" for name, value in metrics.as_dict().items())


def _stdout(text: str) -> None:
    click.echo(text, nl=False)  # flushes: words appear as they come


def _stderr(line: str) -> None:
    click.echo(line, err=True)


async def run_plain(client: RealtimeClient, source: Source) -> None:
    """One session on two pipes; then, where anything was measured, the table."""
    printer = Printer(_stdout, _stderr)
    run = Run(client, source, printer.receive)
    try:
        await run.run()
    finally:
        printer.close()
        if table := metrics_table(run.meter.finished()):
            _stderr(f"\n{table}")
