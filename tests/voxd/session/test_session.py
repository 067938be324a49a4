"""The session core: configuration, utterances, and a lost engine process."""

from __future__ import annotations

from shared import events
from shared.session_config import RealtimeSession, TranscriptionSession
from tests.support.talk import COMPLETED, DELTA, FAILED, SILENCE, STREAM, USER_TURN, Desk
from voxd import messages as m
from voxd.session.outbox import UtteranceNote
from voxd.session.terms import Profile
from voxd.session.turns import FRAME

# ── configuration ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_session_created_comes_first_and_tells_who_serves() -> None:
    desk = Desk(profile=Profile("whisper", None))
    created = desk.events[0]

    assert isinstance(created, events.SessionCreated)
    assert (created.session.voxd.transcribe, created.session.voxd.respond) == ("whisper", None)


def test_an_update_that_is_wrong_anywhere_changes_nothing() -> None:
    desk = Desk("realtime")
    before = desk.session.config
    desk.send(
        events.SessionUpdate(
            session={"instructions": "Be brief.", "audio": {"input": {"turn_detection": {"type": "bogus"}}}},
            event_id="mine",
        )
    )

    error = desk.last(events.Error).error
    assert (error.code, error.param, error.event_id) == (
        "invalid_value",
        "session.audio.input.turn_detection.type",
        "mine",
    )
    assert desk.session.config == before


def test_an_unknown_key_is_named() -> None:
    desk = Desk()
    desk.send(events.SessionUpdate(session={"turn_detection": None}))

    error = desk.last(events.Error).error
    assert (error.code, error.param) == ("unknown_parameter", "session.turn_detection")


def test_the_audio_format_is_fixed_by_the_first_audio() -> None:
    desk = Desk()
    desk.speak(1, SILENCE)
    desk.send(events.SessionUpdate(session={"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}))

    assert desk.last(events.Error).error.param == "session.audio.input.format"


def test_the_type_may_change_until_there_is_audio() -> None:
    desk = Desk("realtime")
    desk.send(events.SessionUpdate(session={"type": "transcription"}))
    assert isinstance(desk.session.config, TranscriptionSession)
    desk.speak(1, SILENCE)
    desk.send(events.SessionUpdate(session={"type": "realtime"}))

    assert (desk.last(events.Error).error.code, desk.last(events.Error).error.param) == (
        "invalid_parameter",
        "session.type",
    )


def test_audio_output_is_coerced_to_text_and_shown() -> None:
    desk = Desk("realtime")
    desk.send(events.SessionUpdate(session={"output_modalities": ["audio"]}))

    config = desk.last(events.SessionUpdated).session
    assert isinstance(config, RealtimeSession)
    assert config.output_modalities == ("text",)


def test_without_a_transcriber_a_conversation_says_that_it_has_none() -> None:
    desk = Desk("realtime", Profile(None, "echo"))

    assert desk.last(events.SessionUpdated).session.audio.input.transcription is None
    assert desk.last(m.Open).roles == ("respond",)


# ── a spoken turn ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_turn_found_by_the_server() -> None:
    desk = Desk()
    desk.names()
    ref = desk.turn()
    desk.output(m.Said(STREAM, ref, "He was not"))
    desk.settle(ref, "He was not there.")

    assert desk.names() == [*USER_TURN, DELTA, DELTA, COMPLETED]


def test_the_engine_is_told_of_onset_pause_and_end_with_one_range() -> None:
    desk = Desk()
    desk.turn(frames=20)

    onset, flush, commit = desk.last(m.Onset), desk.last(m.Flush), desk.last(m.Commit)
    assert onset.ref == flush.ref == commit.ref
    assert flush.end == commit.end, "what was done at the tentative end is the final work"
    assert onset.start == 10 * FRAME - 4800


def test_deltas_flow_before_the_commit_under_the_id_announced_at_the_onset() -> None:
    desk = Desk()
    desk.speak(10, SILENCE)
    desk.speak(20)
    desk.output(m.Said(STREAM, desk.last(m.Onset).ref, "Four"))

    assert desk.last(events.TranscriptionDelta).item_id == desk.last(events.SpeechStarted).item_id
    desk.speak(20, SILENCE)
    assert desk.last(events.Committed).item_id == desk.last(events.SpeechStarted).item_id


def test_deltas_make_the_transcript_even_if_the_engine_says_the_rest_only_at_the_end() -> None:
    desk = Desk()
    ref = desk.turn()
    desk.output(m.Said(STREAM, ref, "Four,"))
    desk.settle(ref, "Four, queen of clubs.")

    deltas = "".join(event.delta for event in desk.all(events.TranscriptionDelta))
    assert deltas == desk.last(events.TranscriptionCompleted).transcript == "Four, queen of clubs."


def test_a_pause_that_ends_is_rolled_back() -> None:
    desk = Desk()
    desk.speak(20)
    desk.speak(6, SILENCE)
    desk.speak(10)

    assert desk.last(m.Rollback).ref == desk.last(m.Flush).ref
    assert desk.all(m.Commit) == []


def test_provisional_text_goes_only_to_those_who_asked() -> None:
    shy, curious = Desk(), Desk()
    curious.send(events.SessionUpdate(session={"voxd": {"provisional": True}}))
    for desk in (shy, curious):
        desk.speak(20)
        desk.output(m.Said(STREAM, desk.last(m.Onset).ref, "", "Four queen"))

    assert shy.all(events.Provisional) == []
    assert curious.last(events.Provisional).text == "Four queen"


def test_a_warning_of_the_engine_goes_only_to_those_who_asked_for_something() -> None:
    shy, curious = Desk(), Desk()
    curious.send(events.SessionUpdate(session={"voxd": {"provisional": True}}))
    for desk in (shy, curious):
        desk.output(m.Warned(STREAM, "transcriber_restarted", "Once more."))

    assert shy.all(events.Notice) == []
    assert curious.last(events.Notice).message == "Once more."


def test_who_asked_for_something_is_told_that_the_server_goes_away() -> None:
    shy, curious = Desk(), Desk()
    curious.send(events.SessionUpdate(session={"voxd": {"provisional": True}}))
    for desk in (shy, curious):
        desk.session.going_away(30, 2)
        desk.drain()

    assert shy.all(events.Notice) == []
    assert (curious.last(events.Notice).code, curious.last(events.Notice).retry_after_s) == ("going_away", 2)


def test_silence_and_a_click_make_no_turn() -> None:
    desk = Desk()
    desk.names()
    for _ in range(20):
        desk.speak(10, SILENCE)
        desk.speak(1)

    assert desk.names() == []
    assert desk.all(m.Onset) == []


def test_late_outputs_of_refs_nobody_waits_for_are_ignored() -> None:
    desk = Desk()
    ref = desk.turn()
    desk.settle(ref, "one")
    desk.names()
    desk.settle(ref, "one")
    desk.output(m.Said(STREAM, ref, "two"), m.Failed(STREAM, ref, "x", "y"), m.Said(STREAM, 99, "three"))

    assert desk.names() == []


def test_a_failed_transcription_is_told_once() -> None:
    desk = Desk()
    ref = desk.turn()
    desk.names()
    desk.output(m.Failed(STREAM, ref, "engine_error", "No."), m.Failed(STREAM, ref, "engine_error", "No."))

    assert desk.names() == [FAILED]


def test_an_engine_that_gives_up_while_the_person_speaks_is_quoted_after_the_commit() -> None:
    desk = Desk()
    desk.speak(20)
    desk.output(m.Failed(STREAM, desk.last(m.Onset).ref, "engine_error", "No."))
    desk.speak(20, SILENCE)

    assert desk.last(events.TranscriptionFailed).error.message == "No."


def test_a_note_tells_the_meter_where_speech_was() -> None:
    desk = Desk()
    desk.turn(frames=20)

    note = desk.last(UtteranceNote)
    assert (note.voiced_start, note.voiced_end) == (10 * FRAME, 30 * FRAME)
    assert note.decided - note.voiced_end == 16 * FRAME


# ── the client commits ──────────────────────────────────────────────────────────────────────────────────────────────


def manual() -> Desk:
    desk = Desk(turn_detection=None)
    desk.names()
    return desk


def test_push_to_talk_commits_announces_and_completes() -> None:
    desk = manual()
    desk.speak(30)
    desk.send(events.AudioCommit())
    desk.settle(desk.last(m.Commit).ref, "Go forward.")

    assert desk.names() == [*USER_TURN[2:], DELTA, COMPLETED]


def test_push_to_talk_streams_text_under_the_later_item_id() -> None:
    desk = manual()
    desk.speak(30)
    desk.output(m.Said(STREAM, desk.last(m.Onset).ref, "Go"))
    desk.send(events.AudioCommit())

    assert desk.last(events.TranscriptionDelta).item_id == desk.last(events.Committed).item_id


def test_committed_silence_completes_with_nothing_and_no_engine_work() -> None:
    desk = manual()
    desk.speak(30, SILENCE)
    desk.send(events.AudioCommit())

    assert desk.names() == [*USER_TURN[2:], COMPLETED]
    assert desk.all(m.Onset) == []


def test_audio_committed_before_it_is_heard_waits_for_the_vad() -> None:
    desk = manual()
    desk.speak(30, hear=False)
    desk.send(events.AudioCommit())
    assert desk.all(m.Commit) == []
    desk.hear()

    assert desk.last(m.Commit).ref == desk.last(m.Onset).ref


def test_two_commits_in_a_row_become_two_utterances() -> None:
    desk = manual()
    desk.speak(30, hear=False)
    desk.send(events.AudioCommit())
    desk.speak(25, hear=False)
    desk.send(events.AudioCommit())
    desk.hear()

    first, second = desk.all(m.Commit)
    onsets = desk.all(m.Onset)
    assert [first.ref, second.ref] == [onset.ref for onset in onsets]
    assert first.end <= onsets[1].start
    assert second.end == 55 * FRAME


def test_a_tail_shorter_than_a_frame_does_not_hold_the_commit_back() -> None:
    desk = manual()
    desk.speak(30)
    desk.send(events.AudioAppend(audio=b"\0\0" * 100))
    desk.send(events.AudioCommit())

    assert len(desk.all(m.Commit)) == 1


def test_less_than_100_ms_cannot_be_committed() -> None:
    desk = manual()
    desk.send(events.AudioAppend(audio=b"\0\0" * 320), events.AudioCommit(event_id="c1"))

    error = desk.last(events.Error).error
    assert (error.code, error.event_id) == ("input_audio_buffer_commit_empty", "c1")
    assert "only has 20.00ms" in error.message


def test_a_commit_under_server_vad_ends_the_segment_with_the_announced_id() -> None:
    desk = Desk()
    desk.speak(30)
    desk.send(events.AudioCommit())

    assert desk.last(events.Committed).item_id == desk.last(events.SpeechStarted).item_id
    assert desk.last(m.Commit).ref == desk.last(m.Onset).ref
    assert desk.all(events.SpeechStopped) == []


def test_clear_drops_a_started_utterance() -> None:
    desk = Desk()
    desk.speak(30)
    desk.names()
    desk.send(events.AudioClear())
    desk.speak(20, SILENCE)

    assert desk.names() == ["input_audio_buffer.cleared"]
    assert desk.last(m.Cancel).ref == desk.last(m.Onset).ref


def test_a_full_push_to_talk_buffer_is_told_once_and_the_session_lives() -> None:
    desk = manual()
    second = b"\0\0" * 16_000
    for _ in range(303):
        desk.send(events.AudioAppend(audio=second))
        desk._scores += [SILENCE] * 32
        desk.hear()

    assert [error.error.code for error in desk.all(events.Error)] == ["input_audio_buffer_full"]
    desk.send(events.AudioCommit())
    assert desk.last(events.Committed)


def test_audio_is_fed_at_most_two_seconds_ahead_of_what_was_heard() -> None:
    desk = Desk()
    desk.speak(2000, SILENCE, hear=False)
    assert desk.fed == 32_000
    desk.hear()

    assert desk.fed == 2000 * FRAME


def test_switching_transcription_off_fails_what_was_owed() -> None:
    desk = Desk("realtime")
    desk.turn()
    desk.send(events.ResponseCancel())
    desk.names()
    desk.send(events.SessionUpdate(session={"audio": {"input": {"transcription": None}}}))

    assert desk.names() == [FAILED, "session.updated"]
    assert not desk.session.busy


# ── the engine process is lost ──────────────────────────────────────────────────────────────────────────────────────


def lose(desk: Desk) -> m.Open:
    desk.session.engine_lost()
    desk.drain()
    desk.session.engine_ready(Profile("echo", "echo"))
    desk.drain()
    return desk.last(m.Open)


def test_an_open_utterance_is_given_to_the_next_process_and_goes_on() -> None:
    desk = Desk()
    desk.speak(10, SILENCE)
    desk.speak(20)
    ref = desk.last(m.Onset).ref
    desk.output(m.Said(STREAM, ref, "He was"))
    opened = lose(desk)

    onset = desk.last(m.Onset)
    assert onset.said == "He was"
    assert onset.ref > ref, "what the lost process had said of the old ref is not heard"
    assert opened.start <= onset.start
    assert opened.start % FRAME == 0
    desk.rehear(opened.start)
    desk.speak(20, SILENCE)
    desk.settle(desk.last(m.Commit).ref, "He was not.")
    assert desk.last(events.TranscriptionCompleted).transcript == "He was not."
    assert [event.delta for event in desk.all(events.TranscriptionDelta)] == ["He was", " not."]
    assert len(desk.all(events.SpeechStarted)) == 1


def test_audio_that_comes_meanwhile_is_not_lost() -> None:
    desk = Desk()
    desk.speak(20)
    desk.session.engine_lost()
    desk.drain()
    desk.speak(10, hear=False)
    desk.session.engine_ready(Profile("echo", "echo"))
    desk.drain()
    desk.rehear(desk.last(m.Open).start)
    desk.speak(20, SILENCE)

    assert desk.last(UtteranceNote).voiced_end == 30 * FRAME


def test_what_was_committed_fails_once_and_the_next_turn_works() -> None:
    desk = Desk()
    ref = desk.turn()
    desk.names()
    opened = lose(desk)
    desk.rehear(opened.start)
    assert desk.names() == [FAILED]
    desk.settle(ref, "too late")
    again = desk.turn()
    desk.settle(again, "Better.")

    assert desk.names() == [*USER_TURN, DELTA, COMPLETED]


def test_an_utterance_is_replayed_once() -> None:
    desk = Desk()
    desk.speak(20)
    for _ in range(2):
        desk.rehear(lose(desk).start)
    desk.names()
    desk.speak(20, SILENCE)

    assert desk.names() == [*USER_TURN[1:], FAILED]


def test_an_answer_in_flight_ends_as_failed() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate())
    desk.output(m.Said(STREAM, desk.last(m.Respond).ref, "Well"))
    lose(desk)

    done = desk.last(events.ResponseDone).response
    assert done.status == "failed"
    assert done.status_details is not None
    assert done.status_details["error"]["code"] == "engine_lost"
    desk.send(events.ResponseCreate())
    assert desk.last(events.ResponseCreated).response.status == "in_progress"
