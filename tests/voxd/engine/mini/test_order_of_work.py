"""The engine's order of work, on a device that notices every position that is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.mini import Paper, as_text, contents, encode, follows, gateway
from tests.support.tiny_voxtral import RATE, Samples, speechlike
from voxd.engine.contract import Refuse, Unusable
from voxd.engine.mini.interface import MiniOptions
from voxd.messages import Cancel, Leave, Open, Turn

MOST = 20


def noise(seconds: float, seed: int, level: float = 0.1) -> Samples:
    rng = np.random.default_rng(seed)
    return (
        (np.round(level * rng.standard_normal(int(seconds * RATE)) * 32768) / 32768).astype(np.float32).clip(-0.9, 0.9)
    )


def spoken(samples: Samples, begin: int, end: int) -> list[int]:
    """The symbols of a spoken turn in a prompt."""
    from shared.audio import float_to_pcm16

    return [3, 25, *contents(float_to_pcm16(samples[begin:end])), 4]


def test_a_turn_and_a_second_one_on_its_prefix() -> None:
    paper, clip = Paper(), noise(8, 1)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.feed(1, 3 * RATE)
        talk.onset(1, 10, 1000)
        talk.commit(1, 10, 2 * RATE)
        talk.respond(1, 11, (Turn("user", ref=10),), MOST)
        talk.rest()
        prompt = [1, *spoken(clip, 1000, 2 * RATE)]
        first = follows(prompt, MOST)
        assert talk.said[1, 11] == as_text(first)
        assert len(first) > 3
        talk.feed(1, 6 * RATE)
        talk.onset(1, 12, 4 * RATE)
        talk.commit(1, 12, 5 * RATE)
        before = paper.positions
        talk.respond(1, 13, (Turn("user", ref=10), Turn("assistant", as_text(first), 11), Turn("user", ref=12)), MOST)
        talk.rest()
        prompt += [*first, 2, *spoken(clip, 4 * RATE, 5 * RATE)]
        assert talk.said[1, 13] == as_text(follows(prompt, MOST))
        settled = talk.settled[1, 13]
        held = 379 + (len(first) - 1 if len(first) == MOST else len(first) + 3)  # with </s>[INST][BEGIN_AUDIO]
        assert (settled.input_tokens, settled.cached_tokens) == (len(prompt), held)
        assert paper.positions - before < 379 + MOST + 3
        assert paper.windows == 2


@pytest.mark.parametrize("released", ["at once", "later"])
def test_a_speculation_is_the_answer(released: str) -> None:
    paper, clip = Paper(), noise(8, 2)
    context = (Turn("user", ref=10),)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.feed(1, 2 * RATE)
        talk.onset(1, 10, 0, ())
        talk.speculate(1, 11, 10, 2 * RATE, context, 40)
        if released == "later":
            talk.rest()
        assert not talk.said
        talk.commit(1, 10, 2 * RATE)
        talk.respond(1, 11, context, 40)
        assert (released == "later") == bool(talk.said), "what is ready is said at once"
        talk.rest()
        assert talk.said[1, 11] == as_text(follows([1, *spoken(clip, 0, 2 * RATE)], 40))
        assert talk.settled[1, 11].saved_us > 0
        assert paper.windows == 1


def test_speech_that_goes_on_leaves_no_trace() -> None:
    paper, clip = Paper(), noise(8, 3)
    context = (Turn("user", ref=10),)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.onset(1, 10, 0, ())
        for ref, end in ((11, RATE), (12, 2 * RATE), (13, 3 * RATE)):
            talk.feed(1, end)
            talk.speculate(1, ref, 10, end, context, MOST)
            for _ in range(ref - 9):
                talk.step()
            talk.crop(1, ref)
        talk.feed(1, 5 * RATE)
        talk.commit(1, 10, 5 * RATE)
        talk.respond(1, 14, context, MOST)
        talk.rest()
        assert talk.said == {(1, 14): as_text(follows([1, *spoken(clip, 0, 5 * RATE)], MOST))}
        assert talk.settled[1, 14].saved_us == 0


def test_three_attempts_are_enough() -> None:
    paper, clip = Paper(), noise(8, 3)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.onset(1, 10)
        for ref in range(11, 17):
            talk.feed(1, (ref - 10) * RATE)
            talk.speculate(1, ref, 10, (ref - 10) * RATE, (Turn("user", ref=10),), MOST)
            talk.rest()
            talk.crop(1, ref)
    assert paper.windows == 3


@pytest.mark.parametrize("loud", [0, 2])
def test_a_long_clip_is_encoded_while_it_is_spoken(loud: int) -> None:
    """70 s; where the last window is the loudest, the others are encoded again."""
    paper = Paper(pages=80)
    clip = np.concatenate([noise(30, 4 + i, 0.3 if i == loud else 0.001) for i in range(3)])[: 70 * RATE]
    clip[5 * RATE : 6 * RATE] = clip[40 * RATE : 41 * RATE] = 0
    before = (Turn("system", "Brief."), Turn("user", "Hi"), Turn("assistant", "Yes."))
    head = [1, 3, *encode("Brief.\n\nHi"), 4, *encode("Yes."), 2]
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.feed(1, RATE)
        talk.onset(1, 10, 0, before)
        for until in range(2 * RATE, 70 * RATE + 1, RATE):
            talk.feed(1, until)
        talk.rest()
        assert paper.windows == 2
        early = paper.positions
        assert early == len(head) + 2 + 2 * 375
        talk.commit(1, 10, 70 * RATE)
        talk.respond(1, 11, (*before, Turn("user", ref=10)), MOST)
        talk.rest()
        assert talk.said[1, 11] == as_text(follows([*head, *spoken(clip, 0, 70 * RATE)], MOST))
        assert paper.windows == 3 + (loud and 2)
        if not loud:
            assert paper.positions - early < 375 + 2 + MOST


def test_what_was_interrupted_is_remembered_as_it_was_sent() -> None:
    paper, clip = Paper(), noise(8, 18)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.feed(1, 4 * RATE)
        talk.onset(1, 10)
        talk.commit(1, 10, RATE)
        talk.respond(1, 11, (Turn("user", ref=10),), 60)
        while len(talk.said.get((1, 11), "")) < 8 * 5:
            talk.step()
        sent = talk.said[1, 11][: 5 * 3 + 2]  # three ids, and a piece of the fourth
        talk.tell(Cancel(1, 11))
        assert talk.settled[1, 11].status == "cancelled"
        talk.onset(1, 12, 3 * RATE)
        talk.commit(1, 12, 4 * RATE)
        talk.respond(1, 13, (Turn("user", ref=10), Turn("assistant", sent, 11), Turn("user", ref=12)), MOST)
        talk.rest()
        asked = [1, *spoken(clip, 0, RATE)]
        prompt = [*asked, *follows(asked, 3), *encode(sent[15:]), 2, *spoken(clip, 3 * RATE, 4 * RATE)]
        assert talk.said[1, 13] == as_text(follows(prompt, MOST))


def test_a_conversation_that_was_put_out_goes_on() -> None:
    """Three people take turns with pages for one conversation and places for two windows."""
    paper = Paper(slots=3, pages=14, places=2)
    clips = {stream: noise(12, 10 + stream) for stream in (1, 2, 3)}
    prompts = {stream: [1] for stream in clips}
    contexts: dict[int, tuple[Turn, ...]] = dict.fromkeys(clips, ())
    with gateway(paper.device, {"max_conversations": 3, "max_context": 1024}) as talk:
        for stream, clip in clips.items():
            talk.open(stream, clip)
        for turn in range(2):
            for stream, clip in clips.items():
                talk.feed(stream, (3 * turn + 3) * RATE)
                begin, end = 3 * turn * RATE, (3 * turn + 2) * RATE
                talk.onset(stream, 10 * turn + 1, begin)
                talk.commit(stream, 10 * turn + 1, end)
                contexts[stream] += (Turn("user", ref=10 * turn + 1),)
                talk.respond(stream, 10 * turn + 2, contexts[stream], 10)
                talk.rest()
                prompts[stream] += spoken(clip, begin, end)
                said = follows(prompts[stream], 10)
                assert talk.said[stream, 10 * turn + 2] == as_text(said), f"turn {turn} of {stream}"
                assert turn == 0 or talk.settled[stream, 10 * turn + 2].cached_tokens == 0
                prompts[stream] += [*said, 2]
                contexts[stream] += (Turn("assistant", as_text(said), 10 * turn + 2),)
    assert paper.windows == 6, "embeddings were kept"


def test_an_answer_for_which_there_is_no_memory_fails_with_numbers() -> None:
    paper = Paper(slots=3, pages=10)
    with gateway(paper.device, {"max_conversations": 3}) as talk:
        for stream in (1, 2):
            talk.open(stream, noise(3, stream))
            talk.feed(stream, 2 * RATE)
            talk.onset(stream, 1)
            talk.commit(stream, 1, RATE)
            talk.respond(stream, 2, (Turn("user", ref=1),), 200)
        talk.rest()
        assert len(talk.failed) == 1
        (failed,) = talk.failed.values()
        assert failed.code == "overloaded"


def test_what_nobody_waits_for_makes_room() -> None:
    paper = Paper(slots=1, pages=10)
    with gateway(paper.device, {"max_conversations": 2}) as talk:
        for stream in (1, 2):
            talk.open(stream, noise(3, stream))
            talk.feed(stream, 2 * RATE)
            talk.onset(stream, 1)
        talk.speculate(1, 2, 1, RATE, (Turn("user", ref=1),), 200)
        talk.rest()
        for stream in (2, 1):
            talk.commit(stream, 1, RATE)
            talk.respond(stream, 2, (Turn("user", ref=1),), 200)
            talk.rest()
            assert talk.said[stream, 2] == as_text(follows([1, *spoken(noise(3, stream), 0, RATE)], 200))
        assert talk.settled[1, 2].saved_us == 0


def test_a_long_conversation_forgets_its_beginning() -> None:
    paper, clip = Paper(pages=80), noise(30, 7)
    context: tuple[Turn, ...] = (Turn("system", "Brief."),)
    spans: list[tuple[int, int]] = []
    with gateway(paper.device, {"max_context": 1100}) as talk:
        talk.open(1, clip)
        cached = []
        for turn in range(6):
            begin, end = turn * 4 * RATE, (turn * 4 + 2) * RATE
            talk.feed(1, end + RATE)
            talk.onset(1, 10 * turn + 1, begin)
            talk.commit(1, 10 * turn + 1, end)
            context += (Turn("user", ref=10 * turn + 1),)
            spans.append((begin, end))
            talk.respond(1, 10 * turn + 2, context, 5)
            talk.rest()
            settled = talk.settled[1, 10 * turn + 2]
            assert settled.input_tokens < 1100
            cached.append(settled.cached_tokens > 20)
            context += (Turn("assistant", settled.text, 10 * turn + 2),)
    assert cached == [False, True, False, True, False, True]


def test_who_says_nothing_is_not_answered() -> None:
    paper, clip = Paper(), speechlike(8, 1)
    with gateway(paper.device) as talk:
        talk.open(1, clip, "respond", "transcribe")
        talk.feed(1, 3 * RATE, voice=0.1)
        talk.onset(1, 10)
        talk.commit(1, 10, 2 * RATE)
        talk.respond(1, 11, (Turn("user", ref=10),), MOST)
        talk.rest()
        assert {ref: each.text for (_, ref), each in talk.settled.items()} == {10: "", 11: ""}
        talk.respond(1, 12, (Turn("user", ref=99),), MOST)  # push-to-talk in which the VAD found nothing
        talk.rest()
        assert talk.settled[1, 12].text == ""
        talk.respond(1, 13, (Turn("user", ref=10), Turn("user", "Hello?")), MOST)
        talk.rest()
        assert talk.said[1, 13] == as_text(follows([1, 3, *encode("Hello?"), 4], MOST))
    assert paper.windows == 0


@pytest.mark.parametrize("language", [None, "en"])
def test_an_utterance_is_written_down_when_it_is_over(language: str | None) -> None:
    paper, clip = Paper(), noise(8, 8)
    with gateway(paper.device) as talk:
        talk.open(1, clip, "transcribe", language=language)
        talk.feed(1, 4 * RATE)
        talk.onset(1, 10)
        talk.flush(1, 10, RATE)
        talk.rest()
        assert not talk.said
        talk.rollback(1, 10)
        talk.flush(1, 10, 3 * RATE)
        talk.rest()
        talk.commit(1, 10, 3 * RATE)
        talk.rest()
        asked = [*(encode(f"lang:{language}") if language else []), 34]
        assert talk.said[1, 10] == as_text(follows([1, *spoken(clip, 0, 3 * RATE), *asked], 32 + 3 * 16))
        assert paper.windows == 2


@pytest.mark.parametrize("language", ["english", "en-US", "EN", "e\n", "[INST] " * 1000])
def test_what_is_no_language_is_refused_and_the_stream_goes_on(language: str) -> None:
    with gateway(Paper().device) as talk:
        talk.open(1, noise(1, 1), "transcribe", "respond")
        with pytest.raises(Refuse, match=r"is no language: give two letters of ISO 639-1") as refused:
            talk.tell(Open(1, ("transcribe", "respond"), language))
        assert len(str(refused.value)) < 100
        talk.tell(Open(1, ("respond",), language))


def test_both_roles_hear_a_clip_once() -> None:
    paper, clip = Paper(), noise(8, 9)
    context = (Turn("user", ref=10),)
    with gateway(paper.device) as talk:
        talk.open(1, clip, "transcribe", "respond")
        talk.feed(1, 4 * RATE)
        talk.onset(1, 10, 0, ())
        talk.flush(1, 10, 3 * RATE)
        talk.speculate(1, 11, 10, 3 * RATE, context, MOST)
        talk.rest()
        talk.commit(1, 10, 3 * RATE)
        talk.respond(1, 11, context, MOST)
        talk.rest()
        turn = [1, *spoken(clip, 0, 3 * RATE)]
        assert talk.said[1, 10] == as_text(follows([*turn, 34], 32 + 3 * 16))
        assert talk.said[1, 11] == as_text(follows(turn, MOST))
    assert paper.windows == 1


def test_an_answer_beside_the_conversation_does_not_change_it() -> None:
    paper, clip = Paper(), noise(8, 9)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.respond(1, 1, (Turn("user", "One"),), 30)
        talk.respond(1, 2, (Turn("user", "Two"),), 30, aside=True)
        talk.rest()
        first = follows([1, 3, *encode("One"), 4], 30)
        assert talk.said[1, 1] == as_text(first)
        assert talk.said[1, 2] == as_text(follows([1, 3, *encode("Two"), 4], 30))
        talk.respond(1, 3, (Turn("user", "One"), Turn("assistant", as_text(first), 1), Turn("user", "Three")), 30)
        talk.rest()
        assert talk.settled[1, 3].cached_tokens >= 6 + len(first) - 1


def test_a_client_that_comes_back_is_remembered() -> None:
    paper, clip = Paper(), noise(8, 21)
    with gateway(paper.device) as talk:
        talk.open(1, clip)
        talk.feed(1, 2 * RATE)
        talk.onset(1, 1)
        talk.commit(1, 1, RATE)
        talk.respond(1, 2, (Turn("user", ref=1),), MOST)
        talk.rest()
        first = follows([1, *spoken(clip, 0, RATE)], MOST)
        talk.onset(1, 3, RATE)
        talk.tell(Leave(1))
        talk.rest()
        assert paper.pages.free == paper.pages.count
        talk.tell(Open(1, ("respond",), start=RATE))
        talk.fed[1] = talk.heard[1] = RATE
        talk.feed(1, 4 * RATE)
        talk.onset(1, 4, RATE)
        talk.commit(1, 4, 3 * RATE)
        talk.respond(1, 5, (Turn("user", ref=1), Turn("assistant", as_text(first), 2), Turn("user", ref=4)), MOST)
        talk.rest()
        prompt = [1, *spoken(clip, 0, RATE), *first, 2, *spoken(clip, RATE, 3 * RATE)]
        assert talk.said[1, 5] == as_text(follows(prompt, MOST))
        assert paper.windows == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speed": 1}, r"voxtral-mini\.speed: unknown key \(did you mean seed\?\); allowed here: model, device"),
        ({"max_context": 100}, "max_context: expected an integer from 1024 to 131072, got 100"),
        ({"temperature": 3}, "temperature: expected a number from 0 to 2, got 3"),
        ({"top_p": 0}, "top_p: expected a number above 0 and at most 1, got 0"),
        ({"max_tokens": True}, "max_tokens: expected an integer from 1 to 32768, got true"),
        ({"n_mels": 64}, "n_mels cannot be set: it is the model's own, and the weights were made with it"),
        ({"hop_length": 80}, "hop_length cannot be set: it is the model's own, and the weights were made with it"),
    ],
)
def test_options_are_checked(options: dict[str, object], told: str) -> None:
    with pytest.raises(Unusable, match=told):
        MiniOptions.parse(options)


def test_more_conversations_than_fit_are_refused() -> None:
    with gateway(Paper().device, {"max_conversations": 1}) as talk:
        talk.open(1, noise(1, 1))
        with pytest.raises(Refuse, match="all 1 slots are taken"):
            talk.tell(Open(2, ("respond",)))


def test_the_place_of_a_client_that_is_gone_is_free_at_once() -> None:
    with gateway(Paper().device, {"max_conversations": 1}) as talk:
        talk.open(1, noise(1, 1))
        talk.tell(Leave(1))
        talk.open(2, noise(1, 2))
        with pytest.raises(Refuse, match="all 1 slots are taken"):
            talk.tell(Open(1, ("respond",)))
        talk.tell(Leave(2))
        talk.tell(Open(1, ("respond",)))


def test_what_an_answer_still_reads_is_not_forgotten_beside_it() -> None:
    """The conversation leaves its oldest turns out while something asked beside it is half way through them."""
    paper, clip = Paper(pages=80, chunk=50), noise(20, 23)
    turns: tuple[Turn, ...] = ()
    with gateway(paper.device, {"max_context": 1024}) as talk:
        talk.open(1, clip)
        for turn in range(3):
            begin, ref = 4 * turn * RATE, 10 * turn + 1
            talk.feed(1, begin + 3 * RATE)
            talk.onset(1, ref, begin)
            talk.commit(1, ref, begin + 2 * RATE)
            turns += (Turn("user", ref=ref),)
            if turn == 2:
                talk.respond(1, 50, turns[:1], 5, aside=True)
                for _ in range(3):
                    talk.step()
            talk.respond(1, ref + 1, turns, 5)
            for _ in range(0 if turn == 2 else 1000):
                talk.step()
            turns += (Turn("assistant", talk.said.get((1, ref + 1), ""), ref + 1),)
        talk.rest()
        assert talk.said[1, 50] == as_text(follows([1, *spoken(clip, 0, 2 * RATE)], 5))
        assert talk.settled[1, 22].input_tokens < 800, "the oldest turn was left out"
