"""`voxtui doctor`: everything between a person's mouth and the model, one line each: good, or what to do about it.

`rules` (pure) says what the facts mean; `machine`, `way` and `ear` gather them.  Here they meet and become a report.
"""

from __future__ import annotations

import asyncio
import stat
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import click

from voxtui.doctor.facts import Answer, Screen, Status, Token, Voxd, Way
from voxtui.doctor.machine import look_at_machine, look_at_screen
from voxtui.doctor.rules import (
    Finding,
    healthy,
    machine_findings,
    voxd_findings,
    way_findings,
    words_finding,
)
from voxtui.doctor.way import ask_status, look_at_way, open_link, speak
from voxtui.route import opened
from voxtui.safe_text import safe_line
from voxtui.target import Route, Target

MARKS = {"ok": ("✓", "ok  "), "warn": ("!", "warn"), "bad": ("✗", "bad "), "skipped": ("–", "-   ")}
COLOURS = {"ok": "green", "warn": "yellow", "bad": "red"}
NAME = 12  # columns
WIDEST = 100  # columns of a line: longer ones are hard to read


async def doctor(
    target: Target,
    token: str | None,
    environ: Mapping[str, str],
    out: Callable[[str], None],
    *,
    token_file: Path | None = None,
) -> bool:
    """Examines, and gives `out` a line whenever something is known.  True when nothing is bad.

    `token_file`: where the token is from, if from a file.  Changes nothing; takes some 10 s."""
    async with opened(target, token, environ) as route, asyncio.TaskGroup() as tasks:
        report = Report(look_at_screen(environ), out)
        machine = tasks.create_task(look_at_machine(environ, here=target.ssh is None and target.loopback))
        way = tasks.create_task(look_at_way(target, route, environ))
        report.group("This machine", machine_findings(await machine))
        report.group(f"The way to {target.label}", way_findings(await way))
        wanted = Token(target.ssh is None and target.socket is None, token is not None, token_file, _mode(token_file))
        voxd = await _examine(way.result(), route, wanted)
        report.group("voxd", voxd_findings(voxd))
        if voxd.link is not None and not voxd.link.trouble:
            report.more(words_finding(await speak(route)))
        return report.healthy


async def _examine(way: Way, route: Route, token: Token) -> Voxd:
    """What voxd says of itself, and whether it talks."""
    if not way.stands:
        return Voxd(token)
    if way.knock.skipped and way.kind == "tcp":
        return Voxd(token, skipped=way.knock.skipped, link=await open_link(route))
    if way.tunnel is not None and way.tunnel.loading:
        return Voxd(token, Answer(200, Status(version="", state="loading", progress=way.tunnel.loading)))
    voxd = Voxd(token, await ask_status(route))
    return replace(voxd, link=await open_link(route)) if voxd.ready else voxd


def _mode(path: Path | None) -> int:
    """The permissions of a file; 0 where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode) if path is not None else 0
    except OSError:
        return 0


class Report:
    """Findings as lines: aligned, coloured on a terminal, in plain letters where it cannot show others."""

    def __init__(self, screen: Screen, out: Callable[[str], None]) -> None:
        self._screen, self._write = screen, out
        self._width = min(screen.columns, WIDEST) if screen.terminal else 0
        self.healthy = True

    def group(self, title: str, findings: Iterable[Finding]) -> None:
        self._out(self._style(safe_line(title), bold=True))
        for finding in findings:
            self.more(finding)

    def more(self, finding: Finding) -> None:
        """One finding, under the last title."""
        self.healthy = self.healthy and healthy([finding])
        mark = MARKS[finding.mark][0 if self._screen.utf8 else 1]
        start = f"  {mark} {finding.name:<{NAME}}"
        first, *rest = self._wrapped(finding.detail, len(start))
        colour, quiet = COLOURS.get(finding.mark), finding.mark == "skipped"
        self._out(f"  {self._style(mark, fg=colour, dim=quiet)} {finding.name:<{NAME}}{self._style(first, dim=quiet)}")
        for line in rest:
            self._out(" " * len(start) + self._style(line, dim=quiet))
        for remedy in finding.remedy:
            # Never cut: it may be a command, to be copied.
            self._out(" " * len(start) + ("→ " if self._screen.utf8 else "> ") + safe_line(remedy))

    def _out(self, line: str) -> None:
        self._write(line if self._screen.utf8 else line.encode("ascii", "replace").decode("ascii"))

    def _wrapped(self, text: str, indent: int) -> list[str]:
        """Lines that fit beside the indent.  Whatever others have put into a text becomes harmless here."""
        text = safe_line(text)
        room = self._width - indent
        if room < 20:
            return [text]
        return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]

    def _style(self, text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
        if not (self._screen.terminal and self._screen.colours and (fg or bold or dim)):
            return text
        return click.style(text, fg=fg, bold=bold or None, dim=dim or None)
