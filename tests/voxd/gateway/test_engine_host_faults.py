"""Neither what clients send nor what the machine lacks ends the host or another client's turn.  The engine process is
real where an engine matters, and a short script where it has to misbehave."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.voxd.gateway.test_engine_host import ECHO, Client, attached, become, echo_host, kill, running, settled
from voxd import framing, messages as m
from voxd.gateway import engine_queue
from voxd.gateway.engine_host import EngineFailed, EngineHost

PATIENCE_S = 240.0

# ── a client that throws ────────────────────────────────────────────────────────────────────────────────────────────


class Buggy(Client):
    """A stream owner that raises an exception at one of the three things that it is told."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def _throw(self, at: str) -> None:
        if at == self._at:
            raise AttributeError(f"a bug at {at}")

    def receive_output(self, output: m.Output) -> None:
        self._throw("output")
        super().receive_output(output)

    def engine_lost(self) -> None:
        self._throw("lost")
        super().engine_lost()

    def engine_ready(self, ready: m.Ready) -> None:
        self._throw("ready")
        super().engine_ready(ready)


@pytest.mark.parametrize("at", ["output", "lost", "ready"])
async def test_a_client_that_throws_is_ended_alone(at: str, caplog: pytest.LogCaptureFixture) -> None:
    host, buggy, honest = echo_host(), Buggy(at), Client()
    async with running(host) as task:
        await become(host, "ready")
        streams = [attached(host, client) for client in (buggy, honest)]
        for stream in streams:
            host.send([m.Open(stream, ("respond",)), m.Respond(stream, 1, ())])
        await honest.until(lambda: len(settled(honest)) == 1)
        kill(host)
        await honest.until(lambda: "ready" in honest.told)
        host.send([m.Open(streams[1], ("respond",)), m.Respond(streams[1], 2, ())])
        await honest.until(lambda: len(settled(honest)) == 2)
        await buggy.until(lambda: "failed: internal error" in buggy.told)
        assert not task.done()
    assert "failed: internal error" not in honest.told
    assert "a bug at" in caplog.text, "it is in the journal"


# ── messages that are too much ──────────────────────────────────────────────────────────────────────────────────────


async def test_much_that_is_asked_for_is_no_stuck_engine() -> None:
    """Six conversations of 84 MB fail or are answered by the same engine process: much work is not a hang."""
    host, greedy, honest = echo_host(restarts=0), Client(), Client()
    async with running(host):
        await become(host, "ready")
        pid = host.pid
        one, other = attached(host, greedy), attached(host, honest)
        host.send([m.Open(one, ("respond",)), m.Open(other, ("respond",))])
        long = tuple(m.Turn("user", str(number) + "x" * 199_000) for number in range(420))
        host.send([m.Respond(one, ref, long) for ref in range(1, 7)])
        host.send([m.Respond(one, ref, long[:80]) for ref in range(7, 13)])
        host.send([m.Respond(other, 1, ())])
        await honest.until(lambda: len(settled(honest)) == 1)
        await greedy.until(lambda: {each.ref for each in greedy.told if not isinstance(each, str)} >= set(range(1, 13)))
        failed = [each for each in greedy.told if isinstance(each, m.Failed)]
        assert {each.ref for each in failed} >= set(range(1, 7))
        assert {each.code for each in failed} == {"server_overloaded"}
        assert settled(greedy), "what is not too much is answered"
        assert (host.pid, host.losses) == (pid, 0)


async def test_what_cannot_be_written_fails_its_turn() -> None:
    host, client = echo_host(restarts=0), Client()
    async with running(host):
        await become(host, "ready")
        stream = attached(host, client)
        host.send(
            [m.Open(stream, ("respond",)), m.Respond(stream, 1, (m.Turn("user", "\ud800"),)), m.Respond(stream, 2, ())]
        )
        await client.until(lambda: len(settled(client)) == 1)
        assert [each.ref for each in client.told if isinstance(each, m.Failed)] == [1]
        assert host.losses == 0


# ── scripted processes ──────────────────────────────────────────────────────────────────────────────────────────────

SCRIPT = """#!{python}
import os, pathlib, socket, sys, time
sys.path.insert(0, {root!r})
from voxd import framing, messages as m
count = pathlib.Path({folder!r}) / "count"
run = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(run))
link = socket.socket(fileno=int(sys.argv[3]))
say = lambda *reports: link.sendall(b"".join(map(framing.encode, reports)))
READY = m.Ready("echo", "echo", True)
def live():
    while True:
        say(m.Beat(0, 0, 0))
        time.sleep(0.1)
{body}
"""


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Callable[[], int]]:
    """Makes engine processes run these lines, which know the number of their `run`; counts the processes."""

    def install(body: str) -> Callable[[], int]:
        root = str(Path(__file__).parent.parent)
        script = tmp_path / "python"
        script.write_text(SCRIPT.format(python=sys.executable, root=root, folder=str(tmp_path), body=body))
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return lambda: int((tmp_path / "count").read_text())

    return install


async def test_a_process_that_beats_and_does_not_read_is_stuck(
    scripted: Callable[[str], Callable[[], int]],
) -> None:
    scripted("say(READY)\nlive()")
    host, client = echo_host(silence_s=1), Client()
    async with running(host):
        await become(host, "ready")
        stream = attached(host, client)
        host.send([m.Feed(stream, 0, bytes(4 << 20))])
        await client.until(lambda: "lost" in client.told)
        await client.until(lambda: "ready" in client.told)


ENDS = {
    "no memory": 'say(m.Broken("not enough memory on the device", configuration=True))',
    "killed while it loads": 'say(m.Progress("loading")); os.kill(os.getpid(), 9)',
    "an exception": "sys.exit(70)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_after_a_warm_start_nothing_is_a_configuration_error(
    end: str, scripted: Callable[[str], Callable[[], int]], caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that worked once are tried again until they work, and log and status say why."""
    runs = scripted(f"if 1 < run < 4:\n    {end}\n    sys.exit(1)\nsay(READY)\nlive()")
    host, client = echo_host(restarts=1), Client()
    attached(host, client)
    async with running(host) as task:
        await become(host, "ready")
        kill(host)
        async with asyncio.timeout(PATIENCE_S), host.changed:
            await host.changed.wait_for(lambda: "cannot start again" in host.progress)
        assert host.state == "restarting"
        assert "the next try is in" in host.progress
        await client.until(lambda: "ready" in client.told)
        assert not task.done()
    assert runs() == 4
    assert [told for told in client.told if isinstance(told, str)] == ["lost", "ready"], "one loss is told once"
    assert "cannot start again" in caplog.text
    assert host.losses == 1


async def test_a_stop_does_not_wait_for_the_next_try(scripted: Callable[[str], Callable[[], int]]) -> None:
    scripted("if run > 1: sys.exit(1)\nsay(READY)\nlive()")
    host = echo_host()
    task = asyncio.create_task(host.run())
    await become(host, "ready")
    kill(host)
    async with asyncio.timeout(PATIENCE_S), host.changed:
        await host.changed.wait_for(lambda: "the next try is in" in host.progress)
    await host.stop()
    await asyncio.wait_for(task, PATIENCE_S)


async def test_nonsense_of_a_process_that_was_warm_is_a_loss(scripted: Callable[[str], Callable[[], int]]) -> None:
    scripted('say(READY)\nif run == 1: link.sendall(b"\\xff" * 8)\nlive()')
    host, client = echo_host(), Client()
    attached(host, client)
    async with running(host) as task:
        await client.until(lambda: "ready" in client.told)
        assert not task.done()


async def test_an_input_that_ends_every_process_costs_its_client_the_session_and_nobody_the_daemon(
    scripted: Callable[[str], Callable[[], int]],
) -> None:
    """The input is in the state that each new process is told, so without a rule it would come again for ever."""
    scripted(
        "say(READY)\nfeed, join = framing.commands(), framing.Joiner()\nlink.settimeout(0.1)\n"
        "while True:\n"
        "    say(m.Beat(0, 0, 0))\n"
        "    try: data = link.recv(1 << 20)\n"
        "    except TimeoutError: continue\n"
        "    if not data: sys.exit(0)\n"
        "    for command in feed.feed(data):\n"
        "        if isinstance(command, m.Open) and command.prompt == 'poison': os.kill(os.getpid(), 11)\n"
        "        if isinstance(command, m.Respond): say(m.Settled(command.stream, command.ref, 'completed', 'yes'))\n"
    )

    class Persistent(Client):
        """Tells each process its state, as sessions do."""

        def __init__(self, host: EngineHost, prompt: str) -> None:
            super().__init__()
            self._host, self._prompt = host, prompt
            self.stream = attached(host, self)

        def begin(self) -> None:
            self._host.send([m.Open(self.stream, ("respond",), None, self._prompt)])

        def engine_ready(self, ready: m.Ready) -> None:
            super().engine_ready(ready)
            self.begin()

    host = echo_host(restarts=0)
    async with running(host) as task:
        await become(host, "ready")
        honest = [Persistent(host, "") for _ in range(3)]
        poison = Persistent(host, "poison")
        for client in (*honest[:2], poison, *honest[2:]):
            client.begin()
        await poison.until(lambda: any(str(told).startswith("failed") for told in poison.told))
        for client in honest:
            await client.until(lambda client=client: client.told[-1:] == ["ready"])  # type: ignore[misc]
            host.send([m.Respond(client.stream, 1, ())])
            await client.until(lambda client=client: settled(client) == ["yes"])  # type: ignore[misc]
        assert not task.done()
    assert "the engine process ended each time" in str(poison.told[-1])


# ── a machine that has nothing left ─────────────────────────────────────────────────────────────────────────────────


def no_descriptors(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def no_process(*_: object, **__: object) -> None:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


async def no_thread(*_: object, **__: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("where", "name", "fault"),
    [
        (socket, "socketpair", no_descriptors),
        (asyncio, "create_subprocess_exec", no_process),
        (asyncio, "create_subprocess_exec", no_thread),
        (asyncio, "open_connection", no_thread),
    ],
    ids=["socketpair", "fork", "thread", "link"],
)
async def test_a_machine_without_anything_left_is_asked_again(
    where: object, name: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, client = echo_host(restarts=0), Client()
    attached(host, client)
    async with running(host) as task:
        await become(host, "ready")
        descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        with monkeypatch.context() as patched:
            client.busy = True
            patched.setattr(where, name, fault)
            kill(host)
            for _ in range(2):
                async with asyncio.timeout(PATIENCE_S), host.changed:
                    await host.changed.wait()
                    await host.changed.wait_for(lambda: "cannot start again" in host.progress)
        assert not task.done()
        await client.until(lambda: "ready" in client.told)
        if sys.platform == "linux":
            assert len(os.listdir("/proc/self/fd")) <= descriptors + 1, "nothing of the failed tries is left"


async def test_a_machine_without_anything_left_at_the_first_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socketpair", no_descriptors)
    with pytest.raises(EngineFailed, match=r"cannot be started: .*[Tt]oo many open files") as failure:
        await asyncio.wait_for(echo_host().run(), PATIENCE_S)
    assert not failure.value.configuration, "systemd may try again"


def test_the_bounds_fit_into_each_other() -> None:
    assert ECHO.respond == "echo"
    assert engine_queue.STREAM < engine_queue.ALL
    assert engine_queue.SLICE <= framing.LIMIT
