"""Attacks by sound: too much of it, in too many pieces, of another kind than was said, at places that are not there."""

from __future__ import annotations

import base64
import json
from functools import cache

import numpy as np

from tests.chaos.attacker import Attacker, Json
from tests.chaos.attacks.sessions import ask, update
from tests.support import peers
from tests.support.speech import clip

COMMIT, CLEAR = {"type": "input_audio_buffer.commit"}, {"type": "input_audio_buffer.clear"}
PUSH_TO_TALK = {"turn_detection": None}
EAGER = {"turn_detection": {"type": "server_vad", "threshold": 0.0, "silence_duration_ms": 160}}


def append(pcm: bytes, **more: object) -> Json:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode(), **more}


def hearing(**sound: object) -> Json:
    return update(audio={"input": sound})


@cache
def speech() -> bytes:
    """Some 10 s of real speech."""
    return b"".join(clip(name).pcm() for name in ("ps_goforward", "two_cities_1"))


@cache
def noise(seconds: int) -> bytes:
    draw = np.random.default_rng(1)
    return draw.integers(-3000, 3000, seconds * 24_000, np.int16).tobytes()


@cache
def great_append() -> str:
    return json.dumps(append(noise(1) * 220))  # 14 MB


async def far_offsets(me: Attacker) -> None:
    """A few bytes at offsets a day further on each time, with and without the right to resume."""
    for query in ("", "?voxd_ext=resume"):
        async with me.session(query) as link:
            await link.send(hearing(format={"type": "audio/pcm", "rate": me.draw.choice([8000, 24_000, 48_000])}))
            for day in range(1, 20):
                await link.send(append(b"\1\0" * 4, voxd_offset=day * 24_000 * 86_400))


async def great_appends(me: Attacker) -> None:
    async with me.session() as link:
        await link.send(hearing(format={"type": "audio/pcm", "rate": me.draw.choice([8000, 16_000, 24_000, 48_000])}))
        await link.send(great_append(), great_append())
        await link.stay()


async def great_companded_appends(me: Attacker) -> None:
    """Large appends of G.711, of which each byte becomes two samples."""
    async with me.session() as link:
        await link.send(hearing(format={"type": "audio/pcmu"}))
        await link.send(great_append())
        await link.stay()


async def tiny_appends(me: Attacker) -> None:
    """Appends of a sample each."""
    one = peers.frame(peers.TEXT, json.dumps(append(b"\1\0")).encode()) * 200
    async with me.session() as link:
        for _ in range(20):
            await link.frames(one)


async def odd_bytes(me: Attacker) -> None:
    """Appends of half a sample, of none, and of invalid base64."""
    async with me.session() as link:
        for text in ("AA==", "", "A", "AAA", "====", "\u00e9", "AAAA" * 3 + "!"):
            await link.send(*[{"type": "input_audio_buffer.append", "audio": text}] * 40)


async def formats(me: Attacker) -> None:
    """A change of the audio format in the middle of a word."""
    kinds: list[Json] = [{"type": "audio/pcm", "rate": rate} for rate in (8000, 16_000, 24_000, 48_000)]
    kinds += [{"type": "audio/pcmu"}, {"type": "audio/pcma"}, {"type": "audio/pcm", "rate": 44_100}]
    async with me.session() as link:
        for _ in range(100):
            start = me.draw.randrange(len(speech()) // 2) * 2
            await link.send(hearing(format=me.draw.choice(kinds)), append(speech()[start : start + 3000]))


async def binary(me: Attacker) -> None:
    """Binary audio, announced and not, whole samples and not."""
    for query in ("", "?voxd_ext=binary"):
        async with me.session(query) as link:
            for size in (0, 1, 3, 960, 100_001):
                await link.frames(peers.frame(peers.BINARY, bytes(size)) * 20)


async def commits(me: Attacker) -> None:
    """Commits and clears, with sound in between and without."""
    async with me.session() as link:
        for _ in range(300):
            await link.send(append(speech()[:8000]), me.draw.choice([COMMIT, CLEAR]), me.draw.choice([COMMIT, CLEAR]))


async def held_buttons(me: Attacker) -> None:
    """Five minutes of sound that are never committed, and more after them."""
    async with me.session() as link:
        await link.send(hearing(format={"type": "audio/pcm", "rate": 16_000}, **PUSH_TO_TALK))
        for _ in range(40):
            await link.send(append(speech()))
        await link.stay()


async def everything_is_speech(me: Attacker) -> None:
    """As much sound as is accepted, of which each noise is a turn with a text and an answer."""
    async with me.session() as link:
        await link.send(hearing(**EAGER))
        for _ in range(20):
            await link.send(append(noise(10)), append(bytes(24_000)))
        await link.send(ask())


async def clips_in_items(me: Attacker) -> None:
    """Sound in items, as base64 in JSON, which no engine hears."""
    content = [{"type": "input_audio", "audio": base64.b64encode(noise(10)).decode()}] * 8
    async with me.session() as link:
        for _ in range(10):
            await link.send(
                {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}
            )
        await link.send(ask())


async def vanish(me: Attacker) -> None:
    """Resumable sessions full of sound whose clients never come back."""
    async with me.session("?voxd_ext=resume") as link:
        await link.send(hearing(format={"type": "audio/pcm", "rate": 16_000}, **PUSH_TO_TALK))
        for _ in range(10):
            await link.send(append(speech()))
        await me.hold(0.5)
        link.peer.reset()
