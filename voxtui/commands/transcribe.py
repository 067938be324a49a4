"""`voxtui transcribe FILE...`: files in, text out, as fast as voxd takes them.  Step 12.

The transcript goes to standard output, or into files; progress and what is wrong go to standard error.  Text is written
as it is found, in order; captions and tables when a file is done.  It does not know how words are found in sound, nor
how a voxd is started.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from shared import captions
from shared.audio import RATE, to_ms, to_samples
from shared.captions import CaptionWord, FileTurn
from shared.events import Notice, TranscriptionCompleted
from shared.program import written
from shared.safe_text import safe_text
from shared.terminal import say
from voxtui.capture.blocking import in_thread
from voxtui.capture.files import shown
from voxtui.capture.sources import FileSource, open_file
from voxtui.commands.outputs import Destinations, SoundFile, several, sound_files
from voxtui.commands.progress import Ticker
from voxtui.errors import SourceError
from voxtui.events import Event
from voxtui.link.client import PATIENCE_S, SILENCE_MS, RealtimeClient, Wishes
from voxtui.link.target import Route
from voxtui.session.run import Run
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, changes, reduce

NO_EFFECT = "no_effect"  # a wish that changes nothing with this engine: no failure


@dataclass(frozen=True, slots=True)
class Transcript:
    """All utterances of a file, in order.  `language`: what was spoken, where voxd has told."""

    file: str
    seconds: float
    turns: tuple[FileTurn, ...]
    language: str | None = None


def as_text(found: Transcript) -> str:
    """Text with one line per utterance."""
    return "".join(f"{turn.text}\n" for turn in found.turns)


def as_json(found: Transcript) -> str:
    """The transcript as one JSON object on one line."""
    text = " ".join(turn.text for turn in found.turns)
    whole = {"file": found.file, "seconds": found.seconds, "language": found.language, "text": text}
    return msgspec.json.encode(whole | {"turns": found.turns}).decode() + "\n"


def as_srt(found: Transcript) -> str:
    return captions.srt(found.turns)


def as_vtt(found: Transcript) -> str:
    return captions.vtt(found.turns)


def as_tsv(found: Transcript) -> str:
    return captions.tsv(found.turns)


FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_text,
    "json": as_json,
    "srt": as_srt,
    "vtt": as_vtt,
    "tsv": as_tsv,
}
ALONE = ("srt", "vtt", "tsv")  # forms of which two behind one another are none


async def transcribe_files(
    route: Route, files: Sequence[Path], *, form: str, language: str | None, output: str | None = None
) -> bool:
    """Every file, one after the other; False if one of them could not be done.  Raises ClientError if voxd is lost."""
    good = True
    found = list(sound_files(files))
    many = len(files) > 1 or several(found) or any(path.is_dir() for path in files)
    destinations = Destinations(output, form, many=many)
    for source in found:
        if isinstance(source, SourceError):
            say(str(source), err=True)
            good = False
            continue
        try:
            done = await _transcribe(route, source, form, language, destinations.of(source))
        except SourceError as error:
            say(str(error), err=True)
            good = False
            continue
        good = done and good
    return good


async def _transcribe(route: Route, file: SoundFile, form: str, language: str | None, destination: Path | None) -> bool:
    source = await in_thread(partial(open_file, file.path, hurry=True))
    wishes = Wishes(language=language, answers=False)
    link = RealtimeClient.connect(route, wishes=wishes, tell=_note, live=False, patience_s=PATIENCE_S)
    streamed = form == "txt" and destination is None
    with contextlib.closing(source):
        async with link as client:
            hearing = Hearing(shown(file.path), client, source, as_it_comes=streamed)
            await hearing.run()
    text = FORMATS[form](hearing.transcript())
    if destination is not None:
        written(destination, safe_text(text, None))
    elif not streamed:
        say(text, nl=False)
    return hearing.report(destination)


def _note(line: str) -> None:
    say(line, err=True)


class Hearing:
    """One file being heard: progress while it is, its turns at the end.

    `as_it_comes`: the text of each utterance is written to standard output when it is final."""

    def __init__(self, file: str, client: RealtimeClient, source: FileSource, *, as_it_comes: bool = False) -> None:
        self._file, self._client, self._source, self._as_it_comes = file, client, source, as_it_comes
        self._state = State()
        self._run = Run(client, source, self._receive, hurry=True, silence_ms=SILENCE_MS)
        self._turns: dict[
            str, FileTurn
        ] = {}  # of the whole file, however long: a screen may forget, a transcript may not
        self._words: dict[str, tuple[CaptionWord, ...]] = {}
        self._languages: list[str] = []  # that voxd has told, one for each utterance
        self._failures: dict[str, str] = {}
        width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 0
        self._ticker = Ticker(source.name, self._progress, width)

    async def run(self) -> None:
        async with self._ticker.running():
            await self._run.run()

    def transcript(self) -> Transcript:
        turns = sorted(self._turns.values(), key=lambda turn: turn.start_ms)
        language = max(set(self._languages), key=self._languages.count, default=None)
        return Transcript(self._file, round(self._samples / RATE, 2), tuple(turns), language)

    @property
    def _samples(self) -> int:
        """Samples read so far, until the end of the file was read."""
        found = self._source.samples
        return self._client.position if found is None else found

    def _progress(self) -> tuple[int, int]:
        """Samples that are text, and all of them; 0: nobody knows."""
        done = max((turn.end_ms for turn in self._turns.values()), default=0)
        return to_samples(done), self._source.samples or self._source.expected

    def report(self, destination: Path | None) -> bool:
        """Says what was odd and what went wrong, and how long it took; True if nothing went wrong."""
        spoken = bool(self._failures) or any(turn.text for turn in self._turns.values())
        for remark in self._source.remarks(spoken=spoken):
            say(f"{self._file}: {remark}.", err=True)
        for failure in self._failures.values():
            say(f"{self._file}: {failure}", err=True)
        where = f", in {shown(destination)}" if destination is not None else ""
        say(f"{self._source.name}: {self._samples / RATE:.1f} s in {self._ticker.elapsed_s:.1f} s{where}", err=True)
        return not self._failures

    def _receive(self, event: Event) -> None:
        if isinstance(event, TranscriptionCompleted):
            self._found(event)
        before, self._state = self._state, reduce(self._state, event)
        for _, entry in changes(before, self._state):
            if entry.voice is Voice.NOTE:
                if isinstance(event, Notice) and event.code == NO_EFFECT:
                    self._ticker.clear()
                    say(f"{self._file}: {entry.text}", err=True)
                else:
                    self._failures[entry.key] = entry.text
            elif entry.voice is Voice.MODEL:
                continue  # nobody asked for answers, and one is no transcript
            elif entry.progress is EntryProgress.BROKEN:
                self._failures[entry.key] = entry.remark
            elif entry.progress is EntryProgress.DONE and entry.key not in self._turns:
                self._turns[entry.key] = turn = self._turn(entry)
                if self._as_it_comes:
                    self._ticker.clear()
                    say(turn.text)

    def _found(self, event: TranscriptionCompleted) -> None:
        """What the engine has found besides the text."""
        words = event.voxd_words or ()
        self._words[event.item_id] = tuple(
            CaptionWord(safe_text(each.text), each.start_ms, each.end_ms) for each in words
        )
        if event.voxd_language:
            self._languages.append(event.voxd_language)

    def _turn(self, entry: Entry) -> FileTurn:
        """One utterance with its place.  What the last commit brought has none, so it lies behind all that was heard
        before."""
        behind = max((to_samples(turn.end_ms) for turn in self._turns.values()), default=0)
        first, last = self._run.meter.span(entry.key) or (behind, self._samples)
        words = self._words.pop(entry.key, ())
        return FileTurn(to_ms(first), to_ms(last), " ".join(entry.text.split()), words)
