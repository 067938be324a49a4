"""One audio input of Voxtral Realtime: its utterances, and what may be published of them.  Step 8.

Pure: commands in, outputs out.  It does not know the device: the engine asks each stream which runs are ready and
brings their token ids back.

Each utterance is a run of its own from its onset on.  So its text depends on its own audio alone (it is the same after
a replay, beside other streams, or told late), silence between utterances costs nothing, and no word can be published in
two utterances.

Text that is published while somebody speaks must still stand if the utterance turns out to have ended.  So a token goes
out only once it is *certain*: it was computed from audio that is known to belong to the utterance, because the VAD
heard voice after it or the turn rules have decided beyond it (`Feed.known`).  A flush lets the run end at the tentative
end; the commit publishes what is there by then, the rollback takes it back.

A run longer than `history` is followed by another one at the next pause: the published text stays, the past is
forgotten.  A run that says nothing for five seconds of loud speech is *stuck* and is begun anew there.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from shared.audio import RATE, VAD_FRAME, Ring, level_dbfs, pcm16_to_float
from voxd.engine.contract import LOOK_BACK, PAUSE_TOLD
from voxd.engine.realtime.runs import FRAME, SPAN, Form, Run
from voxd.engine.text import Writer
from voxd.engine.voice import SILENT, VOICED
from voxd.messages import Commit, Feed, Flush, Heard, Onset, Output, Said, Settled, Warned

AHEAD = 5 * FRAME  # samples after the latest certain one that are decoded speculatively
PAUSE = 3 * VAD_FRAME  # samples of silence in which a run that is too long is followed by another
GRACE = 10 * RATE  # samples after which that happens even without a pause
STUCK_BLANKS = 63  # 5 s of frames: so many blanks in loud speech, and the run is stuck
STUCK_LOOK = 12  # frames between two looks at whether it is
STUCK_DBFS = -35.0  # how loud that speech is at least
STUCK_VOICED = 0.7  # share of its VAD frames that are voiced, at least
BEHIND = 110 * FRAME  # audio kept behind a run: what a stuck one is given again, the longest delay and a rollback


@dataclass(slots=True)
class RealtimeUtterance:
    """One ref, from Onset to Settled."""

    ref: int
    writer: Writer
    run: Run
    end: int | None = None  # told by Flush or Commit
    committed: bool = False
    closing: bool = False  # the run ends for good at its `stop`, and another one follows
    published: int = 0  # how many of the run's tokens
    provisional: str = ""
    compute_us: int = 0

    @property
    def speculative(self) -> bool:
        """Whether its end is tentative, so that nobody waits for its text yet."""
        return self.end is not None and not self.committed and not self.closing


@dataclass(slots=True)
class Stream:
    """One stream; `drop` is called with each run that is not needed any more."""

    number: int
    pieces: Sequence[bytes]
    form: Form  # of the next utterance
    history: int  # samples
    drop: Callable[[Run], None]
    ring: Ring
    utterances: dict[int, RealtimeUtterance] = field(default_factory=dict)  # in order of onset
    _known: int = 0
    _frames: deque[tuple[int, float]] = field(default_factory=deque)  # ends of VAD frames not yet known, probabilities
    _voiced: deque[int] = field(default_factory=lambda: deque(maxlen=BEHIND // VAD_FRAME))  # ends of voiced frames
    _silent: int = 0  # samples since the last frame that was not silent
    _stirred: bool = False  # has anything happened since the last `outputs`?
    _released: int = 0  # before this sample audio belongs to the utterance, if it began before

    def __post_init__(self) -> None:
        self._known = self._released = self.ring.start

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, feed: Feed) -> None:
        self.ring.append(feed.pcm)
        self._stirred = True
        self._known = sys.maxsize if feed.known is None else feed.known
        self._listen()
        self.ring.trim(min([self.ring.end - LOOK_BACK, *(u.run.span - BEHIND for u in self.utterances.values())]))

    def hear(self, heard: Heard) -> None:
        ends = range(heard.start + VAD_FRAME, heard.start + VAD_FRAME * (len(heard.probabilities) + 1), VAD_FRAME)
        self._stirred = True
        self._frames.extend(zip(ends, heard.probabilities, strict=True))
        self._listen()

    def onset(self, onset: Onset) -> None:
        start = max(onset.start, self.ring.start)
        self.utterances[onset.ref] = RealtimeUtterance(
            onset.ref, Writer(self.pieces, onset.said), Run(start, self.form)
        )

    def end(self, command: Flush | Commit) -> None:
        if (utterance := self.utterances.get(command.ref)) is not None:
            utterance.end = max(command.end, self._released)  # what was published must stand
            utterance.committed = isinstance(command, Commit)
            self._stirred = True
            self._apply_end(utterance)

    def rollback(self, ref: int) -> None:
        if (utterance := self.utterances.get(ref)) is not None:
            utterance.end = None
            self._stirred = True
            if not utterance.closing:
                utterance.run.go_on()

    def cancel(self, ref: int) -> None:
        if (utterance := self.utterances.pop(ref, None)) is not None:
            self.drop(utterance.run)

    def close(self) -> None:
        for ref in list(self.utterances):
            self.cancel(ref)

    @staticmethod
    def _apply_end(utterance: RealtimeUtterance) -> None:
        if utterance.end is not None and not utterance.closing:
            utterance.run.end(utterance.end)

    # ── what the VAD and the turn rules know ────────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        while self._frames and self._frames[0][0] <= self._known:
            end, probability = self._frames.popleft()
            self._silent = self._silent + VAD_FRAME if probability < SILENT else 0
            if probability >= VOICED:
                self._voiced.append(end)
                self._released = max(self._released, end)
            self._roll_over(end)
        if self._known < sys.maxsize and any(utterance.end is None for utterance in self.utterances.values()):
            self._released = max(
                self._released, self._known - PAUSE_TOLD
            )  # a pause before this would have been told by a Flush

    def _roll_over(self, heard: int) -> None:
        for utterance in self.utterances.values():
            limit = self.history if self._silent >= PAUSE else self.history + GRACE
            if utterance.end is None and not utterance.closing and heard - utterance.run.start > limit:
                utterance.run.end(max(heard, self._released))
                utterance.closing = True

    # ── the device ──────────────────────────────────────────────────────────────────────────────────────────────────

    def ready(self, *, speculate: bool) -> Iterator[Run]:
        """Runs whose next frame can be computed; without `speculate` only those that somebody waits for."""
        live = self._released + AHEAD
        for utterance in self.utterances.values():
            if utterance.run.ready(live, self.ring.end) and (speculate or not utterance.speculative):
                yield utterance.run

    def samples(self, run: Run) -> bytes:
        """s16le [SPAN] of the run's next position; outside its own audio there is silence."""
        low, high = run.span, run.span + SPAN
        begin = max(low, run.start, self.ring.start)
        until = min(high, self.ring.end if run.stop is None else run.stop)
        if begin >= until:
            return bytes(2 * SPAN)
        return bytes(2 * (begin - low)) + self.ring.read(begin, until)[1] + bytes(2 * (high - until))

    def take(self, run: Run, token: int, compute_us: int) -> None:
        """Takes the token of the run's oldest position in flight; that of a dropped run is ignored."""
        self._stirred = True
        run.hear(token, text=bool(self.pieces[token]))
        for utterance in self.utterances.values():
            if utterance.run is run:
                utterance.compute_us += compute_us
                return

    # ── outputs ─────────────────────────────────────────────────────────────────────────────────────────────

    def outputs(self) -> Iterator[Output]:
        if not self._stirred:
            return
        self._stirred = False
        for utterance in list(self.utterances.values()):
            yield from self._publish(utterance)
            run = utterance.run
            if utterance.closing and run.finished:
                self._begin(utterance, Run(run.stop or 0, run.form))
                utterance.closing = False
                self._stirred = True
                self._apply_end(utterance)
            if utterance.committed and not utterance.closing and utterance.run.finished:
                yield from self._settle(utterance)
            elif utterance.end is None and self._is_stuck(utterance):
                yield self._begin_anew(utterance)

    def _publish(self, utterance: RealtimeUtterance) -> Iterator[Said]:
        run = utterance.run
        final = utterance.closing or utterance.committed
        count = len(run.out) if final else run.certain(self._released)
        new = utterance.writer.write(run.out[utterance.published : count]) if count > utterance.published else ""
        utterance.published = max(utterance.published, count)
        guess = "" if final else utterance.writer.guess(run.out[utterance.published :])
        if new or guess != utterance.provisional:
            utterance.provisional = guess
            yield Said(self.number, utterance.ref, new, guess, samples=run.about(count - 1))

    def _settle(self, utterance: RealtimeUtterance) -> Iterator[Output]:
        del self.utterances[utterance.ref]
        self.drop(utterance.run)
        if rest := utterance.writer.finish():
            yield Said(self.number, utterance.ref, rest, samples=utterance.end or 0)
        text, spent = utterance.writer.text, utterance.compute_us
        yield Settled(self.number, utterance.ref, "completed", text, compute_us=spent)

    def _begin(self, utterance: RealtimeUtterance, run: Run) -> None:
        self.drop(utterance.run)
        utterance.run, utterance.published = run, 0

    def _is_stuck(self, utterance: RealtimeUtterance) -> bool:
        run = utterance.run
        if (
            utterance.closing
            or run.blanks < STUCK_BLANKS
            or (run.blanks - STUCK_BLANKS) % STUCK_LOOK
            or (run.again and run.blanks == len(run.out))
        ):
            return False
        end = run.about(len(run.out) - 1)
        begin = end - STUCK_BLANKS * FRAME
        voiced = sum(begin < each <= end for each in self._voiced) * VAD_FRAME
        if voiced < STUCK_VOICED * STUCK_BLANKS * FRAME:
            return False
        return level_dbfs(pcm16_to_float(self.ring.read(begin, end)[1])) > STUCK_DBFS

    def _begin_anew(self, utterance: RealtimeUtterance) -> Warned:
        """Begins a stuck run anew where it stopped writing; nothing was said since, so nothing is said twice."""
        run = utterance.run
        self._begin(utterance, Run(run.about(len(run.out) - 1) - STUCK_BLANKS * FRAME, run.form, again=True))
        text = "The model stopped writing in the middle of speech; it was given the last 5 s again."
        return Warned(self.number, "transcriber_restarted", text)
