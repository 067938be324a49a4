"""`voxd logs`: the journal's records of voxd, chosen and made readable.

Not in the path.  It exists because journalctl cannot compare numbers.  It knows the fields that `voxd.telemetry.log`
writes and journalctl's JSON; not what a record means.
"""

from __future__ import annotations

import difflib
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn

from shared.latency import OF_A_TURN

UNITS = ("--unit=voxd.service", "--user-unit=voxd.service")  # the machine's, and one's own
METRICS = tuple(metric for metric in OF_A_TURN if metric.source != "client" and not metric.several)
NUMBERS = (
    *(metric.name for metric in METRICS),
    "audio_ms", "duration_ms", "engine_age_ms", "deltas", "turn", "turns", "slo_breach", "priority",
)  # fmt: skip
WORDS = ("event", "engine", "err_code", "kind", "session_id", "turn_id")
SHOWN = tuple((metric.name, metric.column) for metric in METRICS if metric.column)
URGENT = ("0", "1", "2", "3", "4")  # warnings and worse
TURNS = ("response.done", "transcription.done")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, "!=": operator.ne, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
CONDITION = re.compile(r"\s*([A-Za-z_]+)\s*(>=|<=|!=|>|<|=)\s*([A-Za-z0-9_.-]+)\s*")
FIGURE = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")  # as journal records have it
Row = Mapping[str, str]


class BadFilter(Exception):
    """A filter of `--where` cannot be read; the text says what is wrong and what is allowed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`field` compared with a number or a word.  A record without the field does not meet it."""

    field: str
    symbol: str
    value: float | str

    def holds(self, row: Row) -> bool:
        if isinstance(self.value, str):
            text = row.get(self.field.upper())
            return text is not None and OPERATORS[self.symbol](text, self.value)
        number = _number(row, self.field)
        return number is not None and OPERATORS[self.symbol](number, self.value)


def _number(row: Row, field: str) -> float | None:
    """The number in that field; None if it is missing, or no number that voxd writes."""
    text = row.get(field.upper(), "")
    return float(text) if FIGURE.fullmatch(text) else None


def parse(text: str) -> tuple[Condition, ...]:
    """`ttft_engine_ms>200 and engine=whisper`: all must hold.  Raises BadFilter."""
    return tuple(map(_condition, re.split(r"\band\b", text)))


def _condition(text: str) -> Condition:
    match = CONDITION.fullmatch(text)
    if match is None:
        _refuse(f"{text.strip()[:60]!a} is no comparison; for instance: ttft_engine_ms>200 and engine=whisper")
    field, symbol, value = match[1].lower(), match[2], match[3]  # the journal has them in capitals
    if field in WORDS:
        if symbol not in ("=", "!="):
            _refuse(f"{field} is a word: it can be = or != only")
        return Condition(field, symbol, value)
    if field not in NUMBERS:
        near = difflib.get_close_matches(field, (*NUMBERS, *WORDS), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        _refuse(f"no field is called {field}{hint}; there are: {', '.join((*NUMBERS, *WORDS))}")
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        _refuse(f"{field} is compared with a number, not with {value!a}")
    return Condition(field, symbol, float(value))


def _refuse(text: str) -> NoReturn:
    raise BadFilter(f"--where: {text}")


def command(*, follow: bool) -> list[str]:
    """The call of journalctl for all records of voxd, or with `follow` for new ones."""
    more = ["--follow"] if follow else []
    return [
        "journalctl",
        *UNITS,
        "--output=json",
        "--all",
        "--no-pager",
        "--quiet",
        *more,
    ]  # all: no null for over 4 KiB


def row(line: bytes) -> Row | None:
    """One record, or None if the line is none.  Values that are not text (numbers, null) are left out."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return {name: value for name, value in found.items() if isinstance(value, str)}


def wanted(found: Row, session: str | None, conditions: tuple[Condition, ...]) -> bool:
    """`session`: an id, or how it ends (lines show the last 8 characters)."""
    if session is not None and not found.get("SESSION_ID", "").endswith(session):
        return False
    return all(condition.holds(found) for condition in conditions)


def shown(found: Row) -> str:
    """A line for people: the figures of a turn in columns, the message of any other record."""
    when = f"{_time(found):%m-%d %H:%M:%S}"
    if found.get("EVENT") not in TURNS:
        mark = "✗ " if found.get("PRIORITY") in URGENT else ""
        return f"{when}  {mark}{_plain(found.get('MESSAGE', ''))}"
    parts = [f"{found.get('SESSION_ID', '')[-12:]:<12}", f"turn {found.get('TURN', '?'):<4}", *_figures(found)]
    return "  ".join([when, *parts, *(["✗ over target"] if found.get("SLO_BREACH") == "1" else [])])


def _figures(found: Row) -> Iterator[str]:
    for field, word in SHOWN:
        if (number := _number(found, field)) is not None:
            yield f"{word} {number:>6.0f} ms" if field.endswith("_ms") else f"{word} {number:.2f}"


def _time(found: Row) -> datetime:
    """When it was logged, in the time zone of this machine, as journalctl shows it."""
    return datetime.fromtimestamp(int(found.get("__REALTIME_TIMESTAMP", "0")) / 1e6, UTC).astimezone()


def _plain(text: str) -> str:
    """The text without characters that a terminal would act on."""
    return "".join(char if char.isprintable() else " " for char in text)
