"""The socket's file: whose it is when one daemon ends and another begins, and what a full queue behind it means."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.fakes import short_folder
from voxd.commands import control
from voxd.commands.control import Busy, NotRunning
from voxd.system.sockets import AlreadyRunning, CannotStart, Listener, discard, listeners
from voxd.web.door import NOT_NOW
from voxtui.commands import local
from voxtui.commands.local import answers
from voxtui.errors import Unreachable
from voxtui.link import http_client
from voxtui.link.target import Address, unix_target
from voxtui.link.websocket import dial

PATIENCE_S = 60.0


@pytest.fixture
def path() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder / "voxd.sock"


def dead(path: Path) -> None:
    """A daemon that was killed leaves its file behind."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def is_reached(path: Path, listener: socket.socket) -> bool:
    """Whether a client that opens the file comes to this socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        listener.settimeout(PATIENCE_S)
        listener.accept()[0].close()
    return True


def test_a_daemon_removes_its_own_file(path: Path) -> None:
    given = listeners((path,), ())
    given[0].sock.close()
    discard(given)
    assert not path.exists()


def test_a_daemon_that_ends_leaves_its_successors_file(path: Path) -> None:
    """It closes its sockets first and removes the files last, so another daemon may have begun in between."""
    before = listeners((path,), ())
    before[0].sock.close()
    after = listeners((path,), ())
    discard(before)
    with after[0].sock as sock:
        assert is_reached(path, sock)
    discard(after)
    assert not path.exists()


def test_what_is_in_the_place_of_the_file_is_left(path: Path) -> None:
    given = listeners((path,), ())
    given[0].sock.close()
    path.unlink()
    path.write_text("mine")
    discard(given)
    assert path.read_text() == "mine"
    path.unlink()
    discard(given)  # nothing at all


def start(path: Path, begin: threading.Barrier, won: list[Listener], lost: list[Exception]) -> None:
    begin.wait(PATIENCE_S)
    try:
        won.extend(listeners((path,), ()))
    except (AlreadyRunning, CannotStart) as error:
        lost.append(error)


def test_of_many_that_start_over_a_dead_file_one_listens_and_clients_reach_it(path: Path) -> None:
    """Each looks whether somebody answers, and then removes the file: without a lock, one removes the other's."""
    for _ in range(25):
        dead(path)
        begin, won, lost = threading.Barrier(4), list[Listener](), list[Exception]()
        threads = [threading.Thread(target=start, args=(path, begin, won, lost)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(error) for error in lost] == [AlreadyRunning] * 3
        (winner,) = won
        with winner.sock as sock:
            assert is_reached(path, sock)
        discard(won)


# ── somebody is there and does not get round to it ──────────────────────────────────────────────────────────────────


@pytest.fixture
def full(path: Path) -> Iterator[Path]:
    """A socket whose queue of connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        with suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(path))
        yield path


@pytest.fixture
def silent(path: Path) -> Iterator[Path]:
    """A daemon that is stopped: connections are made, and nothing is answered."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        yield path


@pytest.fixture(params=["full", "silent"])
def busy(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def test_a_busy_daemon_is_not_one_that_does_not_run(busy: Path) -> None:
    with pytest.raises(Busy, match=r"is running at .* has not answered within"):
        control.status(busy, 0.2)
    with pytest.raises(Busy):
        control.client_secret(busy, 60, 0.2)


def test_one_that_turns_connections_away_is_busy_too(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def turn_away() -> None:
            with listener.accept()[0] as sock:
                sock.recv(1 << 16)
                sock.sendall(NOT_NOW)

        door = threading.Thread(target=turn_away)
        door.start()
        with pytest.raises(Busy, match="turned this away"):
            control.status(path, PATIENCE_S)
        door.join()


def test_a_second_daemon_does_not_take_the_place_of_a_busy_one(busy: Path) -> None:
    with pytest.raises(AlreadyRunning):
        listeners((busy,), ())
    assert busy.exists()


def test_who_asks_while_the_queue_is_full_waits_in_front_of_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, found, real = threading.Event(), list[dict[str, object]](), time.sleep

    def again(seconds: float) -> None:
        refused.set()
        real(seconds)

    monkeypatch.setattr(control.time, "sleep", again)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        asking = threading.Thread(target=lambda: found.append(control.status(path, PATIENCE_S)))
        asking.start()
        assert refused.wait(PATIENCE_S)
        listener.accept()[0].close()
        with listener.accept()[0] as asked:
            asked.recv(4096)
            asked.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"state": "ok"}')
            asking.join(PATIENCE_S)
    assert found == [{"state": "ok"}]


def test_the_command_says_busy(full: Path) -> None:
    command = [sys.executable, "-m", "voxd", "status", "--socket", str(full)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert "is busy or stuck" in done.stderr
    assert "not running" not in done.stderr


async def test_the_client_knows_that_a_busy_daemon_is_there(busy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ANSWER_S", 0.5)
    monkeypatch.setattr(http_client, "BUSY_S", 0.1)
    assert await answers(unix_target(busy))


async def test_the_client_says_busy(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "BUSY_S", 0.1)
    target = unix_target(full)
    with pytest.raises(Unreachable, match=r"is busy: .* Try again in a moment"):
        await dial(Address(target.url, target.socket), "voxd")


def test_a_dead_file_is_nobody(path: Path) -> None:
    dead(path)
    with pytest.raises(NotRunning) as found:
        control.status(path, 0.2)
    assert not isinstance(found.value, Busy)
    assert os.path.exists(path)
