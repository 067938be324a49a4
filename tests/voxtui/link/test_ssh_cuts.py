"""A conversation through a real sshd whose connections are killed while somebody speaks: not a word is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest

from shared.audio import RATE, Float32, pcm16_to_float, to_samples
from shared.events import TranscriptionCompleted
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import clip
from tests.support.sshd import Sshd, sshd
from voxtui.capture.sources import FileSource, Packet
from voxtui.events import Event, Health, Relinked, Unlinked
from voxtui.link.client import RealtimeClient, Wishes, now_us
from voxtui.link.ssh_tunnel import Tunnel
from voxtui.link.target import Route, ssh_target
from voxtui.session.run import Run
from voxtui.session.transcript import State, plain_text, reduce

CLIPS = ("librivox_austen_0880", "librivox_austen_0870", "librivox_austen_0930", "two_cities_1")
PAUSE_S = 1.2


class Sabotaged(FileSource):
    """Speech at its own speed; at each of the positions every connection of the sshd dies, or stands still.  On a busy
    machine the next position comes while the last cut is still being mended: that cut waits until `linked` says so."""

    def __init__(self, samples: Float32, cuts_ms: list[int], box: Sshd, how: signal.Signals = signal.SIGKILL) -> None:
        super().__init__("speech", samples)
        self._cuts = [to_samples(ms) for ms in cuts_ms]
        self._box, self._how = box, how
        self.cut_us: list[int] = []
        self.linked: Callable[[], bool] = lambda: True

    async def packets(self) -> AsyncIterator[Packet]:
        async for packet in super().packets():
            if self._cuts and packet.end >= self._cuts[0] and self.linked():
                self._cuts.pop(0)
                for pid in await asyncio.to_thread(self._box.sessions):
                    os.kill(pid, self._how)
                self.cut_us.append(now_us())
            yield packet


async def listen(route: Route, source: FileSource) -> tuple[list[Event], RealtimeClient]:
    told: list[Event] = []
    if isinstance(source, Sabotaged):
        source.linked = lambda: sum(isinstance(event, Relinked) for event in told) == len(source.cut_us)
    try:
        async with RealtimeClient.connect(route, wishes=Wishes(answers=False), patience_s=30) as client:
            await Run(client, source, told.append).run()
    finally:
        await route.close()
    return told, client


def finals(told: list[Event]) -> list[str]:
    return [event.transcript for event in told if isinstance(event, TranscriptionCompleted)]


def shown(told: list[Event]) -> str:
    state = State()
    for event in told:
        state = reduce(state, event)
    return plain_text(state)


def spoken(names: tuple[str, ...]) -> Float32:
    parts: list[Float32] = []
    for name in names:
        parts += [pcm16_to_float(clip(name).pcm()), np.zeros(round(PAUSE_S * RATE), np.float32)]
    return np.concatenate(parts)


def by_ssh(box: Sshd) -> Route:
    return Tunnel(ssh_target(box.host), box.env)


@pytest.fixture(scope="module")
def echo() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo") as running:
        yield running


def as_it_is(text: str) -> str:
    return text


def only_words(text: str) -> str:
    """The words without commas, which depend on when Whisper is asked, and so on the load."""
    return re.sub(r"[^a-z' \n]", "", text.lower())


async def check(
    daemon: Daemon, names: tuple[str, ...], cuts_ms: list[int], read: Callable[[str], str] = as_it_is
) -> None:
    """Runs with cuts and without at the same time; compares the transcripts and accounts for every sample."""
    samples = spoken(names)
    with (
        sshd(far={"VOXD_SERVER_SOCKET": str(daemon.socket)}) as calm,
        sshd(far={"VOXD_SERVER_SOCKET": str(daemon.socket)}) as stormy,
    ):
        source = Sabotaged(samples, cuts_ms, stormy)
        (expected, undisturbed), (told, client) = await asyncio.gather(
            listen(by_ssh(calm), FileSource("speech", samples)), listen(by_ssh(stormy), source)
        )

    assert [read(text) for text in finals(told)] == [read(text) for text in finals(expected)]
    assert read(shown(told)) == read(shown(expected))
    assert len(finals(told)) >= len(names)
    relinked = [event for event in told if isinstance(event, Relinked)]
    assert len(relinked) == len(cuts_ms)
    assert not any(event.fresh or event.lost_ms for event in relinked)
    assert not any(isinstance(event, Unlinked) for event in expected)
    assert max((event.lost_ms for event in told if isinstance(event, Health)), default=0) == 0
    # What was captured is either acknowledged by the server or still kept here; nothing is in between.
    replay = client._replay
    assert replay.captured >= samples.size
    assert replay._settled == replay._ring.start
    assert replay.lost == 0
    assert undisturbed._replay.lost == 0


async def test_three_cuts_in_mid_speech(echo: Daemon) -> None:
    await check(echo, CLIPS[:1], [700, 2000, 3400])


@pytest.mark.slow
async def test_five_cuts_in_real_speech() -> None:
    """The same words from a real recogniser, whose text depends on every sample it is given."""
    with voxd_process("--transcribe", "whisper") as daemon:
        await check(daemon, CLIPS, [1500, 5000, 9000, 13500, 18500], only_words)


@pytest.mark.slow
async def test_a_tunnel_that_stands_still_is_replaced(echo: Daemon) -> None:
    """In a black hole nothing is closed and nothing comes.  It is noticed within 6 s and costs no word."""
    samples = np.concatenate([spoken(CLIPS[:1]), np.zeros(14 * RATE, np.float32), spoken(CLIPS[:1])])
    told: list[tuple[int, Event]] = []
    with sshd(far={"VOXD_SERVER_SOCKET": str(echo.socket)}) as box:
        source, route = Sabotaged(samples, [1500], box, signal.SIGSTOP), by_ssh(box)
        try:
            async with RealtimeClient.connect(route, wishes=Wishes(answers=False), patience_s=30) as client:
                await Run(client, source, lambda event: told.append((now_us(), event))).run()
        finally:
            await route.close()
            box.kill_sessions()
    (seen_us,) = [at_us for at_us, event in told if isinstance(event, Unlinked) and event.tries == 1]
    (relinked,) = [event for _, event in told if isinstance(event, Relinked)]
    assert (seen_us - source.cut_us[0]) / 1e6 <= 6.5  # half a second for a busy machine
    assert relinked.lost_ms == 0
    assert not relinked.fresh
    texts = finals([event for _, event in told])
    assert len(texts) == 2
    assert texts[0].split()[:5] == texts[1].split()[:5]
