"""Makes a client's message of any size ready to be parsed in one go.  Before step 5.

Pure.  It knows JSON as text and base64; not what an event means.  It yields after at most a few milliseconds of work,
so that its caller can serve other sessions in between.

What makes JSON slow is not its length but its structure: a hundred thousand empty lists take longer than 2 MB of text.
So what stands outside of long strings is bounded, and long base64 in a field `audio` is taken out and decoded in
slices; a key of a few bytes stands for it while the rest is parsed.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import UNSET
from msgspec.structs import replace

from shared.events import AudioAppend, ClientEvent, ItemCreate, ItemDraft, ResponseCreate, WireError

PLAIN = 32 << 10  # characters of a message that is parsed as it came
STRUCTURE = 256 << 10  # characters of a message outside of its long strings
VALUES = 20_000  # of a message: objects, lists and what is in them
TEXTS = 4 << 20  # characters of all long strings that are no audio
AUDIO = 15 << 20  # bytes of all audio in one message, decoded
LONG = 4 << 10  # characters: a long string
_SLICE = 256 << 10  # characters of base64 decoded at once; a multiple of 4
_QUOTES = 4096  # looked at in one go
_MOST_QUOTES = 500_000
_FIELD = re.compile(r'"audio"\s{0,8}:\s{0,8}\Z')
_KEY = "voxd/audio/%04d/"  # 16 characters of base64


@dataclass(slots=True)
class Light:
    """A message without its long audio; `audio` maps each key that stands in its place to the decoded bytes."""

    text: str
    audio: dict[bytes, bytes] = field(default_factory=dict)


Working = Generator[None, None, Light]


def lighten(data: str) -> Working:
    """Takes the long audio out of a message and decodes it.  Raises WireError for a message with too much in it."""
    if len(data) <= PLAIN:
        return Light(data)
    light = Light("")
    kept: list[str] = []
    at = structure = texts = sound = values = 0
    for span in _long_strings(data):
        if span is None:
            yield
            continue
        start, end = span
        structure += start - at
        _check(structure, values, texts, sound)  # before anything is copied
        outside = data[at:start]
        values += count_values(outside)
        if _FIELD.search(data, max(0, start - 25), start - 1):
            sound += (end - start) * 3 // 4
            _check(structure, values, texts, sound)
            key = _KEY % len(light.audio)
            light.audio[binascii.a2b_base64(key)] = yield from _decoded(data, start, end)
            kept += (outside, key)
        else:
            texts += end - start
            kept.append(data[at:end])
        at = end
    _check(structure + len(data) - at, values, texts, sound)
    rest = data[at:]
    _check(structure, values + count_values(rest), texts, sound)
    light.text = "".join((*kept, rest))
    return light


def drafts_of(event: ClientEvent) -> list[ItemDraft]:
    """The message items that an event carries."""
    match event:
        case ItemCreate(item=ItemDraft() as item):
            return [item]
        case ResponseCreate(response=request) if request.input is not UNSET:
            return [part for part in request.input if isinstance(part, ItemDraft)]
    return []


def with_drafts(event: ClientEvent, drafts: Iterable[ItemDraft]) -> ClientEvent:
    """The same event with these message items in place of its own, as many as there were."""
    rest = iter(drafts)
    match event:
        case ItemCreate(item=ItemDraft()):
            return replace(event, item=next(rest))
        case ResponseCreate(response=request) if request.input is not UNSET:
            parts = tuple(next(rest) if isinstance(part, ItemDraft) else part for part in request.input)
            return replace(event, response=replace(request, input=parts))
    return event


def whole(event: ClientEvent, audio: Mapping[bytes, bytes]) -> ClientEvent:
    """The event with its audio.  Raises WireError if there was audio where none belongs."""
    left = dict(audio)
    if isinstance(event, AudioAppend):
        event = replace(event, audio=left.pop(event.audio, event.audio))
    elif left:
        event = with_drafts(event, [_filled(draft, left) for draft in drafts_of(event)])
    if left:
        raise WireError(
            "event_too_large", "Long audio can only be sent in input_audio_buffer.append or in an item.", "audio"
        )
    return event


def _filled(draft: ItemDraft, audio: dict[bytes, bytes]) -> ItemDraft:
    content = tuple(
        part if part.audio is UNSET else replace(part, audio=audio.pop(part.audio, part.audio))
        for part in draft.content
    )
    return replace(draft, content=content)


def count_values(text: str) -> int:
    """How many values JSON has, at most."""
    return text.count(",") + text.count("[") + text.count("{")


def _check(structure: int, values: int, texts: int, sound: int) -> None:
    if structure > STRUCTURE or values > VALUES or texts > TEXTS:
        message = (
            f"The event is too large: beside audio at most {STRUCTURE} characters, {VALUES} values and {TEXTS} "
            "characters of long texts are taken."
        )
        raise WireError("event_too_large", message)
    if sound > AUDIO + 2:
        raise WireError("invalid_value", f"An event takes at most {AUDIO} bytes (15 MiB) of audio.", "audio")


def _long_strings(data: str) -> Generator[tuple[int, int] | None, None, None]:
    """Start and end of each long string, without its quotes; None now and then, where the caller may pause."""
    at, start, seen = 0, -1, 0
    while (quote := data.find('"', at)) >= 0:
        at = quote + 1
        seen += 1
        if seen % _QUOTES == 0:
            if seen > _MOST_QUOTES:
                _check(0, VALUES + 1, 0, 0)
            yield None
        if start < 0:
            start = at
        elif not _is_escaped(data, start, quote):
            if quote - start >= LONG:
                yield start, quote
            start = -1


def _is_escaped(data: str, start: int, quote: int) -> bool:
    """Whether an odd number of backslashes stands before this quote.  Thousands of them are refused."""
    before = data[max(start, quote - LONG) : quote]
    slashes = len(before) - len(before.rstrip("\\"))
    if slashes == LONG:
        _check(STRUCTURE + 1, 0, 0, 0)
    return bool(slashes % 2)


def _decoded(data: str, start: int, end: int) -> Generator[None, None, bytes]:
    parts = []
    for at in range(start, end, _SLICE):
        piece = data[at : min(end, at + _SLICE)]
        try:
            parts.append(binascii.a2b_base64(piece, strict_mode=True))
        except ValueError:  # characters that are none of base64, or none of ASCII
            raise WireError("invalid_value", "The audio is not valid base64.", "audio") from None
        if at + _SLICE < end and len(parts[-1]) < _SLICE // 4 * 3:  # padding before the end
            raise WireError("invalid_value", "The audio is not valid base64.", "audio")
        yield
    return b"".join(parts)
