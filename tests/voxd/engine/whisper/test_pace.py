"""Work that fits the machine: the scripted engine where decodes take long and many people speak."""

from __future__ import annotations

import re

from tests.support.scripted_whisper import WORD, World, words
from voxd.engine.whisper.scheduler import Kind
from voxd.messages import Commit, Onset, Warned


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


def warned(wall_us: int, score: float = -0.2, *languages: str) -> list[Warned]:
    """What the user of one stream is told in four utterances."""
    world = World(*languages)
    world.pool.wall_us, world.model.score = wall_us, score
    world.open()
    for ref in range(4):
        world.tell(Onset(1, ref, world.position[1]))
        world.say(*range(1, 10))
        world.tell(Commit(1, ref, world.position[1]))
        world.step()
    assert len(world.settled()) == 4
    return [output for output in world.outputs if isinstance(output, Warned)]


def test_a_machine_that_is_too_slow_is_told_once_with_figures_and_what_helps() -> None:
    assert warned(90_000) == []
    (found,) = warned(1_500_000)
    assert found.code == "machine_too_slow"
    assert re.search(r"every \d+\.\d s, a final text takes \d+\.\d s", found.message)
    assert all(words in found.message for words in ("cores", "tiny.en", "GPU"))


def test_speech_in_another_language_is_told_once_and_not_where_the_model_may_know_it() -> None:
    assert warned(90_000, -0.7) == []
    (found,) = warned(90_000, -1.4)
    assert found.code == "language_doubtful"
    assert all(words in found.message for words in ("en", "engine_options.whisper.model", "voxd engines"))
    assert warned(90_000, -1.4, "de", "fr") == []
