"""What an engine is.  Step 8 of a frame's path, as an interface; `echo` implements all of it, `conformance` checks it.

An engine is a core in the sense of the house: commands in, outputs out, nothing else.

    engine = MyEngine(options, wake)      cheap: no model, no device
    engine.demand()                       what it wants of the memory of a device that engines share
    engine.grant(units)                   and what it gets of it
    engine.load(progress)                 slow: weights, warm-up; says what it does
    loop:  engine.receive(command)        in order; never blocks; never raises but `Refuse`
           outputs = engine.step(now_us)  never longer than 20 ms unless it is the device's own step
           engine.deadline_us             when it wants to be stepped though nothing arrives (None: never)

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

from shared.audio import RATE
from voxd.messages import EngineCommand as EngineCommand, Guide, Output, Role

LOOK_BACK = 5 * RATE  # samples of un-owned audio that an engine keeps for the next Onset


class Refuse(Exception):
    """Raised by `receive(Open)`: no slot, or options that cannot be had; nothing has changed then.  Read by people."""

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
    guided_by: tuple[Guide, ...] = ("language", "prompt")  # what of Open's hints a transcriber uses
    live: bool = False  # text while the person still speaks
    speculates: bool = False  # Speculate does something
    remembers: bool = False  # it wants Leave, and goes on after the next Open; others are told Close
    fetches: bool = False  # what `absent` finds, `load` brings from the internet
    reads_text: bool = False  # a responder that wants the text of what was spoken: Respond comes when that is final


@dataclass(frozen=True, slots=True)
class Demand:
    """What an engine wants of the memory of a device that it shares with another engine.  Bytes."""

    fixed: int  # whatever it is granted: weights, above all
    unit: int  # of what it is granted in whole numbers, such as streams
    per: str  # what a unit is for: "stream of 120 s"
    least: int = 1  # units without which it is of no use
    most: int | None = None  # units that it can use; None: any number
    weight: int = 1  # its units beside those of the other engine, where both could use more
    lower: str = ""  # the option that makes `least` units smaller


class Engine(ABC):
    """Base of all engines; register the class under the entry point group `voxd.engines`."""

    capabilities: ClassVar[Capabilities]

    def __init__(self, options: Mapping[str, object], wake: Callable[[], None]) -> None:
        """`options`: the mapping `engine_options.<name>` of the settings file; raise `Unusable` for what is wrong in
        it."""

    def demand(self) -> Demand | None:
        """Cheap: no weights are read.  None: it takes no memory of the device, or cannot tell because of what `load` is
        going to raise."""
        return None

    def grant(self, units: int) -> None:
        """So many of the units of `demand` are its own; told before `load`, if at all."""

    @abstractmethod
    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        """Loads and warms up; returns lines for the user (device, path in use, what is degraded).  Raises
        `Unusable`."""

    @abstractmethod
    def receive(self, command: EngineCommand) -> None:
        """Takes one command; never blocks.  Raises `Refuse` for an Open that finds no slot."""

    @abstractmethod
    def step(self, now_us: int) -> Iterable[Output]:
        """Does what is ready and returns what came of it, each stream's outputs in order."""

    @property
    def deadline_us(self) -> int | None:
        """When `step` is wanted though nothing arrives."""
        return None

    def stop(self) -> None:
        """Ends threads and frees the device."""

    @property
    def delay_ms(self) -> int | None:
        """By how much its live text trails audio where a session does not say (`Open.delay_ms`); None: it has no such
        setting.  Asked for once, after `load`."""
        return None

    @property
    def languages(self) -> tuple[str, ...]:
        """That it can write down, ISO 639-1; (): any.  Asked for once, after `load`: what a client names beside them is
        refused before it comes here."""
        return self.capabilities.languages

    @classmethod
    def missing(cls) -> tuple[str, ...]:
        """The modules of `capabilities.needs` that are not installed; nothing is imported."""
        return tuple(name for name in cls.capabilities.needs if not _is_there(name))

    @classmethod
    def absent(cls, options: Mapping[str, object]) -> str | None:
        """What it would load with these options and is not on this machine, such as weights, and what to do, in half a
        sentence; for `voxd engines` and `voxd doctor`.  None: nothing, or unknown.  Raises `Unusable`."""
        return None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False
