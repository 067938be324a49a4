"""Runs the steps of a model on its device: one copy there for a whole batch, token ids back one step late.  Step 8.

On a CUDA device each batch size that is used, a *bucket*, is captured as a graph once and replayed: one launch instead
of a thousand.  Elsewhere, and with VOXD_EAGER=1, the same code runs without graphs.  It knows rows of a table and
tensors; not slots, streams or what a step computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from voxd.engine.gpu.batch import Row

Step = Callable[[torch.Tensor], torch.Tensor]  # int32 [B, width] -> int64, one per row or fewer
Table = np.ndarray[tuple[int, int], np.dtype[np.int32]]
cuda: Any = torch.cuda  # half typed
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def fill(table: Table, rows: Sequence[Row] | Table) -> None:
    """Rows -> int32 [B, width], the body after the head; or such a table as it is."""
    if isinstance(rows, np.ndarray):
        table[: len(rows)] = rows
        return
    heads = np.array([row.head for row in rows], np.int32)
    width = heads.shape[1]
    table[: len(rows), :width] = heads
    if width < table.shape[1]:
        body = rows[0].body if len(rows) == 1 else b"".join([row.body for row in rows])
        bodies = np.frombuffer(body, np.int32)
        table[: len(rows), width:] = bodies.reshape(len(rows), -1)


class Done(NamedTuple):
    """A step that was computed at once."""

    said: list[int]
    took_us: int

    def token_ids(self) -> list[int]:
        return self.said


class Eager:
    """Computes each step at once, without graphs."""

    def __init__(self, step: Step, width: int, largest: int, device: torch.device | str = "cpu") -> None:
        self.largest = largest
        self._step, self._device = step, device
        self._table = np.zeros((largest, width), np.int32)

    @torch.inference_mode()
    def submit(self, rows: Sequence[Row] | Table) -> Done:
        began = time.monotonic_ns()
        fill(self._table, rows)
        said = self._step(torch.from_numpy(self._table[: len(rows)]).to(self._device)).tolist()
        return Done(said, (time.monotonic_ns() - began) // 1000)


class Replayed:
    """A graph that is being replayed: its token ids are in pinned memory once `over` has happened."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._said = torch.empty(count, dtype=torch.int64, pin_memory=True)
        self.began, self.over = (cuda.Event(enable_timing=True) for _ in range(2))

    def bring(self, said: torch.Tensor) -> None:
        """Begins the copy back."""
        self._said.copy_(said[: self._count], non_blocking=True)
        self.over.record()

    def token_ids(self) -> list[int]:
        self.over.synchronize()
        return list(self._said.tolist())

    @property
    def took_us(self) -> int:
        return round(float(self.began.elapsed_time(self.over)) * 1000)


class Captured:
    """A graph per bucket; a batch is padded to the next one with rows of zeros (slot 0).

    Two tables in pinned memory take turns, for the copy of the one before may still be on its way; so no more than two
    steps may be in flight."""

    def __init__(self, step: Step, width: int, buckets: Sequence[int], progress: Callable[[str], None]) -> None:
        self.largest = max(buckets)
        self._input = torch.zeros(self.largest, width, dtype=torch.int32, device="cuda")
        self._tables = [torch.zeros(self.largest, width, dtype=torch.int32, pin_memory=True) for _ in range(2)]
        self._graphs: dict[int, tuple[Any, torch.Tensor]] = {}
        pool = cuda.graph_pool_handle()
        for bucket in sorted(buckets, reverse=True):  # the largest first: the others fit into its memory
            progress(f"capturing batches of {bucket}")
            self._graphs[bucket] = _capture(step, self._input[:bucket], pool)

    @torch.inference_mode()
    def submit(self, rows: Sequence[Row] | Table) -> Replayed:
        table = self._tables[0]
        self._tables.reverse()
        bucket = min(size for size in self._graphs if size >= len(rows))
        values = table.numpy()
        fill(values, rows)
        values[len(rows) : bucket] = 0
        graph, said = self._graphs[bucket]
        flight = Replayed(min(len(rows), len(said)))
        flight.began.record()
        self._input[:bucket].copy_(table[:bucket], non_blocking=True)
        graph.replay()
        flight.bring(said)
        return flight


@torch.inference_mode()
def _capture(step: Step, table: torch.Tensor, pool: Any) -> tuple[Any, torch.Tensor]:
    aside = cuda.Stream()
    aside.wait_stream(cuda.current_stream())
    with cuda.stream(aside):  # libraries and kernels must be loaded before the capture
        for _ in range(2):
            step(table)
    cuda.current_stream().wait_stream(aside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph, pool=pool):
        said = step(table)
    return graph, said
