"""The table under `## Bounds` of docs/RELIABILITY.md, as numbers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"
SIZES = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
UNITS = {**SIZES, "h": 3600}  # everything else is counted as it is
HEAD = ("what", "one", "all", "where", "when it is reached")


@dataclass(frozen=True, slots=True)
class Bound:
    """A row.  `one`, `all`: bytes, seconds or a count; None for a dash.  `where`: the constants that hold them.

    `one_holds`, `all_hold`: bytes of memory; None where the number is of something else."""

    what: str
    one: float | None
    all: float | None
    where: tuple[str, ...]
    reached: str
    one_holds: float | None = None
    all_hold: float | None = None


@cache
def page() -> tuple[Bound, ...]:
    """Every row.  Raises ValueError for a row that is not as the head says."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Bounds\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    if tuple(rows[0]) != HEAD:
        raise ValueError(f"the table begins with {rows[0]}, not with {HEAD}")
    return tuple(
        Bound(
            what, number(one), number(every), tuple(re.findall(r"`([\w.]+)`", where)), reached, size(one), size(every)
        )
        for what, one, every, where, reached in rows[2:]
    )


def number(cell: str) -> float | None:
    """`4 MiB` -> 4194304."""
    if cell == "—":
        return None
    count, _, unit = cell.partition(" ")
    return float(count) * UNITS.get(unit, 1)


def size(cell: str) -> float | None:
    """`4 MiB` -> 4194304, `64 connections` -> None."""
    return number(cell) if cell.rpartition(" ")[2] in SIZES else None


def memory(rows: Sequence[Bound], clients: int) -> float:
    """Bytes that a daemon with so many clients keeps at most, by these rows; what rows share counts once."""
    shared = {row.where[-1]: row.all_hold for row in rows if row.all_hold is not None}
    counted = (row.one_holds * (row.all or clients) for row in rows if row.all_hold is None and row.one_holds)
    return sum(shared.values()) + sum(counted)


def value(constant: str) -> float:
    """`voxd.gateway.connection.OUTBOUND` -> what it is."""
    module, _, name = constant.rpartition(".")
    return float(getattr(importlib.import_module(module), name))
