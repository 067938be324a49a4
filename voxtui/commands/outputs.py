"""Where the transcripts of files go, and which files a folder holds.  Beside step 12.

It knows paths and nothing of sound.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxtui.capture.files import STANDARD_INPUT, shown
from voxtui.errors import SourceError

# Endings of files that hold sound, in a folder; a file that is named is read whatever its ending.
SOUND = frozenset(
    (
        *(".3gp", ".aac", ".ac3", ".aif", ".aiff", ".amr", ".au", ".avi", ".caf", ".flac", ".m4a", ".m4b", ".m4v"),
        *(".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".oga", ".ogg", ".opus", ".ts", ".wav"),
        *(".webm", ".wma", ".wmv"),
    )
)


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A file to write down.  `below`: its path in the folder that was named, or its name."""

    path: Path
    below: Path


def sound_files(named: Sequence[Path]) -> Iterator[SoundFile | SourceError]:
    """The files that are named, and those in folders that are named, by name; a folder without any is an error."""
    for path in named:
        if path == STANDARD_INPUT or not path.is_dir():
            yield SoundFile(path, Path("stdin") if path == STANDARD_INPUT else Path(path.name or path))
            continue
        found = sorted(_sounds(path))
        yield from (SoundFile(each, each.relative_to(path)) for each in found)
        if not found:
            yield SourceError(f"{shown(path)}: there is no sound file in this folder.")


def _sounds(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if path.suffix.lower() in SOUND and not name.startswith(".") and path.is_file():
                yield path


class Destinations:
    """`output`: as given; None: standard output.  `ending`: of the form.  `many`: several transcripts will come.

    A folder is one that is there, or whose name ends with a slash, or any where many come."""

    def __init__(self, output: str | None, ending: str, *, many: bool) -> None:
        self._ending, self._taken = ending, set[Path]()
        path = Path(output) if output is not None else None
        is_folder = path is not None and (many or path.is_dir() or str(output).endswith(("/", os.sep)))
        self.folder = path if is_folder else None
        self.file = None if is_folder else path

    def of(self, source: SoundFile) -> Path | None:
        """Where its transcript goes; None: standard output.  Two sources that differ in their ending only keep it."""
        if self.folder is None:
            return self.file
        path = self.folder / source.below.with_suffix(f".{self._ending}")
        if path in self._taken:
            path = self.folder / source.below.with_name(f"{source.below.name}.{self._ending}")
        self._taken.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def several(found: Iterable[SoundFile | SourceError]) -> bool:
    return sum(isinstance(each, SoundFile) for each in found) > 1
