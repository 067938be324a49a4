"""Calls by WebRTC: a real voxd and aiortc's own client over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soxr
from aiortc import RTCSessionDescription

from shared.audio import RATE
from shared.settings import WebRtc
from tests.support.calls import PATH, Caller, Voice, called, form, http
from tests.support.connections import ClosedDesk
from tests.support.daemon import Daemon, voxd_process
from tests.support.speech import clip
from voxd.commands.control import status
from voxd.web.callers import caller_of
from voxd.webrtc import calls as webrtc, sdp
from voxd.webrtc.peer import ImmediateBuffer, NoPort, Peer, PeerGone, Ports

ENGINES = ("--transcribe", "echo", "--respond", "echo")
CHROMIUM = (Path(__file__).parents[2] / "data" / "chromium_offer.sdp").read_text()


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process(*ENGINES, env={"VOXD_WEBRTC_ENABLED": "true", "VOXD_SERVER_MAX_SESSIONS": "2"}) as running:
        yield running


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets aioice use the loopback, which it would leave out and which is the only network here."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


@pytest.fixture
async def client(daemon: Daemon) -> AsyncIterator[httpx.AsyncClient]:
    async with http(daemon) as client:
        yield client
    await become(daemon, 0)


async def become(daemon: Daemon, calls: int) -> None:
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(status, daemon.socket))["calls"] != calls:
            pass


def spoken() -> Voice:
    samples = clip("librivox_austen_0880").samples()[: 2 * RATE]
    return Voice(np.asarray(soxr.resample(samples, RATE, 48_000), np.float32))


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_what_is_patched_is_what_was_read() -> None:
    """`voxd.webrtc.peer` uses private parts of these versions; a new version is read first, then named in
    pyproject.toml and here."""
    assert version("aiortc").startswith("1.16.")
    assert version("aioice").startswith("0.13.")


# ── a call ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_from_offer_to_goodbye(daemon: Daemon, client: httpx.AsyncClient) -> None:
    async with called(client, spoken(), instructions="Be brief.") as caller:
        first = await caller.until("session.created")
        assert first["session"]["instructions"] == "Be brief."
        assert (await asyncio.to_thread(daemon.status))["calls"] == 1
        started = await caller.until("input_audio_buffer.speech_started")
        assert 0 <= started["audio_start_ms"] < 1500
        stopped = await caller.until("input_audio_buffer.speech_stopped")
        assert 2000 <= stopped["audio_end_ms"] < 4000, "the sample clock is that of the track"
        assert (await caller.until("response.output_text.delta"))["delta"] == "one"
        assert (await client.post(f"{caller.location}/hangup")).status_code == 200
        await asyncio.wait_for(caller.closed.wait(), 60)
    log = daemon.log.read_text()
    assert f"[WebRTC] Connected with client ID: {caller.location.rpartition('/')[2]}\n" in log
    assert "hung up" in log


async def test_events_go_both_ways_but_audio_only_by_the_track(client: httpx.AsyncClient) -> None:
    async with called(client) as caller:
        await caller.until("session.created")
        caller.say(type="input_audio_buffer.append", audio="AAAA", event_id="e1")
        error = (await caller.until("error"))["error"]
        assert (error["code"], error["event_id"]) == ("invalid_event", "e1")
        caller.channel.send(b'{"type":"nonsense"}')
        assert (await caller.until("error"))["error"]["code"] == "invalid_value"
        item: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello?"}]}
        caller.say(type="conversation.item.create", item=item)
        caller.say(type="response.create")
        await caller.until("response.output_text.delta")
        caller.say(type="response.cancel")
        assert (await caller.until("response.done"))["response"]["status"] == "cancelled"


@pytest.mark.parametrize("label", ["events", "OAI-EVENTS", "oai-events", "x" * 300])
async def test_a_data_channel_that_is_not_used_is_told_so(
    daemon: Daemon, client: httpx.AsyncClient, label: str
) -> None:
    """A second channel of the right name is told so too."""
    caller = Caller()
    told: asyncio.Queue[Any] = asyncio.Queue()
    stray = caller.pc.createDataChannel(label)
    stray.on("message", told.put_nowait)
    try:
        await caller.take(await client.post(PATH, files=form(await caller.offer(), {"type": "realtime"})))
        error = json.loads(await asyncio.wait_for(told.get(), 60))["error"]
        await caller.until("session.created")
    finally:
        await caller.pc.close()
    assert error["code"] == "unknown_data_channel"
    assert "`oai-events`" in error["message"]
    assert daemon.log.read_text().count(f"call {caller.location.rpartition('/')[2]}: its data channel") == 1


async def test_the_format_of_the_session_is_nominal(client: httpx.AsyncClient) -> None:
    """Stock clients send the format that they would use on a WebSocket, after their audio has begun."""
    async with called(client, spoken()) as caller:
        await caller.until("input_audio_buffer.speech_started")
        for sound in ({"type": "audio/pcm", "rate": 24_000}, {"type": "audio/pcmu"}):
            caller.say(type="session.update", session={"type": "realtime", "audio": {"input": {"format": sound}}})
            assert (await caller.until("session.updated"))["session"]["audio"]["input"]["format"] == sound
        stopped = await caller.until("input_audio_buffer.speech_stopped")
        assert 2000 <= stopped["audio_end_ms"] < 4000


async def test_an_event_that_the_channel_cannot_carry_is_told_of(client: httpx.AsyncClient) -> None:
    async with called(client) as caller:
        caller.say(type="session.update", session={"type": "realtime", "instructions": "x" * 65_000})
        await caller.until("session.created")
        assert "WebSocket" in (await caller.until("error"))["error"]["message"]
        caller.say(type="session.update", session={"type": "realtime", "instructions": "y" * 100})
        assert (await caller.until("session.updated"))["session"]["instructions"] == "y" * 100


async def test_what_a_query_and_a_form_ask_for_is_in_effect_from_the_start(client: httpx.AsyncClient) -> None:
    caller = Caller()
    session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    try:
        answer = await client.post(f"{PATH}?voxd_ext=metrics,resume", files=form(await caller.offer(), session))
        await caller.take(answer)
        found = (await caller.until("session.created"))["session"]
    finally:
        await caller.pc.close()
    assert (found["type"], found["audio"]["input"]["turn_detection"]) == ("transcription", None)
    assert found["voxd"]["metrics"] is True
    assert "resume_token" not in found["voxd"], "a call cannot be taken up again"


async def test_a_caller_that_leaves_gives_its_slot_back(daemon: Daemon, client: httpx.AsyncClient) -> None:
    async with called(client) as caller:
        await caller.until("session.created")
    await become(daemon, 0)
    assert (await asyncio.to_thread(daemon.status))["sessions"] == 0


async def test_a_channel_that_is_closed_ends_the_call(daemon: Daemon, client: httpx.AsyncClient) -> None:
    async with called(client) as caller:
        await caller.until("session.created")
        caller.channel.close()
        await become(daemon, 0)


async def test_datagrams_of_strangers_do_not_touch_a_call(client: httpx.AsyncClient) -> None:
    """Plain aiortc ends a call at the first empty datagram."""
    async with called(client) as caller:
        await caller.until("session.created")
        answer = caller.pc.remoteDescription.sdp
        port = int(next(line for line in answer.splitlines() if line.startswith("a=candidate")).split()[5])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for data in (b"", b"\x16" * 50, b"\x80" * 50, b"\0" * 20, b"\xff"):
                stranger.sendto(data, ("127.0.0.1", port))
        caller.say(type="session.update", session={"type": "realtime", "instructions": "Still here?"})
        assert (await caller.until("session.updated"))["session"]["instructions"] == "Still here?"


async def test_a_message_without_an_end_ends_the_call(daemon: Daemon, client: httpx.AsyncClient) -> None:
    """A client may send as much as it was given room for; plain aiortc keeps all that comes."""
    async with called(client) as caller:
        await caller.until("session.created")
        caller.channel.transport._remote_max_message_size = 0  # it does not care
        caller.channel.send("x" * (3 << 20))
        await become(daemon, 0)
    assert "more than there is room for" in daemon.log.read_text()


@pytest.mark.parametrize(("goodbye", "expected"), [(True, "closed by the client"), (False, "the client vanished")])
async def test_the_journal_tells_a_goodbye_from_a_client_that_vanished(
    goodbye: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.05)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 1)
    caller, peer = Caller(), Peer(str)
    try:
        answer = await peer.answer(
            sdp.read((await caller.offer()).encode(), "127.0.0.1"), Ports(61_000, 61_999), "127.0.0.1"
        )
        await caller.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await asyncio.wait_for(peer.opened.wait(), 60)
        if goodbye:
            await caller.pc.close()
        else:
            for protocol in caller.pc.sctp.transport.transport._connection._protocols:  # type: ignore[union-attr]
                protocol.transport.abort()
        with pytest.raises(PeerGone, match=expected):
            await asyncio.wait_for(peer.receive_message(), 60)
    finally:
        await peer.close()
        await caller.pc.close()


# ── signalling ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_takes_its_slot_when_it_is_offered(daemon: Daemon, client: httpx.AsyncClient) -> None:
    offer = {"content": CHROMIUM, "headers": {"Content-Type": "application/sdp"}}
    taken = [await client.post(PATH, **offer) for _ in range(3)]  # type: ignore[arg-type]

    assert [answer.status_code for answer in taken] == [201, 201, 503]
    assert problem(taken[2])[1] == "session_limit_reached"
    assert taken[2].headers["Retry-After"]
    assert taken[0].headers["Content-Type"] == "application/sdp"
    for answer in taken[:2]:
        assert (await client.delete(answer.headers["Location"])).status_code == 200
    await become(daemon, 0)
    assert problem(await client.delete(taken[0].headers["Location"])) == (404, "call_id_not_found", "call_id")


async def test_offers_that_come_together_take_no_more_slots_than_there_are(
    daemon: Daemon, client: httpx.AsyncClient
) -> None:
    """All offers are half sent when the first of them could take a slot."""
    begun, ended = asyncio.Barrier(4), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield CHROMIUM[:100].encode()
        await begun.wait()
        await ended.wait()
        yield CHROMIUM[100:].encode()

    headers = {"Content-Type": "application/sdp"}
    posts = [asyncio.create_task(client.post(PATH, content=slowly(), headers=headers)) for _ in range(3)]
    await begun.wait()
    await become(daemon, 0)  # an answer of voxd: it has been given what they have sent so far
    ended.set()
    answers = await asyncio.gather(*posts)
    assert sorted(answer.status_code for answer in answers) == [201, 201, 503]
    for answer in answers:
        await client.delete(answer.headers.get("Location", PATH + "/none"))


async def test_the_answer_names_one_candidate_of_ours_and_takes_opus_only(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, content=CHROMIUM, headers={"Content-Type": "application/sdp"})
    await client.delete(answer.headers["Location"])
    lines = answer.text.splitlines()
    found = {line.split()[4:6][0] + ":" + line.split()[5] for line in lines if line.startswith("a=candidate")}

    assert len(found) == 1
    host, port = found.pop().split(":")
    assert host == "127.0.0.1"
    assert 61_000 <= int(port) <= 61_999
    assert [line for line in lines if line.startswith("a=rtpmap")] == ["a=rtpmap:111 opus/48000/2"]
    assert "a=recvonly" in lines


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("", "application/sdp", (400, "invalid_offer", "sdp")),
        (CHROMIUM.replace("sha-256", "sha-1"), "application/sdp", (400, "invalid_offer", "sdp")),
        (CHROMIUM[: CHROMIUM.index("m=application")].replace("BUNDLE 0 1", "BUNDLE 0"), "application/sdp",
         (400, "invalid_offer", "sdp")),
        ("v" * (16 << 10) + "v", "application/sdp", (413, "request_too_large", None)),
        ("{}", "application/json", (415, "unsupported_content_type", None)),
        ("x", "multipart/form-data", (400, "invalid_form", None)),
    ],
)  # fmt: skip
async def test_what_is_no_offer_is_refused_before_anything_is_taken(
    client: httpx.AsyncClient, body: str, kind: str, expected: tuple[int, str, str | None]
) -> None:
    assert problem(await client.post(PATH, content=body, headers={"Content-Type": kind})) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"session": (None, "{}")}, (400, "missing_required_parameter", "sdp")),
        ({"sdp": (None, CHROMIUM), "session": (None, "[]")}, (400, "invalid_json", "session")),
        (
            {"sdp": (None, CHROMIUM), "session": (None, '{"voice":"x"}')},
            (400, "unknown_parameter", "session.voice"),
        ),
    ],
)
async def test_a_form_is_checked_part_by_part(
    client: httpx.AsyncClient, files: Any, expected: tuple[int, str, str | None]
) -> None:
    assert problem(await client.post(PATH, files=files)) == expected


async def test_switched_off_it_says_how_to_switch_it_on() -> None:
    with voxd_process(*ENGINES) as daemon:
        async with http(daemon) as client:
            answer = await client.post(PATH, content=CHROMIUM, headers={"Content-Type": "application/sdp"})
    assert problem(answer)[:2] == (501, "webrtc_disabled")
    assert "webrtc.enabled" in answer.json()["error"]["message"]


def test_without_aiortc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "voxd.webrtc.peer", None)
    calls = webrtc.Calls(WebRtc(enabled=True), ClosedDesk(), lambda asked: caller_of(asked, {}))
    assert calls.trouble is not None
    assert "the extra `webrtc`" in calls.trouble[1]


async def test_a_bug_in_a_call_gives_its_port_back() -> None:
    closed = asyncio.Event()

    class Broken:
        id = "sess_x"
        opened = asyncio.Event()
        has_track = False

        async def receive_message(self) -> str:
            raise RuntimeError

        async def close(self) -> None:
            closed.set()

    call = webrtc.Call("key", lambda: 0, 65_535)
    call.peer, call.connection = Broken(), Broken()  # type: ignore[assignment]
    await call.run(contextlib.ExitStack())
    assert closed.is_set()
    assert call.why == "internal error"


async def test_a_call_that_never_connects_is_over_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        has_track = False
        opened = asyncio.Event()

        def work_on(self, text: str) -> Iterator[None]:
            return iter(())

        async def receive_message(self) -> str:
            await asyncio.Event().wait()
            return ""

        async def flush(self) -> None:
            pass

    monkeypatch.setattr(webrtc, "CONNECT_S", 0.01)
    call = webrtc.Call("key", lambda: 0, 65_535)
    call.peer, call.connection = Nobody(), Nobody()  # type: ignore[assignment]
    assert await asyncio.wait_for(call._serve(), 60) == "no connection within 0 s"


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_port_of_the_range_is_used_and_none_beyond_it() -> None:
    ports = Ports(61_997, 61_999)
    taken = []
    try:
        taken = [ports.bind("127.0.0.1") for _ in range(3)]
        assert {sock.getsockname()[1] for sock in taken} == {61_997, 61_998, 61_999}
        with pytest.raises(NoPort):
            ports.bind("127.0.0.1")
    finally:
        for sock in taken:
            sock.close()


def test_an_address_outside_of_a_nat_is_listened_for_on_every_address() -> None:
    sock = Ports(61_000, 61_999).bind("203.0.113.9")
    assert sock.getsockname()[0] == "0.0.0.0"
    sock.close()


class _Packet:
    def __init__(self, number: int) -> None:
        self.sequence_number, self.timestamp, self._data = number & 0xFFFF, number * 960, b"x"


def passed(*numbers: int) -> list[int]:
    """Timestamps of the packets that go on, each at the moment when it comes."""
    buffer = ImmediateBuffer()
    found = [buffer.add(_Packet(number))[1] for number in numbers]  # type: ignore[arg-type]
    return [frame.timestamp // 960 for frame in found if frame]


def test_a_packet_goes_on_when_it_comes_and_a_late_one_never() -> None:
    assert passed(1, 2, 3) == [1, 2, 3]
    assert passed(65_534, 65_535, 65_536, 65_537) == [65_534, 65_535, 65_536, 65_537], "numbers have 16 bits"
    assert passed(1, 2, 5, 6) == [1, 2, 5, 6], "after a loss as before it"
    assert passed(1, 3, 2, 4, 4, 5) == [1, 3, 4, 5]


def test_a_flood_of_packets_is_cut() -> None:
    assert len(passed(*range(5000))) < 1000
