"""The embedded CPU engine: its control flow with a scripted model and no threads, then the real model on clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shared.audio import RATE, VAD_FRAME
from tests.support.scripted_whisper import WORD, World, words
from voxd.engine.agreement import split
from voxd.engine.contract import LOOK_BACK, Refuse
from voxd.engine.whisper.engine import HARD
from voxd.engine.whisper.scheduler import Kind
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    Failed,
    Feed,
    Flush,
    Heard,
    Onset,
    Rollback,
    Said,
    Settled,
)


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
