"""Messages come out as they went in, in whatever pieces the socket delivers them."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import get_args

import msgspec
import pytest
from hypothesis import given, strategies as st

from voxd import framing, messages as m

COMMANDS: list[m.Command] = [
    m.Configure("echo", None, {"echo": {"tokens": 3, "deep": [1, 2.5, None, True, "ü"]}}),
    m.Open(1, ("transcribe", "respond"), "de", "Voxtral", 480, 512),
    m.Feed(1, 512, bytes(range(256))),
    m.Onset(1, 2, 512, "said before"),
    m.Flush(1, 2, 9000),
    m.Rollback(1, 2),
    m.Commit(1, 2, 9000),
    m.Respond(1, 3, (m.Turn("system", "Be brief."), m.Turn("user", "", 2)), 16),
    m.Speculate(1, 3, 2, 9000, (m.Turn("assistant", "Yes."),), None),
    m.Crop(1, 3),
    m.Cancel(1, 3),
    m.Leave(1),
    m.Prepare(1, 2, (m.Turn("user", "", 1, "hello"),)),
    m.Audio(1, 2, b"\0\1"),
    m.Close(1),
    m.Part(1, (m.Turn("user", "long"),)),
    m.Stop(),
]
REPORTS: list[m.Report] = [
    m.Heard(1, 512, (0.0, 0.5, 1.0)),
    m.Said(1, 2, " wörld", "?", 5120, 1, 2**52, 7),
    m.Guessed(1, 2, 9000, "hello"),
    m.Settled(1, 2, "incomplete", "hello", 5, 4, 3, 2, 1, 0),
    m.Opened(1),
    m.Refused(1, "no slot", 9),
    m.Failed(1, None, "engine_error", "see the log"),
    m.Warned(1, "transcriber_restarted", "again"),
    m.Progress("loading"),
    m.Ready("echo", None, True, ("a note",)),
    m.Beat(2**52, 3, 1024),
    m.Broken("no GPU", True),
]


def test_there_is_an_example_of_every_message() -> None:
    assert {type(command) for command in COMMANDS} == set(get_args(m.Command))
    assert {type(report) for report in REPORTS} == set(get_args(m.Report))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(ends)]


@given(st.lists(st.sampled_from(COMMANDS), max_size=20), st.lists(st.integers(0, 10_000), max_size=30))
def test_commands_survive_any_cutting(commands: list[m.Command], places: list[int]) -> None:
    unframer = framing.commands()
    found: list[m.Command] = []
    for piece in cut(b"".join(map(framing.encode, commands)), places):
        found += unframer.feed(piece)
    assert found == commands


@given(st.lists(st.sampled_from(REPORTS), max_size=20), st.lists(st.integers(0, 10_000), max_size=30))
def test_reports_survive_any_cutting(reports: list[m.Report], places: list[int]) -> None:
    unframer = framing.reports()
    found: list[m.Report] = []
    for piece in cut(b"".join(map(framing.encode, reports)), places):
        found += unframer.feed(piece)
    assert found == reports


def test_a_message_comes_out_with_its_last_byte() -> None:
    unframer, data = framing.reports(), framing.encode(m.Progress("loading"))
    for byte in data[:-1]:
        assert list(unframer.feed(bytes([byte]))) == []
    assert list(unframer.feed(data[-1:])) == [m.Progress("loading")]


def test_what_is_in_front_of_an_error_is_not_lost() -> None:
    found = framing.commands().feed(framing.encode(m.Close(1)) + struct.pack("<I", framing.LIMIT + 1))
    assert next(found) == m.Close(1)
    with pytest.raises(ValueError, match=rf"a message of {framing.LIMIT + 1} bytes; at most {framing.LIMIT}"):
        next(found)


def test_a_length_over_the_limit_is_refused_before_its_bytes_are_awaited() -> None:
    with pytest.raises(ValueError, match="at most"):
        list(framing.reports().feed(b"\xff\xff\xff\xff"))


def test_the_directions_do_not_mix() -> None:
    with pytest.raises(msgspec.DecodeError):
        list(framing.commands().feed(framing.encode(m.Beat(0, 0, 0))))
    with pytest.raises(msgspec.DecodeError):
        list(framing.reports().feed(framing.encode(m.Stop())))


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\xc0", b"\x91\xa4Nope", b"\x92\xa4Open\x01", b"\x94\xa4Feed\x01\xa1x\xc4\x00", b"\xc4\x01"],
    ids=["nothing", "no MessagePack", "null", "unknown tag", "fields missing", "wrong type", "cut short"],
)
def test_a_body_that_is_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        list(framing.commands().feed(struct.pack("<I", len(body)) + body))


@given(st.binary(max_size=200))
def test_garbage_gives_messages_or_one_of_two_errors(data: bytes) -> None:
    try:
        found = list(framing.commands().feed(data))
    except (ValueError, msgspec.DecodeError):
        return
    assert all(isinstance(command, get_args(m.Command)) for command in found)


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        COMMANDS[2].start = 0  # type: ignore[union-attr,misc]
