"""Whisper on the CPU: live text by decoding the open segment again and again.  Step 8.

An *utterance* is cut into *segments* of at most 14 s, for whisper sees 30 s at once and slows down with text.  The
open segment is decoded up to eight times a second (a partial), as the machine allows; what two decodes agree on is
published (`agreement`).  A flush decodes the segment ahead of time; the commit after it publishes that result, or waits
for it, or asks for another.

Decodes take 0.1 to 0.5 s and run on worker threads (`workers`), in the order that `scheduler` says; all else happens in
`receive` and `step` on the loop's thread.  This module knows no sessions, no turn rules, no wire, and not the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from shared.audio import RATE, VAD_FRAME, Ring, pcm16_to_float, to_samples
from voxd.engine.agreement import Transcript
from voxd.engine.contract import LONGEST, LOOK_BACK, Capabilities, Engine, EngineCommand, Refuse
from voxd.engine.voice import Voice
from voxd.engine.whisper.files import Files
from voxd.engine.whisper.model import Hypothesis, Model, Task, WhisperOptions, cores, load_model, weights_absent
from voxd.engine.whisper.scheduler import Decode, Kind
from voxd.engine.whisper.workers import Pool, Result, Workers
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    Failed,
    Feed,
    Flush,
    Guessed,
    Heard,
    Onset,
    Open,
    Output,
    Rollback,
    Said,
    Settled,
    Warned,
)

SOFT = 10 * RATE  # a segment longer than this is cut at the next pause
HARD = 14 * RATE  # a segment of this length is cut where the voice is weakest
LEAST = 6 * RATE  # no segment is cut shorter, for whisper needs context
ROOM = to_samples(200)  # heard before the start that it is told: first words are understood better (docs/SPEED.md)
LEAD = to_samples(500)  # silence kept around voice when an utterance begins or ends with much of it
FIRST = to_samples(100)  # voice that a first decode needs to find a word
EARLY = to_samples(120)  # new audio between partials as long as nothing is published
EARLY_PARTIALS = 8
SHARE, MOST_SHARE = 0.3, 0.6  # of the workers' time is for the partials of one who speaks, and of all together
SLOW_PARTIALS = to_samples(1200)  # partials rarer than this, or finals that take this long, and the user is told
SLOW_FINAL_US = 800_000
DOUBT, DOUBTFUL = -0.9, 2  # so many utterances in a row, less sure than this: it is not the language of the model
JUST_PAUSED = to_samples(300)  # in a pause younger than this no partial begins: a flush is about to come


@dataclass(frozen=True, slots=True)
class _Job:
    """One decode of samples [start, end) of a stream."""

    start: int
    end: int
    task: Task

    def run(self, model: Model) -> Hypothesis:
        return model.decode(self.task)


@dataclass(slots=True)
class _Utterance:
    """One ref, from Onset to Settled."""

    ref: int
    start: int  # of the current segment
    text: Transcript
    end: int | None = None  # told by Flush or Commit
    committed: bool = False
    job: Decode[_Job] | None = None  # the decode that ends a segment: cut, flush or final
    result: Hypothesis | None = None  # of the flush
    asked: int = 0  # audio position up to which partials were asked for
    partials: int = 0  # of the current segment
    provisional: str = ""
    language: str | None = None  # found by the model in this utterance
    failed: bool = False  # a speculative decode has failed, so no more of them are tried
    broken: bool = False  # a segment could not be decoded: it is Failed as soon as it is committed
    compute_us: int = 0


@dataclass(slots=True)
class _Stream:
    """One audio input."""

    ring: Ring
    voice: Voice
    language: str | None
    prompt: str
    utterances: dict[int, _Utterance] = field(default_factory=dict)  # in order of onset
    known: int = 0  # `Feed.known`: audio after it may be the next utterance's
    over: int = 0  # audio before it belongs to finished utterances
    doubtful: int = 0  # utterances in a row of which the model was hardly sure
    told: set[str] = field(default_factory=set)  # codes of Warned


def too_slow(interval_s: float, final_s: float, model: str) -> str:
    """The line for the user of a machine that is too slow: by how much, and what helps."""
    return (
        f"This machine is too slow for live text: words come every {interval_s:.1f} s, "
        f"a final text takes {final_s:.1f} s (0.4 and 0.3 s are usual). Fewer other programs and speakers, more cores, "
        f"a model no larger than tiny.en (this is {model}) or an engine on a GPU help."
    )


def other_language(model: str, language: str) -> str:
    """The line for somebody whose language the model does not know."""
    return (
        f"This does not sound like {language}, the only language of {model}, so its words are guesses. A multilingual "
        f"model (engine_options.whisper.model: base) or another engine (`voxd engines`) knows more."
    )


# The same workers serve live speech (_Job to Hypothesis) and files (two halves of a window, each of its own type).
AnyPool = Pool[Any, Any]
MakePool = Callable[[int, Callable[[Any], Any], Callable[[], None]], AnyPool]


class Whisper(Engine):
    """faster-whisper, live."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        roles=("transcribe",),
        summary="whisper on the CPU through faster-whisper; tiny.en unless configured",
        needs=("faster_whisper",),
        extra="whisper",
        live=True,
        fetches=True,
    )

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        return weights_absent(WhisperOptions.parse(options).model)

    def __init__(
        self,
        options: Mapping[str, object],
        wake: Callable[[], None],
        load: Callable[[WhisperOptions, Callable[[str], None]], Model] = load_model,
        make_pool: MakePool = Workers,
    ) -> None:
        self._options = WhisperOptions.parse(options).resolved(cores())
        self._wake, self._load, self._make_pool = wake, load, make_pool
        self._model: Model | None = None
        self._pool: AnyPool | None = None
        self._files: Files | None = None
        self._streams: dict[int, _Stream] = {}
        self._outputs: list[Output] = []
        self._partial_us, self._final_us = 100_000, 200_000  # how long they take here: running estimates

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        options = self._options
        model = self._model = self._load(options, progress)
        progress("warming up")
        model.decode(Task(np.zeros(RATE, np.float32), model.languages[0]))
        self._pool = self._make_pool(options.workers, lambda work: work.run(model), self._wake)
        # Where somebody may speak, files leave one worker free if there are two.
        self._files = Files(self._pool, self._outputs, lambda: max(1, options.workers - bool(self._streams)))
        notes = [f"whisper {model.name} on the CPU, {options.compute_type}, {options.workers} decodes at the same time"]
        if len(model.languages) > 1:
            notes.append("a session that does not name its language has it detected, which doubles the work")
        return tuple(notes)

    @property
    def languages(self) -> tuple[str, ...]:
        return self._loaded.languages

    def stop(self) -> None:
        self._streams.clear()
        if self._pool is not None:
            self._pool.stop()

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            return self._open(command)
        if command.stream in self._file_streams:
            return self._file_streams.receive(command)
        stream = self._streams.get(command.stream)
        if stream is None:
            return None
        match command:
            case Feed(pcm=pcm, known=known):
                stream.ring.append(pcm)
                stream.known = sys.maxsize if known is None else known
            case Heard(start=start, probabilities=probabilities):
                stream.voice.append(start, probabilities)
                for utterance in list(stream.utterances.values()):
                    self._advance(command.stream, stream, utterance)
                self._trim(stream)
            case Onset(ref=ref, start=start, said=said):
                begin = max(start - ROOM, stream.over, stream.ring.start)
                stream.utterances[ref] = _Utterance(ref, begin, Transcript(said))
            case Close():
                del self._streams[command.stream]
                self._workers.withdraw(command.stream)
                self._outputs[:] = [out for out in self._outputs if out.stream != command.stream]
            case Cancel(ref=ref):
                if stream.utterances.pop(ref, None) is not None:
                    self._workers.withdraw(command.stream, ref)
            case Flush(ref=ref, end=end) | Commit(ref=ref, end=end):
                self._end(command.stream, stream, ref, end, committed=isinstance(command, Commit))
            case Rollback(ref=ref):
                self._rollback(command.stream, stream, ref)
        return None

    def _open(self, command: Open) -> None:
        model = self._loaded
        if command.language is not None and command.language not in model.languages:
            if model.languages == ("en",):
                raise Refuse(f"{model.name} understands English only; configure a multilingual model", retry_after_s=0)
            raise Refuse(f"{model.name} does not know the language {command.language!r}", retry_after_s=0)
        if (stream := self._streams.get(command.stream)) is not None:
            stream.language, stream.prompt = command.language, command.prompt
            return
        again, taken = command.stream in self._file_streams, len(self._streams) + len(self._file_streams)
        if not again and taken >= self._options.max_streams:
            raise Refuse(f"all {self._options.max_streams} slots for speech recognition are taken")
        if again or command.hurry:
            self._file_streams.receive(command)
            return
        start = command.start
        self._streams[command.stream] = _Stream(Ring(LONGEST, start), Voice(start), command.language, command.prompt)

    def _end(self, number: int, stream: _Stream, ref: int, end: int, *, committed: bool) -> None:
        utterance = stream.utterances.get(ref)
        if utterance is None:
            return
        if utterance.end != end:
            self._forget_flush(number, utterance)
        utterance.end, utterance.committed = end, committed
        if committed:
            stream.over = end
        job = utterance.job
        if committed and job is not None:
            self._workers.promote(job)
        self._advance(number, stream, utterance)

    def _rollback(self, number: int, stream: _Stream, ref: int) -> None:
        utterance = stream.utterances.get(ref)
        if utterance is not None:
            self._forget_flush(number, utterance)
            utterance.end = None

    def _forget_flush(self, number: int, utterance: _Utterance) -> None:
        """Drops the decode of a flush; one that ends a segment before the flush stays valid."""
        utterance.result = None
        if utterance.job is not None and utterance.job.payload.end == utterance.end:
            self._workers.withdraw(number, utterance.ref)
            utterance.job = None

    # ── what to decode next ─────────────────────────────────────────────────────────────────────────────────────────

    def _advance(self, number: int, stream: _Stream, utterance: _Utterance) -> None:
        """Submits the decode that the utterance needs now, or settles it when there is nothing left to decode."""
        if utterance.job is not None or utterance.ref not in stream.utterances:
            return
        end, voice = utterance.end, stream.voice
        if utterance.broken:
            if utterance.committed:
                del stream.utterances[utterance.ref]
                message = "the speech model failed on this utterance"
                self._outputs.append(Failed(number, utterance.ref, "engine_error", message))
            return
        if end is None:
            if voice.first_voiced(utterance.start, voice.end) is None:
                utterance.start = max(utterance.start, min(voice.end, stream.ring.end) - LEAD)
                return
        elif voice.end <= end - VAD_FRAME:
            return  # the VAD is still to say whether there is voice in it
        if (cut := self._cut(stream, utterance)) is not None:
            self._decode_segment(number, stream, utterance, cut, Kind.FINAL)
        elif end is None:
            self._decode_partial(number, stream, utterance)
        elif voice.first_voiced(utterance.start, end) is None:
            if utterance.committed:
                self._settle(number, stream, utterance, Hypothesis())
        elif utterance.result is not None:
            if utterance.committed:
                self._settle(number, stream, utterance, utterance.result)
        elif utterance.committed or not utterance.failed:
            self._decode_segment(number, stream, utterance, end, Kind.FINAL if utterance.committed else Kind.FLUSH)

    def _cut(self, stream: _Stream, utterance: _Utterance) -> int | None:
        """Where the current segment has to end although the utterance goes on."""
        start, heard = utterance.start, min(stream.voice.end, stream.known)
        end = heard if utterance.end is None else utterance.end
        if end - start > HARD:
            return stream.voice.cut(start + LEAST, min(heard, start + HARD), pause_only=False)
        if utterance.end is not None or end - start <= SOFT:
            return None
        # Only a pause of just now: words after an older one may be published already.
        return stream.voice.cut(max(start + LEAST, heard - RATE), heard, pause_only=True)

    def _decode_segment(self, number: int, stream: _Stream, utterance: _Utterance, end: int, kind: Kind) -> None:
        request = self._request(number, stream, utterance, end, kind)
        utterance.job = request
        self._workers.submit(request)

    def _decode_partial(self, number: int, stream: _Stream, utterance: _Utterance) -> None:
        voice, end = stream.voice, min(stream.ring.end, stream.known)
        first = voice.first_voiced(utterance.start, voice.end)
        if first is None or utterance.failed or 0 < voice.silence() < JUST_PAUSED:
            return
        early = not utterance.text.text and utterance.partials < EARLY_PARTIALS
        since = max(first + FIRST - self._interval(early), utterance.asked)
        if end - since < self._interval(early) or voice.last_voiced(utterance.asked, end) is None:
            return
        utterance.asked = end
        utterance.partials += 1
        self._workers.submit(self._request(number, stream, utterance, end, Kind.PARTIAL))

    def _interval(self, early: bool) -> int:
        """New audio between two partials, so that all partials together take their share of the workers."""
        speaking = max(1, sum(bool(stream.utterances) for stream in self._streams.values()))
        least, share = to_samples(self._options.partial_interval_ms), min(MOST_SHARE, SHARE * speaking)
        if early:
            least, share, speaking = EARLY, 1.0, speaking - 1
        return max(least, int(self._partial_us * speaking / (share * self._options.workers) * RATE / 1_000_000))

    def _request(self, number: int, stream: _Stream, utterance: _Utterance, end: int, kind: Kind) -> Decode[_Job]:
        last = stream.voice.last_voiced(utterance.start, end)
        until = end if last is None or kind is Kind.PARTIAL else min(end, last + LEAD)
        _, pcm = stream.ring.read(utterance.start, until)
        languages = self._loaded.languages
        language = stream.language or utterance.language or (languages[0] if len(languages) == 1 else None)
        task = Task(pcm16_to_float(pcm), language, stream.prompt, kind is Kind.PARTIAL)
        return Decode(number, utterance.ref, kind, _Job(utterance.start, end, task))

    def _trim(self, stream: _Stream) -> None:
        before = min([stream.ring.end - LOOK_BACK, *(u.start for u in stream.utterances.values())])
        stream.ring.trim(before)
        stream.voice.trim(before)

    # ── results ───────────────────────────────────────────────────────────────────────────────────────────

    def step(self, now_us: int) -> Iterable[Output]:
        for result in self._workers.results():
            if result.request.kind is Kind.FILE:
                self._file_streams.take(result)
            else:
                self._take(result)
        outputs = list(self._outputs)
        self._outputs.clear()
        return outputs

    def _take(self, result: Result[_Job, Hypothesis]) -> None:
        request = result.request
        if request.kind is Kind.PARTIAL:
            self._partial_us += (result.wall_us - self._partial_us) // 4
        else:
            self._final_us += (result.wall_us - self._final_us) // 4
        stream = self._streams.get(request.stream)
        utterance = stream.utterances.get(request.ref) if stream is not None else None
        if stream is None or utterance is None:
            return
        utterance.compute_us += result.wall_us
        if request is utterance.job:
            utterance.job = None
            self._take_segment(request, stream, utterance, result.value)
        elif request.kind is Kind.PARTIAL and result.value is None:
            utterance.failed = True
        elif request.kind is Kind.PARTIAL and result.value and request.payload.start == utterance.start:
            self._note_language(utterance, request.payload, result.value)
            heard_s = (request.payload.end - request.payload.start) / RATE
            past = [heard_s - end for end in result.value.ends]
            new, provisional = utterance.text.hear(result.value.words, result.value.sure, past)
            self._say(request.stream, utterance, new, provisional)
        self._advance(request.stream, stream, utterance)

    def _take_segment(
        self, request: Decode[_Job], stream: _Stream, utterance: _Utterance, hypothesis: Hypothesis | None
    ) -> None:
        job = request.payload
        last = job.end == utterance.end
        if hypothesis is None and last and not utterance.committed:
            utterance.failed = True
        elif hypothesis is None:
            utterance.broken = True
        elif last:
            utterance.result = hypothesis  # `_advance` settles it once it is committed
            if not utterance.committed:
                guess = utterance.text.ending(hypothesis.words)
                self._outputs.append(Guessed(request.stream, utterance.ref, job.end, guess))
        else:
            self._note_language(utterance, job, hypothesis)
            self._say(request.stream, utterance, utterance.text.finish(hypothesis.words), "", job.end)
            utterance.start = utterance.asked = job.end
            utterance.partials = 0

    def _note_language(self, utterance: _Utterance, job: _Job, hypothesis: Hypothesis) -> None:
        if job.end - job.start >= 2 * RATE:  # less is a poor guess
            utterance.language = utterance.language or hypothesis.language

    def _say(self, number: int, utterance: _Utterance, new: str, provisional: str, samples: int = 0) -> None:
        if new or provisional != utterance.provisional:
            utterance.provisional = provisional
            self._outputs.append(Said(number, utterance.ref, new, provisional, samples))

    def _settle(self, number: int, stream: _Stream, utterance: _Utterance, hypothesis: Hypothesis) -> None:
        del stream.utterances[utterance.ref]
        self._workers.withdraw(number, utterance.ref)
        new = utterance.text.finish(hypothesis.words) if hypothesis.words else ""
        if new:
            self._outputs.append(Said(number, utterance.ref, new, "", utterance.end or 0))
        text = utterance.text.text
        self._warn(number, stream, utterance, hypothesis)
        self._outputs.append(Settled(number, utterance.ref, "completed", text, compute_us=utterance.compute_us))

    def _warn(self, number: int, stream: _Stream, utterance: _Utterance, hypothesis: Hypothesis) -> None:
        """Tells once of a stream what its user can do something about: a slow machine, another language."""
        if hypothesis.tokens and (utterance.end or 0) - utterance.start >= RATE:
            stream.doubtful = stream.doubtful + 1 if hypothesis.score < DOUBT else 0
        interval = self._interval(early=False)
        found: dict[str, str] = {}
        if interval > SLOW_PARTIALS or self._final_us > SLOW_FINAL_US:
            found["machine_too_slow"] = too_slow(interval / RATE, self._final_us / 1e6, self._loaded.name)
        if stream.doubtful >= DOUBTFUL and len(self._loaded.languages) == 1:
            found["language_doubtful"] = other_language(self._loaded.name, self._loaded.languages[0])
        for code in found.keys() - stream.told:
            stream.told.add(code)
            self._outputs.append(Warned(number, code, found[code]))

    @property
    def _file_streams(self) -> Files:
        assert self._files is not None, "load() comes first"
        return self._files

    @property
    def _workers(self) -> AnyPool:
        assert self._pool is not None, "load() comes first"
        return self._pool

    @property
    def _loaded(self) -> Model:
        assert self._model is not None, "load() comes first"
        return self._model
