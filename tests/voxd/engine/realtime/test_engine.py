"""The engine against transformers' own `generate()`, token by token, in fp32 on the CPU."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from shared.audio import RATE, VAD_FRAME
from tests.support.realtime import STREAMS, Gateway, as_text, device, gateway
from tests.support.tiny_voxtral import Samples, folder, reference, speechlike
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine
from voxd.engine.realtime.engine import VoxtralRealtime
from voxd.engine.realtime.streams import GRACE, PAUSE
from voxd.messages import Cancel, Open

PIECE = 3200  # 200 ms
SMALL = 0, 60, 24  # seed, and windows that 6 s of audio wrap several times
SECOND = 16_000


@cache
def clip(seconds: float, seed: int) -> Samples:
    return speechlike(seconds, seed)


@cache
def expected(seconds: float, seed: int, start: int, end: int, delay: int, checkpoint: tuple[int, int, int]) -> str:
    """What `generate()` says of this part of a clip."""
    token_ids = reference(*checkpoint).token_ids(clip(seconds, seed)[start:end], delay)
    assert len(set(token_ids)) > 5, "this part proves nothing"
    return as_text(token_ids)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_stream_says_what_generate_says(seed: int) -> None:
    with gateway(device(seed)) as talk:
        talk.open(1, clip(6.0, 5))
        for until in range(PIECE, 6 * SECOND, PIECE):
            talk.feed(1, until, voice=1.0 if until < 90_000 else 0.0)
            if until == 2 * PIECE:
                talk.onset(1, 1, 1000)
        talk.rest()
        live = talk.said[1, 1]
        talk.commit(1, 1, 90_000)
        talk.rest()
        assert talk.settled[1, 1] == expected(6.0, 5, 1000, 90_000, 6, (seed, 200, 64))
        assert len(live.split()) > 55, "most of it comes while the person speaks"


def test_three_streams_join_at_different_frames_with_different_delays() -> None:
    """Both windows wrap several times, and the batch holds streams at different positions."""
    plan = {
        1: (9.0, 5, 480, 0),
        2: (6.0, 6, 240, 11),
        3: (7.3, 7, 960, 30),
    }  # seconds, seed, delay in ms, joins at frame
    with gateway(device(*SMALL)) as talk:
        for frame in range(150):
            for stream, (seconds, seed, delay_ms, joins) in plan.items():
                if frame == joins:
                    talk.open(stream, clip(seconds, seed), delay_ms)
                    talk.onset(stream, 1)
                if joins <= frame and talk.fed[stream] < int(seconds * RATE):
                    talk.feed(stream, talk.fed[stream] + 1280)
        for stream, (seconds, *_) in plan.items():
            talk.commit(stream, 1, int(seconds * RATE))
        talk.rest()
        for stream, (seconds, seed, delay_ms, _) in plan.items():
            want = expected(seconds, seed, 0, int(seconds * RATE), delay_ms // 80, SMALL)
            assert talk.settled[stream, 1] == want, f"stream {stream}"


def test_a_flush_that_is_rolled_back_leaves_no_trace() -> None:
    """The flush may come anywhere, and both windows have wrapped."""
    with gateway(device(*SMALL)) as talk:
        talk.open(1, clip(6.0, 5))
        talk.onset(1, 1)
        for until in range(PIECE, 6 * SECOND, PIECE):
            talk.feed(1, until)
            if until % (4 * PIECE) == 0:
                talk.rest()
                before = talk.said[1, 1]
                talk.flush(1, 1, until - 100)
                talk.rest()
                assert talk.said[1, 1] == before, "a flush publishes nothing"
                talk.rollback(1, 1)
        talk.commit(1, 1, 5 * SECOND)
        talk.rest()
        assert talk.settled[1, 1] == expected(6.0, 5, 0, talk.heard[1], 6, SMALL), (
            "what was heard as voice belongs to it"
        )


def test_a_flush_has_the_last_words_ready() -> None:
    """The commit publishes them without another step of the device."""
    with gateway(device(0)) as talk:
        talk.open(1, clip(6.0, 5))
        talk.onset(1, 1)
        talk.feed(1, 3 * SECOND)
        talk.feed(1, 3 * SECOND + 5 * VAD_FRAME, voice=0.0)
        talk.flush(1, 1, 3 * SECOND + 1536)
        talk.rest()
        talk.feed(1, 4 * SECOND, voice=0.0)
        assert talk.engine.deadline_us is None, "silence after a flush costs nothing"
        talk.commit(1, 1, 3 * SECOND + 1536)
        assert talk.settled[1, 1] == expected(6.0, 5, 0, 3 * SECOND + 1536, 6, (0, 200, 64))


def test_text_waits_until_it_is_certain() -> None:
    """Text computed from audio behind the last voice is a guess, since the utterance may have ended there."""
    with gateway(device(0)) as talk:
        talk.open(1, clip(6.0, 5))
        talk.onset(1, 1)
        talk.feed(1, 2 * SECOND)
        talk.feed(1, 3 * SECOND, voice=0.0)
        talk.rest()
        said, guess = talk.said[1, 1], talk.guessed[1, 1]
        assert guess
        talk.feed(1, 3 * SECOND + 2 * VAD_FRAME)
        talk.rest()
        assert talk.said[1, 1].startswith(said + guess), "the guess was right"


def test_where_the_vad_hears_no_voice_the_turn_rules_release_text() -> None:
    """A session may listen with a lower threshold than the engine does."""
    with gateway(device(0)) as talk:
        talk.open(1, clip(6.0, 5))
        talk.onset(1, 1)
        for until in range(PIECE, 5 * SECOND, PIECE):
            talk.feed(1, until, voice=0.3, known=max(0, until - PIECE))
        talk.rest()
        assert len(talk.said[1, 1].split()) > 40


def test_the_text_of_the_next_utterance_is_its_own() -> None:
    """When audio comes faster than real time, the engine has it before the turn rules have decided about it."""
    with gateway(device(0)) as talk:
        talk.open(1, clip(9.0, 5))
        talk.feed(1, 3 * SECOND, known=0)
        talk.onset(1, 1)
        talk.feed(1, 6 * SECOND, known=40_000)
        talk.rest()
        talk.commit(1, 1, 41_000)
        talk.onset(1, 2, 41_000)
        talk.feed(1, 8 * SECOND, known=7 * SECOND)
        talk.commit(1, 2, 7 * SECOND)
        talk.rest()
        assert talk.settled[1, 1] == expected(9.0, 5, 0, 41_000, 6, (0, 200, 64))
        assert talk.settled[1, 2] == expected(9.0, 5, 41_000, 7 * SECOND, 6, (0, 200, 64))


@pytest.mark.parametrize("pauses", [True, False])
def test_a_long_utterance_goes_on_with_a_fresh_history_at_a_pause(pauses: bool) -> None:
    """Without a pause it does so after the grace; all words come, and once."""
    seconds = 26.0
    with gateway(device(0), {"max_history_s": 10}) as talk:
        talk.open(1, clip(seconds, 8))
        talk.onset(1, 1)
        for until in range(PIECE, int(seconds * RATE) + 1, PIECE):
            talk.feed(1, until, voice=0.0 if pauses and 192_000 < until <= 195_200 else 1.0)
        end = int(seconds * RATE) // VAD_FRAME * VAD_FRAME
        talk.commit(1, 1, end)
        talk.rest()
        cut = 192_000 + PAUSE if pauses else (10 * SECOND + GRACE) // VAD_FRAME * VAD_FRAME + VAD_FRAME
        want = [expected(seconds, 8, *part, 6, (0, 200, 64)) for part in ((0, cut), (cut, end))]
        assert talk.settled[1, 1] == "".join(want)


def test_a_replayed_utterance_continues_what_was_said() -> None:
    with gateway(device(0)) as talk:
        talk.open(1, clip(6.0, 5))
        talk.feed(1, 4 * SECOND)
        want = expected(6.0, 5, 0, 4 * SECOND, 6, (0, 200, 64))
        talk.onset(1, 1, 0, said=want[:40])
        talk.commit(1, 1, 4 * SECOND)
        talk.rest()
        assert talk.settled[1, 1] == want


def test_a_delay_of_its_own_begins_with_the_next_utterance() -> None:
    with gateway(device(0)) as talk:
        talk.open(1, clip(6.0, 5))
        talk.feed(1, 2 * SECOND)
        talk.onset(1, 1)
        talk.tell(Open(1, ("transcribe",), delay_ms=160))
        talk.feed(1, 5 * SECOND)
        talk.commit(1, 1, 5 * SECOND)
        talk.onset(1, 2)
        talk.commit(1, 2, 5 * SECOND)
        talk.rest()
        for ref, delay in ((1, 6), (2, 2)):
            assert talk.settled[1, ref] == expected(6.0, 5, 0, 5 * SECOND, delay, (0, 200, 64))


def test_who_may_not_write_down_what_is_said_uses_no_slot() -> None:
    made = device(0)
    with gateway(made) as talk:
        talk.open(1, clip(6.0, 5))
        talk.tell(Open(1, ()))
        talk.onset(1, 1)
        talk.feed(1, SECOND)
        talk.commit(1, 1, SECOND)
        talk.rest()
        assert made.slots.free == made.slots.count
        assert not talk.settled


# ── anything may happen ─────────────────────────────────────────────────────────────────────────────────────────────

WHAT = ("feed", "feed", "feed", "stall", "flush", "rollback", "commit", "cancel", "close")
MOVES = st.lists(st.tuples(st.integers(1, STREAMS), st.sampled_from(WHAT)), min_size=20, max_size=90)


@dataclasses.dataclass
class Life:
    """The part of a stream's life that its session knows."""

    ref: int = 0
    start: int = 0
    spoken: bool = False
    flushed: bool = False
    owed: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)  # ref, start, end


def move(talk: Gateway, lives: dict[int, Life], stream: int, what: str) -> None:
    """Lets one thing happen to a stream, if it can."""
    life = lives.get(stream)
    if life is None:
        talk.open(stream, clip(9.0, stream), 80 * (2 * stream + 1))
        lives[stream] = Life()
    elif not life.spoken:
        life.ref, life.start, life.spoken, life.flushed = life.ref + 1, talk.fed[stream], True, False
        talk.onset(stream, life.ref, life.start)
    elif what == "feed":
        if not life.flushed:
            talk.feed(stream, min(talk.fed[stream] + 4 * PIECE, 9 * SECOND))
    elif what == "flush" or (what == "rollback" and life.flushed):
        (talk.flush if what == "flush" else lambda s, r, end: talk.rollback(s, r))(stream, life.ref, talk.fed[stream])
        life.flushed = what == "flush"
    elif what == "commit" and talk.fed[stream] > life.start:
        life.owed.append((life.ref, life.start, talk.fed[stream]))
        talk.commit(stream, life.ref, talk.fed[stream])
        life.spoken = False
    elif what == "cancel":
        talk.tell(Cancel(stream, life.ref))
        life.spoken = False
    elif what == "close":
        talk.close(stream)
        for ref in range(1, life.ref + 1):
            talk.settled.pop((stream, ref), None)
        del lives[stream]
    elif what == "stall":
        talk.rest()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MOVES)
def test_each_stream_says_what_it_says_alone(moves: list[tuple[int, str]]) -> None:
    """Streams come, stall, flush, take back, cancel and leave as they like; no slot is lost."""
    lives: dict[int, Life] = {}
    with gateway(device(*SMALL)) as talk:
        for stream, what in moves:
            move(talk, lives, stream, what)
        talk.rest()
        for stream, life in lives.items():
            assert {ref for s, ref in talk.settled if s == stream} == {ref for ref, *_ in life.owed}
            for ref, start, end in life.owed:
                token_ids = reference(*SMALL).token_ids(clip(9.0, stream)[start:end], 2 * stream + 1)
                assert talk.settled[stream, ref] == as_text(token_ids)


class TestConformance(Conformance):
    """The promises of every engine, with the model's own text."""

    def make_engine(self, wake: object) -> Engine:
        options = {"model": str(folder(0)), "device": "cpu", "max_streams": 8}
        return VoxtralRealtime(options, lambda: None)
