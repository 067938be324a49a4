"""Commands wait for the engine process in order and bounded by stream, and cost nobody else a turn."""

from __future__ import annotations

import pytest

from voxd import framing, messages as m
from voxd.gateway import engine_queue as module
from voxd.gateway.engine_queue import SLICE, EngineQueue


def conversation(*sizes: int) -> tuple[m.Turn, ...]:
    return tuple(m.Turn("user", "x" * size) for size in sizes)


def arrived(queue: EngineQueue) -> tuple[list[m.Command], list[m.Failed]]:
    """Everything that waits as the engine process gets it, and the turns that fail by it."""
    unframer, joiner = framing.commands(), framing.Joiner()
    commands: list[m.Command] = []
    failed: list[m.Failed] = []
    while queue:
        data, unsent = queue.take()
        failed.extend(unsent)
        whole = map(joiner.receive, unframer.feed(data))
        commands.extend(command for command in whole if command is not None)
    return commands, failed


def test_all_arrives_as_it_was_and_in_order() -> None:
    sent: list[m.Command] = [
        m.Open(1, ("respond",)),
        m.Respond(1, 2, conversation(10, 400_000, 3, 0, 2_000_000), 16, aside=True),
        m.Prepare(2, 1, conversation(*[50_000] * 100)),
        m.Feed(2, 0, bytes(9_600_000)),
        m.Audio(2, 2, b"ab" * 4_800_000),
        m.Audio(2, 4, b"cd"),
        m.Audio(2, 5, b"ef" * SLICE),
        m.Speculate(2, 3, 1, 900, conversation(SLICE, SLICE), None),
        m.Respond(3, 1, ()),
        m.Close(1),
    ]
    queue = EngineQueue()
    assert [queue.put(command) for command in sent] == [None] * len(sent)
    assert arrived(queue) == (sent, [])
    assert queue._all == 0
    assert not queue._waiting


@pytest.mark.parametrize(
    "command",
    [m.Respond(1, 1, conversation(*[16_000] * 1000)), m.Audio(1, 1, bytes(16_200_000))],
    ids=["context", "audio"],
)
def test_what_is_long_is_written_in_slices(command: m.Command) -> None:
    queue = EngineQueue()
    queue.put(command)
    sizes = []
    while queue:
        sizes.append(len(queue.take().data))
    assert max(sizes) < 3 * SLICE
    assert sum(sizes) > 16_000_000


def test_a_stream_that_asks_for_too_much_fails_its_own_turns_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM", 1_000_000)
    queue = EngineQueue()
    told = [queue.put(m.Respond(1, ref, conversation(300_000))) for ref in range(6)]
    assert [failed and (failed.ref, failed.code) for failed in told] == [
        *[None] * 3,
        *((ref, "server_overloaded") for ref in (3, 4, 5)),
    ]
    assert queue.put(m.Cancel(1, 0)) is None, "what makes it less is always taken"
    assert queue.put(m.Respond(2, 1, conversation(300_000))) is None
    assert len(arrived(queue)[0]) == 5
    assert queue.put(m.Respond(1, 9, conversation(300_000))) is None, "there is room again"


def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL", 1_000_000)
    queue = EngineQueue()
    told = [queue.put(m.Respond(stream, 1, conversation(300_000))) for stream in range(6)]
    assert [failed is None for failed in told] == [True] * 3 + [False] * 3


@pytest.mark.parametrize(
    ("command", "ref"),
    [
        (m.Respond(1, 5, (m.Turn("user", "half a pair: \ud800"),)), 5),
        (m.Respond(1, 5, (*conversation(*[200_000] * 5), m.Turn("user", "\ud800"))), 5),
        (m.Respond(1, 5, (), 1 << 70), 5),
        (m.Respond(1, 6, (m.Turn("user", "x" * framing.LIMIT),)), 6),
        (m.Onset(1, 7, 0, "\udfff"), 7),
        (m.Open(1, ("respond",), None, "\udfff"), None),
    ],
    ids=["text", "the last of a long context", "an integer", "too large", "said", "a prompt"],
)
def test_what_cannot_be_written_fails_its_turn_and_what_follows_is_whole(
    command: m.Command, ref: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STREAM", 1 << 40)
    after = m.Respond(1, 8, conversation(3), None)
    queue = EngineQueue()
    queue.put(command)
    queue.put(after)
    commands, failed = arrived(queue)
    assert commands == [after]
    assert [each.ref for each in failed] == [ref]


def test_what_is_computed_ahead_is_left_out_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM", 1000)
    queue = EngineQueue()
    assert queue.put(m.Prepare(1, 1, conversation(2000))) is None
    assert queue.put(m.Speculate(1, 2, 1, 0, conversation(2000))) is None
    assert not queue


def test_an_answer_to_sound_that_was_left_out_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STREAM", 1000)
    queue = EngineQueue()
    assert queue.put(m.Audio(1, 4, bytes(2000))) is not None
    asked = m.Respond(1, 5, (m.Turn("user", "", 4),))
    assert queue.put(asked) == m.Failed(1, 5, "audio_lost", module.LOST)
    assert queue.put(m.Respond(2, 5, (m.Turn("user", "", 4),))) is None, "another stream's number 4"
    assert queue.put(m.Respond(1, 6, (m.Turn("user", "without it"),))) is None
