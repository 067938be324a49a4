"""The way of commands from the thread that reads the socket to the loop: bound, order, wake."""

from __future__ import annotations

import threading

from voxd.engine.loop import Inbox
from voxd.messages import Close, Command

PATIENCE_S = 60.0


def test_the_inbox_keeps_the_order_and_gives_all_there_is() -> None:
    inbox = Inbox()
    for stream in range(5):
        inbox.put(Close(stream))
    assert inbox.take(0) == [Close(stream) for stream in range(5)]
    assert inbox.take(0) == []


def test_an_empty_inbox_waits_for_a_command() -> None:
    inbox, found = Inbox(), list[list[Command]]()
    reader = threading.Thread(target=lambda: found.append(inbox.take(PATIENCE_S)))
    reader.start()
    inbox.put(Close(1))
    reader.join(PATIENCE_S)
    assert found == [[Close(1)]]


def test_a_wake_ends_the_wait_once() -> None:
    inbox = Inbox()
    threading.Thread(target=inbox.wake).start()
    assert inbox.take(PATIENCE_S) == []
    assert inbox.take(-1.0) == [], "a deadline that has passed is no wait"


def test_a_full_inbox_holds_its_writer_back() -> None:
    inbox = Inbox(size=2)

    def write() -> None:
        for stream in range(5):
            inbox.put(Close(stream))

    writer = threading.Thread(target=write)
    writer.start()
    taken: list[Command] = []
    while len(taken) < 5:
        commands = inbox.take(PATIENCE_S)
        assert 1 <= len(commands) <= 2, "never more than the bound"
        taken += commands
    writer.join(PATIENCE_S)
    assert not writer.is_alive()
    assert taken == [Close(stream) for stream in range(5)]


def test_the_writer_waits_until_there_is_room() -> None:
    inbox, written = Inbox(size=1), threading.Event()
    inbox.put(Close(1))

    def write() -> None:
        inbox.put(Close(2))
        written.set()

    threading.Thread(target=write).start()
    assert not written.wait(0.05)
    assert inbox.take(0) == [Close(1)]
    assert written.wait(PATIENCE_S)
    assert inbox.take(0) == [Close(2)]
