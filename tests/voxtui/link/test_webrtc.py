"""The sound of a session by UDP, its text by WebSocket: the real client and a real voxd over loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from shared.audio import RATE
from shared.events import AudioCommit, SpeechStopped, TranscriptionCompleted
from tests.support.calls import PATH, http
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import clip
from voxd.commands.control import status
from voxtui.capture.sources import FileSource
from voxtui.events import Event
from voxtui.link import transport as sound, webrtc as legs
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Address, Direct, unix_target
from voxtui.link.transport import BY_UDP, ENDED, Transport
from voxtui.link.webrtc import Leg, NoLeg
from voxtui.session.run import Run

CHROMIUM = (Path(__file__).parents[2] / "data" / "chromium_offer.sdp").read_text()
SPEECH = clip("librivox_austen_0880").samples()[: 2 * RATE]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", env={"VOXD_WEBRTC_ENABLED": "true"}) as running:
        yield running


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


async def calls(daemon: Daemon) -> object:
    return (await asyncio.to_thread(status, daemon.socket))["calls"]


@dataclass
class Told:
    """The lines that the person reads."""

    lines: list[str] = field(default_factory=list)
    by_udp: asyncio.Event = field(default_factory=asyncio.Event)
    something: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self.something.set()
        if line == BY_UDP:
            self.by_udp.set()


@asynccontextmanager
async def connected(
    daemon: Daemon, told: Told, transport: Transport = "webrtc"
) -> AsyncIterator[tuple[RealtimeClient, list[Event]]]:
    """A session whose events are read."""
    seen: list[Event] = []
    take = seen.append
    wishes = Wishes(answers=False, transport=transport)
    async with RealtimeClient.connect(Direct(unix_target(daemon.socket)), wishes=wishes, tell=told) as client:

        async def read() -> None:
            async for received in client:
                take(received.event)

        reading = asyncio.create_task(read())
        try:
            yield client, seen
        finally:
            reading.cancel()


async def spoken(client: RealtimeClient, seen: list[Event]) -> SpeechStopped:
    """Plays the clip in real time, and waits for its text."""
    before = sum(isinstance(event, TranscriptionCompleted) for event in seen)
    async with asyncio.timeout(60):
        async for packet in FileSource("clip", SPEECH).packets():
            await client.send_audio(packet.pcm, packet.captured_us)
            if sum(isinstance(event, TranscriptionCompleted) for event in seen) > before:
                break
    return [event for event in seen if isinstance(event, SpeechStopped)][-1]


async def test_sound_by_udp_is_heard_where_it_was_said(daemon: Daemon) -> None:
    """The same clip by both ways ends at the same sample, give or take a frame of the VAD."""
    told = Told()
    async with connected(daemon, Told(), "ws") as plain, connected(daemon, told) as (client, seen):
        await asyncio.wait_for(told.by_udp.wait(), 60)
        assert await calls(daemon) == 1, "of two sessions"
        by_udp, by_socket = await asyncio.gather(spoken(client, seen), spoken(*plain))
    assert abs(by_udp.audio_end_ms - by_socket.audio_end_ms) <= 32
    assert 0 <= client.position - by_udp.audio_end_ms * 16 < RATE
    assert told.lines == [BY_UDP]


async def test_a_leg_that_breaks_costs_no_sound(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went into it and did not come out goes by WebSocket; the next leg goes on from there."""
    monkeypatch.setattr(sound, "AGAIN_S", 0.1)
    told = Told()
    async with connected(daemon, told) as (client, seen):
        await asyncio.wait_for(told.by_udp.wait(), 60)
        leg = client._sound.leg
        assert leg is not None
        number = 0
        async with asyncio.timeout(60):
            async for packet in FileSource("clip", SPEECH).packets():
                number += 1
                if number == 30:  # from now on nothing comes through, and nobody knows
                    whole = Leg.send
                    monkeypatch.setattr(Leg, "send", _lost)
                if number == 50:
                    monkeypatch.setattr(Leg, "send", whole)
                    leg.over.set()
                await client.send_audio(packet.pcm, packet.captured_us)
                if any(isinstance(event, TranscriptionCompleted) for event in seen):
                    break
        stopped = next(event for event in seen if isinstance(event, SpeechStopped))
    assert 2000 <= stopped.audio_end_ms < 3000
    assert ENDED in told.lines
    assert client.health.lost_ms == 0


async def _lost(leg: Leg, pcm: bytes, offset: int) -> None:
    """Stands for a network that has gone."""


@pytest.mark.parametrize("arrives", [True, False])
async def test_an_event_comes_behind_the_sound_before_it(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """Push-to-talk: the commit takes the other way, and must not overtake; what UDP has lost by then is there too."""
    told = Told()
    wishes = Wishes(answers=False, hands_free=False, transport="webrtc")
    route = Direct(unix_target(daemon.socket))
    async with asyncio.timeout(60), RealtimeClient.connect(route, wishes=wishes, tell=told) as client:
        texts = asyncio.create_task(_first_text(client))
        await told.by_udp.wait()
        if not arrives:
            monkeypatch.setattr(Leg, "send", _lost)
        async for packet in FileSource("clip", SPEECH).packets():
            await client.send_audio(packet.pcm, packet.captured_us)
            if packet.end >= RATE:
                break
        await client.send(AudioCommit())
        assert await texts == "one two three", "a word for each 320 ms"


async def _first_text(client: RealtimeClient) -> str:
    async for received in client:
        if isinstance(received.event, TranscriptionCompleted):
            return received.event.transcript
    raise AssertionError("the session has ended")


@pytest.mark.slow
async def test_a_run_by_udp_ends_with_all_its_text(daemon: Daemon) -> None:
    told, texts = Told(), []

    def tell(event: Event) -> None:
        if isinstance(event, TranscriptionCompleted):
            texts.append(event.transcript)

    wishes = Wishes(answers=False, transport="webrtc")
    async with RealtimeClient.connect(Direct(unix_target(daemon.socket)), wishes=wishes, tell=told) as client:
        await Run(client, FileSource("clip", SPEECH), tell, silence_ms=500).run()
    assert len(texts) == 1
    assert texts[0].startswith("one two")


# ── what cannot be ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_voxd_refuses_a_leg_for_nobody(daemon: Daemon) -> None:
    with pytest.raises(NoLeg, match="No connected session has this token"):
        await Leg.open(Address("ws://localhost/v1/realtime", daemon.socket), "nonsense")


async def test_voxd_refuses_a_leg_for_a_session_at_another_rate(daemon: Daemon) -> None:
    from websockets.asyncio.client import unix_connect

    from shared.events import SessionCreated, parse_server

    async with unix_connect(str(daemon.socket), "ws://localhost/v1/realtime?voxd_ext=resume") as link:
        created = parse_server(await link.recv(decode=False))
        assert isinstance(created, SessionCreated)
        token = created.session.voxd.resume_token or ""
        with pytest.raises(NoLeg, match="16000 Hz; this one is at 24000"):
            await Leg.open(Address("ws://localhost/v1/realtime", daemon.socket), token)


async def test_a_leg_ends_with_its_websocket(daemon: Daemon) -> None:
    told = Told()
    async with connected(daemon, told) as (client, _):
        await asyncio.wait_for(told.by_udp.wait(), 60)
        leg = client._sound.leg
        assert leg is not None
        assert client._link is not None
        client._link.transport.abort()
        await asyncio.wait_for(leg.over.wait(), 60)


async def test_a_leg_that_is_hung_up_ends_and_a_session_has_one_at_most(daemon: Daemon) -> None:
    told = Told()
    async with connected(daemon, told, "ws") as (client, _), http(daemon) as asked:
        offer = {"content": CHROMIUM, "headers": {"Content-Type": "application/sdp"}}
        path = f"{PATH}?voxd_session={client.session.voxd.resume_token}"
        async with asyncio.timeout(60):
            for _ in range(3):
                answer = await asked.post(path, **offer)  # type: ignore[arg-type]
                assert answer.status_code == 201
            while await calls(daemon) != 1:
                pass
            assert (await asked.delete(answer.headers["Location"])).status_code == 200
            while await calls(daemon) != 0:
                pass


async def test_where_webrtc_is_off_the_person_reads_it() -> None:
    told = Told()
    with voxd_process("--transcribe", "echo") as daemon:
        async with connected(daemon, told):
            await asyncio.wait_for(told.something.wait(), 60)
    (line,) = told.lines
    assert line.startswith("No WebRTC: WebRTC is switched off here")
    assert line.endswith("Sound goes by WebSocket.")


async def test_without_aiortc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiortc", None)
    with pytest.raises(NoLeg, match=r"pip install .*\[webrtc\]") as caught:
        await Leg.open(Address("ws://localhost/v1/realtime"), "")
    assert caught.value.final


async def test_no_udp_is_said_so(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "OPEN_S", 0.3)
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [])
    told = Told()
    async with connected(daemon, told, "ws") as (client, _):
        token = client.session.voxd.resume_token or ""
        with pytest.raises(NoLeg, match="no UDP gets through"):
            await Leg.open(Address("ws://localhost/v1/realtime", daemon.socket), token)


@pytest.mark.slow
async def test_a_leg_needs_no_slot_of_its_own() -> None:
    with voxd_process(
        "--transcribe", "echo", env={"VOXD_WEBRTC_ENABLED": "true", "VOXD_SERVER_MAX_SESSIONS": "1"}
    ) as daemon:
        told = Told()
        async with connected(daemon, told):
            await asyncio.wait_for(told.by_udp.wait(), 60)
            async with http(daemon) as client:
                answer: httpx.Response = await client.post(
                    PATH, content=CHROMIUM, headers={"Content-Type": "application/sdp"}
                )
            assert answer.status_code == 503


# ── how it does ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_acknowledged_is_judged(daemon: Daemon) -> None:
    """The lag of each acknowledgement, whose zero does not matter, by a network that is not there."""
    async with connected(daemon, Told(), "auto") as (client, _), asyncio.timeout(60):
        lags = client._sound.judge._lags
        async for packet in FileSource("clip", SPEECH).packets():
            await client.send_audio(packet.pcm, packet.captured_us)
            if len(lags) == 3:
                break
    assert max(lags) - min(lags) < 1000


async def test_what_waited_for_a_link_is_not_judged(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = list[int]()
    async with connected(daemon, Told(), "auto") as (client, _), asyncio.timeout(60):
        whole = client._sound.judge.heard

        def heard(lag_ms: float) -> None:
            judged.append(client._replay.received)
            whole(lag_ms)

        monkeypatch.setattr(client._sound.judge, "heard", heard)
        assert client._link is not None
        client._link.transport.abort()
        await client.send_audio(bytes(2 * 3 * RATE))
        held = client.position
        async for packet in FileSource("clip", SPEECH).packets():
            await client.send_audio(packet.pcm, packet.captured_us)
            if len(judged) == 2:
                break
    assert min(judged) > held


async def test_losses_are_what_voxd_reports(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """One packet in ten is not sent, as if the network had lost it."""
    from aiortc import RTCDtlsTransport

    whole, numbers = RTCDtlsTransport._send_rtp, iter(range(100_000))

    async def lossy(transport: RTCDtlsTransport, data: bytes) -> None:
        if 64 <= data[1] & 0x7F < 96 or next(numbers) % 10:  # RTCP (RFC 5761, section 4), or nine of ten
            await whole(transport, data)

    told = Told()
    async with connected(daemon, told) as (client, _):
        await asyncio.wait_for(told.by_udp.wait(), 60)
        monkeypatch.setattr(RTCDtlsTransport, "_send_rtp", lossy)
        leg = client._sound.leg
        assert leg is not None
        async with asyncio.timeout(60):
            async for packet in FileSource("clip", SPEECH).packets():
                await client.send_audio(packet.pcm, packet.captured_us)
                sent, lost = await leg.counted()
                if lost >= 8:
                    break
    assert sent / 20 < lost <= sent / 10 + 1


def test_silence_stands_for_nothing_here() -> None:
    """The encoder's delay is taken off by its own count of samples: packets say where their sound was."""
    codec = legs._encoder()
    import av

    frame = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.int16), format="s16", layout="mono")
    frame.sample_rate, frame.pts = RATE, 1000
    assert [packet.pts for packet in codec.encode(frame)] == [960]
