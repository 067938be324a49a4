"""When sound goes by UDP, and when it comes back: the judge, fed with numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from voxtui.link.transport_policy import (
    FEW,
    GAIN_MS,
    GONE,
    LOOK_BACK,
    MANY,
    MIXED,
    REST,
    STALL_MS,
    TRIAL,
    WINDOW,
    Judge,
    Verdict,
)

EACH = 10  # packets that an acknowledgement stands for
NEVER = 20 * REST
ZERO = 1e6  # the clocks of two machines begin at their own times


def lags(late_share: float, late_ms: float) -> Iterator[float]:
    """Lags as a network gives them where so many come late."""
    for number in itertools.count(1):
        late = int(number * late_share) > int((number - 1) * late_share)
        yield ZERO + late_ms * late


def by_socket(judge: Judge, late_share: float = 0.1, late_ms: float = 100, most: int = NEVER) -> int | None:
    """The number of acknowledgements until UDP is to be tried; None: it never was."""
    for number, lag in zip(range(most), lags(late_share, late_ms), strict=False):
        if judge.stalls() is not None:
            return number
        judge.heard(lag)
    return None


def by_udp(
    judge: Judge, loss: float, late_share: float = 0, late_ms: float = 0, more_ms: float = 5, most: int = 1000
) -> list[Verdict]:
    """The verdicts on UDP until it is left."""
    said: list[Verdict] = []
    sent, lost = judge._counts[-1][0], float(judge._counts[-1][1])
    for _, lag in zip(range(most), lags(late_share, late_ms), strict=False):
        sent, lost = sent + EACH, lost + EACH * loss
        judge.heard(lag + more_ms)
        judge.counted(sent, round(lost))
        if verdict := judge.verdict():
            said.append(verdict)
            if not verdict.keep:
                break
    return said


def tried() -> Judge:
    judge = Judge()
    assert by_socket(judge) is not None
    judge.began()
    return judge


def kept() -> Judge:
    judge = tried()
    (verdict,) = by_udp(judge, 0.01, most=TRIAL + MIXED)
    assert verdict.keep
    return judge


@pytest.mark.parametrize(
    ("late_share", "late_ms", "tries"),
    [
        (0.0, 0.0, False),
        (1.0, 300.0, False),  # far away, but steady
        (0.03, 300.0, False),  # seldom
        (0.12, STALL_MS / 2, False),  # a little
        (0.12, 80.0, True),
        (0.4, 2000.0, True),
    ],
)
def test_udp_is_tried_where_sound_stalls(late_share: float, late_ms: float, tries: bool) -> None:
    found = by_socket(Judge(), late_share, late_ms, 2000)
    assert (found is not None) == tries
    assert found is None or found >= WINDOW


KEEP, LOSES, NO_GAIN = "sooner at p95", "of it.", "would be worth its losses"


@pytest.mark.parametrize(
    ("loss", "late_share", "late_ms", "more_ms", "keep", "why"),
    [
        (0.0, 0.0, 0.0, 5.0, True, KEEP),
        (FEW - 0.005, 0.0, 0.0, 5.0, True, KEEP),
        (FEW + 0.005, 0.0, 0.0, 5.0, False, LOSES),
        (MANY + 0.05, 0.0, 0.0, 5.0, False, LOSES),
        (0.0, 0.2, 100.0, 5.0, False, NO_GAIN),  # it stalls like the WebSocket
        (0.0, 0.0, 0.0, 100 - GAIN_MS / 2, False, NO_GAIN),  # a longer way
        (0.0, 0.0, 0.0, 100 - 2 * GAIN_MS, True, KEEP),
    ],
)
def test_udp_is_kept_if_it_is_better(
    loss: float, late_share: float, late_ms: float, more_ms: float, keep: bool, why: str
) -> None:
    verdict = by_udp(tried(), loss, late_share, late_ms, more_ms)[0]
    assert verdict.keep is keep
    assert why in verdict.why


def test_what_is_said_has_the_figures() -> None:
    assert by_udp(tried(), 0.01)[0].why == "95 ms sooner at p95, 1.0% of it lost."
    assert by_udp(tried(), 0.03)[0].why == "WebRTC loses 3.0% of it."
    wanted = "at p95; 20 ms would be worth its losses."
    assert by_udp(tried(), 0, more_ms=150)[0].why == f"by WebRTC it comes 50 ms later {wanted}"
    assert by_udp(tried(), 0, more_ms=100)[0].why == f"by WebRTC it comes no sooner {wanted}"


def test_a_trial_is_short() -> None:
    judge = tried()
    assert by_udp(judge, 0, most=TRIAL + MIXED - 1) == []
    assert len(by_udp(judge, 0, most=1)) == 1
    assert len(by_udp(tried(), 1.0, most=LOOK_BACK // EACH)) == 1, "nothing comes through"


def test_it_is_told_once_that_udp_is_kept() -> None:
    assert by_udp(kept(), 0.01) == []


def test_what_was_kept_may_lose_a_little_more() -> None:
    assert by_udp(kept(), (FEW + MANY) / 2) == []
    assert by_udp(kept(), MANY + 0.01)[-1].why.startswith("WebRTC loses 5.")


def test_what_was_kept_is_left_when_it_stalls_more_than_the_websocket_did() -> None:
    assert by_udp(kept(), 0, 0.1, 80) == []
    (verdict,) = by_udp(kept(), 0, 0.1, 150)
    assert verdict == Verdict(keep=False, why="by WebRTC p95 is 150 ms behind the median, by WebSocket it was 100.")


def test_clocks_that_drift_are_no_reason_to_change() -> None:
    judge = kept()
    sent, lost = judge._counts[-1]
    for number in range(50_000):  # three hours, a second apart at the end
        judge.heard(ZERO + number / 50)
        judge.counted(sent := sent + EACH, lost)
        assert judge.verdict() is None


def test_a_way_by_which_nothing_comes_is_left() -> None:
    for judge in (tried(), kept()):
        sent, lost = judge._counts[-1]
        judge.heard(ZERO)
        judge.counted(sent + GONE, lost)
        assert judge.verdict() is None
        judge.counted(sent + GONE + 1, lost)
        verdict = judge.verdict()
        assert verdict == Verdict(keep=False, why="nothing is acknowledged by WebRTC for 3 s.")


def test_a_person_who_says_nothing_is_no_reason_to_change() -> None:
    """With push-to-talk nothing is sent, and nothing acknowledged."""
    judge = kept()
    counts = judge._counts[-1]
    for _ in range(1000):
        judge.counted(*counts)
        assert judge.verdict() is None


def test_what_was_held_back_while_there_was_no_link_is_not_judged() -> None:
    judge = Judge()
    for _ in range(WINDOW - 1):
        judge.heard(ZERO)
    judge.forget()
    for _ in range(MIXED):
        judge.heard(ZERO + 20_000)
    assert by_socket(judge, 0, 0, WINDOW) is None


def test_it_does_not_flap() -> None:
    """On a network on which UDP is never better, each rest is twice as long as the one before."""
    judge, waited, told = Judge(), [], []
    for _ in range(4):
        waited.append(by_socket(judge))
        told.append(judge.rest_min)
        judge.began()
        assert not by_udp(judge, 0.03)[0].keep
        judge.ended()
    assert waited == [WINDOW, MIXED + REST, MIXED + 2 * REST, MIXED + 4 * REST]
    assert told == [5, 10, 20, 40]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("heard"), st.floats(-1e9, 1e9), st.just(0)),
            st.tuples(st.just("counted"), st.integers(0, 2000), st.integers(-5, 2000)),
            st.tuples(st.just("forget"), st.just(0), st.just(0)),
            st.tuples(st.just("steady"), st.floats(-1e3, 1e3), st.integers(1, 300)),
        ),
        max_size=60,
    )
)
def test_whatever_it_is_fed_it_keeps_its_rules(steps: list[tuple[str, float, int]]) -> None:
    """Obeyed, as the shell does: UDP is taken only after a window of lags, and not in a rest; it is kept once, left
    once, and its loss is a share."""
    judge, udp, was_kept, since, rested, rest = Judge(), False, False, 0, 0, 0
    for what, first, second in steps:
        if what == "counted":
            if udp:
                sent, lost = judge._counts[-1]
                judge.counted(sent + int(first), max(0, lost + second))
        elif what == "forget":
            judge.forget()
            since = 0
        else:
            for _ in range(second or 1):
                judge.heard(first)
                since, rested = since + 1, rested + 1
        assert judge.loss is None or 0 <= judge.loss <= 1
        if udp:
            if verdict := judge.verdict():
                assert not (verdict.keep and was_kept)
                was_kept = True
                if not verdict.keep:
                    rest = 60 * 5 * judge.rest_min
                    judge.ended()
                    udp, since, rested = False, 0, 0
        elif judge.stalls() is not None:
            assert since >= WINDOW
            assert rested >= rest
            judge.began()
            udp, was_kept = True, False
