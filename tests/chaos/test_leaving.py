"""Nothing leaves the machine: whole sessions on a network whose every way out is watched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.leaving import DEVICE, NAME_SERVER, described

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 400


def why_not(folder: Path) -> str | None:
    """Why no network can be watched here; None: one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"there is no {DEVICE}"
    done = watched(folder / "trial", "true")
    return None if done.returncode == 0 else f"no such network here: {done.stderr[-200:]!r}"


def watched(record: Path, *command: str) -> subprocess.CompletedProcess[str]:
    record.touch()
    program = [sys.executable, "-m", "tests.chaos.leaving", str(record), *command]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    if reason := why_not(tmp_path):
        pytest.skip(reason)
    return tmp_path / "record"


ATTEMPTS = """
import contextlib, socket
with contextlib.suppress(OSError):
    socket.getaddrinfo("telemetry.example.org", 443)
for family, place in ((socket.AF_INET, ("192.0.2.7", 443)), (socket.AF_INET6, ("2001:db8::1", 80))):
    with contextlib.suppress(OSError), socket.socket(family) as sock:
        sock.setblocking(False)
        sock.connect(place)
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
"""


@pytest.mark.root
def test_whoever_wants_out_is_seen(record: Path) -> None:
    """A packet to the outside is recorded; without this the other tests would prove nothing."""
    done = watched(record, sys.executable, "-c", ATTEMPTS)
    assert done.returncode == 0, done.stderr
    seen = set(record.read_text().splitlines())
    assert seen == {
        f"udp {NAME_SERVER}:53 telemetry.example.org",
        "tcp 192.0.2.7:443",
        "tcp 2001:db8::1:80",
    }


def test_a_packet_in_words() -> None:
    there = socket.inet_aton("192.0.2.7")
    head = bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64])
    assert (
        described(head + bytes([6, 0, 0, 1, 2, 3, 4]) + there + bytes([0, 1, 1, 187]) + bytes(16))
        == "tcp 192.0.2.7:443"
    )
    assert described(head + bytes([1, 0, 0, 1, 2, 3, 4]) + there + bytes(8)) == "protocol 1 192.0.2.7"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("name", ["demo", "transcribe", "cascade", "voxtral"])
def test_nothing_leaves_the_machine(record: Path, name: str) -> None:
    done = watched(record, sys.executable, "-m", "tests.chaos.whole_sessions", name)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert record.read_text() == ""
