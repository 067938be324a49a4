"""One thing that Voxtral Mini is doing for one stream: from a prompt to the end of its text.  Pure.  Step 7 to 8.

    encode missing windows → prefill what the sequence does not hold yet → decode, an id per step → over

It knows symbols, positions and ids; not which of all the works goes next, nor the device.  Ids come one step after they
were asked for: the next position is computed from what the device has said, before this process has read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Symbols
from dataclasses import dataclass, field
from enum import IntEnum

from voxd.engine.mini.block_manager import UNKNOWN, Sequence
from voxd.engine.mini.conversation import Given, Talk, Utterance
from voxd.engine.text import Writer
from voxd.messages import Said, Settled, Status, Turn

AHEAD = 16  # ids of an answer that nobody has asked for yet


class Kind(IntEnum):
    """Why it is done; the smaller goes first."""

    WANTED = 0  # somebody waits for it
    AHEAD = 1  # somebody probably will in a moment
    OPENING = 2  # the person still speaks: what is known of the next prompt
    STORE = 3  # audio that nothing has been asked of yet


@dataclass(slots=True, eq=False)
class Work:
    """`ref` names what is said; works of the kinds OPENING and STORE say nothing."""

    talk: Talk
    kind: Kind
    ref: int | None = None
    context: tuple[Turn, ...] = ()
    utterance: Utterance | None = None  # that is transcribed, opened or stored, or answered ahead
    transcribes: bool = False
    sequence: Sequence = field(default_factory=Sequence)
    most: int = 0  # ids that may be said
    aside: bool = False  # beside the conversation
    prompt: list[int] | None = None  # None: audio is missing, or it was not begun yet
    cached: int = 0
    asked: int = 0  # ids asked for
    ids: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    status: Status | None = None  # how it ended
    since_us: int | None = None  # it began
    asked_us: int | None = None  # somebody waits for it since then, and it was begun before
    first_us: int | None = None  # its first id was read
    compute_us: float = 0.0
    unsaid: str = ""
    unsaid_tokens: int = 0
    writer: Writer | None = None

    @property
    def hears(self) -> list[Utterance]:
        """The utterances that its prompt has the audio of."""
        refs = [turn.ref for turn in self.context if turn.role == "user" and turn.ref is not None]
        found = [self.talk.utterances[ref] for ref in refs if ref in self.talk.utterances]
        return [each for each in dict.fromkeys([*found, self.utterance]) if each is not None and each.voiced]

    # ── positions ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def prefilled(self) -> bool:
        return self.prompt is not None and len(self.sequence.held) >= len(self.prompt)

    @property
    def decodes(self) -> bool:
        """May another id be asked for?"""
        if not self.prefilled or self.status is not None or not self.asked:
            return False
        return self.asked < (self.most if self.kind is Kind.WANTED else min(self.most, AHEAD))

    def next_source(self) -> int:
        """The input of the next position: an id, or UNKNOWN, the one that the device has said last."""
        index = self.asked - 1
        return self.ids[index] if index < len(self.ids) else UNKNOWN

    def ask(self, symbols: Symbols[int]) -> None:
        """These symbols are on their way to the next positions."""
        self.sequence.held += symbols

    # ── ids ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, token: int, eos: int, now_us: int) -> None:
        """The next id that was asked for."""
        if self.status is not None:
            return
        assert self.prompt is not None
        assert self.writer is not None
        position = len(self.prompt) + len(self.ids)
        if position < len(self.sequence.held) and self.sequence.held[position] == UNKNOWN:
            self.sequence.held[position] = token
        self.first_us = now_us if self.first_us is None else self.first_us
        if token == eos:
            self.status = "completed"
        else:
            self.ids.append(token)
            self._write(self.writer.write([token]))
            self.unsaid_tokens += 1
            if len(self.ids) == self.most:
                self.status = "incomplete"
        if self.status is not None:
            self._write(self.writer.finish())

    def _write(self, text: str) -> None:
        self.unsaid += text
        if len(self.marks) < len(self.ids):
            self.marks.append(0)
        if self.marks:
            assert self.writer is not None
            self.marks[-1] = len(self.writer.text)

    # ── what is told of it ──────────────────────────────────────────────────────────────────────────────────────────

    def say(self) -> Iterator[Said]:
        """The text since the last call, if there is any."""
        if self.unsaid and self.prompt is not None and self.ref is not None:
            given, cached, count = len(self.prompt), self.cached, self.unsaid_tokens
            yield Said(self.talk.number, self.ref, self.unsaid, "", 0, count, given, cached)
            self.unsaid, self.unsaid_tokens = "", 0

    def settled(self, status: Status) -> Settled:
        """It is over."""
        assert self.writer is not None
        assert self.ref is not None
        return Settled(
            self.talk.number,
            self.ref,
            status,
            self.writer.text,
            input_tokens=len(self.prompt or ()),
            cached_tokens=self.cached,
            output_tokens=len(self.ids),
            compute_us=round(self.compute_us),
            saved_us=self.saved_us,
        )

    @property
    def saved_us(self) -> int:
        """Of its time to the first id, this had passed when it was asked for."""
        if self.asked_us is None or self.since_us is None:
            return 0
        return max(0, min(self.first_us or self.asked_us, self.asked_us) - self.since_us)

    @property
    def given(self) -> Given:
        assert self.writer is not None
        return Given(tuple(self.ids), tuple(self.marks), self.writer.text)
