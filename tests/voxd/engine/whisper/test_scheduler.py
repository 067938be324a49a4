"""The order of decodes, tried with lists and integers."""

from __future__ import annotations

from voxd.engine.whisper.scheduler import Decode, Kind, Scheduler

FINAL, FLUSH, PARTIAL = Kind.FINAL, Kind.FLUSH, Kind.PARTIAL


def make(stream: int, kind: Kind, payload: int = 0, ref: int = 1) -> Decode[int]:
    return Decode(stream, ref, kind, payload)


def queue(*requests: Decode[int], workers: int = 4) -> Scheduler[int]:
    scheduler: Scheduler[int] = Scheduler(workers)
    for request in requests:
        scheduler.put(request)
    return scheduler


def drain(scheduler: Scheduler[int]) -> list[tuple[int, Kind, int]]:
    """Takes all that one worker would do, in order."""
    out = []
    while (request := scheduler.take()) is not None:
        out.append((request.stream, request.kind, request.payload))
        scheduler.done(request)
    return out


def test_finals_then_flushes_then_partials_each_oldest_first() -> None:
    requests = [make(s, k) for s, k in enumerate([PARTIAL, FLUSH, FINAL, PARTIAL, FINAL, FLUSH])]
    assert [stream for stream, _, _ in drain(queue(*requests))] == [2, 4, 1, 5, 0, 3]


def test_the_newest_request_of_a_stream_replaces_its_queued_one() -> None:
    scheduler = queue(make(1, PARTIAL, 1), make(2, PARTIAL, 2), make(1, PARTIAL, 3), make(1, FLUSH, 4))
    assert drain(scheduler) == [(1, FLUSH, 4), (2, PARTIAL, 2)]


def test_nothing_replaces_a_final_but_the_final_of_the_same_ref() -> None:
    scheduler = queue(make(1, FINAL, 1), make(1, PARTIAL, 2, ref=2), make(1, FINAL, 3), make(1, FINAL, 4, ref=2))
    assert drain(scheduler) == [(1, FINAL, 3), (1, FINAL, 4)]


def test_a_partial_never_runs_beside_another_decode_of_its_stream_but_a_final_does() -> None:
    scheduler = queue(make(1, PARTIAL, 1))
    running = scheduler.take()
    assert running is not None
    scheduler.put(make(1, PARTIAL, 2))
    assert scheduler.take() is None
    scheduler.put(make(1, FINAL, 3))  # replaces the queued partial, not the running one
    assert [payload for _, _, payload in drain(scheduler)] == [3]
    scheduler.done(running)
    assert scheduler.take() is None


def test_partials_leave_one_worker_to_finals() -> None:
    scheduler = queue(make(1, PARTIAL), make(2, PARTIAL), workers=2)
    assert scheduler.take() is not None
    assert scheduler.take() is None
    scheduler.put(make(3, FLUSH))
    flush = scheduler.take()
    assert flush is not None
    assert flush.stream == 3


def test_a_single_worker_does_partials_too() -> None:
    assert drain(queue(make(1, PARTIAL, 5), workers=1)) == [(1, PARTIAL, 5)]


def test_a_promoted_flush_goes_with_the_finals() -> None:
    first, second = make(1, FLUSH), make(2, FLUSH)
    scheduler = queue(first, second)
    scheduler.promote(second)
    assert [stream for stream, _, _ in drain(scheduler)] == [2, 1]


def test_withdrawn_requests_are_not_run() -> None:
    scheduler = queue(make(1, FINAL, 1), make(1, FINAL, 2, ref=2), make(2, PARTIAL, 3))
    scheduler.withdraw(1, 2)
    assert [payload for _, _, payload in drain(scheduler)] == [1, 3]
    scheduler = queue(make(1, FINAL, 1), make(1, FINAL, 2, ref=2), make(2, PARTIAL, 3))
    scheduler.withdraw(1)
    assert [payload for _, _, payload in drain(scheduler)] == [3]
