"""Every field of every client event with any JSON value in its place, over real sockets against a real voxd: no
connection ends of it, every batch is answered to its end, and nothing of it is a traceback in the journal."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect

from tests.support.daemon import Daemon, voxd_process
from tests.support.odd_values import SEED, every, some, twice

BATCH = 100  # events on one connection
QUERIES = ("?model=x", "?intent=transcription", "?dialect=ga&voxd_ext=metrics,provisional,binary,resume", "")
VLLM = [
    {"type": "session.update", "model": "x"},
    {"type": "input_audio_buffer.append", "audio": "AAAA"},
    {"type": "input_audio_buffer.commit", "final": True},
    {"type": "input_audio_buffer.commit", "final": False},
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with voxd_process("--transcribe", "echo", "--respond", "echo") as running:
        yield running


async def answers(link: ClientConnection, sent: Sequence[Any], last: dict[str, Any]) -> list[dict[str, Any]]:
    """What comes of these events and of the `last` one, up to its answer: an error that names its `event_id`, or in
    vLLM's dialect, which has no such thing, an unknown type."""
    mark = last.get("event_id", last["type"])
    found: list[dict[str, Any]] = []

    async def speak() -> None:
        for event in (*sent, last):
            await link.send(json.dumps(event))

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(speak())
        while not found or mark not in json.dumps(found[-1]):
            found.append(json.loads(await link.recv()))
    return found


async def batches(daemon: Daemon, cases: Iterator[dict[str, Any]], queries: Sequence[str] = QUERIES) -> int:
    """How many cases there were."""
    count = 0
    for number, query in enumerate(itertools.cycle(queries)):
        batch = list(itertools.islice(cases, BATCH))
        if not batch:
            break
        count += len(batch)
        async with unix_connect(str(daemon.socket), f"ws://localhost/v1/realtime{query}", compression=None) as link:
            vllm = "vllm" in query
            mark = f"mark-{number}"
            last = {"type": mark} if vllm else {"type": "conversation.item.retrieve", "item_id": "-", "event_id": mark}
            found = await answers(link, batch, last)
            assert all(each["error"]["message"] for each in found if each["type"] == "error" and not vllm)
            if not vllm:
                update = await answers(link, [{"type": "session.update", "session": {}}], last | {"event_id": "over"})
                assert "session.updated" in [each["type"] for each in update], "the session is usable"
    log = daemon.log.read_text()
    assert not [line for line in log.splitlines() if "Traceback" in line or "internal error" in line], log[-5000:]
    assert daemon.status()["state"] == "ready"
    return count


async def test_a_field_may_hold_anything(daemon: Daemon) -> None:
    assert await batches(daemon, some(500, SEED)) == 500


async def test_two_fields_may_hold_anything(daemon: Daemon) -> None:
    assert await batches(daemon, twice(150, SEED)) == 150


async def test_a_field_of_vllms_dialect_may_hold_anything(daemon: Daemon) -> None:
    await batches(daemon, every(VLLM), ["?dialect=vllm"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_twenty_thousand_events(daemon: Daemon) -> None:
    assert await batches(daemon, some(15_000, SEED + 1)) == 15_000
    assert await batches(daemon, twice(5_000, SEED + 1)) == 5_000
