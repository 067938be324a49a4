"""Runs and streams of Voxtral Realtime with a scripted model: when text is published, and how trouble is handled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from shared.audio import RATE, VAD_FRAME
from tests.support.realtime import Gateway, gateway
from voxd.engine.contract import Refuse, Unusable
from voxd.engine.gpu.batch import Row
from voxd.engine.gpu.graphs import Done
from voxd.engine.gpu.kv_cache import Slots
from voxd.engine.realtime.admission import Load
from voxd.engine.realtime.engine import VoxtralRealtime
from voxd.engine.realtime.interface import RealtimeDevice, RealtimeOptions
from voxd.engine.realtime.runs import FRAME, Form, Run
from voxd.messages import Flush, Open, Said

BOS, EOS, BLANK, HELLO = 1, 2, 3, 4
PIECES = (b"", b"", b"", b"", b" hello")
FORM = Form(BOS, BLANK, left=32, tail=10, delay=6)
StreamTokens = Callable[[int, int], int]  # join number of the slot, index of the token -> id


@dataclass
class Puppet:
    """A device that returns what the script says."""

    special: StreamTokens
    slots: Slots = field(default_factory=lambda: Slots(4))
    largest: int = 2
    joins: int = 0
    sizes: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    joined: dict[int, int] = field(default_factory=dict)

    def join(self, slot: int, delay: int) -> None:
        self.joins += 1
        self.joined[slot] = self.joins

    def submit(self, rows: Sequence[Row]) -> Done:
        self.sizes.append(len(rows))
        self.rows += rows
        said = [self.special(self.joined[row.head[0]], row.head[1] - FORM.first) for row in rows]
        return Done(said, 1000)

    @property
    def device(self) -> RealtimeDevice:
        return RealtimeDevice(self, self.slots, self.join, FORM, PIECES)


def noise(seconds: float, level: float = 0.1) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return (level * np.random.default_rng(1).standard_normal(int(seconds * RATE))).astype(np.float32)


def speak(talk: Gateway, seconds: float, voice: float = 1.0) -> None:
    """Feeds speech in real time."""
    until = talk.fed[1] + int(seconds * RATE)
    while talk.fed[1] < until:
        talk.feed(1, talk.fed[1] + 1280, voice)
        talk.rest()


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def advance(run: Run, token: int = HELLO) -> int:
    """Takes the next position; returns what it was fed."""
    fed = run.token
    run.take()
    run.hear(token, text=True)
    return fed


def test_a_run_is_fed_the_prompt_and_then_what_it_said() -> None:
    run = Run(0, FORM)
    fed = [advance(run, 100 + run.n) for _ in range(10)]
    assert fed == [BLANK] * 8 + [138, 139]
    assert run.out == [138, 139, 140]


def test_a_position_is_ready_when_its_last_sample_is_there() -> None:
    run = Run(5000, FORM)
    assert run.ready(10**9, 5040)
    assert not run.ready(10**9, 5039)
    advance(run)
    assert not run.ready(10**9, 5039 + FRAME)
    assert not run.ready(5039 + FRAME, 10**9), "nor if it is not to go so far"


def test_an_end_takes_back_what_heard_the_audio_behind_it() -> None:
    run = Run(0, FORM)
    while run.ready(20 * FRAME, 20 * FRAME):
        advance(run)
    said = len(run.out)
    run.end(18 * FRAME)
    assert len(run.out) == said - 2
    while run.ready(0, 20 * FRAME):
        advance(run)
    assert run.finished
    assert len(run.out) == 18 + FORM.tail
    run.go_on()
    assert len(run.out) == said - 2
    assert not run.finished


def test_an_id_that_is_taken_back_on_its_way_does_not_count() -> None:
    run = Run(0, FORM)
    while run.ready(20 * FRAME, 20 * FRAME):
        advance(run)
    said = len(run.out)
    run.take()
    run.end(19 * FRAME)
    run.take()
    run.hear(7, text=True)
    run.hear(HELLO, text=True)
    assert run.out == [HELLO] * said


def test_a_run_without_audio_is_finished_at_once() -> None:
    run = Run(5000, FORM)
    run.end(4000)
    assert run.finished
    assert not run.ready(10**9, 10**9)


# ── trouble ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def stuck(run: int, index: int) -> int:
    """A script whose first run stops writing after a second."""
    return HELLO if (run == 1 and index < 12) or (run == 2 and index >= 80) else BLANK


def test_speech_without_words_for_five_seconds_is_given_to_the_model_again() -> None:
    """It happens once: a second run that is silent from its beginning is left alone."""
    puppet = Puppet(stuck)
    with gateway(puppet.device) as talk:
        talk.open(1, noise(40.0))
        talk.feed(1, FRAME)
        talk.onset(1, 1)
        speak(talk, 7.0)
        assert [warning.code for warning in talk.warnings] == ["transcriber_restarted"]
        assert puppet.joins == 2
        speak(talk, 8.0)
        assert len(talk.warnings) == 1
        talk.commit(1, 1, talk.fed[1])
        talk.rest()
        again = talk.settled[1, 1].count("hello") - 12
        assert again > 20, "its words follow those of the first"


@pytest.mark.parametrize(("level", "voice"), [(0.005, 1.0), (0.1, 0.1)])
def test_no_words_for_quiet_or_for_noise_is_no_trouble(level: float, voice: float) -> None:
    """0.005 is -46 dBFS; music is loud, but not a voice."""
    with gateway(Puppet(lambda run, index: BLANK).device) as talk:
        talk.open(1, noise(12.0, level))
        talk.feed(1, FRAME)
        talk.onset(1, 1)
        for _ in range(8):
            talk.feed(1, talk.fed[1] + RATE, voice, known=talk.fed[1])
            talk.rest()
        assert not talk.warnings


def test_an_end_of_text_token_ends_nothing() -> None:
    with gateway(Puppet(lambda run, index: EOS if index == 5 else HELLO).device) as talk:
        talk.open(1, noise(4.0))
        talk.onset(1, 1)
        talk.feed(1, 3 * RATE)
        talk.commit(1, 1, 3 * RATE)
        talk.rest()
        frames = -(-3 * RATE // FRAME) + FORM.tail
        assert talk.settled[1, 1].count("hello") == frames - 1


# ── who is admitted, and who goes first ─────────────────────────────────────────────────────────────────────────────


def test_as_many_streams_as_there_is_memory_for() -> None:
    with gateway(Puppet(stuck).device) as talk:
        for stream in (1, 2, 3):
            talk.open(stream, noise(1.0))
        with pytest.raises(Refuse, match="all 3 slots are taken"):
            talk.engine.receive(Open(4, ("transcribe",)))
        talk.close(2)
        talk.open(4, noise(1.0))


def test_a_delay_that_the_model_does_not_know_is_refused() -> None:
    with gateway(Puppet(stuck).device) as talk, pytest.raises(Refuse, match="multiple of 80"):
        talk.engine.receive(Open(1, ("transcribe",), delay_ms=100))


def test_a_device_that_is_behind_takes_no_more_streams_and_does_not_speculate() -> None:
    """Each step lasts 100 ms, and there is work for two such devices."""
    puppet = Puppet(lambda run, index: HELLO, largest=1)
    with gateway(puppet.device) as talk:
        for stream in (1, 2):
            talk.open(stream, noise(8.0))
            talk.onset(stream, 1)
            talk.feed(stream, 6 * RATE)
        now_us = 10_000_000
        for _ in range(30):
            now_us += 200_000
            talk.step(now_us)
        with pytest.raises(Refuse, match="behind") as refused:
            talk.engine.receive(Open(3, ("transcribe",)))
        assert refused.value.retry_after_s > 0
        talk.engine.receive(Flush(1, 1, talk.fed[1]))
        before = len(puppet.rows)
        for _ in range(10):
            talk.step(now_us)
        assert {puppet.joined[row.head[0]] for row in puppet.rows[before:]} == {2}


def test_a_device_is_behind_after_a_second_of_late_frames_and_no_longer() -> None:
    load = Load()
    for at in range(0, 1_500_000, 10_000):
        load.note(at, 20_000 if at % 100_000 else 170_000)  # one in ten is late
        assert load.behind(at) == (at >= 1_000_000)
    for at in range(1_500_000, 2_700_000, 10_000):
        load.note(at, 20_000)
    assert not load.behind(2_700_000)
    for at in range(2_700_000, 4_000_000, 10_000):
        load.note(at, 20_000 if at % 400_000 else 170_000)  # one in forty
        assert not load.behind(at)
    assert not load.behind(9_000_000), "nobody waits"


def test_who_waits_longest_goes_first() -> None:
    """No stream starves, though one has a whole clip ready."""
    puppet = Puppet(lambda run, index: HELLO, largest=1)
    with gateway(puppet.device) as talk:
        for stream in (1, 2, 3):
            talk.open(stream, noise(8.0))
            talk.onset(stream, 1)
            talk.feed(stream, (6 if stream == 1 else 1) * RATE)
        for _ in range(10):
            talk.step()
        turns = [row.head[0] for row in puppet.rows[-9:]]
        assert turns == turns[:3] * 3
        assert len(set(turns)) == 3


def test_a_batch_is_no_larger_than_the_device_can_take() -> None:
    puppet = Puppet(lambda run, index: HELLO, largest=2)
    with gateway(puppet.device) as talk:
        for stream in (1, 2, 3):
            talk.open(stream, noise(4.0))
            talk.onset(stream, 1)
        for stream in (1, 2, 3):
            talk.feed(stream, 3 * RATE)
        talk.rest()
        assert max(puppet.sizes) == 2


def test_what_is_said_tells_how_far_it_reaches() -> None:
    engine = VoxtralRealtime({}, lambda: None, lambda options, progress: Puppet(lambda run, index: HELLO).device)
    engine.load(lambda text: None)
    talk = Gateway(engine)
    talk.open(1, noise(4.0))
    talk.onset(1, 1)
    outputs: list[Said] = []
    talk.note = outputs.append  # type: ignore[method-assign, assignment]
    talk.feed(1, 3 * RATE // VAD_FRAME * VAD_FRAME)
    talk.rest()
    positions = [said.samples for said in outputs if said.text]
    assert positions == sorted(positions)
    assert positions[-1] <= 3 * RATE - FORM.delay * FRAME
    assert positions[-1] > 3 * RATE - (FORM.delay + 2) * FRAME


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speed": 1}, r"voxtral-realtime\.speed: unknown key; allowed here: model, device"),
        ({"delay_ms": 100}, "delay_ms: expected a multiple of 80 from 80 to 2400 or null, got 100"),
        ({"device": "tpu"}, "device: expected one of auto, c"),
        ({"max_streams": True}, "max_streams: expected an integer of at least 1 or null, got true"),
        ({"max_history_s": 5}, "max_history_s: expected an integer from 10 to 3600, got 5"),
        ({"n_mels": 64}, "n_mels cannot be set: it is the model's own"),
        ({"model": ""}, "model: expected a repository that `voxd pull` has fetched, or a folder, got ''"),
    ],
)
def test_options_are_checked(options: dict[str, object], told: str) -> None:
    with pytest.raises(Unusable, match=told):
        RealtimeOptions.parse(options)


def test_what_is_configured_is_used() -> None:
    assert RealtimeOptions.parse({"delay_ms": 960, "max_streams": 3}) == RealtimeOptions(delay_ms=960, max_streams=3)
