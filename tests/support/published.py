"""The published types of the API, as the newest Python SDK has them, as examples: what may a client send?

Everything is read from the SDK's own models, so a field that a new version adds appears here by itself.
"""

from __future__ import annotations

import base64
import functools
import operator
import types
import typing
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import pydantic
from openai.types.realtime.realtime_client_event import RealtimeClientEvent
from openai.types.realtime.realtime_server_event import RealtimeServerEvent

Path = tuple[str | int, ...]

# A value that means something, where any of its type would not do.
WORDS: dict[str, Any] = {
    "audio": base64.b64encode(bytes(3200)).decode(),
    "conversation": "auto",
    "image_url": "data:image/png;base64,AA==",
    "language": "en",
    "languages": ["en", "de"],
    "keywords": ["Ada", "Babbage"],
    "max_output_tokens": 5,
    "metadata": {"k": "v"},
    "previous_item_id": "root",
    "item_id": "nobody",
    "response_id": "nobody",
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": 30_000,
    "tool_choice": "none",
    "voice": "marin",
}


def _bare(kind: Any) -> Any:
    while get_origin(kind) is typing.Annotated:
        kind = get_args(kind)[0]
    return kind


def members(kind: Any) -> list[Any]:
    """The types of a union, None left out."""
    kind = _bare(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return [each for part in get_args(kind) for each in members(part)]
    return [] if kind is type(None) else [kind]


def examples(kind: Any, name: str = "") -> list[Any]:
    """Values of a type with every field given; together they show every member of every union."""
    found: list[Any] = []
    for each in members(kind):
        origin = get_origin(each)
        if isinstance(each, type) and issubclass(each, pydantic.BaseModel):
            found += _models(each)
        elif origin is typing.Literal:
            found += list(get_args(each))[: 3 if name != "type" else 1]
        elif origin is list:
            found.append(WORDS[name] if name in WORDS else examples(get_args(each)[0]))
        elif name in WORDS and isinstance(WORDS[name], each if isinstance(each, type) else object):
            found.append(WORDS[name])
        elif origin is dict:
            inner = examples(get_args(each)[1])
            found.append({f"k{number}": value for number, value in enumerate(inner)})
        else:
            found.append({str: "x", int: 1, float: 0.5, bool: True, object: {"a": None, "b": [1]}}[each])
    return found


def _models(model: type[pydantic.BaseModel]) -> list[dict[str, Any]]:
    choices = {name: examples(field.annotation, name) for name, field in model.model_fields.items()}
    first = {name: values[0] for name, values in choices.items()}
    return [first, *({**first, name: other} for name, values in choices.items() for other in values[1:])]


def client_events() -> dict[str, list[dict[str, Any]]]:
    """Examples of every event that a client may send, by its type."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in examples(RealtimeClientEvent):
        found.setdefault(event["type"], []).append(event)
    return found


def server_models() -> dict[str, type[pydantic.BaseModel]]:
    """The model of each server event, by its type."""
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in members(RealtimeServerEvent)}


def paths(tree: Any, below: Path = ()) -> Iterator[Path]:
    """Every place in a JSON value, the whole of it first."""
    yield below
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from paths(value, (*below, key))


def put(tree: Any, path: Path, value: Any) -> Any:
    """A copy of a JSON value with another value in one place."""
    if not path:
        return value
    head, *rest = path
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[head] = put(copy[head], tuple(rest), value)
    return copy


def at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def foreign(value: Any, kind: Any, path: str = "") -> Iterator[str]:
    """Fields of a server event that the published type does not have; those of voxd's own begin with `voxd`."""
    if isinstance(value, list):
        inner = [get_args(each)[0] for each in members(kind) if get_origin(each) is list]
        for each in value:
            yield from foreign(each, functools.reduce(operator.or_, inner), path) if inner else ()
    models = [each for each in members(kind) if isinstance(each, type) and issubclass(each, pydantic.BaseModel)]
    if isinstance(value, dict) and models:
        known = {name: field.annotation for model in models for name, field in model.model_fields.items()}
        for name, inside in value.items():
            if name in known:
                yield from foreign(inside, functools.reduce(operator.or_, _all(models, name)), f"{path}.{name}")
            elif not name.startswith("voxd"):
                yield f"{path}.{name}"


def _all(models: list[type[pydantic.BaseModel]], name: str) -> list[Any]:
    return [model.model_fields[name].annotation for model in models if name in model.model_fields]
