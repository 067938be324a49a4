"""Prints the findings of `voxd doctor` and `voxtui doctor` as lines of the same form.  Not in the packet's path.

It knows columns, marks and colours; not what was examined, nor where the lines go.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import click

from shared.safe_text import safe_line

Mark = Literal["ok", "warn", "bad", "skipped"]

MARKS = {"ok": ("✓", "ok  "), "warn": ("!", "warn"), "bad": ("✗", "bad "), "skipped": ("–", "-   ")}
COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}
NAME = 12  # columns
WIDEST = 100  # columns of a line: longer ones are hard to read


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `remedy`: what to do, a line each."""

    name: str
    mark: Mark
    detail: str
    remedy: tuple[str, ...] = ()


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing is broken; warnings and skipped checks do not count."""
    return all(finding.mark != "bad" for finding in findings)


class Report:
    """Findings as lines: aligned, coloured on a terminal, in plain letters where it cannot show others.

    `width`: columns of the terminal, 0 for a pipe.  Control characters in texts of others are removed."""

    def __init__(self, out: Callable[[str], None], *, width: int, utf8: bool, coloured: bool) -> None:
        self._write, self._utf8, self._coloured = out, utf8, coloured
        self._width = min(width, WIDEST)
        self.healthy = True

    def group(self, title: str, findings: Iterable[Finding]) -> None:
        self._out(self._style(safe_line(title), bold=True))
        for finding in findings:
            self.more(finding)

    def more(self, finding: Finding) -> None:
        """The lines of one more finding, below the last title."""
        self.healthy = self.healthy and healthy([finding])
        mark = MARKS[finding.mark][0 if self._utf8 else 1]
        name = f"{safe_line(finding.name):<{NAME}}"
        start = f"  {mark} {name}"
        first, *rest = self._wrapped(finding.detail, len(start))
        colour, quiet = COLOURS.get(finding.mark), finding.mark == "skipped"
        self._out(f"  {self._style(mark, fg=colour, dim=quiet)} {name}{self._style(first, dim=quiet)}")
        for line in rest:
            self._out(" " * len(start) + self._style(line, dim=quiet))
        for remedy in finding.remedy:
            # Never cut: it may be a command, to be copied.
            self._out(" " * len(start) + ("→ " if self._utf8 else "> ") + safe_line(remedy))

    def _out(self, line: str) -> None:
        self._write(line if self._utf8 else line.encode("ascii", "replace").decode("ascii"))

    def _wrapped(self, text: str, indent: int) -> list[str]:
        """The text in lines that fit beside the indent."""
        text = safe_line(text)
        room = self._width - indent
        if room < 20:
            return [text]
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]

    def _style(self, text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
        if not (self._coloured and (fg or bold or dim)):
            return text
        return click.style(text, fg=fg, bold=bold or None, dim=dim or None)
