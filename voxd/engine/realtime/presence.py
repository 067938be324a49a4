"""Whether `auto` may choose a Voxtral on this machine: Realtime, unless told.  Not in the packet's path.

It looks from outside: nothing heavy is imported, no device is touched.  It knows files, modules and options; not the
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared.extras import missing
from voxd.engine.contract import Unusable
from voxd.engine.gpu.weights import NEEDS, weights_absent
from voxd.engine.realtime.interface import RealtimeOptions

GPU = (Path("/dev/nvidia0"), Path("/dev/dxg"))  # the second: Linux on Windows


class VoxtralOptions(Protocol):
    """What the options of one Voxtral are read by."""

    @property
    def model(self) -> str: ...
    @classmethod
    def parse(cls, given: Mapping[str, object]) -> VoxtralOptions: ...


def why_not(
    options: Mapping[str, object], environment: Mapping[str, str], kind: type[VoxtralOptions] = RealtimeOptions
) -> str | None:
    """The first thing that is missing, in half a sentence; None: nothing is.

    Wrong options are no reason to choose another engine: this one refuses them and names them."""
    if not any(path.exists() for path in GPU):
        return "there is no NVIDIA GPU"
    if missing(NEEDS):
        return "the extra `voxtral` is not installed"
    try:
        return weights_absent(kind.parse(options).model, environment)
    except Unusable:
        return None
