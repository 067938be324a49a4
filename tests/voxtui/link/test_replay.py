"""Every sample that a client keeps reaches a server that can make text of it, or is counted as lost, once."""

from __future__ import annotations

from hypothesis import given, strategies as st

from shared.audio import PACKET, RATE
from shared.events import (
    Ack,
    Resumed,
    SessionCreated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
)
from shared.session_config import Extensions, RealtimeSession
from voxtui.link.replay import Replay

SECOND = RATE // PACKET  # packets


def created(token: str = "t") -> SessionCreated:
    return SessionCreated("e", RealtimeSession(id="s", model="m", voxd=Extensions(resume=True, resume_token=token)))


def numbered(first: int, packets: int) -> bytes:
    """Sound whose every packet says where it belongs."""
    return b"".join(n.to_bytes(2, "little") * PACKET for n in range(first, first + packets))


def drained(replay: Replay) -> list[tuple[int, bytes]]:
    """Everything that goes out: offset in the session, and the sound."""
    found = []
    while (packet := replay.packet()) is not None:
        assert isinstance(packet.voxd_offset, int)
        found.append((packet.voxd_offset, packet.audio))
    return found


def speaking(packets: int, keep: int = 30 * RATE) -> Replay:
    replay = Replay(keep)
    replay.created(created())
    for n in range(packets):
        replay.append(numbered(n, 1))
    return replay


def test_sound_goes_out_once_in_order() -> None:
    replay = speaking(3)
    assert drained(replay) == [(n * PACKET, numbered(n, 1)) for n in range(3)]
    assert drained(replay) == []
    assert (replay.unsent, replay.captured) == (0, 3 * PACKET)


def test_a_resumed_session_gets_what_it_has_not_received() -> None:
    replay = speaking(10)
    drained(replay)
    assert replay.resumed(Resumed("e", 4 * PACKET + 100)) == 0
    found = drained(replay)
    assert found[0][0] == 4 * PACKET + 100
    assert b"".join(pcm for _, pcm in found) == numbered(0, 10)[2 * (4 * PACKET + 100) :]


def test_a_new_session_gets_what_is_not_settled_and_counts_from_there() -> None:
    replay = speaking(2 * SECOND)
    drained(replay)
    replay.receive(Ack("e", 60 * PACKET, 50 * PACKET))
    assert replay.created(created("u")) == 0
    assert replay.token == "u"
    found = drained(replay)
    assert found[0] == (0, numbered(50, 1))
    assert len(found) == 50
    started = replay.receive(SpeechStarted("e", 100, "item"))
    assert isinstance(started, SpeechStarted)
    assert started.audio_start_ms == 1100
    assert replay.resumed(Resumed("e", 10 * PACKET)) == 0
    assert drained(replay)[0] == (10 * PACKET, numbered(60, 1))


def test_what_is_older_than_the_bound_is_lost_and_counted_once() -> None:
    replay = speaking(3 * SECOND, keep=RATE)
    assert replay.created(created()) == 2 * RATE
    assert replay.created(created()) == 0
    assert replay.lost == 2 * RATE
    assert len(drained(replay)) == SECOND


def test_what_is_remembered_of_losses_does_not_grow_with_the_sound() -> None:
    """An hour holds 180 000 packets, and each of them asks whether something was lost."""
    replay = speaking(0, keep=RATE)
    for n in range(200):
        replay.append(numbered(n, 1))
        replay.packet()
        replay.receive(Ack("e", n * PACKET, n * PACKET))
    assert replay._holes == []
    for n in range(200, 400):  # a link that takes one packet of two, and a server that settles what it got
        replay.append(numbered(n, 1))
        if n % 2:
            replay.packet()
    lost = replay.lost
    assert lost > 0
    replay.receive(Ack("e", 400 * PACKET, 390 * PACKET))
    replay.append(numbered(400, 60))
    drained(replay)
    assert len(replay._holes) <= 1
    assert replay.lost >= lost


def test_what_the_server_has_is_not_lost_with_the_ring() -> None:
    replay = speaking(3 * SECOND, keep=RATE)
    assert replay.resumed(Resumed("e", 2 * RATE + 160)) == 0
    assert replay.resumed(Resumed("e", RATE)) == RATE


def test_final_text_settles_its_sound_before_the_acknowledgement() -> None:
    """Otherwise it would be heard again if the link broke between the two."""
    replay = speaking(3 * SECOND)
    drained(replay)
    replay.receive(SpeechStarted("e", 200, "a"))
    replay.receive(SpeechStopped("e", 1200, "a"))
    replay.receive(SpeechStarted("e", 1500, "b"))
    replay.receive(SpeechStopped("e", 2500, "b"))
    replay.receive(TranscriptionCompleted("e", "b", 0, "second", {}))
    replay.created(created())
    assert drained(replay)[0][1] == numbered(10, 1)  # the first is still owed

    replay = speaking(3 * SECOND)
    replay.receive(SpeechStarted("e", 200, "a"))
    replay.receive(SpeechStopped("e", 1200, "a"))
    replay.receive(SpeechStarted("e", 1500, "b"))
    replay.receive(TranscriptionCompleted("e", "a", 0, "first", {}))
    replay.created(created())
    assert drained(replay)[0][1] == numbered(60, 1)


def test_lag_is_what_was_captured_and_not_acknowledged() -> None:
    replay = speaking(SECOND)
    drained(replay)
    replay.receive(Ack("e", 40 * PACKET, 0))
    assert replay.lag == 10 * PACKET


STEP = st.sampled_from(["speak", "send", "ack", "cut", "restart"])


@given(st.lists(st.tuples(STEP, st.integers(1, 60)), max_size=60))
def test_whatever_happens_every_sample_is_text_or_counted(steps: list[tuple[str, int]]) -> None:
    """A server that settles what it acknowledges, cuts, and forgets: what is settled is what was said, without holes
    other than those that were counted."""
    replay, said, base, until, have, settled = Replay(RATE), 0, 0, 0, bytearray(), bytearray()
    replay.created(created())
    for what, count in steps:
        if what == "speak":
            replay.append(numbered(said, count))
            said += count
        elif what == "send":
            for _ in range(count):
                if (packet := replay.packet()) is not None:
                    assert isinstance(packet.voxd_offset, int)
                    have += bytes(2 * packet.voxd_offset - len(have)) + packet.audio  # a hole is silence
        elif what == "ack":
            until = max(until, len(have) // 2 * count // 60)
            settled[2 * base :] = have[: 2 * until]
            replay.receive(Ack("e", len(have) // 2, until))
        elif what == "cut":
            replay.resumed(Resumed("e", len(have) // 2))
        else:
            replay.created(created())
            base, until, have = replay.sent, 0, bytearray()
            del settled[2 * base :]
            settled += bytes(2 * base - len(settled))
    while (packet := replay.packet()) is not None:
        assert isinstance(packet.voxd_offset, int)
        have += bytes(2 * packet.voxd_offset - len(have)) + packet.audio
    settled[2 * base :] = have
    whole = numbered(0, said)
    wrong = sum(a != b for a, b in zip(memoryview(settled).cast("H"), memoryview(whole).cast("H"), strict=True))
    assert wrong <= replay.lost
