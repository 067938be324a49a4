"""What follows the end of an engine process: when the next one starts, who is suspected, when to give up."""

from __future__ import annotations

from itertools import count

from voxd.gateway.losses import BACKOFF_S, CLEARED_S, SHUT_OUT, SUSPECTED, TRIAL, Losses


def crash(losses: Losses, at: float, *busy: int) -> int | None:
    """The culprit of a loss that is no reason to give up."""
    wait_s, culprit = losses.lost(at, busy)
    assert wait_s is not None
    return culprit


def all_back(losses: Losses, streams: list[int]) -> list[int]:
    """The order in which streams return to a process that lives."""
    returned = losses.started(streams)
    while len(returned) < len(streams):
        if (stream := losses.beat()) is not None:
            returned.append(stream)
    for _ in range(2 * TRIAL):
        losses.beat()
    return returned


def test_a_process_that_ends_idle_too_often_is_given_up() -> None:
    losses = Losses(2, 600)
    assert losses.lost(0, ()).wait_s == 0
    assert losses.lost(1, ()).wait_s == 0
    assert losses.lost(2, ()).wait_s is None
    assert losses.idle == 3


def test_idle_losses_long_ago_do_not_count() -> None:
    losses = Losses(1, 600)
    assert all(losses.lost(at, ()).wait_s is not None for at in range(0, 10_000, 601))


def test_no_client_can_have_the_process_given_up_however_often_it_comes_back() -> None:
    """It comes back each time as another stream, with a turn in flight or a message that was just sent."""
    losses, waits = Losses(0, 600), []
    for stream in range(1, 40):
        losses.started([stream])
        losses.sent(stream)
        wait_s, _ = losses.lost(float(stream), [stream] if stream % 2 else [])
        assert wait_s is not None
        waits.append(wait_s)
        losses.gone(stream)
    assert waits == sorted(waits)
    assert waits[0] == 0
    assert waits[-1] == BACKOFF_S


def test_what_was_sent_before_two_heartbeats_is_not_to_blame() -> None:
    losses = Losses(0, 600)
    losses.sent(1)
    losses.beat()
    losses.beat()
    assert losses.lost(0, ()).wait_s is None, "an idle loss, and none is allowed"


def test_the_only_one_at_work_is_shut_out_at_the_third_time() -> None:
    losses = Losses(0, 600)
    assert [crash(losses, at, 7) for at in range(SHUT_OUT)] == [None] * (SHUT_OUT - 1) + [7]


def test_who_is_answered_meanwhile_is_not_shut_out() -> None:
    losses = Losses(0, 600)
    for at in range(20):
        assert crash(losses, at, 7) is None
        losses.done(7)


def test_losses_far_apart_are_not_connected() -> None:
    losses = Losses(0, 600)
    assert all(crash(losses, at * (CLEARED_S + 1), 7) is None for at in range(20))


def test_the_one_that_ends_the_process_is_found_among_many_and_the_others_stay() -> None:
    """Stream 5 ends the process in the moment in which it is given to it."""
    losses, streams, shut_out = Losses(0, 600), list(range(1, 9)), None
    for at in count():
        assert at < 10, "it is found in a few steps"
        back = losses.started(streams)
        for stream in back:
            losses.sent(stream)
        while 5 not in back:
            if (stream := losses.beat()) is not None:
                back.append(stream)
                losses.sent(stream)
        if (shut_out := crash(losses, at, *back)) is not None:
            break
    assert shut_out == 5
    losses.gone(5)
    streams.remove(5)
    assert sorted(all_back(losses, streams)) == streams


def test_suspects_come_back_one_by_one_and_all_others_at_once() -> None:
    losses = Losses(0, 600)
    for at in range(SUSPECTED):
        crash(losses, at, 1, 2)
    assert losses.started([1, 2, 3, 4]) == [3, 4]
    assert losses.beat() == 1
    assert [losses.beat() for _ in range(TRIAL)] == [None] * (TRIAL - 1) + [2]


def test_a_suspect_that_leaves_is_not_brought_back() -> None:
    losses = Losses(0, 600)
    for at in range(SUSPECTED):
        crash(losses, at, 1, 2)
    losses.started([1, 2])
    losses.gone(1)
    assert losses.beat() == 2


def test_a_process_that_cannot_start_is_tried_for_ever_and_ever_later() -> None:
    losses = Losses(0, 600)
    waits = [losses.not_started() for _ in range(12)]
    assert waits == sorted(waits)
    assert 0 < waits[0] <= 2
    assert waits[-1] == BACKOFF_S
    losses.started([])
    assert losses.not_started() == waits[0]
