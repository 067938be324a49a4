"""The wire: OpenAI Realtime (GA) events with text output, and voxd's opt-in extensions.  Steps 2, 5, 10 and 12.

Pure, and the only file that knows wire names.  Two tagged unions, `ClientEvent` and `ServerEvent`; `parse_*` and
`dump`. It does not know what an event means: that is `voxd.session` on one side and `voxtui.session.transcript` on the
other.

Absent is not null: a field that is `UNSET` is left out, `None` is written as null, and null stands only where clients
with strict schemas allow it (previous_item_id, transcript, session configuration, response.{status_details, usage,
metadata, conversation_id}, error.{code, param, event_id}).
Source: OpenAI Realtime API reference; the shapes were checked against the types of the public client libraries.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shared.parts import (
    AnyDraft as AnyDraft,
    AnyItem as AnyItem,
    Content as Content,
    ErrorBody as ErrorBody,
    FailureBody as FailureBody,
    FunctionCall as FunctionCall,
    FunctionCallOutput as FunctionCallOutput,
    Id as Id,
    Item as Item,
    ItemDraft as ItemDraft,
    ItemReference as ItemReference,
    ItemStatus as ItemStatus,
    Json as Json,
    McpCall as McpCall,
    Response as Response,
    ResponseRequest as ResponseRequest,
    TextPart as TextPart,
    Warned as Warned,
)
from shared.refusals import WireError as WireError
from shared.second_look import second_look
from shared.session_config import AnySession

FAR = (1 << 53) - 1  # the largest whole number that every JSON reader keeps exact
Position = Annotated[int, Meta(ge=0, le=FAR)]  # of a sample
Mark = Id | Annotated[int, Meta(ge=-FAR, le=FAR)] | float | None  # comes back as it was sent
Warnings = tuple[Warned, ...] | UnsetType

# ── client events ───────────────────────────────────────────────────────────────────────────────────────────────────


class ClientBase(msgspec.Struct, frozen=True, gc=False, tag_field="type", omit_defaults=True):
    """Base of what clients send."""


class SessionUpdate(ClientBase, tag="session.update", frozen=True):
    session: Json
    event_id: Id | UnsetType = UNSET


class AudioAppend(ClientBase, tag="input_audio_buffer.append", frozen=True):
    """`audio`: base64 on the wire, bytes here, in the session's input format.

    `voxd_offset`: number of its first sample at the session's rate, for sessions that can be resumed."""

    audio: bytes
    voxd_offset: Position | UnsetType = UNSET
    event_id: Id | UnsetType = UNSET


class AudioCommit(ClientBase, tag="input_audio_buffer.commit", frozen=True):
    event_id: Id | UnsetType = UNSET


class AudioClear(ClientBase, tag="input_audio_buffer.clear", frozen=True):
    event_id: Id | UnsetType = UNSET


class ItemCreate(ClientBase, tag="conversation.item.create", frozen=True):
    item: AnyDraft
    previous_item_id: Id | UnsetType = UNSET
    event_id: Id | UnsetType = UNSET


class ItemRetrieve(ClientBase, tag="conversation.item.retrieve", frozen=True):
    item_id: Id
    event_id: Id | UnsetType = UNSET


class ItemDelete(ClientBase, tag="conversation.item.delete", frozen=True):
    item_id: Id
    event_id: Id | UnsetType = UNSET


class ItemTruncate(ClientBase, tag="conversation.item.truncate", frozen=True):
    item_id: Id
    content_index: int
    audio_end_ms: int
    event_id: Id | UnsetType = UNSET


class OutputClear(ClientBase, tag="output_audio_buffer.clear", frozen=True):
    """`output_audio_buffer.clear`, which WebRTC clients send at every interruption; there is no audio to clear."""

    event_id: Id | UnsetType = UNSET


class Ping(ClientBase, tag="voxd.ping", frozen=True):
    """A ping; it needs no opt-in.  `ping_id` and `t0` come back unchanged in the pong."""

    ping_id: Mark = None
    t0: Mark = None
    event_id: Id | UnsetType = UNSET


class ResponseCreate(ClientBase, tag="response.create", frozen=True):
    """Asks for a response.  `unknown`: unknown fields of the request, listed by `parse_client`."""

    response: ResponseRequest = ResponseRequest()
    event_id: Id | UnsetType = UNSET
    unknown: tuple[str, ...] = ()


class ResponseCancel(ClientBase, tag="response.cancel", frozen=True):
    response_id: Id | UnsetType = UNSET
    event_id: Id | UnsetType = UNSET


ClientEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | OutputClear
    | ResponseCreate
    | ResponseCancel
    | Ping
)

# ── server events ───────────────────────────────────────────────────────────────────────────────────────────────────


class _Numbered(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """`voxd_seq`: the number of the message in a session that can be resumed; consecutive, from 1."""

    voxd_seq: int | UnsetType = UNSET


class ServerBase(_Numbered, frozen=True, tag_field="type"):
    """Base of what the server sends; `event_id` is unique within a session."""

    event_id: str


class SessionCreated(ServerBase, tag="session.created", frozen=True):
    session: AnySession
    voxd_warnings: Warnings = UNSET


class SessionUpdated(ServerBase, tag="session.updated", frozen=True):
    session: AnySession
    voxd_warnings: Warnings = UNSET


class SpeechStarted(ServerBase, tag="input_audio_buffer.speech_started", frozen=True):
    """An utterance begins; `audio_start_ms` includes the prefix padding."""

    audio_start_ms: int
    item_id: str


class SpeechStopped(ServerBase, tag="input_audio_buffer.speech_stopped", frozen=True):
    """The utterance is over; `audio_end_ms` is where that was decided, after the silence."""

    audio_end_ms: int
    item_id: str


class Committed(ServerBase, tag="input_audio_buffer.committed", frozen=True):
    item_id: str
    previous_item_id: str | None


class Cleared(ServerBase, tag="input_audio_buffer.cleared", frozen=True):
    pass


class ItemAdded(ServerBase, tag="conversation.item.added", frozen=True):
    item: AnyItem
    previous_item_id: str | None
    voxd_warnings: Warnings = UNSET


class ItemDone(ServerBase, tag="conversation.item.done", frozen=True):
    item: AnyItem
    previous_item_id: str | None


class ItemRetrieved(ServerBase, tag="conversation.item.retrieved", frozen=True):
    item: AnyItem


class ItemDeleted(ServerBase, tag="conversation.item.deleted", frozen=True):
    item_id: str


class TranscriptionDelta(ServerBase, tag="conversation.item.input_audio_transcription.delta", frozen=True):
    """More confirmed text.  `voxd_audio_ms`: with `voxd_ext=metrics`, the end of the audio of this text."""

    item_id: str
    content_index: int
    delta: str
    voxd_audio_ms: int | UnsetType = UNSET


class SpokenWord(msgspec.Struct, frozen=True, gc=False):
    """A word and where it lies in the session's audio."""

    text: str
    start_ms: int
    end_ms: int


class TranscriptionCompleted(ServerBase, tag="conversation.item.input_audio_transcription.completed", frozen=True):
    """The final text.  With `voxd_ext=hurry`: `voxd_words`, and the language that was found, where the engine knows."""

    item_id: str
    content_index: int
    transcript: str
    usage: Json
    voxd_words: tuple[SpokenWord, ...] | UnsetType = UNSET
    voxd_language: str | UnsetType = UNSET


class TranscriptionFailed(ServerBase, tag="conversation.item.input_audio_transcription.failed", frozen=True):
    item_id: str
    content_index: int
    error: FailureBody


class ResponseCreated(ServerBase, tag="response.created", frozen=True):
    response: Response
    voxd_warnings: Warnings = UNSET


class ResponseDone(ServerBase, tag="response.done", frozen=True):
    response: Response


class OutputItemAdded(ServerBase, tag="response.output_item.added", frozen=True):
    response_id: str
    output_index: int
    item: Item


class OutputItemDone(ServerBase, tag="response.output_item.done", frozen=True):
    response_id: str
    output_index: int
    item: Item


class ContentPartAdded(ServerBase, tag="response.content_part.added", frozen=True):
    response_id: str
    item_id: str
    output_index: int
    content_index: int
    part: TextPart


class ContentPartDone(ServerBase, tag="response.content_part.done", frozen=True):
    response_id: str
    item_id: str
    output_index: int
    content_index: int
    part: TextPart


class OutputTextDelta(ServerBase, tag="response.output_text.delta", frozen=True):
    response_id: str
    item_id: str
    output_index: int
    content_index: int
    delta: str


class OutputTextDone(ServerBase, tag="response.output_text.done", frozen=True):
    response_id: str
    item_id: str
    output_index: int
    content_index: int
    text: str


class Error(ServerBase, tag="error", frozen=True):
    error: ErrorBody


class Metrics(ServerBase, tag="voxd.metrics", frozen=True):
    """Opt-in (`voxd_ext=metrics`), after response.done / transcription.completed.  Stamps are us of the server's
    monotonic clock; what does not apply is absent."""

    scope: Literal["response", "transcription"]
    item_id: str
    stamps: dict[str, int]
    derived_ms: dict[str, float]
    audio: dict[str, int]
    tokens: dict[str, int]
    compute_ms: float
    rtf: float | UnsetType = UNSET
    stood: float | UnsetType = UNSET
    response_id: str | UnsetType = UNSET
    clock: str = "server_monotonic_us"


class Provisional(ServerBase, tag="voxd.provisional", frozen=True):
    """Opt-in (`voxd_ext=provisional`): text that will probably follow the deltas of an item; replaces the last one."""

    item_id: str
    text: str


class Pong(ServerBase, tag="voxd.pong", frozen=True):
    """The answer to a ping.  `t1_us`: the ping was read; `t2_us`: this was written; on the server's monotonic clock."""

    ping_id: Mark
    t0: Mark
    t1_us: int
    t2_us: int


class Ack(ServerBase, tag="voxd.ack", frozen=True):
    """Opt-in (`voxd_ext=resume`), every 200 ms of audio.  Positions at the session's rate: audio below
    `received_samples` is here, and the newest of it came at `received_us` on the server's monotonic clock; audio below
    `settled_samples` will not be needed again."""

    received_samples: int
    settled_samples: int
    received_us: int | UnsetType = UNSET


class Resumed(ServerBase, tag="voxd.resumed", frozen=True):
    """The session goes on, all missed events have been sent again; audio goes on with sample `received_samples`."""

    received_samples: int


class Notice(ServerBase, tag="voxd.warning", frozen=True):
    """A warning as an event (opt-in, any voxd_ext): something is not as asked for.

    `retry_after_s` comes with the code `going_away`: connect again in so many seconds."""

    code: str
    message: str
    retry_after_s: int | UnsetType = UNSET


ServerEvent = (
    SessionCreated
    | SessionUpdated
    | SpeechStarted
    | SpeechStopped
    | Committed
    | Cleared
    | ItemAdded
    | ItemDone
    | ItemRetrieved
    | ItemDeleted
    | TranscriptionDelta
    | TranscriptionCompleted
    | TranscriptionFailed
    | ResponseCreated
    | ResponseDone
    | OutputItemAdded
    | OutputItemDone
    | ContentPartAdded
    | ContentPartDone
    | OutputTextDelta
    | OutputTextDone
    | Error
    | Metrics
    | Provisional
    | Pong
    | Ack
    | Resumed
    | Notice
)

# ── bytes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


_encoder = msgspec.json.Encoder()
_clients: msgspec.json.Decoder[ClientEvent] = msgspec.json.Decoder(ClientEvent)
_servers: msgspec.json.Decoder[ServerEvent] = msgspec.json.Decoder(ServerEvent)

_CLIENTS = {str(c.__struct_config__.tag): c for c in ClientEvent.__args__}
_SERVERS = {str(c.__struct_config__.tag): c for c in ServerEvent.__args__}
CLIENT_TYPES = tuple(sorted(_CLIENTS))


def dump(event: ClientEvent | ServerEvent) -> bytes:
    """One event as UTF-8 JSON."""
    return _encoder.encode(event)


def numbered(message: bytes, seq: int) -> bytes:
    """`message` (a JSON object with at least one field, as bytes) with `voxd_seq`.

    It is put to the bytes, for a dialect may make several messages of one event, and of types of its own."""
    return message[:-1] + b',"voxd_seq":%d}' % seq


def parse_client(data: bytes | str) -> ClientEvent:
    """JSON -> client event.  Raises WireError with the codes of the GA API."""
    try:
        return _clients.decode(data)
    except msgspec.DecodeError:
        event: ClientEvent = second_look(data, _CLIENTS)
        return event
    except RecursionError:
        raise WireError("invalid_json", "The event is nested too deeply.") from None
    except UnicodeDecodeError:
        raise WireError("invalid_json", "The event is not valid UTF-8.") from None


def parse_server(data: bytes | str) -> ServerEvent | None:
    """JSON -> server event; None for a type this client does not know.  Raises WireError for what is not an event."""
    try:
        return _servers.decode(data)
    except msgspec.DecodeError:
        try:
            event: ServerEvent = second_look(data, _SERVERS)
        except WireError as found:
            if found.param == "type" and found.code == "invalid_value":
                return None
            raise
        return event
