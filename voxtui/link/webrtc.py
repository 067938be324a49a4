"""The sound of a session over UDP, beside its WebSocket: a peer connection that only sends Opus.  Step 2 of a packet's
path, where `voxtui.link.transport` wants it.

It knows aiortc (an extra, imported when a leg is opened) and how voxd is asked for a leg; not when one is wanted, nor
what is kept for another try.  The RTP timestamp of a packet is its position in the session, so nothing is agreed about
where audio begins or ends.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from shared.audio import PACKET, RATE
from shared.extras import how_to_install
from shared.safe_text import safe_line
from shared.urls import CALLS, SESSION
from voxtui.link.http_client import NoAnswer, complaint, exchange
from voxtui.link.target import Address

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

OPEN_S = 5.0
CLOCK = 3  # ticks of the RTP clock (48 kHz) in a sample
BITS = 32_000  # bits a second: for speech at 16 kHz Opus gains nothing audible beyond it


class NoLeg(Exception):
    """Why there is no leg, as the end of a sentence.  `final`: another try would end the same way."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


@dataclass(slots=True)
class Leg:
    """The UDP leg of a session: `open` one, `send` packets until `over` is set, `close`; `counted` tells how many
    arrive."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    _pc: Any = None
    _sender: Any = None
    _sent: int = 0  # packets
    _codec: Any = None
    _ssrc: int = 0
    _payload_type: int = 0
    _number: int = field(default_factory=lambda: random.randrange(1 << 15))

    @classmethod
    async def open(cls, address: Address, token: str) -> Leg:
        """Opens a leg for the session of this resume token.  Raises NoLeg."""
        try:
            import aiortc  # noqa: F401
        except ImportError:
            raise NoLeg(f"this voxtui lacks aiortc; `{how_to_install('webrtc')}` brings it.", final=True) from None
        if address.proxy is not None:
            raise NoLeg(f"no UDP passes {address.proxy}.", final=True)
        leg = cls()
        try:
            async with asyncio.timeout(OPEN_S):
                await leg._connect(address, token)
        except TimeoutError:
            await leg.close()
            raise NoLeg(f"no UDP gets through to voxd within {OPEN_S:.0f} s.") from None
        except (OSError, NoAnswer, ValueError) as error:
            await leg.close()
            raise NoLeg(f"{safe_line(str(error))}.") from None
        except (NoLeg, asyncio.CancelledError):
            await leg.close()
            raise
        return leg

    async def _connect(self, address: Address, token: str) -> None:
        from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

        self._pc = pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        transceiver = pc.addTransceiver("audio", direction="sendonly")
        connected = asyncio.Event()

        def changed() -> None:
            if pc.connectionState == "connected":
                connected.set()
            elif pc.connectionState in ("failed", "closed"):
                self.over.set()

        pc.on("connectionstatechange", changed)
        await pc.setLocalDescription(await pc.createOffer())
        answer = await self._ask(pc, address, token)
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await connected.wait()
        self._sender, self._ssrc = transceiver.sender, transceiver.sender._ssrc
        self._payload_type = int(transceiver._codecs[0].payloadType or 0)
        self._codec = _encoder()

    async def _ask(self, pc: RTCPeerConnection, address: Address, token: str) -> str:
        """Gets the answer to the offer, which names no address of this machine: voxd learns it from the first
        packet."""
        lines = pc.localDescription.sdp.splitlines(keepends=True)
        offer = "".join(line for line in lines if not line.startswith(("a=candidate", "a=end-of-candidates")))
        path = f"{CALLS}?{SESSION}={quote(token, safe='')}"
        status, body = await exchange(address, "POST", path, offer.encode(), "application/sdp")
        if status != 201:
            said = complaint(body)
            reason = safe_line(said.message) if said else f"voxd answers with HTTP {status}."
            raise NoLeg(reason, final=status != 503)
        return body.decode()

    async def send(self, pcm: bytes, offset: int) -> None:
        """Sends 20 ms of s16le at 16 kHz whose first sample has this position in the session; dropped if the leg is
        over."""
        import av
        from aiortc.rtp import HeaderExtensionsMap, RtpPacket

        samples = np.frombuffer(pcm.ljust(2 * PACKET, b"\0"), "<i2")
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, offset, Fraction(1, RATE)
        for encoded in self._codec.encode(frame):
            packet = RtpPacket(
                payload_type=self._payload_type,
                sequence_number=self._number,
                timestamp=int(encoded.pts) * CLOCK % (1 << 32),  # the encoder's own delay is taken off by it
            )
            self._number = (self._number + 1) % (1 << 16)
            packet.ssrc, packet.payload = self._ssrc, bytes(encoded)
            try:
                await self._sender.transport._send_rtp(packet.serialize(HeaderExtensionsMap()))
                self._sent += 1
            except ConnectionError:
                self.over.set()

    async def counted(self) -> tuple[int, int]:
        """How many packets were sent, and how many of them voxd misses by the latest of its reports, which come about
        once a second (RFC 3550, section 6.4.1: cumulative number of packets lost)."""
        report = await self._sender.getStats()
        lost = [each.packetsLost for each in report.values() if each.type == "remote-inbound-rtp"]
        return self._sent, max(0, *lost, 0)

    async def close(self) -> None:
        self.over.set()
        if self._pc is not None:
            # aiortc may be closing it already, and whoever is cancelled while waiting for that would break it off.
            await asyncio.shield(self._pc.close())


def _encoder() -> Any:
    """Opus without the 6.5 ms that it would look ahead for speech."""
    import av

    codec: Any = av.CodecContext.create("libopus", "w")
    codec.sample_rate, codec.layout, codec.format = RATE, "mono", "s16"
    codec.time_base, codec.bit_rate = Fraction(1, RATE), BITS
    codec.options = {"application": "lowdelay", "frame_duration": "20"}
    return codec
