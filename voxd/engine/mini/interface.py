"""What the settings tell Voxtral Mini, and how it sees its device.  Step 8.

The device computes three kinds of steps, each a `Runner` (`batch`): a window of 30 s becomes 375 embeddings at a
*place*; some hundred consecutive tokens of one sequence are *prefilled*; one token each of many sequences is *decoded*.
A sequence is a *slot*; its positions lie in *pages* of 64.  Which page a position lies in travels with the position, so
the device has no block table of its own to keep in step with ours.  Pure; it knows no tensor and no conversation.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from shared.audio import RATE
from voxd.engine.gpu.batch import Places, Runner
from voxd.engine.gpu.weights import DeviceKind, ModelSource
from voxd.engine.options import read

MODEL = "mistralai/Voxtral-Mini-3B-2507"
WINDOW = 30 * RATE  # samples that the encoder hears at once
BEFORE, BEHIND = 200, 40  # samples before and behind a window that its spectrogram reaches
SPAN = BEFORE + WINDOW + BEHIND
PER_WINDOW = 375  # embeddings, that is tokens, of a window
PAGE = 64  # positions; page 0 is used by no sequence
CHUNK = 512  # tokens that are prefilled at once

# A row of `prefill` and `decode`, int32.  The last three are those of `Sampling`; floats as their bits.
SLOT, POSITION, SOURCE, OF_PAGE, WANTED, TEMPERATURE, TOP_P, SEED = range(8)
HEAD = 8
LAST_TOKEN = -(1 << 31)  # as a source: the token that was last chosen for this slot

# A row of `encoder`: the place, the highest value that other windows of the clip have (float bits), then SPAN samples.
# Its result: the highest and the lowest value of this window, as `extremes` reads them.
ENCODER_HEAD = 2
LOG_RANGE = 8.0  # log10 of a power: what lies deeper under the highest value of the audio is raised to that
NONE_HIGHER = -100.0  # log10 of a power: nothing is this quiet


def audio(place: int, index: int) -> int:
    """The source of embedding `index` at `place`."""
    return -1 - (place * PER_WINDOW + index)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen: `temperature` 0 takes the likeliest, anything else draws among the `TOP_K` that make up
    `top_p` of the probability.  What is drawn is a function of seed and position, whatever else is in the batch."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


TOP_K = 50  # transformers' own default


class MiniOptions(Struct, frozen=True):
    """`engine_options.voxtral-mini` of the settings file."""

    model: ModelSource = MODEL
    device: DeviceKind = "auto"
    max_context: Annotated[int, Meta(ge=1024, le=131_072)] = 8192  # tokens; past it the oldest turns are left out
    # None: as many as the memory holds of some 2000 tokens each.
    max_conversations: Annotated[int, Meta(ge=1, le=4096)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=32_768)] = 1024  # of an answer, where the session does not say
    temperature: Annotated[float, Meta(ge=0, le=2, description="a number from 0 to 2")] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1, description="a number above 0 and at most 1")] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> MiniOptions:
        """Raises Unusable; its text names the option."""
        return read("voxtral-mini", cls, given)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.seed)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the checkpoint's tokenizer knows: ids of special tokens, the bytes of each token, how text is encoded."""

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
class MiniDevice:
    """The loaded model as the engine sees it."""

    encoder: Runner
    prefill: Runner  # rows: consecutive tokens of one sequence, at most `largest`; gives one token id, of the last
    decode: Runner  # rows: one token of each sequence
    slots: Places
    pages: Places
    places: Places
    keep: Callable[[int], object]  # place -> a copy of its embeddings in the host's memory
    put: Callable[[object, int], None]  # brings such a copy back to a place
    special: SpecialTokens
    context: int  # positions that the model and the page table allow
    notes: tuple[str, ...] = ()


def extremes(said: int) -> tuple[float, float]:
    """(highest, lowest) log10 value of a window, from the result of `encoder`."""
    high, low = struct.unpack("<ff", struct.pack("<II", (said >> 32) & 0xFFFFFFFF, said & 0xFFFFFFFF))
    return high, low


def bits(value: float) -> int:
    """A float32 as an int32."""
    return int(struct.unpack("<i", struct.pack("<f", value))[0])


def language_prefix(language: str | None) -> str:
    """The text in front of [TRANSCRIBE]."""
    return f"lang:{language}" if language else ""
