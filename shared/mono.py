"""Mixes and resamples decoded frames of any rate and number of channels to 16 kHz mono s16le.  Step 5, for files.

Pure: arrays in, bytes out.  Odd sound is repaired here and reported as a sentence in `notes`: samples
that are no numbers, floats in the range of integers, channels that cancel each other.  It does not know containers,
codecs or files.

Bound: half a second of frames (`PIECE_S`) and the block of the resampler, whatever the length of the sound.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from shared.audio import RATE, Float32, float_to_pcm16

RATES = range(4_000, 384_001)  # Hz
PIECE_S = 0.5  # decided upon at once
SCALES = (1.0, 2.0**15, 2.0**23, 2.0**31)  # what full scale may be in a file of floats
BEYOND = 8.0  # 18 dB over full scale: no recording is mixed so hot, so the scale is another one
SHARE = 0.01  # of a piece's samples that must lie beyond: one broken sample says nothing about the scale
CANCELS = 0.25  # of the power that unrelated channels would have in their mean: they are each other's opposite
AUDIBLE = 1e-8  # mean square of -80 dBFS: below it nothing is decided

INVERTED = "its channels cancel each other (opposite polarity), so one of them was inverted before they were mixed"


class Mono:
    """`push` frames, then `finish`; each returns what is ready as s16le at `RATE`."""

    def __init__(self) -> None:
        self._rate = 0
        self._waiting: list[Float32] = []  # frames [channels, n] of one rate and one number of channels
        self._size = 0  # samples of a channel in them
        self._resampler: soxr.ResampleStream | None = None
        self._scale = 1.0
        self._signs: Float32 | None = None  # of the channels; None: no inverted one was met
        self._not_numbers = 0

    @property
    def notes(self) -> list[str]:
        """Sentences about what was odd so far, each without the name of the file."""
        found = []
        if self._not_numbers:
            found.append(f"{self._not_numbers} of its samples are NaN or infinite and were taken as silence")
        if self._scale > 1:
            bits = round(np.log2(self._scale)) + 1
            found.append(f"its floats are in the range of {bits}-bit integers and were scaled to that")
        if self._signs is not None:
            found.append(INVERTED)
        return found

    def push(self, frame: npt.NDArray[np.generic], rate: int) -> bytes:
        """`frame`: [channels, n] of any type that codecs decode to.  A rate or number of channels may differ from the
        frame before.  Raises ValueError for a rate that is none of `RATES`."""
        if rate not in RATES:
            raise ValueError(f"its sampling rate is {rate} Hz; from {RATES[0]} to {RATES[-1]} Hz is possible")
        ready = b""
        if rate != self._rate:
            ready = self.finish()
            self._rate = rate
            self._resampler = soxr.ResampleStream(rate, RATE, 1, dtype="float32") if rate != RATE else None
        if self._waiting and self._waiting[0].shape[0] != frame.shape[0]:
            ready += self._mixed(last=False)
        self._waiting.append(_as_float(frame))
        self._size += frame.shape[1]
        return ready if self._size < PIECE_S * rate else ready + self._mixed(last=False)

    def finish(self) -> bytes:
        """Returns the rest; samples pushed afterwards begin a new stream."""
        rest = self._mixed(last=True) if self._rate else b""
        self._rate = 0
        return rest

    def _mixed(self, *, last: bool) -> bytes:
        mono = np.zeros(0, np.float32)
        if self._waiting:
            mono = self._mix(self._numbers(np.concatenate(self._waiting, axis=1)))
        self._waiting, self._size = [], 0
        mono = np.clip(mono, -1, 1)
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(mono, last=last)
        return float_to_pcm16(mono)

    def _numbers(self, sound: Float32) -> Float32:
        """The samples scaled to about [-1, 1), with NaN and infinity replaced."""
        good = np.isfinite(sound)
        if not good.all():
            self._not_numbers += int(good.size - np.count_nonzero(good))
            sound = np.where(good, sound, np.float32(0))
        peak = float(np.abs(sound).max(initial=0))
        if self._scale == 1 < peak and np.array_equal(sound, np.rint(sound)):
            self._scale = SCALES[1]  # whole numbers: however small they are, they are counted in steps
        while peak > BEYOND * self._scale and self._scale < SCALES[-1]:
            if np.mean(np.abs(sound) > BEYOND * self._scale) < SHARE:
                break
            self._scale = next(scale for scale in SCALES if scale > self._scale)
        return sound if self._scale == 1 else sound / np.float32(self._scale)

    def _mix(self, sound: Float32) -> Float32:
        """Mixes [channels, n] to [n]: the mean of the channels.

        Where channels cancel each other in it, those that are the opposite of the loudest one are inverted from then
        on: of a channel and its opposite that is the channel itself, and what only one of them holds is kept."""
        channels = sound.shape[0]
        if channels == 1:
            return np.asarray(sound[0], np.float32)
        if self._signs is not None and self._signs.size != channels:
            self._signs = None
        mono = sound.mean(axis=0) if self._signs is None else self._signs @ sound / np.float32(channels)
        power = np.einsum("ij,ij->i", sound, sound) / max(1, sound.shape[1])
        if power.sum() > AUDIBLE and np.mean(np.square(mono)) < CANCELS * power.sum() / channels**2:
            loudest = sound[int(power.argmax())]
            self._signs = np.where(sound @ loudest < 0, np.float32(-1), np.float32(1))
            mono = self._signs @ sound / np.float32(channels)
        return np.asarray(mono, np.float32)


def _as_float(frame: npt.NDArray[np.generic]) -> Float32:
    """Integers of any width as floats in [-1, 1); floats unchanged."""
    if frame.dtype.kind == "u":
        return (frame.astype(np.float32) - np.float32(128)) / np.float32(128)  # 8 bit is the only unsigned one
    if frame.dtype.kind == "i":
        return frame.astype(np.float32) * np.float32(2.0 ** (1 - 8 * frame.dtype.itemsize))
    with np.errstate(over="ignore"):  # a double beyond all floats is infinite then, and is dealt with as such
        return frame.astype(np.float32)
