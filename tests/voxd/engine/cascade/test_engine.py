"""The engine `cascade` against a real chat server on loopback: what it asks, what it says, and when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.support.cascading import QUESTION, Talk, talks
from tests.support.chat_server import STREAM, Asked, ChatServer, delta, endless, event, mute, raw, refuses, says
from voxd.engine.cascade import chat
from voxd.engine.cascade.engine import Cascade
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine, EngineCommand
from voxd.engine.dialogue import messages
from voxd.messages import Cancel, Close, Said, Settled, Turn


@pytest.fixture
def talk() -> Iterator[Talk]:
    with talks() as make:
        yield make


class TestCascade(Conformance):
    server = ChatServer()
    running = server.running()

    @classmethod
    def setup_class(cls) -> None:
        cls.running.__enter__()

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.running.__exit__(None, None, None)

    def make_engine(self, wake: Callable[[], None]) -> Engine:
        return Cascade({"url": self.server.url}, wake)


# ── an answer ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_piece_is_said_as_one_token_and_the_servers_counts_are_told(talk: Talk) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}
    _, talker = talk(says("I am a test", usage=usage))
    ending = talker.answer()

    assert ending == Settled(1, 1, "completed", "I am a test", input_tokens=11, cached_tokens=8, output_tokens=5)
    assert [(o.text, o.tokens) for o in talker.out if isinstance(o, Said)] == [
        ("I", 1),
        (" am", 1),
        (" a", 1),
        (" test", 1),
    ]


def test_without_counts_the_pieces_count(talk: Talk) -> None:
    _, talker = talk(says("I am a test"))
    assert talker.answer() == Settled(1, 1, "completed", "I am a test", output_tokens=4)


def test_the_server_is_asked_the_conversation(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", "sesame")
    server, talker = talk(key_env="CHAT_KEY", temperature=0.5, model="tiny")
    context = (Turn("system", "Be brief."), Turn("user", "Hi", ref=3), Turn("assistant", "Yes"), Turn("user", "Who?"))
    talker.answer(context)
    (asked,) = server.asked

    assert asked.messages == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes"), ("user", "Who?")]
    assert asked.headers["authorization"] == "Bearer sesame"
    assert (asked.body["model"], asked.body["stream"], asked.body["temperature"]) == ("tiny", True, 0.5)
    assert "max_tokens" not in asked.body


def test_neighbours_of_one_role_are_one_message_and_silence_is_none() -> None:
    turns = (Turn("user", "One"), Turn("assistant", ""), Turn("user", "Two"), Turn("assistant", "Hm"))
    assert messages(turns) == [{"role": "user", "content": "One\nTwo"}, {"role": "assistant", "content": "Hm"}]


@pytest.mark.parametrize("context", [(), (Turn("user", "", ref=4),), (*QUESTION, Turn("user", " ", ref=4))])
def test_silence_gets_no_answer_and_costs_no_request(talk: Talk, context: tuple[Turn, ...]) -> None:
    server, talker = talk()
    assert talker.answer(context) == Settled(1, 1, "completed", "")
    talker.answer(ref=2)
    assert len(server.asked) == 1


@pytest.mark.parametrize(("own", "asked", "sent"), [(None, 3, 3), (2, None, 2), (2, 3, 2), (3, 2, 2)])
def test_the_lower_limit_of_tokens_holds(talk: Talk, own: int | None, asked: int | None, sent: int) -> None:
    server, talker = talk(**({} if own is None else {"max_tokens": own}))
    ending = talker.answer(max_tokens=asked)

    assert server.asked[0].body["max_tokens"] == sent
    assert isinstance(ending, Settled)
    assert (ending.status, len(talker.said())) == ("incomplete", sent)


def test_characters_survive_any_cut(talk: Talk) -> None:
    stream = (
        STREAM
        + delta("Grüße 漢字")
        + delta(" 🎙\u2028")
        + b": still here\r\n\r\n"
        + delta("é", "stop")
        + b"data: [DONE]\n\n"
    )

    async def script(asked: Asked) -> None:
        for index in range(len(stream)):
            await asked.send(stream[index : index + 1])
            await asyncio.sleep(0)

    _, talker = talk(script)
    assert talker.answer() == Settled(1, 1, "completed", "Grüße 漢字 🎙\u2028é", output_tokens=3)


def test_what_a_model_thinks_is_not_said(talk: Talk) -> None:
    """Reasoning comes as in Mistral's API, and in chunks of other servers that have no delta."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    chunks: list[object] = [{"content": [thought]}, {"content": [{"type": "text", "text": "Yes"}]}, None]
    events = b"".join(event(choices=[{"index": 0, "delta": each, "finish_reason": None}]) for each in chunks)
    _, talker = talk(raw(STREAM + events + delta(".", "stop")))
    assert talker.answer() == Settled(1, 1, "completed", "Yes.", output_tokens=2)


def test_a_server_that_does_not_know_stream_options_is_asked_without(talk: Talk) -> None:
    async def script(asked: Asked) -> None:
        strict = refuses(422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs"}]})
        await (strict if "stream_options" in asked.body else says("Fine"))(asked)

    server, talker = talk(script)
    talker.answer()
    talker.answer(ref=2)

    assert [talker.said(1), talker.said(2)] == [["Fine"], ["Fine"]]
    assert len(server.asked) == 3, "it is tried once"


def test_a_slow_engine_stops_the_reading_and_loses_nothing(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "WAITING", 3)
    _, talker = talk(says(" ".join(str(n) for n in range(200))))
    ending = talker.answer()
    assert isinstance(ending, Settled)
    assert ending.text.split() == [str(n) for n in range(200)]


def test_an_answer_without_end_is_cut_and_its_connection_closed(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "ANSWER", 50)
    server, talker = talk(endless())
    ending = talker.answer()
    assert isinstance(ending, Settled)
    assert (ending.status, len(ending.text)) == ("incomplete", 50)
    server.until(lambda: server.asked[0].hung_up)


# ── no more of it ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cancel_closes_the_connection_and_settles_with_what_was_said(talk: Talk) -> None:
    server, talker = talk(endless())
    talker.ask()
    talker.until(lambda: len(talker.said()) >= 3)
    talker.tell(Cancel(1, 1))

    said = "".join(talker.said())
    assert talker.ending(1) == Settled(1, 1, "cancelled", said, output_tokens=len(talker.said()))
    server.until(lambda: server.asked[0].hung_up)
    server.script = says("Next")
    talker.answer(ref=2)
    assert ("".join(talker.said(1)), talker.said(2)) == (said, ["Next"])


@pytest.mark.parametrize("command", [Cancel(1, 1), Close(1)])
def test_a_request_without_an_answer_yet_is_given_up_too(talk: Talk, command: EngineCommand) -> None:
    server, talker = talk(mute)
    talker.ask()
    server.until(lambda: len(server.asked) == 1)
    talker.tell(command)
    server.until(lambda: server.asked[0].hung_up)
    assert talker.out == ([Settled(1, 1, "cancelled", "")] if isinstance(command, Cancel) else [])


def test_the_end_of_the_engine_closes_all_connections(talk: Talk) -> None:
    server, talker = talk(endless())
    for ref in (1, 2, 3):
        talker.ask(ref=ref)
    talker.until(lambda: all(talker.said(ref) for ref in (1, 2, 3)))
    talker.engine.stop()
    server.until(lambda: all(asked.hung_up for asked in server.asked))
