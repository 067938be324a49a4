"""JSON from a server that is not ours, read within bounds.  A part of the engine `cascade`.

Pure.  Who speaks may be broken or hostile, and what it says must not end the process that reads it: a number too large
for the link to the gateway, brackets deeper than any stack and text that is no Unicode are refused or clamped here.  It
knows neither HTTP nor what the values mean.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")
SIZE = 8 << 20  # bytes of one answer, however it is cut into events
DEPTH = 64  # brackets within brackets; an answer has five
COUNT = (1 << 31) - 1  # the largest number of tokens that is passed on

# A string whole, so that brackets in it do not count; without its end, too, or each quote would be tried to the end.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def decode(data: bytes, kind: type[T]) -> T:
    """Raises ValueError for whatever is not a `kind`, and for what is out of bounds."""
    if len(data) > SIZE:
        raise ValueError(f"{len(data)} bytes; at most {SIZE}")
    if _deep(data):
        raise ValueError(f"nested deeper than {DEPTH}")
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:  # the reader's stack may have little room left
        raise ValueError("nested deeper than can be read") from None


def _deep(data: bytes) -> bool:
    """Whether brackets stand within brackets more than DEPTH times."""
    if data.count(b"[") + data.count(b"{") <= DEPTH:  # as in nearly all that comes
        return False
    depth = 0
    for mark in _MARK.finditer(data):
        match data[mark.start()]:
            case 0x5B | 0x7B:
                depth += 1
                if depth > DEPTH:
                    return True
            case 0x5D | 0x7D:
                depth -= 1
    return False


def count(number: int | None) -> int:
    """A number of tokens as it may go into metrics and messages: 0 where it is not told or makes no sense."""
    return min(max(number or 0, 0), COUNT)
