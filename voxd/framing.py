"""Messages on the socket between the gateway and the engine process: a little-endian length, then MessagePack.  Step 6.

Pure.  It knows messages and bytes; not sockets, nor who reads.  A command with a long context or audio is sent as
several messages, so that neither end spends long on one of them while all other streams wait.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from voxd import messages as m

M = TypeVar("M")
LIMIT = 64 << 20  # bytes in one message; 5 min of audio is 9.6 MB
# Characters of a context, or bytes of an Audio, in one message: what is encoded in one go, while other streams wait.
PIECE = 256 << 10
_HEADER = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class Unsendable(Exception):
    """This message cannot be sent: it is too large, or holds what MessagePack cannot express."""


def encode(message: m.Command | m.Report) -> bytes:
    """One framed message.  Raises Unsendable."""
    try:
        body = _encoder.encode(message)
    except (ValueError, OverflowError, TypeError) as error:  # half of a surrogate pair, an integer of over 64 bits
        raise Unsendable(f"a {type(message).__name__} that cannot be written: {error}") from None
    if len(body) > LIMIT:
        raise Unsendable(f"a {type(message).__name__} of {len(body)} bytes; at most {LIMIT}")
    return _HEADER.pack(len(body)) + body


def frames(command: m.Command) -> Iterator[bytes]:
    """A command as one framed message, or as several where its context or its audio is long, so that none takes long to
    encode.

    Raises Unsendable; before that, it yields a Part with nothing in it, which withdraws the parts sent so far."""
    if isinstance(command, m.Audio) and len(command.pcm) > PIECE:
        yield from _in_pieces(command)
        return
    if not isinstance(command, m.Prepare | m.Respond | m.Speculate) or command.size <= PIECE:
        yield encode(command)
        return
    *parts, last = _pieces(command.context)
    try:
        for turns in parts:
            yield encode(m.Part(command.stream, turns))
        yield encode(msgspec.structs.replace(command, context=last))
    except Unsendable:
        yield encode(m.Part(command.stream))
        raise


def _in_pieces(audio: m.Audio) -> Iterator[bytes]:
    *firsts, last = range(0, len(audio.pcm), PIECE)
    for begin in firsts:
        yield encode(m.Part(audio.stream, pcm=audio.pcm[begin : begin + PIECE]))
    yield encode(msgspec.structs.replace(audio, pcm=audio.pcm[last:]))


def _pieces(context: tuple[m.Turn, ...]) -> Iterator[tuple[m.Turn, ...]]:
    """The context in pieces of at most PIECE characters, or of one turn that is longer."""
    piece: list[m.Turn] = []
    size = 0
    for turn in context:
        if piece and size + turn.size > PIECE:
            yield tuple(piece)
            piece, size = [], 0
        piece.append(turn)
        size += turn.size
    yield tuple(piece)


class Joiner:
    """Puts commands together again that `frames` took apart.  Bound: one command, which is being put together."""

    def __init__(self) -> None:
        self._turns: list[m.Turn] = []
        self._pcm: list[bytes] = []

    def receive(self, command: m.Command) -> m.Command | None:
        """The whole command; None while parts of it are still to come."""
        if isinstance(command, m.Part):
            self._turns.extend(command.turns)
            if command.pcm:
                self._pcm.append(command.pcm)
            elif not command.turns:
                self._turns.clear()
            return None
        if self._pcm and isinstance(command, m.Audio):
            pieces, self._pcm = self._pcm, []
            return msgspec.structs.replace(command, pcm=b"".join((*pieces, command.pcm)))
        if self._turns and isinstance(command, m.Prepare | m.Respond | m.Speculate):
            turns, self._turns = self._turns, []
            return msgspec.structs.replace(command, context=(*turns, *command.context))
        return command


class Unframer(Generic[M]):
    """Makes whole messages of one direction from bytes in any pieces.

    Raises ValueError for a length over LIMIT and msgspec.DecodeError for a body that is not a message: both mean that
    the two ends are of different versions, and the link is to be closed."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > LIMIT:
                raise ValueError(f"a message of {length} bytes; at most {LIMIT}")
            if len(self._buffer) < _HEADER.size + length:
                return
            body = bytes(self._buffer[_HEADER.size : _HEADER.size + length])
            del self._buffer[: _HEADER.size + length]
            yield self._decoder.decode(body)


def commands() -> Unframer[m.Command]:
    """A reader of what the gateway sends."""
    return Unframer(msgspec.msgpack.Decoder(m.Command))


def reports() -> Unframer[m.Report]:
    """A reader of what the engine process sends."""
    return Unframer(msgspec.msgpack.Decoder(m.Report))
