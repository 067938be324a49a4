"""Server-sent events, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from voxd.engine.cascade.sse import LIMIT, Events


def read(*pieces: bytes) -> list[str]:
    events = Events()
    return [data for piece in pieces for data in events.feed(piece)] + list(events.finish())


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: one\n\ndata: two\n\n", ["one", "two"]),
        (b"data:one\r\n\r\ndata:  two\r\r", ["one", " two"]),
        (b": ping\n\nevent: message\nid: 7\nretry: 5\ndata: one\n\n", ["one"]),
        (b"data: one\ndata: two\n\n\n\n", ["one\ntwo"]),
        (b"\xef\xbb\xbfdata: one\n\n", ["one"]),
        (b'error: {"code": 500}\n\n', ['{"code": 500}']),
        (b"data\n\n", [""]),
        (b"data: one\n\ndata: [DONE]", ["one", "[DONE]"]),
        ("data: a\u2028b\x85c\x0bd\n\n".encode(), ["a\u2028b\x85c\x0bd"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"", []),
    ],
)
def test_what_a_stream_holds(stream: bytes, data: list[str]) -> None:
    assert read(stream) == data
    assert read(*(stream[i : i + 1] for i in range(len(stream)))) == data


LINES = st.lists(
    st.tuples(st.sampled_from(["data: ", "data:", ": ", "event: ", "", "error: "]), st.text("aé漢🎙\u2028 :"))
)


@given(LINES, st.sampled_from(["\n", "\r", "\r\n"]), st.lists(st.integers(0, 400)))
def test_pieces_make_no_difference(lines: list[tuple[str, str]], end: str, cuts: list[int]) -> None:
    stream = "".join(name + value + end for name, value in lines).encode() + end.encode()
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert read(*(stream[a:b] for a, b in pairwise(places))) == read(stream)


def test_an_event_is_told_as_soon_as_its_empty_line_has_come() -> None:
    events = Events()
    assert list(events.feed(b"data: one\r\n\r")) == ["one"]
    assert list(events.feed(b"\ndata: two\r\n\r\n")) == ["two"]


def test_a_line_without_end_is_refused() -> None:
    pieces = [b"x" * 1000] * (LIMIT // 1000 + 2)
    with pytest.raises(ValueError, match="more than"):
        read(*pieces)
