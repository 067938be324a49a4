"""Sound files as they are named on a command line: paths, pipes and `-` for standard input.  Step 1.

It knows names and what can be wrong with them; not what is in a file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from shared.audio_file import KINDS, AudioFile, Unreadable, read_whole
from shared.safe_text import safe_line
from voxtui.errors import SourceError

STANDARD_INPUT = Path("-")


def shown(path: Path) -> str:
    """A file's name for people and for JSON: bytes that are not UTF-8 as \\\\xhh, one line, nothing that acts on a
    terminal."""
    if path == STANDARD_INPUT:
        return "standard input"
    return safe_line(os.fsencode(path).decode("utf-8", "backslashreplace"))


def open_sound(path: Path) -> AudioFile:
    """Opens a sound file and waits for the first sound in it.  Raises SourceError."""
    try:
        return AudioFile(_opened(path))
    except (Unreadable, OSError) as error:
        raise source_error(path, error) from None


def read_sound(path: Path) -> bytes:
    """Reads all of a short file as s16le at 16 kHz.  Raises SourceError."""
    try:
        return read_whole(path)
    except (Unreadable, OSError) as error:
        raise source_error(path, error) from None


def source_error(path: Path, error: Exception) -> SourceError:
    """What is wrong with the file, for people."""
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{shown(path)}: there is no such file.")
    if isinstance(error, IsADirectoryError):
        return SourceError(f"{shown(path)}: this is a folder; give the sound files in it.")
    if isinstance(error, Unreadable):
        return SourceError(f"{shown(path)}: cannot be read as sound: {error}.  What is read: {KINDS}.")
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(f"{shown(path)}: cannot be read: {safe_line(reason)}.")


def _opened(path: Path) -> BinaryIO:
    if path == STANDARD_INPUT:
        file: BinaryIO = open(0, "rb", closefd=False)  # noqa: SIM115  # whoever reads it closes it
        if file.isatty():
            raise SourceError("Standard input is a terminal, not a sound file: write `- < FILE`, or pipe one into it.")
        return file
    file = path.open("rb")
    kind = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
        file.close()
        raise SourceError(f"{shown(path)}: this is a device, not a sound file.")
    return file
