"""Resamples the audio that comes along with items to 16 kHz, a piece at a time.  Step 10.

Pure.  It knows where events carry audio, and formats; not what an item is for.
"""

from __future__ import annotations

from collections.abc import Generator

from msgspec import UNSET
from msgspec.structs import replace

from shared.audio import RATE, Decoder
from shared.events import ClientEvent, ResponseCreate, WireError
from shared.session_config import Format
from voxd.session.intake import drafts_of, with_drafts
from voxd.session.listening import CAPACITY_S, PIECES

PCM = "audio/pcm"
INPUTS = 500  # items that come with one `response.create`


def resampled(event: ClientEvent, form: Format) -> Generator[None, None, ClientEvent]:
    """The same event with its audio (in the format `form`) as s16le at 16 kHz.  Raises WireError for too much audio."""
    drafts = []
    if isinstance(event, ResponseCreate) and event.response.input is not UNSET and len(event.response.input) > INPUTS:
        raise WireError("invalid_value", f"At most {INPUTS} items are taken.", "response.input")
    for draft in drafts_of(event):
        content = list(draft.content)
        for index, part in enumerate(content):
            if part.audio is not UNSET:
                content[index] = replace(part, audio=(yield from _sound(part.audio, form)))
        drafts.append(replace(draft, content=tuple(content)))
    return with_drafts(event, drafts)


def _sound(audio: bytes, form: Format) -> Generator[None, None, bytes]:
    second = form.hz * (2 if form.type == PCM else 1)
    if len(audio) > CAPACITY_S * second:
        message = f"The audio of an item may have {CAPACITY_S} s; this one has {len(audio) // second}."
        raise WireError("invalid_value", message, "item.content.audio")
    if form.type == PCM and form.hz == RATE:
        return audio[: len(audio) & ~1]
    decoder, pieces = Decoder(form.type, form.hz), []
    for at in range(0, len(audio), second // PIECES):
        pieces.append(decoder.decode(audio[at : at + second // PIECES]))
        yield
    return b"".join((*pieces, decoder.drain()))
