"""The shipped units under a real systemd and journald; `tests/support/sdbox.py` says how."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect

from tests.support.sdbox import (
    ECHO,
    SETTINGS,
    VOXD,
    WHISPER,
    Box,
    drop_in,
    installed,
    records,
    reset,
    show,
    state,
    until,
)
from tests.support.speech import clip

pytestmark = [pytest.mark.slow, pytest.mark.root]
ASK = """
import sys; sys.path[:0] = ["/opt/voxd/tree", "/opt/voxd/site"]
from pathlib import Path; from voxd.commands.control import status
"""
# Three clients ask until /tmp/over is there; a refusal is an exception, and said.  How many daemons have answered.
HAMMER = ASK + "while not Path('/tmp/over').exists(): print(status(Path('/run/voxd/voxd.sock'), 60)['pid'], flush=True)"
RESTARTS = """
for client in 1 2 3; do timeout 80 /usr/bin/python3 -c "$0" >>/tmp/pids 2>>/tmp/refused & done
until [ -s /tmp/pids ]; do :; done
for restart in 1 2 3; do systemctl restart voxd; done
touch /tmp/over; wait; cat /tmp/refused; sort -u /tmp/pids | wc -l
"""
# Takes `steps` times 0.4 s to load, and says so; or never gets further.
SLOW = """
import threading
from voxd.engine.echo import Echo
class Slow(Echo):
    def __init__(self, options, wake):
        self._options = options
        super().__init__({}, wake)
    def load(self, progress):
        for step in range(self._options["steps"]):
            progress(f"layer {step + 1}")
            threading.Event().wait(0.4)
        if self._options["stuck"]:
            threading.Event().wait()
        return ()
"""
# The same daemon, but a sign of life while loading buys one second and not ten minutes.
IMPATIENT = """#!/bin/sh
PYTHONPATH=/opt/voxd/tree:/opt/voxd/site:/opt/voxd/extra exec /usr/bin/python3 -c '
from voxd.gateway import supervision; supervision.LOAD_STEP_S = 1.0
from voxd.cli import main; main()' "$@"
"""
# What the unit may do, tried where the unit runs: name -> the reason why not, or "done".
PROBE = """
import ctypes, json, os, socket, sys
def tried(what):
    try: what()
    except OSError as error: return os.strerror(error.errno) if error.errno else str(error)
    return "done"
def far():
    with socket.socket() as sock: sock.settimeout(1); sock.connect(("10.9.8.7", 9))
def unshare():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000): raise OSError(ctypes.get_errno(), "")
def setuid():
    open("/var/lib/voxd/x", "w").close(); os.chmod("/var/lib/voxd/x", 0o4755)
probe = {
    "etc": lambda: open("/etc/x", "w"), "usr": lambda: open("/usr/x", "w"),
    "opt": lambda: open("/opt/voxd/x", "w"), "state": lambda: open("/var/lib/voxd/x", "w"),
    "home": lambda: os.listdir("/home"), "root": lambda: os.listdir("/root"),
    "original": lambda: open("/etc/voxd/credentials/api-token"),
    "token": lambda: open(os.environ["CREDENTIALS_DIRECTORY"] + "/api-token"),
    "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), "namespace": unshare, "setuid": setuid,
    "device": lambda: open("/dev/urandom"), "other": lambda: open("/dev/fuse"), "far": far,
    "tune": lambda: open("/proc/sys/kernel/panic", "w"),
}
print("PROBE", json.dumps({name: tried(what) for name, what in probe.items()}))
"""
both = pytest.mark.parametrize("settings", [ECHO, WHISPER], ids=["echo", "whisper"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with installed(tmp_path_factory.mktemp("box")) as box:
        yield box


@pytest.fixture
def box(service: Box) -> Box:
    return reset(service)


@both
def test_start_returns_when_the_engine_is_warm(box: Box, settings: str) -> None:
    box.put(SETTINGS, settings)
    box.run("systemctl", "start", "voxd")

    assert state(box)["state"] == "ready"
    assert show(box, "StatusText") == "ready"
    assert records(box, "EVENT=daemon.ready")[-1]["_SYSTEMD_UNIT"] == "voxd.service"


def loading(box: Box, steps: int, *, stuck: bool) -> None:
    """The unit with an engine that loads slowly, which two seconds of patience are too short for."""
    box.put("/opt/voxd/extra/slow.py", SLOW)
    box.put("/opt/voxd/extra/slow-0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow\nVersion: 0\n")
    box.put("/opt/voxd/extra/slow-0.dist-info/entry_points.txt", "[voxd.engines]\nslow = slow:Slow\n")
    box.put("/opt/voxd/extra/impatient", IMPATIENT)
    box.run("chmod", "755", "/opt/voxd/extra/impatient")
    options = f"engine_options: {{slow: {{steps: {steps}, stuck: {str(stuck).lower()}}}}}\n"
    box.put(SETTINGS, "engines: {transcribe: slow}\n" + options)
    program = "ExecStart=\nExecStart=/opt/voxd/extra/impatient start"
    drop_in(box, f"TimeoutStartSec=2\nTimeoutAbortSec=1\nTimeoutStopSec=1\nRestart=no\n{program}")


def test_a_slow_load_takes_as_long_as_it_shows_signs_of_life(box: Box) -> None:
    loading(box, 12, stuck=False)
    box.run("systemctl", "start", "--no-block", "voxd")
    until(lambda: "layer 7" in show(box, "StatusText"), "half of the load, beyond the timeout")
    with pytest.raises(InvalidStatus) as refused:
        session(box)

    assert show(box, "ActiveState") == "activating"
    assert state(box)["state"] == "loading"
    assert refused.value.response.status_code == 503
    until(lambda: show(box, "ActiveState") == "active", "ready")
    assert show(box, "StatusText") == "ready"


def test_a_load_that_is_stuck_ends_the_start(box: Box) -> None:
    """With the same timeouts a load that gives signs of life goes on."""
    loading(box, 2, stuck=True)

    assert box.code("systemctl", "start", "voxd") != 0
    assert show(box, "Result") == "timeout"


def speak(link: ClientConnection, pcm: bytes) -> None:
    """A clip at 16 kHz and a second of silence."""
    sound = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}, "transcription": {}}}}
    link.send(json.dumps({"type": "session.update", "session": sound}))
    data = base64.b64encode(pcm + bytes(32_000)).decode()
    link.send(json.dumps({"type": "input_audio_buffer.append", "audio": data}))


def test_whisper_hears_in_the_sandbox_and_the_journal_has_its_figures(box: Box) -> None:
    """Its library writes code and runs it: what the sandbox forbids would show in the first decode."""
    box.put(SETTINGS, WHISPER)
    box.run("systemctl", "start", "voxd")
    with session(box, "?intent=transcription") as link:
        session_id = until_event(link, "session.created")["session"]["id"]
        speak(link, clip("ps_goforward").pcm())
        done = until_event(link, "conversation.item.input_audio_transcription.completed")
    until(lambda: bool(records(box, f"SESSION_ID={session_id}", "EVENT=session.end")), "its end in the journal")
    (turn,) = records(box, f"SESSION_ID={session_id}", "EVENT=transcription.done")
    found = box.run(VOXD, "logs", "--json", "--where", "final_ms>0 and engine=whisper", "--session", session_id)

    assert "forward" in done["transcript"]
    assert (turn["ENGINE"], turn["TURN_ID"], turn["_SYSTEMD_UNIT"]) == ("whisper", done["item_id"], "voxd.service")
    assert turn["_UID"] == box.run("id", "-u", "voxd")
    assert (turn["PRIORITY"], turn["SYSLOG_IDENTIFIER"]) == ("6", "voxd")
    assert float(turn["FINAL_MS"]) > 0
    assert json.loads(found)["TURN_ID"] == done["item_id"]
    assert done["transcript"].strip() not in json.dumps(records(box))


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


def test_what_the_sandbox_allows(box: Box) -> None:
    box.put("/opt/voxd/extra/probe.py", PROBE)
    box.run("ip", "address", "replace", "10.9.8.7/32", "dev", "lo")
    drop_in(box, "ExecStartPre=/usr/bin/python3 /opt/voxd/extra/probe.py")
    box.run("systemctl", "start", "voxd")
    lines = [record["MESSAGE"] for record in records(box)]
    told = json.loads(next(line for line in reversed(lines) if line.startswith("PROBE")).removeprefix("PROBE"))

    assert {name for name, outcome in told.items() if outcome == "done"} == {"state", "token", "device"}, told
    assert told["far"] in ("timed out", "Operation not permitted")  # nobody listens there: else "Connection refused"
    assert {told[name] for name in ("etc", "usr", "opt")} == {"Read-only file system"}, told


def test_the_journal_takes_a_burst(box: Box) -> None:
    code = (
        "import logging; from voxd.telemetry import journald; found = journald.handler(); assert found;"
        "logging.basicConfig(handlers=[found], level='INFO'); log = logging.getLogger('voxd.burst');"
        "[log.info('line', extra={'fields': {'TURN': n}}) for n in range(5000)]"
    )
    run = ["systemd-run", "--quiet", "--wait", "--unit=voxd-burst", "--uid=voxd"]
    box.run(*run, "--setenv=PYTHONPATH=/opt/voxd/tree:/opt/voxd/site", "/usr/bin/python3", "-c", code)
    box.run("journalctl", "--sync")
    lines = box.run("journalctl", "-u", "voxd-burst", "-o", "json", "--no-pager", "--output-fields=TURN,LOGGER,EVENT")
    found = [json.loads(line) for line in lines.splitlines()]

    assert [row["TURN"] for row in found if row.get("LOGGER") == "voxd.burst"] == [str(n) for n in range(5000)]
    assert not [row for row in found if row.get("EVENT") == "log.lost"]


def test_other_users_cannot_use_the_socket(box: Box) -> None:
    box.run("systemctl", "start", "voxd")
    ask = ["/usr/bin/python3", "-c", "import socket; socket.socket(1).connect('/run/voxd/voxd.sock')"]
    done = box.run("bash", "-c", '"$@" 2>&1 | tail -1', "bash", "runuser", "-u", "nobody", "--", *ask)

    assert "Permission denied" in done


@both
def test_an_engine_process_that_hangs_ends_in_a_restart(box: Box, settings: str) -> None:
    """voxd's own remedy is switched off here, so that the watchdog is what is left."""
    box.put(SETTINGS, settings + "engine_process: {heartbeat_timeout_s: 600}\n")
    drop_in(box, "WatchdogSec=3\nRestartSec=100ms")
    box.run("systemctl", "start", "voxd")
    box.run("kill", "-STOP", str(state(box)["engine_pid"]))
    until(lambda: show(box, "NRestarts") == "1" and show(box, "ActiveState") == "active", "a restart")

    assert records(box, "EVENT=engine.stall")
    assert any("Watchdog timeout" in record["MESSAGE"] for record in records(box))
    assert any("Fatal Python error: Aborted" in record["MESSAGE"] for record in records(box))  # and the stacks


@both
def test_a_gateway_that_hangs_is_ended_by_force(box: Box, settings: str) -> None:
    box.put(SETTINGS, settings)
    drop_in(box, "WatchdogSec=2\nTimeoutAbortSec=1\nRestartSec=100ms")
    box.run("systemctl", "start", "voxd")
    box.run("kill", "-STOP", show(box, "MainPID"))
    until(lambda: show(box, "NRestarts") == "1" and show(box, "ActiveState") == "active", "a restart")

    assert state(box)["state"] == "ready"


@both
def test_an_engine_process_that_hangs_is_cured_by_voxd_first(box: Box, settings: str) -> None:
    box.put(SETTINGS, settings + "engine_process: {heartbeat_timeout_s: 2}\n")
    drop_in(box, "WatchdogSec=8")
    box.run("systemctl", "start", "voxd")
    hung, gateway = state(box)["engine_pid"], show(box, "MainPID")
    box.run("kill", "-STOP", str(hung))
    until(lambda: state(box)["engine_pid"] not in (hung, None) and state(box)["state"] == "ready", "another process")

    assert (show(box, "NRestarts"), show(box, "MainPID")) == ("0", gateway)


@both
def test_a_crash_is_started_again_and_a_stop_is_not(box: Box, settings: str) -> None:
    box.put(SETTINGS, settings)
    drop_in(box, "RestartSec=100ms")
    box.run("systemctl", "start", "voxd")
    box.run("kill", "-KILL", show(box, "MainPID"))
    until(lambda: show(box, "NRestarts") == "1" and show(box, "ActiveState") == "active", "a restart")
    box.run("kill", "-TERM", show(box, "MainPID"))
    until(lambda: show(box, "ActiveState") == "inactive", "the end")

    assert show(box, "Result") == "success"


def test_a_mistake_in_the_settings_is_not_tried_again(box: Box) -> None:
    box.put(SETTINGS, "vad:\n  treshold: 1\n")
    drop_in(box, "RestartSec=100ms")
    box.run("systemctl", "start", "voxd", check=False)
    until(lambda: show(box, "ActiveState") == "failed", "the end")

    assert (show(box, "NRestarts"), show(box, "ExecMainStatus")) == ("0", "78")
    assert any("config.yaml:2:3" in record["MESSAGE"] for record in records(box))


@both
def test_no_connection_is_refused_over_restarts(box: Box, settings: str) -> None:
    """The first one starts the daemon."""
    box.put(SETTINGS, settings)
    box.run("systemctl", "start", "voxd.socket")
    assert show(box, "ActiveState") == "inactive"

    assert int(box.run("bash", "-c", RESTARTS, HAMMER)) == 4  # and nothing else was said


def session(box: Box, query: str = "") -> ClientConnection:
    return unix_connect(str(box.socket), f"ws://localhost/v1/realtime{query}")


def until_event(link: ClientConnection, kind: str) -> dict[str, Any]:
    """The next of this kind."""
    while True:
        event: dict[str, Any] = json.loads(link.recv(30))
        if event["type"] == kind:
            return event


def rest_of(link: ClientConnection) -> tuple[list[dict[str, Any]], int]:
    """What comes until the server closes, and how it does."""
    seen = []
    while True:
        try:
            seen.append(json.loads(link.recv(40)))
        except ConnectionClosed as closed:
            return seen, closed.rcvd.code if closed.rcvd else 0


def of_type(seen: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in seen if event["type"] == kind]


def answering(tokens: int) -> str:
    return ECHO + f"engine_options: {{echo: {{tokens: {tokens}, token_ms: 20}}}}\n"


def test_a_turn_in_flight_may_end(box: Box) -> None:
    box.put(SETTINGS, answering(100))
    box.run("systemctl", "start", "voxd")
    with session(box, "?voxd_ext=metrics") as link:
        link.send(json.dumps({"type": "response.create"}))
        until_event(link, "response.output_text.delta")
        box.run("systemctl", "stop", "--no-block", "voxd.socket", "voxd.service")
        notice = until_event(link, "voxd.warning")
        with pytest.raises(InvalidStatus) as refused:
            session(box)
        seen, code = rest_of(link)
    until(lambda: show(box, "ActiveState") == "inactive", "the end")

    assert (notice["code"], notice["retry_after_s"]) == ("going_away", 2)
    assert (refused.value.response.status_code, refused.value.response.headers["Retry-After"]) == (503, "2")
    assert of_type(seen, "response.done")[0]["response"]["status"] == "completed"
    assert code == 1012
    assert show(box, "Result") == "success"


def test_words_in_flight_are_written_down(box: Box) -> None:
    """Whisper has the sound and owes the text when the daemon is told to stop."""
    box.put(SETTINGS, WHISPER)
    box.run("systemctl", "start", "voxd")
    with session(box, "?intent=transcription") as link:
        speak(link, clip("ps_goforward").pcm())
        until_event(link, "input_audio_buffer.speech_started")
        box.run("systemctl", "stop", "--no-block", "voxd.socket", "voxd.service")
        seen, code = rest_of(link)

    assert "forward" in of_type(seen, "conversation.item.input_audio_transcription.completed")[0]["transcript"]
    assert code == 1012


def test_a_turn_that_takes_too_long_is_cut(box: Box) -> None:
    box.put(SETTINGS, answering(10_000) + "server: {drain_s: 1}\n")
    box.run("systemctl", "start", "voxd")
    with session(box) as link:
        link.send(json.dumps({"type": "response.create"}))
        until_event(link, "response.output_text.delta")
        box.run("systemctl", "stop", "--no-block", "voxd.socket", "voxd.service")
        seen, code = rest_of(link)
    until(lambda: show(box, "ActiveState") == "inactive", "the end")

    assert (of_type(seen, "response.done"), code) == ([], 1012)
    assert show(box, "Result") == "success"


def test_a_second_signal_stops_at_once(box: Box) -> None:
    """The first one would wait for 200 s of answer, 30 of them."""
    box.put(SETTINGS, answering(10_000))
    box.run("systemctl", "start", "voxd")
    with session(box, "?voxd_ext=metrics") as link:
        link.send(json.dumps({"type": "response.create"}))
        until_event(link, "response.output_text.delta")
        pid = show(box, "MainPID")
        box.run("kill", "-TERM", pid)
        until_event(link, "voxd.warning")
        assert show(box, "ActiveState") == "deactivating"
        box.run("kill", "-TERM", pid)
        until(lambda: show(box, "MainPID") != pid, "the end", seconds=15)

    assert show(box, "Result") == "success"


def test_the_service_can_be_removed(box: Box) -> None:
    """This may run at any point, since it puts everything back."""
    box.run("systemctl", "enable", "--now", "voxd.socket", "voxd.service")
    box.run(VOXD, "uninstall", "--system", "--yes", "--root", "/")
    box.run("systemctl", "stop", "voxd.socket", "voxd.service", check=False)
    box.run("systemctl", "daemon-reload")
    assert show(box, "LoadState") == "not-found"
    box.run(VOXD, "install", "--system", "--yes", "--root", "/")
    box.run("systemctl", "daemon-reload")
    assert show(box, "LoadState") == "loaded"
