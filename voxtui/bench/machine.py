"""Where a bench runs and what it costs: this machine in words, CPU time of processes, `/status` of the voxd.

Not in the path.  It knows /proc, not the plan.  What cannot be known (another machine's processes, a system without
/proc) is left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

from voxtui.errors import ClientError
from voxtui.link.http_client import get
from voxtui.link.target import Address, is_loopback

ANSWER_S = 5.0
BENCH, GATEWAY, ENGINE = "bench", "voxd", "engine"


def machine() -> dict[str, object]:
    """Describes this machine for the record: figures of one machine say nothing of another."""
    found: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }
    with contextlib.suppress(ValueError, OSError):
        found["memory_mib"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


async def voxd_status(address: Address) -> dict[str, object]:
    """What `/status` says; {} if there is no answer, since only figures of lesser weight depend on it."""
    try:
        async with asyncio.timeout(ANSWER_S):
            code, body = await get(address, "/status")
        found = json.loads(body) if code == 200 else {}
    except (OSError, ValueError, ClientError):
        return {}
    return found if isinstance(found, dict) else {}


def local_processes(address: Address, status: Mapping[str, object]) -> dict[str, int]:
    """Name -> pid of the voxd's processes, if they are this machine's.

    A forwarded voxd looks local, but its pids are another machine's: the first must be a voxd, the second its child."""
    near = address.open is None and (address.socket is not None or is_loopback(address.url))
    gateway, engine = status.get("pid"), status.get("engine_pid")
    if not near or not isinstance(gateway, int) or not isinstance(engine, int):
        return {}
    ours = b"voxd" in _read(gateway, "cmdline") and _stat(engine)[1:2] == [b"%d" % gateway]
    return {GATEWAY: gateway, ENGINE: engine} if ours else {}


def cpu_s(processes: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds used so far by this process and by `processes`; a process that is gone is left out."""
    found = {BENCH: time.process_time()}
    for name, pid in processes.items():
        if stat := _stat(pid):
            found[name] = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on: [state, parent, ...]; [] if there is no such process."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
