"""`Session`: the entrance to the session core.  Step 10, and the parsing half of step 5.

Pure.  It passes each event to the part that handles it and turns what is wrong into `error` events.  It does not know
turn rules, sockets or clocks.

    session.receive_event(event) | receive_audio(bytes) | receive_output(output) | receive_time(now_us)
            | receive_error(error) | engine_lost() | engine_ready(profile) | client_lost() | client_back(profile)
    commands, notes = session.to_send();  unless undecided: session.next_event() until it is None

Order: `session.created` is the first event; events leave in the order in which their causes came; every response and
every item ends exactly once, whatever the engine or the client does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import UNSET

from shared import events
from shared.audio import RATE
from shared.events import WireError
from shared.session_config import AnySession
from voxd import messages as m
from voxd.session.answers import Answers
from voxd.session.attached import resampled
from voxd.session.conversation import Conversation
from voxd.session.drafts import draft_of
from voxd.session.listening import INBOUND, InputBuffer
from voxd.session.openings import Asked, Openings
from voxd.session.outbox import Out, Outbox
from voxd.session.terms import Profile, Terms
from voxd.session.utterances import Utterances

FORGOTTEN = "The engine was restarted and has lost the audio of earlier turns; it knows only those with a transcript."


class Session:
    """One Realtime session.  `stream`: its number in the engine process; `new_id("item")` makes unique ids; `warnings`:
    what else its first event is to tell."""

    def __init__(
        self,
        stream: int,
        config: AnySession,
        profile: Profile,
        new_id: Callable[[str], str],
        warnings: tuple[events.Warned, ...] = (),
    ) -> None:
        self._out = Outbox(stream, new_id)
        self._terms = Terms(config, profile, warnings)
        self._conversation = Conversation()
        self._openings = Openings()
        self._input = InputBuffer(self._terms.rules)
        self._answers = Answers(self._terms, self._out, self._conversation)
        self._utterances = Utterances(self._terms, self._out, self._input, self._conversation, self._answers)
        self._apply_config()
        self._open(0)
        self._out.emit(events.SessionCreated, session=self._terms.config, voxd_warnings=self._terms.warnings or UNSET)
        self._notify(self._terms.warnings)

    # ── what the shell asks ─────────────────────────────────────────────────────────────────────────────────────────

    def to_send(self) -> Out:
        """Engine commands and notes that came of everything received since the last call."""
        return self._out.take()

    def next_event(self) -> events.ServerEvent | None:
        """The oldest server event that has not been taken; None: there is none."""
        return self._out.next_event()

    @property
    def waiting(self) -> int:
        """Bytes of events that have not been taken, about."""
        return self._out.waiting

    @property
    def config(self) -> AnySession:
        return self._terms.config

    @property
    def received(self) -> int:
        """Samples received so far."""
        return self._input.received

    @property
    def kept(self) -> int:
        """Bytes of audio that are kept for this session."""
        return self._input.kept

    @property
    def told(self) -> int:
        """Bytes of the conversation and of the session object that are kept for this session."""
        return self._conversation.size + self._terms.size

    @property
    def position(self) -> int:
        """Samples received so far, at the rate of the session's format."""
        return self._input.sent

    @property
    def busy(self) -> bool:
        """Whether somebody is speaking, or a text or response is still owed to the client."""
        return self._answers.busy or self._utterances.busy

    @property
    def deadline_us(self) -> int | None:
        """When `receive_time` is wanted: only text held by `chunked_response` waits for a clock."""
        return self._answers.deadline_us

    @property
    def undecided(self) -> bool:
        """Whether an update waits for the engine's word; until then no event is to be taken: its answer may change."""
        return self._openings.undecided

    @property
    def stalled(self) -> bool:
        """Whether so much audio waits for the engine that the client must not be read for now."""
        return 2 * self._input.backlog >= INBOUND

    # ── what the client sends ───────────────────────────────────────────────────────────────────────────────────────

    def receive_event(self, event: events.ClientEvent) -> None:
        """Takes one event; an invalid one becomes an `error` event and changes nothing else."""
        for _ in self.work_on(event):
            pass

    def work_on(self, event: events.ClientEvent) -> Iterator[None]:
        """The same, a piece at a time: between two pieces other sessions may be served, and outputs received."""
        try:
            if isinstance(event, events.AudioAppend):
                yield from self._append(event)
            else:
                self._dispatch((yield from resampled(event, self._terms.config.audio.input.format)))
        except WireError as error:
            event_id = None if event.event_id is UNSET else event.event_id
            error.event_id = event_id
            self.receive_error(error)

    def receive_audio(self, data: bytes, offset: int | None = None) -> None:
        """Takes audio that came outside of events (a binary message, an RTP track).  `offset`: as `voxd_offset`."""
        for _ in self.work_on_audio(data, offset):
            pass

    def work_on_audio(self, data: bytes, offset: int | None = None) -> Iterator[None]:
        """The same as `receive_audio`, a piece at a time."""
        try:
            yield from self._utterances.receive_audio(data, offset)
        except WireError as error:
            self.receive_error(error)

    def receive_error(self, error: WireError) -> None:
        """Tells the client of input that was refused here or by the parser."""
        if error.skipped is not None:
            self._conversation.skip(*error.skipped)
        body = events.ErrorBody("invalid_request_error", error.code, error.message, error.param, error.event_id)
        self._out.emit(events.Error, error=body)

    def _dispatch(self, event: events.ClientEvent) -> None:
        match event:
            case events.SessionUpdate():
                self._update(event)
            case events.AudioCommit():
                self._utterances.commit()
            case events.AudioClear():
                self._utterances.clear()
            case events.ItemCreate():
                self._create_item(event)
            case events.ItemRetrieve() | events.ItemDelete() | events.ItemTruncate():
                self._visit_item(event)
            case events.ResponseCreate():
                self._answers.create(event, hold=self._utterances.closing or not self._out.engine)
            case events.ResponseCancel():
                self._answers.cancel(event)

    def _append(self, event: events.AudioAppend) -> Iterator[None]:
        if self._terms.profile.track:
            raise WireError(
                "invalid_event", "In a call, audio comes by its audio track; it cannot be sent in events.", "type"
            )
        yield from self._utterances.receive_audio(
            event.audio, None if event.voxd_offset is UNSET else event.voxd_offset
        )

    def _update(self, event: events.SessionUpdate) -> None:
        """Applies an update.  Where the engine has to agree, the answer waits for it: see `undecided`."""
        has_items, before, engines = self._conversation.last_id is not None, self._terms.config, self._wanted
        self._terms.update(event, started=self._input.started, has_items=has_items)
        if not self._terms.shows_text:
            self._utterances.disown()
        self._apply_config()
        self._open(self._input.fed)
        answer = self._out.emit(
            events.SessionUpdated, session=self._terms.config, voxd_warnings=self._terms.warnings or UNSET
        )
        if self._out.engine:
            waits = self._wanted != engines or self._openings.undecided  # one that builds on another waits with it
            self._openings.ask(Asked(event, before, answer if waits else None))
        self._notify(self._terms.warnings)

    def _take_back(self, asked: Asked, reason: str) -> None:
        """The engine refuses an update and goes on as it was: the update is not in effect, and the client is told so,
        once.  Those that came after it and are not decided are applied to what was before."""
        later = self._openings.withdraw_all()
        for each in (asked, *later):
            if each.answer is not None:
                self._out.withdraw(each.answer)
                self._terms.untell(each.answer.voxd_warnings or ())
        self._terms.revert(asked.before, started=self._input.started)
        self._apply_config()
        event_id = None if asked.update.event_id is UNSET else asked.update.event_id
        message = f"{reason}. Nothing of this update was applied."
        self.receive_error(WireError("invalid_value", message, "session.audio.input.transcription", event_id))
        for each in later:
            self.receive_event(each.update)

    def _notify(self, warnings: tuple[events.Warned, ...]) -> None:
        """Sends warnings as events of their own, to clients that have opted in to voxd's events."""
        if self._terms.config.voxd.aware:
            for each in warnings:
                self._out.emit(events.Notice, code=each.code, message=each.message)

    def _apply_config(self) -> None:
        """Applies the configuration to the audio buffer: format and turn rules."""
        sound = self._terms.config.audio.input
        if self._terms.profile.track:
            self._input.set_format("audio/pcm", RATE)
        else:
            self._input.set_format(sound.format.type, sound.format.hz)
        self._input.set_rules(self._terms.rules)

    def _open(self, start: int) -> None:
        self._out.command(m.Open(self._out.stream, *self._wanted, start, self._terms.config.voxd.hurry))

    @property
    def _wanted(self) -> tuple[tuple[m.Role, ...], str | None, str, int | None]:
        """What of the configuration an engine may refuse: its roles, and the options of Open."""
        terms = self._terms
        return terms.roles, terms.language, terms.hints, terms.config.voxd.delay_ms

    def _create_item(self, event: events.ItemCreate) -> None:
        wanted = None if event.previous_item_id is UNSET else event.previous_item_id
        try:
            draft = draft_of(event.item)
        except WireError as error:
            if event.item.id is not UNSET:
                error.skipped = event.item.id, wanted
            raise
        if draft.id is not None and self._has(draft.id):
            message = f"An item with id '{draft.id[:80]}' exists already."
            raise WireError("item_create_duplicate_item_id", message, "item.id")
        give_audio = self._answers.give_audio if self._answers.hears else None
        entry, unused = draft.entry(self._conversation.new_id(self._out.new_id), give_audio)
        previous = self._conversation.add(entry, wanted)
        warnings = self._terms.about_item(unused)
        self._out.emit(events.ItemAdded, item=entry.item(), previous_item_id=previous, voxd_warnings=warnings or UNSET)
        self._out.emit(events.ItemDone, item=entry.item(), previous_item_id=previous)
        self._notify(warnings)

    def _has(self, item_id: str) -> bool:
        """Whether there is an item of this id, or one has been announced."""
        parts = self._utterances, self._answers
        return item_id in self._conversation or any(part.announces(item_id) for part in parts)

    def _visit_item(self, event: events.ItemRetrieve | events.ItemDelete | events.ItemTruncate) -> None:
        entry = self._conversation.get(event.item_id)
        what = str(event.__struct_config__.tag).rpartition(".")[2]
        if entry is None:
            message = f"There is no item '{event.item_id}' to {what}."
            raise WireError(f"item_{what}_invalid_item_id", message, "item_id")
        match event:
            case events.ItemRetrieve():
                self._out.emit(events.ItemRetrieved, item=entry.item())
            case events.ItemDelete():
                self._conversation.remove(event.item_id)
                self._out.emit(events.ItemDeleted, item_id=event.item_id)
            case events.ItemTruncate():
                message = "Only audio of the assistant can be truncated; answers here are text."
                raise WireError("unsupported_content_type", message, "item_id")

    # ── what the engine process sends ───────────────────────────────────────────────────────────────────────────────

    def receive_output(self, output: m.Output) -> None:
        """Takes one output of the engine.  One for a ref that is no longer waited for came too late and is ignored."""
        match output:
            case m.Heard():
                self._utterances.receive_heard(output)
                self._utterances.advance()
            case m.Said():
                self._owner(output.ref).receive_said(output)
            case m.Guessed():
                self._utterances.receive_guessed(output)
            case m.Settled():
                self._owner(output.ref).receive_settled(output)
            case m.Failed():
                self._owner(output.ref).receive_failed(output)
            case m.Opened():
                self._openings.take()
            case m.Refused() if output.kept:
                if (asked := self._openings.take()) is not None and asked.answer is not None:
                    self._take_back(asked, output.reason)
            case m.Warned() if self._terms.config.voxd.aware:
                self._out.emit(events.Notice, code=output.code, message=output.message)
            case m.Refused():
                self._openings.forget()
                self._out.engine = False  # it has no such stream now, and would take the next Open for a first one
                body = events.ErrorBody("server_error", "server_overloaded", output.reason, None, None)
                self._out.emit(events.Error, error=body)

    def receive_time(self, now_us: int) -> None:
        self._answers.receive_time(now_us)

    def _owner(self, ref: int | None) -> Answers | Utterances:
        """The part that `ref` belongs to: a response or an utterance."""
        return self._answers if self._answers.owns(ref) else self._utterances

    # ── when the engine process, or the client, is lost ─────────────────────────────────────────────────────────────

    def engine_lost(self) -> None:
        """The engine process is gone.  Turns in flight end as failed; an open utterance waits; the client stays."""
        self._answers.lost("engine_lost", "The engine was restarted during this response; ask again.")
        self._utterances.lost()
        self._openings.forget()
        self._out.engine = False
        terms = self._terms
        listens = terms.conversation and terms.profile.respond is not None and not terms.profile.reads_text
        if terms.config.voxd.aware and listens and self._conversation.unwritten:
            self._out.emit(events.Notice, code="context_lost", message=FORGOTTEN)

    def going_away(self, drain_s: int, retry_s: int) -> None:
        """The server stops: open turns and answers have `drain_s` seconds to end."""
        if self._terms.config.voxd.aware:
            message = (
                f"voxd is going away: what has begun may end within {drain_s} s; then connect again in {retry_s} s."
            )
            self._out.emit(events.Notice, code="going_away", message=message, retry_after_s=retry_s)

    def client_lost(self) -> None:
        """The client is gone and its slot is free; all but its responses is kept until it comes back."""
        self._answers.lost("connection_lost", "The connection was lost during this response; ask again.")
        self._openings.tell_all()
        self._out.engine = False

    def engine_ready(self, profile: Profile) -> None:
        """A new engine process is warm: it is told the whole state."""
        self._openings.forget()
        self.client_back(profile)

    def client_back(self, profile: Profile) -> None:
        """A client is back with a new slot: the engine is told the whole state."""
        self._out.engine = True
        self._terms.profile = profile
        self._open(self._utterances.resume_at())
        self._utterances.replay()
        if not self._utterances.closing:
            self._answers.release()

    def resumed(self) -> None:
        """Tells the client, after the events that it missed, where to go on."""
        self._out.emit(events.Resumed, received_samples=self._input.sent)
