"""The responses of a session: the one of the conversation, a few beside it, speculation and barge-in.  Step 10.

Pure.  It knows responses and the conversation they answer; not audio, not turn rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET
from msgspec.structs import replace

from shared.events import (
    Error,
    ErrorBody,
    ItemReference,
    Json,
    ResponseCancel,
    ResponseCreate,
    ResponseRequest,
    Warned,
    WireError,
)
from shared.parts import TEXT
from voxd import messages as m
from voxd.session.conversation import Conversation, Entry
from voxd.session.drafts import draft_of
from voxd.session.outbox import Outbox, ResponseNote
from voxd.session.responses import Ending, OpenResponse
from voxd.session.terms import Terms, Unused

ASIDES = 4  # responses beside the conversation at the same time
LONGEST = TEXT  # characters of an answer
TOO_LONG: Json = {"type": "incomplete", "reason": "max_output_tokens"}
NO_RESPONDER = "No engine fills the role `respond`. Start voxd with `--respond ENGINE` or set `engines.respond`."


@dataclass(frozen=True, slots=True)
class _Question:
    """What a Respond command will ask; `entries` are read when it is sent."""

    ref: int
    instructions: str
    entries: tuple[Entry, ...]
    tokens: int | None
    aside: bool
    begun: bool  # the engine speculates upon it


class Answers:
    """All responses of one session: at most one in the conversation, ASIDES beside it."""

    def __init__(self, terms: Terms, out: Outbox, conversation: Conversation) -> None:
        self._terms, self._out = terms, out
        self._conversation = conversation
        self._conversation_id = out.new_id("conv")
        self._active: OpenResponse | None = None
        self._asides: dict[int, OpenResponse] = {}
        # Questions that wait until the engine has the audio or, for a responder that reads text, its transcript.
        self._held: list[_Question] = []
        self._next: str | None = None  # the user's item whose automatic answer waits for the active one to end
        self._speculation: m.Speculate | None = None
        self._told_in_vain = False

    @property
    def active(self) -> bool:
        """Whether the model has the floor."""
        return self._active is not None

    @property
    def busy(self) -> bool:
        return self._active is not None or bool(self._asides)

    @property
    def _all(self) -> list[OpenResponse]:
        return [*([self._active] if self._active else []), *self._asides.values()]

    @property
    def deadline_us(self) -> int | None:
        return min((a.deadline_us for a in self._all if a.deadline_us is not None), default=None)

    def receive_time(self, now_us: int) -> None:
        for answer in self._all:
            answer.receive_time(now_us)

    # ── asked for ───────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, event: ResponseCreate, *, hold: bool) -> None:
        """`response.create`.  `hold`: audio that the client committed has not been heard in full yet, or there is no
        engine process at the moment."""
        request = event.response
        if not self._terms.conversation:
            raise WireError("invalid_event", "A transcription session gives no responses.", "type")
        if self._terms.profile.respond is None:
            raise WireError("no_responder", NO_RESPONDER)
        if request.conversation not in (UNSET, "auto", "none", self._conversation_id):
            raise WireError("invalid_value", "It must be 'auto' or 'none'.", "response.conversation")
        aside = request.conversation == "none"
        if aside and len(self._asides) >= ASIDES:
            message = f"There are {ASIDES} responses beside the conversation already; wait until one is done."
            raise WireError("conversation_already_has_active_response", message)
        if self._active and not aside:
            message = f"Conversation already has an active response in progress: {self._active.id}."
            raise WireError("conversation_already_has_active_response", message)
        limit = request.max_output_tokens
        tokens = self._terms.max_tokens if limit is UNSET else None if limit == "inf" else int(limit)
        instructions = self._terms.instructions if request.instructions is UNSET else request.instructions
        entries, unused = self._entries(request)
        if entries and entries[-1].role == "user" and not entries[-1].turns():
            message = (
                f"'{self._terms.profile.respond}' can use nothing in the last item: "
                "send `input_text`, or speak through the audio buffer."
            )
            raise WireError("unsupported_content_type", message, "response")
        warnings = self._terms.about_response(request, event.unknown, unused)
        item_id = None if aside else self._conversation.last_id
        metadata = None if request.metadata is UNSET else request.metadata
        self._begin(item_id, instructions, entries, tokens, metadata, warnings, hold=hold, aside=aside)

    def _entries(self, request: ResponseRequest) -> tuple[tuple[Entry, ...], list[Unused]]:
        """The entries to be answered (the conversation's, or the request's own input), and the fields of them that
        nobody can use."""
        if request.input is UNSET:
            return self._conversation.entries(), []
        entries, unused = list[Entry](), list[Unused]()
        for index, part in enumerate(request.input):
            param = f"response.input[{index}]"
            if isinstance(part, ItemReference):
                entry = self._conversation.get(part.id)
                if entry is None:
                    raise WireError("invalid_value", f"There is no item '{part.id[:80]}' to refer to.", f"{param}.id")
            else:
                entry, more = draft_of(part, param).entry("", self.give_audio if self.hears else None)
                unused += more
            entries.append(entry)
        return tuple(entries), unused

    @property
    def hears(self) -> bool:
        """Whether there is a responder that takes audio."""
        return "respond" in self._terms.roles and not self._terms.profile.reads_text

    def give_audio(self, audio: bytes) -> int:
        """Gives the responder audio that came with an item, s16le at 16 kHz.  Returns its ref."""
        ref = self._out.new_ref()
        self._out.command(m.Audio(self._out.stream, ref, audio))
        return ref

    def answer_turn(self, item_id: str) -> None:
        """Begins the automatic response at the end of a turn, or later if another is active."""
        if self._active:
            self._next = item_id
            return
        self._begin(item_id, self._terms.instructions, self._conversation.entries(), self._terms.max_tokens, None)

    def refuse_turn(self) -> None:
        """Tells the client once that turns are to be answered and there is no responder."""
        if self._terms.answers_in_vain and not self._told_in_vain:
            self._told_in_vain = True
            body = ErrorBody("invalid_request_error", "no_responder", NO_RESPONDER, None, None)
            self._out.emit(Error, error=body)

    def _begin(
        self,
        item_id: str | None,
        instructions: str,
        entries: tuple[Entry, ...],
        tokens: int | None,
        metadata: dict[str, str] | None,
        warnings: tuple[Warned, ...] = (),
        *,
        hold: bool = False,
        aside: bool = False,
    ) -> None:
        context = self._conversation.context(instructions, entries)
        begun = None if aside else self._accepted(context, tokens)
        ref = begun or self._out.new_ref()
        ids = (
            self._out.new_id("resp"),
            self._conversation.new_id(self._out.new_id),
            None if aside else self._conversation_id,
        )
        chunks, add_item = self._terms.profile.chunks, None if aside else self._conversation.add
        answer = OpenResponse(ref, ids, self._out, chunks, add_item, max_tokens=tokens, metadata=metadata)
        answer.begin(warnings)
        if aside:
            self._asides[ref] = answer
        else:
            self._active = answer
        self._out.note(ResponseNote(ref, answer.id, item_id))
        question = _Question(ref, instructions, entries, tokens, aside, begun is not None)
        if hold or self._unread(question):
            self._held.append(question)
        else:
            self._ask(question)

    def _unread(self, question: _Question) -> bool:
        """Whether it must wait for the transcript of an utterance."""
        return self._terms.profile.reads_text and self._conversation.awaits(question.entries)

    def _ask(self, question: _Question) -> None:
        context = self._conversation.context(question.instructions, question.entries)
        self._out.command(m.Respond(self._out.stream, question.ref, context, question.tokens, question.aside))

    def release(self) -> None:
        """Sends the questions that waited: the engine now has all audio that the client committed."""
        held, self._held = self._held, []
        for each in held:
            if self._unread(each):
                self._held.append(each)
            else:
                self._ask(each)

    def _unhold(self, question: _Question) -> None:
        """This question will not be asked."""
        self._held.remove(question)
        if question.begun:
            self._out.command(m.Crop(self._out.stream, question.ref))

    def unwritten(self, item_id: str, code: str, message: str) -> None:
        """This item will have no transcript: a response that waits for it fails."""
        for each in list(self._held):
            if self._terms.profile.reads_text and each.entries and each.entries[-1].id == item_id:
                self._unhold(each)
                self._fail(next(answer for answer in self._all if answer.ref == each.ref), code, message)

    def cancel(self, event: ResponseCancel) -> None:
        wanted = None if event.response_id is UNSET else event.response_id
        found = [a for a in self._all if a.id == wanted] if wanted is not None else [a for a in (self._active,) if a]
        if not found:
            raise WireError("response_cancel_not_active", "Cancellation failed: no active response found")
        self._stop(found[0], "client_cancelled")

    # ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def interrupt(self) -> None:
        """Barge-in: the user speaks over the answer."""
        if self._active and self._terms.interrupts:
            self._stop(self._active, "turn_detected")

    def prepare(self, utterance: int) -> None:
        """Somebody speaks: a responder may prefill the conversation that it will probably be asked about."""
        profile = self._terms.profile
        begins = profile.respond is not None and (profile.speculates or not profile.reads_text)
        if begins and not self._active and self._terms.conversation:
            context = self._conversation.context(self._terms.instructions, self._conversation.entries())
            self._out.command(m.Prepare(self._out.stream, utterance, context))

    def speculate(self, utterance: int, end: int, text: str = "") -> None:
        """The turn may have ended: begin what `answer_turn` will ask for, as it would be asked for now.

        `text`: what the utterance probably says; a responder that reads begins once that is known."""
        if self._active or not (self._terms.profile.speculates and self._terms.answers_by_itself):
            return
        if self._terms.profile.reads_text and not text:
            return
        self.crop()  # one for an utterance that the client committed and did not have answered
        before = self._conversation.context(self._terms.instructions, self._conversation.entries())
        context = (*before, m.Turn("user", ref=utterance, transcript=text))
        ref = self._out.new_ref()
        self._speculation = m.Speculate(self._out.stream, ref, utterance, end, context, self._terms.max_tokens)
        self._out.command(self._speculation)

    def crop(self) -> None:
        """Discards the speculative answer: the turn had not ended."""
        if self._speculation:
            self._out.command(m.Crop(self._out.stream, self._speculation.ref))
            self._speculation = None

    def _accepted(self, context: tuple[m.Turn, ...], tokens: int | None) -> int | None:
        """The ref of the speculation if it began exactly this; anything else is cropped."""
        begun = self._speculation
        if begun and begun.max_tokens == tokens and _alike(begun.context, context):
            self._speculation = None
            return begun.ref
        self.crop()
        return None

    # ── from the engine ─────────────────────────────────────────────────────────────────────────────────────────────

    def _find(self, ref: int | None) -> OpenResponse | None:
        return next((answer for answer in self._all if answer.ref == ref), None)

    def announces(self, item_id: str) -> bool:
        """Whether a response has, or will have, an item of this id."""
        return any(answer.item_id == item_id for answer in self._all)

    def owns(self, ref: int | None) -> bool:
        return self._find(ref) is not None

    def receive_said(self, said: m.Said) -> None:
        if answer := self._find(said.ref):
            room = LONGEST - len(answer.text)
            answer.receive_said(replace(said, text=said.text[:room]) if len(said.text) > room else said)
            if len(said.text) >= room:
                self._out.command(m.Cancel(self._out.stream, answer.ref))
                self._close(answer, "incomplete", TOO_LONG)

    def receive_settled(self, settled: m.Settled) -> None:
        """The engine is done.  A cancelled response was closed before, when the client or a barge-in ended it."""
        ending: Ending = "incomplete" if settled.status == "incomplete" else "completed"
        details = TOO_LONG if ending == "incomplete" else None
        if answer := self._find(settled.ref):
            self._close(answer, ending, details, settled)

    def receive_failed(self, failed: m.Failed) -> None:
        if answer := self._find(failed.ref):
            self._fail(answer, failed.code, failed.message)

    def lost(self, code: str, message: str) -> None:
        """The engine process, or the client, is gone: every open response fails."""
        self._speculation = self._next = None
        self._held.clear()
        for answer in self._all:
            self._fail(answer, code, message)

    def _fail(self, answer: OpenResponse, code: str, message: str) -> None:
        """Ends the response as failed, in the middle of a word if need be."""
        error = {"type": "server_error", "code": code, "message": message}
        self._close(answer, "failed", {"type": "failed", "error": error})

    def _stop(self, answer: OpenResponse, reason: str) -> None:
        held = [each for each in self._held if each.ref == answer.ref]
        if held:
            self._unhold(held[0])
        else:
            self._out.command(m.Cancel(self._out.stream, answer.ref))
        self._close(answer, "cancelled", {"type": "cancelled", "reason": reason})

    def _close(
        self, answer: OpenResponse, ending: Ending, details: Json | None, settled: m.Settled | None = None
    ) -> None:
        answer.close(ending, details=details, settled=settled)
        if answer is not self._active:
            self._asides.pop(answer.ref, None)
            return
        self._active = None
        status = "completed" if ending == "completed" else "incomplete"
        self._conversation.set(answer.item_id, text=answer.text, status=status)
        waiting, self._next = self._next, None
        if waiting:
            self.answer_turn(waiting)


def _alike(one: tuple[m.Turn, ...], other: tuple[m.Turn, ...]) -> bool:
    """Whether these are the same conversation, apart from transcripts that came since."""
    return [(t.role, t.text, t.ref) for t in one] == [(t.role, t.text, t.ref) for t in other]
