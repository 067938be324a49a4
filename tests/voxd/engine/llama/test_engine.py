"""The engine `llama` with the real model: what it says, what it keeps back, when it stops; and with a scripted one."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.llama import SMALL, ScriptedModel, Talker, own_answer
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine
from voxd.engine.llama.engine import Llama
from voxd.engine.llama.library import AnswerPiece
from voxd.messages import Cancel, Close, Crop, Failed, Open, Output, Prepare, Respond, Settled, Speculate, Turn, Warned

pytest.importorskip("xllamacpp")

QUESTION = (Turn("system", "Be brief."), Turn("user", ref=7, transcript="What is a bee?"))


class TestLlama(Conformance):
    def make_engine(self, wake: Callable[[], None]) -> Engine:
        return Llama({**SMALL, "max_tokens": 24}, wake)


@pytest.fixture(scope="module")
def talker() -> Iterator[Talker]:
    made = Talker()
    yield made
    made.engine.stop()


def replied(context: tuple[Turn, ...], text: str, question: str) -> tuple[Turn, ...]:
    return (*context, Turn("assistant", text), Turn("user", question))


def test_loading_takes_no_signal_and_leaves_no_socket(talker: Talker) -> None:
    """llama.cpp's server takes both; a daemon must not listen where nobody asked it to, and ends by its own hand."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, kept)
    mine = {os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if os.path.islink(fd)}
    tcp = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert not [row for row in tcp if row[3] == "0A" and f"socket:[{row[9]}]" in mine], "it listens"
    unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    named = [Path(row[7]) for row in unix if len(row) > 7 and f"socket:[{row[6]}]" in mine]
    assert not [path for path in named if "voxd-llama-" in str(path) and path.exists()], "its socket can be found"


def test_the_text_is_that_of_llama_cpps_own_server(talker: Talker) -> None:
    """After a turn, after an answer begun ahead, cropped and begun anew, and after one that was broken off."""
    context, refs = QUESTION, iter(range(100, 200))
    chance = random.Random(1)
    for turn in range(3):
        ref = next(refs)
        talker.tell(Prepare(1, 7, context[:-1]))
        talker.tell(Speculate(1, ref, 7, 0, (*context[:-1], Turn("user", "Something else")), 12))
        talker.tell(Crop(1, ref))
        ref = next(refs)
        talker.tell(Speculate(1, ref, 7, 0, context, 12))
        talker.tell(Respond(1, ref, context, 12))
        assert talker.ended(ref).text == own_answer(context, 12), turn
        broken = next(refs)
        talker.tell(Respond(1, broken, context, 16))
        talker.until(lambda ref=broken: bool(talker.said(ref)))  # type: ignore[misc]
        talker.tell(Cancel(1, broken))
        heard = talker.said(broken)[: chance.randrange(1, 8)]
        context = replied(context, heard, f"And {turn} flowers?")


@pytest.mark.slow
def test_fifty_conversations_with_reuse_crops_and_cancels_say_what_the_own_server_says() -> None:
    talker, chance, refs = Talker(max_context=2048), random.Random(5), iter(range(1, 100_000))
    words = ["bees", "honey", "why", "sun", "rain", "tell", "how", "seven", "music", "Paris", "river", "never", "small"]

    def words_of(count: int) -> str:
        return " ".join(chance.choice(words) for _ in range(count)) + "?"

    for stream in range(10, 60):
        talker.tell(Open(stream, ("respond",)))
        context: tuple[Turn, ...] = (Turn("system", f"You are {words_of(5)}"), Turn("user", words_of(6)))
        for _ in range(3):
            ref = next(refs)
            talker.tell(Prepare(stream, 1, context[:-1]))
            if chance.random() < 0.5:
                talker.tell(Speculate(stream, ref, 1, 0, (*context[:-1], Turn("user", words_of(3))), 16))
                talker.tell(Crop(stream, ref))
                ref = next(refs)
            if chance.random() < 0.6:
                talker.tell(Speculate(stream, ref, 1, 0, context, 16))
            talker.tell(Respond(stream, ref, context, 16))
            said = talker.ended(ref, stream).text
            assert said == own_answer(context, 16), context
            if chance.random() < 0.4:
                broken = next(refs)
                talker.tell(Respond(stream, broken, context, 16))
                talker.tell(Cancel(stream, broken))
                said = said[: chance.randrange(len(said) + 1)]
            context = replied(context, said, words_of(chance.randrange(1, 9)))
        talker.tell(Close(stream))
    talker.engine.stop()


def test_a_guess_that_was_wrong_is_begun_anew(talker: Talker) -> None:
    other = (*QUESTION[:-1], Turn("user", ref=7, transcript="What is the sun?"))
    talker.tell(Speculate(1, 300, 7, 0, other, 8))
    talker.tell(Respond(1, 300, QUESTION, 8))
    assert talker.ended(300).text == own_answer(QUESTION, 8)


def test_an_answer_begun_ahead_is_published_at_once_and_says_what_it_saved(talker: Talker) -> None:
    talker.tell(Speculate(1, 310, 7, 0, QUESTION, 4))
    talker.until(lambda: 1 in talker.engine._ready)
    assert talker.said(310) == ""
    before = len(talker.out)
    talker.tell(Respond(1, 310, QUESTION, 4))
    assert len(talker.out) == before + 2, "Said and Settled, in the same step"
    assert talker.ended(310).saved_us > 0


def test_a_turn_that_is_too_long_is_refused_and_the_conversation_goes_on(talker: Talker) -> None:
    talker.tell(Respond(1, 320, (Turn("user", "word " * 3000),), 8))
    refused = talker.ending(320)
    assert isinstance(refused, Failed)
    assert refused.code == "context_length_exceeded"
    assert "max_context" in refused.message
    talker.tell(Respond(1, 321, QUESTION, 4))
    assert talker.ended(321).text


# ── a scripted model ────────────────────────────────────────────────────────────────────────────────────────────────


def scripted(model: ScriptedModel, **options: object) -> tuple[Llama, threading.Event]:
    woken = threading.Event()
    engine = Llama({**SMALL, **options}, woken.set, lambda options, progress: (model, 512, ()))
    engine.load(lambda _: None)
    engine.receive(Open(1, ("respond",)))
    return engine, woken


def all_of(engine: Llama, woken: threading.Event, *commands: object) -> list[Output]:
    """What comes until the first ending."""
    for command in commands:
        engine.receive(command)  # type: ignore[arg-type]
    out: list[Output] = []
    while not any(isinstance(o, Settled | Failed) for o in out):
        woken.clear()
        out += engine.step(0)
        if not out:
            assert woken.wait(60)
    return out


def test_a_conversation_that_is_too_long_is_shortened_by_half_and_told() -> None:
    model = ScriptedModel()
    engine, woken = scripted(model)
    context: tuple[Turn, ...] = (Turn("user", "Tell me of bees."),)
    told = []
    for ref in range(1, 31):
        out = all_of(engine, woken, Respond(1, ref, context, 8))
        told += [o for o in out if isinstance(o, Warned)]
        question = Turn("user", ref=1000 + ref, transcript="one two three four five six seven eight nine ten " * 2)
        context = (*context, Turn("assistant", "w0 w1 w2 w3", ref=ref), question)
    assert 1 < len(told) < 8, "not at each turn"
    assert "max_context" in told[0].message
    sizes = [len(msgspec.json.encode(body["messages"])) for body in model.bodies]
    assert max(sizes) < 3 * 512
    assert sizes[-1] > 100
    engine.stop()


def test_tokens_that_were_estimated_too_low_are_counted_by_the_model_and_the_rest_is_asked_again() -> None:
    def refuse(body: dict[str, object]) -> AnswerPiece | None:
        size = len(msgspec.json.encode(body["messages"]))
        error = {"type": "exceed_context_size_error", "message": "too long", "n_prompt_tokens": size}
        return msgspec.convert({"error": error}, AnswerPiece) if size > 512 else None

    model = ScriptedModel(refuse=refuse)
    engine, woken = scripted(model)
    context = tuple(Turn("user" if n % 2 == 0 else "assistant", "ab " * 20, ref=n) for n in range(11))
    out = all_of(engine, woken, Respond(1, 1, context, 8))
    assert isinstance(out[0], Warned)
    assert isinstance(out[-1], Settled)
    assert len(model.bodies) == 2
    engine.stop()


def test_what_goes_wrong_in_the_library_fails_that_turn_only(caplog: pytest.LogCaptureFixture) -> None:
    broken = [True]

    def refuse(body: dict[str, object]) -> AnswerPiece | None:
        if broken.pop() if broken else False:
            raise RuntimeError("a bug")
        return None

    engine, woken = scripted(ScriptedModel(refuse=refuse))
    assert isinstance(all_of(engine, woken, Respond(1, 1, QUESTION))[-1], Failed)
    assert all_of(engine, woken, Respond(1, 2, QUESTION))[-1].text == "w0 w1 w2 w3"  # type: ignore[union-attr]
    engine.stop()
