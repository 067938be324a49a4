"""Two engines share one device: who gets what, and what the user reads when it is too little."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, strategies as st

from tests.support import tiny_mini, tiny_voxtral
from voxd import messages as m
from voxd.engine import __main__ as process, registry
from voxd.engine.contract import Capabilities, Demand, Engine, EngineCommand, Unusable
from voxd.engine.device_memory import WORK_SPACE, plan
from voxd.engine.loop import Inbox
from voxd.engine.mini import memory as mini_memory
from voxd.engine.mini.interface import MiniOptions
from voxd.engine.realtime import build
from voxd.engine.realtime.interface import RealtimeOptions
from voxd.lab.bench_realtime import DECODER, ENCODER

GB = 10**9
ONE = Demand(fixed=9 * GB, unit=GB, per="stream of 120 s", lower="max_history_s")
OTHER = Demand(fixed=10 * GB, unit=GB // 2, per="conversation of 2048 tokens", least=4, lower="max_context")
BOTH = {"one": ONE, "other": OTHER}


def units(free: int, demands: Mapping[str, Demand]) -> dict[str, int]:
    return plan(free, demands, work_space=4 * GB).units


# ── who gets what ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_whoever_is_alone_gets_all_of_it() -> None:
    assert units(20 * GB, {"one": ONE}) == {"one": 7}
    assert units(20 * GB, {"one": replace(ONE, most=5)}) == {"one": 5}


def test_two_get_the_same_number_of_units() -> None:
    assert units(38 * GB, BOTH) == {"one": 10, "other": 10}


def test_the_least_comes_before_the_ratio() -> None:
    assert units(26 * GB, BOTH) == {"one": 1, "other": 4}
    assert units(28 * GB, BOTH) == {"one": 3, "other": 4}


def test_whoever_has_enough_leaves_the_rest_to_the_other() -> None:
    assert units(38 * GB, {**BOTH, "one": replace(ONE, most=3)}) == {"one": 3, "other": 24}


def test_weights_are_the_ratio_of_the_units() -> None:
    assert units(43 * GB, {**BOTH, "one": replace(ONE, weight=2)}) == {"one": 16, "other": 8}


demands = st.builds(
    Demand,
    fixed=st.integers(0, 50),
    unit=st.integers(1, 20),
    per=st.just("thing"),
    least=st.integers(1, 5),
    most=st.none() | st.integers(5, 40),
    weight=st.integers(1, 4),
)


@given(free=st.integers(0, 2000), wanted=st.dictionaries(st.sampled_from("abc"), demands, min_size=1))
def test_nothing_is_promised_twice_and_what_is_left_is_too_little(free: int, wanted: dict[str, Demand]) -> None:
    """The grants fit into what is free, and the rest is too small for another unit, or the least did not fit."""
    fixed = sum(each.fixed for each in wanted.values())
    try:
        found = plan(free, wanted, work_space=7).units
    except Unusable:
        assert fixed + 7 + sum(each.least * each.unit for each in wanted.values()) > free
        return
    left = free - 7 - fixed - sum(found[name] * each.unit for name, each in wanted.items())
    assert left >= 0
    assert all(each.least <= found[name] <= (each.most or found[name]) for name, each in wanted.items())
    hungry = [each for name, each in wanted.items() if found[name] != each.most]
    assert not hungry or any(left < each.unit for each in hungry)


# ── what is said ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_user_reads_who_has_what() -> None:
    assert plan(26 * GB, BOTH, work_space=4 * GB).lines == (
        "memory: 26.0 GB free: one 9.0 GB + 1 stream of 120 s (1.0 GB), "
        "other 10.0 GB + 4 conversations of 2048 tokens (2.0 GB), work space 4.0 GB",
    )


def test_too_little_is_said_with_all_numbers_and_what_to_lower() -> None:
    with pytest.raises(Unusable) as found:
        units(25 * GB, BOTH)
    assert str(found.value) == (
        "the device's memory is too small: 25.0 GB are free, 26.0 GB are needed: one 9.0 GB and for 1 stream of 120 s "
        "1.0 GB, other 10.0 GB and for 4 conversations of 2048 tokens 2.0 GB, work space 4.0 GB; "
        "lower engine_options.one.max_history_s or engine_options.other.max_context"
    )


def test_no_option_helps_where_the_weights_do_not_fit() -> None:
    with pytest.raises(Unusable, match=r"; take a larger device, or one of the engines alone$"):
        units(22 * GB, BOTH)
    with pytest.raises(Unusable, match=r"; take a larger device$"):
        units(12 * GB, {"one": ONE})


# ── the process ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Hungry(Engine):
    capabilities: ClassVar[Capabilities] = Capabilities(("transcribe", "respond"), "takes what it gets")
    wants: ClassVar[Demand | None] = ONE
    granted: int | None = None

    def demand(self) -> Demand | None:
        return self.wants

    def grant(self, units: int) -> None:
        self.granted = units

    def load(self, progress: Callable[[str], None]) -> tuple[str, ...]:
        return (f"{self.granted} units",)

    def receive(self, command: EngineCommand) -> None:
        """Nothing is done with it."""

    def step(self, now_us: int) -> Iterable[m.Output]:
        return ()


class Modest(Hungry):
    wants = None


class Unread(process.GatewayLink):
    def __init__(self) -> None:
        """Nobody is at the other end."""

    def publish(self, reports: list[m.Report]) -> None:
        """Nobody reads."""


def ready(monkeypatch: pytest.MonkeyPatch, free: int, **engines: type[Engine]) -> tuple[str, ...]:
    monkeypatch.setattr(registry, "engine_class", engines.__getitem__)
    monkeypatch.setattr(process, "_free_memory", lambda: free)
    names = list(engines)
    configure = m.Configure(names[0], names[-1], {})
    return process.build(configure, Inbox(), Unread())[1].notes


def test_engines_are_granted_their_part_before_any_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, *loaded = ready(monkeypatch, 24 * GB + WORK_SPACE, one=Hungry, other=type("Other", (Hungry,), {}))
    assert loaded == ["3 units", "3 units"]
    assert memory.startswith("memory: 28.3 GB free: one 9.0 GB + 3 streams of 120 s (3.0 GB), other")


def test_one_engine_in_both_roles_is_one_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ready(monkeypatch, 14 * GB + WORK_SPACE, one=Hungry)[1:] == ("5 units",)


def test_who_demands_nothing_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is not asked either."""
    assert ready(monkeypatch, 14 * GB + WORK_SPACE, one=Hungry, modest=Modest)[1:] == ("5 units", "None units")
    monkeypatch.undo()
    monkeypatch.setattr(registry, "engine_class", lambda name: Modest)
    notes = process.build(m.Configure("modest", None, {}), Inbox(), Unread())[1].notes
    assert notes == ("None units",)


def test_too_little_memory_is_known_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "load", None)
    with pytest.raises(Unusable, match=r"9\.9 GB are free, 14\.3 GB are needed"):
        ready(monkeypatch, int(9.9 * GB), one=Hungry)


# ── the two models ──────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def released() -> tuple[Any, Any]:
    """The configs of the released models: Realtime's and Mini's."""
    from transformers import VoxtralConfig, VoxtralRealtimeConfig

    return (
        VoxtralRealtimeConfig(audio_config=ENCODER, text_config=DECODER, tie_word_embeddings=True),
        VoxtralConfig(audio_token_id=24),
    )


def wanted(realtime: RealtimeOptions, mini: MiniOptions) -> dict[str, Demand]:
    configs = released()
    return {
        "voxtral-realtime": build.demand_of(configs[0], realtime, torch.bfloat16),
        "voxtral-mini": mini_memory.demand_of(configs[1], mini, torch.bfloat16),
    }


def test_the_released_models_want_what_their_sizes_say() -> None:
    """8.86 GB of weights and 122 MiB of openings; 9.35 GB, of which the positions stay float32."""
    realtime, mini = wanted(RealtimeOptions(), MiniOptions()).values()
    begun = 31 * (30 * 106_496 + 4 * 262_144)
    assert realtime.fixed - realtime.unit == pytest.approx(8.859e9 + begun, rel=1e-3)
    slack = 30 + 10 + 3
    assert realtime.unit == pytest.approx((749 + 4 * (slack + 1)) * 262_144 + (32 + 1500 + slack) * 106_496, rel=0.05)
    assert mini.unit == 2048 * 122_880
    assert mini.fixed == pytest.approx(9.352e9 + 17 * 375 * 3072 * 2 + 64 * 122_880, rel=1e-3)
    assert (mini.least, mini.most) == (4, None)


def test_options_bound_what_is_wanted() -> None:
    realtime, mini = wanted(RealtimeOptions(max_streams=7), MiniOptions(max_context=2048, max_conversations=9)).values()
    assert realtime.most == 7
    assert (mini.least, mini.most) == (1, 9)


def test_a_granted_number_is_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tiny models are loaded in the way that the process takes."""
    monkeypatch.setenv("VOXD_EAGER", "1")
    for module in (build, mini_memory):
        monkeypatch.setattr(module, "where", lambda device: ("cpu", torch.float32))
    realtime = RealtimeOptions(model=str(tiny_voxtral.folder(0)), device="cpu", max_history_s=10)
    device = build.load(realtime, lambda text: None, eager=True, streams=3)
    assert device.slots.count == 3
    mini = MiniOptions(model=str(tiny_mini.folder(0)), device="cpu")
    loaded = mini_memory.load(mini, lambda text: None, eager=True, units=5)
    assert loaded.pages.count == 5 * 2048 // 64


def test_a_demand_is_read_from_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is missing demands nothing; its load says why it cannot be loaded."""
    for module in (build, mini_memory):
        monkeypatch.setattr(module, "where", lambda device: ("cuda", torch.bfloat16))
    realtime = RealtimeOptions(model=str(tiny_voxtral.folder(0)))
    mini = MiniOptions(model=str(tiny_mini.folder(0)))
    for found, options, path in (
        (build.demand(realtime), realtime, realtime.model),
        (mini_memory.demand(mini), mini, mini.model),
    ):
        assert found is not None, options
        weights = (Path(path) / "model.safetensors").stat().st_size
        assert weights / 2 < found.fixed < weights * 20, "in bfloat16, and what it opens with"
    assert build.demand(RealtimeOptions(model="nobody/nothing")) is None
    assert mini_memory.demand(MiniOptions(model=realtime.model)) is None


# ── what fits on which card ─────────────────────────────────────────────────────────────────────────────────────────

CARDS = {"24 GB": 22.3, "48 GB": 44.4, "80 GB": 79.1, "141 GB": 139.7}  # GiB that are free on them
USUAL = RealtimeOptions(), MiniOptions()
LOWERED = RealtimeOptions(max_history_s=30), MiniOptions(max_context=2048)
TABLE = """
| 24 GB (22.3 GiB) | 24 | 40 | no: 24.5 GB are needed | 2 + 1 |
| 48 GB (44.4 GiB) | 80 | 135 | 36 + 36 | 44 + 44 |
| 80 GB (79.1 GiB) | 167 | 283 | 91 + 92 | 111 + 111 |
| 141 GB (139.7 GiB) | 321 | 541 | 188 + 187 | 228 + 229 |
"""


def fits(gib: float, demands: Mapping[str, Demand]) -> str:
    try:
        shares = plan(int(gib * 2**30), demands).units
    except Unusable as reason:
        return f"no: {re.findall(r'[0-9.]+ GB are needed', str(reason))[0]}"
    return " + ".join(map(str, shares.values()))


def row(card: str, gib: float) -> str:
    both = wanted(*USUAL)
    alone = [fits(gib, {name: demand}) for name, demand in both.items()]
    cells = [f"{card} ({gib} GiB)", *alone, fits(gib, both), fits(gib, wanted(*LOWERED))]
    return f"| {' | '.join(cells)} |"


def test_what_fits_on_which_card() -> None:
    """The table of the documents.  Streams of 120 s with Realtime alone, conversations of 2048 tokens with Mini alone,
    both; and both with max_history_s 30 and max_context 2048."""
    assert [row(card, gib) for card, gib in CARDS.items()] == TABLE.strip().splitlines()
