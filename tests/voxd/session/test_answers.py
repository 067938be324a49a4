"""Responses of the session core: items and events in their order."""

from __future__ import annotations

import pytest
from msgspec import UNSET

from shared import events
from tests.support.talk import SILENCE, STREAM, USER_TURN, Desk
from voxd import messages as m
from voxd.session.outbox import ResponseNote
from voxd.session.terms import Profile

ANSWER_OPENS = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "response.output_text.delta",
]
ANSWER_CLOSES = [
    "response.output_text.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


def answer(desk: Desk, *texts: str, status: m.Status = "completed") -> None:
    ref = desk.last(m.Respond).ref
    for text in texts:
        desk.output(m.Said(STREAM, ref, text))
    desk.output(m.Settled(STREAM, ref, status, "".join(texts), output_tokens=len(texts)))


def test_a_conversation_turn_in_the_order_of_the_api() -> None:
    desk = Desk("realtime", transcription=None)
    desk.names()
    desk.turn()
    answer(desk, "Hi", " there")

    assert desk.names() == [*USER_TURN, *ANSWER_OPENS, "response.output_text.delta", *ANSWER_CLOSES]


def test_all_texts_of_a_response_are_equal() -> None:
    desk = Desk("realtime")
    desk.turn()
    answer(desk, "Hi", " there,", " you")

    done = desk.last(events.ResponseDone).response
    text = "".join(event.delta for event in desk.all(events.OutputTextDelta))
    assert text == desk.last(events.OutputTextDone).text == done.output[0].content[0].text == "Hi there, you"
    assert desk.last(events.ContentPartDone).part.text == text


def test_typed_text_is_answered_when_asked() -> None:
    desk = Desk("realtime")
    draft = events.ItemDraft("user", (events.Content("input_text", text="Hello?"),))
    desk.send(events.ItemCreate(item=draft), events.ResponseCreate())

    assert desk.last(m.Respond).context == (m.Turn("user", "Hello?"),)


def test_what_was_said_before_is_context() -> None:
    desk = Desk("realtime")
    ref = desk.turn()
    desk.settle(ref, "What is it?")
    answer(desk, "It is", " me")
    desk.turn()

    context = desk.last(m.Respond).context
    assert [(turn.role, turn.words) for turn in context] == [
        ("user", "What is it?"),
        ("assistant", "It is me"),
        ("user", ""),
    ]


def test_metadata_is_echoed_from_the_first_event_on() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate(response=events.ResponseRequest(metadata={"client_event_id": "evt"})))
    answer(desk, "Hi")

    assert desk.last(events.ResponseCreated).response.metadata == {"client_event_id": "evt"}
    assert desk.last(events.ResponseDone).response.metadata == {"client_event_id": "evt"}


def test_without_a_responder_the_error_says_what_to_configure() -> None:
    desk = Desk("realtime", Profile("echo", None))
    desk.send(events.ResponseCreate(event_id="r1"))

    error = desk.last(events.Error).error
    assert (error.code, error.event_id) == ("no_responder", "r1")
    assert "--respond" in error.message


def test_a_transcription_session_gives_no_responses() -> None:
    desk = Desk()
    desk.send(events.ResponseCreate())

    assert desk.last(events.Error).error.code == "invalid_event"


def test_one_response_at_a_time() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate(), events.ResponseCreate(event_id="second"))

    error = desk.last(events.Error).error
    assert (error.code, error.event_id) == ("conversation_already_has_active_response", "second")


def test_a_response_cancelled_before_its_first_word_has_no_item() -> None:
    desk = Desk("realtime")
    desk.names()
    desk.send(events.ResponseCreate(), events.ResponseCancel())

    done = desk.last(events.ResponseDone).response
    assert desk.names() == ["response.created", "response.done"]
    assert (done.status, done.output) == ("cancelled", ())
    assert desk.last(m.Cancel).ref == desk.last(m.Respond).ref


def test_a_cancelled_response_is_closed_and_says_nothing_more() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate())
    ref = desk.last(m.Respond).ref
    desk.output(m.Said(STREAM, ref, "Well"))
    desk.send(events.ResponseCancel())
    desk.names()
    desk.output(m.Said(STREAM, ref, " no"), m.Settled(STREAM, ref, "cancelled", "Well no"))

    assert desk.names() == []


def test_cancelling_nothing_is_the_error_that_clients_know() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCancel())

    error = desk.last(events.Error).error
    assert error.code == "response_cancel_not_active"
    assert error.message == "Cancellation failed: no active response found"


def test_speech_over_an_answer_interrupts_it_and_keeps_what_was_said() -> None:
    desk = Desk("realtime", transcription=None)
    desk.turn()
    desk.output(m.Said(STREAM, desk.last(m.Respond).ref, "Once upon"))
    desk.names()
    desk.speak(5)

    assert desk.names() == ["input_audio_buffer.speech_started", *ANSWER_CLOSES]
    desk.speak(20, SILENCE)
    assert m.Turn("assistant", "Once upon", 2) in desk.last(m.Respond).context


def test_without_interruption_one_automatic_answer_waits() -> None:
    detection = {"type": "server_vad", "interrupt_response": False}
    desk = Desk("realtime", turn_detection=detection)
    desk.turn()
    first = desk.last(m.Respond).ref
    desk.turn()
    assert desk.last(m.Respond).ref == first
    answer(desk, "One")

    assert desk.last(m.Respond).ref != first
    assert len(desk.all(events.ResponseCreated)) == 2


def test_a_limit_of_tokens_is_told() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate(response=events.ResponseRequest(max_output_tokens=2)))
    assert desk.last(m.Respond).max_tokens == 2
    answer(desk, "Hi", " you", status="incomplete")

    done = desk.last(events.ResponseDone).response
    assert (done.status, done.status_details) == ("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})


def test_a_failed_response_is_closed() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate())
    desk.output(m.Said(STREAM, desk.last(m.Respond).ref, "Well"))
    desk.names()
    desk.output(m.Failed(STREAM, desk.last(m.Respond).ref, "engine_error", "No."))

    assert desk.names() == ANSWER_CLOSES
    assert (desk.session.to_send(), desk.session.next_event()) == (([], []), None)


def test_an_answer_to_a_fresh_commit_waits_until_the_engine_has_the_audio() -> None:
    desk = Desk("realtime", turn_detection=None)
    desk.speak(30, hear=False)
    desk.send(events.AudioCommit(), events.ResponseCreate())
    assert desk.all(m.Respond) == []
    desk.hear()

    kinds = [type(command) for command in desk.commands]
    assert kinds.index(m.Commit) < kinds.index(m.Respond)
    assert desk.last(ResponseNote).item_id == desk.last(events.Committed).item_id


# ── speculation ─────────────────────────────────────────────────────────────────────────────────────────────────────

EAGER = Profile("echo", "echo", speculates=True)


def test_a_tentative_end_begins_the_answer_that_the_end_asks_for() -> None:
    desk = Desk("realtime", EAGER)
    desk.turn()

    begun, asked = desk.last(m.Speculate), desk.last(m.Respond)
    assert (begun.ref, begun.context) == (asked.ref, asked.context)
    assert desk.all(m.Crop) == []


def test_resumed_speech_crops_the_speculation() -> None:
    desk = Desk("realtime", EAGER)
    desk.speak(20)
    desk.speak(6, SILENCE)
    desk.speak(5)

    assert desk.last(m.Crop).ref == desk.last(m.Speculate).ref


def test_a_speculation_about_something_else_is_not_used() -> None:
    desk = Desk("realtime", EAGER)
    desk.speak(20)
    desk.speak(6, SILENCE)
    desk.send(events.SessionUpdate(session={"instructions": "Be brief."}))
    desk.speak(20, SILENCE)

    assert desk.last(m.Crop).ref == desk.last(m.Speculate).ref
    assert desk.last(m.Respond).ref != desk.last(m.Speculate).ref
    assert desk.last(m.Respond).context[0] == m.Turn("system", "Be brief.")


def test_a_speculation_that_will_not_be_asked_for_is_cropped() -> None:
    desk = Desk("realtime", EAGER)
    desk.speak(20)
    desk.speak(6, SILENCE)
    detection = {"type": "server_vad", "create_response": False}
    desk.send(events.SessionUpdate(session={"audio": {"input": {"turn_detection": detection}}}))
    desk.speak(20, SILENCE)

    assert desk.all(m.Respond) == []
    assert [each.ref for each in desk.all(m.Crop)] == [desk.last(m.Speculate).ref]


def test_an_item_that_goes_in_the_pause_is_not_in_the_answer() -> None:
    desk = Desk("realtime", EAGER)
    desk.send(text_item("gone"))
    desk.speak(20)
    desk.speak(6, SILENCE)
    desk.send(events.ItemDelete(item_id="gone"))
    desk.speak(20, SILENCE)

    assert [turn.text for turn in desk.last(m.Speculate).context] == ["gone", ""]
    assert desk.last(m.Crop).ref == desk.last(m.Speculate).ref
    assert [turn.text for turn in desk.last(m.Respond).context] == [""]


# ── items ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def text_item(item_id: str) -> events.ItemCreate:
    content = (events.Content("input_text", text=item_id),)
    return events.ItemCreate(item=events.ItemDraft("user", content, id=item_id))


def test_items_keep_their_order_and_say_what_came_before() -> None:
    desk = Desk("realtime")
    first = text_item("a")
    desk.send(first, text_item("b"))
    between = events.ItemCreate(item=text_item("c").item, previous_item_id="a")
    front = events.ItemCreate(item=text_item("d").item, previous_item_id="root")
    desk.send(between, front)

    assert [event.previous_item_id for event in desk.all(events.ItemAdded)] == [None, "a", "a", None]
    desk.send(events.ResponseCreate())
    assert [turn.text for turn in desk.last(m.Respond).context] == ["d", "a", "c", "b"]


def test_audio_sent_along_with_an_item_reaches_the_responder() -> None:
    desk = Desk("realtime")
    parts = (
        events.Content("input_audio", audio=bytes(3200)),
        events.Content("input_text", text="What is said?"),
    )
    desk.send(events.ItemCreate(item=events.ItemDraft("user", parts)), events.ResponseCreate())

    audio = desk.last(m.Audio)
    assert len(audio.pcm) == 3200
    assert desk.last(m.Respond).context == (m.Turn("user", "What is said?", audio.ref),)
    shown = desk.last(events.ItemAdded).item.content
    assert [part.type for part in shown] == ["input_audio", "input_text"]
    assert shown[0].audio is UNSET, "audio is never sent back"


def test_several_clips_in_an_item_stay_clips_in_their_order() -> None:
    desk = Desk("realtime")
    sound = [events.Content("input_audio", audio=bytes(count)) for count in (3200, 6400)]
    text = [events.Content("input_text", text=text) for text in ("Compare", " this", "with this", "Well?")]
    draft = events.ItemDraft("user", (*text[:2], sound[0], text[2], sound[1], text[3]))
    desk.send(events.ItemCreate(item=draft), events.ResponseCreate())

    first, second = desk.all(m.Audio)
    assert (len(first.pcm), len(second.pcm)) == (3200, 6400)
    assert desk.last(m.Respond).context == (
        m.Turn("user", "Compare this"),
        m.Turn("user", "with this", first.ref, continues=True),
        m.Turn("user", "Well?", second.ref, continues=True),
    )
    shown = desk.last(events.ItemAdded).item.content
    assert [part.type.removeprefix("input_") for part in shown] == ["text", "text", "audio", "text", "audio", "text"]


def test_a_response_beside_the_conversation_leaves_no_trace_in_it() -> None:
    desk = Desk("realtime", transcription=None)
    desk.send(text_item("kept"))
    desk.names()
    question = events.ItemDraft("user", (events.Content("input_text", text="Classify."),))
    request = events.ResponseRequest(conversation="none", input=(events.ItemReference("kept"), question))
    desk.send(events.ResponseCreate(response=request))
    assert [turn.text for turn in desk.last(m.Respond).context] == ["kept", "Classify."]
    answer(desk, "A", " story")

    names = desk.names()
    assert not any(name.startswith("conversation.") for name in names)
    assert names[0] == "response.created"
    desk.send(events.ResponseCreate())
    assert [turn.text for turn in desk.last(m.Respond).context] == ["kept"]


def test_responses_beside_the_conversation_run_with_it_and_are_limited() -> None:
    desk = Desk("realtime")
    aside = events.ResponseRequest(conversation="none", input=())
    desk.send(events.ResponseCreate(), *[events.ResponseCreate(response=aside) for _ in range(4)])
    assert desk.all(events.Error) == []
    assert desk.last(events.ResponseCreated).response.conversation_id is None
    desk.send(events.ResponseCreate(response=aside))

    assert desk.last(events.Error).error.code == "conversation_already_has_active_response"


def test_a_cancelled_response_counts_what_was_generated() -> None:
    desk = Desk("realtime")
    desk.send(events.ResponseCreate())
    ref = desk.last(m.Respond).ref
    desk.output(m.Said(STREAM, ref, "Well", tokens=1, input_tokens=40), m.Said(STREAM, ref, " yes", tokens=1))
    desk.send(events.ResponseCancel())

    usage = desk.last(events.ResponseDone).response.usage
    assert usage is not None
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (40, 2, 42)


def test_items_can_be_fetched_and_deleted() -> None:
    desk = Desk("realtime")
    desk.send(text_item("a"), events.ItemRetrieve(item_id="a"), events.ItemDelete(item_id="a"))
    assert desk.last(events.ItemRetrieved).item.content[0].text == "a"
    assert desk.last(events.ItemDeleted).item_id == "a"
    desk.send(events.ItemRetrieve(item_id="a"))
    desk.send(events.ItemDelete(item_id="a"))
    desk.send(events.ItemTruncate(item_id="a", content_index=0, audio_end_ms=0))

    codes = [event.error.code for event in desk.all(events.Error)]
    assert codes == [f"item_{what}_invalid_item_id" for what in ("retrieve", "delete", "truncate")]


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (text_item("a"), "item_create_duplicate_item_id"),
        (events.ItemCreate(item=text_item("x").item, previous_item_id="nobody"), "invalid_value"),
        (
            events.ItemCreate(item=events.ItemDraft("user", (events.Content("output_text", text="x"),))),
            "invalid_value",
        ),
    ],
)
def test_items_that_cannot_be(event: events.ItemCreate, code: str) -> None:
    desk = Desk("realtime")
    desk.send(text_item("a"))
    desk.send(event)

    assert desk.last(events.Error).error.code == code


def test_nothing_is_null_where_strict_clients_do_not_allow_it() -> None:
    desk = Desk("realtime")
    desk.turn()
    answer(desk, "Hi")

    for event in desk.events:
        for item in [getattr(event, "item", None), *getattr(getattr(event, "response", None), "output", ())]:
            if item is not None:
                assert None not in (item.id, item.status, item.role, item.content)
                assert all(part.text is not None for part in item.content)
                assert all(part.type != "input_audio" or part.transcript is not UNSET for part in item.content)


# ── the engine process is lost ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("profile", "text", "told"),
    [
        (Profile("echo", "echo"), "", ["context_lost"]),
        (Profile("echo", "echo"), "Four, queen of clubs.", []),
        (Profile("echo", "cascade", reads_text=True), "", []),
        (Profile("echo", None), "", []),
    ],
)
def test_what_the_next_process_has_not_heard_is_told(profile: Profile, text: str, told: list[str]) -> None:
    shy, curious = Desk("realtime", profile), Desk("realtime", profile)
    curious.send(events.SessionUpdate(session={"voxd": {"metrics": True}}))
    for desk in (shy, curious):
        desk.settle(desk.turn(), text)
        desk.session.engine_lost()
        desk.drain()
    assert shy.all(events.Notice) == []
    assert [notice.code for notice in curious.all(events.Notice)] == told
