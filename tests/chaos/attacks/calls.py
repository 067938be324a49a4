"""Attacks by calls: offers that are refused late, offers that nobody goes on with, datagrams of strangers."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

from tests.chaos.attacker import Attacker
from tests.chaos.attacks.bodies import CALLS, EDGE, FORM, part

OFFER = (Path(__file__).parents[2] / "data" / "chromium_offer.sdp").read_text().replace("\n", "\r\n").encode()
SDP = "application/sdp"


def offered(session: bytes) -> bytes:
    return part("sdp", OFFER) + part("session", session) + f"--{EDGE}--\r\n".encode()


async def refused_calls(me: Attacker) -> None:
    """Offers that are right except for the session that they ask for."""
    for session in (
        b'{"type":"realtime","max_output_tokens":-1}',
        b'{"type":"realtime","max_output_tokens":1%s}' % (b"0" * 29),
        b'{"type":"transcription","audio":{"input":{"transcription":{"delay":[]}}}}',
        b'{"type":"nothing"}',
        b"[" * 3000,
        b"",
    ):
        for _ in range(5):
            await me.request("POST", CALLS, offered(session), FORM)


async def unanswered_calls(me: Attacker) -> None:
    """Calls that the daemon accepts and the client never connects."""
    for _ in range(4):
        await me.request("POST", CALLS, OFFER, SDP)
    await me.hold()


async def broken_offers(me: Attacker) -> None:
    for _ in range(20):
        at = me.draw.randrange(len(OFFER))
        await me.request("POST", CALLS, OFFER[:at] + me.draw.randbytes(3) + OFFER[at + 1 :], SDP)
    await me.request("POST", CALLS, OFFER + b"a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n" * 1000, SDP)


async def hang_ups(me: Attacker) -> None:
    """Hang-ups of other clients' calls, and of its own twice and at once."""
    answer = await me.request("POST", CALLS, OFFER, SDP)
    found = re.search(rb"[Ll]ocation: (\S+)", answer)
    own = found[1].decode() if found else f"{CALLS}/rtc_{me.draw.randrange(1 << 60):x}"
    for path in (own, own, f"{CALLS}/rtc_{'0' * 24}", f"{CALLS}/{'x' * 5000}"):
        await me.request("DELETE", path)
        await me.request("POST", f"{path}/hangup")


async def guessed_legs(me: Attacker) -> None:
    for token in ("x", "A" * 43, "%00", "A" * 5000):
        await me.request("POST", f"{CALLS}?voxd_session={token}", OFFER, SDP)


async def datagrams(me: Attacker) -> None:
    """Datagrams to every media port: noise, ICE checks, DTLS handshakes and sound that belong to no call."""
    low, high = me.target.udp
    check = struct.pack("!HHI", 1, 8, 0x2112A442) + me.draw.randbytes(20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((me.address, 0))
        sender.setblocking(False)
        for port in range(low, high + 1):
            for data in (check, b"\x16\xfe\xff" + me.draw.randbytes(60), b"\x80\x6f" + me.draw.randbytes(200), b""):
                try:
                    sender.sendto(data, ("127.0.0.1", port))
                except (BlockingIOError, ConnectionError):  # the answer to one before: nobody is there
                    continue
    await me.hold(0.2)
