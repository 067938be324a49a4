"""voxd that tells when sound reaches a session: `python -m tests.support.tapped_voxd start ...`, for
`benchmarks.transport`.

Each burst of a tone is one line in the file that VOXD_TAP names: the time, in us of the monotonic clock that all
processes of a machine share, at which its first loud sample was handed to the session.  With VOXD_TAP_STOCK=1 calls
have aiortc's own jitter buffer, the control.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from voxd.cli import main
from voxd.session.utterances import Utterances

LOUD = 3000  # of 32767
QUIET = 2400  # samples at 16 kHz before a burst: 150 ms


def tap(path: Path) -> None:
    """All sessions into one file: the bench has one at a time."""
    original, file = Utterances.receive_audio, path.open("a")
    quiet = {"samples": QUIET}

    def receive_audio(self: Utterances, data: bytes, offset: int | None = None) -> Iterator[None]:
        yield from original(self, data, offset)
        now_us = time.monotonic_ns() // 1000
        samples = np.frombuffer(data[: len(data) & ~1], "<i2").astype(np.int32)
        hot = np.flatnonzero(np.abs(samples) > LOUD)
        if hot.size and quiet["samples"] + hot[0] >= QUIET:
            file.write(f"{now_us}\n")
            file.flush()
        quiet["samples"] = samples.size - 1 - int(hot[-1]) if hot.size else quiet["samples"] + samples.size

    Utterances.receive_audio = receive_audio  # type: ignore[method-assign]


def stock() -> None:
    from aiortc.jitterbuffer import JitterBuffer

    import voxd.webrtc.peer

    voxd.webrtc.peer.ImmediateBuffer = lambda: JitterBuffer(capacity=16, prefetch=4)  # type: ignore[misc,assignment,return-value]


if __name__ == "__main__":
    tap(Path(os.environ.pop("VOXD_TAP")))
    if os.environ.pop("VOXD_TAP_STOCK", ""):
        stock()
    main()
