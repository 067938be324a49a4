"""A caller by WebRTC, made of aiortc: what a browser does, in a test."""

from __future__ import annotations

import asyncio
import fractions
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import av
import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from shared.audio import Float32, Int16
from tests.support.daemon import Daemon

RATE = 48_000  # Hz
FRAME = 960  # samples in 20 ms
PATH = "/v1/realtime/calls"
OPEN_S = 60.0
Json = dict[str, Any]


class Voice(MediaStreamTrack):
    """A microphone that hears `samples` (float32 [n] at 48 kHz), then silence, in real time from `begun` (s) on."""

    kind = "audio"

    def __init__(self, samples: Float32 | None = None) -> None:
        super().__init__()
        self._samples: Int16 = (np.zeros(0) if samples is None else samples * 32767).astype(np.int16)
        self._at, self.begun = 0, time.monotonic()

    async def recv(self) -> av.AudioFrame:
        """Each frame is there when its last sample has been heard."""
        due = self.begun + (self._at + FRAME) / RATE
        heard = asyncio.Event()
        asyncio.get_running_loop().call_later(due - time.monotonic(), heard.set)
        await heard.wait()
        chunk = np.zeros(FRAME, np.int16)
        part = self._samples[self._at : self._at + FRAME]
        chunk[: part.size] = part
        frame = av.AudioFrame.from_ndarray(chunk[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._at, fractions.Fraction(1, RATE)
        self._at += FRAME
        return frame


class Caller:
    """One call.  `events`: what came over the channel."""

    def __init__(self, voice: Voice | None = None) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.pc.createDataChannel("oai-events")
        self.events: asyncio.Queue[Json] = asyncio.Queue()
        self.opened, self.closed = asyncio.Event(), asyncio.Event()
        self.location = ""
        self.channel.on("message", lambda text: self.events.put_nowait(json.loads(text)))
        self.channel.on("open", self.opened.set)
        self.channel.on("close", self.closed.set)
        self.pc.addTrack(voice or Voice())

    async def offer(self) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return str(self.pc.localDescription.sdp)

    async def take(self, answer: httpx.Response) -> None:
        assert answer.status_code == 201, answer.text
        self.location = answer.headers["Location"]
        await self.pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))

    async def until(self, kind: str, seconds: float = 120.0) -> Json:
        """The next event of this type."""
        async with asyncio.timeout(seconds):
            while (event := await self.events.get())["type"] != kind:
                pass
        return event

    def say(self, **event: object) -> None:
        self.channel.send(json.dumps(event))


def http(daemon: Daemon) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(daemon.socket))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300)


def form(sdp: str, session: Json) -> dict[str, tuple[str | None, str, str]]:
    return {"sdp": (None, sdp, "application/sdp"), "session": (None, json.dumps(session), "application/json")}


@asynccontextmanager
async def called(client: httpx.AsyncClient, voice: Voice | None = None, **session: object) -> AsyncIterator[Caller]:
    """A call whose channel is open, until the end of the block; hung up by closing it."""
    caller = Caller(voice)
    try:
        await caller.take(await client.post(PATH, files=form(await caller.offer(), {"type": "realtime", **session})))
        await asyncio.wait_for(caller.opened.wait(), OPEN_S)
        yield caller
    finally:
        await caller.pc.close()
