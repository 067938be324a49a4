"""The engine `cascade` against a real chat server on loopback: answers, cancels, a sentence for what goes wrong."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import STREAM, Asked, ChatServer, Script, delta, endless, event, mute, raw, refuses, says
from voxd.engine import chat
from voxd.engine.cascade import Cascade, messages
from voxd.engine.chat_options import Options
from voxd.engine.conformance import Conformance
from voxd.engine.contract import Engine, EngineCommand, Unusable
from voxd.messages import Cancel, Close, Failed, Open, Output, Respond, Said, Settled, Turn

PATIENCE_S = 20.0
QUESTION = (Turn("user", "Who are you?"),)


class Talker:
    """The engine as the loop drives it, one stream open."""

    def __init__(self, url: str, **options: object) -> None:
        self._woken = threading.Event()
        self.engine = Cascade({"url": url, **options}, self._woken.set)
        self.notes = self.engine.load(lambda _: None)
        self.out: list[Output] = []
        self.tell(Open(1, ("respond",)))

    def tell(self, command: EngineCommand) -> None:
        self.engine.receive(command)
        self.step()

    def step(self) -> None:
        self._woken.clear()
        self.out += self.engine.step(0)

    def until(self, seen: Callable[[], bool]) -> None:
        latest = time.monotonic() + PATIENCE_S
        while not seen():
            assert self._woken.wait(latest - time.monotonic()), f"it has not come; there is {self.out}"
            self.step()

    def ask(self, context: tuple[Turn, ...] = QUESTION, ref: int = 1, max_tokens: int | None = None) -> None:
        self.tell(Respond(1, ref, context, max_tokens))

    def answer(self, context: tuple[Turn, ...] = QUESTION, ref: int = 1, max_tokens: int | None = None) -> Output:
        """How it ended."""
        self.ask(context, ref, max_tokens)
        self.until(lambda: self.ending(ref) is not None)
        return self.ending(ref)  # type: ignore[return-value]

    def ending(self, ref: int) -> Output | None:
        return next((o for o in self.out if isinstance(o, Settled | Failed) and o.ref == ref), None)

    def said(self, ref: int = 1) -> list[str]:
        return [o.text for o in self.out if isinstance(o, Said) and o.ref == ref]


Talk = Callable[..., tuple[ChatServer, Talker]]


@pytest.fixture
def talk() -> Iterator[Talk]:
    """A server with a script, and an engine that asks it."""
    opened: list[Any] = []

    def make(script: Script | None = None, models: tuple[str, ...] | None = ("tiny",), **options: object) -> Any:
        server = ChatServer(*([script] if script else []), models=models)
        running = server.running()
        opened.append(running)
        running.__enter__()
        talker = Talker(server.url, **{"timeout_s": 15, **options})
        opened.append(talker)
        return server, talker

    yield make
    for each in reversed(opened):
        if isinstance(each, Talker):
            each.engine.stop()
        else:
            each.__exit__(None, None, None)


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
    assert (ending.status, 50 < len(ending.text) < 60) == ("incomplete", True)
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


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────────────────────────

TOO_LONG = {"error": {"message": "This model's maximum context length is 4096 tokens.", "type": "BadRequestError"}}
LLAMA_TOO_LONG = {"error": {"code": 400, "message": "the request is too large", "type": "exceed_context_size_error"}}
OLLAMA_NO_MODEL = {"error": {"message": 'model "huge" not found, try pulling it first', "type": "api_error"}}
VLLM_NO_MODEL = {"object": "error", "message": "The model `huge` does not exist.", "code": 404}
MISTRAL_NO_MODEL = {"message": "Invalid model: huge", "type": "invalid_model", "code": "1500"}
WRONG: list[tuple[Script, str, str]] = [
    (refuses(401, {"error": {"message": "bad key sesame"}}), "chat_unauthorized", "engine_options.cascade.key_env"),
    (refuses(403), "chat_unauthorized", "asks for a key"),
    (refuses(404, {"detail": "Not Found"}), "chat_not_found", "ends in /v1"),
    (refuses(404, VLLM_NO_MODEL), "model_not_found", "it offers tiny: set engine_options.cascade.model"),
    (refuses(404, OLLAMA_NO_MODEL), "model_not_found", "it offers tiny"),
    (refuses(400, MISTRAL_NO_MODEL), "model_not_found", "it offers tiny"),
    (refuses(429, None, Retry_After="7"), "rate_limit_exceeded", "ask again in 7 s"),
    (refuses(429), "rate_limit_exceeded", "ask again in a moment"),
    (refuses(400, TOO_LONG), "context_length_exceeded", "begin a new session"),
    (refuses(400, LLAMA_TOO_LONG), "context_length_exceeded", "begin a new session"),
    (refuses(400, {"error": "temperature is odd"}), "chat_refused", "engine_options.cascade): temperature is odd."),
    (refuses(503, {"error": {"message": "loading\nmodel"}}), "chat_failed", "or ask again): loading model."),
    (refuses(502), "chat_failed", "502"),
    (refuses(308, None, Location="https://x.test/v1"), "chat_moved", "https://x.test/v1"),
    (raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>"), "chat_not_found", "engine_options.cascade.url"),
    (raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}"), "chat_not_found", "no chat endpoint"),
    (raw(b""), "chat_unreachable", "hung up without an answer"),
    (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "chat_unreachable", "hung up without an answer"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "code", "words"), WRONG)
def test_a_refusal_is_one_sentence_that_says_what_to_do(talk: Talk, script: Script, code: str, words: str) -> None:
    _, talker = talk(script, model="huge")
    failed = talker.answer()

    assert isinstance(failed, Failed)
    assert failed.code == code
    assert words in failed.message
    assert "sesame" not in failed.message
    assert failed.message.endswith((".", "?"))
    assert "\n" not in failed.message


BREAKS: list[tuple[bytes, str, str]] = [
    (b"", "chat_broken", "broke off"),
    (b"data: {nonsense\n\n", "chat_broken", "broke off"),
    (event(error={"message": "out of memory", "code": 500}), "chat_failed", "out of memory"),
    (b'error: {"error": {"message": "out of memory"}}\n\n', "chat_failed", "out of memory"),
    (event(error=TOO_LONG["error"]), "context_length_exceeded", "too long for the model"),
    (delta("", "content_filter"), "content_filter", "filter"),
]


@pytest.mark.parametrize(("rest", "code", "words"), BREAKS)
def test_a_stream_that_breaks_keeps_what_was_said(talk: Talk, rest: bytes, code: str, words: str) -> None:
    _, talker = talk(raw(STREAM + delta("Once") + delta(" upon") + rest))
    failed = talker.answer()

    assert isinstance(failed, Failed)
    assert (failed.code, talker.said()) == (code, ["Once", " upon"])
    assert words in failed.message


def test_the_name_of_the_keys_variable_is_told_and_never_the_key(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", "sesame")
    _, talker = talk(refuses(401), key_env="CHAT_KEY")
    failed = talker.answer()
    assert isinstance(failed, Failed)
    assert "environment variable CHAT_KEY" in failed.message
    assert "sesame" not in f"{failed} {talker.notes} {Options.parse({'key_env': 'CHAT_KEY'}, os.environ)}"


def test_a_server_that_says_nothing_is_given_up(talk: Talk) -> None:
    async def pings(asked: Asked) -> None:
        """A comment is no text."""
        await asked.send(STREAM)
        while True:
            await asked.send(b": ping\n\n")
            await asked.pause(0.1)

    for script in (mute, pings):
        server, talker = talk(script, timeout_s=1)
        failed = talker.answer()
        assert isinstance(failed, Failed)
        assert (failed.code, "engine_options.cascade.timeout_s" in failed.message) == ("chat_timeout", True)
        server.until(lambda server=server: server.asked[0].hung_up)  # type: ignore[misc]


def nobody() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_voxd_starts_before_the_chat_server_and_talks_once_it_is_there() -> None:
    server = ChatServer()
    server.port = nobody()
    talker = Talker(server.url)
    try:
        assert "Nobody listens" in talker.notes[0]
        assert "tries again at each turn" in talker.notes[0]
        failed = talker.answer()
        assert isinstance(failed, Failed)
        assert (
            failed.message
            == f"Nobody listens at {server.url}: start the chat server there, or correct engine_options.cascade.url."
        )
        with server.running():
            talker.answer(ref=2)
        assert "".join(talker.said(2)) == "You said: Who are you?"
        assert server.asked[0].body["model"] == "tiny", "the one that the server offers"
    finally:
        talker.engine.stop()


def test_what_is_wrong_with_the_address_is_told_apart(talk: Talk) -> None:
    server, _ = talk()
    cases = {
        "http://no-such-host.invalid/v1": "host name",
        server.url.replace("http:", "https:"): "should engine_options.cascade.url begin with http://",
        server.url.removesuffix("/v1"): "ends in /v1",
    }
    for url, words in cases.items():
        talker = Talker(url, model="tiny")
        try:
            failed = talker.answer()
        finally:
            talker.engine.stop()
        assert isinstance(failed, Failed)
        assert words in failed.message


def test_a_certificate_of_nobody_known_is_told_with_where_to_name_its_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl, key, certificate = shutil.which("openssl"), tmp_path / "key.pem", tmp_path / "certificate.pem"
    if openssl is None:
        pytest.skip("openssl is not installed")
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *made], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ChatServer().running(context) as server:
        stranger = Talker(server.url, model="tiny")
        failed = stranger.answer()
        stranger.engine.stop()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        friend = Talker(server.url, model="tiny")
        friend.answer()
        friend.engine.stop()
    assert isinstance(failed, Failed)
    assert "self-signed certificate" in failed.message
    assert "SSL_CERT_FILE where voxd is started" in failed.message
    assert "".join(friend.said()) == "You said: Who are you?", "the remedy works"


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("http://ä..b/v1", {}),
        ("https://host.test/v1", {"SSL_CERT_FILE": "/no/such/file"}),
        ("https://host.test/v1", {"HTTPS_PROXY": "smoke://signals"}),
    ],
)
def test_what_no_connection_can_be_made_with_ends_the_start(
    url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unusable, match=r"engine_options\.cascade\.url, SSL_CERT_FILE or a proxy variable"):
        Cascade({"url": url}, lambda: None).load(lambda _: None)


@pytest.mark.parametrize(
    ("models", "model", "note"),
    [
        (("tiny", "big"), None, "tiny at http"),
        (("tiny", "big"), "big", "big at http"),
        (("llama:latest",), "llama", "llama at http"),
        (("tiny",), "huge", "no model 'huge'; it offers tiny"),
        ((), None, "no model to offer"),
        (None, "tiny", "no chat endpoint"),
    ],
)
def test_at_the_start_the_user_reads_who_will_answer(
    talk: Talk, models: tuple[str, ...] | None, model: str | None, note: str
) -> None:
    _, talker = talk(models=models, **({"model": model} if model else {}))
    assert len(talker.notes) == 1
    assert note in talker.notes[0]


# ── options ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"uri": "x"}, "engine_options.cascade.uri: unknown; known are url, model, key_env, max_tokens"),
        ({"url": "localhost:8080"}, "engine_options.cascade.url: allowed is http://HOST"),
        ({"url": "http://me:secret@host/v1"}, "without a user name"),
        ({"url": "http://host:port/v1"}, "engine_options.cascade.url"),
        ({"url": 7}, "engine_options.cascade.url"),
        ({"model": ""}, "engine_options.cascade.model: ''"),
        ({"key_env": "sk-secret"}, "never the key itself"),
        ({"key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"max_tokens": 0}, "engine_options.cascade.max_tokens: 0; allowed is a whole number from 1"),
        ({"max_tokens": True}, "engine_options.cascade.max_tokens: True"),
        ({"temperature": 2.5}, "engine_options.cascade.temperature: 2.5; allowed is a number from 0 to 2"),
        ({"timeout_s": 0}, "engine_options.cascade.timeout_s: 0; allowed is a number from 1 to 600"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options: dict[str, object], told: str) -> None:
    with pytest.raises(Unusable) as refused:
        Cascade(options, lambda: None)
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)
