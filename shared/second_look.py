"""Reads an event that did not decode at once.  Step 5, on a slow path that audio never takes.

Pure.  A part of `shared.events`.  Nulls that mean "not given" and unknown fields are left out (`shared.given`); the
rest is an event, or the WireError says what is wrong with it.  It does not know what an event means.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from shared.given import given
from shared.refusals import ID, MOVED_EVENTS, WireError, explain_value, field_of, refuse_moved


class _Envelope(msgspec.Struct):
    type: str | UnsetType = UNSET
    event_id: str | UnsetType | None = UNSET


_envelope = msgspec.json.Decoder(_Envelope)


def second_look(data: bytes | str, kinds: dict[str, Any]) -> Any:
    """The event without empty nulls and unknown fields.  Raises the WireError that says what is wrong with it."""
    try:
        envelope = _envelope.decode(data)
        tree = msgspec.json.decode(data)
    except msgspec.ValidationError as bad:
        param = field_of(str(bad)) or None
        raise WireError("invalid_event", "An event is a JSON object with a string `type`.", param or "type") from None
    except msgspec.DecodeError as bad:
        raise WireError("invalid_json", f"The event is not valid JSON: {bad}.") from None
    except RecursionError:
        raise WireError("invalid_json", "The event is nested too deeply.") from None
    except UnicodeDecodeError:
        raise WireError("invalid_json", "The event is not valid UTF-8.") from None
    event_id = envelope.event_id if envelope.event_id and len(envelope.event_id) <= ID else None
    if envelope.type is UNSET:
        raise WireError("invalid_event", "The event has no `type`.", "type", event_id)
    kind = kinds.get(envelope.type)
    if kind is None:
        raise _no_such_type(envelope.type, kinds, event_id)
    unknown: list[str] = []
    try:
        fields = given(tree, kind, "", unknown)
        refuse_moved(unknown)
        if envelope.type == "response.create":
            fields["unknown"] = [path for path in unknown if path.startswith("response.")]
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        found = explain_value(str(error), event_id)
    except WireError as error:
        found, found.event_id = error, event_id
    if envelope.type == "conversation.item.create":
        found.skipped = _skipped(tree)
    raise found


def _no_such_type(name: str, kinds: dict[str, Any], event_id: str | None) -> WireError:
    if name in MOVED_EVENTS:
        message = f"'{name}' belongs to the beta API, which voxd does not support: send {MOVED_EVENTS[name]}."
    else:
        message = f"Unknown event type {name[:100]!r}. Supported types: {', '.join(sorted(kinds))}."
    return WireError("invalid_value", message, "type", event_id)


def _skipped(tree: dict[str, Any]) -> tuple[str, str | None] | None:
    """The id of an item that was refused, and the id that it was to follow."""
    item, previous = tree.get("item"), tree.get("previous_item_id")
    name = item.get("id") if isinstance(item, dict) else None
    return (name, previous if isinstance(previous, str) else None) if isinstance(name, str) else None
