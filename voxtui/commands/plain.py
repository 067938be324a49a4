"""`--plain`: words to standard output as they come, everything else to standard error.  Step 12 of a packet's path.

For pipes and screen readers: what is confirmed is never taken back or redrawn, and a line is one speaker's from its
beginning to its end.  On a terminal provisional words stand dim at the end of the line until more is known; a pipe gets
none.  It does not know where the sound comes from.

One line is open at a time and gets its words as they come; what others say meanwhile waits, in the order in which they
began.  While an answer is given or owed, what the person says waits until it is whole, so that no answer waits for
somebody who still speaks.  Only in a pipe, where order is worth more than a moment, an answer waits for the transcript
of what was said before it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable

from shared.latency import TurnMetrics
from shared.terminal import draw, say
from voxtui.capture.blocking import in_thread
from voxtui.capture.resilient import Ear
from voxtui.capture.sources import FileSource, Source
from voxtui.commands.line import Line
from voxtui.errors import SourceError
from voxtui.events import Connected, Dropped, Event, Measured, Remark, Unlinked
from voxtui.link.client import PATIENCE_S, RealtimeClient, Wishes
from voxtui.link.route import opened
from voxtui.link.target import Target
from voxtui.session.run import Run
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, changes, reduce
from voxtui.table import metrics_table

Write = Callable[[str], None]


class Printer:
    """Events in, text out.  `terminal`: both outs are the same screen, and somebody waits for answers there.

    `width`: its columns, where provisional words may be written and taken back; 0: nowhere."""

    def __init__(self, out: Write, err: Write, *, terminal: bool = False, width: int = 0) -> None:
        self._err, self._terminal = err, terminal
        self._row, self._takes_back = Line(out, width), width > 0
        self._named = False  # the name of its speaker stands on the line that is open
        self._state = State()
        self._waiting: dict[str, Entry] = {}  # not yet written to its end, in the order of beginning
        self._written: dict[str, str] = {}  # what has been written of these
        self._line: str | None = None  # key of the entry whose line is open
        self.spoken = False  # somebody said something, and it was written down
        self._later: list[str] = []  # for standard error, when the line has ended

    def receive(self, event: Event) -> None:
        before, self._state = self._state, reduce(self._state, event)
        for old, entry in changes(before, self._state):
            if entry.voice is Voice.NOTE:
                self._tell_now(entry.text)
            elif old is None or _open(old) or old.text != entry.text:
                self._waiting[entry.key] = entry
        if before.entries is not self._state.entries:
            self._forget()
            self._advance()
        match event:
            case Connected(path=path):
                self._tell_now(f"connected: {path}")
            case Measured(metrics=metrics, complete=True):
                self._tell(_one_line(metrics))
            case Unlinked(reason=reason, tries=1):
                self._tell_now(f"{reason}  Trying again; what is said meanwhile is kept.")
            case Dropped(packets=packets):
                self._tell_now(f"sound lost: {packets * 20} ms, since the connection is too slow")
            case _:
                pass

    def close(self) -> None:
        """Writes what still waits and ends the last line, since nothing more will come."""
        waiting = [self._line, *self._waiting] if self._line is not None else list(self._waiting)
        for key in dict.fromkeys(waiting):
            self._words(self._waiting[key])
        self._end_line()

    # ── which line ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """Writes what may be written now."""
        while (entry := self._next()) is not None:
            self._words(entry)
            if _open(entry):
                return
            if self._line == entry.key:
                self._end_line()
            if entry.remark:
                self._tell(f"{'transcript' if entry.voice is Voice.USER else 'answer'}: {entry.remark}")
            del self._waiting[entry.key]
            self._written.pop(entry.key, None)

    def _next(self) -> Entry | None:
        """The entry that may be written next."""
        if self._line is not None:
            return self._waiting[self._line]
        answering = any(entry.voice is Voice.MODEL and _open(entry) for entry in self._waiting.values())
        held = owed = False  # something that the person says, or has said, still waits
        for entry in self._waiting.values():
            spoken = entry.voice is Voice.USER
            if _open(entry) and ((spoken and answering) or not self._has_words(entry)):
                held = held or spoken
                owed = owed or (spoken and _ended(entry) and not self._terminal)
            elif not (held if spoken else owed):
                return entry
        return None

    def _forget(self) -> None:
        """Drops entries that are gone: they will be heard anew, or were no speech."""
        there = {entry.key for entry in self._state.entries}
        for key in [key for key in self._waiting if key not in there]:
            if self._line == key:
                self._end_line()
            del self._waiting[key]
            self._written.pop(key, None)

    # ── what is written ─────────────────────────────────────────────────────────────────────────────────────────────

    def _words(self, entry: Entry) -> None:
        """Writes what is new in an entry."""
        text, written = entry.text.lstrip(), self._written.get(entry.key, "")
        if text != written:
            self._confirm(entry, text, written)
        if self._takes_back and entry.provisional.strip() and self._line is None:
            self._line, self._named = entry.key, False
        if self._line == entry.key:
            guess = entry.provisional.rstrip().replace("\n", " ")
            self._row.suppose(guess if self._named or not guess else self._name(entry) + guess.lstrip())

    def _confirm(self, entry: Entry, text: str, written: str) -> None:
        """Writes the words that follow what is written of an entry."""
        if not text.startswith(written):
            # `safe_text` met an escape sequence in two halves and took it out: the line is written anew.
            self._end_line()
            written = ""
        if self._line != entry.key:
            self._end_line()
            self._line, self._named = entry.key, False
        if not self._named:
            self._row.confirm(self._name(entry))
            self._named = True
        self.spoken = self.spoken or entry.voice is Voice.USER
        new = text[len(written) :]
        self._row.confirm(new.replace("\n", " ") if entry.voice is Voice.USER else new)
        self._written[entry.key] = text

    def _has_words(self, entry: Entry) -> bool:
        return bool(entry.text.strip() or (self._takes_back and entry.provisional.strip()))

    def _name(self, entry: Entry) -> str:
        """Who speaks, where two do."""
        if self._state.responder is None:
            return ""
        return "you: " if entry.voice is Voice.USER else "voxd: "

    def _end_line(self) -> None:
        if self._line is not None:
            self._row.end()
            self._line = None
        for line in self._later:
            self._err(line)
        self._later.clear()

    def _tell(self, line: str) -> None:
        """Writes to standard error, but not into an open line of words on the same terminal."""
        if self._terminal and self._line is not None:
            self._later.append(line)
        else:
            self._err(line)

    def _tell_now(self, line: str) -> None:
        """Writes what cannot wait for the end of a line: the open line is broken and goes on under its speaker's
        name."""
        if self._terminal:
            self._end_line()
        self._err(line)


def _open(entry: Entry) -> bool:
    return entry.progress is EntryProgress.OPEN


def _ended(entry: Entry) -> bool:
    """Whether the person no longer speaks, as far as the server has said."""
    return entry.start_ms is None or entry.end_ms is not None


def _one_line(metrics: TurnMetrics) -> str:
    return "  ".join(f"{name}={value:g}" for name, value in metrics.as_dict().items())


def _stdout(text: str) -> None:
    draw(text, nl=False)  # flushes: words appear as they come


def _stderr(line: str) -> None:
    say(line, err=True)


def standard_printer() -> Printer:
    """A printer to this process's standard output and error."""
    terminal = sys.stdout.isatty()
    return Printer(_stdout, _stderr, terminal=terminal, width=shutil.get_terminal_size().columns if terminal else 0)


async def talk(
    target: Target, token: str | None, wishes: Wishes, open_source: Callable[[], Source], *, live: bool
) -> bool:
    """Holds a whole session.  `live`: the source is a microphone.  Raises ClientError, SourceError.

    A file that cannot be read is told before anything is connected; that there is no microphone, after: where no voxd
    is reached, that is what to mend first."""
    lines = standard_printer()

    def tell(sentence: str) -> None:
        lines.receive(Remark(sentence))

    found = await in_thread(lambda: _tried(open_source))
    if isinstance(found, SourceError) and not live:
        raise found
    with contextlib.ExitStack() as undone:
        if isinstance(found, FileSource):
            undone.callback(found.close)
        async with (
            opened(target, token) as route,
            RealtimeClient.connect(route, wishes=wishes, tell=tell, patience_s=None if live else PATIENCE_S) as client,
        ):
            if isinstance(found, SourceError):
                raise found
            first = [found]  # the source is there: what becomes of it later does not end the session
            source = Ear(lambda: first.pop() if first else open_source(), tell) if live else found
            await run_plain(client, source, lines)
    return True


def _tried(open_source: Callable[[], Source]) -> Source | SourceError:
    try:
        return open_source()
    except SourceError as error:
        return error


async def run_plain(client: RealtimeClient, source: Source, printer: Printer) -> None:
    """Runs one session on two pipes; then, where anything was measured, prints the table."""
    run = Run(client, source, printer.receive)
    try:
        await run.run()
    finally:
        printer.close()
        if isinstance(source, FileSource):
            for remark in source.remarks(spoken=printer.spoken or client.transcriber is None):
                _stderr(f"{source.name}: {remark}.")
        if table := metrics_table(run.meter.finished()):
            _stderr(f"\n{table}")
