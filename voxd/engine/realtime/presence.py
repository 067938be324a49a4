"""Whether `auto` may choose Voxtral Realtime on this machine.  Not in the packet's path.

It looks from outside: nothing heavy is imported, no device is touched.  It knows files, modules and options; not the
model.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from voxd.engine.contract import Unusable
from voxd.engine.gpu.weights import NEEDS, weights_absent
from voxd.engine.realtime.interface import RealtimeOptions

VOXTRAL = "voxtral-realtime"
GPU = (Path("/dev/nvidia0"), Path("/dev/dxg"))  # the second: Linux on Windows


def why_not(options: Mapping[str, object], environment: Mapping[str, str]) -> str | None:
    """The first thing that is missing, in half a sentence; None: nothing is.

    Wrong options are no reason to choose another engine: this one refuses them and names them."""
    if not any(path.exists() for path in GPU):
        return "there is no NVIDIA GPU"
    if any(find_spec(name) is None for name in NEEDS):
        return "the extra `voxtral` is not installed"
    try:
        return weights_absent(RealtimeOptions.parse(options).model, environment)
    except Unusable:
        return None


def choose(options: Mapping[str, Mapping[str, object]], environment: Mapping[str, str]) -> tuple[str, str | None]:
    """The transcriber that `auto` means here, and why it is not Voxtral Realtime.  `options`: by engine."""
    reason = why_not(options.get(VOXTRAL, {}), environment)
    return VOXTRAL if reason is None else "whisper", reason
