"""`voxtui doctor` as the command line calls it: facts are gathered, judged, and become a report.

Not in the path.  It knows the order of the checks; not how a fact is gathered (`machine`, `way`, `ear`) or what it
means (`rules`).
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from shared.report import Report
from voxtui.doctor.facts import Answer, Screen, Status, Token, Voxd, Way
from voxtui.doctor.machine import look_at_machine, look_at_screen
from voxtui.doctor.rules import (
    machine_findings,
    voxd_findings,
    way_findings,
    words_finding,
)
from voxtui.doctor.way import ask_status, look_at_way, open_link, speak
from voxtui.link.route import opened
from voxtui.link.target import Route, Target


async def doctor(
    target: Target,
    token: str | None,
    environ: Mapping[str, str],
    out: Callable[[str], None],
    *,
    token_file: Path | None = None,
) -> bool:
    """Examines everything and gives `out` a line whenever something is known.  True when nothing is bad.

    `token_file`: the file that the token is from, if any.  Changes nothing; takes some 10 s."""
    async with opened(target, token, environ) as route, asyncio.TaskGroup() as tasks:
        report = report_on(look_at_screen(environ), out)
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
    """Asks voxd for its state, then speaks a sentence to it."""
    if not way.stands:
        return Voxd(token)
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


def report_on(screen: Screen, out: Callable[[str], None]) -> Report:
    """A report in signs and colours that this terminal can show."""
    width = screen.columns if screen.terminal else 0
    return Report(out, width=width, utf8=screen.utf8, coloured=bool(screen.terminal and screen.colours))
