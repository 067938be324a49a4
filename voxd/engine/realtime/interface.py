"""What the settings tell Voxtral Realtime, and how it sees its device.  Step 8.

Pure; it knows no tensor and no stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta, Struct

from voxd.engine.gpu.batch import Places, Runner
from voxd.engine.gpu.weights import DeviceKind, ModelSource
from voxd.engine.options import read
from voxd.engine.realtime.runs import Form

MODEL = "mistralai/Voxtral-Mini-4B-Realtime-2602"
DELAY_MS = range(80, 2401, 80)
DELAY = Meta(ge=80, le=2400, multiple_of=80, description="a multiple of 80 from 80 to 2400")


class RealtimeOptions(Struct, frozen=True):
    """`engine_options.voxtral-realtime` of the settings file."""

    model: ModelSource = MODEL
    device: DeviceKind = "auto"
    delay_ms: Annotated[int, DELAY] | None = None  # None: as the model was released
    max_history_s: Annotated[int, Meta(ge=10, le=3600)] = 120
    max_streams: Annotated[int, Meta(ge=1)] | None = None  # None: as many as the memory holds

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> RealtimeOptions:
        """Raises Unusable; its text names the option."""
        return read("voxtral-realtime", cls, given)


@dataclass(frozen=True, slots=True)
class RealtimeDevice:
    """The loaded model as the engine sees it."""

    runner: Runner
    slots: Places
    join: Callable[[int, int], None]  # a sequence begins in this slot, with this delay in frames
    form: Form
    pieces: tuple[bytes, ...]
    notes: tuple[str, ...] = ()
