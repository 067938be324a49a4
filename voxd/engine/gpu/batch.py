"""How an engine hands a batch to its device.  Between steps 7 and 8.  Pure; it knows no tensor.

The engine decides who goes (`Row`s), a `Runner` computes and gives a `Flight`: the ids come when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int32]  # rows that are filled already


class Row(NamedTuple):
    """One sequence in a batch: a few numbers, then bytes."""

    head: tuple[int, ...]
    body: bytes


class Flight(Protocol):
    """A step on its way."""

    def ids(self) -> list[int]:
        """One per row; waits for them."""

    @property
    def took_us(self) -> int:
        """Of the device, once the ids are there."""


class Runner(Protocol):
    """A device that computes batches of at most `largest` rows, in order."""

    largest: int

    def submit(self, rows: Sequence[Row] | Table) -> Flight: ...


class Places(Protocol):
    """Slots of its memory."""

    count: int

    @property
    def free(self) -> int: ...
    def take(self) -> int: ...
    def give(self, slot: int) -> None: ...
