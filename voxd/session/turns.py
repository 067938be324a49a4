"""Turn-taking: who holds the floor, decided from speech probabilities in audio order.  Step 10.

Pure.  It knows frames and sample positions; no clock, no wire names, no engine, no response.

The theory.  A VAD frame is 32 ms.  Its probability makes it *voiced* (>= threshold), *quiet* (< threshold - 0.15, or
half the threshold where that is more: what is low already must have something below it) or neither (hysteresis: the
state goes on).  Counting frames turns them into cues:

    ONSET      enough voiced frames among the last few (one click of a keyboard is not speech)
    ONSET_OVER_ANSWER   the same while the model has the floor
    VOICE      a voiced frame
    PAUSE      quiet for `tentative_ms`: long enough to start working as if the turn were over
    SILENCE    quiet for `silence_duration_ms`: the turn is over; decided at the first frame end at or past it
    LIMIT      the utterance is as long as an utterance may be
    COMMIT     the client says that the turn is over
    CLEAR      the client says that there was no turn

TABLE says what each cue means.  Every change of the state is in it; a pair of state and cue that is not in it changes
nothing.

                 start           tentative end            end
        ┌─────────┴──────────────────┬─────────────────────┴───── frames
    LISTENING       SPEAKING              TENTATIVE           LISTENING
                        └──────── resumed ────┘

The audio of an utterance is [onset - prefix padding, end of the last frame that was not quiet + hangover): the same
bytes at the tentative end and at the end, so work done speculatively is exact.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

from shared.audio import VAD_FRAME, to_samples

FRAME = VAD_FRAME
HYSTERESIS = 0.15


class State(Enum):
    LISTENING = auto()
    SPEAKING = auto()
    TENTATIVE = auto()


class Cue(Enum):
    ONSET = auto()
    ONSET_OVER_ANSWER = auto()
    VOICE = auto()
    PAUSE = auto()
    SILENCE = auto()
    LIMIT = auto()
    COMMIT = auto()
    CLEAR = auto()


class Act(Enum):
    """What the session is told.  STARTED: an utterance begins.  BARGE_IN: it interrupts the answer.  PAUSED: it may
    have ended.  RESUMED: it goes on after all.  ENDED: it is over.  DROPPED: the client has cleared it."""

    STARTED = auto()
    BARGE_IN = auto()
    PAUSED = auto()
    RESUMED = auto()
    ENDED = auto()
    DROPPED = auto()


TABLE: dict[tuple[State, Cue], tuple[State, tuple[Act, ...]]] = {
    (State.LISTENING, Cue.ONSET): (State.SPEAKING, (Act.STARTED,)),
    (State.LISTENING, Cue.ONSET_OVER_ANSWER): (State.SPEAKING, (Act.STARTED, Act.BARGE_IN)),
    (State.SPEAKING, Cue.PAUSE): (State.TENTATIVE, (Act.PAUSED,)),
    (State.SPEAKING, Cue.LIMIT): (State.LISTENING, (Act.ENDED,)),
    (State.SPEAKING, Cue.COMMIT): (State.LISTENING, (Act.ENDED,)),
    (State.SPEAKING, Cue.CLEAR): (State.LISTENING, (Act.DROPPED,)),
    (State.TENTATIVE, Cue.VOICE): (State.SPEAKING, (Act.RESUMED,)),
    (State.TENTATIVE, Cue.SILENCE): (State.LISTENING, (Act.ENDED,)),
    (State.TENTATIVE, Cue.LIMIT): (State.LISTENING, (Act.ENDED,)),
    (State.TENTATIVE, Cue.COMMIT): (State.LISTENING, (Act.ENDED,)),
    (State.TENTATIVE, Cue.CLEAR): (State.LISTENING, (Act.DROPPED,)),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """Durations in samples.  `silence` None: the client commits (push-to-talk); pauses are still told, ends are not."""

    threshold: float = 0.5
    padding: int = to_samples(300)
    silence: int | None = to_samples(500)
    tentative: int = to_samples(120)
    onset: int = to_samples(64)
    hangover: int = to_samples(96)
    limit: int | None = to_samples(300_000)

    @property
    def quiet(self) -> float:
        """The probability below which a frame is quiet."""
        return max(self.threshold - HYSTERESIS, self.threshold / 2)


@dataclass(frozen=True, slots=True)
class Mark:
    """An act and where it happened, in samples.

    start     first sample of the utterance, padding included
    voiced_start  the same without padding: the VAD's estimate of the start of speech
    end       where its audio ends so far: last frame that was not quiet, plus hangover, never past `decided`
    voiced_end  the same without hangover: the VAD's estimate of the end of speech
    decided   the end of the frame that decided
    """

    act: Act
    start: int
    end: int
    voiced_start: int
    voiced_end: int
    decided: int


class Turns:
    """The state machine of one session: speech probabilities in order in, marks out."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.state = State.LISTENING
        self._recent: deque[int] = deque()  # frame starts of the latest voiced frames
        self._voiced_from = 0  # first voiced frame of the onset
        self._spoken_until = 0  # end of the last frame that was not quiet
        self._floor = 0  # no utterance begins before this: where the last one ended, or the buffer was cleared

    @property
    def open(self) -> bool:
        """Whether an utterance is going on."""
        return self.state is not State.LISTENING

    def receive_frame(self, start: int, probability: float, *, answering: bool = False) -> list[Mark]:
        """One VAD frame, beginning at sample `start`; `answering`: the other side holds the floor."""
        end = start + FRAME
        if probability >= self.rules.threshold:
            self._recent.append(start)
        voiced = bool(self._recent) and self._recent[-1] == start
        if voiced or (self.open and probability >= self.rules.quiet):
            self._spoken_until = end
        return [mark for cue in self._cues(end, voiced, answering) for mark in self._apply(cue, end)]

    def receive_commit(self, position: int) -> list[Mark]:
        """The client ends the turn at `position`."""
        marks = self._apply(Cue.COMMIT, position)
        self._restart(position)
        return marks

    def receive_clear(self, position: int) -> list[Mark]:
        """The client clears all audio before `position`: it starts no utterance."""
        marks = self._apply(Cue.CLEAR, position)
        self._restart(position)
        return marks

    def _cues(self, end: int, voiced: bool, answering: bool) -> list[Cue]:
        if not self.open:
            return [Cue.ONSET_OVER_ANSWER if answering else Cue.ONSET] if voiced and self._risen(end) else []
        quiet = end - self._spoken_until
        cues = [Cue.VOICE] if voiced else []
        if quiet >= self.rules.tentative:
            cues.append(Cue.PAUSE)
        if self.rules.silence is not None and quiet >= self.rules.silence:
            cues.append(Cue.SILENCE)
        if self.rules.limit is not None and end - self._start() >= self.rules.limit:
            cues.append(Cue.LIMIT)
        return cues

    def _risen(self, end: int) -> bool:
        """Whether enough of the latest frames are voiced, with at most one gap among them."""
        wanted = max(1, -(-self.rules.onset // FRAME))
        window = end - (wanted + 1) * FRAME
        while self._recent[0] < window:
            self._recent.popleft()
        return len(self._recent) >= wanted

    def _apply(self, cue: Cue, position: int) -> list[Mark]:
        state, acts = TABLE.get((self.state, cue), (self.state, ()))
        if Act.STARTED in acts:
            self._voiced_from = self._recent[0]
        marks = [self._mark(act, position) for act in acts]
        if self.open and state is State.LISTENING:
            self._restart(marks[-1].end)
        self.state = state
        return marks

    def _mark(self, act: Act, position: int) -> Mark:
        end = min(self._spoken_until + self.rules.hangover, position)
        return Mark(act, self._start(), end, self._voiced_from, min(self._spoken_until, position), position)

    def _start(self) -> int:
        return max(self._floor, self._voiced_from - self.rules.padding)

    def _restart(self, floor: int) -> None:
        self._floor = max(self._floor, floor)
        self._recent.clear()
