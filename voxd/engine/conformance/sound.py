"""The audio that an engine under check is fed: speech between silences, with the VAD's probabilities.  Not in the path.

It knows audio and the VAD; not engines or checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.audio import RATE, VAD_FRAME, Float32, float_to_pcm16, pcm16_to_float, to_samples
from shared.audio_file import read_whole
from voxd.engine.vad import Vad

LEAD, TAIL = to_samples(500), to_samples(5500)  # silence before and after the speech
PADDING, HANGOVER = to_samples(300), to_samples(96)  # what turn-taking adds to the speech


@dataclass(frozen=True, slots=True)
class Sound:
    """s16le at 16 kHz and one probability per frame of 512 samples; one utterance."""

    pcm: bytes
    probabilities: tuple[float, ...]

    @property
    def _voiced(self) -> list[int]:
        return [i for i, p in enumerate(self.probabilities) if p >= 0.5]

    @property
    def start(self) -> int:
        """Where turn-taking lets the utterance begin: a sample, padding included."""
        return max(0, self._voiced[0] * VAD_FRAME - PADDING)

    @property
    def middle(self) -> int:
        """The end of the voiced frame in the middle: the worst place to stop at."""
        return (self._voiced[len(self._voiced) // 2] + 1) * VAD_FRAME

    @property
    def end(self) -> int:
        """Where turn-taking lets the utterance end."""
        return (self._voiced[-1] + 1) * VAD_FRAME + HANGOVER

    @classmethod
    def synthetic(cls) -> Sound:
        """Three bursts of a voice-like hum, 2.4 s in all; the probabilities are as scripted."""
        at = np.arange(to_samples(2400)) / RATE
        voiced = np.sin(2 * np.pi * 1.25 * at) > -0.7
        hum = np.sum([np.sin(2 * np.pi * 120 * n * at) / n for n in range(1, 20)], axis=0)
        speech = 0.1 * hum * voiced * (1.2 + np.sin(2 * np.pi * 4 * at))
        loud = np.pad(voiced, (LEAD, TAIL))
        frames = loud[: loud.size // VAD_FRAME * VAD_FRAME].reshape(-1, VAD_FRAME).mean(axis=1) > 0.5
        pcm = float_to_pcm16(np.pad(speech, (LEAD, TAIL)).astype(np.float32))
        return cls(pcm, tuple(0.95 if each else 0.02 for each in frames))

    @classmethod
    def of(cls, samples: Float32) -> Sound:
        """Real speech, float32 [n] at 16 kHz, heard by the real VAD.  Raises ValueError if nobody speaks in it."""
        pcm, vad = float_to_pcm16(np.pad(samples, (LEAD, TAIL))), Vad()
        vad.open(0)
        vad.feed(0, pcm)
        probabilities: tuple[float, ...] = ()
        while vad.has_work:
            probabilities += vad.step()[0].probabilities
        if max(probabilities) < 0.5:
            raise ValueError("nobody speaks in this clip")
        return cls(pcm, probabilities)

    @classmethod
    def read(cls, path: Path) -> Sound:
        """A file of any common kind.  Raises ValueError if there is no speech in it."""
        return cls.of(pcm16_to_float(read_whole(path)))
