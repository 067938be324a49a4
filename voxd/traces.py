"""Writes exceptions for the log as frames and types, without their messages.  Not in the path.

A message may quote what somebody said (`KeyError: 'my name is …'`); the frames never do.  It does not know who logs.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from shared.safe_text import safe_line, safe_text


def trace(error: BaseException) -> str:
    """Oldest cause first, as Python shows it."""
    return "\n".join(reversed([_shown(each) for each in _chain(error)]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _shown(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{type(error).__module__}.{type(error).__qualname__}"


class Reticent(logging.Formatter):
    """A log formatter that writes exceptions as `trace` does, and every message on one line, whoever is quoted in
    it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's)
        record.message = safe_line(record.message)
        return super().formatMessage(record)

    def formatException(  # noqa: N802  (logging's)
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | Any
    ) -> str:
        return safe_text(trace(ei[1]), None) if ei[1] is not None else ""
