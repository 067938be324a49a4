"""Does an engine keep the promises of `voxd.engine.contract`?  For any plug-in, in its own tests or as a command.

    class TestMine(Conformance):                      python -m voxd.engine.conformance mine --clip speech.wav
        def make_engine(self, wake):
            return Mine({}, wake)

Each method is one check; those for a role that the engine has not are skipped.  The engine is loaded once per class.
Without a clip the sound is synthetic and the VAD scripted: enough for the order of things, not for what text becomes of
speech.  An engine whose own threads call `wake` publishes by the clock; its texts are compared loosely.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from shared.audio import to_samples
from voxd.engine.conformance.bench import DECIDED, PIECE, Bench, Broke, Stage, require
from voxd.engine.conformance.sound import Sound
from voxd.engine.contract import Engine
from voxd.messages import Crop, Evict, Flush, Role, Rollback, Settled, Turn

__all__ = ["Broke", "Conformance"]

LATE = to_samples(4900)  # an onset is told at most this long after its start
DECODE_S = 0.5  # what a thread may take for the work of a flush before it is rolled back or committed
SLOTS = 70  # streams opened one after another, each closed before the next


class Conformance:
    """Name the subclass Test..., and give it `make_engine`."""

    clip: ClassVar[Path | None] = None  # one utterance of 2 to 10 s
    patience_s: ClassVar[float] = 60.0  # for one ending, however slow the machine
    _bench: ClassVar[Bench | None] = None

    def make_engine(self, wake: Callable[[], None]) -> Engine:
        """A new engine; `load` is called later."""
        raise NotImplementedError

    @classmethod
    def teardown_class(cls) -> None:
        """Frees the engine; pytest calls it after the last check."""
        if cls._bench is not None:
            cls._bench.engine.stop()
        cls._bench = None

    @contextmanager
    def _stage(self, role: Role) -> Iterator[Stage]:
        """Streams for one check; afterwards they are closed, and nothing more may come."""
        cls = type(self)
        if cls._bench is None:
            sound = Sound.synthetic() if self.clip is None else Sound.read(self.clip)
            cls._bench = Bench(self.make_engine, sound, self.patience_s)
        if role not in cls._bench.engine.capabilities.roles:
            raise unittest.SkipTest(f"the engine does not {role}")
        stage = Stage(cls._bench)
        try:
            yield stage
            stage.bench.rest()
        finally:
            stage.close()
        stage.bench.rest()

    # ── transcribe ──────────────────────────────────────────────────────────────────────────────────────────────────

    def test_each_commit_settles_once(self) -> None:
        """Promises 1 and 2: speech, and silence that begins before the speech has settled."""
        with self._stage("transcribe") as stage:
            talk = stage.stream()
            speech, end = talk.begin(), talk.sound.end
            talk.hear(end + DECIDED)
            talk.commit(speech)
            silence = talk.onset(end)
            talk.hear(end + 2 * DECIDED)
            talk.commit(silence, end + DECIDED)
            text = talk.settled(speech)
            talk.settled(silence)
            require(bool(text.strip()) or self.clip is None, "the clip has become no text")

    def test_a_replayed_utterance_goes_on_where_its_text_ended(self) -> None:
        """Promise 2 after an engine loss: Said continues Onset.said, Settled has both."""
        with self._stage("transcribe") as stage:
            lost = stage.stream()
            ref = lost.begin()
            lost.hear(lost.sound.middle)
            stage.bench.rest()
            said = lost.owed[ref].said
            text = lost.finish(ref)
            again = stage.stream(start=lost.sound.start)
            stage.compare(text, again.finish(again.begin(said=said)), f"after a replay with {said!r} said before")

    def test_a_flush_that_is_rolled_back_leaves_no_trace(self) -> None:
        """Promise 3: neither at once nor in the final text."""
        with self._stage("transcribe") as stage:
            before: list[str] = []
            after: list[str] = []
            for flushes in (0, 2):
                talk = stage.stream()
                ref = talk.begin()
                talk.hear(talk.sound.middle)
                stage.bench.rest()
                for _ in range(flushes):
                    stage.bench.tell(Flush(talk.stream, ref, talk.sound.middle))
                    stage.bench.rest(DECODE_S)
                    stage.bench.tell(Rollback(talk.stream, ref))
                before.append(talk.owed[ref].said)
                after.append(talk.finish(ref))
            if not stage.bench.threaded:
                stage.compare(before[0], before[1], "after Flush, before Commit")
            stage.compare(after[0], after[1], "after Flush and Rollback")

    def test_a_flush_makes_its_commit_no_different(self) -> None:
        """Promise 3: the work may be done ahead, the text is the same."""
        with self._stage("transcribe") as stage:
            text, flushed = stage.plain(), stage.stream()
            ref = flushed.begin()
            flushed.hear(flushed.sound.end + PIECE)
            stage.bench.tell(Flush(flushed.stream, ref, flushed.sound.end))
            stage.bench.rest(DECODE_S)
            stage.compare(text, flushed.finish(ref), "after Flush of the same end")

    def test_streams_do_not_hear_each_other(self) -> None:
        """Promise 4: two streams in turn, with the same refs, say what each says alone."""
        with self._stage("transcribe") as stage:
            whole, half = stage.bench.sound.end, stage.bench.sound.middle
            alone = stage.listen(whole) + stage.listen(half)
            together = stage.listen(whole, half)
            for text, other in zip(alone, together, strict=True):
                stage.compare(text, other, "beside another stream")

    def test_a_closed_stream_is_silent(self) -> None:
        """Promise 4: Close in the middle of an utterance, and right after a Commit."""
        with self._stage("transcribe") as stage:
            talks = stage.stream(), stage.stream()
            for talk in talks:
                ref = talk.begin()
                talk.hear(talk.sound.end)
            talk.hear(talk.sound.end + DECIDED)
            talk.commit(ref)
            stage.close()
            stage.listen(stage.bench.sound.middle)

    def test_closing_frees_the_place(self) -> None:
        """Promise 4: streams that are opened, used and closed one after another never fill the engine."""
        with self._stage("transcribe") as stage:
            for _ in range(SLOTS):
                talk = stage.stream()
                talk.hear(PIECE)
                talk.onset(0)
                talk.close()

    def test_a_cancelled_utterance_is_silent(self) -> None:
        """Promise 1: nothing more of it, and the next one says what it would have said."""
        with self._stage("transcribe") as stage:
            text = stage.plain()
            talk = stage.stream()
            ref = talk.begin()
            talk.hear(talk.sound.start + 3 * PIECE)
            talk.cancel(ref, utterance=True)
            talk.hear(talk.sound.middle)
            stage.bench.rest()
            stage.compare(text, talk.finish(talk.onset()), "after the Cancel of an utterance")

    def test_an_onset_may_reach_back(self) -> None:
        """Promise 5: the audio of the last 4.9 s is still there."""
        with self._stage("transcribe") as stage:
            text, late = stage.plain(), stage.stream()
            stage.compare(text, late.finish(late.begin(late=LATE)), "with an onset told 4.9 s after its start")

    def test_evict_takes_nothing_away(self) -> None:
        """An idle stream goes on after Evict."""
        with self._stage("transcribe") as stage:
            text = stage.plain()
            talk = stage.stream()
            talk.hear(talk.sound.start)
            stage.bench.tell(Evict(talk.stream))
            stage.bench.rest()
            stage.compare(text, talk.finish(talk.begin()), "after Evict")

    def test_a_second_open_keeps_the_audio(self) -> None:
        """Options may change at any time, in the middle of an utterance too."""
        with self._stage("transcribe") as stage:
            text = stage.plain()
            talk = stage.stream()
            ref = talk.begin()
            talk.hear(talk.sound.middle)
            talk.open(prompt="voxd")
            stage.compare(text, talk.finish(ref), "after a second Open", loosely=True)

    # ── respond ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def test_each_respond_settles_once(self) -> None:
        """Promises 1 and 2: an answer to text, and one to what was spoken."""
        with self._stage("respond") as stage:
            talk = stage.stream()
            require(bool(talk.settled(talk.respond())), "the answer to a question is empty")
            talk.answer(talk.spoken())

    def test_a_cropped_speculation_leaves_no_trace(self) -> None:
        """Promise 3: nothing of it is published, and the answer is what it would have been."""
        with self._stage("respond") as stage:
            plain, cropped = stage.stream(), stage.stream()
            text = plain.answer(plain.spoken())
            utterance = cropped.spoken()
            ref = cropped.speculate(utterance)
            stage.bench.rest()
            stage.bench.tell(Crop(cropped.stream, ref))
            stage.bench.rest()
            stage.compare(text, cropped.answer(utterance), "after Speculate and Crop")

    def test_a_speculation_becomes_its_answer(self) -> None:
        """Promise 3: nothing is published before Respond, everything after it."""
        with self._stage("respond") as stage:
            plain, speculated = stage.stream(), stage.stream()
            text = plain.answer(plain.spoken())
            utterance = speculated.spoken()
            ref = speculated.speculate(utterance)
            stage.bench.rest()
            stage.compare(text, speculated.answer(utterance, ref), "begun by Speculate")

    def test_a_cancelled_answer_settles_with_what_was_said(self) -> None:
        """Promises 1 and 2: as cancelled, unless it had ended by then; the next answer is whole."""
        with self._stage("respond") as stage:
            talk = stage.stream()
            ref = talk.respond(max_tokens=None)
            owed = talk.owed[ref]
            stage.bench.until(lambda: bool(owed.said) or owed.ending is not None, "the first text of an answer")
            over = owed.ending is not None
            talk.cancel(ref, utterance=False)
            talk.settled(ref)
            assert isinstance(owed.ending, Settled)
            require(over or owed.ending.status == "cancelled", f"a cancelled answer settles as {owed.ending.status}")
            talk.settled(talk.respond())

    def test_answers_do_not_influence_each_other(self) -> None:
        """Promise 4: two streams asked at once, with the same refs, answer what each answers alone."""
        with self._stage("respond") as stage:
            one, other, both = stage.stream(), stage.stream(), (stage.stream(), stage.stream())
            poem = (Turn("user", "Tell me something longer."),)
            alone = one.settled(one.respond()), other.settled(other.respond(poem, max_tokens=20))
            refs = both[0].respond(), both[1].respond(poem, max_tokens=20)
            for text, talk, ref in zip(alone, both, refs, strict=True):
                stage.compare(text, talk.settled(ref), "beside another answer")

    def test_a_stream_closed_in_an_answer_is_silent(self) -> None:
        """Promise 4: nothing more comes of it; another stream is answered."""
        with self._stage("respond") as stage:
            talk = stage.stream()
            owed = talk.owed[talk.respond(max_tokens=None)]
            stage.bench.until(lambda: bool(owed.said) or owed.ending is not None, "the first text of an answer")
            talk.close()
            next_one = stage.stream()
            next_one.settled(next_one.respond())

    def test_evict_keeps_the_conversation(self) -> None:
        """An answer after Evict is the answer without it."""
        with self._stage("respond") as stage:
            plain, evicted = stage.stream(), stage.stream()
            text = plain.answer(plain.spoken())
            utterance = evicted.spoken()
            stage.bench.tell(Evict(evicted.stream))
            stage.bench.rest()
            stage.compare(text, evicted.answer(utterance), "after Evict")
