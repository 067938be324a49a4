"""What Voxtral Mini is told by the settings, and what it sees of its device.  Part of step 8.

The device computes three kinds of steps, each a `Runner` (`batch`): a window of 30 s becomes 375 embeddings at a
*place*; some hundred consecutive tokens of one sequence are *prefilled*; one token each of many sequences is *decoded*.
A sequence is a *slot*; its positions lie in *pages* of 64, and which page a position lies in travels with the position,
so the device has no list of its own to keep in step with ours.  Pure; it knows no tensor and no conversation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.audio import RATE
from voxd.engine.gpu.batch import Places, Runner
from voxd.engine.options import Checks, check

MODEL = "mistralai/Voxtral-Mini-3B-2507"
WINDOW = 30 * RATE  # samples that the encoder hears at once
BEFORE, BEHIND = 200, 40  # samples before and behind a window that its spectrogram reaches
SPAN = BEFORE + WINDOW + BEHIND
PER_WINDOW = 375  # embeddings, that is tokens, of a window
PAGE = 64  # positions; page 0 is nobody's
CHUNK = 512  # tokens that are prefilled at once

# A row of `prefill` and `decode`, int32.  The last three are those of `Sampling`; floats as their bits.
SLOT, POSITION, SOURCE, OF_PAGE, WANTED, TEMPERATURE, TOP_P, SEED = range(8)
HEAD = 8
SAID = -(1 << 31)  # as a source: the token that this slot has said last

# A row of `encoder`: the place, the highest value that other windows of the clip have (float bits), then SPAN samples.
# What it says: the highest and the lowest value of this window, as `extremes` reads them.
ENCODER_HEAD = 2
NONE_HIGHER = -100.0  # log10 of a power: nothing is this quiet


def audio(place: int, index: int) -> int:
    """The source of embedding `index` at `place`."""
    return -1 - (place * PER_WINDOW + index)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen: `temperature` 0 takes the likeliest, anything else draws among those `TOP_K` that make up
    `top_p` of the probability.  What is drawn is a function of seed and position, whatever else is in the batch."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


TOP_K = 50  # transformers' own default


@dataclass(frozen=True, slots=True)
class Options:
    """`engine_options.voxtral-mini` of the settings file."""

    model: str = MODEL  # a repository that `voxd pull` has fetched, or a folder
    device: str = "auto"
    max_context: int = 8192  # tokens of a conversation; past it the oldest turns are left out
    max_conversations: int | None = None  # None: as many as the memory holds of some 2000 tokens each
    max_tokens: int = 1024  # of an answer, where the session does not say
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Options:
        """Raises Unusable; its text names the key."""
        check("voxtral-mini", given, _CHECKS)
        return cls(**given)  # type: ignore[arg-type]  # they are what the checks say

    @property
    def sampling(self) -> Sampling:
        return Sampling(float(self.temperature), float(self.top_p), self.seed)


def _whole(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and low <= value <= high


_CHECKS: Checks = {
    "model": ("a repository or a folder", lambda value: isinstance(value, str) and value != ""),
    "device": ("auto, cuda or cpu", lambda value: value in ("auto", "cuda", "cpu")),
    "max_context": ("from 1024 to 131072", _whole(1024, 131072)),
    "max_conversations": ("from 1 to 4096", _whole(1, 4096)),
    "max_tokens": ("from 1 to 32768", _whole(1, 32768)),
    "temperature": ("from 0 to 2", lambda value: isinstance(value, int | float) and 0 <= value <= 2),
    "top_p": ("over 0 and at most 1", lambda value: isinstance(value, int | float) and 0 < value <= 1),
    "seed": ("from 0 to 2147483647", _whole(0, 2**31 - 1)),
}


@dataclass(frozen=True, slots=True)
class Script:
    """What the checkpoint's tokenizer says: the ids that frame a prompt, and the bytes of each token."""

    bos: int
    eos: int
    begin_inst: int
    end_inst: int
    begin_system: int
    end_system: int
    begin_audio: int
    transcribe: int | None  # None: this model was not made for it
    pieces: tuple[bytes, ...]
    encode: Callable[[str], list[int]]  # text without any framing


@dataclass(frozen=True, slots=True)
class Device:
    """What is loaded."""

    encoder: Runner
    prefill: Runner  # rows: consecutive tokens of one sequence, at most `largest`; says one id, of the last
    decode: Runner  # rows: one token of each sequence
    slots: Places
    pages: Places
    places: Places
    keep: Callable[[int], object]  # place -> its embeddings, in the host's memory
    put: Callable[[object, int], None]  # back at a place
    script: Script
    context: int  # positions that the model and the page table allow
    notes: tuple[str, ...] = ()


def extremes(said: int) -> tuple[float, float]:
    """(highest, lowest) log10 value of a window, from what `encoder` says."""
    high, low = struct.unpack("<ff", struct.pack("<II", (said >> 32) & 0xFFFFFFFF, said & 0xFFFFFFFF))
    return high, low


def bits(value: float) -> int:
    """A float32 as an int32."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def language_prefix(language: str | None) -> str:
    """In front of [TRANSCRIBE]."""
    return f"lang:{language}" if language else ""
