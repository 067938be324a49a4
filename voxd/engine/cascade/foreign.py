"""Reads JSON of a server that is not ours within bounds.  Step 8, for the engine `cascade`.

Pure.  The server may be broken or hostile, and nothing that it sends may end the process that reads it: numbers too
large for the socket to the gateway, brackets nested deeper than any stack and text that is not Unicode are refused or
clamped here.  It knows neither HTTP nor what the values mean.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

T = TypeVar("T")
SIZE = 8 << 20  # bytes of one answer, however it is cut into events
DEPTH = 64  # brackets within brackets; an answer has five
COUNT = (1 << 31) - 1  # the largest number of tokens that is passed on

# Strings are matched whole, so that brackets in them do not count; also unfinished ones, or each quote would be tried
# to the end of the text.
_MARK = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def decode(data: bytes, kind: type[T]) -> T:
    """The JSON as a `kind`.  Raises ValueError for anything else, and for what is out of bounds."""
    if len(data) > SIZE:
        raise ValueError(f"{len(data)} bytes; at most {SIZE}")
    if _deep(data):
        raise ValueError(f"nested deeper than {DEPTH}")
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:  # little of the stack may be left
        raise ValueError("nested deeper than can be read") from None


def _deep(data: bytes) -> bool:
    """Whether brackets stand within brackets more than DEPTH times."""
    if data.count(b"[") + data.count(b"{") <= DEPTH:  # true of nearly every answer
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
