"""The session core with a responder that reads text: an answer waits for the transcript."""

from __future__ import annotations

from shared import events
from tests.support.talk import COMPLETED, DELTA, FAILED, SILENCE, STREAM, USER_TURN, Desk
from voxd import messages as m
from voxd.session.terms import Profile

READER = Profile("echo", "cascade", reads_text=True)


def desk(**update: object) -> Desk:
    made = Desk("realtime", READER, **update)
    made.names()
    return made


def context(made: Desk) -> list[tuple[str, str]]:
    return [(turn.role, turn.words) for turn in made.last(m.Respond).context]


def test_the_question_goes_out_with_its_final_text() -> None:
    made = desk()
    ref = made.turn()
    assert made.names() == [*USER_TURN, "response.created"]
    assert made.all(m.Respond) == []
    made.output(m.Said(STREAM, ref, "What"))
    assert made.all(m.Respond) == []
    made.settle(ref, "What is it?")

    assert made.last(m.Respond).context == (m.Turn("user", "", ref, "What is it?"),)


def test_earlier_turns_are_there_as_text() -> None:
    made = desk()
    made.settle(made.turn(), "Who are you?")
    answer = made.last(m.Respond).ref
    made.output(m.Said(STREAM, answer, "I am"), m.Settled(STREAM, answer, "completed", "I am"))
    draft = events.ItemDraft("user", (events.Content("input_text", text="Really?"),))
    made.send(events.ItemCreate(item=draft))
    made.settle(made.turn(), "Say it.")

    assert context(made) == [("user", "Who are you?"), ("assistant", "I am"), ("user", "Really?"), ("user", "Say it.")]


def test_a_transcription_that_nobody_asked_for_is_made_and_not_told() -> None:
    made = desk(transcription=None)
    assert made.last(m.Open).roles == ("transcribe", "respond")
    ref = made.turn()
    made.output(m.Said(STREAM, ref, "What", provisional="ever"))
    made.settle(ref, "What is it?")

    assert not {DELTA, COMPLETED, FAILED} & set(made.names())
    assert context(made) == [("user", "What is it?")]


def test_speech_while_the_text_is_awaited_takes_the_question_back() -> None:
    made = desk()
    first = made.turn()
    made.speak(10)
    assert made.last(events.ResponseDone).response.status == "cancelled"
    made.speak(20, SILENCE)
    made.settle(first, "What is")
    made.settle(made.last(m.Commit).ref, "the time?")

    assert context(made) == [("user", "What is"), ("user", "the time?")]
    assert len(made.all(m.Respond)) == 1
    assert made.all(m.Cancel) == []


def test_an_earlier_turn_without_its_text_is_waited_for() -> None:
    made = desk(turn_detection={"type": "server_vad", "create_response": False})
    first, second = made.turn(), made.turn()
    made.send(events.ResponseCreate())
    made.settle(second, "the time?")
    assert made.all(m.Respond) == []
    made.settle(first, "What is")
    assert context(made) == [("user", "What is"), ("user", "the time?")]


def test_what_cannot_be_written_down_cannot_be_answered() -> None:
    made = desk()
    ref = made.turn()
    made.output(m.Failed(STREAM, ref, "decode_failed", "This could not be understood."))

    details = made.last(events.ResponseDone).response.status_details
    error = {"type": "server_error", "code": "decode_failed", "message": "This could not be understood."}
    assert details == {"type": "failed", "error": error}
    assert made.all(m.Respond) == []
    made.settle(made.turn(), "Again.")
    assert context(made) == [("user", ""), ("user", "Again.")]


def test_push_to_talk_waits_for_the_text_of_its_commit() -> None:
    made = desk(turn_detection=None)
    made.speak(30)
    made.send(events.AudioCommit(), events.ResponseCreate())
    assert made.all(m.Respond) == []
    made.settle(made.last(m.Commit).ref, "Now.")
    assert context(made) == [("user", "Now.")]


def test_a_commit_of_silence_is_asked_without_text() -> None:
    made = desk(turn_detection=None)
    made.speak(30, SILENCE)
    made.send(events.AudioCommit(), events.ResponseCreate())
    assert context(made) == [("user", "")]


def test_an_answer_beside_the_conversation_waits_for_nobody() -> None:
    made = desk(turn_detection={"type": "server_vad", "create_response": False})
    made.turn()
    draft = events.ItemDraft("user", (events.Content("input_text", text="Weather?"),))
    request = events.ResponseRequest(conversation="none", input=(draft,))
    made.send(events.ResponseCreate(response=request))
    assert context(made) == [("user", "Weather?")]


def test_audio_sent_along_is_kept_and_cannot_be_answered() -> None:
    made = desk()
    draft = events.ItemDraft("user", (events.Content("input_audio", audio=bytes(3200)),))
    made.send(events.ItemCreate(item=draft))
    assert [(w.code, w.param) for w in made.last(events.ItemAdded).voxd_warnings] == [("no_effect", "item.content[0]")]

    made.send(events.ResponseCreate(), events.ResponseCreate(response=events.ResponseRequest(input=(draft,))))
    for error in made.all(events.Error):
        assert error.error.code == "unsupported_content_type"
        assert "'cascade' can use nothing" in error.error.message
    assert len(made.all(events.Error)) == 2


def test_audio_sent_along_with_what_is_said_in_it_is_read() -> None:
    made = desk()
    sound = events.Content("input_audio", audio=bytes(3200), transcript="Is it late?")
    made.send(events.ItemCreate(item=events.ItemDraft("user", (sound,))), events.ResponseCreate())
    assert context(made) == [("user", "Is it late?")]


def test_an_engine_loss_ends_the_wait() -> None:
    made = desk()
    made.turn()
    made.session.engine_lost()
    made.drain()
    assert made.last(events.ResponseDone).response.status == "failed"
    made.session.engine_ready(READER)
    made.drain()
    made.settle(made.turn(), "Again.")
    assert context(made)[-1] == ("user", "Again.")


def test_what_is_committed_without_an_engine_is_answered_by_the_next_one() -> None:
    """The refs in its context are those that the new engine process knows."""
    made = desk(turn_detection=None)
    made.session.engine_lost()
    made.speak(30, hear=False)
    made.send(events.AudioCommit(), events.ResponseCreate())
    made.session.engine_ready(READER)
    made.drain()
    made.hear()
    ref = made.last(m.Commit).ref
    made.settle(ref, "Hello?")
    assert made.last(m.Respond).context == (m.Turn("user", "", ref, "Hello?"),)


# ── begun ahead ─────────────────────────────────────────────────────────────────────────────────────────────────────


def ahead() -> Desk:
    made = Desk("realtime", Profile("whisper", "llama", reads_text=True, speculates=True))
    made.names()
    return made


def paused(made: Desk) -> m.Flush:
    made.speak(20)
    made.speak(10, SILENCE)
    return made.last(m.Flush)


def test_the_answer_is_begun_with_what_was_probably_said_and_asked_for_once_that_is_final() -> None:
    made = ahead()
    flush = paused(made)
    assert made.last(m.Prepare).utterance == flush.ref
    assert made.all(m.Speculate) == [], "its text is not known"
    made.output(m.Guessed(STREAM, flush.ref, flush.end, "What is it?"))
    begun = made.last(m.Speculate)
    assert begun.context == (m.Turn("user", "", flush.ref, "What is it?"),)

    made.speak(20, SILENCE)
    assert made.all(m.Respond) == []
    made.settle(flush.ref, "What is it?")
    asked = made.last(m.Respond)
    assert (asked.ref, asked.context) == (begun.ref, begun.context)
    assert made.all(m.Crop) == []


def test_a_guess_that_came_too_late_or_for_another_end_begins_nothing() -> None:
    made = ahead()
    flush = paused(made)
    made.output(m.Guessed(STREAM, flush.ref, flush.end - 512, "What"), m.Guessed(STREAM, flush.ref, flush.end, ""))
    made.speak(5)
    made.output(m.Guessed(STREAM, flush.ref, flush.end, "What is"))
    made.speak(30, SILENCE)
    made.output(m.Guessed(STREAM, flush.ref, made.last(m.Commit).end, "What is it?"))
    assert made.all(m.Speculate) == []


def test_speech_that_goes_on_crops_what_was_begun() -> None:
    made = ahead()
    flush = paused(made)
    made.output(m.Guessed(STREAM, flush.ref, flush.end, "What"))
    made.speak(5)
    assert made.last(m.Crop).ref == made.last(m.Speculate).ref


def test_a_question_taken_back_before_it_is_asked_crops_what_was_begun_for_it() -> None:
    made = ahead()
    flush = paused(made)
    made.output(m.Guessed(STREAM, flush.ref, flush.end, "What is it?"))
    made.speak(20, SILENCE)
    made.speak(10)
    assert made.last(events.ResponseDone).response.status == "cancelled"
    assert made.last(m.Crop).ref == made.last(m.Speculate).ref
    assert made.all(m.Cancel) == []


def test_a_transcriber_that_fails_crops_what_was_begun() -> None:
    made = ahead()
    flush = paused(made)
    made.output(m.Guessed(STREAM, flush.ref, flush.end, "What is it?"))
    made.speak(20, SILENCE)
    made.output(m.Failed(STREAM, flush.ref, "engine_error", "It failed."))
    assert made.last(events.ResponseDone).response.status == "failed"
    assert made.last(m.Crop).ref == made.last(m.Speculate).ref
