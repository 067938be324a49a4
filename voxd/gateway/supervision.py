"""Tells the supervisor how the daemon is, for as long as it lives: loading, ready, alive, reloading, stopping.

    loading    every sign of life of the engine process buys LOAD_STEP_S more; a load that is stuck ends the start
    ready      READY, then WATCHDOG twice per interval: by the event loop, and only while the engine process is heard,
               so that a hang of either ends in a restart
    reloading  RELOADING, then READY again; not before the first READY, which would not be true
    stopping   STOPPING, and as long as turns in flight may take

It knows the engine host and the supervisor; not sockets or sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

from voxd.gateway.engine_host import EngineHost
from voxd.system.systemd import Supervisor
from voxd.telemetry.log import fields

log = logging.getLogger("voxd")
LOAD_STEP_S = 600.0  # between two signs of life while loading: 9 GB from a slow disk, a compilation
STOP_MARGIN_S = 15.0  # beyond the drain: the engine process, the last bytes


async def keep_told(systemd: Supervisor, host: EngineHost) -> None:
    """Until it is cancelled."""
    async with host.changed:
        while host.state != "ready":
            systemd.patience(LOAD_STEP_S)
            systemd.status(_state(host))
            await host.changed.wait()
        told = "ready"
        systemd.ready(told)
        while True:
            told = _pulse(systemd, host, told)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(host.changed.wait(), systemd.watchdog_s and systemd.watchdog_s / 2)


def _pulse(systemd: Supervisor, host: EngineHost, told: str) -> str:
    """One sign of life, unless the engine process gives none; the status that was told."""
    silent_s = time.monotonic() - host.heard_at
    limit_s = systemd.watchdog_s if host.state == "ready" else LOAD_STEP_S
    if systemd.watchdog_s and limit_s and silent_s >= limit_s:
        log.error(
            "engine process silent for %.0f s: the watchdog is not fed",
            silent_s,
            extra=fields("engine.stall", engine_age_ms=round(silent_s * 1000)),
        )
        told = f"the engine process is silent for {silent_s:.0f} s"
        systemd.status(told)
        return told
    if systemd.watchdog_s:
        systemd.alive()
    status = _state(host)
    if status != told:
        systemd.status(status)
    return status


def _state(host: EngineHost) -> str:
    return "ready" if host.state == "ready" else f"{host.state} · {host.progress}"


@contextlib.contextmanager
def reloading(systemd: Supervisor, host: EngineHost) -> Iterator[None]:
    """While the settings are read again."""
    told = host.ready is not None
    if told:
        systemd.reloading("reading the settings again")
    try:
        yield
    finally:
        if told:
            systemd.ready(_state(host))


def tell_stopping(systemd: Supervisor, drain_s: float) -> None:
    """Before turns in flight are waited for."""
    systemd.stopping("stopping: turns in flight may end")
    systemd.patience(drain_s + STOP_MARGIN_S)
