"""A conversation through client, voxd in processes of its own and a chat server: typed, spoken and cut off."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, unix_connect

from benchmarks.live import word_error_rate
from shared.audio import RATE
from shared.events import (
    Committed,
    OutputTextDelta,
    ResponseCreated,
    ResponseDone,
    TranscriptionCompleted,
)
from tests.support.cascading import voxd_and
from tests.support.chat_server import Asked, ChatServer, endless, refuses, repeats, says
from tests.support.speech import clip
from voxd.engine.cascade.engine import messages
from voxd.messages import Turn
from voxtui.capture.sources import FileSource
from voxtui.events import Event
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct, unix_target
from voxtui.session.run import Run

PATIENCE_S = 120.0
SILENCE = bytes(2 * RATE)  # one second


class Client:
    """A client that sends raw events."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self.seen: list[dict[str, Any]] = []
        sound = {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {}}
        self.send("session.update", session={"audio": {"input": sound}, "instructions": "Be brief."})
        self.until("session.updated")

    def send(self, kind: str, **fields: object) -> None:
        self._link.send(json.dumps({"type": kind, **fields}))

    def until(self, kind: str, reached: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next event of this kind for which `reached` holds."""
        while True:
            event: dict[str, Any] = json.loads(self._link.recv(PATIENCE_S))
            assert event["type"] != "error", event
            self.seen.append(event)
            if event["type"] == kind and reached(event):
                return event

    def type(self, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        self.send("conversation.item.create", item=item)
        self.send("response.create")

    def speak(self, pcm: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    def text_of(self, response: dict[str, Any]) -> str:
        """The text that came as deltas."""
        deltas = (each for each in self.seen if each["type"] == "response.output_text.delta")
        return "".join(each["delta"] for each in deltas if each["response_id"] == response["id"])

    def answer(self) -> dict[str, Any]:
        return dict(self.until("response.done")["response"])


@contextmanager
def conversation(server: ChatServer, **options: object) -> Iterator[Client]:
    with (
        voxd_and(server, "echo", **options) as daemon,
        unix_connect(str(daemon.socket), "ws://localhost/v1/realtime", compression=None) as link,
    ):
        yield Client(link)


def test_typed_and_spoken_turns_are_answered_in_the_light_of_what_was_said_before() -> None:
    speech = clip("ps_goforward").pcm()
    with ChatServer().running() as server, conversation(server) as client:
        client.type("Hello there")
        first = client.answer()
        assert client.text_of(first) == first["output"][0]["content"][0]["text"] == "You said: Hello there"
        client.speak(speech + SILENCE)
        heard = client.until("conversation.item.input_audio_transcription.completed")["transcript"]
        second = client.answer()

    assert heard.startswith("one two three")
    assert client.text_of(second) == f"You said: {heard}"
    assert (first["status"], second["status"]) == ("completed", "completed")
    assert first["usage"]["output_tokens"] == 4
    assert server.asked[1].messages == [
        ("system", "Be brief."),
        ("user", "Hello there"),
        ("assistant", "You said: Hello there"),
        ("user", heard),
    ]


def test_a_barge_in_closes_the_request_and_the_context_keeps_what_the_client_got() -> None:
    speech = clip("ps_goforward").pcm()
    with ChatServer(endless()).running() as server, conversation(server) as client:
        client.type("Count")
        client.until("response.output_text.delta", lambda event: event["delta"] == " 3")
        client.speak(speech)
        cut = client.answer()
        server.until(lambda: server.asked[0].hung_up)
        server.script = repeats
        client.speak(SILENCE)
        client.answer()

    assert (cut["status"], cut["status_details"]["reason"]) == ("cancelled", "turn_detected")
    assert client.text_of(cut).startswith("0 1 2 3")
    assert server.asked[1].messages[1:3] == [("user", "Count"), ("assistant", client.text_of(cut))]


def test_what_is_wrong_is_a_sentence_at_the_client_and_the_next_turn_works() -> None:
    with ChatServer(refuses(401)).running() as server, conversation(server, max_tokens=5) as client:
        client.type("Hello")
        failed = client.answer()
        server.script = says("Hm", "length")
        client.type("Again")
        cut = client.answer()

    assert failed["status"] == "failed"
    assert failed["status_details"]["error"]["code"] == "chat_unauthorized"
    assert "engine_options.cascade.key_env" in failed["status_details"]["error"]["message"]
    assert (cut["status"], cut["status_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert server.asked[1].body["max_tokens"] == 5
    assert server.asked[1].messages[-1] == ("user", "Hello\nAgain")


@pytest.mark.parametrize(
    ("transcribe", "options", "told"),
    [
        ("none", {}, "engine 'cascade' answers what a transcriber writes: set engines.transcribe"),
        ("echo", {"key_env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is not set"),
    ],
)
def test_a_daemon_that_cannot_cascade_says_why(transcribe: str, options: dict[str, object], told: str) -> None:
    with ChatServer().running() as server, voxd_and(server, transcribe, ready=False, **options) as daemon:
        assert daemon.ended(60)
        assert daemon.process.returncode == 78
        lines = daemon.log.read_text().splitlines()
    assert told in lines[-1]
    assert not any("Traceback" in line for line in lines)


# ── real words ──────────────────────────────────────────────────────────────────────────────────────────────────────

SHORT = (
    "librivox_austen_0880",
    "arctic_slt_a0009",
    "ps_goforward",
    "ps_cards_003",
    "librivox_austen_0930",
    "ps_cards_002",
    "two_cities_2",
    "ps_something",
    "two_cities_5",
    "cv_en_22058266",
)
SPOKEN = SHORT * 2
GAP_S = 3.0
CUT = 3  # each third answer goes on until it is interrupted


@dataclass
class Notes:
    """The conversation as the client saw it, in order."""

    turns: list[Turn] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def _set(self, key: str, turn: Turn) -> None:
        if key not in self.places:
            self.places[key] = len(self.turns)
            self.turns.append(turn)
        self.turns[self.places[key]] = turn

    def take(self, event: Event) -> None:
        match event:
            case Committed():
                self._set(event.item_id, Turn("user", ""))
            case TranscriptionCompleted():
                self._set(event.item_id, Turn("user", event.transcript))
            case ResponseCreated():
                self._set(event.response.id, Turn("assistant", ""))
            case OutputTextDelta():
                said = self.turns[self.places[event.response_id]].text
                self._set(event.response_id, Turn("assistant", said + event.delta))
            case ResponseDone():
                self.statuses.append(event.response.status)

    def texts(self, role: str) -> list[str]:
        return [turn.text for turn in self.turns if turn.role == role]


class Scripted:
    """A chat server with short answers, of which each third is endless, except the last, which nobody would
    interrupt."""

    def __init__(self) -> None:
        self.number = 0

    async def __call__(self, asked: Asked) -> None:
        self.number += 1
        if self.number % CUT == 0 and self.number < len(SPOKEN):
            await endless(0.1)(asked)
        else:
            await says(f"This is answer number {self.number}, and it is short.")(asked)


@pytest.mark.slow
async def test_a_conversation_of_twenty_spoken_turns_with_barge_ins() -> None:
    gap = np.zeros(int(GAP_S * RATE), np.float32)
    sound = np.concatenate([part for name in SPOKEN for part in (clip(name).samples(), gap)])
    notes = Notes()
    with ChatServer(Scripted()).running() as server, voxd_and(server, "whisper") as daemon:
        wishes = Wishes(instructions="Be brief.", silence_ms=700)
        async with RealtimeClient.connect(Direct(unix_target(daemon.socket)), wishes=wishes) as client:
            run = Run(client, FileSource("talk", sound), notes.take, silence_ms=700)
            await run.run()
        server.until(lambda: all(each.hung_up for each in server.asked[CUT - 1 : len(SPOKEN) - 1 : CUT]))

    print(f"{len(server.asked)} requests, {notes.statuses}, {notes.texts('user')}")  # noqa: T201  (shown when it fails)
    assert len(notes.statuses) >= 20
    assert notes.statuses.count("cancelled") >= 6
    assert set(notes.statuses) == {"completed", "cancelled"}
    heard = " ".join(notes.texts("user"))
    assert word_error_rate([" ".join(clip(name).text for name in SPOKEN)], [heard]) <= 20
    asked = server.asked[-1].body["messages"]
    expected = messages([Turn("system", "Be brief."), *notes.turns])
    assert asked == expected[: len(asked)]
    assert len(asked) >= len(expected) - 1, "the last answer alone is not in the last question"
    answered = [turn for turn in run.meter.finished() if "ttft_engine_ms" in turn.as_dict()]
    assert len(answered) >= 15
