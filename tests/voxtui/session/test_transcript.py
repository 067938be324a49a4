"""voxtui.session.transcript: events in, what may be shown out; and nothing that a server says gets past the gate."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from shared.events import (
    Content,
    Error,
    ErrorBody,
    FailureBody,
    Item,
    ItemAdded,
    Notice,
    OutputTextDelta,
    OutputTextDone,
    Provisional,
    Response,
    ResponseCreated,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionDelta,
    TranscriptionFailed,
)
from shared.latency import TurnMetrics
from shared.session_config import Extensions, RealtimeSession, TranscriptionSession
from tests.support.fakes import utterance
from voxtui.session import transcript as t
from voxtui.session.transcript import EntryProgress, LinkState, Speech, State, Voice, changes, plain_text, reduce


def after(*events: t.Event, state: State | None = None) -> State:
    state = state or State()
    for event in events:
        state = reduce(state, event)
    return state


def response(status: str, **details: object) -> Response:
    body = {"id": "r1", "status": status, "output": [], "max_output_tokens": "inf", "status_details": details or None}
    return msgspec.convert(body | {"conversation_id": None, "usage": None, "metadata": None}, Response)


def session(respond: str | None = "mini") -> SessionCreated:
    engines = Extensions(transcribe="whisper", respond=respond)
    return SessionCreated("", RealtimeSession(id="s", model="m", voxd=engines))


def test_an_utterance_from_onset_to_final_text() -> None:
    started, first, second, stopped, committed, completed, metrics = utterance(
        "a", 0, 900, "He was ", "not", text="He was not."
    )
    state = after(started)
    assert (state.speech, state.entries[0].text, state.entries[0].progress) == (Speech.SPEAKING, "", EntryProgress.OPEN)
    state = after(first, Provisional("", "a", "nut"), state=state)
    assert (state.entries[0].text, state.entries[0].provisional) == ("He was ", "nut")
    state = after(second, state=state)
    assert (state.entries[0].text, state.entries[0].provisional) == ("He was not", "")
    state = after(stopped, committed, state=state)
    assert state.speech is Speech.SETTLING
    state = after(completed, metrics, state=state)
    assert (state.speech, state.entries[0].text, state.entries[0].progress) == (
        Speech.QUIET,
        "He was not.",
        EntryProgress.DONE,
    )
    assert state.entries[0].heard


def test_a_cough_leaves_no_trace() -> None:
    assert after(*utterance("a", 0, 900)).entries == ()


def test_a_second_utterance_begins_before_the_first_is_final() -> None:
    first, second = utterance("a", 0, 900, "one"), utterance("b", 1000, 1900, "two")
    state = after(*first[:4], second[0])
    assert state.speech is Speech.SPEAKING
    state = after(*first[4:], state=state)
    assert state.speech is Speech.SPEAKING
    state = after(*second[1:], state=state)
    assert (state.speech, [entry.text for entry in state.entries]) == (Speech.QUIET, ["one", "two"])


def test_a_failed_transcription_keeps_its_words() -> None:
    failed = TranscriptionFailed("", "a", 0, FailureBody("server_error", "engine_lost", "The engine\x1b[2J is gone."))
    entry = after(*utterance("a", 0, 900, "half")[:3], failed).entries[0]
    assert (entry.text, entry.progress, entry.remark) == ("half", EntryProgress.BROKEN, "The engine is gone.")


def test_an_answer() -> None:
    state = after(
        session(),
        ResponseCreated("", response("in_progress")),
        OutputTextDelta("", "r1", "i", 0, 0, "Good "),
        OutputTextDelta("", "r1", "i", 0, 0, "day."),
        OutputTextDone("", "r1", "i", 0, 0, "Good day."),
        ResponseDone("", response("completed")),
    )
    entry = state.entries[0]
    assert (entry.voice, entry.text, entry.progress) == (Voice.MODEL, "Good day.", EntryProgress.DONE)


@pytest.mark.parametrize(
    ("status", "details", "remark"),
    [
        ("cancelled", {"type": "cancelled", "reason": "turn_detected"}, "interrupted"),
        ("cancelled", {"type": "cancelled", "reason": "client_cancelled"}, "stopped"),
        ("incomplete", {"type": "incomplete", "reason": "max_output_tokens"}, "cut at its longest"),
        ("failed", {"type": "failed", "error": {"message": "out of\x07 memory"}}, "out of\ufffd memory"),
        ("failed", {}, "failed"),
    ],
)
def test_an_answer_that_is_not_complete(status: str, details: dict[str, object], remark: str) -> None:
    state = after(ResponseCreated("", response("in_progress")), ResponseDone("", response(status, **details)))
    assert (state.entries[0].progress, state.entries[0].remark) == (EntryProgress.BROKEN, remark)


def test_what_was_typed() -> None:
    item = Item("i1", "user", (Content("input_text", text="Hello?"),), "completed")
    entry = after(session(), ItemAdded("", item, None)).entries[0]
    assert (entry.text, entry.heard, entry.progress) == ("Hello?", False, EntryProgress.DONE)


def test_speech_that_nobody_transcribes() -> None:
    """A responder alone: the utterance is over with its item."""
    only = RealtimeSession(id="s", model="m", voxd=Extensions(respond="mini"))
    item = Item("a", "user", (Content("input_audio", transcript=None),), "completed")
    state = after(
        SessionCreated("", only), SpeechStarted("", 0, "a"), SpeechStopped("", 900, "a"), ItemAdded("", item, None)
    )
    assert (state.speech, state.entries[0].progress, state.entries[0].heard) == (Speech.QUIET, EntryProgress.DONE, True)


def test_the_engines_that_serve() -> None:
    assert (after(session()).transcriber, after(session()).responder) == ("whisper", "mini")
    alone = TranscriptionSession(id="s", voxd=Extensions(transcribe="whisper", respond="mini"))
    assert after(SessionCreated("", alone)).responder is None


def test_the_link() -> None:
    state = after(
        t.Connecting("unix:/x"), t.Connected("unix:/x"), *utterance("a", 0, 900, "half")[:2], SpeechStarted("", 0, "b")
    )
    assert (state.link, state.path) == (LinkState.OPEN, "unix:/x")
    state = after(t.Disconnected("gone"), state=state)
    assert (state.link, state.reason, state.speech) == (LinkState.LOST, "gone", Speech.QUIET)
    assert [(entry.key, entry.progress) for entry in state.entries] == [("a", EntryProgress.BROKEN)]


def test_the_same_remark_is_made_once_until_there_are_words() -> None:
    away, other = t.Remark("No voxd is running."), t.Remark("No microphone is known.")
    state = after(away, other, away, other)
    assert [entry.text for entry in state.entries] == [away.text, other.text]
    state = after(*utterance("a", 0, 9, "x"), away, away, state=state)
    assert [entry.text for entry in state.entries] == [away.text, other.text, "x", away.text]


def test_notes_metrics_losses_and_a_clean_slate() -> None:
    body = ErrorBody("invalid_request_error", "no_responder", "Nobody\nanswers.", None, None)
    metrics = TurnMetrics(final_ms=640.0)
    state = after(
        Error("", body),
        Notice("", "slow", "No GPU."),
        t.Remark("ours"),
        *utterance("a", 0, 900, "x"),
        t.Measured("a", metrics, complete=False),
        t.Measured("a", metrics, complete=True),
        t.Dropped(3),
    )
    assert [entry.text for entry in state.entries] == ["Nobody answers.", "No GPU.", "ours", "x"]
    assert (state.entries[-1].metrics, state.turns, state.dropped) == (metrics, (metrics,), 3)
    assert after(t.Wiped(), state=state).entries == ()


def test_a_turn_that_goes_on_is_known_until_it_is_complete() -> None:
    early, whole = TurnMetrics(ttft_user_ms=600.0), TurnMetrics(ttft_user_ms=600.0, total_ms=900.0)
    state = after(session(), t.Measured("r1", early, complete=False))
    assert (state.running, state.turns) == ((("r1", early),), ())
    over = after(t.Measured("r1", whole, complete=True), state=state)
    assert (over.running, over.turns) == ((), (whole,))
    assert after(t.Disconnected("gone"), state=state).running == ()
    many = after(*(t.Measured(str(n), early, complete=False) for n in range(t.RUNNING + 3)))
    assert len(many.running) == t.RUNNING


def test_when_there_is_an_answer_to_stop() -> None:
    state = after(session(), ResponseCreated("", response("in_progress")), t.Remark("note"))
    assert state.answering
    assert not after(ResponseDone("", response("completed")), state=state).answering


def test_whether_turns_are_answered() -> None:
    assert after(session()).converses
    assert not after(session(), t.Floor(answers=False)).converses
    assert not after(session(None)).converses


def test_where_in_the_sound_it_was_said() -> None:
    begun = t.Connected("x"), session()
    state = after(*begun, *utterance("a", 100, 900, "x"), *begun, *utterance("b", 50, 500, "y"))
    assert [(entry.start_ms, entry.end_ms) for entry in state.entries] == [(100, 900), (950, 1400)]


def test_a_session_that_was_begun_anew_counts_from_where_the_client_does() -> None:
    """Positions come translated (`voxtui.link.replay`): the sound of one client is one sound."""
    begun, anew = (t.Connected("x"), session()), (t.Relinked(3000, 1, 0, fresh=True), session())
    state = after(*begun, *utterance("a", 100, 900, "x"), *anew, *utterance("b", 1500, 2000, "y"))
    spoken = [entry for entry in state.entries if entry.heard]
    assert [(entry.start_ms, entry.end_ms) for entry in spoken] == [(100, 900), (1500, 2000)]


def test_bounds() -> None:
    state = State()
    for number in range(t.ENTRIES + 3):
        state = after(t.Remark(str(number)), t.Measured("none", TurnMetrics(final_ms=1.0), complete=True), state=state)
    assert (len(state.entries), state.entries[0].text, len(state.turns)) == (t.ENTRIES, "3", t.TURNS)


def test_changes_are_what_differs() -> None:
    one = after(*utterance("a", 0, 900, "x"), *utterance("b", 0, 900, "y"))
    two = after(t.Remark("z"), TranscriptionDelta("", "b", 0, "!"), state=one)
    assert [(old and old.text, new.text) for old, new in changes(one, two)] == [("y", "y!"), (None, "z")]
    assert list(changes(two, two)) == []


def test_written_down() -> None:
    assert plain_text(after(*utterance("a", 0, 9, " x "), t.Remark("note"))) == "x\n"
    spoken = after(session(), *utterance("a", 0, 9, "x"), OutputTextDelta("", "r1", "i", 0, 0, "y"))
    assert plain_text(spoken) == "You: x\n\nmini: y\n"


WORDS = st.text(alphabet=st.sampled_from(list("ab \x1b[]m0;\x07\u202e")), max_size=12)
KEYS = st.sampled_from(["a", "b"])
EVENTS: st.SearchStrategy[ServerEvent] = st.one_of(
    st.builds(SpeechStarted, st.just(""), st.just(0), KEYS),
    st.builds(SpeechStopped, st.just(""), st.just(0), KEYS),
    st.builds(TranscriptionDelta, st.just(""), KEYS, st.just(0), WORDS),
    st.builds(Provisional, st.just(""), KEYS, WORDS),
    st.builds(TranscriptionCompleted, st.just(""), KEYS, st.just(0), WORDS, st.just({})),
    st.builds(OutputTextDelta, st.just(""), st.just("r1"), st.just("i"), st.just(0), st.just(0), WORDS),
    st.builds(lambda: ResponseDone("", response("completed"))),
    st.builds(Notice, st.just(""), st.just("c"), WORDS),
)


@given(st.lists(EVENTS, max_size=20))
def test_any_order_of_events_is_shown_safely(events: list[ServerEvent]) -> None:
    """A confused server confuses nobody's terminal, and never breaks the client."""
    state = after(*events)
    shown = "".join(entry.text + entry.provisional + entry.remark for entry in state.entries)
    assert not set(shown) & set("\x1b\x07\u202e")
    assert len({entry.key for entry in state.entries}) == len(state.entries)
