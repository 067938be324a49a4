"""The lines of the log: one for the start and one for the end of a session, one for each turn.  Never audio or text.
Beside step 11.

Under journald each line also has fields (`voxd.telemetry.journald`), for `voxd logs` and journalctl:

    EVENT  session.start session.end response.done transcription.done turn.failed turn.refused file.odd
           slo.breach request.refused request.ignored call.connected client.failed door.full
           engine.lost engine.nostart engine.stall engine.warned daemon.start daemon.ready daemon.reload daemon.drain
           daemon.stop settings.changed
    SESSION_ID TURN TURN_ID ENGINE KIND PEER ERR_CODE FIELD SLO_BREACH DELTAS AUDIO_MS, and the latency words in
    capitals; for a changed setting SETTING EFFECT

A refused request is logged by its error code and field, never by its value, because a value may be private.  A session
logs each pair of code and field once; HTTP requests log it once a minute for each peer.

This module does not know sessions or sockets: it is given numbers and ids, and writes lines.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Sequence

from shared.latency import OF_A_TURN
from voxd.telemetry import journald
from voxd.telemetry.turn_meter import Targets, TurnReport
from voxd.traces import Reticent

log = logging.getLogger("voxd")
BREACH_EVERY_US = 60_000_000  # between two warnings about a missed target
KINDS = 50  # pairs of code and field that one session logs
EVERY_S = 60.0  # after which the same refusal over HTTP is logged again
REMEMBERED = 1000  # refusals over HTTP; above it the oldest is forgotten
LEVELS = ("debug", "info", "warning", "error")  # the most talkative first


def configure(level: str) -> None:
    """Logs records with fields if standard error leads to journald, else plain lines, on a terminal with the time."""
    handler = journald.handler(os.environ)
    if handler is None:
        form = "%(asctime)s %(message)s" if sys.stderr.isatty() else "%(levelname)s %(message)s"
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(Reticent(form, "%H:%M:%S"))
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)
    for noisy in ("uvicorn", "uvicorn.error", "websockets", "websockets.server", "asyncio", "aiortc", "aioice"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # they would log a traceback for each malformed client


def set_level(level: str) -> None:
    """`level`: one of LEVELS."""
    logging.getLogger().setLevel(level.upper())


def fields(event: str, **more: object) -> dict[str, dict[str, object]]:
    """The `extra` of a log record, with these fields.  Fields that are None are left out."""
    return {"fields": {"EVENT": event, **{name.upper(): value for name, value in more.items()}}}


def field_name(param: str | None) -> str | None:
    """A field's name as the log may show it.  A client may invent names, so one of unusual form is not shown."""
    if param is None:
        return None
    name = re.sub(r"\[\d+\]", "[]", param)
    return name if re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,120}", name) else "(no name)"


class HttpRefusals:
    """Logs requests that are refused before they have a session.  `clock`: seconds, monotonic.  Bound: REMEMBERED."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[tuple[str, str | None, str], float] = {}  # oldest first

    def tell(self, code: str, param: str | None, peer: str) -> None:
        """Logs a refusal, at most once in EVERY_S for each code, field and peer."""
        key, now = (code, field_name(param), peer), self._clock()
        if now - self._told.get(key, -EVERY_S) < EVERY_S:
            return
        self._told.pop(key, None)
        self._told[key] = now
        if len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        more = fields("request.refused", err_code=key[0], field=key[1], peer=peer)
        log.warning("refused · %s%s · %s", code, f" · {key[1]}" if key[1] else "", peer or "unknown peer", extra=more)


class BreachLimiter:
    """Allows one warning about a missed target in BREACH_EVERY_US; all sessions of a gateway share one limiter."""

    def __init__(self) -> None:
        self._last_us = -BREACH_EVERY_US

    def allows(self, now_us: int) -> bool:
        """Whether a warning may be written now; if so, it counts as written."""
        if now_us - self._last_us < BREACH_EVERY_US:
            return False
        self._last_us = now_us
        return True


class SessionLog:
    """Writes the lines of one session."""

    def __init__(self, session_id: str, targets: Targets, limiter: BreachLimiter) -> None:
        self._session_id, self._id = session_id, session_id[-12:]
        self._targets, self._limiter = targets, limiter
        self._turns = 0
        self._engines: dict[str, str] = {}
        self._peer = ""
        self._told: set[tuple[str, str | None]] = set()
        self.breaches = 0

    def started(self, kind: str, peer: str, transcribe: str | None, respond: str | None) -> None:
        self._engines = {
            role: name for role, name in (("transcribe", transcribe), ("respond", respond)) if name is not None
        }
        self._peer = peer
        engines = " ".join(f"{role}={name}" for role, name in self._engines.items())
        more = self._fields("session.start", kind=kind, peer=peer, engine=engines or None)
        log.info("session %s started · %s · %s · %s", self._id, kind, peer, engines or "no engine", extra=more)

    def ended(self, seconds: float, audio_ms: int, why: str) -> None:
        turns = f"{self._turns} turn{'' if self._turns == 1 else 's'}"
        more = self._fields(
            "session.end", turns=self._turns, duration_ms=round(seconds * 1000), audio_ms=audio_ms, reason=why
        )
        audio_s = audio_ms / 1000
        log.info(
            "session %s ended · %s · %.1f s · audio %.1f s · %s", self._id, turns, seconds, audio_s, why, extra=more
        )

    def turn(self, report: TurnReport, now_us: int) -> None:
        self._turns += 1
        missed = self._targets.breaches(report.metrics)
        more = self._turn_fields(report, breach=bool(missed))
        log.info("session %s · turn %d · %s", self._id, self._turns, line(report), extra=more)
        if missed:
            self.breaches += 1
            if self._limiter.allows(now_us):
                found = report.metrics.as_dict()
                told = ", ".join(f"{name} {found[name]:.0f} > {target:.0f}" for name, target in missed.items())
                more = self._fields("slo.breach", turn=self._turns)
                log.warning("session %s · over target: %s (told once a minute)", self._id, told, extra=more)

    def file(self, notes: Sequence[str]) -> None:
        """Logs what was unusual about a file that was transcribed."""
        if notes:
            log.info("session %s · the file: %s", self._id, "; ".join(notes), extra=self._fields("file.odd"))

    def failed(self, code: str, turn_id: str) -> None:
        """Logs a turn that ended without its text."""
        more = self._fields("turn.failed", turn_id=turn_id, err_code=code)
        log.warning("session %s · a turn failed · %s", self._id, code, extra=more)

    def warned(self, code: str, message: str) -> None:
        """Logs what the engine has warned the session of; such a text holds no words of anybody."""
        log.warning("session %s · %s", self._id, message, extra=self._fields("engine.warned", err_code=code))

    def refused(self, code: str, param: str | None) -> None:
        """Logs a request of the client that was refused."""
        if name := self._fresh(code, param):
            more = self._fields("request.refused", err_code=code, field=name[0], peer=self._peer)
            log.warning("session %s · refused · %s%s · %s", self._id, code, name[1], self._peer, extra=more)

    def ignored(self, code: str, param: str | None) -> None:
        """Logs a request that has no effect here, or not the effect that the client may expect."""
        if name := self._fresh(code, param):
            more = self._fields("request.ignored", err_code=code, field=name[0], peer=self._peer)
            log.info("session %s · not as asked for · %s%s · %s", self._id, code, name[1], self._peer, extra=more)

    def _fresh(self, code: str, param: str | None) -> tuple[str | None, str] | None:
        """The field's name, by itself and as a part of a line; None if this session has logged this pair already."""
        name = field_name(param)
        if (code, name) in self._told or len(self._told) >= KINDS:
            return None
        self._told.add((code, name))
        return name, f" · {name}" if name else ""

    def _fields(self, event: str, **more: object) -> dict[str, dict[str, object]]:
        return fields(event, session_id=self._session_id, **more)

    def _turn_fields(self, report: TurnReport, *, breach: bool) -> dict[str, dict[str, object]]:
        event = report.event
        scope = event.scope if event else "transcription"
        return self._fields(
            f"{scope}.done",
            turn=self._turns,
            turn_id=event and (event.response_id or event.item_id),
            engine=self._engines.get("respond" if scope == "response" else "transcribe"),
            slo_breach=1 if breach else None,
            deltas=report.deltas or None,
            audio_ms=report.audio_ms or None,
            **report.metrics.as_dict(),
        )


def line(report: TurnReport) -> str:
    """`ttft engine 38 ms · first delta 41 ms · 15 deltas in 650 ms`, or `first text 610 ms · final 510 ms · …`."""
    found = report.metrics.as_dict()
    parts: list[str] = []
    for metric in OF_A_TURN:
        if metric.line and metric.name in found:
            value = found[metric.name]
            parts.append(f"{metric.line} {value:.0f} ms" if metric.unit == "ms" else f"{metric.line} {value:.2f}")
        if metric.name == "ttft_server_ms" and report.text_span_ms is not None:
            parts.append(f"{report.deltas} deltas in {report.text_span_ms:.0f} ms")
        if metric.name == "final_ms" and metric.name in found and report.audio_ms:
            parts.append(f"audio {report.audio_ms / 1000:.1f} s")
    return " · ".join(parts) or "no text"
