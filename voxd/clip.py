"""An audio file in memory -> 16 kHz PCM, a piece at a time.  In front of step 5, for files instead of streams.

It knows containers and codecs (libsndfile's), channels and rates; not who sent the file nor what becomes of it.  Its
calls take milliseconds and belong on a thread.  A small file may hold hours: no more than one piece is ever decoded.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr

from shared.audio import RATE, float_to_pcm16

FORMATS = {"WAV": "wav", "WAVEX": "wav", "RF64": "wav", "FLAC": "flac", "MP3": "mp3", "OGG": "ogg"}
RATES = range(4_000, 384_001)  # Hz
PIECE = 1 << 19  # samples of all channels decoded at once: 11 s of 48 kHz mono, 2 MiB


class Unreadable(Exception):
    """Not an audio file that can be decoded; the text says why."""


class Clip:
    """Raises Unreadable."""

    def __init__(self, data: bytes) -> None:
        try:
            self._file = soundfile.SoundFile(io.BytesIO(data))
        except soundfile.LibsndfileError as error:
            raise Unreadable(f"it is not an audio file that can be read ({error.error_string})") from error
        rate, kind = self._file.samplerate, self._file.format
        if kind not in FORMATS:
            raise Unreadable(f"it is a file of the kind {kind}")
        if rate not in RATES:
            raise Unreadable(f"its sampling rate is {rate} Hz")
        self._resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32")  # any rate, and nobody waits for blocks
        self._frames = max(1, PIECE // self._file.channels)
        self._ended = False

    def read(self) -> bytes:
        """The next piece as s16le mono at 16 kHz; empty at the end.  Raises Unreadable for a damaged file."""
        while not self._ended:
            try:
                frames = self._file.read(self._frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise Unreadable(f"it is damaged ({error.error_string})") from error
            self._ended = len(frames) < self._frames
            mono = np.nan_to_num(frames.mean(axis=1, dtype=np.float32))  # a float file may hold anything
            if pcm := float_to_pcm16(self._resampler.resample_chunk(mono, last=self._ended)):
                return pcm
        return b""
