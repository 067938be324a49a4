"""Attacks by the bodies of requests: held open, dripped, in strange pieces, of files that are more than they seem."""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np
import soundfile

from tests.chaos.attacker import Attacker, Denied
from tests.support.peers import Peer

FILES, SECRETS, CALLS = "/v1/audio/transcriptions", "/v1/realtime/client_secrets", "/v1/realtime/calls"
EDGE = "----edge"
FORM = f"multipart/form-data; boundary={EDGE}"
JSON = "application/json"
HOURS = 5
MIB = bytes(1 << 20)


def part(name: str, data: bytes, more: str = "") -> bytes:
    return f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"


def form(data: bytes, *fields: tuple[str, bytes]) -> bytes:
    """A form with a file and other fields."""
    parts = [part(name, value) for name, value in fields] + [part("file", data, '; filename="a.wav"')]
    return b"".join(parts) + f"--{EDGE}--\r\n".encode()


@cache
def silence() -> bytes:
    """A file of a MiB or two that holds hours of silence."""
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        hour = np.zeros(3600 * 8000, np.int16)
        for _ in range(HOURS):
            file.write(hour)
    return out.getvalue()


def wav(rate: int, channels: int, size: int, data: bytes) -> bytes:
    """A WAV header with these numbers, whether true or not."""
    shape = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate, rate * 2 & 0xFFFFFFFF, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + shape
        + b"data"
        + struct.pack("<I", size)
        + data
    )


async def begun(me: Attacker, path: str, kind: str, said: int, sent: bytes, *, key: bool = True) -> None:
    """Begins a request that claims `said` bytes, sends some, and waits."""
    async with me.line() as peer:
        headers = f"Content-Type: {kind}\r\nContent-Length: {said}\r\n"
        await peer.send(me.head("POST", path, headers, key=key) + sent)
        await peer.is_cut(me.draw.uniform(10, 40))


async def most_of_a_file(me: Attacker, peer: Peer, mib: int) -> None:
    """Sends so many MiB of an upload of 25 in pieces, so that no process holds them all."""
    headers = f"Content-Type: {FORM}\r\nContent-Length: {25 << 20}\r\n"
    await peer.send(me.head("POST", FILES, headers) + part("file", b"", '; filename="a.wav"')[:-2])
    for _ in range(mib):
        if not await peer.send(MIB):
            raise Denied("not taken")


async def held_uploads(me: Attacker) -> None:
    """Uploads of 24 MiB that are held open before their end."""
    async with me.line() as peer:
        await most_of_a_file(me, peer, 24)
        await peer.is_cut(me.draw.uniform(10, 40))


async def dripped_uploads(me: Attacker) -> None:
    """Uploads that send a byte now and then, so that they never stall."""
    async with me.line() as peer:
        await most_of_a_file(me, peer, 8)
        for _ in range(60):
            if not await peer.send(b"\0") or await peer.is_cut(1):
                break


async def unfinished_secrets(me: Attacker) -> None:
    await begun(me, SECRETS, JSON, 5000, b'{"session":')


async def unfinished_calls(me: Attacker) -> None:
    await begun(me, CALLS, "application/sdp", 5000, b"v=0\r\n")


async def unknown_uploads(me: Attacker) -> None:
    """Uploads without a key, and to paths that do not exist."""
    await begun(me, FILES, FORM, 25 << 20, bytes(1 << 20), key=False)
    await begun(me, "/nowhere", JSON, 1 << 40, bytes(1 << 20))


async def broken_files(me: Attacker) -> None:
    """Files with absurd numbers in their headers, noise, and nothing at all."""
    sound = bytes(32_000)
    for data in (
        wav(0, 1, 32_000, sound),
        wav(0xFFFFFFFF, 1, 32_000, sound),
        wav(16_000, 65_535, 32_000, sound),
        wav(1, 1, 0xFFFFFFFF, sound),
        me.draw.randbytes(100_000),
        b"fLaC" + me.draw.randbytes(1000),
        b"OggS" + me.draw.randbytes(1000),
        silence()[:5000],
        b"",
    ):
        await me.request("POST", FILES, form(data), FORM)


async def long_silence(me: Attacker) -> None:
    await me.request("POST", FILES, form(silence()), FORM)


async def long_silence_left(me: Attacker) -> None:
    """Hours of silence whose client leaves before the answer."""
    async with me.line() as peer:
        body = form(silence(), ("stream", b"true"))
        headers = f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n"
        await peer.send(me.head("POST", FILES, headers) + body)
        await me.hold(2)
        peer.reset()


async def many_fields(me: Attacker) -> None:
    """Forms of nothing but parts, of one endless header, of boundaries."""
    for data in (
        part("x", b"y") * 5000,
        f"--{EDGE}\r\n".encode() * 50_000,
        f"--{EDGE}\r\nX: ".encode() + b"y" * 500_000,
        part("prompt", b"p" * 5_000_000),
    ):
        await me.request("POST", FILES, data + form(b"", ("language", b"l" * 60_000)), FORM)


async def chunks(me: Attacker) -> None:
    """Chunked bodies of a byte each, then with sizes that are no numbers."""
    headers = f"Content-Type: {FORM}\r\nTransfer-Encoding: chunked\r\n"
    for data in (b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n", b"f" * 30 + b"\r\nx", b"-1\r\n", b"1;" + b"e" * 90_000):
        async with me.line() as peer:
            await peer.send(me.head("POST", FILES, headers) + data)
            await peer.is_cut(1)


async def secrets(me: Attacker) -> None:
    """Requests for client secrets without end, with the largest session, and with invalid ones."""
    for body in (
        b'{"session":{"type":"realtime","instructions":"%s"}}' % (b"x" * 60_000),
        b'{"session":{"type":"realtime","max_output_tokens":1%s}}' % (b"0" * 29),
        b'{"expires_after":{"anchor":"created_at","seconds":1e99},"session":{"type":"realtime"}}',
        b'{"session":%s}' % (b"[" * 50_000),
        b"x" * (2 << 20),
    ):
        for _ in range(10):
            await me.request("POST", SECRETS, body)
