"""The state of the daemon as `/status`, `voxd status` and `/metrics` show it.  Not in the path.

It reads the other parts of the gateway and changes none of them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shared import __version__
from shared.parts import Json
from shared.settings import Tcp
from voxd import messages as m
from voxd.gateway.admission import Admission
from voxd.gateway.engine_host import EngineHost
from voxd.system.addresses import address_text
from voxd.telemetry.prometheus import EngineHealth, Live

US = 1_000_000


class Calls(Protocol):
    """What a status says of calls."""

    def __len__(self) -> int: ...
    @property
    def trouble(self) -> tuple[str, str] | None:
        """Why no call is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What does not change while the daemon runs."""

    engines: m.Configure
    notes: tuple[str, ...]  # for the operator: what was decided for them
    control: Path
    listen: tuple[Tcp | Path, ...]
    activated: bool  # systemd starts it again for the next client
    tls: bool  # on the TCP listeners


@dataclass(slots=True)
class Status:
    """Reports the state of the daemon at the moment when it is asked."""

    service: Service
    host: EngineHost
    admission: Admission
    calls: Calls
    needs_restart: tuple[str, ...] = ()  # changed settings that take effect with the next start
    begun: float = field(default_factory=time.monotonic)

    def report(self) -> Json:
        """For /status, /ready and `voxd status`."""
        service, ready = self.service, self.host.ready
        return {
            "version": __version__,
            "state": self.admission.state,
            "progress": self.host.progress,
            "pid": os.getpid(),
            "engine_pid": self.host.pid,
            "engines": {"transcribe": service.engines.transcribe, "respond": service.engines.respond},
            "notes": [*service.notes, *(ready.notes if ready else ()), *self.needs_restart],
            "sessions": len(self.admission),
            "calls": len(self.calls),
            "webrtc": self.calls.trouble is None,
            "max_sessions": self.admission.limit,
            "lag_ms": self.host.lag_ms,
            "uptime_s": round(time.monotonic() - self.begun, 1),
            "socket": str(service.control),
            "activated": service.activated,
            "listen": [address_text(address) for address in service.listen],
            "tls": service.tls,
        }

    def live(self) -> Live:
        """For /metrics."""
        beat = self.host.beat
        age_s = time.monotonic() - beat.at_us / US if beat else 0.0
        kinds = Counter(connection.kind for connection in self.admission)
        engine = EngineHealth(beat, age_s) if beat else None
        return Live(self.admission.state, kinds, self.admission.limit, self.host.losses, engine)
