"""`--plain`: each line holds one speaker's words, whatever comes at the same time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pyte
import pytest
from hypothesis import given, strategies as st

from shared.events import (
    Committed,
    OutputTextDelta,
    Provisional,
    ResponseCreated,
    ResponseDone,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionDelta,
)
from shared.latency import TurnMetrics
from tests.support.fakes import utterance
from tests.support.scenes import opening, response
from voxtui.commands.plain import Printer
from voxtui.events import Connected, Disconnected, Dropped, Event, Measured, Relinked, Remark, Unlinked

HELLO = [event for event in opening("mini") if not isinstance(event, Connected)]


@dataclass
class Pipes:
    """Both outputs with what was written to them; `screen`: both together, as on one terminal."""

    out: str = ""
    err: list[str] = field(default_factory=list)
    screen: str = ""

    def words(self, text: str) -> None:
        self.out += text
        self.screen += text

    def line(self, text: str) -> None:
        self.err.append(text)
        self.screen += f"# {text}\n"


def printed(*events: Event, terminal: bool = False, close: bool = True) -> Pipes:
    pipes = Pipes()
    printer = Printer(pipes.words, pipes.line, terminal=terminal)
    for event in events:
        printer.receive(event)
    if close:
        printer.close()
    return pipes


def asked(key: str, *words: str) -> list[Event]:
    """The events of something said, whose transcript comes when it is over."""
    heard = [TranscriptionDelta("", key, 0, word) for word in words]
    over = TranscriptionCompleted("", key, 0, "".join(words), {})
    return [SpeechStarted("", 0, key), SpeechStopped("", 9, key), Committed("", key, None), *heard, over]


def answered(key: str, *words: str) -> list[Event]:
    given = [OutputTextDelta("", key, "i", 0, 0, word) for word in words]
    return [ResponseCreated("", response("in_progress", key)), *given, ResponseDone("", response("completed", key))]


def painted(*events: Event, answers: bool = False, columns: int = 30) -> list[str]:
    """The rows of a terminal after these events, without the empty ones below."""
    screen = pyte.Screen(columns, 8)
    stream = pyte.Stream(screen)

    def write(text: str) -> None:
        stream.feed(text.replace("\n", "\r\n"))

    printer = Printer(write, lambda line: write(f"# {line}\n"), terminal=True, width=columns)
    for event in (*(HELLO if answers else []), *events):
        printer.receive(event)
    return "\n".join(row.rstrip() for row in screen.display).rstrip().split("\n")


def guessed(key: str, text: str) -> Provisional:
    return Provisional("", key, text)


def test_provisional_words_are_painted_over_by_what_becomes_of_them() -> None:
    begun, *rest = utterance("a", 0, 9, "He was", " not")
    assert painted(begun, guessed("a", "hi")) == ["hi"]
    assert painted(begun, guessed("a", "hi"), guessed("a", "He")) == ["He"]
    assert painted(begun, guessed("a", "hi"), guessed("a", "")) == [""]
    assert painted(begun, guessed("a", "hi"), rest[0], guessed("a", " nut")) == ["He was nut"]
    assert painted(begun, guessed("a", "hi"), rest[0], guessed("a", " nut"), *rest[1:]) == ["He was not"]
    assert painted(begun, guessed("a", "hi"), *rest, *utterance("b", 9, 12, "Yes.")) == ["He was not", "Yes."]


def test_a_provisional_word_never_leaves_its_row_or_its_speakers_line() -> None:
    begun, *rest = utterance("a", 0, 9, "one two", " three")
    assert painted(begun, rest[0], guessed("a", " thirty three forty"), *rest[1:], columns=16) == ["one two three"]
    assert painted(begun, rest[0], guessed("a", " こんにちは"), *rest[1:], columns=12) == ["one two thre", "e"]
    assert painted(begun, guessed("a", "tw"), answers=True)[-1] == "you: tw"
    assert painted(begun, guessed("a", "tw"), *rest, answers=True)[-1] == "you: one two three"


def test_a_pipe_gets_what_is_confirmed_alone() -> None:
    begun, *rest = utterance("a", 0, 9, "He was", " not")
    out = printed(begun, guessed("a", "hi"), rest[0], guessed("a", " nut"), *rest[1:]).out
    assert out == "He was not\n"


# ── one speaker ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_words_stand_there_as_they_come() -> None:
    a = utterance("a", 0, 9, "one ", "two")
    assert printed(*a[:2], Provisional("", "a", "tw"), close=False).out == "one "
    assert printed(*a[:3], close=False).out == "one two"


def test_an_utterance_that_begins_while_another_is_open_waits_for_its_line() -> None:
    a, b = utterance("a", 0, 9, "one ", "two"), utterance("b", 0, 9, "three")
    pipes = printed(*a[:2], *b[:2], *a[2:], *b[2:], Remark("note"), Dropped(5))
    assert pipes.out == "one two\nthree\n"
    assert pipes.err == ["note", "sound lost: 100 ms, since the connection is too slow"]


def test_transcripts_come_in_the_order_in_which_they_were_said() -> None:
    a, b = asked("a", "one"), asked("b", "two")
    assert printed(*a[:-2], *b, *a[-2:]).out == "one\ntwo\n"


def test_no_sequence_acts() -> None:
    """An escape sequence that came in two halves may leave litter, and the line is written anew."""
    out = printed(*utterance("a", 0, 9, "x\x1b", "[2Jy", text="x\x1b[2Jy")).out
    assert "\x1b" not in out
    assert out.endswith("xy\n")


def test_what_is_heard_anew_over_another_link_holds_nothing_up() -> None:
    a, b = utterance("a", 0, 9, "one ", "two"), utterance("b", 0, 9, "one ", "two")
    assert printed(*a[:2], Unlinked("Gone.", 1), Relinked(9, 1, 0, fresh=True), *b).out == "one \none two\n"


# ── two ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("terminal", [True, False])
def test_an_answer_that_is_given_goes_on(terminal: bool) -> None:
    """What the person says meanwhile comes behind it, whole."""
    a, b = asked("a", "Why?"), utterance("b", 9, 20, "Stop ", "it.")
    first, *rest = answered("r", "Be", "cause ", "so.")[1:]
    given = [*HELLO, *a, answered("r")[0], first]
    begun = printed(*given, *b, rest[0], terminal=terminal, close=False)
    assert begun.out == "you: Why?\nvoxd: Because "
    whole = printed(*given, *b, *rest, terminal=terminal)
    assert whole.out == "you: Why?\nvoxd: Because so.\nyou: Stop it.\n"


def test_an_answer_waits_for_nobody_who_still_speaks() -> None:
    a, b = asked("a", "Why?"), utterance("b", 9, 20, "And ", "when?")
    out = printed(*HELLO, *a, b[0], answered("r")[0], b[1], answered("r", "So.")[1], close=False).out
    assert out == "you: Why?\nvoxd: So."


def test_transcript_and_answer_at_the_same_time() -> None:
    """On a terminal somebody waits for the answer; in a pipe the question comes first."""
    a, r = asked("a", "Wh", "y?"), answered("r", "Be", "cause.")
    events = [*HELLO, *a[:3], r[0], a[3], r[1], a[4], r[2], r[3]]
    assert printed(*events, terminal=True, close=False).out == "voxd: Because.\nyou: Why?"
    assert printed(*events, close=False).out == "you: Why?"
    assert printed(*events, a[5], terminal=True).out == "voxd: Because.\nyou: Why?\n"
    assert printed(*events, a[5]).out == "you: Why?\nvoxd: Because.\n"


def test_nothing_is_lost_where_the_end_comes_first() -> None:
    a, r = asked("a", "Wh", "y?"), answered("r", "Because.")
    for end in ([], [Disconnected("Gone.")]):
        out = printed(*HELLO, *a[:3], r[0], a[3], r[1], *end).out
        assert out == "you: Wh\nvoxd: Because.\n"


def test_figures_do_not_stand_in_the_middle_of_a_line() -> None:
    done = Measured("a", TurnMetrics(final_ms=5), complete=True)
    r = answered("r", "Be", "cause.")
    events = [Connected("here"), *HELLO, *asked("a", "Why?"), *r[:2], done, *r[2:]]
    assert printed(*events, terminal=True).screen == "# connected: here\nyou: Why?\nvoxd: Because.\n# final_ms=5\n"
    assert printed(*events[:-1]).err == ["connected: here", "final_ms=5"], "a pipe has its own"


def test_what_is_urgent_breaks_a_line_on_a_terminal_only() -> None:
    r = answered("r", "Be", "cause.")
    events = [*HELLO, *r[:2], Unlinked("Gone.", 1), *r[2:]]
    note = "Gone.  Trying again; what is said meanwhile is kept."
    assert printed(*events, terminal=True).screen == f"voxd: Be\n# {note}\nvoxd: cause.\n"
    assert printed(*events).out == "voxd: Because.\n"


@dataclass
class Turn:
    """A turn of a conversation, with the events that are still to come."""

    user: list[Event]
    answer: list[Event]
    stopped: bool = False
    committed: bool = False

    def take(self, events: list[Event]) -> Event:
        event = events.pop(0)
        self.stopped = self.stopped or isinstance(event, SpeechStopped)
        self.committed = self.committed or isinstance(event, Committed)
        return event


def mixed(turns: list[Turn], luck: random.Random) -> list[Event]:
    """The events as a server may send them: turns are spoken one after the other and answered one after the other."""
    said: list[Event] = []
    while any(turn.user or turn.answer for turn in turns):
        ready: list[tuple[Turn, list[Event]]] = []
        for number, turn in enumerate(turns):
            if turn.user and all(before.stopped for before in turns[:number]):
                ready.append((turn, turn.user))
            if turn.answer and turn.committed and not any(before.answer for before in turns[:number]):
                ready.append((turn, turn.answer))
        turn, events = luck.choice(ready)
        said.append(turn.take(events))
        if luck.random() < 0.1:
            said.append(Measured("x", TurnMetrics(final_ms=1), complete=True))
    return said


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_line_is_one_speakers_and_all_text_is_there_once(
    sizes: list[tuple[int, int, int]], luck: random.Random, terminal: bool
) -> None:
    """Each turn has words while it is spoken, words after it, and words of the answer."""
    turns, users, answers = [], [], []
    for number, (live, late, given_) in enumerate(sizes):
        said = [f"u{number}w{word} " for word in range(live + late)]
        told = [f"r{number}w{word} " for word in range(given_)]
        users.append("you: " + "".join(said))
        answers.append("voxd: " + "".join(told))
        deltas: list[Event] = [TranscriptionDelta("", f"u{number}", 0, word) for word in said]
        start, stop, committed, *_, completed = asked(f"u{number}", *said)
        user = [start, *deltas[:live], stop, committed, *deltas[live:], completed]
        turns.append(Turn(user, answered(f"r{number}", *told)))
    pipes = printed(*HELLO, *mixed(turns, luck), terminal=terminal)
    lines = pipes.out.splitlines()
    assert sorted(lines) == sorted(users + answers)
    assert [line for line in lines if line.startswith("you")] == users
    assert [line for line in lines if line.startswith("voxd")] == answers
    if not terminal:
        assert all(lines.index(user) < lines.index(answer) for user, answer in zip(users, answers, strict=True))
    if terminal:
        assert set(pipes.screen.splitlines()) == {*users, *answers, *(f"# {line}" for line in pipes.err)}
