"""Whatever is wrong between `cascade` and its chat server is one sentence that says what to do."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cascading import Talk, Talker, talks
from tests.support.chat_server import STREAM, Asked, ChatServer, Script, delta, event, mute, raw, refuses
from voxd.engine.cascade.engine import Cascade
from voxd.engine.cascade.options import CascadeOptions
from voxd.engine.contract import Unusable
from voxd.messages import Failed


@pytest.fixture
def talk() -> Iterator[Talk]:
    with talks() as make:
        yield make


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
    (b"data: {nonsense\n\n", "chat_broken", "no piece of an answer"),
    (b"data: [1]\n\n", "chat_broken", "OpenAI-compatible"),
    (b"data: " + bytes(2 << 20), "chat_broken", "no piece of an answer"),
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
    assert "sesame" not in f"{failed} {talker.notes} {CascadeOptions.parse({'key_env': 'CHAT_KEY'})}"


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
    subprocess.run([openssl, *made], check=True, capture_output=True, timeout=300)
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
        (
            {"uri": "x"},
            "cascade.uri: unknown key (did you mean url?); allowed here: url, model, key_env, max_tokens",
        ),
        ({"url": "localhost:8080"}, "engine_options.cascade.url: expected http://HOST"),
        ({"url": "http://me:secret@host/v1"}, "without a user name"),
        ({"url": "http://host:port/v1"}, "engine_options.cascade.url"),
        ({"url": 7}, "engine_options.cascade.url"),
        (
            {"model": ""},
            "cascade.model: expected the name of a model that the server offers or null, got ''",
        ),
        ({"key_env": "sk-secret"}, "never the key itself"),
        ({"key_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"max_tokens": 0}, "engine_options.cascade.max_tokens: expected an integer from 1 to 100000 or null, got 0"),
        (
            {"max_tokens": True},
            "cascade.max_tokens: expected an integer from 1 to 100000 or null, got true",
        ),
        ({"temperature": 2.5}, "engine_options.cascade.temperature: expected a number from 0 to 2 or null, got 2.5"),
        ({"timeout_s": 0}, "engine_options.cascade.timeout_s: expected a number from 1 to 600, got 0"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(options: dict[str, object], told: str) -> None:
    with pytest.raises(Unusable) as refused:
        Cascade(options, lambda: None)
    assert told in str(refused.value)
    assert "secret" not in str(refused.value)
