"""Reads the head of a GGUF file: which model it holds, and the memory of its context.  Not in the packet's path.

It knows the format (ggml's docs/gguf.md, versions 2 and 3); not what a model computes.  llama.cpp says of a file that
it cannot load only that it cannot, so what people get wrong most is found here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = 1 << 20  # bytes that are looked at; what is asked for stands before the vocabulary, which is larger
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
Value = int | float | bool | str | list[int | float | bool]


class NotGguf(ValueError):
    """It is no GGUF file that can be read; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself."""

    architecture: str
    name: str
    context: int  # tokens that it was trained with; 0: it does not say
    per_token: int  # bytes of a token in the cache, in 16 bits; 0: unknown
    hears: bool  # it is a projector with an encoder for sound


def read_header(path: Path) -> GgufHeader:
    """Raises NotGguf, and OSError for what cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[:4] != b"GGUF":
        raise NotGguf("it is no GGUF file")
    try:
        version, _, count = struct.unpack_from("<IQQ", head, 4)
    except struct.error:
        raise NotGguf("it ends in the middle of its head") from None
    if version not in (2, 3):
        raise NotGguf(f"it is of version {version} of the format, and llama.cpp reads 2 and 3 (low byte first)")
    values = dict(_values(head, 24, count))
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise NotGguf("it does not say which kind of model it holds (general.architecture)")

    def number(key: str) -> int:
        found = values.get(f"{architecture}.{key}")
        found = max((each for each in found if isinstance(each, int)), default=0) if isinstance(found, list) else found
        return found if isinstance(found, int) else 0

    heads = number("attention.head_count")
    width = number("attention.key_length") or (number("embedding_length") // heads if heads else 0)
    per_token = 2 * 2 * number("block_count") * (number("attention.head_count_kv") or heads) * width
    name = str(values.get("general.name") or path.stem)
    hears = values.get("clip.has_audio_encoder") is True
    return GgufHeader(architecture, name[:80], number("context_length"), per_token, hears)


def _values(head: bytes, at: int, count: int) -> Iterator[tuple[str, Value]]:
    """The entries, up to the vocabulary or the end of what was read."""
    try:
        for _ in range(min(count, 10_000)):
            key, at = _text(head, at)
            if key.startswith("tokenizer."):
                return
            kind = struct.unpack_from("<I", head, at)[0]
            value, at = _value(head, at + 4, kind)
            yield key, value
    except struct.error:
        return


def _value(head: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == _STRING:
        return _text(head, at)
    if kind != _ARRAY:
        return _scalar(head, at, kind)
    kind, count = struct.unpack_from("<IQ", head, at)
    at += 12
    found: list[int | float | bool] = []
    for _ in range(count):
        value, at = _text(head, at) if kind == _STRING else _scalar(head, at, kind)
        if not isinstance(value, str):
            found.append(value)
    return found, at


def _scalar(head: bytes, at: int, kind: int) -> tuple[int | float | bool, int]:
    form = _SCALARS.get(kind)
    if form is None:
        raise NotGguf(f"its head is damaged: there is no type of value {kind}")
    return struct.unpack_from(f"<{form}", head, at)[0], at + struct.calcsize(form)


def _text(head: bytes, at: int) -> tuple[str, int]:
    size = struct.unpack_from("<Q", head, at)[0]
    at += 8
    if at + size > len(head):
        raise struct.error("beyond what was read")
    return head[at : at + size].decode("utf-8", "replace"), at + size
