"""What an engine is: the interface that all engines implement.  Step 8.

`echo` implements all of it, `conformance` checks it.

An engine takes commands and returns outputs, and does nothing else.

    engine = MyEngine(options, wake)      cheap: no model, no device
    engine.demand()                       how much of a shared device's memory it wants
    engine.grant(units)                   how much of it is its own
    engine.load(progress)                 slow: weights, warm-up; reports its progress
    loop:  engine.receive(command)        in order; never blocks; raises nothing but `Refuse`
           outputs = engine.step(now_us)  never longer than 20 ms unless it is the device's own step
           engine.deadline_us             when it wants to be stepped though nothing arrives (None: never)

A stream may be a *file* (`Open.hurry`): its audio comes as fast as it is taken, up to 3 minutes ahead of the oldest
utterance that has not settled, and nobody reads along.  An engine may wait for more of it and do several utterances
together; what it does for streams that are no files goes first.  One that does not look at `hurry` works as well.

It does not know sessions, sockets, turn rules or the wire.  Work over 20 ms goes to threads of its own, which call
`wake()` (safe from any thread) when `step` has something to give.

What arrives, per role (all of `voxd.messages`):

    both         Open, Feed, Heard (the VAD's word on audio already fed), Onset, Commit, Cancel, Close, Leave
    transcribe   Flush, Rollback
    respond      Audio, Prepare, Speculate, Crop, Respond

Promises that the loop keeps: messages of one stream come in the order of its audio; no stream is used before Open or
after Close; a ref is never reused.  An Onset is told after the frames that revealed it were heard,
up to 2 s after if audio comes faster than real time.

Promises that an engine keeps; 1 to 6 are checked by `voxd.engine.conformance`:

  0. it writes down what is said (Said and Settled of an utterance) only where Open gave it the role `transcribe`;
  1. each Commit (transcribe) and each Respond (respond) ends in exactly one Settled or Failed, and nothing of that ref
     follows; a ref that was cancelled while an utterance says nothing more;
  2. the texts of Said, concatenated after Onset.said, equal Settled.text; they only ever append;
  3. Flush, Rollback, Speculate and Crop publish no Said text that would not have come without them being undone;
  4. streams do not influence each other's text; after Close nothing is published and nothing is kept;
  5. audio up to 5 s before an Onset is still at hand;
  6. every command counts: the loop delivers all that has arrived, of any number of streams, and then steps once.

A plug-in may import `voxd.engine.contract`, `voxd.messages` and `shared.audio`; all else may change without notice.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from shared.audio import RATE, to_samples
from voxd.messages import EngineCommand as EngineCommand, Guide, Output, Role

LOOK_BACK = 5 * RATE  # samples that an engine keeps for the next Onset though they are of no utterance
LONGEST = 330 * RATE  # samples of an utterance and what is around it: the gateway ends it after 5 min
PAUSE_TOLD = to_samples(400)  # the turn rules tell of a pause (Flush) long before it has lasted this many samples


class Refuse(Exception):
    """Raised by `receive(Open)`: there is no slot, or the options are not possible.  Nothing has changed then.  The
    text is for people."""

    def __init__(self, reason: str, retry_after_s: int = 5) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Unusable(Exception):
    """Raised by `__init__` or `load`: this engine cannot run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do, readable without loading it."""

    roles: tuple[Role, ...]
    summary: str  # one line for `voxd engines`
    needs: tuple[str, ...] = ()  # modules that must be importable
    extra: str | None = None  # the extra of the engine's own package that brings them
    languages: tuple[str, ...] = ()  # ISO 639-1; () = any
    guided_by: tuple[Guide, ...] = ("language", "prompt")  # which hints of Open a transcriber uses
    live: bool = False  # text while the person still speaks
    speculates: bool = False  # Speculate does something
    remembers: bool = False  # it receives Leave and remembers the stream until the next Open; others receive Close
    fetches: bool = False  # `load` fetches from the internet what `absent` finds missing
    reads_text: bool = False  # a responder that wants the text of what was spoken: Respond comes when that is final


@dataclass(frozen=True, slots=True)
class Demand:
    """What an engine wants of the memory of a device that it shares with another engine.  Bytes."""

    fixed: int  # taken in any case, above all by weights
    unit: int  # taken by each unit that it is granted, such as a stream
    per: str  # what a unit is for: "stream of 120 s"
    least: int = 1  # units without which it is of no use
    most: int | None = None  # units that it can use; None: any number
    weight: int = 1  # its units for each unit of the other engine, where both could use more
    lower: str = ""  # the option that makes `least` units smaller


class Engine(ABC):
    """Base of all engines; register the class under the entry point group `voxd.engines`."""

    capabilities: ClassVar[Capabilities]

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        """`options`: the mapping `engine_options.<name>` of the settings file; raise `Unusable` for what is wrong in
        it."""

    def demand(self) -> Demand | None:
        """The memory that it wants; cheap, no weights are read.  None: it takes no memory of the device, or cannot tell
        because of something that `load` will raise."""
        return None

    def grant(self, units: int) -> None:
        """Tells it how many units of `demand` are its own; called before `load`, if at all."""

    @abstractmethod
    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        """Loads and warms up; returns lines for the user: device, path in use, what is degraded.

        Raises `Unusable`."""

    @abstractmethod
    def receive(self, command: EngineCommand) -> None:
        """Takes one command; never blocks.  Raises `Refuse` for an Open that finds no slot."""

    @abstractmethod
    def step(self, now_us: int) -> Iterable[Output]:
        """Does what is ready and returns the outputs, in order for each stream."""

    @property
    def deadline_us(self) -> int | None:
        """When it wants to be stepped although nothing arrives; None: never."""
        return None

    def stop(self) -> None:
        """Ends threads and frees the device."""

    @property
    def delay_ms(self) -> int | None:
        """By how much its live text trails audio where a session does not choose (`Open.delay_ms`).

        None: it has no such setting.  Read once, after `load`."""
        return None

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it can write down, ISO 639-1; (): any.

        Read once, after `load`; other languages are refused before they come here."""
        return self.capabilities.languages

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """The modules of `capabilities.needs` that are not installed; nothing is imported."""
        return tuple(name for name in cls.capabilities.needs if not _is_there(name))

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        """What is missing on this machine to load it with these options, such as weights, and what to do, in half a
        sentence for `voxd engines` and `voxd doctor`.  None: nothing, or unknown.  Raises `Unusable`."""
        return None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in is missing
        return False
