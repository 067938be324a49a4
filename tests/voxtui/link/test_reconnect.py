"""A client whose links break hears the same words as if none had: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import numpy as np
import pytest

from shared.audio import PACKET, RATE, Float32, pcm16_to_float
from shared.events import AudioCommit, TranscriptionCompleted
from tests.support.daemon import Daemon, voxd_process
from tests.support.fakes import FakeVoxd
from tests.support.speech import clip
from voxtui.capture.sources import FileSource
from voxtui.errors import ClientError
from voxtui.events import Event, Health, Relinked, Unlinked
from voxtui.link.client import RealtimeClient, Wishes, waits
from voxtui.link.target import Address, Direct, Target, unix_target
from voxtui.session.run import Run
from voxtui.session.transcript import EntryProgress, State, plain_text, reduce

WISHES = Wishes(answers=False)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "none") as running:
        yield running


def speech(utterances: int) -> Float32:
    """A voice with pauses between."""
    said = pcm16_to_float(clip("librivox_austen_0880").pcm())
    return np.concatenate([said, np.zeros(RATE, np.float32)] * utterances)


class Cutter(FileSource):
    """Breaks the link of `client` when positions of `cuts` have been captured, as a network does: without a close."""

    client: RealtimeClient | None = None

    def __init__(self, samples: Float32, cuts: list[int], *, hurry: bool) -> None:
        super().__init__("x", samples, hurry=hurry)
        self._cuts = sorted(cuts)

    async def packets(self):  # type: ignore[no-untyped-def]
        async for packet in super().packets():
            if self._cuts and packet.end >= self._cuts[0]:
                self._cuts.pop(0)
                assert self.client is not None
                if self.client._link is not None:
                    self.client._link.transport.abort()
            yield packet


async def heard(route: Direct, source: Cutter, *, hurry: bool) -> tuple[State, list[Event]]:
    """Everything that was told, and the state that follows from it."""
    told: list[Event] = []
    async with RealtimeClient.connect(route, wishes=WISHES, live=not hurry, patience_s=20) as client:
        source.client = client
        await Run(client, source, told.append, hurry=hurry, silence_ms=500).run()
    state = State()
    for event in told:
        state = reduce(state, event)
    return state, told


def finals(told: list[Event]) -> list[str]:
    return [event.transcript for event in told if isinstance(event, TranscriptionCompleted)]


@pytest.mark.parametrize("seed", range(3))
async def test_cuts_change_no_word(daemon: Daemon, seed: int) -> None:
    samples = speech(4)
    route = Direct(unix_target(daemon.socket))
    calm, expected = await heard(route, Cutter(samples, [], hurry=True), hurry=True)
    draw = random.Random(seed)
    cuts = [draw.randrange(PACKET, samples.size) for _ in range(5)]
    state, told = await heard(route, Cutter(samples, cuts, hurry=True), hurry=True)

    assert finals(told) == finals(expected)
    assert len(finals(told)) == 4
    assert plain_text(state) == plain_text(calm)
    assert all(entry.progress is EntryProgress.DONE for entry in state.entries)
    relinked = [event for event in told if isinstance(event, Relinked)]
    assert relinked
    assert all(event.lost_ms == 0 and not event.fresh for event in relinked)
    assert state.gaps == len(relinked)
    assert not any(isinstance(event, Health) and event.lost_ms for event in told)


class Moving:
    """A route that leads to another daemon from the second time on, where the first one's sessions are unknown."""

    label = "moving"
    udp = True

    def __init__(self, *targets: Target) -> None:
        self._targets = list(targets)

    async def address(self, tell: object) -> Address:
        target = self._targets.pop(0) if len(self._targets) > 1 else self._targets[0]
        return Address(target.url, target.socket)

    async def close(self) -> None:
        pass


async def test_a_daemon_that_has_forgotten_the_session_hears_it_again(daemon: Daemon) -> None:
    samples = speech(3)
    third = samples.size // 3
    _, expected = await heard(Direct(unix_target(daemon.socket)), Cutter(samples, [], hurry=True), hurry=True)
    with voxd_process("--transcribe", "echo", "--respond", "none") as other:
        route = Moving(unix_target(daemon.socket), unix_target(other.socket))
        source = Cutter(samples, [third + third // 3], hurry=True)
        state, told = await heard(route, source, hurry=True)  # type: ignore[arg-type]

    (relinked,) = (event for event in told if isinstance(event, Relinked))
    assert relinked.fresh
    assert relinked.lost_ms == 0
    assert [text.split()[:3] for text in finals(told)] == [text.split()[:3] for text in finals(expected)]
    assert [entry.progress for entry in state.entries if entry.heard] == [EntryProgress.DONE] * 3
    assert any("a new one has begun" in entry.text for entry in state.entries)


async def test_who_has_no_patience_is_told_why() -> None:
    voxd = FakeVoxd([(40, [])], close=1012)
    async with voxd.serve() as target, RealtimeClient.connect(Direct(target), patience_s=0) as client:
        await client.send_audio(bytes(4 * PACKET))
        with pytest.raises(ClientError, match="shutting down"):
            async for _ in client:
                pass


async def test_tries_are_told_while_nobody_is_there() -> None:
    """Sound is taken all the same."""
    voxd = FakeVoxd([(40, [])], close=1012)
    told: list[Unlinked] = []
    async with voxd.serve() as target:
        connected = RealtimeClient.connect(Direct(target))
        client = await connected.__aenter__()
        await client.send_audio(bytes(4 * PACKET))
    async for received in client:
        if isinstance(received.event, Unlinked):
            told.append(received.event)
            await client.send_audio(bytes(2 * PACKET))
        if len(told) == 3:
            break
    assert [event.tries for event in told] == [1, 2, 3]
    assert "voxd ended the session" in told[0].reason
    assert "No voxd is running" in told[2].reason
    with pytest.raises(ClientError, match="no connection"):
        await client.send(AudioCommit())
    await connected.__aexit__(None, None, None)


async def test_a_daemon_that_loads_is_waited_for() -> None:
    lines: list[str] = []
    with voxd_process("--transcribe", "echo", ready=False) as loading:
        while not loading.socket.exists():
            await asyncio.to_thread(loading.ended, 0.01)
        async with RealtimeClient.connect(Direct(unix_target(loading.socket)), tell=lines.append) as client:
            assert client.transcriber == "echo"
    assert all(lines)


def test_waits_grow_to_a_bound_and_differ() -> None:
    """So many clients of one daemon do not come back at once."""
    found = [wait for wait, _ in zip(waits(), range(20), strict=False)]
    assert 0.1 <= found[0] <= 0.2
    assert all(2.5 <= wait <= 5 for wait in found[6:])
    assert len(set(found[6:])) > 10
