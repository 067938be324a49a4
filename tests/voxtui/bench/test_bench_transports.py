"""A bench of transports: which ways there are, what is said of them, and how long a packet is on its way up."""

from __future__ import annotations

import click
import pytest

from shared.events import Metrics, Pong, SpeechStarted, SpeechStopped, TranscriptionCompleted
from shared.latency import SampleClock, TurnMetrics
from voxtui.bench.report import Finding, transports_text
from voxtui.bench.tally import UPLINK, Counts, Result
from voxtui.cli import _ways
from voxtui.link.target import parse_target
from voxtui.session.meter import Meter, Report


def clock() -> SampleClock:
    """The microphone began at 1 s of this machine's clock."""
    found = SampleClock()
    for packet in range(1, 101):
        found.record(packet * 320, 1_000_000 + packet * 20_000)
    return found


def spoken(meter: Meter, speech_end_us: int) -> Report:
    """One utterance that ends with sample 16000, which voxd says to have got then, by its own clock."""
    meter.receive(SpeechStarted("", 0, "a"), 0)
    meter.receive(SpeechStopped("", 1500, "a"), 2_600_000)
    meter.receive(TranscriptionCompleted("", "a", 0, "yes", {}), 2_700_000)
    stamps, audio = {"speech_end_us": speech_end_us}, {"speech_end_ms": 1000}
    meter.receive(Metrics("", "transcription", "a", stamps, {"final_ms": 1.0}, audio, {}, 0.0), 2_700_000)
    report = meter.report("a")
    assert report is not None
    return report


def test_the_way_up_is_told_from_two_clocks() -> None:
    """voxd's is a minute ahead: the ping with the shortest way says so, the others are further off."""
    meter = Meter(clock())
    for up_us, down_us in ((40_000, 20_000), (2_000, 2_000), (5_000, 90_000)):
        t1_us = 1_500_000 + up_us + 60_000_000
        meter.receive(Pong("", None, 1_500_000, t1_us, t1_us + 7_000), 1_500_000 + up_us + 7_000 + down_us)

    assert spoken(meter, 60_000_000 + 2_000_000 + 12_500).uplink_ms == pytest.approx(12.5)


def test_without_pings_it_is_not_known() -> None:
    assert spoken(Meter(clock()), 62_012_500).uplink_ms is None


def test_a_row_for_each_way() -> None:
    def found(label: str, uplink_ms: float) -> Finding:
        reports = [Report(TurnMetrics(), TurnMetrics(), uplink_ms)]
        turns = [TurnMetrics(first_text_ms=400.0, final_ms=500.0)]
        return Finding(label, {}, 1, Result(Counts(heard=1, turns=1), turns, reports), [])

    text = transports_text("head", {"ws": found("a:1", 2.0), "webrtc": found("a:1", 7.0)}, "transcribe")

    table = [line.split() for line in text.splitlines() if "400" in line]
    assert table == [
        ["ws", "1", "2", "2", "-", "-", "400", "400", "500", "500"],
        ["webrtc", "1", "7", "7", "-", "-", "400", "400", "500", "500"],
    ]
    assert UPLINK in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "target", "host"),
    [
        ("ws,ws+ssh,webrtc", "gpu-box:8000", "gpu-box"),
        ("ws,ws+ssh", "unix:/run/voxd/voxd.sock", "localhost"),
        ("ws+ssh", "me@gpu-box", "me@gpu-box"),
    ],
)
def test_each_way_begins_at_the_same_machine(text: str, target: str, host: str) -> None:
    ways = _ways(text, parse_target(target))

    assert ",".join(ways) == text
    assert ways["ws+ssh"].ssh == host
    assert all(at == parse_target(target) for name, at in ways.items() if name != "ws+ssh")


@pytest.mark.parametrize(
    ("text", "target", "why"),
    [("ws,udp", "a:1", "not 'udp'"), ("", "a:1", "takes ws"), ("ws,ws+ssh", "me@gpu-box", "by ws\\+ssh only")],
)
def test_what_is_no_way_is_said_so(text: str, target: str, why: str) -> None:
    with pytest.raises(click.UsageError, match=why):
        _ways(text, parse_target(target))
