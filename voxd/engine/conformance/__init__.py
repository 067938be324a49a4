"""Checks whether an engine keeps the promises of `voxd.engine.contract`.  Not in the packet's path.

    class TestMine(Conformance):                      python -m voxd.engine.conformance mine --clip speech.wav
        def make_engine(self, wake):
            return Mine({}, wake)

Each method is one check of any plug-in, in its own tests or as a command; those for a role that the engine does not
have are skipped.  Each runs twice: with a step after every command, and with whole batches of commands before one step,
as a busy daemon delivers them.  The engine is loaded once per class.  Without a clip the sound is synthetic and the VAD
scripted: enough for the order of things, not for the text that a model makes of speech.  An engine whose own threads
call `wake` publishes by the clock; its texts are compared loosely.  Nothing here knows what an engine computes.
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
from voxd.messages import Crop, Flush, Role, Rollback, Settled, Turn

__all__ = ["Broke", "Conformance"]

LATE = to_samples(4900)  # an onset is told at most this long after its start
DECODE_S = 0.5  # what a thread may take for the work of a flush before it is rolled back or committed
SLOTS = 70  # streams opened one after another, each closed before the next


def _check(role: Role) -> Callable[[Callable[[Conformance, Stage], None]], Callable[[Conformance], None]]:
    """Runs a check of that role in both ways of delivery, each with streams of its own."""

    def decorate(body: Callable[[Conformance, Stage], None]) -> Callable[[Conformance], None]:
        def run(self: Conformance) -> None:
            for batches in (False, True):
                try:
                    with self._stage(role, batches=batches) as stage:
                        body(self, stage)
                except Broke as broke:
                    if not batches:
                        raise
                    raise Broke(f"with several commands before one step: {broke}") from broke

        run.__name__, run.__doc__ = body.__name__, body.__doc__  # not `wraps`: pytest would look for a fixture `stage`
        return run

    return decorate


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
    def _stage(self, role: Role, *, batches: bool) -> Iterator[Stage]:
        """Streams for one check; afterwards they are closed, and nothing more may come."""
        cls = type(self)
        if cls._bench is None:
            sound = Sound.synthetic() if self.clip is None else Sound.read(self.clip)
            cls._bench = Bench(self.make_engine, sound, self.patience_s)
        if role not in cls._bench.engine.capabilities.roles:
            raise unittest.SkipTest(f"the engine does not {role}")
        cls._bench.batches = batches
        stage = Stage(cls._bench)
        try:
            yield stage
            stage.bench.rest()
        finally:
            stage.close()
        stage.bench.rest()

    # ── transcribe ──────────────────────────────────────────────────────────────────────────────────────────────────

    @_check("transcribe")
    def test_each_commit_settles_once(self, stage: Stage) -> None:
        """Promises 1 and 2: speech, and silence that begins before the speech has settled."""
        driver = stage.stream()
        speech, end = driver.begin(), driver.sound.end
        driver.hear(end + DECIDED)
        driver.commit(speech)
        silence = driver.onset(end)
        driver.hear(end + 2 * DECIDED)
        driver.commit(silence, end + DECIDED)
        text = driver.settled(speech)
        driver.settled(silence)
        require(bool(text.strip()) or self.clip is None, "the clip has become no text")

    @_check("transcribe")
    def test_a_file_says_the_same(self, stage: Stage) -> None:
        """Promises 1, 2 and 4 where nobody reads along: what is cancelled or silent costs the others nothing."""
        text, driver, closed = stage.plain(), stage.stream(hurry=True), stage.stream(hurry=True)
        speech, end = driver.begin(), driver.sound.end
        closed.begin()
        driver.hear(end + DECIDED)
        driver.commit(speech)
        cancelled = driver.onset(end)
        driver.hear(end + 2 * DECIDED)
        driver.cancel(cancelled, utterance=True)
        silence = driver.onset(end + DECIDED // 2)
        driver.commit(silence, end + DECIDED)
        closed.close()
        stage.compare(text, driver.settled(speech), "as a file", loosely=True)
        driver.settled(silence)

    @_check("transcribe")
    def test_a_replayed_utterance_goes_on_where_its_text_ended(self, stage: Stage) -> None:
        """Promise 2 after an engine loss: Said continues Onset.said, Settled has both."""
        lost = stage.stream()
        ref = lost.begin()
        lost.hear(lost.sound.middle)
        stage.bench.rest()
        said = lost.owed[ref].said
        text = lost.finish(ref)
        again = stage.stream(start=lost.sound.start)
        stage.compare(text, again.finish(again.begin(said=said)), f"after a replay with {said!r} said before")

    @_check("transcribe")
    def test_a_flush_that_is_rolled_back_leaves_no_trace(self, stage: Stage) -> None:
        """Promise 3: neither at once nor in the final text."""
        before: list[str] = []
        after: list[str] = []
        for flushes in (0, 2):
            driver = stage.stream()
            ref = driver.begin()
            driver.hear(driver.sound.middle)
            stage.bench.rest()
            for _ in range(flushes):
                stage.bench.tell(Flush(driver.stream, ref, driver.sound.middle))
                stage.bench.rest(DECODE_S)
                stage.bench.tell(Rollback(driver.stream, ref))
            before.append(driver.owed[ref].said)
            after.append(driver.finish(ref))
        if not stage.bench.threaded:
            stage.compare(before[0], before[1], "after Flush, before Commit")
        stage.compare(after[0], after[1], "after Flush and Rollback")

    @_check("transcribe")
    def test_a_flush_makes_its_commit_no_different(self, stage: Stage) -> None:
        """Promise 3: the work may be done ahead, the text is the same."""
        text, flushed = stage.plain(), stage.stream()
        ref = flushed.begin()
        flushed.hear(flushed.sound.end + PIECE)
        stage.bench.tell(Flush(flushed.stream, ref, flushed.sound.end))
        stage.bench.rest(DECODE_S)
        stage.compare(text, flushed.finish(ref), "after Flush of the same end")

    @_check("transcribe")
    def test_streams_do_not_hear_each_other(self, stage: Stage) -> None:
        """Promise 4: two streams in turn, with the same refs, say what each says alone."""
        whole, half = stage.bench.sound.end, stage.bench.sound.middle
        alone = stage.listen(whole) + stage.listen(half)
        together = stage.listen(whole, half)
        for text, other in zip(alone, together, strict=True):
            stage.compare(text, other, "beside another stream")

    @_check("transcribe")
    def test_a_closed_stream_is_silent(self, stage: Stage) -> None:
        """Promise 4: Close in the middle of an utterance, and right after a Commit."""
        drivers = stage.stream(), stage.stream()
        for driver in drivers:
            ref = driver.begin()
            driver.hear(driver.sound.end)
        driver.hear(driver.sound.end + DECIDED)
        driver.commit(ref)
        stage.close()
        stage.listen(stage.bench.sound.middle)

    @_check("transcribe")
    def test_closing_frees_the_slot(self, stage: Stage) -> None:
        """Promise 4: streams that are opened, used and closed one after another never fill the engine."""
        for _ in range(SLOTS):
            driver = stage.stream()
            driver.hear(PIECE)
            driver.onset(0)
            driver.close()

    @_check("transcribe")
    def test_a_cancelled_utterance_is_silent(self, stage: Stage) -> None:
        """Promise 1: nothing more of it, and the next one says what it would have said."""
        text = stage.plain()
        driver = stage.stream()
        ref = driver.begin()
        driver.hear(driver.sound.start + 3 * PIECE)
        driver.cancel(ref, utterance=True)
        driver.hear(driver.sound.middle)
        stage.bench.rest()
        stage.compare(text, driver.finish(driver.onset()), "after the Cancel of an utterance")

    @_check("transcribe")
    def test_each_command_of_a_batch_counts(self, stage: Stage) -> None:
        """Promise 6: two streams, each with utterances that end, begin and are cancelled before the next step."""
        alone, drivers = stage.plain(batches=False), (stage.stream(), stage.stream())
        speech = [driver.begin() for driver in drivers]
        for driver in drivers:
            driver.hear(driver.sound.end + DECIDED)
        silence = []
        for driver, ref in zip(drivers, speech, strict=True):
            end = driver.sound.end
            driver.commit(ref)
            driver.cancel(driver.onset(end), utterance=True)
            silence.append(driver.onset(end))
            driver.commit(silence[-1], end + DECIDED)
        for driver, spoken, silent in zip(drivers, speech, silence, strict=True):
            driver.settled(silent)
            stage.compare(alone, driver.settled(spoken), "beside other commands", loosely=True)

    @_check("transcribe")
    def test_an_onset_may_reach_back(self, stage: Stage) -> None:
        """Promise 5: the audio of the last 4.9 s is still there."""
        text, late = stage.plain(), stage.stream()
        stage.compare(text, late.finish(late.begin(late=LATE)), "with an onset told 4.9 s after its start")

    @_check("transcribe")
    def test_a_second_open_keeps_the_audio(self, stage: Stage) -> None:
        """Options may change at any time, in the middle of an utterance too."""
        text = stage.plain()
        driver = stage.stream()
        ref = driver.begin()
        driver.hear(driver.sound.middle)
        driver.open(prompt="voxd")
        stage.compare(text, driver.finish(ref), "after a second Open", loosely=True)

    # ── respond ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @_check("respond")
    def test_each_respond_settles_once(self, stage: Stage) -> None:
        """Promises 1 and 2: an answer to text, and one to what was spoken."""
        driver = stage.stream()
        require(bool(driver.settled(driver.respond())), "the answer to a question is empty")
        driver.answer(driver.spoken())

    @_check("respond")
    def test_a_cropped_speculation_leaves_no_trace(self, stage: Stage) -> None:
        """Promise 3: nothing of it is published, and the answer is what it would have been."""
        plain, cropped = stage.stream(), stage.stream()
        text = plain.answer(plain.spoken())
        utterance = cropped.spoken()
        ref = cropped.speculate(utterance)
        stage.bench.rest()
        stage.bench.tell(Crop(cropped.stream, ref))
        stage.bench.rest()
        stage.compare(text, cropped.answer(utterance), "after Speculate and Crop")

    @_check("respond")
    def test_a_speculation_becomes_its_answer(self, stage: Stage) -> None:
        """Promise 3: nothing is published before Respond, everything after it."""
        plain, speculated = stage.stream(), stage.stream()
        text = plain.answer(plain.spoken())
        utterance = speculated.spoken()
        ref = speculated.speculate(utterance)
        stage.bench.rest()
        stage.compare(text, speculated.answer(utterance, ref), "begun by Speculate")

    @_check("respond")
    def test_a_cancelled_answer_settles_with_what_was_said(self, stage: Stage) -> None:
        """Promises 1 and 2: as cancelled, unless it had ended by then; the next answer is whole."""
        driver = stage.stream()
        ref = driver.respond(max_tokens=None)
        owed = driver.owed[ref]
        stage.bench.until(lambda: bool(owed.said) or owed.ending is not None, "the first text of an answer")
        over = owed.ending is not None
        driver.cancel(ref, utterance=False)
        driver.settled(ref)
        assert isinstance(owed.ending, Settled)
        require(over or owed.ending.status == "cancelled", f"a cancelled answer settles as {owed.ending.status}")
        driver.settled(driver.respond())

    @_check("respond")
    def test_answers_do_not_influence_each_other(self, stage: Stage) -> None:
        """Promise 4: two streams asked at once, with the same refs, answer what each answers alone."""
        one, other, both = stage.stream(), stage.stream(), (stage.stream(), stage.stream())
        poem = (Turn("user", "Tell me something longer."),)
        alone = one.settled(one.respond()), other.settled(other.respond(poem, max_tokens=20))
        refs = both[0].respond(), both[1].respond(poem, max_tokens=20)
        for text, driver, ref in zip(alone, both, refs, strict=True):
            stage.compare(text, driver.settled(ref), "beside another answer")

    @_check("respond")
    def test_each_answer_of_a_batch_is_given(self, stage: Stage) -> None:
        """Promise 6: a turn that ends is answered, an answer is cancelled for the next one, and another stream asks,
        all before the next step."""
        plain, one, other = stage.stream(), stage.stream(), stage.stream()
        text = plain.settled(plain.respond())
        utterance = one.begin()
        one.hear(one.sound.end + DECIDED)
        one.commit(utterance)
        cancelled = one.respond(max_tokens=None)
        one.cancel(cancelled, utterance=False)
        asked = (one, one.respond()), (other, other.respond())
        one.settled(utterance)
        one.settled(cancelled)
        for driver, ref in asked:
            stage.compare(text, driver.settled(ref), "beside other commands")

    @_check("respond")
    def test_a_stream_closed_in_an_answer_is_silent(self, stage: Stage) -> None:
        """Promise 4: nothing more comes of it; another stream is answered."""
        driver = stage.stream()
        owed = driver.owed[driver.respond(max_tokens=None)]
        stage.bench.until(lambda: bool(owed.said) or owed.ending is not None, "the first text of an answer")
        driver.close()
        next_one = stage.stream()
        next_one.settled(next_one.respond())
