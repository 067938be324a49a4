"""Tests of the metrics, with invented times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from shared.latency import SampleClock, Summary, TurnMetrics, TurnStamps, percentile, summarise

floats = st.floats(-1e6, 1e6)


@given(st.lists(floats, min_size=1), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], q: float) -> None:
    assert percentile(values, q) == pytest.approx(float(np.percentile(values, q)), rel=1e-9, abs=1e-6)


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_sample_has_the_time_of_its_packet_less_what_follows_it() -> None:
    clock = SampleClock()
    clock.record(320, 1_000_000)
    clock.record(640, 1_020_000)

    assert clock.time_of(320) == 1_000_000
    assert clock.time_of(480) == 1_010_000
    assert clock.time_of(641) is None


def test_the_clock_forgets() -> None:
    clock = SampleClock(size=2)
    for packet in range(1, 200):
        clock.record(packet * 320, packet * 20_000)

    assert clock.time_of(198 * 320) == 198 * 20_000
    assert clock.time_of(320) is None


def test_what_was_complete_is_not_complete_again() -> None:
    """Recording the same sample again neither moves its time nor forgets earlier samples."""
    clock = SampleClock(size=2)
    for end, time_us in ((320, 20_000), (640, 40_000), (640, 90_000), (640, 95_000)):
        clock.record(end, time_us)

    assert (clock.time_of(320), clock.time_of(640)) == (20_000, 40_000)


def test_provisional_words_are_the_first_to_be_seen_and_some_stand() -> None:
    stamps = TurnStamps(first_voiced_us=1_000_000)
    assert not stamps.guess(1_200_000, " ")
    assert stamps.guess(1_300_000, "Hi there")
    assert not stamps.guess(1_500_000, "He was")
    stamps.text(1_900_000)
    stamps.guesses.confirm("He was not.")
    assert "stood" not in stamps.metrics(user=True).as_dict(), "nobody knows before the end"
    stamps.final_us = 2_000_000

    found = stamps.metrics(user=True).as_dict()
    assert (found["first_words_ms"], found["first_text_ms"], found["stood"]) == (300.0, 900.0, 0.5)


def test_a_transcription_has_its_words_and_no_others() -> None:
    stamps = TurnStamps(first_voiced_us=1_000_000, last_voiced_us=3_000_000, decided_us=3_520_000)
    stamps.text(1_600_000)
    stamps.text(2_000_000)
    stamps.final_us = 3_700_000
    stamps.compute_us, stamps.audio_us = 500_000, 2_000_000

    assert stamps.metrics(user=True).as_dict() == {
        "endpoint_ms": 520.0,
        "first_words_ms": 600.0,
        "first_text_ms": 600.0,
        "final_ms": 700.0,
        "rtf": 0.25,
    }


def test_a_response_has_its_words_and_no_others() -> None:
    stamps = TurnStamps(last_voiced_us=0, decided_us=500_000, commit_us=500_000)
    stamps.engine_commit_us, stamps.engine_first_us = 500_500, 538_500
    for now_us in (541_000, 561_000, 601_000):
        stamps.delta(now_us)

    server, user = stamps.metrics(user=False), stamps.metrics(user=True)
    assert server.as_dict() == {
        "ttft_engine_ms": 38.0,
        "ttft_server_ms": 41.0,
        "endpoint_ms": 500.0,
        "total_ms": 101.0,
    }
    assert user.ttft_user_ms == 541.0
    assert user.itl_ms == [20.0, 40.0]


def test_speculation_makes_a_first_token_early_but_never_negative() -> None:
    assert TurnStamps(engine_commit_us=900, engine_first_us=100).metrics(user=False).ttft_engine_ms == 0


def test_a_summary_counts_only_turns_to_which_the_metric_applied() -> None:
    one, other = TurnStamps(last_voiced_us=0, final_us=100_000), TurnStamps()

    assert summarise([one.metrics(user=True), other.metrics(user=True)]) == {"final_ms": Summary(1, 100, 100, 100, 100)}


def test_a_summary_knows_the_worst() -> None:
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(3, 2.0, 2.9, 2.98, 3.0)


def test_summaries_come_in_the_order_of_the_table() -> None:
    """The order does not depend on the first turn."""
    assert list(summarise([TurnMetrics(rtf=0.5), TurnMetrics(endpoint_ms=1.0, itl_ms=[2.0])])) == [
        "endpoint_ms",
        "itl_ms",
        "rtf",
    ]


def test_metrics_survive_the_wire() -> None:
    """Unknown metrics of a newer server are skipped, and so is a list where one number belongs."""
    found = TurnMetrics(final_ms=300.0, total_ms=20.0)
    assert TurnMetrics.of({**found.as_dict(), "wonder_ms": 1.0, "itl_ms": 2.0}) == found
