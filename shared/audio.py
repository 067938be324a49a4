"""PCM in every form that crosses a border: step 1 (capture), 5 (decode, resample) and the offline truth of the bench.

Pure: arrays in, arrays out.  It does not know sockets, microphones, files or turns.  Samples are mono; 16-bit little
endian on the wire, float32 in [-1, 1) inside the engine; positions are sample indices at `RATE`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import soxr

RATE = 16_000  # Hz: what every engine and the VAD hear
HOP = 160  # samples in 10 ms
VAD_FRAME = 512  # samples in 32 ms: one speech probability
PACKET = 320  # samples in 20 ms: one message on the wire

Int16 = npt.NDArray[np.int16]
Float32 = npt.NDArray[np.float32]
Encoding = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]


def to_ms(samples: int) -> int:
    """Sample position at 16 kHz -> whole milliseconds, rounded down as the wire wants it."""
    return samples * 1000 // RATE


def to_samples(ms: float) -> int:
    """Milliseconds -> samples at 16 kHz."""
    return round(ms * RATE / 1000)


def pcm16_to_float(pcm: bytes) -> Float32:
    """s16le bytes -> float32 [n] in [-1, 1)."""
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)


def float_to_pcm16(samples: Float32) -> bytes:
    """float32 [n] -> s16le bytes; values outside [-1, 1) are clipped."""
    scaled = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767)
    return bytes(scaled.astype("<i2").tobytes())


def _mulaw_table() -> Int16:
    """ITU-T G.711 mu-law, all 256 codes -> int16 (the reference expansion, bias 132)."""
    code = ~np.arange(256, dtype=np.uint8) & 0xFF
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    magnitude = (((mantissa << 3) + 132) << exponent) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Int16:
    """ITU-T G.711 A-law, all 256 codes -> int16 (even bits inverted, 13-bit segments)."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, (code & 15).astype(np.int32)
    linear = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, linear, (linear + 256) << np.maximum(exponent.astype(np.int32) - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


_G711: dict[Encoding, Int16] = {"audio/pcmu": _mulaw_table(), "audio/pcma": _alaw_table()}


class Decoder:
    """Wire bytes of one session -> s16le at 16 kHz, statefully: an odd byte waits for its other half, the resampler
    keeps its filter.  `rate` in Hz; G.711 is always 8 kHz."""

    def __init__(self, encoding: Encoding, rate: int) -> None:
        self._table = _G711.get(encoding)
        self.rate = 8000 if self._table is not None else rate
        self._odd = b""
        self._resampler = soxr.ResampleStream(self.rate, RATE, 1, dtype="float32") if self.rate != RATE else None

    def decode(self, data: bytes) -> bytes:
        """Returns the 16 kHz PCM16 that is complete; the resampler may hold a few ms back until more audio comes."""
        if self._table is not None:
            samples = self._table[np.frombuffer(data, np.uint8)]
        else:
            data = self._odd + data
            whole = len(data) & ~1
            self._odd = data[whole:]
            if self._resampler is None:
                return data[:whole]
            samples = np.frombuffer(data[:whole], "<i2")
        return self._resample(samples, last=False)

    def drain(self) -> bytes:
        """The end of a segment (commit): what the resampler still holds; an odd byte is dropped; state starts
        afresh."""
        self._odd = b""
        return self._resample(np.zeros(0, np.int16), last=True)

    def _resample(self, samples: Int16, *, last: bool) -> bytes:
        if self._resampler is None:
            return samples.astype("<i2").tobytes()
        # Through float32: soxr's own 16-bit output is dithered, so the same audio would not give the same bytes.
        chunk = samples.astype(np.float32) / np.float32(32768)
        out = self._resampler.resample_chunk(chunk, last=last)
        if last:
            self._resampler.clear()
        return float_to_pcm16(out)


def resample(samples: Float32, rate: int) -> Float32:
    """A whole clip, float32 [n] at `rate` -> float32 [m] at 16 kHz."""
    if rate == RATE:
        return samples
    return np.asarray(soxr.resample(samples, rate, RATE), dtype=np.float32)


def level_dbfs(samples: Float32) -> float:
    """RMS of float32 [n] in dB relative to full scale; -inf never leaves: silence is -120."""
    if samples.size == 0:
        return -120.0
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(-120.0, 10.0 * float(np.log10(power + 1e-12)))


def voiced_hops(samples: Float32, range_db: float = 35.0) -> npt.NDArray[np.bool_]:
    """The truth for latency: for each whole 10 ms hop of a clip, is its RMS within `range_db` of the loudest hop?

    float32 [n] -> bool [n // 160].  A clip of digital silence has no voiced hop.
    """
    count = samples.size // HOP
    if count == 0:
        return np.zeros(0, np.bool_)
    hops = samples[: count * HOP].reshape(count, HOP)
    power = np.mean(np.square(hops, dtype=np.float64), axis=1)
    peak = float(power.max())
    return np.asarray(power >= max(peak * 10 ** (-range_db / 10), 1e-10))


class Truth:
    """First and last voiced sample of any stretch of a known clip; what the user would call start and end of speech.

    `offset` is the stream position of the clip's first sample.
    """

    def __init__(self, samples: Float32, offset: int = 0) -> None:
        self._voiced = np.flatnonzero(voiced_hops(samples)) * HOP + offset

    def first_voiced(self, after: int, before: int) -> int | None:
        """Sample index at which the first voiced hop in [after, before) begins."""
        at = int(np.searchsorted(self._voiced, after))
        return int(self._voiced[at]) if at < self._voiced.size and self._voiced[at] < before else None

    def last_voiced(self, after: int, before: int) -> int | None:
        """Sample index just past the last voiced hop in [after, before)."""
        at = int(np.searchsorted(self._voiced, before)) - 1
        return int(self._voiced[at]) + HOP if at >= 0 and self._voiced[at] >= after else None


class Ring:
    """The most recent PCM16 of a stream, addressed by sample index; drops the oldest beyond `capacity` samples.

    Bound: `capacity`.  At the bound: the oldest samples go; `read` of a dropped range starts later and says so.
    """

    def __init__(self, capacity: int, start: int = 0) -> None:
        self.capacity = capacity
        self.start = start
        self._data = bytearray()

    @property
    def end(self) -> int:
        return self.start + len(self._data) // 2

    def append(self, pcm: bytes) -> None:
        self._data += pcm
        self.trim(self.end - self.capacity)

    def trim(self, before: int) -> None:
        """Forgets the samples that lie before position `before`."""
        if before > self.start:
            before = min(before, self.end)
            del self._data[: (before - self.start) * 2]  # a bytearray moves its start, not its bytes
            self.start = before

    def read(self, start: int, end: int | None = None) -> tuple[int, bytes]:
        """(first sample index really returned, PCM16 of [that, end))."""
        end = self.end if end is None else min(end, self.end)
        start = min(max(start, self.start), max(end, self.start))
        return start, bytes(memoryview(self._data)[(start - self.start) * 2 : max(end - self.start, 0) * 2])
