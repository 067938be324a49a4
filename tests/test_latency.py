"""The latency words, on invented times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.latency import SampleClock, Summary, TurnStamps, percentile, summarise

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


def test_a_transcription_has_its_words_and_no_others() -> None:
    stamps = TurnStamps(first_voiced_us=1_000_000, last_voiced_us=3_000_000, decided_us=3_520_000)
    stamps.text(1_600_000)
    stamps.text(2_000_000)
    stamps.final_us = 3_700_000
    stamps.compute_us, stamps.audio_us = 500_000, 2_000_000

    assert stamps.metrics(user=True).as_dict() == {
        "endpoint_ms": 520.0,
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
        "ttft_server_ms": 41.0,
        "ttft_engine_ms": 38.0,
        "endpoint_ms": 500.0,
        "total_ms": 101.0,
    }
    assert user.ttft_user_ms == 541.0
    assert user.itl_ms == [20.0, 40.0]


def test_speculation_makes_a_first_token_early_but_never_negative() -> None:
    assert TurnStamps(engine_commit_us=900, engine_first_us=100).metrics(user=False).ttft_engine_ms == 0


def test_a_summary_counts_only_turns_to_which_the_metric_applied() -> None:
    one, other = TurnStamps(last_voiced_us=0, final_us=100_000), TurnStamps()

    assert summarise([one.metrics(user=True), other.metrics(user=True)]) == {"final_ms": Summary(1, 100, 100, 100)}
