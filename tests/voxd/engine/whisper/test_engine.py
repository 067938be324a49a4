"""The embedded CPU engine: its control flow with a scripted model and no threads, then the real model on clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.audio import RATE, VAD_FRAME
from voxd.engine.agreement import split
from voxd.engine.contract import LOOK_BACK, Refuse
from voxd.engine.whisper.engine import HARD, Whisper
from voxd.engine.whisper.model import Hypothesis, Task
from voxd.engine.whisper.scheduler import Decode, Kind, Scheduler
from voxd.engine.whisper.workers import Result
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    Failed,
    Feed,
    Flush,
    Heard,
    Onset,
    Open,
    Output,
    Rollback,
    Said,
    Settled,
)

# ── a scripted world ────────────────────────────────────────────────────────────────────────────────────────────────

WORD = 5 * VAD_FRAME  # in the scripted world each 160 ms of voice are one word: w1, w2, ...


class Script:
    """A model that hears one word per WORD of audio, told apart by the value of its samples."""

    name = "script"

    def __init__(self, *languages: str) -> None:
        self.languages = languages or ("en",)
        self.tasks: list[Task] = []
        self.fail = False

    def decode(self, task: Task) -> Hypothesis:
        self.tasks.append(task)
        if self.fail:
            raise RuntimeError("secret internals")
        numbers = np.rint(task.samples[WORD // 2 :: WORD] * 32768).astype(int)
        words = tuple(f" w{number}" for number in numbers if number)
        return Hypothesis(words, (0.9,) * len(words), self.languages[-1], len(words))


class SyncPool:
    """Runs what is queued when it is told to, in the scheduler's order."""

    def __init__(self, count: int, work: Callable[[Any], Any], wake: Callable[[], None]) -> None:
        self.scheduler: Scheduler[Any] = Scheduler(count)
        self.work, self.kinds, self.held = work, list[Kind](), list[Decode[Any]]()
        self._results: list[Result[Any, Any]] = []
        self.stopped = False
        self.wall_us = 1000  # that each decode takes, as it says

    def submit(self, request: Decode[Any]) -> None:
        self.scheduler.put(request)

    def promote(self, request: Decode[Any]) -> None:
        self.scheduler.promote(request)

    def withdraw(self, stream: int, ref: int | None = None) -> None:
        self.scheduler.withdraw(stream, ref)

    def results(self) -> list[Result[Any, Any]]:
        results, self._results = self._results, []
        return results

    def stop(self) -> None:
        self.stopped = True

    def take(self) -> None:
        """Workers begin what they can, and do not finish."""
        while (request := self.scheduler.take()) is not None:
            self.kinds.append(request.kind)
            self.held.append(request)

    def run(self) -> None:
        self.take()
        while self.held:
            request = self.held.pop(0)
            try:
                value = self.work(request.payload)
            except RuntimeError:
                value = None
            self.scheduler.done(request)
            self._results.append(Result(request, value, self.wall_us))
            self.take()


class World:
    """An engine with a scripted model; audio is a row of numbered words, 0 being silence."""

    def __init__(self, *languages: str, **options: object) -> None:
        self.model = Script(*languages)
        self.pools: list[SyncPool] = []
        self.engine = Whisper(options, lambda: None, lambda o, p: self.model, self._pool)
        self.engine.load(lambda text: None)
        self.model.tasks.clear()
        self.pool = self.pools[0]
        self.outputs: list[Output] = []
        self.position: dict[int, int] = {}

    def _pool(self, *args: Any) -> SyncPool:
        self.pools.append(SyncPool(*args))
        return self.pools[-1]

    def open(self, stream: int = 1, **options: Any) -> None:
        self.engine.receive(Open(stream, ("transcribe",), **options))
        self.position[stream] = options.get("start", 0)

    def say(self, *words: int, stream: int = 1, run: bool = True, voiced: bool = True) -> None:
        """Feeds words, the VAD hearing each frame after it was fed."""
        for word in words:
            for _ in range(WORD // VAD_FRAME):
                at = self.position[stream]
                self.engine.receive(Feed(stream, at, np.full(VAD_FRAME, word, "<i2").tobytes()))
                self.engine.receive(Heard(stream, at, (0.9 if word and voiced else 0.01,)))
                self.position[stream] += VAD_FRAME
            if run:
                self.step()

    def step(self) -> None:
        self.pool.run()
        self.outputs += self.engine.step(0)
        self.pool.run()
        self.outputs += self.engine.step(0)

    def tell(self, *commands: Any) -> None:
        for command in commands:
            self.engine.receive(command)

    def said(self, ref: int = 1, stream: int = 1) -> str:
        return "".join(o.text for o in self.outputs if isinstance(o, Said) and (o.stream, o.ref) == (stream, ref))

    def settled(self) -> list[tuple[int, str]]:
        return [(o.ref, o.text) for o in self.outputs if isinstance(o, Settled)]


def words(first: int, last: int) -> str:
    return " ".join(f"w{number}" for number in range(first, last + 1))


def spoken(count: int = 10, **options: Any) -> World:
    """One utterance of `count` words, still open."""
    world = World()
    world.open(**options)
    world.tell(Onset(1, 1, 0, ""))
    world.say(*range(1, count + 1))
    return world


def test_text_comes_while_the_person_speaks_and_ends_with_the_commit() -> None:
    world = spoken(20)
    live = world.said()
    assert len(split(live)) > 8
    assert words(1, 20).startswith(live)
    world.tell(Flush(1, 1, 20 * WORD))
    world.step()
    assert world.said() == live, "a flush publishes nothing"
    world.tell(Commit(1, 1, 20 * WORD))
    world.outputs += world.engine.step(0)  # at once: the flush has decoded it
    assert world.settled() == [(1, words(1, 20))]
    assert world.said() == words(1, 20)
    assert world.pool.kinds.count(Kind.FLUSH) == 1
    assert Kind.FINAL not in world.pool.kinds


def test_provisional_text_is_the_rest_of_the_newest_hypothesis() -> None:
    world = spoken(20)
    text = ""
    for said in (output for output in world.outputs if isinstance(output, Said)):
        text += said.text
        assert words(1, 20).startswith(text + said.provisional)
    assert any(isinstance(output, Said) and output.provisional and not output.text for output in world.outputs)


def test_a_commit_waits_for_the_flush_that_runs_and_decodes_nothing_twice() -> None:
    world = spoken()
    before = len(world.model.tasks)
    world.tell(Flush(1, 1, 10 * WORD))
    world.pool.take()
    world.tell(Commit(1, 1, 10 * WORD))
    assert world.settled() == []
    world.step()
    assert world.settled() == [(1, words(1, 10))]
    assert len(world.model.tasks) == before + 1


def test_a_flush_that_still_waits_is_promoted_by_its_commit() -> None:
    world = spoken()
    world.tell(Flush(1, 1, 10 * WORD), Commit(1, 1, 10 * WORD))
    world.step()
    assert world.pool.kinds[-1] is Kind.FINAL
    assert world.settled() == [(1, words(1, 10))]


def test_a_commit_with_another_end_is_decoded_anew() -> None:
    world = spoken()
    world.tell(Flush(1, 1, 8 * WORD))
    world.step()
    world.tell(Commit(1, 1, 10 * WORD))
    world.step()
    assert world.settled() == [(1, words(1, 10))]


@pytest.mark.parametrize("running", [False, True])
def test_rollback_leaves_no_trace(running: bool) -> None:
    worlds = [spoken(), spoken()]
    worlds[1].tell(Flush(1, 1, 10 * WORD))
    if running:
        worlds[1].pool.take()
    worlds[1].tell(Rollback(1, 1))
    for world in worlds:
        world.say(*range(11, 21))
        world.tell(Commit(1, 1, 20 * WORD))
        world.step()
    texts = [[o.text for o in world.outputs if isinstance(o, Said) and o.text] for world in worlds]
    assert "".join(texts[0]) == "".join(texts[1]) == words(1, 20)
    assert worlds[1].settled() == [(1, words(1, 20))]


def test_without_voice_nothing_is_decoded() -> None:
    world = World()
    world.open()
    world.tell(Onset(1, 1, 0))
    world.say(*[7] * 30, voiced=False)
    world.tell(Flush(1, 1, 30 * WORD), Commit(1, 1, 30 * WORD))
    world.step()
    assert world.settled() == [(1, "")]
    assert world.model.tasks == []


def test_a_commit_waits_for_what_the_vad_has_not_heard() -> None:
    world = World()
    world.open()
    world.engine.receive(Feed(1, 0, np.full(10 * WORD, 1, "<i2").tobytes()))
    world.tell(Onset(1, 1, 0), Commit(1, 1, 10 * WORD))
    world.step()
    assert world.settled() == []
    world.tell(Heard(1, 0, (0.9,) * 50))
    world.step()
    assert [ref for ref, _ in world.settled()] == [1]
    assert len(world.model.tasks) == 1


def test_no_partial_begins_in_a_pause_that_has_just_begun() -> None:
    world = spoken(10)
    before = len(world.model.tasks)
    world.say(0)
    assert len(world.model.tasks) == before
    assert world.pool.kinds.count(Kind.PARTIAL) == before


def test_long_speech_is_cut_at_a_pause_and_goes_on() -> None:
    """18 s: a pause at 8 s is too early, that at 11 s is taken; nothing is lost or doubled."""
    world = World()
    world.open()
    world.tell(Onset(1, 1, 0))
    world.say(*range(1, 51), 0, 0, *range(51, 71), 0, 0, *range(71, 111))
    world.tell(Commit(1, 1, 114 * WORD))
    world.step()
    assert world.settled() == [(1, words(1, 110))]
    assert world.said() == words(1, 110)
    assert max(task.samples.size for task in world.model.tasks) < 12 * RATE
    ends = [output.samples for output in world.outputs if isinstance(output, Said) and output.samples]
    assert len(ends) == 2
    assert 72 * WORD < ends[0] < 74 * WORD
    assert ends[1] == 114 * WORD


def test_speech_without_a_pause_is_cut_before_it_is_too_long() -> None:
    world = spoken(180)  # 29 s
    world.tell(Commit(1, 1, 180 * WORD))
    world.step()
    assert max(task.samples.size for task in world.model.tasks) <= HARD + VAD_FRAME
    assert Kind.FINAL in world.pool.kinds
    assert [ref for ref, _ in world.settled()] == [1]
    assert world.said() == world.settled()[0][1]


def test_long_silence_around_voice_is_not_decoded() -> None:
    """Push-to-talk: 20 s of silence, a second of voice, 8 s of silence."""
    world = World()
    world.open()
    world.tell(Onset(1, 1, 0))
    world.say(*[0] * 125, 1, 2, 3, 4, 5, 6, *[0] * 50)
    world.tell(Commit(1, 1, world.position[1]))
    world.step()
    assert world.settled() == [(1, words(1, 6))]
    assert max(task.samples.size for task in world.model.tasks) < 3 * RATE


def test_audio_before_an_onset_is_at_hand() -> None:
    world = World()
    world.open(start=1000)
    world.say(*[0] * 40, 1, 2, 3, *[0] * 20)
    end = world.position[1]
    start = end - LOOK_BACK + WORD
    start -= (start - 1000) % WORD
    world.tell(Onset(1, 1, start), Commit(1, 1, end))
    world.step()
    assert world.settled() == [(1, words(1, 3))]


def test_what_a_client_holds_is_continued() -> None:
    world = World()
    world.open(start=5 * WORD)
    world.tell(Onset(1, 7, 5 * WORD, words(1, 4)))
    world.say(*range(1, 9))
    world.tell(Commit(1, 7, world.position[1]))
    world.step()
    assert world.settled() == [(7, words(1, 8))]
    assert world.said(7) == " " + words(5, 8)


def test_an_utterance_may_begin_before_the_last_one_has_settled() -> None:
    world = spoken(6)
    world.tell(Commit(1, 1, 6 * WORD), Onset(1, 2, 6 * WORD))
    world.say(*range(7, 13), run=False)
    world.tell(Commit(1, 2, 12 * WORD))
    world.step()
    assert world.settled() == [(1, words(1, 6)), (2, words(7, 12))]


@pytest.mark.parametrize("end", [Close(1), Cancel(1, 1)])
def test_after_close_or_cancel_nothing_comes(end: Close | Cancel) -> None:
    world = spoken()
    world.outputs.clear()
    world.tell(Flush(1, 1, 10 * WORD))
    world.pool.take()
    world.tell(Commit(1, 1, 10 * WORD), end)
    world.step()
    world.tell(Commit(1, 1, 10 * WORD), Flush(1, 1, 5), Rollback(1, 1))
    world.step()
    assert world.outputs == []


def test_close_drops_what_was_not_yet_given_out() -> None:
    world = World()
    world.open()
    world.tell(Onset(1, 1, 0))
    world.say(*[0] * 5)
    world.tell(Commit(1, 1, 5 * WORD), Close(1))
    assert list(world.engine.step(0)) == []
    world.engine.stop()
    assert world.pool.stopped


def test_a_decode_that_fails_fails_its_utterance_alone() -> None:
    world = spoken()
    world.open(2)
    world.tell(Onset(2, 1, 0))
    world.say(*range(1, 6), stream=2)
    world.model.fail = True
    world.tell(Flush(1, 1, 10 * WORD))
    world.step()
    assert not any(isinstance(output, Failed) for output in world.outputs)
    world.tell(Commit(1, 1, 10 * WORD))
    world.step()
    world.model.fail = False
    world.tell(Commit(2, 1, 5 * WORD))
    world.step()
    failed = [output for output in world.outputs if isinstance(output, Failed)]
    assert [(f.stream, f.ref, f.code) for f in failed] == [(1, 1, "engine_error")]
    assert "secret" not in failed[0].message
    assert [(o.stream, o.text) for o in world.outputs if isinstance(o, Settled)] == [(2, words(1, 5))]


def test_a_segment_that_fails_tells_only_when_it_is_committed() -> None:
    world = spoken(50)
    world.model.fail = True
    world.say(0, 0, *range(51, 80))
    assert not any(isinstance(output, Failed) for output in world.outputs)
    world.tell(Commit(1, 1, world.position[1]))
    world.step()
    assert [type(output) for output in world.outputs if isinstance(output, Failed | Settled)] == [Failed]


def test_compute_counts_all_decodes_of_the_utterance() -> None:
    world = spoken()
    world.tell(Flush(1, 1, 9 * WORD))
    world.step()
    world.tell(Commit(1, 1, 10 * WORD))
    world.step()
    settled = next(output for output in world.outputs if isinstance(output, Settled))
    assert settled.compute_us == 1000 * len(world.model.tasks)


def test_admission_is_a_place_or_a_reason() -> None:
    world = World(max_streams=2)
    world.open(1)
    world.open(2)
    with pytest.raises(Refuse, match="all 2 slots"):
        world.open(3)
    world.open(2, prompt="names")  # the second time: other options, no other place
    world.tell(Close(1))
    world.open(3)


def test_language_and_prompt_reach_the_model() -> None:
    world = World("de", "fr")
    world.open(language="de", prompt="Voxtral")
    world.tell(Onset(1, 1, 0))
    world.say(1, 2, 3, 4)
    assert {(task.language, task.prompt) for task in world.model.tasks} == {("de", "Voxtral")}
    with pytest.raises(Refuse, match="'ja'"):
        world.open(2, language="ja")
    with pytest.raises(Refuse, match="English only"):
        World("en").open(language="sv")


def test_a_language_that_was_found_is_kept_for_the_utterance() -> None:
    world = World("de", "fr")
    world.open()
    world.tell(Onset(1, 1, 0))
    world.say(*range(1, 40))
    found = [task.language for task in world.model.tasks]
    assert found[0] is None
    assert found[-1] == "fr"


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
