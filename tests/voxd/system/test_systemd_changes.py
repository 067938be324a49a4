"""A running service changes: its settings by a reload, its version by a link; under a real systemd."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect

from tests.support.sdbox import ECHO, SETTINGS, VOXD, Box, add_version, installed, records, reset, show, state, until
from voxd.commands.control import status

pytestmark = [pytest.mark.slow, pytest.mark.root]
URL = "ws://localhost/v1/realtime"
SWITCH = 'ln -sfn "$0" /opt/voxd/next && mv -T /opt/voxd/next /opt/voxd/current && systemctl restart voxd'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with installed(tmp_path_factory.mktemp("box")) as box:
        yield box


@pytest.fixture
def box(service: Box) -> Box:
    return reset(service)


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────


def told(box: Box, begun: int) -> list[str]:
    """What was said of settings since there were so many records of reloads."""
    until(lambda: len(records(box, "EVENT=daemon.reload")) > begun, "a reload")
    lines = records(box, "EVENT=settings.changed", "EVENT=daemon.reload")
    last = records(box, "EVENT=daemon.reload")[begun - 1]["__CURSOR"] if begun else None
    cursors = [line["__CURSOR"] for line in lines]
    return [line["MESSAGE"] for line in lines[cursors.index(last) + 1 if last else 0 :]]


def test_a_reload_changes_what_it_can_and_tells_the_rest(box: Box) -> None:
    box.run("systemctl", "start", "voxd")
    pid, begun = show(box, "MainPID"), len(records(box, "EVENT=daemon.reload"))
    with unix_connect(str(box.socket), URL) as link:
        json.loads(link.recv(10))
        more = "server: {max_sessions: 1}\nstreaming: {latency_target_ms: 200}\n"
        box.put(SETTINGS, "engines: {transcribe: echo}\n" + more)
        box.run("systemctl", "reload", "voxd")
        lines = told(box, begun)
        with pytest.raises(InvalidStatus, match="503"):
            unix_connect(str(box.socket), URL)
        link.send(json.dumps({"type": "response.create", "response": {"max_output_tokens": 3}}))
        while json.loads(link.recv(10))["type"] != "response.done":
            pass
    until(lambda: show(box, "ActiveState") == "active", "the end of the reload")

    assert lines == [
        "changed: engines.respond echo -> none needs a restart",
        "changed: server.max_sessions 64 -> 1 (now)",
        "changed: streaming.latency_target_ms 100 -> 200 (now)",
        "settings read again: 3 changes",
    ]
    (waiting,) = records(box, f"_PID={pid}", "EFFECT=restart")
    assert (waiting["SETTING"], waiting["PRIORITY"]) == ("engines.respond", "4")
    assert (show(box, "MainPID"), show(box, "NRestarts"), show(box, "StatusText")) == (pid, "0", "ready")


def test_a_reload_of_a_bad_file_fails_and_changes_nothing(box: Box) -> None:
    box.run("systemctl", "start", "voxd")
    pid, begun = show(box, "MainPID"), len(records(box, "EVENT=daemon.reload"))
    box.put(SETTINGS, ECHO + "server: {max_sessions: 1}\nvad: {treshold: 1}\n")
    failed = box.code("systemctl", "reload", "voxd")
    reasons = [record["MESSAGE"] for record in records(box) if "config.yaml:3:7: vad.treshold" in record["MESSAGE"]]
    box.run("kill", "-HUP", pid)  # past the check
    lines = told(box, begun)

    assert failed != 0
    assert len(reasons) == 1
    assert lines[0].startswith("not reloaded: /etc/voxd/config.yaml:3:7: vad.treshold: unknown key")
    assert (show(box, "ActiveState"), show(box, "MainPID"), status(box.socket)["max_sessions"]) == ("active", pid, 64)


# ── a user's own ────────────────────────────────────────────────────────────────────────────────────────────────────

OWN = """
export XDG_RUNTIME_DIR=/run/user/$(id -u) HOME=/home/ann PATH=/opt/voxd/current/bin:$PATH
mkdir -p ~/.config/voxd; echo 'engines: {transcribe: echo}' >~/.config/voxd/config.yaml; umask 077
voxd install --user --yes && systemctl --user daemon-reload && systemctl --user enable --now voxd.socket voxd.service
systemctl --user show -P StatusText voxd; stat -c %a "$XDG_RUNTIME_DIR/voxd/voxd.sock"; voxd status | grep -c ready
systemctl --user reload voxd && echo reloaded; echo 'vad: 1' >>~/.config/voxd/config.yaml
systemctl --user reload voxd 2>/dev/null || echo refused; journalctl --user --sync; voxd logs --where event=daemon.ready
voxd uninstall --user --yes && systemctl --user stop voxd.socket voxd.service && systemctl --user daemon-reload
find ~/.config/systemd ! -type d
"""


def test_a_service_of_a_user_lives_as_the_machines_does(box: Box) -> None:
    box.run("rm", SETTINGS)  # the machine's would come first
    box.run("useradd", "--create-home", "ann")
    box.run("systemctl", "start", f"user@{box.run('id', '-u', 'ann')}.service")
    lines = box.run("runuser", "-u", "ann", "--", "bash", "-c", OWN).splitlines()

    begun = lines.index("ready")  # the unit's status; before it, what the installation told
    assert lines[begun : begun + 5] == ["ready", "600", "1", "reloaded", "refused"]
    assert lines[begun + 5].endswith("ready · transcribe echo · respond none")
    assert lines[-1] == "  systemctl --user daemon-reload", "nothing is left"


# ── versions ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_upgrade_and_the_way_back_refuse_nobody(box: Box) -> None:
    """Three clients ask for the version all the time; a refusal is an exception."""
    add_version(box, "0.2.0")
    box.run("systemctl", "start", "voxd")
    first, over = str(state(box)["version"]), threading.Event()

    def hammer() -> list[str]:
        seen: list[str] = []
        while not over.is_set():
            seen.append(str(status(box.socket, 60)["version"]))
        return seen

    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(hammer) for _ in range(3)]
        try:
            for target, version in (("0.2.0", "0.2.0"), ("0.1.0", first)):
                box.run("bash", "-c", SWITCH, target)
                assert state(box)["version"] == version
                assert box.run(VOXD, "--version").endswith(version)
        finally:
            over.set()
        seen = [client.result() for client in clients]

    assert [[version for version, _ in groupby(each)] for each in seen] == [[first, "0.2.0", first]] * 3
    engine = box.run("bash", "-c", 'tr "\\0" " " <"/proc/$0/cmdline"', str(state(box)["engine_pid"]))
    assert engine.startswith("/opt/voxd/0.1.0/bin/python ")  # a link that is moved changes nothing for what runs


def test_an_upgrade_that_does_not_start_is_taken_back(box: Box) -> None:
    """The new version cannot read the settings: the socket keeps who connects until the old one is back."""
    add_version(box, "0.3.0")
    box.run("rm", "/opt/voxd/0.3.0/tree/voxd/app.py")
    box.run("systemctl", "start", "voxd")
    with ThreadPoolExecutor(1) as pool:
        failed = box.code("bash", "-c", SWITCH, "0.3.0")
        waiting = pool.submit(status, box.socket, 60)
        box.run("systemctl", "stop", "voxd.service")
        box.run("bash", "-c", SWITCH, "0.1.0")
        answer = waiting.result()

    assert failed != 0
    assert answer["version"] == state(box)["version"]
