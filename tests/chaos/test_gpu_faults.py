"""A fault of the device in one session: everybody's turn ends once and in words, nobody's connection ends, and after
the restart everybody is answered again.

With a CUDA device and VOXD_MINI (a checkpoint of Voxtral Mini) the faults are real; `python -m
tests.chaos.test_gpu_faults` runs them without pytest and prints how long the restart took."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, unix_connect

from tests.chaos.faulty_gpu import FAULTS, registered
from tests.support.daemon import Daemon, voxd_process

PATIENCE_S = 240.0  # a model of 9 GB is loaded again
SILENCE_S = 5  # until a process that hangs is killed
LOG = {
    "!oom": "the device's memory is full (CUDA out of memory.",
    "!assert": "the device has failed (CUDA error: device-side assert triggered)",
    "!hang": f"silent for {SILENCE_S} s: killing it",
}


class Talk:
    """A session and all that it was told."""

    def __init__(self, link: ClientConnection) -> None:
        self._link = link
        self.told: list[dict[str, Any]] = []
        self.at: list[float] = []

    async def ask(self, text: str, tokens: int) -> None:
        content = [{"type": "input_text", "text": text}]
        await self._send(type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await self._send(type="response.create", response={"max_output_tokens": tokens})

    async def _send(self, **event: Any) -> None:
        await self._link.send(json.dumps(event))

    async def until(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The event of this kind of which there are so many then.  Raises if the link ends or nothing comes."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := [event for event in self.told if event["type"] == kind]) < count:
                self.told.append(json.loads(await self._link.recv()))
                self.at.append(time.monotonic())
        return found[count - 1]

    def count(self, kind: str) -> int:
        return sum(event["type"] == kind for event in self.told)


async def faulted(daemon: Daemon, fault: str) -> dict[str, Any]:
    """One of three sessions meets `fault` while the others are being answered; afterwards all ask again.  Raises
    AssertionError.  Returns what it took."""
    async with AsyncExitStack() as stack:
        links = [unix_connect(str(daemon.socket), "ws://localhost/v1/realtime", ping_interval=None) for _ in range(3)]
        talks = [Talk(await stack.enter_async_context(link)) for link in links]
        for talk in talks:
            await talk.until("session.created")
        for talk in talks[1:]:
            await talk.ask("Tell me something long.", 4096)
            await talk.until("response.output_text.delta")
        began = time.monotonic()
        await talks[0].ask(fault, 16)
        ends = [(await talk.until("response.done"))["response"] for talk in talks]
        ended_s = max(talk.at[-1] for talk in talks) - began
        for end in ends:
            assert end["status"] == "failed", end
            assert end["status_details"]["error"]["code"] == "engine_lost", end
        for talk in talks:
            await talk.ask("And now?", 8)
        again = [(await talk.until("response.done", 2))["response"] for talk in talks]
        again_s = max(talk.at[-1] for talk in talks) - began
        for talk, end in zip(talks, again, strict=True):
            assert end["status"] in ("completed", "incomplete"), end
            assert end["output"][0]["content"][0]["text"], end
            assert talk.count("response.created") == talk.count("response.done") == 2
            assert talk.count("error") == 0
    assert LOG[fault] in daemon.log.read_text(), daemon.log.read_text()[-3000:]
    told = ends[0]["status_details"]["error"]["message"]
    return {"fault": fault, "told": told, "ended_s": round(ended_s, 2), "answered_again_s": round(again_s, 2)}


def run(engine: str, options: Mapping[str, object], faults: tuple[str, ...] = FAULTS) -> list[dict[str, Any]]:
    """All faults, one after the other, in one daemon."""
    settings = {
        "engines": {"transcribe": "none", "respond": engine},
        "engine_options": {engine: dict(options)},
        "engine_process": {"heartbeat_timeout_s": SILENCE_S},
    }
    with TemporaryDirectory() as name:
        config = Path(name) / "config.yaml"
        config.write_text(json.dumps(settings))
        path = ":".join([registered(Path(name) / "plugin"), *filter(None, [os.environ.get("PYTHONPATH")])])
        with voxd_process("--config", str(config), env={"PYTHONPATH": path}, ready_s=PATIENCE_S) as daemon:
            found = []
            for fault in faults:
                found.append(asyncio.run(faulted(daemon, fault)))
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)  # noqa: T201
            return found


def why_not() -> str | None:
    """What the real faults lack here."""
    if importlib.util.find_spec("torch") is None:
        return "needs torch"
    import torch

    if not torch.cuda.is_available():
        return "needs a CUDA device"
    return None if os.environ.get("VOXD_MINI") else "needs VOXD_MINI, a checkpoint of Voxtral Mini"


ECHO = {"tokens": 4096, "token_ms": 20}


def test_a_fault_costs_everybody_one_turn_and_nobody_the_connection() -> None:
    run("faulty-echo", ECHO, ("!oom", "!assert"))


@pytest.mark.slow
def test_so_does_a_device_that_hangs() -> None:
    run("faulty-echo", ECHO, ("!hang",))


@pytest.mark.gpu
def test_real_faults() -> None:
    if reason := why_not():
        pytest.skip(reason)
    run("faulty-mini", {"model": os.environ["VOXD_MINI"]})


def main() -> None:
    """Arguments: which faults, else all."""
    if reason := why_not():
        sys.exit(reason)
    found = run("faulty-mini", {"model": os.environ["VOXD_MINI"]}, tuple(sys.argv[1:]) or FAULTS)
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
