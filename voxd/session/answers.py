"""What the model says: at most one active response, speculation at the tentative end, barge-in.  Step 10.

Pure.  It knows responses and the conversation they answer; not audio, not turn rules.
"""

from __future__ import annotations

from msgspec import UNSET

from shared.events import Json, ResponseCancel, ResponseRequest, WireError
from voxd import messages as m
from voxd.session.conversation import Conversation
from voxd.session.outbox import Outbox, ResponseNote
from voxd.session.responses import Answer, Ending
from voxd.session.terms import Terms


class Answers:
    def __init__(self, stream: int, terms: Terms, out: Outbox, conversation: Conversation) -> None:
        self._stream, self._terms, self._out = stream, terms, out
        self._conversation = conversation
        self._conversation_id = out.new_id("conv")
        self._active: Answer | None = None
        self._held: m.Respond | None = None  # until the audio that it answers has been committed in the engine
        self._next: str | None = None  # the user's item whose automatic answer waits for the active one to end
        self._speculation: m.Speculate | None = None

    @property
    def active(self) -> bool:
        return self._active is not None

    @property
    def deadline_us(self) -> int | None:
        return self._active.deadline_us if self._active else None

    def receive_time(self, now_us: int) -> None:
        if self._active:
            self._active.receive_time(now_us, self._conversation.add)

    # ── asked for ───────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, request: ResponseRequest, *, hold: bool) -> None:
        """`response.create`.  `hold`: audio that the client committed has not been heard in full yet."""
        if not self._terms.conversation:
            raise WireError("invalid_event", "A transcription session gives no responses.", "type")
        if self._terms.profile.respond is None:
            message = "No engine fills the role `respond`. Start voxd with `--respond ENGINE` or set `engines.respond`."
            raise WireError("no_responder", message)
        if self._active:
            message = f"Conversation already has an active response in progress: {self._active.id}."
            raise WireError("conversation_already_has_active_response", message)
        limit = request.max_output_tokens
        tokens = self._terms.max_tokens if limit is UNSET else None if limit == "inf" else int(limit)
        instructions = self._terms.instructions if request.instructions is UNSET else request.instructions
        self._begin(self._conversation.last_id, instructions, tokens, request.metadata, hold=hold)

    def answer_turn(self, item_id: str) -> None:
        """The end of a turn asks for a response by itself."""
        if self._active:
            self._next = item_id
            return
        self._begin(item_id, self._terms.instructions, self._terms.max_tokens, None, hold=False)

    def _begin(
        self, item_id: str | None, instructions: str, tokens: int | None, metadata: dict[str, str] | None, *, hold: bool
    ) -> None:
        context = self._conversation.context(instructions)
        ref = self._accepted(context, tokens) or self._out.new_ref()
        self._active = Answer(
            ref,
            self._out.new_id("resp"),
            self._out.new_id("item"),
            self._out.emit,
            self._terms.profile.chunks,
            conversation_id=self._conversation_id,
            max_tokens=tokens,
            metadata=metadata,
        )
        self._out.note(ResponseNote(ref, self._active.id, item_id))
        command = m.Respond(self._stream, ref, context, tokens)
        if hold:
            self._held = command
        else:
            self._out.command(command)

    def release(self) -> None:
        """All audio that the client committed has been heard and committed in the engine."""
        if self._held:
            self._out.command(self._held)
            self._held = None

    def cancel(self, event: ResponseCancel) -> None:
        wanted = None if event.response_id is UNSET else event.response_id
        if self._active is None or wanted not in (None, self._active.id):
            raise WireError("response_cancel_not_active", "Cancellation failed: no active response found")
        self._stop("client_cancelled")

    # ── turns ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def interrupt(self) -> None:
        """The person speaks over the answer."""
        if self._active and self._terms.interrupts:
            self._stop("turn_detected")

    def speculate(self, utterance: int, end: int) -> None:
        """The turn may have ended: begin what `answer_turn` will ask for, as it would be asked for now."""
        if self._active or not (self._terms.profile.speculates and self._terms.answers_by_itself):
            return
        context = (*self._conversation.context(self._terms.instructions), m.Turn("user", ref=utterance))
        ref = self._out.new_ref()
        self._speculation = m.Speculate(self._stream, ref, utterance, end, context, self._terms.max_tokens)
        self._out.command(self._speculation)

    def crop(self) -> None:
        """It had not ended."""
        if self._speculation:
            self._out.command(m.Crop(self._stream, self._speculation.ref))
            self._speculation = None

    def _accepted(self, context: tuple[m.Turn, ...], tokens: int | None) -> int | None:
        """The ref of the speculation if it began exactly this; anything else is cropped."""
        begun = self._speculation
        if begun and (begun.context, begun.max_tokens) == (context, tokens):
            self._speculation = None
            return begun.ref
        self.crop()
        return None

    # ── from the engine ─────────────────────────────────────────────────────────────────────────────────────────────

    def is_active(self, ref: int | None) -> bool:
        return self._active is not None and self._active.ref == ref

    def receive_said(self, said: m.Said) -> None:
        if self._active and said.text:
            self._active.receive_text(said.text, said.at_us, self._conversation.add)

    def receive_settled(self, settled: m.Settled) -> None:
        """The engine is done.  Its cancellation was the client's or a barge-in, and has been told already."""
        ending: Ending = "incomplete" if settled.status == "incomplete" else "completed"
        details = {"type": "incomplete", "reason": "max_output_tokens"} if ending == "incomplete" else None
        self._close(ending, details, usage_of(settled))

    def fail(self, code: str, message: str) -> None:
        """The answer ends, in the middle of a word if need be."""
        error = {"type": "server_error", "code": code, "message": message}
        if self._active:
            self._close("failed", {"type": "failed", "error": error}, None)

    def lost(self) -> None:
        """The engine process is gone: nothing it had begun will come."""
        self._speculation = None
        self._held = None
        self.fail("engine_lost", "The engine was restarted during this response; ask again.")

    def _stop(self, reason: str) -> None:
        if self._active:
            self._out.command(m.Cancel(self._stream, self._active.ref))
            self._held = None
            self._close("cancelled", {"type": "cancelled", "reason": reason}, None)

    def _close(self, ending: Ending, details: Json | None, usage: Json | None) -> None:
        if self._active is None:
            return
        answer, self._active = self._active, None
        answer.close(ending, self._conversation.add, details=details, usage=usage)
        status = "completed" if ending == "completed" else "incomplete"
        self._conversation.set(answer.item_id, text=answer.text, status=status)
        waiting, self._next = self._next, None
        if waiting:
            self.answer_turn(waiting)


def usage_of(settled: m.Settled) -> Json:
    """Token counts as the API shows them; audio and text are not told apart by the engines yet."""
    fresh = {"text_tokens": settled.input_tokens, "audio_tokens": 0, "image_tokens": 0}
    cached = {"text_tokens": settled.cached_tokens, "audio_tokens": 0, "image_tokens": 0}
    return {
        "total_tokens": settled.input_tokens + settled.output_tokens,
        "input_tokens": settled.input_tokens,
        "output_tokens": settled.output_tokens,
        "input_token_details": {**fresh, "cached_tokens": settled.cached_tokens, "cached_tokens_details": cached},
        "output_token_details": {"text_tokens": settled.output_tokens, "audio_tokens": 0},
    }
