"""An upgrade that cannot become a WebSocket is refused like any other request."""

from __future__ import annotations

import pytest

from voxd.web.upgrade import fault

RIGHT = {
    b"Connection": b"keep-alive, Upgrade",
    b"Upgrade": b"websocket",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Key": b"YWFhYWFhYWFhYWFhYWFhYQ==",
}


def test_what_clients_send_is_right() -> None:
    assert fault(RIGHT.items()) is None
    browser = {b"sec-websocket-protocol": b"realtime, openai-insecure-api-key.ek_x-y_z, openai-beta.realtime-v1"}
    extensions = {b"Sec-WebSocket-Extensions": b"permessage-deflate; client_max_window_bits", b"Origin": b"null"}
    assert fault((RIGHT | browser | extensions | {b"X": b"\xff\xfe"}).items()) is None


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"Sec-WebSocket-Protocol", b"openai-insecure-api-key.\xff"),
        (b"Sec-WebSocket-Protocol", "é".encode()),
        (b"Sec-WebSocket-Protocol", b""),
        (b"Sec-WebSocket-Protocol", b"realtime;q=1"),
        (b"Sec-WebSocket-Key", b"x"),
        (b"Sec-WebSocket-Key", b"\xff"),
        (b"Sec-WebSocket-Version", b"8"),
        (b"Upgrade", b"websocket, \xff"),
        (b"Connection", b"upgrade;;"),
    ],
)
def test_what_cannot_be_read_is_named(header: bytes, value: bytes) -> None:
    found = fault((RIGHT | {header: value}).items())
    assert found is not None
    assert found.header == header.decode()
    assert header.decode() in found.message
