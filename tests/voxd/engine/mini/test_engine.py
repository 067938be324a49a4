"""The engine against transformers' own `generate()`, id by id, in fp32 on the CPU."""

from __future__ import annotations

from functools import cache

import pytest

from tests.support.mini import Gateway, as_text, gateway
from tests.support.tiny_mini import EOS, folder, reference
from tests.support.tiny_voxtral import RATE, Samples, speechlike
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine
from voxd.engine.mini.engine import VoxtralMini
from voxd.engine.mini.interface import MiniDevice, MiniOptions
from voxd.engine.mini.memory import load
from voxd.messages import Cancel, Leave, Open, Turn

MOST = 12
WITH_TOKENS = {"max_conversations": 4}


@cache
def device(seed: int = 0) -> MiniDevice:
    options = MiniOptions.parse({"model": str(folder(seed)), "device": "cpu", **WITH_TOKENS})
    return load(options, lambda text: None, eager=True)


@cache
def clip(seconds: float, seed: int) -> Samples:
    return speechlike(seconds, seed)


class Dialogue:
    """One stream's prompt as transformers would be given it, beside its context as the gateway would send it."""

    def __init__(self, samples: Samples, seed: int = 0) -> None:
        self.samples, self.seed = samples, seed
        self.token_ids, self.clips, self.context = [1], [], ()  # type: ignore[var-annotated]

    def hear(self, ref: int, begin: int, end: int) -> None:
        windows = max(1, -(-(end - begin) // (30 * RATE)))
        self.token_ids = [*self.token_ids, 3, 25, *[24] * 375 * windows, 4]
        self.clips = [*self.clips, self.samples[begin:end]]
        self.context = (*self.context, Turn("user", ref=ref))

    def expected(self, most: int = MOST) -> list[int]:
        return reference(self.seed).token_ids(self.token_ids, self.clips, most)

    def say(self, ref: int, token_ids: list[int]) -> None:
        self.token_ids = [*self.token_ids, *token_ids, EOS]
        self.context = (*self.context, Turn("assistant", as_text(token_ids), ref))


def ask(talk: Gateway, stream: int, dialogue: Dialogue, ref: int, begin: int, end: int) -> None:
    """Speaks a turn and asks for an answer, without computing anything."""
    talk.feed(stream, end + 1600)
    if ref not in talk.begun[stream]:
        talk.onset(stream, ref, begin)
    talk.commit(stream, ref, end)
    dialogue.hear(ref, begin, end)
    talk.respond(stream, ref + 1, dialogue.context, MOST)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_turns_on_one_prefix(seed: int) -> None:
    dialogue = Dialogue(clip(9.0, 5), seed)
    with gateway(device(seed), WITH_TOKENS) as talk:
        talk.open(1, dialogue.samples)
        for turn in range(3):
            ref, begin = 10 * turn, 3 * turn * RATE + 700
            ask(talk, 1, dialogue, ref, begin, begin + (2 + turn % 2) * RATE - 9)
            talk.rest()
            want = dialogue.expected()
            assert talk.said[1, ref + 1] == as_text(want), f"turn {turn}"
            assert len(set(want)) > 4, "this turn proves nothing"
            assert (talk.settled[1, ref + 1].cached_tokens > 380 * turn) == (turn > 0)
            dialogue.say(ref + 1, want)


def test_conversations_that_begin_while_others_are_answered() -> None:
    """Prompts of one and two windows, typed and spoken, begin at any step of the others."""
    dialogues = {
        stream: Dialogue(clip(seconds, stream)) for stream, seconds in ((1, 3.0), (2, 32.0), (3, 2.0), (4, 5.0))
    }
    with gateway(device(), WITH_TOKENS) as talk:
        for stream, dialogue in dialogues.items():
            talk.open(stream, dialogue.samples)
            end = len(dialogue.samples) - 1600
            if stream == 3:
                dialogue.token_ids = [1, 3, *device().special.encode("What is said?"), 4]
                talk.respond(3, 1, (Turn("user", "What is said?"),), MOST)
            else:
                talk.feed(stream, 100)
                talk.onset(stream, 0)
                talk.feed(stream, end)
                ask(talk, stream, dialogue, 0, 0, end)
            for _ in range(stream):
                talk.step()
        talk.rest()
        for stream, dialogue in dialogues.items():
            assert talk.said[stream, 1] == as_text(dialogue.expected()), f"stream {stream}"


def test_a_speculation_that_was_wrong_and_one_that_was_right() -> None:
    dialogue = Dialogue(clip(6.0, 7))
    with gateway(device(), WITH_TOKENS) as talk:
        talk.open(1, dialogue.samples)
        talk.feed(1, 2 * RATE)
        talk.onset(1, 0, 0, ())
        context = (Turn("user", ref=0),)
        talk.speculate(1, 1, 0, 30_000, context, MOST)
        talk.rest()
        talk.crop(1, 1)
        talk.feed(1, 5 * RATE)
        talk.speculate(1, 2, 0, 70_000, context, MOST)
        talk.rest()
        assert not talk.said
        talk.commit(1, 0, 70_000)
        talk.respond(1, 2, context, MOST)
        dialogue.hear(0, 0, 70_000)
        first = dialogue.expected()
        assert talk.said[1, 2] == as_text(first), "all of it was ready"
        assert talk.settled[1, 2].saved_us > 0
        dialogue.say(2, first)
        ask(talk, 1, dialogue, 4, 75_000, 79_000)
        talk.rest()
        assert talk.said[1, 5] == as_text(dialogue.expected())


def test_cancelled_in_the_middle_and_then_the_next_turn() -> None:
    dialogue = Dialogue(clip(6.0, 8))
    with gateway(device(), WITH_TOKENS) as talk:
        talk.open(1, dialogue.samples)
        ask(talk, 1, dialogue, 0, 0, 2 * RATE)
        while len(talk.said.get((1, 1), "").split()) < 5:
            talk.step()
        talk.tell(Cancel(1, 1))
        dialogue.say(1, dialogue.expected()[:3])
        ask(talk, 1, dialogue, 4, 3 * RATE, 5 * RATE)
        talk.rest()
        assert talk.said[1, 5] == as_text(dialogue.expected())


def test_a_client_that_left_and_came_back() -> None:
    """Its memory on the device was freed, its ids and embeddings were kept, and the answer is the same."""
    dialogue = Dialogue(clip(9.0, 5))
    with gateway(device(), WITH_TOKENS) as talk:
        talk.open(1, dialogue.samples)
        for turn in range(2):
            ask(talk, 1, dialogue, 10 * turn, 4 * turn * RATE, (4 * turn + 3) * RATE)
            talk.rest()
            want = dialogue.expected()
            assert talk.said[1, 10 * turn + 1] == as_text(want)
            assert talk.settled[1, 10 * turn + 1].cached_tokens == 0
            dialogue.say(10 * turn + 1, want)
            talk.tell(Leave(1))
            talk.tell(Open(1, ("respond",), start=talk.fed[1]))


def test_a_clip_of_70_seconds_with_a_loud_end() -> None:
    samples = clip(71.0, 9).copy()
    samples[: 60 * RATE] *= 2.0**-9
    samples[50 * RATE : 51 * RATE] = 0
    dialogue = Dialogue((samples * 32768).round().astype("float32") / 32768)
    with gateway(device(), WITH_TOKENS) as talk:
        talk.open(1, dialogue.samples)
        talk.feed(1, RATE)
        talk.onset(1, 0, 0, ())
        for until in range(2 * RATE, 70 * RATE + 1, RATE):
            talk.feed(1, until)
        talk.rest()
        ask(talk, 1, dialogue, 0, 0, 70 * RATE)
        talk.rest()
        assert talk.said[1, 1] == as_text(dialogue.expected())


@pytest.mark.parametrize("language", [None, "en"])
def test_an_utterance_is_written_down_as_generate_does(language: str | None) -> None:
    samples = clip(3.0, 3)
    with gateway(device(), WITH_TOKENS) as talk:
        talk.open(1, samples, "transcribe", language=language)
        talk.feed(1, 3 * RATE)
        talk.onset(1, 0)
        talk.commit(1, 0, 2 * RATE)
        talk.rest()
        prompt = reference(0).transcription(samples[: 2 * RATE], language)
        assert talk.said[1, 0] == as_text(reference(0).token_ids(prompt, [samples[: 2 * RATE]], 2 * 16 + 32))


class TestConformance(Conformance):
    """The contract, in both roles, with scripted voice."""

    def make_engine(self, wake: object) -> Engine:
        return VoxtralMini(
            {**WITH_TOKENS, "max_tokens": 12, "max_conversations": 100}, lambda: None, lambda options, progress: _wide()
        )


@cache
def _wide() -> MiniDevice:
    options = MiniOptions.parse({"model": str(folder(0, ends=True)), "device": "cpu", "max_conversations": 100})
    return load(options, lambda text: None, eager=True)
