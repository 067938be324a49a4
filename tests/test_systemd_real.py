"""The shipped units under a real systemd and journald; `tests/sdbox.py` says how."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.sdbox import Box, booted, until

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(180)]
CONFIG = "engines: {transcribe: echo, respond: echo}\n"
ASK = """
import sys; sys.path[:0] = ["/opt/voxd/tree", "/opt/voxd/site"]
from pathlib import Path; from voxd.control import status
"""
# Three clients ask until /tmp/over is there; a refusal is an exception, and said.  How many daemons have answered.
HAMMER = ASK + "while not Path('/tmp/over').exists(): print(status(Path('/run/voxd/voxd.sock'), 60)['pid'], flush=True)"
RESTARTS = """
for client in 1 2 3; do timeout 80 /usr/bin/python3 -c "$0" >>/tmp/pids 2>>/tmp/refused & done
until [ -s /tmp/pids ]; do :; done
for restart in 1 2 3; do systemctl restart voxd; done
touch /tmp/over; wait; cat /tmp/refused; sort -u /tmp/pids | wc -l
"""
# A turn in flight when the daemon is told to stop.
TURN = """
import asyncio, json, sys; sys.path[:0] = ["/opt/voxd/tree", "/opt/voxd/site"]
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed
async def main():
    async with unix_connect("/run/voxd/voxd.sock", "ws://localhost/v1/realtime") as link:
        await link.send(json.dumps({"type": "response.create"}))
        try:
            while event := json.loads(await link.recv()):
                if event["type"] == "response.output_text.delta": open("/tmp/begun", "w").close()
                if event["type"] == "response.done": print(event["response"]["status"])
        except ConnectionClosed as closed:
            print(closed.rcvd.code)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with booted(tmp_path_factory.mktemp("box")) as box:
        box.run("/opt/voxd/bin/voxd", "install", "--system", "--yes", "--root", "/")
        box.run("systemd-sysusers")
        yield box


@pytest.fixture
def box(installed: Box) -> Box:
    """Nothing runs; the settings are CONFIG, the units as they are shipped."""
    installed.run("systemctl", "stop", "voxd.socket", "voxd.service")
    installed.run(
        "rm", "-rf", "/etc/systemd/system/voxd.service.d", "/tmp/over", "/tmp/begun", "/tmp/pids", "/tmp/refused"
    )
    installed.put("/etc/voxd/config.yaml", CONFIG)
    installed.run("systemctl", "daemon-reload")
    installed.run("systemctl", "reset-failed")
    return installed


def show(box: Box, name: str) -> str:
    return box.run("systemctl", "show", "voxd.service", "--property", name, "--value")


def drop_in(box: Box, text: str) -> None:
    box.put("/etc/systemd/system/voxd.service.d/test.conf", f"[Service]\n{text}\n")
    box.run("systemctl", "daemon-reload")


def records(box: Box, *matches: str) -> list[dict[str, str]]:
    box.run("journalctl", "--sync")
    lines = box.run("journalctl", "-u", "voxd", "-o", "json", "--no-pager", *matches, check=False).splitlines()
    return [json.loads(line) for line in lines]


def state(box: Box) -> dict[str, object]:
    found: dict[str, object] = json.loads(box.run("/opt/voxd/bin/voxd", "status", "--json"))
    return found


def test_start_returns_when_the_engine_is_warm(box: Box) -> None:
    box.run("systemctl", "start", "voxd")

    assert state(box)["state"] == "ready"
    assert show(box, "StatusText") == "ready"
    assert records(box, "EVENT=daemon.ready")[-1]["_SYSTEMD_UNIT"] == "voxd.service"


def test_the_real_engine_runs_in_the_sandbox(box: Box) -> None:
    """Whisper warms up with a decode: what the sandbox forbids it would show here."""
    box.put("/etc/voxd/config.yaml", "engines: {transcribe: whisper}\n")
    box.run("systemctl", "start", "voxd")

    assert state(box)["state"] == "ready"


def test_the_sandbox_from_inside(box: Box) -> None:
    box.run("systemctl", "start", "voxd")
    pid = show(box, "MainPID")
    facts = dict(line.split(":", 1) for line in box.run("cat", f"/proc/{pid}/status").splitlines())

    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["Uid"].split()[0] == box.run("id", "-u", "voxd")
    token = box.run("cat", "/etc/voxd/credentials/api-token")
    assert token not in box.run("cat", f"/proc/{pid}/environ")
    assert token not in json.dumps(records(box))


def test_other_users_cannot_use_the_socket(box: Box) -> None:
    box.run("systemctl", "start", "voxd")
    ask = ["/usr/bin/python3", "-c", "import socket; socket.socket(1).connect('/run/voxd/voxd.sock')"]
    done = box.run("bash", "-c", '"$@" 2>&1 | tail -1', "bash", "runuser", "-u", "nobody", "--", *ask)

    assert "Permission denied" in done


def test_an_engine_process_that_hangs_ends_in_a_restart(box: Box) -> None:
    """voxd's own cure is switched off here: the watchdog is what is left."""
    box.put("/etc/voxd/config.yaml", CONFIG + "engine_process: {heartbeat_timeout_s: 600}\n")
    drop_in(box, "WatchdogSec=3\nRestartSec=100ms")
    box.run("systemctl", "start", "voxd")
    box.run("kill", "-STOP", str(state(box)["engine_pid"]))
    until(lambda: show(box, "NRestarts") == "1" and show(box, "ActiveState") == "active", "a restart")

    assert records(box, "EVENT=engine.stall")
    assert any("Watchdog timeout" in record["MESSAGE"] for record in records(box))
    assert any("Fatal Python error: Aborted" in record["MESSAGE"] for record in records(box))  # and the stacks


def test_a_gateway_that_hangs_is_ended_by_force(box: Box) -> None:
    drop_in(box, "WatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=100ms")
    box.run("systemctl", "start", "voxd")
    box.run("kill", "-STOP", show(box, "MainPID"))
    until(lambda: show(box, "NRestarts") == "1" and show(box, "ActiveState") == "active", "a restart")

    assert state(box)["state"] == "ready"


def test_an_engine_process_that_hangs_is_cured_by_voxd_first(box: Box) -> None:
    box.put("/etc/voxd/config.yaml", CONFIG + "engine_process: {heartbeat_timeout_s: 2}\n")
    drop_in(box, "WatchdogSec=8")
    box.run("systemctl", "start", "voxd")
    hung, gateway = state(box)["engine_pid"], show(box, "MainPID")
    box.run("kill", "-STOP", str(hung))
    until(lambda: state(box)["engine_pid"] not in (hung, None) and state(box)["state"] == "ready", "another process")

    assert (show(box, "NRestarts"), show(box, "MainPID")) == ("0", gateway)


def test_a_crash_is_started_again_and_a_stop_is_not(box: Box) -> None:
    drop_in(box, "RestartSec=100ms")
    box.run("systemctl", "start", "voxd")
    box.run("kill", "-KILL", show(box, "MainPID"))
    until(lambda: show(box, "NRestarts") == "1" and show(box, "ActiveState") == "active", "a restart")
    box.run("kill", "-TERM", show(box, "MainPID"))
    until(lambda: show(box, "ActiveState") == "inactive", "the end")

    assert show(box, "Result") == "success"


def test_a_mistake_in_the_settings_is_not_tried_again(box: Box) -> None:
    box.put("/etc/voxd/config.yaml", "vad:\n  treshold: 1\n")
    drop_in(box, "RestartSec=100ms")
    box.run("systemctl", "start", "voxd", check=False)
    until(lambda: show(box, "ActiveState") == "failed", "the end")

    assert (show(box, "NRestarts"), show(box, "ExecMainStatus")) == ("0", "78")
    assert any("config.yaml:2:3" in record["MESSAGE"] for record in records(box))


def test_no_connection_is_refused_over_restarts(box: Box) -> None:
    """The first one starts the daemon."""
    box.run("systemctl", "start", "voxd.socket")
    assert show(box, "ActiveState") == "inactive"

    assert int(box.run("bash", "-c", RESTARTS, HAMMER)) == 4  # and nothing else was said


def test_a_turn_in_flight_may_end(box: Box) -> None:
    box.put("/etc/voxd/config.yaml", CONFIG + "engine_options: {echo: {tokens: 100, token_ms: 20}}\n")
    box.run("systemctl", "start", "voxd")
    stop = "until [ -e /tmp/begun ]; do :; done; systemctl stop voxd.socket voxd.service; wait"
    told = box.run("bash", "-c", f'/usr/bin/python3 -c "$0" & {stop}', TURN)

    assert told.splitlines() == ["completed", "1012"]
    assert show(box, "Result") == "success"


def test_the_service_can_be_removed(box: Box) -> None:
    """Not the last one by chance: it puts everything back."""
    box.run("systemctl", "enable", "--now", "voxd.socket", "voxd.service")
    box.run("/opt/voxd/bin/voxd", "uninstall", "--system", "--yes", "--root", "/")
    box.run("systemctl", "stop", "voxd.socket", "voxd.service", check=False)
    box.run("systemctl", "daemon-reload")
    assert show(box, "LoadState") == "not-found"
    box.run("/opt/voxd/bin/voxd", "install", "--system", "--yes", "--root", "/")
    box.run("systemctl", "daemon-reload")
    assert show(box, "LoadState") == "loaded"
