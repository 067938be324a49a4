"""Reading the settings again: the decision (pure), and a real voxd that is told to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec import Struct, convert, to_builtins
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect
from websockets.sync.connection import Connection

from shared.settings import Settings
from tests.support.daemon import Daemon, environment, voxd_process
from tests.support.fakes import short_folder
from tests.support.sdbox import until
from voxd.cli import main
from voxd.gateway.reload import NOW, SESSIONS, applied, changes, line


def settings(**sections: dict[str, object]) -> Settings:
    return convert(to_builtins(sections), Settings)


def paths(node: Struct, path: str = "") -> Iterator[str]:
    for name in node.__struct_fields__:
        value = getattr(node, name)
        if isinstance(value, Struct):
            yield from paths(value, f"{path}{name}.")
        else:
            yield path + name


# ── decided ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_setting_has_its_time() -> None:
    """A new setting waits for a restart until somebody decides otherwise and names it here."""
    known = set(paths(Settings()))

    assert known >= NOW | SESSIONS
    assert not NOW & SESSIONS
    assert sorted(known - NOW - SESSIONS) == [
        "engine_options",
        "engine_process.environment",
        "engine_process.heartbeat_timeout_s",
        "engine_process.restart_window_s",
        "engine_process.restarts",
        "engines.respond",
        "engines.transcribe",
        "server.listen",
        "server.socket",
        "server.tls_cert",
        "server.tls_key",
        "server.token",
        "server.token_file",
        "webrtc.address",
        "webrtc.enabled",
        "webrtc.udp_ports",
    ]


def test_the_page_for_operators_has_every_setting_where_it_belongs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "OPERATE.md").read_text()
    rows = dict(re.findall(r"^\| (now|for sessions from then on|after a restart) \| (.*) \|$", page, re.MULTILINE))
    found: dict[str, set[str]] = {}
    for when, row in rows.items():
        section = ""
        for name in re.findall(r"`([a-z_.*]+)`", row):
            section, _, key = name.rpartition(".") if "." in name else (section, "", name)
            found.setdefault(when, set()).add(f"{section}.{key}")

    def told(names: set[str], setting: str) -> bool:
        section, _, key = setting.partition(".")
        return bool(names & {setting, f"{section}.*", f"{section}.{key.partition('_')[0]}_*"})

    for setting in paths(Settings()):
        kind = "now" if setting in NOW else "for sessions from then on" if setting in SESSIONS else "after a restart"
        assert [when for when, names in found.items() if told(names, setting)] == [kind], setting


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, {}, []),
        (
            {},
            {"streaming": {"latency_target_ms": 200}, "engines": {"respond": "cascade"}},
            ["engines.respond auto -> cascade needs a restart", "streaming.latency_target_ms 100 -> 200 (now)"],
        ),
        ({"vad": {"threshold": 0.6}}, {}, ["vad.threshold 0.6 -> 0.5 (sessions from now on)"]),
        ({}, {"server": {"allow_host": ["gpu"]}}, ['server.allow_host [] -> ["gpu"] (now)']),
        (
            {},
            {"server": {"tls_cert": "/c", "tls_key": "/k"}},
            ["server.tls_cert null -> /c needs a restart", "server.tls_key null -> /k needs a restart"],
        ),
        ({}, {"server": {"strict_models": True}}, ["server.strict_models false -> true (sessions from now on)"]),
    ],
)
def test_each_change_is_one_line(
    old: dict[str, dict[str, object]], new: dict[str, dict[str, object]], told: list[str]
) -> None:
    assert [line(change) for change in changes(settings(**old), settings(**new))] == told


def test_options_of_engines_are_named_and_not_shown() -> None:
    old = settings(engine_options={"whisper": {"threads": 2}, "echo": {"tokens": 3}})
    new = settings(engine_options={"cascade": {"url": "http://me:secret@chat/v1"}, "echo": {"tokens": 3}})

    assert [line(change) for change in changes(old, new)] == [
        "engine_options.whisper needs a restart",
        "engine_options.cascade needs a restart",
    ]


def test_what_needs_a_restart_stays_as_it_was() -> None:
    """The next reading tells it again, and says nothing once the file is back as it was."""
    old = settings(vad={"threshold": 0.4})
    new = settings(
        engines={"respond": "echo"},
        engine_options={"echo": {"tokens": 3}},
        server={"max_sessions": 2, "listen": [":9000"]},
        log={"level": "debug"},
    )
    running = applied(old, new)

    assert running == settings(server={"max_sessions": 2}, log={"level": "debug"})
    assert {change.when for change in changes(running, new)} == {"restart"}
    assert changes(running, settings(server={"max_sessions": 2}, log={"level": "debug"})) == ()


# ── a real voxd ─────────────────────────────────────────────────────────────────────────────────────────────────────

ENGINES = "engines: {transcribe: echo, respond: echo}\n"


@contextmanager
def running() -> Iterator[tuple[Daemon, Callable[[str], str]]]:
    """voxd, and what gives it other settings and says what it has logged since."""
    with short_folder() as folder:
        config = folder / "config.yaml"
        config.write_text(ENGINES)
        with voxd_process("--config", str(config)) as daemon:

            def reload(text: str) -> str:
                before = len(daemon.log.read_text())
                config.write_text(ENGINES + text)
                daemon.process.send_signal(signal.SIGHUP)

                def over() -> bool:
                    return bool(re.search("settings read again|not reloaded", daemon.log.read_text()[before:]))

                until(over, "a reload")
                return daemon.log.read_text()[before:]

            yield daemon, reload


def silence(link: Connection) -> int:
    """Of the session that has just begun, ms."""
    session = json.loads(link.recv(10))["session"]
    return int(session["audio"]["input"]["turn_detection"]["silence_duration_ms"])


def session(daemon: Daemon) -> Connection:
    return unix_connect(str(daemon.socket), "ws://localhost/v1/realtime")


def test_limits_count_at_once_and_sessions_stay() -> None:
    with running() as (daemon, reload), session(daemon) as first:
        assert silence(first) == 500
        told = reload("vad: {silence_duration_ms: 700}\nserver: {drain_s: 1, max_sessions: 2, socket: /tmp/other}\n")
        with session(daemon) as second:
            assert silence(second) == 700
            with pytest.raises(InvalidStatus, match="503"):
                session(daemon)
        first.send(json.dumps({"type": "response.create", "response": {"max_output_tokens": 3}}))
        while json.loads(first.recv(10))["type"] != "response.done":
            pass
        status = daemon.status()

    assert [line.partition("changed: ")[2] for line in told.splitlines() if "changed: " in line] == [
        "server.socket auto -> /tmp/other needs a restart",
        "server.max_sessions 64 -> 2 (now)",
        "server.drain_s 30 -> 1 (now)",
        "vad.silence_duration_ms 500 -> 700 (sessions from now on)",
    ]
    assert status["max_sessions"] == 2
    assert isinstance(status["notes"], list)
    assert status["notes"][-1] == "server.socket auto -> /tmp/other needs a restart"


def answer_to_an_unknown_model(link: Connection) -> str:
    sound = {"audio": {"input": {"transcription": {"model": "nobody"}}}}
    link.send(json.dumps({"type": "session.update", "session": sound}))
    while (kind := json.loads(link.recv(10))["type"]) not in ("session.updated", "error"):
        pass
    return str(kind)


def test_a_session_keeps_what_it_began_with_when_the_engine_process_is_lost() -> None:
    with running() as (daemon, reload), session(daemon) as first:
        first.recv(10)
        reload("server: {strict_models: true}\n")
        os.kill(int(str(daemon.status()["engine_pid"])), signal.SIGKILL)
        until(lambda: "engine process lost" in daemon.log.read_text(), "the loss")
        until(lambda: daemon.status()["state"] == "ready", "another engine process")
        with session(daemon) as second:
            assert [answer_to_an_unknown_model(link) for link in (first, second)] == ["session.updated", "error"]


def test_settings_that_are_wrong_change_nothing() -> None:
    with running() as (daemon, reload):
        for text, reason in (
            ("server: {max_sessions: 1, drain_s: x}\n", "config.yaml:2:27: server.drain_s: expected an integer"),
            ("server: {max_sessions: 1}\nengines: {}\n", "config.yaml:3:1: engines: duplicate key"),
            ("server: {max_sessions: 1, tls_cert: /none, tls_key: /none}\n", "/none: cannot be read"),
        ):
            told = reload(text)
            assert "ERROR not reloaded: " in told
            assert reason in told
            assert daemon.status()["max_sessions"] == 64
            asked = CliRunner().invoke(main, ["status", "--socket", str(daemon.socket)], env={"VOXD_CONFIG": "/none"})
            assert asked.exit_code == 0, asked.output  # the daemon is well: its settings are older than the file
        assert "server.max_sessions 64 -> 1 (now)" in reload("server: {max_sessions: 1}\n")
        assert "nothing has changed" in reload("server: {max_sessions: 1}\n")


def test_the_level_of_the_log_changes_and_is_told() -> None:
    """The change is logged even where the old or the new level would hide it."""
    with running() as (_, reload):
        assert "log.level info -> error (now)" in reload("log: {level: error}\n")
        assert "log.level error -> info (now)" in reload("")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "engine_options: {echo: {tokns: 3}}\nengines: {transcribe: echo}\n",
            "echo.tokns: unknown key (did you mean tokens?)",
        ),
        ("engines: {transcribe: echo, respond: whisper}\n", "'whisper' cannot fill the role `respond`"),
        ("engines: {transcribe: none, respond: cascade}\n", "cascade"),
        (ENGINES, "valid"),
    ],
)
def test_a_check_asks_the_engines_too(tmp_path: Path, text: str, told: str) -> None:
    """Settings with which the next start would fail do not pass, since `systemctl reload` checks nothing else."""
    config = tmp_path / "config.yaml"
    config.write_text(text)
    done = CliRunner().invoke(main, ["start", "--config", str(config), "--check"])

    assert done.exit_code == (0 if told == "valid" else 78)
    assert told in done.output


def test_an_engine_that_is_not_there_is_noticed_before_the_restart() -> None:
    with short_folder() as folder:
        config = folder / "config.yaml"
        config.write_text(ENGINES)
        with voxd_process("--config", str(config)) as daemon:
            config.write_text("engines: {transcribe: ecco}\n")
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda: "not reloaded: no engine is called 'ecco'" in daemon.log.read_text(), "a reload")


@contextmanager
def started_by(*command: str, stdin: int = subprocess.DEVNULL) -> Iterator[Daemon]:
    """voxd through a command that changes how it is started."""
    with short_folder() as folder:
        voxd = [sys.executable, "-m", "voxd", "start", "--socket", str(folder / "s"), "--transcribe", "echo"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([*command, *voxd], stdin=stdin, stdout=log, stderr=log, env=environment(folder))
        daemon = Daemon(process, folder / "s", folder, folder / "log")
        try:
            daemon.until_ready()
            yield daemon
        finally:
            process.kill()
            process.wait()


def test_a_terminal_that_is_closed_stops_what_was_started_in_it() -> None:
    """The same signal as for a reload stops a daemon whose terminal is gone."""
    ours, theirs = os.openpty()
    with started_by("setsid", "--ctty", stdin=theirs) as daemon:
        os.close(theirs)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "settings read again" in daemon.log.read_text(), "a reload: the terminal is there")
        os.close(ours)
        assert daemon.process.wait(60) == 0


def test_nohup_is_respected() -> None:
    with started_by("sh", "-c", 'trap "" HUP; exec "$@"', "sh") as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.status()["state"] == "ready"
        daemon.process.terminate()
        assert daemon.process.wait(60) == 0
        assert "settings read again" not in daemon.log.read_text()
