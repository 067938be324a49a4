"""A request that is refused half-way leaves nothing behind, and a daemon that cannot go on says so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from shared import events
from shared.session_config import TranscriptionSession
from tests.support import connections
from tests.support.daemon import voxd_process
from tests.voxd.gateway.test_connection import Host, Nobody, until_closed
from voxd import app, messages as m
from voxd.gateway.connection import Connection
from voxd.session.terms import Profile
from voxd.system.signals import _has_terminal


class Attaching(Host):
    """Keeps who is attached."""

    def __init__(self) -> None:
        super().__init__()
        self.attached: set[int] = set()

    def attach(self, stream: int, client: object) -> None:
        self.attached.add(stream)

    def detach(self, stream: int) -> None:
        self.attached.discard(stream)


def refused(*_: object) -> TranscriptionSession:
    raise ValueError("as the form had it")


def good(session_id: str) -> TranscriptionSession:
    return TranscriptionSession(id=session_id)


def connection(host: Host, config: object = good, profile: object = lambda ready: Profile("echo", None)) -> Connection:
    return connections.connection(host, make_config=config, profile=profile, observer=Nobody())


def test_a_call_that_is_refused_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step of opening a call fails (settings, engines, first messages), its slot is free again."""
    host = Attaching()
    with pytest.raises(ValueError, match="as the form had it"):
        connection(host, refused)
    with pytest.raises(KeyError):
        connection(host, good, lambda ready: {}["x"])
    with monkeypatch.context() as patched:
        patched.setattr(Connection, "_weigh", refused)
        with pytest.raises(ValueError, match="as the form had it"):
            connection(host)
    assert host.attached == set()


async def test_a_timer_that_throws_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticking = connection(Attaching())
    monkeypatch.setattr(ticking._session, "receive_time", refused)
    ticking._tick()
    closed = await until_closed(ticking)
    assert (closed.code, str(closed)) == (1011, "internal error")
    assert "internal error" in caplog.text
    ticking.close("over")


def test_a_client_that_is_failed_may_still_be_told_things() -> None:
    """Messages that come after the failure raise nothing."""
    ended = connection(Attaching())
    ended.fail("internal error")
    ended.receive_output(m.Heard(ended.stream, 0, (0.0,)))
    ended.engine_lost()
    ended.engine_ready(m.Ready("echo", None, False))
    ended.receive_text(events.dump(events.ResponseCancel()).decode())
    ended.close("over")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "broken.pem"
    path.write_text("this is no certificate\n")
    return path


def test_a_daemon_that_cannot_serve_a_listener_says_so_and_ends(certificate: Path) -> None:
    """It ends rather than live on unreachable over TCP."""
    tls = "--tls-cert", str(certificate), "--tls-key", str(certificate)
    with voxd_process("--transcribe", "echo", "--listen", "127.0.0.1:0", "--no-token", *tls, ready=False) as daemon:
        assert daemon.ended(60)
        assert daemon.process.returncode == 1
        assert "clients cannot be served" in daemon.log.read_text()


async def test_what_nobody_catches_is_told(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(app._tell_error)
    try:
        loop.call_soon(refused, "x")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert "internal error" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux says it")
def test_no_descriptors_are_no_lost_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon started by hand without free descriptors does not take a reload for a closed terminal."""

    def exhausted(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    assert _has_terminal()
    assert signal.SIGHUP
