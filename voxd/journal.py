"""What the log says: one line for a session's start and end, one for a turn.  Never audio, never text.

It does not know sessions or sockets: numbers and ids in, lines out.
"""

from __future__ import annotations

import logging
import sys

from voxd.metrics import Targets, TurnReport

log = logging.getLogger("voxd")
BREACH_EVERY_US = 60_000_000


def configure(level: str) -> None:
    """Readable lines on standard error; journald adds time and unit there, a terminal gets the time of day."""
    terminal = sys.stderr.isatty()
    form = "%(asctime)s %(message)s" if terminal else "%(levelname)s %(message)s"
    logging.basicConfig(level=level.upper(), format=form, datefmt="%H:%M:%S", stream=sys.stderr, force=True)
    for noisy in ("uvicorn", "uvicorn.error", "websockets", "websockets.server", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # a traceback per malformed client is a flood


class SessionLog:
    """The lines of one session."""

    _breach_told_us = -BREACH_EVERY_US  # shared by all sessions: at most one warning a minute

    def __init__(self, session_id: str, targets: Targets) -> None:
        self._id = session_id[-8:]
        self._targets = targets
        self._turns = 0
        self.breaches = 0

    def started(self, kind: str, peer: str, transcribe: str | None, respond: str | None) -> None:
        engines = " ".join(
            f"{role}={name}" for role, name in (("transcribe", transcribe), ("respond", respond)) if name
        )
        log.info("session %s started · %s · %s · %s", self._id, kind, peer, engines or "no engine")

    def ended(self, seconds: float, audio_ms: int, why: str) -> None:
        turns = f"{self._turns} turn{'' if self._turns == 1 else 's'}"
        log.info("session %s ended · %s · %.1f s · audio %.1f s · %s", self._id, turns, seconds, audio_ms / 1000, why)

    def turn(self, report: TurnReport, now_us: int) -> None:
        self._turns += 1
        log.info("session %s · turn %d · %s", self._id, self._turns, line(report))
        missed = self._targets.breaches(report.metrics)
        if missed:
            self.breaches += 1
            if now_us - SessionLog._breach_told_us >= BREACH_EVERY_US:
                SessionLog._breach_told_us = now_us
                found = report.metrics.as_dict()
                told = ", ".join(f"{name} {found[name]:.0f} > {target:.0f}" for name, target in missed.items())
                log.warning("session %s · over target: %s (told once a minute)", self._id, told)

    def failed(self, why: str) -> None:
        log.warning("session %s · %s", self._id, why)


def line(report: TurnReport) -> str:
    """`ttft engine 38 ms · first delta 41 ms · 15 deltas in 650 ms`, or `first text 610 ms · final 510 ms · …`."""
    found = report.metrics
    parts: list[str] = []
    if found.ttft_engine_ms is not None:
        parts.append(f"ttft engine {found.ttft_engine_ms:.0f} ms")
    if found.ttft_server_ms is not None:
        parts.append(f"first delta {found.ttft_server_ms:.0f} ms")
    if report.text_span_ms is not None:
        parts.append(f"{report.deltas} deltas in {report.text_span_ms:.0f} ms")
    if found.first_text_ms is not None:
        parts.append(f"first text {found.first_text_ms:.0f} ms")
    if found.final_ms is not None:
        parts.append(f"final {found.final_ms:.0f} ms")
    if report.audio_ms and found.final_ms is not None:
        parts.append(f"audio {report.audio_ms / 1000:.1f} s")
    if found.rtf is not None:
        parts.append(f"rtf {found.rtf:.2f}")
    return " · ".join(parts) or "no text"
