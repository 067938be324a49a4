"""voxtui.link.client against a scripted server: opening, audio, events, and each way to fail in one sentence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shared.events import AudioAppend, AudioCommit, SessionUpdate, SessionUpdated
from shared.session_config import Extensions, RealtimeSession, TranscriptionSession
from tests.support.fakes import FakeVoxd, refusal, utterance
from voxtui.errors import ClientError, Full, TokenRefused, Unreachable
from voxtui.link.client import RealtimeClient, Wishes, configuration
from voxtui.link.replay import Replay
from voxtui.link.target import Direct, parse_target, unix_target

FULL = "session_limit_reached"


async def collect(client: RealtimeClient, count: int) -> list[object]:
    found: list[object] = []
    async for received in client:
        found.append(received.event)
        if len(found) == count:
            break
    return found


async def test_opens_configures_and_hears() -> None:
    """Words come back in order, each with its time; the server has the audio that was sent."""
    said = utterance("a", 0, 600, "hello ", "world")
    voxd = FakeVoxd([(40, said)])
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target, "sesame")) as client:
        assert (client.transcriber, client.responder) == ("fake", None)
        await client.send_audio(b"\1\0" * 320, 1000)
        await client.send_audio(b"\2\0" * 320, 21000)
        found = await collect(client, 1 + len(said))
    assert found[1:] == said
    assert client.position == 640
    assert client.clock.time_of(640) == 21000
    assert b"".join(e.audio for e in voxd.sent(AudioAppend)) == b"\1\0" * 320 + b"\2\0" * 320
    assert voxd.headers["Authorization"] == "Bearer sesame"
    assert voxd.path == "/v1/realtime?voxd_ext=metrics,provisional,resume"


async def test_what_is_no_event_is_passed_over() -> None:
    """A newer server may say more than this client knows."""
    noise = [b'{"type":"voxd.future","x":1}', b"[]", b"no json", b'{"type":"error"}']
    async with FakeVoxd(noise=noise).serve() as target, RealtimeClient.connect(Direct(target)) as client:
        assert isinstance((await collect(client, 1))[0], SessionUpdated)


@pytest.mark.parametrize(
    ("respond", "transcribe", "wishes", "kind", "transcription"),
    [
        (None, "whisper", Wishes(), "transcription", {}),
        (None, "whisper", Wishes(language="en"), "transcription", {"language": "en"}),
        ("echo", "whisper", Wishes(), "realtime", {}),
        ("echo", None, Wishes(), "realtime", None),
        ("echo", "whisper", Wishes(answers=False), "transcription", {}),
    ],
)
def test_configuration(
    respond: str | None, transcribe: str | None, wishes: Wishes, kind: str, transcription: object
) -> None:
    """Without a responder it is a transcription session, without a transcriber a conversation without transcripts."""
    session = RealtimeSession(id="s", model="m", voxd=Extensions(transcribe=transcribe, respond=respond))
    body = configuration(session, wishes)
    assert body["type"] == kind
    sound = body["audio"]["input"]
    assert sound["transcription"] == transcription
    assert sound["format"] == {"type": "audio/pcm", "rate": 16_000}
    turns = {"type": "server_vad", "silence_duration_ms": 500}
    assert sound["turn_detection"] == (turns | {"create_response": True} if kind == "realtime" else turns)


def test_every_wish_is_said() -> None:
    session = RealtimeSession(id="s", model="m", voxd=Extensions(transcribe="whisper", respond="echo"))
    wishes = Wishes("de", "Be brief.", 700, 240, replies=False, hands_free=True, max_tokens=9)
    body = configuration(session, wishes)
    assert (body["instructions"], body["max_output_tokens"]) == ("Be brief.", 9)
    assert body["voxd"] == {"delay_ms": 240}
    turns = {"type": "server_vad", "silence_duration_ms": 700, "create_response": False}
    assert body["audio"]["input"]["turn_detection"] == turns
    assert configuration(session, Wishes(hands_free=False))["audio"]["input"]["turn_detection"] is None


async def test_the_session_is_what_was_asked_for() -> None:
    voxd = FakeVoxd()
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), wishes=Wishes(silence_ms=700)) as client:
        await collect(client, 1)
    assert isinstance(voxd.session, TranscriptionSession)
    assert len(voxd.sent(SessionUpdate)) == 1


@pytest.mark.parametrize(
    ("voxd", "kind", "words"),
    [
        (FakeVoxd(refuse=(401, refusal("The token is wrong."))), TokenRefused, ["The token is wrong.", "voxd token"]),
        (FakeVoxd(refuse=(401, "")), TokenRefused, ["refuses the token"]),
        (FakeVoxd(refuse=(503, refusal("All 2 sessions are taken \x1b[31m", FULL))), Full, ["is full: All 2"]),
        (FakeVoxd(refuse=(404, "<html>")), Unreachable, ["not a voxd", "404"]),
        (FakeVoxd(first=b'{"type":"hello"}'), Unreachable, ["another protocol"]),
        (FakeVoxd(first=b"\xff"), Unreachable, ["another protocol"]),
    ],
)
async def test_refusals(voxd: FakeVoxd, kind: type[ClientError], words: list[str]) -> None:
    """Each refusal is one sentence, without anything that acts on a terminal."""
    with pytest.raises(kind) as failure:
        async with voxd.serve() as target, RealtimeClient.connect(Direct(target)):
            pass
    message = str(failure.value)
    assert all(word in message for word in words), message
    assert "\x1b" not in message
    assert "\n" not in message


@pytest.mark.parametrize(("first", "words"), [(b'{"type":"hello"}', "another protocol"), (b"", "opens no session")])
async def test_a_link_that_opens_no_session_is_closed(
    monkeypatch: pytest.MonkeyPatch, first: bytes, words: str
) -> None:
    """Its first message is wrong, or late."""
    monkeypatch.setattr("voxtui.link.client.OPEN_S", 0.2)
    voxd = FakeVoxd(first=first)
    async with voxd.serve() as target:
        with pytest.raises(Unreachable, match=words):
            async with RealtimeClient.connect(Direct(target)):
                pass
        async with asyncio.timeout(60):
            await voxd.left.wait()


async def test_audio_never_stops_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the sending of audio ends the session under its own name."""

    def packet(self: Replay, size: int) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Replay, "packet", packet)
    voxd = FakeVoxd()
    async with voxd.serve() as target:
        with pytest.raises(RuntimeError, match="a bug"):
            async with asyncio.timeout(60), RealtimeClient.connect(Direct(target)) as client:
                await collect(client, 99)
        async with asyncio.timeout(60):
            await voxd.left.wait()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"No voxd is running at unix:.*voxd start"):
        async with RealtimeClient.connect(Direct(unix_target(tmp_path / "none.sock"))):
            pass


async def test_no_websocket_behind_the_port() -> None:
    """Another program listens there."""

    async def mumble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(mumble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(Unreachable, match="not a voxd"):
            async with RealtimeClient.connect(Direct(parse_target(f"127.0.0.1:{port}"))):
                pass


@pytest.mark.parametrize(("code", "words"), [(1012, "shutting down"), (1013, "full"), (4000, "code 4000")])
async def test_goodbyes(code: int, words: str) -> None:
    voxd = FakeVoxd([(20, [])], close=code)
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), patience_s=0) as client:
        await client.send_audio(bytes(640))
        with pytest.raises(ClientError, match=words):
            await collect(client, 99)


async def test_a_proper_goodbye_ends_the_iteration() -> None:
    voxd = FakeVoxd([(20, [])], close=1000)
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target)) as client:
        await client.send_audio(bytes(640))
        assert len(await collect(client, 99)) == 1
        with pytest.raises(ClientError):
            await client.send(AudioCommit())
