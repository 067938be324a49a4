"""One request of Voxtral Mini for one stream: from its prompt to the end of its text.  Steps 7 and 8.

    encode missing windows → prefill what the sequence does not hold yet → decode, one token per step → over

Pure.  It knows symbols, positions and token ids; not which request goes next, nor the device.  A token id comes one
step after it was asked for: the device computes the next position from the token that it chose last, before this
process has read that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Symbols
from dataclasses import dataclass, field
from enum import IntEnum

from voxd.engine.mini.block_manager import UNKNOWN, Sequence
from voxd.engine.mini.conversation import ConversationState, GivenAnswer, MiniUtterance
from voxd.engine.text import Writer
from voxd.messages import Said, Settled, Status, Turn

AHEAD = 16  # tokens of an answer that nobody has asked for yet


class Kind(IntEnum):
    """Why a request is made; the smaller goes first."""

    WANTED = 0  # somebody waits for it
    AHEAD = 1  # somebody will probably wait for it in a moment
    OPENING = 2  # the person still speaks: what is known of the next prompt
    STORE = 3  # audio that nothing has been asked of yet


@dataclass(slots=True, eq=False)
class Request:
    """`ref` names the utterance or response; requests of the kinds OPENING and STORE publish nothing."""

    conversation: ConversationState
    kind: Kind
    ref: int | None = None
    context: tuple[Turn, ...] = ()
    utterance: MiniUtterance | None = None  # that is transcribed, opened or stored, or answered ahead
    transcribes: bool = False
    sequence: Sequence = field(default_factory=Sequence)
    most: int = 0  # tokens that may be generated
    aside: bool = False  # its answer does not become part of the conversation
    prompt: list[int] | None = None  # None: audio is missing, or it was not begun yet
    cached: int = 0
    asked: int = 0  # tokens asked of the device
    token_ids: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    status: Status | None = None  # how it ended
    since_us: int | None = None  # it began
    asked_us: int | None = None  # since when somebody waits for it, if it was begun before
    first_us: int | None = None  # its first token was read
    compute_us: float = 0.0
    unsaid: str = ""
    unsaid_tokens: int = 0
    writer: Writer | None = None

    @property
    def hears(self) -> list[MiniUtterance]:
        """The utterances that its prompt has the audio of."""
        refs = [turn.ref for turn in self.context if turn.role == "user" and turn.ref is not None]
        found = [self.conversation.utterances[ref] for ref in refs if ref in self.conversation.utterances]
        return [each for each in dict.fromkeys([*found, self.utterance]) if each is not None and each.voiced]

    # ── positions ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def prefilled(self) -> bool:
        return self.prompt is not None and len(self.sequence.held) >= len(self.prompt)

    @property
    def decodes(self) -> bool:
        """May another token be asked for?"""
        if not self.prefilled or self.status is not None or not self.asked:
            return False
        return self.asked < (self.most if self.kind is Kind.WANTED else min(self.most, AHEAD))

    def next_source(self) -> int:
        """The input of the next position: a token id, or UNKNOWN for the one that the device chose last."""
        index = self.asked - 1
        return self.token_ids[index] if index < len(self.token_ids) else UNKNOWN

    def ask(self, symbols: Symbols[int]) -> None:
        """Notes that these symbols are on their way to the next positions."""
        self.sequence.held += symbols

    # ── token ids ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def hear(self, token: int, eos: int, now_us: int) -> None:
        """Takes the next token id that was asked for."""
        if self.status is not None:
            return
        assert self.prompt is not None
        assert self.writer is not None
        position = len(self.prompt) + len(self.token_ids)
        if position < len(self.sequence.held) and self.sequence.held[position] == UNKNOWN:
            self.sequence.held[position] = token
        self.first_us = now_us if self.first_us is None else self.first_us
        if token == eos:
            self.status = "completed"
        else:
            self.token_ids.append(token)
            self._write(self.writer.write([token]))
            self.unsaid_tokens += 1
            if len(self.token_ids) == self.most:
                self.status = "incomplete"
        if self.status is not None:
            self._write(self.writer.finish())

    def _write(self, text: str) -> None:
        self.unsaid += text
        if len(self.marks) < len(self.token_ids):
            self.marks.append(0)
        if self.marks:
            assert self.writer is not None
            self.marks[-1] = len(self.writer.text)

    # ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def say(self) -> Iterator[Said]:
        """The text since the last call, if there is any."""
        if self.unsaid and self.prompt is not None and self.ref is not None:
            given, cached, count = len(self.prompt), self.cached, self.unsaid_tokens
            yield Said(self.conversation.number, self.ref, self.unsaid, "", 0, count, given, cached)
            self.unsaid, self.unsaid_tokens = "", 0

    def settled(self, status: Status) -> Settled:
        """The end of the request as an output."""
        assert self.writer is not None
        assert self.ref is not None
        return Settled(
            self.conversation.number,
            self.ref,
            status,
            self.writer.text,
            input_tokens=len(self.prompt or ()),
            cached_tokens=self.cached,
            output_tokens=len(self.token_ids),
            compute_us=round(self.compute_us),
            saved_us=self.saved_us,
        )

    @property
    def saved_us(self) -> int:
        """How much of the time to its first token had passed when it was asked for."""
        if self.asked_us is None or self.since_us is None:
            return 0
        return max(0, min(self.first_us or self.asked_us, self.asked_us) - self.since_us)

    @property
    def given(self) -> GivenAnswer:
        assert self.writer is not None
        return GivenAnswer(tuple(self.token_ids), tuple(self.marks), self.writer.text)
