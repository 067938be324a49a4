"""Messages on their way to a client: numbered for a client that comes back, taken by the latest transport only."""

from __future__ import annotations

import json

import pytest

from shared import events
from voxd.gateway.outgoing import HISTORY, Closed, Outbox, OutgoingMessage, ResumeHistory

EVENT = events.Cleared("event_1")


def message() -> OutgoingMessage:
    return OutgoingMessage(EVENT, events.dump(EVENT))


def test_a_history_numbers_messages_and_knows_where_it_can_go_on() -> None:
    history = ResumeHistory()
    assert history.holds_all_after(0)
    for _ in range(HISTORY + 10):
        history.add(message())

    latest = HISTORY + 10
    assert not history.holds_all_after(9), "message 10 is forgotten"
    assert history.holds_all_after(10)
    assert history.holds_all_after(latest)
    assert not history.holds_all_after(latest + 1), "there is no such message"
    assert [each.seq for each in history.after(latest - 2)] == [latest - 1, latest]
    assert json.loads(history.after(latest - 1)[0].text)["voxd_seq"] == latest


async def test_only_the_latest_transport_is_served_and_what_it_gets_again_is_not_measured() -> None:
    outbox, kept = Outbox(), message()
    outbox.put(message())
    outbox.hand_over([kept])

    with pytest.raises(Closed) as closed:
        await outbox.take(0)
    assert closed.value.code == 1001
    assert await outbox.take(1) is kept
    assert kept.again
    assert outbox.size == 0


async def test_the_first_reason_to_close_counts_and_what_waits_is_still_sent() -> None:
    outbox = Outbox()
    outbox.put(message())
    outbox.close(1012, "stopping")
    outbox.close(1011, "too late")

    await outbox.take(0)
    with pytest.raises(Closed, match="stopping"):
        await outbox.take(0)
