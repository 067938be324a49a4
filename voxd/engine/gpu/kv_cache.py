"""Keys and values of many sequences on one device: a ring of rows per slot, or pages that all share.  Step 8.

It knows rows, slots and pages; not what a sequence is, nor attention.

In rings, position p of the sequence in slot s is row `s * capacity + p % capacity` of each layer.  A ring holds the
window of attention and `slack` more, so nothing is ever moved, and a sequence is rolled back by counting back: rows
past its length are garbage that is overwritten.  Rolling back further than the slack would miss rows, and is a bug.

In pages, it is row `p % page` of the page that a table names: `Pages.table[s, p // page]`.  A sequence has as many as
it needs, in any order, and is rolled back by counting back too.

Slot 0 and page 0 belong to no sequence: the padded rows of a batch write there.
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
        """Bytes that one position takes in all layers."""
        return 2 * layers * heads * dim * dtype.itemsize

    def copy_out(self, slot: int, rows: int) -> Template:
        """The first `rows` rows of a sequence that has not wrapped."""
        start = slot * self.capacity
        return Template(*(store[:, start : start + rows].clone() for store in (self.k, self.v)))

    def copy_in(self, slot: int, template: Template) -> None:
        """Lets a sequence begin with these rows."""
        start, rows = slot * self.capacity, template.k.shape[1]
        self.k[:, start : start + rows] = template.k
        self.v[:, start : start + rows] = template.v


class Pages:
    """The rows of one transformer stack, shared: `k` and `v` are [layers, pages * page, heads, dim]."""

    def __init__(
        self,
        layers: int,
        heads: int,
        dim: int,
        *,
        page: int,
        pages: int,
        slots: int,
        context: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`context`: positions of the longest sequence."""
        shape = (layers, pages * page, heads, dim)
        self.page = page
        self.k = torch.zeros(shape, device=device, dtype=dtype)  # zeros: masked garbage must not be NaN
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.table = torch.zeros(slots, -(-context // page), device=device, dtype=torch.int32)

    def put(self, slot: torch.Tensor, position: torch.Tensor, page: torch.Tensor) -> torch.Tensor:
        """Enters into the table that these positions lie in these pages, int64 [N] each; returns their rows, int64
        [N]."""
        self.table.index_put_((slot, position // self.page), page.int())
        return page * self.page + position % self.page


class Slots:
    """Which slots or pages are free.  `take` raises IndexError when none is free: ask `free` first."""

    def __init__(self, count: int) -> None:
        self.count = count - 1  # number 0 is for padding
        self._free = list(range(count - 1, 0, -1))
        self._taken: set[int] = set()

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        slot = self._free.pop()
        self._taken.add(slot)
        return slot

    def give(self, slot: int) -> None:
        if slot not in self._taken:
            raise ValueError(f"slot {slot} was not taken")
        self._taken.remove(slot)
        self._free.append(slot)
