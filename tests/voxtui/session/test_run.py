"""What a person does while a session runs: push-to-talk, answers on and off, stop, another microphone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from shared.events import (
    AudioAppend,
    AudioCommit,
    ClientEvent,
    Committed,
    Response,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ServerEvent,
    SessionUpdate,
)
from shared.session_config import RealtimeSession, ServerVad
from tests.support.fakes import FakeVoxd
from voxtui.capture.resilient import Ear
from voxtui.capture.sources import Packet, Source
from voxtui.events import Event, Floor
from voxtui.link.client import RealtimeClient, Wishes, now_us
from voxtui.link.target import Direct
from voxtui.session.run import PREROLL, Run


class Tape:
    """A microphone whose packets a test hands out, each filled with its number."""

    ends = False
    samples = None
    truth = None
    dropped = 0

    def __init__(self, name: str = "tape") -> None:
        self.name = name
        self.count = 0
        self._queue: asyncio.Queue[Packet] = asyncio.Queue()

    def play(self, packets: int, captured_us: int | None = None) -> None:
        for _ in range(packets):
            self.count += 1
            stamp = now_us() if captured_us is None else captured_us
            self._queue.put_nowait(Packet(self.count * 320, number(self.count), stamp))

    async def packets(self) -> AsyncIterator[Packet]:
        while True:
            yield await self._queue.get()


def number(n: int) -> bytes:
    return n.to_bytes(2, "little") * 320


@asynccontextmanager
async def running(voxd: FakeVoxd, source: Source, wishes: Wishes) -> AsyncIterator[tuple[Run, list[Event]]]:
    told: list[Event] = []
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), wishes=wishes) as client:
        run = Run(client, source, told.append)
        task = asyncio.create_task(run.run())
        try:
            yield run, told
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not done():
            await asyncio.to_thread(threading.Event().wait, 0.005)


def heard(voxd: FakeVoxd) -> list[int]:
    """Numbers of the packets that reached the server."""
    return [int.from_bytes(event.audio[:2], "little") for event in voxd.sent(AudioAppend)]


def committing(event: ClientEvent) -> Sequence[ServerEvent]:
    return (Committed("", "item", None),) if isinstance(event, AudioCommit) else ()


async def test_push_to_talk_sends_what_was_said_and_the_moment_before() -> None:
    voxd, tape = FakeVoxd(respond="echo", replies=committing), Tape()
    async with running(voxd, tape, Wishes(hands_free=False)) as (run, told):
        tape.play(40)
        await until(lambda: tape._queue.empty() and len(run._preroll) == PREROLL)
        assert heard(voxd) == []
        run.talk(True)
        tape.play(10)
        await until(lambda: len(heard(voxd)) == PREROLL + 10)
        before_us = now_us()
        run.talk(False)
        tape.play(3, before_us)  # still in the sound card when the key was pressed
        tape.play(5, now_us() + 1_000_000)
        await until(lambda: bool(voxd.sent(ResponseCreate)))
        assert heard(voxd) == list(range(40 - PREROLL + 1, 54))
        kinds = [type(event) for event in voxd.events if not isinstance(event, SessionUpdate)]
        assert kinds[-2:] == [AudioCommit, ResponseCreate]
        assert run._owed == [] or isinstance(run._owed[0], ResponseCreate)
    assert isinstance(voxd.session, RealtimeSession)
    assert voxd.session.audio.input.turn_detection is None
    assert [event.talking for event in told if isinstance(event, Floor)] == [False, True, False]


async def test_a_transcriber_alone_is_not_asked_for_an_answer() -> None:
    voxd, tape = FakeVoxd(replies=committing), Tape()
    async with running(voxd, tape, Wishes(hands_free=False)) as (run, _):
        run.talk(True)
        tape.play(2)
        await until(lambda: len(heard(voxd)) == 2)
        run.talk(False)
        tape.play(2, now_us() + 1_000_000)
        await until(lambda: bool(voxd.sent(AudioCommit)))
    assert voxd.sent(ResponseCreate) == []


async def test_hands_free_and_back() -> None:
    voxd, tape = FakeVoxd(), Tape()
    async with running(voxd, tape, Wishes()) as (run, _):
        tape.play(1)
        await until(lambda: len(heard(voxd)) == 1)
        run.talk(True)  # means nothing here
        assert not run.floor.talking
        await run.hands_free(False)
        tape.play(3)
        await until(lambda: len(run._preroll) == 3)
        assert voxd.session is not None
        assert voxd.session.audio.input.turn_detection is None
        await run.hands_free(True)
        tape.play(1)
        await until(lambda: len(heard(voxd)) == 5)
    assert isinstance(voxd.session.audio.input.turn_detection, ServerVad)


async def test_answers_off_and_on() -> None:
    voxd, tape = FakeVoxd(respond="echo"), Tape()
    async with running(voxd, tape, Wishes()) as (run, _):
        for on in (False, True):
            await run.converse(on)
            await until(lambda on=on: creates(voxd) is on)  # type: ignore[misc]
            assert run.floor.answers is on


def creates(voxd: FakeVoxd) -> bool:
    assert voxd.session is not None
    turns = voxd.session.audio.input.turn_detection
    return turns is not None and turns.create_response


async def test_an_answer_is_stopped() -> None:
    begun = ResponseCreated("", Response("resp_1", "in_progress", (), None, "inf"))
    voxd, tape = FakeVoxd(respond="echo", script=[(20, [begun])]), Tape()
    async with running(voxd, tape, Wishes()) as (run, told):
        await run.cancel()  # nothing to stop
        tape.play(1)
        await until(lambda: begun in told)
        await run.cancel()
        await until(lambda: bool(voxd.sent(ResponseCancel)))
    assert [event.response_id for event in voxd.sent(ResponseCancel)] == ["resp_1"]


async def test_another_microphone_in_the_same_session() -> None:
    voxd, first, second = FakeVoxd(), Tape("Blue"), Tape("Red")
    ear = Ear(lambda: first, lambda line: None)
    async with running(voxd, ear, Wishes()) as (run, told):
        first.play(2)
        await until(lambda: len(heard(voxd)) == 2)
        run.listen_to(lambda: second)
        first.play(1)
        second.play(2)
        await until(lambda: len(heard(voxd)) >= 4)
        await until(lambda: run.floor.microphone == "Red")
    assert [event.microphone for event in told if isinstance(event, Floor)][-2:] == ["Blue", "Red"]
    assert len(voxd.sent(SessionUpdate)) == 1


async def test_muted_is_silence() -> None:
    voxd, tape = FakeVoxd(), Tape()
    async with running(voxd, tape, Wishes()) as (run, _):
        run.mute(True)
        tape.play(2)
        await until(lambda: len(heard(voxd)) == 2)
        run.mute(False)
        tape.play(1)
        await until(lambda: len(heard(voxd)) == 3)
    assert heard(voxd) == [0, 0, 3]
