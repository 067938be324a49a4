"""The judge of the chaos run sees each broken promise: every case is good evidence with one thing wrong in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.events import TranscriptionCompleted
from tests.chaos.honest import Ping
from tests.chaos.judge import FILES_LEFT, PING_MS, Evidence, Process as Measured, verdicts
from tests.chaos.nemesis_check import Life, Record
from tests.chaos.test_nemesis_check import drop, good
from tests.support.bounds import Bound, memory, page, size
from voxtui.events import Unlinked

MIB = 1 << 20
QUICK = Ping(0, 3.0, 2.0)


def measured(name: str) -> Measured:
    return Measured(name, (10, 10), 100 * MIB, 150 * MIB, (20, 20), 3.0)


def evidence() -> Evidence:
    """Evidence with nothing wrong in it."""
    return Evidence(
        history=good(),
        calm=[Ping(0, 1.0, 1.0)] * 100,
        pings=[QUICK] * 1000,
        unanswered=0,
        processes=[measured("gateway"), measured("engine")],
        bound=100 * MIB,
        state="ready",
        sessions=0,
        rounds={"loris": 3, "crowds": 1},
    )


def test_good_evidence_breaks_nothing() -> None:
    assert [each for each in verdicts(evidence()) if not each.kept] == []


def slow_pings(found: Evidence) -> None:
    found.pings = [QUICK] * 980 + [Ping(0, PING_MS + 1, 2.0)] * 20


def pings_behind_much_work(found: Evidence) -> None:
    """Slow pings on a machine that was quick enough."""
    found.pings = [QUICK] * 980 + [Ping(0, 3.0, PING_MS + 1)] * 20


def lost_pings(found: Evidence) -> None:
    found.unanswered = 1


def many_lost_pings(found: Evidence) -> None:
    """Many lost pings, which the quick ones do not excuse."""
    found.unanswered = 20


def no_pings(found: Evidence) -> None:
    found.pings = []


def a_lost_word(found: Evidence) -> None:
    drop(found.history, TranscriptionCompleted)


def nothing_was_said(found: Evidence) -> None:
    found.history.clients[0].marks = []


def a_replaced_link(found: Evidence) -> None:
    found.history.clients[0].records.append(Record(1, 1, Unlinked("reset", 1)))


def a_traceback(found: Evidence) -> None:
    found.history.lives[0] = Life(found.history.lives[0].log + "Traceback (most recent call last):\n", killed=False)


def a_forced_end(found: Evidence) -> None:
    found.history.lives[0] = Life(found.history.lives[0].log + "session bbbb started\n", killed=False)


def too_much_memory(found: Evidence) -> None:
    """Memory of two processes that is too much together, though each alone is within its limit."""
    found.processes = [replace(process, peak=process.before + 60 * MIB) for process in found.processes]


def another_gateway(found: Evidence) -> None:
    found.processes = [replace(found.processes[0], pids=(10, 11)), found.processes[1]]


def another_engine(found: Evidence) -> None:
    found.processes = [found.processes[0], replace(found.processes[1], pids=(10, 11))]


def files_left_open(found: Evidence) -> None:
    found.processes = [replace(found.processes[0], files=(20, 21 + FILES_LEFT)), found.processes[1]]


def a_daemon_that_loads(found: Evidence) -> None:
    found.state = "loading"


def a_session_left(found: Evidence) -> None:
    found.sessions = 1


def an_attack_that_was_not_made(found: Evidence) -> None:
    found.rounds = {"loris": 3, "crowds": 0}


def no_attacks(found: Evidence) -> None:
    found.rounds = {}


@pytest.mark.parametrize(
    ("spoil", "promises"),
    [
        (slow_pings, {"pings p99"}),
        (pings_behind_much_work, {"work p99"}),
        (lost_pings, {"pings"}),
        (many_lost_pings, {"pings", "pings p99", "work p99"}),
        (no_pings, {"pings"}),
        (a_lost_word, {"words"}),
        (nothing_was_said, {"words"}),
        (a_replaced_link, {"links lost"}),
        (a_traceback, {"log"}),
        (a_forced_end, {"log"}),
        (too_much_memory, {"memory"}),
        (another_gateway, {"gateway"}),
        (another_engine, {"engine"}),
        (files_left_open, {"gateway's files"}),
        (a_daemon_that_loads, {"state"}),
        (a_session_left, {"sessions left"}),
        (an_attack_that_was_not_made, {"attacks"}),
        (no_attacks, {"attacks"}),
    ],
)
def test_each_broken_promise_is_seen(spoil: Callable[[Evidence], None], promises: set[str]) -> None:
    found = evidence()
    spoil(found)
    assert {each.promise for each in verdicts(found) if not each.kept} == promises


def test_the_sum_of_the_bounds_counts_memory_only() -> None:
    rows = [
        Bound("for all", 300, 2 * MIB, ("one", "all"), "", None, 2 * MIB),
        Bound("for each, and for all", MIB, 5 * MIB, ("a", "shared"), "", MIB, 5 * MIB),
        Bound("a part of it", MIB, 5 * MIB, ("b", "shared"), "", MIB, 5 * MIB),
        Bound("for each", MIB, None, ("c",), "", MIB, None),
        Bound("for so many", MIB, 3, ("d", "e"), "", MIB, None),
        Bound("a count", None, 64, ("f",), "", None, None),
    ]
    assert memory(rows, clients=10) == 20 * MIB


def test_the_page_bounds_the_memory_of_a_daemon() -> None:
    assert memory(page(), clients=1) > 100 * MIB


@pytest.mark.parametrize(
    ("cell", "found"),
    [("4 MiB", 4 * MIB), ("900000 bytes", 900_000), ("64 connections", None), ("—", None), ("64", None)],
)
def test_what_is_a_size(cell: str, found: float | None) -> None:
    assert size(cell) == found
