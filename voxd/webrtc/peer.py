"""One peer connection of aiortc, changed to fit a server that is open to anybody.  Steps 3 and 11 of a packet's path,
by WebRTC.

It knows aiortc and aioice, including a few of their private attributes (`tests/voxd/webrtc/test_calls.py` names the
versions in which they were read); not HTTP, sessions or events.

It differs from plain aiortc in this:

    jitter buffer   a packet is passed on when it comes.  aiortc holds four back (80 ms), and sixteen (320 ms) after the
                    first lost packet.  A late packet counts as lost: `voxd.webrtc.track` fills its place with silence
    UDP port        one, from the operator's range, on the address that the operator or the client's request names
    datagrams       those from strangers, empty ones and floods are dropped before DTLS sees them
    servers         no other server is contacted: no STUN, no TURN, no mDNS

Bounds: 1 MiB of incomplete messages and INBOX bytes of unread ones, beyond which the call ends; OUTBOX bytes not yet
sent, beyond which `send` waits; DATAGRAMS waiting for DTLS, PACKETS of audio a second and PAIRS of addresses, beyond
which packets are dropped.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from aioice import Candidate
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import Connection as IceConnection, StunProtocol
from aiortc import (
    InvalidStateError,
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcsctptransport import DataChunk
from aiortc.rtp import RtpPacket
from av import AudioFrame

from shared.audio import Int16
from voxd.webrtc.sdp import Offer

CHANNEL = "oai-events"
VANISHED = "the client vanished"
INBOX = 4 << 20  # bytes
OUTBOX = 256 << 10  # bytes
DATAGRAMS = 1024
PAIRS = 32  # addresses of the client; of a client with more, those that came first are used
PACKETS = 500  # a second: twice what the smallest Opus frames need
STUN_BELOW = 4  # a datagram whose first byte is below this is STUN (RFC 7983)


class PeerGone(Exception):
    """The client is no longer there, or has closed the call."""


class NoPort(Exception):
    """No UDP port of the operator's range is free."""


class ImmediateBuffer:
    """A jitter buffer that passes each packet on at once.  An RTP packet of Opus is one frame."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._credit, self._at = float(PACKETS), time.monotonic()

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Whether to ask the sender for a key frame (never: that is for video), and the frame, if it is passed on."""
        ahead = 1 if self._last is None else (packet.sequence_number - self._last) & 0xFFFF
        if not 0 < ahead < 0x8000 or not self._admits():
            return False, None
        self._last = packet.sequence_number
        return False, JitterFrame(packet._data, packet.timestamp)  # type: ignore[attr-defined]  # set by the receiver

    def _admits(self) -> bool:
        now = time.monotonic()
        self._credit = min(self._credit + (now - self._at) * PACKETS, PACKETS)
        self._at = now
        if self._credit < 1:
            return False
        self._credit -= 1
        return True


class _SenderTimestamps:
    """Maps RTP timestamps to numbers that do not wrap but stay the sender's own.

    aiortc's mapper would begin at 0 and would read a small step back as 24 hours forward."""

    def __init__(self) -> None:
        self._last: int | None = None

    def map(self, timestamp: int) -> int:
        if self._last is not None:
            timestamp = nearest(timestamp, self._last)
        self._last = timestamp
        return timestamp


def nearest(timestamp: int, position: int) -> int:
    """The number nearest to `position` that a timestamp of 32 bits can stand for."""
    return position + (timestamp - position + (1 << 31)) % (1 << 32) - (1 << 31)


class Ports:
    """The UDP ports from low to high, both included."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._count = low, high - low + 1

    def bind(self, address: str) -> socket.socket:
        """A socket on a free port of this address.  If the address is not one of this machine (it lies outside a NAT),
        the socket is bound to all addresses.  Raises NoPort."""
        first = random.randrange(self._count)
        for step in range(self._count):
            if sock := _bound(address, self._low + (first + step) % self._count):
                return sock
        raise NoPort


def _bound(address: str, port: int) -> socket.socket | None:
    family, anywhere = (socket.AF_INET6, "::") if ":" in address else (socket.AF_INET, "0.0.0.0")
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            sock.bind((anywhere, port))
    except OSError:  # the port is in use, or this user may not have it
        sock.close()
        return None
    return sock


class _Datagrams(StunProtocol):
    """aioice's protocol for datagrams of the client only: else one empty datagram from anybody could end a call."""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if not isinstance(data, bytes) or not data or self.receiver._queue.qsize() >= DATAGRAMS:
            return
        known = any(pair.remote_addr == addr[:2] for pair in self.receiver._check_list)
        is_stun = data[0] < STUN_BELOW  # it is authenticated by itself
        if known or (is_stun and len(self.receiver._check_list) < PAIRS):
            super().datagram_received(data, addr)


def _listen(ice: IceConnection, ports: Ports, address: str) -> None:
    """Makes `ice` gather a single candidate: `address` with a port of the range."""

    async def gather(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:  # noqa: ASYNC109
        sock = ports.bind(address)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_datagram_endpoint(lambda: _Datagrams(ice), sock=sock)
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", address),
            component=component,
            transport="udp",
            priority=candidate_priority(component, "host"),
            host=address,
            port=sock.getsockname()[1],
            type="host",
        )
        ice._protocols.append(protocol)
        return [protocol.local_candidate]

    ice.get_component_candidates = gather  # type: ignore[method-assign]


class Peer:
    """A peer connection: `answer` an offer, wait for `opened`, then receive and send until a method raises PeerGone.

    `stray`: given the name of a data channel that is not the one for events, returns what is written to it."""

    def __init__(self, stray: Callable[[str], str]) -> None:
        self._stray = stray
        servers = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.BALANCED)
        self._pc = RTCPeerConnection(servers)
        audio = self._pc.addTransceiver("audio", direction="recvonly")
        audio.setCodecPreferences(
            [each for each in RTCRtpSender.getCapabilities("audio").codecs if each.mimeType.lower() == "audio/opus"]
        )
        audio.receiver._RTCRtpReceiver__jitter_buffer = ImmediateBuffer()  # type: ignore[attr-defined]
        audio.receiver._RTCRtpReceiver__timestamp_mapper = _SenderTimestamps()  # type: ignore[attr-defined]
        self._receiver: RTCRtpReceiver = audio.receiver
        self._channel: RTCDataChannel | None = None
        self._inbox: deque[str] = deque()
        self._inbox_bytes = 0
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self.opened = asyncio.Event()
        self.connected = asyncio.Event()  # media can flow
        self._why: str | None = None
        self._pc.on("connectionstatechange", self._state_changed)
        self._pc.on("datachannel", self._channel_came)

    async def answer(self, offer: Offer, ports: Ports, address: str) -> str:
        """The SDP answer, with `address` as the only candidate.  Raises NoPort, and ValueError if aiortc refuses."""
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(offer.text(), "offer"))
            self._bound_messages()
            _listen(self._receiver.transport.transport.iceGatherer._connection, ports, address)
            await self._pc.setLocalDescription(await self._pc.createAnswer())
        except (InvalidStateError, AssertionError) as error:
            raise ValueError(str(error)) from error
        return str(self._pc.localDescription.sdp)

    async def receive_frame(self) -> tuple[int, Int16]:
        """The next frame of audio: its timestamp in ticks of 1/48000 s, and int16 [n, channels].  Raises PeerGone when
        the sender has ended its track."""
        track: MediaStreamTrack = self._receiver.track
        try:
            frame = await track.recv()
        except MediaStreamError:
            raise PeerGone("the track has ended") from None
        assert isinstance(frame, AudioFrame)
        assert frame.pts is not None
        return frame.pts, frame.to_ndarray().astype(np.int16, copy=False).reshape(-1, frame.layout.nb_channels)

    @property
    def has_track(self) -> bool:
        """Does the offer announce audio?"""
        return self._receiver.track is not None

    async def receive_message(self) -> str:
        """The next message of the data channel.  Raises PeerGone."""
        while not self._inbox:
            if self._why is not None:
                raise PeerGone(self._why)
            self._changed.clear()
            await self._changed.wait()
        message = self._inbox.popleft()
        self._inbox_bytes -= len(message)
        return message

    async def send(self, message: str) -> None:
        """Sends a message; returns when there is room for another.  Raises PeerGone."""
        if self._channel is None or self._channel.readyState != "open":
            raise PeerGone(self._why or "the channel is closed")
        self._channel.send(message)
        await self._until_below(OUTBOX)

    async def flush(self) -> None:
        """Waits until everything that was sent has arrived.  Raises PeerGone."""
        await self._until_below(0)

    def end(self, why: str) -> None:
        """Ends the call: every wait, now or later, raises PeerGone with this reason."""
        self._why = self._why or why
        self._changed.set()
        self._drained.set()

    async def close(self) -> None:
        # aiortc may be closing it already; a cancelled wait must not interrupt that.
        await asyncio.shield(self._pc.close())

    async def _until_below(self, limit: int) -> None:
        channel = self._channel
        while channel is not None and channel.bufferedAmount > limit:
            if self._why is not None:
                raise PeerGone(self._why)
            channel.bufferedAmountLowThreshold = limit
            self._drained.clear()
            await self._drained.wait()

    def _bound_messages(self) -> None:
        """Ends the call of a client that sends more than it was given room for: aiortc announces a window of 1 MiB, but
        accepts anything beyond it."""
        sctp = self._pc.sctp
        if sctp is None:
            return
        receive = sctp._receive_data_chunk

        async def bounded(chunk: DataChunk) -> None:
            if sctp._advertised_rwnd > 0:
                await receive(chunk)
            else:
                self.end("the client sends more than there is room for")

        sctp._receive_data_chunk = bounded  # type: ignore[method-assign]

    # ── callbacks of aiortc ─────────────────────────────────────────────────────────────────────────────────────────

    def _channel_came(self, channel: RTCDataChannel) -> None:
        """The client has opened a data channel; it is usable at once."""
        if channel.label != CHANNEL or self._channel is not None:
            channel.send(self._stray(channel.label))
            return
        self._channel = channel
        channel.on("message", self._message_came)
        channel.on("bufferedamountlow", self._drained.set)
        channel.on("close", self._closed)
        self.opened.set()

    def _message_came(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode("utf-8", "replace")
        if self._inbox_bytes + len(text) > INBOX:
            self.end("messages came faster than they could be read")
            return
        self._inbox.append(text)
        self._inbox_bytes += len(text)
        self._changed.set()

    def _state_changed(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            self.connected.set()
        elif state == "failed":
            self.end(VANISHED if self.connected.is_set() else "no network path for media was found")
        elif state == "closed":
            self._closed()

    def _closed(self) -> None:
        """The connection has closed: by the client, or because its ICE agent has not consented for half a minute."""
        vanished = self._receiver.transport.transport._connection._closing
        self.end(VANISHED if vanished else "closed by the client")
