"""What systemd is told and what it hands over, with a real voxd and a socket that stands for systemd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.daemon import Daemon, voxd_process
from tests.support.fakes import short_folder
from voxd.cli import main
from voxd.commands.control import status
from voxd.gateway.supervision import LOAD_STEP_S
from voxd.system.sockets import CannotStart, handed_over
from voxd.system.systemd import Supervisor, inherited

ECHO = ("--transcribe", "echo", "--respond", "echo")


class Systemd:
    """Hears what a daemon says of itself."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(address.replace("@", "\0", 1))
        self._sock.settimeout(60)
        self.heard: list[str] = []

    def until(self, beginning: str) -> str:
        """The next line that begins so; all lines up to it are kept."""
        while True:
            lines = self._sock.recv(4096).decode().split("\n")
            self.heard += lines
            if found := [line for line in lines if line.startswith(beginning)]:
                return found[0]

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def supervised(watchdog_s: float | None = None, *, abstract: bool = False) -> Iterator[tuple[Systemd, Daemon]]:
    with short_folder() as folder:
        address = f"@voxd-test-{os.getpid()}" if abstract else str(folder / "notify")
        systemd = Systemd(address)
        env = {"NOTIFY_SOCKET": address}
        if watchdog_s:
            env["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        try:
            with voxd_process(*ECHO, env=env, ready=False) as daemon:
                yield systemd, daemon
        finally:
            systemd.close()


# ── told ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("abstract", [False, True])
def test_loading_then_ready_then_alive_then_stopping(abstract: bool) -> None:
    with supervised(2.0, abstract=abstract) as (systemd, daemon):
        systemd.until("WATCHDOG=1")
        before = list(systemd.heard)
        assert daemon.status()["state"] == "ready"
        daemon.process.send_signal(signal.SIGTERM)
        systemd.until("STOPPING=1")
        systemd.until("EXTEND_TIMEOUT_USEC=")
        assert daemon.process.wait(60) == 0

    assert before[0] == f"EXTEND_TIMEOUT_USEC={LOAD_STEP_S * 1e6:.0f}"
    assert before[1].startswith("STATUS=loading · ")
    assert before.index("READY=1") < before.index("WATCHDOG=1")
    assert systemd.heard[-1] == "EXTEND_TIMEOUT_USEC=45000000"  # 30 s of drain, and what comes after it


def test_reloading_is_told_and_then_ready_again() -> None:
    with supervised() as (systemd, daemon):
        systemd.until("READY=1")
        begun = len(systemd.heard)
        asked_us = time.monotonic_ns() // 1000
        daemon.process.send_signal(signal.SIGHUP)
        systemd.until("READY=1")
        told = systemd.heard[begun:]

    at = next(i for i, line in enumerate(told) if line == "RELOADING=1")
    assert asked_us <= int(told[at + 1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert told[-2:] == ["READY=1", "STATUS=ready"]


def test_an_engine_process_that_hangs_is_told_by_silence() -> None:
    with supervised(1.0) as (systemd, daemon):
        systemd.until("WATCHDOG=1")
        engine = daemon.status()["engine_pid"]
        assert isinstance(engine, int)
        os.kill(engine, signal.SIGSTOP)
        systemd.until("STATUS=the engine process is silent")
        begun = len(systemd.heard)
        systemd.until("STATUS=the engine process is silent")
        assert not [line for line in systemd.heard[begun:] if line == "WATCHDOG=1"]
        assert daemon.status()["state"] == "ready"  # the event loop is well, which alone is not enough
        os.kill(engine, signal.SIGCONT)
        systemd.until("WATCHDOG=1")
        systemd.until("STATUS=ready")


def test_without_a_watchdog_there_is_no_sign_of_life() -> None:
    with supervised() as (systemd, daemon):
        systemd.until("READY=1")
        daemon.process.send_signal(signal.SIGTERM)
        systemd.until("STOPPING=1")

    assert "WATCHDOG=1" not in systemd.heard


def test_children_do_not_inherit_the_right_to_speak() -> None:
    with supervised(5.0) as (systemd, daemon):
        systemd.until("READY=1")
        engine = daemon.status()["engine_pid"]
        names = {line.partition(b"=")[0] for line in Path(f"/proc/{engine}/environ").read_bytes().split(b"\0")}

    assert names.isdisjoint({b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"LISTEN_FDS"})


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1500000"}, 1.5),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_as_the_environment_says(environ: dict[str, str], watchdog_s: float | None) -> None:
    supervisor = Supervisor.take(environ)
    supervisor.ready("nobody hears this, and that is no error")

    assert supervisor.watchdog_s == watchdog_s
    assert environ == {}


# ── handed over ─────────────────────────────────────────────────────────────────────────────────────────────────────


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(128)
    return sock


def test_sockets_for_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "voxd.socket"}
    assert inherited(environ) == ()
    assert environ == {}


def test_a_socket_that_is_of_no_use_is_refused() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, pytest.raises(CannotStart, match="a stream"):
        handed_over([datagrams])


def test_a_socket_of_systemd_outlives_the_daemon() -> None:
    with short_folder() as folder, listening(folder / "voxd.sock") as sock:
        path = folder / "voxd.sock"
        with voxd_process(*ECHO, "--socket", str(path), given=[sock], ready=False) as daemon:
            assert status(path, 30)["pid"] == daemon.process.pid  # asked before it listens, answered when it does
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.process.wait(60) == 0
        assert path.is_socket()
        with voxd_process(*ECHO, "--socket", str(path), given=[sock], ready=False) as daemon:
            assert status(path, 30)["pid"] == daemon.process.pid


def test_stopping_a_service_is_for_systemctl() -> None:
    """A daemon stopped by a signal would be started again by the next client."""
    with short_folder() as folder, listening(folder / "voxd.sock") as sock:
        path = folder / "voxd.sock"
        with voxd_process(*ECHO, "--socket", str(path), given=[sock], ready=False) as daemon:
            assert status(path, 30)["activated"]
            done = CliRunner().invoke(main, ["stop", "--socket", str(path)])
            assert (done.exit_code, daemon.ended(0.1)) == (1, False)

    assert "systemctl --user stop voxd.socket voxd.service" in done.output


def test_a_tcp_socket_of_systemd_asks_for_the_token() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        with voxd_process(*ECHO, given=[sock]) as daemon:
            assert daemon.status()["listen"] == [f"127.0.0.1:{port}"]
            with socket.create_connection(("127.0.0.1", port), 10) as link:
                link.sendall(f"GET /status HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
                assert b" 401 " in link.recv(4096)


@pytest.mark.slow
async def test_no_connection_is_refused_over_a_restart() -> None:
    """A client that comes while there is no daemon waits, and is not hung up on without an answer."""
    with short_folder() as folder, listening(folder / "voxd.sock") as sock:
        path = folder / "voxd.sock"
        answers: list[str] = []
        over = asyncio.Event()

        async def hammer() -> None:
            while not over.is_set():
                found = await asyncio.to_thread(status, path, 30)
                answers.append(str(found["state"]))

        clients = [asyncio.create_task(hammer()) for _ in range(4)]
        for _ in range(3):
            with voxd_process(*ECHO, "--socket", str(path), given=[sock], ready=False) as daemon:
                seen = len(answers)
                while len(answers) < seen + 20:
                    assert not [client for client in clients if client.done()], clients
                    await asyncio.sleep(0)
                    await asyncio.wait(clients, timeout=0.05)
                await asyncio.to_thread(daemon.process.send_signal, signal.SIGTERM)
                assert await asyncio.to_thread(daemon.process.wait, 60) == 0
        with voxd_process(*ECHO, "--socket", str(path), given=[sock], ready=False):
            over.set()
            await asyncio.gather(*clients)  # a refusal would be raised here

    assert len(answers) >= 60


def test_the_token_of_the_unit_is_the_one_that_systemd_hands_over() -> None:
    """Its mode shows an access list's bits: its directory is the guard."""
    with short_folder() as folder, socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        token = folder / "api-token"
        token.write_text("of-the-unit\n")
        token.chmod(0o440)
        unit = voxd_process(*ECHO, env={"CREDENTIALS_DIRECTORY": str(folder)}, given=[sock])
        with unit, socket.create_connection(("127.0.0.1", port), 10) as link:
            head = f"GET /status HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer of-the-unit\r\n\r\n"
            link.sendall(head.encode())
            assert b" 200 " in link.recv(4096)
