"""Which engines `auto` means on this machine, and why not others.  Not in the packet's path.

It looks from outside: nothing heavy is imported, no device is touched.  The best that can run here is taken; the reason
against each better one is kept, for one line that the user reads.  It does not know what an engine does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from voxd.engine.contract import Unusable
from voxd.engine.mini.interface import MiniOptions
from voxd.engine.realtime.presence import why_not
from voxd.engine.registry import engine_class

REALTIME, MINI, CHAT, LLAMA, WHISPER = "voxtral-realtime", "voxtral-mini", "cascade", "llama", "whisper"
AUTO, NONE = "auto", "none"
Given = Mapping[str, Mapping[str, object]]  # the options of each engine
_WHERE = {REALTIME: "Voxtral Realtime on the GPU", MINI: "Voxtral Mini on the GPU", WHISPER: "whisper on the CPU"}


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine of a role (None: nobody), and what `auto` has to say about it ("": it was named)."""

    name: str | None
    why: str = ""

    @property
    def detail(self) -> str:
        """The same without the engine's name, for a line that has it already."""
        return self.why.partition(" (")[2].removesuffix(")")


def transcriber(name: str, options: Given, environment: Mapping[str, str]) -> Choice:
    """What `engines.transcribe` means."""
    if name != AUTO:
        return Choice(None if name == NONE else name)
    reason = why_not(options.get(REALTIME, {}), environment)
    if reason is None:
        return Choice(REALTIME, f"auto chose {_WHERE[REALTIME]}")
    return Choice(WHISPER, f"auto chose {_WHERE[WHISPER]} (not Voxtral Realtime: {reason})")


def responder(name: str, transcribes: bool, options: Given, environment: Mapping[str, str]) -> Choice:
    """What `engines.respond` means.  `transcribes`: speech is written down, which those that read text need."""
    if name != AUTO:
        return Choice(None if name == NONE else name)
    against: list[str] = []
    for engine, reason in _responders(transcribes, options, environment):
        if reason is None:
            told = f" ({'; '.join(against)})" if against else ""
            return Choice(engine, f"auto chose {_WHERE.get(engine, engine)}{told}")
        against.append(reason)
    return Choice(None, f"auto found nothing that answers ({'; '.join(against)})")


def _responders(transcribes: bool, options: Given, environment: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """The responders, the best first, each with what speaks against it."""
    reason = why_not(options.get(MINI, {}), environment, MiniOptions)
    yield MINI, reason and f"not Voxtral Mini: {reason}"
    if not transcribes:
        yield CHAT, "nothing writes down what is said, which a chat server and llama would read: set engines.transcribe"
        return
    yield CHAT, None if options.get(CHAT, {}).get("url") else "no chat server: engine_options.cascade.url names none"
    reason = _no_llama(options.get(LLAMA, {}))
    yield LLAMA, reason and f"not llama: {reason}"


def _no_llama(options: Mapping[str, object]) -> str | None:
    try:
        found = engine_class(LLAMA)
    except Unusable as reason:
        return str(reason).removeprefix(f"engine '{LLAMA}' ")
    try:
        return found.absent(options)
    except Unusable:
        return None
