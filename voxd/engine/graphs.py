"""Steps of a model on its device: the table of a batch goes there in one copy, the ids come back one step late.

On a CUDA device each batch size that is used, a *bucket*, is captured as a graph once and replayed: one launch instead
of a thousand.  Elsewhere, and with VOXD_EAGER=1, the same code runs without graphs.  It knows rows of a table and
tensors; not slots, streams or what a step computes.  Part of step 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from voxd.engine.batch import Row

Step = Callable[[torch.Tensor], torch.Tensor]  # int32 [B, width] -> int64 [B]
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def fill(table: np.ndarray[tuple[int, int], np.dtype[np.int32]], rows: Sequence[Row]) -> None:
    """Rows -> int32 [B, width], the body after the head."""
    for i, row in enumerate(rows):
        head = len(row.head)
        table[i, :head] = row.head
        table[i, head:] = np.frombuffer(row.body, np.int32)


class Done(NamedTuple):
    """A step that was computed at once."""

    said: list[int]
    took_us: int

    def ids(self) -> list[int]:
        return self.said


class Eager:
    """Each step at once, and no waiting for what is not ready on a device either."""

    def __init__(self, step: Step, width: int, largest: int, device: torch.device | str = "cpu") -> None:
        self.largest = largest
        self._step, self._device = step, device
        self._table = np.zeros((largest, width), np.int32)

    @torch.inference_mode()
    def submit(self, rows: Sequence[Row]) -> Done:
        began = time.monotonic_ns()
        fill(self._table, rows)
        said = self._step(torch.from_numpy(self._table[: len(rows)]).to(self._device)).tolist()
        return Done(said, (time.monotonic_ns() - began) // 1000)
