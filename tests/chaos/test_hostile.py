"""Attacks on a real voxd over loopback: each must cost it little, end in bounded time and leave other clients alone."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support import peers
from tests.support.daemon import Daemon, voxd_process
from tests.support.peers import Relay, tcp, upgraded
from voxd.commands.control import status

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
ROOM_KIB = 8 << 10  # what one attack may cost
ARGUMENTS = ("--transcribe", "echo", "--respond", "echo", "--no-token", "--listen", "127.0.0.1:0")


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process(*ARGUMENTS, env={"VOXD_LOG_LEVEL": "warning"}) as running:
        yield running


@pytest.fixture(scope="module")
def address(daemon: Daemon) -> str:
    listening = daemon.status()["listen"]
    assert isinstance(listening, list)
    return str(listening[0])


async def sessions_become(daemon: Daemon, count: int, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while (await asyncio.to_thread(status, daemon.socket))["sessions"] != count:
            pass


@asynccontextmanager
async def costs_little(daemon: Daemon) -> AsyncIterator[None]:
    """The gateway takes at most ROOM_KIB more while it is attacked, and serves the next client within a second."""
    await sessions_become(daemon, 0, 10)
    before = peers.forget_peak(daemon.process.pid)
    yield
    assert peers.peak_kib(daemon.process.pid) - before < ROOM_KIB
    assert await is_served(daemon)


async def is_served(daemon: Daemon) -> bool:
    listening = (await asyncio.to_thread(daemon.status))["listen"]
    assert isinstance(listening, list)
    async with asyncio.timeout(60), client(str(listening[0])) as link:
        return bool(json.loads(await link.recv())["type"] == "session.created")


def client(address: str) -> connect:
    return connect(f"ws://{address}/v1/realtime", compression=None, max_size=None)


# ── frames ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_compression_is_never_agreed_to_and_a_compressed_frame_is_an_error(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon):
        extensions = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        async with upgraded(address, headers=extensions) as peer:
            assert b"101" in peer.head
            assert b"permessage-deflate" not in peer.head
            await peer.send(peers.frame(peers.TEXT, b"\0" * 1000, rsv1=True))
            assert await peer.close_code() == 1002


async def test_a_header_that_claims_a_tebibyte_is_refused_unread(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon), upgraded(address) as peer:
        await peer.send(peers.frame(peers.TEXT, b"x" * 1000, length=1 << 40))
        assert await peer.close_code() == 1009


@pytest.mark.parametrize("size", [(24 << 20) + 1, 1 << 30])
async def test_a_message_over_24_mib_is_refused_and_its_sender_told_why(
    daemon: Daemon, address: str, size: int
) -> None:
    async with costs_little(daemon), upgraded(address) as peer:
        await peer.send(peers.frame(peers.TEXT, bytes(1 << 20), length=size))
        assert await peer.close_code() == 1009


async def test_fragments_of_more_than_24_mib_in_all_are_refused_and_their_sender_told_why(address: str) -> None:
    async with upgraded(address) as peer:
        part = bytes(1 << 20)
        await peer.send(peers.frame(peers.TEXT, part, fin=False))
        for _ in range(40):
            if not await peer.send(peers.frame(0, part, fin=False)):
                break
        assert await peer.close_code() == 1009


async def test_a_message_of_24_mib_is_read(address: str) -> None:
    async with client(address) as link:
        await link.recv()
        await link.send(" " * (24 << 20))
        assert json.loads(await link.recv())["type"] == "error"


async def test_an_endless_stream_of_empty_fragments_is_cut(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon), upgraded(address) as peer:
        await peer.send(peers.frame(peers.TEXT, fin=False))
        for _ in range(40):
            if not await peer.send(peers.frame(0, fin=False) * 5000):
                break
        assert await peer.close_code() == 1009


async def test_pings_of_a_peer_that_does_not_read_pile_up_nothing(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon):
        async with upgraded(address, buffer=4096) as peer:
            for _ in range(100):
                if not await peer.send(peers.frame(peers.PING, bytes(125)) * 2000):
                    break
        await sessions_become(daemon, 0, 10)


# ── peers that vanish, or do not read ───────────────────────────────────────────────────────────────────────────────


async def test_a_reset_in_the_middle_of_a_message_frees_the_slot_within_3_seconds(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon), upgraded(address) as peer:
        await peer.send(peers.frame(peers.TEXT, b"{" * 3000, length=60_000))
        await sessions_become(daemon, 1, 3)
        peer.reset()
        await sessions_become(daemon, 0, 3)


@pytest.mark.slow
async def test_a_link_that_falls_silent_frees_the_slot_within_6_seconds(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon), Relay(address).running() as relay, client(relay.address) as link:
        await link.recv()
        await sessions_become(daemon, 1, 3)
        relay.fall_silent()
        await sessions_become(daemon, 0, 6.5)
        link.transport.abort()


@pytest.mark.slow
async def test_a_peer_that_never_reads_a_streaming_answer_ends_and_costs_little() -> None:
    """The answer is 1000 tokens a second; nothing is read, so that no ping is answered either."""
    options = {"VOXD_ENGINE_OPTIONS": "{echo: {tokens: 60000, token_ms: 1}}", "VOXD_LOG_LEVEL": "warning"}
    with voxd_process(*ARGUMENTS, env=options) as daemon:
        listening: Any = daemon.status()["listen"]
        async with costs_little(daemon), upgraded(listening[0], buffer=4096) as peer:
            await peer.send(peers.frame(peers.TEXT, b'{"type":"response.create"}'))
            await sessions_become(daemon, 1, 3)
            await sessions_become(daemon, 0, 15)


@pytest.mark.slow
async def test_a_peer_that_only_sends_ends_and_costs_little(daemon: Daemon, address: str) -> None:
    """Each byte of it makes two hundred of an answer that it never reads."""
    async with costs_little(daemon), upgraded(address, buffer=4096) as peer:
        for _ in range(60):
            if not await peer.send(peers.frame(peers.TEXT, b"{") * 1000):
                break
        await sessions_become(daemon, 0, 60)


# ── connections without an end ──────────────────────────────────────────────────────────────────────────────────────


async def drip(address: str) -> float:
    """One more header line each second, until it is cut; after how many seconds that was."""
    begun = time.monotonic()
    async with tcp(address) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        while not await peer.is_cut(1):
            await peer.send(b"X-A: b\r\n")
            assert time.monotonic() - begun < 120, "held for ever"
    return time.monotonic() - begun


@pytest.mark.slow
async def test_a_hundred_slow_loris_are_cut_and_keep_nobody_out(daemon: Daemon, address: str) -> None:
    async with costs_little(daemon):
        async with asyncio.TaskGroup() as tasks:
            loris = [tasks.create_task(drip(address)) for _ in range(100)]
            for _ in range(20):
                assert await is_served(daemon)
        assert max(each.result() for each in loris) < 60


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────────────

JUNK: list[Any] = [None, True, -1, 0, 1e308, 2**64, "", "\0", "x" * 5000, [], [[]], {}, {"type": "x"}, "é\ud7ff"]
EVENTS: list[dict[str, Any]] = [
    {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}},
    {"type": "input_audio_buffer.append", "audio": "AAAA"},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}},
    {"type": "conversation.item.delete", "item_id": "item_1"},
    {"type": "conversation.item.retrieve", "item_id": "item_1"},
    {"type": "conversation.item.truncate", "item_id": "item_1", "content_index": 0, "audio_end_ms": 0},
    {"type": "response.create", "response": {"conversation": "none", "input": []}},
    {"type": "response.cancel"},
]
NOT_JSON = [
    "",
    "{",
    "[" * 100_000,
    '{"type":' * 5000,
    "NaN",
    '{"type":"x","type":"y"}',
    "\ufeff{}",
    '"\\ud800"',
    "1e999",
]


def spoil(value: Any, chance: random.Random) -> Any:
    """One leaf, or a branch, becomes junk; or a field comes that nobody knows."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return value | {key: spoil(value[key], chance)} | ({"more": 1} if chance.random() < 0.1 else {})
    return chance.choice(JUNK)


def malformed(count: int) -> Iterator[str]:
    chance = random.Random(5)
    yield from NOT_JSON
    for _ in range(count):
        text = json.dumps(spoil(chance.choice(EVENTS), chance))
        at = chance.randrange(len(text))
        yield text[:at] + chr(chance.randrange(0x250)) + text[at + 1 :] if chance.random() < 0.3 else text


async def answered(link: ClientConnection, event_id: str) -> list[dict[str, Any]]:
    """All that comes up to the error that answers `event_id`."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while not seen or seen[-1].get("error", {}).get("event_id") != event_id:
            seen.append(json.loads(await link.recv()))
    return seen


async def test_malformed_events_are_answered_and_end_nothing(daemon: Daemon, address: str) -> None:
    async with client(address) as link:
        for number, text in enumerate(malformed(400)):
            await link.send(text)
            if number % 20 == 0:
                await link.send(json.dumps({"type": "nonsense", "event_id": f"mark_{number}"}))
                await answered(link, f"mark_{number}")
    assert "internal error" not in daemon.log.read_text(), daemon.log.read_text()


# ── a long day ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def visit(address: str, number: int) -> None:
    """A tenth of a second of audio; one of seven leaves without a word."""
    async with client(address) as link:
        await link.recv()
        await link.send(json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 6400}))
        if number % 3:
            await link.send("{")
            await link.recv()
        if number % 7 == 0:
            link.transport.abort()


def slope(samples: list[tuple[int, int]]) -> float:
    """KiB a session, by least squares, without the first fifth."""
    warm = samples[len(samples) // 5 :]
    mean_x = sum(x for x, _ in warm) / len(warm)
    mean_y = sum(y for _, y in warm) / len(warm)
    spread = sum((x - mean_x) * (x - mean_x) for x, _ in warm)
    return sum((x - mean_x) * (y - mean_y) for x, y in warm) / spread


@pytest.mark.slow
async def test_ten_thousand_short_sessions_leave_nothing_behind(daemon: Daemon, address: str) -> None:
    gateway, engine = daemon.process.pid, int(str(daemon.status()["engine_pid"]))
    samples: dict[int, list[tuple[int, int]]] = {gateway: [], engine: []}
    open_files = []
    for done in range(0, 10_000, 20):
        await asyncio.gather(*(visit(address, done + each) for each in range(20)))
        if done % 500 == 0:
            await sessions_become(daemon, 0, 5)
            open_files.append(peers.files(gateway))
            for pid, taken in samples.items():
                taken.append((done, peers.memory_kib(pid)))
    assert slope(samples[gateway]) < 0.3
    assert slope(samples[engine]) < 0.3
    assert max(open_files[1:]) - open_files[1] <= 3
