"""The clips of real speech under tests/data/speech: 16 kHz mono FLAC, transcripts and licences in transcripts.tsv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from shared.audio import RATE, Float32, float_to_pcm16

FOLDER = Path(__file__).parents[1] / "data" / "speech"


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of transcripts.tsv."""

    name: str  # without suffix
    text: str
    lang: str  # ISO 639-1
    category: str  # read, spontaneous, command, long
    seconds: float

    def samples(self) -> Float32:
        """float32 [n] at 16 kHz."""
        samples, rate = soundfile.read(FOLDER / f"{self.name}.flac", dtype="float32")
        assert rate == RATE
        return np.asarray(samples, np.float32)

    def pcm(self) -> bytes:
        """s16le at 16 kHz, the bits of the original."""
        return float_to_pcm16(self.samples())


def clips(lang: str | None = "en") -> list[Clip]:
    """All clips of one language (None: of all), in the order of the file."""
    with (FOLDER / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [
        Clip(row["file"].removesuffix(".flac"), row["text"], row["lang"], row["category"], float(row["seconds"]))
        for row in rows
    ]
    return [clip for clip in found if lang in (None, clip.lang)]


def clip(name: str) -> Clip:
    """One clip by name."""
    return next(found for found in clips(None) if found.name == name)
