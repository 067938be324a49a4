"""A client that comes back loses and repeats no settled text, and loses no unsettled audio."""

from __future__ import annotations

import itertools
import json
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import unix_connect

from shared import events
from shared.audio import RATE
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import clip
from tests.support.talk import SILENCE, Desk
from voxd import messages as m
from voxd.session.terms import Profile
from voxd.session.turns import FRAME


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


# ── on a desk ───────────────────────────────────────────────────────────────────────────────────────────────────────


def resumable() -> Desk:
    return Desk(resume=True)


def come_back(desk: Desk) -> m.Open:
    desk.session.client_lost()
    desk.drain()
    desk.session.engine_ready(Profile("echo", "echo"))
    desk.drain()
    return desk.last(m.Open)


def test_audio_is_acknowledged_every_200_ms() -> None:
    desk = resumable()
    desk.speak(63, SILENCE)

    assert desk.last(events.Ack).received_samples == 63 * FRAME
    desk = resumable()
    for _ in range(100):
        desk.speak(1, SILENCE)
    received = [ack.received_samples for ack in desk.all(events.Ack)]
    assert len(received) >= 13
    assert max(b - a for a, b in itertools.pairwise(received)) <= 3200 + FRAME
    assert received == sorted(received)


def test_audio_of_an_utterance_is_settled_with_its_text() -> None:
    desk = resumable()
    ref = desk.turn(frames=40)
    start = desk.last(m.Onset).start
    assert desk.last(events.Ack).settled_samples <= start
    desk.settle(ref, "Done.")

    assert desk.last(events.Ack).settled_samples > start


def test_what_was_committed_is_finished_after_the_return() -> None:
    desk = resumable()
    desk.turn()
    opened = come_back(desk)
    desk.rehear(opened.start)
    first, again = desk.all(m.Commit)
    assert first.end == again.end
    assert desk.last(m.Onset).ref == again.ref != first.ref
    assert [entry.ref for entry in desk.session._conversation] == [again.ref]
    desk.settle(first.ref, "too late")
    desk.settle(again.ref, "He was not.")

    assert [event.transcript for event in desk.all(events.TranscriptionCompleted)] == ["He was not."]
    assert len(desk.all(events.Committed)) == 1


def test_a_long_open_utterance_is_told_before_its_audio_is_forgotten() -> None:
    desk = resumable()
    desk.speak(10, SILENCE)
    desk.speak(400)
    opened = come_back(desk)
    replay = desk.commands[desk.commands.index(opened) :]
    onset = next(i for i, each in enumerate(replay) if isinstance(each, m.Onset))
    fed = sum(len(each.pcm) // 2 for each in replay[:onset] if isinstance(each, m.Feed))

    assert fed <= 5 * RATE


@pytest.mark.parametrize("frames", [40, 200])
def test_a_replay_begins_no_later_than_the_utterance(frames: int) -> None:
    """Padding is not a whole number of VAD frames and a stream begins at one, so the frame before is kept too."""
    desk = resumable()
    desk.speak(10, SILENCE)
    desk.speak(frames)
    start = desk.last(m.Onset).start
    opened = come_back(desk)

    assert opened.start <= start
    desk.rehear(opened.start)
    assert desk.last(m.Onset).start == start


def test_an_answer_ends_when_its_listener_is_gone() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate())
    come_back(desk)

    done = desk.last(events.ResponseDone).response
    assert done.status_details is not None
    assert done.status_details["error"]["code"] == "connection_lost"


def test_audio_that_came_twice_counts_once_and_a_hole_is_silence() -> None:
    desk = resumable()
    pcm = bytes(range(200)) * 32
    desk.send(events.AudioAppend(audio=pcm, voxd_offset=0), events.AudioAppend(audio=pcm, voxd_offset=1600))
    assert desk.session.received == 1600 + 3200
    desk.send(events.AudioAppend(audio=pcm, voxd_offset=6400))

    assert desk.session.received == 6400 + 3200
    assert desk.last(events.Notice).code == "audio_gap"


# ── over a socket ───────────────────────────────────────────────────────────────────────────────────────────────────


class Traveller:
    """A client that keeps what is not settled and comes back after every cut."""

    def __init__(self, daemon: Daemon, pcm: bytes) -> None:
        self._daemon, self._pcm = daemon, pcm
        self.token: str | None = None
        self.seq = 0
        self.settled = 0
        self.texts: list[str] = []
        self.deltas: list[str] = []
        self.seen: deque[str] = deque(maxlen=2000)
        self.fresh = 0

    async def leg(self, samples: int | None) -> bool:
        """Runs one connection, cut after so many samples (None: not at all).  True when everything has become text."""
        query = "?intent=transcription&voxd_ext=resume"
        if self.token:
            query += f"&voxd_resume={self.token}&voxd_last_seq={self.seq}"
        async with unix_connect(str(self._daemon.socket), f"ws://x/v1/realtime{query}", compression=None) as link:
            at = await self._greet(link)
            sent = 0
            while at < len(self._pcm) // 2:
                piece = self._pcm[2 * at : 2 * at + 640]
                await link.send(events.dump(events.AudioAppend(audio=piece, voxd_offset=at)), text=True)
                at, sent = at + 320, sent + 320
                if samples is not None and sent >= samples:
                    link.transport.abort()
                    return False
            while self.settled < len(self._pcm) // 2 - 3 * RATE:
                self._take(json.loads(await link.recv()))
        return True

    async def _greet(self, link: Any) -> int:
        """Where to go on."""
        while True:
            event = json.loads(await link.recv())
            self._take(event)
            if event["type"] == "session.created":
                self.fresh += 1
                self.token = event["session"]["voxd"]["resume_token"]
                sound = {"format": {"type": "audio/pcm", "rate": RATE}}
                await link.send(events.dump(events.SessionUpdate(session={"audio": {"input": sound}})), text=True)
            elif event["type"] == "session.updated":
                return 0
            elif event["type"] == "voxd.resumed":
                return int(event["received_samples"])

    def _take(self, event: dict[str, Any]) -> None:
        assert event["voxd_seq"] == self.seq + 1, "no event is lost, none comes twice"
        self.seq = event["voxd_seq"]
        if event["type"] == "voxd.ack":
            self.settled = event["settled_samples"]
        elif event["type"].endswith("transcription.delta"):
            self.deltas.append(event["delta"])
        elif event["type"].endswith("transcription.completed"):
            self.texts.append(event["transcript"])


SPEECH = clip("librivox_austen_0880").pcm()
PAUSE = bytes(2 * RATE)


@pytest.mark.parametrize("seed", range(4))
async def test_five_cuts_change_nothing(daemon: Daemon, seed: int) -> None:
    pcm = (SPEECH + PAUSE) * 4 + PAUSE * 4
    undisturbed = Traveller(daemon, pcm)
    assert await undisturbed.leg(None)
    random_ = random.Random(seed)
    cut = Traveller(daemon, pcm)
    for _ in range(5):
        assert not await cut.leg(random_.randrange(320, 2 * RATE))
    assert await cut.leg(None)

    assert cut.fresh == 1
    assert cut.texts == undisturbed.texts
    assert len(cut.texts) == 4
    assert "".join(cut.deltas) == "".join(cut.texts)


async def test_an_unknown_token_gets_a_new_session(daemon: Daemon) -> None:
    lost = Traveller(daemon, SPEECH + PAUSE * 4)
    lost.token = "nonsense"
    assert await lost.leg(None)

    assert lost.fresh == 1


async def test_a_second_connection_takes_the_session_from_the_first(daemon: Daemon) -> None:
    query = "?intent=transcription&voxd_ext=resume"
    async with unix_connect(str(daemon.socket), f"ws://x/v1/realtime{query}") as first:
        created = json.loads(await first.recv())
        token = created["session"]["voxd"]["resume_token"]
        again = f"{query}&voxd_resume={token}&voxd_last_seq=1"
        async with unix_connect(str(daemon.socket), f"ws://x/v1/realtime{again}") as second:
            assert json.loads(await second.recv())["type"] == "voxd.resumed"
            await first.wait_closed()
            assert first.close_code == 1001
