"""`voxtui transcribe FILE...`: files in, text out, as fast as voxd takes them.  Step 12.

The text goes to standard output alone; progress and what is wrong go to standard error.  It does not know how words are
found in sound, nor how a voxd is started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from shared.audio import RATE, to_ms, to_samples
from shared.events import Notice
from shared.terminal import say
from voxtui.capture.blocking import in_thread
from voxtui.capture.files import shown
from voxtui.capture.sources import FileSource, open_file
from voxtui.errors import SourceError
from voxtui.events import Event
from voxtui.link.client import PATIENCE_S, SILENCE_MS, RealtimeClient, Wishes
from voxtui.link.target import Route
from voxtui.session.run import Run
from voxtui.session.saving import subtitles
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, changes, reduce

NO_EFFECT = "no_effect"  # a wish that changes nothing with this engine: no failure


@dataclass(frozen=True, slots=True)
class FileTurn:
    """One utterance of a file."""

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """All utterances of a file, in order."""

    file: str
    seconds: float
    turns: tuple[FileTurn, ...]


def as_text(found: Transcript) -> str:
    """Text with one line per utterance."""
    return "".join(f"{turn.text}\n" for turn in found.turns)


def as_json(found: Transcript) -> str:
    """The transcript as one JSON object on one line."""
    text = " ".join(turn.text for turn in found.turns)
    whole = {"file": found.file, "seconds": found.seconds, "text": text, "turns": found.turns}
    return msgspec.json.encode(whole).decode() + "\n"


def as_srt(found: Transcript) -> str:
    """The transcript as SubRip subtitles."""
    return subtitles([(turn.start_ms, turn.end_ms, turn.text) for turn in found.turns])


FORMATS: dict[str, Callable[[Transcript], str]] = {"text": as_text, "json": as_json, "srt": as_srt}


async def transcribe_files(route: Route, files: Sequence[Path], *, form: str, language: str | None) -> bool:
    """Transcribes the files one after the other; False if one could not be done.  Raises ClientError if voxd is
    lost."""
    good = True
    for file in files:
        try:
            source = await in_thread(partial(open_file, file, hurry=True))
            wishes = Wishes(language=language, answers=False)
            link = RealtimeClient.connect(route, wishes=wishes, tell=_note, live=False, patience_s=PATIENCE_S)
            with contextlib.closing(source):
                async with link as client:
                    hearing = Hearing(shown(file), client, source)
                    await hearing.run()
        except SourceError as error:
            say(str(error), err=True)
            good = False
            continue
        say(FORMATS[form](hearing.transcript()), nl=False)
        good = hearing.report() and good
    return good


def _note(line: str) -> None:
    say(line, err=True)


class Hearing:
    """One file being heard: progress while it is, its turns at the end."""

    def __init__(self, file: str, client: RealtimeClient, source: FileSource) -> None:
        self._file, self._client, self._source = file, client, source
        self._state = State()
        self._run = Run(client, source, self._receive, hurry=True, silence_ms=SILENCE_MS)
        self._turns: dict[
            str, FileTurn
        ] = {}  # of the whole file, however long: a screen may forget, a transcript may not
        self._failures: dict[str, str] = {}

    async def run(self) -> None:
        await self._run.run()

    def transcript(self) -> Transcript:
        turns = sorted(self._turns.values(), key=lambda turn: turn.start_ms)
        return Transcript(self._file, round(self._samples / RATE, 2), tuple(turns))

    @property
    def _samples(self) -> int:
        """Samples read so far, until the end of the file was read."""
        found = self._source.samples
        return self._client.position if found is None else found

    def report(self) -> bool:
        """Says what was odd and what went wrong; True if nothing went wrong."""
        spoken = bool(self._failures) or any(turn.text for turn in self._turns.values())
        for remark in self._source.remarks(spoken=spoken):
            say(f"{self._file}: {remark}.", err=True)
        for failure in self._failures.values():
            say(f"{self._file}: {failure}", err=True)
        return not self._failures

    def _receive(self, event: Event) -> None:
        before, self._state = self._state, reduce(self._state, event)
        for _, entry in changes(before, self._state):
            if entry.voice is Voice.NOTE:
                if isinstance(event, Notice) and event.code == NO_EFFECT:
                    say(f"{self._file}: {entry.text}", err=True)
                else:
                    self._failures[entry.key] = entry.text
            elif entry.voice is Voice.MODEL:
                continue  # nobody asked for answers, and one is no transcript
            elif entry.progress is EntryProgress.BROKEN:
                self._failures[entry.key] = entry.remark
            elif entry.progress is EntryProgress.DONE and entry.key not in self._turns:
                self._finished(entry)

    def _finished(self, entry: Entry) -> None:
        turn = self._turn(entry)
        self._turns[entry.key] = turn
        heard = max(turn.end_ms for turn in self._turns.values())
        whole = max(self._source.samples or self._source.expected, to_samples(heard))
        say(f"{self._source.name}: {heard / 1000:.1f} of {whole / RATE:.1f} s", err=True)

    def _turn(self, entry: Entry) -> FileTurn:
        """One utterance with its place.  What the last commit brought has none, so it lies behind all that was heard
        before."""
        behind = max((to_samples(turn.end_ms) for turn in self._turns.values()), default=0)
        first, last = self._run.meter.span(entry.key) or (behind, self._samples)
        return FileTurn(to_ms(first), to_ms(last), " ".join(entry.text.split()))
