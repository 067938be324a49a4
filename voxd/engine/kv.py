"""Keys and values of many sequences on one device: rings of rows, one ring per slot.  Part of step 8.

It knows rows and slots; not what a sequence is, nor attention.

Position p of the sequence in slot s is row `s * capacity + p % capacity` of each layer.  A ring holds the window of
attention and `slack` more, so nothing is ever moved, and a sequence is rolled back by counting back: rows past its
length are garbage that is overwritten.  Rolling back further than the slack would miss rows, and is a bug.

Slot 0 belongs to nobody: the padded rows of a batch write there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Template:
    """The first rows of a sequence, computed once: [layers, rows, heads, dim] each."""

    k: torch.Tensor
    v: torch.Tensor


class Rings:
    """The rows of one transformer stack: `k` and `v` are [layers, slots * capacity, heads, dim]."""

    def __init__(
        self,
        layers: int,
        heads: int,
        dim: int,
        *,
        slots: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.capacity = capacity
        shape = (layers, slots * capacity, heads, dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)  # zeros: masked garbage must not be NaN
        self.v = torch.zeros(shape, device=device, dtype=dtype)

    @staticmethod
    def row_bytes(layers: int, heads: int, dim: int, dtype: torch.dtype) -> int:
        """What one position takes in all layers."""
        return 2 * layers * heads * dim * dtype.itemsize

    def copy_out(self, slot: int, rows: int) -> Template:
        """The first `rows` rows of a sequence that has not wrapped."""
        start = slot * self.capacity
        return Template(*(store[:, start : start + rows].clone() for store in (self.k, self.v)))

    def copy_in(self, slot: int, template: Template) -> None:
        """A sequence begins with these rows."""
        start, rows = slot * self.capacity, template.k.shape[1]
        self.k[:, start : start + rows] = template.k
        self.v[:, start : start + rows] = template.v


class Slots:
    """Which slots are free.  Raises IndexError when none is: whoever takes asks `free` first."""

    def __init__(self, count: int) -> None:
        self.count = count - 1  # slot 0 is nobody's
        self._free = list(range(count - 1, 0, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        return self._free.pop()

    def give(self, slot: int) -> None:
        if not 0 < slot <= self.count or slot in self._free:
            raise ValueError(f"slot {slot} was not taken")
        self._free.append(slot)
