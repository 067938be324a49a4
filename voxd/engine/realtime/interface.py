"""What Voxtral Realtime is told by the settings, and what it sees of its device.  Part of step 8.

Pure; it knows no tensor and no stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from voxd.engine.gpu.batch import Places, Runner
from voxd.engine.options import Checks, check
from voxd.engine.realtime.runs import Form

MODEL = "mistralai/Voxtral-Mini-4B-Realtime-2602"
DELAY_MS = range(80, 2401, 80)


@dataclass(frozen=True, slots=True)
class Options:
    """`engine_options.voxtral-realtime` of the settings file."""

    model: str = MODEL  # a repository that `voxd pull` has fetched, or a folder
    device: str = "auto"
    delay_ms: int | None = None  # None: as the model was released
    max_history_s: int = 120
    max_streams: int | None = None  # None: as many as the memory holds

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Options:
        """Raises Unusable; its text names the key."""
        check("voxtral-realtime", given, _CHECKS)
        return cls(**given)  # type: ignore[arg-type]  # they are what the checks say


_CHECKS: Checks = {
    "model": ("a repository or a folder", lambda value: isinstance(value, str) and value != ""),
    "device": ("auto, cuda or cpu", lambda value: value in ("auto", "cuda", "cpu")),
    "delay_ms": ("a multiple of 80 from 80 to 2400", lambda value: isinstance(value, int) and value in DELAY_MS),
    "max_history_s": ("from 10 to 3600", lambda value: isinstance(value, int) and 10 <= value <= 3600),
    "max_streams": ("at least 1", lambda value: isinstance(value, int) and value >= 1),
}


@dataclass(frozen=True, slots=True)
class Device:
    """What is loaded."""

    runner: Runner
    slots: Places
    join: Callable[[int, int], None]  # a sequence begins in this slot, with this delay in frames
    form: Form
    pieces: tuple[bytes, ...]
    notes: tuple[str, ...] = ()
