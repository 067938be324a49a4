"""Voxtral Mini: answers speech in text, or writes an utterance down when it is over.  Step 8.

One schedule of continuous batching serves all conversations (`scheduler`).  This module decides when a request begins:

    Onset, Prepare   the history is prefilled, and windows of 30 s are encoded as they end, while the person speaks
    Speculate        the answer is begun, up to 16 tokens, and kept back: the audio of a turn is the same bytes at the
                     tentative end and at the end, so it is the answer
    Respond          what is ready is published at once; without a speculation the request begins here
    Crop, Cancel     the request is dropped; its sequence is rolled back when the next prompt begins

Admission: as many conversations as the memory holds at some 2000 tokens each.  Of those at rest, the one idle longest
gives its memory when another needs it, keeps its token ids and embeddings, and is prefilled again when it goes on.

It knows commands, conversations and requests; not tensors, nor what is computed next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

from shared.audio import RATE
from shared.languages import CODES
from voxd.engine.contract import Capabilities, Demand, Engine, EngineCommand, Refuse
from voxd.engine.gpu.weights import NEEDS, weights_absent
from voxd.engine.mini.block_manager import Memory
from voxd.engine.mini.conversation import ConversationState, MiniUtterance
from voxd.engine.mini.interface import PAGE, MiniDevice, MiniOptions
from voxd.engine.mini.prompt import why_not
from voxd.engine.mini.request import Kind, Request
from voxd.engine.mini.scheduler import Schedule
from voxd.engine.text import Writer
from voxd.messages import (
    Audio,
    Cancel,
    Close,
    Commit,
    Crop,
    Failed,
    Feed,
    Flush,
    Heard,
    Leave,
    Onset,
    Open,
    Output,
    Prepare,
    Respond,
    Rollback,
    Settled,
    Speculate,
    Status,
    Warned,
)

LoadDevice = Callable[[MiniOptions, Callable[[str], None]], MiniDevice]
ATTEMPTS = 3  # speculative answers per utterance
OPTION = "engine_options.voxtral-mini.max_context"
TOO_LONG = f"This turn, with the instructions, is too long for a context of {{}} tokens: shorten it, or raise {OPTION}."
SHORTENED = f"The conversation is longer than {{}} tokens: its older half is left out of what follows; see {OPTION}."
WORDY = 16, 32  # tokens per second of speech, and besides: nobody says more, so a runaway transcription is cut here


class VoxtralMini(Engine):
    capabilities: ClassVar[Capabilities] = Capabilities(
        roles=("transcribe", "respond"),
        summary="Voxtral Mini: answers speech with text, or writes utterances down when they are over; needs a GPU",
        needs=NEEDS,
        extra="voxtral",
        guided_by=("language",),
        speculates=True,
        remembers=True,
    )

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None], load: LoadDevice | None = None) -> None:
        super().__init__(options, wake)
        self._options, self._load_device = MiniOptions.parse(options), load or self._load_checkpoint
        self._granted: int | None = None
        self._device: MiniDevice | None = None
        self._conversations: dict[int, ConversationState] = {}
        self._roles: dict[int, tuple[str, ...]] = {}
        self._gone: set[int] = set()  # streams whose clients may come back
        self._released: list[Request] = []
        self._out: list[Output] = []
        self._now_us = 0

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        return weights_absent(MiniOptions.parse(options).model, os.environ)

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        self._device = device = self._load_device(self._options, progress)
        self._memory = Memory(device.slots, device.pages)
        self._schedule = Schedule(device, self._memory, self._options.sampling, self._begin)
        self._context = min(device.context, self._options.max_context)
        self._most = self._options.max_conversations or device.slots.count // 2  # `build` gives each two slots
        room = f"room for {self._most} conversations, {device.pages.count * PAGE} tokens in all, {self._context} in one"
        return (*device.notes, room)

    def demand(self) -> Demand | None:
        from voxd.engine.mini.memory import demand

        return demand(self._options)

    def grant(self, units: int) -> None:
        self._granted = units

    def _load_checkpoint(self, options: MiniOptions, progress: Callable[[str], None]) -> MiniDevice:
        from voxd.engine.mini.memory import load

        eager = os.environ.get("VOXD_EAGER", "") not in ("", "0")
        return load(options, progress, eager=eager, units=self._granted)

    def stop(self) -> None:
        self._conversations.clear()
        self._device = None

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages with codes of two letters; mistral-common's requests for a transcription take no others."""
        return tuple(code for code in CODES if len(code) == 2)

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            return self._open(command)
        conversation = self._conversations.get(command.stream)
        if conversation is None:
            return None
        match command:
            case Feed():
                conversation.feed(command)
                self._reopen(conversation)
            case Heard():
                conversation.hear(command)
                self._reopen(conversation)
            case Onset():
                conversation.make_room(self._read(conversation))
                conversation.onset(command.ref, command.start)
            case Audio():
                conversation.make_room(self._read(conversation))
                conversation.attach(command.ref, command.pcm)
                self._store(conversation, conversation.utterances[command.ref])
            case Prepare():
                self._prepare(conversation, command)
            case Flush() | Commit():
                self._end(conversation, command)
            case Rollback():
                self._go_on(conversation, command.ref)
            case Speculate():
                self._speculate(conversation, command)
            case Respond():
                self._respond(conversation, command)
            case Crop():
                self._crop(conversation, command.ref)
            case Cancel():
                self._cancel(conversation, command.ref)
            case Leave():
                self._leave(conversation)
            case Close():
                self._close(conversation)
        return None

    def _open(self, command: Open) -> None:
        if "transcribe" in command.roles and (reason := why_not(self._loaded.special, command.language)):
            raise Refuse(reason, 0)
        conversation, gone = self._conversations.get(command.stream), command.stream in self._gone
        if (conversation is None or gone) and len(self._conversations) - len(self._gone) >= self._most:
            raise Refuse(f"all {self._most} slots are taken: more do not fit into the device's memory")
        if conversation is None:
            conversation = ConversationState(command.stream, self._loaded.special, command.start, self._schedule.forget)
            self._conversations[command.stream] = conversation
        elif gone:
            conversation.come_back(command.start)
            self._gone.discard(command.stream)
        unwanted = "transcribe" not in command.roles
        for request in self._schedule.of(conversation):
            if request.transcribes and (
                unwanted or (request.kind is Kind.AHEAD and command.language != conversation.language)
            ):
                self._drop(request)
        conversation.language = command.language
        self._roles[command.stream] = command.roles

    def _leave(self, conversation: ConversationState) -> None:
        """The device's memory is freed at once; token ids and embeddings are kept."""
        for request in self._schedule.of(conversation):
            self._drop(request)
        self._memory.free(conversation.main)
        conversation.leave()
        self._gone.add(conversation.number)
        self._out = [output for output in self._out if output.stream != conversation.number]

    def _close(self, conversation: ConversationState) -> None:
        self._leave(conversation)
        conversation.close()
        self._gone.discard(conversation.number)
        del self._conversations[conversation.number], self._roles[conversation.number]

    # ── utterances ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, conversation: ConversationState, command: Flush | Commit) -> None:
        """The utterance seems to be over (Flush) or is over (Commit)."""
        utterance = self._cut(conversation, command.ref, command.end)
        if utterance is None:
            return
        utterance.committed = isinstance(command, Commit)
        if "transcribe" in self._roles[conversation.number]:
            kind = Kind.WANTED if utterance.committed else Kind.AHEAD
            request = self._schedule.find(conversation, command.ref)
            if request is None and not utterance.voiced and utterance.committed:
                self._out.append(Settled(conversation.number, command.ref, "completed", ""))  # nobody spoke
            elif request is None and utterance.voiced:
                self._add(Request(conversation, kind, command.ref, utterance=utterance, transcribes=True))
            elif request is not None and utterance.committed:
                self._release(request)
        elif utterance.committed:
            self._store(conversation, utterance)

    def _cut(self, conversation: ConversationState, ref: int, end: int) -> MiniUtterance | None:
        """Ends the utterance there; requests that were begun for another end are dropped."""
        utterance = conversation.utterances.get(ref)
        if utterance is None:
            return None
        before = [window.number for window in utterance.clip.windows]
        conversation.end(ref, end)
        changed = before != [window.number for window in utterance.clip.windows]
        for request in self._schedule.of(conversation):
            stale = request.kind is Kind.OPENING or (changed and request.kind is Kind.AHEAD)
            if request.utterance is utterance and stale:
                self._drop(request)
        return utterance

    def _go_on(self, conversation: ConversationState, ref: int) -> None:
        """The utterance goes on after all."""
        utterance = conversation.utterances.get(ref)
        if utterance is not None and not utterance.committed:
            utterance.clip.go_on()
            for request in self._schedule.of(conversation):
                if request.utterance is utterance and request.kind is Kind.AHEAD:
                    self._drop(request)

    def _store(self, conversation: ConversationState, utterance: MiniUtterance) -> None:
        """Has the audio encoded, after which it need not be kept."""
        if "respond" in self._roles[conversation.number] and utterance.voiced:
            self._add(Request(conversation, Kind.STORE, utterance=utterance))

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, conversation: ConversationState, command: Prepare) -> None:
        if (utterance := conversation.utterances.get(command.utterance)) is not None:
            utterance.before = command.context
            self._reopen(conversation)

    def _reopen(self, conversation: ConversationState) -> None:
        """Prefills as much of the next prompt as is known while somebody speaks."""
        for utterance in conversation.live.values():
            if utterance.before is None or utterance.clip.length is not None:
                continue
            over = sum(not window.reach[1] for window in utterance.clip.windows)
            idle = all(request.utterance is not utterance for request in self._schedule.of(conversation))
            if idle and not conversation.main.busy and (utterance.opened is None or utterance.opened < over):
                utterance.opened = over
                opening = Request(conversation, Kind.OPENING, None, utterance.before, utterance)
                opening.sequence = conversation.main
                self._add(opening)

    def _speculate(self, conversation: ConversationState, command: Speculate) -> None:
        utterance = self._cut(conversation, command.utterance, command.end)
        busy = self._schedule.busy(self._now_us)
        if busy or utterance is None or not utterance.voiced or utterance.attempts >= ATTEMPTS:
            return
        utterance.attempts += 1
        most = command.max_tokens or self._options.max_tokens
        self._take_over(conversation)
        request = Request(
            conversation, Kind.AHEAD, command.ref, command.context, utterance, sequence=conversation.main, most=most
        )
        self._add(request)

    def _respond(self, conversation: ConversationState, command: Respond) -> None:
        if (request := self._schedule.find(conversation, command.ref)) is not None:
            self._release(request)
            return
        if not conversation.question(command.context):
            self._out.append(Settled(conversation.number, command.ref, "completed", ""))
            return
        most = command.max_tokens or self._options.max_tokens
        request = Request(conversation, Kind.WANTED, command.ref, command.context, most=most, aside=command.aside)
        if not command.aside:
            self._take_over(conversation)
            request.sequence = conversation.main
        self._add(request)

    def _take_over(self, conversation: ConversationState) -> None:
        """Drops what computes in the conversation's sequence, for a more urgent request needs it."""
        for request in self._schedule.of(conversation):
            if request.sequence is conversation.main:
                self._drop(request)

    def _crop(self, conversation: ConversationState, ref: int) -> None:
        """The utterance goes on, even if nothing was begun; a speculative transcription waits for its Rollback."""
        if (request := self._schedule.find(conversation, ref)) is not None:
            self._drop(request)
        flushed = [other.utterance for other in self._schedule.of(conversation) if other.transcribes]
        for utterance in conversation.live.values():
            if not utterance.committed and utterance not in flushed:
                utterance.clip.go_on()

    def _cancel(self, conversation: ConversationState, ref: int) -> None:
        request = self._schedule.find(conversation, ref)
        if request is not None and not request.transcribes:
            self._say(request)
            self._settle(request, "cancelled")
        elif request is not None:
            self._drop(request)
        if ref in conversation.utterances:
            for other in self._schedule.of(conversation):
                if other.utterance is conversation.utterances[ref]:
                    self._drop(other)
            conversation.forget(ref)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _read(self, conversation: ConversationState) -> set[int]:
        """The utterances whose audio a request in progress needs."""
        return {each.ref for request in self._schedule.of(conversation) for each in request.hears}

    def _add(self, request: Request) -> None:
        request.writer = Writer(self._loaded.special.pieces)
        request.sequence.busy = True
        self._schedule.add(request)

    def _release(self, request: Request) -> None:
        """A request that was begun speculatively is wanted now."""
        request.kind = Kind.WANTED
        self._released.append(request)

    def _drop(self, request: Request) -> None:
        self._schedule.drop(request)
        if request.sequence is request.conversation.main:
            self._memory.rest(request.sequence)
        else:
            self._memory.free(request.sequence)

    def _begin(self, request: Request) -> bool:
        """Gives a request its prompt, once the encoder has its audio.  False: it has nothing to prefill now."""
        conversation, utterance = request.conversation, request.utterance
        if request.kind is Kind.STORE:
            assert utterance is not None
            if conversation.settled(utterance) and all(window.found for window in utterance.clip.windows):
                self._drop(request)
            return False
        if request.kind is Kind.OPENING:
            assert utterance is not None
            if any(window.found is None for window in utterance.clip.windows):
                return False
            prompt = conversation.opening(utterance, self._context)
        else:
            if not all(conversation.settled(each) for each in request.hears):
                return False
            if request.transcribes:
                assert utterance is not None
                prompt = conversation.transcript(utterance)
                request.most = WORDY[1] + WORDY[0] * (utterance.clip.length or 0) // RATE
            else:
                prompt = self._prompt(request)
        if prompt is None or len(prompt) >= self._context:
            self._give_up(request, "context_length_exceeded", TOO_LONG.format(self._context))
            return False
        request.cached = self._memory.begin(request.sequence, prompt)
        request.prompt, request.most = prompt, min(request.most, self._context - len(prompt))
        return True

    def _prompt(self, request: Request) -> list[int] | None:
        """The prompt, with room left for the answer: all its tokens, but at most a quarter of the context."""
        conversation, limit = request.conversation, self._context - min(request.most, self._context // 4)
        first = conversation.first
        prompt = conversation.prompt(request.context, limit, aside=request.aside)
        if conversation.first != first:
            self._out.append(Warned(conversation.number, "context_shortened", SHORTENED.format(limit)))
        return prompt

    def _starve(self, request: Request) -> None:
        """Finds memory for a request that has none: if somebody waits for it, one that nobody waits for gives way."""
        unwanted = (each for each in self._schedule.requests if each.kind is not Kind.WANTED)
        others = [each for each in unwanted if each.sequence.slot is not None]
        if request.kind is Kind.WANTED and others:
            self._drop(others[-1])
            self._schedule.step_again()
        else:
            taken = self._memory.busy
            message = f"The device's memory is taken by {taken} answers that are being given; try again in a moment."
            self._give_up(request, "overloaded", message)

    def _give_up(self, request: Request, code: str, message: str) -> None:
        if request.kind is Kind.WANTED and request.ref is not None:
            self._say(request)
            self._out.append(Failed(request.conversation.number, request.ref, code, message))
        self._drop(request)

    # ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, now_us: int) -> Iterable[Output]:
        self._now_us = now_us
        released, self._released = self._released, []
        for request in released:
            request.asked_us = now_us
        result = self._schedule.step(now_us)
        for request in result.starved:
            self._starve(request)
        for request in dict.fromkeys((*released, *result.advanced)):
            if request in self._schedule:  # it was not dropped since
                self._tell(request)
        for request in self._schedule.requests:
            if request.kind is Kind.OPENING and request.prefilled:
                self._drop(request)
        out, self._out = self._out, []
        return out

    @property
    def deadline_us(self) -> int | None:
        """At once, as long as there is something to compute or to read."""
        return self._now_us if self._schedule.active else None

    def _tell(self, request: Request) -> None:
        """Publishes what is new of a request, if somebody waits for it."""
        if request.kind is Kind.WANTED:
            self._say(request)
            if request.status is not None:
                self._settle(request, request.status)
        elif request.status is not None:
            self._memory.rest(request.sequence)

    def _say(self, request: Request) -> None:
        self._out += request.say()

    def _settle(self, request: Request, status: Status) -> None:
        self._out.append(request.settled(status))
        if not request.transcribes:
            assert request.ref is not None
            request.conversation.remember(request.ref, request.given)
        self._drop(request)

    @property
    def _loaded(self) -> MiniDevice:
        assert self._device is not None, "load() comes first"
        return self._device
