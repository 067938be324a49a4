"""The checker of the nemesis sees each broken promise: every case is a good history with one thing wrong in it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from shared import events
from shared.audio import RATE, Int16, to_ms
from shared.events import ServerEvent
from tests.chaos import scribe
from tests.chaos.nemesis_check import ENGINE, LINK, Client, Fault, History, Life, Mark, Record, violations
from tests.support.talk import STREAM, Desk
from voxd import messages as m
from voxd.engine.echo import VAD_FRAME
from voxtui.events import Connected, Relinked, Unlinked
from voxtui.link.replay import KEEP

TURN = 50 * VAD_FRAME  # samples of `Desk.turn`
SPOKEN = (6000, 9000, 12_000)  # where in it words are
LATER = 100 * RATE
LOG = "INFO session aaaa started · x\nINFO session aaaa ended · x\n"


def answered(desk: Desk, turn: int) -> None:
    """A turn, its text and its answer."""
    ref = desk.turn()
    desk.settle(ref, " ".join(f"3.{turn * 3 + n}" for n in range(3)))
    answer = desk.last(m.Respond).ref
    desk.output(m.Said(STREAM, answer, "3:0", tokens=1), m.Said(STREAM, answer, " 3:1", tokens=1))
    desk.settle(answer, "3:0 3:1", output_tokens=2)


def good() -> History:
    """One client, two turns, each answered; no fault."""
    desk = Desk("realtime")
    answered(desk, 0)
    answered(desk, 1)
    records = [Record(number, LATER, event) for number, event in enumerate(desk.events)]
    marks = [Mark(f"3.{turn * 3 + n}", turn * TURN + SPOKEN[n], owed=True) for turn in range(2) for n in range(3)]
    return History([Client(3, marks, 2, records)], lives=[Life(LOG, killed=False)])


def change(history: History, kind: type[ServerEvent], number: int = 0, **fields: object) -> None:
    """Of the events of a kind, the one with this number gets other fields."""
    records = history.clients[0].records
    at = [at for at, record in enumerate(records) if isinstance(record.event, kind)][number]
    event = records[at].event
    assert isinstance(event, kind)
    records[at] = Record(records[at].at_us, records[at].captured, msgspec.structs.replace(event, **fields))


def drop(history: History, *kinds: type[ServerEvent]) -> None:
    """Removes the last event of each kind."""
    records = history.clients[0].records
    for kind in kinds:
        records.remove([record for record in records if isinstance(record.event, kind)][-1])


def fail(history: History, code: str = "engine_lost") -> None:
    """The last transcription fails, with its text never told."""
    client = history.clients[0]
    at = max(at for at, r in enumerate(client.records) if isinstance(r.event, events.TranscriptionCompleted))
    completed = client.records[at].event
    assert isinstance(completed, events.TranscriptionCompleted)
    error = events.FailureBody("server_error", code, "It was lost.")
    failed = events.TranscriptionFailed(completed.event_id, completed.item_id, 0, error)
    client.records[at] = Record(at, LATER, failed)


def test_a_good_history_breaks_nothing() -> None:
    assert violations(good()) == []


def a_foreign_word(history: History) -> None:
    change(history, events.TranscriptionDelta, delta="4.0 3.1 3.2")
    change(history, events.TranscriptionCompleted, transcript="4.0 3.1 3.2")


def a_foreign_answer(history: History) -> None:
    change(history, events.OutputTextDelta, delta="4:0")


def a_word_twice(history: History) -> None:
    change(history, events.TranscriptionDelta, 1, delta="3.2 3.3 3.4 3.5")
    change(history, events.TranscriptionCompleted, 1, transcript="3.2 3.3 3.4 3.5")


def words_out_of_order(history: History) -> None:
    change(history, events.TranscriptionDelta, 1, delta="3.4 3.3 3.5")
    change(history, events.TranscriptionCompleted, 1, transcript="3.4 3.3 3.5")


def a_lost_word(history: History) -> None:
    change(history, events.TranscriptionDelta, 1, delta="3.3 3.5")
    change(history, events.TranscriptionCompleted, 1, transcript="3.3 3.5")


def a_transcript_that_is_not_its_deltas(history: History) -> None:
    change(history, events.TranscriptionDelta, 1, delta="3.3 3.4")


def no_end_of_an_item(history: History) -> None:
    drop(history, events.TranscriptionCompleted)


def two_ends_of_an_item(history: History) -> None:
    records = history.clients[0].records
    last = [r for r in records if isinstance(r.event, events.TranscriptionCompleted)][-1].event
    records.append(Record(10_000, LATER, msgspec.structs.replace(last, event_id="other")))  # type: ignore[type-var]


def no_end_of_an_answer(history: History) -> None:
    drop(history, events.ResponseDone)


def two_ends_of_an_answer(history: History) -> None:
    records = history.clients[0].records
    last = [r for r in records if isinstance(r.event, events.ResponseDone)][-1].event
    records.append(Record(10_000, LATER, msgspec.structs.replace(last, event_id="other")))  # type: ignore[type-var]


def a_token_lost(history: History) -> None:
    history.clients[0].tokens = 3


def a_failure_without_a_fault(history: History) -> None:
    fail(history)


def a_failure_that_the_fault_does_not_explain(history: History) -> None:
    fail(history)
    history.faults.append(Fault("reset", LINK, 0, 1, client=3))


def a_failure_long_after_the_fault(history: History) -> None:
    fail(history)
    history.clients[0].records = [
        Record(r.at_us + 100_000_000, r.captured, r.event) for r in history.clients[0].records
    ]
    history.faults.append(Fault("kill", ENGINE, 0, 1))


def lose(history: History, start: int, end: int, captured: int, shown_ms: int, told_ms: int) -> None:
    client = history.clients[0]
    client.holes, client.lost_ms = [(start, end, captured)], shown_ms
    client.records += [
        Record(20_000, captured, Unlinked("gone", 1)),
        Record(20_001, captured, Relinked(40_000, 3, told_ms, fresh=False)),
    ]


def sound_given_up_too_early(history: History) -> None:
    lose(history, 10 * RATE, 11 * RATE, 12 * RATE, 1000, 1000)


def a_gap_that_is_not_shown(history: History) -> None:
    lose(history, 10 * RATE, 11 * RATE, 12 * RATE + KEEP, 0, 1000)


def a_gap_that_was_none(history: History) -> None:
    lose(history, 10 * RATE, 11 * RATE, 12 * RATE + KEEP, 1000, 2000)


def a_gap_of_the_server_alone(history: History) -> None:
    history.clients[0].records.append(Record(20_000, LATER, events.Notice("x", "audio_gap", "")))


def an_entry_elsewhere(history: History) -> None:
    """Makes it look as if another client had gone on with this screen, with places counted from the end of the
    first."""
    records = history.clients[0].records
    at = max(at for at, record in enumerate(records) if isinstance(record.event, events.SpeechStarted))
    records.insert(at, Record(20_000, LATER, Connected("x")))  # type: ignore[arg-type]


def a_client_that_gives_up(history: History) -> None:
    history.clients[0].trouble = "voxd closed the session."


def a_session_that_never_ended(history: History) -> None:
    history.lives[:] = [Life(LOG.splitlines()[0], killed=False)]


def a_session_that_ended_twice(history: History) -> None:
    history.lives[:] = [Life(LOG + LOG.splitlines()[1], killed=True)]


def a_session_that_began_twice(history: History) -> None:
    history.lives[:] = [Life(LOG.splitlines()[0] + "\n" + LOG, killed=True)]


def a_traceback(history: History) -> None:
    history.lives[:] = [Life(LOG + "Traceback (most recent call last):", killed=True)]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (a_foreign_word, "not its own"),
        (a_foreign_answer, "not its own"),
        (a_word_twice, "3.2 is in 2 final transcripts"),
        (words_out_of_order, "out of order"),
        (a_lost_word, "3.4 (at 2.2 s) was lost"),
        (a_transcript_that_is_not_its_deltas, "deltas make the transcript"),
        (no_end_of_an_item, "no final text"),
        (two_ends_of_an_item, "after its completed"),
        (no_end_of_an_answer, "did not come"),
        (two_ends_of_an_answer, "after response.done"),
        (a_token_lost, "2 of 3 tokens"),
        (a_failure_without_a_fault, "there was no fault"),
        (a_failure_that_the_fault_does_not_explain, "there was no fault"),
        (a_failure_long_after_the_fault, "there was no fault"),
        (sound_given_up_too_early, "was given up at 12.0 s"),
        (a_gap_that_is_not_shown, "0 ms were shown"),
        (a_gap_that_was_none, "2000 ms were told"),
        (a_gap_of_the_server_alone, "has not given up"),
        (an_entry_elsewhere, "1 utterances stand at another place"),
        (a_client_that_gives_up, "closed the session"),
        (a_session_that_never_ended, "never ended"),
        (a_session_that_ended_twice, "ended 2 times"),
        (a_session_that_began_twice, "began 2 times"),
        (a_traceback, "traceback"),
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[History], None], told: str) -> None:
    history = good()
    spoil(history)
    assert any(told in text for text in violations(history)), violations(history)


def test_what_failed_by_a_fault_is_no_loss() -> None:
    """Words that are reported as lost are no loss; the same words without a report are."""
    history = good()
    fail(history)
    drop(history, events.TranscriptionDelta)
    history.faults.append(Fault("kill", ENGINE, 0, 1))
    assert violations(history) == []


def test_sound_older_than_what_is_kept_may_be_lost_if_it_is_counted() -> None:
    history = good()
    history.clients[0].marks = (*history.clients[0].marks, Mark("3.77", 10 * RATE + 5, owed=True))
    assert any("3.77" in text for text in violations(history))
    lose(history, 10 * RATE, 11 * RATE, 12 * RATE + KEEP, 1000, 1000)
    assert violations(history) == []


# ── words in sound ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_marks_survive_any_cutting_and_name_their_place() -> None:
    draw = np.random.default_rng(1)
    sound: Int16 = draw.integers(-3000, 3000, 20_000).astype(np.int16)
    for number, at in enumerate((100, 5000, 12_345)):
        scribe.write(sound, at, 7, number)
    ear = scribe._Ear(500)
    ear.end = 0
    position = 0
    while position < sound.size:
        size = int(draw.integers(1, 700))
        ear.feed(position, sound[position : position + size].tobytes())
        position = min(sound.size, position + size)
    assert ear.words == [(180, "7.0"), (5080, "7.1"), (12_425, "7.2")]
    assert ear.text(101, 20_000) == ["7.1", "7.2"], "a word whose beginning is not there is not said"


def test_what_is_fed_again_is_heard_once() -> None:
    sound = np.zeros(4000, np.int16)
    scribe.write(sound, 1000, 7, 5)
    ear = scribe._Ear()
    ear.feed(0, sound.tobytes())
    ear.feed(512, sound[512:].tobytes())
    assert ear.words == [(1080, "7.5")]
    assert to_ms(ear.end) == 250
