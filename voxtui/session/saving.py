"""A conversation as a file: text, Markdown, JSON, subtitles.  Step 12 of a packet's path.

The forms are pure: a state in, a text out, in which nothing that was said can pass for markup.  `Keeper` writes down
each entry as it ends, so that what was said outlives the program however it ends.  Neither knows folders nor screens.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from shared import captions
from shared.captions import FileTurn
from voxtui.session.transcript import Entry, EntryProgress, State, Voice, changes, plain_text, speaker, written


def as_markdown(state: State) -> str:
    """Markdown with a paragraph per utterance; what was said stays text wherever it is shown."""
    blocks = []
    for entry in _said(state):
        lines = "\\\n".join(_literal(line.strip()) for line in entry.text.strip().splitlines())
        head = [f"**{_literal(speaker(entry, state))}**"] if state.responder is not None else []
        if entry.start_ms is not None:
            head.append(f"*{_clock(entry.start_ms)}*")
        blocks.append("\n\n".join([" ".join(head), lines]) if head else lines)
    return "".join(f"{block}\n\n" for block in blocks).removesuffix("\n")


def _literal(line: str) -> str:
    """A text in which no character of Markdown or HTML acts."""
    line = re.sub(r"([\\`*_{}\[\]()<>#!|~&$])", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])|^([-+=])", lambda found: (found[1] or "") + "\\" + (found[2] or found[3]), line)


def as_json(state: State) -> str:
    """JSON with everything that is known of each entry, notes aside; times in ms of the sound."""
    entries = [
        {
            "by": "user" if entry.voice is Voice.USER else "model",
            "text": entry.text.strip(),
            "complete": entry.progress is EntryProgress.DONE,
            "start_ms": entry.start_ms,
            "end_ms": entry.end_ms,
            "metrics": entry.metrics.as_dict() if entry.metrics is not None else {},
        }
        for entry in _said(state)
    ]
    about = {"transcriber": state.transcriber, "responder": state.responder, "entries": entries}
    return json.dumps(about, ensure_ascii=False, indent=2) + "\n"


def as_srt(state: State) -> str:
    """SubRip: captions of the utterances whose place in the sound is known."""
    spoken = (entry for entry in _said(state) if entry.voice is Voice.USER and entry.start_ms is not None)
    return captions.srt([FileTurn(entry.start_ms or 0, entry.end_ms or 0, entry.text) for entry in spoken])


def _clock(ms: int) -> str:
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}"


def _said(state: State) -> Iterator[Entry]:
    return (entry for entry in state.entries if entry.voice is not Voice.NOTE and entry.text.strip())


Form = Callable[[State], str]
FORMS: dict[str, tuple[str, Form]] = {  # name -> the ending of its files, and how it is made
    "Text": ("txt", plain_text),
    "Markdown": ("md", as_markdown),
    "JSON": ("json", as_json),
    "Subtitles": ("srt", as_srt),
}


def write(path: Path, text: str) -> None:
    """Writes a new file that only this user can read.  Raises OSError, also where there is one already."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)


class Keeper:
    """Appends each entry to a file once it is complete.

    The file is made with the first one, for this user alone.  Raises OSError when it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = False  # there is something in the file

    def keep(self, before: State, after: State) -> None:
        """Writes the entries that have ended between the two states."""
        ended = [
            entry
            for old, entry in changes(before, after)
            if entry.voice is not Voice.NOTE
            and entry.text.strip()
            and entry.progress is not EntryProgress.OPEN
            and (old is None or old.progress is EntryProgress.OPEN)
        ]
        if ended:
            self._append("".join(f"{written(entry, after)}\n" for entry in ended))

    def _append(self, text: str) -> None:
        if not self.kept:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with open(handle, "ab", buffering=0) as file:
            file.write(text.encode())
        self.kept = True
