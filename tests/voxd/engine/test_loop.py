"""The engine process's loop, with a scripted engine, a scripted voice detector and a clock that needs no waiting."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import pytest

from shared.audio import VAD_FRAME, Float32
from voxd.engine.contract import Capabilities, Engine, EngineCommand, Refuse
from voxd.engine.echo import Echo, words
from voxd.engine.loop import BEAT_US, Inbox, Loop
from voxd.engine.vad import Network, Vad
from voxd.messages import (
    Beat,
    Cancel,
    Close,
    Command,
    Commit,
    Configure,
    Crop,
    Failed,
    Feed,
    Flush,
    Heard,
    Leave,
    Onset,
    Open,
    Opened,
    Output,
    Refused,
    Report,
    Respond,
    Role,
    Rollback,
    Said,
    Settled,
    Speculate,
    Stop,
)

AUDIO = bytes(2 * VAD_FRAME)


def network() -> Network:
    def run(frames: Float32, state: Float32) -> tuple[Float32, Float32]:
        return np.full(len(frames), 0.75, np.float32), state

    return run


class Scripted(Engine):
    """An engine that writes down its commands and gives prepared outputs."""

    capabilities = Capabilities(("transcribe", "respond"), "for tests")

    def __init__(self) -> None:
        super().__init__({}, lambda: None)
        self.told: list[EngineCommand] = []
        self.to_say: list[Output] = []
        self.stepped_us: list[int] = []
        self.stopped = 0
        self.deadline: int | None = None
        self.at: Callable[[EngineCommand], None] = lambda command: None

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        return ()

    def receive(self, command: EngineCommand) -> None:
        self.told.append(command)
        self.at(command)

    def step(self, now_us: int) -> Iterable[Output]:
        self.stepped_us.append(now_us)
        said, self.to_say = self.to_say, []
        return said

    @property
    def deadline_us(self) -> int | None:
        return self.deadline

    def stop(self) -> None:
        self.stopped += 1

    def kinds(self) -> list[type]:
        return [type(command) for command in self.told]


class Waits(Inbox):
    """An inbox that writes down how long the loop would wait, and returns at once."""

    def __init__(self, *rounds: list[Command]) -> None:
        super().__init__()
        self.rounds = list(rounds)
        self.waited_s: list[float] = []

    def take(self, timeout_s: float) -> list[Command]:
        self.waited_s.append(timeout_s)
        return self.rounds.pop(0)


class Rig:
    """A loop whose published reports are kept."""

    def __init__(self, engines: dict[Role, Engine], *rounds: list[Command]) -> None:
        self.now_us = 10_000_000
        self.batches: list[list[Report]] = []
        self.inbox = Waits(*rounds)
        self.loop = Loop(engines, Vad(network), self.inbox, self.batches.append, lambda: self.now_us)

    def turn(self, *commands: Command | EngineCommand) -> list[Report]:
        """Runs one round of the loop; returns what it published, without heartbeats."""
        del self.batches[:]
        assert self.loop.round([command for command in commands if not isinstance(command, Heard)])
        return [report for batch in self.batches for report in batch if not isinstance(report, Beat)]


def both() -> tuple[Scripted, Scripted, Rig]:
    """One engine per role, and stream 1 open in both."""
    transcriber, responder = Scripted(), Scripted()
    rig = Rig({"transcribe": transcriber, "respond": responder})
    rig.turn(Open(1, ("transcribe", "respond")))
    return transcriber, responder, rig


# ── who is told what ────────────────────────────────────────────────────────────────────────────────────────────────

ABOUT_STREAM_1: list[EngineCommand] = [
    Feed(1, 0, b"\0\0"),
    Onset(1, 2, 0),
    Flush(1, 2, 1),
    Rollback(1, 2),
    Commit(1, 2, 1),
    Speculate(1, 3, 2, 1, ()),
    Crop(1, 3),
    Respond(1, 4, ()),
    Cancel(1, 4),
    Close(1),
]


def test_commands_go_to_the_roles_that_they_are_for() -> None:
    transcriber, responder, rig = both()
    rig.turn(*ABOUT_STREAM_1)

    def heard_by(role: Role) -> list[EngineCommand]:
        return [command for command in ABOUT_STREAM_1 if role in command.audience]

    assert transcriber.told[1:] == heard_by("transcribe")
    assert responder.told[1:] == heard_by("respond")
    assert {Flush, Rollback} & set(responder.kinds()) == set()
    assert {Speculate, Crop, Respond} & set(transcriber.kinds()) == set()


def test_an_engine_with_both_roles_is_told_stepped_and_stopped_once() -> None:
    engine = Scripted()
    rig = Rig({"transcribe": engine, "respond": engine}, [Stop()])
    rig.turn(Open(1, ("transcribe", "respond")), *ABOUT_STREAM_1)
    assert engine.told[1:] == ABOUT_STREAM_1
    assert len(engine.stepped_us) == 1
    rig.loop.run()
    assert engine.stopped == 1


def test_a_stream_is_known_only_to_the_engines_of_its_roles() -> None:
    transcriber, responder = Scripted(), Scripted()
    rig = Rig({"transcribe": transcriber, "respond": responder})
    rig.turn(Open(1, ("respond",)), Feed(1, 0, AUDIO), Commit(1, 2, 1))
    assert transcriber.told == []
    assert responder.kinds() == [Open, Feed, Commit, Heard]


def test_a_role_that_nobody_fills_is_left_out() -> None:
    transcriber = Scripted()
    rig = Rig({"transcribe": transcriber})
    assert rig.turn(Open(1, ("transcribe", "respond")), Respond(1, 2, ())) == []
    assert transcriber.kinds() == [Open]


def test_the_voice_detector_hears_streams_that_no_engine_has() -> None:
    """Turn-taking works with any engine, and with none."""
    rig = Rig({})
    assert rig.turn(Open(1, ()), Feed(1, 0, AUDIO)) == [Heard(1, 0, (0.75,))]


def test_what_comes_for_a_stream_that_is_not_open_is_dropped() -> None:
    transcriber = Scripted()
    rig = Rig({"transcribe": transcriber})
    assert rig.turn(*ABOUT_STREAM_1) == []
    assert transcriber.told == []


# ── the order of things ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_heard_is_told_to_engines_and_published_before_what_they_say_of_it() -> None:
    transcriber, _, rig = both()

    def answer(command: EngineCommand) -> None:
        if isinstance(command, Heard):
            transcriber.to_say.append(Said(1, 2, "yes"))

    transcriber.at = answer
    heard, said = rig.turn(Feed(1, 0, AUDIO))
    assert heard == Heard(1, 0, (0.75,))
    assert isinstance(said, Said)
    assert transcriber.told[-2:] == [Feed(1, 0, AUDIO), Heard(1, 0, (0.75,))]
    assert len(rig.batches) == 1, "one turn, one write"


def test_positions_begin_where_the_stream_begins() -> None:
    _, _, rig = both()
    rig.turn(Open(2, (), start=4000))
    assert rig.turn(Feed(2, 4000, AUDIO)) == [Heard(2, 4000, (0.75,))]


def test_nothing_is_published_when_there_is_nothing_to_say() -> None:
    _, _, rig = both()
    rig.turn()
    rig.turn()
    assert rig.batches == []


# ── admission ───────────────────────────────────────────────────────────────────────────────────────────────────────


def refuse(command: EngineCommand) -> None:
    if isinstance(command, Open):
        raise Refuse("all places are taken", 7)


def test_a_refusal_by_one_engine_frees_the_place_in_the_other() -> None:
    transcriber, responder = Scripted(), Scripted()
    responder.at = refuse
    rig = Rig({"transcribe": transcriber, "respond": responder})
    assert rig.turn(Open(1, ("transcribe", "respond")), Feed(1, 0, AUDIO)) == [Refused(1, "all places are taken", 7)]
    assert transcriber.kinds() == [Open, Close], "and no Feed"
    assert rig.turn(Onset(1, 2, 0)) == []


def test_a_refused_stream_may_be_opened_later() -> None:
    engine = Scripted()
    engine.at = refuse
    rig = Rig({"transcribe": engine})
    rig.turn(Open(1, ("transcribe",)))
    engine.at = lambda command: None
    assert rig.turn(Open(1, ("transcribe",)), Feed(1, 0, AUDIO)) == [Heard(1, 0, (0.75,))]


def test_who_comes_back_and_finds_no_place_is_sent_away() -> None:
    """Nothing of the stream could go on without engines."""
    transcriber, responder, rig = both()
    rig.turn(Leave(1))
    responder.at = refuse
    assert rig.turn(Open(1, ("transcribe", "respond"))) == [Refused(1, "all places are taken", 7)]
    assert transcriber.kinds() == [Open, Close, Open, Close]
    assert rig.turn(Onset(1, 2, 0)) == []


def test_a_second_open_is_told_as_it_is_and_keeps_what_was_heard() -> None:
    transcriber, responder, rig = both()
    rig.turn(Feed(1, 0, AUDIO[:-2]))
    again = Open(1, ("transcribe", "respond"), "de", start=9999)
    assert rig.turn(again, Feed(1, VAD_FRAME - 1, b"\0\0")) == [Opened(1), Heard(1, 0, (0.75,))]
    assert msgspec.structs.replace(again, roles=("transcribe",)) in transcriber.told
    assert msgspec.structs.replace(again, roles=("respond",)) in responder.told
    assert Close not in transcriber.kinds()


def test_a_role_that_is_given_up_closes_its_engine_and_leaves_the_other_alone() -> None:
    transcriber, responder, rig = both()
    rig.turn(Open(1, ("transcribe",)), Cancel(1, 2))
    assert transcriber.kinds() == [Open, Open, Cancel]
    assert responder.kinds() == [Open, Close]


def test_a_role_that_is_added_opens_its_engine_and_leaves_the_other_alone() -> None:
    transcriber, responder = Scripted(), Scripted()
    rig = Rig({"transcribe": transcriber, "respond": responder})
    rig.turn(Open(1, ("transcribe",)), Onset(1, 2, 0), Open(1, ("transcribe", "respond")))
    assert transcriber.kinds() == [Open, Onset, Open]
    assert responder.kinds() == [Open]


# ── trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_that_raises_fails_that_ref_and_no_other_stream(caplog: pytest.LogCaptureFixture) -> None:
    engine = Scripted()
    rig = Rig({"transcribe": engine})
    rig.turn(Open(1, ("transcribe",)), Open(2, ("transcribe",)))

    def fail(command: EngineCommand) -> None:
        if command.stream == 1 and isinstance(command, Commit):
            raise KeyError("a secret of the engine")

    engine.at = fail
    with caplog.at_level(logging.ERROR):
        (failed,) = rig.turn(Commit(1, 3, 100), Commit(2, 3, 100))
    assert isinstance(failed, Failed)
    assert (failed.stream, failed.ref, failed.code) == (1, 3, "engine_error")
    assert "secret" not in failed.message
    assert engine.told[-1] == Commit(2, 3, 100)
    assert len(caplog.records) == 1


def test_an_engine_that_raises_does_not_keep_a_command_from_the_other() -> None:
    transcriber, responder, rig = both()

    def fail(command: EngineCommand) -> None:
        if isinstance(command, Close | Commit):
            raise KeyError

    transcriber.at = fail
    rig.turn(Commit(1, 3, 100), Close(1))
    assert responder.kinds() == [Open, Commit, Close]


def test_an_engine_that_raises_at_open_refuses_that_stream() -> None:
    engine = Scripted()

    def fail(command: EngineCommand) -> None:
        if command == Open(1, ("transcribe",)):
            raise KeyError("a secret of the engine")

    engine.at = fail
    rig = Rig({"transcribe": engine})
    (refused,) = rig.turn(Open(1, ("transcribe",)), Open(2, ("transcribe",)))
    assert isinstance(refused, Refused)
    assert "secret" not in refused.reason
    assert rig.turn(Feed(1, 0, AUDIO), Feed(2, 0, AUDIO)) == [Heard(2, 0, (0.75,))]


def test_what_an_engine_says_of_a_stream_that_is_not_open_is_dropped() -> None:
    transcriber, _, rig = both()
    transcriber.to_say = [Said(5, 2, "who?"), Said(1, 2, "me")]
    (said,) = rig.turn()
    assert isinstance(said, Said)
    assert said.stream == 1


def test_nothing_of_a_closed_stream_is_heard() -> None:
    _, _, rig = both()
    assert rig.turn(Feed(1, 0, AUDIO), Close(1)) == []


# ── times ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_outputs_carry_when_they_came_and_when_their_turn_was_taken_up() -> None:
    transcriber, _, rig = both()
    transcriber.to_say = [Said(1, 2, "early")]
    (early,) = rig.turn(Onset(1, 2, 0))
    committed_us = rig.now_us = 11_000_000
    rig.turn(Commit(1, 2, 100))
    rig.now_us = 12_000_000
    transcriber.to_say = [Said(1, 2, " late"), Settled(1, 2, "completed", "early late")]
    late, settled = rig.turn()
    assert [(o.at_us, o.commit_us) for o in (early, late, settled) if isinstance(o, Said | Settled)] == [
        (10_000_000, 0),
        (12_000_000, committed_us),
        (12_000_000, committed_us),
    ]


def test_the_loop_beats_every_half_second() -> None:
    _, _, rig = both()
    del rig.batches[:]
    first = rig.now_us
    for _ in range(30):
        rig.now_us += 100_000
        assert rig.loop.round([])
    beats = [report for batch in rig.batches for report in batch if isinstance(report, Beat)]
    assert [beat.at_us - first for beat in beats] == [BEAT_US * n for n in range(1, 7)]
    assert beats[0] == Beat(first + BEAT_US, 1, 0)


def test_a_beat_tells_the_audio_that_waits() -> None:
    rig = Rig({})
    rig.loop.round([Open(1, ()), Feed(1, 0, AUDIO * 400)])
    (*_, beat) = rig.batches[-1]
    assert isinstance(beat, Beat)
    assert beat.streams == 1
    assert beat.lag_samples > 0, "a turn hears a bounded amount"
    while rig.turn():
        pass
    rig.now_us += BEAT_US
    rig.loop.round([])
    assert rig.batches[-1] == [Beat(rig.now_us, 1, 0, batches=400, rows=400)]


def test_the_loop_waits_for_whichever_is_due_first() -> None:
    engine = Scripted()
    rig = Rig({"transcribe": engine}, [], [], [], [Open(1, ()), Feed(1, 0, AUDIO * 400)], [Stop()])

    deadlines = iter([None, 10_200_000, 9_000_000, 99_000_000])
    original = engine.step

    def step(now_us: int) -> Iterable[Output]:
        engine.deadline = next(deadlines)
        return original(now_us)

    engine.step = step  # type: ignore[method-assign]
    rig.loop.run()
    at_once, beat, deadline, passed, backlog = rig.inbox.waited_s
    assert at_once <= 0, "the first beat is due"
    assert beat == pytest.approx(0.5)
    assert deadline == pytest.approx(0.2)
    assert passed == pytest.approx(-1.0)
    assert backlog == 0.0, "audio waits: no wait at all"


def test_stop_ends_the_loop_and_drops_what_follows() -> None:
    engine = Scripted()
    rig = Rig({"transcribe": engine}, [Stop(), Open(1, ("transcribe",))])
    rig.loop.run()
    assert (engine.told, engine.stopped, rig.batches) == ([], 1, [])


def test_a_second_configure_is_ignored() -> None:
    _, _, rig = both()
    assert rig.turn(Configure("echo", None, {})) == []


def test_an_answer_flows_through_loop_and_echo() -> None:
    """The real loop and engine on a scripted clock give each token at its deadline."""
    echo = Echo({"tokens": 3}, lambda: None)
    rig = Rig({"respond": echo})
    outputs = rig.turn(Open(1, ("respond",)), Respond(1, 2, ()))
    while (deadline := echo.deadline_us) is not None:
        rig.now_us = deadline
        outputs += rig.turn()
    *said, settled = outputs
    assert isinstance(settled, Settled)
    assert (settled.text, settled.commit_us, settled.at_us) == (words(3), 10_000_000, 10_060_000)
    assert [each.at_us for each in said if isinstance(each, Said)] == [10_020_000, 10_040_000, 10_060_000]
