"""`voxtui devices`: which microphones there are.  Beside step 1.

It knows how a device is described, not how it is opened.
"""

from __future__ import annotations

from voxtui.capture.microphone import InputDevice, inputs


def device_list() -> str:
    """One line per input, the default one marked.  Raises SourceError with the reason if there is none."""
    return "\n".join(_line(device) for device in inputs())


def _line(device: InputDevice) -> str:
    channels = "1 channel" if device.channels == 1 else f"{device.channels} channels"
    return f"{'*' if device.default else ' '} {device.index:>3}  {device.name}  ({channels}, {device.rate} Hz)"
