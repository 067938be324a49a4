"""N sessions of 20 ms packets in real time: how long until what a packet causes is back, and what it costs.

`python -m benchmarks.wire [N ...]`.  This process is the generator; voxd (gateway and engine process, transcriber
`echo`, server VAD) or the control (bare uvicorn that echoes the same packets) run beside it on the same cores.

    stopped   the packet that holds the last sample of the deciding VAD frame is sent -> `speech_stopped` is here
    pong      `voxd.ping` is sent -> `voxd.pong` is here: the gateway without VAD and engine process
    echo      a packet is sent -> it is back, from the control
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from shared import events
from shared.audio import PACKET, RATE
from shared.latency import percentile
from tests.support.daemon import voxd_process
from tests.support.speech import clip

SECONDS = 12.0
WARM_UP = 3.0  # seconds that do not count
PACKET_S = PACKET / RATE
TICKS = os.sysconf("SC_CLK_TCK")
SESSION = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": RATE}, "transcription": {}}}}
UPDATE = events.dump(events.SessionUpdate(session=SESSION)).decode()


def packets() -> list[str]:
    """One utterance and a pause, as messages."""
    pcm = clip("ps_goforward").pcm() + bytes(2 * RATE * 3 // 2)
    size = 2 * PACKET
    return [events.dump(events.AudioAppend(pcm[at : at + size])).decode() for at in range(0, len(pcm) - size, size)]


async def echo(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
    """The control: an ASGI application that does nothing but give back what comes."""
    while scope["type"] == "websocket":
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            return


@contextmanager
def echo_server() -> Iterator[tuple[Path, dict[str, int]]]:
    with tempfile.TemporaryDirectory(prefix="vx-", dir="/tmp") as folder:
        path = Path(folder) / "echo.sock"
        arguments = ("--uds", str(path), "--ws", "websockets-sansio", "--log-level", "critical", "--lifespan", "off")
        options = ("--ws-per-message-deflate", "false")
        process = subprocess.Popen([sys.executable, "-m", "uvicorn", "benchmarks.wire:echo", *arguments, *options])
        try:
            while not path.exists():
                assert process.poll() is None
            yield path, {"server": process.pid}
        finally:
            process.terminate()
            process.wait()


@contextmanager
def voxd_server() -> Iterator[tuple[Path, dict[str, int]]]:
    with voxd_process("--transcribe", "echo", env={"VOXD_SERVER_MAX_SESSIONS": "256"}) as daemon:
        engine = daemon.status()["engine_pid"]
        assert isinstance(engine, int)
        yield daemon.socket, {"gateway": daemon.process.pid, "engine": engine}


@dataclass(slots=True)
class Tally:
    """The figures of one run, ms."""

    counts_from: float = 0.0
    taken: dict[str, list[float]] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)  # of the generator itself: a packet sent after its time

    def add(self, name: str, begun: float) -> None:
        now = time.monotonic()
        if now >= self.counts_from:
            self.taken.setdefault(name, []).append((now - begun) * 1000)


class Generator:
    """One session: packets on time, and a stamp for each."""

    def __init__(self, link: ClientConnection, tally: Tally, messages: list[str]) -> None:
        self._link, self._tally, self._messages = link, tally, messages
        self._sent: list[float] = []
        self._echoes: deque[float] = deque()

    async def run(self, begin: float, end: float, *, voxd: bool) -> None:
        if voxd:
            await self._link.send(UPDATE)
        reading = asyncio.create_task(self._hear() if voxd else self._count())
        loop, number = asyncio.get_running_loop(), 0
        while (due := begin + number * PACKET_S) < end:
            wake = asyncio.Event()
            loop.call_at(due, wake.set)
            await wake.wait()
            self._tally.late.append((time.monotonic() - due) * 1000)
            self._sent.append(time.monotonic())
            self._echoes.append(self._sent[-1])
            await self._link.send(self._messages[number % len(self._messages)])
            number += 1
            if voxd and number % 25 == 0:
                await self._link.send(json.dumps({"type": "voxd.ping", "t0": time.monotonic()}))
        await self._link.close()
        await reading

    async def _hear(self) -> None:
        try:
            while True:
                frame = json.loads(await self._link.recv())
                if frame["type"] == "input_audio_buffer.speech_stopped":
                    decided = -(-frame["audio_end_ms"] * RATE // 1000 // PACKET) - 1
                    self._tally.add("stopped", self._sent[decided])
                elif frame["type"] == "voxd.pong":
                    self._tally.add("pong", frame["t0"])
        except ConnectionClosed:
            return

    async def _count(self) -> None:
        try:
            while await self._link.recv():
                self._tally.add("echo", self._echoes.popleft())
        except ConnectionClosed:
            return


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def load(path: Path, pids: dict[str, int], count: int) -> tuple[Tally, dict[str, float]]:
    """`count` sessions for a while; latencies, and percent of a core for each process."""
    tally, messages = Tally(), packets()
    voxd = "gateway" in pids
    url = "ws://x/v1/realtime?intent=transcription"
    links = [await unix_connect(str(path), url, compression=None, ping_interval=None) for _ in range(count)]
    start = time.monotonic() + 0.5
    tally.counts_from, end = start + WARM_UP, start + WARM_UP + SECONDS
    before = {name: cpu_s(pid) for name, pid in pids.items()} | {"generator": time.process_time()}
    span = len(messages) * PACKET_S
    # Spread over one loop of the clip, so that not all stop speaking at once; within it on no common 20 ms grid.
    turned = [int(i * span / count / PACKET_S) for i in range(count)]
    runs = [
        Generator(link, tally, messages[turned[i] :] + messages[: turned[i]]).run(
            start + (i * 7 % count) / count * PACKET_S, end, voxd=voxd
        )
        for i, link in enumerate(links)
    ]
    await asyncio.gather(*runs)
    wall = time.monotonic() - start
    after = {name: cpu_s(pid) for name, pid in pids.items()} | {"generator": time.process_time()}
    return tally, {name: 100 * (after[name] - before[name]) / wall for name in before}


def line(name: str, count: int, values: list[float], cpu: dict[str, float]) -> str:
    points = " ".join(f"p{point} {percentile(values, point):7.2f}" for point in (50, 95, 99))
    return f"{count:4} {name:<8} n {len(values):>6}  {points}   " + " ".join(f"{k} {v:.0f} %" for k, v in cpu.items())


def measure(count: int) -> str:
    """Control and voxd, one after the other, as lines of text."""
    lines = []
    with echo_server() as (path, pids):
        control, cpu = asyncio.run(load(path, pids, count))
    lines.append(line("echo", count, control.taken["echo"], cpu))
    with voxd_server() as (path, pids):
        found, cpu = asyncio.run(load(path, pids, count))
    lines += [line(name, count, found.taken[name], cpu) for name in ("pong", "stopped")]
    bare = percentile(control.taken["echo"], 95)
    ratios = ", ".join(f"{name} {percentile(found.taken[name], 95) / bare:.1f}" for name in ("pong", "stopped"))
    lines.append(
        f"{count:4} p95 as multiples of echo: {ratios}; generator late p95 {percentile(found.late, 95):.2f} ms"
    )
    return "\n".join(lines)


def main() -> None:
    for count in [int(each) for each in sys.argv[1:]] or [64]:
        print(measure(count), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
