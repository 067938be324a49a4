"""Shares the memory of one device among the engines of one process.  Not in the packet's path: before it begins.

Pure: bytes and numbers.  Each engine says what it takes in any case and what it could use (`contract.Demand`).  The
memory that is left beside weights and work space becomes units of all engines in proportion: a client that speaks to
both engines needs one unit of each.  It knows no device and no model, and options only by name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from voxd.engine.contract import Demand, Unusable

WORK_SPACE = 4 << 30  # bytes of the process for captured graphs, intermediate results and libraries


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What each engine is granted."""

    units: dict[str, int]  # by engine
    lines: tuple[str, ...]  # for the user


def plan(free: int, demands: Mapping[str, Demand], work_space: int = WORK_SPACE) -> MemoryPlan:
    """Raises Unusable, with all numbers, if the least that they need does not fit.

    Units are given out in the ratio of the weights until nothing more fits; an engine that has enough leaves the
    rest to the others."""
    room = free - work_space - sum(each.fixed for each in demands.values())
    if _cost(demands, _at(demands, 0)) > room:
        raise Unusable(_too_much(free, demands, work_space))
    levels = range(1 + max(0, room) // min(each.unit for each in demands.values()))
    level = bisect_right(levels, room, key=lambda level: _cost(demands, _at(demands, level))) - 1
    units = _at(demands, level)
    for name, more in _at(demands, level + 1).items():  # of the next level, what still fits
        left = room - _cost(demands, units)
        units[name] += min(more - units[name], left // demands[name].unit)
    return MemoryPlan(units, _lines(free, demands, units, work_space))


def _at(demands: Mapping[str, Demand], level: int) -> dict[str, int]:
    units = {}
    for name, each in demands.items():
        wanted = max(each.least, level * each.weight)
        units[name] = wanted if each.most is None else min(wanted, each.most)
    return units


def _cost(demands: Mapping[str, Demand], units: Mapping[str, int]) -> int:
    return sum(demands[name].unit * count for name, count in units.items())


def _lines(free: int, demands: Mapping[str, Demand], units: Mapping[str, int], work_space: int) -> tuple[str, ...]:
    shares = [
        f"{name} {_gb(each.fixed)} + {_many(units[name], each.per)} ({_gb(units[name] * each.unit)})"
        for name, each in demands.items()
    ]
    return (f"memory: {_gb(free)} free: {', '.join(shares)}, work space {_gb(work_space)}",)


def _too_much(free: int, demands: Mapping[str, Demand], work_space: int) -> str:
    least = _at(demands, 0)
    fixed = work_space + sum(each.fixed for each in demands.values())
    parts = [
        f"{name} {_gb(each.fixed)} and for {_many(least[name], each.per)} {_gb(least[name] * each.unit)}"
        for name, each in demands.items()
    ]
    whole = (
        f"the device's memory is too small: {_gb(free)} are free, {_gb(fixed + _cost(demands, least))} are needed: "
        f"{', '.join(parts)}, work space {_gb(work_space)}"
    )
    options = [f"engine_options.{name}.{each.lower}" for name, each in demands.items() if each.lower]
    if fixed < free and options:
        return f"{whole}; lower {' or '.join(options)}"
    return f"{whole}; take a larger device{', or one of the engines alone' if len(demands) > 1 else ''}"


def _many(count: int, per: str) -> str:
    """2, "stream of 120 s" -> "2 streams of 120 s"."""
    thing, _, rest = per.partition(" ")
    return f"{count} {thing}{'' if count == 1 else 's'} {rest}".rstrip()


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
