"""Calls by WebRTC over time and over bad networks: memory stays flat, sound is prompt, a loss costs only itself."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.transport import PORT, Cell, far, measured
from benchmarks.tunnel import undisturbed
from shared.audio import RATE
from shared.latency import percentile
from tests.support import netns
from tests.support.calls import PATH, called, http
from tests.support.daemon import Daemon, voxd_process
from voxd.commands.control import status
from voxtui.capture.sources import FileSource
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct, parse_target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
CHROMIUM = (Path(__file__).parents[2] / "data" / "chromium_offer.sdp").read_text()
CALLS, WARM = 500, 500
CONNECTED_EVERY = 4  # of them, one really connects


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", env={"VOXD_WEBRTC_ENABLED": "true", "VOXD_LOG_LEVEL": "warning"}) as one:
        yield one


def held(daemon: Daemon) -> tuple[int, int, int]:
    """Memory in KiB, open files and threads of the gateway."""
    process = Path(f"/proc/{daemon.process.pid}")
    about = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return int(about["VmRSS"].split()[0]), len(os.listdir(process / "fd")), int(about["Threads"])


async def over(daemon: Daemon) -> None:
    """Waits until no call is left."""
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(status, daemon.socket))["calls"]:
            pass


async def one_call(client: httpx.AsyncClient, number: int) -> None:
    if number % CONNECTED_EVERY:
        answer = await client.post(PATH, content=CHROMIUM, headers={"Content-Type": "application/sdp"})
        assert answer.status_code == 201, answer.text
        assert (await client.delete(answer.headers["Location"])).status_code == 200
        return
    async with called(client) as caller:
        await caller.until("session.created")
        if number % (2 * CONNECTED_EVERY):
            await client.post(f"{caller.location}/hangup")


async def cost_of_one(daemon: Daemon, client: httpx.AsyncClient) -> float:
    """KiB for each of twenty calls that are kept, as the control."""
    before, *_ = held(daemon)
    kept = [await client.post(PATH, content=CHROMIUM, headers={"Content-Type": "application/sdp"}) for _ in range(20)]
    after, *_ = held(daemon)
    for answer in kept:
        await client.delete(answer.headers["Location"])
    return (after - before) / len(kept)


async def test_500_calls_leave_nothing_behind(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first calls are not counted, while memory grows in steps until collector and allocator have found their
    size."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    marks = []
    async with http(daemon) as client:
        one_kib = await cost_of_one(daemon, client)
        for number in range(WARM + CALLS):
            await one_call(client, number)
            if number in (WARM - 1, WARM + CALLS - 1):
                await over(daemon)
                marks.append(held(daemon))
    (before_kib, *before), (after_kib, *after) = marks
    slope = (after_kib - before_kib) / CALLS
    print(f"{slope:.2f} KiB a call; one that is kept {one_kib:.0f}; files and threads {before} -> {after}")  # noqa: T201
    assert slope < one_kib / 20
    assert all(later <= earlier + 2 for earlier, later in zip(before, after, strict=True))


# ── over a network ──────────────────────────────────────────────────────────────────────────────────────────────────

REASON = netns.why_not()
BURSTS = 40


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, float], Cell]:
    found = {}
    for way, loss in (("ws", 0.0), ("webrtc", 0.0), ("call", 0.0), ("stock", 0.0), ("webrtc", 0.03), ("call", 0.03)):
        with undisturbed(), netns.network(0, loss) as net:
            found[way, loss] = measured(net, way, BURSTS)
    return found


@pytest.mark.root
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_sound_is_prompt(cells: dict[tuple[str, float], Cell]) -> None:
    """The time counts from the microphone to the session, with the 20 ms of a packet; aiortc's own jitter buffer is the
    control."""
    assert percentile(cells["ws", 0.0].heard_ms, 50) <= 15
    assert percentile(cells["webrtc", 0.0].heard_ms, 50) <= 25
    assert percentile(cells["call", 0.0].heard_ms, 50) <= 40
    assert percentile(cells["stock", 0.0].heard_ms, 50) > percentile(cells["call", 0.0].heard_ms, 50) + 50


@pytest.mark.root
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_lost_packet_costs_itself_and_nothing_after_it(cells: dict[tuple[str, float], Cell]) -> None:
    for way in ("webrtc", "call"):
        lossy, clean = cells[way, 0.03], cells[way, 0.0]
        assert len(lossy.heard_ms) >= BURSTS - 2
        assert percentile(lossy.heard_ms, 50) < percentile(clean.heard_ms, 50) + 10


async def told_on(net: netns.Network, lines: int, losing: float) -> list[str]:
    """What --transport auto says, up to so many lines; when UDP is kept, the network begins to lose that much."""
    told: list[str] = []
    enough = asyncio.Event()

    def tell(line: str) -> None:
        told.append(line)
        if "sooner at p95" in line:
            net.lose(losing)
        if len(told) == lines:
            enough.set()

    hum = np.random.default_rng(1).standard_normal(120 * RATE).astype(np.float32) * 0.001
    route = Direct(parse_target(f"ws://{netns.SERVER}:{PORT}"))
    wishes = Wishes(answers=False, transport="auto")
    async with RealtimeClient.connect(route, wishes=wishes, tell=tell) as client, asyncio.TaskGroup() as tasks:

        async def read() -> None:
            async for _ in client:
                pass

        reading = tasks.create_task(read())
        async for packet in FileSource("hum", hum).packets():
            await client.send_audio(packet.pcm, packet.captured_us)
            if enough.is_set() or packet.end >= hum.size:
                break
        reading.cancel()
    print(*told, sep="\n")  # noqa: T201
    return told


@pytest.mark.root
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_auto_takes_udp_where_it_helps_and_leaves_it_where_it_loses_much() -> None:
    """The round trip is 150 ms, so what TCP repeats comes that much later."""
    with undisturbed(), netns.network(75, 0.01) as net, far(net, stock=False), netns.entered(net.client):
        watching, trying, kept, left = asyncio.run(told_on(net, 4, losing=0.15))
    assert "is being watched" in watching
    assert "trying WebRTC" in trying
    assert "sooner at p95" in kept
    assert left.startswith("Sound goes by WebSocket again: WebRTC loses ")


@pytest.mark.root
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_auto_does_not_pay_for_speed_with_sound() -> None:
    """At three lost packets in a hundred UDP is sooner, and is not kept."""
    with undisturbed(), netns.network(40, 0.03) as net, far(net, stock=False), netns.entered(net.client):
        _, trying, left = asyncio.run(told_on(net, 3, losing=0.03))
    assert "trying WebRTC" in trying
    assert left.startswith("Sound goes by WebSocket again: WebRTC loses ")
