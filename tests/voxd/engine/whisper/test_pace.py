"""Work that fits the machine: the scripted engine where decodes take long and many people speak."""

from __future__ import annotations

from tests.support.scripted_whisper import WORD, World, words
from voxd.engine.whisper.scheduler import Kind
from voxd.messages import Commit, Onset


def partials(streams: int, wall_us: int) -> float:
    """Of each of so many speakers at the same time, where a decode takes so long; all of them get their final text."""
    world = World(workers=1)
    world.pool.wall_us = wall_us
    for stream in range(streams):
        world.open(stream)
        world.tell(Onset(stream, 1, 0))
    for word in range(1, 40):
        for stream in range(streams):
            world.say(word, stream=stream)
    found = world.pool.kinds.count(Kind.PARTIAL) / streams
    for stream in range(streams):
        world.tell(Commit(stream, 1, 39 * WORD))
    world.step()
    assert world.settled() == [(1, words(1, 39))] * streams
    return found


def test_many_speakers_make_partials_rarer() -> None:
    assert partials(12, 90_000) < 0.4 * partials(1, 90_000)


def test_a_slow_machine_makes_partials_rarer() -> None:
    """A partial takes its share of the time, however long it takes; finals are never skipped."""
    often, seldom, hardly = partials(1, 20_000), partials(1, 300_000), partials(1, 900_000)
    assert often > 1.5 * seldom > 1.5 * 1.5 * hardly > 0
