"""One stream of Voxtral Mini: what was spoken and answered in it, and the prompts made of that.  Step 8.

Pure.  It knows utterances, their audio, answers and contexts; not when anything is computed, nor where it lies.

An utterance that is still being spoken is cut into the windows that are over already.  The windows of an utterance are
encoded once, whoever asks: those of a speculation or a transcription serve the answer, too.  An answer is remembered as
the token ids that were generated; of an interrupted one the context has as many as the client was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from shared.audio import VAD_FRAME, Ring
from voxd.engine.contract import LONGEST, LOOK_BACK, PAUSE_TOLD
from voxd.engine.mini.block_manager import Sequence
from voxd.engine.mini.interface import PER_WINDOW, SpecialTokens
from voxd.engine.mini.prompt import AudioPart, Part, PromptLine, TokenIds, conversation_prompt, transcription_prompt
from voxd.engine.mini.windows import Window, WindowedAudio, write_samples
from voxd.engine.voice import VOICED, Voice
from voxd.messages import Feed, Heard, Turn

MOST = 1000  # items of a conversation, at most
WINDOWS = 400  # of audio, 2.3 MB each; the longest prompt has room for 349
FRAMING = 4  # symbols: [INST] and [/INST], or </s>, and what joins two texts


@dataclass(slots=True, eq=False)
class MiniUtterance:
    """Audio from sample `start` of the stream on, or all of `pcm`, which was not spoken into it."""

    ref: int
    start: int
    clip: WindowedAudio
    pcm: bytes | None = None
    committed: bool = False
    voiced: bool = False  # somebody spoke in it; otherwise there is nothing to answer
    attempts: int = 0  # answers begun before it was known to be over
    opened: int | None = None  # how many windows were over when its prompt was last prefilled
    before: tuple[Turn, ...] | None = None  # the conversation that it will go on with, as the gateway knows it


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """An answer: its token ids, the number of characters after each of them, and its whole text."""

    token_ids: tuple[int, ...]
    marks: tuple[int, ...]
    text: str

    def sent(self, text: str, encode: Callable[[str], list[int]]) -> tuple[int, ...]:
        """The token ids of its beginning `text`; where that ends inside a token, the rest is encoded anew."""
        kept = sum(mark <= len(text) for mark in self.marks)
        rest = text[self.marks[kept - 1] if kept else 0 :]
        return self.token_ids[:kept] + tuple(encode(rest) if rest else ())


Mark = tuple[str, int | None, str]


def _mark(turn: Turn) -> Mark:
    """How a turn is recognised in a later context: by its ref, or by its text if it was typed."""
    return turn.role, turn.ref, turn.text if turn.ref is None else ""


class ConversationState:
    """`drop` is called with each window that is not needed any more.

    Bound: MOST utterances and answers, more than a conversation can name, and WINDOWS windows in them; the oldest are
    forgotten."""

    def __init__(self, number: int, special: SpecialTokens, start: int, drop: Callable[[Window], None]) -> None:
        self.number = number
        self.language: str | None = None
        self.main = Sequence()
        self.ring = Ring(LONGEST, start)
        self.utterances: dict[int, MiniUtterance] = {}
        self.live: dict[int, MiniUtterance] = {}  # those utterances that need the ring
        self.given: dict[int, GivenAnswer] = {}
        self._special, self._drop = special, drop
        self._numbers = count()
        self._windows: dict[int, Window] = {}
        self._voice = Voice(start)
        self._voiced = start  # where the last voiced frame ended
        self._known: int | None = None
        self.first: Mark | None = None  # the oldest turn that is still read, once older ones are left out

    # ── audio ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, feed: Feed) -> None:
        self.ring.append(feed.pcm)
        self._known = feed.known
        self._extend()
        self.live = {ref: each for ref, each in self.live.items() if self._needs_audio(each)}
        self.ring.trim(min([self.ring.end - LOOK_BACK, *(each.start for each in self.live.values())]))

    def hear(self, heard: Heard) -> None:
        self._voice.append(heard.start, heard.probabilities)
        for index, probability in enumerate(heard.probabilities, 1):
            if probability >= VOICED:
                self._voiced = heard.start + index * VAD_FRAME
        self._voice.trim(self.ring.start)
        self._extend()

    def onset(self, ref: int, start: int) -> None:
        self.live[ref] = self._new(ref, max(start, self.ring.start))
        self._extend()

    def attach(self, ref: int, pcm: bytes) -> None:
        """Adds an utterance whose audio came with an item."""
        utterance = self._new(ref, 0)
        utterance.pcm, utterance.voiced, utterance.committed = pcm, True, True
        self._end(utterance, len(pcm) // 2)

    def _new(self, ref: int, start: int) -> MiniUtterance:
        utterance = MiniUtterance(ref, start, WindowedAudio(lambda: next(self._numbers), self._forget))
        self.utterances[ref] = utterance
        return utterance

    def make_room(self, read: Collection[int]) -> None:
        """Forgets the oldest utterances, if there are too many for one more; those in `read` are needed now."""
        windows = sum(len(each.clip.windows) for each in self.utterances.values())
        for ref in [ref for ref in self.utterances if ref not in read and ref not in self.live]:
            if len(self.utterances) < MOST and windows < WINDOWS:
                return
            windows -= len(self.utterances[ref].clip.windows)
            self.forget(ref)

    def remember(self, ref: int, given: GivenAnswer) -> None:
        """Keeps an answer that is complete."""
        self.given[ref] = given
        while len(self.given) > MOST:
            del self.given[next(iter(self.given))]

    def end(self, ref: int, end: int) -> MiniUtterance | None:
        """The utterance ended, or seems to have ended, at sample `end`."""
        utterance = self.utterances.get(ref)
        if utterance is not None and utterance.pcm is None:
            end = max(end, utterance.start)
            utterance.voiced = self._voice.first_voiced(utterance.start, end) is not None
            self._end(utterance, end - utterance.start)
        return utterance

    def forget(self, ref: int) -> None:
        """Forgets an utterance and its windows."""
        self.live.pop(ref, None)
        if (utterance := self.utterances.pop(ref, None)) is not None:
            for window in utterance.clip.windows:
                self._forget(window)

    def leave(self) -> None:
        """The client is gone and may come back: only complete turns are kept."""
        for ref, utterance in list(self.utterances.items()):
            if not utterance.committed or any(window.found is None for window in utterance.clip.windows):
                self.forget(ref)

    def come_back(self, start: int) -> None:
        """The client is back; its audio goes on at sample `start`."""
        self.ring, self._voice, self._voiced, self._known = Ring(LONGEST, start), Voice(start), start, None

    def close(self) -> None:
        for ref in list(self.utterances):
            self.forget(ref)

    def write_samples(self, utterance: MiniUtterance, window: Window, around: npt.NDArray[np.int16]) -> None:
        """Writes the samples of a window that the encoder needs into `around`, [SPAN]."""

        def read(begin: int, end: int) -> bytes:
            if utterance.pcm is not None:
                return utterance.pcm[2 * begin : 2 * end]
            return self.ring.read(utterance.start + begin, utterance.start + end)[1]

        write_samples(window, read, around)

    def window(self, number: int) -> Window:
        return self._windows[number]

    def _extend(self) -> None:
        """Cuts off the windows that certainly belong to an utterance that is being spoken."""
        for utterance in self.live.values():
            if utterance.clip.length is None:
                voiced, known = self._voiced, self._known
                utterance.voiced = utterance.voiced or voiced > utterance.start
                certain = voiced if known is None else max(min(voiced, known), known - PAUSE_TOLD)
                utterance.clip.extend(min(certain, self.ring.end) - utterance.start)
                self._register(utterance)

    def _end(self, utterance: MiniUtterance, length: int) -> None:
        utterance.clip.end(length)
        self._register(utterance)

    def _register(self, utterance: MiniUtterance) -> None:
        self._windows.update((window.number, window) for window in utterance.clip.windows)

    def settled(self, utterance: MiniUtterance) -> bool:
        """Whether all windows are encoded, or on their way, with the highest value of the whole utterance."""
        found = utterance.clip.settle()
        self._register(utterance)
        if found and utterance.pcm and all(window.found for window in utterance.clip.windows):
            utterance.pcm = b""  # its audio is not needed again
        return found

    def _forget(self, window: Window) -> None:
        self._windows.pop(window.number, None)
        self._drop(window)

    @staticmethod
    def _needs_audio(utterance: MiniUtterance) -> bool:
        return not utterance.committed or any(window.found is None for window in utterance.clip.windows)

    # ── prompts ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def question(self, context: tuple[Turn, ...]) -> bool:
        """Whether there is anything to answer; there is not if the last turn is audio in which nobody spoke."""
        if not context or context[-1].role != "user" or context[-1].text or context[-1].ref is None:
            return True
        utterance = self.utterances.get(context[-1].ref)
        return utterance.voiced if utterance is not None else bool(context[-1].transcript)

    def prompt(self, context: tuple[Turn, ...], limit: int, *, aside: bool) -> list[int] | None:
        """The symbols of a conversation, at most `limit`: beyond that the oldest turns are left out, half of them at
        once, so that the next prompts begin alike and the cache serves them.  None: the last item alone is longer."""
        head, turns = self._read(context)
        newest = self._newest(head, turns, limit)
        if len(newest) < len(turns):
            newest = self._newest(head, turns, limit // 2)
        symbols = self._lay_out(head + newest)
        if len(symbols) > limit:
            return None
        if len(newest) < len(turns) and not aside:
            self._leave_out_before(newest)
        return symbols

    def _newest(self, head: list[Turn], turns: list[Turn], limit: int) -> list[Turn]:
        """As many of the last items as fit beside the head, and the very last in any case.  Those before them are not
        even read: there may be a thousand."""
        starts = [index for index, turn in enumerate(turns) if not turn.continues]
        room = limit - sum(map(self._most_symbols, head))
        for first in reversed(range(len(turns))):
            room -= self._most_symbols(turns[first])
            if room < 0:
                return turns[next((index for index in starts if index > first), starts[-1]) :]
        return turns

    def _most_symbols(self, turn: Turn) -> int:
        """The most symbols that a turn takes in a prompt, with what frames it and joins it to its neighbours."""
        sizes = (len(self._special.encode(part)) if isinstance(part, str) else part.size for part in self._parts(turn))
        return FRAMING + sum(sizes)

    def _leave_out_before(self, turns: list[Turn]) -> None:
        """Prompts begin with these turns from now on; earlier audio is not needed any more."""
        self.first = _mark(turns[0])
        refs = [turn.ref for turn in turns if turn.ref is not None]
        for ref in [ref for ref in self.utterances if ref < min(refs, default=0)]:
            self.forget(ref)

    def opening(self, utterance: MiniUtterance, limit: int) -> list[int] | None:
        """The beginning of the prompt for its answer, as far as it is known while the utterance is spoken."""
        if utterance.before is None:
            return None
        head, turns = self._read(utterance.before)
        over = tuple(w.number for w in utterance.clip.windows if not w.reach[1] and w.found is not None)
        lines = [*self._lines(head + turns), PromptLine("user", (AudioPart(over),))]
        symbols = conversation_prompt(self._special, lines, open_ended=True)
        return symbols if len(symbols) <= limit - 2 * PER_WINDOW else None

    def transcript(self, utterance: MiniUtterance) -> list[int]:
        return transcription_prompt(
            self._special, AudioPart(tuple(w.number for w in utterance.clip.windows)), self.language
        )

    def _read(self, context: tuple[Turn, ...]) -> tuple[list[Turn], list[Turn]]:
        """The instructions, and the turns from the one on with which the last prompt began, if it is still there."""
        head = [turn for turn in context if turn.role == "system"]
        turns = [turn for turn in context if turn.role != "system"]
        if self.first is None:
            return head, turns
        same = (i for i, turn in enumerate(turns) if _mark(turn) == self.first)
        return head, turns[next(same, 0) :]

    def _lay_out(self, turns: list[Turn]) -> list[int]:
        return conversation_prompt(self._special, self._lines(turns))

    def _lines(self, turns: list[Turn]) -> Iterator[PromptLine]:
        for turn in turns:
            parts = tuple(self._parts(turn))
            if parts:
                yield PromptLine(turn.role, parts)

    def _parts(self, turn: Turn) -> Iterator[Part]:
        utterance = None if turn.ref is None else self.utterances.get(turn.ref)
        given = None if turn.ref is None else self.given.get(turn.ref)
        if turn.role == "assistant" and given is not None and given.text.startswith(turn.text):
            if token_ids := given.sent(turn.text, self._special.encode):
                yield TokenIds(token_ids)
            return
        if turn.role == "user" and utterance is not None and utterance.clip.windows:
            if utterance.voiced:
                yield AudioPart(tuple(window.number for window in utterance.clip.windows))
        elif turn.transcript:
            yield turn.transcript  # its audio was never here, or is forgotten
        if turn.text:
            yield turn.text
