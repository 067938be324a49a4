"""The utterances of the user, from the first voiced frame to the final transcript.  Steps 5 and 10.

Pure.  It turns marks of the turn rules and commits of the client into items, transcription events and engine commands;
it does not know responses (it tells `Answers` what happened) nor configuration keys (it asks `Terms`).

    COLLECTED   push-to-talk: audio is being gathered, nobody has spoken yet
    SPOKEN      the engine has been told of its onset
    COMMITTED   the engine has been told of its end; it settles or fails exactly once

There is at most one utterance that is not over (`current`), a few that the client has committed faster than they were
heard (`closing`, in order), and those that the engine still owes a final text (`owed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from shared import events
from shared.audio import RATE, to_ms
from shared.events import WireError
from voxd import messages as m
from voxd.session.answers import Answers
from voxd.session.conversation import Conversation, Entry
from voxd.session.listening import InputBuffer
from voxd.session.outbox import Outbox, UtteranceNote
from voxd.session.terms import Terms
from voxd.session.turns import FRAME, Act, Mark

MIN_COMMIT = RATE // 10  # samples: the API refuses to commit less than 100 ms
ACK = RATE // 5  # samples between two acknowledgements
REPLAYS = 1  # an open utterance is given to a new engine process once


class Phase(Enum):
    COLLECTED = auto()
    SPOKEN = auto()
    COMMITTED = auto()


@dataclass(slots=True)
class Utterance:
    ref: int
    item_id: str
    phase: Phase = Phase.COLLECTED
    start: int = 0  # samples, padding included
    end: int = 0
    paused_at: int | None = None  # a Flush is out, up to here
    text: str = ""  # the deltas so far, together
    provisional: str = ""
    replays: int = 0
    failure: tuple[str, str] | None = None  # code and message: no more text will come of it
    told: bool = False  # speech_started has been sent


class Utterances:
    def __init__(
        self, terms: Terms, out: Outbox, buffer: InputBuffer, conversation: Conversation, answers: Answers
    ) -> None:
        self._terms, self._out = terms, out
        self._input, self._conversation, self._answers = buffer, conversation, answers
        self._current: Utterance | None = None
        self._closing: deque[Utterance] = deque()
        self._owed: dict[int, Utterance] = {}
        self._full_told = False
        self._acknowledged = (0, 0)  # received, settled

    @property
    def closing(self) -> bool:
        """Whether the client has committed audio that the VAD has not scored yet."""
        return bool(self._closing)

    def announces(self, item_id: str) -> bool:
        """Whether the client has been told that there will be an item of this id."""
        return self._current is not None and self._current.item_id == item_id

    @property
    def busy(self) -> bool:
        """Whether somebody is speaking, or a final text is owed."""
        return bool(self._owed or self._closing or (self._current and self._current.phase is Phase.SPOKEN))

    # ── the client ──────────────────────────────────────────────────────────────────────────────────────────────────

    def receive_audio(self, data: bytes, offset: int | None = None) -> Iterator[None]:
        """Takes audio in the session's format; yields between two pieces of work.  Raises WireError for a gap that is
        longer than the buffer, and once when the buffer is full; that audio is dropped."""
        missing = self._input.missing(offset)
        if not self._input.has_room(data, missing):
            if missing and self._input.has_room(data):
                message = f"{missing} samples before sample {offset} never came: more than the buffer holds as silence."
                raise WireError("invalid_value", message, "voxd_offset")
            if self._full_told:
                return
            self._full_told = True
            raise WireError("input_audio_buffer_full", "The input audio buffer is full; commit or clear it.", "audio")
        if missing:
            message = f"{missing} samples before sample {offset} never came; silence stands for them."
            self._out.emit(events.Notice, code="audio_gap", message=message)
        for _ in self._input.receive_audio(data, offset):
            self._collect()
            yield
        self._collect()

    def _collect(self) -> None:
        """Goes on after more audio has come; under push-to-talk it begins an utterance."""
        if self._terms.manual and self._current is None and self._input.received > self._input.buffer_start:
            self._current = self._new()
            self._current.start = self._input.buffer_start
        self.advance()

    def commit(self) -> None:
        """`input_audio_buffer.commit`.  Raises WireError for less than 100 ms."""
        begun, samples = self._input.buffer_start, self._input.uncommitted
        if samples < MIN_COMMIT:
            message = (
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {samples * 1000 / RATE:.2f}ms of audio."
            )
            raise WireError("input_audio_buffer_commit_empty", message)
        utterance, self._current = self._current or self._new(), None
        utterance.end = self._input.commit()
        if utterance.phase is Phase.COLLECTED:
            utterance.start = begun
        self._full_told = False
        self._closing.append(utterance)
        self._announce(utterance)
        self.advance()

    def clear(self) -> None:
        """`input_audio_buffer.clear`: drops the started utterance, too, unless it lies in audio committed before."""
        spoken = self._current is not None and self._current.phase is Phase.SPOKEN
        if self._current is not None and spoken and not self._closing:
            self._answers.crop()
            self._out.command(m.Cancel(self._out.stream, self._current.ref))
        if not (spoken and self._closing):
            self._current = None
        self._input.clear()
        self._full_told = False
        self._out.emit(events.Cleared)

    def advance(self) -> None:
        """Feeds the audio that the window allows, and ends a commit whose last samples fill no whole frame."""
        if self._out.engine:
            self._feed()
            self.receive_heard(m.Heard(self._out.stream, self._input.heard, ()))

    # ── turn rules ──────────────────────────────────────────────────────────────────────────────────────────────────

    def receive_heard(self, heard: m.Heard) -> None:
        for mark in self._input.receive_heard(heard, answering=self._answers.active):
            if isinstance(mark, Mark):
                self._act(mark)
            else:
                self._reach()
        self._acknowledge()
        self._input.forget(min((u.start for u in self._unfinished()), default=self._input.heard))

    def _feed(self, until: int | None = None) -> None:
        owed_from = min((u.start for u in self._owed.values()), default=None) if until is None else None
        for feed in self._input.feeds_to_send(self._out.stream, until, owed_from):
            self._out.command(feed)

    def _unfinished(self) -> list[Utterance]:
        """The utterances whose text is not final, oldest first."""
        return [*self._owed.values(), *self._open()]

    def _open(self) -> list[Utterance]:
        """The utterances whose end the engine has not been told, oldest first."""
        spoken = (*self._closing, self._current)
        return [each for each in spoken if each is not None and each.phase is not Phase.COMMITTED]

    def _act(self, mark: Mark) -> None:
        match mark.act:
            case Act.STARTED:
                self._start(mark)
            case Act.BARGE_IN:
                self._answers.interrupt()
                self._answers.prepare(self._spoken().ref)
            case Act.PAUSED:
                self._pause(mark)
            case Act.RESUMED:
                self._resume()
            case Act.ENDED:
                self._end(mark)
            case Act.DROPPED:
                pass  # `clear` has done what there is to do

    def _spoken(self) -> Utterance:
        """The utterance that marks are about: the oldest that is not over.  Audio that the client has committed may
        hold several turns; the first is the item that the commit announced, the others are items of their own."""
        if found := self._open():
            return found[0]
        self._current = self._new()
        return self._current

    def _new(self) -> Utterance:
        return Utterance(self._out.new_ref(), self._conversation.new_id(self._out.new_id))

    def _start(self, mark: Mark) -> None:
        utterance = self._spoken()
        utterance.phase, utterance.start = Phase.SPOKEN, mark.start
        self._out.command(m.Onset(self._out.stream, utterance.ref, mark.start, utterance.text))
        if not self._terms.manual and utterance is self._current:
            self._tell_start(utterance)
        self._answers.prepare(utterance.ref)

    def _tell_start(self, utterance: Utterance) -> None:
        utterance.told = True
        self._out.emit(events.SpeechStarted, audio_start_ms=to_ms(utterance.start), item_id=utterance.item_id)

    def _pause(self, mark: Mark) -> None:
        utterance = self._spoken()
        utterance.paused_at = mark.end
        self._out.command(m.Flush(self._out.stream, utterance.ref, mark.end))
        self._answers.speculate(utterance.ref, mark.end)

    def _resume(self) -> None:
        utterance = self._spoken()
        utterance.paused_at = None
        self._out.command(m.Rollback(self._out.stream, utterance.ref))
        self._answers.crop()

    def _end(self, mark: Mark) -> None:
        """The utterance is over: found by the turn rules, or committed by the client a moment ago and now heard."""
        utterance = self._spoken()
        by_rules = utterance is self._current
        if by_rules:
            self._current = None
            if not utterance.told:  # it began as push-to-talk
                self._tell_start(utterance)
            self._out.emit(events.SpeechStopped, audio_end_ms=to_ms(mark.decided), item_id=utterance.item_id)
            self._announce(utterance)
            self._input.keep(mark.end)
        utterance.phase, utterance.end = Phase.COMMITTED, mark.end
        self._out.note(
            UtteranceNote(
                utterance.ref,
                utterance.item_id,
                mark.start,
                mark.end,
                mark.voiced_start,
                mark.voiced_end,
                mark.decided,
            )
        )
        self._out.command(m.Commit(self._out.stream, utterance.ref, mark.end))
        if self._terms.transcribes and utterance.failure:
            self._tell_failure(utterance, *utterance.failure)
        elif self._terms.transcribes:
            self._owed[utterance.ref] = utterance
        if by_rules and self._terms.answers_by_itself:
            self._answers.answer_turn(utterance.item_id)
        elif by_rules:
            self._answers.crop()  # answers were switched off in the pause
            self._answers.refuse_turn()

    def _reach(self) -> None:
        """All audio of the oldest client commit has been heard; if there was speech in it, `_end` has come before."""
        utterance = self._closing.popleft()
        if utterance.phase is Phase.COLLECTED and self._terms.transcribes:
            self._complete(utterance, "")
        self._release()

    def _announce(self, utterance: Utterance) -> None:
        """Tells the client of the new item, in this order: committed, item.added, item.done."""
        entry = Entry(utterance.item_id, "user", "completed", ref=utterance.ref, awaited=self._terms.transcribes)
        previous = self._conversation.add(entry)
        self._out.emit(events.Committed, item_id=utterance.item_id, previous_item_id=previous)
        self._out.emit(events.ItemAdded, item=entry.item(), previous_item_id=previous)
        self._out.emit(events.ItemDone, item=entry.item(), previous_item_id=previous)

    # ── the engine ──────────────────────────────────────────────────────────────────────────────────────────────────

    def receive_said(self, said: m.Said) -> None:
        """Takes new confirmed text of an utterance, or new provisional text behind it."""
        utterance = self._find(said.ref)
        if utterance is None or utterance.failure:
            return
        self._append(utterance, said.text, said.samples)
        shown = self._terms.config.voxd.provisional and self._terms.shows_text
        if shown and said.provisional != utterance.provisional:
            utterance.provisional = said.provisional
            self._out.emit(events.Provisional, item_id=utterance.item_id, text=said.provisional)

    def receive_guessed(self, guessed: m.Guessed) -> None:
        """Takes what an utterance says that has probably ended: a responder that reads may begin its answer."""
        utterance = self._find(guessed.ref)
        if utterance is not None and utterance.phase is Phase.SPOKEN and utterance.paused_at == guessed.end:
            self._answers.speculate(utterance.ref, guessed.end, guessed.text)

    def receive_settled(self, settled: m.Settled) -> None:
        """Takes the final text; the part that no delta had goes out as a last delta."""
        utterance = self._owed.pop(settled.ref, None)
        if utterance is not None:
            self._append(utterance, settled.text[len(utterance.text) :])
            self._complete(utterance, settled.text, settled)
            self._acknowledge(now=True)
            self.advance()

    def receive_failed(self, failed: m.Failed) -> None:
        if failed.ref in self._owed:
            self._tell_failure(self._owed.pop(failed.ref), failed.code, failed.message)
            self.advance()
        elif failed.ref is not None and (utterance := self._find(failed.ref)):
            utterance.failure = failed.code, failed.message

    def _find(self, ref: int) -> Utterance | None:
        return self._owed.get(ref) or next((each for each in self._open() if each.ref == ref), None)

    def _append(self, utterance: Utterance, text: str, reach: int = 0) -> None:
        """`reach`: the sample that the text is known to reach, 0 if that is not known."""
        utterance.text += text
        if text and self._terms.shows_text:
            where = {"voxd_audio_ms": to_ms(reach)} if reach else {}
            self._out.emit(events.TranscriptionDelta, item_id=utterance.item_id, content_index=0, delta=text, **where)

    def _complete(self, utterance: Utterance, text: str, settled: m.Settled | None = None) -> None:
        self._conversation.set(utterance.item_id, transcript=text, awaited=False)
        seconds = round((utterance.end - utterance.start) / RATE, 3)
        if self._terms.shows_text:
            self._out.emit(
                events.TranscriptionCompleted,
                item_id=utterance.item_id,
                content_index=0,
                transcript=text,
                usage={"type": "duration", "seconds": seconds},
                **self._found(settled),
            )
        self._release()

    def _found(self, settled: m.Settled | None) -> dict[str, Any]:
        """What the engine has found besides the text, for a client that sends a file."""
        if settled is None or not self._terms.config.voxd.hurry:
            return {}
        words = tuple(events.SpokenWord(each.text, to_ms(each.start), to_ms(each.end)) for each in settled.words)
        found = {"voxd_words": words, "voxd_language": settled.language}
        return {name: value for name, value in found.items() if value}

    def _tell_failure(self, utterance: Utterance, code: str, message: str) -> None:
        self._conversation.set(utterance.item_id, awaited=False)
        if self._terms.shows_text:
            self._tell_no_text(utterance, code, message)
        self._answers.unwritten(utterance.item_id, code, message)
        self._release()

    def _tell_no_text(self, utterance: Utterance, code: str, message: str) -> None:
        body = events.FailureBody("server_error", code, message)
        self._out.emit(events.TranscriptionFailed, item_id=utterance.item_id, content_index=0, error=body)

    def _release(self) -> None:
        """Lets answers go that waited until the engine had all audio that the client committed."""
        if not self._closing:
            self._answers.release()

    def disown(self) -> None:
        """Transcription was switched off: texts that are still owed fail, unless the responder reads them."""
        for utterance in self._owed.values():
            message = "Transcription was switched off before this utterance was final."
            self._tell_no_text(utterance, "transcription_off", message)
        if not self._terms.transcribes:
            self._owed.clear()

    # ── when the engine process was lost ────────────────────────────────────────────────────────────────────────────

    def lost(self) -> None:
        """The engine process is gone: committed utterances fail; open ones, and those of a file, wait for the next one,
        once."""
        kept = {}
        for ref, utterance in self._owed.items():
            if self._terms.config.voxd.hurry and utterance.replays < REPLAYS:
                utterance.replays += 1
                kept[ref] = utterance
            else:
                message = "The engine was restarted before this utterance was final."
                self._tell_failure(utterance, "engine_lost", message)
        self._owed = kept
        for spoken in (self._current, *self._closing):
            if spoken is not None and spoken.phase is Phase.SPOKEN:
                spoken.replays += 1
                if spoken.replays > REPLAYS and spoken.failure is None:
                    spoken.failure = "engine_lost", "The engine was restarted more than once during this utterance."

    def resume_at(self) -> int:
        """The sample from which a new engine process, or slot, is to be fed."""
        begun = [u.start for u in self._unfinished() if u.phase is not Phase.COLLECTED]
        return self._input.rewind(min(begun, default=None))

    def replay(self) -> None:
        """After Open, sends the audio again and tells where each utterance lies.  New text continues the deltas so far.

        Each utterance gets a new ref, so that outputs for the old one that are still on their way are ignored."""
        for utterance in self._unfinished():
            utterance.ref, utterance.provisional = self._out.new_ref(), ""
            self._conversation.set(utterance.item_id, ref=utterance.ref)
            if utterance.phase is Phase.COLLECTED:
                continue
            self._feed(until=utterance.start)
            self._out.command(m.Onset(self._out.stream, utterance.ref, utterance.start, utterance.text))
            if utterance.phase is Phase.COMMITTED:
                self._feed(until=utterance.end)
                self._out.command(m.Commit(self._out.stream, utterance.ref, utterance.end))
            elif utterance.paused_at is not None:
                self._feed(until=utterance.paused_at)
                self._out.command(m.Flush(self._out.stream, utterance.ref, utterance.paused_at))
        self._owed = {utterance.ref: utterance for utterance in self._owed.values()}
        self.advance()

    # ── what the client need not keep ───────────────────────────────────────────────────────────────────────────────

    @property
    def settled(self) -> int:
        """Audio before this sample will not be needed again: its text is final, or there was no speech in it."""
        rules = self._terms.rules
        quiet = self._input.heard - rules.padding - rules.onset - 2 * FRAME
        return max(0, min((u.start for u in self._unfinished()), default=quiet))

    def _acknowledge(self, *, now: bool = False) -> None:
        """Sends an Ack for every 200 ms of audio received or settled, and when a text has become final."""
        if not self._terms.config.voxd.resume:
            return
        progress = (self._input.received, self.settled)
        if not now and max(new - old for new, old in zip(progress, self._acknowledged, strict=True)) < ACK:
            return
        self._acknowledged = progress
        settled = self._input.at_client_rate(self.settled)
        self._out.emit(events.Ack, received_samples=self._input.sent, settled_samples=settled)
