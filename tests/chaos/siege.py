"""A process of attackers: `python -m tests.chaos.siege`, told in JSON on its input; its last line is what came of it.

It runs at a low priority: where the machine has little, the daemon and the honest client come first, as they do
where attackers have machines of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
from collections import Counter
from pathlib import Path

import msgspec

from tests.chaos.attacker import Attacker, Denied, Target
from tests.chaos.attacks import ATTACKS, Attack, bodies, sessions, sounds
from tests.support.service import pause

LAST = 5  # priority: they have some of a busy machine, too
AWAY = (OSError, EOFError, TimeoutError, Denied)  # the daemon has had enough of it


class Orders(msgspec.Struct, frozen=True):
    """`first`: number of its first address."""

    target: Target
    attacks: tuple[str, ...]
    seconds: float
    seed: int
    first: int


class Course(msgspec.Struct):
    """One attack's course: rounds that were begun, and what it was told."""

    rounds: int = 0
    told: dict[str, int] = {}


def source(number: int) -> str:
    """An address of this machine, of nobody else."""
    return f"127.0.{1 + number // 200}.{2 + number % 200}"


async def repeat(attack: Attack, attacker: Attacker, course: Course) -> None:
    """Repeats an attack until it is cancelled."""
    try:
        while True:
            course.rounds += 1
            with contextlib.suppress(*AWAY):
                await attack.act(attacker)
            await pause(attack.between_s * attacker.draw.uniform(0.5, 1.5))
    finally:
        course.told = dict(attacker.told + Counter(course.told))


def prepare() -> None:
    """Makes what takes long to make, so that no attack waits while another one is at it."""
    for make in (sessions.great_update, sounds.great_append, sounds.speech, bodies.silence):
        make()
    for sign in ("a", "b", "\N{GRINNING FACE}"):
        sessions.written(sign)
    sounds.noise(10)


async def besiege(orders: Orders) -> dict[str, Course]:
    draw, numbers = random.Random(orders.seed), itertools.count(orders.first)
    courses = {name: Course() for name in orders.attacks}
    tasks = []
    for name, course in courses.items():
        for _ in range(ATTACKS[name].peers):
            attacker = Attacker(orders.target, source(next(numbers)), random.Random(draw.random()))
            tasks.append(asyncio.create_task(repeat(ATTACKS[name], attacker, course)))
    done, running = await asyncio.wait(tasks, timeout=orders.seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for task in done:
        task.result()  # a bug of an attack
    return courses


def yield_to_others() -> None:
    """Linux weighs the processes of a session against each other, and sessions: so it has one of its own."""
    os.setsid()
    os.setpriority(os.PRIO_PROCESS, 0, LAST)
    with contextlib.suppress(OSError):  # a kernel that does not do so
        Path("/proc/self/autogroup").write_text(str(LAST))


def main() -> None:
    yield_to_others()
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=Orders)
    prepare()
    courses = asyncio.run(besiege(orders))
    sys.stdout.write(msgspec.json.encode(courses).decode())


if __name__ == "__main__":
    main()
