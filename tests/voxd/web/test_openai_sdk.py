"""The unmodified `openai` SDK and vLLM's client flow against a real voxd with the `echo` engine, over TCP with a token.

Every frame is parsed by the SDK, validated strictly against its types, and held to what stricter clients want."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soxr
from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import ClientConnection, connect

from shared.audio import RATE, float_to_pcm16
from tests.support.checker import WireChecker
from tests.support.daemon import environment, voxd_process
from tests.support.speech import clip

SCHEMA: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
FRAME_LIMIT = 1 << 20  # some clients take no larger message
SAMPLES = clip("ps_goforward").samples()
QUESTION = {rate: float_to_pcm16(soxr.resample(SAMPLES, RATE, rate)) for rate in (16_000, 24_000)}
PAUSE = bytes(2 * 24_000)
TALK = "conversation.item.input_audio_transcription."


@dataclass(frozen=True, slots=True)
class Server:
    address: str
    token: str

    def client(self, key: str | None = None) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"http://{self.address}/v1", api_key=key or self.token, max_retries=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "VOXD_ENGINE_OPTIONS": "{echo: {tokens: 25, token_ms: 20}}",
    }
    arguments = ("--transcribe", "echo", "--respond", "echo", "--listen", "127.0.0.1:0")
    with voxd_process(*arguments, env=env) as running:
        listening = running.status()["listen"]
        assert isinstance(listening, list)
        command = [sys.executable, "-m", "voxd", "token"]
        told = subprocess.run(
            command, env=environment(Path(running.folder), env), capture_output=True, text=True, check=True
        )
        yield Server(str(listening[0]), told.stdout.strip())


def holds_null(value: object) -> bool:
    return isinstance(value, dict) and None in value.values()


def lint(frame: dict[str, Any]) -> None:
    """The values that strict schemas of other clients refuse though the SDK takes them: nulls where a field should be
    absent."""
    response = frame.get("response") or {}
    assert not holds_null(frame.get("part"))
    items = [frame["item"]] if isinstance(frame.get("item"), dict) else []
    for item in (*items, *response.get("output", ())):
        assert not holds_null(item)
        for part in item["content"]:
            assert "transcript" in part if part["type"] == "input_audio" else not holds_null(part)
    usage = response.get("usage") or {}
    assert not any(holds_null(part) for part in (usage, *usage.values()))
    if frame["type"].endswith("transcription.failed"):
        assert not holds_null(frame["error"])
    if frame["type"].startswith("session."):
        assert "rate" in frame["session"]["audio"]["input"]["format"]


class Person:
    """A user of the SDK who reads everything."""

    def __init__(self, link: AsyncRealtimeConnection) -> None:
        self.link = link
        self.wire = WireChecker()
        self.seen: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        raw = await self.link.recv_bytes()
        frame: dict[str, Any] = json.loads(raw)
        assert len(raw) < FRAME_LIMIT
        assert self.link.parse_event(raw).type == frame["type"]
        if not frame["type"].startswith("voxd."):
            self._validate(frame)
            lint(frame)
        self.wire.receive(frame)
        self.seen.append(frame)
        return frame

    def _validate(self, frame: dict[str, Any]) -> None:
        """The types know no other rate than 24 kHz, which voxd adds."""
        copy = json.loads(json.dumps(frame))
        if frame["type"].startswith("session."):
            copy["session"]["audio"]["input"]["format"]["rate"] = 24_000
        SCHEMA.validate_python(copy)

    async def until(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while (frame := await self.next())["type"] != kind:
                assert frame["type"] != "error", frame
            return frame

    async def refused(self, code: str, event_id: str | None) -> None:
        """Checks that the next event is this error."""
        error = (await self.until("error"))["error"]
        assert (error["code"], error["event_id"], error["type"]) == (code, event_id, "invalid_request_error")

    async def speak(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), 9600):
            await self.link.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + 9600]).decode())

    async def configure(self, rate: int = 24_000, kind: str = "realtime", **sound: Any) -> dict[str, Any]:
        form = {"type": "audio/pcm", "rate": rate}
        session: Any = {"type": kind, "audio": {"input": {"format": form, **sound}}}
        await self.link.session.update(session=session)
        return dict((await self.until("session.updated"))["session"])

    async def say(self, text: str) -> None:
        part: Any = {"type": "input_text", "text": text}
        await self.link.conversation.item.create(item={"type": "message", "role": "user", "content": [part]})
        await self.until("conversation.item.done")

    def find(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.seen if frame["type"] == kind]

    def place(self, kind: str) -> int:
        return next(index for index, frame in enumerate(self.seen) if frame["type"] == kind)


@asynccontextmanager
async def person(server: Server, key: str | None = None, **query: Any) -> AsyncIterator[Person]:
    async with server.client(key) as client, client.realtime.connect(model="any", extra_query=query) as link:
        someone = Person(link)
        assert (await someone.next())["type"] == "session.created"
        yield someone


# ── conversations ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rate", [24_000, 16_000])
async def test_push_to_talk(server: Server, rate: int) -> None:
    async with person(server) as someone:
        session = await someone.configure(rate, turn_detection=None)
        assert session["audio"]["input"]["turn_detection"] is None
        assert session["output_modalities"] == ["text"]
        await someone.speak(QUESTION[rate])
        await someone.link.input_audio_buffer.commit()
        item_id = (await someone.until("input_audio_buffer.committed"))["item_id"]
        await someone.link.response.create(response={"metadata": {"client_event_id": "e1"}})
        done = await someone.until("response.done")

    answer = done["response"]["output"][0]["id"]
    (created,) = someone.find("response.created")
    assert created["response"]["metadata"] == {"client_event_id": "e1"}
    added = next(each for each in someone.find("conversation.item.added") if each["item"]["id"] == answer)
    assert added["previous_item_id"] == item_id
    assert len(someone.find("response.output_text.delta")) == 25
    someone.wire.finish(transcribed=False)


async def test_a_turn_found_by_the_server(server: Server) -> None:
    async with person(server) as someone:
        session = await someone.configure(transcription={}, turn_detection={"type": "server_vad"})
        detection = session["audio"]["input"]["turn_detection"]
        assert (detection["create_response"], detection["prefix_padding_ms"]) == (True, 300)
        await someone.speak(QUESTION[24_000] + PAUSE)
        await someone.until("response.done")

    assert someone.place("input_audio_buffer.committed") < someone.place("response.created")
    someone.wire.finish(transcribed=True)
    assert any(speech.started and speech.stopped for speech in someone.wire.speeches.values())


async def test_cancel(server: Server) -> None:
    async with person(server) as someone:
        await someone.say("A long story, please.")
        await someone.link.response.create()
        await someone.until("response.output_text.delta")
        await someone.link.response.create(event_id="second")
        await someone.refused("conversation_already_has_active_response", "second")
        await someone.link.response.cancel(response_id=someone.find("response.created")[0]["response"]["id"])
        response = (await someone.until("response.done"))["response"]
        assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        await someone.link.response.cancel(event_id="late")
        await someone.refused("response_cancel_not_active", "late")

    assert someone.seen[-1]["error"]["message"].startswith("Cancellation failed")
    someone.wire.finish(transcribed=True)


async def test_barge_in(server: Server) -> None:
    async with person(server) as someone:
        await someone.configure(turn_detection={"type": "server_vad", "interrupt_response": True})
        await someone.link.response.create()
        await someone.until("response.output_text.delta")
        await someone.speak(QUESTION[24_000] + PAUSE)
        first = (await someone.until("response.done"))["response"]
        assert first["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        second = (await someone.until("response.done"))["response"]
        assert second["id"] != first["id"]

    assert someone.place("input_audio_buffer.speech_started") < someone.place("response.done")


async def test_a_client_that_vanishes_harms_nobody(server: Server) -> None:
    for _ in range(3):
        async with server.client() as client:
            link = await client.realtime.connect(model="any").enter()
            await link.response.create()
            await link.recv()
            link._connection.transport.abort()
    async with person(server) as someone:
        await someone.link.response.create()
        assert (await someone.until("response.done"))["response"]["status"] == "completed"


# ── what is wrong ───────────────────────────────────────────────────────────────────────────────────────────────────

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"type": "no.such.event"}, "invalid_value"),
    ({"type": "session.update"}, "missing_required_parameter"),
    ({"type": "input_audio_buffer.append", "audio": "@@@"}, "invalid_value"),
    ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty"),
    ({"type": "conversation.item.retrieve", "item_id": "no"}, "item_retrieve_invalid_item_id"),
    ({"type": "conversation.item.delete", "item_id": "no"}, "item_delete_invalid_item_id"),
    (
        {"type": "conversation.item.truncate", "item_id": "no", "content_index": 0, "audio_end_ms": 0},
        "item_truncate_invalid_item_id",
    ),
]


async def test_errors_name_their_cause_and_cost_nothing(server: Server) -> None:
    async with person(server) as someone:
        await someone.configure(turn_detection=None)
        await someone.link.send_raw("{not json")
        await someone.refused("invalid_json", None)
        for number, (event, code) in enumerate(WRONG):
            await someone.link.send_raw(json.dumps(event | {"event_id": f"e{number}"}))
            await someone.refused(code, f"e{number}")
        await someone.speak(bytes(999))
        await someone.link.input_audio_buffer.clear()
        await someone.until("input_audio_buffer.cleared")
        part: Any = {"type": "input_text", "text": "Hi"}
        item: Any = {"type": "message", "role": "user", "id": "mine", "content": [part]}
        await someone.link.conversation.item.create(item=item, previous_item_id="root")
        await someone.until("conversation.item.done")
        await someone.link.conversation.item.create(item=item, event_id="twice")
        await someone.refused("item_create_duplicate_item_id", "twice")
        await someone.link.conversation.item.retrieve(item_id="mine")
        await someone.until("conversation.item.retrieved")
        await someone.link.session.update(session={"type": "realtime", "tracing": "auto"})
        await someone.until("session.updated")
        await someone.link.response.create()
        await someone.until("response.done")
    someone.wire.finish(transcribed=True)


# ── transcription, secrets, extensions ──────────────────────────────────────────────────────────────────────────────


async def test_live_transcription(server: Server) -> None:
    """Text comes before the commit, under the id that the commit will have."""
    async with person(server, intent="transcription") as someone:
        session = await someone.configure(kind="transcription", transcription={"language": "en"}, turn_detection=None)
        assert session["type"] == "transcription"
        await someone.speak(QUESTION[24_000])
        early = await someone.until(f"{TALK}delta")
        await someone.link.input_audio_buffer.commit()
        done = await someone.until(f"{TALK}completed")

    assert someone.find("input_audio_buffer.committed")[0]["item_id"] == early["item_id"] == done["item_id"]
    assert done["transcript"]
    assert not someone.wire.replies
    someone.wire.finish(transcribed=True)


async def test_a_client_secret_opens_a_session_as_it_was_made_for(server: Server) -> None:
    async with server.client() as client:
        secret = await client.realtime.client_secrets.create(
            session={"type": "realtime", "instructions": "Be brief."},
            expires_after={"anchor": "created_at", "seconds": 60},
        )
    assert secret.value.startswith("ek_")
    async with person(server, secret.value) as someone:
        assert someone.seen[0]["session"]["instructions"] == "Be brief."


async def test_extensions_do_not_disturb_the_sdk(server: Server) -> None:
    async with person(server, voxd_ext="metrics,binary") as someone:
        await someone.configure(turn_detection=None)
        await someone.link.send_raw(json.dumps({"type": "voxd.ping", "ping_id": 1, "t0": 5}))
        assert (await someone.until("voxd.pong"))["t0"] == 5
        await someone.link.send_raw(QUESTION[24_000])
        await someone.link.input_audio_buffer.commit()
        await someone.link.response.create()
        report = await someone.until("voxd.metrics")
    assert report["response_id"] in someone.wire.replies


# ── vLLM's clients ──────────────────────────────────────────────────────────────────────────────────────────────────

Begin = Callable[[ClientConnection], Any]


async def old_flow(link: ClientConnection) -> None:
    await link.send(json.dumps({"type": "session.update", "model": "any"}))
    await link.send(json.dumps({"type": "input_audio_buffer.commit"}))


async def new_flow(link: ClientConnection) -> None:
    await link.send(json.dumps({"type": "session.update", "model": "any"}))
    await link.send(json.dumps({"type": "input_audio_buffer.commit", "final": False}))


async def bare_flow(link: ClientConnection) -> None:
    await link.send(json.dumps({"type": "input_audio_buffer.commit"}))


@pytest.mark.parametrize("begin", [old_flow, new_flow, bare_flow])
async def test_the_example_client_of_vllm(server: Server, begin: Begin) -> None:
    headers = {"Authorization": f"Bearer {server.token}"}
    pcm, text = QUESTION[16_000], ""
    async with asyncio.timeout(60), connect(f"ws://{server.address}/v1/realtime", additional_headers=headers) as link:
        created = json.loads(await link.recv())
        assert created["type"] == "session.created"
        assert isinstance(created["id"], str)
        await begin(link)
        for at in range(0, len(pcm), 4096):
            audio = base64.b64encode(pcm[at : at + 4096]).decode()
            await link.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        await link.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
        while (frame := json.loads(await link.recv()))["type"] == "transcription.delta":
            text += frame["delta"]

    assert frame["type"] == "transcription.done"
    assert frame["text"] == text != ""
    assert frame["usage"]["total_tokens"] == frame["usage"]["prompt_tokens"] + frame["usage"]["completion_tokens"]
