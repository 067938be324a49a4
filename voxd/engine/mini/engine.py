"""Voxtral Mini: hears what is said to it and answers in text; or writes an utterance down when it is over.  Step 8.

One stack of continuous batching serves all conversations (`mini_schedule`).  What this module adds is when work begins:

    Onset, Prepare   the history is made ready, and windows of 30 s as they end, while the person still speaks
    Speculate        the answer is begun, up to 16 ids, and kept back: the audio of a turn is the same bytes at the
                     tentative end and at the end, so it is the answer
    Respond          what is ready is said at once; without a speculation the work begins here
    Crop, Cancel     the work is dropped; the sequence is counted back when the next prompt begins

Admission: as many conversations as the memory holds at some 2000 tokens each; of those that rest, the one idle longest
gives its memory when another needs it, keeps its ids and embeddings, and is prefilled again when it goes on.
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
from voxd.engine.mini.conversation import Talk, Utterance
from voxd.engine.mini.interface import PAGE, Device, Options
from voxd.engine.mini.prompt import why_not
from voxd.engine.mini.request import Kind, Work
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

LoadDevice = Callable[[Options, Callable[[str], None]], Device]
ATTEMPTS = 3  # answers begun ahead per utterance
OPTION = "engine_options.voxtral-mini.max_context"
TOO_LONG = f"This turn, with the instructions, is too long for a context of {{}} tokens: shorten it, or raise {OPTION}."
SHORTENED = f"The conversation is longer than {{}} tokens: its older half is left out of what follows; see {OPTION}."
WORDY = 16, 32  # ids per second of speech, and to begin with: nobody says more, a transcription that runs away is cut


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
        self._options, self._load_device = Options.parse(options), load or self._load_checkpoint
        self._granted: int | None = None
        self._device: Device | None = None
        self._talks: dict[int, Talk] = {}
        self._roles: dict[int, tuple[str, ...]] = {}
        self._gone: set[int] = set()  # streams whose clients may come back
        self._released: list[Work] = []
        self._out: list[Output] = []
        self._now_us = 0

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        return weights_absent(Options.parse(options).model, os.environ)

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        self._device = device = self._load_device(self._options, progress)
        self._memory = Memory(device.slots, device.pages)
        self._schedule = Schedule(device, self._memory, self._options.sampling, self._begin)
        self._context = min(device.context, self._options.max_context)
        self._most = self._options.max_conversations or device.slots.count // 2  # a slot more each: `mini_device`
        room = f"room for {self._most} conversations, {device.pages.count * PAGE} tokens in all, {self._context} in one"
        return (*device.notes, room)

    def demand(self) -> Demand | None:
        from voxd.engine.mini.memory import demand

        return demand(self._options)

    def grant(self, units: int) -> None:
        self._granted = units

    def _load_checkpoint(self, options: Options, progress: Callable[[str], None]) -> Device:
        from voxd.engine.mini.memory import load

        eager = os.environ.get("VOXD_EAGER", "") not in ("", "0")
        return load(options, progress, eager=eager, units=self._granted)

    def stop(self) -> None:
        self._talks.clear()
        self._device = None

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that have two letters: mistral-common's requests for a transcription take no other."""
        return tuple(code for code in CODES if len(code) == 2)

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            return self._open(command)
        talk = self._talks.get(command.stream)
        if talk is None:
            return None
        match command:
            case Feed():
                talk.feed(command)
                self._reopen(talk)
            case Heard():
                talk.hear(command)
                self._reopen(talk)
            case Onset():
                talk.make_room(self._read(talk))
                talk.onset(command.ref, command.start)
            case Audio():
                talk.make_room(self._read(talk))
                talk.attach(command.ref, command.pcm)
                self._store(talk, talk.utterances[command.ref])
            case Prepare():
                self._prepare(talk, command)
            case Flush() | Commit():
                self._end(talk, command)
            case Rollback():
                self._go_on(talk, command.ref)
            case Speculate():
                self._speculate(talk, command)
            case Respond():
                self._respond(talk, command)
            case Crop():
                self._crop(talk, command.ref)
            case Cancel():
                self._cancel(talk, command.ref)
            case Leave():
                self._leave(talk)
            case Close():
                self._close(talk)
        return None

    def _open(self, command: Open) -> None:
        if "transcribe" in command.roles and (reason := why_not(self._loaded.script, command.language)):
            raise Refuse(reason, 0)
        talk, gone = self._talks.get(command.stream), command.stream in self._gone
        if (talk is None or gone) and len(self._talks) - len(self._gone) >= self._most:
            raise Refuse(f"all {self._most} places are taken: more do not fit into the device's memory")
        if talk is None:
            talk = Talk(command.stream, self._loaded.script, command.start, self._schedule.forget)
            self._talks[command.stream] = talk
        elif gone:
            talk.come_back(command.start)
            self._gone.discard(command.stream)
        unwanted = "transcribe" not in command.roles
        for work in self._of(talk):
            if work.transcribes and (unwanted or (work.kind is Kind.AHEAD and command.language != talk.language)):
                self._drop(work)
        talk.language = command.language
        self._roles[command.stream] = command.roles

    def _leave(self, talk: Talk) -> None:
        """The device's memory is free at once; ids and embeddings are kept."""
        for work in self._of(talk):
            self._drop(work)
        self._memory.free(talk.main)
        talk.leave()
        self._gone.add(talk.number)
        self._out = [output for output in self._out if output.stream != talk.number]

    def _close(self, talk: Talk) -> None:
        self._leave(talk)
        talk.close()
        self._gone.discard(talk.number)
        del self._talks[talk.number], self._roles[talk.number]

    # ── utterances ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, talk: Talk, command: Flush | Commit) -> None:
        """It seems to be over, or is."""
        utterance = self._cut(talk, command.ref, command.end)
        if utterance is None:
            return
        utterance.committed = isinstance(command, Commit)
        if "transcribe" in self._roles[talk.number]:
            kind = Kind.WANTED if utterance.committed else Kind.AHEAD
            work = self._find(talk, command.ref)
            if work is None and not utterance.voiced and utterance.committed:
                self._out.append(Settled(talk.number, command.ref, "completed", ""))  # nobody spoke
            elif work is None and utterance.voiced:
                self._add(Work(talk, kind, command.ref, utterance=utterance, transcribes=True))
            elif work is not None and utterance.committed:
                self._release(work)
        elif utterance.committed:
            self._store(talk, utterance)

    def _cut(self, talk: Talk, ref: int, end: int) -> Utterance | None:
        """Ends it there; what was begun for another end is dropped."""
        utterance = talk.utterances.get(ref)
        if utterance is None:
            return None
        before = [window.number for window in utterance.clip.windows]
        talk.end(ref, end)
        changed = before != [window.number for window in utterance.clip.windows]
        for work in self._of(talk):
            if work.utterance is utterance and (work.kind is Kind.OPENING or (changed and work.kind is Kind.AHEAD)):
                self._drop(work)
        return utterance

    def _go_on(self, talk: Talk, ref: int) -> None:
        """It was not over."""
        utterance = talk.utterances.get(ref)
        if utterance is not None and not utterance.committed:
            utterance.clip.go_on()
            for work in self._of(talk):
                if work.utterance is utterance and work.kind is Kind.AHEAD:
                    self._drop(work)

    def _store(self, talk: Talk, utterance: Utterance) -> None:
        """Its audio need not be kept once it is encoded."""
        if "respond" in self._roles[talk.number] and utterance.voiced:
            self._add(Work(talk, Kind.STORE, utterance=utterance))

    # ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _prepare(self, talk: Talk, command: Prepare) -> None:
        if (utterance := talk.utterances.get(command.utterance)) is not None:
            utterance.before = command.context
            self._reopen(talk)

    def _reopen(self, talk: Talk) -> None:
        """While somebody speaks: as much of the next prompt as is known."""
        for utterance in talk.live.values():
            if utterance.before is None or utterance.clip.length is not None:
                continue
            over = sum(not window.reach[1] for window in utterance.clip.windows)
            work = next((work for work in self._of(talk) if work.utterance is utterance), None)
            if work is None and not talk.main.busy and (utterance.opened is None or utterance.opened < over):
                utterance.opened = over
                self._add(Work(talk, Kind.OPENING, context=utterance.before, utterance=utterance, sequence=talk.main))

    def _speculate(self, talk: Talk, command: Speculate) -> None:
        utterance = self._cut(talk, command.utterance, command.end)
        if utterance is None or not utterance.voiced or utterance.attempts >= ATTEMPTS:
            return
        if self._schedule.busy(self._now_us):
            return
        utterance.attempts += 1
        most = command.max_tokens or self._options.max_tokens
        self._take_over(talk)
        work = Work(talk, Kind.AHEAD, command.ref, command.context, utterance, sequence=talk.main, most=most)
        self._add(work)

    def _respond(self, talk: Talk, command: Respond) -> None:
        work = self._find(talk, command.ref)
        if work is not None:
            self._release(work)
            return
        if not talk.question(command.context):
            self._out.append(Settled(talk.number, command.ref, "completed", ""))
            return
        most = command.max_tokens or self._options.max_tokens
        work = Work(talk, Kind.WANTED, command.ref, command.context, most=most, aside=command.aside)
        if not command.aside:
            self._take_over(talk)
            work.sequence = talk.main
        self._add(work)

    def _take_over(self, talk: Talk) -> None:
        """The sequence of the conversation is needed for something better."""
        for work in self._of(talk):
            if work.sequence is talk.main:
                self._drop(work)

    def _crop(self, talk: Talk, ref: int) -> None:
        """The utterance goes on, also where nothing was begun; what is written down ahead waits for its Rollback."""
        work = self._find(talk, ref)
        if work is not None:
            self._drop(work)
        flushed = [other.utterance for other in self._of(talk) if other.transcribes]
        for utterance in talk.live.values():
            if not utterance.committed and utterance not in flushed:
                utterance.clip.go_on()

    def _cancel(self, talk: Talk, ref: int) -> None:
        work = self._find(talk, ref)
        if work is not None and not work.transcribes:
            self._say(work)
            self._settle(work, "cancelled")
        elif work is not None:
            self._drop(work)
        if ref in talk.utterances:
            for other in self._of(talk):
                if other.utterance is talk.utterances[ref]:
                    self._drop(other)
            talk.forget(ref)

    # ── works ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _of(self, talk: Talk) -> list[Work]:
        return [work for work in self._schedule.works if work.talk is talk]

    def _read(self, talk: Talk) -> set[int]:
        """The utterances that something begun reads."""
        return {each.ref for work in self._of(talk) for each in work.hears}

    def _find(self, talk: Talk, ref: int) -> Work | None:
        return next((work for work in self._of(talk) if work.ref == ref), None)

    def _add(self, work: Work) -> None:
        work.writer = Writer(self._loaded.script.pieces)
        work.sequence.busy = True
        self._schedule.add(work)

    def _release(self, work: Work) -> None:
        """It was begun ahead, and is wanted now."""
        work.kind = Kind.WANTED
        self._released.append(work)
        self._schedule.heard[work] = None

    def _drop(self, work: Work) -> None:
        self._schedule.drop(work)
        if work.sequence is work.talk.main:
            self._memory.rest(work.sequence)
        else:
            self._memory.free(work.sequence)

    def _begin(self, work: Work) -> bool:
        """Its audio has been given to the encoder: is it as the whole clip wants it, and what is the prompt?"""
        talk, utterance = work.talk, work.utterance
        if work.kind is Kind.STORE:
            assert utterance is not None
            if talk.settled(utterance) and all(window.found for window in utterance.clip.windows):
                self._drop(work)
            return False
        if work.kind is Kind.OPENING:
            assert utterance is not None
            if any(window.found is None for window in utterance.clip.windows):
                return False
            prompt = talk.opening(utterance, self._context)
        else:
            if not all(talk.settled(each) for each in work.hears):
                return False
            if work.transcribes:
                assert utterance is not None
                prompt = talk.transcript(utterance)
                work.most = WORDY[1] + WORDY[0] * (utterance.clip.length or 0) // RATE
            else:
                prompt = self._prompt(work)
        if prompt is None or len(prompt) >= self._context:
            self._give_up(work, "context_length_exceeded", TOO_LONG.format(self._context))
            return False
        work.cached = self._memory.begin(work.sequence, prompt)
        work.prompt, work.most = prompt, min(work.most, self._context - len(prompt))
        return True

    def _prompt(self, work: Work) -> list[int] | None:
        """Room for the answer is left behind it: what may be said, but at most a quarter of all."""
        talk, limit = work.talk, self._context - min(work.most, self._context // 4)
        first = talk.first
        prompt = talk.prompt(work.context, limit, aside=work.aside)
        if talk.first != first:
            self._out.append(Warned(talk.number, "context_shortened", SHORTENED.format(limit)))
        return prompt

    def _starve(self, work: Work) -> None:
        """There is no memory for it: what nobody waits for makes room for what somebody does."""
        others = [
            each for each in self._schedule.works if each.kind is not Kind.WANTED and each.sequence.slot is not None
        ]
        if work.kind is Kind.WANTED and others:
            self._drop(others[-1])
            self._schedule.waiting = True
        else:
            taken = self._memory.busy
            message = f"The device's memory is taken by {taken} answers that are being given; try again in a moment."
            self._give_up(work, "overloaded", message)

    def _give_up(self, work: Work, code: str, message: str) -> None:
        if work.kind is Kind.WANTED and work.ref is not None:
            self._say(work)
            self._out.append(Failed(work.talk.number, work.ref, code, message))
        self._drop(work)

    # ── what comes of it ────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, now_us: int) -> Iterable[Output]:
        self._now_us = now_us
        for work in self._released:
            work.asked_us = now_us
        self._released.clear()
        self._schedule.step(now_us)
        starved, self._schedule.starved = self._schedule.starved, []
        for work in starved:
            self._starve(work)
        heard, self._schedule.heard = self._schedule.heard, {}
        for work in heard:
            if work.kind is Kind.WANTED:
                self._say(work)
                if work.status is not None:
                    self._settle(work, work.status)
            elif work.status is not None:
                self._memory.rest(work.sequence)
        for work in self._schedule.works:
            if work.kind is Kind.OPENING and work.prefilled:
                self._drop(work)
        out, self._out = self._out, []
        return out

    @property
    def deadline_us(self) -> int | None:
        """At once, as long as there is something to compute or to read."""
        return self._now_us if self._schedule.active else None

    def _say(self, work: Work) -> None:
        self._out += work.say()

    def _settle(self, work: Work, status: Status) -> None:
        self._out.append(work.settled(status))
        if not work.transcribes:
            assert work.ref is not None
            work.talk.remember(work.ref, work.given)
        self._drop(work)

    @property
    def _loaded(self) -> Device:
        assert self._device is not None, "load() comes first"
        return self._device
