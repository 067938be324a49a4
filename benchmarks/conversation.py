"""whisper and llama together on this machine: how long an answer takes, what it costs the transcriber, when it stops.

python -m benchmarks.conversation turns             20 spoken turns, real clips in real time, answers begun ahead
python -m benchmarks.conversation turns --no-ahead  the same, begun when the turn is over
python -m benchmarks.conversation turns --alone     the same clips without a responder
python -m benchmarks.conversation engine            how soon a cancelled answer stops; memory over 500 turns
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

import numpy as np

from shared.audio import RATE
from shared.latency import TurnMetrics, percentile
from tests.support.daemon import voxd_process
from tests.support.llama import Talker
from tests.support.speech import clips
from voxd.engine.llama.workers import LlamaJob
from voxd.messages import Cancel, Respond, Turn
from voxtui.capture.sources import FileSource
from voxtui.events import Event
from voxtui.link.client import RealtimeClient, Wishes
from voxtui.link.target import Direct, unix_target
from voxtui.session.run import Run
from voxtui.table import metrics_table

GAP_S = 4.0  # silence behind each clip, in which it is answered
ROOM = 20.0  # the noise of a room, of 32768
TOKENS = 40  # of an answer
LONGEST_S = 6.5
INSTRUCTIONS = "You are a friendly voice assistant. Answer in one short sentence."


def speech(count: int) -> np.ndarray:
    """`count` turns, float32: short English clips in order, each followed by the noise of a quiet room."""
    chosen = [clip.samples() for clip in clips("en") if clip.samples().size <= LONGEST_S * RATE]
    noise = np.random.default_rng(0)

    def gap() -> np.ndarray:
        return (noise.standard_normal(int(GAP_S * RATE)) * ROOM / 32768).astype(np.float32)

    pieces = [piece for number in range(count) for piece in (chosen[number % len(chosen)], gap())]
    return np.concatenate(pieces)


async def converse(socket: Path, count: int, *, answers: bool) -> list[TurnMetrics]:
    """Plays the turns; what was measured of each."""
    seen: list[Event] = []
    wishes = Wishes(answers=answers, instructions=INSTRUCTIONS)
    async with RealtimeClient.connect(Direct(unix_target(socket)), wishes=wishes) as client:
        run = Run(client, FileSource("turns", speech(count)), seen.append)
        await run.run()
    return list(run.meter.finished())


def turns(count: int, *, ahead: bool, answers: bool) -> str:
    options = {"llama": {"ahead": ahead, "max_tokens": TOKENS}}
    settings = ("--transcribe", "whisper", "--respond", "llama" if answers else "none")
    with voxd_process(*settings, env={"VOXD_ENGINE_OPTIONS": json.dumps(options)}) as daemon:
        found = asyncio.run(converse(daemon.socket, count, answers=answers))
    given = [turn for turn in found if turn.ttft_user_ms is not None and turn.endpoint_ms is not None]
    after = [(turn.ttft_user_ms or 0) - (turn.endpoint_ms or 0) for turn in given]
    lines = [metrics_table(found)]
    if after:
        p50, p95 = percentile(after, 50), percentile(after, 95)
        lines.append(f"ttft_user_ms - endpoint_ms: n {len(after)}, p50 {p50:.0f}, p95 {p95:.0f}")
    return "\n".join(lines)


def stops(tries: int) -> str:
    """From Cancel until llama.cpp computes nothing more for the answer, ms."""
    talker, took = Talker(max_tokens=400, max_context=2048), []
    for ref in range(1, tries + 1):
        talker.tell(Respond(1, ref, (Turn("user", f"Tell me a long story, number {ref}."),), 400))
        talker.until(lambda ref=ref: len(talker.said(ref)) > 20)  # type: ignore[misc]
        job: LlamaJob = next(iter(talker.engine._jobs))
        began = time.monotonic()
        talker.tell(Cancel(1, ref))
        job.over.wait()
        took.append(1000 * (time.monotonic() - began))
    talker.engine.stop()
    return f"barge-in, ms until nothing is computed: n {tries}, p50 {percentile(took, 50):.1f}, max {max(took):.1f}"


def memory(count: int) -> str:
    """MB of this process after each fifth of `count` turns of a conversation that is shortened again and again."""
    talker, chance = Talker(), random.Random(0)
    context: tuple[Turn, ...] = (Turn("system", INSTRUCTIONS),)
    found = []
    for ref in range(1, count + 1):
        words = " ".join(chance.choice(("bees", "rain", "why", "music", "seven")) for _ in range(6))
        context = (*context, Turn("user", f"{ref} {words}?"))[-100:]
        talker.tell(Respond(1, ref, context, 6))
        context = (*context, Turn("assistant", talker.ended(ref).text, ref=ref))
        talker.out.clear()
        if ref % (count // 5) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append(pages * resource.getpagesize() / 1e6)
    talker.engine.stop()
    return f"memory over {count} turns, MB after each fifth: " + ", ".join(f"{each:.1f}" for each in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["turns", "engine"])
    parser.add_argument("--count", type=int, help="turns [20 spoken, 500 for memory]")
    parser.add_argument("--no-ahead", action="store_true")
    parser.add_argument("--alone", action="store_true")
    given = parser.parse_args()
    print(f"# {' '.join(sys.argv[1:])}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")  # noqa: T201
    if given.what == "turns":
        print(turns(given.count or 20, ahead=not given.no_ahead, answers=not given.alone))  # noqa: T201
    else:
        print(stops(20))  # noqa: T201
        print(memory(given.count or 500))  # noqa: T201


if __name__ == "__main__":
    main()
