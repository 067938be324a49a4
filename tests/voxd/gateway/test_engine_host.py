"""EngineHost with real engine processes, which are started, watched, killed, started again and given up."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from voxd import framing, messages as m
from voxd.gateway.engine_host import EngineFailed, EngineHost, State

PATIENCE_S = 240.0
ECHO = m.Configure("echo", "echo", {"echo": {"tokens": 3, "token_ms": 1}})
STUCK = """
import threading
from voxd.engine.echo import Echo

class Stuck(Echo):
    def load(self, progress):
        progress("reading")
        threading.Event().wait()
"""


class Client:
    """Keeps what it is told.  `busy`: whether it says that a turn is in flight."""

    busy = False

    def __init__(self) -> None:
        self.changed = asyncio.Condition()
        self.told: list[m.Output | str] = []

    def receive_output(self, output: m.Output) -> None:
        self._note(output)

    def engine_lost(self) -> None:
        self._note("lost")

    def engine_ready(self, ready: m.Ready) -> None:
        self._note("ready")

    def fail(self, why: str) -> None:
        self._note(f"failed: {why}")

    def _note(self, what: m.Output | str) -> None:
        self.told.append(what)
        self._notifying = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self.changed:
            await self.changed.wait_for(done)


def attached(host: EngineHost, client: Client) -> int:
    stream = host.new_stream()
    host.attach(stream, client)
    return stream


def settled(client: Client) -> list[str]:
    return [output.text for output in client.told if isinstance(output, m.Settled)]


async def become(host: EngineHost, state: State) -> None:
    async with asyncio.timeout(PATIENCE_S), host.changed:
        await host.changed.wait_for(lambda: host.state == state)


@asynccontextmanager
async def running(host: EngineHost) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the host; at the end it is stopped and none of its processes is left."""
    task = asyncio.create_task(host.run())
    try:
        yield task
    finally:
        await host.stop()
        with suppress(EngineFailed):
            async with asyncio.timeout(PATIENCE_S):
                await task
        assert not lives(host.pid)


def lives(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(host: EngineHost, number: signal.Signals = signal.SIGKILL) -> int:
    assert host.pid is not None
    os.kill(host.pid, number)
    return host.pid


def echo_host(*, silence_s: float = 20, restarts: int = 5, window_s: float = 600) -> EngineHost:
    return EngineHost(ECHO, silence_s=silence_s, restarts=restarts, window_s=window_s)


async def test_an_engine_process_becomes_ready_and_answers_each_stream() -> None:
    host, one, other = echo_host(), Client(), Client()
    async with running(host):
        await become(host, "ready")
        assert host.ready is not None
        assert (host.ready.transcribe, host.ready.respond, host.ready.speculates) == ("echo", "echo", True)
        streams = [attached(host, one), attached(host, other)]
        for stream in streams:
            host.send([m.Open(stream, ("transcribe", "respond")), m.Respond(stream, 1, ())])
        await one.until(lambda: bool(settled(one)))
        await other.until(lambda: bool(settled(other)))
    for client, stream in zip((one, other), streams, strict=True):
        outputs = [output for output in client.told if not isinstance(output, str)]
        assert {output.stream for output in outputs} == {stream}
        assert [type(output) for output in outputs] == [m.Said] * 3 + [m.Settled]
    assert host.state == "stopped"


async def test_what_is_sent_before_the_engine_is_ready_vanishes() -> None:
    """Nothing is queued, since sessions tell their state when they hear that the engine is ready."""
    host, client = echo_host(), Client()
    stream = attached(host, client)
    host.send([m.Open(stream, ("respond",)), m.Respond(stream, 1, ())])
    async with running(host):
        await become(host, "ready")
        host.send([m.Open(stream, ("respond",)), m.Respond(stream, 2, ())])
        await client.until(lambda: bool(settled(client)))
    assert {output.ref for output in client.told if isinstance(output, m.Said)} == {2}


async def test_a_detached_client_hears_nothing_more_and_its_number_is_not_used_again() -> None:
    host, gone, stays = echo_host(), Client(), Client()
    async with running(host):
        await become(host, "ready")
        first = attached(host, gone)
        host.send([m.Open(first, ("respond",)), m.Respond(first, 1, ())])
        host.detach(first)
        host.detach(first)
        second = attached(host, stays)
        assert second > first
        host.send([m.Open(second, ("respond",)), m.Respond(second, 1, ())])
        await stays.until(lambda: bool(settled(stays)))
    assert gone.told == []


async def test_a_killed_process_is_replaced_and_clients_are_told_in_order() -> None:
    host, client = echo_host(), Client()
    async with running(host):
        await become(host, "ready")
        stream = attached(host, client)
        host.send([m.Open(stream, ("respond",)), m.Respond(stream, 1, ())])
        await client.until(lambda: bool(settled(client)))
        pid = kill(host)
        await client.until(lambda: "ready" in client.told)
        assert host.pid != pid
        assert not lives(pid)
        host.send([m.Open(stream, ("respond",)), m.Respond(stream, 2, ())])
        await client.until(lambda: len(settled(client)) == 2)
    assert [told for told in client.told if isinstance(told, str)] == ["lost", "ready"]


async def test_a_process_that_falls_silent_is_killed_and_replaced() -> None:
    host, client = echo_host(silence_s=1), Client()
    async with running(host):
        await become(host, "ready")
        attached(host, client)
        pid = kill(host, signal.SIGSTOP)
        await client.until(lambda: "lost" in client.told)
        assert not lives(pid), "a stopped process is not left behind"
        await client.until(lambda: "ready" in client.told)


async def test_an_idle_process_is_not_silent() -> None:
    """An idle process sends heartbeats, so `silence_s` passes many times and nobody is killed."""
    beats = list[m.Beat]()

    class Counting(EngineHost):
        async def _receive(self, report: m.Report) -> None:
            await super()._receive(report)
            beats.extend([report] if isinstance(report, m.Beat) else [])
            await self._change(self.state, "")

    host = Counting(ECHO, silence_s=0.9, restarts=0, window_s=600)
    async with running(host):
        async with asyncio.timeout(PATIENCE_S), host.changed:
            await host.changed.wait_for(lambda: len(beats) == 4)
        assert (host.state, host.lag_ms) == ("ready", 0)
    gaps = [later.at_us - earlier.at_us for earlier, later in pairwise(beats)]
    assert min(gaps) >= 500_000


async def test_a_process_that_keeps_ending_is_given_up() -> None:
    host, client = echo_host(restarts=1), Client()
    attached(host, client)
    async with running(host) as task:
        await become(host, "ready")
        kill(host)
        await client.until(lambda: "ready" in client.told)
        kill(host)
        with pytest.raises(EngineFailed, match="ended 2 times within 600 s; last status -9") as failure:
            await asyncio.wait_for(asyncio.shield(task), PATIENCE_S)
        assert not failure.value.configuration
        assert host.state == "failed"
        await host.stop()


async def test_losses_long_ago_do_not_count() -> None:
    host, client = echo_host(restarts=1, window_s=0), Client()
    attached(host, client)
    async with running(host):
        await become(host, "ready")
        for count in (1, 2, 3):
            kill(host)
            await client.until(lambda count=count: client.told.count("ready") == count)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("configure", "told"),
    [
        (m.Configure("nobody", None, {}), "no engine is called 'nobody'; installed engines: .*echo"),
        (m.Configure("echo", None, {"echo": {"tokens": 0}}), r"engine_options\.echo\.tokens"),
        (m.Configure("echo", None, {"echo": 5}), r"engine_options\.echo must be a mapping"),
        (m.Configure(None, "whisper", {}), r"cannot fill the role `respond`; it fills transcribe|needs faster_whisper"),
    ],
)
async def test_what_a_person_must_mend_is_not_tried_again(configure: m.Configure, told: str) -> None:
    host = EngineHost(configure, silence_s=20, restarts=5, window_s=600)
    with pytest.raises(EngineFailed, match=told) as failure:
        await asyncio.wait_for(host.run(), PATIENCE_S)
    assert failure.value.configuration
    assert host.state == "failed"
    assert not lives(host.pid)


async def test_stop_ends_the_process_in_order() -> None:
    host = echo_host()
    async with running(host):
        await become(host, "ready")
        pid = host.pid
        await host.stop()
        assert not lives(pid)
    assert host._process is not None
    assert host._process.returncode == 0, "asked, not killed"


async def test_stop_ends_a_process_that_does_not_listen() -> None:
    host = echo_host()
    async with running(host) as task:
        await become(host, "ready")
        pid = kill(host, signal.SIGSTOP)
        await host.stop()
        await asyncio.wait_for(task, PATIENCE_S)
        assert not lives(pid)


async def test_stop_before_anything_has_started_starts_nothing() -> None:
    host = echo_host()
    await host.stop()
    await asyncio.wait_for(host.run(), PATIENCE_S)
    assert host.pid is None


async def test_stop_while_the_process_is_being_started_ends_it() -> None:
    host = echo_host()
    task = asyncio.create_task(host.run())
    await asyncio.sleep(0)
    await host.stop()
    await asyncio.wait_for(task, PATIENCE_S)
    assert not lives(host.pid)


async def test_a_cancelled_host_leaves_no_process() -> None:
    host = echo_host()
    task = asyncio.create_task(host.run())
    await become(host, "ready")
    pid = host.pid
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not lives(pid)


async def test_a_process_of_another_version_is_given_up_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade under a running daemon, messages that cannot be decoded end it with a sentence."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport os, sys\nos.write(int(sys.argv[3]), b'\\xff' * 8)\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(EngineFailed, match="another version of voxd"):
        await asyncio.wait_for(echo_host().run(), PATIENCE_S)


# ── the process itself, without a host ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def engine_process(
    configure: m.Configure, packages: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """`python -m voxd.engine FD` and our end of its socket.  `packages`: a folder with more of them."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "voxd.engine", str(theirs.fileno())]
        environ = {**os.environ, "PYTHONPATH": packages}
        with subprocess.Popen(command, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL, env=environ) as process:
            theirs.close()
            ours.settimeout(PATIENCE_S)
            ours.sendall(framing.encode(configure))
            try:
                yield process, ours
            finally:
                process.kill()


def first_report(ours: socket.socket) -> m.Report:
    unframer = framing.reports()
    while data := ours.recv(1 << 16):
        for report in unframer.feed(data):
            return report
    raise AssertionError("the process has said nothing")


def test_the_engine_process_ends_when_the_gateway_is_gone() -> None:
    """The kernel closes the socket of a killed gateway, and the engine process ends and frees the device."""
    with engine_process(ECHO) as (process, ours):
        assert isinstance(first_report(ours), m.Ready)
        ours.close()
        assert process.wait(PATIENCE_S) == 0


def test_the_engine_process_ends_at_stop() -> None:
    with engine_process(ECHO) as (process, ours):
        assert isinstance(first_report(ours), m.Ready)
        ours.sendall(framing.encode(m.Stop()))
        assert process.wait(PATIENCE_S) == 0


def test_the_engine_process_says_why_it_cannot_start() -> None:
    with engine_process(m.Configure("nobody", None, {})) as (process, ours):
        report = first_report(ours)
        assert isinstance(report, m.Broken)
        assert report.configuration
        assert process.wait(PATIENCE_S) == 1


def test_the_engine_process_ends_with_the_gateway_also_while_it_loads(tmp_path: Path) -> None:
    """Loading may take minutes in which nothing is written, so the end must be noticed in another way."""
    (tmp_path / "stuck.py").write_text(STUCK)
    info = tmp_path / "stuck-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stuck\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[voxd.engines]\nstuck = stuck:Stuck\n")
    with engine_process(m.Configure("stuck", None, {}), str(tmp_path)) as (process, ours):
        assert isinstance(first_report(ours), m.Progress)
        ours.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_the_gateways_to_handle(number: signal.Signals) -> None:
    """A signal to all processes of the daemon leaves the engine process running until the gateway stops it."""
    with engine_process(ECHO) as (process, ours):
        assert isinstance(first_report(ours), m.Ready)
        process.send_signal(number)
        ours.sendall(framing.encode(m.Open(1, ("respond",))) + framing.encode(m.Respond(1, 1, (), 1)))
        unframer = framing.reports()
        while not any(isinstance(report, m.Settled) for report in unframer.feed(ours.recv(1 << 16))):
            assert process.poll() is None
