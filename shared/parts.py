"""The parts of events: items, contents, responses, errors.  Steps 2, 5, 10 and 12.

Pure.  A part of `shared.events`, whose rule for null and absence it follows.  It knows shapes, not their meaning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.given import Idle

Json = dict[str, Any]
TEXT = 200_000  # characters: what is echoed stays below 1 MiB with its JSON
Text = Annotated[str, Meta(max_length=TEXT)]
Key = Annotated[str, Meta(max_length=64)]
Value = Annotated[str, Meta(max_length=512)]
ID = 512  # characters
Id = Annotated[str, Meta(max_length=ID)]  # an id that a client made up: it is echoed, and quoted in errors
Instructions = Annotated[str, Meta(max_length=65_536)]
MaxTokens = Annotated[int, Meta(ge=1, le=4096)]
Metadata = Annotated[dict[Key, Value], Meta(max_length=16)]


class Content(msgspec.Struct, frozen=True, gc=False):
    """One part of a message.  `transcript` of user audio is always written, null until it is known."""

    type: ContentType | UnsetType = UNSET
    text: Text | UnsetType = UNSET
    transcript: Text | UnsetType | None = UNSET
    audio: bytes | UnsetType = UNSET
    image_url: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


ContentType = Literal["input_text", "input_audio", "input_image", "output_text", "output_audio", "text", "audio"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class Item(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="message"):
    """A message item as the server announces it."""

    id: str
    role: Literal["user", "assistant", "system"]
    content: tuple[Content, ...]
    status: ItemStatus
    object: str = "realtime.item"


class ItemDraft(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="message"):
    """A message item as a client asks for it."""

    role: Literal["user", "assistant", "system"]
    content: tuple[Content, ...]
    id: Id | UnsetType = UNSET
    status: ItemStatus | UnsetType = UNSET


# The other items are kept as they come.  Those of MCP have neither status nor `object`, and nulls where a client of
# theirs reads null; no engine here calls tools, so all of them are a client's memories.


class FunctionCall(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="function_call"):
    name: Text
    arguments: Text
    id: Id | UnsetType = UNSET
    call_id: Id | UnsetType = UNSET
    status: ItemStatus = "completed"
    object: str = "realtime.item"


class FunctionCallOutput(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="function_call_output"
):
    call_id: Id
    output: Text
    id: Id | UnsetType = UNSET
    status: ItemStatus = "completed"
    object: str = "realtime.item"


class McpListTools(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="mcp_list_tools"):
    server_label: Id
    tools: tuple[Json, ...]
    id: Id | UnsetType = UNSET


class McpCall(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="mcp_call"):
    name: Text
    arguments: Text
    server_label: Id
    id: Id | UnsetType = UNSET
    approval_request_id: Id | None = None
    output: Text | None = None
    error: Json | None = None


class McpApprovalRequest(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="mcp_approval_request"
):
    name: Text
    arguments: Text
    server_label: Id
    id: Id | UnsetType = UNSET


class McpApprovalResponse(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="type", tag="mcp_approval_response"
):
    approval_request_id: Id
    approve: bool
    id: Id | UnsetType = UNSET
    reason: str | None = None


Memory = FunctionCall | FunctionCallOutput | McpListTools | McpCall | McpApprovalRequest | McpApprovalResponse
AnyItem = Item | Memory
AnyDraft = ItemDraft | Memory


class ItemReference(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="item_reference"):
    """A reference to an item of the conversation, as input of a response."""

    id: Id


class ResponseRequest(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What `response.create` may ask for.  `conversation: none`: its answer is not kept in the conversation."""

    instructions: Instructions | UnsetType = UNSET
    conversation: Id | UnsetType = UNSET
    input: tuple[AnyDraft | ItemReference, ...] | UnsetType = UNSET
    max_output_tokens: MaxTokens | Literal["inf"] | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    output_modalities: tuple[Literal["text", "audio"], ...] | UnsetType = UNSET
    audio: Annotated[Json | UnsetType, Idle("answers are text")] = UNSET
    tools: Annotated[tuple[Json, ...] | UnsetType, Idle("no engine calls tools")] = UNSET
    tool_choice: Annotated[str | Json | UnsetType, Idle("no engine calls tools")] = UNSET
    parallel_tool_calls: Annotated[bool | UnsetType, Idle("no engine calls tools")] = UNSET
    reasoning: Annotated[Json | UnsetType, Idle("answers come without it")] = UNSET
    prompt: Annotated[Json | UnsetType, Idle("it belongs to OpenAI's platform")] = UNSET


class Response(msgspec.Struct, frozen=True, gc=False):
    """A response as `response.created` and `response.done` carry it.  `conversation_id` is null beside it; other nulls
    are read and never written."""

    id: str
    status: Literal["in_progress", "completed", "cancelled", "incomplete", "failed"]
    output: tuple[AnyItem, ...]
    conversation_id: str | None
    max_output_tokens: int | str
    status_details: Json | UnsetType | None = UNSET
    usage: Json | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET
    output_modalities: tuple[str, ...] = ("text",)
    object: str = "realtime.response"


class TextPart(msgspec.Struct, frozen=True, gc=False):
    text: str
    type: str = "text"


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """The error inside an `error` event: always all five keys, null allowed."""

    type: Literal["invalid_request_error", "server_error"]
    code: str | None
    message: str
    param: str | None
    event_id: str | None


class FailureBody(msgspec.Struct, frozen=True, gc=False):
    """The error inside a failed transcription: no nulls."""

    type: str
    code: str
    message: str


class Warned(msgspec.Struct, frozen=True, gc=False):
    """A warning that something is not as asked for; it stands on the answering event, once in a session."""

    code: str
    message: str
    param: str
