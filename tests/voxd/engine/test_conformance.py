"""The suite for engines passes those that keep their promises, and each check finds an engine that breaks its
promise."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
import pytest
from click.testing import CliRunner

from tests.support.speech import FOLDER
from voxd.engine.conformance import Broke, Conformance
from voxd.engine.conformance.__main__ import check, main
from voxd.engine.contract import Engine, EngineCommand, Refuse, Unusable
from voxd.engine.echo import WORD, Echo
from voxd.engine.whisper.engine import Whisper
from voxd.engine.whisper.model import CARRIER
from voxd.engine.whisper.scheduler import Decode
from voxd.engine.whisper.workers import Result
from voxd.messages import (
    Cancel,
    Close,
    Commit,
    Crop,
    Feed,
    Flush,
    Heard,
    Onset,
    Open,
    Output,
    Respond,
    Rollback,
    Said,
    Settled,
    Speculate,
)

Wake = Callable[[], None]
CLIP = FOLDER / "ps_goforward.flac"


class TestEcho(Conformance):
    def make_engine(self, wake: Wake) -> Engine:
        return Echo({}, wake)


class TestEchoOnRealSpeech(Conformance):
    clip = CLIP

    def make_engine(self, wake: Wake) -> Engine:
        return Echo({"tokens": 10}, wake)


class Inline:
    """Decodes at once, so that two runs are the same to the letter."""

    def __init__(self, count: int, work: Callable[..., object], wake: Wake) -> None:
        self._work, self._wake = work, wake
        self._done: deque[Result[object, object]] = deque()

    def submit(self, request: Decode[object]) -> None:
        self._done.append(Result(request, self._work(request.payload), 1000))
        self._wake()

    def promote(self, request: Decode[object]) -> None: ...
    def withdraw(self, stream: int, ref: int | None = None) -> None: ...
    def stop(self) -> None: ...

    def results(self) -> list[Result[object, object]]:
        done = list(self._done)
        self._done.clear()
        return done


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(CARRIER) is None, reason="the weights of whisper are not installed")
class TestWhisper(Conformance):
    """The real model, without its threads."""

    clip = CLIP

    def make_engine(self, wake: Wake) -> Engine:
        return Whisper({"workers": 1, "threads": 1}, wake, make_pool=Inline)  # type: ignore[arg-type]  # generic in tests


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(CARRIER) is None, reason="the weights of whisper are not installed")
def test_whisper_with_its_threads_passes_as_a_command() -> None:
    done = CliRunner().invoke(main, ["whisper", "--clip", str(CLIP)])
    assert done.exit_code == 0, done.output


# ── engines that break one promise each ─────────────────────────────────────────────────────────────────────────────


class SettlesTwice(Echo):
    def step(self, now_us: int) -> Iterable[Output]:
        out = list(super().step(now_us))
        return out + [output for output in out if isinstance(output, Settled)]


class SettlesTheFirstOnly(Echo):
    def step(self, now_us: int) -> Iterable[Output]:
        return [o for o in super().step(now_us) if not (isinstance(o, Settled) and o.ref > 1)]


class SettlesOtherText(Echo):
    def step(self, now_us: int) -> Iterable[Output]:
        return [
            msgspec.structs.replace(o, text=f"{o.text}.") if isinstance(o, Settled) else o for o in super().step(now_us)
        ]


class SpeaksOfNobody(Echo):
    def step(self, now_us: int) -> Iterable[Output]:
        out = list(super().step(now_us))
        return out + [Said(output.stream, 1000, "who?") for output in out]


class FailsEachCommit(Echo):
    def _commit(self, commit: Commit) -> None:
        raise ValueError("no")


class HasNoTimeForFiles(Echo):
    def receive(self, command: EngineCommand) -> None:
        a_file = isinstance(command, Open) and command.hurry
        super().receive(msgspec.structs.replace(command, roles=()) if a_file else command)


class SaysAllAgain(Echo):
    """An engine that repeats its text after an engine loss."""

    def receive(self, command: EngineCommand) -> None:
        super().receive(msgspec.structs.replace(command, said="") if isinstance(command, Onset) else command)


class FlushPublishes(Echo):
    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Flush) and (utterance := self._utterances.get(command.stream)):
            self._say_words(command.stream, utterance, command.end + WORD)
        super().receive(command)


class RollbackForgets(Echo):
    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Rollback) and (utterance := self._utterances.get(command.stream)):
            utterance.start += 2 * WORD
        super().receive(command)


class FlushCountsTwice(Echo):
    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Flush) and (utterance := self._utterances.get(command.stream)):
            utterance.start -= 2 * WORD
        super().receive(command)


class HearsAllStreamsAsOne(Echo):
    def _hear(self, heard: Heard) -> None:
        for stream in self._streams:
            super()._hear(msgspec.structs.replace(heard, stream=stream))


class IsLate(Echo):
    """An engine that gives each output one step late."""

    late: Iterable[Output] = ()

    def step(self, now_us: int) -> Iterable[Output]:
        out, self.late = self.late, list(super().step(now_us))
        return out


class NeverFreesASlot(Echo):
    opened = 0

    def receive(self, command: EngineCommand) -> None:
        self.opened += isinstance(command, Open)
        if self.opened > 16:
            raise Refuse("all slots are taken")
        super().receive(command)


class SettlesWhatWasCancelled(Echo):
    def _cancel(self, stream: int, ref: int) -> None:
        if (utterance := self._utterances.get(stream)) and utterance.ref == ref:
            self._out.append(Settled(stream, ref, "cancelled", ""))
        super()._cancel(stream, ref)


class ShortMemory(Echo):
    position = 0

    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Feed):
            self.position = command.start + len(command.pcm) // 2
        if isinstance(command, Onset):
            command = msgspec.structs.replace(command, start=max(command.start, self.position - 3 * WORD))
        super().receive(command)


class OpenStartsAfresh(Echo):
    def receive(self, command: EngineCommand) -> None:
        if isinstance(command, Open):
            super().receive(Close(command.stream))
        super().receive(command)


class SpeculatesAloud(Echo):
    def _answer(self, command: Speculate | Respond) -> None:
        super()._answer(Respond(command.stream, command.ref, command.context, command.max_tokens))


class CropIsRemembered(Echo):
    def receive(self, command: EngineCommand) -> None:
        self._tokens -= isinstance(command, Crop) and 180
        super().receive(command)


class SwallowsItsSpeculation(Echo):
    def _answer(self, command: Speculate | Respond) -> None:
        if isinstance(command, Speculate) or (command.stream, command.ref) not in self._answers:
            super()._answer(command)


class CancelCompletes(Echo):
    def step(self, now_us: int) -> Iterable[Output]:
        return [
            msgspec.structs.replace(o, status="completed") if isinstance(o, Settled) else o
            for o in super().step(now_us)
        ]


class OneAnswerAtATime(Echo):
    def _answer(self, command: Speculate | Respond) -> None:
        if not self._answers:
            super()._answer(command)


class AnswersOnAndOn(Echo):
    """An engine that goes on answering although the stream is closed."""

    def receive(self, command: EngineCommand) -> None:
        if not isinstance(command, Close):
            super().receive(command)


class PublishesWhatItHears(Echo):
    def _hear(self, heard: Heard) -> None:
        self._out.append(heard)


class IgnoresCancel(Echo):
    def receive(self, command: EngineCommand) -> None:
        if not isinstance(command, Cancel):
            super().receive(command)


class KeepsOne(Echo):
    """An engine that takes only the last command for each `key` of all commands between two steps."""

    def __init__(self, options: dict[str, object], wake: Wake) -> None:
        super().__init__(options, wake)
        self._kept: dict[object, EngineCommand] = {}

    @staticmethod
    def key(command: EngineCommand) -> object:
        return None

    def receive(self, command: EngineCommand) -> None:
        self._kept[self.key(command)] = command

    def step(self, now_us: int) -> Iterable[Output]:
        kept, self._kept = self._kept, {}
        for command in kept.values():
            super().receive(command)
        return super().step(now_us)


class KeepsOneOfEachStream(KeepsOne):
    @staticmethod
    def key(command: EngineCommand) -> object:
        return command.stream


class KeepsOneOfEachKind(KeepsOne):
    @staticmethod
    def key(command: EngineCommand) -> object:
        return type(command)


class KeepsOneOfEachKindOfEachStream(KeepsOne):
    @staticmethod
    def key(command: EngineCommand) -> object:
        return command.stream, type(command)


class KeepsTheFirst(KeepsOne):
    def receive(self, command: EngineCommand) -> None:
        self._kept.setdefault(command.stream, command)


class KeepsAFew(KeepsOne):
    """An engine with a queue that is too short, which drops what does not fit."""

    def receive(self, command: EngineCommand) -> None:
        if len(self._kept) < 3:
            self._kept[len(self._kept)] = command


BATCHES = [
    KeepsOne,
    KeepsOneOfEachStream,
    KeepsOneOfEachKind,
    KeepsOneOfEachKindOfEachStream,
    KeepsTheFirst,
    KeepsAFew,
]

BREAKS: list[tuple[type[Echo], str]] = [
    (SettlesTwice, "test_each_commit_settles_once"),
    (SettlesTheFirstOnly, "test_each_commit_settles_once"),
    (SettlesOtherText, "test_each_commit_settles_once"),
    (SpeaksOfNobody, "test_each_commit_settles_once"),
    (PublishesWhatItHears, "test_each_commit_settles_once"),
    (SaysAllAgain, "test_a_replayed_utterance_goes_on_where_its_text_ended"),
    (FlushPublishes, "test_a_flush_that_is_rolled_back_leaves_no_trace"),
    (RollbackForgets, "test_a_flush_that_is_rolled_back_leaves_no_trace"),
    (FlushCountsTwice, "test_a_flush_makes_its_commit_no_different"),
    (HearsAllStreamsAsOne, "test_streams_do_not_hear_each_other"),
    (IsLate, "test_a_closed_stream_is_silent"),
    (HasNoTimeForFiles, "test_a_file_says_the_same"),
    (NeverFreesASlot, "test_closing_frees_the_slot"),
    (SettlesWhatWasCancelled, "test_a_cancelled_utterance_is_silent"),
    (IgnoresCancel, "test_a_cancelled_utterance_is_silent"),
    (KeepsOneOfEachKindOfEachStream, "test_each_command_of_a_batch_counts"),
    (KeepsOneOfEachKindOfEachStream, "test_each_answer_of_a_batch_is_given"),
    (ShortMemory, "test_an_onset_may_reach_back"),
    (OpenStartsAfresh, "test_a_second_open_keeps_the_audio"),
    (SettlesTwice, "test_each_respond_settles_once"),
    (SettlesOtherText, "test_each_respond_settles_once"),
    (SpeculatesAloud, "test_a_cropped_speculation_leaves_no_trace"),
    (CropIsRemembered, "test_a_cropped_speculation_leaves_no_trace"),
    (SpeculatesAloud, "test_a_speculation_becomes_its_answer"),
    (SwallowsItsSpeculation, "test_a_speculation_becomes_its_answer"),
    (CancelCompletes, "test_a_cancelled_answer_settles_with_what_was_said"),
    (IgnoresCancel, "test_a_cancelled_answer_settles_with_what_was_said"),
    (OneAnswerAtATime, "test_answers_do_not_influence_each_other"),
    (AnswersOnAndOn, "test_a_stream_closed_in_an_answer_is_silent"),
]


def suite(engine: Callable[[dict[str, object], Wake], Engine]) -> Conformance:
    class Suite(Conformance):
        patience_s = 0.1

        def make_engine(self, wake: Wake) -> Engine:
            return engine({}, wake)

    return Suite()


@pytest.mark.parametrize(("engine", "name"), BREAKS)
def test_each_check_finds_an_engine_that_breaks_its_promise(engine: type[Echo], name: str) -> None:
    with pytest.raises(Broke):
        getattr(suite(engine), name)()


def test_there_is_a_broken_engine_for_each_check() -> None:
    assert {name for _, name in BREAKS} == {name for name in vars(Conformance) if name.startswith("test_")}


@pytest.mark.parametrize("engine", BATCHES)
def test_an_engine_that_loses_commands_of_a_batch_is_found(engine: type[Echo]) -> None:
    """The loop delivers all that has arrived, then steps once, so such an engine would be mute in a busy daemon."""
    lines: list[str] = []
    assert check(suite(engine), lines.append) > 0
    broken = [line for line in lines if line.startswith("BROKEN")]
    assert all(": with several commands before one step: " in line for line in broken if engine is not KeepsTheFirst)


def test_one_broken_promise_spoils_no_other_check() -> None:
    """The streams of a check that failed are closed; the checks after it see nothing of them."""
    lines: list[str] = []
    assert check(suite(RollbackForgets), lines.append) == 1
    (broken,) = [line for line in lines if not line.startswith("ok")]
    assert broken.startswith("BROKEN   a flush that is rolled back leaves no trace: 'one two")


def test_an_engine_that_raises_is_told_so() -> None:
    lines: list[str] = []
    assert check(suite(FailsEachCommit), lines.append) > 5
    assert "BROKEN   each commit settles once: raised ValueError: no" in lines


def test_checks_of_a_role_that_the_engine_has_not_are_skipped() -> None:
    class Listens(Echo):
        capabilities = dataclasses.replace(Echo.capabilities, roles=("transcribe",))

    lines: list[str] = []
    assert check(suite(Listens), lines.append) == 0
    assert "skipped  each respond settles once: the engine does not respond" in lines


def test_an_engine_that_cannot_run_here_says_why() -> None:
    def unusable(options: dict[str, object], wake: Wake) -> Engine:
        raise Unusable("no GPU")

    with pytest.raises(Unusable, match="no GPU"):
        check(suite(unusable), print)


def test_the_command_says_what_is_kept_and_exits_by_it() -> None:
    done = CliRunner().invoke(main, ["echo"])
    assert done.exit_code == 0
    *checks, verdict = done.output.splitlines()
    assert {line.split()[0] for line in checks} == {"ok"}
    assert verdict == "echo: every promise is kept"


def test_the_command_gives_options_to_the_engine() -> None:
    done = CliRunner().invoke(main, ["echo", "--option", "tokens=10", "--option", "token_ms=5"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("tokens=none", "engine_options.echo.tokens"),
        ("tokns=3", "engine_options.echo.tokns"),
        ("tokens", "'tokens' is not KEY=VALUE"),
        ("=3", "'=3' is not KEY=VALUE"),
        ("tokens=[", "is not YAML"),
    ],
)
def test_the_command_says_what_is_wrong_with_an_option(option: str, told: str) -> None:
    done = CliRunner().invoke(main, ["echo", "--option", option])
    assert done.exit_code != 0
    assert told in done.output


def test_the_command_knows_installed_engines_only() -> None:
    done = CliRunner().invoke(main, ["nobody"])
    assert done.exit_code == 1
    assert "no engine is called 'nobody'" in done.output
