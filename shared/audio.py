"""Conversions of PCM and bounded buffers of it.  Steps 1 (capture) and 5 (decode, resample), and the bench.

Pure: arrays in, arrays out.  It does not know sockets, microphones, files or turns.  Samples are mono; 16-bit little
endian on the wire, float32 in [-1, 1) inside the engine; positions are sample indices at `RATE`.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

RATE = 16_000  # Hz: what every engine and the VAD hear
HOP = 160  # samples in 10 ms
VAD_FRAME = 512  # samples in 32 ms: one speech probability
PACKET = 320  # samples in 20 ms: one message on the wire
RANGE_DB = 35.0  # from the loudest hop of a speaker down to the softest that counts as speech

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


_WIDE = 181  # taps of the low-pass at 48 kHz for sound up to 8 kHz: what passes ends at 6.8, at 8 it is 80 dB down


@cache
def _low_pass(rate: int) -> Float32:
    """[phases, taps of each]: a linear-phase low-pass at the least common multiple of `rate` and RATE, cut into the
    parts that an output can fall on.  Kaiser window; Oppenheim and Schafer, Discrete-Time Signal Processing, 7.5."""
    phases, clock, edge = RATE // math.gcd(rate, RATE), math.lcm(rate, RATE), min(rate, RATE) / 2
    taps = int(_WIDE * clock / 48_000 * 8_000 / edge) | 1
    at = np.arange(taps) - taps // 2
    pitch = 2 * 0.919 * edge / clock
    whole = np.sinc(pitch * at) * np.kaiser(taps, 7.857)
    whole *= phases / whole.sum()
    each = -(-taps // phases)
    parts = [whole[taps - 1 - phase :: -phases] for phase in range(phases)]
    return np.stack([np.pad(part, (0, each - part.size)) for part in parts]).astype(np.float32)


class Resampler:
    """Resamples a stream from `rate` Hz to 16 kHz: float32 [n] -> float32 [m].  It keeps state between calls.

    Sample k of what comes out is the sound at k / 16000 s of what went in.  Half the filter is held back for it:
    1.9 ms, of 8 kHz 3.8.  (soxr, which serves for files, works in blocks: up to 36 ms between
    microphone and answer.)
    """

    def __init__(self, rate: int) -> None:
        self._parts = _low_pass(rate)
        self._up, self._down = RATE // math.gcd(rate, RATE), rate // math.gcd(rate, RATE)
        self._half = int(_WIDE * math.lcm(rate, RATE) / 48_000 * 8_000 / (min(rate, RATE) / 2)) // 2
        self._start()

    def _start(self) -> None:
        each = self._parts.shape[1]
        self._held: Float32 = np.zeros(each, np.float32)
        self._base = -each  # which sample of the input the first held one is
        self._made = 0

    def push(self, samples: Float32) -> Float32:
        """Takes more samples; returns the output that is complete by now."""
        self._held = np.concatenate((self._held, samples))
        each, out = self._parts.shape[1], []
        ready = ((self._base + self._held.size - each) * self._up + self._half) // self._down + 1
        while self._made < ready:
            at = np.arange(self._made, min(ready, self._made + RATE)) * self._down - self._half
            first = -(-at // self._up)
            windows = np.lib.stride_tricks.sliding_window_view(self._held, each)[first - self._base]
            out.append(np.einsum("ij,ij->i", windows, self._parts[first * self._up - at]))
            self._made += at.size
        keep = -(-(self._made * self._down - self._half) // self._up) - self._base
        self._held, self._base = self._held[keep:], self._base + keep
        return np.concatenate(out) if out else np.zeros(0, np.float32)

    @property
    def owed(self) -> int:
        """Samples that `finish` would return."""
        total = -(-(self._base + self._held.size) * self._up // self._down)
        return max(0, int(total) - self._made)

    def finish(self) -> Float32:
        """Ends the stream: returns the rest, as if silence followed.  The next sample begins a new stream."""
        missing = self.owed
        rest = self.push(np.zeros(self._parts.shape[1] + self._half // self._up + 1, np.float32))[:missing]
        self._start()
        return rest


class Decoder:
    """Decodes the wire bytes of one session to s16le at 16 kHz.  It keeps state: an odd byte waits for its other half,
    and the resampler for the samples that its filter needs.  `rate` in Hz; G.711 is always 8 kHz."""

    def __init__(self, encoding: Encoding, rate: int) -> None:
        self._table = _G711.get(encoding)
        self.rate = 8000 if self._table is not None else rate
        self._odd = b""
        self._resampler = Resampler(self.rate) if self.rate != RATE else None

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

    @property
    def owed(self) -> int:
        """Samples at 16 kHz that `drain` would return: they have come, and the filter still holds them."""
        return 0 if self._resampler is None else self._resampler.owed

    def drain(self) -> bytes:
        """Ends a segment (at a commit): returns what the resampler still holds, drops an odd byte, and starts anew."""
        self._odd = b""
        return self._resample(np.zeros(0, np.int16), last=True)

    def _resample(self, samples: Int16, *, last: bool) -> bytes:
        if self._resampler is None:
            return samples.astype("<i2").tobytes()
        out = self._resampler.push(samples.astype(np.float32) / np.float32(32768))
        return float_to_pcm16(np.concatenate((out, self._resampler.finish())) if last else out)


def level_dbfs(samples: Float32) -> float:
    """RMS of float32 [n] in dB relative to full scale; silence is -120, never -inf."""
    if samples.size == 0:
        return -120.0
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return max(-120.0, 10.0 * float(np.log10(power + 1e-12)))


class Truth:
    """The true first and last voiced sample in any stretch of known sound, found from its loudness.

    A 10 ms hop is voiced if its RMS is within `RANGE_DB` of the loudest hop so far; in digital silence none is.  The
    sound may come in pieces.  `offset` is the stream position of its first sample.  Bound: 4 bytes for each hop."""

    def __init__(self, samples: Float32 | None = None, offset: int = 0) -> None:
        self._offset = offset
        self._rest = np.zeros(0, np.float32)  # less than a hop
        self._powers: list[Float32] = []
        self._peak = 0.0
        if samples is not None:
            self.append(samples)

    def append(self, samples: Float32) -> None:
        """Takes the next piece of the sound."""
        samples = np.concatenate((self._rest, samples))
        count = samples.size // HOP
        hops, self._rest = samples[: count * HOP].reshape(count, HOP), samples[count * HOP :]
        powers = np.mean(np.square(hops, dtype=np.float64), axis=1).astype(np.float32)
        self._powers.append(powers)
        self._peak = max(self._peak, float(powers.max(initial=0)))

    def first_voiced(self, after: int, before: int) -> int | None:
        """Sample index at which the first voiced hop in [after, before) begins."""
        found = self._voiced(after, before)
        return int(found[0]) if found.size else None

    def last_voiced(self, after: int, before: int) -> int | None:
        """Sample index just past the last voiced hop in [after, before)."""
        found = self._voiced(after, before)
        return int(found[-1]) + HOP if found.size else None

    def _voiced(self, after: int, before: int) -> npt.NDArray[np.int64]:
        """The starts of the voiced hops that begin in [after, before)."""
        if len(self._powers) != 1:
            self._powers = [np.concatenate(self._powers)] if self._powers else [np.zeros(0, np.float32)]
        first, last = (max(0, -(-(at - self._offset) // HOP)) for at in (after, before))
        voiced = self._powers[0][first:last] >= max(self._peak * 10 ** (-RANGE_DB / 10), 1e-10)
        return (np.flatnonzero(voiced) + first) * HOP + self._offset


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
