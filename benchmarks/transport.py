"""What WebRTC saves against a WebSocket, and when: `python -m benchmarks.transport [--json FILE] [--bursts N]`.

Two network namespaces, a bridge that delays and loses packets between them, a voxd at one end.  At the other a
microphone hears bursts of a tone that begin anywhere within its packets.  Counted is the time from a burst's first
sample at the microphone to its being handed to the session: the rest of its packet of 20 ms (10 on average), coding,
the network, decoding, resampling.  Beside it, the round trip of a small event, ten a second.

    ws        as voxtui by default
    webrtc    as voxtui --transport webrtc: sound by UDP, events by the WebSocket
    call      as a browser: sound by aiortc's own sender, events by the data channel
    stock     the same against aiortc's own jitter buffer, the control

About seven minutes.  Needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import numpy as np
import soxr

from benchmarks.tunnel import undisturbed
from shared.audio import PACKET, RATE, Float32
from shared.events import Ping, Pong, dump
from shared.latency import percentile
from tests.support.calls import Caller, Voice, called
from tests.support.daemon import environment
from tests.support.netns import SERVER, Network, entered, inside, network
from voxd.commands.control import NotRunning, status
from voxtui.capture.sources import FileSource
from voxtui.link.client import RealtimeClient, Wishes, now_us
from voxtui.link.target import Direct, parse_target
from voxtui.link.transport import BY_UDP, Transport

PORT = 8000
CONDITIONS = (("no impairment", 0.0, 0.0), ("40 ms", 20.0, 0.0), ("40 ms, 1 %", 20.0, 0.01), ("40 ms, 3 %", 20.0, 0.03))
WAYS = ("ws", "webrtc", "call", "stock")
BURST = RATE // 10
START_S, TICK_S, PING_S = 20.0, 0.05, 0.1


@dataclass(slots=True)
class Cell:
    """One way under one condition."""

    heard_ms: list[float] = field(default_factory=list)
    lost: int = 0  # bursts of which nothing was heard
    event_ms: list[float] = field(default_factory=list)  # there and back


def bursts(count: int, seed: int = 1) -> tuple[Float32, list[int]]:
    """A microphone's sound at 16 kHz, and the first sample of each burst in it."""
    random_, starts, at = random.Random(seed), [], RATE
    for _ in range(count):
        starts.append(at)
        at += random_.randrange(int(0.28 * RATE), int(0.4 * RATE))
    sound = np.random.default_rng(seed).standard_normal(at + RATE // 2).astype(np.float32) * 0.001
    for number, start in enumerate(starts):
        tone = np.sin(2 * np.pi * (600 + 250 * (number % 8)) * np.arange(BURST) / RATE + 0.7)
        sound[start : start + BURST] += 0.4 * tone.astype(np.float32)
    return sound, starts


# ── the far machine ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def far(net: Network, *, stock: bool) -> Iterator[Path]:
    """A voxd in the far namespace; gives the file with the times at which it heard bursts."""
    with tempfile.TemporaryDirectory(prefix="vx-", dir="/tmp") as name:
        folder = Path(name)
        tap, sock = folder / "tap", folder / "voxd.sock"
        env = environment(folder, {"VOXD_WEBRTC_ENABLED": "true", "VOXD_TAP": str(tap), "VOXD_LOG_LEVEL": "warning"})
        listens = ("--socket", str(sock), "--listen", f"{SERVER}:{PORT}", "--no-token")
        command = [*inside(net.server), sys.executable, "-m", "tests.support.tapped_voxd", "start", *listens]
        more = {"VOXD_TAP_STOCK": "1"} if stock else {}
        with subprocess.Popen([*command, "--transcribe", "echo"], env=env | more) as process:
            try:
                _until_ready(sock)
                yield tap
            finally:
                process.terminate()
                process.wait(START_S)


def _until_ready(sock: Path) -> None:
    latest = time.monotonic() + START_S
    while time.monotonic() < latest:
        with contextlib.suppress(NotRunning):
            if status(sock)["state"] == "ready":
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["cat"], stdin=subprocess.PIPE, timeout=TICK_S, check=False)
    raise AssertionError("voxd is not ready")


# ── the near one ────────────────────────────────────────────────────────────────────────────────────────────────────


async def by_voxtui(transport: Transport, sound: Float32, starts: list[int], cell: Cell) -> list[int]:
    """Says it all; when each burst was captured, us."""
    said = asyncio.Event()

    def tell(line: str) -> None:
        if line == BY_UDP:
            said.set()

    route = Direct(parse_target(f"ws://{SERVER}:{PORT}"))
    wishes = Wishes(answers=False, transport=transport)
    async with RealtimeClient.connect(route, wishes=wishes, tell=tell) as client, asyncio.TaskGroup() as tasks:

        async def read() -> None:
            async for received in client:
                if isinstance(received.event, Pong):
                    cell.event_ms.append((received.at_us - received.event.t0) / 1000)

        others = [tasks.create_task(read()), tasks.create_task(pings(lambda _: client.ping()))]
        if transport != "ws":
            await asyncio.wait_for(said.wait(), START_S)
        began_us = None
        async for packet in FileSource("bursts", sound).packets():
            began_us = began_us or packet.captured_us - PACKET * 1_000_000 // RATE
            await client.send_audio(packet.pcm, packet.captured_us)
            if packet.end >= sound.size:
                break
        for task in others:
            task.cancel()
    assert began_us is not None
    return [began_us + start * 1_000_000 // RATE for start in starts]


async def by_call(sound: Float32, starts: list[int], cell: Cell) -> list[int]:
    voice = Voice(np.asarray(soxr.resample(sound, RATE, 48_000), np.float32))
    async with (
        httpx.AsyncClient(base_url=f"http://{SERVER}:{PORT}") as client,
        called(client, voice, type="transcription") as caller,
        asyncio.TaskGroup() as tasks,
    ):
        others = [tasks.create_task(read_call(caller, cell)), tasks.create_task(pings(said_by(caller)))]
        ended = asyncio.Event()
        asyncio.get_running_loop().call_later(sound.size / RATE + 0.5, ended.set)
        await ended.wait()
        for task in others:
            task.cancel()
    return [round(voice.begun * 1e6) + start * 1_000_000 // RATE for start in starts]


def said_by(caller: Caller) -> Callable[[str], asyncio.Future[None]]:
    def say(text: str) -> asyncio.Future[None]:
        caller.channel.send(text)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    return say


async def read_call(caller: Caller, cell: Cell) -> None:
    while True:
        event = await caller.until("voxd.pong", 600)
        cell.event_ms.append((now_us() - event["t0"]) / 1000)


async def pings(send: Callable[[str], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    begun, number = loop.time(), 0
    while True:
        await send(dump(Ping(t0=now_us())).decode())
        number += 1
        wake = asyncio.Event()
        loop.call_at(begun + number * PING_S, wake.set)
        await wake.wait()


def matched(said_us: list[int], heard_us: list[int], cell: Cell) -> None:
    """Matches each burst with what was heard of it: in order, and none before it was said."""
    heard = list(heard_us)
    for number, at_us in enumerate(said_us):
        following = said_us[number + 1] if number + 1 < len(said_us) else at_us + 10_000_000
        while heard and heard[0] < at_us:
            heard.pop(0)
        all_there = len(heard) >= len(said_us) - number
        if heard and (all_there or heard[0] < following):
            cell.heard_ms.append((heard.pop(0) - at_us) / 1000)
        else:
            cell.lost += 1


def measured(net: Network, way: str, count: int) -> Cell:
    sound, starts = bursts(count)
    cell = Cell()
    with far(net, stock=way == "stock") as tap:
        with entered(net.client):
            if way in ("ws", "webrtc"):
                said = asyncio.run(by_voxtui("webrtc" if way == "webrtc" else "ws", sound, starts, cell))
            else:
                said = asyncio.run(by_call(sound, starts, cell))
        matched(said, [int(line) for line in tap.read_text().split()], cell)
    return cell


def report(found: dict[str, dict[str, Cell]]) -> str:
    """Markdown: one line for each way, p50/p95/p99 ms."""

    def points(values: list[float]) -> str:
        return "/".join(f"{percentile(values, q):.0f}" for q in (50, 95, 99)) if values else "-"

    lines = []
    for what in ("microphone → session", "event, there and back"):
        lines.append(f"| {what} | " + " | ".join(found) + " |")
        lines.append("|---|" + "---|" * len(found))
        for way in WAYS:
            cells = [cells[way] for cells in found.values()]
            values = [points(each.heard_ms if what.startswith("mic") else each.event_ms) for each in cells]
            lost = [f" ({each.lost} lost)" if each.lost and what.startswith("mic") else "" for each in cells]
            lines.append(f"| {way} | " + " | ".join(a + b for a, b in zip(values, lost, strict=True)) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bursts", type=int, default=60)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found: dict[str, dict[str, Cell]] = {}
    for name, one_way_ms, loss in CONDITIONS:
        found[name] = {}
        for way in WAYS:
            with undisturbed(), network(one_way_ms, loss) as net:
                found[name][way] = measured(net, way, chosen.bursts)
            print(name, way, file=sys.stderr)  # noqa: T201
    print(report(found))  # noqa: T201
    if chosen.json:
        chosen.json.write_text(json.dumps({n: {w: asdict(c) for w, c in cells.items()} for n, cells in found.items()}))


if __name__ == "__main__":
    main()
