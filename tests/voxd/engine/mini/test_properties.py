"""Each answer is what its own conversation alone would have got, whatever people do and whenever.  People speak, pause,
go on, interrupt, type and are put out of memory, in any order and beside each other; the device
(`tests.support.mini.Paper`) hashes what a sequence holds, so one wrong position gives another answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

from shared.audio import float_to_pcm16
from tests.support.mini import EOS, Gateway, Paper, as_text, contents, encode, follows, gateway
from tests.support.tiny_voxtral import RATE, Samples
from voxd.messages import Cancel, Turn

PIECE = RATE // 2
MOST = 24
BRIEF = "Brief."


@cache
def sound(stream: int) -> Samples:
    rng = np.random.default_rng(stream)
    return (np.round(0.1 * rng.standard_normal(60 * RATE) * 32768) / 32768).astype(np.float32).clip(-0.9, 0.9)


@cache
def heard(stream: int, begin: int, end: int) -> tuple[int, ...]:
    return tuple(contents(float_to_pcm16(sound(stream)[begin:end])))


Part = str | tuple[int, ...]  # text, or what stands for audio or for ids


def layout(lines: list[tuple[str, Part, bool]]) -> list[int]:
    """What a sequence must hold: (role, part, whether the part is audio)."""
    audio = any(heard for _, _, heard in lines)
    found = [1, *([] if audio else [17, *encode(BRIEF), 18])]
    turns: list[tuple[str, list[tuple[Part, bool]]]] = []
    for role, part, is_audio in lines:
        if not turns or turns[-1][0] != role:
            turns.append((role, []))
        turns[-1][1].append((part, is_audio))
    for number, (role, parts) in enumerate(turns):
        given = [*([(BRIEF, False)] if audio and number == 0 else []), *parts]
        body: list[int] = []
        for index, (part, is_audio) in enumerate(given):
            if is_audio:
                assert not isinstance(part, str)
                body += [25, *part]
            elif isinstance(part, str):
                body += encode(("\n\n" if index and not given[index - 1][1] else "") + part)
            else:
                body += part
        found += [3, *body, 4] if role == "user" else [*body, EOS]
    return found


@dataclass
class Person:
    """One stream as the gateway would lead it."""

    talk: Gateway
    stream: int
    context: tuple[Turn, ...] = (Turn("system", BRIEF),)
    lines: list[tuple[str, Part, bool]] = field(default_factory=list)
    refs: int = 0
    position: int = 0
    speaking: tuple[int, int] | None = None  # utterance and its beginning
    paused: int | None = None  # the speculation
    active: int | None = None  # the answer that is being given
    expected: dict[int, list[int]] = field(default_factory=dict)
    beside: int | None = None  # the answer that is given beside the conversation
    cancelled: set[int] = field(default_factory=set)

    def ref(self) -> int:
        self.refs += 1
        return self.refs

    def settle(self) -> None:
        """Makes a complete answer part of the conversation."""
        if self.active is not None and (self.stream, self.active) in self.talk.settled:
            self.remember(self.active, len(self.talk.said.get((self.stream, self.active), "")))
            self.active = None

    def remember(self, ref: int, chars: int) -> None:
        text = self.talk.said.get((self.stream, ref), "")[:chars]
        if text:
            self.context = (*self.context, Turn("assistant", text, ref))
            token_ids = self.expected[ref]
            whole = len(text) // 5
            self.lines.append(("assistant", (*token_ids[:whole], *encode(text[5 * whole :])), False))

    def listen(self) -> None:
        self.position += PIECE
        self.talk.feed(self.stream, self.position)

    def speak(self, chars: int) -> None:
        self.settle()
        self.listen()
        if self.speaking is None:
            if self.active is not None:  # barge-in: the client was sent so much
                self.talk.tell(Cancel(self.stream, self.active))
                self.cancelled.add(self.active)
                self.remember(self.active, chars)
                self.active = None
            utterance = self.ref()
            self.speaking = utterance, self.position - PIECE
            self.talk.onset(self.stream, utterance, self.position - PIECE, self.context)
        elif self.paused is not None:
            self.talk.crop(self.stream, self.paused)
            self.paused = None

    def pause(self) -> None:
        if self.speaking is not None and self.paused is None:
            self.paused = self.ref()
            context = (*self.context, Turn("user", ref=self.speaking[0]))
            self.talk.speculate(self.stream, self.paused, self.speaking[0], self.position, context, MOST)

    def end(self) -> None:
        if self.speaking is None:
            return
        utterance, begin = self.speaking
        self.talk.commit(self.stream, utterance, self.position)
        self.context = (*self.context, Turn("user", ref=utterance))
        self.lines.append(("user", heard(self.stream, begin, self.position), True))
        self.answer(self.paused or self.ref())
        self.speaking = self.paused = None

    def type(self, text: str) -> None:
        self.settle()
        if self.speaking is None and self.active is None:
            self.context = (*self.context, Turn("user", text))
            self.lines.append(("user", text, False))
            self.answer(self.ref())

    def answer(self, ref: int) -> None:
        self.active = ref
        self.expected[ref] = follows(layout(self.lines), MOST)
        self.talk.respond(self.stream, ref, self.context, MOST)

    def aside(self, text: str) -> None:
        if self.beside is not None and (self.stream, self.beside) not in self.talk.settled:
            return
        ref = self.beside = self.ref()
        self.expected[ref] = follows([1, 3, *encode(text), 4], MOST)
        self.talk.respond(self.stream, ref, (Turn("user", text),), MOST, aside=True)

    def check(self) -> None:
        for ref, token_ids in self.expected.items():
            said = self.talk.said.get((self.stream, ref), "")
            if ref in self.cancelled:
                assert as_text(token_ids).startswith(said)
            else:
                assert said == as_text(token_ids), f"stream {self.stream}, answer {ref}"


ACTS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.sampled_from(["speak", "speak", "pause", "pause", "end", "end", "type", "aside", "step", "rest"]),
        st.integers(0, 30),
    ),
    min_size=5,
    max_size=45,
)


@given(ACTS, st.integers(50, 500), st.integers(1, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_everybody_gets_the_answer_of_their_own_conversation(
    acts: list[tuple[int, str, int]], chunk: int, batch: int
) -> None:
    paper = Paper(slots=6, pages=140, places=4, chunk=chunk, batch=batch)
    with gateway(paper.device, {"max_conversations": 3, "max_context": 2900}) as talk:
        people = {stream: Person(talk, stream) for stream in (1, 2, 3)}
        for stream in people:
            talk.open(stream, sound(stream))
        for stream, act, number in acts:
            person = people[stream]
            if len(person.lines) > 9 and act in ("speak", "type"):
                continue
            match act:
                case "speak":
                    person.speak(number * 4)
                case "pause":
                    person.pause()
                case "end":
                    person.end()
                case "type":
                    person.type(f"T{number}")
                case "aside":
                    person.aside(f"A{number}")
                case "step":
                    for _ in range(number):
                        talk.step()
                case "rest":
                    talk.rest()
        talk.rest()
        assert not talk.failed
        for person in people.values():
            person.check()
