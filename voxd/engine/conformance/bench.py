"""The engine under check, driven as the loop drives it, and a ledger over what comes out.  Not in the packet's path.

The loop gives an engine all commands that have arrived, then what the VAD made of their audio, and steps it once.  One
such round may hold a single command (an idle daemon) or dozens (a busy one), so each check is run in both ways, see
`Bench.batches`.  The clock is virtual: it follows the audio and jumps to `deadline_us`.  Engines with threads of their
own are waited for by their `wake`, never longer than `patience_s`.  It does not know what a check is about.
"""

from __future__ import annotations

import difflib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from shared.audio import RATE, VAD_FRAME, to_samples
from voxd.engine.conformance.sound import PADDING, Sound
from voxd.engine.contract import Engine, EngineCommand, Refuse
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    Failed,
    Feed,
    Guessed,
    Heard,
    Onset,
    Open,
    Output,
    Respond,
    Role,
    Said,
    Settled,
    Speculate,
    Turn,
    Warned,
)

PIECE = to_samples(200)  # audio is fed in pieces of this size
DECIDED = to_samples(400)  # audio between the end of an utterance and the decision that it has ended
SAME = 0.7  # share of words that two texts of a threaded engine must have in common: it publishes by the clock
QUESTION = (Turn("user", "Say something."),)
MAX_TOKENS = 32


class Broke(AssertionError):
    """A promise was not kept; the text says how."""


def require(kept: bool, otherwise: str) -> None:
    """Raises Broke with that text if the promise was not kept."""
    if not kept:
        raise Broke(otherwise)


@dataclass(slots=True)
class Owed:
    """What was said of one utterance or response, and what may still come of it."""

    said: str = ""
    asked: bool = False  # Commit or Respond was given
    quiet: bool = False  # cancelled, cropped or only speculated upon: nothing may come
    ending: Settled | Failed | None = None


class Bench:
    """`make` gets the wake function.  The ledger sees to promises 1 to 4 whatever is being checked."""

    def __init__(self, make: Callable[[Callable[[], None]], Engine], sound: Sound, patience_s: float) -> None:
        self.sound = sound
        self._woken, self._thread, self._patience_s = threading.Event(), threading.get_ident(), patience_s
        self._streams = itertools.count(1)
        self.threaded = False  # has `wake` been called from a thread of the engine?
        self.ledger: dict[int, dict[int, Owed]] = {}  # by open stream, by ref
        self.now_us = 1_000_000
        self.plain: dict[bool, str] = {}  # the text of `sound`, once it is known: by whether batches were delivered
        self.batches = False  # several commands before each step, or one?
        self._heard: list[Heard] = []  # of the audio of this round
        self.engine = make(self._wake)
        self.engine.load(lambda text: None)

    def _wake(self) -> None:
        self.threaded = self.threaded or threading.get_ident() != self._thread
        self._woken.set()

    def new_stream(self) -> int:
        """A number that was never used."""
        return next(self._streams)

    def tell(self, command: EngineCommand) -> None:
        """Gives the engine a command.  The round ends with it, or goes on if batches are delivered.

        The gateway learns what the VAD heard when a round is over; so what it says of a stream because of that, such as
        Onset or Commit, comes in the next one."""
        if isinstance(command, Heard):
            self._heard.append(command)
        else:
            if not isinstance(command, Feed | Close):
                self.hear_out(command.stream)
            self._give(command)
        if not self.batches:
            self._step()

    def hear_out(self, stream: int) -> None:
        """Ends the round if it has audio of this stream."""
        if any(each.stream == stream for each in self._heard):
            self._step()

    def _give(self, command: EngineCommand) -> None:
        try:
            self.engine.receive(command)
        except Refuse as refusal:
            raise Broke(f"{type(command).__name__} was refused: {refusal}") from refusal

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Steps at each deadline and each wake."""
        self._step()
        latest = time.monotonic() + self._patience_s
        while not done():
            deadline = self.engine.deadline_us
            if deadline is not None and time.monotonic() < latest:
                self.now_us = max(self.now_us, deadline)
            elif not self._woken.wait(latest - time.monotonic()):
                raise Broke(f"{what} has not come within {self._patience_s:g} s")
            self._step()

    def rest(self, wait_s: float = 0.1) -> None:
        """Half a second without commands; threads get `wait_s` to wake the loop, as often as they do."""
        self._step()
        until = self.now_us + 500_000
        for _ in range(1000):
            deadline = self.engine.deadline_us
            if deadline is not None and deadline <= until:
                self.now_us = max(self.now_us, deadline)
            elif not self._woken.wait(wait_s if self.threaded else 0):
                break
            self._step()
        self.now_us = until
        self._step()

    def _step(self) -> None:
        """Ends the round."""
        heard, self._heard = self._heard, []
        for each in heard:
            if each.stream in self.ledger:  # the VAD is silent about closed streams
                self._give(each)
        self._woken.clear()
        for output in self.engine.step(self.now_us):
            self._note(output)

    def _note(self, output: Output) -> None:
        kind = type(output).__name__
        if isinstance(output, Warned | Guessed):  # no client is told a guess; it names what a Flush has named
            return
        if not isinstance(output, Said | Settled | Failed):
            raise Broke(f"{kind} is not an engine's to publish")
        if output.stream not in self.ledger:
            raise Broke(f"{kind} for stream {output.stream}, which is closed")
        if output.ref is None:
            raise Broke(f"the stream has failed: {output}")
        owed = self.ledger[output.stream].get(output.ref)
        if owed is None:
            raise Broke(f"{kind} for ref {output.ref}, which was never named")
        require(owed.ending is None, f"{kind} follows {type(owed.ending).__name__} of the same ref")
        require(not owed.quiet, f"{kind} of what was cancelled, cropped or only speculated upon")
        if isinstance(output, Said):
            owed.said += output.text
            return
        owed.ending = output
        if isinstance(output, Settled):
            require(owed.asked, "Settled without Commit or Respond")
            require(output.text == owed.said, f"Settled has the text {output.text!r}, Said had {owed.said!r}")


@dataclass(slots=True)
class StreamDriver:
    """Drives one stream: the commands come in the order in which the gateway sends them."""

    bench: Bench
    stream: int
    position: int = 0
    hurry: bool = False  # it is a file
    refs: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def roles(self) -> tuple[Role, ...]:
        return self.bench.engine.capabilities.roles

    @property
    def sound(self) -> Sound:
        return self.bench.sound

    @property
    def owed(self) -> dict[int, Owed]:
        return self.bench.ledger[self.stream]

    def open(self, start: int = 0, prompt: str = "") -> None:
        """The second time: with other options."""
        self.bench.ledger.setdefault(self.stream, {})
        self.position = max(self.position, start)
        self.bench.tell(Open(self.stream, self.roles, prompt=prompt, start=self.position, hurry=self.hurry))

    def close(self) -> None:
        if self.bench.ledger.pop(self.stream, None) is not None:
            self.bench.tell(Close(self.stream))

    # what is heard

    def hear(self, until: int) -> None:
        """Audio up to sample `until`, and what the VAD says of its whole frames."""
        while self.position < until:
            start, self.position = self.position, min(self.position + PIECE, until)
            self.bench.now_us += (self.position - start) * 1_000_000 // RATE
            self.bench.tell(Feed(self.stream, start, self.sound.pcm[2 * start : 2 * self.position]))
            first = start // VAD_FRAME
            if heard := self.sound.probabilities[first : self.position // VAD_FRAME]:
                self.bench.tell(Heard(self.stream, first * VAD_FRAME, heard))

    def onset(self, start: int | None = None, said: str = "") -> int:
        ref = next(self.refs)
        self.owed[ref] = Owed(said)
        self.bench.tell(Onset(self.stream, ref, self.sound.start if start is None else start, said))
        return ref

    def begin(self, late: int = 0, said: str = "") -> int:
        """Up to the onset, which is told `late` samples after its start; at least as late as turn-taking needs."""
        self.hear(self.sound.start + max(late, PADDING + PIECE))
        return self.onset(said=said)

    def commit(self, ref: int, end: int | None = None) -> None:
        self.owed[ref].asked = "transcribe" in self.roles
        self.bench.tell(Commit(self.stream, ref, self.sound.end if end is None else end))

    def finish(self, ref: int) -> str:
        """Goes on from wherever it is to the end of the utterance."""
        self.hear(self.sound.end + DECIDED)
        self.commit(ref)
        return self.settled(ref)

    def spoken(self) -> int:
        """A whole utterance."""
        ref = self.begin()
        self.finish(ref)
        return ref

    # what is answered

    def speculate(self, utterance: int) -> int:
        ref = next(self.refs)
        self.owed[ref] = Owed(quiet=True)
        context = (Turn("user", ref=utterance),)
        self.bench.tell(Speculate(self.stream, ref, utterance, self.sound.end, context, MAX_TOKENS))
        return ref

    def respond(
        self, context: tuple[Turn, ...] = QUESTION, max_tokens: int | None = MAX_TOKENS, ref: int | None = None
    ) -> int:
        ref = next(self.refs) if ref is None else ref
        self.owed[ref] = Owed(asked=True)
        self.bench.tell(Respond(self.stream, ref, context, max_tokens))
        return ref

    def answer(self, utterance: int, ref: int | None = None) -> str:
        """The whole answer to what was spoken."""
        return self.settled(self.respond((Turn("user", ref=utterance),), ref=ref))

    # how it ends

    def cancel(self, ref: int, *, utterance: bool) -> None:
        """An utterance vanishes silently; a response settles."""
        self.bench.hear_out(self.stream)
        self.owed[ref].quiet = utterance
        self.bench.tell(Cancel(self.stream, ref))

    def settled(self, ref: int) -> str:
        """Waits for the ending, which must not be a failure; an utterance ends only for a transcriber."""
        owed = self.owed[ref]
        if not owed.asked:
            return ""
        self.bench.until(lambda: owed.ending is not None, "the ending of what was committed or asked for")
        if isinstance(owed.ending, Failed):
            raise Broke(f"Failed: {owed.ending.code}: {owed.ending.message}")
        return owed.said


class Stage:
    """The streams of one check."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._drivers: list[StreamDriver] = []

    def stream(self, start: int = 0, *, hurry: bool = False) -> StreamDriver:
        driver = StreamDriver(self.bench, self.bench.new_stream(), hurry=hurry)
        self._drivers.append(driver)
        driver.open(start)
        return driver

    def close(self) -> None:
        for driver in self._drivers:
            driver.close()

    def listen(self, *ends: int) -> list[str]:
        """One stream for each end of the utterance, fed piece by piece in turn -> their texts."""
        drivers = [self.stream() for _ in ends]
        refs = [driver.begin() for driver in drivers]
        for position in range(PIECE, max(ends) + DECIDED + PIECE, PIECE):
            for driver, end in zip(drivers, ends, strict=True):
                driver.hear(min(position, end + DECIDED))
        for driver, ref, end in zip(drivers, refs, ends, strict=True):
            driver.commit(ref, end)
        return [driver.settled(ref) for driver, ref in zip(drivers, refs, strict=True)]

    def plain(self, *, batches: bool | None = None) -> str:
        """The text of the utterance when nothing disturbs it; in the way of delivery of this check, if not told."""
        now = self.bench.batches
        self.bench.batches = now if batches is None else batches
        if self.bench.batches not in self.bench.plain:
            driver = self.stream()
            self.bench.plain[self.bench.batches] = driver.finish(driver.begin())
        self.bench.batches, text = now, self.bench.plain[self.bench.batches]
        return text

    def compare(self, text: str, other: str, when: str, *, loosely: bool = False) -> None:
        """The same text?  Loosely: the same for the most part."""
        same = text == other
        if loosely or self.bench.threaded:
            words, others = text.lower().split(), other.lower().split()
            same = difflib.SequenceMatcher(None, words, others, autojunk=False).ratio() >= SAME
        require(same, f"{text!r} became {other!r} {when}")
