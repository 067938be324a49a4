"""Reports the daemon's state to systemd while it runs: loading, ready, alive, reloading, stopping.  Not in the path.

    loading    each sign of life of the engine process extends the start by LOAD_STEP_S; a load that hangs fails
    ready      READY, then WATCHDOG twice in each interval: from the event loop, and only while the engine process gives
               signs of life, so that systemd restarts the daemon if either hangs
    reloading  RELOADING, then READY again; nothing before the daemon is ready for the first time
    stopping   STOPPING, and how long turns in flight may take

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
    """Reports until it is cancelled."""
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
    """Sends one sign of life, unless the engine process is silent.  Returns the status that was reported."""
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
    """Reports a reload for the length of the `with` block."""
    told = host.ready is not None
    if told:
        systemd.reloading("reading the settings again")
    try:
        yield
    finally:
        if told:
            systemd.ready(_state(host))


def tell_stopping(systemd: Supervisor, drain_s: float) -> None:
    """Reports that the daemon stops, before it waits for turns in flight."""
    systemd.stopping("stopping: turns in flight may end")
    systemd.patience(drain_s + STOP_MARGIN_S)
