"""Speech probability of the audio of all streams at once: step 8 of a frame's path, in front of the engines.

Silero's network runs over *frames* of 512 samples (32 ms) and keeps a state per stream.  The state has a batch
dimension, so frames of different streams go through it in one call; those of one stream one after another.

It does not know turns, thresholds, engines or sockets: bytes in, `Heard` out.  The network's file lies beside this one;
its runtime is imported when the first frame is due, so that importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shared.audio import RATE, VAD_FRAME, Float32, pcm16_to_float
from voxd.messages import Heard

MODEL = Path(__file__).with_name("silero_vad.onnx")
_CONTEXT = 64  # samples of the frame before that the network wants to see again
_FRAME_BYTES = 2 * VAD_FRAME

# One `step` must stay under 20 ms, for the heartbeat and the engines share its thread.  Measured on one core of two
# machines: 0.07 and 0.13 ms for one row, 1.9 and 3.2 ms for 64; the worst case of these bounds was 17 ms on the faster.
_MAX_ROWS = 64
_MAX_CELLS = 256  # rows x frames
_MAX_FRAMES = 32

# (input [B, 576], state [2, B, 128]) -> (probability [B], state [2, B, 128])
Network = Callable[[Float32, Float32], tuple[Float32, Float32]]


def load_network(path: Path = MODEL) -> Network:
    """Silero on one thread of onnxruntime: batches are far too small to share between cores."""
    import onnxruntime  # here, for only the engine process needs it, and only once audio comes

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only: warnings about the graph are nobody's business
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rate = np.array(RATE, np.int64)

    def run(frames: Float32, state: Float32) -> tuple[Float32, Float32]:
        output, new_state = session.run(None, {"input": frames, "state": state, "sr": rate})
        return np.asarray(output, np.float32)[:, 0], np.asarray(new_state, np.float32)

    return run


@dataclass(slots=True)
class _Ear:
    """What one stream carries from frame to frame."""

    position: int  # sample index of the first byte of `pending`
    pending: bytearray = field(default_factory=bytearray)  # bound: the loop's inbox, drained into here before a step
    context: Float32 = field(default_factory=lambda: np.zeros(_CONTEXT, np.float32))
    state: Float32 = field(default_factory=lambda: np.zeros((2, 128), np.float32))

    @property
    def frames(self) -> int:
        return len(self.pending) // _FRAME_BYTES


class Vad:
    """The ears of all streams of one engine process."""

    def __init__(self, load: Callable[[], Network] = load_network) -> None:
        self._load = load
        self._network: Network | None = None
        self._ears: dict[int, _Ear] = {}
        self.batches = 0  # calls of the network so far
        self.rows = 0  # frames scored in them

    def open(self, stream: int, start: int = 0) -> None:
        """`start`: sample index of the first sample to be fed.  A stream that is open already keeps its state."""
        self._ears.setdefault(stream, _Ear(start))

    def close(self, stream: int) -> None:
        self._ears.pop(stream, None)

    def feed(self, stream: int, pcm: bytes, start: int | None = None) -> None:
        """s16le at 16 kHz that follows what was fed before, or whose first sample is number `start`: then what was fed
        before is passed over."""
        ear = self._ears[stream]
        known = 0 if start is None else ear.position + len(ear.pending) // 2 - start
        ear.pending += pcm[2 * known :] if known > 0 else pcm

    @property
    def has_work(self) -> bool:
        return any(ear.frames for ear in self._ears.values())

    @property
    def lag_samples(self) -> int:
        """Audio fed and not yet heard, of the stream that waits most; less than one frame is not lag."""
        return max((ear.frames * VAD_FRAME for ear in self._ears.values()), default=0)

    def step(self) -> list[Heard]:
        """Hears at most `_MAX_CELLS` frames of the streams that waited longest; call again while `has_work`."""
        ready = [stream for stream, ear in self._ears.items() if ear.frames][:_MAX_ROWS]
        if not ready:
            return []
        if self._network is None:
            self._network = self._load()
        rounds = min(_MAX_FRAMES, _MAX_CELLS // len(ready))
        starts = {stream: self._ears[stream].position for stream in ready}
        heard: dict[int, list[float]] = {stream: [] for stream in ready}
        for _ in range(rounds):
            rows = [stream for stream in ready if self._ears[stream].frames]
            if not rows:
                break
            for stream, probability in zip(rows, self._hear(self._network, rows), strict=True):
                heard[stream].append(probability)
        for stream in ready:  # to the end of the queue, so that more than `_MAX_ROWS` streams take turns
            self._ears[stream] = self._ears.pop(stream)
        return [Heard(stream, starts[stream], tuple(heard[stream])) for stream in ready]

    def _hear(self, network: Network, rows: list[int]) -> list[float]:
        """One frame of each of `rows`."""
        ears = [self._ears[stream] for stream in rows]
        frames = np.empty((len(ears), _CONTEXT + VAD_FRAME), np.float32)
        for row, ear in zip(frames, ears, strict=True):
            row[:_CONTEXT] = ear.context
            row[_CONTEXT:] = pcm16_to_float(bytes(ear.pending[:_FRAME_BYTES]))
            ear.context = row[-_CONTEXT:].copy()
            del ear.pending[:_FRAME_BYTES]
            ear.position += VAD_FRAME
        probabilities, state = network(frames, np.stack([ear.state for ear in ears], axis=1))
        self.batches += 1
        self.rows += len(rows)
        for column, ear in enumerate(ears):
            ear.state = state[:, column].copy()
        return [float(probability) for probability in probabilities]
