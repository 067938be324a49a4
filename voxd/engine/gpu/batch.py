"""The interface between an engine and its device.  Between steps 7 and 8.

Pure; it knows no tensor.  The engine decides which sequences go into a batch (`Row`s); a `Runner` computes it and gives
a `Flight`, which returns the token ids when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.int32]  # rows as a table, already filled


class Row(NamedTuple):
    """One sequence in a batch: a few numbers, then bytes such as samples."""

    head: tuple[int, ...]
    body: bytes


class Flight(Protocol):
    """A step that the device is computing."""

    def token_ids(self) -> list[int]:
        """One token id per row; waits for them."""

    @property
    def took_us(self) -> int:
        """How long the device took, once the token ids are there."""


class Runner(Protocol):
    """A device that computes batches of at most `largest` rows, in order."""

    largest: int

    def submit(self, rows: Sequence[Row] | Table) -> Flight: ...


class Places(Protocol):
    """Numbered parts of the device's memory (slots, pages, places) that are taken and given back."""

    count: int

    @property
    def free(self) -> int: ...
    def take(self) -> int: ...
    def give(self, slot: int) -> None: ...
