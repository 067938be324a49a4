"""Several people at once on this machine, and with other work beside them: `python -m benchmarks.people 4 --busy 2`.

Each of them plays the English clips in real time, from another one on, into one voxd in processes of its own; what is
lost, and what they were told, is counted.  `--busy N`: so many processes that do nothing but compute.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from benchmarks.live import ClipRun, listen, word_error_rate
from shared.latency import summarise
from shared.terminal import say
from tests.support.speech import Clip, clips
from voxtui.commands.local import private_voxd


def _compute() -> None:
    while True:
        sum(range(10_000))


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute until this ends."""
    loops = [multiprocessing.get_context("spawn").Process(target=_compute, daemon=True) for _ in range(count)]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()


async def converse(people: int, each: int) -> list[ClipRun]:
    """What all of them heard; each plays `each` clips, or all (0)."""
    chosen = clips("en")

    async def person(number: int) -> list[ClipRun]:
        mine = chosen[number * len(chosen) // people :] + chosen[: number * len(chosen) // people]
        return [await listen(target, clip) for clip in mine[: each or len(mine)]]

    async with private_voxd(lambda line: print(line, file=sys.stderr)) as target:  # noqa: T201
        found = await asyncio.gather(*(person(number) for number in range(people)))
    return [heard for mine in found for heard in mine]


def report(heard: list[ClipRun]) -> str:
    turns = [turn for each in heard for turn in each.turns]
    played: list[Clip] = [each.clip for each in heard]
    lines = [f"{len(played)} clips, {len(turns)} turns, {sum(not each.text for each in heard)} clips without a word"]
    for name, found in summarise(turns).items():
        lines.append(f"{name:<16} n {found.n:>3}   p50 {found.p50:8.2f}   p95 {found.p95:8.2f}   max {found.max:8.2f}")
    rate = word_error_rate([clip.text for clip in played], [each.text for each in heard])
    return "\n".join([*lines, f"word error rate  {rate:.2f} %"])


@click.command()
@click.argument("people", type=int, default=4)
@click.option("--busy", "loops", type=int, default=0, help="Processes that compute beside.")
@click.option("--each", type=int, default=0, help="Clips that each of them plays; 0: all.")
def main(people: int, loops: int, each: int) -> None:
    """Measures several people at once."""
    with busy(loops):
        say(report(asyncio.run(converse(people, each))))


if __name__ == "__main__":
    main()
