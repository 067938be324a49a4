"""Attacks by events of a session: with the right key, and far more of everything than a client needs."""

from __future__ import annotations

import json
from functools import cache

from tests.chaos.attacker import Attacker, Denied, Json

GREAT = 20 << 20  # bytes of a session.update
TEXT = 199_000  # characters of an item: 200 000 are taken


def item(text: str, key: str = "", **more: object) -> Json:
    """`conversation.item.create` of a typed text."""
    about = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"type": "conversation.item.create", "item": about | ({"id": key} if key else {}), **more}


def update(**session: object) -> Json:
    return {"type": "session.update", "session": {"type": "realtime", **session}}


def ask(**response: object) -> Json:
    return {"type": "response.create", **({"response": response} if response else {})}


CANCEL: Json = {"type": "response.cancel"}


@cache
def great_update() -> str:
    tool = {"type": "function", "name": "f", "description": "x" * 90, "parameters": {"type": "object"}}
    return json.dumps(update(tools=[tool] * (GREAT // len(json.dumps(tool)))))


@cache
def written(sign: str) -> str:
    """An item of nothing but this character, as bytes on the wire and not as escapes."""
    return json.dumps(item(sign * TEXT), ensure_ascii=False)


async def great_updates(me: Attacker) -> None:
    async with me.session() as link:
        await link.send(great_update())
        await link.stay()


async def large_items(me: Attacker) -> None:
    """Items that together are more than one message to the engine process can hold, and six questions about them."""
    async with me.session() as link:
        for _ in range(60):
            await link.send(written("a"))
        await link.send(*[ask()] * 6)
        await link.stay()


async def emoji_items(me: Attacker) -> None:
    """Items of four-byte characters where Latin text has one byte."""
    async with me.session() as link:
        for _ in range(60):
            await link.send(written("\N{GRINNING FACE}"))
        await link.stay()


async def many_items(me: Attacker) -> None:
    """Very many items that are made, put in front of one another, and deleted."""
    async with me.session() as link:
        for number in range(1500):
            await link.send(item("x", f"i{number}", previous_item_id=me.draw.choice(["root", f"i{number - 1}"])))
            if number % 3 == 0:
                await link.send({"type": "conversation.item.delete", "item_id": f"i{number - 2}"})


async def parts(me: Attacker) -> None:
    """An item of very many texts."""
    content = [{"type": "input_text", "text": "x"}] * 50_000
    async with me.session() as link:
        for _ in range(10):
            await link.send({**item(""), "item": {"type": "message", "role": "user", "content": content}})
        await link.send(ask())


async def retrievals(me: Attacker) -> None:
    """Requests of a few bytes that ask for 200 KB, again and again."""
    async with me.session() as link:
        await link.send(written("b").replace('"role"', '"id": "big", "role"'))
        for _ in range(500):
            await link.send({"type": "conversation.item.retrieve", "item_id": "big"})


async def questions(me: Attacker) -> None:
    """Answers asked for and cancelled, in the conversation and beside it, also with an input of many texts."""
    aside = ask(conversation="none", input=[item("y" * 1000)["item"]] * 100)
    async with me.session() as link:
        for number in range(150):
            await link.send(ask(), CANCEL, *([aside] if number % 10 == 0 else []))


async def updates(me: Attacker) -> None:
    """Small updates, each of which is checked whole, answered whole and told to the engines."""
    async with me.session() as link:
        for number in range(400):
            turns = {"type": "server_vad", "threshold": number % 10 / 10, "silence_duration_ms": 160 + number}
            sound = {"transcription": {"language": me.draw.choice(["en", "de", "xx"])}, "turn_detection": turns}
            await link.send(update(instructions="z" * (number * 160), audio={"input": sound}))


async def absurd_numbers(me: Attacker) -> None:
    """Numbers that no field was made for; each must give an error that names it."""
    digits = "9" * 5000
    spoilt = [
        text.replace("DIGITS", digits)
        for text in (
            '{"type":"session.update","session":{"type":"realtime","max_output_tokens":-1}}',
            '{"type":"session.update","session":{"type":"realtime","max_output_tokens":100000000000000000000000000000}}',
            '{"type":"session.update","session":{"type":"realtime","audio":{"input":{"transcription":{"delay":[]}}}}}',
            '{"type":"session.update","session":{"audio":{"input":{"turn_detection":{"threshold":1e999}}}}}',
            '{"type":"response.create","response":{"max_output_tokens":DIGITS}}',
            '{"type":"input_audio_buffer.append","audio":"AAAA","voxd_offset":DIGITS}',
            '{"type":"input_audio_buffer.append","audio":"AAAA","voxd_offset":-9223372036854775808}',
            '{"type":"input_audio_buffer.append","audio":"AAAA","voxd_offset":1.5e300}',
            '{"type":"voxd.ping","ping_id":DIGITS,"t0":DIGITS}',
            '{"type":"conversation.item.truncate","item_id":"x","content_index":-1,"audio_end_ms":DIGITS}',
        )
    ]
    for query in ("", f"?voxd_ext=resume&voxd_resume=x&voxd_last_seq={digits}", "?voxd_last_seq=%C2%B2&voxd_resume=x"):
        async with me.session(query) as link:
            await link.send(*spoilt * 5)


async def nested(me: Attacker) -> None:
    """Deeply nested JSON instead of large JSON."""
    array, table = "[" * 400 + "]" * 400, '{"a":' * 900 + "{}" + "}" * 900
    async with me.session() as link:
        for text in (
            f'{{"type":"session.update","session":{{"type":"realtime","tools":[{{"a":{array}}}]}}}}',
            f'{{"type":"session.update","session":{{"tracing":{table}}}}}',
            f'{{"type":"voxd.ping","ping_id":{array}}}',
            "[" * 200_000,
            '{"type":' * 50_000,
        ):
            await link.send(*[text] * 5)


async def great_pings(me: Attacker) -> None:
    """Large pings, which come back whole and before everything else."""
    async with me.session() as link:
        for size in (1 << 10, 1 << 16, 1 << 20, 3 << 20):
            await link.send(*[{"type": "voxd.ping", "ping_id": "p" * size}] * 4)


async def junk(me: Attacker) -> None:
    """Messages that are no events, and events with bytes changed."""
    async with me.session() as link:
        for _ in range(600):
            text = json.dumps(me.draw.choice([item("x"), ask(), CANCEL, update(voxd={"metrics": True})]))
            at = me.draw.randrange(len(text))
            await link.send(text[:at] + chr(me.draw.randrange(0x250)) + text[at + 1 :])


async def guessed_tokens(me: Attacker) -> None:
    """Tries to resume sessions by guessed tokens."""
    for size in (1, 22, 43, 2000):
        async with me.session(f"?voxd_ext=resume&voxd_resume={'A' * size}&voxd_last_seq=1") as link:
            await link.send(ask())


async def takeovers(me: Attacker) -> None:
    """One session that moves to ever new links while the old ones are still open."""
    async with me.session("?voxd_ext=resume") as first:
        token = await first.found(rb'"resume_token":\s?"([^"]+)"')
        for _ in range(30):
            async with me.session(f"?voxd_ext=resume&voxd_resume={token}&voxd_last_seq=0") as link:
                await link.send(ask(), item("again"))


async def vllm(me: Attacker) -> None:
    """Messages of vLLM's dialect in an order that it does not have."""
    commit: list[Json] = [{"type": "input_audio_buffer.commit", "final": final} for final in (True, False)]
    sound = {"type": "input_audio_buffer.append", "audio": "AAAA" * 4000}
    async with me.session("?dialect=vllm") as link:
        await link.send({"type": "session.update", "model": "m" * 100_000})
        for _ in range(200):
            await link.send(me.draw.choice([*commit, sound, sound]))


async def never_reads(me: Attacker) -> None:
    """Answers that the client never reads."""
    async with me.session(buffer=4096, reads=False) as link:
        for _ in range(200):
            await link.send(ask(), item("x" * 5000))
        await me.hold(20)


async def reads_slowly(me: Attacker) -> None:
    """A client that reads a byte at a time, so that it is never quite silent."""
    async with me.session(buffer=4096, reads=False) as link:
        await link.send(*[ask(conversation="none")] * 4, *[item("x" * 5000)] * 100)
        for _ in range(200):
            if not await link.peer.reader.read(1):
                raise Denied("closed")
            await me.hold(0.1)
