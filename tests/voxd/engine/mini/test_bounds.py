"""What changes while somebody pauses, what a long talk costs, and what has a bound; on a device that is no model."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from tests.support.mini import Paper, as_text, encode, follows, gateway
from tests.support.tiny_voxtral import RATE
from tests.voxd.engine.mini.test_order_of_work import MOST, noise, spoken
from voxd.engine.contract import Refuse
from voxd.engine.mini import conversation
from voxd.engine.mini.conversation import ConversationState
from voxd.engine.mini.engine import VoxtralMini
from voxd.engine.mini.interface import NONE_HIGHER
from voxd.engine.mini.windows import Window, WindowedAudio
from voxd.messages import Audio, Open, Turn


@pytest.mark.parametrize("pauses", [1, 5])
def test_pauses_do_not_keep_a_long_clip_from_being_encoded_while_it_is_spoken(pauses: int) -> None:
    """One pause, as many as are speculated upon, and more give the same encoding as none."""
    paper = Paper(pages=80)
    clip = np.concatenate([noise(30, 4 + i, 0.3 if i == 0 else 0.001) for i in range(3)])[: 70 * RATE]
    context = (Turn("user", ref=10),)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.feed(1, RATE)
        talk.onset(1, 10, 0, ())
        for second in range(2, 71):
            talk.feed(1, second * RATE)
            if second % 5 == 0 and second <= 5 * pauses:
                talk.speculate(1, 10 + second, 10, second * RATE, context, MOST)
                talk.rest()
                talk.crop(1, 10 + second)
            talk.rest()
            if second == 31:
                assert paper.windows == min(pauses, 3) + 1
        assert paper.windows == min(pauses, 3) + 2
        early = paper.positions
        talk.commit(1, 10, 70 * RATE)
        talk.respond(1, 11, context, MOST)
        talk.rest()
        assert talk.said[1, 11] == as_text(follows([1, *spoken(clip, 0, 70 * RATE)], MOST))
        assert paper.positions - early < 375 + 2 + MOST


def test_a_language_that_changes_in_the_pause_counts() -> None:
    paper, clip = Paper(), noise(8, 8)
    with gateway(paper.device) as talk:
        talk.open(1, clip, "transcribe", language="en")
        talk.feed(1, 4 * RATE)
        talk.onset(1, 10)
        talk.flush(1, 10, 3 * RATE)
        talk.rest()
        talk.tell(Open(1, ("transcribe",), "pt"))
        talk.commit(1, 10, 3 * RATE)
        talk.rest()
        asked = [*encode("lang:pt"), 34]
        assert talk.said[1, 10] == as_text(follows([1, *spoken(clip, 0, 3 * RATE), *asked], 32 + 3 * 16))


def test_every_language_that_it_says_it_knows_is_taken() -> None:
    """Any other language is refused before a session is told that it has it."""
    with gateway(Paper().device) as talk:
        talk.open(1, noise(1, 1), "transcribe")
        known = talk.engine.languages
        for code in known:
            talk.tell(Open(1, ("transcribe",), code))
        assert {"en", "de", "hi", "pt"} <= set(known)
        assert "yue" not in known
        with pytest.raises(Refuse, match="two letters"):
            talk.tell(Open(1, ("transcribe",), "yue"))


def test_what_is_not_to_be_written_down_any_more_takes_no_memory() -> None:
    paper, clip = Paper(), noise(8, 8)
    with gateway(paper.device) as talk:
        talk.open(1, clip, "transcribe", "respond")
        talk.feed(1, 4 * RATE)
        talk.onset(1, 10)
        talk.flush(1, 10, 3 * RATE)
        talk.rest()
        assert paper.pages.free < paper.pages.count
        talk.tell(Open(1, ("respond",)))
        assert paper.pages.free == paper.pages.count
        talk.commit(1, 10, 3 * RATE)
        talk.respond(1, 11, (Turn("user", ref=10),), MOST)
        talk.rest()
        assert talk.said == {(1, 11): as_text(follows([1, *spoken(clip, 0, 3 * RATE)], MOST))}


def typed(paper: Paper, turns: int) -> tuple[list[bool], list[str]]:
    """Typed questions with longer answers: whether the history was at hand at each, and what the user was told."""
    context: tuple[Turn, ...] = ()
    with gateway(paper.device, {"max_context": 1024}) as talk:
        talk.open(1, noise(1, 1))
        for ref in range(turns):
            context += (Turn("user", f"question {ref}"),)
            talk.respond(1, ref, context, 100)
            talk.rest()
            context += (Turn("assistant", talk.settled[1, ref].text, ref),)
        cached = [settled.cached_tokens > 100 for settled in talk.settled.values()]
        return cached, [warned.message for warned in talk.warned]


def test_a_long_typed_conversation_is_shortened_seldom_and_the_user_reads_it() -> None:
    cached, told = typed(Paper(pages=80), 90)
    assert cached.count(False) <= 5 + len(told)
    assert 2 <= len(told) <= 6
    shortened = "longer than 924 tokens: its older half is left out of what follows; see engine_options.voxtral-mini"
    assert all(shortened in each for each in told)


def test_of_a_history_that_is_far_too_long_only_its_end_is_read() -> None:
    paper = Paper(pages=80)
    read: list[int] = []

    def counting(text: str) -> list[int]:
        read.append(len(text))
        return encode(text)

    device = replace(paper.device, special=replace(paper.device.special, encode=counting))
    turns = tuple(Turn("assistant" if i % 2 else "user", "x" * 100) for i in range(999))
    with gateway(device, {"max_context": 1024}) as talk:
        talk.open(1, noise(1, 1))
        talk.respond(1, 1, turns, 5)
        talk.rest()
        assert talk.settled[1, 1].input_tokens > 400
        assert sum(read) < 3 * 1024


def test_a_turn_that_is_too_long_says_what_to_do_and_costs_nothing_else() -> None:
    before: tuple[Turn, ...] = (Turn("user", "y" * 200),)
    with gateway(Paper().device, {"max_context": 1024}) as talk:
        talk.open(1, noise(1, 1))
        talk.respond(1, 1, before, 5)
        talk.rest()
        before += (Turn("assistant", talk.said[1, 1], 1),)
        talk.respond(1, 2, (*before, Turn("user", "x" * 800)), 500)
        talk.rest()
        (failed,) = talk.failed.values()
        talk.respond(1, 3, (*before, Turn("user", "short")), 5)
        talk.rest()
        assert talk.settled[1, 3].cached_tokens > 200
        assert talk.warned == []
    assert failed.code == "context_length_exceeded"
    assert "too long for a context of 1024 tokens: shorten it, or raise engine_options.voxtral-mini" in failed.message


@pytest.mark.parametrize("clips", [2, 3])
def test_an_item_is_asked_whole_or_not_at_all(clips: int) -> None:
    with gateway(Paper().device, {"max_context": 1024}) as talk:
        talk.open(1, noise(1, 1))
        for ref in range(1, clips + 1):
            talk.tell(Audio(1, ref, bytes(2 * RATE)))
        item = tuple(Turn("user", ref=ref, continues=ref > 1) for ref in range(1, clips + 1))
        talk.respond(1, 9, (Turn("user", "y" * 400), *item), 5)
        talk.rest()
        assert ((1, 9) in talk.settled) is (clips == 2)
        if clips == 2:
            assert talk.settled[1, 9].input_tokens == 3 + clips * 376


def test_what_was_sent_along_is_kept_as_embeddings_and_only_so_much_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "WINDOWS", 4)
    dropped: list[object] = []
    talked = ConversationState(1, Paper().device.special, 0, dropped.append)
    for ref in range(1, 8):
        talked.make_room({1})
        talked.attach(ref, bytes(2 * RATE))
        (window,) = talked.utterances[ref].clip.windows
        window.asked, window.found = True, (1.0, 0.0)
        assert talked.settled(talked.utterances[ref])
        assert talked.utterances[ref].pcm == b""
    assert list(talked.utterances) == [1, 5, 6, 7], "what is being read stays"
    assert len(dropped) == 3


def test_what_the_device_did_is_remembered_for_a_second() -> None:
    """It is remembered even where nobody asks whether the device is busy, as only speculations do."""
    with gateway(Paper().device) as talk:
        talk.open(1, noise(1, 1))
        for ref in range(100):
            talk.respond(1, ref, (Turn("user", f"question {ref}"),), MOST)
            talk.rest()
        engine = talk.engine
        assert isinstance(engine, VoxtralMini)
        assert talk.steps > 500
        assert len(engine._schedule._spent) <= 201, "two in each step of 10 ms"


def test_a_pause_that_was_louder_than_what_followed_leaves_no_trace() -> None:
    """A clip that is cut in the middle of a sound can be louder there than it ever is."""
    numbers, dropped = count(), list[Window]()
    clip = WindowedAudio(lambda: next(numbers), dropped.append)

    def encode_all(*found: tuple[float, float]) -> list[float]:
        asked = []
        while (window := clip.unasked) is not None or not clip.settle():
            if window is not None:
                window.asked, window.found = True, found[window.index]
                asked.append(window.higher)
        return asked

    clip.end(35 * RATE)
    assert encode_all((1.0, -9.0), (3.0, 0.0)) == [NONE_HIGHER, 1.0, 3.0]
    clip.go_on()
    clip.end(40 * RATE)
    assert encode_all((1.0, -9.0), (1.5, 0.0)) == [1.0, 1.5], "the first window again, for what it is beside now"
    clip.go_on()
    clip.end(41 * RATE)
    assert encode_all((1.0, -9.0), (1.5, 0.0)) == [1.0]
