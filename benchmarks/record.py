"""`python -m benchmarks.record docs/demo.svg`: a recording of the real screen, for the README.

It starts the real `voxd start` and the real `voxtui connect --file CLIP` in a terminal of their own, reads what stands
in that terminal ten times a second, and writes an animated SVG.  Nothing is drawn by hand: words and figures are those
of the run on this machine, which the last row names.  Not in the path.  It does not know what the screen means.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from itertools import groupby
from pathlib import Path

from shared import __version__
from shared.audio import RATE
from tests.support.daemon import environment, voxd_process
from tests.support.terminals import Cell, Terminal
from voxtui.capture.sources import CLIP, read_clip

COLUMNS, ROWS = 100, 24
WIDTH, HEIGHT = 8.4, 18.0  # pixels of one cell
EVERY_S = 0.1  # between two looks at the terminal
AFTER_S = 4.0  # how long the recording goes on when the clip has been played
LAST_S = 5.0  # how long the last picture stays before the recording begins again
PAPER, INK = "#121212", "#e0e0e0"
NAMED = {"black": "#000000", "red": "#cc5555", "green": "#55aa55", "brown": "#ccaa55", "blue": "#5588cc"}

Rows = list[list[Cell]]


def record(clip: Path) -> list[tuple[float, Rows]]:
    """(seconds since the start, what the terminal held from then on), only where something changed."""
    seconds = read_clip(clip).size / RATE + AFTER_S
    taken: list[tuple[float, Rows]] = []
    with voxd_process("--transcribe", "whisper") as daemon, tempfile.TemporaryDirectory() as folder:
        environ = environment(Path(folder), {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"})
        target = ["connect", f"unix:{daemon.socket}", "--file", str(clip), "--no-keep"]
        terminal = Terminal([sys.executable, "-m", "voxtui", *target], environ, COLUMNS, ROWS)
        try:
            terminal.until(lambda: "whisper" in terminal.text())
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                rows = terminal.held().rows
                if not taken or rows != taken[-1][1]:
                    taken.append((now, rows))
                threading.Event().wait(EVERY_S)
            terminal.send(b"q")
            terminal.ended()
        finally:
            terminal.close()
    return taken


def machine() -> str:
    """The processor, how many of them, and how busy they were: figures mean nothing without it."""
    names = [line.partition(":")[2] for line in _cpuinfo() if line.startswith("model name")]
    name = names[0].strip() if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, on the CPU"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


# ── the drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(taken: list[tuple[float, Rows]], caption: str) -> str:
    """The pictures one after the other, each for as long as it stood; a row that comes again is written once."""
    whole = taken[-1][0] + LAST_S
    known: dict[str, str] = {}
    ends = [*(at for at, _ in taken[1:]), whole]
    pictures = [
        "".join(f'<use href="#{_named(known, _row(row))}" y="{y * HEIGHT:g}"/>' for y, row in enumerate(rows))
        for _, rows in taken
    ]
    shown = "\n".join(
        f'<g class="f" style="animation-name:k{number}">{picture}</g>' for number, picture in enumerate(pictures)
    )
    times = "\n".join(
        _keyframes(number, at / whole * 100, end / whole * 100)
        for number, ((at, _), end) in enumerate(zip(taken, ends, strict=True))
    )
    rows = "\n".join(f'<g id="{key}">{row}</g>' for row, key in known.items())
    width, height = COLUMNS * WIDTH + 20, (ROWS + 1) * HEIGHT + 24
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">
<title>voxtui, recorded</title>
<desc>{escape(caption)}</desc>
<style>
text {{ font: 14px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre; fill: {INK} }}
.b {{ font-weight: bold }}
.f {{ visibility: hidden; animation: {whole:.2f}s step-end infinite }}
{times}
</style>
<defs>
{rows}
</defs>
<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>
<g transform="translate(10 10)">
{shown}
<text x="0" y="{ROWS * HEIGHT + 18:g}" style="font-size:11px;fill:#9a9a9a">{escape(caption)}</text>
</g>
</svg>
"""


def _keyframes(number: int, start: float, end: float) -> str:
    before = "" if start == 0 else "0% { visibility: hidden } "
    after = "" if end >= 100 else f" {end:.3f}% {{ visibility: hidden }}"
    return f"@keyframes k{number} {{ {before}{start:.3f}% {{ visibility: visible }}{after} }}"


def _named(known: dict[str, str], row: str) -> str:
    return known.setdefault(row, f"r{len(known)}")


def _row(cells: list[Cell]) -> str:
    return "".join(_runs(cells))


def _runs(cells: list[Cell]) -> Iterator[str]:
    x = 0
    for (ink, paper, bold), group in groupby(cells, key=lambda cell: cell[1:]):
        run = list(group)
        text, width = "".join(cell[0] for cell in run), len(run) * WIDTH
        if paper != "default":
            yield f'<rect x="{x * WIDTH:g}" width="{width:g}" height="{HEIGHT:g}" fill="{_colour(paper, PAPER)}"/>'
        if text.strip():
            place = f'x="{x * WIDTH:g}" y="14" textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
            style = f' style="fill:{_colour(ink, INK)}"' if ink != "default" else ""
            weight = ' class="b"' if bold else ""
            yield f"<text {place}{weight}{style}>{escape(text)}</text>"
        x += len(run)


def _colour(name: str, otherwise: str) -> str:
    if len(name) == 6 and all(sign in "0123456789abcdef" for sign in name):
        return f"#{name}"
    return NAMED.get(name.removeprefix("bright"), otherwise)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("python -m benchmarks.record FILE.svg")
    taken = record(CLIP)
    made = f"python -m benchmarks.record · voxd {__version__}, {datetime.now(UTC):%Y-%m-%d} · {machine()}"
    Path(sys.argv[1]).write_text(draw(taken, made), encoding="utf-8")


if __name__ == "__main__":
    main()
