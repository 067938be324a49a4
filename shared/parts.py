"""What events are made of: items, contents, responses, errors.  A part of `shared.events` in a file of its own.

Pure.  It knows shapes; null and absence follow the rule told there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Json = dict[str, Any]
QUOTED = 1000  # characters of an error: whatever a client sent, the answer to it is short


class WireError(Exception):
    """Input that is not an event; becomes the `error` event and costs nothing else."""

    def __init__(self, code: str, message: str, param: str | None = None, event_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.event_id = code, event_id
        self.message, self.param = _short(message, QUOTED), param and _short(param, QUOTED // 4)


def _short(text: str, most: int) -> str:
    """What a client sent may be quoted in it, whole."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


TEXT = 200_000  # characters: what is echoed stays below 1 MiB with its JSON
Text = Annotated[str, Meta(max_length=TEXT)]
Key = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=512)]
ID = 512  # characters
Id = Annotated[str, Meta(max_length=ID)]  # what clients call something: it is echoed, and quoted in errors
Instructions = Annotated[str, Meta(max_length=65_536)]
MaxTokens = Annotated[int, Meta(ge=1, le=4096)]
Metadata = Annotated[dict[Key, Value], Meta(max_length=16)]


class Content(msgspec.Struct, frozen=True):
    """One part of an item.  `transcript` of user audio is always written, null until it is known."""

    type: Literal["input_text", "input_audio", "output_text", "text"]
    text: Text | UnsetType = UNSET
    transcript: str | UnsetType | None = UNSET
    audio: bytes | UnsetType = UNSET


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class Item(msgspec.Struct, frozen=True):
    """A conversation item as it is announced."""

    id: str
    role: Literal["user", "assistant", "system"]
    content: tuple[Content, ...]
    status: ItemStatus
    object: str = "realtime.item"
    type: str = "message"


class ItemDraft(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """A conversation item as a client asks for it."""

    role: Literal["user", "assistant", "system"]
    content: tuple[Content, ...]
    id: Id | UnsetType = UNSET
    status: ItemStatus | UnsetType = UNSET


class ItemReference(msgspec.Struct, frozen=True, tag_field="type", tag="item_reference"):
    """An item of the conversation, as input of a response."""

    id: Id


class ResponseRequest(msgspec.Struct, frozen=True):
    """What `response.create` may ask for.  `conversation: none`: beside the conversation, its answer is not kept."""

    instructions: Instructions | UnsetType = UNSET
    conversation: Literal["auto", "none"] | UnsetType = UNSET
    input: tuple[ItemDraft | ItemReference, ...] | UnsetType = UNSET
    max_output_tokens: MaxTokens | Literal["inf"] | UnsetType = UNSET
    metadata: Metadata | None = None


class Response(msgspec.Struct, frozen=True):
    """A response as `response.created` and `response.done` carry it."""

    id: str
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
    status_details: Json | None
    output: tuple[Item, ...]
    conversation_id: str | None
    max_output_tokens: int | str
    usage: Json | None
    metadata: dict[str, str] | None
    output_modalities: tuple[str, ...] = ("text",)
    object: str = "realtime.response"


class TextPart(msgspec.Struct, frozen=True):
    text: str
    type: str = "text"


class ErrorBody(msgspec.Struct, frozen=True):
    """All five keys, null allowed."""

    type: Literal["invalid_request_error", "server_error"]
    code: str | None
    message: str
    param: str | None
    event_id: str | None


class FailureBody(msgspec.Struct, frozen=True):
    """The error inside a failed transcription: no nulls."""

    type: str
    code: str
    message: str
