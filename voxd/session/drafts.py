"""Turns the item that a client asks for into an entry of the conversation.  Step 10.

Pure.  It knows every kind of item of the API and what of it a responder can read or hear; not who the responder is.
What nobody here can use is kept and shown all the same, and named, so that a history can be restored whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from shared.events import (
    AnyDraft,
    AnyItem,
    Content,
    FunctionCall,
    FunctionCallOutput,
    Item,
    ItemDraft,
    ItemStatus,
    McpCall,
    WireError,
)
from shared.parts import TEXT
from voxd.session.conversation import Entry, Piece

CONTENTS = 256  # parts of one message
MEMORY = 900_000  # bytes of another item, as JSON: messages to clients stay below 1 MiB
IMAGE = 200_000  # characters of an address of a picture that are kept: messages to clients stay below 1 MiB
UNSEEN = "no engine here sees pictures"
UNHEARD = "no engine here takes audio in items, and it has no transcript"
EMPTY = "it has neither sound nor a transcript"
KINDS = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text", "output_audio"),
}


@dataclass(frozen=True, slots=True)
class ItemAudio:
    """Audio in the session's format, with its transcript if the client gave one."""

    audio: bytes
    transcript: str
    param: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A client's item, checked: its texts and audio in order, the item as it is shown, and the fields without use."""

    role: str
    parts: tuple[str | ItemAudio, ...]
    shown: AnyItem
    id: str | None
    unused: tuple[tuple[str, str], ...] = ()  # (path, why)

    def entry(self, new_id: str, give_audio: Callable[[bytes], int] | None) -> tuple[Entry, list[tuple[str, str]]]:
        """The entry, and the fields of it that nobody uses.  `give_audio` sends audio to the responder."""
        unused, pieces = list(self.unused), list[Piece]()
        first = ""
        for part in self.parts:
            text = part.transcript if isinstance(part, ItemAudio) else part
            if isinstance(part, ItemAudio) and give_audio is not None:
                first = part.transcript if not pieces else first
                pieces.append(("", give_audio(part.audio)))
            elif isinstance(part, ItemAudio) and not text:
                unused.append((part.param, UNHEARD))
            elif pieces:
                pieces[-1] = (pieces[-1][0] + text, pieces[-1][1])
            else:
                pieces.append((text, None))
        (text, ref), *more = pieces or [("", None)]
        shown = msgspec.structs.replace(self.shown, id=self.id or new_id)
        entry = Entry(
            self.id or new_id, self.role, "completed", text, ref, first or None, more=tuple(more), shown=shown
        )
        return entry, unused


def draft_of(item: AnyDraft, param: str = "item") -> Draft:
    """Checks an item, called `param` in errors.  Raises WireError for content that its role cannot have."""
    wanted = None if item.id is UNSET else item.id
    _check_size(item, param)
    if isinstance(item, ItemDraft):
        return _message(item, wanted, param)
    role, text = _told(item)
    if isinstance(item, (FunctionCall, FunctionCallOutput)) and item.status == "in_progress":
        item = msgspec.structs.replace(item, status="completed")
    return Draft(role, (text,) if text else (), item, wanted)


def _check_size(item: AnyDraft, param: str) -> None:
    """Raises WireError for more than a client can be shown in one message."""
    if isinstance(item, ItemDraft):
        characters = sum(len(part.text or "") + len(part.transcript or "") for part in item.content)
        if len(item.content) > CONTENTS or characters > TEXT:
            message = f"An item may have {CONTENTS} contents with {TEXT} characters of text in all."
            raise WireError("invalid_value", message, f"{param}.content")
    elif len(msgspec.json.encode(item)) > MEMORY:
        raise WireError("invalid_value", f"An item may have {MEMORY} bytes of JSON.", param)


def _told(item: AnyItem) -> tuple[str, str]:
    """Role and words in which a responder without tools is told of a tool call or its result."""
    match item:
        case FunctionCall():
            return "assistant", f"[called {item.name}({item.arguments})]"
        case FunctionCallOutput():
            return "user", f"[the call returned: {item.output}]"
        case McpCall(output=str()):
            return "assistant", f"[called {item.name}({item.arguments}), which returned: {item.output}]"
        case McpCall():
            return "assistant", f"[called {item.name}({item.arguments})]"
    return "assistant", ""


def _message(item: ItemDraft, wanted: str | None, param: str) -> Draft:
    parts: list[str | ItemAudio] = []
    shown: list[Content] = []
    unused: list[tuple[str, str]] = []
    for index, part in enumerate(item.content):
        where = f"{param}.content[{index}]"
        kind = _kind(part, item.role, f"{where}.type")
        if kind == "input_image":
            unused.append((where, UNSEEN))
        elif kind in ("input_text", "output_text"):
            parts.append(part.text or "")
        elif kind == "input_audio" and part.audio:
            parts.append(ItemAudio(part.audio, part.transcript or "", where))
        elif part.transcript:
            parts.append(part.transcript)
        else:
            unused.append((where, EMPTY))
        shown.append(_shown(part, kind))
    status: ItemStatus = "incomplete" if item.status == "incomplete" else "completed"
    return Draft(item.role, tuple(parts), Item("", item.role, tuple(shown), status), wanted, tuple(unused))


def _kind(part: Content, role: str, param: str) -> str:
    """The type of a part: as given, translated from the beta API, or inferred from its fields.  Raises WireError."""
    said, side = part.type, "output" if role == "assistant" else "input"
    if said is UNSET:
        image, sound = part.image_url is not UNSET, part.audio is not UNSET or part.transcript is not UNSET
        kind = "input_image" if image else f"{side}_audio" if sound else f"{side}_text"
    else:
        kind = f"{side}_{said}" if said in ("text", "audio") else str(said)
    if kind not in KINDS[role]:
        message = f"Content of a {role} item must be {' or '.join(map(repr, KINDS[role]))} (got '{kind}')."
        raise WireError("invalid_value", message, param)
    return kind


def _shown(part: Content, kind: str) -> Content:
    """The part as it is echoed: without audio; user audio always has a transcript, null if there is none."""
    text = (part.text or "") if kind.endswith("_text") else UNSET
    transcript = (part.transcript or None) if kind == "input_audio" else part.transcript or UNSET
    image = UNSET if part.image_url is UNSET or len(part.image_url) > IMAGE else part.image_url
    return Content(kind, text, transcript, image_url=image, detail=part.detail)  # type: ignore[arg-type]  # one of KINDS
